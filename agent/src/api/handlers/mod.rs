//! Carries requests to the views and to the leader. Decides nothing: what is answered is computed in `views` and `forecast`, who may
//! ask in `auth`.

pub mod access;
pub mod acme;
pub mod addresses;
pub mod backup;
pub mod buckets;
pub mod cache;
pub mod certificates;
pub mod changes;
pub mod evolve;
pub mod nodes;
pub mod people;
pub mod reads;
pub mod recover;
pub mod secrets;
pub mod seeing;
pub mod streams;
pub mod zones;

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::request::Parts;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::agent::Agent;
use super::envelope::Envelope;
use super::error::{ApiError, Code, ErrorBody};
use super::sight::Sight;

/// What every handler is given.
pub type AgentState = Arc<dyn Agent>;

/// Answers `data`, in its envelope, on one line.
pub fn answer<T: Serialize>(sight: &Sight, data: T) -> Response {
    json(http::StatusCode::OK, &Envelope::new(sight, data))
}

/// The same with more that is worth knowing.
pub fn answer_with<T: Serialize>(sight: &Sight, data: T, notes: Vec<String>) -> Response {
    let mut envelope = Envelope::new(sight, data);
    envelope.warnings.extend(notes);
    json(http::StatusCode::OK, &envelope)
}

/// `value` as one line of JSON.
pub fn line<T: Serialize>(value: &T) -> Vec<u8> {
    // Types of ours have text keys and no failing serializers.
    let mut text = serde_json::to_vec(value).unwrap_or_default();
    text.push(b'\n');
    text
}

fn json<T: Serialize>(status: http::StatusCode, value: &T) -> Response {
    let mut response = Response::new(Body::from(line(value)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = self.code.status();
        let mut response = json(status, &ErrorBody { error: self });
        if status == http::StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(http::header::WWW_AUTHENTICATE, http::HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// The query of a request; an unknown or wrong parameter is an error that names it.
pub struct Params<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        query.map(|Query(query)| Self(query)).map_err(|error| ApiError::new(Code::Usage, error.body_text()))
    }
}

/// A part of the path.
pub struct Part<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Part<T> {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path = Path::<T>::from_request_parts(parts, state).await;
        path.map(|Path(path)| Self(path)).map_err(|error| ApiError::new(Code::Usage, error.body_text()))
    }
}

/// The body of a request as text.
pub struct Text(pub String);

impl<S: Send + Sync> FromRequest<S> for Text {
    type Rejection = ApiError;
    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = read(request, state).await?;
        let text = String::from_utf8(bytes.into());
        text.map(Self).map_err(|error| ApiError::new(Code::Usage, format!("the body is no UTF-8 text: {error}")))
    }
}

/// The body of a request as it is.
pub struct Raw(pub Bytes);

impl<S: Send + Sync> FromRequest<S> for Raw {
    type Rejection = ApiError;
    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        read(request, state).await.map(Self)
    }
}

/// The body of a request as JSON; an empty body is an empty object.
pub struct Fields<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Fields<T> {
    type Rejection = ApiError;
    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = read(request, state).await?;
        let bytes = if bytes.is_empty() { Bytes::from_static(b"{}") } else { bytes };
        let fields = serde_json::from_slice(&bytes);
        fields
            .map(Self)
            .map_err(|error| ApiError::new(Code::Usage, format!("the body is not what it should be: {error}")))
    }
}

async fn read<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, ApiError> {
    Bytes::from_request(request, state).await.map_err(|error: BytesRejection| match error.status() {
        http::StatusCode::PAYLOAD_TOO_LARGE => {
            let limit = super::server::BODY_BYTES_MAX;
            ApiError::new(Code::TooLarge, format!("the body exceeds {limit} bytes"))
        }
        _ => ApiError::new(Code::Usage, error.body_text()),
    })
}
