//! Certificates that clients of a host show (RFC 8446, section 4.3.2), and whose word is taken for them.
//!
//! What is asked for in the handshake holds for all that a connection carries, so it is one for all routes of a host. The certificates
//! of authorities stand in the manifest itself: they are no secret, a rollback brings back the former ones, and no second thing has to
//! be there first. Nothing here reads a certificate: that is done where it comes in, and where it is used.

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use super::is_default;

/// Authorities of a host: the old and the new one, and those of some partners.
pub const AUTHORITIES_MAX: usize = 16;
/// Bytes of all of them in PEM: sixteen with RSA keys of 2,048 bits fit.
pub const AUTHORITIES_BYTES_MAX: usize = 24 * 1024;

const BEGIN: &str = "-----BEGIN ";
const DASHES: &str = "-----";
const CERTIFICATE: &str = "CERTIFICATE";

/// Whose word is taken for clients, and whether there must be one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientCertificates {
    /// PEM: certificates of authorities, any of which may certify a client.
    pub authorities: String,
    /// Whether who shows none is served, too.
    #[serde(default, skip_serializing_if = "is_default")]
    pub optional: bool,
}

/// The certificates in `pem`, in DER: at least one, and nothing else but words between them.
///
/// # Errors
/// What is wrong, in words.
pub fn client_authorities(pem: &str) -> Result<Vec<Vec<u8>>, String> {
    if pem.len() > AUTHORITIES_BYTES_MAX {
        return Err(format!("{} bytes of certificates exceed {AUTHORITIES_BYTES_MAX}", pem.len()));
    }
    let mut found = Vec::new();
    let mut rest = pem;
    while let Some(at) = rest.find(BEGIN) {
        let begun = &rest[at + BEGIN.len()..];
        let Some((label, content)) = begun.split_once(DASHES) else { return Err(damaged(found.len())) };
        if label.contains("PRIVATE KEY") {
            return Err("a private key is in there: it stays with its authority; leave the certificate alone".into());
        }
        if label != CERTIFICATE {
            let label: String = label.chars().take(40).collect();
            return Err(format!("{label:?} is in there, and only certificates are read"));
        }
        let end = format!("{DASHES}END {CERTIFICATE}{DASHES}");
        let Some((content, behind)) = content.split_once(&end) else { return Err(damaged(found.len())) };
        let digits: String = content.split_ascii_whitespace().collect();
        match BASE64.decode(digits.as_bytes()) {
            Ok(der) if !der.is_empty() => found.push(der),
            Ok(_) | Err(_) => return Err(damaged(found.len())),
        }
        rest = behind;
    }
    match found.len() {
        0 => Err("no certificate is in there: one in PEM begins with -----BEGIN CERTIFICATE-----".into()),
        1..=AUTHORITIES_MAX => Ok(found),
        many => Err(format!("{many} certificates exceed {AUTHORITIES_MAX}")),
    }
}

fn damaged(whole: usize) -> String {
    format!("certificate {} has no end, or holds something else than Base64", whole + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ONE: &str = "-----BEGIN CERTIFICATE-----\nAAEC\nAwQF\n-----END CERTIFICATE-----\n";

    #[test]
    fn certificates_are_found_between_words() {
        assert_eq!(client_authorities(ONE).unwrap(), [[0, 1, 2, 3, 4, 5]]);
        let two = format!("the old one\n{ONE}\r\nthe new one\r\n{}", ONE.replace('\n', "\r\n"));
        assert_eq!(client_authorities(&two).unwrap().len(), 2);
    }

    #[test]
    fn what_is_no_certificate_is_said() {
        for (pem, says) in [
            (String::new(), "no certificate is in there"),
            ("the file ca.pem".to_owned(), "no certificate is in there"),
            (ONE.replace("CERTIFICATE", "EC PRIVATE KEY"), "a private key is in there"),
            (ONE.replace("CERTIFICATE", "X509 CRL"), "\"X509 CRL\" is in there"),
            (ONE.replace("AAEC", "A*EC"), "certificate 1 has no end, or holds something else than Base64"),
            (ONE.replace("AAEC\nAwQF\n", ""), "certificate 1 has no end"),
            (format!("{ONE}-----BEGIN CERTIFICATE-----\nAAEC"), "certificate 2 has no end"),
            (format!("{ONE}-----BEGIN CERTIFI"), "certificate 2 has no end"),
            (ONE.repeat(AUTHORITIES_MAX + 1), "17 certificates exceed 16"),
            (" ".repeat(AUTHORITIES_BYTES_MAX + 1), "24577 bytes of certificates exceed 24576"),
        ] {
            let words = client_authorities(&pem).unwrap_err();
            assert!(words.contains(says), "{pem}: {words}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(-----BEGIN |-----END |CERTIFICATE|-----|AAEC|\\PC|\n){0,12}") {
            let _ = client_authorities(&text);
        }
    }
}
