//! One request as a line: JSON, or the combined format that readers of web logs know, with what that cannot say behind it.
//!
//! Nothing that a client sends ends a line, a string or a field, and nothing of it moves a cursor: control characters are written in
//! digits, in the combined format all that is not plain ASCII. Passwords and cookies are never looked at. Every line is bounded.

use std::cell::RefCell;
use std::fmt::Write;
use std::net::IpAddr;

use hirsel_model::WallTime;
use hirsel_model::spec::{AccessLog, LogFormat};
use hirsel_role::host::rfc3339;
use http::Version;
use http::uri::PathAndQuery;

use crate::cache::Outcome;
use crate::clients::shown::Shown;
use crate::fault::Fault;
use crate::ids::Mark;
use crate::instance::Whom;
use crate::meter::Meter;
use crate::table::Origin;

/// What is written of a path, and of a query.
const PATH_BYTES_MAX: usize = 2048;
/// What is written of any other field of a client.
const FIELD_BYTES_MAX: usize = 512;

/// What is written of one request.
#[derive(Debug)]
pub struct Line<'a> {
    /// When it was over.
    pub at: WallTime,
    /// How long it took.
    pub took_ms: u64,
    /// How long until the head of the instance's answer was there.
    pub first_byte_ms: Option<u64>,
    /// By what it is known.
    pub mark: &'a Mark,
    /// Who asked.
    pub client: IpAddr,
    /// Over TLS or not.
    pub encrypted: bool,
    /// Which TLS.
    pub tls: Option<&'static str>,
    /// Which HTTP.
    pub version: Version,
    /// How.
    pub method: &'a str,
    /// The host, as the client wrote it.
    pub host: &'a [u8],
    /// What was asked for.
    pub asked: Option<&'a PathAndQuery>,
    /// Where the client came from.
    pub referer: Option<&'a [u8]>,
    /// What the client calls itself.
    pub agent: Option<&'a [u8]>,
    /// What it was answered.
    pub status: u16,
    /// Why it did not go as it should have.
    pub fault: Option<Fault>,
    /// What the cache did, where its route has one.
    pub cached: Option<Outcome>,
    /// What its client showed of itself, where its route asks for that.
    pub shown: Option<&'a Shown>,
    /// Bytes of its body; none where it did not say how many.
    pub bytes_in: Option<u64>,
    /// Bytes of the body of its answer.
    pub bytes_out: u64,
    /// Its route.
    pub meter: Option<&'a Meter>,
    /// What it led to.
    pub origin: Option<&'a Origin>,
    /// Who was tried last.
    pub whom: Option<&'a Whom>,
    /// How many tries there were.
    pub tries: u32,
}

/// What nodes are called.
pub trait Names {
    /// This node.
    fn me(&self) -> &str;
    /// Another one; none for one that nobody told of.
    fn of(&self, node: hirsel_model::NodeId) -> Option<&str>;
}

