//! What the leader knows of the nodes: soft, measured on its own clock, begun anew with each term.
//!
//! The book only takes notes and shows them as a [`View`]; what they mean is decided by the planner, down to whether a node counts as
//! reachable ([`View::reachable`]): the book only measures for how long it has. It is told the time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::control::ControlState;
use crate::grant::{GRANT_OVER, Grant, LEASE, Shares};
use crate::id::*;
use crate::plan::Phase;
use crate::report::{NodeReport, RoleFacts};
use crate::time::Timestamp;
use crate::view::{KnownLong, Liveness, NodeFacts, RaftFacts, View};

/// A leader that has not looked for so long was frozen or starved: what it remembers is too old to judge by, as after an election.
const LOOKED_AWAY: Duration = Duration::from_millis(1_500);
/// Losses older than this matter to no decision.
const LOSSES_KEPT: Duration = Duration::from_secs(120);

/// Notes of one term.
#[derive(Debug)]
pub struct Book {
    /// The term the notes belong to.
    pub term: u64,
    since: Timestamp,
    looked_at: Timestamp,
    nodes: BTreeMap<NodeId, Page>,
    draining: BTreeMap<InstanceId, Timestamp>,
    unhealthy: BTreeMap<InstanceId, Timestamp>,
    losses: Vec<(Timestamp, NodeId)>,
    /// Verdicts that were seen already; none before the first look.
    judged: Option<BTreeMap<NodeId, Generation>>,
    /// What may be granted by the state looked at last.
    shares: Shares,
    /// When each exclusive instance was last granted.
    granted: BTreeMap<InstanceId, Timestamp>,
    /// Since when each long grant on record is known, by the entry that put it there.
    long: BTreeMap<(InstanceId, LogIndex), Timestamp>,
    /// Since when somebody is known to refuse promises for an instance that left the plan.
    refused: BTreeMap<InstanceId, Timestamp>,
}

/// Notes on one node.
#[derive(Debug, Default)]
struct Page {
    /// When it last asked with a fresh acknowledgement.
    acknowledged_at: Option<Timestamp>,
    /// Grants sent to it.
    grants: u64,
    /// The last grant it named.
    named: u64,
    incarnation: Incarnation,
    unheard: BTreeSet<NodeId>,
    report: Option<Arc<NodeReport>>,
    released: Generation,
    reachable: Option<(bool, Timestamp)>,
}

/// A question for a lease, and what comes with it.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Which start of the asker's agent.
    pub incarnation: Incarnation,
    /// The last grant it received in this term: an acknowledgement. Zero for none.
    pub last_grant: u64,
    /// Nodes it does not hear.
    pub unheard: BTreeSet<NodeId>,
    /// Its report, when it is newer than the one here.
    pub report: Option<Arc<NodeReport>>,
    /// The newest plan at which it holds nothing exclusive.
    pub released: Generation,
}

/// The answer to a question for a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Counts the grants of this term for this node.
    pub grant: u64,
    /// The version of the report that is here.
    pub report_version: u64,
    /// Something changed that a plan may depend on.
    pub changed: bool,
}

/// What the book does not measure itself.
pub struct Surroundings<'a> {
    /// The leader's node.
    pub me: NodeId,
    /// The control state.
    pub state: &'a ControlState,
    /// What gossip says here of each node it knows.
    pub heard: &'a BTreeMap<NodeId, (Liveness, Incarnation)>,
    /// What this node itself does not hear.
    pub unheard: &'a BTreeSet<NodeId>,
    /// Places in the control group.
    pub raft: BTreeMap<NodeId, RaftFacts>,
}

impl Book {
    /// An empty book for `term`, begun at `now`.
    pub fn new(term: u64, now: Timestamp) -> Self {
        Self {
            term,
            since: now,
            looked_at: now,
            nodes: BTreeMap::new(),
            draining: BTreeMap::new(),
            unhealthy: BTreeMap::new(),
            losses: Vec::new(),
            judged: None,
            shares: Shares::default(),
            granted: BTreeMap::new(),
            long: BTreeMap::new(),
            refused: BTreeMap::new(),
        }
    }

    /// Whether there is anything to grant to `node`.
    pub fn has_to_grant(&mut self, state: &ControlState, node: NodeId) -> bool {
        self.shares.of(state, node).is_some()
    }

