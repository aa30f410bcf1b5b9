//! The one file of the agent that names the plugins.

use std::sync::Arc;

/// How keys and names of zones are written: whoever shows them shows what is answered.
pub use hirsel_dns::{dnssec::wire, names::name};
use hirsel_model::RoleName;
use hirsel_role::Plugin;

/// Every role this build has, and what runs in every agent without being one.
pub fn all() -> Vec<Arc<dyn Plugin>> {
    vec![
        Arc::new(hirsel_lb::Lb::new()),
        Arc::new(hirsel_compute::Compute),
        Arc::new(hirsel_storage::Storage),
        Arc::new(hirsel_mgmt::Mgmt),
        Arc::new(hirsel_dns::Dns),
        Arc::new(hirsel_address::Address),
    ]
}

/// The names of the roles: what the cluster is told that this build has.
pub fn roles(plugins: &[Arc<dyn Plugin>]) -> Vec<RoleName> {
    plugins.iter().filter(|plugin| !plugin.is_gateway()).map(|plugin| plugin.role()).collect()
}
