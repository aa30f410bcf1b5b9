//! Which requests a route or rule is for: `path`, `path_regex`, `method`, `header`, `query`.

use std::collections::BTreeMap;

use toml::de::DeValue;

use super::super::errors::{Errors, quoted};
use super::super::nearest;
use super::super::table::Table;
use super::is_path;
use crate::control::limits::{CONDITION_BYTES_MAX, CONDITIONS_MAX, REGEX_BYTES_MAX};
use crate::expression;
use crate::spec::{Conditions, PathKind};

/// Methods that a request may have (RFC 9110, section 9; RFC 5789). Another one is taken too, if it is written in capitals and is far
/// from all of these.
const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"];

/// The path of a rule in a route that has `prefix`; none when the rule says nothing of it, or something wrong.
pub(super) fn path(rule: &Table<'_>, prefix: &str, errors: &mut Errors) -> Option<(PathKind, String)> {
    let regex = rule.string("path_regex", errors);
    let Some(path) = rule.string("path", errors) else {
        let regex = regex?;
        if !prefix.trim_end_matches('/').is_empty() {
            let message = format!("{}: a path_regex stands in a route of a host, without a path", rule.path());
            errors.at(rule.key_span("path_regex"), message);
        }
        let read = |text: &str| match text.len() {
            0..=REGEX_BYTES_MAX => expression::check(text),
            long => Err(format!("{long} bytes exceed {REGEX_BYTES_MAX}")),
        };
        return match read(&regex.text) {
            Ok(()) => Some((PathKind::Regex, regex.text)),
            Err(why) => {
                errors.at(regex.span, format!("path_regex in {}: {why}", rule.path()));
                None
            }
        };
    };
    if regex.is_some() {
        errors.at(rule.key_span("path_regex"), format!("{} has both path and path_regex", rule.path()));
    }
    let (kind, text) = match path.text.strip_suffix("/*") {
        Some("") => (PathKind::Prefix, "/"),
        Some(prefix) => (PathKind::Prefix, prefix),
        None => (PathKind::Exact, path.text.as_str()),
    };
    let place = format!("path in {}", rule.path());
    let shown = quoted(&path.text);
    if text.contains('*') {
        let message = format!("{place}: {shown} has a '*' that is not its last segment; use path_regex");
        errors.at(path.span, message);
        return None;
    }
    if !is_path(text) {
        let message =
            format!("{place}: {shown} is no path of a request: \"/cart\" is that one, \"/cart/*\" all below it");
        errors.at(path.span, message);
        return None;
    }
    let prefix = prefix.trim_end_matches('/');
    if !text.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
        errors.at(path.span, format!("{place}: {shown} is not below {}, the path of its route", quoted(prefix)));
        return None;
    }
    Some((kind, text.to_owned()))
}

/// Adds what `table` asks for; a kind of condition that it names replaces what was asked for before.
pub(super) fn conditions(when: &mut Conditions, table: &Table<'_>, errors: &mut Errors) {
    if let Some(words) = table.words("method", "a method like \"GET\" or a list of them", errors) {
        when.methods.clear();
        for word in words {
            match method(&word.text) {
                Ok(method) => drop(when.methods.insert(method)),
                Err(why) => errors.at(word.span, format!("method in {}: {why}", table.path())),
            }
        }
    }
    if let Some(fields) = wanted("header", table, errors, header_name) {
        when.headers = fields;
    }
    if let Some(fields) = wanted("query", table, errors, |name| match name.is_empty() {
        true => Err("a parameter has a name".into()),
        false => Ok(name.into()),
    }) {
        when.query = fields;
    }
    if when.count() > CONDITIONS_MAX {
        let key = ["header", "query", "method"].into_iter().find(|key| table.get(key).is_some()).unwrap_or_default();
        errors
            .at(table.key_span(key), format!("{}: {} conditions exceed {CONDITIONS_MAX}", table.path(), when.count()));
    }
}

pub(super) fn method(text: &str) -> Result<String, String> {
    if METHODS.contains(&text) {
        return Ok(text.into());
    }
    let upper = text.to_ascii_uppercase();
    let meant = METHODS.iter().find(|known| **known == upper).copied().or_else(|| nearest_method(&upper));
    match meant {
        Some(meant) => Err(format!("unknown method {}; did you mean {meant:?}?", quoted(text))),
        None if !text.is_empty() && text.len() <= 32 && text.bytes().all(|b| b.is_ascii_uppercase() || b == b'-') => {
            Ok(text.into())
        }
        None => Err(format!("{} is no method; known are {}", quoted(text), METHODS.join(", "))),
    }
}

fn nearest_method(upper: &str) -> Option<&'static str> {
    let lower: Vec<String> = METHODS.iter().map(|it| it.to_lowercase()).collect();
    let meant = nearest(upper, lower.iter().map(String::as_str))?;
    METHODS.iter().find(|known| known.eq_ignore_ascii_case(meant)).copied()
}

/// `{ NAME = "value", NAME = true }`: with this value, or there at all.
fn wanted(
    key: &str,
    table: &Table<'_>,
    errors: &mut Errors,
    read_name: impl Fn(&str) -> Result<String, String>,
) -> Option<BTreeMap<String, Option<String>>> {
    let fields = table.below_table(key, errors)?;
    let mut wanted = BTreeMap::new();
    for (word, value) in fields.entries() {
        let name = match read_name(&word.text) {
            Ok(name) => name,
            Err(why) => {
                errors.at(word.span, format!("{}: {why}", fields.path()));
                continue;
            }
        };
        let text = match value.get_ref() {
            DeValue::Boolean(true) => None,
            DeValue::String(text) => Some(text.to_string()),
            _ => {
                fields.wrong_type::<()>(&word.text, value, "a string in quotes, or true for any value", errors);
                continue;
            }
        };
        let bytes = name.len().max(text.as_ref().map_or(0, String::len));
        if bytes > CONDITION_BYTES_MAX {
            errors.at(word.span, format!("{} in {}: {bytes} bytes exceed {CONDITION_BYTES_MAX}", name, fields.path()));
            continue;
        }
        if key == "header" && text.as_ref().is_some_and(|text| !is_header_value(text)) {
            errors.at(value.span(), format!("{name} in {}: no header can have this value", fields.path()));
            continue;
        }
        if wanted.insert(name, text).is_some() {
            errors.at(word.span, format!("{} in {} is there twice", quoted(&word.text), fields.path()));
        }
    }
    if fields.entries().is_empty() {
        errors.at(table.key_span(key), format!("{} asks for nothing: {key} = {{ NAME = \"value\" }}", fields.path()));
    }
    Some(wanted)
}

/// The name of a header field in lower case (RFC 9110, section 5.1).
pub(super) fn header_name(text: &str) -> Result<String, String> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    match !text.is_empty() && text.len() <= 128 && text.bytes().all(token) {
        true => Ok(text.to_ascii_lowercase()),
        false => Err(format!("{} is no name of a header field", quoted(text))),
    }
}

/// Whether a header field can have this value: nothing in it ends a line (RFC 9110, section 5.5).
pub(super) fn is_header_value(text: &str) -> bool {
    text.trim() == text && text.bytes().all(|b| b == b'\t' || (b >= b' ' && b != 0x7f))
}
