//! Certificates that the cluster gets by itself: the leader orders what the model says is due, and every load balancer answers for it.
//!
//! Nothing here decides what is due or how long is waited; and nothing here is remembered but what is under way, which ends with the
//! leadership. In the control state an order leaves what failed or came of it, and its challenge until then.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use hirsel_model::acme::{self, Acme, Change, Window, account_is_due, after_failure};
use hirsel_model::codec::{decode, encode};
use hirsel_model::control::{Command, ControlState, Entry, Outcome};
use hirsel_model::{CertificateName, LogIndex, WallTime, panic};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, error, warn};

use crate::sealing;
use crate::secrets::{SealedValue, sealed_by_holder};
use crate::shared::Shared;

pub mod answers;
pub mod client;
mod order;
mod session;

use session::Session;
pub use session::read_key;

/// The kind of call by which the key of an external account is sealed.
const SEAL_CALL: &str = "acme-seal";
/// What is due by time alone is looked for this often: a wall clock may be set.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Two looks are at least this far apart: while the plan changes, so does the state.
const PAUSE: Duration = Duration::from_millis(100);
/// A change that is not committed by then is made again.
const PROPOSE_WITHIN: Duration = Duration::from_secs(5);
/// An order that takes longer has failed, whatever it waits for.
const ORDER_WITHIN: Duration = Duration::from_secs(300);
/// A directory that says nothing about it is asked again when certificates should be renewed after this.
const WINDOW_EVERY: Duration = Duration::from_secs(6 * 3600);
/// And not before this, or after that, whatever it says.
const WINDOW_EVERY_MIN: Duration = Duration::from_secs(600);
const WINDOW_EVERY_MAX: Duration = Duration::from_secs(24 * 3600);

/// Why something did not come about.
#[derive(Debug, Default)]
pub(crate) struct Failure {
    /// In words.
    words: String,
    /// How long the directory wants to be left alone, in milliseconds.
    asked: Option<u64>,
    /// The directory does not know the account.
    is_stranger: bool,
}

impl From<String> for Failure {
    fn from(words: String) -> Self {
        Self { words, ..Self::default() }
    }
}

impl From<&str> for Failure {
    fn from(words: &str) -> Self {
        words.to_owned().into()
    }
}

/// Registers what this agent answers.
pub fn serve(shared: &Arc<Shared>) {
    answers::serve(shared);
    let agent = shared.clone();
    shared.transport.serve(SEAL_CALL, move |_, body| {
        let answer = seal_here(&agent, &body);
        async move { answer }.boxed()
    });
}

/// What is sealed on behalf of a node that cannot.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Question {
    key: String,
}

/// Has the key of an external account sealed, here or by another node that holds the sealing key.
///
/// # Errors
/// In words, without the key.
pub async fn seal_binding(shared: &Shared, key: String) -> Result<SealedValue, String> {
    sealed_by_holder(shared, SEAL_CALL, encode(&Question { key }), seal_here).await
}

fn seal_here(shared: &Shared, body: &[u8]) -> Result<Vec<u8>, String> {
    // An error of decoding might repeat what it stumbled over.
    let Question { key: plain } = decode(body).map_err(|_| "the question cannot be read".to_owned())?;
    let state = shared.control.state().borrow().clone();
    let key = sealing::key(shared, &state)?;
    let sealed = key.seal(acme::BINDING_PURPOSE, plain.as_bytes(), shared.world.chance.as_ref());
    Ok(encode(&SealedValue { sealed, key: key.id(), same: false }))
}

/// What a task was about.
enum Ended {
    Account,
    Order(String),
    Window(String, Option<Duration>),
}

/// What is under way while this node leads.
#[derive(Default)]
struct Desk {
    tasks: JoinSet<Ended>,
    /// Hosts that are ordered for.
    busy: BTreeSet<String>,
    makes_account: bool,
    asks_window: bool,
    /// When the directory may be asked about a host's certificate again, by host: with the version that it was asked about.
    windows: BTreeMap<String, (u64, Instant)>,
    session: Option<Arc<Session>>,
    seen: Option<Seen>,
}

/// What the last look was at. All that is looked at follows from it, until the time comes.
#[derive(PartialEq)]
struct Seen {
    spec: LogIndex,
    certificates: (u64, usize),
    acme: Acme,
}

