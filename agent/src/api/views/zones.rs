//! Zones that are signed, or shall be: with which keys, and what the zones above have to say of them.

use std::collections::BTreeSet;

use data_encoding::{BASE64, HEXUPPER};
use hirsel_model::dnssec::{Step, ZoneKey, ZoneKeys, wanted};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::sight::{Sight, rfc3339};
use crate::plugins::{name, wire};

/// A zone that is signed, or shall be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ZoneView {
    /// Its name.
    pub zone: String,
    /// `unsigned` (it has no key yet), `signed`, `parting` (nobody wants it signed any more; it is for some days).
    pub state: String,
    /// How far its next key is: `steady` (there is none), `published`, `offered`, `leaving`.
    pub step: String,
    /// When the next step comes by itself, or the zone is not signed any more.
    pub next_at: Option<String>,
    /// What happens next, or what is to be done.
    pub next: String,
    /// Its keys, the older one first.
    pub keys: Vec<KeyView>,
    /// What the zone above should say of it now: records as they are written in its file.
    pub ds: Vec<String>,
}

/// A key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct KeyView {
    /// By what it is found in signatures.
    pub tag: u16,
    /// A number that no other key of the cluster has.
    pub version: u64,
    /// When it was drawn.
    pub drawn_at: String,
    /// Whether it signs.
    pub signs: bool,
    /// What a zone above says of it.
    pub ds: String,
    /// What is told of it: what whoever trusts it without a zone above needs.
    pub dnskey: String,
}

/// One of them.
pub fn zone(sight: &Sight, zone: &str) -> Option<ZoneView> {
    zones(sight).into_iter().find(|it| it.zone == zone)
}

/// All of them.
pub fn zones(sight: &Sight) -> Vec<ZoneView> {
    let state = &sight.state;
    let wanted = wanted(state);
    let all: BTreeSet<&str> = wanted.into_iter().chain(state.signing.zones.keys().map(String::as_str)).collect();
    all.into_iter().map(|zone| one(sight, zone)).collect()
}

fn one(sight: &Sight, zone: &str) -> ZoneView {
    let Some(keys) = sight.state.signing.zones.get(zone) else {
        let next = match sight.state.cluster.feature_level < hirsel_model::dnssec::LEVEL {
            true => "it is not signed before the upgrade is finished: hirsel upgrade --plan",
            false => "it is not signed before the leader has drawn its key",
        };
        let (state, step) = ("unsigned".into(), "steady".into());
        return ZoneView { zone: zone.into(), state, step, next: next.into(), ..ZoneView::default() };
    };
    let offered = keys.offered().filter(|_| keys.parting.is_none());
    let next_at = keys.gone_at().or_else(|| keys.next_at());
    ZoneView {
        zone: zone.into(),
        state: if keys.parting.is_some() { "parting" } else { "signed" }.into(),
        step: word(keys.step).into(),
        next_at: next_at.map(rfc3339),
        next: next(keys, zone),
        keys: keys.keys.iter().map(|key| view(keys, key, zone)).collect(),
        ds: offered.map(|key| ds(key, zone)).into_iter().collect(),
    }
}

/// What a step is called.
pub fn word(step: Step) -> &'static str {
    match step {
        Step::Steady => "steady",
        Step::Published => "published",
        Step::Offered => "offered",
        Step::Leaving => "leaving",
    }
}

fn next(keys: &ZoneKeys, zone: &str) -> String {
    if keys.parting.is_some() {
        return "have the zone above forget its key (no DS record) before it is not signed any more".into();
    }
    match keys.step {
        Step::Steady if keys.wanted => "the leader draws another key".into(),
        Step::Steady => format!("nothing, once the zone above names its key: hirsel dns ds {zone}"),
        Step::Published => "its next key is offered to the zone above".into(),
        Step::Offered => {
            format!("have the zone above name its next key (hirsel dns ds {zone}), then: hirsel dns roll {zone} --seen")
        }
        Step::Leaving => "its former key is forgotten; the zone above may name the next one alone".into(),
    }
}

fn view(keys: &ZoneKeys, key: &ZoneKey, zone: &str) -> KeyView {
    KeyView {
        tag: wire::tag(&key.public.0),
        version: key.version,
        drawn_at: rfc3339(key.at),
        signs: keys.signing().is_some_and(|it| it.version == key.version),
        ds: ds(key, zone),
        dnskey: format!("{zone}. IN DNSKEY 257 3 13 {}", BASE64.encode(&key.public.0)),
    }
}

fn ds(key: &ZoneKey, zone: &str) -> String {
    let hash = HEXUPPER.encode(&wire::hash(&name(format_args!("{zone}")), &key.public.0));
    format!("{zone}. IN DS {} 13 2 {hash}", wire::tag(&key.public.0))
}

/// How a zone is signed, in one line.
pub fn words(it: &ZoneView) -> String {
    let key = |key: &KeyView| if key.signs { format!("{} (signs)", key.tag) } else { key.tag.to_string() };
    let keys: Vec<String> = it.keys.iter().map(key).collect();
    let keys = if keys.is_empty() { "no key".into() } else { format!("keys {}", keys.join(", ")) };
    format!("it is {} with {keys}, step {}; next: {}", it.state, it.step, it.next)
}

/// What somebody has to do about zones, in words.
pub fn to_do(sight: &Sight) -> Vec<String> {
    let waits = |it: &ZoneView| it.state != "signed" || it.step == "offered";
    zones(sight).into_iter().filter(waits).map(|it| format!("zone {}: {}", it.zone, it.next)).collect()
}
