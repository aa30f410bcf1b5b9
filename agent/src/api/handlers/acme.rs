//! Where certificates come from by themselves. The key of an external account comes in as part of a body, is sealed, and is in no answer,
//! no error and no log.

use axum::extract::{Extension, State};
use axum::response::Response;
use hirsel_model::acme::{Change as AcmeChange, NewBinding, NewSettings, Way};
use hirsel_model::control::{Command, SEALING_KEY};
use hirsel_model::secret::Sealed;
use serde::Deserialize;
use utoipa::ToSchema;

use super::changes::{CATCH_UP, Change, ChangeParams, Changed, carry_out};
use super::secrets::TRIES_MAX;
use super::{AgentState, Fields, Params, Part, answer};
use crate::acme::client::read_roots;
use crate::acme::read_key;
use crate::api::auth::Caller;
use crate::api::envelope::Envelope;
use crate::api::error::{ApiError, Code, ErrorBody};
use crate::api::views::acme::{self, Acme};

/// Where certificates come from.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AcmeFields {
    /// URL of the directory.
    directory: String,
    /// Mail addresses that the directory may write to.
    #[serde(default)]
    contacts: Vec<String>,
    /// The terms of the directory are agreed to.
    #[serde(default)]
    agree_tos: bool,
    /// PEM of roots that the directory is believed by, besides those that hosts believe.
    #[serde(default)]
    roots: String,
    /// `http-01` or `tls-alpn-01`; both in turn when none is given.
    challenge: Option<String>,
    /// Key identifier of an external account.
    kid: Option<String>,
    /// Its key, in Base64 for URLs.
    eab_key: Option<String>,
}

/// Where certificates come from by themselves, and how things stand with each host.
#[utoipa::path(get, path = "/v1/certificates/acme", responses((status = 200, body = Envelope<Acme>)))]
pub async fn show(State(agent): State<AgentState>) -> Response {
    let sight = agent.sight();
    answer(&sight, acme::acme(&sight))
}

/// Says where certificates come from.
#[utoipa::path(put, path = "/v1/certificates/acme", request_body = AcmeFields,
    responses((status = 200, body = Envelope<Changed>), (status = 400, body = ErrorBody), (status = 422, body = ErrorBody)))]
pub async fn set(
    State(agent): State<AgentState>,
    Extension(caller): Extension<Caller>,
    Params(params): Params<ChangeParams>,
    Fields(fields): Fields<AcmeFields>,
) -> Result<Response, ApiError> {
    let AcmeFields { directory, contacts, agree_tos, roots, challenge, kid, eab_key } = fields;
    let usage = |words: String| ApiError::new(Code::Usage, words);
    if !agree_tos {
        return Err(usage(format!(
            "the terms of {directory} are not agreed to, and it gives certificates to nobody else"
        ))
        .next("read them; then repeat with --agree-tos"));
    }
    check_url(&directory).map_err(|why| usage(format!("directory {directory:.200?}: {why}")))?;
    if let Some(wrong) = contacts.iter().find(|it| !is_mail(it)) {
        return Err(usage(format!("contact {wrong:.200?} is no mail address: somebody@example.com")));
    }
    read_roots(&roots).map_err(usage)?;
    let way = challenge.map(|word| word.parse::<Way>().map_err(usage)).transpose()?;
    let external = match (kid, eab_key) {
        (None, None) => None,
        (Some(kid), Some(key)) if read_key(key.as_bytes()).is_some() => Some((kid, key)),
        (Some(_), Some(_)) => return Err(usage("the key of the external account is no Base64 for URLs".into())),
        _ => return Err(usage("an external account has a key identifier and a key".into())),
    };
    for tried in 1.. {
        let sight = agent.sight();
        let binding = match &external {
            None => None,
            Some((kid, key)) => {
                let error = |error| {
                    ApiError::new(Code::NoLeader, format!("the key of the external account cannot be sealed: {error}"))
                        .next("hirsel status")
                };
                let sealed = agent.seal_binding(key.clone()).await.map_err(error)?;
                Some(NewBinding { kid: kid.clone(), sealed: Sealed(sealed.sealed), key: sealed.key })
            }
        };
        let before = sight.state.acme.settings.as_ref();
        let settings = NewSettings {
            directory: directory.clone(),
            contacts: contacts.clone(),
            roots: roots.clone(),
            way,
            binding,
        };
        let change = Change {
            did: format!("hosts whose routes say tls = \"auto\" get certificates from {directory}"),
            undo: Some(match before {
                Some(before) => format!("hirsel cert acme set --directory {} with what it had", before.directory),
                None => "hirsel cert acme off".into(),
            }),
            command: Command::Acme { change: AcmeChange::Set { settings } },
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

fn check_url(url: &str) -> Result<(), String> {
    match url.parse::<http::Uri>() {
        Ok(uri) if uri.scheme_str() != Some("https") => Err("expected https:// (RFC 8555, section 6.1)".into()),
        Ok(uri) if uri.host().is_none_or(str::is_empty) => Err("it names no host".into()),
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// What becomes a part of a `mailto:` URL must not add anything to it (RFC 8555, section 7.3: neither fields nor a second address).
fn is_mail(text: &str) -> bool {
    let good = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_graphic() && !b",?&<>\"%".contains(&b));
    text.split_once('@').is_some_and(|(who, domain)| good(who) && good(domain) && !domain.contains('@'))
}

/// Gets no certificates any more.
#[utoipa::path(delete, path = "/v1/certificates/acme", responses((status = 200, body = Envelope<Changed>), (status = 400, body = ErrorBody)))]
pub async fn off(
    State(agent): State<AgentState>,
    Extension(caller): Extension<Caller>,
    Params(params): Params<ChangeParams>,
) -> Result<Response, ApiError> {
    let before = agent.sight().state.acme.settings.clone();
    let change = Change {
        did: "no certificate is got by itself any more; those that are there stay until they end".into(),
        undo: before.map(|before| format!("hirsel cert acme set --directory {} --agree-tos", before.directory)),
        command: Command::Acme { change: AcmeChange::Off },
    };
    carry_out(&agent, &caller, &params, change).await
}

/// Gets another certificate for a host now.
#[utoipa::path(post, path = "/v1/certificates/front/{name}/renew", params(("name", description = "host")),
    responses((status = 200, body = Envelope<Changed>), (status = 404, body = ErrorBody)))]
pub async fn renew(
    State(agent): State<AgentState>,
    Extension(caller): Extension<Caller>,
    Part(host): Part<String>,
    Params(params): Params<ChangeParams>,
) -> Result<Response, ApiError> {
    let sight = agent.sight();
    let host = host.to_ascii_lowercase();
    let asked = hirsel_model::acme::hosts(&sight.state);
    if !asked.contains(host.as_str()) {
        let told = ApiError::not_found("host with tls = \"auto\"", &host, asked);
        return Err(match sight.state.certificates.named.keys().any(|name| name.as_str() == host) {
            true => told.next(format!("hirsel cert add {host}, renewed: it was brought")),
            false => told.next("hirsel cert acme show"),
        });
    }
    let change = Change {
        did: format!("another certificate for {host} is got now"),
        undo: None,
        command: Command::Acme { change: AcmeChange::Renew { host } },
    };
    carry_out(&agent, &caller, &params, change).await
}
