//! What the elected agent does besides: it looks at everything, asks the planner, and proposes what changed.
//!
//! The loop decides nothing. Each pass makes a view out of the book and the control state, plans, and proposes the difference; what
//! the plan says of voters is carried out one step at a time; what came true is added to the log. A pass that is lost costs
//! nothing, for the next one sees the same levels.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use hirsel_mesh::control::{Control, Leadership};
use hirsel_mesh::gossip::Heard;
use hirsel_model::book::{Book, Surroundings};
use hirsel_model::control::{Command, ControlState, Entry, Outcome};
use hirsel_model::event::{Cause, EventKind, NewEvent};
use hirsel_model::followup::followup;
use hirsel_model::planner;
use hirsel_model::spec::Availability;
use hirsel_model::view::{RaftFacts, View};
use hirsel_model::{NodeId, panic};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::shared::Shared;

mod aside;

use aside::{Planned, Told};

/// A pass is made at least this often: some decisions wait for time alone.
const TICK: Duration = Duration::from_millis(250);
/// Two passes are at least this far apart.
const PAUSE: Duration = Duration::from_millis(25);
/// A proposal that is not committed by then is made again from a newer view.
const PROPOSE_WITHIN: Duration = Duration::from_secs(2);
/// One step of a change of voters.
const MEMBERSHIP_WITHIN: Duration = Duration::from_secs(10);

/// The book and the bell that says it changed.
#[derive(Clone)]
pub struct Desk {
    /// Notes of the present term.
    pub book: Arc<Mutex<Book>>,
    /// Rung when a pass should be made now.
    pub bell: Arc<Notify>,
}

impl Desk {
    /// The book. Notes that a panic interrupted are still the best there are, and the next term begins a new book.
    pub fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs until `stop`; idle while somebody else leads.
pub async fn lead(
    shared: Arc<Shared>,
    desk: Desk,
    heard: watch::Receiver<Arc<BTreeMap<NodeId, Heard>>>,
    unheard: watch::Receiver<BTreeSet<NodeId>>,
    stop: CancellationToken,
) {
    let mut leadership = shared.control.leadership();
    let mut state = shared.control.state();
    let mut voters = Voters::default();
    let mut told = Told::default();
    loop {
        let now = leadership.borrow_and_update().clone();
        let latest = state.borrow_and_update().clone();
        if now.mine {
            begin_term(&shared, &desk, now.term);
            let pass = Pass { shared: &shared, desk: &desk, leadership: &now, state: &latest };
            let (members, silent) = (heard.borrow().clone(), unheard.borrow().clone());
            // What panics here besides the planner would end the duties of a leader, and the lease would keep it one.
            if let Err(caught) = AssertUnwindSafe(pass.make(&members, &silent, &mut told)).catch_unwind().await {
                let words = panic::words(caught.as_ref());
                if told.is_new(&words) {
                    error!(words, "a pass of the leader panicked; the plan in force stays");
                }
            }
            voters.pursue(&shared, &now, &latest);
        }
        let earliest = Instant::now() + PAUSE;
        tokio::select! {
            () = desk.bell.notified(), if now.mine => {}
            changed = leadership.changed() => if changed.is_err() { return },
            changed = state.changed(), if now.mine => if changed.is_err() { return },
            () = sleep(TICK), if now.mine => {}
            () = stop.cancelled() => return,
        }
        sleep_until(earliest).await;
    }
}

fn begin_term(shared: &Shared, desk: &Desk, term: u64) {
    let mut book = desk.book();
    if book.term != term {
        info!(term, "became leader");
        *book = Book::new(term, shared.world.clock.now());
    }
}

struct Pass<'a> {
    shared: &'a Shared,
    desk: &'a Desk,
    leadership: &'a Leadership,
    state: &'a Arc<ControlState>,
}

