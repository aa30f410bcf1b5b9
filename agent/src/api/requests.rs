//! What load balancers saw of requests: what they wrote down, which ones they remember, and how many there were. Each node tells of its
//! own (call [`CALL`]); the node that is asked puts it together.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use hirsel_model::report::RoleState;
use hirsel_model::{NodeId, RoleName, codec};
use hirsel_role::host::OutputFrom;
use hirsel_role::requests::{Remembered, Traffic};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::agent::Agent;
use super::error::{ApiError, Code};
use super::sight::Sight;

mod line;
pub mod past;

pub use line::Which;

/// The call by which one node asks another about requests.
pub const CALL: &str = "requests";
/// How much of the end of a node's log a first look reads.
const TAIL_BYTES: u64 = 1 << 20;
/// How many nodes one question goes to: more is for a log collector.
const NODES_MAX: usize = 100;
/// A node that does not answer in this time is left out, and named.
const TTL: Duration = Duration::from_millis(800);

/// A request that was written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RequestLine {
    /// When it was over, by its node's clock.
    pub at: String,
    /// The load balancer that saw it.
    pub node: String,
    /// The application it was for; none where no route took it.
    pub app: Option<String>,
    /// And its service.
    pub service: Option<String>,
    /// The line as it was written.
    pub text: String,
    /// What it says, if it was written as JSON.
    #[schema(value_type = Object)]
    pub request: Option<serde_json::Value>,
}

/// What went through a route on one node, since its load balancer began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RouteTraffic {
    /// The load balancer.
    pub node: String,
    /// The application; none for what no route takes, and for what is counted together.
    pub app: Option<String>,
    /// Host and path.
    pub route: String,
    /// Answers by the first digit of their status, from 1 to 5.
    pub answers: Vec<u64>,
    /// Requests that failed or broke off.
    pub failed: u64,
    /// Tries after the first one.
    pub retries: u64,
    /// Requests under way.
    pub in_flight: u64,
    /// Requests by how long they took: at most so many milliseconds, and how many; what is longer has none.
    pub took: Vec<Took>,
}

/// A count of requests that took so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Took {
    /// At most so long, and longer than the count before; none for all longer ones.
    pub at_most_ms: Option<u64>,
    /// How many.
    pub requests: u64,
}

/// What one node asks another.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Question {
    /// What was written down.
    Journal(Which, OutputFrom),
    /// Requests of this id.
    Recall(String),
    /// Counts of all routes.
    Traffic,
}

/// What it is told. A node that has nothing of the kind says nothing.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Told {
    lines: Vec<u8>,
    next: u64,
    remembered: Vec<Remembered>,
    traffic: Vec<Traffic>,
}

/// Answers another node's question about the requests of this one.
pub async fn answer(agent: &dyn Agent, question: &[u8]) -> Result<Vec<u8>, String> {
    let question: Question = codec::decode(question).map_err(|error| error.to_string())?;
    Ok(codec::encode(&here(agent, &question).await))
}

async fn here(agent: &dyn Agent, question: &Question) -> Told {
    let teller = || agent.requests().behind();
    match question {
        Question::Journal(which, from) => {
            // What is not there has no lines; that is no error of the question.
            let Ok(output) = agent.journal(*from).await else { return Told::default() };
            Told { lines: which.of(&output.bytes), next: output.next, ..Told::default() }
        }
        Question::Recall(id) => {
            Told { remembered: teller().map(|teller| teller.recall(id)).unwrap_or_default(), ..Told::default() }
        }
        Question::Traffic => {
            Told { traffic: teller().map(|teller| teller.traffic()).unwrap_or_default(), ..Told::default() }
        }
    }
}

/// Asks each of `questions`, and says which nodes did not answer.
async fn ask(agent: &Arc<dyn Agent>, questions: BTreeMap<NodeId, Question>) -> (Vec<(NodeId, Told)>, Vec<String>) {
    let sight = agent.sight();
    let asked = questions.into_iter().map(|(node, question)| {
        let agent = Arc::clone(agent);
        let is_me = node == sight.me;
        async move {
            let told = match is_me {
                true => Ok(here(&*agent, &question).await),
                false => there(&*agent, node, &question).await,
            };
            (node, told)
        }
    });
    let (mut all, mut missing) = (Vec::new(), Vec::new());
    for (node, told) in join_all(asked).await {
        match told {
            Ok(told) => all.push((node, told)),
            Err(why) => missing.push(format!("nothing from {}: {why}", sight.name(node))),
        }
    }
    (all, missing)
}

async fn there(agent: &dyn Agent, node: NodeId, question: &Question) -> Result<Told, String> {
    let answer = agent.call(node, CALL, codec::encode(question), TTL).await?;
    codec::decode(&answer).map_err(|error| error.to_string())
}

