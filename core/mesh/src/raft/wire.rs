//! What is stored and sent: formats of our own, so that nothing on disk or on the wire depends on the version of the Raft engine.
//!
//! Rows and snapshots do not pass over unknown fields: what a newer hirsel wrote stops this replica. Messages do.

use std::collections::BTreeSet;

use bytes::Bytes;
use hirsel_model::codec;
use openraft::vote::RaftLeaderId;
use openraft::{EntryPayload, Membership};
use serde::{Deserialize, Serialize};

use super::{Command, Entry, LogId, SnapshotMeta, StoredMembership, Vote};

/// A place in the log, ordered as logs are compared: the later term first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Position {
    pub term: u64,
    pub index: u64,
}

impl From<LogId> for Position {
    fn from(id: LogId) -> Self {
        Self { term: *id.leader_id, index: id.index }
    }
}

impl From<Position> for LogId {
    fn from(at: Position) -> Self {
        let leader = openraft::impls::leader_id_std::LeaderId::new(at.term, 0u64);
        LogId { leader_id: leader.to_committed(), index: at.index }
    }
}

/// A vote: for whom in which term, and whether a majority gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ballot {
    pub term: u64,
    pub node: u64,
    pub won: bool,
}

impl From<Vote> for Ballot {
    fn from(vote: Vote) -> Self {
        Self { term: vote.leader_id.term, node: vote.leader_id.voted_for, won: vote.committed }
    }
}

impl From<Ballot> for Vote {
    fn from(ballot: Ballot) -> Self {
        match ballot.won {
            true => Vote::new_committed(ballot.term, ballot.node),
            false => Vote::new(ballot.term, ballot.node),
        }
    }
}

/// Who belongs to a group: one set of voters, two during a change, and everyone who gets the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Members {
    pub voters: Vec<BTreeSet<u64>>,
    pub nodes: BTreeSet<u64>,
}

type EngineMembers = Membership<u64, openraft::EmptyNode>;

impl From<&EngineMembers> for Members {
    fn from(members: &EngineMembers) -> Self {
        Self { voters: members.get_joint_config().clone(), nodes: members.nodes().map(|(id, _)| *id).collect() }
    }
}

impl From<Members> for EngineMembers {
    fn from(members: Members) -> Self {
        Membership::new_with_defaults(members.voters, members.nodes)
    }
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Row {
    pub at: Position,
    pub what: What,
}

/// What an entry holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum What {
    Blank,
    Command(Command),
    Members(Members),
}

impl From<&Entry> for Row {
    fn from(entry: &Entry) -> Self {
        let what = match &entry.payload {
            EntryPayload::Blank => What::Blank,
            EntryPayload::Normal(command) => What::Command(command.clone()),
            EntryPayload::Membership(members) => What::Members(members.into()),
        };
        Self { at: entry.log_id.into(), what }
    }
}

impl From<Row> for Entry {
    fn from(row: Row) -> Self {
        let payload = match row.what {
            What::Blank => EntryPayload::Blank,
            What::Command(command) => EntryPayload::Normal(command),
            What::Members(members) => EntryPayload::Membership(members.into()),
        };
        Entry { log_id: row.at.into(), payload }
    }
}

/// What a snapshot covers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Head {
    pub last: Option<Position>,
    pub members_at: Option<Position>,
    pub members: Members,
}

impl From<&SnapshotMeta> for Head {
    fn from(meta: &SnapshotMeta) -> Self {
        Self {
            last: meta.last_log_id.map(Into::into),
            members_at: meta.last_membership.log_id().map(Into::into),
            members: meta.last_membership.membership().into(),
        }
    }
}

impl From<Head> for SnapshotMeta {
    fn from(head: Head) -> Self {
        let members = StoredMembership::new(head.members_at.map(Into::into), head.members.into());
        SnapshotMeta { last_log_id: head.last.map(Into::into), last_membership: members }
    }
}

/// From one replica to another.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Request {
    Append {
        ballot: Ballot,
        previous: Option<Position>,
        rows: Vec<Row>,
        committed: Option<Position>,
        /// No majority obeys the sender any more: whoever hears it hears no leader.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        alone: bool,
    },
    Vote(Ask),
    PreVote(Ask),
    Chunk {
        ballot: Ballot,
        head: Head,
        offset: u64,
        total: u64,
        bytes: Bytes,
    },
    Transfer {
        ballot: Ballot,
        to: u64,
        last: Option<Position>,
    },
    /// A piece of a snapshot of a machine that keeps its state on disk.
    Frame {
        ballot: Ballot,
        head: Head,
        /// From 0, which is what is kept beside the state.
        number: u64,
        last: bool,
        bytes: Bytes,
    },
}

/// A candidate's question.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Ask {
    pub ballot: Ballot,
    pub last: Option<Position>,
    /// The leader itself asked for this election.
    pub transfer: bool,
}

