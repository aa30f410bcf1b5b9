//! `cert list`: the authorities of the cluster, and how long the certificate of each node is good.

use hirsel_mesh::identity::fingerprint;
use hirsel_model::WallTime;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::sight::{Sight, rfc3339};
use crate::authority::mark;

/// A certificate is renewed when a third of its 30 days is over. One with less than this left is not being renewed.
pub const LATE_S: u64 = 15 * 86_400;

/// What certifies, and what is certified.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Certificates {
    /// The present authority first.
    pub authorities: Vec<Authority>,
    /// One per node.
    pub nodes: Vec<NodeCertificate>,
    /// Another authority was asked for, and is not in force yet.
    pub wanted: bool,
}

/// An authority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Authority {
    /// SHA-256 of its certificate, in hexadecimal digits.
    pub fingerprint: String,
    /// `present`; `former`: some live node still has a certificate of it; `dropped`: none has.
    pub state: String,
    /// When another one took its place.
    pub replaced_at: Option<String>,
}

/// The certificate that a node shows, as it says itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeCertificate {
    /// Which node.
    pub node: String,
    /// When it ends; none while that is not heard.
    pub ends_at: Option<String>,
    /// Beginning of the fingerprint of its authority, or `former`.
    pub authority: Option<String>,
    /// `ok`, `late` (it should have been renewed), `expired`, `former` (of an authority that was replaced), `unknown`.
    pub state: String,
}

/// All of them.
pub fn certificates(sight: &Sight) -> Certificates {
    let cluster = &sight.state.cluster;
    let print = |ca: &[u8]| fingerprint(ca).iter().map(|byte| format!("{byte:02x}")).collect();
    let present = Authority { fingerprint: print(&cluster.ca), state: "present".into(), replaced_at: None };
    let former = cluster.former.iter().rev().map(|former| Authority {
        fingerprint: print(&former.ca.0),
        state: if former.dropped { "dropped" } else { "former" }.into(),
        replaced_at: Some(rfc3339(former.replaced_at)),
    });
    let mut nodes: Vec<NodeCertificate> = sight
        .state
        .spec
        .nodes
        .iter()
        .map(|(id, spec)| {
            let told = sight.live.nodes.get(id).and_then(|node| node.certificate.as_ref());
            let state = told.map_or("unknown", |told| state(told, &mark(&cluster.ca), sight.wall));
            NodeCertificate {
                node: spec.name.to_string(),
                ends_at: told.map(|told| rfc3339(WallTime(told.ends_s.saturating_mul(1_000)))),
                authority: told.map(|told| told.of.clone()),
                state: state.into(),
            }
        })
        .collect();
    nodes.sort_by(|one, other| crate::api::sight::people_order(&one.node, &other.node));
    Certificates { authorities: [present].into_iter().chain(former).collect(), nodes, wanted: cluster.authority_wanted }
}

fn state(told: &hirsel_role::Certificate, present: &str, wall: WallTime) -> &'static str {
    match told.ends_s.saturating_sub(wall.0 / 1_000) {
        0 => "expired",
        _ if told.of != present => "former",
        left if left < LATE_S => "late",
        _ => "ok",
    }
}
