//! The key with which secrets of the control state are sealed. Only voters and spares hold it.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use super::IdentityError;
use crate::seam::{Chance, Disk};

/// Where voters and spares keep it.
const FILE: &str = "sealing-key";

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

    /// The one kept in the data folder, if this node holds it.
    pub fn load(disk: &dyn Disk) -> Result<Option<SealingKey>, IdentityError> {
        let Some(bytes) = disk.read(FILE)? else { return Ok(None) };
        let key = Self::from_bytes(&bytes);
        key.map(Some).map_err(|error| IdentityError::Damaged { what: FILE, why: error.to_string() })
    }

    /// Keeps it, durably.
    pub fn save(&self, disk: &dyn Disk) -> Result<(), IdentityError> {
        Ok(disk.write(FILE, &self.0)?)
    }

    /// Forgets it: this node is neither voter nor spare any more.
    pub fn forget(disk: &dyn Disk) -> Result<(), IdentityError> {
        Ok(disk.remove(FILE)?)
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
