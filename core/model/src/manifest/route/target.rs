//! What answers a route: `to`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use toml::de::DeValue;

use super::super::errors::{Errors, quoted};
use super::super::table::{Table, Word, unknown, whole};
use super::actions::{REWRITE_KEYS, fields, is_query, rewrite};
use super::{Known, is_path};
use crate::control::limits::{HOST_BYTES_MAX, OUTSIDE_MAX, RESPOND_BYTES_MAX, WEIGHT_MAX};
use crate::id::ServiceName;
use crate::spec::{AppProtocol, Assets, Redirect, Respond, Rewrite, Target};

const EXPECTED: &str = "a service, shares like { web = 90, next = 10 }, objects like \"bucket:media\", or addresses outside like \"http://10.0.0.5:8080\"";
/// What the name of a bucket stands behind.
const BUCKET: &str = "bucket:";
/// What is added to a path that ends with a slash, where objects answer.
pub(super) const INDEX: &str = "index";
const HTTP_PORT: u16 = 80;
/// For a while, and as a question anew: what nobody has to regret.
const REDIRECT_STATUS: u16 = 302;
const REDIRECT_STATUSES: [u16; 4] = [301, 302, 307, 308];

/// What answers, if `table` says it: the inner nothing is something wrong. `path` is what `strip_prefix = true` takes off.
pub(super) fn read(table: &Table<'_>, path: &str, known: Known<'_>, errors: &mut Errors) -> Option<Option<Target>> {
    let https = https(table).is_some();
    let said = ["to", "redirect", "respond"].into_iter().filter(|key| table.get(key).is_some());
    let said: Vec<&str> = said.filter(|key| *key != "redirect" || !https).collect();
    if let [first, second, ..] = said[..] {
        let message = format!("{} has both {first} and {second}; one of them answers", table.path());
        errors.at(table.key_span(second), message);
    }
    match *said.first()? {
        "redirect" => Some(redirect(table, path, errors).map(Target::Redirect)),
        "respond" => Some(respond(table, errors).map(Target::Respond)),
        _ => to(table, known, errors),
    }
}

/// The status with which clients that came without TLS are led to https, if that is all that `redirect` says: whoever came with TLS is
/// answered by what else there is.
pub(super) fn https(table: &Table<'_>) -> Option<u16> {
    let text = |value: &DeValue<'_>| matches!(value, DeValue::String(text) if *text == "https");
    match table.get("redirect")?.get_ref() {
        DeValue::Table(inner) if inner.get("to").is_some_and(|to| text(to.get_ref())) => {
            if inner.keys().any(|key| !matches!(key.get_ref().as_ref(), "to" | "status")) {
                return None;
            }
            let status = inner.get("status").and_then(whole).flatten();
            match status.and_then(|status| u16::try_from(status).ok()) {
                None if inner.get("status").is_none() => Some(REDIRECT_STATUS),
                status => status.filter(|status| REDIRECT_STATUSES.contains(status)),
            }
        }
        value => text(value).then_some(REDIRECT_STATUS),
    }
}

fn to(table: &Table<'_>, known: Known<'_>, errors: &mut Errors) -> Option<Option<Target>> {
    let value = table.get("to")?;
    let word = |text: &str| Word { text: text.into(), span: value.span() };
    Some(match value.get_ref() {
        DeValue::String(text) if text.contains("://") => {
            outside(table, &word(text), errors).map(|(protocol, addr)| target(protocol, vec![addr]))
        }
        DeValue::String(text) if text.starts_with(BUCKET) => {
            bucket(table, &word(text), known.buckets, errors).map(Target::Bucket)
        }
        DeValue::String(text) => service(word(text), known.services, errors).map(Target::Service),
        DeValue::Array(_) => addresses(table, errors),
        DeValue::Table(_) => shares(table, known.services, errors),
        _ => table.wrong_type("to", value, EXPECTED, errors),
    })
}

