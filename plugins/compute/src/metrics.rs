//! What the role counts.

use std::sync::{Mutex, PoisonError};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// Starts, the first ones included.
    pub starts: Counter,
    /// Ends that nobody asked for.
    pub failures: Counter,
    /// Instances that run now.
    pub running: Gauge,
    /// Instances that run now and whose check passes.
    pub healthy: Gauge,
}

impl Metrics {
    pub(crate) fn register(registry: &Mutex<Registry>) -> Self {
        let metrics = Self::default();
        let mut registry = registry.lock().unwrap_or_else(PoisonError::into_inner);
        registry.register("hirsel_compute_starts", "Starts of instances", metrics.starts.clone());
        registry.register(
            "hirsel_compute_failures",
            "Ends of instances that nobody asked for",
            metrics.failures.clone(),
        );
        registry.register("hirsel_compute_running", "Instances that run", metrics.running.clone());
        registry.register("hirsel_compute_healthy", "Instances that run and are healthy", metrics.healthy.clone());
        metrics
    }
}