impl Line<'_> {
    /// The line with its end.
    pub fn write(&self, log: AccessLog, names: &impl Names) -> String {
        let mut out = String::with_capacity(512);
        match log.format {
            LogFormat::Json => self.json(log, names, &mut out),
            LogFormat::Combined => self.combined(log, names, &mut out),
        }
        out.push('\n');
        out
    }

    fn json(&self, log: AccessLog, names: &impl Names, out: &mut String) {
        let mut fields = Fields { out, begun: false };
        fields.text("at", &rfc3339(self.at.0));
        fields.text("id", self.mark.id());
        fields.maybe("trace", self.mark.trace());
        fields.maybe("span", self.mark.span());
        fields.maybe("parent", self.mark.parent.as_ref().and_then(|digits| std::str::from_utf8(digits).ok()));
        fields.text("client", &self.client.to_string());
        if let Some(shown) = self.shown {
            fields.bytes("client_cert", shown.subject().as_bytes(), FIELD_BYTES_MAX);
            fields.text("client_cert_sha256", shown.fingerprint());
        }
        fields.bytes("host", self.host, FIELD_BYTES_MAX);
        fields.bytes("method", self.method.as_bytes(), FIELD_BYTES_MAX);
        fields.bytes("path", self.path().as_bytes(), PATH_BYTES_MAX);
        if let Some(query) = self.query(log) {
            fields.bytes("query", query.as_bytes(), PATH_BYTES_MAX);
        }
        fields.text("http", version(self.version));
        fields.maybe("tls", self.encrypted.then_some(self.tls.unwrap_or("TLS")));
        fields.number("status", self.status.into());
        fields.maybe("failed", self.fault.map(Fault::word));
        fields.maybe("cache", self.cached.map(Outcome::word));
        if let Some(bytes) = self.bytes_in {
            fields.number("bytes_in", bytes);
        }
        fields.number("bytes_out", self.bytes_out);
        fields.number("took_ms", self.took_ms);
        if let Some(ms) = self.first_byte_ms {
            fields.number("first_byte_ms", ms);
        }
        fields.maybe("route", self.meter.map(|meter| meter.route.as_str()));
        fields.maybe("app", self.app());
        match self.origin {
            Some(Origin::Service(_, service)) => fields.text("service", service.as_str()),
            Some(Origin::Bucket(_, bucket)) => fields.text("bucket", bucket),
            Some(Origin::Outside(..)) | None => {}
        }
        match self.whom {
            Some(Whom::Instance { id, node }) => {
                fields.text("instance", &id.to_string());
                match names.of(*node) {
                    Some(name) => fields.text("node", name),
                    None => fields.text("node", &format!("#{node}")),
                }
            }
            Some(Whom::Outside(addr)) => fields.text("outside", &addr.to_string()),
            None => {}
        }
        fields.number("tries", self.tries.into());
        fields.text("lb", names.me());
        if let Some(referer) = self.referer {
            fields.bytes("referer", referer, FIELD_BYTES_MAX);
        }
        if let Some(agent) = self.agent {
            fields.bytes("agent", agent, FIELD_BYTES_MAX);
        }
        fields.out.push('}');
    }

    /// `CLIENT - - [DATE] "METHOD TARGET HTTP" STATUS BYTES "REFERER" "AGENT"` as Apache and nginx have it, and behind that
    /// `"HOST" ID APP/SERVICE INSTANCE NODE TRIES FIRST_BYTE_MS TOOK_MS FAILED`.
    fn combined(&self, log: AccessLog, names: &impl Names, out: &mut String) {
        // Writing into a String cannot fail.
        let _ = write!(out, "{}", self.client);
        out.push_str(" - - [");
        push_date(self.at, out);
        out.push_str("] \"");
        plain(self.method.as_bytes(), FIELD_BYTES_MAX, out);
        out.push(' ');
        plain(self.path().as_bytes(), PATH_BYTES_MAX, out);
        if let Some(query) = self.query(log) {
            out.push('?');
            plain(query.as_bytes(), PATH_BYTES_MAX, out);
        }
        out.extend([" ", version(self.version), "\" "]);
        push_number(self.status.into(), out);
        out.push(' ');
        push_number(self.bytes_out, out);
        out.push_str(" \"");
        plain(self.referer.unwrap_or(b"-"), FIELD_BYTES_MAX, out);
        out.push_str("\" \"");
        plain(self.agent.unwrap_or(b"-"), FIELD_BYTES_MAX, out);
        out.push_str("\" \"");
        plain(self.host, FIELD_BYTES_MAX, out);
        let (app, service) = match self.origin {
            Some(Origin::Service(app, service)) => (app.as_str(), service.as_str()),
            Some(Origin::Outside(app, ..)) => (app.as_str(), "-"),
            Some(Origin::Bucket(app, bucket)) => (app.as_str(), bucket.as_str()),
            None => (self.app().unwrap_or("-"), "-"),
        };
        out.extend(["\" ", self.mark.id(), " ", app, "/", service, " "]);
        match self.whom {
            Some(Whom::Instance { id, node }) => {
                out.extend([id.app.as_str(), "/", id.service.as_str(), "/"]);
                push_number(id.number, out);
                match names.of(*node) {
                    Some(name) => out.extend([" ", name]),
                    None => drop(write!(out, " #{node}")),
                }
            }
            Some(Whom::Outside(addr)) => drop(write!(out, "{addr} -")),
            None => out.push_str("- -"),
        }
        out.push(' ');
        push_number(self.tries.into(), out);
        out.push(' ');
        match self.first_byte_ms {
            Some(ms) => push_number(ms, out),
            None => out.push('-'),
        }
        out.push(' ');
        push_number(self.took_ms, out);
        out.extend([" ", self.fault.map_or("-", Fault::word)]);
    }

    fn app(&self) -> Option<&str> {
        Some(self.meter?.app.as_ref()?.as_str())
    }

    fn path(&self) -> &str {
        self.asked.map_or("", PathAndQuery::path)
    }

    fn query(&self, log: AccessLog) -> Option<&str> {
        self.asked?.query().filter(|_| !log.without_query)
    }
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        Version::HTTP_3 => "HTTP/3.0",
        _ => "HTTP/1.1",
    }
}

