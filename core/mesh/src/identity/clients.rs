//! Certificates of those who certify clients of the front door, as far as they are only read.

use hirsel_model::spec::client_authorities;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Longest name that is repeated to people, in characters.
const SHOWN_CHARS_MAX: usize = 100;

/// Whether clients can be certified by what is in `pem`: a certificate that is no authority's would let in nobody.
///
/// # Errors
/// What is wrong, in words.
pub fn client_authority(pem: &str) -> Result<(), String> {
    for (number, der) in client_authorities(pem)?.iter().enumerate() {
        let number = number + 1;
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|_| format!("certificate {number} cannot be read"))?;
        if !rest.is_empty() {
            return Err(format!("certificate {number} has {} bytes behind its end", rest.len()));
        }
        if !certificate.is_ca() {
            let subject: String = certificate.subject().to_string().chars().take(SHOWN_CHARS_MAX).collect();
            return Err(format!(
                "certificate {number}, of {subject:?}, is no authority's (basicConstraints CA:TRUE): name the one that certifies clients"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

    use super::*;

    fn certificate(is_ca: IsCa) -> String {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = is_ca;
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
    }

    #[test]
    fn an_authority_may_certify_clients_and_nobody_else_may() {
        let (authority, other) = (certificate(IsCa::Ca(BasicConstraints::Unconstrained)), certificate(IsCa::NoCa));
        assert_eq!(client_authority(&authority.repeat(2)), Ok(()));
        let words = client_authority(&(authority + &other)).unwrap_err();
        assert!(words.starts_with("certificate 2, of \"CN=rcgen self signed cert\", is no authority's"), "{words}");
        let noise = "-----BEGIN CERTIFICATE-----\nAAEC\n-----END CERTIFICATE-----\n";
        assert_eq!(client_authority(noise).unwrap_err(), "certificate 1 cannot be read");
    }
}
