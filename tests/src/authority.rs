//! An authority of the test's own, and certificates of it for the front door.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PublicKeyData,
};

use crate::cluster::Cluster;

const DAY: Duration = Duration::from_secs(86_400);

/// An authority that nobody knows but who is told.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Authority {
    /// A new one.
    ///
    /// # Panics
    /// When there is no key to be had.
    pub fn new() -> Self {
        let mut root = CertificateParams::new(Vec::new()).expect("no names");
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        root.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        root.distinguished_name.push(DnType::CommonName, "root");
        let key = KeyPair::generate().expect("a key");
        Self { issuer: CertifiedIssuer::self_signed(root, key).expect("a root") }
    }

    /// What says who it is, in PEM.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A new certificate for `names`, of which the first is its subject, and its key, in PEM, and the key's public half in DER.
    ///
    /// # Panics
    /// When one of them is no name.
    pub fn certify(&self, names: &[&str]) -> (String, String, Vec<u8>) {
        let key = KeyPair::generate().expect("a key");
        let mut own = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).expect("names");
        own.distinguished_name.push(DnType::CommonName, names[0]);
        (own.not_before, own.not_after) = ((SystemTime::now() - DAY).into(), (SystemTime::now() + 80 * DAY).into());
        own.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        own.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let cert = own.signed_by(&key, &self.issuer).expect("a certificate");
        (cert.pem(), key.serialize_pem(), key.subject_public_key_info())
    }

    /// Has every load balancer of `cluster` show a new certificate for `names` from now on; returns the key's public half in DER.
    ///
    /// # Panics
    /// When it is refused.
    pub fn equip(&self, cluster: &Cluster, names: &[&str]) -> Vec<u8> {
        let (cert, key, public) = self.certify(names);
        let at = |name: &str| cluster.folder.path().join(name);
        std::fs::write(at("cert.pem"), cert).expect("a file");
        std::fs::write(at("key.pem"), key).expect("a file");
        let (cert, key) = (at("cert.pem").display().to_string(), at("key.pem").display().to_string());
        let ran = cluster.any().ask(["cert", "add", "front", "--wait", "--cert", &cert, "--key", &key]);
        assert_eq!(ran.code, Some(0), "{}", ran.words());
        public
    }
}
