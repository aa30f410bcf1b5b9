//! What is taken out of and put into the heads that pass (RFC 9110, section 7.6; RFC 7239).

use std::net::{IpAddr, SocketAddr};

use http::header::{
    CONNECTION, COOKIE, EXPECT, FORWARDED, HOST, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
    TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Uri, Version};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Lines that speak to the next hop alone (RFC 9110, section 7.6.1, and those that older programs send). What a proxy is told to do
/// before it answers (`Expect`), and who it is told to be towards whom, ends here as well.
static FOR_ONE_HOP: [HeaderName; 10] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    EXPECT,
    PROXY_AUTHORIZATION,
    PROXY_AUTHENTICATE,
    HTTP2_SETTINGS,
];

/// Longest host name with port: 253 octets of name (RFC 1035), colon, five digits, and a final dot.
const HOST_BYTES_MAX: usize = 260;

/// What a client says that takes fields behind an answer.
const TRAILERS: &str = "trailers";

/// How we name ourselves in `Via`.
const VIA_US: HeaderValue = HeaderValue::from_static("1.1 hirsel");

/// A request passes load balancers of ours so often at most: a route that leads to one of them, as one to the front door of another
/// cluster does, is no mistake, but one that leads back to itself would go on until no connection is left.
pub(crate) const PASSES_MAX: usize = 8;

/// How many lines a head gains on its way at most.
const LINES_ADDED: usize = 10;

/// Values that are the same for every request of one client connection.
#[derive(Debug)]
pub struct ClientLines {
    /// The address it comes from.
    pub ip: IpAddr,
    /// Whether nobody between sees what it says.
    pub encrypted: bool,
    forwarded_for: HeaderValue,
    forwarded: HeaderValue,
    proto: HeaderValue,
}

impl ClientLines {
    /// For a client at `remote`, whose connection is encrypted or not.
    pub fn new(remote: SocketAddr, encrypted: bool) -> Self {
        let (ip, proto) = (remote.ip().to_canonical(), if encrypted { "https" } else { "http" });
        let node = match ip {
            IpAddr::V4(ip) => format!("for={ip};proto={proto}"),
            IpAddr::V6(ip) => format!("for=\"[{ip}]\";proto={proto}"),
        };
        let value = |text: String| HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("unknown"));
        let proto = HeaderValue::from_static(proto);
        Self { ip, encrypted, forwarded_for: value(ip.to_string()), forwarded: value(node), proto }
    }
}

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadHead {
    /// HTTP/1.1 asks for exactly one `Host`.
    Host,
    /// `CONNECT`, or a target that is no path.
    Target,
    /// It has come through here too often.
    Loop,
}

/// The host a request is for, in lower case, without port and final dot; empty when an HTTP/1.0 client named none.
///
/// Writes into `buffer` only when it has to.
pub fn host_of<'a>(parts: &'a Parts, buffer: &'a mut String) -> Result<&'a str, BadHead> {
    let mut lines = parts.headers.get_all(HOST).iter();
    let text = match (parts.uri.authority(), lines.next(), lines.next()) {
        (_, _, Some(_)) => return Err(BadHead::Host),
        // An absolute target beats the header (RFC 9112, section 3.2.2).
        (Some(authority), _, None) => authority.as_str(),
        (None, Some(host), None) => host.to_str().map_err(|_| BadHead::Host)?,
        (None, None, None) if parts.version == Version::HTTP_10 => "",
        (None, None, None) => return Err(BadHead::Host),
    };
    bare_host(text, buffer).ok_or(BadHead::Host)
}

/// `text` without user, port and final dot, in lower case; none if it is no host.
fn bare_host<'a>(text: &'a str, buffer: &'a mut String) -> Option<&'a str> {
    if text.len() > HOST_BYTES_MAX || text.bytes().any(|b| matches!(b, b'/' | b'@' | b'?' | b'#' | b' ' | b',')) {
        return None;
    }
    let name = match text.strip_prefix('[') {
        Some(rest) => &text[..rest.find(']')? + 2],
        None => text.split(':').next().unwrap_or_default(),
    };
    let port = &text[name.len()..];
    if !(port.is_empty() || port.starts_with(':') && port[1..].bytes().all(|b| b.is_ascii_digit())) {
        return None;
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        buffer.push_str(name);
        buffer.make_ascii_lowercase();
        return Some(buffer);
    }
    Some(name)
}

