//! How an agent comes to its identity: it founds a cluster, joins one, or goes on as whom its data folder says.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use hirsel_mesh::control::Control;
use hirsel_mesh::identity::{
    Authority, Identity, JoinToken, Keyring, NodeKey, SealingKey, draw_cluster_id, fingerprint,
};
use hirsel_mesh::seam::World;
use hirsel_mesh::transport::{Peer, Peers};
use hirsel_model::codec::{decode, encode};
use hirsel_model::control::{ClusterInfo, Command, Entry, Outcome, Sealing};
use hirsel_model::spec::{Availability, NodeSpec};
use hirsel_model::{Incarnation, NodeId, RoleName, Tag, feature};
use tracing::info;

use crate::admission::{self, VERSION};
use crate::config::Config;
use crate::rejoin;

/// How to start.
#[derive(Clone, Debug)]
pub enum Start {
    /// As whom the data folder says; an empty folder is an error.
    Resume,
    /// As the first node of a new cluster; a folder that has an identity goes on as that.
    Found,
    /// As a new node of the cluster behind these addresses. A folder that has an identity of that cluster goes on as that, so that a
    /// unit may say `join` for years; of another one is an error.
    Join {
        /// Any members.
        seeds: Vec<SocketAddr>,
        /// What lets us in.
        token: JoinToken,
    },
}

/// Who this agent is.
pub struct Born {
    /// With the incarnation of this start, durable already.
    pub identity: Identity,
    /// Members to begin with.
    pub peers: Peers,
    /// The first entry of a cluster that is not founded yet.
    pub founding: Option<Entry>,
}

/// Holds the first entry of a cluster until it is committed, so that a crash in between does not leave a node of no cluster.
pub const FOUNDING_FILE: &str = "founding";

/// Finds out who we are. Counts this start, durably, before anything else happens.
pub async fn born(world: &World, config: &Config, built: &[RoleName], start: Start) -> Result<Born> {
    rejoin::settle(world)?;
    let known = Identity::load(world.disk.as_ref())?;
    let (mut identity, peers) = match (start, known) {
        (Start::Resume | Start::Found, Some(identity)) => (identity, admission::load_peers(world)),
        (Start::Resume, None) => {
            bail!("{} holds no node; try: hirsel up, or: hirsel join SEED --token TOKEN", config.data.display())
        }
        (Start::Found, None) => (found(world, config, built)?, Peers::default()),
        (Start::Join { token, .. }, Some(identity)) if identity.knows_authority(&token.ca_fingerprint) => {
            // Whether the token is still good does not matter: nobody is let in.
            info!(node = %identity.name, cluster = %identity.cluster, "a node of this cluster already: goes on as that");
            (identity, admission::load_peers(world))
        }
        (Start::Join { token, .. }, Some(identity)) => bail!(
            "{folder} belongs to node {} of cluster {} (authority {}), and the token is of another cluster (authority {}); \
             start this node with: hirsel up --data {folder}, or join with another --data DIR",
            identity.name,
            identity.cluster,
            abbreviated(&fingerprint(&identity.ca)),
            abbreviated(&token.ca_fingerprint),
            folder = config.data.display(),
        ),
        (Start::Join { seeds, token }, None) => admission::join(world, config, built, &seeds, &token).await?,
    };
    identity.incarnation = identity.incarnation.next();
    identity.save(world.disk.as_ref())?;
    let founding = match world.disk.read(FOUNDING_FILE).context("cannot read the founding entry")? {
        Some(bytes) => Some(decode(&bytes).context("the founding entry is damaged")?),
        None => None,
    };
    let mut peers = peers;
    peers.nodes.entry(identity.node).or_insert(Peer { addr: config.advertise, key: identity.public_key() });
    Ok(Born { identity, peers, founding })
}

/// Enough of a fingerprint to tell two clusters apart.
fn abbreviated(fingerprint: &[u8; 32]) -> String {
    fingerprint[..6].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn found(world: &World, config: &Config, built: &[RoleName]) -> Result<Identity> {
    let chance = world.chance.as_ref();
    let wall = world.clock.wall();
    let cluster = draw_cluster_id(chance);
    let authority = Authority::create(&cluster, chance, wall);
    let sealing = SealingKey::draw(chance);
    let key = NodeKey::generate(chance);
    let node = NodeId(1);
    let mut reset_seed = [0; 32];
    chance.fill(&mut reset_seed);
    let identity = Identity {
        cluster: cluster.clone(),
        node,
        name: config.name.clone(),
        ca: authority.certificate().to_vec(),
        former: Vec::new(),
        cert: authority.issue(node, &cluster, &key.csr(), wall)?,
        key: key.pkcs8().to_vec(),
        reset_seed,
        incarnation: Incarnation(0),
    };
    let cluster = ClusterInfo {
        id: cluster,
        ca: identity.ca.clone(),
        sealed_ca_key: authority.seal(&sealing, chance),
        feature_level: feature::BUILT,
        webhook: None,
        sealing: Sealing { key: sealing.id(), ..Sealing::default() },
        tag: Tag::default(),
        former: Vec::new(),
        authority_wanted: false,
    };
    let node = NodeSpec {
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
    let entry =
        Entry { at: wall, by: config.name.to_string(), if_index: None, command: Command::Found { cluster, node } };
    world.disk.write(FOUNDING_FILE, &encode(&entry)).context("cannot write the founding entry")?;
    Keyring::of(&sealing).save(world.disk.as_ref())?;
    // Last: from here on the folder belongs to a node.
    identity.save(world.disk.as_ref())?;
    Ok(identity)
}

/// Founds the control group, unless a former start got that far.
pub async fn establish(world: &World, control: &Control, entry: Entry) -> Result<()> {
    if control.state().borrow().cluster.id.0.is_empty() {
        match control.found(entry).await.context("cannot found the cluster")? {
            Outcome::Refused(refusal) => bail!("cannot found the cluster: {refusal}"),
            Outcome::Done { .. } | Outcome::Admitted { .. } | Outcome::Lengthened { .. } => {}
        }
    }
    world.disk.remove(FOUNDING_FILE).context("cannot remove the founding entry")
}
