//! The agent's own metrics: what this node knows of the cluster. Roles register theirs beside them.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use hirsel_model::view::Liveness;
use prometheus_client::metrics::gauge::Gauge;
use tokio::time::sleep;

use crate::shared::Shared;

/// Nobody scrapes more often than this.
const EVERY: Duration = Duration::from_secs(1);

type Number = Gauge<i64, AtomicI64>;

#[derive(Default)]
struct Gauges {
    generation: Number,
    term: Number,
    leads: Number,
    stale_ms: Number,
    nodes: Number,
    alive: Number,
    judged: Number,
    instances: Number,
    unmet: Number,
    voters: Number,
}

/// Registers the metrics and keeps them current until the agent stops.
pub async fn keep(shared: Arc<Shared>) {
    let gauges = Gauges::default();
    register(&shared, &gauges);
    while !shared.stop.is_cancelled() {
        read(&shared, &gauges);
        tokio::select! {
            () = sleep(EVERY) => {}
            () = shared.stop.cancelled() => {}
        }
    }
}

fn register(shared: &Shared, gauges: &Gauges) {
    let mut registry = shared.metrics.lock().expect("no panic under the lock");
    let rows = [
        ("hirsel_plan_generation", "Generation of the plan this node follows", &gauges.generation),
        ("hirsel_raft_term", "Term of the control group", &gauges.term),
        ("hirsel_leader", "1 where this node leads", &gauges.leads),
        ("hirsel_control_stale_milliseconds", "How long ago a leader was heard", &gauges.stale_ms),
        ("hirsel_nodes", "Nodes of the cluster", &gauges.nodes),
        ("hirsel_nodes_alive", "Nodes that this one hears", &gauges.alive),
        ("hirsel_nodes_judged", "Nodes under a verdict", &gauges.judged),
        ("hirsel_instances_planned", "Instances in the plan", &gauges.instances),
        ("hirsel_unmet", "Wishes that could not be met", &gauges.unmet),
        ("hirsel_voters", "Voters of the control group", &gauges.voters),
    ];
    for (name, help, gauge) in rows {
        registry.register(name, help, gauge.clone());
    }
}

fn read(shared: &Shared, gauges: &Gauges) {
    let state = shared.control.state().borrow().clone();
    let leadership = shared.control.leadership().borrow().clone();
    let alive = shared.live.borrow().nodes.values().filter(|node| node.liveness == Liveness::Alive).count();
    let set = |gauge: &Number, value: u64| {
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    };
    set(&gauges.generation, state.plan.generation.0);
    set(&gauges.term, leadership.term);
    set(&gauges.leads, u64::from(leadership.mine));
    set(&gauges.stale_ms, leadership.stale_ms);
    set(&gauges.nodes, state.spec.nodes.len() as u64);
    set(&gauges.alive, alive as u64);
    set(&gauges.judged, state.plan.verdicts.len() as u64);
    set(&gauges.instances, state.plan.instances.len() as u64);
    set(&gauges.unmet, state.plan.unmet.len() as u64);
    set(&gauges.voters, leadership.voters.len() as u64);
}
