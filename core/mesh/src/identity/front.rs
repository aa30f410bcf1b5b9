//! Reads a certificate of the front door as people have it: PEM files with a chain and a private key.
//!
//! What is wrong is said before anybody shows it to clients: the chain in its order, the key that of the certificate, and of a kind
//! that can sign here. Whether the authority is one that browsers believe is not asked, for many clusters have one of their own. No
//! error repeats anything of what was read but names: it might be the key.

use std::collections::BTreeSet;
use std::fmt::Write;

use data_encoding::BASE64;
use hirsel_model::WallTime;
use hirsel_model::certificate::{Facts, ISSUER_BYTES_MAX, KEY_BYTES_MAX, NAMES_MAX, is_domain};
use rustls::crypto::ring::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject, SectionKind};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::X509Name;

use super::fingerprint;

/// Certificates of a chain: no authority needs so many.
const CHAIN_MAX: usize = 10;
/// Columns of a line of PEM (RFC 7468, section 2).
const PEM_COLUMNS: usize = 64;
/// Longest name that is repeated to people, in characters.
const SHOWN_CHARS_MAX: usize = 100;

/// A certificate with its chain and key, of which nothing is wrong but perhaps its time.
#[derive(Clone, PartialEq, Eq)]
pub struct Front {
    /// What it says of itself.
    pub facts: Facts,
    /// PEM: the certificate, then those that certify it; nothing else.
    pub chain: String,
    /// PEM: its key, and nothing else.
    pub key: String,
}

/// Never shows the key.
impl std::fmt::Debug for Front {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Front").field("facts", &self.facts).finish_non_exhaustive()
    }
}

/// Why a certificate cannot be shown to clients.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrontError {
    /// There is none.
    #[error("no certificate is in there: one in PEM begins with -----BEGIN CERTIFICATE-----")]
    NoCertificate,
    /// There is none, but something in binary form.
    #[error("no certificate in PEM is in there; it looks like DER, the binary form")]
    Der,
    /// There is no key.
    #[error("no private key is in there: one in PEM begins with -----BEGIN PRIVATE KEY-----")]
    NoKey,
    /// There is more than one.
    #[error("{0} private keys are in there, and one is the certificate's")]
    ManyKeys(usize),
    /// The key cannot be used without asking a person.
    #[error("the private key is encrypted, and nobody is there to decrypt it when a load balancer starts")]
    Encrypted,
    /// A part of the file is not whole.
    #[error("the PEM is damaged: a part of it has no end, or holds something else than Base64")]
    Damaged,
    /// There are too many.
    #[error("{0} certificates exceed the {CHAIN_MAX} that a chain may have")]
    LongChain(usize),
    /// One is no certificate of X.509.
    #[error("certificate {number} of the chain cannot be read")]
    Unreadable {
        /// Counted from one.
        number: usize,
    },
    /// The certificate is not the first.
    #[error(
        "the key is that of certificate {number} of the chain, which must come first: it, then those that certify it"
    )]
    NotFirst {
        /// Where it is, counted from one.
        number: usize,
    },
    /// The key is another one's.
    #[error("the private key is not that of the certificate for {0}")]
    OtherKey(String),
    /// One does not certify the one before.
    #[error("certificate {number} of the chain is of {is:?}, and the one before it is certified by {wanted:?}")]
    Order {
        /// Counted from one.
        number: usize,
        /// Whose it is.
        is: String,
        /// Whose it should be.
        wanted: String,
    },
    /// Nothing here signs with it.
    #[error(
        "the key of the certificate ({0}) is of no kind that can be used: RSA of 2048 to 4096 bits, ECDSA on P-256 or P-384, Ed25519"
    )]
    Kind(String),
    /// It is for something else.
    #[error("the certificate is not for servers: its extended key usage lacks serverAuth")]
    NotForServers,
    /// It is for nobody.
    #[error("the certificate names no domain among its subject alternative names, which alone count for browsers")]
    NoDomains,
    /// It is for too many.
    #[error("the certificate names {0} domains, {NAMES_MAX} are the most")]
    ManyDomains(usize),
    /// It is for something that is no domain.
    #[error("the certificate names {0:?}, which is no domain")]
    NoDomain(String),
}

