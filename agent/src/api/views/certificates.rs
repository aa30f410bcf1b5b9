//! `cert list`: the certificates of the front door and how far they have come; the authorities of the cluster, and how long the
//! certificate of each node is good. There is no way from here to a key.

use std::cmp::Ordering;

use hirsel_mesh::identity::fingerprint;
use hirsel_model::acme::renew_at;
use hirsel_model::certificate::{Age, Certificate, Facts, age};
use hirsel_model::{CertificateName, RoleName, WallTime};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::acme::{self, AutomaticHost, automatic};
use crate::api::sight::{Sight, Standing, people_order, rfc3339};
use crate::authority::mark;
use crate::certificates;

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
    /// Those of the front door, by name.
    #[serde(default)]
    pub front: Vec<FrontCertificate>,
    /// Hosts whose routes say `tls = "auto"`.
    #[serde(default)]
    pub automatic: Vec<AutomaticHost>,
    /// Nodes that balance load, and so show them; none while there is nothing to show.
    #[serde(default)]
    pub shown_by: Vec<Shower>,
    /// With what clients resume sessions at any load balancer, the newest key first.
    #[serde(default)]
    pub tickets: Vec<TicketKey>,
}

/// A key of TLS tickets, as far as anybody may know of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct TicketKey {
    /// Number that no other one ever has.
    pub version: u64,
    /// When it was drawn.
    pub drawn_at: String,
    /// `next`: told to load balancers, and not used yet; `seals`: tickets are made with it; `opens`: those that were are still opened.
    pub state: String,
}

/// A certificate of the front door.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct FrontCertificate {
    /// Its name here.
    pub name: String,
    /// Domains it is for; `*.example.com` stands for one more label.
    pub domains: Vec<String>,
    /// Who certifies it.
    pub issuer: String,
    /// Number its issuer gave it, in hexadecimal digits.
    pub serial: String,
    /// SHA-256 of it, in hexadecimal digits.
    pub fingerprint: String,
    /// Kind of its key: `RSA 2048`, `ECDSA P-256`, `Ed25519`.
    pub key: String,
    /// From when on it is good.
    pub starts_at: String,
    /// Until when.
    pub ends_at: String,
    /// How long that is from now; zero when it is over.
    pub left_ms: u64,
    /// Number that no other certificate of the cluster has.
    pub version: u64,
    /// When it was set.
    pub set_at: String,
    /// `own`: people brought it; `automatic`: it came by itself, and is renewed.
    pub source: String,
    /// When it will be renewed by itself.
    pub renews_at: Option<String>,
    /// `ok`, `late` (less than 21 days are left, or of an automatic one half of the time in which it should have been renewed), `expired`, `early` (not good yet).
    pub state: String,
    /// PEM: it, then those that certify it. Only where one is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain: Option<String>,
}

/// A node that balances load.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Shower {
    /// Which.
    pub node: String,
    /// `ok`: it has all of them in their newest versions, as it says; `waiting`: not yet; `unknown`: it is not heard.
    pub state: String,
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
    nodes.sort_by(|one, other| people_order(&one.node, &other.node));
    let front = sight.state.certificates.named.iter().map(|(name, it)| front(sight, name, it));
    Certificates {
        authorities: [present].into_iter().chain(former).collect(),
        nodes,
        wanted: cluster.authority_wanted,
        front: front.collect(),
        automatic: automatic(sight),
        shown_by: shown_by(sight),
        tickets: tickets(sight),
    }
}

fn tickets(sight: &Sight) -> Vec<TicketKey> {
    let tickets = &sight.state.tickets;
    let sealing = tickets.sealing();
    let told = tickets.keys.iter().map(|key| TicketKey {
        version: key.version,
        drawn_at: rfc3339(key.at),
        state: match Some(key.version).cmp(&sealing) {
            Ordering::Greater => "next",
            Ordering::Equal => "seals",
            Ordering::Less => "opens",
        }
        .into(),
    });
    told.collect()
}

