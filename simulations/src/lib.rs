//! The simulators: the model alone with thousands of seeds, and whole agents on a simulated network, clock, disk and host.
//!
//! One seed is one history, down to every byte of every datagram. Nothing here reaches a release of the agent: this crate depends
//! on the agent, never the other way, and it replaces symbols of libc ([`entropy`]).

use std::sync::{Mutex, MutexGuard, PoisonError};

pub mod bug;
pub mod causes;
pub mod chance;
pub mod check;
pub mod client;
pub mod clock;
pub mod disk;
pub mod drive;
pub mod entropy;
pub mod host;
pub mod linear;
pub mod model;
pub mod net;
pub mod node;
pub mod objects;
pub mod panics;
pub mod plugins;
pub mod registers;
pub mod scenario;
pub mod trace;
pub mod world;

/// Locks; a simulation that panicked is over anyway, and what is left of it is only looked at.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
