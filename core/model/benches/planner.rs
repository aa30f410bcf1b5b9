//! How long the planner takes: everything from empty, nothing to do, and after one loss. `cargo bench -p hirsel-model`.
//!
//! Method: each figure is the median (and the worst) of several calls of `planner::plan` on a view in memory, on one core; the
//! difference to the plan in force and its words for the log are timed beside it. Nodes are in ten zones, services have 20 instances.
//!
//! Then what it weighs: the whole state as a snapshot, on disk and on the stream to a follower, and the entry that follows a loss; and
//! what a question for a grant costs the leader of 300 nodes.

#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a benchmark measures time and names the machine"
)]
#![allow(clippy::print_stdout, reason = "its output is what it is for")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hirsel_model::book::Book;
use hirsel_model::control::{Command, ControlState};
use hirsel_model::grant::ASK_EVERY;
use hirsel_model::plan::Plan;
use hirsel_model::planner::{change::change, narrate, plan};
use hirsel_model::report::*;
use hirsel_model::spec::*;
use hirsel_model::view::*;
use hirsel_model::*;

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
    for (nodes, instances) in [(1_000, 20_000), (10_000, 20_000)] {
        let mut view = empty(nodes, instances);
        let full = figures("from empty", &view, nodes, instances);
        assert_eq!(full.instances.len(), instances, "all have a place");
        view.plan = Arc::new(full);
        follow(&mut view);
        let same = figures("nothing to do", &view, nodes, instances);
        view.plan = Arc::new(same);
        follow(&mut view);
        lose(&mut view, NodeId(2));
        let healed = figures("one node lost", &view, nodes, instances);
        assert!(healed.instances.values().all(|assigned| assigned.node != NodeId(2)));
        assert_eq!(healed.instances.len(), instances, "what was lost is replaced");
        weigh(&view, &healed);
    }
    grants(300, 20_000);
}

/// Prints the bytes of the state, and of the entry that leads to `healed`.
fn weigh(view: &View, healed: &Plan) {
    let state = ControlState { spec: (*view.spec).clone(), plan: (*view.plan).clone(), ..ControlState::default() };
    let adopt = Command::Adopt {
        base: view.plan.generation,
        spec_index: view.spec_index,
        change: change(&view.plan, healed),
        events: narrate(view, healed),
    };
    // As the mesh packs snapshots and states for followers.
    let packed = |bytes: &[u8]| zstd::bulk::compress(bytes, 1).unwrap().len();
    let (whole, entry) = (codec::encode(&state), codec::encode(&adopt));
    println!(
        "{:>6} {:>9}  snapshot {} kB, {} kB packed; the entry after one loss {} kB, {} kB packed",
        view.nodes.len(),
        view.plan.instances.len(),
        whole.len() / 1_000,
        packed(&whole) / 1_000,
        entry.len() / 1_000,
        packed(&entry) / 1_000
    );
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
    let state = ControlState { spec: (*view.spec).clone(), plan: (*view.plan).clone(), ..ControlState::default() };
    let mut book = Book::new(1, Timestamp(0));
    let mut at = Timestamp(0);
    let took = measure(|| {
        at = at + ASK_EVERY;
        for node in state.spec.nodes.keys() {
            assert_eq!(book.grant(&state, *node, at).covers.len(), 1);
        }
    });
    println!("{nodes:>6} {instances:>9}  a grant for each node: {took} of every {} ms", ASK_EVERY.as_millis());
}

fn figures(case: &str, view: &View, nodes: usize, instances: usize) -> Plan {
    let new = plan(view);
    let planned = measure(|| drop(plan(view)));
    let changed = measure(|| drop(change(&view.plan, &new)));
    let told = measure(|| drop(narrate(view, &new)));
    println!("{nodes:>6} {instances:>9}  {case:<22} {planned:>10} {changed:>10} {told:>10}");
    new
}

fn measure(mut work: impl FnMut()) -> String {
    let mut times: Vec<Duration> = (0..CALLS)
        .map(|_| {
            let begin = Instant::now();
            work();
            begin.elapsed()
        })
        .collect();
    times.sort();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    format!("{:.1} ms ({:.1})", ms(times[CALLS / 2]), ms(times[CALLS - 1]))
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
            };
            services.insert(format!("service-{service}").parse().unwrap(), described);
        }
        let app_spec = AppSpec { revision: Revision(1), services, routes: Vec::new(), stopped: false };
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
        let role = RoleReport { state: RoleState::Running, generation, message: None, facts: compute };
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
