//! The agent's own metrics: what this node knows of the cluster. Roles register theirs beside them, each in a registry of its own.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hirsel_model::RoleName;
use hirsel_model::view::Liveness;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::time::sleep;

use crate::shared::Shared;

/// Nobody scrapes more often than this.
const EVERY: Duration = Duration::from_secs(1);

/// The mark at the end of an exposition in the format of OpenMetrics.
pub const END: &str = "# EOF\n";

/// Where the agent and its roles register what they measure.
#[derive(Debug, Default)]
pub struct Registries {
    agent: Mutex<Registry>,
    roles: Mutex<BTreeMap<RoleName, Arc<Mutex<Registry>>>>,
}

impl Registries {
    /// A new registry for a start of `role`: what it registered in an earlier life is forgotten, or all of it would be there twice.
    pub fn begin(&self, role: &RoleName) -> Arc<Mutex<Registry>> {
        let new = Arc::<Mutex<Registry>>::default();
        self.roles.lock().unwrap_or_else(PoisonError::into_inner).insert(role.clone(), new.clone());
        new
    }

    /// Everything registered, in the text format of OpenMetrics.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut add = |registry: &Mutex<Registry>| {
            // A role that panics while it registers leaves its own registry behind as it is.
            let registry = registry.lock().unwrap_or_else(PoisonError::into_inner);
            // Writing into a String cannot fail.
            let _ = encode(&mut text, &registry);
            text.truncate(text.strip_suffix(END).unwrap_or(&text).len());
        };
        add(&self.agent);
        self.roles.lock().unwrap_or_else(PoisonError::into_inner).values().for_each(|registry| add(registry));
        text + END
    }
}

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
    certificate_s: Number,
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
    let mut registry = shared.metrics.agent.lock().unwrap_or_else(PoisonError::into_inner);
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
        (
            "hirsel_certificate_left_seconds",
            "How long this node's certificate is good; it is renewed after a third of its life",
            &gauges.certificate_s,
        ),
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
    set(&gauges.certificate_s, shared.transport.certificate().left(shared.world.clock.wall()).as_secs());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_that_starts_again_registers_nothing_twice() {
        let registries = Registries::default();
        registries.agent.lock().unwrap().register("hirsel_a", "of the agent", Number::default());
        for life in 1..=3 {
            let gauge = Number::default();
            registries.begin(&RoleName::lb()).lock().unwrap().register("hirsel_lb_b", "of a role", gauge.clone());
            gauge.set(life);
        }
        registries.begin(&RoleName::mgmt());
        let text = registries.text();
        assert_eq!(text.matches("# HELP hirsel_lb_b").count(), 1, "{text}");
        assert!(text.contains("hirsel_lb_b 3\n") && text.contains("hirsel_a 0\n"), "{text}");
        assert!(text.ends_with(END) && text.matches(END).count() == 1, "{text}");
    }
}
