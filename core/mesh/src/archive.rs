//! A file that is sealed under a passphrase or a recovery key: the form of a backup, and nothing of what is inside.
//!
//! ```text
//! "hirsel backup\n" · format (u16) · length (u16) · head (MessagePack) · checksum (8)   all in the clear
//! pieces of 64 KiB, each sealed (ChaCha20-Poly1305) with its number as nonce and the head and its place as associated data
//! ```
//!
//! The head says how long all of it is, which level reads it, and how the key is made; so a file that is cut, that is newer than this
//! build, and one that is opened with a wrong passphrase are told apart, before anything is opened. Every format begins like this one.
//!
//! Keys: a passphrase is stretched with PBKDF2-HMAC-SHA256 (RFC 8018; its rounds are those of OWASP's Password Storage Cheat Sheet,
//! 2023). It is not the strongest there is, for it needs no memory; but it is part of the one source of primitives here, and whoever
//! needs more takes a recovery key, 256 bits that nobody chose. Each file has a salt of its own, so each key seals one file.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use hirsel_model::codec;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::{hmac, pbkdf2};
use serde::{Deserialize, Serialize};

use crate::identity::{base32, sha256};
use crate::seam::Chance;

const MAGIC: &[u8] = b"hirsel backup\n";
/// The format this build writes, and the newest it reads.
const FORMAT: u16 = 1;
const CHECKSUM_BYTES: usize = 8;
/// What is before the head: magic, format, length.
const FRONT_BYTES: usize = MAGIC.len() + 4;
/// Sealed in one go: what a stream carries well, and what is lost to a mistake is found early.
const PIECE_BYTES: usize = 64 << 10;
const TAG_BYTES: usize = 16;
/// Largest file: as much as is ever read whole from a data folder. A state of a thousand nodes is a tenth of it.
pub const FILE_BYTES_MAX: u64 = 64 << 20;
/// Rounds for a passphrase: a few tenths of a second for each guess.
pub const ROUNDS: u32 = 600_000;
/// A file cannot make anybody work for longer than some seconds.
const ROUNDS_MAX: u32 = 10_000_000;
/// Shortest passphrase. What is shorter is found by trying, whatever the rounds.
pub const PASSPHRASE_CHARS_MIN: usize = 12;

/// Why a file cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// Something else.
    #[error("this is no backup of hirsel")]
    NotOne,
    /// Written by a newer hirsel.
    #[error("the backup has format {0}, this hirsel reads up to {FORMAT}: use a hirsel as new as the one that made it")]
    Format(u16),
    /// Its head was changed.
    #[error("the backup is damaged: its head does not fit its checksum")]
    Head,
    /// Its end is missing.
    #[error("the backup is cut: it has {has} bytes of {wants}")]
    Cut {
        /// Bytes that are there.
        has: u64,
        /// Bytes that should be.
        wants: u64,
    },
    /// Something follows it.
    #[error("the backup is damaged: {more} bytes follow its end")]
    Longer {
        /// How many.
        more: u64,
    },
    /// Not the key it was sealed with.
    #[error("the {0} is wrong")]
    WrongKey(By),
    /// A recovery key that was mistyped.
    #[error(
        "this is no recovery key: one is a word that begins with {PREFIX:?}, as it was shown when the backup was made; copy it whole"
    )]
    NoKey,
    /// It was changed.
    #[error("the backup is damaged: what is at byte {at} and after it was altered")]
    Altered {
        /// Where the piece begins that does not open.
        at: u64,
    },
    /// There is too much of it.
    #[error("a backup of {bytes} bytes exceeds {FILE_BYTES_MAX}")]
    TooLarge {
        /// How much.
        bytes: u64,
    },
    /// Guessed too easily.
    #[error("a passphrase of {0} characters is too short, {PASSPHRASE_CHARS_MIN} are the least")]
    Short(usize),
}

/// What opens a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// Something a person chose.
    Passphrase,
    /// Something that was drawn ([`RecoveryKey`]).
    RecoveryKey,
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            By::Passphrase => "passphrase",
            By::RecoveryKey => "recovery key",
        })
    }
}

/// How the key of one file is made of what a person keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// Of what.
    pub by: By,
    /// Rounds of PBKDF2; none for a recovery key, which needs no stretching.
    pub rounds: u32,
    /// Of this file alone.
    #[serde(with = "serde_bytes")]
    pub salt: [u8; 32],
}

