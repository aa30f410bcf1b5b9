//! What a replica answers: Raft's messages, and proposals and read points for others when it leads.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::BytesMut;
use futures::FutureExt;
use hirsel_model::{NodeId, codec};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest, VoteRequest, VoteResponse,
};

use super::group::Inner;
use super::machine::SNAPSHOT_BYTES_MAX;
use super::store::lock;
use super::wire::{Answer, Ask, Ballot, Head, Request};
use super::{Raft, Snapshot, Types};

/// A snapshot that is arriving.
struct Arriving {
    head: Head,
    total: u64,
    bytes: BytesMut,
}

/// Snapshots that are arriving, by sender. Only a leader sends one, so there is rarely more than one; a second sender replaces the first.
#[derive(Default)]
pub(super) struct Arrivals(Mutex<BTreeMap<NodeId, Arriving>>);

impl Arrivals {
    /// Takes a piece; gives the whole when it was the last one.
    fn take(
        &self,
        from: NodeId,
        head: &Head,
        offset: u64,
        total: u64,
        piece: &[u8],
    ) -> Result<Option<BytesMut>, String> {
        if total > SNAPSHOT_BYTES_MAX {
            return Err(format!("snapshot of {total} bytes exceeds {SNAPSHOT_BYTES_MAX}"));
        }
        let mut arrivals = lock(&self.0);
        if offset == 0 {
            arrivals.clear();
            arrivals.insert(from, Arriving { head: head.clone(), total, bytes: BytesMut::new() });
        }
        let expected = arrivals.get(&from).filter(|arriving| arriving.head == *head && arriving.total == total);
        if expected.is_none_or(|arriving| arriving.bytes.len() as u64 != offset) {
            arrivals.remove(&from);
            return Err(format!("a piece of a snapshot at {offset} that does not follow the last one"));
        }
        let Some(arriving) = arrivals.get_mut(&from) else { return Ok(None) };
        arriving.bytes.extend_from_slice(piece);
        if arriving.bytes.len() as u64 > total {
            arrivals.remove(&from);
            return Err(format!("more pieces of a snapshot than its {total} bytes"));
        }
        if (arriving.bytes.len() as u64) < total {
            return Ok(None);
        }
        Ok(arrivals.remove(&from).map(|arriving| arriving.bytes))
    }
}

/// Begins to answer. The handlers do not keep the group alive.
pub(super) fn serve(inner: &Arc<Inner>) {
    let names = inner.names;
    let group = Arc::downgrade(inner);
    inner.calls.serve(
        names.raft,
        Arc::new(move |from, body| {
            let group = group.clone();
            async move { answer(&*group.upgrade().ok_or("stopped")?, from, &body).await }.boxed()
        }),
    );
    let group = Arc::downgrade(inner);
    inner.calls.serve(
        names.propose,
        Arc::new(move |_, body| {
            let group = group.clone();
            async move {
                let group = group.upgrade().ok_or("stopped")?;
                let command = codec::decode(group.untagged(&body)?).map_err(|error| error.to_string())?;
                let _permit = group.busy.try_acquire().map_err(|_| "too many proposals at once")?;
                Ok(codec::encode(&group.offer_here(command).await))
            }
            .boxed()
        }),
    );
    let group = Arc::downgrade(inner);
    inner.calls.serve(
        names.read,
        Arc::new(move |_, body| {
            let group = group.clone();
            async move {
                let group = group.upgrade().ok_or("stopped")?;
                group.untagged(&body)?;
                let _permit = group.busy.try_acquire().map_err(|_| "too many reads at once")?;
                Ok(codec::encode(&group.read_here().await))
            }
            .boxed()
        }),
    );
    let group = Arc::downgrade(inner);
    inner.calls.serve(
        names.seen,
        Arc::new(move |from, body| {
            let group = group.clone();
            async move {
                let group = group.upgrade().ok_or("stopped")?;
                let ask = codec::decode(group.untagged(&body)?).map_err(|error| error.to_string())?;
                Ok(codec::encode(&group.saw(from, &ask)))
            }
            .boxed()
        }),
    );
}

