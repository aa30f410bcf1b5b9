//! The metadata from any node: questions and commands, whoever is a member of the group.
//!
//! A command goes to whoever leads. A question is answered here where this node is a member, else by a member, which looks at a moment that
//! has everything in it that was answered anywhere before. Nobody needs to know who leads.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use hirsel_mesh::raft::ProposeError;
use hirsel_mesh::seam::{Chance, Clock};
use hirsel_mesh::transport::CallError;
use hirsel_model::{NodeId, codec};
use hirsel_role::peers::Peers;
use tokio::time::{Instant, sleep_until};

use super::command::{Answer, Command, Entry};
use super::group::{AskError, MetaGroup};
use super::query::{self, QUESTIONS_MAX, Query, Reply};
use super::read::ReadError;
use super::refusal::Refusal;
use crate::drive;
use crate::gather::Gather;

/// By what a node asks a member.
pub const LOOK: &str = "storage.look";
/// A command or question is tried again for this long where nobody leads: an election takes a second or two, and a client waits.
pub const WITHIN: Duration = Duration::from_secs(5);
/// One try of it: what a leader or member that lives needs at most.
const TRY_WITHIN: Duration = Duration::from_secs(2);
/// A member that does not answer for so long has the next one asked as well: one that is gone costs no more. They answer in some milliseconds.
const ASK_NEXT_AFTER: Duration = Duration::from_millis(200);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(50);

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetaError {
    /// It is refused, as S3 says it; nothing was changed.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// Nobody answered in time; nothing was changed.
    #[error("the metadata cannot be reached: {0}")]
    Unreachable(String),
    /// Somebody took a command and did not answer in time: it has happened, will happen, or never will.
    #[error("the metadata did not answer in time; what was asked may have happened")]
    Unknown,
}

/// The metadata, as this node reaches it.
#[derive(Clone)]
pub struct Metadata {
    group: Arc<MetaGroup>,
    peers: Arc<dyn Peers>,
    clock: Arc<dyn Clock>,
    chance: Arc<dyn Chance>,
}

impl Metadata {
    /// Through this node's part of the group, which need not be a member.
    pub fn new(group: Arc<MetaGroup>, peers: Arc<dyn Peers>, clock: Arc<dyn Clock>, chance: Arc<dyn Chance>) -> Self {
        Self { group, peers, clock, chance }
    }

    /// This node's part of the group.
    pub fn group(&self) -> &MetaGroup {
        &self.group
    }

    /// Answers other nodes' questions from now on.
    pub fn serve(&self) {
        let group = self.group.clone();
        let handler = move |_: NodeId, body: Vec<u8>| {
            let group = group.clone();
            async move {
                let queries: Vec<Query> = codec::decode(&body).map_err(|error| format!("no questions: {error}"))?;
                if queries.len() > QUESTIONS_MAX {
                    return Err(format!("{} questions exceed {QUESTIONS_MAX}", queries.len()));
                }
                let replies = here(&group, &queries).await.map_err(|error| error.to_string())?;
                Ok(codec::encode(&replies))
            }
            .boxed()
        };
        self.peers.serve(LOOK, Arc::new(handler));
    }

    /// Has a command carried out.
    ///
    /// # Errors
    /// When it is refused, or nobody leads in time. It is carried out at most once.
    pub async fn ask(&self, command: Command) -> Result<Answer, MetaError> {
        self.ask_as(command, self.chance.number()).await
    }

    /// The same under a number that was drawn for it: what it makes has it in its stamp, and can be known by it.
    ///
    /// # Errors
    /// See [`Metadata::ask`].
    pub async fn ask_as(&self, command: Command, salt: u64) -> Result<Answer, MetaError> {
        let entry = Entry { at: self.clock.wall(), salt, command };
        match self.group.ask(&entry, WITHIN).await {
            Ok(answer) => Ok(answer),
            Err(AskError::Refused(refusal)) => Err(refusal.into()),
            // A copy that ended may have ended under it.
            Err(AskError::Group(ProposeError::TimedOut | ProposeError::Stopped(_)) | AskError::Strange(_)) => {
                Err(MetaError::Unknown)
            }
            Err(error) => Err(MetaError::Unreachable(error.to_string())),
        }
    }

    /// The answer to one question, linearizably.
    ///
    /// # Errors
    /// When it is refused, or nobody can answer in time.
    pub async fn look(&self, query: Query) -> Result<Reply, MetaError> {
        let mut replies = self.look_all(vec![query]).await?;
        let reply = replies.pop().unwrap_or_else(|| Err(Refusal::Argument("no question was asked".into())));
        Ok(reply?)
    }

    /// The answers to at most [`QUESTIONS_MAX`] questions out of one moment, in their order.
    ///
    /// # Errors
    /// When nobody can answer in time.
    pub async fn look_all(&self, queries: Vec<Query>) -> Result<Vec<Result<Reply, Refusal>>, MetaError> {
        let deadline = Instant::now() + WITHIN;
        let mut turn: usize = 0;
        loop {
            // Where this copy does not follow, another one does.
            let is_turn = turn.is_multiple_of(2) || self.group.known_voters().is_empty();
            let looked = match self.group.is_member() {
                true if is_turn => here(&self.group, &queries).await.map_err(|error| error.to_string()),
                true => self.elsewhere(&queries, turn.div_ceil(2)).await,
                false => self.elsewhere(&queries, turn).await,
            };
            let why = match looked {
                Ok(replies) => return Ok(replies),
                Err(why) => why,
            };
            if Instant::now() + PAUSE >= deadline {
                return Err(MetaError::Unreachable(why));
            }
            turn += 1;
            sleep_until(Instant::now() + PAUSE).await;
        }
    }

    async fn elsewhere(&self, queries: &[Query], turn: usize) -> Result<Vec<Result<Reply, Refusal>>, String> {
        let mut members: Vec<NodeId> = self.group.known_voters().into_iter().collect();
        if members.is_empty() {
            return Err("no node keeps metadata yet".into());
        }
        // Not all nodes ask the same member, and none asks one that did not answer again before the others.
        let place = turn + usize::try_from(self.chance.number() % 64).unwrap_or_default() * usize::from(turn == 0);
        let first = place % members.len();
        members.rotate_left(first);
        let (body, members) = (&codec::encode(&queries), &members);
        let read = Gather::new(members.len(), 1, ASK_NEXT_AFTER);
        let ask = |number: usize| async move {
            let member = members[number];
            let answer =
                self.peers.call(member, LOOK, body.clone(), TRY_WITHIN).await.map_err(|error| match error {
                    CallError::Refused(words) => words,
                    error => format!("node {member}: {error}"),
                })?;
            codec::decode(&answer).map_err(|error| format!("node {member} answers what is no answer: {error}"))
        };
        let answers = drive::gather(read, ask, || {});
        let why = |failed: Vec<(usize, String)>| {
            failed.into_iter().next_back().map_or_else(|| "no member answers".into(), |(_, why)| why)
        };
        let answer = answers.await.map_err(why)?.pop();
        answer.map(|(_, answer)| answer).ok_or_else(|| "no member answers".into())
    }
}

async fn here(group: &MetaGroup, queries: &[Query]) -> Result<Vec<Result<Reply, Refusal>>, AskError> {
    let moment = group.moment(TRY_WITHIN).await?;
    let answer = |query| match query::answer(&moment, query) {
        Ok(reply) => Ok(Ok(reply)),
        Err(ReadError::Refused(refusal)) => Ok(Err(refusal)),
        Err(ReadError::Rows(error)) => Err(AskError::Rows(error)),
    };
    queries.iter().map(answer).collect()
}
