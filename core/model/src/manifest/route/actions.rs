//! What a route does with its requests besides passing them on. What is not said stays as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use toml::de::DeValue;

use super::super::errors::{Errors, quoted};
use super::super::reference;
use super::super::table::{Table, Word};
use super::super::values::{duration, shown_ms, size};
use super::is_path;
use super::matching::{header_name, is_header_value, method};
use crate::control::limits::{ACTION_LIST_MAX, REGEX_BYTES_MAX};
use crate::expression;
use crate::password::PasswordHash;
use crate::spec::{Actions, BasicAuth, Block, Cors, FIXED_HEADERS, HeaderChanges, RateLimit, Replacement, Rewrite};

/// The keys that are read here.
pub(super) const KEYS: [&str; 10] = [
    "allow",
    "deny",
    "rate_limit",
    "cors",
    "basic_auth",
    "body_max",
    "timeout",
    "rewrite",
    "request_headers",
    "response_headers",
];

/// Keys of a change of a path.
pub(super) const REWRITE_KEYS: [&str; 5] = ["path", "strip_prefix", "regex", "replace", "add_prefix"];

/// Time until an answer begins.
const TIMEOUT_MS: RangeInclusive<u64> = 10..=3_600_000;
/// Time in which a bucket fills.
const PER_MS: RangeInclusive<u64> = 100..=86_400_000;
/// Time for which a browser remembers a leave. Browsers cut it to a day or less.
const MAX_AGE_MS: RangeInclusive<u64> = 0..=86_400_000;
/// Requests of a bucket: more than one node carries in a second.
const REQUESTS_MAX: u32 = 1_000_000;
/// Largest limit of a body; larger than this is as good as none.
const BODY_BYTES_MAX: u64 = 1 << 40;
/// What a user is asked for when the manifest does not say.
const REALM: &str = "restricted";

/// Whose header fields are changed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    Request,
    Answer,
}

/// Reads what `table` says; `prefix` is the path of its route, `secrets` are those that may be named.
pub(super) fn read(
    actions: &mut Actions,
    table: &Table<'_>,
    prefix: &str,
    secrets: Option<&BTreeSet<&str>>,
    errors: &mut Errors,
) {
    if let Some(blocks) = blocks("allow", table, errors) {
        actions.allow = blocks;
    }
    if let Some(blocks) = blocks("deny", table, errors) {
        actions.deny = blocks;
    }
    if let Some(limit) = table.below_table("rate_limit", errors) {
        actions.rate_limit = rate_limit(&limit, errors);
    }
    if let Some(inner) = table.below_table("cors", errors) {
        actions.cors = Some(cors(&inner, errors));
    }
    if let Some(auth) = table.below_table("basic_auth", errors) {
        actions.basic_auth = Some(basic_auth(&auth, secrets, errors));
    }
    let body = |text: &str| match size(text)? {
        bytes @ 1..=BODY_BYTES_MAX => Ok(bytes),
        _ => Err(format!("{} is not between 1B and 1TiB", quoted(text))),
    };
    if let Some(bytes) = table.text("body_max", "a size like \"10MiB\"", body, errors) {
        actions.body_bytes_max = Some(bytes);
    }
    if let Some(ms) = time(table, "timeout", TIMEOUT_MS, errors) {
        actions.timeout_ms = Some(ms);
    }
    if let Some(inner) = table.below_table("rewrite", errors) {
        inner.check_keys(&REWRITE_KEYS, &[], errors);
        actions.rewrite = rewrite(&inner, prefix, errors);
        if inner.entries().is_empty() {
            let message = format!("{} changes nothing: strip_prefix = true, path = \"/PATH\", …", inner.path());
            errors.absent(table.key_span("rewrite"), message);
        }
    }
    if let Some(inner) = table.below_table("request_headers", errors) {
        actions.request_headers = header_changes(&inner, Of::Request, errors);
    }
    if let Some(inner) = table.below_table("response_headers", errors) {
        actions.response_headers = header_changes(&inner, Of::Answer, errors);
    }
}

/// A duration within `range`, in milliseconds.
pub(in crate::manifest) fn time(
    table: &Table<'_>,
    key: &str,
    range: RangeInclusive<u64>,
    errors: &mut Errors,
) -> Option<u64> {
    let within = |text: &str| match duration(text)? {
        ms if range.contains(&ms) => Ok(ms),
        _ => {
            let (least, most) = (shown_ms(*range.start()), shown_ms(*range.end()));
            Err(format!("{} is not between {least} and {most}", quoted(text)))
        }
    };
    table.text(key, "a duration like \"30s\"", within, errors)
}

