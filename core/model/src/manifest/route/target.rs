//! What answers a route: `to`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use toml::de::DeValue;

use super::super::errors::{Errors, quoted};
use super::super::table::{Table, Word, unknown, whole};
use crate::control::limits::{OUTSIDE_MAX, WEIGHT_MAX};
use crate::id::ServiceName;
use crate::spec::Target;

const EXPECTED: &str =
    "a service, shares like { web = 90, next = 10 }, or addresses outside like \"http://10.0.0.5:8080\"";
const HTTP_PORT: u16 = 80;

/// What answers, if `table` says it: the inner nothing is something wrong.
pub(super) fn read(table: &Table<'_>, services: &[&str], errors: &mut Errors) -> Option<Option<Target>> {
    let value = table.get("to")?;
    let word = |text: &str| Word { text: text.into(), span: value.span() };
    Some(match value.get_ref() {
        DeValue::String(text) if text.contains("://") => {
            outside(table, &word(text), errors).map(|addr| Target::Outside(vec![addr]))
        }
        DeValue::String(text) => service(word(text), services, errors).map(Target::Service),
        DeValue::Array(_) => addresses(table, errors),
        DeValue::Table(_) => shares(table, services, errors),
        _ => table.wrong_type("to", value, EXPECTED, errors),
    })
}

fn service(word: Word, services: &[&str], errors: &mut Errors) -> Option<ServiceName> {
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

fn shares(table: &Table<'_>, services: &[&str], errors: &mut Errors) -> Option<Target> {
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
        let Some(addr) = outside(table, word, errors) else { continue };
        if addrs.contains(&addr) {
            errors.at(word.span.clone(), format!("to in {}: {addr} is there twice", table.path()));
        }
        addrs.push(addr);
    }
    if words.is_empty() || words.len() > OUTSIDE_MAX {
        let message = format!("to in {}: {} addresses are not between 1 and {OUTSIDE_MAX}", table.path(), words.len());
        errors.at(table.key_span("to"), message);
    }
    (!addrs.is_empty()).then_some(Target::Outside(addrs))
}

/// `http://10.0.0.5:8080`.
fn outside(table: &Table<'_>, word: &Word, errors: &mut Errors) -> Option<SocketAddr> {
    address(&word.text)
        .map_err(|why| errors.at(word.span.clone(), format!("to in {}: {} {why}", table.path(), quoted(&word.text))))
        .ok()
}

fn address(text: &str) -> Result<SocketAddr, &'static str> {
    let Some(rest) = text.strip_prefix("http://") else {
        return Err("is not reached: outside the cluster only plain \"http://ADDRESS:PORT\" is");
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
    Ok(addr)
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
            assert_eq!(address(text), Ok(addr.parse().unwrap()), "{text}");
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
