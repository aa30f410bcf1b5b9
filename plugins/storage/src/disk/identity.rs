//! Whose a data folder is: one small file, written once.

use hirsel_model::{ClusterId, NodeId, codec};
use serde::{Deserialize, Serialize};

/// Name of the file.
pub const FILE: &str = "identity";

/// Largest file of this name that is read: a cluster's name has at most some hundred bytes.
pub const BYTES_MAX: u64 = 4096;

/// The way in which a folder is laid out. A build refuses what it does not know.
pub const FORMAT: u32 = 1;

/// Whose a data folder is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// The node that writes to it.
    pub node: NodeId,
    /// Drawn when the folder was laid out: two disks of a node are never mistaken for each other.
    pub disk: DiskId,
}

/// Which disk: drawn at random when its folder is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DiskId(pub u64);

impl DiskId {
    /// Whichever is the only one of a node. Never drawn.
    pub const ONLY: DiskId = DiskId(0);
}

impl std::fmt::Display for DiskId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[derive(Serialize, Deserialize)]
struct Written {
    format: u32,
    identity: Identity,
    check: [u8; 32],
}

/// What is written.
pub fn encode(identity: &Identity) -> Vec<u8> {
    let check = *blake3::hash(&codec::encode(identity)).as_bytes();
    codec::encode(&Written { format: FORMAT, identity: identity.clone(), check })
}

/// What was written; a sentence for people if that cannot be told.
pub fn decode(bytes: &[u8]) -> Result<Identity, String> {
    let written: Written = codec::decode(bytes).map_err(|error| format!("its file `{FILE}` is damaged: {error}"))?;
    if written.format != FORMAT {
        return Err(format!(
            "it is laid out in a way ({}) that this build does not know; upgrade this node",
            written.format
        ));
    }
    if written.check != *blake3::hash(&codec::encode(&written.identity)).as_bytes() {
        return Err(format!("its file `{FILE}` is damaged"));
    }
    Ok(written.identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_read_as_it_was_written_or_not_at_all() {
        let identity = Identity { cluster: ClusterId("pasture".into()), node: NodeId(3), disk: DiskId(7) };
        let bytes = encode(&identity);
        assert_eq!(decode(&bytes), Ok(identity));
        for at in 0..bytes.len() {
            let mut wrong = bytes.clone();
            wrong[at] ^= 1;
            assert!(decode(&wrong).is_err(), "{at}");
        }
    }
}
