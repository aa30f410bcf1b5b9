//! Certificates of every kind that people have, and what is wrong with them.

use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SignatureAlgorithm, date_time_ymd,
};

use super::*;

fn params(common: &str, names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common);
    params.distinguished_name.push(DnType::OrganizationName, "A shop");
    (params.not_before, params.not_after) = (date_time_ymd(2026, 1, 1), date_time_ymd(2026, 12, 31));
    params
}

/// A certificate and its key, self-signed.
fn own(algorithm: &'static SignatureAlgorithm, names: &[&str]) -> (String, String) {
    let key = KeyPair::generate_for(algorithm).unwrap();
    (params("own", names).self_signed(&key).unwrap().pem(), key.serialize_pem())
}

/// Root, one that it certifies and that certifies others, a certificate of that one, and the key of this.
fn certified() -> ([String; 3], String) {
    let key = || KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let (root_key, middle_key, key) = (key(), key(), key());
    let authority = |common: &str| {
        let mut params = params(common, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    };
    let root = authority("Root").self_signed(&root_key).unwrap();
    let root_issues = Issuer::new(authority("Root"), &root_key);
    let middle = authority("Middle").signed_by(&middle_key, &root_issues).unwrap();
    let middle_issues = Issuer::new(authority("Middle"), &middle_key);
    let leaf = params("shop", &["shop.example.com", "*.Shop.Example.com", "127.0.0.1"]);
    let leaf = leaf.signed_by(&key, &middle_issues).unwrap();
    ([leaf.pem(), middle.pem(), root.pem()], key.serialize_pem())
}

fn of(parts: &[&str]) -> Result<Front, FrontError> {
    front(parts.concat().as_bytes())
}

#[test]
fn a_chain_and_its_key_are_read_in_whatever_order_the_key_comes() {
    let ([leaf, middle, root], key) = certified();
    let read = of(&[&leaf, &middle, &key]).unwrap();
    let facts = &read.facts;
    assert_eq!(facts.names, ["*.shop.example.com".to_owned(), "shop.example.com".to_owned()].into());
    assert_eq!((facts.issuer.as_str(), facts.key.as_str()), ("Middle, A shop", "ECDSA P-256"));
    assert_eq!((facts.not_before.0, facts.not_after.0), (1_767_225_600_000, 1_798_675_200_000));
    assert_eq!(facts.fingerprint.len(), 64);
    assert!(!facts.serial.is_empty());
    for parts in [[&key, &leaf, &middle], [&leaf, &key, &middle]] {
        assert_eq!(of(&parts.map(String::as_str)).unwrap(), read);
    }
    // A root at the end does no harm.
    let long = of(&[&leaf, &middle, &root, &key]).unwrap();
    assert_eq!(long.chain.matches("BEGIN CERTIFICATE").count(), 3);
    // Line ends of another kind, and text around the parts, are passed over: the same comes out.
    let windows =
        format!("Bag Attributes\r\n\tfriendlyName: shop\r\n{leaf}\n\n{middle}junk\n{key}").replace('\n', "\r\n");
    assert_eq!(front(windows.as_bytes()).unwrap(), read);
    assert_eq!(of(&[&read.chain, &read.key]).unwrap(), read, "what is kept is read as what was brought");
    assert!(!format!("{read:?}").contains("PRIVATE"));
}

#[test]
fn every_kind_that_can_sign_is_taken() {
    for (algorithm, kind) in
        [(&PKCS_ECDSA_P256_SHA256, "ECDSA P-256"), (&PKCS_ECDSA_P384_SHA384, "ECDSA P-384"), (&PKCS_ED25519, "Ed25519")]
    {
        let (certificate, key) = own(algorithm, &["a.example"]);
        let read = of(&[&certificate, &key]).unwrap();
        assert_eq!((read.facts.key.as_str(), read.facts.issuer.as_str()), (kind, "own, A shop"));
    }
}

#[test]
fn what_is_wrong_is_said_without_a_word_of_the_key() {
    let ([leaf, middle, root], key) = certified();
    let (other, other_key) = own(&PKCS_ED25519, &["other.example"]);
    let secret: String = key.lines().nth(1).unwrap().into();
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let old = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
    let strange = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let cut: String = key.lines().take(2).map(|line| format!("{line}\n")).collect();
    let long = leaf.repeat(CHAIN_MAX + 1);
    for (parts, words) in [
        (vec!["", &key], "no certificate is in there"),
        (vec!["rubbish"], "no certificate is in there"),
        (vec![&leaf, &middle], "no private key is in there"),
        (vec![&leaf, &key, &other_key], "2 private keys are in there"),
        (vec![&leaf, encrypted], "is encrypted"),
        (vec![&leaf, old], "is encrypted"),
        (vec![&leaf, strange], "is of no kind that can be used"),
        (vec![&leaf, &cut], "the PEM is damaged"),
        (vec![&leaf, &other_key], "the private key is not that of the certificate for shop, A shop"),
        (vec![&middle, &leaf, &key], "the key is that of certificate 2 of the chain, which must come first"),
        (
            vec![&leaf, &root, &middle, &key],
            "certificate 2 of the chain is of \"Root, A shop\", and the one before it is certified by \"Middle, A shop\"",
        ),
        (vec![&leaf, &other, &key], "certificate 2 of the chain is of \"own, A shop\""),
        (vec![&long, &key], "11 certificates exceed the 10"),
        (
            vec!["-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", &key],
            "certificate 1 of the chain cannot be read",
        ),
    ] {
        let error = of(&parts).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert!(!error.contains(&secret) && !error.contains("AAAA"), "{error}");
    }
    assert_eq!(front(&[0x30, 0x82, 1, 2]), Err(FrontError::Der));
    assert!(FrontError::Der.next().unwrap().contains("-inform der"));
}

#[test]
fn a_certificate_that_clients_would_not_take_for_a_name_is_refused() {
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let refused = |params: CertificateParams| {
        let certificate = params.self_signed(&key).unwrap().pem();
        of(&[&certificate, &key.serialize_pem()]).unwrap_err()
    };
    assert_eq!(refused(params("shop.example.com", &[])), FrontError::NoDomains);
    assert_eq!(refused(params("shop", &["127.0.0.1"])), FrontError::NoDomains);
    assert_eq!(refused(params("shop", &["a.example", "*.*.example"])), FrontError::NoDomain("*.*.example".into()));
    let many: Vec<String> = (0..=NAMES_MAX).map(|number| format!("n{number}.example")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(refused(params("shop", &many)), FrontError::ManyDomains(NAMES_MAX + 1));
    let mut client = params("shop", &["a.example"]);
    client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    assert_eq!(refused(client), FrontError::NotForServers);
    let mut both = params("sho\u{7}p", &["a.example"]);
    both.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = both.self_signed(&key).unwrap().pem();
    let read = of(&[&certificate, &key.serialize_pem()]).unwrap();
    assert_eq!(read.facts.issuer, "shop, A shop", "a terminal is not rung at");
}

proptest! {
    #[test]
    fn no_text_whatever_brings_it_down(text in prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..400),
        "(-----BEGIN (CERTIFICATE|PRIVATE KEY|EC PRIVATE KEY)-----\n[A-Za-z0-9+/=\n]{0,80}\n-----END (CERTIFICATE|PRIVATE KEY)-----\n){0,3}"
            .prop_map(String::into_bytes),
    ]) {
        drop(front(&text));
    }
}
