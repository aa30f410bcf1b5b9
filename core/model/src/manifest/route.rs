//! `[route."HOST"]` and `[route."HOST/path"]`: a way in; `[[route."HOST".rule]]`: some of its requests, otherwise.
//!
//! What a rule does not say it takes from its route, so that whatever protects a route protects its rules.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::errors::{Errors, quoted};
use super::table::{Block, Table};
use crate::control::limits::{HOST_BYTES_MAX, PATH_BYTES_MAX, ROUTES_PER_APP_MAX};
use crate::id::NAME_BYTES_MAX;
use crate::spec::{Actions, Conditions, Contradiction, PathKind, RouteSpec, Seen, Target, Tls};

pub(super) mod actions;
mod answers;
mod balance;
mod cache;
mod clients;
mod matching;
mod seen;
mod sticky;
pub(super) mod target;
mod tls;

/// What a route and a rule may both say, besides what is done with their requests.
const KEYS: [&str; 7] = ["to", "redirect", "respond", target::INDEX, "method", "header", "query"];
/// What a route may say besides.
const ROUTE_KEYS: [&str; 4] = ["rule", tls::KEY, clients::CA, clients::AUTH];
/// What a rule may say besides.
const RULE_KEYS: [&str; 2] = ["path", "path_regex"];

/// What a route says, for itself and for its rules.
#[derive(Clone, Default)]
struct Said {
    to: Option<Target>,
    /// It says what answers, though maybe wrongly.
    leads: bool,
    when: Conditions,
    actions: Box<Actions>,
    seen: Seen,
}

/// What the rest of a manifest says.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    /// The services it has.
    pub(super) services: &'a [&'a str],
    /// Secrets that may be named; none when that is not known here.
    pub(super) secrets: Option<&'a BTreeSet<&'a str>>,
    /// What its buckets are called in the store, by what it calls them.
    pub(super) buckets: &'a BTreeMap<String, String>,
}

/// All routes in the order written.
pub(super) fn read(top: &Table<'_>, known: Known<'_>, errors: &mut Errors) -> Vec<RouteSpec> {
    let blocks = top.blocks("route", errors);
    if blocks.len() > ROUTES_PER_APP_MAX {
        let number = blocks.len();
        errors.at(blocks[ROUTES_PER_APP_MAX].key.clone(), format!("{number} routes exceed {ROUTES_PER_APP_MAX}"));
        return Vec::new();
    }
    let mut routes: Vec<RouteSpec> = Vec::new();
    let mut seen = BTreeMap::new();
    for block in &blocks {
        let way = way(&block.word).map_err(|why| errors.at(block.key.clone(), format!("route {why}"))).ok();
        if let Some((host, path)) = &way
            && let Some(first) = seen.insert((host.clone(), path.trim_end_matches('/').to_owned()), &block.word)
        {
            let (word, first) = (quoted(&block.word), quoted(first));
            errors.at(block.key.clone(), format!("route {word} is the same as {first}"));
            continue;
        }
        let read = block_of(block, way, known, errors);
        if routes.len() + read.len() > ROUTES_PER_APP_MAX {
            let message = format!("routes and their rules are more than {ROUTES_PER_APP_MAX} together");
            errors.at(block.key.clone(), message);
            return routes;
        }
        for (span, place, route) in read {
            if routes.iter().any(|before| before.meets(&route) && before.when == route.when) {
                errors.at(span, format!("{place} is for the same requests as a route or rule before it"));
            } else if let Some(why) = routes.iter().find_map(|before| before.contradiction(&route)) {
                let word = quoted(&block.word);
                errors.at(span, format!("route {word}: {}", contradiction(why)));
            }
            routes.push(route);
        }
    }
    routes
}

