//! What people and programs may ask of a running agent: HTTP over the unix socket and over the mesh's TCP port.
//!
//! [`views`] compute every answer as a pure function of a [`Sight`](sight::Sight); [`server`] and its handlers only carry them;
//! [`auth`] decides who may do what, in one place; [`agent`] is all the interface knows of the agent behind it.
//! A read answers from this node's own memory, whoever leads and whether anybody does; a change is proposed to the leader.

pub mod agent;
pub mod auth;
pub mod backup;
pub mod doctor;
pub mod envelope;
pub mod error;
pub mod forecast;
pub mod fresh;
pub mod handlers;
pub mod logs;
pub mod metrics;
pub mod openapi;
pub mod recovery;
pub mod requests;
pub mod server;
pub mod sight;
pub mod simulate;
pub mod upgrade;
pub mod views;

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
pub(crate) mod stand_in;
#[cfg(test)]
mod tests;
