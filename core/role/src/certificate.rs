//! Certificates that load balancers show, with their keys, which are in memory only and which nothing prints.

use std::collections::BTreeMap;

use hirsel_model::CertificateName;

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
