//! Certificates: those of the front door, which people bring and load balancers show; and those of nodes, which the cluster makes by
//! itself. A key comes in as part of a body, is sealed, and is in no answer, no error and no log.

use axum::extract::{Extension, State};
use axum::response::Response;
use hirsel_mesh::identity::{Front, front};
use hirsel_model::CertificateName;
use hirsel_model::certificate::{Age, NewCertificate};
use hirsel_model::control::{Command, SEALING_KEY};
use hirsel_model::secret::Sealed;
use hirsel_model::tickets::Change as TicketChange;
use serde::Deserialize;
use utoipa::ToSchema;

use super::changes::{CATCH_UP, Change, ChangeParams, Changed, carry_out};
use super::secrets::TRIES_MAX;
use super::{AgentState, Fields, Params, Part, Raw, answer, json};
use crate::api::auth::Caller;
use crate::api::envelope::Envelope;
use crate::api::error::{ApiError, Code, ErrorBody};
use crate::api::sight::{Sight, rfc3339};
use crate::api::views::certificates::{self, Certificates, FrontCertificate};

fn named(name: &str) -> Result<CertificateName, ApiError> {
    name.parse().map_err(|error| ApiError::new(Code::Usage, format!("name of the certificate: {error}")))
}

fn not_found(sight: &Sight, name: &CertificateName) -> ApiError {
    ApiError::not_found(
        "certificate",
        name.as_str(),
        sight.state.certificates.named.keys().map(CertificateName::as_str),
    )
}

/// One certificate of the front door: all of it that is public.
#[utoipa::path(get, path = "/v1/certificates/front/{name}", params(("name", description = "certificate")),
    responses((status = 200, body = Envelope<FrontCertificate>), (status = 404, body = ErrorBody)))]
pub async fn show(State(agent): State<AgentState>, Part(name): Part<String>) -> Result<Response, ApiError> {
    let (sight, name) = (agent.sight(), named(&name)?);
    let certificate = sight.state.certificates.named.get(&name).ok_or_else(|| not_found(&sight, &name))?;
    let shown =
        FrontCertificate { chain: Some(certificate.chain.clone()), ..certificates::front(&sight, &name, certificate) };
    Ok(answer(&sight, shown))
}

/// Adds a certificate of the front door, or replaces it.
#[utoipa::path(put, path = "/v1/certificates/front/{name}", params(("name", description = "certificate")),
    request_body(content = String, content_type = "application/x-pem-file", description = "PEM: the certificate, those that certify it, and its key, which is not encrypted"),
    responses((status = 200, body = Envelope<Changed>), (status = 400, body = ErrorBody), (status = 422, body = ErrorBody)))]
pub async fn set(
    State(agent): State<AgentState>,
    Extension(caller): Extension<Caller>,
    Part(name): Part<String>,
    Params(params): Params<ChangeParams>,
    Raw(text): Raw,
) -> Result<Response, ApiError> {
    let name = named(&name)?;
    let Front { facts, chain, key } = front(&text).map_err(|error| {
        let told = ApiError::new(Code::Usage, format!("certificate {name}: {error}"));
        error.next().into_iter().fold(told, ApiError::next)
    })?;
    let age = facts.age(agent.sight().wall);
    let words = match age {
        Age::Expired => format!("certificate {name} expired at {}", rfc3339(facts.not_after)),
        Age::Early => format!("certificate {name} is not good before {}", rfc3339(facts.not_before)),
        Age::Good | Age::Late => String::new(),
    };
    if !words.is_empty() && params.force.is_none() {
        return Err(ApiError::new(Code::Unsafe, format!("{words}: clients would turn away"))
            .next("date -u: is the clock of this node right?")
            .next("repeat with --force REASON"));
    }
    for tried in 1.. {
        let sight = agent.sight();
        let known = sight.state.certificates.named.get(&name);
        // Of one certificate there is one key.
        if let Some(same) = known.filter(|known| known.chain == chain && !params.plan) {
            let did = format!("certificate {name} is this one already, in version {}", same.version);
            return Ok(answer(&sight, Changed { did, undo: None, index: sight.state.applied.0 }));
        }
        let error = |error| {
            ApiError::new(Code::NoLeader, format!("the key of certificate {name} cannot be sealed: {error}"))
                .next("hirsel status")
        };
        let sealed = agent.seal_key(&name, key.clone()).await.map_err(error)?;
        let domains: Vec<&str> = facts.names.iter().map(String::as_str).collect();
        let mut did = format!(
            "{} certificate {name} for {}, good until {}",
            if known.is_some() { "replaced" } else { "added" },
            domains.join(", "),
            rfc3339(facts.not_after)
        );
        for other in sight.state.certificates.sharing(&name, &facts.names) {
            did += &format!("; {other} is for one of these domains too, and what is good for longer is shown");
        }
        let change = Change {
            did,
            undo: Some(match known {
                Some(_) => format!("hirsel cert add {name} with the former certificate and key"),
                None => format!("hirsel cert rm {name}"),
            }),
            command: Command::SetCertificate {
                name: name.clone(),
                new: NewCertificate {
                    facts: facts.clone(),
                    chain: chain.clone(),
                    sealed: Sealed(sealed.sealed),
                    key: sealed.key,
                    automatic: None,
                },
            },
        };
        match carry_out(&agent, &caller, &params, change).await {
            Err(error) if error.message.starts_with(SEALING_KEY) && tried < TRIES_MAX => {
                let _ = tokio::time::timeout(CATCH_UP, agent.beyond(sight.state.applied)).await;
            }
            done => return done,
        }
    }
    Err(ApiError::new(Code::Conflict, "the sealing key changes all the time; try again"))
}

