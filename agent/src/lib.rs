//! The agent: the loop that walks the circle, the command line, the local and the HTTP interface.
//!
//! Where to start: [`run`] assembles a whole agent over a world and a host (the executable and the simulation both call it);
//! [`leader`] is what the elected one does besides; [`roles`] drives the plugins; [`launch`] holds the verbs that start agents.

pub mod api;
pub mod args;
pub mod cli;
pub mod config;
pub mod digest;
pub mod roles;
pub mod sample;
