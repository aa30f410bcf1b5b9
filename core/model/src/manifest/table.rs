//! Reads tables of a manifest: typed values by key, unknown keys, blocks in the order written.

use std::fmt::Display;
use std::ops::Range;
use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::errors::{Errors, quoted};
use super::nearest;

/// A value of the document with its place.
pub(super) type Value<'a> = &'a Spanned<DeValue<'a>>;

/// A table that is being read.
pub(super) struct Table<'a> {
    /// As an error names it: `[service.web]`; nothing for the top.
    path: String,
    entries: &'a DeTable<'a>,
    /// Where it stands.
    span: Range<usize>,
}

/// A named table inside one of the blocks: `[service.NAME]`.
pub(super) struct Block<'a> {
    /// What it is called.
    pub(super) word: String,
    /// Where its name stands.
    pub(super) key: Range<usize>,
    /// What it says.
    pub(super) table: Table<'a>,
}

/// A text with its place.
pub(super) struct Word {
    pub(super) text: String,
    pub(super) span: Range<usize>,
}

impl Word {
    /// Reads it as something that can say what is wrong with it.
    pub(super) fn parsed<T: FromStr<Err: Display>>(&self, errors: &mut Errors) -> Option<T> {
        self.text.parse().map_err(|error: T::Err| errors.at(self.span.clone(), error.to_string())).ok()
    }
}

impl<'a> Table<'a> {
    pub(super) fn top(entries: &'a DeTable<'a>) -> Self {
        Self { path: String::new(), entries, span: 0..0 }
    }

    /// `value` as a table that errors call `path`.
    pub(super) fn new(path: String, value: Value<'a>, errors: &mut Errors) -> Option<Self> {
        match value.get_ref() {
            DeValue::Table(entries) => Some(Self { path, entries, span: value.span() }),
            other => {
                errors.at(value.span(), format!("{path} is {}, not a table", kind(other)));
                None
            }
        }
    }

    /// The name of a table under this one: `[service.web.health]`.
    pub(super) fn below(&self, key: &str) -> String {
        path_below(&self.path, key)
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Where it stands.
    pub(super) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// ` in [service.web]`, nothing at the top.
    fn place(&self) -> String {
        if self.path.is_empty() { String::new() } else { format!(" in {}", self.path) }
    }

    pub(super) fn get(&self, key: &str) -> Option<Value<'a>> {
        self.entries.get(key)
    }

    /// Where the key itself stands.
    pub(super) fn key_span(&self, key: &str) -> Range<usize> {
        self.entries.get_key_value(key).map_or(0..0, |(key, _)| key.span())
    }

    /// Where the value of a key stands.
    pub(super) fn value_span(&self, key: &str) -> Range<usize> {
        self.get(key).map_or(0..0, Spanned::span)
    }

    /// All entries in the order written.
    pub(super) fn entries(&self) -> Vec<(Word, Value<'a>)> {
        let word =
            |key: &Spanned<std::borrow::Cow<'_, str>>| Word { text: key.get_ref().to_string(), span: key.span() };
        let mut entries: Vec<_> = self.entries.iter().map(|(key, value)| (word(key), value)).collect();
        entries.sort_by_key(|(word, _)| word.span.start);
        entries
    }

