//! How long the planner takes: everything from empty, nothing to do, and after one loss. `cargo bench -p hirsel-model [-- NODES...]`.
//!
//! Method: each figure is the median (and the worst) of several calls of `planner::plan` on a view in memory, on one core; the
//! difference to the plan in force and its words for the log are timed beside it. Nodes are in ten zones, services have 20 instances.
//!
//! Then what it weighs: the whole state, as it is encoded and as it is packed for a snapshot and for a follower that lacks too much; and
//! single changes, which go into the log and over the stream to every follower as they are encoded. Services are alike here, and so are
//! events: real ones pack less well. And what it takes to apply one change while the state before it is read. At last what questions for leases cost the leader, in deciding alone: the calls that carry them
//! are not in it.

#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a benchmark measures time and names the machine"
)]
#![allow(clippy::print_stdout, reason = "its output is what it is for")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hirsel_model::book::{Asked, Book};
use hirsel_model::control::{Command, ControlState, Entry};
use hirsel_model::event::EVENTS_MAX;
use hirsel_model::grant::ASK_EVERY;
use hirsel_model::plan::Plan;
use hirsel_model::planner::{change::change, narrate, plan};
use hirsel_model::report::*;
use hirsel_model::spec::*;
use hirsel_model::view::*;
use hirsel_model::*;

const SIZES: [usize; 3] = [300, 1_000, 10_000];
/// Instances of each service.
const PER_SERVICE: usize = 20;
/// Calls per figure: enough for a median, few enough for the slowest.
const CALLS: usize = 5;

fn main() {
    // `cargo test --benches` asks every bench to run as a test; a figure from there would mean nothing.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown", |rest| rest.trim_matches([' ', '\t', ':']));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let build = if cfg!(debug_assertions) { "debug: the figures mean nothing" } else { "release" };
    println!("machine: {model}, {cores} cores; build: {build}; median of {CALLS} calls (worst), one core");
    println!("{:>6} {:>9}  {:<22} {:>10} {:>10} {:>10}", "nodes", "instances", "case", "plan", "change", "narrate");
    let asked: Vec<usize> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let instances = 20_000;
    for nodes in if asked.is_empty() { SIZES.to_vec() } else { asked } {
        let mut view = empty(nodes, instances);
        let full = figures("from empty", &view, nodes, instances);
        assert_eq!(full.instances.len(), instances, "all have a place");
        view.plan = Arc::new(full);
        follow(&mut view);
        let same = figures("nothing to do", &view, nodes, instances);
        view.plan = Arc::new(same);
        follow(&mut view);
        let before = view.clone();
        lose(&mut view, NodeId(2));
        let healed = figures("one node lost", &view, nodes, instances);
        assert!(healed.instances.values().all(|assigned| assigned.node != NodeId(2)));
        assert_eq!(healed.instances.len(), instances, "what was lost is replaced");
        weigh(&before, &view, &healed);
    }
    grants(300, instances);
}

/// Prints the bytes of the state, and of entries that change it: the one that leads to `healed` from the plan in force, and small ones.
fn weigh(before: &View, lost: &View, healed: &Plan) {
    let mut state = ControlState {
        spec: (*before.spec).clone(),
        spec_index: before.spec_index,
        plan: (*before.plan).clone(),
        ..ControlState::default()
    };
    let (nodes, instances) = (before.nodes.len(), before.plan.instances.len());
    let state_weighs = |what: &str, state: &ControlState| {
        let whole = codec::encode(state);
        // As the mesh packs it.
        let packed = zstd::bulk::compress(&whole, 1).unwrap();
        let (whole, packed) = (whole.len() as f64 / 1e6, packed.len() as f64 / 1e6);
        println!("{nodes:>6} {instances:>9}  {what:<34} {whole:.2} MB, packed {packed:.2} MB");
    };
    let entry_weighs = |what: &str, command: Command| {
        let entry = Entry { at: WallTime(1_800_000_000_000), by: "n1".into(), if_index: None, command };
        println!("{nodes:>6} {instances:>9}  {what:<34} {} bytes", codec::encode(&entry).len());
        entry
    };
    state_weighs("state without any events", &state);

    let adopt = |view: &View, new: &Plan| Command::Adopt {
        base: view.plan.generation,
        spec_index: view.spec_index,
        change: change(&view.plan, new),
        events: narrate(view, new),
    };
    let mut one = (*before.plan).clone();
    one.generation = one.generation.next();
    let moved = one.instances.values_mut().next().expect("there are instances");
    moved.node = NodeId(if moved.node == NodeId(3) { 4 } else { 3 });
    entry_weighs("a change that moves one instance", adopt(before, &one));
    entry_weighs(
        "a change that cordons a node",
        Command::SetAvailability { node: NodeId(3), availability: Availability::Cordoned },
    );
    let events = narrate(lost, healed);
    let entry = entry_weighs("the change after the loss", adopt(lost, healed));
    state.apply(LogIndex(2), entry);
    assert_eq!(state.plan, *healed, "it is a change that is taken");
    // Until the log of events is full: it keeps the last ones.
    let mut index = LogIndex(2);
    while state.log.events.len() < EVENTS_MAX {
        index = LogIndex(index.0 + 1);
        let command = Command::Note { events: events.clone() };
        state.apply(index, Entry { at: WallTime(1_800_000_000_000), by: "n1".into(), if_index: None, command });
    }
    state_weighs("state with the last 10,000 events", &state);
    // Whoever reads keeps the state that was shown, so every change that is applied by itself makes a new one.
    let mut shown = Arc::new(state);
    let taken = measure(|| {
        let _read = shown.clone();
        index = LogIndex(index.0 + 1);
        let spec = shown.spec.apps[&"app-0".parse().unwrap()].clone();
        let command = Command::ApplyApp { app: "app-0".parse().unwrap(), spec };
        Arc::make_mut(&mut shown)
            .apply(index, Entry { at: WallTime(1_800_000_000_000), by: "n1".into(), if_index: None, command });
    });
    println!("{nodes:>6} {instances:>9}  {:<34} {taken}", "an application applied anew");
}