/// The nodes that balance load, by the plan or by what they say themselves, and this one.
fn balancers(sight: &Sight) -> Vec<NodeId> {
    let lb = RoleName::lb();
    let planned = sight.state.plan.roles.get(&lb).into_iter().flatten().map(|(_, assignment)| assignment.node);
    let works = |node: &NodeId| sight.role_report(*node, &lb).is_some_and(|role| role.state != RoleState::Stopped);
    let told = sight.live.nodes.keys().copied().filter(works);
    let all: BTreeSet<NodeId> = planned.chain(told).chain([sight.me]).collect();
    all.into_iter().take(NODES_MAX).collect()
}

fn to_all(sight: &Sight, question: impl Fn(NodeId) -> Question) -> BTreeMap<NodeId, Question> {
    balancers(sight).into_iter().map(|node| (node, question(node))).collect()
}

/// Reads what was written down of requests, going on where it ended the time before.
pub struct Reader {
    agent: Arc<dyn Agent>,
    which: Which,
    offsets: BTreeMap<NodeId, u64>,
    first: bool,
}

impl Reader {
    /// A reader of the requests of `APP`, of `APP/SERVICE`, or of all.
    pub fn new(agent: Arc<dyn Agent>, what: Option<&str>) -> Result<Self, ApiError> {
        let which = line::understand(&agent.sight(), what)?;
        Ok(Self { agent, which, offsets: BTreeMap::new(), first: true })
    }

    /// What was written since the last call (at first: the end of it), ordered by time, and which nodes did not answer.
    pub async fn read(&mut self) -> (Vec<RequestLine>, Vec<String>) {
        let sight = self.agent.sight();
        let questions = to_all(&sight, |node| {
            let from = match self.offsets.get(&node) {
                Some(offset) => OutputFrom::Offset(*offset),
                // A node that begins while we follow is shown from its beginning.
                None if self.first => OutputFrom::Tail(TAIL_BYTES),
                None => OutputFrom::Offset(0),
            };
            Question::Journal(self.which.clone(), from)
        });
        let (told, missing) = ask(&self.agent, questions).await;
        let mut lines = Vec::new();
        for (node, told) in told {
            lines.extend(line::parse(&sight.name(node), &told.lines));
            self.offsets.insert(node, told.next);
        }
        self.first = false;
        // Those of one node stay in the order in which they were written.
        lines.sort_by(|one, other| one.at.cmp(&other.at));
        (lines, missing)
    }
}

/// The requests that are known by `id`, each with the node that remembers it, and which nodes did not answer.
async fn recall(agent: &Arc<dyn Agent>, id: &str) -> (Vec<(NodeId, Remembered)>, Vec<String>) {
    let questions = to_all(&agent.sight(), |_| Question::Recall(id.to_owned()));
    let (told, missing) = ask(agent, questions).await;
    let mut found: Vec<_> =
        told.into_iter().flat_map(|(node, told)| told.remembered.into_iter().map(move |past| (node, past))).collect();
    found.sort_by_key(|(_, past)| past.at_ms);
    (found, missing)
}

/// What went through every route, by node, and which nodes did not answer.
pub async fn traffic(agent: &Arc<dyn Agent>) -> (Vec<RouteTraffic>, Vec<String>) {
    let sight = agent.sight();
    let (told, missing) = ask(agent, to_all(&sight, |_| Question::Traffic)).await;
    let rows = told.into_iter().flat_map(|(node, told)| {
        let node = sight.name(node);
        told.traffic.into_iter().map(move |of| row(&node, of))
    });
    (rows.collect(), missing)
}

fn row(node: &str, of: Traffic) -> RouteTraffic {
    let bounds = hirsel_role::requests::TIME_BOUNDS_MS.into_iter().map(Some).chain([None]);
    let took = bounds.zip(of.times).map(|(at_most_ms, requests)| Took { at_most_ms, requests });
    RouteTraffic {
        node: node.to_owned(),
        app: of.app.map(|app| app.to_string()),
        route: of.route,
        answers: of.answers.to_vec(),
        failed: of.failed,
        retries: of.retries,
        in_flight: of.in_flight,
        took: took.collect(),
    }
}

/// Nobody remembers the request.
fn forgotten(id: &str, missing: &[String]) -> ApiError {
    use hirsel_role::requests::{KEPT_MAX, RECENT_MAX, SLOW_MS};
    let message = format!(
        "no load balancer remembers a request {id:?} that is over; each keeps the last {RECENT_MAX}, and the last {KEPT_MAX} of those that \
         failed or took {SLOW_MS} ms"
    );
    let mut error = ApiError::new(Code::NotFound, message).next(format!("hirsel logs --requests | grep {id}"));
    error.evidence = missing.to_vec();
    error
}
