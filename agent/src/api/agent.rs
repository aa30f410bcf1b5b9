//! All that the interface knows of the agent behind it. The agent implements it over its parts; tests implement it over plain data.

use std::io;
use std::time::Duration;

use futures::future::BoxFuture;
use hirsel_mesh::archive::{FileKey, Lock, Sealing};
use hirsel_model::access::AccessKeyId;
use hirsel_model::control::{Entry, Outcome};
use hirsel_model::secret::SecretId;
use hirsel_model::{CertificateName, InstanceId, LogIndex, NodeId};
use hirsel_role::host::{Output, OutputFrom};
use hirsel_role::requests::Window;
use hirsel_role::storage;

use super::doctor::Findings;
use super::error::{ApiError, Code};
use super::recovery::Recovery;
use super::sight::Sight;
use crate::secrets::SealedValue;

/// The agent behind the interface.
pub trait Agent: Send + Sync + 'static {
    /// What it sees now.
    fn sight(&self) -> Sight;
    /// Proposes a change to whoever leads.
    fn propose(&self, entry: Entry, ttl: Duration) -> BoxFuture<'_, Result<Outcome, NotProposed>>;
    /// Completes when the control state of this node has got beyond `index`. The caller bounds the wait.
    fn beyond(&self, index: LogIndex) -> BoxFuture<'_, ()>;
    /// Completes when this node shows every change that was confirmed to anybody before.
    fn barrier(&self, ttl: Duration) -> BoxFuture<'_, Result<LogIndex, NotProposed>>;
    /// Output of an instance on this node.
    fn output<'a>(&'a self, instance: &'a InstanceId, from: OutputFrom) -> BoxFuture<'a, io::Result<Output>>;
    /// Asks another node.
    fn call(
        &self,
        to: NodeId,
        kind: &'static str,
        body: Vec<u8>,
        ttl: Duration,
    ) -> BoxFuture<'_, Result<Vec<u8>, String>>;
    /// What the load balancer of this node wrote down of requests.
    fn journal(&self, _from: OutputFrom) -> BoxFuture<'_, io::Result<Output>> {
        Box::pin(std::future::ready(Err(io::ErrorKind::NotFound.into())))
    }
    /// Who tells of the requests of this node.
    fn requests(&self) -> Window {
        Window::default()
    }
    /// Looks at this node and its ways to the others. Takes seconds where some do not answer.
    fn examine(&self) -> BoxFuture<'_, Findings>;
    /// What survived the loss of a majority, and what a recovery without `lost` would make of it. Takes seconds where some do not answer.
    fn recovery(&self, lost: Vec<String>) -> BoxFuture<'_, Result<Recovery, ApiError>>;
    /// Founds the control group anew without `lost`, which somebody has made sure are `off`, or not. `by` is written into the log.
    fn recover(
        &self,
        lost: Vec<String>,
        off: bool,
        force: Option<String>,
        by: String,
    ) -> BoxFuture<'_, Result<Recovery, ApiError>>;
    /// The control state, sealed with `key`, which `lock` made. `by` is written into the log.
    fn backup(&self, lock: Lock, key: FileKey, by: String) -> BoxFuture<'_, Result<Sealing, ApiError>>;
    /// The metrics that this agent and its roles registered, in the text format of OpenMetrics.
    fn metrics(&self) -> String;
    /// Has the value of a secret sealed by a node that holds the key. The error is in words, without the value.
    fn seal<'a>(&'a self, id: &'a SecretId, value: String) -> BoxFuture<'a, Result<SealedValue, String>>;
    /// Has the key of a certificate sealed in the same way.
    fn seal_key<'a>(&'a self, name: &'a CertificateName, key: String) -> BoxFuture<'a, Result<SealedValue, String>>;
    /// Has the key of an external account of a directory sealed in the same way.
    fn seal_binding(&self, key: String) -> BoxFuture<'_, Result<SealedValue, String>>;
    /// An id and a secret of an access key that nobody else ever gets.
    fn draw_access_key(&self) -> (AccessKeyId, String);
    /// Has the secret of an access key sealed in the same way.
    fn seal_access_key<'a>(&'a self, id: &'a AccessKeyId, secret: String)
    -> BoxFuture<'a, Result<SealedValue, String>>;
    /// Completes when the object store of this node knows an access key. The caller bounds the wait.
    fn has_access_key<'a>(&'a self, _id: &'a AccessKeyId) -> BoxFuture<'a, ()> {
        Box::pin(std::future::ready(()))
    }
    /// The objects of the cluster, as the storage role of this node reaches them.
    fn objects(&self) -> storage::Window {
        storage::Window::default()
    }
    /// Draws a token of this cluster.
    fn mint(&self) -> Minted;
    /// Takes a token apart; none when it is no token.
    fn read_token(&self, word: &str) -> Option<TokenParts>;
}

/// A token just drawn.
#[derive(Clone)]
pub struct Minted {
    /// Its public part.
    pub id: String,
    /// The whole token.
    pub word: String,
    /// SHA-256 of its secret part.
    pub secret_hash: Vec<u8>,
}

/// A token somebody showed.
#[derive(Clone)]
pub struct TokenParts {
    /// Its public part.
    pub id: String,
    /// SHA-256 of its secret part.
    pub secret_hash: Vec<u8>,
}

/// Why nobody can say that a change happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotProposed {
    /// Nobody leads.
    NoLeader,
    /// It may happen yet.
    TimedOut,
    /// The replica stopped; why.
    Stopped(String),
}

impl From<NotProposed> for ApiError {
    fn from(error: NotProposed) -> Self {
        match error {
            NotProposed::NoLeader => ApiError::new(Code::NoLeader, "no leader is known, so nothing can be changed now")
                .next("hirsel status")
                .next("hirsel recover --plan"),
            NotProposed::TimedOut => {
                ApiError::new(Code::TimedOut, "the leader did not confirm the change in time; it may happen yet")
                    .next("hirsel events")
            }
            NotProposed::Stopped(words) => ApiError::new(Code::Failed, words).next("hirsel status"),
        }
    }
}
