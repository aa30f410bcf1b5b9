//! Copies buckets to others elsewhere: another cluster, or any S3. Later than the client was answered, in order for each key, and never in
//! the way of anybody here.
//!
//! It goes by levels: the metadata say which keys are due (`meta/apply/replicate.rs`), and whoever leads the metadata group takes them up,
//! those first that have waited longest, several at once and each key once at a time. What a key is *now* is made true there, and then it is
//! committed that this was done, if it has not changed meanwhile. So it goes on after a restart and under another leader where it was, what
//! was replaced in between is not sent, and the last state wins.
//!
//! - [`copy`] makes one key there what it is here.
//! - [`there`] is the other side, [`sign`] the signature, [`secret`] how its secret is kept.
//!
//! A target that is away is asked less and less often, and the keys wait. One key that is refused waits alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use hirsel_role::outbound::Outbound;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use crate::meta::command::{Command, Copied};
use crate::meta::kinds::{Due, Replicating, ReplicationId, Target};
use crate::meta::limits::FAILING_BYTES_MAX;
use crate::meta::names::ObjectKey;
use crate::meta::read;
use crate::s3::Front;
use copy::{Copier, Outcome, ROOM_MIB};
use sign::Signer;
use there::{Failure, There, endpoint};

pub mod copy;
pub mod secret;
pub mod sign;
pub mod there;

/// Between two looks at what is due, where nothing was.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Keys that are copied at once, of all buckets together: enough to fill a line that is some dozens of milliseconds long.
const AT_ONCE: usize = 16;
/// Keys that are due before it is waited with finding more of what a bucket holds already.
const FOUND_AHEAD: u64 = 10_000;
/// Keys of one bucket that were refused and wait, each for itself; more, and the bucket waits.
const LATER_MAX: usize = 1_000;
/// Places that are looked at for keys whose turn it is: more than may wait.
const LOOKED_AT: usize = LATER_MAX + AT_ONCE + 1;
/// Buckets that are copied.
const REPLICATIONS_MAX: usize = 1_000;
/// The first wait after a failure; each further one is twice as long.
const WAIT: Duration = Duration::from_secs(1);
/// The longest wait: a target that is back is found so soon.
const WAIT_MAX: Duration = Duration::from_secs(300);
/// Other words for why it fails are kept only so often.
const WORDS_EVERY: Duration = Duration::from_secs(30);

/// How long is waited after so many failures in a row.
fn wait(tries: u32) -> Duration {
    WAIT.saturating_mul(1 << tries.saturating_sub(1).min(16)).min(WAIT_MAX)
}

/// Until when something waits, and after how many failures.
#[derive(Clone, Debug, Default)]
struct Waiting {
    until: Option<Instant>,
    tries: u32,
    words: String,
}

impl Waiting {
    fn waits(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| until > now)
    }

    fn again(&mut self, now: Instant, words: String) {
        self.tries += 1;
        self.until = Some(now + wait(self.tries));
        self.words = words;
    }
}

/// What is known of a replication besides what is in the metadata.
struct Running {
    target: Target,
    there: Result<Arc<There>, String>,
    /// Keys that are on their way.
    keys: BTreeSet<ObjectKey>,
    /// The other side as a whole.
    away: Waiting,
    /// Keys that were refused.
    later: BTreeMap<ObjectKey, Waiting>,
    /// When it was kept last why it fails.
    said: Option<Instant>,
}

impl Running {
    /// Keys that may be begun, when so many are still free.
    fn may_begin(&self, free: usize, now: Instant) -> usize {
        match self.away.tries {
            _ if self.away.waits(now) || self.there.is_err() => 0,
            0 => free,
            // One finds out whether it is back.
            _ => free.min(1_usize.saturating_sub(self.keys.len())),
        }
    }

    /// Why it fails, if it does.
    fn failing(&self) -> Option<&str> {
        let away = (self.away.tries > 0).then_some(self.away.words.as_str());
        let broken = self.there.as_ref().err().map(String::as_str);
        broken.or(away).or_else(|| self.later.values().next().map(|later| later.words.as_str()))
    }

