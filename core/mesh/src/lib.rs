//! One port, one token: how agents know, hear and agree with each other.
//!
//! - [`seam`]: the world an agent lives in (network, disk, clock, chance), injected, so that whole agents run in simulation.
//! - [`identity`]: keys, certificates, join tokens, the cluster's authority.
//! - [`transport`]: one QUIC endpoint and one TCP port, mutual TLS; calls, streams, doors.
//! - [`gossip`]: who is heard, and what each node says of itself.
//! - [`raft`]: replicated state machines on a durable log; [`control`]: the one that keeps the control state, and the stream by
//!   which everyone else follows it.
//! - [`archive`]: the form of a sealed file, for backups.
//! - [`decoders`]: everything here that reads bytes of others, by name, for those who throw bytes at it.
//!
//! The mesh knows nothing of roles, and decides nothing: what a silence means is decided in `hirsel-model`.

pub mod archive;
pub mod control;
pub mod decoders;
pub mod gossip;
pub mod identity;
pub mod raft;
pub mod seam;
pub mod transport;
