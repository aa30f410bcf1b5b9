//! Bodies on their way in and out: counted and checked on the way in, so that a body that is not what was said is dropped and never named.

use bytes::Bytes;
use futures::StreamExt;
use http_body_util::StreamBody;
use hyper::body::Frame;
use s3s::dto::StreamingBlob;
use s3s::{S3Error, StdError, TrailingHeaders};

use super::error::{Done, error, unwritten};
use super::front::Front;
use super::hash::{Counted, Counting, Said};
use super::sealing::{Outgoing, broken};
use super::stall::STALLED;
use crate::gateway::Writer;
use crate::meta::kinds::Written;
use crate::meta::limits::BODY_BYTES_MAX;
use crate::rules::seal::{DataKey, Sealing};

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
    /// What seals it, if it is to be sealed.
    pub seal: Option<Sealing>,
}

/// What seals a stream: part `part` of an object, or 0 of one that is put whole.
///
/// # Errors
/// Never, as long as the cipher takes keys of 32 bytes.
pub fn sealer(front: &Front, key: Option<&DataKey>, part: u16) -> Done<Option<Sealing>> {
    key.map(|key| Sealing::new(key, part, front.drawn()).map_err(broken)).transpose()
}

/// Writes a body to the disks of the cluster, and says what it was.
///
/// # Errors
/// When it is not what the request said, or cannot be kept. Then nothing of it can be read, ever.
pub async fn take(mut writer: Writer, coming: Coming) -> Done<(Written, Counted)> {
    let Coming { body, length, said, trailers, mut seal } = coming;
    let length = match length {
        Some(length) => u64::try_from(length).map_err(|_| error("InvalidArgument", "a length below zero"))?,
        None => return Err(error("MissingContentLength", "you must provide the Content-Length HTTP header")),
    };
    if length > BODY_BYTES_MAX {
        return Err(error("EntityTooLarge", format!("{length} bytes exceed {BODY_BYTES_MAX}")));
    }
    let mut counting = Counting::new(said);
    let mut body = body.unwrap_or_else(|| StreamingBlob::from(s3s::Body::empty()));
    let mut came = 0;
    while let Some(piece) = writer.next_of(&mut body).await.map_err(unwritten)? {
        let piece: Bytes = piece.map_err(|problem| ended_early(&problem))?;
        counting.update(&piece);
        came += piece.len() as u64;
        if came > length {
            return Err(error("IncompleteBody", format!("more bytes came than the {length} that were said")));
        }
        let piece = match &mut seal {
            None => piece,
            Some(seal) => Bytes::from(seal.push(&piece).map_err(broken)?),
        };
        writer.push(piece).await.map_err(unwritten)?;
    }
    if came != length {
        return Err(error("IncompleteBody", format!("{came} bytes came of {length}")));
    }
    let trailers = trailers.and_then(|trailers| trailers.take());
    let counted = counting.finish(trailers.as_ref())?;
    if let Some(seal) = seal {
        writer.push(Bytes::from(seal.finish().map_err(broken)?)).await.map_err(unwritten)?;
    }
    Ok((writer.finish().await.map_err(unwritten)?, counted))
}

/// Why a body ended early. The types of s3s are its own, so that only their words can be looked at.
pub fn ended_early(problem: &StdError) -> S3Error {
    let words = problem.to_string();
    let (code, said) = match words.as_str() {
        said if said.contains(STALLED) => ("RequestTimeout", "nothing more of the body came in time"),
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
pub async fn give(mut body: Outgoing) -> Done<StreamingBlob> {
    let first = body.next().await.map_err(|why| error("ServiceUnavailable", why))?;
    let rest = futures::stream::try_unfold(body, |mut body| async move {
        let next = body.next().await.map_err(std::io::Error::other)?;
        Ok::<_, std::io::Error>(next.map(|bytes| (Frame::data(bytes), body)))
    });
    let first = futures::stream::iter(first.map(|bytes| Ok(Frame::data(bytes))));
    Ok(StreamingBlob::from(s3s::Body::http_body_unsync(StreamBody::new(first.chain(rest)))))
}
