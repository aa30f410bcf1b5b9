//! Bodies that are documents (tags, policies, lists of what is deleted): looked at on their way to whoever reads them. s3s checks what is
//! signed, but says of a document that is not what was signed only that something is wrong inside; and it does not look at other checksums.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use data_encoding::HEXLOWER_PERMISSIVE;
use http::{HeaderMap, Method, Uri};
use hyper::body::{Body, Frame, SizeHint};
use s3s::crypto::{Checksum as _, Sha256};
use s3s::{S3Error, StdError};

use super::body::ended_early;
use super::error::{Done, error};
use super::hash::{Counting, Said};

/// Queries with which a body under a key is a document.
const DOCUMENTS: [&str; 7] = ["tagging", "acl", "retention", "legal-hold", "uploads", "select", "restore"];

/// Whether the body of a request is that of an object or of a part: that is looked at where it is taken.
pub fn is_object(method: &Method, uri: &Uri, headers: &HeaderMap) -> bool {
    let form = headers.get("content-type").is_some_and(|kind| kind.as_bytes().starts_with(b"multipart/form-data"));
    let query = uri.query().unwrap_or_default();
    let names = || query.split('&').map(|pair| pair.split('=').next().unwrap_or_default());
    let document = names().any(|name| DOCUMENTS.contains(&name));
    let bucket = names().any(|name| BUCKET_DOCUMENTS.contains(&name));
    form || *method == Method::PUT && !document && !bucket
}

/// Queries with which the body of a `PUT` is a document of a bucket.
const BUCKET_DOCUMENTS: [&str; 18] = [
    "accelerate",
    "analytics",
    "cors",
    "encryption",
    "intelligent-tiering",
    "inventory",
    "lifecycle",
    "logging",
    "metrics",
    "notification",
    "object-lock",
    "ownershipControls",
    "policy",
    "publicAccessBlock",
    "replication",
    "requestPayment",
    "versioning",
    "website",
];

/// What was found wrong with a body, if anything.
#[derive(Clone, Default)]
pub struct Verdict(Arc<Mutex<Option<S3Error>>>);

impl Verdict {
    fn set(&self, wrong: S3Error) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(wrong);
    }

    /// It, once.
    pub fn take(&self) -> Option<S3Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A document on its way.
pub struct Checked<B> {
    inner: B,
    counting: Option<(Counting, Sha256, Option<Vec<u8>>)>,
    left: Option<u64>,
    verdict: Verdict,
}

impl<B> Checked<B> {
    /// Looks at `inner` by what the headers say. With `of_object` the checksums they say are not of this document.
    ///
    /// # Errors
    /// When they say what cannot be.
    pub fn new(inner: B, headers: &HeaderMap, of_object: bool, verdict: Verdict) -> Done<Self> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let signed = text("x-amz-content-sha256").and_then(|hex| HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).ok());
        let signed = signed.filter(|digest| digest.len() == 32);
        let left = text("content-length").and_then(|length| length.parse().ok());
        // What comes in signed chunks is not the document yet.
        let counting = match text("x-amz-content-sha256").is_some_and(|kind| kind.starts_with("STREAMING-")) {
            true => None,
            false => {
                let said = if of_object { Said::read_md5(headers)? } else { Said::read(headers)? };
                Some((Counting::new(said), Sha256::new(), signed))
            }
        };
        Ok(Self { inner, counting, left, verdict })
    }

    /// Says what is wrong, now that all has come.
    fn end(&mut self) -> Result<(), StdError> {
        let Some((counting, hash, signed)) = self.counting.take() else { return Ok(()) };
        let wrong = match counting.finish(None) {
            Err(wrong) => Some(wrong),
            Ok(_) if signed.is_some_and(|signed| signed != hash.finalize()) => Some(error(
                "XAmzContentSHA256Mismatch",
                "the provided x-amz-content-sha256 header does not match what was computed",
            )),
            Ok(_) => None,
        };
        match wrong {
            None => Ok(()),
            Some(wrong) => {
                self.verdict.set(wrong);
                Err("the body is not what was said".into())
            }
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Checked<B>
where
    B::Error: Into<StdError>,
{
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                if let Some(bytes) = frame.data_ref() {
                    let came = bytes.len() as u64;
                    if let Some((counting, hash, _)) = &mut self.counting {
                        counting.update(bytes);
                        hash.update(bytes);
                    }
                    self.left = self.left.map(|left| left.saturating_sub(came));
                    // Whoever reads it stops at its length, and does not ask for its end.
                    if self.left == Some(0)
                        && let Err(wrong) = self.end()
                    {
                        return Poll::Ready(Some(Err(wrong)));
                    }
                }
                Some(Ok(frame))
            }
            Some(Err(broken)) => {
                let broken = broken.into();
                self.verdict.set(ended_early(&broken));
                Some(Err(broken))
            }
            None => self.end().err().map(Err),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_under_a_key_is_an_object_unless_the_query_says_otherwise() {
        let is = |method: Method, uri: &'static str| is_object(&method, &Uri::from_static(uri), &HeaderMap::new());
        assert!(is(Method::PUT, "/b/k") && is(Method::PUT, "/b/k?partNumber=1&uploadId=x"));
        assert!(is(Method::PUT, "/b/k?X-Amz-Signature=x"));
        for document in ["/b/k?tagging", "/b/k?acl=", "/b?policy", "/b?versioning", "/b/k?retention&versionId=x"] {
            assert!(!is(Method::PUT, document), "{document}");
        }
        assert!(!is(Method::POST, "/b?delete") && !is(Method::POST, "/b/k?uploadId=x"));
    }
}
