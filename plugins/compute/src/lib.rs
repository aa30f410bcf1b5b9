//! The compute role: runs instances of services on this node, as supervised processes.
//!
//! Level-triggered: each `converge` compares what the order lists with what the host runs. What is listed and absent is started, what
//! runs and is not listed is stopped, what ended is started again with backoff. Nothing is remembered that the host does not know
//! too, but for counters: a role that starts anew adopts what runs.
//!
//! Invariants:
//! - there are never two processes of one instance (the host refuses a second one, and one action per instance is under way at a time);
//! - an instance goes on the way it was started: the service is kept beside the process, whatever was applied since;
//! - `converge` never waits for a process, a check or a slow disk: all of that goes on in the background and wakes the loop.
//!
//! What is to be done is decided in `decide`, a pure function; `role` gathers and carries out.

use hirsel_model::RoleName;
use hirsel_role::{Context, Plugin, Role};

mod background;
mod buckets;
mod decide;
mod environment;
mod health;
mod memory;
mod metrics;
mod port;
mod report;
mod role;

use metrics::Metrics;

/// The plugin of the compute role.
#[derive(Clone, Copy, Debug, Default)]
pub struct Compute;

impl Plugin for Compute {
    fn role(&self) -> RoleName {
        RoleName::compute()
    }

    fn start(&self, context: Context) -> Box<dyn Role> {
        let metrics = Metrics::register(&context.metrics);
        Box::new(role::ComputeRole::new(context, metrics))
    }
}