async fn answer(group: &Inner, from: NodeId, body: &[u8]) -> Result<Vec<u8>, String> {
    let request: Request = codec::decode(group.untagged(body)?).map_err(|error| error.to_string())?;
    // Whoever could speak for another could vote for it.
    if request.sender() != from.0 {
        return Err(format!("a message of node {} came from node {from}", request.sender()));
    }
    group.may_answer(from, &request).await?;
    let answer = match request {
        Request::Append { ballot, previous, rows, committed, alone } => {
            append(
                group,
                alone,
                AppendEntriesRequest {
                    vote: ballot.into(),
                    prev_log_id: previous.map(Into::into),
                    entries: rows.into_iter().map(Into::into).collect(),
                    leader_commit: committed.map(Into::into),
                },
            )
            .await?
        }
        Request::Vote(ask) => voted(group.raft().vote(vote(ask)).await.map_err(|error| error.to_string())?),
        Request::PreVote(ask) => voted(group.raft().pre_vote(vote(ask)).await.map_err(|error| error.to_string())?),
        Request::Chunk { ballot, head, offset, total, bytes } => {
            group.heard();
            match group.arrivals.take(from, &head, offset, total, &bytes)? {
                None => Answer::ChunkTaken,
                Some(whole) => install(&group.raft(), ballot, head, whole).await?,
            }
        }
        Request::Frame { ballot, head, number, last, bytes } => {
            group.heard();
            match group.machine.arrive(from, &head, (number, last), bytes).await? {
                false => Answer::ChunkTaken,
                true => {
                    // To its end, whether the sender waits for it or not: the engine must find what has arrived.
                    let (raft, machine) = (group.raft(), group.machine.clone());
                    let installing = tokio::spawn(async move {
                        let installed = install(&raft, ballot, head, BytesMut::new()).await;
                        if !matches!(&installed, Ok(Answer::Installed(now)) if *now == ballot) {
                            machine.refuse_arrived();
                        }
                        installed
                    });
                    installing.await.map_err(|error| error.to_string())??
                }
            }
        }
        Request::Transfer { ballot, to, last } => {
            let request = TransferLeaderRequest::new(ballot.into(), to, last.map(Into::into));
            match group.raft().handle_transfer_leader(request).await.map_err(|error| error.to_string())? {
                Ok(()) => Answer::Transferring,
                Err(TransferLeaderError::VoteChanged { expected, actual }) => {
                    Answer::OtherVote { expected: expected.into(), actual: actual.into() }
                }
                Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
                    Answer::NotFlushed { expected: expected.map(Into::into), actual: actual.map(Into::into) }
                }
            }
        }
    };
    Ok(codec::encode(&answer))
}

async fn append(group: &Inner, alone: bool, request: AppendEntriesRequest<Types>) -> Result<Answer, String> {
    let answer = group.raft().append_entries(request).await.map_err(|error| error.to_string())?;
    // One that lost its majority speaks up from time to time. Who took that for a leader would never learn that there is none.
    if !alone && !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
        group.heard();
    }
    Ok(match answer {
        AppendEntriesResponse::HigherVote(vote) => Answer::Higher(vote.into()),
        AppendEntriesResponse::Success => Answer::Appended { up_to: None, all: true },
        AppendEntriesResponse::PartialSuccess(up_to) => Answer::Appended { up_to: up_to.map(Into::into), all: false },
        AppendEntriesResponse::Conflict => Answer::Conflict,
    })
}

async fn install(raft: &Raft, ballot: Ballot, head: Head, whole: BytesMut) -> Result<Answer, String> {
    let snapshot = Snapshot { meta: head.into(), snapshot: whole.freeze() };
    let installed = raft.install_full_snapshot(ballot.into(), snapshot).await;
    Ok(Answer::Installed(installed.map_err(|error| error.to_string())?.vote.into()))
}

fn vote(ask: Ask) -> VoteRequest<Types> {
    VoteRequest { vote: ask.ballot.into(), last_log_id: ask.last.map(Into::into), leadership_transfer: ask.transfer }
}

fn voted(answer: VoteResponse<Types>) -> Answer {
    Answer::Voted { ballot: answer.vote.into(), granted: answer.vote_granted, last: answer.last_log_id.map(Into::into) }
}
