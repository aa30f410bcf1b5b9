//! Certificates that load balancers show, with their keys, which are in memory only and which nothing prints; and what they answer
//! while another one is on its way.

use std::collections::BTreeMap;
use std::fmt;

use hirsel_model::CertificateName;
use hirsel_model::tickets::KEY_BYTES;

use crate::secret::Plain;

/// A certificate with its chain and key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bundle {
    /// A number that no other value of the cluster has: another one is another certificate.
    pub version: u64,
    /// PEM: the certificate, then those that certify it.
    pub chain: String,
    /// PEM: its key (PKCS #8, PKCS #1 or SEC1).
    pub key: Plain,
}

/// The certificates that the load balancer of this node shows, as far as they have come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bundles(pub BTreeMap<CertificateName, Bundle>);

/// What the load balancer of this node answers to whoever asks whether a host is ours: a directory that is about to certify it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Challenges {
    /// Over plain HTTP, by the token it is asked for (RFC 8555, section 8.3).
    pub http: BTreeMap<String, String>,
    /// Over TLS, by host in lower case (RFC 8737).
    pub tls: BTreeMap<String, Bundle>,
    /// Hosts ask for certificates, so that the port of HTTPS is needed before the first one is there.
    pub expected: bool,
}

/// A key of TLS tickets: by what they name it, and what they are sealed with. Nothing prints it.
#[derive(Clone, PartialEq, Eq)]
pub struct TicketKey(pub [u8; KEY_BYTES]);

impl fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketKey(…)")
    }
}

/// The keys of TLS tickets that the load balancer of this node has, as far as they have come: the same as all others have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TicketKeys {
    /// Version of the one that seals; none while none that others have, too, is there.
    pub sealing: Option<u64>,
    /// All of them open, by version.
    pub keys: BTreeMap<u64, TicketKey>,
}
