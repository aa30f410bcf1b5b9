//! `upgrade`: where it stands, what comes next, and its end.

use clap::Args;
use http::Method;

use super::Done;
use super::act::{Request, change};
use super::args::ChangeArgs;
use super::client::Client;
use super::output::{self, Colour, line, note, paint, table};
use super::wait::Goal;
use crate::api::error::ApiError;
use crate::api::upgrade::Upgrade;

/// `upgrade`
#[derive(Args, Clone, Debug)]
pub struct UpgradeArgs {
    /// End the upgrade: every node understands the new feature level, and nobody wants to go back
    #[arg(long)]
    pub finish: bool,
    /// As for every change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `upgrade`
pub async fn upgrade(client: &Client, json: bool, args: &UpgradeArgs) -> Result<Done, ApiError> {
    if args.finish {
        let confirm = Some("Raise the feature level? No node can go back to an older build then.".to_string());
        let (path, goal) = ("/v1/upgrade/finish".into(), Goal::Nothing);
        let request = Request { method: Method::POST, path, body: Vec::new(), goal, confirm, change: &args.change };
        return change(client, json, request).await;
    }
    let answer = client.get::<Upgrade>("/v1/upgrade").await?;
    let stands = &answer.envelope.data;
    match json {
        true => output::raw(&answer.text),
        false => print(stands),
    }
    Ok(if stands.level < stands.to { Done::WouldChange } else { Done::Well })
}

fn print(stands: &Upgrade) {
    let Upgrade { level, to, ready, hesitations, nodes } = stands;
    line(format!("Feature level {level}; the node asked understands {to}"));
    let rows: Vec<Vec<String>> = nodes
        .iter()
        .map(|build| {
            let understands = build.understands.map_or("-".to_string(), |level| level.to_string());
            vec![build.node.clone(), build.version.clone(), understands, build.liveness.clone(), build.raft.clone()]
        })
        .collect();
    line(table(&["NODE", "VERSION", "UNDERSTANDS", "LIVENESS", "RAFT"], &rows));
    if level >= to {
        return;
    }
    hesitations.iter().for_each(|words| line(paint(&format!("! {words}"), Colour::Yellow)));
    match ready {
        true => note("every node can still go back to an older build; to end the upgrade: hirsel upgrade --finish"),
        false => note(
            "next: on one host after another, in the order above, replace the executable and restart the agent \
             (programs go on); look here again after each",
        ),
    }
}