    /// Grants `node` what the plan gives it, and takes that down.
    pub fn grant(&mut self, state: &ControlState, node: NodeId, now: Timestamp) -> Grant {
        let covers = self.shares.of(state, node).cloned().unwrap_or_default();
        self.granted.extend(covers.iter().map(|id| (id.clone(), now)));
        Grant { tag: state.cluster.tag.clone(), term: self.term, generation: state.plan.generation, covers }
    }

    /// Takes down a question and answers it.
    pub fn asked(&mut self, node: NodeId, asked: Asked, now: Timestamp) -> Granted {
        let page = self.nodes.entry(node).or_default();
        let again = page.incarnation == asked.incarnation;
        // One that was never given here was given in an earlier term.
        let named = if asked.last_grant <= page.grants { asked.last_grant } else { 0 };
        // An answer that never arrives is silence, though the questions do arrive: a cut in one direction.
        let acknowledged = !again || page.acknowledged_at.is_none() || named > page.named;
        if acknowledged {
            page.acknowledged_at = Some(now);
        }
        page.named = if again { page.named.max(named) } else { named };
        page.grants += 1;
        page.released = asked.released;
        let changed = !again || page.unheard != asked.unheard || asked.report.is_some();
        page.incarnation = asked.incarnation;
        page.unheard = asked.unheard;
        if asked.report.is_some() {
            page.report = asked.report;
        }
        let report_version = page.report.as_ref().map_or(0, |report| report.version);
        Granted { grant: page.grants, report_version, changed }
    }

    /// Reports of all nodes.
    pub fn reports(&self) -> BTreeMap<NodeId, Arc<NodeReport>> {
        self.nodes.iter().filter_map(|(id, page)| Some((*id, page.report.clone()?))).collect()
    }

    /// Everything known at `now`.
    pub fn view(&mut self, around: &Surroundings<'_>, now: Timestamp) -> View {
        let state = around.state;
        if now.since(self.looked_at) > LOOKED_AWAY {
            self.since = now;
            self.nodes.values_mut().for_each(|page| page.reachable = None);
        }
        self.looked_at = now;
        let known: BTreeSet<NodeId> = state.spec.nodes.keys().copied().collect();
        self.nodes.retain(|id, _| known.contains(id));
        let leased = |page: &Page| page.acknowledged_at.is_some_and(|at| now.since(at) < LEASE);
        let mut observers: BTreeMap<NodeId, BTreeSet<NodeId>> = self
            .nodes
            .iter()
            .filter(|(id, page)| **id != around.me && leased(page))
            .map(|(id, page)| (*id, page.unheard.clone()))
            .collect();
        observers.insert(around.me, around.unheard.clone());
        let mut nodes = BTreeMap::new();
        for id in &known {
            let page = self.nodes.entry(*id).or_default();
            let others = observers.iter().filter(|(observer, _)| *observer != id);
            let unheard_by: BTreeSet<NodeId> =
                others.filter(|(_, unheard)| unheard.contains(id)).map(|(observer, _)| *observer).collect();
            let heard = around.heard.get(id);
            let alive = *id == around.me || heard.is_some_and(|(liveness, _)| *liveness == Liveness::Alive);
            nodes.insert(
                *id,
                NodeFacts {
                    liveness: if alive { Liveness::Alive } else { Liveness::Suspect },
                    leased: leased(page),
                    unheard_by,
                    steady_for: Duration::ZERO,
                    incarnation: page.incarnation.max(heard.map_or(Incarnation(0), |(_, incarnation)| *incarnation)),
                    released: page.released,
                    raft: around.raft.get(id).copied().unwrap_or_default(),
                    report: page.report.clone(),
                },
            );
        }
        self.note_instances(state, now);
        self.note_refusals(state, now);
        self.note_verdicts(state, now);
        let mut view = View {
            now,
            leading_since: self.since,
            leader: around.me,
            level: state.cluster.feature_level,
            spec: Arc::new(state.spec.clone()),
            spec_index: state.spec_index,
            plan: Arc::new(state.plan.clone()),
            former: Arc::new(state.former.clone()),
            nodes,
            draining_for: ages(&self.draining, now),
            unhealthy_for: ages(&self.unhealthy, now),
            granted: ages(&self.granted, now),
            long: self.note_long(state, now),
            refused_for: ages(&self.refused, now),
            losses: self.losses.clone(),
        };
        self.note_reach(&mut view);
        view
    }

