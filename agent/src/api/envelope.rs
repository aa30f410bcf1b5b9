//! The one shape of every answer. Field names are stable: additions only.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::sight::Sight;

/// Version of the interface.
pub const API: u32 = 1;

/// What every answer comes in; a stream is one of these per line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Envelope<T> {
    /// Version of the interface.
    pub api: u32,
    /// The cluster.
    pub cluster: String,
    /// Name of the node that answers.
    pub node: String,
    /// Up to which index of the control log the answer knows. `--if-index` takes it.
    pub index: u64,
    /// How long ago the answering node last heard of a leader.
    pub stale_ms: u64,
    /// The answer.
    pub data: T,
    /// What is worth knowing besides.
    pub warnings: Vec<String>,
}

impl<T> Envelope<T> {
    /// Wraps what was computed from `sight`.
    pub fn new(sight: &Sight, data: T) -> Self {
        let mut warnings = Vec::new();
        if sight.leader().is_none() {
            warnings.push(format!(
                "no leader is known to {}: this is what it last knew, {} s ago",
                sight.name(sight.me),
                sight.leadership.stale_ms / 1000
            ));
        }
        Self {
            api: API,
            cluster: sight.state.cluster.id.to_string(),
            node: sight.name(sight.me),
            index: sight.state.applied.0,
            stale_ms: sight.leadership.stale_ms,
            data,
            warnings,
        }
    }
}
