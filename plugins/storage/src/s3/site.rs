//! Buckets as web sites: requests to a host of a site are answered with objects as pages, and with errors that people can read.
//!
//! Whoever asks has no name here: signatures and queries are passed over, and an object is shown if its bucket lets anybody get it, by its
//! policy or a list. Which object a path is, and where it is elsewhere, is [`crate::rules::website`]'s to say. Nothing is written.

use std::fmt::Write;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use s3s::{Body, S3Error};

use super::about::{header, unescape};
use super::access::Action;
use super::decision::Remote;
use super::error::{Done, argument, error, failed, missing, strange};
use super::front::{Asked, Front};
use super::get::{Whole, page};
use super::serve::RequestId;
use super::website::kept;
use crate::meta::access::MetaError;
use crate::meta::kinds::DocumentKind;
use crate::meta::names::BucketName;
use crate::meta::query::{Query, Reply};
use crate::meta::refusal::Refusal;
use crate::rules::website::{Came, Sent, Website};

/// What went wrong, and what went wrong when that was to be shown as the site wants it.
struct Wrong {
    first: S3Error,
    second: Option<S3Error>,
}

impl From<S3Error> for Wrong {
    fn from(first: S3Error) -> Self {
        Self { first, second: None }
    }
}

/// Answers a request to the site of `bucket`.
pub async fn answer<B>(front: &Front, bucket: &str, request: &Request<B>, id: &RequestId) -> Response<Body> {
    let shown = match *request.method() {
        Method::GET | Method::HEAD => shown(front, bucket, request).await,
        _ => Err(error("MethodNotAllowed", "the specified method is not allowed against this resource").into()),
    };
    shown.unwrap_or_else(|wrong| in_words(&wrong, id))
}

async fn shown<B>(front: &Front, bucket: &str, request: &Request<B>) -> Result<Response<Body>, Wrong> {
    let website = site_of(front, bucket).await?;
    let path = request.uri().path();
    let path = path.strip_prefix('/').unwrap_or(path).replace('+', "%2B");
    let path = unescape(&path).ok_or_else(|| error("InvalidURI", "the path cannot be read"))?;
    let headers = request.headers();
    let protocol = match headers.get("x-forwarded-proto") {
        Some(proto) if proto == "https" => "https",
        _ => "http",
    };
    let host = header(headers, HOST.as_str()).ok_or_else(|| argument("a request says which host it is for"))?;
    let came = Came { protocol, host: &host, key: &path };
    if let Some(sent) = website.before(came) {
        return Ok(sent_to(&sent));
    }
    let Some(key) = website.key(&path) else { return Err(strange().into()) };
    let asked = Asked::anonymous(unnamed(headers), request.extensions().get::<Remote>().map(|remote| remote.0));
    let method = request.method();
    let first = match page(front, &asked, method, (bucket, &key), Whole::IfAsked).await {
        Ok(page) => return Ok(page),
        Err(first) => first,
    };
    let status = first.status_code().unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if status == StatusCode::NOT_MODIFIED {
        let mut unchanged = Response::new(Body::empty());
        *unchanged.status_mut() = status;
        *unchanged.headers_mut() = first.headers().cloned().unwrap_or_default();
        return Ok(unchanged);
    }
    if let Some(index) = website.folder(&path)
        && front
            .version(&asked, Action::GetObject, (bucket, &index), None, 0)
            .await
            .is_ok_and(|it| it.version.object.is_some())
    {
        let raw = request.uri().path();
        return Ok(sent_to(&Sent { status: StatusCode::FOUND.as_u16(), location: format!("{raw}/") }));
    }
    if let Some(sent) = website.after(came, status.as_u16()) {
        return Ok(sent_to(&sent));
    }
    let Website::Objects { error: Some(key), .. } = &website else { return Err(first.into()) };
    if !status.is_client_error() {
        return Err(first.into());
    }
    match page(front, &asked, method, (bucket, key), Whole::Always).await {
        Ok(mut page) => {
            if page.status() == StatusCode::OK {
                *page.status_mut() = status;
            }
            said(page.headers_mut(), &first);
            Ok(page)
        }
        Err(second) => Err(Wrong { first, second: Some(second) }),
    }
}

/// What a bucket says of itself as a site.
async fn site_of(front: &Front, bucket: &str) -> Done<Website> {
    let none = || missing("NoSuchBucket", "the specified bucket does not exist");
    let name = BucketName::new(bucket).map_err(|_| none())?;
    match front.gateway.look(Query::Document(name, DocumentKind::Website)).await {
        Ok(Reply::Document(Some(text))) => kept(&text),
        Ok(Reply::Document(None)) => {
            Err(missing("NoSuchWebsiteConfiguration", "the specified bucket does not have a website configuration"))
        }
        Ok(_) => Err(strange()),
        Err(MetaError::Refused(Refusal::NoSuchBucket)) => Err(none()),
        Err(failure) => Err(failed(failure)),
    }
}

/// The headers of a request without what only S3 is asked with.
fn unnamed(headers: &HeaderMap) -> HeaderMap {
    let of_s3 = |name: &str| name == "authorization" || name.starts_with("x-amz-");
    headers
        .iter()
        .filter(|(name, _)| !of_s3(name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

fn sent_to(sent: &Sent) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    // The rules name statuses of their own only, and escape what could end a header.
    *response.status_mut() = StatusCode::from_u16(sent.status).unwrap_or(StatusCode::FOUND);
    if let Ok(location) = HeaderValue::from_str(&sent.location) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

/// Says in headers what went wrong, for programs.
fn said(headers: &mut HeaderMap, wrong: &S3Error) {
    if let Ok(code) = HeaderValue::from_str(wrong.code().as_str()) {
        headers.insert("x-amz-error-code", code);
    }
    if let Ok(message) = HeaderValue::from_str(wrong.message().unwrap_or_default()) {
        headers.insert("x-amz-error-message", message);
    }
}

/// What went wrong, as a page of our own.
fn in_words(wrong: &Wrong, RequestId(id): &RequestId) -> Response<Body> {
    let status = wrong.first.status_code().unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let title = format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or_default());
    let mut html = format!("<html>\n<head><title>{title}</title></head>\n<body>\n<h1>{title}</h1>\n<ul>\n");
    list(&mut html, &wrong.first);
    let _ = writeln!(html, "<li>RequestId: {}</li>\n</ul>", escaped(id));
    if let Some(second) = &wrong.second {
        html += "<h3>An Error Occurred While Attempting to Retrieve a Custom Error Document</h3>\n<ul>\n";
        list(&mut html, second);
        html += "</ul>\n";
    }
    html += "<hr/>\n</body>\n</html>\n";
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    said(headers, &wrong.first);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(html.len()));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(http::header::ALLOW, HeaderValue::from_static("GET, HEAD, OPTIONS"));
    }
    *response.body_mut() = Body::from(html);
    response
}

fn list(html: &mut String, wrong: &S3Error) {
    let message = escaped(wrong.message().unwrap_or_default());
    // Writing to a text does not fail.
    let _ = writeln!(html, "<li>Code: {}</li>\n<li>Message: {message}</li>", escaped(wrong.code().as_str()));
}

/// A text within a page.
fn escaped(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
        out
    })
}
