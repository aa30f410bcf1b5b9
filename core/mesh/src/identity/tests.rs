//! Keys, certificates, seals and tokens, whole and damaged.

use std::sync::atomic::{AtomicU64, Ordering};

use super::token::{CHARS, PREFIX};
use super::*;

/// Chance for tests: every byte differs from the one before, every instance begins elsewhere.
#[derive(Debug)]
pub(crate) struct Counting(pub(crate) AtomicU64);

impl Counting {
    pub(crate) fn from(seed: u64) -> Self {
        Self(AtomicU64::new(seed << 32))
    }
}

impl Chance for Counting {
    fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(32) {
            let n = self.0.fetch_add(1, Ordering::Relaxed);
            chunk.copy_from_slice(&sha256(&[&n.to_be_bytes()])[..chunk.len()]);
        }
    }
}

const WALL: hirsel_model::WallTime = hirsel_model::WallTime(1_800_000_000_000);
const DAY_MS: u64 = 86_400_000;

fn cluster() -> ClusterId {
    draw_cluster_id(&Counting::from(9))
}

fn identity(authority: &Authority, node: u64) -> Identity {
    let key = NodeKey::generate(&Counting::from(100 + node));
    Identity {
        cluster: cluster(),
        node: NodeId(node),
        name: format!("n{node}").parse().unwrap(),
        ca: authority.certificate().to_vec(),
        former: Vec::new(),
        cert: authority.issue(NodeId(node), &cluster(), &key.csr(), WALL).unwrap(),
        key: key.pkcs8().to_vec(),
        reset_seed: [7; 32],
        incarnation: Incarnation(1),
    }
}

#[test]
fn a_cluster_id_is_a_dns_label() {
    hirsel_model::check_name(&cluster().0).unwrap();
    assert_eq!(cluster().0.len(), CLUSTER_ID_CHARS);
}

#[test]
fn a_certificate_names_node_cluster_and_key() {
    let authority = Authority::create(&cluster(), &Counting::from(1), WALL);
    let key = NodeKey::generate(&Counting::from(2));
    let der = authority.issue(NodeId(3), &cluster(), &key.csr(), WALL).unwrap();
    let said = certified(&der, &cluster()).unwrap();
    assert_eq!((said.node, said.key), (NodeId(3), key.public()));
    assert_eq!(said.not_after, (WALL.0 + 30 * DAY_MS) / 1000);
    assert!(said.not_before < WALL.0 / 1000);
    assert!(certified(&der, &ClusterId("another".into())).is_err());
}

#[test]
fn a_certificate_is_due_after_a_third_of_its_life_and_late_in_its_last_tenth() {
    let authority = Authority::create(&cluster(), &Counting::from(1), WALL);
    let said = certified(&identity(&authority, 1).cert, &cluster()).unwrap();
    let after = |days: u64| said.age(hirsel_model::WallTime(WALL.0 + days * DAY_MS));
    assert_eq!([0, 8, 10, 26, 27, 29, 30, 400].map(after), {
        use Age::{Due, Expired, Fresh, Late};
        [Fresh, Fresh, Due, Due, Late, Late, Expired, Expired]
    });
    assert_eq!(said.age(hirsel_model::WallTime(WALL.0 - 2 * DAY_MS)), Age::Due, "made by a clock that was ahead");
}

#[test]
fn a_request_that_was_altered_is_refused() {
    let authority = Authority::create(&cluster(), &Counting::from(1), WALL);
    let csr = NodeKey::generate(&Counting::from(2)).csr();
    for index in 0..csr.len() {
        let mut altered = csr.clone();
        altered[index] ^= 1;
        // A few bits (of the encoding of flags) change nothing; then the key is still the one that signed.
        if let Ok(der) = authority.issue(NodeId(3), &cluster(), &altered, WALL) {
            let original = authority.issue(NodeId(3), &cluster(), &csr, WALL).unwrap();
            assert_eq!(certified(&der, &cluster()).unwrap(), certified(&original, &cluster()).unwrap());
        }
    }
    for length in 0..csr.len() {
        assert!(authority.issue(NodeId(3), &cluster(), &csr[..length], WALL).is_err());
    }
}

#[test]
fn reading_a_damaged_certificate_never_panics() {
    let authority = Authority::create(&cluster(), &Counting::from(1), WALL);
    let der = identity(&authority, 3).cert;
    for index in 0..der.len() {
        for bit in [1, 0x80] {
            let mut altered = der.clone();
            altered[index] ^= bit;
            let _ = certified(&altered, &cluster());
        }
        assert!(certified(&der[..index], &cluster()).is_err());
    }
}

