//! `bucket audit|scrub`: has every node that keeps data look at all of it, waits for them, and says what they found. And what `status` says of storage.

use std::collections::BTreeMap;
use std::time::Duration;

use http::Method;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep};

use super::args::SurveyArgs;
use super::bucket::size;
use super::client::{Answer, Client};
use super::output::{self, Colour, ago, line, note, paint, since, state, table};
use super::{Done, wall};
use crate::api::error::{ApiError, Code};
use crate::api::views::storage::{NodeAudit, NodeScrub, StorageStatus};

/// How often it is looked.
const EVERY: Duration = Duration::from_millis(500);
/// Unless something else is said. A million pieces are counted in some minutes.
const WAIT_USUAL: Duration = Duration::from_secs(600);
/// A node that does not answer for this long is not waited for: its data is not looked at by it.
const SILENT_MAX: Duration = Duration::from_secs(10);
/// Progress is told this often where nobody watches a terminal, too.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// How far one node is.
trait OfNode: DeserializeOwned {
    fn node(&self) -> &str;
    fn answered(&self) -> bool;
    /// What began and what is over since it started.
    fn turns(&self) -> (u64, u64);
    /// What of it is done.
    fn progress(&self) -> String;
}

impl OfNode for NodeAudit {
    fn node(&self) -> &str {
        &self.node
    }
    fn answered(&self) -> bool {
        self.answered
    }
    fn turns(&self) -> (u64, u64) {
        (self.begun, self.ended)
    }
    fn progress(&self) -> String {
        format!("{} of {} steps", self.step, self.of)
    }
}

impl OfNode for NodeScrub {
    fn node(&self) -> &str {
        &self.node
    }
    fn answered(&self) -> bool {
        self.answered
    }
    fn turns(&self) -> (u64, u64) {
        (self.begun, self.ended)
    }
    fn progress(&self) -> String {
        format!("{} of {}", size(self.bytes), size(self.held_bytes))
    }
}

/// `bucket audit`
pub async fn audit(client: &Client, json: bool, args: &SurveyArgs) -> Result<Done, ApiError> {
    let answer = survey::<NodeAudit>(client, json, "/v1/storage/audit", args).await?;
    let nodes = &answer.envelope.data;
    if json {
        output::raw(&answer.text);
    } else if nodes.is_empty() {
        note("nothing is stored yet");
    } else {
        print_audit(nodes);
    }
    let is_sound = |node: &NodeAudit| {
        let count = &node.count;
        let whole = count.at.is_some() && node.covers && count.missing == 0 && count.homeless == 0;
        node.answered && node.error.is_none() && whole
    };
    Ok(if nodes.iter().all(is_sound) { Done::Well } else { Done::Degraded })
}

fn print_audit(nodes: &[NodeAudit]) {
    let row = |node: &NodeAudit| {
        let count = &node.count;
        let numbers = [
            count.expected,
            count.found,
            count.missing,
            count.damaged,
            count.homeless,
            count.elsewhere,
            count.unknown,
            count.open,
        ];
        let mut row = vec![node.node.clone()];
        row.extend(numbers.map(|number| number.to_string()));
        row.push(count.at.as_ref().map_or("never".into(), |at| since(at, wall())));
        row.push(node.error.clone().unwrap_or_default());
        row
    };
    let rows: Vec<_> = nodes.iter().map(row).collect();
    let heading =
        ["NODE", "EXPECTED", "FOUND", "MISSING", "DAMAGED", "HOMELESS", "ELSEWHERE", "UNKNOWN", "OPEN", "COUNTED", ""];
    line(table(&heading, &rows));
    let sum = |of: fn(&NodeAudit) -> u64| nodes.iter().map(of).sum::<u64>();
    let (expected, found) = (sum(|it| it.count.expected), sum(|it| it.count.found));
    let missing = sum(|it| it.count.missing);
    let silent = nodes.iter().filter(|it| !it.answered).count();
    line(format!("\n{found} of {expected} pieces found on {} of {} nodes", nodes.len() - silent, nodes.len()));
    if nodes.iter().any(|it| it.answered && !it.covers) {
        line(
            "not everything was counted: partitions are on their way, or came since; repeat it when they have arrived",
        );
    }
    if missing > 0 {
        line(format!("{missing} are made anew from what others have: hirsel status"));
    }
    if sum(|it| it.count.homeless) > 0 {
        line("pieces without a node get one when more nodes keep data");
    }
}

