//! Signs requests to S3 (AWS Signature, version 4, in the headers): pure. It is little, and what it stands on is here already, so no library
//! is taken for it; the examples that Amazon publishes hold it.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use hirsel_model::WallTime;
use hirsel_role::secret::Plain;
use jiff::Timestamp;
use ring::{digest, hmac};

const SCHEME: &str = "AWS4-HMAC-SHA256";

/// Headers of a request by their names in lower case. Values may be any bytes that a header may have.
pub type Headers = BTreeMap<String, Vec<u8>>;

/// With what is signed, and for where.
pub struct Signer {
    /// The id of the access key.
    pub key_id: String,
    /// Its secret.
    pub secret: Plain,
    /// The region.
    pub region: String,
}

impl Signer {
    /// Puts into `headers`, among which is `host`, when it was signed, what the body is, and the signature of all of them. `path` and the
    /// names and values of `query` are escaped already.
    pub fn sign(
        &self,
        at: WallTime,
        method: &str,
        (path, query): (&str, &[(&str, String)]),
        headers: &mut Headers,
        body: &[u8],
    ) {
        let stamp = stamp(at);
        let body = sha256(body);
        headers.insert("x-amz-date".into(), stamp.clone().into_bytes());
        headers.insert("x-amz-content-sha256".into(), body.clone().into_bytes());
        let mut pairs: Vec<String> = query.iter().map(|(name, value)| format!("{name}={value}")).collect();
        pairs.sort();
        let names = headers.keys().map(String::as_str).collect::<Vec<_>>().join(";");
        let mut canonical = format!("{method}\n{path}\n{}\n", pairs.join("&")).into_bytes();
        for (name, value) in headers.iter() {
            canonical.extend_from_slice(name.as_bytes());
            canonical.push(b':');
            canonical.extend(plain(value));
            canonical.push(b'\n');
        }
        canonical.extend_from_slice(format!("\n{names}\n{body}").as_bytes());
        let day = stamp.get(..8).unwrap_or_default();
        let scope = format!("{day}/{}/s3/aws4_request", self.region);
        let text = format!("{SCHEME}\n{stamp}\n{scope}\n{}", sha256(&canonical));
        let first = format!("AWS4{}", self.secret.0).into_bytes();
        let key = [day, &self.region, "s3", "aws4_request"].iter().fold(first, |key, part| mac(&key, part));
        let signature = HEXLOWER.encode(&mac(&key, &text));
        let credential = format!("{}/{scope}", self.key_id);
        let said = format!("{SCHEME} Credential={credential}, SignedHeaders={names}, Signature={signature}");
        headers.insert("authorization".into(), said.into_bytes());
    }
}

/// A moment as signatures write it.
fn stamp(at: WallTime) -> String {
    let at = i64::try_from(at.0).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or_default();
    at.strftime("%Y%m%dT%H%M%SZ").to_string()
}

/// A value with single spaces, and none around it.
fn plain(value: &[u8]) -> Vec<u8> {
    let words = value.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(&b' ')
}

fn sha256(bytes: &[u8]) -> String {
    HEXLOWER.encode(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

/// Escapes a text as signatures want it; slashes stay in a path.
pub fn escape(text: &str, is_path: bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => escaped.push(char::from(byte)),
            b'/' if is_path => escaped.push('/'),
            byte => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of "Signature Calculations for the Authorization Header" in Amazon's documentation of S3.
    fn signed(method: &str, path: &str, query: &[(&str, String)], headers: &[(&str, &str)], body: &[u8]) -> String {
        let secret = Plain("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".into());
        let signer = Signer { key_id: "AKIAIOSFODNN7EXAMPLE".into(), secret, region: "us-east-1".into() };
        let mut all: Headers = [("host".into(), b"examplebucket.s3.amazonaws.com".to_vec())].into();
        all.extend(headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())));
        signer.sign(WallTime(1_369_353_600_000), method, (path, query), &mut all, body);
        assert_eq!(all["x-amz-date"], b"20130524T000000Z");
        let said = String::from_utf8(all["authorization"].clone()).expect("text");
        said.rsplit_once("Signature=").expect("a signature").1.to_owned()
    }

    #[test]
    fn requests_are_signed_as_amazon_says() {
        let range = [("range", "bytes=0-9")];
        let get = signed("GET", "/test.txt", &[], &range, b"");
        assert_eq!(get, "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
        let headers = [("date", "Fri, 24 May 2013 00:00:00 GMT"), ("x-amz-storage-class", "REDUCED_REDUNDANCY")];
        let path = format!("/{}", escape("test$file.text", true));
        let put = signed("PUT", &path, &[], &headers, b"Welcome to Amazon S3.");
        assert_eq!(put, "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd");
        let lifecycle = signed("GET", "/", &[("lifecycle", String::new())], &[], b"");
        assert_eq!(lifecycle, "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543");
        let list = signed("GET", "/", &[("prefix", "J".into()), ("max-keys", "2".into())], &[], b"");
        assert_eq!(list, "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7");
    }

    #[test]
    fn what_is_escaped_is_what_signatures_escape() {
        assert_eq!(escape("a b/ä+~*", true), "a%20b/%C3%A4%2B~%2A");
        assert_eq!(escape("a/b=", false), "a%2Fb%3D");
        assert_eq!(plain(b"  a   b\tc "), b"a b c");
    }
}
