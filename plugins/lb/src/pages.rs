//! Answers of our own: short, plain, and saying whose fault it is.

use std::fmt::Display;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{HeaderValue, Response, StatusCode};
use hyper::body::Body;

use crate::fault::Fault;
use crate::grpc::{self, Code};
use crate::headers::PASSES_MAX;
use crate::stream::AnswerBody;

/// After how many seconds a client may ask again when no instance was there. Replacing one takes about this long.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("2");

/// What a page says; it goes along with it, for those who are told in other words.
#[derive(Clone, Debug)]
pub struct Said {
    /// Its sentence.
    pub text: String,
    /// What it means to whoever calls by gRPC, if the status does not say.
    pub code: Option<Code>,
}

/// The request itself is at fault.
pub fn bad_request(why: &str) -> Response<AnswerBody> {
    page(Fault::BadRequest, StatusCode::BAD_REQUEST, why)
}

/// The client may not ask this.
pub fn forbidden(why: &str) -> Response<AnswerBody> {
    page(Fault::Forbidden, StatusCode::FORBIDDEN, why)
}

/// The client has to say who it is.
pub fn unauthorized(challenge: HeaderValue) -> Response<AnswerBody> {
    let mut answer = page(Fault::Unauthorized, StatusCode::UNAUTHORIZED, "a user and a password are asked for here");
    answer.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    answer
}

/// The client has to show a certificate, which it can over TLS alone.
pub fn no_certificate() -> Response<AnswerBody> {
    let text = "a certificate of the client is asked for here: come over https, and show one";
    page(Fault::NoCertificate, StatusCode::FORBIDDEN, text)
}

/// The connection was made for something else.
pub fn misdirected() -> Response<AnswerBody> {
    let text =
        "this host asks its clients for certificates: come over a new connection, which is for this host by name";
    page(Fault::Misdirected, StatusCode::MISDIRECTED_REQUEST, text)
}

/// The body of the request is too large.
pub fn too_large(bytes_max: u64) -> Response<AnswerBody> {
    page(
        Fault::TooLarge,
        StatusCode::PAYLOAD_TOO_LARGE,
        format_args!("the body of a request has at most {bytes_max} bytes here"),
    )
}

/// The client asks too often.
pub fn too_many(wait: Duration) -> Response<AnswerBody> {
    // Whoever comes back after that many whole seconds is not early.
    let seconds = wait.as_millis().div_ceil(1_000).max(1);
    let mut answer = page(
        Fault::RateLimited,
        StatusCode::TOO_MANY_REQUESTS,
        format_args!("too many requests; try again in {seconds} s"),
    );
    answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(u64::try_from(seconds).unwrap_or(u64::MAX)));
    answer
}

/// This build cannot make out what the route is for.
pub fn not_understood() -> Response<AnswerBody> {
    page(Fault::NotUnderstood, StatusCode::SERVICE_UNAVAILABLE, "this node is too old for this route; upgrade it")
}

/// No route leads anywhere.
pub fn no_route(host: &str, path: &str) -> Response<AnswerBody> {
    let shown: String = path.chars().take(200).collect();
    page(
        Fault::NoRoute,
        StatusCode::NOT_FOUND,
        format_args!("no application is routed at host {host:?}, path {shown:?}"),
    )
}

/// There is no such object.
pub fn no_object(bucket: &str) -> Response<AnswerBody> {
    page(Fault::NoObject, StatusCode::NOT_FOUND, format_args!("there is no such object in bucket {bucket}"))
}

/// Objects are given, and nothing else.
pub fn only_read() -> Response<AnswerBody> {
    let text = "objects are here to be read: GET or HEAD";
    let mut answer = page(Fault::BadRequest, StatusCode::METHOD_NOT_ALLOWED, text);
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    answer
}

/// The object is not the one that the client wants.
pub fn changed() -> Response<AnswerBody> {
    let text = "the object is another one than the client asks for (If-Match, If-Unmodified-Since)";
    page(Fault::BadRequest, StatusCode::PRECONDITION_FAILED, text)
}

/// Objects are not to be had now.
pub fn no_storage(why: &str) -> Response<AnswerBody> {
    let text = format_args!("the object cannot be had now: {why}");
    let mut answer = page(Fault::NoInstance, StatusCode::SERVICE_UNAVAILABLE, text);
    answer.headers_mut().insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
    answer
}

