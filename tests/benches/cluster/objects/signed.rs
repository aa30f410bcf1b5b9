//! Requests that are signed in their query (AWS Signature, version 4), which costs a client nothing for the body.

use std::net::SocketAddr;
use std::process::Command;

use ring::{digest, hmac};

/// Once this is over a new bench has begun.
const VALID_S: u32 = 24 * 3600;

/// Somebody with a key.
pub struct Signer {
    id: String,
    key: hmac::Key,
    region: &'static str,
    stamp: String,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

/// Now, as signatures write it.
fn stamp() -> String {
    let output = Command::new("date").args(["-u", "+%Y%m%dT%H%M%SZ"]).output().expect("date runs");
    String::from_utf8(output.stdout).expect("a date").trim().to_owned()
}

impl Signer {
    /// Signs as of now.
    pub fn new(id: String, secret: &str, region: &'static str) -> Self {
        let stamp = stamp();
        let parts = [&stamp[..8], region, "s3", "aws4_request"];
        let key = parts.iter().fold(format!("AWS4{secret}").into_bytes(), |key, part| mac(&key, part));
        Self { id, key: hmac::Key::new(hmac::HMAC_SHA256, &key), region, stamp }
    }

    /// Path and query of a request, with `more` in its query; names and values are such that nothing is escaped.
    pub fn presigned(&self, method: &str, host: SocketAddr, path: &str, more: &[(&str, &str)]) -> String {
        let scope = format!("{}/{}/s3/aws4_request", &self.stamp[..8], self.region);
        let mut pairs = vec![
            "X-Amz-Algorithm=AWS4-HMAC-SHA256".to_owned(),
            format!("X-Amz-Credential={}%2F{}", self.id, scope.replace('/', "%2F")),
            format!("X-Amz-Date={}", self.stamp),
            format!("X-Amz-Expires={VALID_S}"),
            "X-Amz-SignedHeaders=host".to_owned(),
        ];
        pairs.extend(more.iter().map(|(name, value)| format!("{name}={value}")));
        pairs.sort();
        let query = pairs.join("&");
        let canonical = format!("{method}\n{path}\n{query}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD");
        let hash = hex(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref());
        let text = format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{hash}", self.stamp);
        let signature = hex(hmac::sign(&self.key, text.as_bytes()).as_ref());
        format!("{path}?{query}&X-Amz-Signature={signature}")
    }
}
