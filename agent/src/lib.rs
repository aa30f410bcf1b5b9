//! The agent: the loop that walks the circle, the command line, the local and the HTTP interface.
//!
//! Where to start: [`run`] assembles a whole agent over a world and a host (the executable and the simulation both call it);
//! [`leader`] is what the elected one does besides; [`roles`] drives the plugins; [`launch`] holds the verbs that start agents;
//! [`api`] is what may be asked of a running agent, and [`cli`] asks it.

pub mod access;
pub mod acme;
pub mod admission;
pub mod api;
pub mod args;
pub mod authority;
pub mod backup;
pub mod birth;
pub mod calls;
pub mod certificates;
pub mod cli;
pub mod config;
pub mod digest;
pub mod dnssec;
pub mod doctor;
pub mod foundation;
pub mod interface;
pub mod known;
pub mod launch;
pub mod leader;
pub mod lease;
pub mod metrics;
pub mod pace;
pub mod parting;
pub mod plugins;
pub mod promise;
pub mod recovery;
pub mod rejoin;
pub mod renewal;
pub mod roles;
pub mod run;
pub mod sample;
pub mod sealing;
pub mod secrets;
pub mod senses;
pub mod shared;
#[cfg(test)]
mod testing;
pub mod tickets;