/// Refuses lists that are too long, and empty ones.
pub(super) fn words(key: &str, table: &Table<'_>, expected: &str, errors: &mut Errors) -> Option<Vec<Word>> {
    let words = table.words(key, expected, errors)?;
    if words.is_empty() || words.len() > ACTION_LIST_MAX {
        let message =
            format!("{key} in {}: a list of {} is not between 1 and {ACTION_LIST_MAX}", table.path(), words.len());
        errors.at(table.key_span(key), message);
    }
    Some(words)
}

pub(in crate::manifest) fn blocks(key: &str, table: &Table<'_>, errors: &mut Errors) -> Option<Vec<Block>> {
    let words = words(key, table, "a block of addresses like \"10.0.0.0/8\" or a list of them", errors)?;
    let mut blocks = Vec::new();
    for word in words {
        match word.text.parse() {
            Ok(block) => blocks.push(block),
            Err(why) => errors.at(word.span, format!("{key} in {}: {why}", table.path())),
        }
    }
    Some(blocks)
}

fn rate_limit(table: &Table<'_>, errors: &mut Errors) -> Option<RateLimit> {
    table.check_keys(&["requests", "per", "burst", "by", "scope"], &[], errors);
    if table.get("requests").is_none() {
        let message = format!("{} says not how many: requests = 100, per = \"1m\"", table.path());
        errors.absent(table.span(), message);
    }
    let requests = table.count("requests", 1, REQUESTS_MAX, errors);
    let per_ms = time(table, "per", PER_MS, errors).unwrap_or(1_000);
    let burst = table.count("burst", 1, REQUESTS_MAX, errors);
    let together = table.choice("by", &[("client", false), ("route", true)], errors).unwrap_or_default();
    let cluster = table.choice("scope", &[("node", false), ("cluster", true)], errors).unwrap_or_default();
    let requests = requests?;
    Some(RateLimit { requests, per_ms, burst: burst.unwrap_or(requests), together, cluster })
}

fn cors(table: &Table<'_>, errors: &mut Errors) -> Cors {
    table.check_keys(&["origins", "methods", "headers", "expose", "credentials", "max_age"], &[], errors);
    let mut read = Cors::default();
    match words("origins", table, "an origin like \"https://app.example.com\" or a list of them", errors) {
        None if table.get("origins").is_none() => {
            let message = format!("{} names nobody: origins = [\"https://app.example.com\"]", table.path());
            errors.absent(table.span(), message);
        }
        None => {}
        Some(words) => {
            for word in words {
                match origin(&word.text) {
                    Ok(origin) => drop(read.origins.insert(origin)),
                    Err(why) => {
                        errors.at(word.span, format!("origins in {}: {} {why}", table.path(), quoted(&word.text)))
                    }
                }
            }
        }
    }
    for word in words("methods", table, "a list of methods", errors).unwrap_or_default() {
        match method(&word.text) {
            Ok(method) => drop(read.methods.insert(method)),
            Err(why) => errors.at(word.span, format!("methods in {}: {why}", table.path())),
        }
    }
    read.headers = names("headers", table, errors);
    read.expose = names("expose", table, errors);
    read.credentials = table.boolean("credentials", errors).unwrap_or_default();
    if read.credentials && read.origins.contains("*") {
        let message =
            format!("credentials in {}: browsers send none where every origin may ask; name them", table.path());
        errors.at(table.key_span("credentials"), message);
    }
    read.max_age_s = time(table, "max_age", MAX_AGE_MS, errors).map(|ms| ms / 1_000);
    read
}

/// `https://app.example.com`, `https://*.example.com:8443`, `*`.
fn origin(text: &str) -> Result<String, &'static str> {
    if text == "*" || text == "null" {
        return match text {
            "*" => Ok(text.into()),
            _ => Err("is what any page can say of itself"),
        };
    }
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let Some(rest) = rest else { return Err("is no origin: write \"https://app.example.com\"") };
    let fixed = rest.strip_prefix("*.").unwrap_or(rest);
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-:[]".contains(&b);
    if fixed.is_empty() || !fixed.bytes().all(good) {
        return Err("is no origin: scheme, host in lower case and port, without path, \"https://app.example.com\"");
    }
    Ok(text.into())
}

