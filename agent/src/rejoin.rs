//! A node whose disk cannot be trusted any more, or belongs to the past, becomes another node of the same cluster.
//!
//! Two ways lead here, and they differ in who may say so:
//!
//! - *The disk went back in time* (a copy that was put back, a machine that was taken back to a snapshot). The others noticed: they saw
//!   more of this node's log than it has, or a later start of it. This node is a member, its key is pinned, and all that its log holds
//!   is known to them; so it asks by itself, showing that it has the key, and loses nothing that anybody was promised. Where another
//!   agent of its name runs with a later start (the disk is a copy, and the original lives), it is told to wait.
//! - *The cluster went on without it*: it belongs to a former foundation, or was removed. Then its log may hold what nobody else has,
//!   confirmed to people on its side of a cut; which side is right only a person can say. They say it with a token of the other side:
//!   `hirsel join SEED --token T` on the old data folder. Nothing is done without one.
//!
//! Either way the number changes, for what the old one acknowledged or voted is not known here any more. The answer is on disk before
//! the agent starts anew; what is of the old node is put aside then (where there is a folder to put it), and programs go on until
//! the plan has none of them here.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hirsel_mesh::control::{KEPT_FILE, LOG_FILE};
use hirsel_mesh::identity::{IDENTITY_FILE, Identity, JoinToken, NodeKey, SEALING_FILE, fingerprint, is_signed_by};
use hirsel_mesh::seam::World;
use hirsel_mesh::transport::{JoinError, Peers, join_request};
use hirsel_model::codec::{decode, encode};
use hirsel_model::control::ControlState;
use hirsel_model::view::Liveness;
use hirsel_model::{Incarnation, NodeId, RoleName};
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use crate::admission::{self, LATER};
use crate::birth::FOUNDING_FILE;
use crate::config::Config;
use crate::recovery::ORDER_FILE;
use crate::shared::Shared;
use crate::{access, certificates, dnssec, secrets};

/// In the data folder from the first question until the node is another one.
pub const FILE: &str = "rejoin";
/// What is of the old node alone.
pub const OLD_FILES: [&str; 11] = [
    LOG_FILE,
    KEPT_FILE,
    SEALING_FILE,
    secrets::FILE,
    certificates::FILE,
    access::FILE,
    dnssec::FILE,
    ORDER_FILE,
    FOUNDING_FILE,
    admission::PEERS_FILE,
    IDENTITY_FILE,
];
/// Between two rounds of questions: the leader may be away, or may have to hear that the old agent is gone.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// A member that is asked whether it knows this node answers within this.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// What a signature of the old key is good for, and nothing else.
const PURPOSE: &str = "hirsel: a node joins again as another one";
/// Begins the question whether a cluster knows a node.
const QUESTION: &[u8] = b"am I a member?";

/// What is kept on the way.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Way {
    /// The key of the new node (PKCS #8), drawn once: however often it is asked, there is one new node.
    Asking { key: Vec<u8> },
    /// Who this is from the next start on.
    Granted { identity: Identity, peers: Vec<u8> },
}

/// Who a node was that asks to become another one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Former {
    /// Its number.
    pub node: NodeId,
    /// Which start of it asks.
    pub incarnation: Incarnation,
    /// By the key that is pinned for it, over [`PURPOSE`], the cluster, the number and the new key.
    signature: Vec<u8>,
}

impl Former {
    fn of(identity: &Identity, key: &[u8]) -> Result<Self> {
        let own = NodeKey::from_pkcs8(&identity.key)?;
        let signature = own.sign(&signed(&identity.cluster.0, identity.node, key))?;
        Ok(Self { node: identity.node, incarnation: identity.incarnation, signature })
    }

    /// Whether it may: it has the key pinned for that number, and nobody runs under the number with a later start.
    ///
    /// # Errors
    /// In words.
    pub fn check(&self, shared: &Shared, state: &ControlState, key: &[u8]) -> Result<(), String> {
        let known = state.spec.nodes.get(&self.node).ok_or_else(|| {
            format!("node {} is no member, so it needs a token: hirsel token new on a member", self.node)
        })?;
        let signed = signed(&state.cluster.id.0, self.node, key);
        if !is_signed_by(&known.key, &signed, &self.signature) {
            return Err(format!("{} did not sign that", known.name));
        }
        let heard = shared.heard.borrow().clone();
        let runs = heard.get(&self.node).filter(|node| node.liveness == Liveness::Alive);
        match runs {
            Some(runs) if runs.incarnation > self.incarnation => {
                Err(format!("{LATER}{} runs with a later start than the one that asks", known.name))
            }
            _ => Ok(()),
        }
    }
}

fn signed(cluster: &str, node: NodeId, key: &[u8]) -> Vec<u8> {
    encode(&(PURPOSE, cluster, node, key))
}

