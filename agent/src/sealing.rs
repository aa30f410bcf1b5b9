//! The key that seals secrets, keys of all kinds and the authority's key: who holds it, and how another one takes its place.
//!
//! Voters and spares hold it, and fetch it from each other. Once somebody held it who is none of them any more, the leader draws
//! another, hands it to all of them, and when each has it on disk, has everything sealed anew by one change. Each step is a level: a
//! leader that ends in between costs nothing, for the next one sees what is due and draws a key of its own. Until the change is
//! committed the old key opens everything, and afterwards the new one, which all who may answer hold already.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
use hirsel_mesh::identity::{Authority, Keyring, SealingKey};
use hirsel_model::certificate;
use hirsel_model::codec::{decode, encode};
use hirsel_model::control::{Command, ControlState, Entry, Outcome, Resealed};
use hirsel_model::dnssec;
use hirsel_model::sealing::{Haste, due, recipients};
use hirsel_model::secret::Sealed;
use hirsel_model::tickets::PURPOSE;
use hirsel_model::{NodeId, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use tracing::{debug, info, warn};

use crate::admission::LATER;
use crate::run::REPEAT;
use crate::shared::Shared;

/// The kind of call by which voters and spares fetch the key.
const KEY_CALL: &str = "sealing-key";
/// The kind of call by which a leader hands them another.
const OFFER_CALL: &str = "sealing-key-offer";
/// A key is fetched or taken within this: one write to a disk.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// The change that seals everything anew holds up to some megabytes.
const PROPOSE_WITHIN: Duration = Duration::from_secs(5);
/// Between two looks of a leader at what is due, when something is.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A member that neither votes nor is a spare any more has forgotten the key by itself, and often votes again soon. One that does
/// not is counted out after this.
const DEMOTED_FOR: Duration = Duration::from_secs(60);

/// A key that is to follow another.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Offer {
    base: String,
    key: Vec<u8>,
}

/// The key that opens what `state` holds, where this node holds it.
pub fn key(shared: &Shared, state: &ControlState) -> Result<SealingKey, String> {
    let ring = Keyring::load(shared.world.disk.as_ref()).map_err(|error| error.to_string())?;
    ring.get(&state.cluster.sealing.key).ok_or(format!("{LATER}this node waits for the cluster's sealing key"))
}

/// Registers what this agent answers.
pub fn serve(shared: &Arc<Shared>) {
    let agent = shared.clone();
    shared.transport.serve(KEY_CALL, move |from, body| {
        let answer = give(&agent, from, &body);
        async move { answer }.boxed()
    });
    let agent = shared.clone();
    shared.transport.serve(OFFER_CALL, move |from, body| {
        let answer = take(&agent, from, &body);
        async move { answer }.boxed()
    });
}

fn is_trusted(state: &ControlState, node: NodeId) -> bool {
    state.plan.voters.contains(&node) || state.plan.spares.contains(&node)
}

/// The key named in the question; without a name the one in force, as this node knows.
fn give(shared: &Shared, from: NodeId, body: &[u8]) -> Result<Vec<u8>, String> {
    let state = shared.control.state().borrow().clone();
    if !is_trusted(&state, from) {
        return Err("only voters and spares hold the sealing key".into());
    }
    let ring = Keyring::load(shared.world.disk.as_ref()).map_err(|error| error.to_string())?;
    let wanted = std::str::from_utf8(body).unwrap_or_default();
    let wanted = if wanted.is_empty() { &state.cluster.sealing.key } else { wanted };
    let key = ring.get(wanted).ok_or("this node does not hold that sealing key")?;
    Ok(key.as_bytes().to_vec())
}

/// Keeps a key that a voter offers to follow the one in force.
fn take(shared: &Shared, from: NodeId, body: &[u8]) -> Result<Vec<u8>, String> {
    let offer: Offer = decode(body).map_err(|error| error.to_string())?;
    let state = shared.control.state().borrow().clone();
    if !state.plan.voters.contains(&from) || !is_trusted(&state, shared.node) {
        return Err("a sealing key is offered by a voter, to voters and spares".into());
    }
    if offer.base != state.cluster.sealing.key {
        return Err("another sealing key is in force here".into());
    }
    let key = SealingKey::from_bytes(&offer.key).map_err(|error| error.to_string())?;
    keep_also(shared, &key, &offer.base)?;
    Ok(Vec::new())
}

fn keep_also(shared: &Shared, key: &SealingKey, base: &str) -> Result<(), String> {
    let disk = shared.world.disk.as_ref();
    let mut ring = Keyring::load(disk).map_err(|error| error.to_string())?;
    ring.add(key, base);
    ring.save(disk).map_err(|error| error.to_string())
}

