//! Output of instances, collected from the nodes they run on. Each node serves its own (call [`CALL`]); the node that is asked merges
//! by time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use hirsel_model::{InstanceId, NodeId, codec};
use hirsel_role::host::{Output, OutputFrom};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::agent::Agent;
use super::error::ApiError;
use super::sight::Sight;

/// The call by which one node asks another for output.
pub const CALL: &str = "logs";
/// How much of the end of an instance's output a first look reads.
const TAIL_BYTES: u64 = 64 << 10;
/// How many instances one request reads: more is for a log collector.
const INSTANCES_MAX: usize = 200;
/// Most bytes of one answer of a node; the rest comes with the next question.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// A node that does not answer in this time is left out, and named.
const TTL: Duration = Duration::from_millis(800);
/// Lines shown unless told otherwise.
pub const LINES_USUAL: usize = 200;
/// Most lines of one answer.
pub const LINES_ANSWERED_MAX: usize = 10_000;

/// A line of output.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct LogLine {
    /// When it was read, by its node's clock.
    pub at: String,
    /// Which instance wrote it.
    pub instance: String,
    /// On which node.
    pub node: String,
    /// `out` or `err`.
    pub stream: String,
    /// What it wrote.
    pub text: String,
}

/// What one node asks another.
#[derive(Debug, Serialize, Deserialize)]
struct Question {
    from: Vec<(InstanceId, OutputFrom)>,
}

/// What it is told. An instance it knows nothing of is missing.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Told {
    outputs: BTreeMap<InstanceId, Output>,
}

/// Answers another node's question about the instances of this one.
pub async fn answer(agent: &dyn Agent, question: &[u8]) -> Result<Vec<u8>, String> {
    let question: Question = codec::decode(question).map_err(|error| error.to_string())?;
    Ok(codec::encode(&read_here(agent, question).await))
}

async fn read_here(agent: &dyn Agent, question: Question) -> Told {
    let mut told = Told::default();
    let mut bytes = 0;
    for (instance, from) in question.from.into_iter().take(INSTANCES_MAX) {
        if bytes > ANSWER_BYTES_MAX {
            break;
        }
        // What is not there (any more) has no output; that is no error of the question.
        if let Ok(output) = agent.output(&instance, from).await {
            bytes += output.bytes.len();
            told.outputs.insert(instance, output);
        }
    }
    told
}

/// Reads the output of a set of instances, going on where it ended the time before.
pub struct Reader {
    agent: Arc<dyn Agent>,
    wanted: Wanted,
    offsets: BTreeMap<(NodeId, InstanceId), u64>,
    first: bool,
}

/// Whose output.
#[derive(Clone, Debug)]
struct Wanted {
    app: String,
    service: Option<String>,
    number: Option<u64>,
}

impl Wanted {
    fn includes(&self, id: &InstanceId) -> bool {
        id.app.as_str() == self.app
            && self.service.as_ref().is_none_or(|service| id.service.as_str() == service)
            && self.number.is_none_or(|number| id.number == number)
    }
}

impl Reader {
    /// A reader of `APP`, `APP/SERVICE` or one instance.
    pub fn new(agent: Arc<dyn Agent>, what: &str) -> Result<Self, ApiError> {
        let wanted = understand(&agent.sight(), what)?;
        Ok(Self { agent, wanted, offsets: BTreeMap::new(), first: true })
    }

    /// What was written since the last call (at first: the end of it), ordered by time, and which nodes did not answer.
    pub async fn read(&mut self) -> (Vec<LogLine>, Vec<String>) {
        let sight = self.agent.sight();
        let questions = self.questions(&sight);
        let asked = questions.into_iter().map(|(node, question)| {
            let agent = Arc::clone(&self.agent);
            async move {
                let told = match node == agent.sight().me {
                    true => Ok(read_here(&*agent, question).await),
                    false => ask(&*agent, node, question).await,
                };
                (node, told)
            }
        });
        let (mut lines, mut missing) = (Vec::new(), Vec::new());
        for (node, told) in join_all(asked).await {
            let name = sight.name(node);
            match told {
                Ok(told) => {
                    for (instance, output) in told.outputs {
                        lines.extend(parse(&name, &instance, &output.bytes));
                        self.offsets.insert((node, instance), output.next);
                    }
                }
                Err(why) => missing.push(format!("no output from {name}: {why}")),
            }
        }
        self.first = false;
        lines.sort();
        (lines, missing)
    }

