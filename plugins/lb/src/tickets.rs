//! Sessions that clients resume, at any load balancer (RFC 5077; RFC 8446, section 4.6.1).
//!
//! What a session is goes to the client, sealed with a key that all load balancers have: none remembers anything. A ticket is 16 bytes
//! that name its key, a nonce of 12 that is drawn, and what rustls wants to know of the session, with 16 that show that nobody altered
//! it: ChaCha20-Poly1305, which covers the name, too (RFC 5077, section 4, with one cipher for both of its parts). That is good for 2^32
//! tickets of one key at all nodes; ten thousand handshakes a second for the twelve hours of a key are a tenth of that.
//!
//! What it is good for is not decided here: rustls resumes a session only for the name that it was made for, with the same suite, after it
//! has found a certificate for that name. No ticket is ever good for early data, so one that is played again is of no use without its
//! secret.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use hirsel_model::tickets::{KEY_BYTES, LIFETIME_S};
use hirsel_role::certificate::{TicketKey, TicketKeys};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::server::ProducesTickets;
use tokio::sync::watch;

/// Bytes by which a ticket names its key (RFC 5077, section 4).
const NAME_BYTES: usize = 16;
/// What is longer is no ticket of ours, whoever offers it: those hold a master secret and a few names.
const TICKET_BYTES_MAX: usize = 4096;

/// The keys that this load balancer has.
#[derive(Default)]
pub struct Tickets(ArcSwap<Ring>);

/// One set of keys.
#[derive(Default)]
struct Ring {
    keys: Vec<Key>,
    /// Place of the one that seals.
    sealing: Option<usize>,
}

struct Key {
    name: [u8; NAME_BYTES],
    cipher: LessSafeKey,
}

impl Key {
    fn of(key: &TicketKey) -> Self {
        const SECRET_BYTES: usize = KEY_BYTES - NAME_BYTES;
        let (name, secret) = key.0.split_first_chunk::<NAME_BYTES>().expect("a key is longer than its name");
        let secret: &[u8; SECRET_BYTES] = secret.try_into().expect("that is the rest of it");
        let cipher = UnboundKey::new(&CHACHA20_POLY1305, secret).expect("the cipher's key has 32 bytes");
        Self { name: *name, cipher: LessSafeKey::new(cipher) }
    }
}

impl Tickets {
    /// Takes these keys from now on, and forgets all others.
    pub fn adopt(&self, told: &TicketKeys) {
        let keys = told.keys.values().map(Key::of).collect();
        let sealing = told.sealing.and_then(|version| told.keys.keys().position(|it| *it == version));
        self.0.store(Arc::new(Ring { keys, sealing }));
    }

    /// Follows what the agent has, for ever.
    pub async fn follow(self: Arc<Self>, mut told: watch::Receiver<Arc<TicketKeys>>) {
        loop {
            let now = told.borrow_and_update().clone();
            self.adopt(&now);
            if told.changed().await.is_err() {
                return;
            }
        }
    }
}

impl ProducesTickets for Tickets {
    /// Without a key that seals nothing is opened either: rustls asks this alone whether to give tickets, and would give empty ones.
    fn enabled(&self) -> bool {
        self.0.load().sealing.is_some()
    }

    fn lifetime(&self) -> u32 {
        LIFETIME_S
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let ring = self.0.load();
        let key = &ring.keys[ring.sealing?];
        let length = NAME_BYTES + NONCE_LEN + plain.len() + CHACHA20_POLY1305.tag_len();
        if length > TICKET_BYTES_MAX {
            return None;
        }
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).ok()?;
        let mut ticket = Vec::with_capacity(length);
        ticket.extend_from_slice(&key.name);
        ticket.extend_from_slice(&nonce);
        ticket.extend_from_slice(plain);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let sealed = &mut ticket[NAME_BYTES + NONCE_LEN..];
        let tag = key.cipher.seal_in_place_separate_tag(nonce, Aad::from(&key.name), sealed).ok()?;
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        if ticket.len() > TICKET_BYTES_MAX {
            return None;
        }
        let (name, rest) = ticket.split_first_chunk::<NAME_BYTES>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let ring = self.0.load();
        // Names are in every ticket in the clear: how long it takes to compare them tells nothing.
        let key = ring.keys.iter().find(|key| key.name == *name)?;
        let mut plain = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = key.cipher.open_in_place(nonce, Aad::from(name), &mut plain).ok()?.len();
        plain.truncate(length);
        Some(plain)
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tickets({} keys)", self.0.load().keys.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(byte: u8) -> TicketKey {
        TicketKey([byte; KEY_BYTES])
    }

    fn with(sealing: Option<u64>, keys: &[u8]) -> Tickets {
        let tickets = Tickets::default();
        let keys = keys.iter().map(|byte| (u64::from(*byte), key(*byte))).collect();
        tickets.adopt(&TicketKeys { sealing, keys });
        tickets
    }

    #[test]
    fn what_one_seals_another_opens_until_the_key_is_gone() {
        let (one, two) = (with(Some(1), &[1, 2]), with(Some(2), &[1, 2, 3]));
        let ticket = one.encrypt(b"a session").unwrap();
        assert_eq!(ticket[..NAME_BYTES], [1; NAME_BYTES]);
        assert!(!ticket.windows(7).any(|part| part == b"session"));
        assert_eq!(two.decrypt(&ticket).unwrap(), b"a session");
        assert_ne!(one.encrypt(b"a session").unwrap(), ticket, "a nonce is drawn for each");
        assert_eq!(with(Some(2), &[2, 3]).decrypt(&ticket), None);
    }

    #[test]
    fn without_a_key_that_seals_no_tickets_are_given() {
        assert!(with(Some(1), &[1]).enabled());
        for without in [with(None, &[2]), with(Some(7), &[2]), Tickets::default()] {
            assert!(!without.enabled());
            assert_eq!(without.encrypt(b"a session"), None);
        }
        assert_eq!(format!("{:?}", with(Some(1), &[1])), "Tickets(1 keys)");
    }

    #[test]
    fn what_is_too_long_is_neither_made_nor_looked_at() {
        let one = with(Some(1), &[1]);
        assert_eq!(one.encrypt(&[0; TICKET_BYTES_MAX]), None);
        let longest = vec![0; TICKET_BYTES_MAX - NAME_BYTES - NONCE_LEN - 16];
        let ticket = one.encrypt(&longest).unwrap();
        assert_eq!((ticket.len(), one.decrypt(&ticket)), (TICKET_BYTES_MAX, Some(longest)));
        assert_eq!(one.decrypt(&[ticket, vec![0]].concat()), None);
    }

    proptest! {
        #[test]
        fn whatever_anybody_offers_opens_only_if_it_was_sealed_here(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            at in any::<prop::sample::Index>(),
            named in any::<bool>(),
        ) {
            let one = with(Some(1), &[1]);
            let name = if named { vec![1; NAME_BYTES] } else { Vec::new() };
            prop_assert_eq!(one.decrypt(&[name, bytes.clone()].concat()), None);
            let mut ticket = one.encrypt(&bytes).unwrap();
            let at = at.index(ticket.len());
            ticket[at] ^= 1;
            prop_assert_eq!(one.decrypt(&ticket), None);
        }
    }
}
