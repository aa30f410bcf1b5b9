//! `[route."HOST"]` and `[route."HOST/path"]`: a way in.

use std::collections::BTreeMap;

use super::errors::{Errors, quoted};
use super::table::{Block, Table, unknown};
use crate::control::limits::{HOST_BYTES_MAX, PATH_BYTES_MAX, ROUTES_PER_APP_MAX};
use crate::id::{NAME_BYTES_MAX, ServiceName};
use crate::spec::RouteSpec;

const KEYS: [&str; 1] = ["to"];
const LATER: [(&str, &str); 1] = [("cache", "the lb role of this hirsel keeps no answers")];

/// All routes in the order written; `services` are those that the manifest has.
pub(super) fn read(top: &Table<'_>, services: &[&str], errors: &mut Errors) -> Vec<RouteSpec> {
    let blocks = top.blocks("route", errors);
    if blocks.len() > ROUTES_PER_APP_MAX {
        let number = blocks.len();
        errors.at(blocks[ROUTES_PER_APP_MAX].key.clone(), format!("{number} routes exceed {ROUTES_PER_APP_MAX}"));
        return Vec::new();
    }
    let mut routes = Vec::new();
    let mut seen = BTreeMap::new();
    for block in &blocks {
        let way = way(&block.word).map_err(|why| errors.at(block.key.clone(), format!("route {why}"))).ok();
        let to = target(block, services, errors);
        let Some((host, path)) = way else { continue };
        if let Some(first) = seen.insert((host.clone(), path.clone()), &block.word) {
            let (word, first) = (quoted(&block.word), quoted(first));
            errors.at(block.key.clone(), format!("route {word} is the same as {first}"));
        }
        if let Some(to) = to {
            routes.push(RouteSpec { host, path, to });
        }
    }
    routes
}

/// Host in lower case, and path, of the name of a route.
fn way(word: &str) -> Result<(String, String), String> {
    let (host, path) = word.find('/').map_or((word, "/"), |slash| word.split_at(slash));
    let host = host.to_ascii_lowercase();
    let shown = quoted(word);
    if host.is_empty() {
        return Err(format!("{shown} has no host; \"*\" stands for any"));
    }
    if host.contains(':') {
        return Err(format!("{shown} has a port: leave it out, lb nodes answer on theirs"));
    }
    let label = |label: &str| {
        let inner = label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        inner && (1..=NAME_BYTES_MAX).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
    if host != "*" && host.contains('*') {
        return Err(format!("{shown}: '*' stands alone for any host, never for a part of one"));
    }
    if host != "*" && (host.len() > HOST_BYTES_MAX || !host.split('.').all(label)) {
        return Err(format!("{shown} is no host name: use labels of a-z, 0-9 and '-' between dots, or \"*\""));
    }
    let good = |b: u8| b.is_ascii_graphic() && !b"?#\"<>\\^`{|}".contains(&b);
    if path.len() > PATH_BYTES_MAX || !path.bytes().all(good) {
        return Err(format!(
            "{shown}: its path holds what no path of a request can, or is longer than {PATH_BYTES_MAX}"
        ));
    }
    Ok((host, path.into()))
}

fn target(block: &Block<'_>, services: &[&str], errors: &mut Errors) -> Option<ServiceName> {
    let table = &block.table;
    table.check_keys(&KEYS, &LATER, errors);
    let Some(to) = table.string("to", errors) else {
        if table.get("to").is_none() {
            errors.absent(block.key.clone(), format!("{} leads nowhere: to = \"SERVICE\"", table.path()));
        }
        return None;
    };
    let name = to.parsed(errors)?;
    if !services.contains(&to.text.as_str()) {
        let message = if services.is_empty() {
            format!("unknown service {}: there is none", quoted(&to.text))
        } else {
            unknown("service", &to.text, "", services)
        };
        errors.absent(to.span, message);
    }
    Some(name)
}
