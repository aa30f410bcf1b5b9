//! Smaller answers for clients that say which encodings they understand (RFC 9110, sections 8.4 and 12.5.3).
//!
//! Decided once the head of an answer is there: only for types that get smaller, only above a size, never for what is encoded already
//! or must not be changed. What an encoder costs is counted; where there is no room for one more, answers go out as they are.

use hirsel_model::spec::{self, Encoding};
use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    VARY,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use hyper::body::Body;

use crate::stream::AnswerBody;

pub mod encoder;

use encoder::Room;

/// Types of `application/` that are text; so is whatever ends in `+json` or `+xml`.
const TEXT_OF_APPLICATIONS: [&str; 9] =
    ["graphql", "javascript", "json", "rtf", "toml", "wasm", "x-javascript", "x-ndjson", "xml"];

/// Which answers of a route are encoded.
#[derive(Debug)]
pub struct Compression {
    offered: Vec<Encoding>,
    /// Types like `text/html` or `text/*`; those of text where there are none.
    types: Vec<String>,
    bytes_min: u64,
}

/// What a request wants of the encoding of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The best that it accepts of what is offered.
    encoding: Option<Encoding>,
    /// It asks for a head alone.
    head_only: bool,
}

/// Whether an answer depends on what a client accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fitness {
    /// It goes out as it is, whatever the client accepts.
    Unfit,
    /// Of a kind that is encoded, but this one is too small, or has no body.
    Kind,
    /// Encoded if the client accepts it.
    Fit,
}

impl Compression {
    /// As it is carried out.
    pub fn of(compress: &spec::Compress) -> Self {
        let types = compress.types.iter().cloned().collect();
        Self { offered: compress.encodings.clone(), types, bytes_min: compress.bytes_min }
    }

    /// What a request wants.
    pub fn wish(&self, head: &Parts) -> Wish {
        Wish { encoding: choose(&head.headers, &self.offered), head_only: head.method == Method::HEAD }
    }

    /// Encodes an answer if it and its client are fit for it, and there is `room`.
    pub fn encode(&self, wish: Wish, answer: Response<AnswerBody>, room: &Room) -> Response<AnswerBody> {
        let (mut head, body) = answer.into_parts();
        let fitness = self.fitness(wish, head.status, &head.headers, body.size_hint().exact());
        if fitness != Fitness::Unfit {
            vary(&mut head.headers);
        }
        let (Fitness::Fit, Some(encoding)) = (fitness, wish.encoding) else { return Response::from_parts(head, body) };
        let encoded = if wish.head_only { Ok(body) } else { body.encoded(encoding, room) };
        let body = encoded
            .inspect(|_| announce(&mut head.headers, encoding))
            // There is no room, or it would not get smaller.
            .unwrap_or_else(|plain| plain);
        Response::from_parts(head, body)
    }

    /// Looks at an answer; `length` is that of its body, if it is known.
    fn fitness(&self, wish: Wish, status: StatusCode, headers: &HeaderMap, length: Option<u64>) -> Fitness {
        if status == StatusCode::NOT_MODIFIED {
            return Fitness::Kind;
        }
        let has_body = !status.is_informational()
            && !matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::PARTIAL_CONTENT);
        let changed = headers.contains_key(CONTENT_ENCODING) || headers.contains_key(CONTENT_RANGE);
        let fits = headers.get(CONTENT_TYPE).is_some_and(|kind| self.gets_smaller(kind));
        if !has_body || changed || !fits || names(headers, CACHE_CONTROL, "no-transform") {
            return Fitness::Unfit;
        }
        let announced = || headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok();
        let length = if wish.head_only { announced().or(length.filter(|length| *length > 0)) } else { length };
        match length {
            Some(bytes) if bytes < self.bytes_min => Fitness::Kind,
            _ => Fitness::Fit,
        }
    }

    fn gets_smaller(&self, content_type: &HeaderValue) -> bool {
        let Ok(text) = content_type.to_str() else { return false };
        let text = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let Some((kind, what)) = text.split_once('/') else { return false };
        if self.types.is_empty() {
            return is_text(kind, what);
        }
        self.types.iter().any(|it| *it == text || it.strip_suffix("/*") == Some(kind))
    }
}