    /// Measures for how long each node has been, or not been, what the planner calls reachable.
    fn note_reach(&mut self, view: &mut View) {
        for (node, reachable) in view.reachable() {
            let page = self.nodes.entry(node).or_default();
            let since = match page.reachable {
                Some((before, since)) if before == reachable => since,
                Some(_) | None => view.now,
            };
            page.reachable = Some((reachable, since));
            if let Some(facts) = view.nodes.get_mut(&node) {
                facts.steady_for = view.now.since(since);
            }
        }
    }

    fn note_instances(&mut self, state: &ControlState, now: Timestamp) {
        let instances = &state.plan.instances;
        // By age alone: the plan at hand may be older than the one that was granted by.
        self.granted.retain(|_, at| now.since(*at) < GRANT_OVER);
        self.draining.retain(|id, _| instances.get(id).is_some_and(|it| it.phase == Phase::Draining));
        self.unhealthy.retain(|id, _| instances.contains_key(id));
        for (id, assignment) in instances {
            if assignment.phase == Phase::Draining {
                self.draining.entry(id.clone()).or_insert(now);
            }
            let report = self.nodes.get(&assignment.node).and_then(|page| page.report.as_ref());
            let healthy = match report.and_then(|report| report.roles.get(&RoleName::compute())).map(|role| &role.facts)
            {
                Some(RoleFacts::Compute(facts)) => facts.get(id).is_some_and(|facts| facts.healthy),
                _ => false,
            };
            if healthy {
                self.unhealthy.remove(id);
            } else {
                self.unhealthy.entry(id.clone()).or_insert(now);
            }
        }
    }

    /// A record that was made anew is another one, and counts from now.
    fn note_long(&mut self, state: &ControlState, now: Timestamp) -> BTreeMap<InstanceId, KnownLong> {
        self.long.retain(|(id, since), _| state.long.get(id).is_some_and(|grant| grant.since == *since));
        let known = state.long.iter().map(|(id, grant)| {
            let since = *self.long.entry((id.clone(), grant.since)).or_insert(now);
            (id.clone(), KnownLong { grant: grant.clone(), known_for: now.since(since) })
        });
        known.collect()
    }

    /// Who follows a plan that has dropped an instance promises nothing for it any more, not even after a restart: a promise only
    /// prolongs what has not run out, and who was started again refuses for as long as one runs.
    fn note_refusals(&mut self, state: &ControlState, now: Timestamp) {
        let letting_go = &state.plan.letting_go;
        self.refused.retain(|id, _| letting_go.contains_key(id));
        for (id, letting) in letting_go {
            let Some(candidates) = state.plan.candidates.get(id) else { continue };
            let refuses = |node: &NodeId| {
                let report = self.nodes.get(node).and_then(|page| page.report.as_ref());
                report.is_some_and(|report| report.generation >= letting.since)
            };
            if candidates.bound().iter().any(refuses) {
                self.refused.entry(id.clone()).or_insert(now);
            }
        }
    }

    fn note_verdicts(&mut self, state: &ControlState, now: Timestamp) {
        let verdicts = &state.plan.verdicts;
        // Those in force when the term began are older than it: this leader did not see the nodes fall, and not all at once.
        let judged =
            self.judged.get_or_insert_with(|| verdicts.iter().map(|(id, verdict)| (*id, verdict.since)).collect());
        for (id, verdict) in verdicts {
            if judged.insert(*id, verdict.since) != Some(verdict.since) {
                self.losses.push((now, *id));
            }
        }
        judged.retain(|id, _| verdicts.contains_key(id));
        self.losses.retain(|(at, _)| now.since(*at) < LOSSES_KEPT);
    }
}

