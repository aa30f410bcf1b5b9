//! What can go wrong with a request, as one list: each code has one HTTP status and one exit status, here and nowhere else.

use hirsel_model::control::Refusal;
use hirsel_model::manifest::nearest;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What went wrong, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// It failed.
    Failed,
    /// It was asked wrongly.
    Usage,
    /// A manifest that is wrong; the evidence lists every error.
    Manifest,
    /// The request is too large.
    TooLarge,
    /// It is still under way.
    TimedOut,
    /// A safety rule.
    Unsafe,
    /// Nobody leads.
    NoLeader,
    /// A leader exists, but too few voters answer it.
    NoQuorum,
    /// No agent answers.
    Unreachable,
    /// Who is asking?
    Unauthorized,
    /// Not with these rights.
    Forbidden,
    /// No such thing.
    NotFound,
    /// Something else changed meanwhile.
    Conflict,
    /// Written by a newer agent.
    #[serde(other)]
    Unknown,
}

impl Code {
    /// The HTTP status.
    pub fn status(self) -> http::StatusCode {
        match self {
            Code::Failed | Code::Unknown => http::StatusCode::INTERNAL_SERVER_ERROR,
            Code::Usage | Code::Manifest => http::StatusCode::BAD_REQUEST,
            Code::TooLarge => http::StatusCode::PAYLOAD_TOO_LARGE,
            Code::TimedOut => http::StatusCode::GATEWAY_TIMEOUT,
            Code::Unsafe => http::StatusCode::UNPROCESSABLE_ENTITY,
            Code::NoLeader | Code::NoQuorum => http::StatusCode::SERVICE_UNAVAILABLE,
            Code::Unreachable => http::StatusCode::BAD_GATEWAY,
            Code::Unauthorized => http::StatusCode::UNAUTHORIZED,
            Code::Forbidden => http::StatusCode::FORBIDDEN,
            Code::NotFound => http::StatusCode::NOT_FOUND,
            Code::Conflict => http::StatusCode::CONFLICT,
        }
    }

    /// The exit status of the command line.
    pub fn exit(self) -> u8 {
        match self {
            Code::Failed | Code::Unreachable | Code::Unknown => 1,
            Code::Usage | Code::Manifest | Code::TooLarge => 2,
            Code::TimedOut => 5,
            Code::Unsafe => 6,
            Code::NoLeader | Code::NoQuorum => 7,
            Code::Unauthorized | Code::Forbidden => 8,
            Code::NotFound => 9,
            Code::Conflict => 10,
        }
    }
}

/// An error as it is told: what was tried, what is known, what to type next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// What went wrong.
    pub code: Code,
    /// The sentence.
    pub message: String,
    /// What it is concluded from.
    #[serde(default)]
    pub evidence: Vec<String>,
    /// Commands to type next.
    #[serde(default)]
    pub next: Vec<String>,
}

/// An error on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// The error.
    pub error: ApiError,
}

impl ApiError {
    /// An error with nothing but its sentence.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), evidence: Vec::new(), next: Vec::new() }
    }

    /// Adds a command to type next.
    #[must_use]
    pub fn next(mut self, command: impl Into<String>) -> Self {
        self.next.push(command.into());
        self
    }

    /// Adds what the error is concluded from.
    #[must_use]
    pub fn evidence(mut self, line: impl Into<String>) -> Self {
        self.evidence.push(line.into());
        self
    }

    /// There is no `kind` named `name`; `known` holds the names there are.
    pub fn not_found<'a>(kind: &str, name: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        let name: String = name.chars().take(NAME_SHOWN_MAX).collect();
        let error = match nearest(&name, known) {
            Some(near) => Self::new(Code::NotFound, format!("no {kind} named {name:?}; did you mean {near:?}?")),
            None => Self::new(Code::NotFound, format!("no {kind} named {name:?}")),
        };
        match kind {
            "node" => error.next("hirsel members"),
            "role" | "slot" => error.next("hirsel roles"),
            "app" | "service" => error.next("hirsel apps"),
            "token" => error.next("hirsel token list"),
            "secret" => error.next("hirsel secret list"),
            "certificate" => error.next("hirsel cert list"),
            "access key" => error.next("hirsel bucket key list"),
            _ => error.next("hirsel status"),
        }
    }
}

/// Longest part of a wrong name that is repeated to the asker.
const NAME_SHOWN_MAX: usize = 200;

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let message = refusal.to_string();
        match refusal {
            Refusal::NotFound { kind, name } => ApiError::not_found(&kind, &name, []),
            Refusal::Conflict { .. } => {
                ApiError::new(Code::Conflict, message).next("look again, then repeat with the index you saw")
            }
            Refusal::Token { .. } => ApiError::new(Code::Forbidden, message),
            Refusal::Limit { .. } | Refusal::Invalid(_) => ApiError::new(Code::Usage, message),
            Refusal::Unsafe(_) => ApiError::new(Code::Unsafe, message).next("hirsel status"),
            Refusal::Level { .. } => ApiError::new(Code::Unsafe, message).next("hirsel upgrade --plan"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_comes_close_is_suggested() {
        let error = ApiError::not_found("app", "shpo", ["shop", "blog"]);
        assert!(error.message.contains("did you mean \"shop\"?"), "{}", error.message);
        assert_eq!(ApiError::not_found("app", "zzz", ["shop"]).message, "no app named \"zzz\"");
    }

    #[test]
    fn an_error_keeps_its_shape_on_the_wire() {
        let error = ApiError::new(Code::NoQuorum, "m").evidence("e").next("hirsel status");
        let text = serde_json::to_string(&ErrorBody { error }).unwrap();
        assert_eq!(text, r#"{"error":{"code":"no_quorum","message":"m","evidence":["e"],"next":["hirsel status"]}}"#);
        let newer: ErrorBody = serde_json::from_str(r#"{"error":{"code":"brand_new","message":"m","x":1}}"#).unwrap();
        assert_eq!(newer.error.code, Code::Unknown);
    }
}