impl Pass<'_> {
    async fn make(&self, heard: &BTreeMap<NodeId, Heard>, unheard: &BTreeSet<NodeId>, told: &mut Told) {
        let view = self.view(heard, unheard);
        if let Some((command, summary)) = chosen(aside::plan(&view, adoption), told) {
            self.propose(command, summary).await;
            return;
        }
        let over = planner::long::over(&view);
        if !over.is_empty() {
            self.propose(Command::EndLongGrants { over }, Summary::default()).await;
            return;
        }
        let events = self.came_true();
        if !events.is_empty() {
            self.propose(Command::Note { events }, Summary::default()).await;
        } else if let Some(node) = self.left() {
            self.propose(Command::RemoveNode { node }, Summary::default()).await;
        }
    }

    /// What is seen now.
    fn view(&self, heard: &BTreeMap<NodeId, Heard>, unheard: &BTreeSet<NodeId>) -> View {
        let heard = heard.iter().map(|(id, heard)| (*id, (heard.liveness, heard.incarnation))).collect();
        let around = Surroundings {
            me: self.shared.node,
            state: self.state,
            heard: &heard,
            unheard,
            raft: self.shared.control.raft_facts(),
        };
        self.desk.book().view(&around, self.shared.world.clock.now())
    }

    fn came_true(&self) -> Vec<NewEvent> {
        let reports = self.desk.book().reports();
        followup(self.state, &reports.iter().map(|(id, report)| (*id, &**report)).collect())
    }

    /// A node that wants to leave and holds nothing any more.
    fn left(&self) -> Option<NodeId> {
        let plan = &self.state.plan;
        let facts = self.shared.control.raft_facts();
        let holds = |node: &NodeId| {
            plan.voters.contains(node)
                || plan.spares.contains(node)
                || self.leadership.voters.contains(node)
                || facts.get(node).is_some_and(|place| *place != RaftFacts::Absent)
                || plan.roles.values().any(|slots| slots.values().any(|slot| slot.node == *node))
                || plan.instances.values().any(|instance| instance.node == *node)
                || plan.letting_go.values().any(|letting| letting.node == *node)
        };
        let leaving = self.state.spec.nodes.iter().filter(|(_, spec)| spec.availability == Availability::Leaving);
        leaving.map(|(id, _)| *id).find(|id| !holds(id))
    }

    async fn propose(&self, command: Command, summary: Summary) {
        let entry =
            Entry { at: self.shared.world.clock.wall(), by: self.shared.me.name.to_string(), if_index: None, command };
        match self.shared.control.propose(entry, PROPOSE_WITHIN).await {
            Ok(Outcome::Done { .. }) if summary.moves > 0 || summary.verdicts > 0 => {
                let generation = self.state.plan.generation.next();
                info!(%generation, moves = summary.moves, verdicts = summary.verdicts, "plan adopted");
            }
            Ok(Outcome::Done { .. } | Outcome::Admitted { .. } | Outcome::Lengthened { .. }) => {}
            // Something else was committed first: the next pass starts from there.
            Ok(Outcome::Refused(refusal)) => debug!(%refusal, "plan refused"),
            Err(error) => debug!(%error, "plan not adopted"),
        }
    }
}

/// What is done about what the planner said, or about the application that it failed on.
fn chosen(planned: Planned<Option<(Command, Summary)>>, told: &mut Told) -> Option<(Command, Summary)> {
    match planned {
        Planned::Sound(adopted) => {
            told.forget();
            adopted
        }
        Planned::Stop { app, words } => {
            if told.is_new(&format!("{app}: {words}")) {
                let message = format!("the planner panics over {app} ({words}): it is set aside, the rest is planned");
                error!(%app, words, "application set aside: the planner panics over it");
                return Some((Command::Note { events: vec![set_aside(&app, message)] }, Summary::default()));
            }
            Some((Command::SetStopped { app, stopped: true }, Summary::default()))
        }
        Planned::Without { app, words, plan } => {
            if told.is_new(&format!("without {app}: {words}")) {
                let message =
                    format!("the planner panics over {app} even stopped ({words}): it is left out of the plan");
                error!(%app, words, "application left out: the planner panics over it even stopped");
                return Some((Command::Note { events: vec![set_aside(&app, message)] }, Summary::default()));
            }
            plan
        }
        Planned::Never { words } => {
            if told.is_new(&words) {
                error!(words, "the planner panics; the plan in force stays");
                let message = format!("the planner panics whatever is left out ({words}): the plan in force stays");
                return Some((Command::Note { events: vec![set_aside(&"plan", message)] }, Summary::default()));
            }
            None
        }
    }
}

