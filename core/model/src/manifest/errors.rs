//! Collects what is wrong, with its place in the text.

use std::collections::BTreeSet;
use std::ops::Range;

use super::{ERRORS_MAX, ManifestError};

/// Longest piece of the manifest that an error repeats.
const QUOTED_CHARS_MAX: usize = 60;

/// All that was found wrong so far.
pub(super) struct Errors {
    text: String,
    /// Where each line begins.
    lines: Vec<usize>,
    found: Vec<(usize, Kind, String)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It is no TOML there.
    Syntax,
    /// Something there is wrong.
    Wrong,
    /// Something is not there. After a syntax error it may only not have been seen.
    Absent,
}

impl Errors {
    pub(super) fn new(text: &str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self { text: text.into(), lines: std::iter::once(0).chain(ends).collect(), found: Vec::new() }
    }

    pub(super) fn syntax(&mut self, span: Range<usize>, message: &str) {
        self.found.push((span.start, Kind::Syntax, message.into()));
    }

    pub(super) fn at(&mut self, span: Range<usize>, message: impl Into<String>) {
        self.found.push((span.start, Kind::Wrong, message.into()));
    }

    pub(super) fn absent(&mut self, span: Range<usize>, message: impl Into<String>) {
        self.found.push((span.start, Kind::Absent, message.into()));
    }

    /// In the order of the text. What follows only from a syntax error is left out.
    pub(super) fn finish(mut self) -> Vec<ManifestError> {
        let mut found = std::mem::take(&mut self.found);
        found.sort_by_key(|(at, ..)| *at);
        let mut broken = BTreeSet::new();
        let mut errors = Vec::new();
        for (at, kind, message) in &found {
            let (line, column) = self.place(*at);
            // What comes after the first on a line is mostly a consequence of it.
            if *kind == Kind::Syntax && broken.insert(line) {
                errors.push(ManifestError { line, column, message: message.clone() });
            }
        }
        for (at, kind, message) in found {
            let (line, column) = self.place(at);
            let real = match kind {
                Kind::Syntax => false,
                Kind::Wrong => !broken.contains(&line),
                Kind::Absent => broken.is_empty(),
            };
            if real {
                errors.push(ManifestError { line, column, message });
            }
        }
        errors.sort();
        errors.dedup();
        if errors.len() > ERRORS_MAX {
            let more = errors.len() - ERRORS_MAX;
            errors.truncate(ERRORS_MAX);
            if let Some(last) = errors.last_mut() {
                last.message.push_str(&format!(" (and {more} more errors)"));
            }
        }
        errors
    }

    /// Line and column of a byte of the text.
    fn place(&self, at: usize) -> (usize, usize) {
        let at = self.text.floor_char_boundary(at);
        let line = self.lines.partition_point(|start| *start <= at);
        let start = self.lines[line.saturating_sub(1)];
        (line, self.text[start..at].chars().count() + 1)
    }
}

/// `text` in quotes, cut where it is too long to repeat.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTED_CHARS_MAX) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}…", &text[..end]),
    }
}