/// The rules of a route, and then the route itself if it leads anywhere, each with its place.
fn block_of(
    block: &Block<'_>,
    way: Option<(String, String)>,
    known: Known<'_>,
    errors: &mut Errors,
) -> Vec<(Range<usize>, String, RouteSpec)> {
    let table = &block.table;
    if tls::is_passthrough(table) {
        let passed = tls::passthrough(block, way, known.services, errors);
        return passed.map(|route| (block.key.clone(), table.path().to_owned(), route)).into_iter().collect();
    }
    let rules = table.tables("rule", errors);
    table.check_keys(
        &[&KEYS[..], &actions::KEYS, &answers::KEYS, &cache::KEYS, &balance::KEYS, &seen::KEYS, &ROUTE_KEYS].concat(),
        &[],
        errors,
    );
    let (host, path) = way.unwrap_or_default();
    let base = say(Said::default(), table, &path, known, errors);
    if !base.leads && rules.is_empty() {
        errors.absent(block.key.clone(), format!("{} leads nowhere: to = \"SERVICE\"", table.path()));
    }
    let tls = tls::read(table, &host, errors);
    let clients = clients::read(table, errors);
    let mut routes = Vec::new();
    for (span, rule) in &rules {
        rule.check_keys(
            &[&KEYS[..], &actions::KEYS, &answers::KEYS, &cache::KEYS, &balance::KEYS, &seen::KEYS, &RULE_KEYS]
                .concat(),
            &[],
            errors,
        );
        let (kind, own) = matching::path(rule, &path, errors).unwrap_or((PathKind::Prefix, path.clone()));
        let stripped = if kind == PathKind::Prefix { &own } else { &path };
        let said = say(base.clone(), rule, stripped, known, errors);
        if !said.leads {
            errors.absent(span.clone(), format!("{} leads nowhere: to = \"SERVICE\"", rule.path()));
        }
        routes.extend(said.route(&host, own, kind).map(|route| (span.clone(), rule.path().to_owned(), route)));
    }
    let own = base.route(&host, path, PathKind::Prefix);
    routes.extend(own.map(|route| (block.key.clone(), table.path().to_owned(), route)));
    for (_, _, route) in &mut routes {
        route.tls = tls;
        route.actions.client_certificates.clone_from(&clients);
    }
    routes
}

fn contradiction(why: Contradiction) -> &'static str {
    match why {
        Contradiction::Passed => "tls = \"passthrough\" in another route passes on its host whole",
        Contradiction::Certificates => {
            "client_ca and client_auth are for a host whole, and another route of this one says otherwise"
        }
    }
}

/// `said`, and what `table` says instead; `path` is what `strip_prefix = true` takes off.
fn say(said: Said, table: &Table<'_>, path: &str, known: Known<'_>, errors: &mut Errors) -> Said {
    let mut said = said;
    if let Some(to) = target::read(table, path, known, errors) {
        said.leads = true;
        said.to = to;
    }
    target::index(&mut said.to, table, errors);
    if let Some(status) = target::https(table) {
        said.actions.https = Some(status);
    }
    matching::conditions(&mut said.when, table, errors);
    actions::read(&mut said.actions, table, path, known.secrets, errors);
    answers::read(&mut said.actions, table, errors);
    cache::read(&mut said.actions, table, errors);
    balance::read(&mut said.actions.balance, table, errors);
    seen::read(&mut said.seen, table, errors);
    said
}

impl Said {
    fn route(&self, host: &str, path: String, kind: PathKind) -> Option<RouteSpec> {
        let Self { to, leads: _, when, actions, seen } = self.clone();
        Some(RouteSpec { host: host.to_owned(), path, to: to?, kind, when, actions, tls: Tls::default(), seen })
    }
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
    let fixed = host.strip_prefix("*.").unwrap_or(&host);
    if host != "*" && fixed.contains('*') {
        return Err(format!("{shown}: '*' stands for any host, or for the whole first label as in \"*.example.com\""));
    }
    if host != "*" && (host.len() > HOST_BYTES_MAX || !fixed.split('.').all(label)) {
        return Err(format!("{shown} is no host name: use labels of a-z, 0-9 and '-' between dots, or \"*\""));
    }
    let path = path.strip_suffix("/*").map_or(path, |prefix| if prefix.is_empty() { "/" } else { prefix });
    if path.contains('*') {
        return Err(format!("{shown}: '*' stands at the end of a path only; a rule may have a path_regex"));
    }
    if !is_path(path) {
        return Err(format!(
            "{shown}: its path holds what no path of a request can, or is longer than {PATH_BYTES_MAX}"
        ));
    }
    Ok((host, path.into()))
}

/// Whether a request can have this path.
pub(super) fn is_path(path: &str) -> bool {
    let good = |b: u8| b.is_ascii_graphic() && !b"?#\"<>\\^`{|}".contains(&b);
    path.starts_with('/') && path.len() <= PATH_BYTES_MAX && path.bytes().all(good)
}

#[cfg(test)]
mod tests;
