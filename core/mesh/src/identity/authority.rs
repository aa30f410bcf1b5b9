//! The cluster's authority, which signs certificates, and the keys of nodes.
//!
//! The authority lives sealed in the control state and is unsealed by voters and spares for as long as a signature takes.

use std::time::Duration;

use hirsel_model::{ClusterId, NodeId, WallTime};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519, PublicKeyData, SerialNumber,
    SigningKey,
};
use ring::signature::{ED25519, UnparsedPublicKey};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivatePkcs8KeyDer};

use super::{IdentityError, SealingKey, certified, common_name, sha256};
use crate::seam::Chance;

/// How long a node's certificate is good. Nodes renew at a third of it, so that a month of trouble with the leader does no harm.
pub const CERTIFICATE_LIFE: Duration = Duration::from_secs(30 * DAY);
/// The authority's own certificate is never renewed; the pinned keys of nodes are what ends a membership.
const AUTHORITY_LIFE: Duration = Duration::from_secs(100 * 365 * DAY);
/// A certificate is good from a day before it was made: clocks of hosts differ.
const CLOCK_DIFFERENCE: Duration = Duration::from_secs(DAY);
const DAY: u64 = 86_400;
/// Dates beyond the year 9000 cannot be written into a certificate; a clock that tells them is wrong anyway.
const WALL_MS_MAX: u64 = 221_845_392_000_000;
/// What goes before the 32 bytes of an Ed25519 seed in PKCS #8 (RFC 8410, section 7).
const PKCS8_ED25519: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
/// What the sealed authority is sealed for.
const SEAL: &str = "authority";

/// A node's key pair.
pub struct NodeKey(KeyPair);

impl NodeKey {
    /// A fresh one.
    pub fn generate(chance: &dyn Chance) -> NodeKey {
        let mut pkcs8 = PKCS8_ED25519.to_vec();
        pkcs8.resize(PKCS8_ED25519.len() + 32, 0);
        chance.fill(&mut pkcs8[PKCS8_ED25519.len()..]);
        Self::from_pkcs8(&pkcs8).expect("any 32 bytes are an Ed25519 key")
    }

    /// One that was kept.
    pub fn from_pkcs8(pkcs8: &[u8]) -> Result<NodeKey, IdentityError> {
        let der = PrivatePkcs8KeyDer::from(pkcs8);
        let pair = KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ED25519);
        pair.map(NodeKey).map_err(|error| IdentityError::Key(error.to_string()))
    }

    /// Asks for a certificate (PKCS #10), signed with the key to prove that the asker has it.
    pub fn csr(&self) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&self.0).expect("a request without names can be encoded");
        request.der().to_vec()
    }

    /// The public half.
    pub fn public(&self) -> [u8; 32] {
        self.0.public_key_raw().try_into().expect("an Ed25519 public key has 32 bytes")
    }

    /// Signs a message (Ed25519). Whoever has the public half can tell with [`is_signed_by`].
    ///
    /// # Errors
    /// When the key cannot be used.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, IdentityError> {
        self.0.sign(message).map_err(|error| IdentityError::Key(error.to_string()))
    }

    /// The private half, PKCS #8.
    pub fn pkcs8(&self) -> &[u8] {
        self.0.serialized_der()
    }
}

/// Whether whoever has the private half of `public` signed `message`.
pub fn is_signed_by(public: &[u8; 32], message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, public).verify(message, signature).is_ok()
}

/// The authority of a cluster: a certificate and its key.
pub struct Authority {
    certificate: Vec<u8>,
    key: NodeKey,
}

impl Authority {
    /// The authority of a new cluster.
    pub fn create(cluster: &ClusterId, chance: &dyn Chance, wall: WallTime) -> Authority {
        let key = NodeKey::generate(chance);
        let mut params = valid(wall, AUTHORITY_LIFE);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name.push(DnType::CommonName, format!("hirsel authority of {cluster}"));
        params.serial_number = Some(serial(&[b"authority", &key.public()]));
        let certificate = params.self_signed(&key.0).expect("a certificate without alternative names can be encoded");
        Authority { certificate: certificate.der().to_vec(), key }
    }

