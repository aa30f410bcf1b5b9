//! The one file of the agent that names the plugins.

use std::sync::Arc;

use hirsel_role::Plugin;

/// Every role this build has.
pub fn all() -> Vec<Arc<dyn Plugin>> {
    vec![Arc::new(hirsel_lb::Lb::new()), Arc::new(hirsel_compute::Compute), Arc::new(hirsel_mgmt::Mgmt)]
}