/// Prints what it costs to answer every node once, of which each runs one instance that is exclusive.
fn grants(nodes: usize, instances: usize) {
    let mut view = empty(nodes, instances);
    let mut new = plan(&view);
    let mut seen = BTreeSet::new();
    for assigned in new.instances.values_mut() {
        assigned.exclusive = seen.insert(assigned.node);
    }
    view.plan = Arc::new(new);
    follow(&mut view);
    let mut state = ControlState { spec: (*view.spec).clone(), plan: (*view.plan).clone(), ..ControlState::default() };
    let mut book = Book::new(1, Timestamp(0));
    let mut at = Timestamp(0);
    let mut last = BTreeMap::<NodeId, u64>::new();
    let mut round = |state: &ControlState| {
        at = at + ASK_EVERY;
        for node in state.spec.nodes.keys() {
            // Reports come with the first question only, as long as nothing changes.
            let known = last.get(node).copied().unwrap_or(0);
            let report = view.nodes[node].report.clone().filter(|_| known == 0);
            let incarnation = Incarnation(1);
            let asked = Asked { incarnation, last_grant: known, report, ..Asked::default() };
            assert!(book.has_to_grant(state, *node));
            last.insert(*node, book.asked(*node, asked, at).grant);
            let grant = book.grant(state, *node, at);
            assert_eq!(grant.covers.len(), 1);
            std::hint::black_box(codec::encode(&grant));
        }
    };
    round(&state);
    let quiet = timed(|| round(&state));
    let changing = timed(|| {
        state.applied = LogIndex(state.applied.0 + 1);
        round(&state);
    });
    let rounds_per_second = 1000.0 / ASK_EVERY.as_millis() as f64;
    for (what, times) in [("leases of all nodes, quiet", quiet), ("the same, a change in each round", changing)] {
        let (each, second) =
            (times[CALLS / 2].as_secs_f64() / nodes as f64, times[CALLS / 2].as_secs_f64() * rounds_per_second);
        println!(
            "{nodes:>6} {instances:>9}  {what:<34} {:.2} µs per answer, {:.2} ms of each second at one per {} ms and node",
            each * 1e6,
            second * 1e3,
            ASK_EVERY.as_millis()
        );
    }
}

fn figures(case: &str, view: &View, nodes: usize, instances: usize) -> Plan {
    let new = plan(view);
    let planned = measure(|| drop(plan(view)));
    let changed = measure(|| drop(change(&view.plan, &new)));
    let told = measure(|| drop(narrate(view, &new)));
    println!("{nodes:>6} {instances:>9}  {case:<22} {planned:>10} {changed:>10} {told:>10}");
    new
}

fn measure(work: impl FnMut()) -> String {
    let times = timed(work);
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    format!("{:.1} ms ({:.1})", ms(times[CALLS / 2]), ms(times[CALLS - 1]))
}

/// How long each of several calls takes, the shortest first.
fn timed(mut work: impl FnMut()) -> Vec<Duration> {
    let mut times: Vec<Duration> = (0..CALLS)
        .map(|_| {
            let begin = Instant::now();
            work();
            begin.elapsed()
        })
        .collect();
    times.sort();
    times
}

