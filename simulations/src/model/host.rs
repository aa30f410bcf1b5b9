//! One node as the model knows it: what it hears, what it follows, what it runs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hirsel_model::book::Book;
use hirsel_model::control::ControlState;
use hirsel_model::grant::{Holdings, grantable};
use hirsel_model::order::{InstanceOrder, Work};
use hirsel_model::plan::Phase;
use hirsel_model::reconciler;
use hirsel_model::report::{Bound, InstanceFacts, InstanceState, NodeReport, RoleFacts, RoleReport, RoleState};
use hirsel_model::*;
use rand::Rng;
use rand::rngs::SmallRng;

use super::Bug;
use super::grants::Acting;

/// A node whose counter has not risen for so long is not heard: what phi 8 amounts to at an interval of 250 ms.
const MISSED_AFTER: Duration = Duration::from_millis(1_800);

pub(super) struct Host {
    pub id: NodeId,
    pub power: Power,
    pub incarnation: Incarnation,
    /// What it knows of the control state; on disk, so it outlives its agent.
    pub state: Arc<ControlState>,
    pub term: u64,
    /// The term that its agent led when it ended.
    pub led: Option<u64>,
    /// It leads again without an election; only with a mistake planted.
    pub restored: bool,
    /// What it takes for the newest state as a leader, or as a holder; only with a mistake planted.
    pub outdated: Option<Arc<ControlState>>,
    /// When it last heard a leader of its term, and which.
    pub leader: Option<(NodeId, Timestamp)>,
    pub book: Option<Book>,
    /// Counters of others, with when each last rose here.
    pub beats: BTreeMap<NodeId, (Beat, Timestamp)>,
    pub beat: u64,
    /// The last grant received, and from whom.
    pub last_grant: (NodeId, u64),
    /// How much faster its clock runs than true time, in millionths.
    pub rate_ppm: u64,
    /// Until when its exclusive instances may act.
    pub holdings: Holdings,
    /// What acts here.
    pub acts: BTreeMap<InstanceId, Acting>,
    /// How many processes for exclusive services were started here.
    pub starts: u32,
    /// What is asked to end here takes about as long as its grant.
    pub ends_late: bool,
    pub next_gossip: Timestamp,
    pub next_ask: Timestamp,
    pub next_plea: Timestamp,
    /// Since when its clock stands; only with a mistake planted.
    pub stood_since: Option<Timestamp>,
    pub next_pass: Timestamp,
    pub patience: Duration,
    /// What runs here, and from when on it is healthy.
    pub runs: BTreeMap<InstanceId, (Revision, Timestamp)>,
    /// Draining instances that its load balancer still has requests for, until when.
    busy: BTreeMap<InstanceId, Timestamp>,
    pub report: Arc<NodeReport>,
    seen: Option<LogIndex>,
    /// What acted when it last reported.
    told: BTreeSet<InstanceId>,
}

/// A counter that rises with each round of gossip and each start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Beat(pub Incarnation, pub u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Power {
    On,
    /// Nothing moves until then.
    Frozen(Timestamp),
    /// The host is off, and whatever it ran with it.
    Off,
    /// Only the agent is gone; what it ran runs on.
    Orphaned,
}

impl Host {
    pub fn new(id: NodeId, state: Arc<ControlState>, now: Timestamp, rng: &mut SmallRng) -> Self {
        let mut later = |within: u64| now + Duration::from_millis(rng.random_range(0..within));
        let (next_gossip, next_ask, next_pass) = (later(250), later(400), later(250));
        Self {
            id,
            power: Power::On,
            incarnation: Incarnation(1),
            state,
            term: 0,
            led: None,
            restored: false,
            outdated: None,
            leader: None,
            book: None,
            beats: BTreeMap::new(),
            beat: 0,
            last_grant: (id, 0),
            rate_ppm: rng.random_range(0..=20_000),
            holdings: Holdings::new(now),
            acts: BTreeMap::new(),
            starts: 0,
            ends_late: false,
            next_gossip,
            next_ask,
            next_plea: next_ask,
            stood_since: None,
            next_pass,
            patience: Duration::from_millis(rng.random_range(1_200..2_000)),
            runs: BTreeMap::new(),
            busy: BTreeMap::new(),
            report: Arc::new(NodeReport::default()),
            seen: None,
            told: BTreeSet::new(),
        }
    }

    pub fn is_on(&self) -> bool {
        self.power == Power::On
    }

    /// Whether its programs run, agent or not.
    pub fn has_power(&self) -> bool {
        self.power != Power::Off
    }

    pub fn stop(&mut self, power: Power) {
        self.power = power;
        self.led = self.book.as_ref().map(|book| book.term);
        self.book = None;
        self.leader = None;
        if power == Power::Off {
            self.runs.clear();
            self.acts.clear();
            self.busy.clear();
        }
    }

    pub fn start(&mut self, now: Timestamp) {
        self.power = Power::On;
        self.incarnation = self.incarnation.next();
        self.beats.clear();
        self.last_grant = (self.id, 0);
        self.holdings = Holdings::new(self.clock(now));
        self.outdated = None;
        self.leader = None;
        self.seen = None;
        (self.next_gossip, self.next_ask, self.next_pass) = (now, now, now);
    }

