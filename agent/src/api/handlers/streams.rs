//! What goes on: events and logs, one envelope per line while somebody reads.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::Response;
use futures::stream;
use hirsel_model::LogIndex;
use http::header::CONTENT_TYPE;
use serde::Deserialize;

use super::{AgentState, Params, Part, answer, line};
use crate::api::envelope::Envelope;
use crate::api::error::{ApiError, ErrorBody};
use crate::api::logs::{self, LogLine, Reader};
use crate::api::requests::{self, RequestLine};
use crate::api::views::events::{self, EventLine};

/// Instances do not push their output: it is asked for this often. A person does not see the delay.
const LOGS_EVERY: Duration = Duration::from_millis(500);

/// Which events.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EventParams {
    after: u64,
    tail: Option<usize>,
    follow: Option<String>,
}

/// The cluster's log; with `follow=1` one envelope per line for as long as somebody reads.
#[utoipa::path(get, path = "/v1/events",
    params(("after" = Option<u64>, Query, description = "only events after this one"), ("tail" = Option<u64>, Query, description = "only the last ones"),
           ("follow" = Option<String>, Query, description = "1: go on as JSON lines")),
    responses((status = 200, body = Envelope<Vec<EventLine>>)))]
pub async fn events(State(agent): State<AgentState>, Params(params): Params<EventParams>) -> Response {
    let sight = agent.sight();
    let first = events::events(&sight, params.after, params.tail);
    if !follows(params.follow.as_deref()) {
        return answer(&sight, first);
    }
    let start = Following { agent, after: params.after, tail: params.tail, seen: None };
    json_lines(stream::unfold(start, |mut following| async move {
        let bytes = following.next().await;
        Some((Ok(bytes), following))
    }))
}

fn follows(text: Option<&str>) -> bool {
    matches!(text, Some("1" | "true" | ""))
}

struct Following {
    agent: AgentState,
    after: u64,
    tail: Option<usize>,
    seen: Option<LogIndex>,
}

impl Following {
    /// The next events, one envelope per line; waits while there are none.
    async fn next(&mut self) -> Bytes {
        loop {
            if let Some(seen) = self.seen {
                self.agent.beyond(seen).await;
            }
            let sight = self.agent.sight();
            let lines = events::events(&sight, self.after, self.tail.take());
            // A full answer may not be all there is: ask again before waiting.
            let all = lines.len() < events::EVENTS_ANSWERED_MAX;
            self.seen = all.then_some(sight.state.applied);
            if let Some(last) = lines.last() {
                self.after = last.index;
                return lines
                    .into_iter()
                    .flat_map(|told| line(&Envelope::new(&sight, told)))
                    .collect::<Vec<u8>>()
                    .into();
            }
        }
    }
}

/// Which output.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogParams {
    tail: Option<usize>,
    follow: Option<String>,
}

/// Output of the instances of `APP`, `APP/SERVICE` or one instance, from all nodes.
#[utoipa::path(get, path = "/v1/logs/{what}",
    params(("what", description = "app, app/service, or an instance"), ("tail" = Option<u64>, Query, description = "how many lines"),
           ("follow" = Option<String>, Query, description = "1: go on as JSON lines")),
    responses((status = 200, body = Envelope<Vec<LogLine>>), (status = 404, body = ErrorBody)))]
pub async fn logs(
    State(agent): State<AgentState>,
    Part(what): Part<String>,
    Params(params): Params<LogParams>,
) -> Result<Response, ApiError> {
    let mut reader = Reader::new(agent.clone(), &what)?;
    let (mut first, missing) = reader.read().await;
    let tail = params.tail.unwrap_or(logs::LINES_USUAL).min(logs::LINES_ANSWERED_MAX);
    first.drain(..first.len().saturating_sub(tail));
    if !follows(params.follow.as_deref()) {
        let mut envelope = Envelope::new(&agent.sight(), first);
        envelope.warnings.extend(missing);
        return Ok(super::json(http::StatusCode::OK, &envelope));
    }
    let agent = Arc::clone(&agent);
    Ok(json_lines(stream::unfold((reader, Some(first)), move |(mut reader, first)| {
        let agent = Arc::clone(&agent);
        async move {
            let lines = match first {
                Some(first) => first,
                None => next_lines(&mut reader).await,
            };
            let sight = agent.sight();
            let bytes: Vec<u8> = lines.into_iter().flat_map(|told| line(&Envelope::new(&sight, told))).collect();
            Some((Ok(bytes.into()), (reader, None)))
        }
    })))
}

/// Whose requests.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RequestParams {
    what: Option<String>,
    tail: Option<usize>,
    follow: Option<String>,
}

/// Requests that the load balancers of all nodes wrote down.
#[utoipa::path(get, path = "/v1/requests",
    params(("what" = Option<String>, Query, description = "app, or app/service; without it, of all and of none"),
           ("tail" = Option<u64>, Query, description = "how many lines"), ("follow" = Option<String>, Query, description = "1: go on as JSON lines")),
    responses((status = 200, body = Envelope<Vec<RequestLine>>), (status = 404, body = ErrorBody)))]
pub async fn requests(
    State(agent): State<AgentState>,
    Params(params): Params<RequestParams>,
) -> Result<Response, ApiError> {
    let mut reader = requests::Reader::new(agent.clone(), params.what.as_deref())?;
    let (mut first, missing) = reader.read().await;
    let tail = params.tail.unwrap_or(logs::LINES_USUAL).min(logs::LINES_ANSWERED_MAX);
    first.drain(..first.len().saturating_sub(tail));
    if !follows(params.follow.as_deref()) {
        let mut envelope = Envelope::new(&agent.sight(), first);
        envelope.warnings.extend(missing);
        return Ok(super::json(http::StatusCode::OK, &envelope));
    }
    Ok(json_lines(stream::unfold((reader, Some(first)), move |(mut reader, first)| {
        let agent = Arc::clone(&agent);
        async move {
            let lines = match first {
                Some(first) => first,
                None => next_requests(&mut reader).await,
            };
            let sight = agent.sight();
            let bytes: Vec<u8> = lines.into_iter().flat_map(|told| line(&Envelope::new(&sight, told))).collect();
            Some((Ok(bytes.into()), (reader, None)))
        }
    })))
}

async fn next_requests(reader: &mut requests::Reader) -> Vec<RequestLine> {
    loop {
        tokio::time::sleep(LOGS_EVERY).await;
        let (lines, _) = reader.read().await;
        if !lines.is_empty() {
            return lines;
        }
    }
}

async fn next_lines(reader: &mut Reader) -> Vec<LogLine> {
    loop {
        tokio::time::sleep(LOGS_EVERY).await;
        let (lines, _) = reader.read().await;
        if !lines.is_empty() {
            return lines;
        }
    }
}

fn json_lines(lines: impl futures::Stream<Item = Result<Bytes, Infallible>> + Send + 'static) -> Response {
    let mut response = Response::new(Body::from_stream(lines));
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/x-ndjson"));
    response
}