fn empty(nodes: usize, instances: usize) -> View {
    let mut spec = Spec::default();
    for number in 1..=nodes as u64 {
        let node = NodeSpec {
            name: format!("n{number}").parse().unwrap(),
            addr: ([10, (number / 62_500) as u8, (number / 250 % 250) as u8, (number % 250) as u8], 7400).into(),
            zone: format!("z{}", number % 10).parse().unwrap(),
            site: "here".parse().unwrap(),
            labels: BTreeMap::new(),
            key: [0; 32],
            incarnation: Incarnation(1),
            availability: Availability::Open,
            capacity: Capacity { cpu_millis: 64_000, memory_bytes: 256 << 30 },
            built: [RoleName::lb(), RoleName::compute(), RoleName::mgmt()].into(),
            version: "1".into(),
        };
        spec.nodes.insert(NodeId(number), node);
    }
    for app in 0..instances / PER_SERVICE / 10 {
        let mut services = BTreeMap::new();
        for service in 0..10 {
            let described = ServiceSpec {
                revision: Revision(1),
                command: vec!["serve".into()],
                workdir: None,
                env: BTreeMap::new(),
                user: None,
                replicas: Replicas { min: PER_SERVICE as u32, max: PER_SERVICE as u32 },
                resources: Capacity { cpu_millis: 100, memory_bytes: 64 << 20 },
                health: None,
                update: UpdateSpec::default(),
                stop: StopSpec::default(),
                constraints: BTreeMap::new(),
                spread: Spread::Zone,
                exclusive: false,
                secrets: BTreeMap::new(),
                protocol: Default::default(),
            };
            services.insert(format!("service-{service}").parse().unwrap(), described);
        }
        let app_spec = AppSpec {
            revision: Revision(1),
            services,
            routes: Vec::new(),
            stopped: false,
            ports: BTreeMap::new(),
            zones: BTreeMap::new(),
            buckets: BTreeMap::new(),
        };
        spec.apps.insert(format!("app-{app}").parse().unwrap(), app_spec);
    }
    let facts = NodeFacts {
        liveness: Liveness::Alive,
        leased: true,
        unheard_by: BTreeSet::new(),
        steady_for: Duration::from_secs(600),
        incarnation: Incarnation(1),
        released: Generation(0),
        raft: RaftFacts::Learner { caught_up: true },
        report: None,
    };
    let mut known: BTreeMap<NodeId, NodeFacts> = spec.nodes.keys().map(|node| (*node, facts.clone())).collect();
    known.insert(NodeId(1), NodeFacts { raft: RaftFacts::Voter, ..facts });
    View {
        now: Timestamp(3_600_000),
        leading_since: Timestamp(0),
        leader: NodeId(1),
        level: hirsel_model::feature::BUILT,
        spec: Arc::new(spec),
        spec_index: LogIndex(1),
        plan: Arc::default(),
        former: Arc::default(),
        nodes: known,
        draining_for: BTreeMap::new(),
        unhealthy_for: BTreeMap::new(),
        granted: BTreeMap::new(),
        long: BTreeMap::new(),
        refused_for: BTreeMap::new(),
        losses: Vec::new(),
    }
}

/// Every node runs what the plan gives it, and Raft votes as planned.
fn follow(view: &mut View) {
    let mut runs: BTreeMap<NodeId, BTreeMap<InstanceId, InstanceFacts>> = BTreeMap::new();
    for (id, assigned) in &view.plan.instances {
        let state = InstanceState::Running;
        let facts = InstanceFacts { state, healthy: true, revision: assigned.revision, ..InstanceFacts::default() };
        runs.entry(assigned.node).or_default().insert(id.clone(), facts);
    }
    for (node, facts) in &mut view.nodes {
        let generation = view.plan.generation;
        let compute = RoleFacts::Compute(runs.remove(node).unwrap_or_default());
        let role = RoleReport {
            state: RoleState::Running,
            generation,
            message: None,
            facts: compute,
            ..RoleReport::default()
        };
        let roles = BTreeMap::from([(RoleName::compute(), role)]);
        let report = NodeReport {
            version: 1,
            incarnation: Incarnation(1),
            generation,
            roles,
            load: 0,
            level: hirsel_model::feature::BUILT,
        };
        facts.report = Some(Arc::new(report));
        if view.plan.voters.contains(node) {
            facts.raft = RaftFacts::Voter;
        }
    }
}

/// Every observer misses `node`.
fn lose(view: &mut View, node: NodeId) {
    let observers = view.observers();
    let facts = view.nodes.get_mut(&node).unwrap();
    facts.leased = false;
    facts.unheard_by = observers.into_iter().filter(|other| *other != node).collect();
    facts.steady_for = Duration::from_secs(1);
}
