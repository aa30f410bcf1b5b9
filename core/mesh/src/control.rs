//! stub
#![allow(missing_docs, clippy::todo)]
use std::collections::*; use std::sync::Arc; use std::time::Duration; use tokio::sync::watch;
use hirsel_model::control::*; use hirsel_model::*; use hirsel_model::view::RaftFacts; use crate::seam::World; use crate::transport::*;
pub struct ControlConfig { pub world: World, pub transport: Arc<Transport>, pub me: NodeId, pub peers: watch::Receiver<Arc<Peers>> }
#[derive(Clone, Debug, Default)]
pub struct Leadership { pub term: u64, pub leader: Option<NodeId>, pub mine: bool, pub voters: BTreeSet<NodeId>, pub stale_ms: u64 }
#[derive(Debug, thiserror::Error)] pub enum ProposeError { #[error("no")] NoLeader, #[error("t")] TimedOut, #[error("{0}")] Stopped(String) }
#[derive(Debug, thiserror::Error)] #[error("x")] pub struct ControlError;
pub struct Control;
impl Control {
  pub async fn start(_: ControlConfig) -> Result<Arc<Control>, ControlError> { todo!() }
  pub async fn found(&self, _: Entry) -> Result<Outcome, ProposeError> { todo!() }
  pub async fn propose(&self, _: Entry, _: Duration) -> Result<Outcome, ProposeError> { todo!() }
  pub fn state(&self) -> watch::Receiver<Arc<ControlState>> { todo!() }
  pub fn leadership(&self) -> watch::Receiver<Leadership> { todo!() }
  pub fn raft_facts(&self) -> BTreeMap<NodeId, RaftFacts> { todo!() }
  pub async fn set_membership(&self, _: BTreeSet<NodeId>, _: BTreeSet<NodeId>) -> Result<(), String> { todo!() }
  pub async fn transfer_leadership(&self, _: NodeId) -> Result<(), String> { todo!() }
  pub async fn shutdown(&self) { todo!() }
}