    /// The authority that shall follow this one, and its key certified by this one: whoever knows only this one can follow.
    pub fn succeed(
        &self,
        cluster: &ClusterId,
        chance: &dyn Chance,
        wall: WallTime,
    ) -> Result<(Authority, Vec<u8>), IdentityError> {
        let key = NodeKey::generate(chance);
        let mark: String = sha256(&[&key.public()])[..4].iter().map(|byte| format!("{byte:02x}")).collect();
        let params = |basic, what: &[u8]| {
            let mut params = valid(wall, AUTHORITY_LIFE);
            params.is_ca = IsCa::Ca(basic);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
            params.distinguished_name.push(DnType::CommonName, format!("hirsel authority of {cluster} ({mark})"));
            params.serial_number = Some(serial(&[what, &key.public()]));
            params
        };
        let refused = |error: rcgen::Error| IdentityError::Request(error.to_string());
        let own = params(BasicConstraints::Constrained(0), b"authority").self_signed(&key.0).map_err(refused)?;
        // Others may follow it in turn, so the length of the path is not bound.
        let mut successor = params(BasicConstraints::Unconstrained, b"successor");
        successor.use_authority_key_identifier_extension = true;
        let ca = CertificateDer::from(self.certificate.as_slice());
        let issuer = Issuer::from_ca_cert_der(&ca, &self.key.0).map_err(refused)?;
        let successor = successor.signed_by(&key.0, &issuer).map_err(refused)?.der().to_vec();
        Ok((Authority { certificate: own.der().to_vec(), key }, successor))
    }

    /// Its certificate, DER.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// Certifies the key of a request for `node`, for [`CERTIFICATE_LIFE`]. Nothing else of the request is taken over.
    pub fn issue(
        &self,
        node: NodeId,
        cluster: &ClusterId,
        csr: &[u8],
        wall: WallTime,
    ) -> Result<Vec<u8>, IdentityError> {
        let refused = |error: rcgen::Error| IdentityError::Request(error.to_string());
        let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr));
        let key = request.map_err(refused)?.public_key;
        if PublicKeyData::algorithm(&key) != &PKCS_ED25519 {
            return Err(IdentityError::Request("its key is not Ed25519".into()));
        }
        let name = common_name(cluster, node);
        let mut params = valid(wall, CERTIFICATE_LIFE);
        params.subject_alt_names = CertificateParams::new([name.clone()]).map_err(refused)?.subject_alt_names;
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial(&[key.der_bytes(), &wall.0.to_be_bytes(), &node.0.to_be_bytes()]));
        let ca = CertificateDer::from(self.certificate.as_slice());
        let issuer = Issuer::from_ca_cert_der(&ca, &self.key.0).map_err(refused)?;
        let certificate = params.signed_by(&key, &issuer).map_err(refused)?.der().to_vec();
        // What nobody would accept is not given out, for example for a cluster id that is no DNS label.
        certified(&certificate, cluster)?;
        Ok(certificate)
    }

    /// The private key for the control state. The certificate is public and kept beside it.
    pub fn seal(&self, key: &SealingKey, chance: &dyn Chance) -> Vec<u8> {
        key.seal(SEAL, self.key.pkcs8(), chance)
    }

    /// The authority behind `certificate` whose key [`Authority::seal`] sealed.
    pub fn unseal(key: &SealingKey, certificate: &[u8], sealed: &[u8]) -> Result<Authority, IdentityError> {
        let pkcs8 = key.open(SEAL, sealed).ok_or(IdentityError::Sealed("the authority's key"))?;
        let authority = Authority { certificate: certificate.to_vec(), key: NodeKey::from_pkcs8(&pkcs8)? };
        use x509_parser::prelude::{FromDer, X509Certificate};
        let (_, parsed) =
            X509Certificate::from_der(certificate).map_err(|error| IdentityError::Certificate(error.to_string()))?;
        if parsed.public_key().subject_public_key.data.as_ref() != authority.key.public() {
            return Err(IdentityError::Certificate("the authority's certificate is for another key".into()));
        }
        Ok(authority)
    }
}

/// Reads a request for a certificate, as [`Authority::issue`] does before it signs.
pub(super) fn decode(csr: &[u8]) {
    drop(CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr)));
}

/// The certificate of an authority, and a request of a node, both with keys that nobody uses.
pub(super) fn samples() -> Vec<(&'static str, Vec<u8>)> {
    #[derive(Debug)]
    struct Zero;
    impl Chance for Zero {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(7);
        }
    }
    let (key, cluster) = (NodeKey::generate(&Zero), ClusterId("c".into()));
    let request = key.csr();
    let authority = Authority::create(&cluster, &Zero, WallTime(0));
    let node = authority.issue(NodeId(1), &cluster, &request, WallTime(0)).unwrap_or_default();
    let front = super::front::sample(&[&node, &authority.certificate], key.pkcs8());
    vec![("certificate", authority.certificate), ("certificate", node), ("request", request), ("front", front)]
}

fn valid(wall: WallTime, life: Duration) -> CertificateParams {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = Duration::from_millis(wall.0.min(WALL_MS_MAX));
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = epoch + now.saturating_sub(CLOCK_DIFFERENCE);
    params.not_after = epoch + (now + life);
    params
}

/// Different for every certificate, and the same in every run of a simulation.
fn serial(parts: &[&[u8]]) -> SerialNumber {
    let mut bytes = sha256(parts);
    // Positive, and not zero (RFC 5280, section 4.1.2.2).
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes[..16])
}
