//! The answers: pure functions of a [`Sight`](super::sight::Sight) that return what stands in `data`, field names as in the contract.
//!
//! References to nodes are names; only `members` shows numbers. Durations end in `_ms`, moments in `_at` (RFC 3339).

pub mod access;
pub mod acme;
pub mod addresses;
pub mod apps;
pub mod buckets;
pub mod cache;
pub mod certificates;
pub mod events;
pub mod layout;
pub mod members;
pub mod roles;
pub mod secrets;
pub mod status;
pub mod storage;
pub mod tokens;
pub mod wanted;
pub mod why;
pub mod zones;

#[cfg(test)]
mod tests;
