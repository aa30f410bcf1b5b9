//! Nouns and decisions of hirsel: what the operator wants, what the leader decides, and why.
//!
//! Everything here is a pure function of its arguments. The crate has no clock, no async, no I/O, no threads, and no iteration in
//! hash order (`.clippy.toml` beside this crate bans them); so the same view gives the same plan on every machine and in every
//! simulation. Start with [`view`], [`planner`] and [`plan`]: a view goes in, a complete plan comes out.

pub mod access;
pub mod acme;
pub mod book;
pub mod certificate;
pub mod codec;
pub mod control;
pub mod dnssec;
pub mod duty;
pub mod event;
pub mod expression;
pub mod feature;
pub mod floating;
pub mod followup;
pub mod forecast;
pub mod grant;
pub mod id;
pub mod manifest;
pub mod order;
pub mod panic;
pub mod password;
pub mod plan;
pub mod planner;
pub mod purge;
pub mod reconciler;
pub mod report;
pub mod resilience;
pub mod sealing;
pub mod secret;
pub mod spec;
pub mod storage;
pub mod tag;
pub mod tickets;
pub mod time;
pub mod view;

pub use id::*;
pub use tag::Tag;
pub use time::{Timestamp, WallTime};
