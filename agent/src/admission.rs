//! Joining: what a new node asks, and what a member answers.
//!
//! The new node draws its key, and sends only a signing request. Whichever member it reaches hands the request to the leader, which
//! checks the token against its hash, has the node admitted by the control group, and only then signs a certificate for the number
//! the node was given. The token's secret never reaches a disk.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hirsel_mesh::identity::{Authority, Former, Identity, JoinToken, NodeKey, certified, fingerprint};
use hirsel_mesh::seam::World;
use hirsel_mesh::transport::{JoinError, Peer, Peers, join_request};
use hirsel_model::codec::{decode, encode};
use hirsel_model::control::{Command, ControlState, Entry, Outcome, TokenGrants};
use hirsel_model::spec::{Availability, Capacity, NodeSpec};
use hirsel_model::{ClusterId, Incarnation, NodeId, NodeName, RoleName, ZoneName, feature};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::config::Config;
use crate::foundation;
use crate::shared::Shared;
use crate::{authority, rejoin, sealing};

/// The kind of call by which a member hands a request to the leader.
pub const ADMIT_CALL: &str = "admit";
/// A joining node tries its seeds for so long: a leader may just be elected.
const JOIN_WITHIN: Duration = Duration::from_secs(20);
/// Between two tries.
const RETRY_AFTER: Duration = Duration::from_millis(300);
/// What the leader may take to admit a node.
const ADMIT_WITHIN: Duration = Duration::from_secs(3);

/// What a new node asks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    token_id: String,
    token_secret: String,
    csr: Vec<u8>,
    key: Vec<u8>,
    name: NodeName,
    addr: SocketAddr,
    zone: ZoneName,
    site: ZoneName,
    labels: BTreeMap<String, String>,
    capacity: Capacity,
    built: Vec<RoleName>,
    version: String,
    /// The feature level its build understands; none from one that came before there were levels.
    #[serde(default)]
    level: u32,
    /// It was a member before, and asks to be another one; it needs no token then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    former: Option<rejoin::Former>,
}

/// What it gets.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reply {
    cluster: ClusterId,
    node: NodeId,
    name: NodeName,
    ca: Vec<u8>,
    cert: Vec<u8>,
    peers: Vec<(NodeId, SocketAddr, Vec<u8>)>,
    #[serde(default)]
    former: Vec<Former>,
}

/// The version of this build.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Joins the cluster behind `seeds`. The identity is durable when this returns.
pub async fn join(
    world: &World,
    config: &Config,
    built: &[RoleName],
    seeds: &[SocketAddr],
    token: &JoinToken,
) -> Result<(Identity, Peers)> {
    let (key, answer) = admitted(world, config, built, seeds, token).await?;
    let (identity, peers) = joined(world, &key, &answer)?;
    save_peers(world, &peers)?;
    identity.save(world.disk.as_ref())?;
    Ok((identity, peers))
}

/// Asks the cluster behind `seeds` to let a new node in: its key, and the answer for [`joined`].
pub async fn admitted(
    world: &World,
    config: &Config,
    built: &[RoleName],
    seeds: &[SocketAddr],
    token: &JoinToken,
) -> Result<(NodeKey, Vec<u8>)> {
    let key = NodeKey::generate(world.chance.as_ref());
    let answer = ask(world, seeds, token, &request(config, built, token, &key, None)).await?;
    Ok((key, answer))
}

/// What the new node with this key asks.
pub fn request(
    config: &Config,
    built: &[RoleName],
    token: &JoinToken,
    key: &NodeKey,
    former: Option<rejoin::Former>,
) -> Request {
    Request {
        token_id: token.id.clone(),
        token_secret: token.secret.clone(),
        csr: key.csr(),
        key: key.public().to_vec(),
        name: config.name.clone(),
        addr: config.advertise,
        zone: config.zone.clone(),
        site: config.site.clone(),
        labels: config.labels.clone(),
        capacity: config.capacity,
        built: built.to_vec(),
        version: VERSION.into(),
        level: feature::BUILT,
        former,
    }
}

/// Who the node with this key is by the answer, and whom it knows.
pub fn joined(world: &World, key: &NodeKey, answer: &[u8]) -> Result<(Identity, Peers)> {
    let reply: Reply = decode(answer).context("the seed answered something unreadable")?;
    let mut reset_seed = [0; 32];
    world.chance.fill(&mut reset_seed);
    let identity = Identity {
        cluster: reply.cluster,
        node: reply.node,
        name: reply.name,
        ca: reply.ca,
        former: reply.former,
        cert: reply.cert,
        key: key.pkcs8().to_vec(),
        reset_seed,
        incarnation: Incarnation(0),
    };
    let mut peers = Peers::default();
    for (node, addr, key) in reply.peers {
        if let Ok(key) = key.try_into() {
            peers.nodes.insert(node, Peer { addr, key });
        }
    }
    Ok((identity, peers))
}

