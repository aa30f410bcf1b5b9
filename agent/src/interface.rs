//! The agent as its interfaces (socket, HTTPS) see it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use hirsel_mesh::archive::{FileKey, Lock, Sealing};
use hirsel_mesh::control::ProposeError;
use hirsel_mesh::identity::JoinToken;
use hirsel_model::access::AccessKeyId;
use hirsel_model::control::{Entry, Outcome};
use hirsel_model::secret::SecretId;
use hirsel_model::{CertificateName, InstanceId, LogIndex, NodeId, RoleName};
use hirsel_role::host::{Output, OutputFrom};
use hirsel_role::requests::{JOURNAL, Window};
use hirsel_role::storage;
use tracing::error;

use crate::access;
use crate::acme;
use crate::api::agent::{Agent, Minted, NotProposed, TokenParts};
use crate::api::auth::Source;
use crate::api::doctor::Findings;
use crate::api::error::ApiError;
use crate::api::logs;
use crate::api::recovery::Recovery;
use crate::api::requests;
use crate::api::server::Server;
use crate::api::sight::{Leader, Sight};
use crate::backup;
use crate::certificates;
use crate::doctor::{self, Examiner, HostFacts};
use crate::recovery;
use crate::secrets::{self, SealedValue};
use crate::shared::Shared;

/// Serves the agent's interfaces: the unix socket at `socket`, HTTPS on the mesh's port, and other agents' questions for output.
pub fn serve(shared: &Arc<Shared>, socket: Option<PathBuf>, facts: HostFacts) {
    let agent = agent(shared, facts);
    doctor::serve(shared);
    let server = Server::new(agent.clone());
    let https = server.clone();
    shared.transport.serve_https(move |stream| {
        let server = https.clone();
        async move { server.serve(stream.stream, Source::Network { node: stream.node }).await }.boxed()
    });
    let told = agent.clone();
    shared.transport.serve(requests::CALL, move |_, question| {
        let agent = told.clone();
        async move { requests::answer(agent.as_ref(), &question).await }.boxed()
    });
    shared.transport.serve(logs::CALL, move |_, question| {
        let agent = agent.clone();
        async move { logs::answer(agent.as_ref(), &question).await }.boxed()
    });
    if let Some(socket) = socket {
        let stop = shared.stop.clone();
        tokio::spawn(async move {
            if let Err(error) = server.listen_unix(&socket, stop).await {
                error!(socket = %socket.display(), %error, "no local interface");
            }
        });
    }
}

/// The agent as its interfaces see it.
pub fn agent(shared: &Arc<Shared>, facts: HostFacts) -> Arc<dyn Agent> {
    Arc::new(Interface(shared.clone(), Examiner::new(shared.clone(), facts)))
}

fn not_proposed(error: ProposeError) -> NotProposed {
    match error {
        ProposeError::NoLeader => NotProposed::NoLeader,
        ProposeError::TimedOut => NotProposed::TimedOut,
        ProposeError::Stopped(words) => NotProposed::Stopped(words),
        error @ ProposeError::TooLarge(_) => NotProposed::Stopped(error.to_string()),
    }
}

/// A running agent behind its interfaces.
pub struct Interface(Arc<Shared>, Examiner);

impl Agent for Interface {
    fn sight(&self) -> Sight {
        let shared = &self.0;
        let leadership = shared.control.leadership().borrow().clone();
        let now = shared.world.clock.now();
        let live = shared.live.borrow().clone();
        let silent = shared.silent_since.borrow().clone();
        let seen = |id: &NodeId| {
            let ms = silent.get(id).map_or(0, |since| now.since(*since).as_millis());
            (*id, u64::try_from(ms).unwrap_or(u64::MAX))
        };
        Sight {
            state: shared.control.state().borrow().clone(),
            leadership: Leader {
                term: leadership.term,
                leader: leadership.leader,
                voters: leadership.voters,
                stale_ms: leadership.stale_ms,
            },
            seen_ms: live.nodes.keys().map(seen).collect(),
            live,
            me: shared.node,
            wall: shared.world.clock.wall(),
            http_port: shared.config.roles.http_port,
            https_port: shared.config.roles.https_port,
            config: shared.config.roles.clone(),
        }
    }