/// `bucket scrub`
pub async fn scrub(client: &Client, json: bool, args: &SurveyArgs) -> Result<Done, ApiError> {
    let answer = survey::<NodeScrub>(client, json, "/v1/storage/scrub", args).await?;
    let nodes = &answer.envelope.data;
    if json {
        output::raw(&answer.text);
    } else if nodes.is_empty() {
        note("nothing is stored yet");
    } else {
        let row = |node: &NodeScrub| {
            vec![
                node.node.clone(),
                node.last_chunks.to_string(),
                size(node.last_bytes),
                node.last_damaged.to_string(),
                node.last_at.as_ref().map_or("never".into(), |at| since(at, wall())),
                format!("{} of {}", size(node.bytes), size(node.held_bytes)),
                node.error.clone().unwrap_or_default(),
            ]
        };
        let rows: Vec<_> = nodes.iter().map(row).collect();
        line(table(&["NODE", "CHUNKS", "READ", "DAMAGED", "LAST", "UNDER WAY", ""], &rows));
        if nodes.iter().any(|node| node.last_damaged > 0) {
            line("\nwhat was damaged is made anew from what others have: hirsel status");
        }
    }
    let is_sound = |node: &NodeScrub| {
        let has_read = args.last || node.last_at.is_some();
        node.answered && node.error.is_none() && has_read && node.last_damaged == 0
    };
    Ok(if nodes.iter().all(is_sound) { Done::Well } else { Done::Degraded })
}

/// Has all nodes begin, waits until those that answer have done it, and gives what they say then.
async fn survey<T: OfNode>(
    client: &Client,
    json: bool,
    path: &str,
    args: &SurveyArgs,
) -> Result<Answer<Vec<T>>, ApiError> {
    if args.last {
        return client.get(path).await;
    }
    let deadline = Instant::now() + args.timeout.unwrap_or(WAIT_USUAL);
    let mut asked = ask(client, path).await?;
    let mut heard: BTreeMap<String, Instant> = BTreeMap::new();
    let mut tell_at = Instant::now() + TELL_EVERY;
    loop {
        sleep(EVERY).await;
        let now: Answer<Vec<T>> = client.get(path).await?;
        let nodes = &now.envelope.data;
        let mut waiting = Vec::new();
        let mut again = false;
        for node in nodes {
            let last = heard.entry(node.node().to_owned()).or_insert_with(Instant::now);
            if !node.answered() {
                if last.elapsed() < SILENT_MAX {
                    waiting.push(format!("{} does not answer", node.node()));
                }
                continue;
            }
            *last = Instant::now();
            let (begun, ended) = node.turns();
            match asked.get(node.node()) {
                // It was not heard, or started again, since it was asked.
                None => again = true,
                Some(before) if begun < *before => again = true,
                Some(before) if ended <= *before => waiting.push(format!("{}: {}", node.node(), node.progress())),
                Some(_) => {}
            }
        }
        if again {
            for (node, begun) in ask(client, path).await? {
                let known = asked.entry(node).or_insert(begun);
                *known = (*known).min(begun);
            }
            continue;
        }
        if waiting.is_empty() {
            return Ok(now);
        }
        if Instant::now() >= deadline {
            let message = format!("not done in time, and it goes on: {}", waiting.join(", "));
            return Err(ApiError::new(Code::TimedOut, message).next("repeat with --last"));
        }
        if !json && Instant::now() >= tell_at {
            note(waiting.join(", "));
            tell_at = Instant::now() + TELL_EVERY;
        }
    }
}

/// Asks all nodes to begin: what each that answers had begun by then. What it does for this is the next.
async fn ask(client: &Client, path: &str) -> Result<BTreeMap<String, u64>, ApiError> {
    let told: Answer<Vec<Turns>> = client.ask(Method::POST, path, Vec::new()).await?;
    let answered = told.envelope.data.into_iter().filter(|it| it.answered);
    Ok(answered.map(|it| (it.node, it.begun)).collect())
}

/// What both have in common.
#[derive(serde::Deserialize)]
struct Turns {
    node: String,
    answered: bool,
    begun: u64,
}

/// How much is stored, in words. What nobody counted is not said to be nothing.
fn amount(storage: &StorageStatus) -> String {
    let (Some(objects), Some(bytes), Some(buckets)) = (storage.objects, storage.bytes, storage.buckets) else {
        return "objects are not counted: nobody leads their metadata, or only just began to".into();
    };
    let s = if buckets == 1 { "" } else { "s" };
    format!("{objects} objects, {}, in {buckets} bucket{s}", size(bytes))
}

/// What is stored, as a part of `status`.
pub(super) fn print_storage(storage: &StorageStatus) {
    let StorageStatus { nodes, working, .. } = storage;
    let health = state(&storage.health);
    line(format!("Storage   {health}   {working} of {nodes} nodes keep data: {}", amount(storage)));
    for because in &storage.because {
        line(format!("          {because}"));
    }
    if let Some(audit) = &storage.audit {
        let text = format!(
            "          audited {} ago: {} of {} pieces found, {} unknown, {} elsewhere",
            ago(audit.age_ms),
            audit.found,
            audit.expected,
            audit.unknown,
            audit.elsewhere
        );
        line(paint(&text, Colour::Dim));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_counted_is_not_said_to_be_nothing() {
        let counted = StorageStatus { buckets: Some(1), objects: Some(0), bytes: Some(0), ..StorageStatus::default() };
        assert!(amount(&counted).starts_with("0 objects, ") && amount(&counted).ends_with(", in 1 bucket"));
        assert!(amount(&StorageStatus::default()).contains("not counted"));
    }
}
