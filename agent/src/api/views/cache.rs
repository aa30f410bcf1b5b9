//! Answers that load balancers keep: what they were told to forget, and who has.

use hirsel_model::RoleName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::sight::{Sight, Standing, people_order};

/// What load balancers keep, as far as the cluster knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct CacheView {
    /// Routes that keep answers.
    pub routes: Vec<CachedRoute>,
    /// The load balancers, and whether they have forgotten all that they were told to.
    pub nodes: Vec<CacheNode>,
    /// The last purges, the newest one at the end.
    pub purges: Vec<PurgeView>,
}

/// A route that keeps answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct CachedRoute {
    /// Its application.
    pub app: String,
    /// Host and path.
    pub route: String,
    /// Paths whose answers are kept; all where there are none.
    pub paths: Vec<String>,
    /// For how long an answer is fresh that says nothing.
    pub ttl_ms: Option<u64>,
}

/// A load balancer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct CacheNode {
    /// Which.
    pub node: String,
    /// `ok`: it has carried out all purges, as it says; `waiting`: not yet; `unknown`: it is not heard.
    pub state: String,
    /// Index of the last purge that it has carried out.
    pub purged: u64,
}

/// A purge.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct PurgeView {
    /// Its place in the control log.
    pub index: u64,
    /// What is forgotten.
    pub what: String,
}

/// All of it.
pub fn cache(sight: &Sight) -> CacheView {
    let apps = sight.state.spec.apps.iter();
    let routes = apps.flat_map(|(app, spec)| spec.routes.iter().map(move |route| (app, route)));
    let routes = routes.filter_map(|(app, route)| {
        let cache = route.actions.cache.as_ref()?;
        let paths = cache.paths.iter().cloned().collect();
        Some(CachedRoute { app: app.to_string(), route: route.to_string(), paths, ttl_ms: cache.ttl_ms })
    });
    let last = sight.state.purges.last();
    let slots = sight.state.plan.roles.get(&RoleName::lb()).into_iter().flat_map(|slots| slots.values());
    let holders: std::collections::BTreeSet<_> = slots.map(|slot| slot.node).collect();
    let mut nodes: Vec<CacheNode> = holders
        .into_iter()
        .map(|node| {
            let purged = sight.role_report(node, &RoleName::lb()).map(|report| report.purged).unwrap_or_default();
            let state = match (sight.standing(node), purged >= last) {
                (Standing::Alive, true) => "ok",
                (Standing::Alive, false) => "waiting",
                (Standing::Suspect | Standing::Unfit | Standing::Down, _) => "unknown",
            };
            CacheNode { node: sight.name(node), state: state.into(), purged: purged.0 }
        })
        .collect();
    nodes.sort_by(|one, other| people_order(&one.node, &other.node));
    let purges = sight.state.purges.latest.iter();
    let purges = purges.map(|purge| PurgeView { index: purge.index.0, what: purge.what.to_string() });
    CacheView { routes: routes.collect(), nodes, purges: purges.collect() }
}
