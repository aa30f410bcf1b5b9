//! Where an upgrade stands: which build each node runs, in which order to go on, and what stands in the way of the next feature level.
//!
//! Nodes are upgraded one at a time by whoever looks after the hosts: the executable is replaced and the agent started again, while
//! programs go on. What is asked for here is the end of it, after which no node can go back (see `hirsel_model::feature`).

use std::collections::BTreeMap;

use hirsel_model::control::Command;
use hirsel_model::feature::{self, Said};
use hirsel_model::{Incarnation, NodeId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::{ApiError, Code};
use super::sight::{Sight, Standing};
use super::views::members::raft;

/// Where an upgrade stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Upgrade {
    /// The feature level of the cluster: what may be written for all nodes to read.
    pub level: u32,
    /// The level that the build of the node asked understands.
    pub to: u32,
    /// Whether the cluster can go to that level now.
    pub ready: bool,
    /// What stands in the way, one line per node.
    pub hesitations: Vec<String>,
    /// Every node, in the order to upgrade them: those that do not vote first, the leader last.
    pub nodes: Vec<Build>,
}

/// The build of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Build {
    /// Which node.
    pub node: String,
    /// Version of its agent.
    pub version: String,
    /// The feature level its build understands; none while it is not heard.
    pub understands: Option<u32>,
    /// `alive`, `suspect`, `unfit`, `down`.
    pub liveness: String,
    /// `leader`, `voter`, `spare`, `none`.
    pub raft: String,
}

/// Where the upgrade stands, as seen from here.
pub fn upgrade(sight: &Sight) -> Upgrade {
    let said = said(sight);
    let hesitations = feature::hesitations(&sight.state.spec, &said, feature::BUILT);
    let level = sight.state.cluster.feature_level;
    let build = |id: &NodeId| Build {
        node: sight.name(*id),
        version: sight.state.spec.nodes[id].version.clone(),
        understands: said.get(id).map(|said| said.level),
        liveness: sight.standing(*id).word().into(),
        raft: raft(sight, *id).into(),
    };
    let mut nodes: Vec<Build> = sight.state.spec.nodes.keys().map(build).collect();
    nodes.sort_by_key(|build| match build.raft.as_str() {
        "none" => 0,
        "spare" => 1,
        "voter" => 2,
        _ => 3,
    });
    Upgrade {
        level,
        to: feature::BUILT,
        ready: level < feature::BUILT && hesitations.is_empty(),
        hesitations: hesitations.into_iter().map(|(_, words)| words).collect(),
        nodes,
    }
}

/// The command that ends the upgrade, if nothing stands in its way.
///
/// # Errors
/// With a line for each node that stands in the way.
pub fn finish(sight: &Sight) -> Result<Command, ApiError> {
    let said = said(sight);
    let hesitations = feature::hesitations(&sight.state.spec, &said, feature::BUILT);
    if sight.state.cluster.feature_level < feature::BUILT && !hesitations.is_empty() {
        let message = format!("not every member understands feature level {}: nothing was changed", feature::BUILT);
        let error = ApiError::new(Code::Unsafe, message);
        return Err(hesitations
            .into_iter()
            .fold(error, |error, (_, line)| error.evidence(line))
            .next("hirsel upgrade"));
    }
    let understood: BTreeMap<NodeId, Incarnation> = said.iter().map(|(id, said)| (*id, said.incarnation)).collect();
    Ok(Command::RaiseLevel { to: feature::BUILT, understood })
}

/// What the nodes say that are heard now.
fn said(sight: &Sight) -> BTreeMap<NodeId, Said> {
    let alive = sight.live.nodes.iter().filter(|(id, _)| sight.standing(**id) == Standing::Alive);
    alive
        .map(|(id, seen)| {
            let incarnation = match seen.incarnation {
                // A build of the first level does not tell its start, and stands in the way by its level already.
                Incarnation(0) => sight.state.spec.nodes.get(id).map_or(Incarnation(0), |node| node.incarnation),
                told => told,
            };
            (*id, Said { incarnation, level: feature::reported(seen.level) })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::fixture::{altered, sight};

    #[test]
    fn an_upgrade_ends_when_every_member_is_heard_to_understand_it() {
        let sight = altered(|state| state.cluster.feature_level = 1);
        let stands = upgrade(&sight);
        assert!(stands.ready && stands.hesitations.is_empty(), "{stands:?}");
        assert_eq!((stands.level, stands.to), (1, feature::BUILT));
        assert_eq!(stands.nodes.last().map(|build| build.raft.as_str()), Some("leader"));
        let Ok(Command::RaiseLevel { to, understood }) = finish(&sight) else { panic!("it can end") };
        assert_eq!((to, understood.len()), (feature::BUILT, 3));
    }

    #[test]
    fn a_node_of_an_older_build_or_one_that_is_away_stands_in_the_way() {
        let mut sight = altered(|state| state.cluster.feature_level = 1);
        let mut live = (*sight.live).clone();
        live.nodes.get_mut(&NodeId(2)).expect("n2").level = 0;
        live.nodes.remove(&NodeId(3));
        sight.live = std::sync::Arc::new(live);
        let stands = upgrade(&sight);
        assert!(!stands.ready, "{stands:?}");
        let error = finish(&sight).expect_err("it cannot end");
        assert_eq!(error.code, Code::Unsafe);
        assert!(error.evidence[0].contains("n2 runs") && error.evidence[1].contains("hirsel forget n3"), "{error:?}");
    }

    #[test]
    fn a_cluster_that_has_the_level_has_nothing_to_do() {
        assert!(!upgrade(&sight()).ready);
        assert!(finish(&sight()).is_ok());
    }
}
