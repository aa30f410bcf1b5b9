//! Metrics that follow from a view: the agent and its roles register what they measure themselves, and all are exposed together.

use std::fmt::Write;

use super::sight::Sight;
use super::views::status::status;
use crate::metrics::END;

/// What is `registered`, and what the sight amounts to, in the text format of OpenMetrics.
pub fn expose(registered: &str, sight: &Sight) -> String {
    let registered = registered.strip_suffix(END).unwrap_or(registered);
    format!("{registered}{}{END}", of_sight(sight))
}

fn of_sight(sight: &Sight) -> String {
    let status = status(sight);
    let mut text = String::new();
    let mut gauge = |name: &str, help: &str, values: &[(&str, u64)]| {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "# HELP hirsel_{name} {help}\n# TYPE hirsel_{name} gauge");
        for (labels, value) in values {
            let _ = writeln!(text, "hirsel_{name}{labels} {value}");
        }
    };
    gauge(
        "healthy",
        "Whether all that this number of nodes allows is met.",
        &[("", u64::from(status.health == "healthy"))],
    );
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
