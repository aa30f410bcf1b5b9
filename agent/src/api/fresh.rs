//! Reads that are linearizable: `fresh=true` in the query of anything that may be looked at.
//!
//! Without it an answer comes from the memory of the node that is asked, and may lack what was confirmed elsewhere a moment ago. With
//! it the node first asks the leader how far the control log goes, the leader has a majority confirm that it leads still, and the
//! answer waits until this node has applied as much: it reflects every change that was confirmed to anybody before it was asked for.
//! It writes nothing. Where no majority is to be had there is no fresh answer, and the error says so.

use std::time::Duration;

use http::Uri;
use http::uri::PathAndQuery;

use super::agent::NotProposed;
use super::error::{ApiError, Code};

/// How long a fresh read waits for a leader: an election goes by in between, and a person still waits.
pub const FRESH_WITHIN: Duration = Duration::from_secs(5);

/// Whether `uri` asks for a fresh answer, and what it asks besides.
///
/// # Errors
/// When it asks for something between fresh and not.
pub fn taken(uri: &Uri) -> Result<(bool, Uri), ApiError> {
    let Some(query) = uri.query() else { return Ok((false, uri.clone())) };
    let mut fresh = false;
    let mut rest = Vec::new();
    for part in query.split('&') {
        match part.split_once('=').unwrap_or((part, "true")) {
            ("fresh", "true") => fresh = true,
            ("fresh", "false") => fresh = false,
            ("fresh", other) => {
                let shown: String = other.chars().take(32).collect();
                return Err(ApiError::new(Code::Usage, format!("fresh is true or false, not {shown:?}")));
            }
            _ => rest.push(part),
        }
    }
    let asked = if rest.is_empty() { uri.path().to_string() } else { format!("{}?{}", uri.path(), rest.join("&")) };
    let mut parts = uri.clone().into_parts();
    let asked = PathAndQuery::try_from(asked).map_err(|error| ApiError::new(Code::Usage, error.to_string()))?;
    parts.path_and_query = Some(asked);
    let uri = Uri::from_parts(parts).map_err(|error| ApiError::new(Code::Usage, error.to_string()))?;
    Ok((fresh, uri))
}

/// Why there is no fresh answer.
pub fn denied(error: NotProposed) -> ApiError {
    let error = match error {
        NotProposed::NoLeader => ApiError::new(
            Code::NoLeader,
            "no leader confirmed in time that a majority follows it, so nothing here is known to be fresh",
        ),
        NotProposed::TimedOut => {
            ApiError::new(Code::TimedOut, "this node did not get the newest control state from the leader in time")
        }
        NotProposed::Stopped(words) => ApiError::new(Code::Failed, words),
    };
    error.next("the same without --fresh: what this node last knew").next("hirsel status")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(uri: &str) -> Result<(bool, String), Code> {
        taken(&uri.parse().unwrap()).map(|(fresh, uri)| (fresh, uri.to_string())).map_err(|error| error.code)
    }

    #[test]
    fn the_wish_for_a_fresh_answer_is_taken_out_of_the_query() {
        assert_eq!(of("/v1/apps"), Ok((false, "/v1/apps".into())));
        assert_eq!(of("/v1/apps?fresh=true"), Ok((true, "/v1/apps".into())));
        assert_eq!(of("/v1/apps?fresh"), Ok((true, "/v1/apps".into())));
        assert_eq!(of("/v1/members?all=true&fresh=true"), Ok((true, "/v1/members?all=true".into())));
        assert_eq!(of("/v1/members?fresh=false&all=true"), Ok((false, "/v1/members?all=true".into())));
        assert_eq!(of("/v1/members?refresh=1"), Ok((false, "/v1/members?refresh=1".into())));
        assert_eq!(of("/v1/apps?fresh=perhaps"), Err(Code::Usage));
    }
}