    /// Takes over what became of a key. Whether it is to be committed, and whether it cannot be copied.
    fn ended(&mut self, key: &ObjectKey, ended: Result<Outcome, Failure>, now: Instant) -> Option<bool> {
        self.keys.remove(key);
        match ended {
            Ok(outcome) => {
                self.away = Waiting::default();
                self.later.remove(key);
                Some(outcome != Outcome::Done)
            }
            Err(Failure::Refused(words)) if self.later.len() < LATER_MAX || self.later.contains_key(key) => {
                // It was there, and answered.
                self.away = Waiting::default();
                self.later.entry(key.clone()).or_default().again(now, words);
                None
            }
            // Of several that fail together one counts.
            Err(Failure::Away(words) | Failure::Refused(words)) => {
                if !self.away.waits(now) {
                    self.away.again(now, words);
                }
                None
            }
        }
    }
}

/// A key that is done with.
type Ended = (ReplicationId, ObjectKey, u64, Result<Outcome, Failure>);

/// Copies what is due, whenever this node leads the metadata group. What is on its way is given up with the lead.
pub async fn keep(front: Front, outbound: Arc<Outbound>) {
    let mut work: Option<Work> = None;
    loop {
        if !front.gateway.meta().group().leads() {
            if work.take().is_some() {
                front.gateway.counts().replication(0, 0);
            }
            sleep(LOOK_EVERY).await;
            continue;
        }
        let now = work.get_or_insert_with(|| Work::new(front.clone(), outbound.clone()));
        if let Err(words) = now.step().boxed().await {
            debug!(words, "not copied elsewhere yet");
            sleep(LOOK_EVERY).await;
        }
    }
}

struct Work {
    front: Front,
    outbound: Arc<Outbound>,
    room: Arc<Semaphore>,
    of: BTreeMap<ReplicationId, Running>,
    running: FuturesUnordered<BoxFuture<'static, Ended>>,
    /// Which comes first in the next step, so that each bucket gets its turn.
    turn: usize,
}

impl Work {
    fn new(front: Front, outbound: Arc<Outbound>) -> Self {
        let room = Arc::new(Semaphore::new(ROOM_MIB));
        Self { front, outbound, room, of: BTreeMap::new(), running: FuturesUnordered::new(), turn: 0 }
    }

    /// Begins what may be begun, waits for something to end or some time, and commits what ended.
    async fn step(&mut self) -> Result<(), String> {
        let (known, oldest) = self.known()?;
        let due = known.iter().map(|(_, replicating)| replicating.due).sum();
        let now = self.front.gateway.wall();
        let lag_ms = oldest.map_or(0, |oldest| now.0.saturating_sub(oldest.0));
        self.front.gateway.counts().replication(due, lag_ms / 1_000);
        if known.is_empty() && self.running.is_empty() {
            sleep(LOOK_EVERY).await;
            return Ok(());
        }
        self.follow(&known)?;
        let mut found = false;
        for (id, replicating) in &known {
            if replicating.found.is_some() && replicating.due < FOUND_AHEAD {
                ask(&self.front, Command::FindDue { replication: *id }).await?;
                found = true;
            }
        }
        let begun = self.begin(&known)?;
        let pause = if found { Duration::ZERO } else { LOOK_EVERY };
        let mut ended = Vec::new();
        if begun || !self.running.is_empty() {
            ended.extend(timeout(pause, self.running.next()).await.ok().flatten());
            while let Some(Some(more)) = self.running.next().now_or_never() {
                ended.push(more);
            }
        } else {
            sleep(pause).await;
        }
        self.settle(ended, &known).await
    }

