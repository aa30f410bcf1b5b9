//! Who a node is: its keys and certificate, the cluster's authority, join tokens. And what clients are shown, and show, as far as it is
//! only read (`front`, `clients`).
//!
//! Identity is (cluster id, node id, incarnation), never an address. A certificate says only that the cluster's authority knew this
//! key under this node id; whether the node still belongs to the cluster is said by the key pinned in the control state. So an
//! expired certificate does not lock out a cluster that was off for a year, and a node that left is refused although its
//! certificate is still good.

use hirsel_model::{ClusterId, Incarnation, NodeId, NodeName, codec};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use crate::seam::{Chance, Disk};

mod authority;
mod certificate;
mod clients;
mod front;
mod seal;
mod token;

pub use authority::{Authority, CERTIFICATE_LIFE, NodeKey, is_signed_by};
pub use certificate::{Age, Certified, certified, common_name, valid_from};
pub use clients::client_authority;
pub use front::{Front, FrontError, front};
pub use seal::{Keyring, SEALING_FILE, SealingKey};
pub(crate) use token::base32;
pub use token::{JoinToken, TokenError};

/// Reads a request for a certificate ([`crate::decoders`]).
pub(crate) fn decode_request(bytes: &[u8]) {
    authority::decode(bytes);
}

/// Reads a certificate of the front door with its key ([`crate::decoders`]).
pub(crate) fn decode_front(bytes: &[u8]) {
    front::decode(bytes);
}

/// A certificate and a request for one, to begin with.
pub(crate) fn samples() -> Vec<(&'static str, Vec<u8>)> {
    authority::samples()
}

/// Where the identity is kept in the data folder.
pub const IDENTITY_FILE: &str = "identity";
/// Random letters and digits of a cluster's id: 60 bits, so that two clusters never meet under one id.
const CLUSTER_ID_CHARS: usize = 12;

/// What a node must keep to be the same node after a restart.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// Its number.
    pub node: NodeId,
    /// Its name.
    pub name: NodeName,
    /// Certificate of the cluster's authority, DER.
    #[serde(with = "serde_bytes")]
    pub ca: Vec<u8>,
    /// Authorities before that one, which some may still know it by.
    #[serde(default)]
    pub former: Vec<Former>,
    /// Its own certificate, DER.
    #[serde(with = "serde_bytes")]
    pub cert: Vec<u8>,
    /// Its Ed25519 key, PKCS #8.
    #[serde(with = "serde_bytes")]
    pub key: Vec<u8>,
    /// Lets a restarted agent answer packets of connections it no longer knows, so that its peers notice the restart at once.
    pub reset_seed: [u8; 32],
    /// Restart counter. Raised and saved before anything else at every start.
    pub incarnation: Incarnation,
}

/// An authority that was replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Former {
    /// Its certificate, DER.
    #[serde(with = "serde_bytes")]
    pub ca: Vec<u8>,
    /// The key of the next one, certified by it, DER.
    #[serde(with = "serde_bytes")]
    pub successor: Vec<u8>,
    /// Nobody should have a certificate of it any more.
    pub dropped: bool,
}

/// Something about an identity, a certificate or a key that is not as it must be.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The data folder failed.
    #[error("cannot reach the identity of this node: {0}")]
    Disk(#[from] std::io::Error),
    /// The file holds something else.
    #[error("{what} in the data folder is damaged: {why}; restore the data folder, or join again under a new one")]
    Damaged {
        /// Which file.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// Not a certificate of this cluster for this node.
    #[error("certificate is not good: {0}")]
    Certificate(String),
    /// A request for a certificate that must not be granted.
    #[error("certificate request refused: {0}")]
    Request(String),
    /// A key that cannot be used.
    #[error("key is not good: {0}")]
    Key(String),
    /// Sealed with another key, or altered.
    #[error("{0} cannot be unsealed: sealed with another key, or altered")]
    Sealed(&'static str),
}

impl Identity {
    /// The identity kept in the data folder; none in a new one.
    pub fn load(disk: &dyn Disk) -> Result<Option<Identity>, IdentityError> {
        let Some(bytes) = disk.read(IDENTITY_FILE)? else { return Ok(None) };
        let damaged = |why: String| IdentityError::Damaged { what: IDENTITY_FILE, why };
        let identity: Identity = codec::decode(&bytes).map_err(|error| damaged(error.to_string()))?;
        identity.check().map_err(|error| damaged(error.to_string()))?;
        Ok(Some(identity))
    }

    /// Whether the authority with this fingerprint is the cluster's, or was.
    pub fn knows_authority(&self, print: &[u8; 32]) -> bool {
        let former = self.former.iter().map(|former| &former.ca);
        former.chain([&self.ca]).any(|ca| fingerprint(ca) == *print)
    }

    /// Keeps the identity, durably.
    pub fn save(&self, disk: &dyn Disk) -> Result<(), IdentityError> {
        Ok(disk.write(IDENTITY_FILE, &codec::encode(self))?)
    }

    /// The public half of the node's key: what its peers pin.
    ///
    /// # Panics
    /// If `key` was altered after [`Identity::check`] saw it.
    pub fn public_key(&self) -> [u8; 32] {
        NodeKey::from_pkcs8(&self.key).expect("the key of a checked identity").public()
    }

    /// Whether key, certificate and names fit each other.
    pub fn check(&self) -> Result<(), IdentityError> {
        let key = NodeKey::from_pkcs8(&self.key)?;
        let certified = certified(&self.cert, &self.cluster)?;
        if certified.node != self.node {
            return Err(IdentityError::Certificate(format!(
                "it is for node {}, this is {}",
                certified.node, self.node
            )));
        }
        if certified.key != key.public() {
            return Err(IdentityError::Certificate("it is for another key".into()));
        }
        Ok(())
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("cluster", &self.cluster)
            .field("node", &self.node)
            .field("name", &self.name)
            .field("incarnation", &self.incarnation)
            .finish_non_exhaustive()
    }
}

/// Draws the id of a new cluster: lower-case letters and digits, part of every certificate's name.
pub fn draw_cluster_id(chance: &dyn Chance) -> ClusterId {
    let mut bytes = [0; 8];
    chance.fill(&mut bytes);
    let mut text = token::base32().encode(&bytes);
    text.truncate(CLUSTER_ID_CHARS);
    ClusterId(text)
}

/// How a certificate is recognized without knowing it: SHA-256 of its DER.
pub fn fingerprint(certificate: &[u8]) -> [u8; 32] {
    sha256(&[certificate])
}

pub(crate) fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, &parts.concat()).as_ref());
    hash
}

#[cfg(test)]
pub(crate) mod tests;
