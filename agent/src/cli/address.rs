//! `address add|list|rm`: addresses that float between nodes which balance load.

use http::Method;
use serde_json::json;

use super::Done;
use super::act::{Request, change};
use super::args::{AddressAddArgs, AddressRmArgs};
use super::client::Client;
use super::look::{escape, show};
use super::output::{line, state, table};
use super::wait::Goal;
use crate::api::envelope::Envelope;
use crate::api::error::ApiError;
use crate::api::views::addresses::{Candidate, FloatingAddress};

const PATH: &str = "/v1/addresses";

/// `address add`
pub async fn add(client: &Client, json: bool, args: &AddressAddArgs) -> Result<Done, ApiError> {
    let (address, prefix) = &args.address;
    let fields = json!({ "prefix": prefix, "interface": args.interface });
    let request = Request {
        method: Method::PUT,
        path: format!("{PATH}/{}", escape(&address.to_string())),
        body: serde_json::to_vec(&fields).unwrap_or_default(),
        goal: Goal::AddressHeld(address.to_string()),
        confirm: None,
        change: &args.change,
    };
    change(client, json, request).await
}

/// `address rm`
pub async fn remove(client: &Client, json: bool, args: &AddressRmArgs) -> Result<Done, ApiError> {
    let request = Request {
        method: Method::DELETE,
        path: format!("{PATH}/{}", escape(&args.ip.to_string())),
        body: Vec::new(),
        goal: Goal::Nothing,
        confirm: Some(format!("Take {} off the node that holds it? Nobody answers there then.", args.ip)),
        change: &args.change,
    };
    change(client, json, request).await
}

/// `address list`
pub async fn list(client: &Client, json: bool) -> Result<Done, ApiError> {
    let answer = show(client, json, PATH, |envelope: &Envelope<Vec<FloatingAddress>>| {
        let candidate = |it: &Candidate| match it.liveness.as_str() {
            "alive" => format!("{} ({})", it.node, it.interface),
            other => format!("{} ({}, {other})", it.node, it.interface),
        };
        let row = |it: &FloatingAddress| {
            let holders = if it.holders.is_empty() { "-".into() } else { it.holders.join(" ") };
            let candidates: Vec<String> = it.candidates.iter().map(candidate).collect();
            let shown = format!("{}/{}", it.address, it.prefix);
            vec![shown, state(&it.state), holders, candidates.join(" "), it.because.clone()]
        };
        let rows: Vec<_> = envelope.data.iter().map(row).collect();
        line(table(&["ADDRESS", "STATE", "HELD BY", "CANDIDATES", "BECAUSE"], &rows));
    })
    .await?;
    let well = answer.envelope.data.iter().all(|it| it.state == "held");
    Ok(if well { Done::Well } else { Done::Degraded })
}
