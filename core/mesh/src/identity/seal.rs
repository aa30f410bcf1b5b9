//! The key with which secrets of the control state are sealed. Only voters and spares hold it.
//!
//! A key is recognized by a hash of it, which the control state names. While another one is being handed round, those who take part
//! hold both, and let go of the older only when their own control state names the newer: whatever they read, they can open.

use hirsel_model::codec;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use serde::{Deserialize, Serialize};

use super::{IdentityError, NodeKey, sha256};
use crate::seam::{Chance, Disk};

/// Where voters and spares keep what they hold, in the data folder. One key alone is its 32 bytes.
pub const SEALING_FILE: &str = "sealing-key";
/// Bytes of the hash by which a key is recognized.
const ID_BYTES: usize = 8;
/// Keys held at a time: the one in force, and one for each leader that offered another and was not followed yet.
const KEYS_MAX: usize = 16;

/// Seals and opens what the control state must keep but not show. ChaCha20-Poly1305 with a random nonce in front.
#[derive(Clone, PartialEq, Eq)]
pub struct SealingKey([u8; 32]);

impl SealingKey {
    /// A fresh one.
    pub fn draw(chance: &dyn Chance) -> SealingKey {
        let mut key = [0; 32];
        chance.fill(&mut key);
        SealingKey(key)
    }

    /// One that another voter gave.
    pub fn from_bytes(bytes: &[u8]) -> Result<SealingKey, IdentityError> {
        let key = bytes.try_into();
        key.map(SealingKey).map_err(|_| IdentityError::Key(format!("sealing key of {} bytes, not 32", bytes.len())))
    }

    /// To give to another voter, and to nobody else.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// By what the control state names it, without telling it: part of its hash, in hexadecimal digits.
    pub fn id(&self) -> String {
        sha256(&[b"hirsel sealing key", &self.0])[..ID_BYTES].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The key of a node for what it keeps for itself alone.
    pub fn of_node(node: &NodeKey) -> SealingKey {
        SealingKey(sha256(&[b"hirsel node keeps", node.pkcs8()]))
    }

    /// Seals `plain`; only `open` with the same `purpose` opens it.
    pub fn seal(&self, purpose: &str, plain: &[u8], chance: &dyn Chance) -> Vec<u8> {
        let mut nonce = [0; NONCE_LEN];
        chance.fill(&mut nonce);
        let mut sealed = plain.to_vec();
        self.cipher()
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(purpose), &mut sealed)
            .expect("far less than the cipher's limit of 256 GiB");
        [nonce.as_slice(), &sealed].concat()
    }

    /// What was sealed with this key for `purpose`; none if it was not, or was altered.
    pub fn open(&self, purpose: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let mut plain = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = self.cipher().open_in_place(nonce, Aad::from(purpose), &mut plain).ok()?.len();
        plain.truncate(length);
        Some(plain)
    }

    fn cipher(&self) -> LessSafeKey {
        LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &self.0).expect("the cipher's key has 32 bytes"))
    }
}

impl std::fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealingKey")
    }
}

/// The sealing keys that a node holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keyring(Vec<Held>);

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Held {
    #[serde(with = "serde_bytes")]
    key: [u8; 32],
    /// Id of the key that it is to follow, as far as that is known.
    base: String,
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} after {:?}", SealingKey(self.key).id(), self.base)
    }
}

impl Keyring {
    /// What is kept in the data folder.
    pub fn load(disk: &dyn Disk) -> Result<Keyring, IdentityError> {
        let Some(bytes) = disk.read(SEALING_FILE)? else { return Ok(Keyring::default()) };
        if let Ok(key) = <[u8; 32]>::try_from(bytes.as_slice()) {
            return Ok(Keyring(vec![Held { key, base: String::new() }]));
        }
        let held = codec::decode(&bytes);
        held.map(Keyring).map_err(|error| IdentityError::Damaged { what: SEALING_FILE, why: error.to_string() })
    }

    /// Keeps it, durably; nothing is kept of an empty one.
    pub fn save(&self, disk: &dyn Disk) -> Result<(), IdentityError> {
        match self.0.as_slice() {
            [] => Ok(disk.remove(SEALING_FILE)?),
            [one] => Ok(disk.write(SEALING_FILE, &one.key)?),
            all => Ok(disk.write(SEALING_FILE, &codec::encode(all))?),
        }
    }