/// Forgets a certificate of the front door.
#[utoipa::path(delete, path = "/v1/certificates/front/{name}", params(("name", description = "certificate")),
    responses((status = 200, body = Envelope<Changed>), (status = 404, body = ErrorBody)))]
pub async fn remove(
    State(agent): State<AgentState>,
    Extension(caller): Extension<Caller>,
    Part(name): Part<String>,
    Params(params): Params<ChangeParams>,
) -> Result<Response, ApiError> {
    let (sight, name) = (agent.sight(), named(&name)?);
    if !sight.state.certificates.named.contains_key(&name) {
        return Err(not_found(&sight, &name));
    }
    let undo = Some(format!("hirsel cert add {name} with its certificate and key"));
    let asked = hirsel_model::acme::hosts(&sight.state).contains(name.as_str());
    let again = match asked && sight.state.acme.settings.is_some() {
        true => "; another one is got now, for its routes say tls = \"auto\"",
        false => "",
    };
    let did = format!("removed certificate {name}{again}");
    let change = Change { did, undo, command: Command::RemoveCertificate { name } };
    carry_out(&agent, &caller, &params, change).await
}

/// The certificates of the front door and how far they have come; the authorities of the cluster, and the certificates of its nodes.
#[utoipa::path(get, path = "/v1/certificates", responses((status = 200, body = Envelope<Certificates>)))]
pub async fn list(State(agent): State<AgentState>) -> Response {
    let sight = agent.sight();
    let mut envelope = Envelope::new(&sight, certificates::certificates(&sight));
    envelope.warnings.extend(certificates::warnings(&sight));
    json(http::StatusCode::OK, &envelope)
}

/// What shall become of tickets that are out.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TicketFields {
    /// None of them is opened any more.
    forget: bool,
}

/// Has another key of TLS tickets drawn now.
#[utoipa::path(post, path = "/v1/certificates/tickets", request_body = TicketFields,
    responses((status = 200, body = Envelope<Changed>), (status = 422, body = ErrorBody)))]
pub async fn tickets(
    State(agent): State<AgentState>,
    Extension(caller): Extension<Caller>,
    Params(params): Params<ChangeParams>,
    Fields(TicketFields { forget }): Fields<TicketFields>,
) -> Result<Response, ApiError> {
    let did = match forget {
        true => "all keys of TLS tickets are forgotten, and the leader draws others",
        false => "the leader draws another key of TLS tickets; those that are out are still good",
    };
    let command = Command::Tickets { change: TicketChange::Want { forget } };
    carry_out(&agent, &caller, &params, Change { did: did.into(), undo: None, command }).await
}

/// Replaces the authority, and every certificate.
#[utoipa::path(post, path = "/v1/certificates/rotate", responses((status = 200, body = Envelope<Changed>), (status = 422, body = ErrorBody)))]
pub async fn rotate(
    State(agent): State<AgentState>,
    Extension(caller): Extension<Caller>,
    Params(params): Params<ChangeParams>,
) -> Result<Response, ApiError> {
    let did = "the leader makes a new authority, and every node gets a certificate of it".into();
    carry_out(&agent, &caller, &params, Change { did, undo: None, command: Command::RotateAuthority }).await
}
