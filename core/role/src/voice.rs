//! What a node says to others outside of all connections, and how they tell that it was this node: signed with its key, which every
//! member has pinned. So nothing has to be handed out for it, and nobody but the node itself can speak in its name.

use hirsel_mesh::identity::{NodeKey, is_signed_by};
use hirsel_model::{ClusterId, Incarnation};

/// Bytes of a signature (Ed25519).
pub const SIGNATURE_BYTES: usize = 64;

/// This node, as others hear it.
#[derive(Default)]
pub struct Voice {
    cluster: ClusterId,
    incarnation: Incarnation,
    key: Option<NodeKey>,
}

impl Voice {
    /// The voice of the node of `cluster` with this key, in this start of its agent.
    pub fn new(cluster: ClusterId, incarnation: Incarnation, key: NodeKey) -> Self {
        Self { cluster, incarnation, key: Some(key) }
    }

    /// Which start of the agent speaks.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// `said` behind its signature. None where there is no key (in tests of roles that say nothing). What is said for one purpose is
    /// believed for no other.
    pub fn sign(&self, purpose: &str, said: &[u8]) -> Option<Vec<u8>> {
        let mut signed = self.key.as_ref()?.sign(&self.message(purpose, said)).ok()?;
        signed.extend_from_slice(said);
        Some(signed)
    }

    /// What was said, where the node with this public key signed it for this purpose and cluster.
    pub fn verify<'a>(&self, purpose: &str, key: &[u8; 32], signed: &'a [u8]) -> Option<&'a [u8]> {
        let (signature, said) = signed.split_at_checked(SIGNATURE_BYTES)?;
        is_signed_by(key, &self.message(purpose, said), signature).then_some(said)
    }

    fn message(&self, purpose: &str, said: &[u8]) -> Vec<u8> {
        let head = format!("hirsel {purpose}\0{}\0", self.cluster);
        [head.as_bytes(), said].concat()
    }
}

impl std::fmt::Debug for Voice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Voice").field("incarnation", &self.incarnation).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hirsel_mesh::seam::real;

    #[test]
    fn what_was_signed_for_another_purpose_or_cluster_or_altered_is_not_believed() {
        let voice = |cluster: &str| {
            let key = NodeKey::generate(real::chance().as_ref());
            (key.public(), Voice::new(ClusterId(cluster.into()), Incarnation(3), key))
        };
        let ((mine, me), (other, another)) = (voice("a"), voice("b"));
        let signed = me.sign("beat", b"here").unwrap();
        assert_eq!(me.verify("beat", &mine, &signed), Some(&b"here"[..]));
        assert_eq!(me.verify("news", &mine, &signed), None);
        assert_eq!(me.verify("beat", &other, &signed), None);
        assert_eq!(another.verify("beat", &mine, &signed), None);
        for at in 0..signed.len() {
            let mut altered = signed.clone();
            altered[at] ^= 1;
            assert_eq!(me.verify("beat", &mine, &altered), None);
            assert_eq!(me.verify("beat", &mine, &signed[..at]), None);
        }
    }
}
