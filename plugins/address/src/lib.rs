//! Floating addresses: some node that balances load holds each, and another one does within a second when it cannot.
//!
//! The plan lists who may hold an address. Who does they find out among each other, by beats on the interface that carries it; the
//! rules are in `hirsel_model::floating`, told the time, and this crate carries them out. It runs in every agent without a slot, does
//! nothing while no address is wanted, and goes on for ever on the last order, with or without a leader.
//!
//! Where to start: [`desk`] is what is known and what follows from it, one decision after the other; [`wire`] is what a beat looks like
//! and whom to believe; [`role`] keeps both going: it listens, beats, and has the host put addresses on interfaces and take them off.
//! [`probe`] asks this node's own load balancer whether it answers.
//!
//! Deliberately absent: netlink, ARP and raw sockets, which are the host's; and who is a candidate, which is the planner's.

pub mod desk;
pub mod probe;
pub mod role;
pub mod wire;

pub use role::Address;
