//! A client of S3 that signs (AWS Signature, version 4), and says whatever it is told to.

use std::net::SocketAddr;
use std::time::SystemTime;

use bytes::Bytes;
use data_encoding::{BASE64, HEXLOWER};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::rt::TokioIo;
use ring::{digest, hmac};
use s3s::dto::{Timestamp, TimestampFormat};

/// An answer.
pub struct Answer {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// What stands between the first tags of this name.
    pub fn tag(&self, name: &str) -> Option<String> {
        let text = self.text();
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        Some(rest.split_once(&format!("</{name}>"))?.0.to_owned())
    }

    /// The status, and S3's code where there is one.
    pub fn code(&self) -> (u16, String) {
        (self.status, self.tag("Code").unwrap_or_default())
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap_or_default())
    }
}

/// A request on its way to be made.
pub struct Ask<'a> {
    pub method: &'a str,
    /// Path and query, escaped.
    pub at: &'a str,
    pub headers: Vec<(&'a str, String)>,
    pub body: Vec<u8>,
    /// What is said of the body where it is signed; the truth if none.
    pub sha256: Option<&'a str>,
    /// Seconds that the client's clock is ahead.
    pub ahead_s: i64,
    pub host: Option<&'a str>,
}

pub fn ask<'a>(method: &'a str, at: &'a str) -> Ask<'a> {
    Ask { method, at, headers: Vec::new(), body: Vec::new(), sha256: None, ahead_s: 0, host: None }
}

impl<'a> Ask<'a> {
    pub fn with(mut self, name: &'a str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }
}

/// Somebody with an access key.
#[derive(Clone)]
pub struct Client {
    pub addr: SocketAddr,
    pub id: String,
    pub secret: String,
}

fn sha256(bytes: &[u8]) -> String {
    HEXLOWER.encode(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

/// Now, as signatures write it.
fn stamp(ahead_s: i64) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64 + ahead_s;
    let now = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(now as u64);
    let mut text = Vec::new();
    Timestamp::from(now).format(TimestampFormat::DateTime, &mut text).unwrap();
    String::from_utf8(text).unwrap().replace(['-', ':'], "").replace(".000", "")
}

impl Client {
    fn sign(&self, stamp: &str, canonical: &str) -> String {
        let day = &stamp[..8];
        let scope = format!("{day}/us-east-1/s3/aws4_request");
        self.sign_text(day, &format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{}", sha256(canonical.as_bytes())))
    }

    fn sign_text(&self, day: &str, text: &str) -> String {
        let key = [day, "us-east-1", "s3", "aws4_request"]
            .iter()
            .fold(format!("AWS4{}", self.secret).into_bytes(), |key, part| mac(&key, part));
        HEXLOWER.encode(&mac(&key, text))
    }

    /// A form with these fields and a file, under a policy with these conditions beside those that its signature needs.
    pub fn form(&self, conditions: &str, fields: &[(&str, &str)], file: (&str, &str)) -> Vec<u8> {
        let stamp = stamp(0);
        let credential = format!("{}/{}/us-east-1/s3/aws4_request", self.id, &stamp[..8]);
        let policy = format!(
            r#"{{"expiration":"2100-01-01T00:00:00Z","conditions":[{conditions},{{"x-amz-algorithm":"AWS4-HMAC-SHA256"}},
               {{"x-amz-credential":"{credential}"}},{{"x-amz-date":"{stamp}"}}]}}"#
        );
        let policy = BASE64.encode(policy.as_bytes());
        let signature = self.sign_text(&stamp[..8], &policy);
        let signed = [
            ("policy", policy.as_str()),
            ("x-amz-algorithm", "AWS4-HMAC-SHA256"),
            ("x-amz-credential", &credential),
            ("x-amz-date", &stamp),
            ("x-amz-signature", &signature),
        ];
        let mut form = String::new();
        for (name, value) in fields.iter().chain(&signed) {
            form += &format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
        }
        let (name, bytes) = file;
        form += &format!(
            "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\r\n{bytes}\r\n--b--\r\n"
        );
        form.into_bytes()
    }

    /// Asks with a signature in the headers.
    pub async fn send(&self, ask: Ask<'_>) -> Answer {
        let stamp = stamp(ask.ahead_s);
        let payload = ask.sha256.map_or_else(|| sha256(&ask.body), str::to_owned);
        let host = ask.host.map_or_else(|| self.addr.to_string(), str::to_owned);
        let (path, query) = ask.at.split_once('?').unwrap_or((ask.at, ""));
        let mut pairs: Vec<String> = query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| if pair.contains('=') { pair.to_owned() } else { format!("{pair}=") })
            .collect();
        pairs.sort();
        let mut signed: Vec<(String, String)> = vec![
            ("host".into(), host),
            ("x-amz-content-sha256".into(), payload.clone()),
            ("x-amz-date".into(), stamp.clone()),
        ];
        signed.extend(ask.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())));
        signed.sort();
        let lines: String = signed.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let names = signed.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(";");
        let canonical = format!("{}\n{path}\n{}\n{lines}\n{names}\n{payload}", ask.method, pairs.join("&"));
        let signature = self.sign(&stamp, &canonical);
        let scope = format!("{}/us-east-1/s3/aws4_request", &stamp[..8]);
        let authorization =
            format!("AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}", self.id);
        signed.push(("authorization".into(), authorization));
        request(self.addr, ask.method, ask.at, &signed, ask.body).await
    }

    /// A URL (path and query) by which anybody may `GET` for so long.
    pub fn presigned(&self, path: &str, expires_s: u32, ahead_s: i64) -> String {
        let stamp = stamp(ahead_s);
        let credential = format!("{}%2F{}%2Fus-east-1%2Fs3%2Faws4_request", self.id, &stamp[..8]);
        let query = format!(
            "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={credential}&X-Amz-Date={stamp}&X-Amz-Expires={expires_s}\
             &X-Amz-SignedHeaders=host"
        );
        let canonical = format!("GET\n{path}\n{query}\nhost:{}\n\nhost\nUNSIGNED-PAYLOAD", self.addr);
        format!("{path}?{query}&X-Amz-Signature={}", self.sign(&stamp, &canonical))
    }
}

/// Asks without any signature.
pub async fn anonymous(addr: SocketAddr, ask: Ask<'_>) -> Answer {
    let mut headers: Vec<(String, String)> =
        ask.headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    headers.push(("host".into(), ask.host.map_or_else(|| addr.to_string(), str::to_owned)));
    request(addr, ask.method, ask.at, &headers, ask.body).await
}

async fn request(addr: SocketAddr, method: &str, at: &str, headers: &[(String, String)], body: Vec<u8>) -> Answer {
    let stream = tokio::net::TcpStream::connect(addr).await.expect("it listens");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("it speaks");
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(at);
    // Of an empty body hyper says nothing, and whoever puts one does.
    if body.is_empty() && ["PUT", "POST"].contains(&method) {
        request = request.header("content-length", "0");
    }
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let request = request.body(Full::new(Bytes::from(body))).expect("a request");
    let response = sender.send_request(request).await.expect("an answer");
    let (parts, body) = response.into_parts();
    let body = body.collect().await.expect("the whole answer").to_bytes();
    Answer { status: parts.status.as_u16(), headers: parts.headers, body }
}
