//! Fields behind a body (RFC 9110, section 6.5), and which of them pass.
//!
//! A program may merge them into the head it was told before. So nothing passes that would have been read there to find the end of a
//! message, its way, its form, or who asks: those fields are left out, in both directions. How many there are is bounded where they
//! are read, as heads are. Pure.

use http::{HeaderMap, HeaderName};

use crate::clients;

/// Leaves out what has no place behind a body (RFC 9110, section 6.5.1), and what only we say of a request.
pub fn prune(fields: &mut HeaderMap) {
    if !fields.keys().any(is_out_of_place) {
        return;
    }
    let gone: Vec<HeaderName> = fields.keys().filter(|name| is_out_of_place(name)).cloned().collect();
    for name in gone {
        fields.remove(name);
    }
}

fn is_out_of_place(name: &HeaderName) -> bool {
    if clients::is_ours(name) {
        return true;
    }
    let name = name.as_str();
    name.starts_with("x-forwarded-")
        || name.starts_with("if-")
        || matches!(
            name,
            // Where the message ends, and what its connection does.
            "transfer-encoding" | "content-length" | "connection" | "keep-alive" | "proxy-connection" | "upgrade" | "te"
            | "trailer" | "http2-settings"
            // Its way.
            | "host" | "forwarded" | "via" | "max-forwards" | "location"
            // What it asks for.
            | "cache-control" | "pragma" | "expect" | "range"
            // Who asks.
            | "authorization" | "proxy-authorization" | "www-authenticate" | "proxy-authenticate" | "cookie" | "set-cookie"
            // What its body is, and how long it holds.
            | "content-type" | "content-encoding" | "content-range" | "age" | "date" | "expires" | "retry-after" | "vary"
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn what_changes_how_a_message_is_read_does_not_pass_behind_it() {
        let mut fields = HeaderMap::new();
        let gone = [
            "content-length",
            "host",
            "authorization",
            "x-forwarded-user",
            "x_client-cert_subject",
            "if-match",
            "trailer",
            "set-cookie",
        ];
        let kept = ["grpc-status", "grpc-message", "x-sum", "server-timing", "etag"];
        for name in gone.iter().chain(&kept) {
            fields.append(*name, HeaderValue::from_static("1"));
            fields.append(*name, HeaderValue::from_static("2"));
        }
        prune(&mut fields);
        let mut left: Vec<&str> = fields.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        let mut wanted = kept;
        wanted.sort_unstable();
        assert_eq!(left, wanted);
        assert_eq!(fields.len(), 2 * kept.len());
    }
}
