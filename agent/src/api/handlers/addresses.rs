//! Floating addresses: what the cluster shall hold.

use std::net::IpAddr;

use axum::extract::{Extension, State};
use axum::response::Response;
use hirsel_model::control::Command;
use hirsel_model::spec::{AddressSpec, Network};
use serde::Deserialize;
use utoipa::ToSchema;

use super::changes::{Change, ChangeParams, Changed, carry_out};
use super::{AgentState, Fields, Params, Part, answer};
use crate::api::auth::Caller;
use crate::api::envelope::Envelope;
use crate::api::error::{ApiError, Code, ErrorBody};
use crate::api::views::addresses::{self, FloatingAddress};

/// How an address is to be held.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddressFields {
    /// Bits of its network; all of them when none are given.
    prefix: Option<u8>,
    /// The interface that carries it; any that has an address of its network when none is given.
    interface: Option<String>,
}

/// The addresses that the cluster shall hold, and who does.
#[utoipa::path(get, path = "/v1/addresses", responses((status = 200, body = Envelope<Vec<FloatingAddress>>)))]
pub async fn list(State(agent): State<AgentState>) -> Response {
    let sight = agent.sight();
    answer(&sight, addresses::addresses(&sight))
}

/// Holds an address from here on, or holds it in another way.
#[utoipa::path(put, path = "/v1/addresses/{address}", params(("address", description = "IPv4 or IPv6")), request_body = AddressFields,
    responses((status = 200, body = Envelope<Changed>), (status = 400, body = ErrorBody)))]
pub async fn set(
    State(agent): State<AgentState>,
    Extension(caller): Extension<Caller>,
    Part(address): Part<String>,
    Params(params): Params<ChangeParams>,
    Fields(fields): Fields<AddressFields>,
) -> Result<Response, ApiError> {
    let address = parsed(&address)?;
    let prefix = fields.prefix.unwrap_or(if address.is_ipv4() { 32 } else { 128 });
    let spec = AddressSpec { prefix, interface: fields.interface };
    spec.check(address).map_err(|error| ApiError::new(Code::Usage, error.to_string()))?;
    let undo = match agent.sight().state.spec.addresses.get(&address) {
        None => format!("hirsel address rm {address}"),
        Some(before) => {
            let on = before.interface.as_ref().map_or_else(String::new, |name| format!(" --interface {name}"));
            format!("hirsel address add {address}/{}{on}", before.prefix)
        }
    };
    let on = spec.interface.as_ref().map_or_else(String::new, |name| format!(" on {name}"));
    let change = Change {
        did: format!("a node that balances load holds {}{on}", Network { address, prefix }),
        undo: Some(undo),
        command: Command::SetAddress { address, spec },
    };
    carry_out(&agent, &caller, &params, change).await
}

/// Holds an address no more.
#[utoipa::path(delete, path = "/v1/addresses/{address}", params(("address", description = "IPv4 or IPv6")),
    responses((status = 200, body = Envelope<Changed>), (status = 404, body = ErrorBody)))]
pub async fn remove(
    State(agent): State<AgentState>,
    Extension(caller): Extension<Caller>,
    Part(address): Part<String>,
    Params(params): Params<ChangeParams>,
) -> Result<Response, ApiError> {
    let (sight, address) = (agent.sight(), parsed(&address)?);
    let Some(before) = sight.state.spec.addresses.get(&address) else {
        let known: Vec<String> = sight.state.spec.addresses.keys().map(ToString::to_string).collect();
        let error = ApiError::not_found("address", &address.to_string(), known.iter().map(String::as_str));
        return Err(error.next("hirsel address list"));
    };
    let on = before.interface.as_ref().map_or_else(String::new, |name| format!(" --interface {name}"));
    let change = Change {
        did: format!("no node holds {address} any more"),
        undo: Some(format!("hirsel address add {address}/{}{on}", before.prefix)),
        command: Command::RemoveAddress { address },
    };
    carry_out(&agent, &caller, &params, change).await
}

fn parsed(text: &str) -> Result<IpAddr, ApiError> {
    let wrong = |_| ApiError::new(Code::Usage, format!("{text:.64?} is no IPv4 or IPv6 address"));
    text.parse().map_err(wrong)
}