impl Seen {
    fn of(state: &ControlState) -> Self {
        let certificates = (state.certificates.last, state.certificates.named.len());
        Self { spec: state.spec_index, certificates, acme: state.acme.clone() }
    }
}

/// Gets and renews certificates while this node leads, until the agent stops.
pub async fn tend(shared: Arc<Shared>) {
    let mut leadership = shared.control.leadership();
    let mut state = shared.control.state();
    let mut desk = Desk::default();
    let mut until = Instant::now();
    loop {
        let mine = leadership.borrow_and_update().mine;
        let now = state.borrow_and_update().clone();
        let knows = |now: &ControlState| now.certificates.named.values().any(|it| it.automatic.is_some());
        let works = mine && (now.acme.settings.is_some() || now.acme != Acme::default() || knows(&now));
        let wall = shared.world.clock.wall();
        if !works {
            // Whoever leads now begins anew.
            desk = Desk::default();
        } else if Instant::now() >= until || desk.seen != Some(Seen::of(&now)) {
            desk.seen = Some(Seen::of(&now));
            desk.look(&shared, &now, wall).await;
            let next = acme::next_look(&now, wall).map(|at| Duration::from_millis(at.0.saturating_sub(wall.0)));
            until = Instant::now() + next.map_or(LOOK_EVERY, |next| next.clamp(PAUSE, LOOK_EVERY));
        }
        drop(now);
        let earliest = Instant::now() + PAUSE;
        tokio::select! {
            Some(ended) = desk.tasks.join_next(), if !desk.tasks.is_empty() => {
                // Something else may be due, for there is room; or its turn.
                desk.seen = None;
                match ended {
                    Ok(ended) => desk.ended(ended),
                    // They end when they are told to, and catch what panics.
                    Err(error) => debug!(%error, "a task ended"),
                }
            }
            changed = leadership.changed() => if changed.is_err() { return },
            changed = state.changed(), if mine => if changed.is_err() { return },
            () = sleep_until(until), if works => {}
            () = shared.stop.cancelled() => return,
        }
        sleep_until(earliest).await;
    }
}

impl Desk {
    async fn look(&mut self, shared: &Arc<Shared>, now: &Arc<ControlState>, wall: WallTime) {
        if let Some(command) = acme::tidy(now, wall, &self.busy)
            && let Err(error) = propose(shared, command).await
        {
            debug!(error, "not tidied up yet");
        }
        if now.acme.settings.is_none() {
            return;
        }
        if !self.session.as_ref().is_some_and(|session| session.is_for(now)) {
            // What is under way was for another one.
            *self = Self { session: Some(Arc::new(Session::new(now))), seen: self.seen.take(), ..Self::default() };
        }
        let Some(session) = self.session.clone() else { return };
        if account_is_due(now, wall) && !self.makes_account {
            self.makes_account = true;
            let (shared, session) = (shared.clone(), session.clone());
            self.tasks.spawn(async move {
                let made = guarded(session.register(&shared)).await;
                settle(&shared, &session, None, made).await;
                Ended::Account
            });
        }
        for host in acme::due(now, wall, &self.busy) {
            self.busy.insert(host.clone());
            let (shared, session) = (shared.clone(), session.clone());
            self.tasks.spawn(async move {
                let made = timeout(ORDER_WITHIN, guarded(order::make(&shared, &session, &host))).await;
                let late = || Err(format!("it took longer than {} s", ORDER_WITHIN.as_secs()).into());
                settle(&shared, &session, Some(&host), made.unwrap_or_else(|_| late())).await;
                Ended::Order(host)
            });
        }
        self.ask_for_a_window(shared, now, session);
    }

