//! A role's peers over the transport of its agent, real or simulated: that is decided below it.
//!
//! What a role answers runs on the runtime of that role, so that a panic or a busy loop in it takes nothing else with it. It ends with the
//! call: at its deadline, or when the caller is gone.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use hirsel_mesh::seam::BoxStream;
use hirsel_mesh::transport::{CallError, Transport};
use hirsel_model::{NodeId, RoleName};
use tokio::task::{JoinError, JoinHandle};

use super::{CallHandler, Peers, StreamHandler, is_of};
use crate::Spawner;

/// The same role on other nodes, through the mesh.
pub struct MeshPeers {
    transport: Arc<Transport>,
    role: RoleName,
    spawner: Spawner,
}

impl MeshPeers {
    /// Those of `role`, which runs on `spawner`.
    pub fn new(transport: Arc<Transport>, role: RoleName, spawner: Spawner) -> MeshPeers {
        MeshPeers { transport, role, spawner }
    }

    fn check(&self, kind: &str) -> Result<(), CallError> {
        let refused = || CallError::Refused(format!("{kind:?} is no kind of call of {}", self.role));
        if is_of(&self.role, kind) { Ok(()) } else { Err(refused()) }
    }
}

/// A task that ends with what waits for it.
struct Ending<T>(JoinHandle<T>);

impl<T> Drop for Ending<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<T> Ending<T> {
    /// What came of it. The mesh knows what to do about a panic; with its runtime gone nobody answers.
    async fn wait(mut self) -> T {
        match (&mut self.0).await {
            Ok(done) => done,
            Err(ended) => gone(ended).await,
        }
    }
}

async fn gone<T>(ended: JoinError) -> T {
    match ended.try_into_panic() {
        Ok(panic) => resume_unwind(panic),
        Err(_) => std::future::pending().await,
    }
}

impl Peers for MeshPeers {
    fn call(
        &self,
        to: NodeId,
        kind: &'static str,
        body: Vec<u8>,
        ttl: Duration,
    ) -> BoxFuture<'_, Result<Vec<u8>, CallError>> {
        async move {
            self.check(kind)?;
            self.transport.call(to, kind, body, ttl).await
        }
        .boxed()
    }

    fn open(&self, to: NodeId, kind: &'static str, hello: Vec<u8>) -> BoxFuture<'_, Result<BoxStream, CallError>> {
        async move {
            self.check(kind)?;
            self.transport.open_stream(to, kind, hello).await
        }
        .boxed()
    }

    fn serve(&self, kind: &'static str, handler: CallHandler) {
        debug_assert!(is_of(&self.role, kind), "{kind} is no kind of call of {}", self.role);
        let spawner = self.spawner.clone();
        self.transport.serve(kind, move |from, body| Ending(spawner.spawn(handler(from, body))).wait().boxed());
    }

    fn serve_streams(&self, kind: &'static str, handler: StreamHandler) {
        debug_assert!(is_of(&self.role, kind), "{kind} is no kind of stream of {}", self.role);
        let spawner = self.spawner.clone();
        self.transport.serve_stream(kind, move |from, hello, stream| {
            Ending(spawner.spawn(handler(from, hello, stream))).wait().boxed()
        });
    }
}