    /// All replications, and when the first change was made that is not copied.
    #[allow(clippy::type_complexity)]
    fn known(&self) -> Result<(Vec<(ReplicationId, Replicating)>, Option<hirsel_model::WallTime>), String> {
        let here = self.front.gateway.meta().group().here().map_err(|error| error.to_string())?;
        let wrong = |error: crate::meta::rows::RowsError| error.to_string();
        let known = read::replications(&here, REPLICATIONS_MAX).map_err(wrong)?;
        let mut oldest = None;
        for (id, replicating) in &known {
            let of_this = read::oldest_due(&here, *id, replicating).map_err(wrong)?;
            oldest = oldest.into_iter().chain(of_this).min();
        }
        Ok((known, oldest))
    }

    /// Knows of each replication what is to be known, and of no other.
    fn follow(&mut self, known: &[(ReplicationId, Replicating)]) -> Result<(), String> {
        let here = self.front.gateway.meta().group().here().map_err(|error| error.to_string())?;
        let ids: BTreeSet<ReplicationId> = known.iter().map(|(id, _)| *id).collect();
        self.of.retain(|id, _| ids.contains(id));
        for (id, replicating) in known {
            let Ok(bucket) = read::bucket(&here, &replicating.bucket) else { continue };
            let Some(replication) = bucket.replication.filter(|replication| replication.id == *id) else { continue };
            let before = self.of.remove(id);
            let running = match before {
                Some(before) if before.target == replication.target && before.there.is_ok() => before,
                before => self.running_to(replication.target, before),
            };
            self.of.insert(*id, running);
        }
        Ok(())
    }

    fn running_to(&self, target: Target, before: Option<Running>) -> Running {
        let there = self.there(&target).map(Arc::new);
        let (keys, said) = before.map_or_else(Default::default, |before| (before.keys, before.said));
        Running { target, there, keys, away: Waiting::default(), later: BTreeMap::new(), said }
    }

    fn there(&self, target: &Target) -> Result<There, String> {
        let endpoint = endpoint(&target.endpoint)?;
        let secret = secret::open(&target.secret, |version| self.front.keys.master(version))?;
        let signer = Signer { key_id: target.key_id.clone(), secret, region: target.region.clone() };
        Ok(There::new(endpoint, target.bucket.clone(), signer, self.outbound.clone()))
    }

    /// Begins with keys whose turn it is. Whether there were any.
    fn begin(&mut self, known: &[(ReplicationId, Replicating)]) -> Result<bool, String> {
        let here = self.front.gateway.meta().group().here().map_err(|error| error.to_string())?;
        let now = Instant::now();
        let mut begun = false;
        self.turn = self.turn.wrapping_add(1);
        let first = self.turn % known.len().max(1);
        for (id, replicating) in known[first..].iter().chain(&known[..first]) {
            let free = AT_ONCE.saturating_sub(self.running.len());
            let Some(running) = self.of.get_mut(id) else { continue };
            let may = running.may_begin(free, now);
            let is_free = |key: &ObjectKey| {
                !running.keys.contains(key) && !running.later.get(key).is_some_and(|later| later.waits(now))
            };
            let due = read::due(&here, *id, (may, LOOKED_AT), &mut { is_free }).map_err(|error| error.to_string())?;
            let Ok(there) = running.there.clone() else { continue };
            for (key, Due { stamp, .. }) in due {
                running.keys.insert(key.clone());
                let (front, there, room) = (self.front.clone(), there.clone(), self.room.clone());
                let (id, bucket) = (*id, replicating.bucket.clone());
                let copied = async move {
                    let copier = Copier { front: &front, there: &there, room: &room };
                    let ended = copier.copy(&bucket, &key).await;
                    (id, key, stamp, ended)
                };
                self.running.push(copied.boxed());
                begun = true;
            }
        }
        Ok(begun)
    }