    fn propose(&self, entry: Entry, ttl: Duration) -> BoxFuture<'_, Result<Outcome, NotProposed>> {
        async move { self.0.control.propose(entry, ttl).await.map_err(not_proposed) }.boxed()
    }

    fn barrier(&self, ttl: Duration) -> BoxFuture<'_, Result<LogIndex, NotProposed>> {
        async move { self.0.control.read_barrier(ttl).await.map_err(not_proposed) }.boxed()
    }

    fn beyond(&self, index: LogIndex) -> BoxFuture<'_, ()> {
        async move {
            // The sender lives as long as the agent; after it there is nothing to wait for.
            let _ = self.0.control.state().wait_for(|state| state.applied > index).await;
        }
        .boxed()
    }

    fn output<'a>(&'a self, instance: &'a InstanceId, from: OutputFrom) -> BoxFuture<'a, io::Result<Output>> {
        match self.0.hosts.get(&RoleName::compute()) {
            Some(host) => host.output(instance, from),
            None => async { Err(io::Error::new(io::ErrorKind::NotFound, "this node runs no instances")) }.boxed(),
        }
    }

    fn journal(&self, from: OutputFrom) -> BoxFuture<'_, io::Result<Output>> {
        match self.0.hosts.get(&RoleName::lb()) {
            Some(host) => host.journal(JOURNAL, from),
            None => async { Err(io::Error::new(io::ErrorKind::NotFound, "this node balances no load")) }.boxed(),
        }
    }

    fn requests(&self) -> Window {
        self.0.requests.clone()
    }

    fn call(
        &self,
        to: NodeId,
        kind: &'static str,
        body: Vec<u8>,
        ttl: Duration,
    ) -> BoxFuture<'_, Result<Vec<u8>, String>> {
        async move { self.0.transport.call(to, kind, body, ttl).await.map_err(|error| error.to_string()) }.boxed()
    }

    fn examine(&self) -> BoxFuture<'_, Findings> {
        self.1.examine().boxed()
    }

    fn recovery(&self, lost: Vec<String>) -> BoxFuture<'_, Result<Recovery, ApiError>> {
        async move { recovery::plan(&self.0, &self.sight(), &lost).await }.boxed()
    }

    fn recover(
        &self,
        lost: Vec<String>,
        off: bool,
        force: Option<String>,
        by: String,
    ) -> BoxFuture<'_, Result<Recovery, ApiError>> {
        async move { recovery::recover(&self.0, &self.sight(), &lost, off, force.as_deref(), by).await }.boxed()
    }

    fn backup(&self, lock: Lock, key: FileKey, by: String) -> BoxFuture<'_, Result<Sealing, ApiError>> {
        async move { backup::make(&self.0, lock, &key, by).await }.boxed()
    }

    fn metrics(&self) -> String {
        self.0.metrics.text()
    }

    fn seal<'a>(&'a self, id: &'a SecretId, value: String) -> BoxFuture<'a, Result<SealedValue, String>> {
        secrets::seal(&self.0, id, value).boxed()
    }

    fn seal_key<'a>(&'a self, name: &'a CertificateName, key: String) -> BoxFuture<'a, Result<SealedValue, String>> {
        certificates::seal(&self.0, name, key).boxed()
    }

    fn seal_binding(&self, key: String) -> BoxFuture<'_, Result<SealedValue, String>> {
        acme::seal_binding(&self.0, key).boxed()
    }

    fn draw_access_key(&self) -> (AccessKeyId, String) {
        access::draw(self.0.world.chance.as_ref())
    }

    fn seal_access_key<'a>(
        &'a self,
        id: &'a AccessKeyId,
        secret: String,
    ) -> BoxFuture<'a, Result<SealedValue, String>> {
        access::seal(&self.0, id, secret).boxed()
    }

    fn has_access_key<'a>(&'a self, id: &'a AccessKeyId) -> BoxFuture<'a, ()> {
        async move {
            let mut known = self.0.access_keys.clone();
            // The sender lives as long as the agent; after it there is nothing to wait for.
            let _ = known.wait_for(|known| known.keys.contains_key(id)).await;
        }
        .boxed()
    }

    fn objects(&self) -> storage::Window {
        self.0.objects.clone()
    }

    fn mint(&self) -> Minted {
        let ca = self.0.control.state().borrow().cluster.ca.clone();
        let token = JoinToken::create(self.0.world.chance.as_ref(), &ca);
        Minted { id: token.id.clone(), word: token.to_string(), secret_hash: token.secret_hash() }
    }

    fn read_token(&self, word: &str) -> Option<TokenParts> {
        let token: JoinToken = word.parse().ok()?;
        Some(TokenParts { id: token.id.clone(), secret_hash: token.secret_hash() })
    }
}
