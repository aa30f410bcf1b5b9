//! The same role on other nodes: calls and streams, over the one port of the mesh.
//!
//! Who asks is who its certificate says. A kind of call begins with the name of its role and a dot (`storage.put`), so that no role
//! answers for another. What a peer sent is for the role to look at: it may be of another version, and is from outside.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use hirsel_mesh::seam::BoxStream;
use hirsel_mesh::transport::CallError;
use hirsel_model::{NodeId, RoleName};

mod mesh;

pub use mesh::MeshPeers;

/// Answers a call: who asks, what it said, and the answer or a refusal in words.
pub type CallHandler = Arc<dyn Fn(NodeId, Vec<u8>) -> BoxFuture<'static, Result<Vec<u8>, String>> + Send + Sync>;
/// Serves a stream: who opened it, what came with it, and the stream, which ends when the future does.
pub type StreamHandler = Arc<dyn Fn(NodeId, Vec<u8>, BoxStream) -> BoxFuture<'static, ()> + Send + Sync>;

/// The same role on other nodes, and on this one.
pub trait Peers: Send + Sync {
    /// Asks the role on `to`, with at most [`hirsel_mesh::transport::BODY_BYTES_MAX`] bytes. Takes at most `ttl`, and so does the other side.
    fn call(
        &self,
        to: NodeId,
        kind: &'static str,
        body: Vec<u8>,
        ttl: Duration,
    ) -> BoxFuture<'_, Result<Vec<u8>, CallError>>;
    /// Opens a stream to the role on `to`; `hello` comes with it.
    fn open(&self, to: NodeId, kind: &'static str, hello: Vec<u8>) -> BoxFuture<'_, Result<BoxStream, CallError>>;
    /// Answers calls of this kind from now on, in place of whoever did. Runs where the role runs.
    fn serve(&self, kind: &'static str, handler: CallHandler);
    /// Serves streams of this kind from now on, in place of whoever did. Runs where the role runs.
    fn serve_streams(&self, kind: &'static str, handler: StreamHandler);
}

/// Whether a kind of call is one of `role`.
pub fn is_of(role: &RoleName, kind: &str) -> bool {
    kind.strip_prefix(role.as_str()).is_some_and(|rest| rest.len() > 1 && rest.starts_with('.'))
}

/// Nobody: for roles and tests that speak to no other node.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nobody;

impl Peers for Nobody {
    fn call(&self, _: NodeId, _: &'static str, _: Vec<u8>, _: Duration) -> BoxFuture<'_, Result<Vec<u8>, CallError>> {
        Box::pin(std::future::ready(Err(CallError::Unreachable)))
    }
    fn open(&self, _: NodeId, _: &'static str, _: Vec<u8>) -> BoxFuture<'_, Result<BoxStream, CallError>> {
        Box::pin(std::future::ready(Err(CallError::Unreachable)))
    }
    fn serve(&self, _: &'static str, _: CallHandler) {}
    fn serve_streams(&self, _: &'static str, _: StreamHandler) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_of_call_names_its_role() {
        let lb = RoleName::lb();
        assert!(is_of(&lb, "lb.ask"));
        for other in ["lb", "lb.", "lbx.ask", "compute.ask", "ask", ""] {
            assert!(!is_of(&lb, other), "{other}");
        }
    }
}