/// Whether bodies of this type are text in one form or another. A stream of events is, but each would hold an encoder for as long as
/// somebody listens: whoever wants that says so.
fn is_text(kind: &str, what: &str) -> bool {
    match kind {
        "text" => what != "event-stream",
        "application" => TEXT_OF_APPLICATIONS.contains(&what) || what.ends_with("+json") || what.ends_with("+xml"),
        "image" => matches!(what, "svg+xml" | "bmp" | "x-icon" | "vnd.microsoft.icon"),
        "font" => matches!(what, "ttf" | "otf"),
        _ => false,
    }
}

/// What a client accepts of what is offered: the one it likes best, the first offered among equals.
fn choose(headers: &HeaderMap, offered: &[Encoding]) -> Option<Encoding> {
    let lines = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|line| line.to_str().ok());
    let accepted: Vec<(&str, u16)> = lines.flat_map(|line| line.split(',')).filter_map(accepted).collect();
    let of = |name: &str| accepted.iter().find(|(it, _)| it.eq_ignore_ascii_case(name)).map(|(_, weight)| *weight);
    let weight = |encoding: Encoding| {
        // `x-gzip` is the same (RFC 9110, section 8.4.1.3).
        let other = if encoding == Encoding::Gzip { of("x-gzip") } else { None };
        of(encoding.name()).or(other).or_else(|| of("*")).unwrap_or(0)
    };
    let best = offered.iter().map(|it| weight(*it)).max().filter(|weight| *weight > 0)?;
    // Whoever likes the answer better as it is gets it so.
    if of("identity").is_some_and(|identity| identity > best) {
        return None;
    }
    offered.iter().copied().find(|it| weight(*it) == best)
}

/// `gzip;q=0.5`: the name, and its weight in thousandths.
fn accepted(part: &str) -> Option<(&str, u16)> {
    let (name, parameters) = part.split_once(';').unwrap_or((part, ""));
    let parameters = parameters.trim();
    let weight = match parameters.strip_prefix("q=").or_else(|| parameters.strip_prefix("Q=")) {
        None => 1_000,
        Some(text) => match text.trim().parse::<f32>() {
            Ok(weight) if (0.0..=1.0).contains(&weight) => (weight * 1_000.0) as u16,
            _ => 0,
        },
    };
    let name = name.trim();
    (!name.is_empty()).then_some((name, weight))
}

/// Whether the list that `name` holds has `word`.
fn names(headers: &HeaderMap, name: HeaderName, word: &str) -> bool {
    let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|part| part.trim().eq_ignore_ascii_case(word))
}

/// Says in the head of an answer that caches have to look at what a client accepts.
fn vary(headers: &mut HeaderMap) {
    if !names(headers, VARY, "accept-encoding") && !names(headers, VARY, "*") {
        headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    }
}