    /// Commits what was done, and whether it fails.
    async fn settle(&mut self, ended: Vec<Ended>, known: &[(ReplicationId, Replicating)]) -> Result<(), String> {
        let now = Instant::now();
        let mut done: BTreeMap<ReplicationId, Vec<Copied>> = BTreeMap::new();
        for (id, key, stamp, ended) in ended {
            let counts = self.front.gateway.counts();
            match &ended {
                Ok(Outcome::Done) => drop(counts.replicated.inc()),
                Ok(Outcome::Cannot(why)) => debug!(%key, why, "an object cannot be copied elsewhere"),
                Err(_) => drop(counts.replication_failed.inc()),
            }
            let Some(running) = self.of.get_mut(&id) else { continue };
            if let Some(cannot) = running.ended(&key, ended, now) {
                done.entry(id).or_default().push(Copied { key, stamp, cannot });
            }
        }
        for (replication, keys) in done {
            ask(&self.front, Command::Replicated { replication, keys }).await?;
        }
        for (id, replicating) in known {
            let Some(running) = self.of.get_mut(id) else { continue };
            let failing = running.failing().map(|words| shortened(words, FAILING_BYTES_MAX));
            let kept = replicating.failing.as_ref();
            let turns = failing.is_some() != kept.is_some();
            let differs = failing.as_deref() != kept.map(|kept| kept.words.as_str());
            let long_ago = running.said.is_none_or(|said| said + WORDS_EVERY <= now);
            if !(turns || differs && long_ago) {
                continue;
            }
            running.said = Some(now);
            let bucket = replicating.bucket.as_str();
            match &failing {
                Some(words) if turns => warn!(bucket, words, "a bucket cannot be copied elsewhere"),
                None => info!(bucket, "a bucket can be copied elsewhere again"),
                Some(_) => {}
            }
            ask(&self.front, Command::ReplicationFails { replication: *id, words: failing }).await?;
        }
        Ok(())
    }
}

/// Has a command carried out.
async fn ask(front: &Front, command: Command) -> Result<(), String> {
    front.gateway.ask(command).await.map(drop).map_err(|error| error.to_string())
}

fn shortened(words: &str, bytes: usize) -> String {
    let mut end = words.len().min(bytes);
    while !words.is_char_boundary(end) {
        end -= 1;
    }
    words[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running() -> Running {
        let target = Target {
            endpoint: "http://there".into(),
            region: "there-1".into(),
            bucket: "copy".into(),
            prefix: String::new(),
            key_id: "ID".into(),
            secret: Vec::new().into(),
        };
        let there = Err("it is not needed".to_owned());
        Running { target, there, keys: BTreeSet::new(), away: Waiting::default(), later: BTreeMap::new(), said: None }
    }

    fn key(name: &str) -> ObjectKey {
        name.parse().expect("a key")
    }

    #[test]
    fn waits_grow_to_a_limit() {
        let seconds: Vec<u64> = (1..12).map(|tries| wait(tries).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(wait(u32::MAX), WAIT_MAX);
    }

    #[test]
    fn a_target_that_is_away_is_asked_by_one_and_a_key_that_is_refused_waits_alone() {
        let (mut running, now) = (running(), Instant::now());
        let away = || Err(Failure::Away("away".into()));
        for name in ["a", "b", "c"] {
            assert_eq!(running.ended(&key(name), away(), now), None);
        }
        assert_eq!((running.away.tries, running.failing()), (1, Some("it is not needed")), "three failed together");
        let later = now + wait(1);
        assert!(running.away.waits(now) && !running.away.waits(later));
        running.ended(&key("a"), away(), later);
        assert_eq!(running.away.tries, 2);
        assert_eq!(running.ended(&key("a"), Err(Failure::Refused("no".into())), later), None);
        assert_eq!((running.away.tries, running.later.len()), (0, 1), "it is back, and refuses one");
        assert_eq!(running.ended(&key("b"), Ok(Outcome::Done), later), Some(false));
        assert_eq!(running.ended(&key("a"), Ok(Outcome::Cannot("sealed")), later), Some(true));
        assert!(running.later.is_empty());
        for number in 0..=LATER_MAX {
            running.ended(&key(&format!("{number}")), Err(Failure::Refused("no".into())), later);
        }
        assert_eq!((running.later.len(), running.away.tries), (LATER_MAX, 1));
    }

    #[test]
    fn words_are_cut_between_characters() {
        assert_eq!((shortened("abc", 5), shortened("aää", 4)), ("abc".into(), "aä".into()));
    }
}
