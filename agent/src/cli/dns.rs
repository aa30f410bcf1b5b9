//! `dns list|ds|roll`: zones that are signed, what zones above have to say of them, and the next key.

use http::Method;
use serde_json::json;

use super::Done;
use super::act::{Request, change};
use super::args::{DnsDsArgs, DnsRollArgs};
use super::client::Client;
use super::look::{escape, show};
use super::output::{line, note, state, table};
use super::wait::Goal;
use crate::api::envelope::Envelope;
use crate::api::error::ApiError;
use crate::api::views::zones::{KeyView, ZoneView};

const PATH: &str = "/v1/dns/zones";

/// `dns list`
pub async fn list(client: &Client, json: bool) -> Result<Done, ApiError> {
    let answer = show(client, json, PATH, |envelope: &Envelope<Vec<ZoneView>>| {
        let key = |it: &KeyView| if it.signs { format!("{} (signs)", it.tag) } else { it.tag.to_string() };
        let row = |it: &ZoneView| {
            let keys: Vec<String> = it.keys.iter().map(key).collect();
            let at = it.next_at.clone().unwrap_or_else(|| "-".into());
            vec![it.zone.clone(), state(&it.state), it.step.clone(), keys.join(" "), at, it.next.clone()]
        };
        let rows: Vec<_> = envelope.data.iter().map(row).collect();
        line(table(&["ZONE", "STATE", "STEP", "KEYS", "NEXT AT", "NEXT"], &rows));
    })
    .await?;
    let well = answer.envelope.data.iter().all(|it| it.state != "unsigned");
    Ok(if well { Done::Well } else { Done::Degraded })
}

/// `dns ds`
pub async fn ds(client: &Client, json: bool, args: &DnsDsArgs) -> Result<Done, ApiError> {
    let answer = show(client, json, &path(&args.zone_name), |envelope: &Envelope<ZoneView>| {
        envelope.data.ds.iter().for_each(line);
        note(&envelope.data.next);
    })
    .await?;
    let found = &answer.envelope.data;
    Ok(if found.ds.is_empty() { Done::Degraded } else { Done::Well })
}

/// `dns roll`
pub async fn roll(client: &Client, json: bool, args: &DnsRollArgs) -> Result<Done, ApiError> {
    let request = Request {
        method: Method::POST,
        path: format!("{}/roll", path(&args.zone_name)),
        body: serde_json::to_vec(&json!({ "seen": args.seen })).unwrap_or_default(),
        goal: Goal::Nothing,
        confirm: None,
        change: &args.change,
    };
    change(client, json, request).await
}

fn path(zone: &str) -> String {
    format!("{PATH}/{}", escape(zone).replace('/', "%2F"))
}