/// A certificate of the front door, without its chain.
pub fn front(sight: &Sight, name: &CertificateName, it: &Certificate) -> FrontCertificate {
    let Certificate { version, set_at, facts, chain: _, key: _, automatic } = it;
    let Facts { names, not_before, not_after, issuer, serial, fingerprint, key } = facts;
    let state = match age(name, it, sight.wall) {
        Age::Good => "ok",
        Age::Late => "late",
        Age::Early => "early",
        Age::Expired => "expired",
    };
    FrontCertificate {
        name: name.to_string(),
        domains: names.iter().cloned().collect(),
        issuer: issuer.clone(),
        serial: serial.clone(),
        fingerprint: fingerprint.clone(),
        key: key.clone(),
        starts_at: rfc3339(*not_before),
        ends_at: rfc3339(*not_after),
        left_ms: not_after.0.saturating_sub(sight.wall.0),
        version: *version,
        set_at: rfc3339(*set_at),
        source: if automatic.is_some() { "automatic" } else { "own" }.into(),
        renews_at: automatic.as_ref().map(|_| rfc3339(renew_at(name.as_str(), it))),
        state: state.into(),
        chain: None,
    }
}

fn shown_by(sight: &Sight) -> Vec<Shower> {
    let expected = certificates::expected(&sight.state);
    let slots = sight.state.plan.roles.get(&RoleName::lb()).into_iter().flat_map(|slots| slots.values());
    let holders: std::collections::BTreeSet<_> = slots.map(|slot| slot.node).collect();
    let told = holders.into_iter().filter(|_| !expected.is_empty()).map(|node| {
        let has = sight.live.nodes.get(&node).is_some_and(|live| live.shown == expected);
        let state = match (sight.standing(node), has) {
            (Standing::Alive, true) => "ok",
            (Standing::Alive, false) => "waiting",
            (Standing::Suspect | Standing::Unfit | Standing::Down, _) => "unknown",
        };
        Shower { node: sight.name(node), state: state.into() }
    });
    let mut told: Vec<Shower> = told.collect();
    told.sort_by(|one, other| people_order(&one.node, &other.node));
    told
}

/// How far a certificate is in its life.
pub fn in_words(wall: WallTime, facts: &Facts) -> String {
    let days = |ms: u64| match ms / DAY_MS {
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    };
    let (begins, ends) = (rfc3339(facts.not_before), rfc3339(facts.not_after));
    match facts.age(wall) {
        Age::Expired => format!("expired {} ago, at {ends}", days(wall.0.saturating_sub(facts.not_after.0))),
        Age::Early => format!("is not good before {begins}"),
        Age::Late | Age::Good => {
            format!("expires in {}, at {ends}", days(facts.not_after.0.saturating_sub(wall.0)))
        }
    }
}

const DAY_MS: u64 = 86_400_000;

fn aged<'a>(sight: &'a Sight, is: impl Fn(Age) -> bool + 'a) -> impl Iterator<Item = String> + 'a {
    let named = sight.state.certificates.named.iter();
    let of = named.filter(move |(name, it)| is(age(name, it, sight.wall)));
    of.map(|(name, it)| format!("certificate {name} {}", in_words(sight.wall, &it.facts)))
}

/// What should be known of certificates of the front door while all is well yet.
pub fn warnings(sight: &Sight) -> Vec<String> {
    aged(sight, |age| matches!(age, Age::Late | Age::Early)).chain(acme::warnings(sight)).collect()
}

/// Those that clients turn away from.
pub fn expired(sight: &Sight) -> Vec<String> {
    aged(sight, |age| age == Age::Expired).collect()
}

fn state(told: &hirsel_role::Certificate, present: &str, wall: WallTime) -> &'static str {
    match told.ends_s.saturating_sub(wall.0 / 1_000) {
        0 => "expired",
        _ if told.of != present => "former",
        left if left < LATE_S => "late",
        _ => "ok",
    }
}