fn set_aside(subject: &impl ToString, message: String) -> NewEvent {
    NewEvent {
        kind: EventKind::Happened,
        subject: subject.to_string(),
        message,
        cause: Cause::None,
        rejected: Vec::new(),
    }
}

/// The plan for `view` as a command; none when the one in force is it. A change of the spec that asks for nothing else (a node is
/// cordoned that holds nothing, an agent started again) is not adopted for its own sake: each adoption is a write on every node.
fn adoption(view: &View) -> Option<(Command, Summary)> {
    let plan = planner::plan(view);
    let change = planner::change::change(&view.plan, &plan);
    if change.is_empty() {
        return None;
    }
    let summary = Summary {
        moves: change.instances.len() + change.roles.values().map(BTreeMap::len).sum::<usize>(),
        verdicts: change.verdicts.len(),
    };
    let events = planner::narrate(view, &plan);
    Some((Command::Adopt { base: view.plan.generation, spec_index: view.spec_index, change, events }, summary))
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Summary {
    moves: usize,
    verdicts: usize,
}

/// Carries out what the plan says of voters and spares, one step at a time, beside the loop: adding a voter waits for its log.
#[derive(Default)]
struct Voters {
    step: Option<tokio::task::JoinHandle<()>>,
}

impl Voters {
    fn pursue(&mut self, shared: &Arc<Shared>, leadership: &Leadership, state: &ControlState) {
        if self.step.as_ref().is_some_and(|step| !step.is_finished()) {
            return;
        }
        let (voters, spares) = (state.plan.voters.clone(), state.plan.spares.clone());
        if voters.is_empty() || is_reached(shared, leadership, &voters, &spares) {
            return;
        }
        let control = shared.control.clone();
        let me = shared.node;
        self.step = Some(tokio::spawn(async move {
            let outcome = timeout(MEMBERSHIP_WITHIN, step(&control, me, voters, spares)).await;
            if let Ok(Err(error)) = outcome {
                warn!(error, "voters not changed yet");
                sleep(TICK).await;
            }
        }));
    }
}

fn is_reached(shared: &Shared, leadership: &Leadership, voters: &BTreeSet<NodeId>, spares: &BTreeSet<NodeId>) -> bool {
    let facts = shared.control.raft_facts();
    let learners: BTreeSet<NodeId> =
        facts.iter().filter(|(_, place)| matches!(place, RaftFacts::Learner { .. })).map(|(id, _)| *id).collect();
    leadership.voters == *voters && learners == *spares
}

async fn step(control: &Control, me: NodeId, voters: BTreeSet<NodeId>, spares: BTreeSet<NodeId>) -> Result<(), String> {
    // A leader that shall not vote any more hands over first, and its successor does the rest.
    let present = control.leadership().borrow().voters.clone();
    if !voters.contains(&me)
        && let Some(next) = present.intersection(&voters).next().copied()
    {
        return control.transfer_leadership(next).await;
    }
    control.set_membership(voters, spares).await
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use hirsel_model::control::ControlState;
    use hirsel_model::spec::AppSpec;
    use hirsel_model::{LogIndex, Revision, Timestamp};

    use super::*;
    use crate::testing::node_spec;

    #[test]
    fn a_change_of_the_spec_that_asks_for_no_other_plan_is_not_adopted() {
        let mut state = ControlState { applied: LogIndex(1), spec_index: LogIndex(1), ..ControlState::default() };
        state.spec.nodes.insert(NodeId(1), node_spec(1));
        let (heard, unheard) = (BTreeMap::new(), BTreeSet::new());
        let mut book = Book::new(1, Timestamp(0));
        let mut pass = |state: &ControlState, now| {
            let around = Surroundings { me: NodeId(1), state, heard: &heard, unheard: &unheard, raft: BTreeMap::new() };
            adoption(&book.view(&around, Timestamp(now))).map(|(command, _)| command)
        };
        let mut adopted = 0;
        while let Some(command) = pass(&state, 250 * adopted) {
            adopted += 1;
            assert!(adopted < 20, "it goes on for ever: {command:?}");
            let entry = Entry { at: Default::default(), by: String::new(), if_index: None, command };
            state.apply(state.applied.next(), entry);
        }
        assert!(adopted > 0);
        state.spec_index = LogIndex(state.applied.0 + 1);
        assert_eq!(pass(&state, 250 * adopted + 250), None);
    }

    /// A view of one node and these applications, none of which has a service.
    fn view_of(apps: &[&str]) -> View {
        let mut state = ControlState { applied: LogIndex(1), spec_index: LogIndex(1), ..ControlState::default() };
        state.spec.nodes.insert(NodeId(1), node_spec(1));
        for app in apps {
            let spec = AppSpec {
                revision: Revision(1),
                services: BTreeMap::new(),
                routes: Vec::new(),
                stopped: false,
                ports: BTreeMap::new(),
                zones: BTreeMap::new(),
                buckets: BTreeMap::new(),
            };
            state.spec.apps.insert(app.parse().unwrap(), spec);
        }
        let (heard, unheard) = (BTreeMap::new(), BTreeSet::new());
        let around =
            Surroundings { me: NodeId(1), state: &state, heard: &heard, unheard: &unheard, raft: BTreeMap::new() };
        Book::new(1, Timestamp(0)).view(&around, Timestamp(0))
    }

    /// Fails on `poison`, also when it is stopped if that makes no difference.
    fn planner(view: &View, stopping_helps: bool) -> Option<(Command, Summary)> {
        let poison = view.spec.apps.get(&"poison".parse().unwrap());
        let fails = poison.is_some_and(|spec| !(stopping_helps && spec.stopped));
        assert!(!fails, "no place for poison");
        adoption(view)
    }

    #[test]
    fn an_application_that_the_planner_panics_over_is_named_and_stopped_and_the_rest_is_planned() {
        let view = view_of(&["blog", "poison", "shop"]);
        let mut told = Told::default();
        let planned = || aside::plan(&view, |view| planner(view, true));
        let Some((Command::Note { events }, _)) = chosen(planned(), &mut told) else { panic!("nothing is told") };
        assert_eq!(events[0].subject, "poison");
        assert!(events[0].message.contains("no place for poison"), "{}", events[0].message);
        let stopped = Command::SetStopped { app: "poison".parse().unwrap(), stopped: true };
        assert_eq!(chosen(planned(), &mut told).map(|(command, _)| command), Some(stopped));
        // Once it is stopped all is as before.
        let mut view = view.clone();
        Arc::make_mut(&mut view.spec).apps.get_mut(&"poison".parse().unwrap()).unwrap().stopped = true;
        let adopted = chosen(aside::plan(&view, |view| planner(view, true)), &mut told).map(|(command, _)| command);
        assert!(matches!(adopted, Some(Command::Adopt { .. })), "{adopted:?}");
    }

    #[test]
    fn what_the_planner_panics_over_even_when_it_is_stopped_is_left_out_and_told_once() {
        let view = view_of(&["poison", "shop"]);
        let mut told = Told::default();
        let mut pass =
            || chosen(aside::plan(&view, |view| planner(view, false)), &mut told).map(|(command, _)| command);
        assert!(matches!(pass(), Some(Command::Note { .. })));
        for _ in 0..3 {
            assert!(matches!(pass(), Some(Command::Adopt { .. })), "the rest is planned");
        }
    }

    #[test]
    fn a_planner_that_always_panics_leaves_the_plan_in_force_and_says_so_once() {
        let view = view_of(&["shop"]);
        let mut told = Told::default();
        let mut pass =
            || chosen(aside::plan(&view, |_| panic!("no plan at all")), &mut told).map(|(command, _)| command);
        let Some(Command::Note { events }) = pass() else { panic!("nothing is told") };
        assert!(events[0].message.contains("no plan at all"));
        assert_eq!((pass(), pass()), (None, None));
    }
}