    /// The tables below `key` in the order written, each an error when it is something else.
    pub(super) fn blocks(&self, key: &str, errors: &mut Errors) -> Vec<Block<'a>> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let path = self.below(key);
        let Some(table) = Table::new(path, value, errors) else { return Vec::new() };
        if table.entries.is_empty() {
            errors.at(self.key_span(key), format!("[{key}] needs a name: [{key}.NAME]"));
        }
        let mut blocks = Vec::new();
        for (word, value) in table.entries() {
            if let Some(inner) = Table::new(table.below(&word.text), value, errors) {
                blocks.push(Block { word: word.text, key: word.span, table: inner });
            }
        }
        blocks
    }

    /// The table below `key`.
    pub(super) fn below_table(&self, key: &str, errors: &mut Errors) -> Option<Table<'a>> {
        Table::new(self.below(key), self.get(key)?, errors)
    }

    /// The tables of the list below `key`, written `[[…]]`, each with its place.
    pub(super) fn tables(&self, key: &str, errors: &mut Errors) -> Vec<(Range<usize>, Table<'a>)> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let path = self.below(key);
        let DeValue::Array(list) = value.get_ref() else {
            let message = format!("{path} is {}; expected a list of tables: [{path}]", kind(value.get_ref()));
            errors.at(self.key_span(key), message);
            return Vec::new();
        };
        let read = list.iter().filter_map(|value| Some((value.span(), Table::new(path.clone(), value, errors)?)));
        read.collect()
    }

    /// One text or a list of them, each with its place.
    pub(super) fn words(&self, key: &str, expected: &str, errors: &mut Errors) -> Option<Vec<Word>> {
        let value = self.get(key)?;
        let list = match value.get_ref() {
            DeValue::String(text) => return Some(vec![Word { text: text.to_string(), span: value.span() }]),
            DeValue::Array(list) => list,
            _ => return self.wrong_type(key, value, expected, errors),
        };
        let mut words = Vec::new();
        for value in list.iter() {
            match value.get_ref() {
                DeValue::String(text) => words.push(Word { text: text.to_string(), span: value.span() }),
                _ => drop(self.wrong_type::<()>(key, value, expected, errors)),
            }
        }
        Some(words)
    }

    /// Refuses keys that are not `known`, and those of `later` with their own words.
    pub(super) fn check_keys(&self, known: &[&str], later: &[(&str, &str)], errors: &mut Errors) {
        for (word, _) in self.entries() {
            if known.contains(&word.text.as_str()) {
                continue;
            }
            let message = match later.iter().find(|(key, _)| *key == word.text) {
                Some((key, why)) => format!("{key}{} is not built yet: {why}", self.place()),
                None => unknown("key", &word.text, &self.place(), known),
            };
            errors.at(word.span, message);
        }
    }

    pub(super) fn string(&self, key: &str, errors: &mut Errors) -> Option<Word> {
        let value = self.get(key)?;
        match value.get_ref() {
            DeValue::String(text) => Some(Word { text: text.to_string(), span: value.span() }),
            _ => self.wrong_type(key, value, "a string", errors),
        }
    }

    pub(super) fn boolean(&self, key: &str, errors: &mut Errors) -> Option<bool> {
        let value = self.get(key)?;
        match value.get_ref() {
            DeValue::Boolean(flag) => Some(*flag),
            _ => self.wrong_type(key, value, "true or false", errors),
        }
    }

    /// A whole number between `least` and `most`.
    pub(super) fn count(&self, key: &str, least: u32, most: u32, errors: &mut Errors) -> Option<u32> {
        let value = self.get(key)?;
        match whole(value) {
            Some(number) => self.within(key, value, number, least, most, errors),
            None => self.wrong_type(key, value, "a whole number", errors),
        }
    }

    /// `number`, when it is between `least` and `most`.
    pub(super) fn within(
        &self,
        key: &str,
        value: Value<'a>,
        number: Option<i128>,
        least: u32,
        most: u32,
        errors: &mut Errors,
    ) -> Option<u32> {
        let in_range = number.and_then(|number| u32::try_from(number).ok()).filter(|it| (least..=most).contains(it));
        if in_range.is_none() {
            let shown = number.map_or_else(|| "a number beyond all counting".into(), |number| number.to_string());
            errors.at(value.span(), format!("{key}{}: {shown} is not between {least} and {most}", self.place()));
        }
        in_range
    }

    /// One of some words.
    pub(super) fn choice<T: Copy>(&self, key: &str, words: &[(&str, T)], errors: &mut Errors) -> Option<T> {
        let word = self.string(key, errors)?;
        let found = words.iter().find(|(known, _)| *known == word.text).map(|(_, value)| *value);
        if found.is_none() {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            errors.at(word.span, unknown(&format!("{key}{}:", self.place()), &word.text, "", &known));
        }
        found
    }

    /// A text that `read` understands or explains.
    pub(super) fn text<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl Fn(&str) -> Result<T, String>,
        errors: &mut Errors,
    ) -> Option<T> {
        let value = self.get(key)?;
        let DeValue::String(text) = value.get_ref() else { return self.wrong_type(key, value, expected, errors) };
        let explain = |why: String| errors.at(value.span(), format!("{key}{}: {why}", self.place()));
        read(text).map_err(explain).ok()
    }

    pub(super) fn wrong_type<T>(&self, key: &str, value: Value<'a>, expected: &str, errors: &mut Errors) -> Option<T> {
        let message = format!("{key}{} is {}; expected {expected}", self.place(), kind(value.get_ref()));
        errors.at(value.span(), message);
        None
    }
}

/// The whole number that `value` is, as long as it has one: the inner nothing is one that is too large to hold.
pub(super) fn whole(value: Value<'_>) -> Option<Option<i128>> {
    match value.get_ref() {
        DeValue::Integer(number) => Some(i128::from_str_radix(number.as_str(), number.radix()).ok()),
        _ => None,
    }
}

/// `unknown key "replica" in [service.web]; did you mean "replicas"?`
pub(super) fn unknown(what: &str, word: &str, place: &str, known: &[&str]) -> String {
    let hint = match nearest(word, known.iter().copied()) {
        Some(meant) => format!("did you mean {meant:?}?"),
        None => format!("known are {}", known.join(", ")),
    };
    format!("unknown {what} {}{place}; {hint}", quoted(word))
}

/// What `value` is, for people.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// The name of a table below the one called `path`: `[service.web]` and `health` make `[service.web.health]`.
pub(super) fn path_below(path: &str, key: &str) -> String {
    let inner = path.trim_start_matches('[').trim_end_matches(']');
    let dot = if inner.is_empty() { "" } else { "." };
    format!("[{inner}{dot}{}]", shown_key(key))
}

/// A key as it is written in a header.
fn shown_key(key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !key.is_empty() && key.len() <= 63 && key.chars().all(bare) { key.into() } else { quoted(key) }
}