thread_local! {
    /// The last second that was written, and how.
    static LAST: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
}

fn push_date(at: WallTime, out: &mut String) {
    LAST.with_borrow_mut(|(second, text)| {
        let now = at.0 / 1000;
        if *second != now {
            (*second, *text) = (now, date(at));
        }
        out.push_str(text);
    });
}

/// `26/Nov/2026:14:05:09 +0000`.
fn date(at: WallTime) -> String {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let text = rfc3339(at.0);
    let (day, time) = text.split_once('T').unwrap_or((&text, ""));
    let mut parts = day.split('-');
    let (year, month, day) = (parts.next(), parts.next(), parts.next());
    let month = month.and_then(|month| MONTHS.get(month.parse::<usize>().ok()?.checked_sub(1)?)).unwrap_or(&"-");
    let time = time.get(..8).unwrap_or_default();
    format!("{}/{month}/{}:{time} +0000", day.unwrap_or("-"), year.unwrap_or("-"))
}

fn push_number(number: u64, out: &mut String) {
    out.push_str(itoa::Buffer::new().format(number));
}

/// The fields of an object.
struct Fields<'a> {
    out: &'a mut String,
    begun: bool,
}

impl Fields<'_> {
    fn key(&mut self, key: &str) {
        self.out.push(if std::mem::replace(&mut self.begun, true) { ',' } else { '{' });
        self.out.push('"');
        self.out.push_str(key);
        self.out.push_str("\":");
    }

    fn number(&mut self, key: &str, number: u64) {
        self.key(key);
        push_number(number, self.out);
    }

    fn maybe(&mut self, key: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.text(key, text);
        }
    }

    fn text(&mut self, key: &str, text: &str) {
        self.bytes(key, text.as_bytes(), usize::MAX);
    }

    /// At most `bytes_max` of what somebody wrote.
    fn bytes(&mut self, key: &str, bytes: &[u8], bytes_max: usize) {
        self.key(key);
        self.out.push('"');
        let bytes = &bytes[..bytes.len().min(bytes_max)];
        // Nearly always all of it.
        let begins = bytes.iter().position(|byte| !matches!(byte, b' '..=b'~') || matches!(byte, b'"' | b'\\'));
        let (begins, rest) = bytes.split_at(begins.unwrap_or(bytes.len()));
        self.out.push_str(std::str::from_utf8(begins).unwrap_or_default());
        for c in String::from_utf8_lossy(rest).chars() {
            match c {
                '"' | '\\' => self.out.extend(['\\', c]),
                // Those beyond ASCII too: some terminals obey them. And what turns the direction of a text.
                c if c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}') => {
                    let _ = write!(self.out, "\\u{:04x}", u32::from(c));
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

/// At most `bytes_max` of what somebody wrote, as nginx writes it into a quoted field: all but plain ASCII in digits.
fn plain(bytes: &[u8], bytes_max: usize, out: &mut String) {
    let bytes = &bytes[..bytes.len().min(bytes_max)];
    let is_plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    // Nearly always all of it.
    let begins = bytes.iter().position(|byte| !is_plain(byte)).unwrap_or(bytes.len());
    let (begins, rest) = bytes.split_at(begins);
    out.push_str(std::str::from_utf8(begins).unwrap_or_default());
    for byte in rest {
        if is_plain(byte) {
            out.push(char::from(*byte));
        } else {
            // Writing into a String cannot fail.
            let _ = write!(out, "\\x{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests;
