//! What a replica says to another: Raft's messages as calls, each with a deadline.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hirsel_model::{NodeId, Tag, codec};
use openraft::OptionalSend;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::v2::RaftNetworkV2;
use openraft::network::{RPCOption, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};

use super::calls::Calls;
use super::kept::Sending;
use super::machine::Machine;
use super::tagged::tagged;
use super::wire::{Answer, Ask, Head, Request, Row};
use super::{APPEND_BYTES_MAX, LogId, Snapshot, SnapshotData, Types, Vote};
use crate::transport::CallError;

/// A snapshot is sent in pieces of this size, so that none delays a heartbeat on a slow link by much (20 ms at 100 Mbit/s).
const CHUNK_BYTES: usize = 256 << 10;
/// A piece that is not answered for this long is not answered at all; the last one includes installing it.
const CHUNK_WITHIN: Duration = Duration::from_secs(10);

/// Makes a [`Link`] for each other member.
pub(super) struct Network {
    pub calls: Arc<dyn Calls>,
    pub kind: &'static str,
    pub tag: Tag,
    /// This replica leads, and no majority obeys it any more.
    pub alone: Arc<AtomicBool>,
    /// The disk of this replica hangs: it says nothing as a leader.
    pub hung: Arc<AtomicBool>,
    /// Where snapshots come from that are not held in memory.
    pub machine: Machine,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Link;

    async fn new_client(&mut self, to: u64, _: &openraft::EmptyNode) -> Link {
        Link {
            calls: self.calls.clone(),
            kind: self.kind,
            tag: self.tag.clone(),
            alone: self.alone.clone(),
            hung: self.hung.clone(),
            machine: self.machine.clone(),
            to: NodeId(to),
        }
    }
}

/// The way to one other member.
pub(super) struct Link {
    calls: Arc<dyn Calls>,
    kind: &'static str,
    tag: Tag,
    alone: Arc<AtomicBool>,
    hung: Arc<AtomicBool>,
    machine: Machine,
    to: NodeId,
}

impl Link {
    async fn ask(&self, request: &Request, ttl: Duration) -> Result<Answer, CallError> {
        let answer = self.calls.call(self.to, self.kind, tagged(&self.tag, codec::encode(request)), ttl).await?;
        codec::decode(&answer).map_err(|error| CallError::Refused(error.to_string()))
    }

    async fn send(&self, request: &Request, option: &RPCOption) -> Result<Answer, RPCError<Types>> {
        self.ask(request, option.hard_ttl()).await.map_err(into_rpc)
    }

    fn strange(&self, answer: &Answer) -> RPCError<Types> {
        RPCError::Network(NetworkError::from_string(format!(
            "node {} answered with something else: {answer:?}",
            self.to
        )))
    }

    /// The state as it is now, which is no older than the snapshot that the engine asked to send, a frame at a time.
    async fn send_frames(
        &self,
        vote: Vote,
        mut sending: Sending,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let mut number = 0;
        while let Some((bytes, last)) = self.machine.next_frame(&mut sending).await.map_err(broken)? {
            let head = sending.head().clone();
            let request = Request::Frame { ballot: vote.into(), head, number, last, bytes: bytes.into() };
            match self.ask(&request, CHUNK_WITHIN).await {
                Ok(Answer::ChunkTaken) if !last => number += 1,
                Ok(Answer::Installed(ballot) | Answer::Higher(ballot)) => {
                    return Ok(SnapshotResponse { vote: ballot.into() });
                }
                Ok(answer) => {
                    return Err(broken(format!("node {} answered with something else: {answer:?}", self.to)));
                }
                Err(error) => return Err(StreamingError::Unreachable(Unreachable::from_string(error))),
            }
        }
        Err(broken("the snapshot has no end".into()))
    }

