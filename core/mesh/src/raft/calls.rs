//! What a group needs of the transport: calls and streams by node id.
//!
//! A seam of its own so that groups are tested in virtual time on a network in memory, without sockets or certificates.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use hirsel_model::NodeId;

use crate::seam::BoxStream;
use crate::transport::{CallError, Transport};

/// Answers calls of one kind: who asks (as its certificate says), and what.
pub type CallHandler = Arc<dyn Fn(NodeId, Vec<u8>) -> BoxFuture<'static, Result<Vec<u8>, String>> + Send + Sync>;
/// Serves streams of one kind: who opened it, and its first words.
pub type StreamHandler = Arc<dyn Fn(NodeId, Vec<u8>, BoxStream) -> BoxFuture<'static, ()> + Send + Sync>;

/// Calls and streams between the nodes of a cluster.
pub trait Calls: Send + Sync + 'static {
    /// Who we are.
    fn me(&self) -> NodeId;
    /// Asks another node and waits for its answer, at most `ttl`.
    fn call<'a>(
        &'a self,
        to: NodeId,
        kind: &'static str,
        body: Vec<u8>,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<Vec<u8>, CallError>>;
    /// Answers calls of this kind from now on; replaces an earlier handler.
    fn serve(&self, kind: &'static str, handler: CallHandler);
    /// Opens a stream.
    fn open_stream<'a>(
        &'a self,
        to: NodeId,
        kind: &'static str,
        hello: Vec<u8>,
    ) -> BoxFuture<'a, Result<BoxStream, CallError>>;
    /// Serves streams of this kind from now on; replaces an earlier handler.
    fn serve_stream(&self, kind: &'static str, handler: StreamHandler);
}

impl Calls for Transport {
    fn me(&self) -> NodeId {
        Transport::me(self)
    }

    fn call<'a>(
        &'a self,
        to: NodeId,
        kind: &'static str,
        body: Vec<u8>,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<Vec<u8>, CallError>> {
        Transport::call(self, to, kind, body, ttl).boxed()
    }

    fn serve(&self, kind: &'static str, handler: CallHandler) {
        Transport::serve(self, kind, move |from, body| handler(from, body));
    }

    fn open_stream<'a>(
        &'a self,
        to: NodeId,
        kind: &'static str,
        hello: Vec<u8>,
    ) -> BoxFuture<'a, Result<BoxStream, CallError>> {
        Transport::open_stream(self, to, kind, hello).boxed()
    }

    fn serve_stream(&self, kind: &'static str, handler: StreamHandler) {
        Transport::serve_stream(self, kind, move |from, hello, stream| handler(from, hello, stream));
    }
}