/// Returns once this node has become another one, on its disk: it is to be started anew. Asks only when its disk went back in time.
pub async fn granted(shared: Arc<Shared>, identity: Identity) {
    wait_until_older(&shared, &identity).await;
    let mut told = String::new();
    loop {
        match ask(&shared, &identity).await {
            Ok(()) => return,
            Err(error) => {
                let words = format!("{error:#}");
                // Once for each reason: a quiet cluster says nothing, and this may last.
                if words != told && !words.starts_with(LATER) {
                    warn!("this node's disk went back in time, and it does not join again yet: {words}");
                    told = words;
                }
            }
        }
        sleep(AGAIN_AFTER).await;
    }
}

/// Others saw more of this node's log than it has, or a later start of its agent.
async fn wait_until_older(shared: &Shared, identity: &Identity) {
    let (mut stopped, mut state) = (shared.control.stopped(), shared.control.state());
    loop {
        let later = state.borrow_and_update().spec.nodes.get(&shared.node).map(|known| known.incarnation);
        if later > Some(identity.incarnation) {
            warn!(this = %identity.incarnation, known = ?later, "the cluster knows a later start of this node: its disk went back in time");
            return;
        }
        if stopped.borrow_and_update().is_some() && shared.control.is_older() {
            return;
        }
        tokio::select! {
            changed = stopped.changed() => if changed.is_err() { return std::future::pending().await },
            changed = state.changed() => if changed.is_err() { return std::future::pending().await },
        }
    }
}

async fn ask(shared: &Shared, identity: &Identity) -> Result<()> {
    let disk = shared.world.disk.as_ref();
    let key = match disk.read(FILE)?.map(|bytes| decode::<Way>(&bytes)) {
        Some(Ok(Way::Asking { key })) => NodeKey::from_pkcs8(&key)?,
        _ => {
            let key = NodeKey::generate(shared.world.chance.as_ref());
            disk.write(FILE, &encode(&Way::Asking { key: key.pkcs8().to_vec() })).context("cannot keep the new key")?;
            key
        }
    };
    let former = Former::of(identity, &key.public())?;
    let state = shared.control.state().borrow().clone();
    let seeds: Vec<SocketAddr> =
        state.spec.nodes.iter().filter(|(node, _)| **node != shared.node).map(|(_, node)| node.addr).collect();
    let word = JoinToken { id: String::new(), secret: String::new(), ca_fingerprint: fingerprint(&identity.ca) };
    let config = Config { name: identity.name.clone(), ..shared.config.clone() };
    let request = admission::request(&config, &shared.built, &word, &key, Some(former));
    let mut last = anyhow::anyhow!("{LATER}no other member is known");
    for seed in seeds {
        match join_request(&shared.world, seed, &word, encode(&request)).await {
            Ok(answer) => {
                let (next, peers) = admission::joined(&shared.world, &key, &answer)?;
                keep(&shared.world, &next, &peers)?;
                info!(before = %identity.node, now = %next.node, "this node's disk went back in time: it goes on as a new one");
                return Ok(());
            }
            Err(JoinError::Refused(words)) => last = anyhow::anyhow!(words),
            Err(error) => {
                debug!(%seed, %error, "not asked");
                last = anyhow::anyhow!("{LATER}{error}");
            }
        }
    }
    Err(last)
}

fn keep(world: &World, identity: &Identity, peers: &Peers) -> Result<()> {
    let way = Way::Granted { identity: identity.clone(), peers: admission::encode_peers(peers) };
    world.disk.write(FILE, &encode(&way)).context("cannot keep who this node is now")
}

/// Whether who this node is from the next start on is on its disk.
pub fn is_granted(world: &World) -> bool {
    let kept = world.disk.read(FILE).ok().flatten().and_then(|bytes| decode::<Way>(&bytes).ok());
    matches!(kept, Some(Way::Granted { .. }))
}

/// Becomes the other node, if that was granted: what is left of the old one goes. Doing it again after a crash comes to the same.
///
/// # Errors
/// When the disk does not take it.
pub fn settle(world: &World) -> Result<()> {
    let disk = world.disk.as_ref();
    let Some(bytes) = disk.read(FILE).context("cannot read who this node is")? else { return Ok(()) };
    let way: Way =
        decode(&bytes).context("who this node shall be is damaged; remove the file rejoin in the data folder")?;
    let Way::Granted { identity, peers } = way else { return Ok(()) };
    for file in OLD_FILES {
        disk.remove(file).with_context(|| format!("cannot remove {file} of the former node"))?;
    }
    admission::write_peers(world, &peers)?;
    identity.save(disk)?;
    disk.remove(FILE).context("cannot end the change of nodes")
}

/// Whether the cluster behind a member knows a node: asked at the door for newcomers, answered by who hears a leader.
#[derive(Debug, Serialize, Deserialize)]
struct Question {
    node: NodeId,
    key: Vec<u8>,
}

/// The answer to `request`, if it is that question.
pub fn answer(shared: &Shared, request: &[u8]) -> Option<Result<Vec<u8>, String>> {
    let asked: Question = decode(request.strip_prefix(QUESTION)?).ok()?;
    let leadership = shared.control.leadership().borrow().clone();
    if !crate::recovery::hears_leader(leadership.leader, leadership.stale_ms) {
        return Some(Err(format!("{LATER}the cluster has no leader")));
    }
    let state = shared.control.state().borrow().clone();
    let known = state.spec.nodes.get(&asked.node).is_some_and(|node| node.key[..] == asked.key[..]);
    Some(Ok(encode(&known)))
}