impl Lock {
    /// A new one.
    pub fn new(by: By, chance: &dyn Chance) -> Lock {
        let mut salt = [0; 32];
        chance.fill(&mut salt);
        let rounds = if by == By::Passphrase { ROUNDS } else { 0 };
        Lock { by, rounds, salt }
    }

    /// The key, from what a person keeps. With a passphrase this takes some tenths of a second.
    ///
    /// # Errors
    /// When `secret` is no recovery key where one is needed.
    pub fn key(&self, secret: &str) -> Result<FileKey, ArchiveError> {
        let mut key = [0; 32];
        match self.by {
            By::Passphrase => {
                let rounds = NonZeroU32::new(self.rounds.min(ROUNDS_MAX)).ok_or(ArchiveError::Head)?;
                pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, &self.salt, secret.as_bytes(), &mut key);
            }
            By::RecoveryKey => key = mac(&self.salt, &secret.parse::<RecoveryKey>()?.0),
        }
        Ok(FileKey(key))
    }
}

/// The key of one file.
#[derive(Clone, PartialEq, Eq)]
pub struct FileKey([u8; 32]);

impl FileKey {
    /// As it was sent to whoever seals.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// To send to whoever seals, and to nobody else.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// By what a wrong key is noticed before anything is opened.
    fn check(&self) -> [u8; 16] {
        let mut check = [0; 16];
        check.copy_from_slice(&mac(&self.0, b"hirsel backup check")[..16]);
        check
    }

    fn cipher(&self) -> LessSafeKey {
        let key = mac(&self.0, b"hirsel backup pieces");
        LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &key).expect("the cipher's key has 32 bytes"))
    }
}

impl fmt::Debug for FileKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FileKey")
    }
}

fn mac(key: &[u8], text: &[u8]) -> [u8; 32] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text);
    let mut bytes = [0; 32];
    bytes.copy_from_slice(tag.as_ref());
    bytes
}

/// Begins every recovery key.
const PREFIX: &str = "hirselkey";

/// A key that was drawn for one backup, and is shown once: `hirselkey` + base32 of 32 bytes and a checksum of 4.
#[derive(Clone, PartialEq, Eq)]
pub struct RecoveryKey([u8; 32]);

impl RecoveryKey {
    /// A fresh one.
    pub fn draw(chance: &dyn Chance) -> Self {
        let mut key = [0; 32];
        chance.fill(&mut key);
        Self(key)
    }

    fn checksum(&self) -> [u8; 4] {
        let hash = sha256(&[b"hirsel recovery key", &self.0]);
        [hash[0], hash[1], hash[2], hash[3]]
    }
}

impl fmt::Display for RecoveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", base32().encode(&[&self.0[..], &self.checksum()].concat()))
    }
}

/// Never shows it.
impl fmt::Debug for RecoveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecoveryKey")
    }
}

impl FromStr for RecoveryKey {
    type Err = ArchiveError;

    fn from_str(text: &str) -> Result<Self, ArchiveError> {
        // White space comes from paper and from terminals that break lines.
        let word: String = text.split_whitespace().take(100).collect::<String>().to_ascii_lowercase();
        let body = word.strip_prefix(PREFIX).ok_or(ArchiveError::NoKey)?;
        let bytes = base32().decode(body.as_bytes()).map_err(|_| ArchiveError::NoKey)?;
        let (key, check) = bytes.split_last_chunk::<4>().ok_or(ArchiveError::NoKey)?;
        let key = Self(key.try_into().map_err(|_| ArchiveError::NoKey)?);
        if key.checksum() == *check { Ok(key) } else { Err(ArchiveError::NoKey) }
    }
}

/// What is known of a file without its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    /// The feature level that is needed to understand what is inside.
    level: u32,
    /// How much is inside.
    bytes: u64,
    lock: Lock,
    #[serde(with = "serde_bytes")]
    check: [u8; 16],
}

/// A file on its way out, piece by piece.
pub struct Sealing {
    head: Option<Vec<u8>>,
    about: [u8; 32],
    cipher: LessSafeKey,
    plain: Vec<u8>,
    at: usize,
    number: u64,
}