/// `bucket:media`: the application's own one where it has one of that name, else as clients of S3 know it.
fn bucket(table: &Table<'_>, word: &Word, own: &BTreeMap<String, String>, errors: &mut Errors) -> Option<Assets> {
    let bucket = word.text.strip_prefix(BUCKET).unwrap_or_default().to_owned();
    if let Some(name) = own.get(&bucket) {
        // What is wrong with its name is told where it is made.
        return Some(Assets { bucket: name.clone(), index: None });
    }
    if !Assets::is_bucket(&bucket) {
        let message = format!(
            "to in {}: {} names no bucket: 3 to 63 of a-z, 0-9, '-' and '.', as in \"bucket:media\"",
            table.path(),
            quoted(&word.text)
        );
        errors.at(word.span.clone(), message);
        return None;
    }
    Some(Assets { bucket, index: None })
}

/// Takes in what `table` says of an index, which only objects have. A rule that leads to the objects of its route has the index of that.
pub(super) fn index(to: &mut Option<Target>, table: &Table<'_>, errors: &mut Errors) {
    let Some(word) = table.string(INDEX, errors) else { return };
    if !Assets::is_index(&word.text) {
        let message = format!("index in {}: {} is no name of a file: \"index.html\"", table.path(), quoted(&word.text));
        errors.at(word.span, message);
        return;
    }
    match to {
        Some(Target::Bucket(assets)) => assets.index = Some(word.text),
        Some(_) => {
            let message = format!("index in {}: only objects have one, to = \"bucket:media\"", table.path());
            errors.at(table.key_span(INDEX), message);
        }
        // What is wrong with what answers was said.
        None => {}
    }
}

pub(in crate::manifest) fn service(word: Word, services: &[&str], errors: &mut Errors) -> Option<ServiceName> {
    let name = word.parsed(errors)?;
    if !services.contains(&word.text.as_str()) {
        let message = if services.is_empty() {
            format!("unknown service {}: there is none", quoted(&word.text))
        } else {
            unknown("service", &word.text, "", services)
        };
        errors.absent(word.span, message);
    }
    Some(name)
}

pub(in crate::manifest) fn shares(table: &Table<'_>, services: &[&str], errors: &mut Errors) -> Option<Target> {
    let shares = table.below_table("to", errors)?;
    let mut read = BTreeMap::new();
    for (word, value) in shares.entries() {
        let weight = match whole(value) {
            Some(number) => shares.within(&word.text, value, number, 0, WEIGHT_MAX, errors),
            None => shares.wrong_type(&word.text, value, "a weight: a whole number", errors),
        };
        if let Some(name) = service(word, services, errors) {
            read.insert(name, weight.unwrap_or(1));
        }
    }
    if read.values().all(|weight| *weight == 0) {
        errors.at(table.key_span("to"), format!("{} leads nowhere: no weight is above 0", shares.path()));
        return None;
    }
    Some(Target::Shares(read))
}

fn addresses(table: &Table<'_>, errors: &mut Errors) -> Option<Target> {
    let words = table.words("to", EXPECTED, errors)?;
    let mut addrs = Vec::new();
    let mut spoken = None;
    for word in &words {
        if !word.text.contains("://") {
            let message = format!(
                "to in {}: {} in a list: services share requests by weight, to = {{ web = 90, next = 10 }}",
                table.path(),
                quoted(&word.text)
            );
            errors.at(word.span.clone(), message);
            continue;
        }
        let Some((protocol, addr)) = outside(table, word, errors) else { continue };
        if *spoken.get_or_insert(protocol) != protocol {
            let message = format!("to in {}: those of one list all speak http, or all h2c", table.path());
            errors.at(word.span.clone(), message);
        }
        if addrs.contains(&addr) {
            errors.at(word.span.clone(), format!("to in {}: {addr} is there twice", table.path()));
        }
        addrs.push(addr);
    }
    if words.is_empty() || words.len() > OUTSIDE_MAX {
        let message = format!("to in {}: {} addresses are not between 1 and {OUTSIDE_MAX}", table.path(), words.len());
        errors.at(table.key_span("to"), message);
    }
    (!addrs.is_empty()).then_some(target(spoken.unwrap_or_default(), addrs))
}

