//! An S3 elsewhere: requests on their way there, signed, each within a time.
//!
//! It speaks path style (`https://HOST/BUCKET/KEY`), which every S3 understands that has a name of its own. Bodies are in memory, and their
//! SHA-256 is signed with them: what arrives as something else is not kept there.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hirsel_model::WallTime;
use hirsel_role::outbound::{Outbound, Place};
use http::{HeaderMap, Method, Request, StatusCode, Uri};

use super::sign::{Headers, Signer, escape};

/// A request takes at most this, and a second more for each of [`SLOWEST_BYTES`] of its body.
const REQUEST_WITHIN: Duration = Duration::from_secs(30);
/// Bytes a second without which it is not waited for the end of a body.
const SLOWEST_BYTES: u64 = 256 << 10;
/// Characters that are told of an error of the other side.
const WORDS_MAX: usize = 200;

/// Reads where an S3 is: `http://HOST[:PORT]` or `https://HOST[:PORT]`.
///
/// # Errors
/// In words.
pub fn endpoint(text: &str) -> Result<Place, String> {
    let wrong = |why: &str| format!("endpoint {text:.80?} {why}: expected https://HOST or http://HOST:PORT");
    let uri: Uri = text.parse().map_err(|_| wrong("is no URL"))?;
    let place = Place::of(&uri).map_err(|why| wrong(&why))?;
    if uri.authority().is_some_and(|it| it.as_str().contains('@')) {
        return Err(wrong("names a user"));
    }
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(wrong("has a path"));
    }
    Ok(place)
}

/// Why something is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The other side is away, or refuses whatever is asked: others would fare no better.
    #[error("{0}")]
    Away(String),
    /// This request is refused.
    #[error("{0}")]
    Refused(String),
}

/// What is asked.
pub struct Ask<'a> {
    /// How.
    pub method: Method,
    /// The key; none for the bucket.
    pub key: &'a str,
    /// Names with values, both not escaped.
    pub query: Vec<(&'a str, String)>,
    /// Further headers.
    pub headers: Headers,
    /// The body.
    pub body: Bytes,
}

/// What is answered.
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Answer {
    /// What stands between the first tags of this name.
    pub fn tag(&self, name: &str) -> Option<String> {
        let text = std::str::from_utf8(&self.body).ok()?;
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        let (inside, _) = rest.split_once(&format!("</{name}>"))?;
        let plain = [("&quot;", "\""), ("&lt;", "<"), ("&gt;", ">"), ("&#39;", "'"), ("&apos;", "'"), ("&amp;", "&")];
        Some(plain.iter().fold(inside.to_owned(), |text, (escaped, plain)| text.replace(escaped, plain)))
    }

    /// Of what kind a failure is, and in words.
    pub fn failure(&self, what: &str) -> Failure {
        let code = self.tag("Code").unwrap_or_default();
        let message = self.tag("Message").unwrap_or_default();
        let told = format!("{code} {message}");
        let told: String = told.trim().chars().filter(|c| !c.is_control()).take(WORDS_MAX).collect();
        let words = format!("{what}: {} {told}", self.status.as_u16()).trim_end().to_owned();
        let of_all = matches!(code.as_str(), "NoSuchBucket" | "RequestTimeTooSkewed" | "SlowDown" | "QuotaExceeded");
        let status = self.status;
        if of_all
            || status.is_server_error()
            || status.is_redirection()
            || matches!(status, StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED | StatusCode::TOO_MANY_REQUESTS)
        {
            Failure::Away(words)
        } else {
            Failure::Refused(words)
        }
    }
}

/// A bucket of an S3 elsewhere.
pub struct There {
    place: Place,
    bucket: String,
    signer: Signer,
    outbound: Arc<Outbound>,
}

impl There {
    /// A bucket at `place`.
    pub fn new(place: Place, bucket: String, signer: Signer, outbound: Arc<Outbound>) -> Self {
        Self { place, bucket, signer, outbound }
    }