impl Sealing {
    /// `plain`, which needs feature level `level`, under `key`, which was made by `lock`.
    ///
    /// # Errors
    /// When it is too large.
    pub fn new(plain: Vec<u8>, level: u32, lock: Lock, key: &FileKey) -> Result<Self, ArchiveError> {
        let head = Head { level, bytes: plain.len() as u64, lock, check: key.check() };
        if sealed_bytes(head.bytes) > FILE_BYTES_MAX - (FRONT_BYTES + CHECKSUM_BYTES + HEAD_BYTES_MAX) as u64 {
            return Err(ArchiveError::TooLarge { bytes: head.bytes });
        }
        let body = codec::encode(&head);
        let length = u16::try_from(body.len()).ok().filter(|length| usize::from(*length) <= HEAD_BYTES_MAX);
        let length = length.expect("a head of fixed fields");
        let mut front = [MAGIC, &FORMAT.to_be_bytes(), &length.to_be_bytes(), &body].concat();
        let about = sha256(&[&front]);
        front.extend(&about[..CHECKSUM_BYTES]);
        Ok(Self { head: Some(front), about, cipher: key.cipher(), plain, at: 0, number: 0 })
    }
}

/// A head is about 200 bytes; a later format may say more in it.
const HEAD_BYTES_MAX: usize = 4 << 10;

impl Iterator for Sealing {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        if let Some(head) = self.head.take() {
            return Some(head);
        }
        if self.at >= self.plain.len() && self.number > 0 {
            return None;
        }
        let end = self.plain.len().min(self.at + PIECE_BYTES);
        let mut piece = self.plain[self.at..end].to_vec();
        let aad = Aad::from(self.about);
        let sealed = self.cipher.seal_in_place_append_tag(nonce(self.number), aad, &mut piece);
        sealed.expect("far less than the cipher's limit of 256 GiB");
        (self.at, self.number) = (end, self.number + 1);
        Some(piece)
    }
}

