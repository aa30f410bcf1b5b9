//! An agent of plain data behind the interface, for tests: what is proposed is applied at once.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use hirsel_mesh::archive::{FileKey, Lock, Sealing};
use hirsel_model::access::AccessKeyId;
use hirsel_model::control::{Entry, Outcome};
use hirsel_model::secret::SecretId;
use hirsel_model::{CertificateName, InstanceId, LogIndex, NodeId};
use hirsel_role::host::{Output, OutputFrom};
use hirsel_role::requests::Window;
use hirsel_role::storage;
use tokio::sync::watch;

use super::agent::{Agent, Minted, NotProposed, TokenParts};
use super::doctor::Findings;
use super::error::ApiError;
use super::recovery::Recovery;
use super::requests;
use super::sight::Sight;
use crate::secrets::SealedValue;

/// An agent that is nothing but what it sees.
pub struct StandIn {
    sight: watch::Sender<Sight>,
    /// Who tells of its requests.
    pub requests: Window,
    pub objects: storage::Window,
}

impl StandIn {
    pub fn new(sight: Sight) -> Arc<Self> {
        Arc::new(Self {
            sight: watch::Sender::new(sight),
            requests: Window::default(),
            objects: storage::Window::default(),
        })
    }

    pub fn alter(&self, alter: impl FnOnce(&mut Sight)) {
        self.sight.send_modify(alter);
    }
}

/// The word of a token in tests: `tok-ID`, with the hash that the fixture gives every token; `bad-ID` has a wrong secret.
fn parts(word: &str) -> Option<TokenParts> {
    let (kind, id) = word.split_once('-')?;
    let secret_hash = match kind {
        "tok" => vec![7; 32],
        "bad" => vec![8; 32],
        _ => return None,
    };
    Some(TokenParts { id: id.into(), secret_hash })
}

impl Agent for StandIn {
    fn sight(&self) -> Sight {
        self.sight.borrow().clone()
    }

