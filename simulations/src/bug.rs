//! Mistakes planted into whole agents on purpose, to see that a checker finds them. Only tests plant them.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use hirsel::api::agent::{Agent, Minted, NotProposed, TokenParts};
use hirsel::api::doctor::Findings;
use hirsel::api::error::ApiError;
use hirsel::api::recovery::Recovery;
use hirsel::api::sight::Sight;
use hirsel::secrets::SealedValue;
use hirsel_mesh::archive::{FileKey, Lock, Sealing};
use hirsel_model::access::AccessKeyId;
use hirsel_model::control::{Command, Entry, Outcome};
use hirsel_model::order::{Order, Work};
use hirsel_model::report::RoleReport;
use hirsel_model::secret::SecretId;
use hirsel_model::{CertificateName, InstanceId, LogIndex, NodeId, RoleName};
use hirsel_role::host::{Output, OutputFrom};
use hirsel_role::{Context, Plugin, Role};

/// A mistake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bug {
    /// None: what everybody but the tests runs.
    #[default]
    None,
    /// An agent that was started again does nothing for its instances any more.
    Forgetful,
    /// An agent has its node drained and opened again, for ever.
    Restless,
    /// Whoever stands still takes its neighbour down with it.
    Contagious,
    /// An agent panics.
    Panics,
    /// An agent ends though nobody asked it to.
    Ends,
    /// Agents call fresh what they happen to know.
    Stale,
    /// Agents confirm some changes that they never proposed.
    Loses,
    /// Gateways confirm some objects that they never committed.
    Unkept,
    /// A disk rots after everything on it was looked at.
    Rots,
}

/// The agent that [`Bug::Restless`], [`Bug::Panics`] and [`Bug::Ends`] are planted in.
pub const WHERE: &str = "n2";
/// When the agent ends or panics: while the cluster forms, or has formed.
pub const WHEN: Duration = Duration::from_secs(5);
/// Between two wishes of the restless one: longer than it takes to be well in between.
pub const RESTLESS_EVERY: Duration = Duration::from_secs(5);

/// A compute role that is given nothing to do.
pub struct Idle(pub Arc<dyn Plugin>);

impl Plugin for Idle {
    fn role(&self) -> RoleName {
        self.0.role()
    }

    fn start(&self, context: Context) -> Box<dyn Role> {
        Box::new(IdleRole(self.0.start(context)))
    }
}

struct IdleRole(Box<dyn Role>);

impl Role for IdleRole {
    fn converge<'a>(&'a mut self, order: &'a Order) -> BoxFuture<'a, RoleReport> {
        Box::pin(async move { self.0.converge(&Order { work: Work::None, ..order.clone() }).await })
    }
}

/// An agent whose interface does not keep what it promises.
pub struct Lying {
    agent: Arc<dyn Agent>,
    bug: Bug,
}

impl Lying {
    /// The agent itself, unless this mistake is one of the interface.
    pub fn plant(agent: Arc<dyn Agent>, bug: Bug) -> Arc<dyn Agent> {
        if matches!(bug, Bug::Stale | Bug::Loses) { Arc::new(Self { agent, bug }) } else { agent }
    }
}

impl Agent for Lying {
    fn sight(&self) -> Sight {
        self.agent.sight()
    }

    fn propose(&self, entry: Entry, ttl: Duration) -> BoxFuture<'_, Result<Outcome, NotProposed>> {
        let index = self.agent.sight().state.applied;
        let is_unlucky = matches!(entry.command, Command::ApplyApp { .. }) && index.0.is_multiple_of(3);
        match self.bug == Bug::Loses && is_unlucky {
            true => async move { Ok(Outcome::Done { index }) }.boxed(),
            false => self.agent.propose(entry, ttl),
        }
    }

    fn beyond(&self, index: LogIndex) -> BoxFuture<'_, ()> {
        self.agent.beyond(index)
    }

    fn barrier(&self, ttl: Duration) -> BoxFuture<'_, Result<LogIndex, NotProposed>> {
        match self.bug {
            Bug::Stale => async { Ok(self.agent.sight().state.applied) }.boxed(),
            _ => self.agent.barrier(ttl),
        }
    }

    fn output<'a>(&'a self, instance: &'a InstanceId, from: OutputFrom) -> BoxFuture<'a, std::io::Result<Output>> {
        self.agent.output(instance, from)
    }

    fn journal(&self, from: OutputFrom) -> BoxFuture<'_, std::io::Result<Output>> {
        self.agent.journal(from)
    }

    fn requests(&self) -> hirsel_role::requests::Window {
        self.agent.requests()
    }

    fn draw_access_key(&self) -> (AccessKeyId, String) {
        self.agent.draw_access_key()
    }

    fn seal_access_key<'a>(
        &'a self,
        id: &'a AccessKeyId,
        secret: String,
    ) -> BoxFuture<'a, Result<SealedValue, String>> {
        self.agent.seal_access_key(id, secret)
    }

    fn has_access_key<'a>(&'a self, id: &'a AccessKeyId) -> BoxFuture<'a, ()> {
        self.agent.has_access_key(id)
    }

    fn objects(&self) -> hirsel_role::storage::Window {
        self.agent.objects()
    }

    fn call(
        &self,
        to: NodeId,
        kind: &'static str,
        body: Vec<u8>,
        ttl: Duration,
    ) -> BoxFuture<'_, Result<Vec<u8>, String>> {
        self.agent.call(to, kind, body, ttl)
    }

    fn examine(&self) -> BoxFuture<'_, Findings> {
        self.agent.examine()
    }

    fn recovery(&self, lost: Vec<String>) -> BoxFuture<'_, Result<Recovery, ApiError>> {
        self.agent.recovery(lost)
    }

    fn recover(
        &self,
        lost: Vec<String>,
        off: bool,
        force: Option<String>,
        by: String,
    ) -> BoxFuture<'_, Result<Recovery, ApiError>> {
        self.agent.recover(lost, off, force, by)
    }

    fn backup(&self, lock: Lock, key: FileKey, by: String) -> BoxFuture<'_, Result<Sealing, ApiError>> {
        self.agent.backup(lock, key, by)
    }

    fn metrics(&self) -> String {
        self.agent.metrics()
    }

    fn seal<'a>(&'a self, id: &'a SecretId, value: String) -> BoxFuture<'a, Result<SealedValue, String>> {
        self.agent.seal(id, value)
    }

    fn seal_key<'a>(&'a self, name: &'a CertificateName, key: String) -> BoxFuture<'a, Result<SealedValue, String>> {
        self.agent.seal_key(name, key)
    }
    fn seal_binding(&self, key: String) -> BoxFuture<'_, Result<SealedValue, String>> {
        self.agent.seal_binding(key)
    }

    fn mint(&self) -> Minted {
        self.agent.mint()
    }

    fn read_token(&self, word: &str) -> Option<TokenParts> {
        self.agent.read_token(word)
    }
}