/// A list of names of header fields, in lower case.
fn names(key: &str, table: &Table<'_>, errors: &mut Errors) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for word in words(key, table, "a list of header fields", errors).unwrap_or_default() {
        match header_name(&word.text) {
            Ok(name) => drop(names.insert(name)),
            Err(why) => errors.at(word.span, format!("{key} in {}: {why}", table.path())),
        }
    }
    names
}

fn basic_auth(table: &Table<'_>, secrets: Option<&BTreeSet<&str>>, errors: &mut Errors) -> BasicAuth {
    table.check_keys(&["realm", "users"], &[], errors);
    let good = |text: &str| match text.chars().all(|c| !c.is_control() && c != '"' && c != '\\') && text.len() <= 128 {
        true => Ok(text.to_owned()),
        false => Err(format!("{} holds a quote or a line break, or is longer than 128 bytes", quoted(text))),
    };
    let realm = table.text("realm", "a string", good, errors).unwrap_or_else(|| REALM.into());
    let mut read = BasicAuth { realm, users: BTreeMap::new() };
    let Some(users) = table.below_table("users", errors) else {
        if table.get("users").is_none() {
            let message = format!("{} lets nobody in: users = {{ anna = \"${{secret.anna}}\" }}", table.path());
            errors.absent(table.span(), message);
        }
        return read;
    };
    let entries = users.entries();
    if entries.is_empty() || entries.len() > ACTION_LIST_MAX {
        let message = format!("{}: {} users are not between 1 and {ACTION_LIST_MAX}", users.path(), entries.len());
        errors.at(table.key_span("users"), message);
    }
    for (word, value) in entries {
        let place = format!("{} in {}", quoted(&word.text), users.path());
        let is_user =
            !word.text.is_empty() && word.text.len() <= 128 && word.text.bytes().all(|b| b.is_ascii_graphic());
        if !is_user || word.text.contains(':') {
            errors.at(word.span, format!("{place} is no user: use printable characters but ':' and blanks"));
            continue;
        }
        let DeValue::String(text) = value.get_ref() else {
            users.wrong_type::<()>(&word.text, value, "\"${secret.NAME}\" or a hash", errors);
            continue;
        };
        let secret = text.strip_prefix("${secret.").and_then(|rest| rest.strip_suffix('}'));
        if secret.is_some() {
            let known = reference::Known { secrets, buckets: None };
            reference::check_variable(&place, text, known, value.span(), errors);
        } else if let Err(why) = text.parse::<PasswordHash>() {
            // Whatever it is, it may be a password: not repeated.
            let message = format!(
                "{place} is neither a secret nor a hash ({why}); try: hirsel secret set NAME, and then \"${{secret.NAME}}\""
            );
            errors.at(value.span(), message);
        }
        read.users.insert(word.text, text.to_string());
    }
    read
}

/// A change of a path.
pub(super) fn rewrite(table: &Table<'_>, prefix: &str, errors: &mut Errors) -> Rewrite {
    let path = |text: &str| match is_path(text.split_once('?').map_or(text, |(path, _)| path)) && is_query(text) {
        true => Ok(text.to_owned()),
        false => Err(format!("{} is no path of a request: it begins with '/'", quoted(text))),
    };
    let bare = |text: &str| match is_path(text) {
        true => Ok(text.to_owned()),
        false => Err(format!("{} is no path of a request: it begins with '/'", quoted(text))),
    };
    let mut read =
        Rewrite { path: table.text("path", "a path like \"/index.html\"", path, errors), ..Rewrite::default() };
    read.strip_prefix = match table.get("strip_prefix").map(|value| (value, value.get_ref())) {
        Some((_, DeValue::Boolean(true))) if !prefix.trim_end_matches('/').is_empty() => Some(prefix.to_owned()),
        Some((value, DeValue::Boolean(true))) => {
            let message =
                format!("strip_prefix in {}: its route has no path to strip; write it, \"/api\"", table.path());
            errors.at(value.span(), message);
            None
        }
        _ => table.text("strip_prefix", "true, or a path like \"/api\"", bare, errors),
    };
    read.add_prefix = table.text("add_prefix", "a path like \"/v2\"", bare, errors);
    let regex = table.string("regex", errors);
    let with = table.string("replace", errors);
    match (regex, with) {
        (Some(regex), Some(with)) => read.replace = replacement(table, regex, with, errors),
        (Some(one), None) | (None, Some(one)) => {
            errors.at(one.span, format!("{}: regex and replace belong together", table.path()));
        }
        (None, None) => {}
    }
    let rest = Rewrite { path: None, ..read.clone() };
    if read.path.is_some() && rest != Rewrite::default() {
        let message = format!("{}: path is the whole path; nothing else can be changed in it", table.path());
        errors.at(table.key_span("path"), message);
    }
    read
}