fn target(protocol: AppProtocol, addrs: Vec<SocketAddr>) -> Target {
    match protocol {
        AppProtocol::Http1 => Target::Outside(addrs),
        AppProtocol::H2c => Target::OutsideH2c(addrs),
    }
}

/// `"https"`, `"https://www.example.com"`, `{ to = "/new", status = 301 }`.
fn redirect(table: &Table<'_>, path: &str, errors: &mut Errors) -> Option<Redirect> {
    let value = table.get("redirect")?;
    let mut read = Redirect { status: REDIRECT_STATUS, scheme: None, host: None, rewrite: Rewrite::default() };
    if let DeValue::String(text) = value.get_ref() {
        let place = format!("redirect in {}", table.path());
        leads_to(&mut read, &place, &Word { text: text.to_string(), span: value.span() }, errors);
        return Some(read);
    }
    if !matches!(value.get_ref(), DeValue::Table(_)) {
        let expected = "an address like \"https://www.example.com\", \"https\", or { to = \"/new\", status = 301 }";
        return table.wrong_type("redirect", value, expected, errors);
    }
    let inner = table.below_table("redirect", errors)?;
    inner.check_keys(&[&["to", "status"][..], &REWRITE_KEYS].concat(), &[], errors);
    read.rewrite = rewrite(&inner, path, errors);
    if let Some(word) = inner.string("to", errors) {
        leads_to(&mut read, &format!("to in {}", inner.path()), &word, errors);
    }
    if let Some(status) = inner.count("status", 300, 399, errors) {
        match u16::try_from(status).ok().filter(|status| REDIRECT_STATUSES.contains(status)) {
            Some(status) => read.status = status,
            None => {
                let message = format!("status in {}: {status} is not 301, 302, 307 or 308", inner.path());
                errors.at(inner.value_span("status"), message);
            }
        }
    }
    if read.scheme.is_none() && read.host.is_none() && read.rewrite == Rewrite::default() {
        let message = format!("{} leads to where the request came: to = \"https\", or to = \"/new\"", inner.path());
        errors.absent(table.key_span("redirect"), message);
    }
    Some(read)
}

