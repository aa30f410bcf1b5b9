//! S3 over HTTP: any client that speaks it, on any node.
//!
//! s3s takes requests apart, looks at their signatures and writes answers; its types end in this module. What an operation does is here,
//! and what is kept is the metadata's ([`crate::meta`]), through a [`crate::gateway::Gateway`]. A README beside this file says what is
//! offered, and what is not.
//!
//! Kept: nothing is done for whoever may not, and whatever is not said to be allowed is not; what is not what its sender said it is
//! (length, digest, checksum, signature) is never kept; what is not offered is refused and not passed over.

mod about;
pub mod access;
mod body;
mod browsers;
mod bucket;
mod checked;
mod conditions;
mod configurations;
pub(crate) mod copies;
mod decision;
mod delete;
mod documents;
pub mod error;
mod fields;
mod form;
mod front;
mod get;
mod hash;
mod host;
pub mod keys;
mod list;
mod lists;
mod locks;
mod notifications;
mod operations;
mod policies;
mod put;
mod sealing;
pub mod serve;
mod site;
mod stall;
mod sums;
mod tags;
mod upload;
mod website;

pub use configurations::lifecycle_of;
pub use front::{Asked, Front};
pub use serve::{Names, Server};