#[test]
fn an_identity_is_loaded_as_it_was_saved() {
    let folder = tempfile::tempdir().unwrap();
    let disk = crate::seam::real::FolderDisk::open(folder.path()).unwrap();
    assert!(Identity::load(&disk).unwrap().is_none());
    let authority = Authority::create(&cluster(), &Counting::from(1), WALL);
    let saved = identity(&authority, 3);
    saved.save(&disk).unwrap();
    let loaded = Identity::load(&disk).unwrap().unwrap();
    assert_eq!(loaded, saved);
    assert_eq!(loaded.public_key(), certified(&saved.cert, &cluster()).unwrap().key);
}

#[test]
fn a_damaged_or_mixed_up_identity_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let disk = crate::seam::real::FolderDisk::open(folder.path()).unwrap();
    disk.write(IDENTITY_FILE, b"not an identity").unwrap();
    let error = Identity::load(&disk).unwrap_err();
    assert!(matches!(error, IdentityError::Damaged { .. }), "{error}");
    let authority = Authority::create(&cluster(), &Counting::from(1), WALL);
    let mut mixed = identity(&authority, 3);
    mixed.key = identity(&authority, 4).key;
    mixed.save(&disk).unwrap();
    assert!(Identity::load(&disk).unwrap_err().to_string().contains("another key"));
}

#[test]
fn the_authority_comes_back_from_its_seal_and_only_with_its_key() {
    let chance = Counting::from(5);
    let authority = Authority::create(&cluster(), &chance, WALL);
    let key = SealingKey::draw(&chance);
    let sealed = authority.seal(&key, &chance);
    let back = Authority::unseal(&key, authority.certificate(), &sealed).unwrap();
    let csr = NodeKey::generate(&chance).csr();
    let issued = |authority: &Authority| authority.issue(NodeId(1), &cluster(), &csr, WALL).unwrap();
    assert_eq!(issued(&back), issued(&authority));
    assert!(Authority::unseal(&SealingKey::draw(&chance), authority.certificate(), &sealed).is_err());
    let other = Authority::create(&cluster(), &chance, WALL);
    assert!(Authority::unseal(&key, other.certificate(), &sealed).is_err());
    for index in 0..sealed.len() {
        let mut altered = sealed.clone();
        altered[index] ^= 1;
        assert!(Authority::unseal(&key, authority.certificate(), &altered).is_err());
    }
}

#[test]
fn what_is_sealed_for_one_purpose_opens_for_no_other() {
    let chance = Counting::from(5);
    let key = SealingKey::draw(&chance);
    let sealed = key.seal("a", b"text", &chance);
    assert_eq!(key.open("a", &sealed).unwrap(), b"text");
    assert_eq!(key.open("b", &sealed), None);
    assert_eq!(key.open("a", &[]), None);
}

#[test]
fn a_token_survives_copying() {
    let token = JoinToken::create(&Counting::from(3), b"certificate");
    let text = token.to_string();
    assert!(text.bytes().all(|b| b.is_ascii_alphanumeric()), "{text} is one word");
    assert_eq!(text.parse::<JoinToken>().unwrap(), token);
    assert_eq!(text.to_uppercase().parse::<JoinToken>().unwrap(), token);
    assert_eq!(format!(" {}\n{} \n", &text[..40], &text[40..]).parse::<JoinToken>().unwrap(), token);
    assert_eq!(token.ca_fingerprint, fingerprint(b"certificate"));
    assert!(!format!("{token:?}").contains(&token.secret));
}

#[test]
fn a_token_that_is_not_whole_says_what_is_wrong_with_it() {
    let text = JoinToken::create(&Counting::from(3), b"certificate").to_string();
    let error = |text: &str| text.parse::<JoinToken>().unwrap_err();
    for length in PREFIX.len()..text.len() {
        assert_eq!(error(&text[..length]), TokenError::Length(length));
    }
    assert_eq!(error(""), TokenError::NotOne);
    assert_eq!(error("swordfish"), TokenError::NotOne);
    assert_eq!(error(&"hirsel".repeat(1000)), TokenError::NotOne);
    assert_eq!(error(&format!("hirsel{}", "ü".repeat(CHARS))), TokenError::NotOne);
    for index in PREFIX.len()..text.len() {
        let mut typed = text.clone().into_bytes();
        typed[index] = if typed[index] == b'7' { b'8' } else { b'7' };
        assert_eq!(error(std::str::from_utf8(&typed).unwrap()), TokenError::Checksum, "at {index}");
    }
}
