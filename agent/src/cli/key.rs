//! `bucket key create|list|rm`. A secret is printed once, to who asked for the key.

use http::Method;
use serde_json::json;

use super::act::{Request, change, with_flags};
use super::args::{KeyCreateArgs, KeyRmArgs};
use super::client::Client;
use super::look::{escape, print_forecast, show};
use super::output::{self, Colour, line, note, paint, since, table};
use super::wait::Goal;
use super::{Done, wall};
use crate::api::envelope::Envelope;
use crate::api::error::ApiError;
use crate::api::forecast::Forecast;
use crate::api::views::access::{AccessKey, NewAccessKey};

/// `bucket key create`
pub async fn create(client: &Client, json: bool, args: &KeyCreateArgs) -> Result<Done, ApiError> {
    let fields = json!({
        "name": args.name,
        "account": args.account,
        "buckets": args.buckets,
        "read_only": args.read_only,
        "makes_no_buckets": args.no_create,
    });
    let (path, body) = (with_flags("/v1/access-keys", &args.change), fields.to_string().into_bytes());
    if args.change.plan {
        return Ok(print_forecast(&client.ask::<Forecast>(Method::POST, &path, body).await?, json));
    }
    // The node that was asked knows it, and others hear of it within moments: there is nothing to wait for.
    let answer = client.ask::<NewAccessKey>(Method::POST, &path, body).await?;
    if json {
        output::raw(&answer.text);
        return Ok(Done::Well);
    }
    let made = &answer.envelope.data;
    line(format!("access key id      {}", made.access_key_id));
    line(format!("secret access key  {}", made.secret_access_key));
    match &made.endpoint {
        Some(endpoint) => line(format!("endpoint           {endpoint}")),
        None => note("the node that was asked serves no objects; any other that does answers"),
    }
    line(format!("region             {}", made.region));
    note("the secret is shown this once");
    note(paint(&format!("undo: hirsel bucket key rm {}", made.access_key_id), Colour::Dim));
    Ok(Done::Well)
}

/// `bucket key list`
pub async fn list(client: &Client, json: bool) -> Result<Done, ApiError> {
    show(client, json, "/v1/access-keys", |envelope: &Envelope<Vec<AccessKey>>| {
        let row = |key: &AccessKey| {
            let may = match (key.read_only, key.makes_buckets) {
                (true, _) => "read",
                (false, false) => "read, write",
                (false, true) => "read, write, make buckets",
            };
            let made = since(&key.made_at, wall());
            let name = if key.name.is_empty() { "-".into() } else { key.name.clone() };
            vec![key.access_key_id.clone(), name, key.account.clone(), key.buckets.join(", "), may.into(), made]
        };
        let rows: Vec<_> = envelope.data.iter().map(row).collect();
        line(table(&["ID", "FOR", "ACCOUNT", "BUCKETS", "MAY", "MADE"], &rows));
    })
    .await?;
    Ok(Done::Well)
}

/// `bucket key rm`
pub async fn remove(client: &Client, json: bool, args: &KeyRmArgs) -> Result<Done, ApiError> {
    let request = Request {
        method: Method::DELETE,
        path: format!("/v1/access-keys/{}", escape(&args.id).replace('/', "%2F")),
        body: Vec::new(),
        goal: Goal::Nothing,
        confirm: Some(format!(
            "Remove access key {}? Whoever uses it is refused, and its secret is not had back.",
            args.id
        )),
        change: &args.change,
    };
    change(client, json, request).await
}