/// The number of the piece: a key seals one file, and each piece has a number of its own.
fn nonce(number: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[NONCE_LEN - 8..].copy_from_slice(&number.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// How long the pieces of so many bytes are. One of nothing is one piece, so that it is authentic too.
fn sealed_bytes(plain: u64) -> u64 {
    let pieces = plain.div_ceil(PIECE_BYTES as u64).max(1);
    plain.saturating_add(pieces.saturating_mul(TAG_BYTES as u64))
}

/// A whole file whose head was understood.
#[derive(Debug)]
pub struct Archive<'a> {
    head: Head,
    about: [u8; 32],
    front_bytes: usize,
    pieces: &'a [u8],
}

impl<'a> Archive<'a> {
    /// Looks at a file, as far as that is possible without its key.
    ///
    /// # Errors
    /// When it is no backup, or one of a newer format, or not whole.
    pub fn read(file: &'a [u8]) -> Result<Self, ArchiveError> {
        let wants = |bytes: usize| ArchiveError::Cut { has: file.len() as u64, wants: bytes as u64 };
        if !file.starts_with(&MAGIC[..MAGIC.len().min(file.len())]) || file.is_empty() {
            return Err(ArchiveError::NotOne);
        }
        let front: &[u8] = file.get(..FRONT_BYTES).ok_or(wants(FRONT_BYTES))?;
        let number = |at: usize| u16::from_be_bytes([front[at], front[at + 1]]);
        let (format, length) = (number(MAGIC.len()), usize::from(number(MAGIC.len() + 2)));
        let end = FRONT_BYTES + length;
        let checksum = file.get(end..end + CHECKSUM_BYTES).ok_or(wants(end + CHECKSUM_BYTES))?;
        let about = sha256(&[&file[..end]]);
        if about[..CHECKSUM_BYTES] != *checksum {
            return Err(ArchiveError::Head);
        }
        if format > FORMAT {
            return Err(ArchiveError::Format(format));
        }
        let head: Head = codec::decode(&file[FRONT_BYTES..end]).map_err(|_| ArchiveError::Head)?;
        let front_bytes = end + CHECKSUM_BYTES;
        let pieces = &file[front_bytes..];
        let (has, wants) = (pieces.len() as u64, sealed_bytes(head.bytes));
        let front = front_bytes as u64;
        if wants.saturating_add(front) > FILE_BYTES_MAX {
            return Err(ArchiveError::TooLarge { bytes: head.bytes });
        }
        match has.cmp(&wants) {
            std::cmp::Ordering::Less => Err(ArchiveError::Cut { has: front + has, wants: front + wants }),
            std::cmp::Ordering::Greater => Err(ArchiveError::Longer { more: has - wants }),
            std::cmp::Ordering::Equal => Ok(Self { head, about, front_bytes, pieces }),
        }
    }

    /// The feature level that is needed to understand what is inside.
    pub fn level(&self) -> u32 {
        self.head.level
    }

    /// How its key is made.
    pub fn lock(&self) -> &Lock {
        &self.head.lock
    }

    /// What is inside; nothing of it unless all of it is authentic.
    ///
    /// # Errors
    /// When the key is another one, or anything was altered.
    pub fn open(&self, key: &FileKey) -> Result<Vec<u8>, ArchiveError> {
        if key.check() != self.head.check {
            return Err(ArchiveError::WrongKey(self.head.lock.by));
        }
        let cipher = key.cipher();
        let mut plain = Vec::with_capacity(self.pieces.len());
        for (number, piece) in self.pieces.chunks(PIECE_BYTES + TAG_BYTES).enumerate() {
            let mut piece = piece.to_vec();
            let opened = cipher.open_in_place(nonce(number as u64), Aad::from(self.about), &mut piece);
            let at = (self.front_bytes + number * (PIECE_BYTES + TAG_BYTES)) as u64;
            plain.extend_from_slice(opened.map_err(|_| ArchiveError::Altered { at })?);
        }
        Ok(plain)
    }
}

/// Whether a passphrase may seal a new backup.
///
/// # Errors
/// When it is too short.
pub fn check_passphrase(passphrase: &str) -> Result<(), ArchiveError> {
    match passphrase.chars().count() {
        chars if chars < PASSPHRASE_CHARS_MIN => Err(ArchiveError::Short(chars)),
        _ => Ok(()),
    }
}

/// Looks at a file and opens it with a key that nobody uses ([`crate::decoders`]).
pub(crate) fn decode(bytes: &[u8]) {
    if let Ok(archive) = Archive::read(bytes) {
        drop(archive.open(&FileKey([7; 32])));
    }
}

/// A file of nothing much, under that key.
pub(crate) fn samples() -> Vec<Vec<u8>> {
    let lock = Lock { by: By::RecoveryKey, rounds: 0, salt: [1; 32] };
    let file = |plain: &[u8]| Sealing::new(plain.to_vec(), 1, lock.clone(), &FileKey([7; 32]));
    [&b""[..], b"inside"].into_iter().filter_map(|plain| Some(file(plain).ok()?.flatten().collect())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seam::real;

    fn world() -> (tempfile::TempDir, crate::seam::World) {
        let folder = tempfile::tempdir().unwrap();
        let world = real::world(folder.path()).unwrap();
        (folder, world)
    }

    fn sealed(plain: &[u8], lock: &Lock, secret: &str) -> Vec<u8> {
        Sealing::new(plain.to_vec(), 2, lock.clone(), &lock.key(secret).unwrap()).unwrap().flatten().collect()
    }

    #[test]
    fn what_was_sealed_opens_whole_with_its_key_and_with_no_other() {
        let (_folder, world) = world();
        let key = RecoveryKey::draw(world.chance.as_ref());
        for bytes in [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES] {
            let lock = Lock::new(By::RecoveryKey, world.chance.as_ref());
            let plain: Vec<u8> = (0..bytes).map(|at| at as u8).collect();
            let file = sealed(&plain, &lock, &key.to_string());
            let archive = Archive::read(&file).unwrap();
            assert_eq!((archive.level(), archive.lock()), (2, &lock));
            assert_eq!(archive.open(&lock.key(&key.to_string()).unwrap()).unwrap(), plain);
            let other = lock.key(&RecoveryKey::draw(world.chance.as_ref()).to_string()).unwrap();
            assert_eq!(archive.open(&other), Err(ArchiveError::WrongKey(By::RecoveryKey)));
        }
    }

    #[test]
    fn a_passphrase_is_stretched_and_a_wrong_one_is_told() {
        let (_folder, world) = world();
        // The rounds of a file are those that its head says.
        let lock = Lock { rounds: 1_000, ..Lock::new(By::Passphrase, world.chance.as_ref()) };
        let file = sealed(b"inside", &lock, "correct horse battery");
        let archive = Archive::read(&file).unwrap();
        assert_eq!(archive.open(&archive.lock().key("correct horse battery").unwrap()).unwrap(), b"inside");
        let wrong = archive.open(&archive.lock().key("correct horse batterie").unwrap()).unwrap_err();
        assert_eq!(wrong.to_string(), "the passphrase is wrong");
        assert_eq!(check_passphrase("short").unwrap_err(), ArchiveError::Short(5));
        assert!(check_passphrase("correct horse").is_ok());
    }

    #[test]
    fn no_byte_can_be_altered_cut_or_added_unnoticed() {
        let (_folder, world) = world();
        let key = RecoveryKey::draw(world.chance.as_ref()).to_string();
        let lock = Lock::new(By::RecoveryKey, world.chance.as_ref());
        let file = sealed(&[7; 300], &lock, &key);
        let opened = |file: &[u8]| Archive::read(file).and_then(|archive| archive.open(&archive.lock().key(&key)?));
        assert!(opened(&file).is_ok());
        for at in 0..file.len() {
            for bit in [1, 0x80] {
                let mut altered = file.clone();
                altered[at] ^= bit;
                assert!(opened(&altered).is_err(), "byte {at}");
            }
            let cut = opened(&file[..at]).unwrap_err();
            let expected = if at == 0 { cut == ArchiveError::NotOne } else { matches!(cut, ArchiveError::Cut { .. }) };
            assert!(expected, "{at}: {cut}");
        }
        let longer = [&file[..], b"x"].concat();
        assert_eq!(opened(&longer), Err(ArchiveError::Longer { more: 1 }));
        let last = file.len() - 1;
        let mut altered = file.clone();
        altered[last] ^= 1;
        assert!(matches!(opened(&altered), Err(ArchiveError::Altered { .. })));
        assert_eq!(opened(b"PK\x03\x04 something else"), Err(ArchiveError::NotOne));
    }

    #[test]
    fn pieces_do_not_change_places() {
        let (_folder, world) = world();
        let key = RecoveryKey::draw(world.chance.as_ref()).to_string();
        let lock = Lock::new(By::RecoveryKey, world.chance.as_ref());
        let mut file = sealed(&[7; 2 * PIECE_BYTES], &lock, &key);
        let front = Archive::read(&file).unwrap().front_bytes;
        let (one, two) = file[front..].split_at(PIECE_BYTES + TAG_BYTES);
        let swapped = [two, one].concat();
        file.truncate(front);
        file.extend(swapped);
        let archive = Archive::read(&file).unwrap();
        assert_eq!(archive.open(&lock.key(&key).unwrap()), Err(ArchiveError::Altered { at: front as u64 }));
    }

    #[test]
    fn a_newer_format_is_told_by_its_number() {
        let (_folder, world) = world();
        let key = RecoveryKey::draw(world.chance.as_ref()).to_string();
        let mut file = sealed(b"inside", &Lock::new(By::RecoveryKey, world.chance.as_ref()), &key);
        file[MAGIC.len() + 1] = 9;
        assert_eq!(Archive::read(&file).unwrap_err(), ArchiveError::Head, "a flipped bit is damage");
        let length = usize::from(u16::from_be_bytes([file[MAGIC.len() + 2], file[MAGIC.len() + 3]]));
        let sum = sha256(&[&file[..FRONT_BYTES + length]]);
        file[FRONT_BYTES + length..FRONT_BYTES + length + CHECKSUM_BYTES].copy_from_slice(&sum[..CHECKSUM_BYTES]);
        assert_eq!(Archive::read(&file).unwrap_err(), ArchiveError::Format(9));
    }

    #[test]
    fn a_recovery_key_survives_copying_and_typing() {
        let (_folder, world) = world();
        let key = RecoveryKey::draw(world.chance.as_ref());
        let word = key.to_string();
        assert!(word.bytes().all(|b| b.is_ascii_alphanumeric()), "{word}");
        assert_eq!(word.to_uppercase().parse::<RecoveryKey>().unwrap(), key);
        assert_eq!(format!(" {}\n{} \n", &word[..30], &word[30..]).parse::<RecoveryKey>().unwrap(), key);
        for at in PREFIX.len()..word.len() {
            let mut typed = word.clone().into_bytes();
            typed[at] = if typed[at] == b'7' { b'8' } else { b'7' };
            assert_eq!(String::from_utf8(typed).unwrap().parse::<RecoveryKey>(), Err(ArchiveError::NoKey), "{at}");
        }
        for wrong in ["", "swordfish", "hirselkey", &word[..word.len() - 1]] {
            assert_eq!(wrong.parse::<RecoveryKey>(), Err(ArchiveError::NoKey), "{wrong}");
        }
    }
}