    /// Asks the directory when one certificate should be renewed, the first whose turn it is.
    fn ask_for_a_window(&mut self, shared: &Arc<Shared>, now: &ControlState, session: Arc<Session>) {
        if self.asks_window || session.tells_no_windows() || now.acme.account.is_none() {
            return;
        }
        let waits =
            |host: &str, version| self.windows.get(host).is_some_and(|(of, at)| *of == version && Instant::now() < *at);
        let asked = acme::hosts(now).into_iter().filter_map(|host| Some((host, acme::certificate(now, host)?)));
        let turn = asked.into_iter().find(|(host, it)| !waits(host, it.version));
        let Some((host, certificate)) = turn else { return };
        self.asks_window = true;
        let (shared, host, chain) = (shared.clone(), host.to_owned(), certificate.chain.clone());
        self.windows.insert(host.clone(), (certificate.version, Instant::now() + WINDOW_EVERY));
        let known = certificate.automatic.as_ref().and_then(|it| it.window.clone());
        self.tasks.spawn(async move {
            let told = guarded(session.window(&shared, &chain)).await;
            let again = match told {
                Ok((window, again)) => {
                    note_window(&shared, &host, known, window).await;
                    Some(again.clamp(WINDOW_EVERY_MIN, WINDOW_EVERY_MAX))
                }
                Err(failure) => {
                    debug!(host, words = failure.words, "no time to renew is known");
                    None
                }
            };
            Ended::Window(host, again)
        });
    }

    fn ended(&mut self, ended: Ended) {
        match ended {
            Ended::Account => self.makes_account = false,
            Ended::Order(host) => drop(self.busy.remove(&host)),
            Ended::Window(host, again) => {
                self.asks_window = false;
                if let (Some((_, at)), Some(again)) = (self.windows.get_mut(&host), again) {
                    *at = Instant::now() + again;
                }
            }
        }
    }
}

async fn note_window(shared: &Shared, host: &str, known: Option<Window>, window: Window) {
    let Ok(name) = host.parse::<CertificateName>() else { return };
    if known.as_ref() == Some(&window) {
        return;
    }
    let change = Change::Window { name, window: Some(window) };
    if let Err(error) = propose(shared, Command::Acme { change }).await {
        debug!(host, error, "the time to renew is not noted yet");
    }
}

/// What `work` returns, or that it panicked.
async fn guarded<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let panicked = |caught: Box<dyn Any + Send>| {
        let words = panic::words(caught.as_ref());
        error!(words, "an order of a certificate panicked");
        Err(format!("a fault of this program: {words}").into())
    };
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(panicked)
}

/// Notes what failed.
async fn settle(shared: &Shared, session: &Session, host: Option<&str>, made: Result<(), Failure>) {
    let Err(Failure { words, asked, is_stranger }) = made else { return };
    session.forget().await;
    if !shared.control.leadership().borrow().mine {
        return;
    }
    let state = shared.control.state().borrow().clone();
    let before = host.map_or(state.acme.account_trouble.as_ref(), |host| state.acme.troubles.get(host));
    let trouble = after_failure(before, shared.world.clock.wall(), &words, asked, shared.world.chance.number());
    warn!(host = host.unwrap_or("the account"), words, failures = trouble.failures, "no certificate");
    let change = Change::Failed { host: host.map(str::to_owned), trouble };
    if let Err(error) = propose(shared, Command::Acme { change }).await {
        debug!(error, "a failure is not noted");
    }
    // Afterwards, for what is under way ends with the account: the wait is noted, whatever the directory says of the next one.
    if is_stranger && let Some(account) = &state.acme.account {
        let change = Change::ForgetAccount { id: account.id.clone() };
        if let Err(error) = propose(shared, Command::Acme { change }).await {
            debug!(error, "the account is not forgotten yet");
        }
    }
}

/// Has a change made, and waits until this node knows of it: what is due is not what was due before.
///
/// # Errors
/// In words.
pub(crate) async fn propose(shared: &Shared, command: Command) -> Result<(), String> {
    let entry = Entry { at: shared.world.clock.wall(), by: shared.me.name.to_string(), if_index: None, command };
    let known = |index: LogIndex| async move {
        let mut state = shared.control.state();
        // Whether or not it has come, the next look begins with what there is.
        let _ = timeout(PROPOSE_WITHIN, state.wait_for(|state| state.applied >= index)).await;
    };
    match shared.control.propose(entry, PROPOSE_WITHIN).await {
        Ok(Outcome::Done { index } | Outcome::Admitted { index, .. } | Outcome::Lengthened { index, .. }) => {
            known(index).await;
            Ok(())
        }
        Ok(Outcome::Refused(refusal)) => Err(refusal.to_string()),
        Err(error) => Err(error.to_string()),
    }
}