impl FrontError {
    /// The command that helps, where one does.
    pub fn next(&self) -> Option<&'static str> {
        match self {
            FrontError::Der => Some("openssl x509 -inform der -in FILE -out FILE.pem"),
            FrontError::Encrypted => Some("openssl pkey -in FILE -out FILE.plain"),
            FrontError::NotFirst { .. } | FrontError::Order { .. } => {
                Some("openssl storeutl -noout -text -certs FILE: who certifies whom")
            }
            FrontError::OtherKey(_) => Some("openssl x509 -in CERT -noout -pubkey; openssl pkey -in KEY -pubout"),
            _ => None,
        }
    }
}

/// Reads a chain and a key from one text in PEM, in whatever order the key comes. What stands between the parts is passed over.
///
/// # Errors
/// What is wrong, without anything of the key.
pub fn front(text: &[u8]) -> Result<Front, FrontError> {
    let (chain, keys) = parts(text)?;
    let certificates = chain.iter().enumerate().map(|(at, der)| read(at + 1, der)).collect::<Result<Vec<_>, _>>()?;
    let Some(first) = certificates.first() else {
        // A sequence, of a length that is told in two bytes.
        return Err(if text.starts_with(&[0x30, 0x82]) { FrontError::Der } else { FrontError::NoCertificate });
    };
    let key = match keys.len() {
        0 => return Err(FrontError::NoKey),
        1 => &keys[0],
        many => return Err(FrontError::ManyKeys(many)),
    };
    let kind = kind(first);
    // No kind that can be used is longer.
    let signs = (key.1.len() <= KEY_BYTES_MAX).then(|| any_supported_type(&private(key)).ok()).flatten();
    let signs = signs.ok_or_else(|| FrontError::Kind(kind.clone()))?;
    let is_of =
        |der: &Vec<u8>| CertifiedKey::new(vec![CertificateDer::from(der.clone())], signs.clone()).keys_match().is_ok();
    match chain.iter().position(is_of) {
        Some(0) => {}
        Some(at) => return Err(FrontError::NotFirst { number: at + 1 }),
        None => return Err(FrontError::OtherKey(shown(first.subject()))),
    }
    for (at, pair) in certificates.windows(2).enumerate() {
        let (certified, by) = (&pair[0], &pair[1]);
        if certified.issuer().as_raw() != by.subject().as_raw() {
            let (is, wanted) = (shown(by.subject()), shown(certified.issuer()));
            return Err(FrontError::Order { number: at + 2, is, wanted });
        }
    }
    let usage = first.extended_key_usage().map_err(|_| FrontError::Unreadable { number: 1 })?;
    if usage.is_some_and(|usage| !usage.value.any && !usage.value.server_auth) {
        return Err(FrontError::NotForServers);
    }
    let validity = first.validity();
    let moment = |s: i64| WallTime(u64::try_from(s).unwrap_or(0).saturating_mul(1_000));
    let facts = Facts {
        names: domains(first)?,
        not_before: moment(validity.not_before.timestamp()),
        not_after: moment(validity.not_after.timestamp()),
        issuer: cut(&shown(first.issuer())),
        serial: hex(first.raw_serial()),
        fingerprint: hex(&fingerprint(&chain[0])),
        key: kind,
    };
    let chain = chain.iter().map(|der| write("CERTIFICATE", der)).collect();
    Ok(Front { facts, chain, key: write(label(key.0), &key.1) })
}

type Part = (SectionKind, Vec<u8>);

/// The certificates and the keys of a text, in order.
fn parts(text: &[u8]) -> Result<(Vec<Vec<u8>>, Vec<Part>), FrontError> {
    // The one is a kind of part that is not told, the other a line before Base64 (RFC 1421, section 4.6.1.1).
    let marks: [&[u8]; 2] = [b"-----BEGIN ENCRYPTED PRIVATE KEY", b"Proc-Type: 4,ENCRYPTED"];
    if marks.iter().any(|mark| text.windows(mark.len()).any(|part| part == *mark)) {
        return Err(FrontError::Encrypted);
    }
    let (mut chain, mut keys) = (Vec::new(), Vec::new());
    for part in <(SectionKind, Vec<u8>)>::pem_slice_iter(text) {
        let (kind, der): Part = part.map_err(|_: pem::Error| FrontError::Damaged)?;
        match kind {
            SectionKind::Certificate => chain.push(der),
            SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey => keys.push((kind, der)),
            _ => {}
        }
    }
    if chain.len() > CHAIN_MAX {
        return Err(FrontError::LongChain(chain.len()));
    }
    Ok((chain, keys))
}

