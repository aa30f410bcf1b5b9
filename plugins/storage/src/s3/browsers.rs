//! Browsers that ask for another origin: preflights are answered here, and answers to other requests get what the bucket's rules say.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri};
use s3s::Body;
use s3s::dto::CORSConfiguration;

use super::configurations::cors_rules;
use super::documents::read;
use super::error::{Done, error, strange};
use super::front::Front;
use crate::meta::access::MetaError;
use crate::meta::kinds::DocumentKind;
use crate::meta::names::BucketName;
use crate::meta::query::{Query, Reply};
use crate::meta::refusal::Refusal;
use crate::rules::cors;

/// A request that says where it was written.
pub struct Browser {
    bucket: Option<BucketName>,
    origin: String,
    method: String,
    headers: Option<String>,
}

impl Browser {
    /// None of a request that does not say so. `by_host` is the bucket that its host is, if it is one.
    pub fn read(by_host: Option<String>, method: &Method, uri: &Uri, headers: &HeaderMap) -> Option<Self> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let origin = text("origin").filter(|origin| !origin.is_empty())?;
        let in_path = || uri.path().trim_start_matches('/').split('/').next().map(str::to_owned);
        let bucket = by_host.or_else(in_path);
        Some(Self {
            bucket: bucket.and_then(|bucket| BucketName::new(bucket).ok()),
            origin,
            // Who says what would be asked is answered about that.
            method: text("access-control-request-method").unwrap_or_else(|| method.to_string()),
            headers: text("access-control-request-headers"),
        })
    }

    /// What the browser is told; none if no rule of the bucket fits.
    pub async fn told(&self, front: &Front) -> Done<Option<Vec<(&'static str, String)>>> {
        let Some(bucket) = &self.bucket else { return Ok(None) };
        let text = match front.gateway.look(Query::Document(bucket.clone(), DocumentKind::Cors)).await {
            Ok(Reply::Document(text)) => text,
            Ok(_) => return Err(strange()),
            Err(MetaError::Refused(Refusal::NoSuchBucket)) => None,
            Err(failure) => return Err(super::error::failed(failure)),
        };
        let Some(rules) = text.map(|text| read::<CORSConfiguration>(&text)).transpose()? else { return Ok(None) };
        let ask = cors::Ask { origin: &self.origin, method: &self.method, headers: self.headers.as_deref() };
        Ok(cors::answer(&cors_rules(&rules), ask))
    }
}

/// Adds what a browser is told to an answer.
pub fn add(headers: &mut HeaderMap, told: Vec<(&'static str, String)>) {
    for (name, value) in told {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

/// The answer to a preflight (`OPTIONS`).
pub async fn preflight(front: &Front, browser: Option<&Browser>, headers: &HeaderMap) -> Done<Response<Body>> {
    let Some(browser) = browser.filter(|_| headers.contains_key("access-control-request-method")) else {
        return Err(error(
            "BadRequest",
            "insufficient information: an Origin and an Access-Control-Request-Method are needed",
        ));
    };
    let Some(told) = browser.told(front).await? else {
        let words = "CORSResponse: this CORS request is not allowed";
        let mut refused = error("AccessForbidden", words);
        refused.set_status_code(StatusCode::FORBIDDEN);
        return Err(refused);
    };
    let mut response = Response::new(Body::empty());
    add(response.headers_mut(), told);
    Ok(response)
}
