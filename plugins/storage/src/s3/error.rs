//! What clients are told when something cannot be: S3's code, the status that goes with it, and words.

use std::str::FromStr;

use http::StatusCode;
use s3s::{S3Error, S3ErrorCode};

use crate::gateway::WriteError;
use crate::meta::access::MetaError;
use crate::meta::names::NameError;
use crate::meta::refusal::Refusal;

/// The answer of an operation.
pub type Done<T> = Result<T, S3Error>;

/// An error of S3 by its name. Codes that s3s does not know are its own word for them, with a status that goes with them.
pub fn error(code: &str, words: impl Into<String>) -> S3Error {
    let known = S3ErrorCode::from_str(code).unwrap_or(S3ErrorCode::InternalError);
    let status = match code {
        "XAmzContentSHA256Mismatch" | "InvalidTag" | "MetadataTooLarge" | "InvalidArgument" => {
            Some(StatusCode::BAD_REQUEST)
        }
        "QuotaExceeded" => Some(StatusCode::FORBIDDEN),
        "NoSuchVersion" => Some(StatusCode::NOT_FOUND),
        "ObjectLockConfigurationNotFoundError" => Some(StatusCode::NOT_FOUND),
        _ => known.status_code(),
    };
    let mut error = S3Error::with_message(known, words.into());
    error.set_status_code(status.unwrap_or(StatusCode::BAD_REQUEST));
    error
}

/// A refusal, as S3 says it.
pub fn refused(refusal: &Refusal) -> S3Error {
    if refusal.is_internal() {
        // Another table, or the start of another gateway: nothing was changed, and once more will do.
        return error("ServiceUnavailable", "the write has to be made once more");
    }
    let mut said = error(refusal.code(), refusal.to_string());
    if let Ok(status) = StatusCode::from_u16(refusal.status()) {
        said.set_status_code(status);
    }
    said
}

/// What the metadata did not do.
pub fn failed(failure: MetaError) -> S3Error {
    match failure {
        MetaError::Refused(refusal) => refused(&refusal),
        MetaError::Unreachable(_) => error("ServiceUnavailable", failure.to_string()),
        MetaError::Unknown => error("InternalError", failure.to_string()),
    }
}

/// A body that is not kept.
pub fn unwritten(failure: WriteError) -> S3Error {
    match failure {
        WriteError::Meta(error) => failed(error),
        WriteError::TooLarge => error("EntityTooLarge", failure.to_string()),
        WriteError::Busy => error("SlowDown", failure.to_string()),
        WriteError::TooFew { .. } => error("ServiceUnavailable", failure.to_string()),
        WriteError::Full(_) => {
            let mut full = error("InsufficientStorage", failure.to_string());
            full.set_status_code(StatusCode::INSUFFICIENT_STORAGE);
            full
        }
    }
}

/// An answer of the metadata to another question: nothing that a client could mend.
pub fn strange() -> S3Error {
    error("InternalError", "the metadata answered something else")
}

/// The name of a bucket that is none.
pub fn bad_bucket(name: &NameError) -> S3Error {
    error("InvalidBucketName", name.to_string())
}

/// An argument that is wrong.
pub fn argument(words: impl Into<String>) -> S3Error {
    error("InvalidArgument", words)
}

/// Something is asked for that is not there.
pub fn missing(code: &str, words: &str) -> S3Error {
    let mut missing = error(code, words);
    missing.set_status_code(StatusCode::NOT_FOUND);
    missing
}

/// Nobody may do this who asks so.
pub fn denied() -> S3Error {
    error("AccessDenied", "access denied")
}
