//! Mistakes planted into whole agents on purpose, to see that a checker finds them. Only tests plant them.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use hirsel_model::RoleName;
use hirsel_model::order::{Order, Work};
use hirsel_model::report::RoleReport;
use hirsel_role::{Context, Plugin, Role};

/// A mistake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bug {
    /// None: what everybody but the tests runs.
    #[default]
    None,
    /// An agent that was started again does nothing for its instances any more.
    Forgetful,
    /// An agent has its node drained and opened again, for ever.
    Restless,
    /// Whoever stands still takes its neighbour down with it.
    Contagious,
    /// An agent panics.
    Panics,
    /// An agent ends though nobody asked it to.
    Ends,
}

/// The agent that [`Bug::Restless`], [`Bug::Panics`] and [`Bug::Ends`] are planted in.
pub const WHERE: &str = "n2";
/// When the agent ends or panics: while the cluster forms, or has formed.
pub const WHEN: Duration = Duration::from_secs(5);
/// Between two wishes of the restless one: longer than it takes to be well in between.
pub const RESTLESS_EVERY: Duration = Duration::from_secs(5);

/// A compute role that is given nothing to do.
pub struct Idle(pub Arc<dyn Plugin>);

impl Plugin for Idle {
    fn role(&self) -> RoleName {
        self.0.role()
    }

    fn start(&self, context: Context) -> Box<dyn Role> {
        Box::new(IdleRole(self.0.start(context)))
    }
}

struct IdleRole(Box<dyn Role>);

impl Role for IdleRole {
    fn converge<'a>(&'a mut self, order: &'a Order) -> BoxFuture<'a, RoleReport> {
        Box::pin(async move { self.0.converge(&Order { work: Work::None, ..order.clone() }).await })
    }
}