/// Fetches the key in force while this node is a voter or a spare, lets go of older ones, and of all when it is neither any more.
pub async fn keep(shared: Arc<Shared>) {
    let mut state = shared.control.state();
    loop {
        let now = state.borrow_and_update().clone();
        let missing = match look(&shared, &now) {
            Ok(missing) => missing,
            Err(error) => {
                warn!(error, "sealing key not kept");
                true
            }
        };
        if missing {
            fetch(&shared, &now).await;
        }
        tokio::select! {
            () = sleep(REPEAT) => {}
            () = shared.stop.cancelled() => return,
        }
        let now = state.borrow().clone();
        if !look(&shared, &now).unwrap_or(true) {
            tokio::select! {
                changed = state.changed() => if changed.is_err() { return },
                () = shared.stop.cancelled() => return,
            }
        }
    }
}

/// Brings what is kept in line with the control state. Whether the key in force is missing.
fn look(shared: &Shared, now: &ControlState) -> Result<bool, String> {
    let disk = shared.world.disk.as_ref();
    let mut ring = Keyring::load(disk).map_err(|error| error.to_string())?;
    if !is_trusted(now, shared.node) {
        // With a plan that names nobody yet, the founder's key is the only one.
        if !ring.is_empty() && !now.plan.voters.is_empty() {
            Keyring::default().save(disk).map_err(|error| error.to_string())?;
        }
        return Ok(false);
    }
    if ring.settle(&now.cluster.sealing.key) {
        ring.save(disk).map_err(|error| error.to_string())?;
    }
    Ok(ring.get(&now.cluster.sealing.key).is_none())
}

async fn fetch(shared: &Shared, now: &ControlState) {
    let wanted = &now.cluster.sealing.key;
    let leader = shared.control.leadership().borrow().leader;
    let others = now.plan.voters.iter().chain(&now.plan.spares).copied().filter(|node| Some(*node) != leader);
    for node in leader.into_iter().chain(others).filter(|node| *node != shared.node) {
        let answer = shared.transport.call(node, KEY_CALL, wanted.clone().into_bytes(), ANSWER_WITHIN).await;
        let key = answer.map_err(|error| error.to_string()).and_then(|bytes| {
            let key = SealingKey::from_bytes(&bytes).map_err(|error| error.to_string())?;
            let right = wanted.is_empty() || key.id() == *wanted;
            if right { Ok(key) } else { Err("it is another key than the one in force".into()) }
        });
        let kept = key.and_then(|key| {
            let ring = Keyring::load(shared.world.disk.as_ref()).map_err(|error| error.to_string())?;
            keep_also(shared, &key, &ring.oldest())
        });
        match kept {
            Ok(()) => {
                info!("sealing key received");
                return;
            }
            Err(error) => debug!(%node, error, "no sealing key from there"),
        }
    }
}

/// Puts another key in force when that is due, while this node leads.
pub async fn renew(shared: Arc<Shared>) {
    let mut leadership = shared.control.leadership();
    let mut state = shared.control.state();
    let mut offering = Offering::default();
    let mut since: BTreeMap<NodeId, Timestamp> = BTreeMap::new();
    loop {
        let mine = leadership.borrow_and_update().mine;
        let now = state.borrow_and_update().clone();
        let (haste, demoted) = if mine { due(&now) } else { (Haste::None, BTreeSet::new()) };
        let clock = shared.world.clock.now();
        since.retain(|node, _| demoted.contains(node));
        for node in demoted {
            since.entry(node).or_insert(clock);
        }
        let long = since.values().any(|since| clock.since(*since) >= DEMOTED_FOR);
        if haste == Haste::Now || haste == Haste::Later && long {
            if let Err(words) = offering.go_on(&shared, &now).await {
                debug!(error = words, "sealing key not replaced yet");
            }
        } else if haste == Haste::None {
            offering = Offering::default();
        }
        tokio::select! {
            () = sleep(LOOK_EVERY), if haste != Haste::None => {}
            changed = leadership.changed() => if changed.is_err() { return },
            changed = state.changed(), if mine && haste == Haste::None => if changed.is_err() { return },
            () = shared.stop.cancelled() => return,
        }
    }
}

/// A key on its way into force.
#[derive(Default)]
struct Offering {
    key: Option<SealingKey>,
    base: String,
    /// Who may have got it.
    told: BTreeSet<NodeId>,
}

