//! The control state in one sealed file, and a cluster founded anew from it.
//!
//! In the file is everything that is strong (what is wanted, what was decided, the last events, sealed secrets, certificates and access
//! keys, the authority; no keys of TLS tickets) and the key that opens what is sealed. The agent gets only the key of the file, made by
//! whoever asks of a passphrase that never leaves their host, and what leaves the agent is sealed with it: no answer holds anything in the
//! clear. Only a node that holds the sealing key itself can make one; it is not told to others for it, however they ask.
//!
//! Restoring begins the next foundation of the same cluster ([`hirsel_model::control::restore`] says why the same), on one new node.
//! Before that is begun, the nodes of the backup are asked at their old addresses: where one answers, the cluster lives.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::future::join_all;
use hirsel_mesh::archive::{Archive, ArchiveError, By, FileKey, Lock, Sealing};
use hirsel_mesh::control::{LOG_FILE, seed};
use hirsel_mesh::identity::{Authority, Identity, Keyring, NodeKey, SEALING_FILE, SealingKey, fingerprint};
use hirsel_mesh::seam::World;
use hirsel_model::certificate::purpose;
use hirsel_model::codec::{decode, encode};
use hirsel_model::control::restore::{Founder, next_node, restored};
use hirsel_model::control::{Command, ControlState, Entry, Outcome};
use hirsel_model::event::{Cause, EventKind, NewEvent};
use hirsel_model::spec::{Availability, NodeSpec};
use hirsel_model::{Incarnation, NodeName, RoleName, Tag, WallTime, feature};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tracing::{debug, info};

use crate::admission::VERSION;
use crate::api::backup::Inside;
use crate::api::error::{ApiError, Code};
use crate::api::sight::rfc3339;
use crate::config::Config;
use crate::shared::Shared;
use crate::{authority, foundation, sealing};

/// Text shrinks to a tenth at the usual level.
const COMPRESSION: i32 = 3;
/// Largest contents, unpacked: as for a state that is followed.
const CONTENTS_BYTES_MAX: usize = 512 << 20;
/// That a backup is made is written into the log, which shows that nothing newer was confirmed before. Several elections long.
const NOTE_WITHIN: Duration = Duration::from_secs(5);
/// A node of a living cluster answers at its door within this.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// In the data folder while a cluster is restored there: what else is there is not a node yet.
pub const UNFINISHED_FILE: &str = "restoring";
/// What a restoration that was cut off may have left.
pub const LEFTOVERS: [&str; 3] = [LOG_FILE, SEALING_FILE, UNFINISHED_FILE];

/// When and how a backup was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Made {
    at: WallTime,
    by: String,
    /// The node that made it.
    node: String,
    /// Version of its agent.
    version: String,
    /// A leader confirmed that nothing newer was confirmed to anybody.
    confirmed: bool,
}

/// What is in a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contents {
    made: Made,
    state: ControlState,
    /// The sealing key that opens what the state holds.
    key: Vec<u8>,
}

/// Makes a backup: what is known here now, with all that was confirmed to anybody before where a leader says so.
///
/// # Errors
/// When this node does not hold the sealing key, or something in the state does not open with it.
pub async fn make(shared: &Shared, lock: Lock, key: &FileKey, by: String) -> Result<Sealing, ApiError> {
    let before = shared.control.state().borrow().clone();
    if let Err(words) = sealing::key(shared, &before) {
        let plan = &before.plan;
        let holders = plan.voters.iter().chain(&plan.spares).map(|node| before.spec.name_of(*node));
        let error = ApiError::new(Code::Unsafe, format!("this node cannot make a backup: {words}"));
        let error = error.evidence("only voters and spares hold the key that opens secrets and the authority");
        return Err(holders.fold(error, |error, name| error.next(format!("hirsel backup FILE --node {name}"))));
    }
    let at = shared.world.clock.wall();
    let confirmed = note(shared, at, &by).await;
    let mut state = ControlState::clone(&shared.control.state().borrow().clone());
    // They shall be forgotten everywhere, and nobody misses them: clients shake hands in full once.
    state.tickets.forget();
    let failed = |words: String| ApiError::new(Code::Failed, words).next("hirsel secret list").next("hirsel status");
    let sealing_key = sealing::key(shared, &state).map_err(failed)?;
    check(&state, &sealing_key).map_err(failed)?;
    let made = Made { at, by, node: shared.me.name.to_string(), version: VERSION.into(), confirmed };
    let level = state.cluster.feature_level;
    let contents = encode(&Contents { made, state, key: sealing_key.as_bytes().to_vec() });
    let packed = zstd::bulk::compress(&contents, COMPRESSION)
        .map_err(|error| ApiError::new(Code::Failed, format!("cannot pack the backup: {error}")))?;
    Sealing::new(packed, level, lock, key).map_err(|error| ApiError::new(Code::TooLarge, error.to_string()))
}