/// Joins the cluster behind `seeds` as a new node, if it does not know the one that the data folder holds. The answer is on disk then,
/// for [`settle`]. Whether it was.
///
/// # Errors
/// When the token is not taken, or the disk does not take the answer. Nothing has changed then.
pub async fn by_token(
    world: &World,
    config: &Config,
    built: &[RoleName],
    seeds: &[SocketAddr],
    token: &JoinToken,
) -> Result<bool> {
    if is_granted(world) {
        return Ok(true);
    }
    let Some(identity) = Identity::load(world.disk.as_ref())? else { return Ok(false) };
    if !identity.knows_authority(&token.ca_fingerprint) || !is_stranger(world, &identity, seeds, token).await {
        return Ok(false);
    }
    warn!(
        node = %identity.name,
        "the cluster behind the seed does not know this node any more: it joins as a new one, and its data is put aside"
    );
    let (key, answer) = admission::admitted(world, config, built, seeds, token).await?;
    let (next, peers) = admission::joined(world, &key, &answer)?;
    keep(world, &next, &peers)?;
    Ok(true)
}

/// Whether a member that hears a leader says that it does not know this node.
async fn is_stranger(world: &World, identity: &Identity, seeds: &[SocketAddr], token: &JoinToken) -> bool {
    let question = encode(&Question { node: identity.node, key: identity.public_key().to_vec() });
    // All at once: this node may start together with all others, and waits for nobody who is away.
    let mut asked: FuturesUnordered<_> =
        seeds.iter().map(|seed| join_request(world, *seed, token, [QUESTION, &question].concat())).collect();
    let first = async {
        while let Some(answer) = asked.next().await {
            if let Some(known) = answer.ok().and_then(|answer| decode::<bool>(&answer).ok()) {
                return !known;
            }
        }
        false
    };
    timeout(ANSWER_WITHIN, first).await.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use hirsel_mesh::identity::Keyring;
    use hirsel_mesh::identity::{Authority, SealingKey};
    use hirsel_mesh::seam::real;
    use hirsel_model::{ClusterId, WallTime};

    use super::*;

    fn identity(world: &World, node: u64) -> Identity {
        let cluster = ClusterId("test-cluster".into());
        let authority = Authority::create(&cluster, world.chance.as_ref(), WallTime(0));
        let key = NodeKey::generate(world.chance.as_ref());
        Identity {
            cert: authority.issue(NodeId(node), &cluster, &key.csr(), WallTime(0)).unwrap(),
            cluster,
            node: NodeId(node),
            name: "n1".parse().unwrap(),
            ca: authority.certificate().to_vec(),
            former: Vec::new(),
            key: key.pkcs8().to_vec(),
            reset_seed: [0; 32],
            incarnation: Incarnation(3),
        }
    }

    #[test]
    fn a_node_becomes_another_one_however_often_the_power_fails_on_the_way() {
        let folder = tempfile::tempdir().unwrap();
        let world = real::world(folder.path()).unwrap();
        let (old, new) = (identity(&world, 2), identity(&world, 9));
        old.save(world.disk.as_ref()).unwrap();
        Keyring::of(&SealingKey::draw(world.chance.as_ref())).save(world.disk.as_ref()).unwrap();
        world.disk.write(LOG_FILE, b"old").unwrap();
        let asking = Way::Asking { key: new.key.clone() };
        world.disk.write(FILE, &encode(&asking)).unwrap();
        settle(&world).unwrap();
        assert!(!is_granted(&world));
        assert_eq!(Identity::load(world.disk.as_ref()).unwrap(), Some(old), "nobody has answered");
        keep(&world, &new, &Peers::default()).unwrap();
        assert!(is_granted(&world));
        for _ in 0..2 {
            settle(&world).unwrap();
            assert_eq!(Identity::load(world.disk.as_ref()).unwrap(), Some(new.clone()));
            assert_eq!((world.disk.read(LOG_FILE).unwrap(), is_granted(&world)), (None, false));
            assert!(Keyring::load(world.disk.as_ref()).unwrap().is_empty());
        }
    }

    #[test]
    fn only_the_pinned_key_speaks_for_a_node() {
        let folder = tempfile::tempdir().unwrap();
        let world = real::world(folder.path()).unwrap();
        let (old, other) = (identity(&world, 2), identity(&world, 2));
        let former = Former::of(&old, &[7; 32]).unwrap();
        let holds = |by: &Identity, node: u64, key: &[u8]| {
            is_signed_by(&by.public_key(), &signed("test-cluster", NodeId(node), key), &former.signature)
        };
        assert!(holds(&old, 2, &[7; 32]));
        assert!(!holds(&other, 2, &[7; 32]) && !holds(&old, 3, &[7; 32]) && !holds(&old, 2, &[8; 32]));
    }
}