fn read(number: usize, der: &[u8]) -> Result<X509Certificate<'_>, FrontError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(FrontError::Unreadable { number }),
    }
}

fn private((kind, der): &Part) -> PrivateKeyDer<'_> {
    match kind {
        SectionKind::RsaPrivateKey => PrivatePkcs1KeyDer::from(der.as_slice()).into(),
        SectionKind::EcPrivateKey => PrivateSec1KeyDer::from(der.as_slice()).into(),
        _ => PrivatePkcs8KeyDer::from(der.as_slice()).into(),
    }
}

fn label(kind: SectionKind) -> &'static str {
    match kind {
        SectionKind::RsaPrivateKey => "RSA PRIVATE KEY",
        SectionKind::EcPrivateKey => "EC PRIVATE KEY",
        _ => "PRIVATE KEY",
    }
}

/// The kind of a certificate's key, in words.
fn kind(certificate: &X509Certificate<'_>) -> String {
    let public = certificate.public_key();
    let curve = public.algorithm.parameters.as_ref().and_then(|it| it.as_oid().ok()).map(|oid| oid.to_id_string());
    match public.algorithm.algorithm.to_id_string().as_str() {
        // RFC 8410, RFC 5480, RFC 8017.
        "1.3.101.112" => "Ed25519".to_owned(),
        "1.2.840.10045.2.1" => match curve.as_deref() {
            Some("1.2.840.10045.3.1.7") => "ECDSA P-256".into(),
            Some("1.3.132.0.34") => "ECDSA P-384".into(),
            Some("1.3.132.0.35") => "ECDSA P-521".into(),
            _ => "ECDSA on another curve".into(),
        },
        "1.2.840.113549.1.1.1" => match public.parsed() {
            Ok(PublicKey::RSA(rsa)) => format!("RSA {}", rsa.key_size()),
            _ => "RSA".into(),
        },
        other => other.chars().take(SHOWN_CHARS_MAX).collect(),
    }
}

/// The domains it is for. Addresses and others among its names are passed over: nobody asks for them by name.
fn domains(certificate: &X509Certificate<'_>) -> Result<BTreeSet<String>, FrontError> {
    let names = certificate.subject_alternative_name().map_err(|_| FrontError::Unreadable { number: 1 })?;
    let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    let mut domains = BTreeSet::new();
    for name in names {
        let GeneralName::DNSName(name) = name else { continue };
        let domain = name.to_ascii_lowercase();
        if !is_domain(&domain) {
            return Err(FrontError::NoDomain(printable(name)));
        }
        domains.insert(domain);
    }
    match domains.len() {
        0 => Err(FrontError::NoDomains),
        many if many > NAMES_MAX => Err(FrontError::ManyDomains(many)),
        _ => Ok(domains),
    }
}

/// What people call it: its common name and its organization, as far as it has them.
fn shown(name: &X509Name<'_>) -> String {
    let common = name.iter_common_name().next().and_then(|it| it.as_str().ok());
    let organization = name.iter_organization().next().and_then(|it| it.as_str().ok());
    let words: Vec<String> = common.into_iter().chain(organization).map(printable).collect();
    if words.is_empty() { "nobody".into() } else { words.join(", ") }
}

/// What can be printed of a text that anybody may have written.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(SHOWN_CHARS_MAX).collect()
}

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(ISSUER_BYTES_MAX)].to_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A part of PEM.
fn write(label: &str, der: &[u8]) -> String {
    let body = BASE64.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(PEM_COLUMNS));
        // Writing into a String cannot fail.
        let _ = writeln!(text, "{line}");
        rest = more;
    }
    let _ = writeln!(text, "-----END {label}-----");
    text
}

/// Reads a text as somebody may bring one ([`crate::decoders`]).
pub(super) fn decode(text: &[u8]) {
    drop(front(text));
}

/// A text with this chain and this key.
pub(super) fn sample(chain: &[&[u8]], pkcs8: &[u8]) -> Vec<u8> {
    let chain: String = chain.iter().map(|der| write("CERTIFICATE", der)).collect();
    (chain + &write("PRIVATE KEY", pkcs8)).into_bytes()
}

#[cfg(test)]
mod tests;