    fn propose(&self, entry: Entry, _ttl: Duration) -> BoxFuture<'_, Result<Outcome, NotProposed>> {
        async move {
            if self.sight.borrow().leader().is_none() {
                return Err(NotProposed::NoLeader);
            }
            let mut outcome = None;
            self.sight.send_modify(|sight| {
                let index = sight.state.applied.next();
                outcome = Some(Arc::make_mut(&mut sight.state).apply(index, entry));
            });
            outcome.ok_or(NotProposed::TimedOut)
        }
        .boxed()
    }

    fn beyond(&self, index: LogIndex) -> BoxFuture<'_, ()> {
        async move {
            let mut seen = self.sight.subscribe();
            let _ = seen.wait_for(|sight| sight.state.applied > index).await;
        }
        .boxed()
    }

    fn barrier(&self, _ttl: Duration) -> BoxFuture<'_, Result<LogIndex, NotProposed>> {
        async move {
            let sight = self.sight.borrow();
            sight.leader().map(|_| sight.state.applied).ok_or(NotProposed::NoLeader)
        }
        .boxed()
    }

    fn output<'a>(&'a self, instance: &'a InstanceId, from: OutputFrom) -> BoxFuture<'a, io::Result<Output>> {
        async move {
            let text = format!("2026-01-01T00:00:0{}Z o hello of {instance}\n", instance.number);
            Ok(match from {
                OutputFrom::Tail(_) | OutputFrom::Offset(0) => {
                    Output { next: text.len() as u64, bytes: text.into_bytes() }
                }
                OutputFrom::Offset(next) => Output { bytes: Vec::new(), next },
            })
        }
        .boxed()
    }

    fn journal(&self, from: OutputFrom) -> BoxFuture<'_, io::Result<Output>> {
        async move {
            let line =
                |second: u8, app: &str| format!("{{\"at\":\"2026-01-01T00:00:0{second}.000Z\",\"app\":\"{app}\"}}\n");
            let text = [line(1, "shop"), line(2, "other"), line(3, "shop")].concat();
            Ok(match from {
                OutputFrom::Tail(_) | OutputFrom::Offset(0) => {
                    Output { next: text.len() as u64, bytes: text.into_bytes() }
                }
                OutputFrom::Offset(next) => Output { bytes: Vec::new(), next },
            })
        }
        .boxed()
    }

    fn requests(&self) -> Window {
        self.requests.clone()
    }

    fn call(
        &self,
        to: NodeId,
        kind: &'static str,
        body: Vec<u8>,
        _: Duration,
    ) -> BoxFuture<'_, Result<Vec<u8>, String>> {
        async move {
            match to {
                NodeId(2) if kind == requests::CALL => requests::answer(self, &body).await,
                NodeId(2) => super::logs::answer(self, &body).await,
                _ => Err("unreachable".into()),
            }
        }
        .boxed()
    }

    fn examine(&self) -> BoxFuture<'_, Findings> {
        async { Findings::default() }.boxed()
    }

    fn recovery(&self, _: Vec<String>) -> BoxFuture<'_, Result<Recovery, ApiError>> {
        async { Ok(Recovery::default()) }.boxed()
    }

    fn recover(
        &self,
        _: Vec<String>,
        _: bool,
        _: Option<String>,
        _: String,
    ) -> BoxFuture<'_, Result<Recovery, ApiError>> {
        async { Ok(Recovery::default()) }.boxed()
    }

    fn backup(&self, lock: Lock, key: FileKey, _: String) -> BoxFuture<'_, Result<Sealing, ApiError>> {
        async move {
            let sealing = Sealing::new(b"inside".to_vec(), 1, lock, &key);
            sealing.map_err(|error| ApiError::new(super::error::Code::Failed, error.to_string()))
        }
        .boxed()
    }

    fn metrics(&self) -> String {
        "# TYPE hirsel_leader gauge\nhirsel_leader 0\n# EOF\n".into()
    }

    fn seal<'a>(&'a self, id: &'a SecretId, value: String) -> BoxFuture<'a, Result<SealedValue, String>> {
        async move {
            let sealed: Vec<u8> = value.bytes().rev().collect();
            let state = self.sight().state;
            let newest = state.secrets.get(id).and_then(|secret| secret.values.values().next_back());
            let same = newest.is_some_and(|newest| newest.0 == sealed);
            Ok(SealedValue { sealed, key: state.cluster.sealing.key.clone(), same })
        }
        .boxed()
    }

    fn seal_key<'a>(&'a self, _: &'a CertificateName, key: String) -> BoxFuture<'a, Result<SealedValue, String>> {
        async move {
            let key_in_force = self.sight().state.cluster.sealing.key.clone();
            Ok(SealedValue { sealed: key.bytes().rev().collect(), key: key_in_force, same: false })
        }
        .boxed()
    }

    fn seal_binding(&self, key: String) -> BoxFuture<'_, Result<SealedValue, String>> {
        async move {
            let key_in_force = self.sight().state.cluster.sealing.key.clone();
            Ok(SealedValue { sealed: key.bytes().rev().collect(), key: key_in_force, same: false })
        }
        .boxed()
    }

    fn draw_access_key(&self) -> (AccessKeyId, String) {
        ("HIRS0000000000000001".parse().expect("an id"), "s3cr3t".into())
    }

    fn seal_access_key<'a>(&'a self, _: &'a AccessKeyId, secret: String) -> BoxFuture<'a, Result<SealedValue, String>> {
        async move {
            let key_in_force = self.sight().state.cluster.sealing.key.clone();
            Ok(SealedValue { sealed: secret.bytes().rev().collect(), key: key_in_force, same: false })
        }
        .boxed()
    }

    fn objects(&self) -> storage::Window {
        self.objects.clone()
    }

    fn mint(&self) -> Minted {
        Minted { id: "new".into(), word: "tok-new".into(), secret_hash: vec![7; 32] }
    }

    fn read_token(&self, word: &str) -> Option<TokenParts> {
        parts(word)
    }
}