impl Offering {
    async fn go_on(&mut self, shared: &Shared, state: &ControlState) -> Result<(), String> {
        let sealing = &state.cluster.sealing;
        let old = key(shared, state)?;
        let to = recipients(state, shared.node).ok_or("too few voters can be told")?;
        let stay = |node: &NodeId| is_trusted(state, *node);
        // Nobody who was told may be left out later: then it is no key for those who remain.
        let new = match self.key.take().filter(|_| self.base == sealing.key && self.told.iter().all(stay)) {
            Some(key) => key,
            None => {
                self.told.clear();
                SealingKey::draw(shared.world.chance.as_ref())
            }
        };
        (self.key, self.base) = (Some(new.clone()), sealing.key.clone());
        self.told.extend(&to);
        keep_also(shared, &new, &sealing.key)?;
        let offer = encode(&Offer { base: sealing.key.clone(), key: new.as_bytes().to_vec() });
        let told = to.iter().filter(|node| **node != shared.node).map(|node| {
            let asked = shared.transport.call(*node, OFFER_CALL, offer.clone(), ANSWER_WITHIN);
            asked.map(|answer| answer.map_err(|error| format!("{}: {error}", state.spec.name_of(*node))))
        });
        join_all(told).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        let resealed = reseal(shared, state, &old, &new, self.told.clone())?;
        let command = Command::Reseal { resealed };
        let at = shared.world.clock.wall();
        let entry = Entry { at, by: shared.me.name.to_string(), if_index: None, command };
        match shared.control.propose(entry, PROPOSE_WITHIN).await {
            Ok(Outcome::Done { .. } | Outcome::Admitted { .. } | Outcome::Lengthened { .. }) => {
                info!("secrets sealed with a new key");
                Ok(())
            }
            Ok(Outcome::Refused(refusal)) => Err(refusal.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Everything that is sealed, sealed with another key.
fn reseal(
    shared: &Shared,
    state: &ControlState,
    old: &SealingKey,
    new: &SealingKey,
    holders: BTreeSet<NodeId>,
) -> Result<Resealed, String> {
    let chance = shared.world.chance.as_ref();
    let cluster = &state.cluster;
    let authority = Authority::unseal(old, &cluster.ca, &cluster.sealed_ca_key).map_err(|error| error.to_string())?;
    let mut values = BTreeMap::new();
    for (id, secret) in state.secrets.all() {
        for (version, sealed) in &secret.values {
            let plain = old.open(&id.purpose(), &sealed.0).ok_or_else(|| format!("secret {id} cannot be opened"))?;
            values.insert(*version, Sealed(new.seal(&id.purpose(), &plain, chance)));
        }
    }
    let mut certificates = BTreeMap::new();
    for (name, certificate) in &state.certificates.named {
        let purpose = certificate::purpose(name);
        let plain = old.open(&purpose, &certificate.key.0);
        let plain = plain.ok_or_else(|| format!("the key of certificate {name} cannot be opened"))?;
        certificates.insert(certificate.version, Sealed(new.seal(&purpose, &plain, chance)));
    }
    for (version, purpose, sealed) in state.acme.keys() {
        let plain = old.open(purpose, &sealed.0).ok_or_else(|| format!("the key of the {purpose} cannot be opened"))?;
        certificates.insert(version, Sealed(new.seal(purpose, &plain, chance)));
    }
    let mut tickets = BTreeMap::new();
    for it in &state.tickets.keys {
        let plain = old.open(PURPOSE, &it.key.0).ok_or("a key of TLS tickets cannot be opened")?;
        tickets.insert(it.version, Sealed(new.seal(PURPOSE, &plain, chance)));
    }
    let mut access = BTreeMap::new();
    for (version, purpose, sealed) in state.access.sealed() {
        let plain = old.open(&purpose, &sealed.0).ok_or_else(|| format!("the {purpose} cannot be opened"))?;
        access.insert(version, Sealed(new.seal(&purpose, &plain, chance)));
    }
    let mut zones = BTreeMap::new();
    for (zone, keys) in &state.signing.zones {
        let purpose = dnssec::purpose(zone);
        for it in &keys.keys {
            let plain =
                old.open(&purpose, &it.key.0).ok_or_else(|| format!("a key of zone {zone} cannot be opened"))?;
            zones.insert(it.version, Sealed(new.seal(&purpose, &plain, chance)));
        }
    }
    Ok(Resealed {
        base: cluster.sealing.key.clone(),
        key: new.id(),
        holders,
        ca: Sealed(cluster.ca.clone()),
        ca_key: Sealed(authority.seal(new, chance)),
        values,
        certificates,
        tickets,
        access,
        zones,
    })
}