pub(super) fn is_query(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_graphic() && !b"#\"<>\\^`{|}".contains(&b))
}

fn replacement(table: &Table<'_>, regex: Word, with: Word, errors: &mut Errors) -> Option<Replacement> {
    if regex.text.len() > REGEX_BYTES_MAX || with.text.len() > REGEX_BYTES_MAX {
        errors.at(regex.span, format!("regex in {}: more than {REGEX_BYTES_MAX} bytes", table.path()));
        return None;
    }
    let groups = match expression::build(&regex.text) {
        Ok(built) => built.captures_len(),
        Err(why) => {
            errors.at(regex.span, format!("regex in {}: {why}", table.path()));
            return None;
        }
    };
    let mut bytes = with.text.replace("$$", "").into_bytes();
    bytes.push(0);
    for pair in bytes.windows(2).filter(|pair| pair[0] == b'$') {
        if !pair[1].is_ascii_digit() || usize::from(pair[1] - b'0') >= groups {
            let most = groups.saturating_sub(1);
            let message = format!(
                "replace in {}: after '$' stands the number of a group, up to {most} here, or a second '$'",
                table.path()
            );
            errors.at(with.span.clone(), message);
            return None;
        }
    }
    if !is_query(&with.text) {
        errors.at(with.span, format!("replace in {} holds what no path of a request can", table.path()));
        return None;
    }
    Some(Replacement { regex: regex.text, with: with.text })
}

fn header_changes(table: &Table<'_>, of: Of, errors: &mut Errors) -> HeaderChanges {
    table.check_keys(&["set", "add", "remove"], &[], errors);
    let mut read = HeaderChanges::default();
    for word in words("remove", table, "a list of header fields", errors).unwrap_or_default() {
        match changeable(&word.text) {
            Ok(name) if name == "host" && of == Of::Request => {
                errors.at(word.span, format!("remove in {}: a request has a host; set it", table.path()));
            }
            Ok(name) => drop(read.remove.insert(name)),
            Err(why) => errors.at(word.span, format!("remove in {}: {why}", table.path())),
        }
    }
    read.set = fields("set", table, errors);
    read.add = fields("add", table, errors);
    if of == Of::Request && read.add.contains_key("host") {
        errors.at(table.key_span("add"), format!("add in {}: a request has one host; set it", table.path()));
    }
    if table.entries().is_empty() {
        errors.absent(table.span(), format!("{} changes nothing: set = {{ NAME = \"value\" }}", table.path()));
    }
    read
}

/// `{ NAME = "value" }`, names in lower case.
pub(super) fn fields(key: &str, table: &Table<'_>, errors: &mut Errors) -> BTreeMap<String, String> {
    let Some(fields) = table.below_table(key, errors) else { return BTreeMap::new() };
    let mut read = BTreeMap::new();
    let entries = fields.entries();
    if entries.len() > ACTION_LIST_MAX {
        errors.at(table.key_span(key), format!("{}: {} fields exceed {ACTION_LIST_MAX}", fields.path(), entries.len()));
    }
    for (word, value) in entries {
        let name = match changeable(&word.text) {
            Ok(name) => name,
            Err(why) => {
                errors.at(word.span, format!("{}: {why}", fields.path()));
                continue;
            }
        };
        let DeValue::String(text) = value.get_ref() else {
            fields.wrong_type::<()>(&word.text, value, "a string in quotes", errors);
            continue;
        };
        if !is_header_value(text) {
            errors.at(value.span(), format!("{name} in {}: no header can have this value", fields.path()));
            continue;
        }
        if read.insert(name, text.to_string()).is_some() {
            errors.at(word.span, format!("{} in {} is there twice", quoted(&word.text), fields.path()));
        }
    }
    read
}

/// The name of a header field that says nothing of where a message ends.
fn changeable(text: &str) -> Result<String, String> {
    let name = header_name(text)?;
    match FIXED_HEADERS.contains(&name.as_str()) {
        true => Err(format!("{} belongs to the connection and is not changed", quoted(text))),
        false => Ok(name),
    }
}
