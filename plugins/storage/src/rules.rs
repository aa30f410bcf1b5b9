//! The rules of the object store: who may do what, what happens by itself, and how bytes are sealed. All of it pure.
//!
//! | file | what |
//! |---|---|
//! | [`access`] | the one decision for every operation: who may |
//! | [`policy`] | bucket policies |
//! | [`acl`] | access control lists, and who owns what |
//! | [`cors`] | what browsers are told about other origins |
//! | [`lifecycle`] | what is deleted by itself, and when |
//! | [`website`] | buckets as web sites |
//! | [`notify`] | whom changes are told to |
//! | [`seal`] | server-side encryption |
//! | [`pattern`], [`date`] | what several of them need |
//!
//! Kept: what a document says is honoured, or the document is refused; nothing is passed over. No rule reads a clock, draws a number or
//! opens a file.
//!
//! Not here: HTTP and XML, which are the boundary's, and carrying anything out.

pub mod access;
pub mod acl;
pub mod cors;
pub mod date;
pub mod decoders;
pub mod lifecycle;
pub mod notify;
pub mod pattern;
pub mod policy;
pub mod seal;
pub mod website;
