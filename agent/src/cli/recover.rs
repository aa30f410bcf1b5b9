//! `recover`: shows what survived a loss of the majority, and goes on with it.

use std::time::Duration;

use clap::Args;
use http::Method;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::Done;
use super::act::{self, Request, confirm};
use super::args::{ChangeArgs, parse_duration};
use super::client::Client;
use super::output::{self, Colour, line, note, paint, table};
use super::wait::Goal;
use crate::api::error::{ApiError, Code};
use crate::api::recovery::Recovery;
use crate::api::views::status::Status;

/// The new foundation has a leader within this, unless another time is given.
const LEADER_WITHIN: Duration = Duration::from_secs(30);
/// Between two looks at it.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// `recover`
#[derive(Args, Clone, Debug)]
pub struct RecoverArgs {
    /// Nodes that are lost for good; they are given up, and can only join again as new ones
    #[arg(long, value_name = "NODE,...", value_delimiter = ',')]
    pub lost: Vec<String>,
    /// The lost nodes are off, or can reach nothing: exclusive services may start elsewhere. Without --lost: those given up before are
    #[arg(long)]
    pub off: bool,
    /// Only show what survived, and what would be done
    #[arg(long)]
    pub plan: bool,
    /// How long to wait for a leader [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub timeout: Option<Duration>,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
    /// Do it although a safety rule refuses, and say why
    #[arg(long, value_name = "REASON")]
    pub force: Option<String>,
}

/// `recover`
pub async fn recover(client: &Client, json: bool, args: &RecoverArgs) -> Result<Done, ApiError> {
    if args.off && args.lost.is_empty() {
        return confirm_off(client, json, args).await;
    }
    if !args.plan && args.lost.is_empty() {
        let error = ApiError::new(Code::Usage, "who is lost for good?").next("hirsel recover --plan");
        return Err(error.next("hirsel recover --lost n1,n2"));
    }
    let path = format!(
        "/v1/recover?lost={}",
        args.lost.iter().map(|name| super::look::escape(name)).collect::<Vec<_>>().join(",")
    );
    let answer = client.get::<Recovery>(&path).await?;
    if args.plan {
        match json {
            true => output::raw(&answer.text),
            false => print(&answer.envelope.data),
        }
        return Ok(Done::WouldChange);
    }
    let plan = &answer.envelope.data;
    if !args.yes {
        let lost = plan.lost.join(", ");
        let off = if args.off {
            format!(" Are {lost} off? What they run exclusively is started elsewhere.")
        } else {
            String::new()
        };
        confirm(&format!(
            "Give up {lost} and go on with what {} has? May be lost: {}.{off}",
            plan.from.as_deref().unwrap_or("nobody"),
            plan.may_be_lost
        ))?;
    }
    let fields = json!({ "lost": args.lost, "off": args.off, "force": args.force }).to_string().into_bytes();
    let done = client.ask::<Recovery>(Method::POST, "/v1/recover", fields).await?;
    let deadline = Instant::now() + args.timeout.unwrap_or(LEADER_WITHIN);
    while !leads(client).await {
        if Instant::now() >= deadline {
            let error = ApiError::new(Code::TimedOut, "the new foundation was begun and has no leader yet");
            return Err(error.next("hirsel status"));
        }
        sleep(LOOK_EVERY).await;
    }
    if json {
        output::raw(&done.text);
        return Ok(Done::Well);
    }
    let Recovery { from, new_tag, lost, exclusive, objects, .. } = &done.envelope.data;
    let tag = new_tag.as_deref().unwrap_or_default();
    line(format!(
        "the cluster goes on with what {} has, as the foundation with tag {tag}",
        from.as_deref().unwrap_or("?")
    ));
    note(format!("{} cannot come back as they were; each joins again: hirsel join SEED --token T", lost.join(", ")));
    if let Some(objects) = objects {
        note(objects);
    }
    note("tokens given out before are not good any more: hirsel token new");
    if !args.off && !exclusive.is_empty() {
        note(withheld(exclusive, lost));
    }
    Ok(Done::Well)
}

/// What is exclusive, and why it is not started.
fn withheld(exclusive: &[String], lost: &[String]) -> String {
    let lost = if lost.is_empty() { "the lost nodes".into() } else { lost.join(", ") };
    format!(
        "{} may go on running on {lost}, so nothing of it is started before you have made sure that they are off: hirsel recover --off",
        exclusive.join(", ")
    )
}

/// `recover --off`
async fn confirm_off(client: &Client, json: bool, args: &RecoverArgs) -> Result<Done, ApiError> {
    let change = ChangeArgs {
        wait: false,
        timeout: args.timeout,
        plan: args.plan,
        if_index: None,
        yes: args.yes,
        force: args.force.clone(),
    };
    let question = "Are all nodes that were given up off? What they may have run exclusively is started elsewhere.";
    let request = Request {
        method: Method::POST,
        path: "/v1/recover/off".into(),
        body: Vec::new(),
        goal: Goal::Nothing,
        confirm: Some(question.into()),
        change: &change,
    };
    act::change(client, json, request).await
}

async fn leads(client: &Client) -> bool {
    client.get::<Status>("/v1/status").await.is_ok_and(|status| status.envelope.data.leader.is_some())
}

fn print(plan: &Recovery) {
    let rows: Vec<Vec<String>> = plan
        .survivors
        .iter()
        .map(|it| match it.answers {
            false => {
                vec![it.node.clone(), "no answer".into(), String::new(), String::new(), String::new(), String::new()]
            }
            true => vec![
                it.node.clone(),
                if it.hears_leader {
                    "hears a leader".into()
                } else {
                    format!("no leader for {} s", it.stale_ms / 1000)
                },
                if it.votes { "votes".into() } else { "-".into() },
                it.term.to_string(),
                it.index.to_string(),
                if it.sealing_key { "yes".into() } else { "-".into() },
            ],
        })
        .collect();
    line(table(&["NODE", "STATE", "VOTE", "TERM", "INDEX", "SEALING KEY"], &rows));
    match &plan.from {
        Some(from) => line(format!("It would go on with what {from} has. May be lost: {}.", plan.may_be_lost)),
        None => line("There is nothing to go on with."),
    }
    if let Some(objects) = &plan.objects {
        line(format!("Objects: {objects}."));
    }
    line(format!("Secrets: {}.", plan.sealing_key));
    if !plan.exclusive.is_empty() {
        line(format!("Exclusive: {}.", withheld(&plan.exclusive, &plan.lost)));
    }
    plan.never.iter().chain(&plan.refusals).for_each(|words| line(paint(&format!("! {words}"), Colour::Yellow)));
    if plan.never.is_empty() {
        let lost: Vec<&str> = plan.lost.iter().chain(&plan.silent).map(String::as_str).collect();
        note(format!("if they are lost for good: hirsel recover --lost {}", lost.join(",")));
    }
}
