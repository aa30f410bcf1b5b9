//! What a route makes of its answers: `compress` and `error_pages`.

use std::collections::{BTreeMap, BTreeSet};

use toml::de::DeValue;

use super::super::errors::{Errors, quoted};
use super::super::table::{Table, Value, unknown};
use super::super::values::size;
use super::actions::words;
use super::matching::is_header_value;
use crate::control::limits::RESPOND_BYTES_MAX;
use crate::spec::{Actions, Compress, Encoding, ErrorPage, Statuses};

/// The keys that are read here.
pub(super) const KEYS: [&str; 2] = ["compress", "error_pages"];

/// What costs least comes first: zstd takes a third of the processor time of gzip and makes bodies smaller; br makes them a seventh
/// smaller than gzip, in six times its time.
const ENCODINGS: [(&str, Encoding); 3] = [("zstd", Encoding::Zstd), ("gzip", Encoding::Gzip), ("br", Encoding::Br)];
/// A smaller body fits into a packet or two as it is.
const BYTES_MIN: u64 = 1024;
/// Larger bodies than this are always encoded.
const BYTES_MIN_MOST: u64 = 1 << 30;

const HTML: &str = "text/html; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

/// Reads what `table` says.
pub(super) fn read(actions: &mut Actions, table: &Table<'_>, errors: &mut Errors) {
    if let Some(compress) = compress(table, errors) {
        actions.compress = compress;
    }
    if let Some(pages) = table.below_table("error_pages", errors) {
        actions.error_pages = error_pages(&pages, errors);
    }
}

/// `true`, `false` (for a rule of a route that does), `{ with = ["br", "gzip"], types = ["text/*"], min = "1KiB" }`.
fn compress(table: &Table<'_>, errors: &mut Errors) -> Option<Option<Compress>> {
    let value = table.get("compress")?;
    let mut read =
        Compress { encodings: ENCODINGS.map(|(_, it)| it).to_vec(), types: BTreeSet::new(), bytes_min: BYTES_MIN };
    match value.get_ref() {
        DeValue::Boolean(wanted) => return Some(wanted.then_some(read)),
        DeValue::Table(_) => {}
        _ => {
            let expected = "true, false, or a table like { with = [\"br\", \"gzip\"], min = \"1KiB\" }";
            return table.wrong_type("compress", value, expected, errors);
        }
    }
    let inner = table.below_table("compress", errors)?;
    inner.check_keys(&["with", "types", "min"], &[], errors);
    if let Some(words) = words("with", &inner, "a list of encodings like [\"br\", \"gzip\"]", errors) {
        read.encodings.clear();
        for word in words {
            let known = ENCODINGS.iter().find(|(name, _)| *name == word.text);
            match known.map(|(_, encoding)| *encoding) {
                Some(encoding) if read.encodings.contains(&encoding) => {
                    errors.at(word.span, format!("with in {}: {} is there twice", inner.path(), quoted(&word.text)));
                }
                Some(encoding) => read.encodings.push(encoding),
                None => {
                    let what = format!("encoding in {}:", inner.path());
                    errors.at(word.span, unknown(&what, &word.text, "", &ENCODINGS.map(|(name, _)| name)));
                }
            }
        }
    }
    for word in
        words("types", &inner, "a list of types like [\"text/*\", \"application/json\"]", errors).unwrap_or_default()
    {
        if is_type(&word.text) {
            read.types.insert(word.text);
        } else {
            let message = format!(
                "types in {}: {} is no type: \"text/html\" or \"text/*\", in lower case",
                inner.path(),
                quoted(&word.text)
            );
            errors.at(word.span, message);
        }
    }
    let min = |text: &str| match size(text)? {
        bytes @ 0..=BYTES_MIN_MOST => Ok(bytes),
        _ => Err(format!("{} is not between 0B and 1GiB", quoted(text))),
    };
    if let Some(bytes) = inner.text("min", "a size like \"1KiB\"", min, errors) {
        read.bytes_min = bytes;
    }
    Some(Some(read))
}

/// Whether this is `text/html` or `text/*` (RFC 9110, section 8.3.1).
fn is_type(text: &str) -> bool {
    let token = |text: &str| {
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"!#$&-^_.+".contains(&b);
        !text.is_empty() && text.len() <= 127 && text.bytes().all(good)
    };
    text.split_once('/').is_some_and(|(kind, what)| token(kind) && (what == "*" || token(what)))
}

/// `{ "404" = "not here", "5xx" = { body = "<h1>Back soon</h1>", programs = true } }`.
fn error_pages(table: &Table<'_>, errors: &mut Errors) -> BTreeMap<Statuses, ErrorPage> {
    let mut read = BTreeMap::new();
    for (word, value) in table.entries() {
        let statuses = word.text.parse::<Statuses>();
        if let Err(why) = &statuses {
            errors.at(word.span.clone(), format!("{}: {why}", table.path()));
        }
        let page = error_page(table, &word.text, value, errors);
        if let (Ok(statuses), Some(page)) = (statuses, page) {
            read.insert(statuses, page);
        }
    }
    read
}

fn error_page<'a>(table: &Table<'a>, key: &str, value: Value<'a>, errors: &mut Errors) -> Option<ErrorPage> {
    let (body, span, content_type, programs) = match value.get_ref() {
        DeValue::String(body) => (body.to_string(), value.span(), None, false),
        DeValue::Table(_) => {
            let inner = table.below_table(key, errors)?;
            inner.check_keys(&["body", "content_type", "programs"], &[], errors);
            let good = |text: &str| match is_header_value(text) && text.contains('/') {
                true => Ok(text.to_owned()),
                false => Err(format!("{} is no type: \"text/html; charset=utf-8\"", quoted(text))),
            };
            let content_type = inner.text("content_type", "a string", good, errors);
            let programs = inner.boolean("programs", errors).unwrap_or_default();
            if inner.get("body").is_none() {
                errors.absent(table.key_span(key), format!("{} shows nothing: body = \"TEXT\"", inner.path()));
            }
            let body = inner.string("body", errors)?;
            (body.text, body.span, content_type, programs)
        }
        _ => return table.wrong_type(key, value, "a text, or { body = \"TEXT\", programs = true }", errors),
    };
    if body.len() > RESPOND_BYTES_MAX {
        errors.at(span, format!("{}: {} bytes exceed {RESPOND_BYTES_MAX}", table.below(key), body.len()));
    }
    let usual = if body.trim_start().starts_with('<') { HTML } else { PLAIN };
    Some(ErrorPage { content_type: content_type.unwrap_or_else(|| usual.into()), body, programs })
}
