//! The HTTP side: accepts connections, bounds what each may cost, hands requests to s3s, and gives each answer a name.
//!
//! One connection carries one request at a time (HTTP/1.1), and a body is read only as fast as disks take it.

use std::convert::Infallible;
use std::error::Error;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use hirsel_mesh::seam::{BoxStream, Listener};
use hirsel_model::WallTime;
use hirsel_role::Spawner;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::fmt::rfc2822;
use s3s::access::{S3Access, S3AccessContext};
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::dto::Range;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, S3Error, S3Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;
use tracing::{debug, warn};

use super::browsers::{Browser, add, preflight};
use super::checked::{Checked, Verdict, is_object};
use super::decision::Remote;
use super::error::error;
use super::fields::looked_at;
use super::front::Front;
use super::get::{BareEtags, bare_etags};
use super::host::{Hosts, Sites};
use super::site;
use super::stall::{Paced, SILENT_WITHIN};

/// Connections that are served at once; more wait in the kernel's queue. Each may hold a request's head and a piece of its body.
pub const CONNECTIONS_MAX: usize = 4_096;
/// Requests that are carried out at once, with some room for those that only look; more are told to come back.
pub const REQUESTS_MAX: usize = 1_024;
/// Most that is read ahead of one client: the longest head, and the largest piece of a body.
const READ_BUFFER_BYTES_MAX: usize = 256 << 10;
/// Longest head of a request. User metadata is bounded below this; a presigned URL with a session token comes near half of it.
const HEAD_BYTES_MAX: usize = 32 << 10;
/// A client may take so long for the head of a request, and between two.
const HEAD_WITHIN: Duration = Duration::from_secs(60);
/// Longest document: ten thousand parts with a checksum each, or a thousand of the longest keys with every character escaped.
const DOCUMENT_BYTES_MAX: usize = 8 << 20;
/// Longest object that a form may carry: it is held whole before its policy is looked at.
const FORM_BYTES_MAX: u64 = 64 << 20;
/// Clients whose clock is further off are refused (S3).
const SKEW_MAX_S: u32 = 15 * 60;
/// A URL may be signed for so long (S3): a week.
const LASTING_MAX_S: u32 = 7 * 24 * 60 * 60;
/// When no file descriptor is left, accepting pauses: trying again at once would only burn the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What names mean where objects are served.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Below these S3 is spoken with each bucket as a host of its own.
    pub hosts: Vec<String>,
    /// Below these each bucket is a web site.
    pub sites: Vec<String>,
}

/// A listener at work. It stops when this is dropped; what is under way is carried out.
pub struct Server {
    accepting: JoinHandle<()>,
    stop: watch::Sender<bool>,
}

impl Server {
    /// Serves what `listener` accepts.
    pub fn start(listener: Box<dyn Listener>, front: Front, names: Names, spawner: Spawner) -> Self {
        let hosts = Hosts::new(names.hosts);
        let stop = watch::Sender::new(false);
        let shared = Arc::new(Shared {
            service: service(&front, hosts.clone()),
            sites: Sites::new(names.sites, hosts.clone()),
            hosts,
            front,
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            requests: Semaphore::new(REQUESTS_MAX),
            spawner: spawner.clone(),
            stop: stop.subscribe(),
        });
        Self { accepting: spawner.spawn(accept(listener, shared)), stop }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
        self.stop.send_replace(true);
    }
}

/// What a request is called, in its answer and in what is said of it.
#[derive(Clone)]
pub struct RequestId(pub String);

/// Which operation a request came to, for what is counted; none where it did not come that far.
#[derive(Clone, Default)]
pub struct Operation(Arc<OnceLock<&'static str>>);

impl Operation {
    /// This one.
    pub fn is(&self, name: &'static str) {
        // A request is one operation; should it be two, the first counts.
        let _ = self.0.set(name);
    }

    fn name(&self) -> &'static str {
        self.0.get().copied().unwrap_or("none")
    }
}

