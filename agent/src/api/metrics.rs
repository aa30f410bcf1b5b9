//! Metrics of the cluster as one node sees it. Roles register their own; all are exposed together.

use std::fmt::Write;

use super::sight::Sight;
use super::views::status::status;

/// What the sight amounts to, in the text format of OpenMetrics, without the closing mark.
pub fn of_sight(sight: &Sight) -> String {
    let status = status(sight);
    let mut text = String::new();
    let mut gauge = |name: &str, help: &str, values: &[(&str, u64)]| {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "# HELP hirsel_{name} {help}\n# TYPE hirsel_{name} gauge");
        for (labels, value) in values {
            let _ = writeln!(text, "hirsel_{name}{labels} {value}");
        }
    };
    let nodes = &status.nodes;
    gauge(
        "nodes",
        "Nodes by standing.",
        &[
            ("{liveness=\"alive\"}", nodes.alive.into()),
            ("{liveness=\"suspect\"}", nodes.suspect.into()),
            ("{liveness=\"unfit\"}", nodes.unfit.into()),
            ("{liveness=\"down\"}", nodes.down.into()),
        ],
    );
    gauge("can_lose_nodes", "Any so many nodes may vanish at once.", &[("", status.can_lose.nodes.into())]);
    gauge("can_lose_zones", "Any so many zones may vanish at once.", &[("", status.can_lose.zones.into())]);
    gauge("healthy", "Whether the cluster is healthy.", &[("", u64::from(status.health == "healthy"))]);
    gauge("leader", "Whether this node leads.", &[("", u64::from(sight.leader() == Some(sight.me)))]);
    gauge("term", "Term of the control group.", &[("", status.term)]);
    gauge("generation", "Number of the plan in force.", &[("", status.generation)]);
    gauge("applied_index", "Last entry of the control log applied here.", &[("", sight.state.applied.0)]);
    gauge("leader_heard_ms", "Milliseconds since a leader was heard.", &[("", sight.leadership.stale_ms)]);
    gauge("unmet", "Wishes that could not be met.", &[("", sight.state.plan.unmet.len() as u64)]);
    let apps: Vec<(String, u64, u64)> = status
        .apps
        .iter()
        .map(|(app, summary)| (format!("{{app=\"{app}\"}}"), summary.wanted.into(), summary.healthy.into()))
        .collect();
    let wanted: Vec<(&str, u64)> = apps.iter().map(|(labels, wanted, _)| (labels.as_str(), *wanted)).collect();
    let healthy: Vec<(&str, u64)> = apps.iter().map(|(labels, _, healthy)| (labels.as_str(), *healthy)).collect();
    gauge("app_instances_wanted", "Instances wanted.", &wanted);
    gauge("app_instances_healthy", "Instances that work.", &healthy);
    text
}