fn ages(since: &BTreeMap<InstanceId, Timestamp>, now: Timestamp) -> BTreeMap<InstanceId, Duration> {
    since.iter().map(|(id, at)| (id.clone(), now.since(*at))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Command, Entry, samples};
    use crate::plan::{Candidates, InstanceAssignment, LettingGo, Verdict, VerdictKind};
    use crate::time::WallTime;

    /// A leader, node 1, among `nodes`.
    struct Desk {
        book: Book,
        state: ControlState,
        heard: BTreeMap<NodeId, (Liveness, Incarnation)>,
        unheard: BTreeSet<NodeId>,
    }

    impl Desk {
        fn new(nodes: u8) -> Self {
            let (book, state) = (Book::new(1, Timestamp(0)), samples::cluster(nodes));
            Self { book, state, heard: BTreeMap::new(), unheard: BTreeSet::new() }
        }

        fn view(&mut self, now: u64) -> View {
            let (state, heard, unheard) = (&self.state, &self.heard, &self.unheard);
            let around = Surroundings { me: NodeId(1), state, heard, unheard, raft: BTreeMap::new() };
            self.book.view(&around, Timestamp(now))
        }

        fn facts(&mut self, node: u64, now: u64) -> NodeFacts {
            self.view(now).nodes[&NodeId(node)].clone()
        }

        /// `node` asks, names `last_grant`, and says whom it does not hear.
        fn ask(&mut self, node: u64, last_grant: u64, unheard: &[u64], now: u64) -> Granted {
            let unheard = unheard.iter().copied().map(NodeId).collect();
            let asked = Asked { incarnation: Incarnation(1), last_grant, unheard, ..Asked::default() };
            self.book.asked(NodeId(node), asked, Timestamp(now))
        }
    }

    #[test]
    fn who_asks_and_acknowledges_has_a_lease() {
        let mut desk = Desk::new(2);
        for (now, grant) in [(0, 0), (400, 1), (800, 2), (1200, 3)] {
            assert_eq!(desk.ask(2, grant, &[], now).grant, grant + 1);
        }
        assert!(desk.facts(2, 1_600).leased);
        assert!(!desk.facts(2, 3_200).leased);
    }

    #[test]
    fn a_leader_that_was_frozen_begins_anew_to_measure() {
        let mut desk = Desk::new(2);
        assert_eq!(desk.view(250).leading_since, Timestamp(0));
        assert_eq!(desk.view(500).leading_since, Timestamp(0));
        assert_eq!(desk.view(9_000).leading_since, Timestamp(9_000));
    }

    #[test]
    fn what_was_granted_is_remembered_until_it_is_over_whatever_plan_is_at_hand() {
        let mut desk = Desk::new(3);
        let id = samples::instance("shop/one/1");
        let mut state = desk.state.clone();
        state.plan.instances.insert(id.clone(), InstanceAssignment { exclusive: true, ..samples::place(2, 1) });
        assert!(desk.book.grant(&state, NodeId(3), Timestamp(500)).covers.is_empty(), "it is not there");
        let grant = desk.book.grant(&state, NodeId(2), Timestamp(1_000));
        assert_eq!((grant.term, grant.covers.contains(&id)), (1, true));
        // The pass that looks now has an older plan at hand, or one that has dropped the instance.
        let mut ago = |now| desk.view(now).granted.get(&id).copied();
        assert_eq!(ago(1_500), Some(Duration::from_millis(500)));
        assert_eq!(ago(3_099), Some(Duration::from_millis(2_099)));
        assert_eq!(ago(3_100), None, "over on every clock");
    }

    #[test]
    fn a_long_grant_counts_from_when_this_leader_first_saw_it_and_anew_when_it_is_given_anew() {
        let mut desk = Desk::new(3);
        let id = samples::instance("shop/one/1");
        let place = samples::place(2, 1);
        desk.state.plan.instances.insert(id.clone(), InstanceAssignment { exclusive: true, ..place });
        let give = |desk: &mut Desk| {
            let command = Command::LongGrant { node: NodeId(2), incarnation: Incarnation(1), length_ms: 15_000 };
            let entry = Entry { at: WallTime(0), by: String::new(), if_index: None, command };
            desk.state.apply(desk.state.applied.next(), entry);
        };
        give(&mut desk);
        let known = |desk: &mut Desk, now| desk.view(now).long.get(&id).map(|long| long.known_for.as_millis());
        assert_eq!([known(&mut desk, 1_000), known(&mut desk, 4_000)], [Some(0), Some(3_000)]);
        give(&mut desk);
        assert_eq!([known(&mut desk, 5_000), known(&mut desk, 6_000)], [Some(0), Some(1_000)]);
        // A pause of the leader's own does not make it younger, and another term does.
        assert_eq!(known(&mut desk, 16_000), Some(11_000));
        desk.book = Book::new(2, Timestamp(16_500));
        assert_eq!(known(&mut desk, 17_000), Some(0));
        desk.state.long.clear();
        assert_eq!(known(&mut desk, 18_000), None);
    }

    #[test]
    fn who_reports_a_plan_that_dropped_an_instance_is_known_to_promise_nothing_for_it() {
        let mut desk = Desk::new(3);
        let id = samples::instance("shop/one/1");
        let reason = samples::place(1, 1).reason;
        let letting = LettingGo { node: NodeId(1), since: Generation(5), granted: true, reason };
        let listed = |nodes: &[u64]| nodes.iter().copied().map(NodeId).collect::<BTreeSet<_>>();
        // Whichever of its two lists node 1 goes by, node 2 is asked.
        let candidates = Candidates { nodes: listed(&[2, 3]), since: Generation(4), before: Some(listed(&[2])) };
        desk.state.plan.letting_go.insert(id.clone(), letting);
        desk.state.plan.candidates.insert(id.clone(), candidates);
        let mut refused_for = |node: u64, generation: u64, now: u64| {
            let report = NodeReport { generation: Generation(generation), ..NodeReport::default() };
            let asked = Asked { incarnation: Incarnation(1), report: Some(Arc::new(report)), ..Asked::default() };
            desk.book.asked(NodeId(node), asked, Timestamp(now));
            desk.view(now).refused_for.get(&id).copied()
        };
        assert_eq!(refused_for(2, 4, 100), None, "it follows an older plan");
        assert_eq!(refused_for(3, 9, 200), None, "node 1 may not ask it");
        assert_eq!(refused_for(2, 5, 300), Some(Duration::ZERO));
        assert_eq!(refused_for(2, 6, 500), Some(Duration::from_millis(200)));
    }

    #[test]
    fn a_grant_of_an_earlier_term_that_is_named_first_hides_no_later_acknowledgement() {
        let mut desk = Desk::new(2);
        for (now, grant) in [(0, 500), (400, 1), (800, 2), (1200, 3), (1600, 4), (2000, 5)] {
            desk.ask(2, grant, &[], now);
        }
        assert!(desk.facts(2, 2_400).leased);
    }

    #[test]
    fn questions_whose_answers_never_arrive_are_silence() {
        let mut desk = Desk::new(2);
        for now in (0..4_000).step_by(400) {
            desk.ask(2, 1, &[], now);
        }
        assert!(!desk.facts(2, 4_000).leased);
    }

    #[test]
    fn a_node_whose_lease_is_gone_is_steady_only_from_its_return() {
        let mut desk = Desk::new(6);
        let mut now = 0;
        let mut go = |desk: &mut Desk, until: u64, answers_arrive: bool| {
            while now < until {
                for node in 2..=5 {
                    desk.ask(node, now / 400, if node <= 3 && !answers_arrive { &[6] } else { &[] }, now);
                }
                // Its questions arrive all the time; the answers, and so its acknowledgements, only when the cut is mended.
                desk.ask(6, if answers_arrive { now / 400 } else { 1 }, &[], now);
                desk.view(now);
                now += 400;
            }
            desk.facts(6, now)
        };
        // Two observers of five do not hear it: not most of them, but with the lease gone enough for a verdict.
        let cut = go(&mut desk, 20_000, false);
        assert!(!cut.leased && cut.unheard_by.len() == 2);
        assert!(!desk.view(20_000).is_reachable(NodeId(6)));
        let back = go(&mut desk, 20_800, true);
        assert!(back.leased);
        assert!(
            back.steady_for <= Duration::from_secs(2),
            "steady for {:?} when it has just come back",
            back.steady_for
        );
        assert!(go(&mut desk, 32_000, true).steady_for >= Duration::from_secs(10));
    }

    #[test]
    fn verdicts_of_an_earlier_term_are_no_losses_of_this_one() {
        let mut desk = Desk::new(6);
        let verdict = |since| Verdict {
            kind: VerdictKind::Down,
            incarnation: Incarnation(1),
            since: Generation(since),
            evidence: String::new(),
        };
        desk.state.plan.verdicts = (3..=6).map(|id| (NodeId(id), verdict(id))).collect();
        assert_eq!(desk.view(100).losses, []);
        desk.state.plan.verdicts.insert(NodeId(2), verdict(9));
        assert_eq!(desk.view(200).losses, [(Timestamp(200), NodeId(2))]);
    }
}