    /// What people call a key there.
    pub fn name(&self, key: &str) -> String {
        let scheme = if self.place.secure { "https" } else { "http" };
        let name = format!("{scheme}://{}/{}/{key}", self.place.authority, self.bucket);
        name.chars().map(|c| if c.is_control() { '?' } else { c }).take(WORDS_MAX).collect()
    }

    /// Asks, and gives the answer, whatever it is.
    ///
    /// # Errors
    /// [`Failure::Away`] where there is none.
    pub async fn ask(&self, ask: Ask<'_>, now: WallTime) -> Result<Answer, Failure> {
        let limit = REQUEST_WITHIN + Duration::from_secs(ask.body.len() as u64 / SLOWEST_BYTES);
        let what = format!("{} {}", ask.method, self.name(ask.key));
        let request = self.request(ask, now).map_err(|words| Failure::Away(format!("{what}: {words}")))?;
        let answer = self.outbound.ask(&self.place, request, limit).await;
        let (head, body) = answer.map_err(|words| Failure::Away(format!("{what}: {words}")))?.into_parts();
        Ok(Answer { status: head.status, headers: head.headers, body })
    }

    /// Signed. Whatever is asked here may be asked twice.
    fn request(&self, ask: Ask<'_>, now: WallTime) -> Result<Request<Bytes>, String> {
        let path = format!("/{}/{}", escape(&self.bucket, false), escape(ask.key, true));
        let query: Vec<(&str, String)> = ask.query.iter().map(|(name, value)| (*name, escape(value, false))).collect();
        let mut headers = ask.headers;
        headers.insert("host".into(), self.place.authority.clone().into_bytes());
        self.signer.sign(now, ask.method.as_str(), (&path, &query), &mut headers, &ask.body);
        let pairs: Vec<String> = query
            .iter()
            .map(|(name, value)| if value.is_empty() { (*name).to_owned() } else { format!("{name}={value}") })
            .collect();
        let uri = if pairs.is_empty() { path } else { format!("{path}?{}", pairs.join("&")) };
        let mut request = Request::builder().method(ask.method).uri(&uri);
        for (name, value) in &headers {
            request = request.header(name.as_str(), value.as_slice());
        }
        request.body(ask.body).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_url_without_more() {
        let read = |text| endpoint(text).map(|it| (it.secure, format!("{} {} {}", it.host, it.port, it.authority)));
        assert_eq!(read("https://s3.example.com"), Ok((true, "s3.example.com 443 s3.example.com".into())));
        assert_eq!(read("http://10.0.0.1:7480/"), Ok((false, "10.0.0.1 7480 10.0.0.1:7480".into())));
        assert_eq!(read("http://[::1]:80"), Ok((false, "::1 80 [::1]:80".into())));
        for bad in
            ["", "s3.example.com", "ftp://a", "https://a/b", "https://a?b", "https://u:p@a", "https:///", "http://:80"]
        {
            assert!(endpoint(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_would_befall_every_key_is_told_from_what_befalls_one() {
        let answer = |status: u16, body: &str| Answer {
            status: StatusCode::from_u16(status).expect("a status"),
            headers: HeaderMap::new(),
            body: Bytes::copy_from_slice(body.as_bytes()),
        };
        for (status, body) in [
            (403, "<Error><Code>AccessDenied</Code></Error>"),
            (503, ""),
            (301, ""),
            (404, "<Error><Code>NoSuchBucket</Code><Message>no\nsuch</Message></Error>"),
        ] {
            assert!(matches!(answer(status, body).failure("PUT"), Failure::Away(_)), "{status}");
        }
        let refused = answer(400, "<Error><Code>InvalidTag</Code><Message>a &amp; b\u{7}</Message></Error>");
        assert_eq!(refused.failure("PUT x"), Failure::Refused("PUT x: 400 InvalidTag a & b".into()));
    }
}