/// Writes into the cluster's log who makes a backup. Whether that was confirmed, and this node knows all that came before.
async fn note(shared: &Shared, at: WallTime, by: &str) -> bool {
    let event = NewEvent {
        kind: EventKind::Happened,
        subject: "backup".into(),
        message: format!("the control state was backed up through {} (by {by})", shared.me.name),
        cause: Cause::None,
        rejected: Vec::new(),
    };
    let entry = Entry { at, by: by.into(), if_index: None, command: Command::Note { events: vec![event] } };
    let index = match shared.control.propose(entry, NOTE_WITHIN).await {
        Ok(Outcome::Done { index }) => index,
        other => {
            debug!(?other, "the backup is not noted");
            return false;
        }
    };
    let mut state = shared.control.state();
    let known = timeout(NOTE_WITHIN, state.wait_for(|state| state.applied >= index)).await;
    known.is_ok_and(|known| known.is_ok())
}

/// Whether the key opens everything: a backup that does not is none.
fn check(state: &ControlState, key: &SealingKey) -> Result<(), String> {
    let cluster = &state.cluster;
    Authority::unseal(key, &cluster.ca, &cluster.sealed_ca_key).map_err(|error| error.to_string())?;
    for (id, secret) in state.secrets.all() {
        for sealed in secret.values.values() {
            key.open(&id.purpose(), &sealed.0).ok_or_else(|| format!("secret {id} cannot be opened"))?;
        }
    }
    for (name, certificate) in &state.certificates.named {
        let plain = key.open(&purpose(name), &certificate.key.0);
        plain.ok_or_else(|| format!("the key of certificate {name} cannot be opened"))?;
    }
    for (_, purpose, sealed) in state.acme.keys() {
        key.open(purpose, &sealed.0).ok_or_else(|| format!("the key of the {purpose} cannot be opened"))?;
    }
    for (_, purpose, sealed) in state.access.sealed() {
        key.open(&purpose, &sealed.0).ok_or_else(|| format!("the {purpose} cannot be opened"))?;
    }
    Ok(())
}

/// A file that was understood, as far as that is possible without its key.
///
/// # Errors
/// In words: no backup, not whole, or made by a newer hirsel.
pub fn look(file: &[u8]) -> Result<Archive<'_>, ApiError> {
    let archive = Archive::read(file).map_err(wrong)?;
    if let Some(words) = outdated(archive.level()) {
        return Err(ApiError::new(Code::Failed, words).next("hirsel --version, here and where it was made"));
    }
    Ok(archive)
}

fn outdated(level: u32) -> Option<String> {
    (level > feature::BUILT).then(|| {
        format!(
            "the backup was made at feature level {level}, this hirsel understands {}: use a hirsel as new as the one that made it",
            feature::BUILT
        )
    })
}

/// The error for people.
pub fn wrong(error: ArchiveError) -> ApiError {
    let code = match error {
        ArchiveError::WrongKey(_) => Code::Forbidden,
        ArchiveError::NoKey | ArchiveError::Short(_) => Code::Usage,
        ArchiveError::TooLarge { .. } => Code::TooLarge,
        _ => Code::Failed,
    };
    let next = match error {
        ArchiveError::WrongKey(By::Passphrase) | ArchiveError::NoKey => "hirsel backup --verify FILE",
        ArchiveError::Short(_) => "hirsel backup FILE --recovery-key",
        _ => "take another copy of the file, or an earlier backup",
    };
    ApiError::new(code, error.to_string()).next(next)
}

/// Opens a file: nothing of it is known unless all of it is authentic.
///
/// # Errors
/// In words: a wrong key, something altered, or nothing that can be restored.
pub fn open(archive: &Archive<'_>, key: &FileKey) -> Result<Contents, ApiError> {
    let packed = archive.open(key).map_err(wrong)?;
    let unreadable = |error: &dyn std::fmt::Display| {
        ApiError::new(Code::Failed, format!("what is in the backup cannot be read: {error}")).next("hirsel --version")
    };
    // What is authentic says its own size; believe it only up to the limit.
    let claimed = zstd::zstd_safe::get_frame_content_size(&packed).ok().flatten().unwrap_or(0);
    let bytes = usize::try_from(claimed).ok().filter(|bytes| *bytes <= CONTENTS_BYTES_MAX);
    let bytes = bytes.ok_or_else(|| unreadable(&format!("{claimed} bytes exceed {CONTENTS_BYTES_MAX}")))?;
    let plain = zstd::bulk::decompress(&packed, bytes).map_err(|error| unreadable(&error))?;
    let contents: Contents = decode(&plain).map_err(|error| unreadable(&error))?;
    contents.sealing_key().and_then(|key| check(&contents.state, &key)).map_err(|error| unreadable(&error))?;
    Ok(contents)
}