async fn ask(world: &World, seeds: &[SocketAddr], token: &JoinToken, request: &Request) -> Result<Vec<u8>> {
    let deadline = Instant::now() + JOIN_WITHIN;
    let body = encode(request);
    let mut told = false;
    loop {
        let mut last = None;
        for seed in seeds {
            match join_request(world, *seed, token, body.clone()).await {
                Ok(bytes) => return Ok(bytes),
                // Asking again would not change this answer.
                Err(JoinError::Refused(words)) if !words.starts_with(LATER) => bail!(words),
                Err(error @ JoinError::AnotherCluster { .. }) => return Err(error.into()),
                Err(error) => last = Some((*seed, error)),
            }
        }
        let Some((seed, error)) = last else { bail!("no seed to join; try: hirsel join IP --token TOKEN") };
        if Instant::now() >= deadline {
            // The error's own words hold its cause already.
            bail!("cannot join through {seed} within {} s: {error}", JOIN_WITHIN.as_secs());
        }
        if !told {
            told = true;
            warn!(%seed, %error, "not joined yet; trying on for {} s", JOIN_WITHIN.as_secs());
        }
        sleep(RETRY_AFTER).await;
    }
}

/// Begins every refusal that another try may overcome.
pub const LATER: &str = "not now: ";

/// Answers a request on any member: hands it to the leader.
pub async fn receive(shared: Arc<Shared>, body: Vec<u8>) -> Result<Vec<u8>, String> {
    if let Some(answer) = foundation::answer(&shared, &body) {
        return Ok(answer);
    }
    if let Some(answer) = rejoin::answer(&shared, &body) {
        return answer;
    }
    let leader = shared.control.leadership().borrow().leader;
    let Some(leader) = leader else { return Err(format!("{LATER}the cluster has no leader")) };
    match shared.transport.call(leader, ADMIT_CALL, body, ADMIT_WITHIN).await {
        Ok(reply) => Ok(reply),
        Err(hirsel_mesh::transport::CallError::Refused(words)) => Err(words),
        Err(error) => Err(format!("{LATER}the leader does not answer: {error}")),
    }
}

/// Admits a node: the leader's part.
pub async fn admit(shared: Arc<Shared>, body: Vec<u8>) -> Result<Vec<u8>, String> {
    let request: Request = decode(&body).map_err(|error| error.to_string())?;
    if !shared.control.leadership().borrow().mine {
        return Err(format!("{LATER}this node does not lead"));
    }
    let state = shared.control.state().borrow().clone();
    let key: [u8; 32] = request.key.clone().try_into().map_err(|_| "key of wrong length".to_owned())?;
    // A request that arrives twice (the first answer was lost) is the same node: its key is its own.
    let known = state.spec.nodes.iter().find(|(_, spec)| spec.key == key);
    match &request.former {
        None => check_token(&state, &request, shared.world.clock.wall().0)?,
        Some(former) if known.is_none() => former.check(&shared, &state, &key)?,
        // That it was one is not known any more: it is another one already.
        Some(_) => {}
    }
    check_level(&state, &request)?;
    let authority = authority(&shared, &state)?;
    let node = NodeSpec {
        name: request.name,
        addr: request.addr,
        zone: request.zone,
        site: request.site,
        labels: request.labels,
        key,
        incarnation: Incarnation(0),
        availability: Availability::Open,
        capacity: request.capacity,
        built: request.built.into_iter().collect(),
        version: request.version,
    };
    let command = match &request.former {
        None => Command::Admit { node, token: request.token_id },
        Some(former) => Command::Rejoin { former: former.node, node },
    };
    let (id, name) = match known {
        Some((id, spec)) => (*id, spec.name.clone()),
        None => propose(&shared, command).await?,
    };
    let cert = authority
        .issue(id, &state.cluster.id, &request.csr, shared.world.clock.wall())
        .map_err(|error| error.to_string())?;
    // Whoever believes the authority alone believes what this certificate says: it is for the key that is pinned, and for no other.
    if certified(&cert, &state.cluster.id).map_err(|error| error.to_string())?.key != key {
        return Err("the signing request is for another key than the one that joins".into());
    }
    info!(node = %name, addr = %request.addr, "node admitted");
    let state = shared.control.state().borrow().clone();
    let peers = state.spec.nodes.iter().map(|(id, spec)| (*id, spec.addr, spec.key.to_vec())).collect();
    let (cluster, ca, former) = (state.cluster.id.clone(), state.cluster.ca.clone(), authority::former(&state));
    Ok(encode(&Reply { cluster, node: id, name, ca, cert, peers, former }))
}

