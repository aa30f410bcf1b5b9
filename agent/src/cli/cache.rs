//! `cache purge|show`: answers that load balancers keep.

use http::Method;
use serde_json::json;

use super::Done;
use super::act::{Request, change};
use super::args::CachePurgeArgs;
use super::client::Client;
use super::look::show;
use super::output::{line, state, table};
use super::wait::Goal;
use crate::api::envelope::Envelope;
use crate::api::error::ApiError;
use crate::api::views::cache::{CacheNode, CacheView, CachedRoute};

const PATH: &str = "/v1/cache";

/// `cache purge`
pub async fn purge(client: &Client, json: bool, args: &CachePurgeArgs) -> Result<Done, ApiError> {
    let fields = json!({ "place": args.place, "tag": args.tag, "app": args.app, "all": args.all });
    let request = Request {
        method: Method::POST,
        path: format!("{PATH}/purge"),
        body: serde_json::to_vec(&fields).unwrap_or_default(),
        goal: Goal::Purged(0),
        // It costs programs some requests more, and nothing is lost.
        confirm: None,
        change: &args.change,
    };
    change(client, json, request).await
}

/// `cache show`
pub async fn show_all(client: &Client, json: bool) -> Result<Done, ApiError> {
    let answer = show(client, json, PATH, |envelope: &Envelope<CacheView>| {
        let view = &envelope.data;
        let row = |it: &CachedRoute| {
            let ttl = it.ttl_ms.map_or_else(|| "as answers say".into(), |ms| format!("{} s", ms / 1_000));
            let paths = if it.paths.is_empty() { "all".into() } else { it.paths.join(" ") };
            vec![it.route.clone(), it.app.clone(), paths, ttl]
        };
        let rows: Vec<_> = view.routes.iter().map(row).collect();
        line(table(&["ROUTE", "APP", "PATHS", "FRESH FOR"], &rows));
        line("");
        let row = |it: &CacheNode| vec![it.node.clone(), state(&it.state), it.purged.to_string()];
        let rows: Vec<_> = view.nodes.iter().map(row).collect();
        line(table(&["NODE", "PURGES", "UP TO"], &rows));
        if let Some(last) = view.purges.last() {
            line(format!("\nlast purge: {} (index {})", last.what, last.index));
        }
    })
    .await?;
    let well = answer.envelope.data.nodes.iter().all(|node| node.state == "ok");
    Ok(if well { Done::Well } else { Done::Degraded })
}
