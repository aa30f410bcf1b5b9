//! What a node's certificate says. Reading it proves nothing: whether it was signed by the authority is asked by whoever meets it.

use std::time::Duration;

use hirsel_model::{ClusterId, NodeId, WallTime};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::IdentityError;

/// Last label of the names in certificates.
const DOMAIN: &str = "hirsel";
/// Ed25519 (RFC 8410).
const ED25519: &str = "1.3.101.112";

/// What a certificate says of its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certified {
    /// Which node.
    pub node: NodeId,
    /// Its public key.
    pub key: [u8; 32],
    /// First second of validity, since 1970.
    pub not_before: u64,
    /// Last second of validity, since 1970.
    pub not_after: u64,
}

/// How far a certificate is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Age {
    /// There is nothing to do.
    Fresh,
    /// A third of its life is over, or it has not begun by this clock: time for a new one.
    Due,
    /// A tenth of its life is left: people should know.
    Late,
    /// Its life is over. It is accepted as long as its key is pinned.
    Expired,
}

impl Certified {
    /// How far it is at `wall`.
    pub fn age(&self, wall: WallTime) -> Age {
        let life = self.not_after.saturating_sub(self.not_before);
        let left = self.left(wall).as_secs();
        if left == 0 {
            Age::Expired
        } else if left < life / 10 {
            Age::Late
        } else if left < life / 3 * 2 || wall.0 / 1000 < self.not_before {
            Age::Due
        } else {
            Age::Fresh
        }
    }

    /// How long its dates hold from `wall` on; zero when they do not any more.
    pub fn left(&self, wall: WallTime) -> Duration {
        Duration::from_secs(self.not_after.saturating_sub(wall.0 / 1000))
    }
}

/// The name in the certificate of a node: `n3.CLUSTER.hirsel`.
pub fn common_name(cluster: &ClusterId, node: NodeId) -> String {
    format!("n{node}.{cluster}.{DOMAIN}")
}

/// Reads the certificate of a node of `cluster`.
pub fn certified(der: &[u8], cluster: &ClusterId) -> Result<Certified, IdentityError> {
    let wrong = |why: &str| IdentityError::Certificate(why.into());
    let (rest, certificate) =
        X509Certificate::from_der(der).map_err(|error| IdentityError::Certificate(error.to_string()))?;
    if !rest.is_empty() {
        return Err(wrong("bytes follow it"));
    }
    let names =
        certificate.subject_alternative_name().map_err(|error| IdentityError::Certificate(error.to_string()))?;
    let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    let [GeneralName::DNSName(name)] = names else {
        return Err(wrong("it does not carry exactly one name"));
    };
    let node = node_of(name, cluster)
        .ok_or_else(|| IdentityError::Certificate(format!("{name:?} is no node of cluster {cluster}")))?;
    let public = certificate.public_key();
    if public.algorithm.algorithm.to_id_string() != ED25519 {
        return Err(wrong("its key is not Ed25519"));
    }
    let key = public.subject_public_key.data.as_ref().try_into().map_err(|_| wrong("its key is not 32 bytes"))?;
    let validity = certificate.validity();
    let second = |time: i64| u64::try_from(time).unwrap_or(0);
    Ok(Certified {
        node,
        key,
        not_before: second(validity.not_before.timestamp()),
        not_after: second(validity.not_after.timestamp()),
    })
}

/// The first second of any certificate's validity, since 1970.
pub fn valid_from(der: &[u8]) -> Result<u64, IdentityError> {
    let parsed = X509Certificate::from_der(der);
    let (_, certificate) = parsed.map_err(|error| IdentityError::Certificate(error.to_string()))?;
    Ok(u64::try_from(certificate.validity().not_before.timestamp()).unwrap_or(0))
}

fn node_of(name: &str, cluster: &ClusterId) -> Option<NodeId> {
    let number = name.strip_prefix('n')?.strip_suffix(&format!(".{cluster}.{DOMAIN}"))?;
    let node = NodeId(number.parse().ok()?);
    // One node, one spelling: no `n007`, no `n+7`.
    (common_name(cluster, node) == name).then_some(node)
}
