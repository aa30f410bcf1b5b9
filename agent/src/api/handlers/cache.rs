//! Answers that load balancers keep, and shall forget.

use axum::extract::{Extension, State};
use axum::response::Response;
use hirsel_model::control::Command;
use hirsel_model::purge::Purged;
use serde::Deserialize;
use utoipa::ToSchema;

use super::changes::{Change, ChangeParams, Changed, carry_out};
use super::{AgentState, Fields, Params, answer};
use crate::api::auth::Caller;
use crate::api::envelope::Envelope;
use crate::api::error::{ApiError, Code, ErrorBody};
use crate::api::views::cache::{self, CacheView};

/// What shall be forgotten: exactly one of these.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PurgeFields {
    /// `shop.example.com`, `shop.example.com/a`, or `shop.example.com/a/*` for all below.
    place: Option<String>,
    /// As programs call their answers in `Cache-Tag`.
    tag: Option<String>,
    /// All answers of an application.
    app: Option<String>,
    /// Everything.
    all: bool,
}

/// Routes that keep answers, and how far load balancers are in forgetting.
#[utoipa::path(get, path = "/v1/cache", responses((status = 200, body = Envelope<CacheView>)))]
pub async fn show(State(agent): State<AgentState>) -> Response {
    let sight = agent.sight();
    answer(&sight, cache::cache(&sight))
}

/// Has every load balancer forget what it keeps.
#[utoipa::path(post, path = "/v1/cache/purge", request_body = PurgeFields,
    responses((status = 200, body = Envelope<Changed>), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn purge(
    State(agent): State<AgentState>,
    Extension(caller): Extension<Caller>,
    Params(params): Params<ChangeParams>,
    Fields(fields): Fields<PurgeFields>,
) -> Result<Response, ApiError> {
    let what = read(fields)?;
    let sight = agent.sight();
    if let Purged::App(app) = &what
        && !sight.state.spec.apps.contains_key(app)
    {
        let known: Vec<String> = sight.state.spec.apps.keys().map(ToString::to_string).collect();
        return Err(ApiError::not_found("app", app.as_str(), known.iter().map(String::as_str)));
    }
    let change = Change {
        did: format!("load balancers forget what they keep: {what}"),
        undo: None,
        command: Command::Purge { what },
    };
    carry_out(&agent, &caller, &params, change).await
}

fn read(fields: PurgeFields) -> Result<Purged, ApiError> {
    let usage = |message: String| ApiError::new(Code::Usage, message).next("hirsel cache purge --help");
    let PurgeFields { place, tag, app, all } = fields;
    let what = match (place, tag, app, all) {
        (Some(place), None, None, false) => place_of(&place),
        (None, Some(tag), None, false) => Purged::Tag(tag),
        (None, None, Some(app), false) => {
            Purged::App(app.parse().map_err(|error: hirsel_model::id::NameError| usage(error.to_string()))?)
        }
        (None, None, None, true) => Purged::All,
        _ => return Err(usage("say what to forget: a host with or without a path, a tag, an app, or all".into())),
    };
    what.check().map_err(|error| usage(error.to_string()))?;
    Ok(what)
}

fn place_of(text: &str) -> Purged {
    let (host, path) = match text.find('/') {
        Some(at) => (&text[..at], Some(&text[at..])),
        None => (text, None),
    };
    // A lone slash at the end is the front page, and not all of the host.
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    Purged::Place { host, path: path.map(str::to_owned) }
}
