//! Bodies on their way in and out: counted and checked on the way in, so that a body that is not what was said is dropped and never named.

use bytes::Bytes;
use futures::StreamExt;
use http_body_util::StreamBody;
use hyper::body::Frame;
use s3s::dto::StreamingBlob;
use s3s::{S3Error, StdError, TrailingHeaders};

use super::error::{Done, error, unwritten};
use super::hash::{Counted, Counting, Said};
use crate::gateway::{self, Gateway};
use crate::meta::kinds::{Bucket, Written};
use crate::meta::limits::BODY_BYTES_MAX;

/// A body that comes with a request.
pub struct Coming {
    /// The bytes.
    pub body: Option<StreamingBlob>,
    /// How long it is, as the request says.
    pub length: Option<i64>,
    /// What the request says of it.
    pub said: Said,
    /// What comes behind it.
    pub trailers: Option<TrailingHeaders>,
}

/// Writes a body to the disks of the cluster, and says what it was.
///
/// # Errors
/// When it is not what the request said, or cannot be kept. Then nothing of it can be read, ever.
pub async fn take(gateway: &Gateway, bucket: &Bucket, coming: Coming) -> Done<(Written, Counted)> {
    let Coming { body, length, said, trailers } = coming;
    let length = match length {
        Some(length) => u64::try_from(length).map_err(|_| error("InvalidArgument", "a length below zero"))?,
        None => return Err(error("MissingContentLength", "you must provide the Content-Length HTTP header")),
    };
    if length > BODY_BYTES_MAX {
        return Err(error("EntityTooLarge", format!("{length} bytes exceed {BODY_BYTES_MAX}")));
    }
    let mut counting = Counting::new(said);
    let mut writer = gateway.writer(bucket.class, bucket.when_short);
    let mut body = body.unwrap_or_else(|| StreamingBlob::from(s3s::Body::empty()));
    while let Some(piece) = body.next().await {
        let piece: Bytes = piece.map_err(|problem| broken(&problem))?;
        counting.update(&piece);
        if writer.bytes() + piece.len() as u64 > length {
            return Err(error("IncompleteBody", format!("more bytes came than the {length} that were said")));
        }
        writer.push(piece).await.map_err(unwritten)?;
    }
    let came = writer.bytes();
    if came != length {
        return Err(error("IncompleteBody", format!("{came} bytes came of {length}")));
    }
    let trailers = trailers.and_then(|trailers| trailers.take());
    let counted = counting.finish(trailers.as_ref())?;
    Ok((writer.finish().await.map_err(unwritten)?, counted))
}

/// Why a body ended early. The types of s3s are its own, so that only their words can be looked at.
fn broken(problem: &StdError) -> S3Error {
    let words = problem.to_string();
    let (code, said) = match words.as_str() {
        said if said.ends_with("Sha256Mismatch") => {
            ("XAmzContentSHA256Mismatch", "the provided x-amz-content-sha256 header does not match what was computed")
        }
        said if said.ends_with("SignatureMismatch") => ("SignatureDoesNotMatch", "the signature of a chunk is wrong"),
        said if said.ends_with("FormatError") || said.contains("TooLarge") || said.contains("TooMany") => {
            ("InvalidRequest", "the chunks of the body cannot be read")
        }
        _ => ("IncompleteBody", "the body ended before its end"),
    };
    error(code, said)
}

/// A body for a client. Its first bytes are read before anything is answered.
///
/// # Errors
/// When they cannot be read.
pub async fn give(mut body: gateway::Body) -> Done<StreamingBlob> {
    let first = body.next().await.map_err(|why| error("ServiceUnavailable", why))?;
    let rest = futures::stream::try_unfold(body, |mut body| async move {
        let next = body.next().await.map_err(std::io::Error::other)?;
        Ok::<_, std::io::Error>(next.map(|bytes| (Frame::data(bytes), body)))
    });
    let first = futures::stream::iter(first.map(|bytes| Ok(Frame::data(bytes))));
    Ok(StreamingBlob::from(s3s::Body::http_body_unsync(StreamBody::new(first.chain(rest)))))
}