    /// What its clock shows.
    pub fn clock(&self, now: Timestamp) -> Timestamp {
        let now = self.stood_since.unwrap_or(now);
        // Half of them run slower: 1 % at most in either direction.
        Timestamp(now.0 * (990_000 + self.rate_ppm) / 1_000_000)
    }

    /// Members of the spec that it does not hear.
    pub fn unheard(&self, now: Timestamp) -> BTreeSet<NodeId> {
        let heard = |node: &NodeId| {
            *node == self.id || self.beats.get(node).is_some_and(|(_, rose)| now.since(*rose) < MISSED_AFTER)
        };
        self.state.spec.nodes.keys().copied().filter(|node| !heard(node)).collect()
    }

    pub fn hears(&mut self, node: NodeId, beat: Beat, now: Timestamp) {
        let known = self.beats.entry(node).or_insert((Beat::default(), now));
        if beat > known.0 {
            *known = (beat, now);
        }
    }

    /// Does what the state it follows asks of it, and says how it stands.
    pub fn converge(&mut self, now: Timestamp, rng: &mut SmallRng, bug: Bug) {
        let changed = self.seen != Some(self.state.applied);
        let pending = self.runs.values().any(|(_, healthy_at)| *healthy_at + Duration::from_millis(100) >= now);
        let obeyed = self.outdated.clone().filter(|_| bug == Bug::ObeysOldPlan).unwrap_or_else(|| self.state.clone());
        let exclusive = !self.acts.is_empty() || !self.told.is_empty() || !grantable(&obeyed, self.id).is_empty();
        if !changed && !pending && self.busy.is_empty() && !exclusive {
            return;
        }
        self.seen = Some(self.state.applied);
        let built = [RoleName::compute(), RoleName::lb()];
        let orders = reconciler::orders(&obeyed, self.id, &built);
        let mut wanted = BTreeMap::new();
        if let Some(Work::Compute(instances)) = orders.get(&built[0]).map(|order| &order.work) {
            wanted.extend(instances.iter().map(|(id, order)| (id.clone(), order.clone())));
        }
        let (exclusive, wanted) = wanted.into_iter().partition(|(_, order)| order.service.exclusive);
        self.act(&exclusive, now, rng, bug);
        let wanted: BTreeMap<InstanceId, InstanceOrder> = wanted;
        if bug != Bug::NeverStops {
            self.runs.retain(|id, _| wanted.contains_key(id));
        }
        for (id, order) in wanted {
            let ready = now + Duration::from_millis(rng.random_range(200..1_500));
            self.runs.entry(id).or_insert((order.revision, ready));
        }
        let balances = orders.get(&built[1]).is_some_and(|order| !order.is_stop());
        self.balance(balances, now, rng);
        self.report = Arc::new(self.tell(balances, now, bug));
        self.told = self.acts.keys().cloned().collect();
    }

    fn balance(&mut self, balances: bool, now: Timestamp, rng: &mut SmallRng) {
        let draining = |id: &InstanceId| {
            self.state.plan.instances.get(id).is_some_and(|assigned| assigned.phase == Phase::Draining)
        };
        self.busy.retain(|id, _| balances && draining(id));
        if balances {
            let all = self.state.plan.instances.iter().filter(|(_, assigned)| assigned.phase == Phase::Draining);
            for (id, _) in all {
                let until = now + Duration::from_millis(rng.random_range(0..2_000));
                self.busy.entry(id.clone()).or_insert(until);
            }
        }
    }

    fn tell(&self, balances: bool, now: Timestamp, bug: Bug) -> NodeReport {
        let generation = self.state.plan.generation;
        let role =
            |facts| RoleReport { state: RoleState::Running, generation, message: None, facts, ..RoleReport::default() };
        let runs = self.runs.iter().map(|(id, (revision, healthy_at))| {
            let healthy = now >= *healthy_at;
            let state = if healthy { InstanceState::Running } else { InstanceState::Starting };
            (id.clone(), InstanceFacts { state, healthy, revision: *revision, ..InstanceFacts::default() })
        });
        let acts = self.acts.iter().filter(|(_, acting)| bug != Bug::Denies || acting.ends.is_none());
        let acts = acts.map(|(id, acting)| {
            let (healthy, stops) = (now >= acting.healthy_at, acting.ends.is_some());
            let state = match (stops, healthy) {
                (true, _) => InstanceState::Stopping,
                (false, true) => InstanceState::Running,
                (false, false) => InstanceState::Starting,
            };
            let (healthy, revision) = (healthy && !stops, acting.revision);
            let bound = match acting.told_by == self.incarnation {
                true if acting.long || self.holdings.is_long(id) => Bound::Long,
                true => Bound::Grant,
                false => Bound::Unknown,
            };
            (id.clone(), InstanceFacts { state, healthy, revision, bound, ..InstanceFacts::default() })
        });
        let facts = RoleFacts::Compute(runs.chain(acts).collect());
        let mut roles = BTreeMap::from([(RoleName::compute(), role(facts))]);
        if balances {
            let busy = self.busy.iter().filter(|(_, until)| **until > now).map(|(id, _)| (id.clone(), 1)).collect();
            roles.insert(RoleName::lb(), role(RoleFacts::Lb(busy)));
        }
        NodeReport {
            version: 0,
            incarnation: self.incarnation,
            generation,
            roles,
            load: 0,
            level: hirsel_model::feature::BUILT,
        }
    }
}