struct Shared {
    service: S3Service,
    sites: Sites,
    hosts: Hosts,
    front: Front,
    connections: Arc<Semaphore>,
    requests: Semaphore,
    spawner: Spawner,
    stop: watch::Receiver<bool>,
}

/// Lets every request through to its operation, where it is asked who may: [`Front::admit`].
struct AskedLater;

#[async_trait::async_trait]
impl S3Access for AskedLater {
    async fn check(&self, _: &mut S3AccessContext<'_>) -> S3Result<()> {
        Ok(())
    }
}

fn service(front: &Front, hosts: Hosts) -> S3Service {
    let mut config = S3Config::default();
    config.xml_max_body_size = DOCUMENT_BYTES_MAX;
    config.post_object_max_file_size = FORM_BYTES_MAX;
    config.presigned_url_max_skew_time_secs = SKEW_MAX_S;
    let mut builder = S3ServiceBuilder::new(front.clone());
    builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(config))));
    builder.set_auth(front.keys.clone());
    builder.set_access(AskedLater);
    builder.set_host(hosts);
    builder.build()
}

async fn accept(mut listener: Box<dyn Listener>, shared: Arc<Shared>) {
    loop {
        // Never closed: the semaphore lives as long as the server.
        let Ok(slot) = shared.connections.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, remote)) => {
                let serving = serve(stream, shared.clone(), slot, remote.ip());
                shared.spawner.spawn(async move {
                    if let Err(error) = serving.await {
                        debug!(%error, %remote, "connection of a client of S3 ended");
                    }
                });
            }
            Err(error) => {
                warn!(%error, "could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(
    stream: BoxStream,
    shared: Arc<Shared>,
    _slot: OwnedSemaphorePermit,
    remote: IpAddr,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut stop = shared.stop.clone();
    let answering = service_fn(move |mut request: Request<Incoming>| {
        let shared = shared.clone();
        request.extensions_mut().insert(Remote(remote));
        async move { Ok::<_, Infallible>(answer(&shared, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .auto_date_header(false)
        .max_buf_size(READ_BUFFER_BYTES_MAX)
        .max_header_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), answering);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return Ok(ended?),
        _ = stop.wait_for(|stop| *stop) => connection.as_mut().graceful_shutdown(),
    }
    Ok(connection.await?)
}

async fn answer(shared: &Shared, mut request: Request<Incoming>) -> Response<Body> {
    let operation = Operation::default();
    request.extensions_mut().insert(operation.clone());
    let head = *request.method() == Method::HEAD;
    let host = host_of(&request);
    let site = host.as_deref().and_then(|host| shared.sites.bucket(host));
    let by_host = site.clone().or_else(|| host.as_deref().and_then(|host| shared.hosts.bucket(host)));
    let browser = Browser::read(by_host, request.method(), request.uri(), request.headers());
    let id = RequestId(format!("{:016X}", shared.front.gateway.chance().number()));
    let answered = match shared.requests.try_acquire() {
        Ok(_permit) if *request.method() == Method::OPTIONS => {
            preflight(&shared.front, browser.as_ref(), request.headers()).await
        }
        Ok(_permit) => match site {
            Some(bucket) => {
                operation.is("website");
                Ok(site::answer(&shared.front, &bucket, &request, &id).await)
            }
            None => carried_out(shared, request, id.clone()).await,
        },
        Err(_) => Err(error("SlowDown", "please reduce your request rate")),
    };
    let mut response = answered.unwrap_or_else(told);
    if head && response.status() == StatusCode::OK && response.headers().contains_key(http::header::CONTENT_RANGE) {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    if response.status() == StatusCode::NOT_MODIFIED || head && response.status().is_client_error() {
        // There is no room for words in the answer to HEAD.
        *response.body_mut() = Body::empty();
        response.headers_mut().remove(http::header::CONTENT_LENGTH);
    }
    if let Some(browser) = browser {
        // An answer is worth more than what a browser may do with it.
        add(response.headers_mut(), browser.told(&shared.front).await.ok().flatten().unwrap_or_default());
    }
    shared.front.gateway.counts().answered(operation.name(), response.status().as_u16());
    named(shared, response.headers_mut(), id);
    response
}

/// What a client calls the host it speaks to.
fn host_of<B>(request: &Request<B>) -> Option<String> {
    let said = request.headers().get("host").and_then(|host| host.to_str().ok()).map(str::to_owned);
    said.or_else(|| request.uri().authority().map(ToString::to_string))
}

/// An error as an answer.
fn told(wrong: S3Error) -> Response<Body> {
    wrong.to_http_response().unwrap_or_else(|_| {
        let mut broken = Response::new(Body::empty());
        *broken.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        broken
    })
}

/// What every answer has: when it was given, and a name by which it can be found in a log.
fn named(shared: &Shared, headers: &mut HeaderMap, RequestId(id): RequestId) {
    let gateway = &shared.front.gateway;
    let now = SystemTime::UNIX_EPOCH + Duration::from_millis(gateway.wall().0);
    let lines = [
        ("date", httpdate::fmt_http_date(now)),
        ("x-amz-request-id", id),
        ("x-amz-id-2", gateway.me().to_string()),
        ("server", "hirsel".to_owned()),
    ];
    for (name, value) in lines {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
}

async fn carried_out(shared: &Shared, request: Request<Incoming>, id: RequestId) -> Result<Response<Body>, S3Error> {
    let (mut parts, body) = request.into_parts();
    mended(&mut parts.headers);
    lasting(&parts.uri)?;
    fresh(&parts.headers, shared.front.gateway.wall())?;
    parts.extensions.insert(id);
    let verdict = Verdict::default();
    let body = Paced::new(body, SILENT_WITHIN);
    let body = if let Some(boundary) = boundary(&parts.headers) {
        let host = parts.headers.get("host").and_then(|host| host.to_str().ok());
        let in_path = || parts.uri.path().trim_start_matches('/').split('/').next().unwrap_or_default().to_owned();
        let bucket = host.and_then(|host| shared.hosts.bucket(host)).unwrap_or_else(in_path);
        let (body, tags) = looked_at(&boundary, &bucket, body).await?;
        if let Some(tags) = tags {
            parts.extensions.insert(tags);
        }
        body
    } else if is_object(&parts.method, &parts.uri, &parts.headers) {
        Body::http_body_unsync(body)
    } else {
        let of_object =
            parts.uri.query().is_some_and(|query| query.split('&').any(|pair| pair.starts_with("uploadId=")));
        Body::http_body_unsync(Checked::new(body, &parts.headers, of_object, verdict.clone())?)
    };
    let response = shared.service.call(Request::from_parts(parts, body)).await;
    if let Some(wrong) = verdict.take() {
        return Err(wrong);
    }
    let broken = || error("InternalError", "the request could not be answered");
    let response = response.map_err(|wrong| {
        debug!(?wrong, "s3s could not answer");
        broken()
    })?;
    if response.extensions().get::<BareEtags>().is_none() {
        return Ok(response);
    }
    let (mut parts, body) = response.into_parts();
    let document = body.collect().await.map_err(|_| broken())?.to_bytes();
    let document = String::from_utf8(document.to_vec()).map_err(|_| broken())?;
    parts.headers.remove(http::header::CONTENT_LENGTH);
    Ok(Response::from_parts(parts, Body::from(bare_etags(&document))))
}

/// What stands between the fields of a form; none if the body is no form.
fn boundary(headers: &HeaderMap) -> Option<String> {
    let kind = headers.get("content-type")?.to_str().ok()?;
    let rest = kind.strip_prefix("multipart/form-data")?;
    let said = rest.split(';').find_map(|one| one.trim().strip_prefix("boundary="))?;
    Some(said.trim_matches('"').to_owned())
}

/// Refuses what was signed to last for no time, or for longer than signatures may.
fn lasting(uri: &Uri) -> Result<(), S3Error> {
    let query = uri.query().unwrap_or_default();
    let said = query.split('&').find_map(|pair| pair.strip_prefix("X-Amz-Expires="));
    match said.map(str::parse::<u32>) {
        None | Some(Ok(1..=LASTING_MAX_S)) => Ok(()),
        Some(_) => Err(error("AccessDenied", format!("X-Amz-Expires is 1 to {LASTING_MAX_S} seconds"))),
    }
}

/// Refuses what was signed in the headers with version 2 of signatures at another time: of these s3s looks at no date.
fn fresh(headers: &HeaderMap, now: WallTime) -> Result<(), S3Error> {
    if !headers.get("authorization").is_some_and(|signed| signed.as_bytes().starts_with(b"AWS ")) {
        return Ok(());
    }
    let said = headers.get("x-amz-date").or_else(|| headers.get("date")).and_then(|date| date.to_str().ok());
    let parser = rfc2822::DateTimeParser::new().relaxed_weekday(true);
    let said = said.and_then(|date| parser.parse_timestamp(date).ok());
    let said = said.and_then(|date| u64::try_from(date.as_millisecond()).ok());
    let said = said.ok_or_else(|| error("AccessDenied", "a signature goes with a valid Date or x-amz-date"))?;
    match now.0.abs_diff(said) <= u64::from(SKEW_MAX_S) * 1_000 {
        true => Ok(()),
        false => Err(error("RequestTimeTooSkewed", "the request was signed at another time than now")),
    }
}

/// Takes out of a request what is to be passed over (RFC 9110) and would be refused.
fn mended(headers: &mut HeaderMap) {
    if headers.get("authorization").is_some_and(HeaderValue::is_empty) {
        headers.remove("authorization");
    }
    let range = headers.get("range").map(|range| range.to_str().ok().and_then(|range| Range::parse(range).ok()));
    if range.is_some_and(|range| range.is_none()) {
        headers.remove("range");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_signed_in_the_old_way_was_signed_now() {
        let now = WallTime(1_174_999_002_000);
        let code = |lines: &[(&'static str, &str)]| {
            let line =
                |(name, value): &(&'static str, &str)| Some((http::HeaderName::from_static(name), value.parse().ok()?));
            let headers: HeaderMap = lines.iter().filter_map(line).collect();
            fresh(&headers, now).err().map(|wrong| wrong.code().as_str().to_owned())
        };
        let old = ("authorization", "AWS key:signature");
        for good in
            ["Tue, 27 Mar 2007 12:36:42 GMT", "Tue, 27 Mar 2007 12:22:00 +0000", "Tue, 27 Mar 2007 14:36:42 +0200"]
        {
            assert_eq!(code(&[old, ("date", good)]), None, "{good}");
        }
        for late in ["Tue, 27 Mar 2007 12:21:00 GMT", "Tue, 27 Mar 2007 12:52:00 GMT", "Tue, 07 Jul 9999 21:53:04 GMT"]
        {
            assert_eq!(code(&[old, ("date", late)]).as_deref(), Some("RequestTimeTooSkewed"), "{late}");
        }
        for none in ["", "soon", "Tue, 07 Jul 1950 21:53:04 GMT"] {
            assert_eq!(code(&[old, ("date", none)]).as_deref(), Some("AccessDenied"), "{none}");
        }
        let both = [old, ("date", "Tue, 27 Mar 2007 12:36:42 GMT"), ("x-amz-date", "soon")];
        assert_eq!(code(&both).as_deref(), Some("AccessDenied"), "what is Amazon's counts");
        assert_eq!(code(&[old]).as_deref(), Some("AccessDenied"));
        assert_eq!(code(&[("authorization", "AWS4-HMAC-SHA256 Credential=x")]), None, "s3s looks at it");
    }
}
