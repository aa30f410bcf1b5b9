//! What the elected agent does besides: it looks at everything, asks the planner, and proposes what changed.
//!
//! The loop decides nothing. Each pass makes a view out of the book and the control state, plans, and proposes the difference; what
//! the plan says of voters is carried out one step at a time; what came true is added to the log. A pass that is lost costs
//! nothing, for the next one sees the same levels.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hirsel_mesh::control::{Control, Leadership};
use hirsel_mesh::gossip::Heard;
use hirsel_model::NodeId;
use hirsel_model::book::{Book, Surroundings};
use hirsel_model::control::{Command, ControlState, Entry, Outcome};
use hirsel_model::event::NewEvent;
use hirsel_model::followup::followup;
use hirsel_model::planner;
use hirsel_model::spec::Availability;
use hirsel_model::view::{RaftFacts, View};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::shared::Shared;

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
    loop {
        let now = leadership.borrow_and_update().clone();
        let latest = state.borrow_and_update().clone();
        if now.mine {
            begin_term(&shared, &desk, now.term);
            let pass = Pass { shared: &shared, desk: &desk, leadership: &now, state: &latest };
            let (members, silent) = (heard.borrow().clone(), unheard.borrow().clone());
            pass.make(&members, &silent).await;
            voters.pursue(&shared, &now, &latest);
        }
        sleep(PAUSE).await;
        tokio::select! {
            () = desk.bell.notified(), if now.mine => {}
            changed = leadership.changed() => if changed.is_err() { return },
            changed = state.changed(), if now.mine => if changed.is_err() { return },
            () = sleep(TICK), if now.mine => {}
            () = stop.cancelled() => return,
        }
    }
}

fn begin_term(shared: &Shared, desk: &Desk, term: u64) {
    let mut book = desk.book.lock().expect("no panic under the lock");
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
    async fn make(&self, heard: &BTreeMap<NodeId, Heard>, unheard: &BTreeSet<NodeId>) {
        if let Some((command, summary)) = self.decide(heard, unheard) {
            self.propose(command, summary).await;
            return;
        }
        let events = self.came_true();
        if !events.is_empty() {
            self.propose(Command::Note { events }, Summary::default()).await;
        } else if let Some(node) = self.left() {
            self.propose(Command::RemoveNode { node }, Summary::default()).await;
        }
    }

    /// What to adopt, if the plan in force is not the one for what is seen.
    fn decide(&self, heard: &BTreeMap<NodeId, Heard>, unheard: &BTreeSet<NodeId>) -> Option<(Command, Summary)> {
        let heard = heard.iter().map(|(id, heard)| (*id, (heard.liveness, heard.incarnation))).collect();
        let around = Surroundings {
            me: self.shared.node,
            state: self.state,
            heard: &heard,
            unheard,
            raft: self.shared.control.raft_facts(),
        };
        let now = self.shared.world.clock.now();
        adoption(&self.desk.book.lock().expect("no panic under the lock").view(&around, now))
    }

    fn came_true(&self) -> Vec<NewEvent> {
        let reports = self.desk.book.lock().expect("no panic under the lock").reports();
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
            Ok(Outcome::Done { .. } | Outcome::Admitted { .. }) => {}
            // Something else was committed first: the next pass starts from there.
            Ok(Outcome::Refused(refusal)) => debug!(%refusal, "plan refused"),
            Err(error) => debug!(%error, "plan not adopted"),
        }
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

#[derive(Default)]
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
    use hirsel_model::{LogIndex, Timestamp};

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
}