    async fn send_snapshot(
        &self,
        vote: Vote,
        snapshot: Snapshot,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        if let Some(sending) = self.machine.sending().await.map_err(broken)? {
            return self.send_frames(vote, sending).await;
        }
        let head = Head::from(&snapshot.meta);
        let total = snapshot.snapshot.len();
        let mut offset = 0;
        loop {
            let end = total.min(offset + CHUNK_BYTES);
            let request = Request::Chunk {
                ballot: vote.into(),
                head: head.clone(),
                offset: offset as u64,
                total: total as u64,
                bytes: snapshot.snapshot.slice(offset..end),
            };
            match self.ask(&request, CHUNK_WITHIN).await {
                Ok(Answer::ChunkTaken) if end < total => offset = end,
                Ok(Answer::Installed(ballot) | Answer::Higher(ballot)) => {
                    return Ok(SnapshotResponse { vote: ballot.into() });
                }
                Ok(answer) => {
                    let words = format!("node {} answered with something else: {answer:?}", self.to);
                    return Err(StreamingError::Network(NetworkError::from_string(words)));
                }
                Err(error) => return Err(StreamingError::Unreachable(Unreachable::from_string(error))),
            }
        }
    }
}

fn broken(error: String) -> StreamingError<Types> {
    StreamingError::Network(NetworkError::from_string(error))
}

// The engine waits before it speaks again to an unreachable node; a call that ran out of time is tried again at once.
fn into_rpc(error: CallError) -> RPCError<Types> {
    match error {
        CallError::TimedOut => RPCError::Network(NetworkError::from_string(error)),
        CallError::Unreachable | CallError::Refused(_) | CallError::NoHandler => {
            RPCError::Unreachable(Unreachable::from_string(error))
        }
    }
}

fn ask(request: &VoteRequest<Types>) -> Ask {
    Ask {
        ballot: request.vote.into(),
        last: request.last_log_id.map(Into::into),
        transfer: request.leadership_transfer,
    }
}

impl RaftNetworkV2<Types> for Link {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        // The engine goes on leading, and would for ever. Whom nobody hears is replaced.
        if self.hung.load(Ordering::Relaxed) {
            let silent = io::Error::other("the disk under the log of this node hangs: it leads no more");
            return Err(RPCError::Unreachable(Unreachable::new(&silent)));
        }
        let (mut bytes, mut rows) = (0, Vec::new());
        for entry in &request.entries {
            bytes += super::log::weight(entry);
            if bytes > APPEND_BYTES_MAX && !rows.is_empty() {
                break;
            }
            rows.push(Row::from(entry));
        }
        let sent: Option<LogId> = rows.last().map(|row| row.at.into()).or(request.prev_log_id);
        let all = rows.len() == request.entries.len();
        let message = Request::Append {
            ballot: request.vote.into(),
            previous: request.prev_log_id.map(Into::into),
            rows,
            committed: request.leader_commit.map(Into::into),
            alone: self.alone.load(Ordering::Relaxed),
        };
        match self.send(&message, &option).await? {
            Answer::Appended { all: true, .. } if all => Ok(AppendEntriesResponse::Success),
            Answer::Appended { all: true, .. } => Ok(AppendEntriesResponse::PartialSuccess(sent)),
            Answer::Appended { up_to, all: false } => Ok(AppendEntriesResponse::PartialSuccess(up_to.map(Into::into))),
            Answer::Conflict => Ok(AppendEntriesResponse::Conflict),
            Answer::Higher(ballot) => Ok(AppendEntriesResponse::HigherVote(ballot.into())),
            answer => Err(self.strange(&answer)),
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.send(&Request::Vote(ask(&request)), &option).await? {
            Answer::Voted { ballot, granted, last } => {
                Ok(VoteResponse::new(super::Vote::from(ballot), last.map(Into::into), granted))
            }
            answer => Err(self.strange(&answer)),
        }
    }

    // The engine's own version of this grants everything.
    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.send(&Request::PreVote(ask(&request)), &option).await? {
            Answer::Voted { ballot, granted, last } => {
                Ok(VoteResponse::new(super::Vote::from(ballot), last.map(Into::into), granted))
            }
            answer => Err(self.strange(&answer)),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.send_snapshot(vote, snapshot) => sent,
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let message = Request::Transfer {
            ballot: (*request.from_leader()).into(),
            to: *request.to_node_id(),
            last: request.last_log_id().map(|last| (*last).into()),
        };
        match self.send(&message, &option).await? {
            Answer::Transferring => Ok(Ok(())),
            Answer::OtherVote { expected, actual } => {
                Ok(Err(TransferLeaderError::VoteChanged { expected: expected.into(), actual: actual.into() }))
            }
            Answer::NotFlushed { expected, actual } => Ok(Err(TransferLeaderError::LogNotFlushed {
                expected: expected.map(Into::into),
                actual: actual.map(Into::into),
            })),
            answer => Err(self.strange(&answer)),
        }
    }
}
