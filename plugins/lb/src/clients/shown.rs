//! What is said of a certificate that a client showed: once for its connection, for instances, logs and people.
//!
//! A name is written as RFC 4514 has it, the most particular part first, and all that could be taken for another part of it, or for the
//! end of a line, is escaped: whoever compares it with a text compares the whole name. One that is too long is not said at all, for half
//! of it might be somebody else's.

use std::fmt::Write;

use data_encoding::{BASE64, HEXLOWER};
use http::HeaderValue;
use ring::digest::{SHA256, digest};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// Longest name that is said. Those of people have a hundred bytes.
const SUBJECT_BYTES_MAX: usize = 1024;
/// Longest certificate that is told whole: programs take heads of eight kilobytes.
const WHOLE_BYTES_MAX: usize = 3 * 1024;

/// Kinds of attributes that have a short name (RFC 4514, section 3), and the one that people know besides.
const SHORT: [(&str, &str); 10] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "STREET"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

/// A certificate that was shown, and found good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Whose it is: `CN=anna,O=shop`. None if that is too long, or nobody's.
    pub subject: Option<HeaderValue>,
    /// SHA-256 of all of it, in hexadecimal digits.
    pub fingerprint: HeaderValue,
    /// All of it, as a byte sequence (RFC 9440, section 2.1); none if it is too long.
    pub whole: Option<HeaderValue>,
}

impl Shown {
    /// What is said of `leaf`.
    pub fn of(leaf: &CertificateDer<'_>) -> Self {
        let value = |text: String| HeaderValue::try_from(text).ok();
        let read = X509Certificate::from_der(leaf).ok();
        let subject = read.and_then(|(_, certificate)| name(certificate.subject())).and_then(value);
        let whole = (leaf.len() <= WHOLE_BYTES_MAX).then(|| format!(":{}:", BASE64.encode(leaf))).and_then(value);
        let fingerprint = value(HEXLOWER.encode(digest(&SHA256, leaf).as_ref()));
        Self { subject, fingerprint: fingerprint.unwrap_or(HeaderValue::from_static("")), whole }
    }

    /// Whose it is, for people; empty if nobody says.
    pub fn subject(&self) -> &str {
        self.subject.as_ref().and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Both, for people.
    pub fn words(&self) -> String {
        let subject = if self.subject().is_empty() { "(no name)" } else { self.subject() };
        format!("{subject}, SHA-256 {}", self.fingerprint())
    }

    /// Its SHA-256, for people.
    pub fn fingerprint(&self) -> &str {
        self.fingerprint.to_str().unwrap_or_default()
    }
}

/// A name in words; none if it is empty, or too long.
fn name(name: &X509Name<'_>) -> Option<String> {
    let parts: Vec<_> = name.iter_rdn().collect();
    let mut out = String::new();
    for part in parts.into_iter().rev() {
        for (number, attribute) in part.iter().enumerate() {
            match (number, out.is_empty()) {
                (0, true) => {}
                (0, false) => out.push(','),
                _ => out.push('+'),
            }
            write_attribute(attribute, &mut out);
        }
    }
    (!out.is_empty() && out.len() <= SUBJECT_BYTES_MAX).then_some(out)
}

fn write_attribute(attribute: &AttributeTypeAndValue<'_>, out: &mut String) {
    let oid = attribute.attr_type().to_id_string();
    let kind = SHORT.iter().find(|(number, _)| *number == oid).map_or(oid.as_str(), |(_, word)| word);
    out.push_str(kind);
    out.push('=');
    match attribute.as_str() {
        Ok(text) => escape(text, out),
        // Of a kind that is no text.
        Err(_) => {
            out.push('#');
            out.push_str(&HEXLOWER.encode(attribute.as_slice()));
        }
    }
}

/// RFC 4514, section 2.4; what is no plain ASCII in digits, so that it can stand in a header field.
fn escape(text: &str, out: &mut String) {
    let last = text.len().saturating_sub(1);
    for (at, byte) in text.bytes().enumerate() {
        let at_end = (at == 0 && matches!(byte, b' ' | b'#')) || (at == last && byte == b' ');
        match byte {
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' => out.extend(['\\', char::from(byte)]),
            b' '..=b'~' if at_end => out.extend(['\\', char::from(byte)]),
            b' '..=b'~' => out.push(char::from(byte)),
            // Writing into a String cannot fail.
            _ => drop(write!(out, "\\{byte:02x}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    use super::*;

    fn shown(parts: &[(DnType, &str)]) -> Shown {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        for (kind, text) in parts {
            params.distinguished_name.push(kind.clone(), *text);
        }
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        Shown::of(certificate.der())
    }

    #[test]
    fn a_name_is_written_the_most_particular_part_first() {
        let parts = [(DnType::CountryName, "DE"), (DnType::OrganizationName, "Shop"), (DnType::CommonName, "anna")];
        let shown = shown(&parts);
        assert_eq!(shown.subject(), "CN=anna,O=Shop,C=DE");
        assert_eq!(shown.fingerprint().len(), 64);
        let whole = shown.whole.unwrap();
        let text = whole.to_str().unwrap();
        assert!(text.starts_with(":MII") && text.ends_with(':'), "{text}");
    }

    #[test]
    fn no_name_passes_for_another() {
        for (text, written) in [
            ("anna,O=Admins", "CN=anna\\,O=Admins"),
            ("a+b", "CN=a\\+b"),
            (" a ", "CN=\\ a\\ "),
            ("#a", "CN=\\#a"),
            ("back\\slash", "CN=back\\\\slash"),
            ("Zoë\r\nx: y", "CN=Zo\\c3\\ab\\0d\\0ax: y"),
        ] {
            assert_eq!(shown(&[(DnType::CommonName, text)]).subject(), written);
        }
    }

    #[test]
    fn what_is_too_long_or_not_there_is_not_said() {
        assert_eq!(shown(&[(DnType::CommonName, &"a".repeat(SUBJECT_BYTES_MAX))]).subject, None);
        assert_eq!(shown(&[]).subject, None);
        assert_eq!(shown(&[(DnType::CommonName, &"a".repeat(WHOLE_BYTES_MAX))]).whole, None);
        let broken = Shown::of(&CertificateDer::from(vec![1, 2, 3]));
        assert_eq!((broken.subject(), broken.fingerprint().len()), ("", 64));
    }

    proptest! {
        #[test]
        fn whatever_a_name_holds_it_is_one_value_of_a_field(text in "\\PC{0,40}|.{0,40}") {
            let mut out = String::new();
            escape(&text, &mut out);
            prop_assert!(out.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            prop_assert!(HeaderValue::try_from(out).is_ok());
        }
    }
}