/// Reads `https`, `https://HOST`, `https://HOST/PATH`, `/PATH`.
fn leads_to(redirect: &mut Redirect, place: &str, word: &Word, errors: &mut Errors) {
    let shown = quoted(&word.text);
    let (scheme, rest) = match word.text.split_once("://") {
        Some((scheme, rest)) => (Some(scheme), rest),
        None if word.text == "https" || word.text == "http" => (Some(word.text.as_str()), ""),
        None => (None, word.text.as_str()),
    };
    if scheme.is_some_and(|scheme| scheme != "https" && scheme != "http") {
        errors.at(word.span.clone(), format!("{place}: {shown} is no web address: \"https://www.example.com\""));
        return;
    }
    let (host, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-:[]".contains(&b);
    let is_bad_host = !host.bytes().all(good) || host.len() > HOST_BYTES_MAX || scheme.is_none() && !host.is_empty();
    let is_good_path = path.is_empty() || is_query(path) && is_path(path.split('?').next().unwrap_or_default());
    if is_bad_host || !is_good_path {
        let message =
            format!("{place}: {shown} is no place to lead to: \"https://www.example.com/new\", \"https\" or \"/new\"");
        errors.at(word.span.clone(), message);
        return;
    }
    if host.is_empty() && path.is_empty() && scheme == Some("http") {
        errors.at(word.span.clone(), format!("{place}: {shown} leads to where the request came"));
        return;
    }
    redirect.scheme = scheme.map(str::to_owned);
    redirect.host = (!host.is_empty()).then(|| host.to_owned());
    if !path.is_empty() {
        if redirect.rewrite != Rewrite::default() {
            errors.at(
                word.span.clone(),
                format!("{place}: {shown} has the whole path; nothing else can be changed in it"),
            );
        }
        redirect.rewrite.path = Some(path.to_owned());
    }
}

/// `{ status = 503, body = "later" }`.
fn respond(table: &Table<'_>, errors: &mut Errors) -> Option<Respond> {
    let inner = table.below_table("respond", errors)?;
    inner.check_keys(&["status", "headers", "body"], &[], errors);
    let status = inner.count("status", 200, 599, errors).and_then(|status| u16::try_from(status).ok());
    let headers = fields("headers", &inner, errors);
    let body = inner.string("body", errors).map_or_else(String::new, |word| word.text);
    if body.len() > RESPOND_BYTES_MAX {
        let message = format!("body in {}: {} bytes exceed {RESPOND_BYTES_MAX}", inner.path(), body.len());
        errors.at(inner.value_span("body"), message);
    }
    if !body.is_empty() && matches!(status, Some(204 | 304)) {
        errors.at(inner.value_span("body"), format!("body in {}: an answer of this status has none", inner.path()));
    }
    Some(Respond { status: status.unwrap_or(200), headers, body })
}

/// `http://10.0.0.5:8080`, `h2c://10.0.0.5:8080`.
fn outside(table: &Table<'_>, word: &Word, errors: &mut Errors) -> Option<(AppProtocol, SocketAddr)> {
    address(&word.text)
        .map_err(|why| errors.at(word.span.clone(), format!("to in {}: {} {why}", table.path(), quoted(&word.text))))
        .ok()
}

fn address(text: &str) -> Result<(AppProtocol, SocketAddr), &'static str> {
    let (protocol, rest) = match text.split_once("://") {
        Some(("http", rest)) => (AppProtocol::Http1, rest),
        Some(("h2c", rest)) => (AppProtocol::H2c, rest),
        _ => {
            return Err(
                "is not reached: outside the cluster only plain \"http://ADDRESS:PORT\" and \"h2c://ADDRESS:PORT\" are",
            );
        }
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains(['/', '?', '#', '@']) {
        return Err("has more than an address and a port, \"http://10.0.0.5:8080\"");
    }
    let bare = rest.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(rest);
    let addr = match rest.parse::<SocketAddr>() {
        Ok(addr) => addr,
        Err(_) => match bare.parse::<IpAddr>() {
            Ok(ip) => SocketAddr::new(ip, HTTP_PORT),
            Err(_) => return Err("is no address: names are not looked up, write \"http://10.0.0.5:8080\""),
        },
    };
    if !can_answer(&addr) {
        return Err("is no address of one host with a port");
    }
    Ok((protocol, addr))
}

/// Whether one program can be at this address.
pub(crate) fn can_answer(addr: &SocketAddr) -> bool {
    addr.port() != 0 && !addr.ip().is_unspecified() && !addr.ip().is_multicast()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_outside_is_read_with_or_without_port() {
        let good = [
            ("http://10.0.0.5:8080", "10.0.0.5:8080"),
            ("http://10.0.0.5", "10.0.0.5:80"),
            ("http://10.0.0.5/", "10.0.0.5:80"),
            ("http://[fd00::1]:81", "[fd00::1]:81"),
            ("http://[fd00::1]", "[fd00::1]:80"),
        ];
        for (text, addr) in good {
            assert_eq!(address(text), Ok((AppProtocol::Http1, addr.parse().unwrap())), "{text}");
            let text = text.replace("http", "h2c");
            assert_eq!(address(&text), Ok((AppProtocol::H2c, addr.parse().unwrap())), "{text}");
        }
        for text in [
            "https://10.0.0.5",
            "http://",
            "http://legacy.internal:80",
            "http://10.0.0.5:8080/path",
            "http://user@10.0.0.5",
            "http://10.0.0.5:0",
            "http://0.0.0.0:80",
            "http://224.0.0.1:80",
            "http://10.0.0.5:99999",
        ] {
            assert!(address(text).is_err(), "{text}");
        }
    }
}