impl Contents {
    fn sealing_key(&self) -> Result<SealingKey, String> {
        SealingKey::from_bytes(&self.key).map_err(|error| error.to_string())
    }

    /// What people may know of it; `bytes` is the size of the file.
    pub fn inside(&self, bytes: u64) -> Inside {
        let (Made { at, by, node, version, confirmed }, state) = (&self.made, &self.state);
        Inside {
            cluster: state.cluster.id.to_string(),
            tag: state.cluster.tag.to_string(),
            index: state.applied.0,
            made_at: rfc3339(*at),
            made_by: by.clone(),
            node: node.clone(),
            version: version.clone(),
            level: state.cluster.feature_level,
            confirmed: *confirmed,
            authority: authority::mark(&state.cluster.ca),
            nodes: state.spec.nodes.values().map(|node| node.name.to_string()).collect(),
            apps: state.spec.apps.keys().map(ToString::to_string).collect(),
            secrets: state.secrets.all().map(|(id, _)| id.to_string()).collect(),
            certificates: state.certificates.named.keys().map(ToString::to_string).collect(),
            events: state.log.events.len(),
            bytes,
        }
    }
}

/// Nodes of the backup that answer at their old addresses as members of that cluster, with their foundation.
pub async fn living(world: &World, contents: &Contents) -> Vec<(NodeName, SocketAddr, Tag)> {
    let state = &contents.state;
    let asked = state.spec.nodes.values().map(|node| async move {
        let asked = foundation::ask(world, node.addr, fingerprint(&state.cluster.ca));
        let tag = timeout(ANSWER_WITHIN, asked).await.ok().flatten()?;
        Some((node.name.clone(), node.addr, tag))
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// Founds the cluster anew in an empty data folder: who this node is comes last, and from then on the folder belongs to it.
///
/// # Errors
/// When the disk does not take it, or the authority does not open.
pub async fn restore(world: &World, config: &Config, built: &[RoleName], contents: &Contents) -> Result<Identity> {
    let disk = world.disk.as_ref();
    disk.write(UNFINISHED_FILE, &[]).context("cannot begin in the data folder")?;
    for file in LEFTOVERS.iter().filter(|file| **file != UNFINISHED_FILE) {
        disk.remove(file).context("cannot remove what a former try left")?;
    }
    let (chance, wall, state) = (world.chance.as_ref(), world.clock.wall(), &contents.state);
    let sealing = contents.sealing_key().map_err(anyhow::Error::msg)?;
    let authority = Authority::unseal(&sealing, &state.cluster.ca, &state.cluster.sealed_ca_key)?;
    let (key, node) = (NodeKey::generate(chance), next_node(state));
    let mut reset_seed = [0; 32];
    chance.fill(&mut reset_seed);
    let identity = Identity {
        cluster: state.cluster.id.clone(),
        node,
        name: config.name.clone(),
        ca: state.cluster.ca.clone(),
        former: authority::former(state),
        cert: authority.issue(node, &state.cluster.id, &key.csr(), wall)?,
        key: key.pkcs8().to_vec(),
        reset_seed,
        incarnation: Incarnation(0),
    };
    let spec = NodeSpec {
        name: config.name.clone(),
        addr: config.advertise,
        zone: config.zone.clone(),
        site: config.site.clone(),
        labels: config.labels.clone(),
        key: identity.public_key(),
        incarnation: Incarnation(0),
        availability: Availability::Open,
        capacity: config.capacity,
        built: built.iter().cloned().collect(),
        version: VERSION.into(),
    };
    let tag = state.cluster.tag.next(chance.number());
    let founder = Founder {
        node: spec,
        tag: tag.clone(),
        at: wall,
        by: format!("restore on {}", config.name),
        made: rfc3339(contents.made.at),
    };
    let state = restored(state.clone(), founder);
    seed(world, node, &state).await.context("cannot write the control log")?;
    Keyring::of(&sealing).save(disk)?;
    identity.save(disk)?;
    disk.remove(UNFINISHED_FILE).context("cannot end in the data folder")?;
    info!(cluster = %identity.cluster, %tag, index = %state.applied, "restored from a backup");
    Ok(identity)
}

#[cfg(test)]
mod tests {
    use hirsel_mesh::archive::RecoveryKey;
    use hirsel_mesh::seam::real;
    use hirsel_model::CertificateName;
    use hirsel_model::certificate::{Facts, NewCertificate};
    use hirsel_model::control::{ClusterInfo, Sealing as SealingInfo};
    use hirsel_model::secret::{Sealed, SecretId};

    use super::*;
    use crate::api::fixture;

    /// A backup of the fixture's cluster with one secret, and what opens it.
    fn backup(level: u32, alter: impl FnOnce(&mut Contents)) -> (Vec<u8>, FileKey) {
        let folder = tempfile::tempdir().unwrap();
        let world = real::world(folder.path()).unwrap();
        let chance = world.chance.as_ref();
        let key = SealingKey::draw(chance);
        let mut state = fixture::state();
        let authority = Authority::create(&state.cluster.id, chance, fixture::NOON);
        state.cluster = ClusterInfo {
            ca: authority.certificate().to_vec(),
            sealed_ca_key: authority.seal(&key, chance),
            sealing: SealingInfo { key: key.id(), ..SealingInfo::default() },
            ..state.cluster
        };
        let id = SecretId { app: None, name: "key".parse().unwrap() };
        let sealed = Sealed(key.seal(&id.purpose(), b"value", chance));
        let command = Command::SetSecret { id, sealed, key: key.id() };
        let index = state.applied.next();
        state.apply(index, Entry { at: fixture::NOON, by: "n1".into(), if_index: None, command });
        let name: CertificateName = "front".parse().unwrap();
        let new = NewCertificate {
            facts: Facts { names: ["shop.example.com".into()].into(), ..Facts::default() },
            chain: "chain".into(),
            sealed: Sealed(key.seal(&purpose(&name), b"key", chance)),
            key: key.id(),
            automatic: None,
        };
        let command = Command::SetCertificate { name, new };
        state.apply(state.applied.next(), Entry { at: fixture::NOON, by: "n1".into(), if_index: None, command });
        let made = Made { at: fixture::NOON, by: "admin".into(), confirmed: true, ..Made::default() };
        let mut contents = Contents { made, state, key: key.as_bytes().to_vec() };
        alter(&mut contents);
        let lock = Lock::new(By::RecoveryKey, chance);
        let file_key = lock.key(&RecoveryKey::draw(chance).to_string()).unwrap();
        let packed = zstd::bulk::compress(&encode(&contents), COMPRESSION).unwrap();
        (Sealing::new(packed, level, lock, &file_key).unwrap().flatten().collect(), file_key)
    }

    #[test]
    fn what_is_in_a_backup_can_be_told_without_its_secrets() {
        let (file, key) = backup(feature::BUILT, |_| {});
        let contents = open(&look(&file).unwrap(), &key).unwrap();
        let inside = contents.inside(file.len() as u64);
        assert_eq!((inside.cluster.as_str(), inside.tag.as_str(), inside.index), ("test-cluster", "0", 44));
        assert_eq!(inside.certificates, ["front"]);
        assert_eq!(
            (inside.nodes.len(), inside.apps.clone(), inside.secrets.clone()),
            (3, vec!["shop".to_string()], vec!["key".to_string()])
        );
        assert_eq!(inside.made_at, "2023-11-14T22:13:20Z");
    }

    #[test]
    fn a_backup_whose_key_does_not_open_it_or_that_is_newer_is_refused_in_words() {
        let (file, key) = backup(feature::BUILT, |contents| contents.key = vec![9; 32]);
        let error = open(&look(&file).unwrap(), &key).unwrap_err();
        assert!(error.message.contains("cannot be unsealed"), "{error}");
        let (file, _) = backup(feature::BUILT + 1, |_| {});
        let error = look(&file).unwrap_err();
        assert!(error.message.contains("made at feature level 3, this hirsel understands 2"), "{error}");
    }

    #[tokio::test]
    async fn a_restored_folder_belongs_to_a_new_node_that_alone_votes_and_a_second_try_overwrites_half_a_first() {
        let (file, key) = backup(feature::BUILT, |_| {});
        let contents = open(&look(&file).unwrap(), &key).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let world = real::world(folder.path()).unwrap();
        let args =
            crate::args::NodeArgs { name: Some("new".into()), addr: Some("127.0.0.9".into()), ..Default::default() };
        let config = Config::load(&args, None).unwrap();
        world.disk.write(UNFINISHED_FILE, &[]).unwrap();
        world.disk.write(LOG_FILE, b"half a log").unwrap();
        let identity = restore(&world, &config, &[RoleName::compute()], &contents).await.unwrap();
        assert!(identity.node.0 > 1_000 && identity.check().is_ok());
        assert_eq!(Identity::load(world.disk.as_ref()).unwrap(), Some(identity));
        assert_eq!(world.disk.read(UNFINISHED_FILE).unwrap(), None);
        assert!(!Keyring::load(world.disk.as_ref()).unwrap().is_empty());
    }
}