    /// One key alone.
    pub fn of(key: &SealingKey) -> Keyring {
        Keyring(vec![Held { key: key.0, base: String::new() }])
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The key named `id`. Without a name it is the oldest: where keys have no names yet, there is one.
    pub fn get(&self, id: &str) -> Option<SealingKey> {
        let keys = || self.0.iter().map(|held| SealingKey(held.key));
        if id.is_empty() { keys().next() } else { keys().find(|key| key.id() == id) }
    }

    /// Adds a key that is to follow the one named `base`, or has followed it.
    pub fn add(&mut self, key: &SealingKey, base: &str) {
        if self.0.iter().any(|held| held.key == key.0) {
            return;
        }
        self.0.push(Held { key: key.0, base: base.into() });
        if self.0.len() > KEYS_MAX {
            // The first may be in force.
            self.0.remove(1);
        }
    }

    /// The key named `id` is in force: lets go of the one before it and of others that would have followed that. Nothing changes
    /// while the key named is not held. Returns whether anything did.
    pub fn settle(&mut self, id: &str) -> bool {
        let Some(base) = self.0.iter().find(|held| SealingKey(held.key).id() == id).map(|held| held.base.clone())
        else {
            return false;
        };
        let before = self.0.len();
        self.0.retain(|held| {
            let own = SealingKey(held.key).id();
            own == id || base.is_empty() || (own != base && held.base != base)
        });
        self.0.len() != before
    }

    /// The key that was held before any other came.
    pub fn oldest(&self) -> String {
        self.0.first().map(|held| SealingKey(held.key).id()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seam::real;

    #[test]
    fn a_key_is_let_go_only_when_another_is_in_force() {
        let folder = tempfile::tempdir().unwrap();
        let world = real::world(folder.path()).unwrap();
        let (disk, chance) = (world.disk.as_ref(), world.chance.as_ref());
        let keys: Vec<SealingKey> = (0..4).map(|_| SealingKey::draw(chance)).collect();
        let id = |number: usize| keys[number].id();
        Keyring::of(&keys[0]).save(disk).unwrap();
        assert_eq!(disk.read(SEALING_FILE).unwrap().unwrap().len(), 32, "what any version reads");
        let mut ring = Keyring::load(disk).unwrap();
        // Two leaders offered one each.
        ring.add(&keys[1], &id(0));
        ring.add(&keys[2], &id(0));
        ring.add(&keys[2], &id(0));
        ring.save(disk).unwrap();
        let mut ring = Keyring::load(disk).unwrap();
        assert!(!ring.settle(&id(0)) && !ring.settle(&id(3)), "nothing else is in force");
        assert!((0..3).all(|number| ring.get(&id(number)).as_ref() == Some(&keys[number])));
        assert_eq!(ring.get("").as_ref(), Some(&keys[0]));
        assert!(ring.settle(&id(2)));
        assert_eq!((ring.get(&id(0)), ring.get(&id(1)), ring.get(&id(2))), (None, None, Some(keys[2].clone())));
        // Whoever starts again with an older state for a moment loses nothing.
        assert!(!ring.settle(&id(0)));
        ring.add(&keys[3], &id(2));
        assert!(!ring.settle(&id(2)));
        assert!(ring.settle(&id(3)));
        ring.save(disk).unwrap();
        assert_eq!(Keyring::load(disk).unwrap(), Keyring::of(&keys[3]));
        Keyring::default().save(disk).unwrap();
        assert!(Keyring::load(disk).unwrap().is_empty());
    }

    #[test]
    fn however_many_are_offered_the_one_in_force_stays() {
        let folder = tempfile::tempdir().unwrap();
        let chance = real::world(folder.path()).unwrap().chance;
        let first = SealingKey::draw(chance.as_ref());
        let mut ring = Keyring::of(&first);
        for _ in 0..3 * KEYS_MAX {
            ring.add(&SealingKey::draw(chance.as_ref()), &first.id());
        }
        assert_eq!((ring.0.len(), ring.get(&first.id())), (KEYS_MAX, Some(first)));
    }
}
