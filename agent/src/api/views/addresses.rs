//! Floating addresses: who holds each, and who may.

use std::net::IpAddr;

use hirsel_model::plan::AddressCandidate;
use hirsel_model::report::RoleFacts;
use hirsel_model::spec::{AddressSpec, Network};
use hirsel_model::{NodeId, RoleName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::sight::{Sight, Standing};

/// An address that the cluster shall hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct FloatingAddress {
    /// It.
    pub address: String,
    /// Bits of its network.
    pub prefix: u8,
    /// The interface that was named for it.
    pub interface: Option<String>,
    /// `held`, `contested` (by several nodes, for a moment), `free` (by none), `waiting` (no node may hold it).
    pub state: String,
    /// Who holds it.
    pub holders: Vec<String>,
    /// Who may, the best one first.
    pub candidates: Vec<Candidate>,
    /// Why these, and why in this order; or why nobody.
    pub because: String,
}

/// A node that may hold an address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Candidate {
    /// Who.
    pub node: String,
    /// On which of its interfaces.
    pub interface: String,
    /// Its own address there.
    pub at: String,
    /// `alive`, `suspect`, `unfit`, `down`.
    pub liveness: String,
}

/// All of them.
pub fn addresses(sight: &Sight) -> Vec<FloatingAddress> {
    sight.state.spec.addresses.iter().map(|(address, spec)| one(sight, *address, spec)).collect()
}

fn one(sight: &Sight, address: IpAddr, spec: &AddressSpec) -> FloatingAddress {
    let holders = holders(sight, address);
    let list = sight.state.plan.addresses.get(&address);
    let state = match (holders.len(), list) {
        (0, None) => "waiting",
        (0, Some(_)) => "free",
        (1, _) => "held",
        _ => "contested",
    };
    let candidate = |it: &AddressCandidate| Candidate {
        node: sight.name(it.node),
        interface: it.interface.clone(),
        at: it.at.to_string(),
        liveness: sight.standing(it.node).word().into(),
    };
    FloatingAddress {
        address: address.to_string(),
        prefix: spec.prefix,
        interface: spec.interface.clone(),
        state: state.into(),
        holders: sight.names(&holders),
        candidates: list.into_iter().flat_map(|list| &list.candidates).map(candidate).collect(),
        because: list.map_or_else(|| unmet(sight, address), |list| list.reason.text.clone()),
    }
}

fn unmet(sight: &Sight, address: IpAddr) -> String {
    let subject = format!("address/{address}");
    let unmet = sight.state.plan.unmet.iter().find(|unmet| unmet.subject == subject);
    unmet.map_or_else(|| "nodes that balance load look at their interfaces".into(), |unmet| unmet.reason.clone())
}

/// The nodes that hold `address`, as far as they are heard.
pub fn holders(sight: &Sight, address: IpAddr) -> Vec<NodeId> {
    let all = sight.state.spec.nodes.keys().copied();
    all.filter(|node| sight.standing(*node) == Standing::Alive && held_by(sight, *node).contains(&address)).collect()
}

/// The addresses that `node` holds, as it last said.
pub fn held_by(sight: &Sight, node: NodeId) -> Vec<IpAddr> {
    match sight.role_report(node, &RoleName::address()).map(|report| &report.facts) {
        Some(RoleFacts::Address(facts)) => facts.held.iter().copied().collect(),
        Some(
            RoleFacts::None | RoleFacts::Compute(_) | RoleFacts::Lb(_) | RoleFacts::Storage(_) | RoleFacts::Unknown,
        )
        | None => Vec::new(),
    }
}

/// Addresses that nobody holds, in words.
pub fn missing(sight: &Sight) -> Vec<String> {
    let missing = addresses(sight).into_iter().filter(|it| it.state == "free");
    missing.map(|it| format!("address {}: no node holds it", it.address)).collect()
}

/// What nodes have trouble with, in words.
pub fn troubles(sight: &Sight) -> Vec<String> {
    let nodes = sight.state.spec.nodes.keys();
    nodes.filter_map(|node| Some(format!("{}: address {}", sight.name(*node), trouble(sight, *node)?))).collect()
}

/// What `node`, which is heard, says to be wrong with the addresses that it holds or may hold.
fn trouble(sight: &Sight, node: NodeId) -> Option<&str> {
    let report = sight.role_report(node, &RoleName::address())?;
    report.message.as_deref().filter(|_| sight.standing(node) == Standing::Alive)
}

/// What is said in one line of who holds it: for `why`.
pub fn words(sight: &Sight, address: IpAddr) -> Option<String> {
    let spec = sight.state.spec.addresses.get(&address)?;
    let shown = Network { address, prefix: spec.prefix };
    let holders = holders(sight, address);
    let Some(holder) = holders.first() else { return Some(format!("nobody holds {shown}")) };
    let list = sight.state.plan.addresses.get(&address);
    let before = list.into_iter().flat_map(|list| &list.candidates).map(|it| it.node);
    let before: Vec<String> = before
        .take_while(|node| node != holder)
        .map(|node| match sight.standing(node) {
            Standing::Alive => format!("{}, which comes before it, does not hold it (yet)", sight.name(node)),
            other => format!("{}, which comes before it, is {}", sight.name(node), other.word()),
        })
        .collect();
    let says =
        holders.iter().filter_map(|node| Some(format!("{} says {:?}", sight.name(*node), trouble(sight, *node)?)));
    let before: Vec<String> = before.into_iter().chain(says).collect();
    let why = if before.is_empty() { String::new() } else { format!(": {}", before.join("; ")) };
    Some(format!("{} holds {shown} now{why}", sight.names(&holders).join(" and ")))
}