/// The cluster's authority, where this node holds the key that unseals it.
pub fn authority(shared: &Shared, state: &ControlState) -> Result<Authority, String> {
    let sealing = sealing::key(shared, state)?;
    Authority::unseal(&sealing, &state.cluster.ca, &state.cluster.sealed_ca_key).map_err(|error| error.to_string())
}

fn check_token(state: &ControlState, request: &Request, wall_ms: u64) -> Result<(), String> {
    let wrong = |reason: &str| {
        let id = &request.token_id;
        Err(format!("token {id} is not valid: {reason}; try on a member: hirsel token new"))
    };
    let Some(record) = state.tokens.get(&request.token_id) else {
        return wrong(&format!("this cluster{} did not give it out", foundation::named(&state.cluster.tag)));
    };
    let shown = JoinToken {
        id: request.token_id.clone(),
        secret: request.token_secret.clone(),
        ca_fingerprint: fingerprint(&state.cluster.ca),
    };
    // Hashes are compared, so what the time tells is a hash nobody asked for.
    if shown.secret_hash() != record.secret_hash {
        return wrong("its secret is wrong");
    }
    if record.grants != TokenGrants::Join {
        return wrong("it is for people, not for nodes");
    }
    if record.revoked {
        return wrong("it was revoked");
    }
    if record.expires_at.0 <= wall_ms {
        return wrong("it has expired");
    }
    Ok(())
}

/// A node that does not understand what is in the log could only stop.
fn check_level(state: &ControlState, request: &Request) -> Result<(), String> {
    let (needs, has) = (state.cluster.feature_level, feature::reported(request.level));
    if has >= needs {
        return Ok(());
    }
    let version = &request.version;
    Err(format!(
        "the cluster runs at feature level {needs}, and this hirsel ({version}) understands {has}: \
         install the version of the members ({VERSION}), then join"
    ))
}

async fn propose(shared: &Shared, command: Command) -> Result<(NodeId, NodeName), String> {
    let entry = Entry { at: shared.world.clock.wall(), by: shared.me.name.to_string(), if_index: None, command };
    match shared.control.propose(entry, ADMIT_WITHIN).await {
        Ok(Outcome::Admitted { node, name, .. }) => Ok((node, name)),
        Ok(Outcome::Refused(refusal)) => Err(refusal.to_string()),
        Ok(Outcome::Done { .. } | Outcome::Lengthened { .. }) => {
            Err("the control group answered something else".into())
        }
        Err(error) => Err(format!("{LATER}{error}")),
    }
}

/// In the data folder: addresses and keys of the members.
pub const PEERS_FILE: &str = "peers";

/// Keeps the addresses and keys of all members, so that a restarted node finds them before it has read the control state.
pub fn save_peers(world: &World, peers: &Peers) -> Result<()> {
    write_peers(world, &encode_peers(peers))
}

/// As they are kept.
pub fn encode_peers(peers: &Peers) -> Vec<u8> {
    let rows: Vec<(NodeId, SocketAddr, Vec<u8>)> =
        peers.nodes.iter().map(|(id, peer)| (*id, peer.addr, peer.key.to_vec())).collect();
    encode(&rows)
}

/// Keeps what [`encode_peers`] made.
pub fn write_peers(world: &World, peers: &[u8]) -> Result<()> {
    world.disk.write(PEERS_FILE, peers).context("cannot save the members' addresses")
}

/// What [`save_peers`] kept; nothing when there is nothing or it is unreadable, for it is only a hint.
pub fn load_peers(world: &World) -> Peers {
    let rows: Vec<(NodeId, SocketAddr, Vec<u8>)> = match world.disk.read(PEERS_FILE) {
        Ok(Some(bytes)) => decode(&bytes).unwrap_or_default(),
        _ => Vec::new(),
    };
    let peer = |(id, addr, key): (NodeId, SocketAddr, Vec<u8>)| Some((id, Peer { addr, key: key.try_into().ok()? }));
    Peers { nodes: rows.into_iter().filter_map(peer).collect() }
}