/// As many objects are on their way as memory takes.
pub fn too_many_objects() -> Response<AnswerBody> {
    let text = "as many objects are on their way to clients as this load balancer has memory for";
    let mut answer = page(Fault::Overloaded, StatusCode::SERVICE_UNAVAILABLE, text);
    answer.headers_mut().insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
    answer
}

/// No instance takes requests now.
pub fn no_instance(service: impl Display) -> Response<AnswerBody> {
    let text = format_args!("no instance of {service} takes requests now; nothing of this request was carried out");
    let mut answer = page(Fault::NoInstance, StatusCode::SERVICE_UNAVAILABLE, text);
    answer.headers_mut().insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
    answer
}

/// Every instance has as many requests as it may.
pub fn overloaded(service: impl Display) -> Response<AnswerBody> {
    let text =
        format_args!("every instance of {service} has as many requests as it takes; this one was not carried out");
    let mut answer = page(Fault::Overloaded, StatusCode::SERVICE_UNAVAILABLE, text);
    answer.headers_mut().insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
    answer
}

/// The connection broke when it was not safe to try again.
pub fn broken(service: impl Display) -> Response<AnswerBody> {
    page(
        Fault::Broken,
        StatusCode::BAD_GATEWAY,
        format_args!("the instance of {service} that worked on this request went away; it may have been carried out"),
    )
}

/// The instance broke off this request, and not its connection, for this reason.
pub fn reset(service: impl Display, reason: u32) -> Response<AnswerBody> {
    let why = h2::Reason::from(reason);
    let text = format_args!("the instance of {service} broke off this request ({why:?}); it may have been carried out");
    let mut answer = page(Fault::Broken, StatusCode::BAD_GATEWAY, text);
    if let Some(said) = answer.extensions_mut().get_mut::<Said>() {
        said.code = Some(grpc::code_of_reset(reason));
    }
    answer
}

/// The answer is no HTTP.
pub fn garbled(service: impl Display) -> Response<AnswerBody> {
    page(Fault::Garbled, StatusCode::BAD_GATEWAY, format_args!("the answer of {service} could not be understood"))
}

/// The client did not send all of its request.
pub fn cut_short() -> Response<AnswerBody> {
    page(Fault::CutShort, StatusCode::BAD_REQUEST, "the body of the request broke off")
}

/// The route leads back to where it comes from.
pub fn going_round() -> Response<AnswerBody> {
    page(
        Fault::Loop,
        StatusCode::LOOP_DETECTED,
        format_args!(
            "the request has passed load balancers of this kind {PASSES_MAX} times (Via): its route leads back to one of them"
        ),
    )
}

/// No answer within the time limit.
pub fn timed_out(service: impl Display) -> Response<AnswerBody> {
    page(
        Fault::Timeout,
        StatusCode::GATEWAY_TIMEOUT,
        format_args!("{service} did not answer in time; the request may be carried out"),
    )
}

/// Nothing is kept of what the client wants only if it is (RFC 9111, section 5.2.1.7).
pub fn not_kept() -> Response<AnswerBody> {
    page(
        Fault::NotKept,
        StatusCode::GATEWAY_TIMEOUT,
        "nothing that is kept answers this request, and it asks for nothing else",
    )
}

/// Takes the body out of an answer to `HEAD`, which only tells how long it would be. (HTTP/1.1 would leave it out by itself; in HTTP/2
/// it would go out.)
pub fn withhold(answer: &mut Response<AnswerBody>) {
    if answer.body().is_end_stream() {
        return;
    }
    let length = answer.body().size_hint().exact();
    *answer.body_mut() = AnswerBody::whole(Bytes::new());
    // Of one that would be encoded nobody knows how long it gets.
    if let Some(length) = length
        && !answer.headers().contains_key(CONTENT_ENCODING)
    {
        answer.headers_mut().entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
}

fn page(fault: Fault, status: StatusCode, text: impl Display) -> Response<AnswerBody> {
    let text = text.to_string();
    let body = Bytes::from(format!("{status}\n{text}\n"));
    let mut answer = Response::new(AnswerBody::whole(body));
    *answer.status_mut() = status;
    answer.extensions_mut().insert(fault);
    answer.extensions_mut().insert(Said { text, code: None });
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
