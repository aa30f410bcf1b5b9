//! How load balancers write requests down.

use axum::extract::{Extension, State};
use axum::response::Response;
use hirsel_model::RoleName;
use hirsel_model::spec::{AccessLog, LogFormat, Share, collector};
use serde::Deserialize;
use utoipa::ToSchema;

use super::changes::{ChangeParams, Changed, change_role};
use super::{AgentState, Fields, Params, Part};
use crate::api::auth::Caller;
use crate::api::envelope::Envelope;
use crate::api::error::{ApiError, Code, ErrorBody};

/// As what, and how many.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LogFields {
    /// `json`, `combined` or `off`.
    format: String,
    /// How many of them, between 0 and 1; all when none is given.
    sample: Option<f64>,
    /// Whether the query of each is written down; it is when nothing is said.
    query: Option<bool>,
    /// Address of a collector that is told each line as well: syslog over UDP.
    syslog: Option<String>,
}

/// Says how load balancers write requests down where a route does not say.
#[utoipa::path(put, path = "/v1/roles/{role}/log", params(("role", description = "lb")), request_body = LogFields,
    responses((status = 200, body = Envelope<Changed>), (status = 400, body = ErrorBody)))]
pub async fn log(
    State(agent): State<AgentState>,
    Extension(caller): Extension<Caller>,
    Part(role): Part<String>,
    Params(params): Params<ChangeParams>,
    Fields(fields): Fields<LogFields>,
) -> Result<Response, ApiError> {
    if role != RoleName::lb().as_str() {
        let message = format!("role {role:?} answers no requests: only lb writes them down");
        return Err(ApiError::new(Code::Usage, message).next("hirsel role log lb json"));
    }
    let wanted = read(&fields)?;
    let before = agent.sight().state.spec.roles.get(&RoleName::lb()).and_then(|role| role.log);
    let undo = format!("hirsel role log lb {}", words(before));
    let did = match wanted {
        Some(_) => format!("load balancers write requests down as {} unless a route says otherwise", words(wanted)),
        None => "load balancers write requests down only where a route says so".to_owned(),
    };
    change_role(&agent, &caller, &params, &role, (did, undo), |_, spec| {
        spec.log = wanted;
        Ok(())
    })
    .await
}

fn read(fields: &LogFields) -> Result<Option<AccessLog>, ApiError> {
    let format = match fields.format.as_str() {
        "json" => LogFormat::Json,
        "combined" => LogFormat::Combined,
        "off" => return Ok(None),
        other => {
            let message = format!("format {other:.60?} is none of json, combined, off");
            return Err(ApiError::new(Code::Usage, message).next("hirsel role log lb json"));
        }
    };
    let sample = fields.sample.unwrap_or(1.0);
    if !(0.0..=1.0).contains(&sample) {
        return Err(ApiError::new(Code::Usage, format!("sample {sample} is no share between 0 and 1")));
    }
    // Between 0 and a million, so nothing is cut off.
    let sample = Share((sample * f64::from(Share::ALL.0)).round() as u32);
    let syslog = fields.syslog.as_deref().map(collector).transpose().map_err(|why| ApiError::new(Code::Usage, why))?;
    Ok(Some(AccessLog { format, sample, without_query: fields.query == Some(false), syslog }))
}

/// As it is typed.
fn words(log: Option<AccessLog>) -> String {
    let Some(AccessLog { format, sample, without_query, syslog }) = log else { return "off".into() };
    let format = match format {
        LogFormat::Json => "json",
        LogFormat::Combined => "combined",
    };
    let share = f64::from(sample.0) / f64::from(Share::ALL.0);
    let sample = if sample == Share::ALL { String::new() } else { format!(" --sample {share}") };
    let query = if without_query { " --no-query" } else { "" };
    let syslog = syslog.map(|to| format!(" --syslog {to}")).unwrap_or_default();
    format!("{format}{sample}{query}{syslog}")
}