impl Request {
    /// Which node says this.
    pub fn sender(&self) -> u64 {
        match self {
            Request::Append { ballot, .. }
            | Request::Chunk { ballot, .. }
            | Request::Frame { ballot, .. }
            | Request::Transfer { ballot, .. } => ballot.node,
            Request::Vote(ask) | Request::PreVote(ask) => ask.ballot.node,
        }
    }
}

/// And back.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    Appended { up_to: Option<Position>, all: bool },
    Conflict,
    Higher(Ballot),
    Voted { ballot: Ballot, granted: bool, last: Option<Position> },
    ChunkTaken,
    Installed(Ballot),
    Transferring,
    OtherVote { expected: Ballot, actual: Ballot },
    NotFlushed { expected: Option<Position>, actual: Option<Position> },
}

/// Reads whatever may come from another replica or the disk, up to what the engine would be given ([`crate::decoders`]).
pub(crate) fn decode(bytes: &[u8]) {
    if let Ok(request) = codec::decode::<Request>(bytes) {
        let _ = request.sender();
        match request {
            Request::Append { ballot, rows, .. } => {
                drop((Vote::from(ballot), rows.into_iter().map(Entry::from).collect::<Vec<_>>()));
            }
            Request::Chunk { head, .. } | Request::Frame { head, .. } => drop(SnapshotMeta::from(head)),
            Request::Vote(ask) | Request::PreVote(ask) => drop(Vote::from(ask.ballot)),
            Request::Transfer { ballot, .. } => drop(Vote::from(ballot)),
        }
    }
    drop(codec::decode::<Row>(bytes).map(Entry::from));
    drop(codec::decode::<Answer>(bytes));
    drop(codec::decode::<Ballot>(bytes));
    drop(codec::decode::<Command>(bytes));
}

/// One of each.
pub(crate) fn samples() -> Vec<Vec<u8>> {
    let (at, ballot) = (Position { term: 1, index: 2 }, Ballot { term: 1, node: 1, won: true });
    let command = Command { proposer: 1, sequence: 2, settled_below: 1, body: Bytes::from_static(b"body") };
    let members = Members { voters: vec![BTreeSet::from([1, 2]), BTreeSet::from([2, 3])], nodes: (1..4).collect() };
    let rows = [What::Blank, What::Command(command), What::Members(members.clone())].map(|what| Row { at, what });
    let head = Head { last: Some(at), members_at: Some(at), members };
    let ask = || Ask { ballot, last: Some(at), transfer: false };
    let mut samples: Vec<Vec<u8>> = rows.iter().map(codec::encode).collect();
    samples.extend(
        [
            Request::Append { ballot, previous: Some(at), rows: rows.to_vec(), committed: Some(at), alone: true },
            Request::Vote(ask()),
            Request::PreVote(ask()),
            Request::Chunk { ballot, head: head.clone(), offset: 0, total: 4, bytes: Bytes::from_static(b"body") },
            Request::Frame { ballot, head, number: 0, last: false, bytes: Bytes::from_static(b"body") },
            Request::Transfer { ballot, to: 2, last: None },
        ]
        .iter()
        .map(codec::encode),
    );
    samples.push(codec::encode(&Answer::Voted { ballot, granted: true, last: Some(at) }));
    samples
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row() -> impl Strategy<Value = Row> {
        let set = || proptest::collection::btree_set(0u64..9, 1..4);
        let command = (any::<u64>(), any::<u64>(), any::<u64>(), proptest::collection::vec(any::<u8>(), 0..40));
        let what = prop_oneof![
            Just(What::Blank),
            command.prop_map(|(proposer, sequence, settled_below, body)| What::Command(Command {
                proposer,
                sequence,
                settled_below,
                body: body.into()
            })),
            (proptest::collection::vec(set(), 1..3), set()).prop_map(|(voters, more)| {
                let nodes = voters.iter().flatten().copied().chain(more).collect();
                What::Members(Members { voters, nodes })
            }),
        ];
        (any::<u64>(), any::<u64>(), what).prop_map(|(term, index, what)| Row { at: Position { term, index }, what })
    }

    proptest! {
        #[test]
        fn a_row_survives_the_disk_and_the_engine(row in row()) {
            let decoded: Row = codec::decode(&codec::encode(&row)).unwrap();
            prop_assert_eq!(&decoded, &row);
            let entry = Entry::from(decoded);
            prop_assert_eq!(Row::from(&entry), row);
        }

        #[test]
        fn a_truncated_row_is_an_error(row in row(), cut in 1usize..20) {
            let bytes = codec::encode(&row);
            let cut = bytes.len().saturating_sub(cut);
            prop_assert!(codec::decode::<Row>(&bytes[..cut]).is_err());
        }

        #[test]
        fn a_vote_survives_the_engine(term in any::<u64>(), node in any::<u64>(), won in any::<bool>()) {
            let ballot = Ballot { term, node, won };
            prop_assert_eq!(Ballot::from(Vote::from(ballot)), ballot);
        }
    }
}