/// Says in the head of an answer how its body is encoded: its length and its ranges are no longer known, and it is no longer the same
/// byte for byte (RFC 9110, section 8.8.1).
fn announce(headers: &mut HeaderMap, encoding: Encoding) {
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding.name()));
    headers.remove(CONTENT_LENGTH);
    headers.remove(ACCEPT_RANGES);
    if let Some(tag) = headers.get(ETAG)
        && !tag.as_bytes().starts_with(b"W/")
        && let Ok(weak) = HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat())
    {
        headers.insert(ETAG, weak);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Encoding; 3] = [Encoding::Zstd, Encoding::Br, Encoding::Gzip];

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::try_from(*value).unwrap())
        };
        lines.iter().map(pair).collect()
    }

    #[test]
    fn a_client_gets_what_it_likes_best_of_what_is_offered() {
        let chosen = |text: &str| choose(&headers(&[("accept-encoding", text)]), &ALL).map(Encoding::name);
        assert_eq!(chosen("gzip, deflate, br, zstd"), Some("zstd"), "the first offered among equals");
        assert_eq!(chosen("gzip, deflate, br"), Some("br"));
        assert_eq!(chosen("gzip"), Some("gzip"));
        assert_eq!(chosen("X-GZip"), Some("gzip"));
        assert_eq!(chosen("gzip;q=1.0, br;q=0.5, *;q=0"), Some("gzip"));
        assert_eq!(chosen("*"), Some("zstd"));
        assert_eq!(chosen("*;q=0.1, zstd;q=0"), Some("br"));
        assert_eq!(chosen("identity;q=1, gzip;q=0.5"), None);
        for none in ["", "identity", "deflate", "gzip;q=0", "gzip;q=x", "gzip;q=2", ", ;q=1"] {
            assert_eq!(chosen(none), None, "{none}");
        }
        assert_eq!(choose(&HeaderMap::new(), &ALL), None);
        let two = [("accept-encoding", "br;q=0.1"), ("accept-encoding", "gzip")];
        assert_eq!(choose(&headers(&two), &ALL), Some(Encoding::Gzip));
        assert_eq!(choose(&headers(&[("accept-encoding", "br")]), &[Encoding::Gzip]), None);
    }

    fn fitness(
        types: &[&str],
        wish: Wish,
        status: u16,
        lines: &[(&'static str, &str)],
        length: Option<u64>,
    ) -> Fitness {
        let types = types.iter().map(|it| (*it).to_owned()).collect();
        let compression = Compression { offered: ALL.to_vec(), types, bytes_min: 1_000 };
        compression.fitness(wish, StatusCode::from_u16(status).unwrap(), &headers(lines), length)
    }

    #[test]
    fn what_gets_smaller_and_may_be_changed_is_encoded() {
        let wish = Wish { encoding: None, head_only: false };
        let of = |lines: &[(&'static str, &str)]| fitness(&[], wish, 200, lines, None);
        for kind in ["text/html; charset=utf-8", "Application/JSON", "application/problem+json", "image/svg+xml"] {
            assert_eq!(of(&[("content-type", kind)]), Fitness::Fit, "{kind}");
        }
        for kind in ["image/png", "application/zip", "text/event-stream", "video/mp4", "font/woff2", "x", ""] {
            assert_eq!(of(&[("content-type", kind)]), Fitness::Unfit, "{kind}");
        }
        let html = ("content-type", "text/html");
        assert_eq!(of(&[]), Fitness::Unfit, "nobody knows what it is");
        assert_eq!(of(&[html, ("content-encoding", "br")]), Fitness::Unfit, "never twice");
        assert_eq!(of(&[html, ("content-range", "bytes 0-1/2")]), Fitness::Unfit);
        assert_eq!(of(&[html, ("cache-control", "private, No-Transform")]), Fitness::Unfit);
        assert_eq!(fitness(&[], wish, 404, &[html], Some(1_000)), Fitness::Fit, "a page of errors is one too");
        assert_eq!(fitness(&[], wish, 200, &[html], Some(999)), Fitness::Kind);
        assert_eq!(fitness(&[], wish, 304, &[], Some(0)), Fitness::Kind, "as the answer that it stands for");
        for status in [101, 204, 205, 206] {
            assert_eq!(fitness(&[], wish, status, &[html], None), Fitness::Unfit, "{status}");
        }
    }

    #[test]
    fn types_that_are_named_take_the_place_of_the_usual_ones() {
        let wish = Wish { encoding: None, head_only: false };
        let of = |kind: &str| fitness(&["text/event-stream", "model/*"], wish, 200, &[("content-type", kind)], None);
        assert_eq!((of("text/event-stream"), of("model/obj")), (Fitness::Fit, Fitness::Fit));
        assert_eq!((of("text/html"), of("models/obj")), (Fitness::Unfit, Fitness::Unfit));
    }

    #[test]
    fn a_head_is_that_of_the_answer_it_stands_for() {
        let head = Wish { encoding: Some(Encoding::Gzip), head_only: true };
        let of =
            |length| fitness(&[], head, 200, &[("content-type", "text/html"), ("content-length", length)], Some(0));
        assert_eq!((of("1000"), of("999")), (Fitness::Fit, Fitness::Kind));
    }

    #[test]
    fn an_encoded_answer_says_so_and_is_no_longer_the_same_byte_for_byte() {
        let lines = [
            ("etag", "\"a\""),
            ("content-length", "9"),
            ("accept-ranges", "bytes"),
            ("vary", "Origin, accept-Encoding"),
        ];
        let mut changed = headers(&lines);
        announce(&mut changed, Encoding::Br);
        vary(&mut changed);
        let expected = [("etag", "W/\"a\""), ("vary", "Origin, accept-Encoding"), ("content-encoding", "br")];
        assert_eq!(changed, headers(&expected));
        let mut weak = headers(&[("etag", "W/\"a\"")]);
        announce(&mut weak, Encoding::Gzip);
        vary(&mut weak);
        assert_eq!(weak["etag"], "W/\"a\"");
        assert_eq!(weak["vary"], "Accept-Encoding");
    }
}