/// Makes the head of a client's request fit to be sent to an instance. `upgrade` keeps what an upgrade needs.
pub fn prepare_request(parts: &mut Parts, client: &ClientLines, upgrade: Option<HeaderValue>) -> Result<(), BadHead> {
    if let Some(authority) = parts.uri.authority() {
        let host = HeaderValue::try_from(authority.as_str()).map_err(|_| BadHead::Target)?;
        parts.headers.insert(HOST, host);
        let path = parts.uri.path_and_query().cloned().ok_or(BadHead::Target)?;
        parts.uri = Uri::from(path);
    }
    if parts.version >= Version::HTTP_2 {
        join_cookies(&mut parts.headers);
    }
    parts.version = Version::HTTP_11;
    if passes(&parts.headers) >= PASSES_MAX {
        return Err(BadHead::Loop);
    }
    // Once for all that is put in below, and not at each doubling.
    parts.headers.reserve(LINES_ADDED);
    let takes_trailers = strip(&mut parts.headers);
    let headers = &mut parts.headers;
    append(headers, X_FORWARDED_FOR, &client.forwarded_for);
    // The same and more in the words of RFC 7239, which few programs read: only where somebody before us began with it.
    if headers.contains_key(FORWARDED) {
        append(headers, FORWARDED, &client.forwarded);
    }
    append(headers, VIA, &VIA_US);
    headers.insert(X_FORWARDED_PROTO, client.proto.clone());
    match headers.get(HOST).cloned() {
        Some(host) => drop(headers.insert(X_FORWARDED_HOST, host)),
        // HTTP/1.1 towards the instance needs one, even an empty one (RFC 9112, section 3.2).
        None => drop(headers.insert(HOST, HeaderValue::from_static(""))),
    }
    if let Some(protocol) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol);
    } else if takes_trailers {
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
        headers.insert(TE, HeaderValue::from_static(TRAILERS));
    }
    Ok(())
}

/// How often a request has passed a load balancer of ours.
fn passes(headers: &HeaderMap) -> usize {
    headers.get_all(VIA).iter().flat_map(tokens).filter(|token| *token == VIA_US).count()
}

/// HTTP/2 and HTTP/3 let a client send its cookies in pieces; HTTP/1.1 knows one line of them (RFC 9113, section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(COOKIE).iter();
    if let (Some(_), Some(_)) = (lines.next(), lines.next()) {
        let pieces: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
        // Parts that were values make a value.
        if let Ok(line) = HeaderValue::from_maybe_shared(bytes::Bytes::from(pieces.join(&b"; "[..]))) {
            headers.insert(COOKIE, line);
        }
    }
}

/// Makes the head of an instance's answer fit to be sent to a client.
pub fn prepare_answer(headers: &mut HeaderMap, upgrade: Option<HeaderValue>) {
    // No `Via`: towards the client a gateway may leave it out (RFC 9110, section 7.6.3).
    strip(headers);
    if let Some(protocol) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol);
    }
}

/// The protocol a head wants to change to, if it wants to. Never to HTTP/2: whoever could speak it with an instance through a tunnel would
/// ask for what no route leads to, and that way to begin with it is no more (RFC 9113, section 3.1).
pub fn wanted_upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let protocol = headers.get(UPGRADE)?;
    if tokens(protocol).any(|token| token.to_ascii_lowercase().starts_with("h2")) {
        return None;
    }
    let named = headers.get_all(CONNECTION).iter().any(|line| tokens(line).any(|t| t.eq_ignore_ascii_case("upgrade")));
    named.then(|| protocol.clone())
}

/// Takes out what is meant for one hop only, named in `Connection` or by itself. True if fields behind the answer are asked for: we pass
/// them on.
fn strip(headers: &mut HeaderMap) -> bool {
    // Most heads have nothing of the kind: one look along them costs less than a search for each name.
    if !headers.keys().any(is_for_one_hop) {
        return false;
    }
    let takes_trailers = headers.get_all(TE).iter().flat_map(tokens).any(|token| token.eq_ignore_ascii_case(TRAILERS));
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .flat_map(tokens)
            .filter_map(|token| HeaderName::try_from(token).ok())
            // Naming these would take away what the next hop needs to understand the message at all.
            .filter(|name| !matches!(*name, HOST | http::header::CONTENT_LENGTH))
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    for name in &FOR_ONE_HOP {
        headers.remove(name);
    }
    takes_trailers
}

fn is_for_one_hop(name: &HeaderName) -> bool {
    FOR_ONE_HOP.contains(name)
}

fn tokens(line: &HeaderValue) -> impl Iterator<Item = &str> {
    line.to_str().unwrap_or_default().split(',').map(str::trim).filter(|token| !token.is_empty())
}