    fn questions(&self, sight: &Sight) -> BTreeMap<NodeId, Question> {
        let planned = sight.state.plan.instances.iter().map(|(id, assignment)| (assignment.node, id));
        let told = sight.live.nodes.keys();
        let told = told
            .flat_map(|node| sight.instances_on(*node).into_iter().flat_map(|told| told.keys()).map(|id| (*node, id)));
        let places: BTreeSet<_> = planned.chain(told).filter(|(_, id)| self.wanted.includes(id)).collect();
        let mut questions: BTreeMap<NodeId, Question> = BTreeMap::new();
        for (node, id) in places.into_iter().take(INSTANCES_MAX) {
            let from = match self.offsets.get(&(node, id.clone())) {
                Some(offset) => OutputFrom::Offset(*offset),
                // An instance that appears while we follow is shown from its beginning.
                None if self.first => OutputFrom::Tail(TAIL_BYTES),
                None => OutputFrom::Offset(0),
            };
            questions.entry(node).or_insert_with(|| Question { from: Vec::new() }).from.push((id.clone(), from));
        }
        questions
    }
}

async fn ask(agent: &dyn Agent, node: NodeId, question: Question) -> Result<Told, String> {
    let answer = agent.call(node, CALL, codec::encode(&question), TTL).await?;
    codec::decode(&answer).map_err(|error| error.to_string())
}

fn understand(sight: &Sight, what: &str) -> Result<Wanted, ApiError> {
    let mut parts = what.splitn(3, '/');
    let app = parts.next().unwrap_or_default().to_string();
    let service = parts.next().filter(|service| !service.is_empty()).map(ToString::to_string);
    let number = match parts.next().map(str::parse) {
        None => None,
        Some(Ok(number)) => Some(number),
        Some(Err(_)) => return Err(ApiError::not_found("instance", what, [])),
    };
    let wanted = Wanted { app, service, number };
    let known = sight.state.plan.instances.keys().any(|id| wanted.includes(id));
    let apps = &sight.state.spec.apps;
    let Some((_, spec)) = apps.iter().find(|(name, _)| name.as_str() == wanted.app) else {
        return if known {
            Ok(wanted)
        } else {
            Err(ApiError::not_found("app", &wanted.app, apps.keys().map(|app| app.as_str())))
        };
    };
    match &wanted.service {
        Some(service) if !known && !spec.services.keys().any(|name| name.as_str() == service) => {
            Err(ApiError::not_found("service", service, spec.services.keys().map(|name| name.as_str())))
        }
        _ => Ok(wanted),
    }
}

/// Lines are `RFC3339 o|e text`; one that is not is shown as it is.
fn parse(node: &str, instance: &InstanceId, bytes: &[u8]) -> Vec<LogLine> {
    let text = String::from_utf8_lossy(bytes);
    text.lines()
        .map(|line| {
            let mut parts = line.splitn(3, ' ');
            let (at, stream, text) = match (parts.next(), parts.next(), parts.next()) {
                (Some(at), Some("o"), text) => (at, "out", text.unwrap_or_default()),
                (Some(at), Some("e"), text) => (at, "err", text.unwrap_or_default()),
                _ => ("", "out", line),
            };
            LogLine {
                at: at.into(),
                instance: instance.to_string(),
                node: node.into(),
                stream: stream.into(),
                text: text.into(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_apart_and_odd_ones_kept() {
        let id: InstanceId = "shop/web/1".parse().unwrap();
        let lines = parse("n1", &id, b"2026-01-01T00:00:00Z o hello world\n2026-01-01T00:00:01Z e \nodd\n\xff\n");
        let seen: Vec<_> = lines.iter().map(|line| (line.stream.as_str(), line.text.as_str())).collect();
        assert_eq!(seen, [("out", "hello world"), ("err", ""), ("out", "odd"), ("out", "\u{fffd}")]);
    }
}