/// Adds `value` to the list that `name` holds.
fn append(headers: &mut HeaderMap, name: HeaderName, value: &HeaderValue) {
    use http::header::Entry;
    match headers.entry(name) {
        Entry::Vacant(vacant) => drop(vacant.insert(value.clone())),
        Entry::Occupied(mut occupied) => {
            let mut list = Vec::with_capacity(64);
            for line in occupied.iter() {
                list.extend_from_slice(line.as_bytes());
                list.extend_from_slice(b", ");
            }
            list.extend_from_slice(value.as_bytes());
            // Parts that were values make a value.
            if let Ok(list) = HeaderValue::from_maybe_shared(bytes::Bytes::from(list)) {
                occupied.insert(list);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn head(uri: &str, lines: &[(&'static str, &str)]) -> Parts {
        let mut request = Request::builder().uri(uri);
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn host(text: &str) -> Result<String, BadHead> {
        host_of(&head("/", &[("host", text)]), &mut String::new()).map(str::to_owned)
    }

    #[test]
    fn a_host_is_compared_without_port_case_and_final_dot() {
        assert_eq!(host("Shop.Example.COM:8080").unwrap(), "shop.example.com");
        assert_eq!(host("shop.example.com.").unwrap(), "shop.example.com");
        assert_eq!(host("[::1]:80").unwrap(), "[::1]");
        assert_eq!(host("10.0.0.1").unwrap(), "10.0.0.1");
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for text in ["a/b", "user@a", "a:b", "a b", "[::1", "[::1]x", &"a".repeat(300)] {
            assert_eq!(host(text), Err(BadHead::Host), "{text}");
        }
        let two = head("/", &[("host", "a"), ("host", "b")]);
        assert_eq!(host_of(&two, &mut String::new()), Err(BadHead::Host));
        assert_eq!(host_of(&head("/", &[]), &mut String::new()), Err(BadHead::Host));
    }

    #[test]
    fn an_absolute_target_beats_the_host_header_and_becomes_a_path() {
        let mut parts = head("http://a.example/x?y=1", &[("host", "b.example")]);
        assert_eq!(host_of(&parts, &mut String::new()), Ok("a.example"));
        prepare_request(&mut parts, &ClientLines::new("10.0.0.9:1".parse().unwrap(), false), None).unwrap();
        assert_eq!(parts.uri.to_string(), "/x?y=1");
        assert_eq!(parts.headers[HOST], "a.example");
    }

    #[test]
    fn headers_for_one_hop_do_not_pass_those_named_in_connection_included() {
        let mut parts = head(
            "/",
            &[
                ("host", "a"),
                ("connection", "close, X-Secret"),
                ("connection", "host, content-length"),
                ("x-secret", "1"),
                ("content-length", "3"),
                ("keep-alive", "timeout=5"),
                ("te", "trailers"),
                ("proxy-authorization", "Basic x"),
                ("upgrade", "h2c"),
                ("x-kept", "yes"),
            ],
        );
        prepare_request(&mut parts, &ClientLines::new("10.0.0.9:1".parse().unwrap(), false), None).unwrap();
        for gone in ["x-secret", "keep-alive", "proxy-authorization", "upgrade"] {
            assert!(!parts.headers.contains_key(gone), "{gone}");
        }
        // Fields behind an answer pass through us.
        assert_eq!(parts.headers["te"], "trailers");
        assert_eq!(parts.headers["connection"], "te");
        assert_eq!(parts.headers["x-kept"], "yes");
        assert_eq!(parts.headers["content-length"], "3");
        assert_eq!(parts.headers[HOST], "a");
    }

    #[test]
    fn the_way_of_a_request_is_written_into_it() {
        let mut parts = head("/", &[("host", "a:81"), ("x-forwarded-for", "1.1.1.1"), ("via", "1.0 old")]);
        prepare_request(&mut parts, &ClientLines::new("[::ffff:10.0.0.9]:5".parse().unwrap(), false), None).unwrap();
        assert_eq!(parts.headers["x-forwarded-for"], "1.1.1.1, 10.0.0.9");
        assert_eq!(parts.headers["x-forwarded-proto"], "http");
        assert_eq!(parts.headers["x-forwarded-host"], "a:81");
        assert!(!parts.headers.contains_key("forwarded"), "nobody began with it");
        assert_eq!(parts.headers["via"], "1.0 old, 1.1 hirsel");
    }

    #[test]
    fn a_request_that_comes_again_and_again_is_given_up() {
        let client = ClientLines::new("10.0.0.9:5".parse().unwrap(), false);
        let mut parts = head("/", &[("host", "a"), ("via", "1.1 other"), ("via", "2 hirsel.example, 1.1 hirsel")]);
        for pass in 2..=PASSES_MAX {
            prepare_request(&mut parts, &client, None).unwrap();
            assert_eq!(passes(&parts.headers), pass);
        }
        assert_eq!(prepare_request(&mut parts, &client, None), Err(BadHead::Loop));
    }

    #[test]
    fn a_way_that_was_begun_in_the_words_of_the_standard_is_continued_in_them() {
        let mut parts =
            head("/", &[("host", "a"), ("forwarded", "for=1.1.1.1"), ("forwarded", "for=2.2.2.2;proto=https")]);
        prepare_request(&mut parts, &ClientLines::new("[fd00::1]:5".parse().unwrap(), false), None).unwrap();
        let way = "for=1.1.1.1, for=2.2.2.2;proto=https, for=\"[fd00::1]\";proto=http";
        assert_eq!(parts.headers["forwarded"], way);
        assert_eq!(parts.headers.get_all("forwarded").iter().count(), 1);
    }

    #[test]
    fn an_upgrade_passes_only_when_connection_names_it() {
        let wants = head("/", &[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]);
        assert_eq!(wanted_upgrade(&wants.headers).unwrap(), "websocket");
        assert_eq!(wanted_upgrade(&head("/", &[("upgrade", "websocket")]).headers), None);
        for smuggled in ["h2c", "H2C", "websocket, h2c"] {
            let wants = head("/", &[("connection", "Upgrade, HTTP2-Settings"), ("upgrade", smuggled)]);
            assert_eq!(wanted_upgrade(&wants.headers), None, "{smuggled}");
        }
    }
}
