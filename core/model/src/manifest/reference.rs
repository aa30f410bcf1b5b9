//! What `${KIND.NAME}` in a manifest may stand for.
//!
//! Secrets stand in the environment only: a command is shown to everyone on a host who lists its processes.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::errors::{Errors, quoted};
use super::{nearest, table::unknown};
use crate::id::check_name;
use crate::secret::{references, variables};

/// Kinds of things that a manifest may take a value from, and whether there are any yet.
const KINDS: [(&str, bool); 3] = [("secret", true), ("db", false), ("bucket", false)];
/// Longest piece of a reference that an error repeats.
const SHOWN_CHARS_MAX: usize = 60;

/// Refuses references that nothing answers in the value of a variable. `known` are the secrets there are; none when nobody knows.
pub(super) fn check_variable(
    place: &str,
    text: &str,
    known: Option<&BTreeSet<&str>>,
    span: Range<usize>,
    errors: &mut Errors,
) {
    for name in dotted(place, text, &span, errors) {
        if let Err(error) = check_name(name) {
            errors.at(span.clone(), format!("{place}: the name of a secret is wrong: {error}"));
        } else if let Some(known) = known.filter(|known| !known.contains(name)) {
            let hint = match nearest(name, known.iter().copied()) {
                Some(meant) => format!("did you mean {meant:?}?"),
                None => format!("try: hirsel secret set {name}"),
            };
            errors.at(span.clone(), format!("{place}: no secret named {}; {hint}", quoted(name)));
        }
    }
}

/// Refuses references in a word of the command, and variables that hold a secret.
pub(super) fn check_command(
    place: &str,
    word: &str,
    env: &BTreeMap<String, String>,
    span: Range<usize>,
    errors: &mut Errors,
) {
    for name in dotted(place, word, &span, errors) {
        let name = cut(name);
        let message = format!(
            "{place}: a secret in a command is seen by whoever lists processes; put it into env: NAME = \"${{secret.{name}}}\""
        );
        errors.at(span.clone(), message);
    }
    let holds = |name: &&str| env.get(*name).is_some_and(|value| !references(value).is_empty());
    for name in variables(word).into_iter().filter(holds) {
        let message = format!(
            "{place}: {name} holds a secret, and a command is seen by whoever lists processes; let the program read {name} from its environment"
        );
        errors.at(span.clone(), message);
    }
}

/// The names of the secrets that a text refers to. Every other reference with a dot is an error.
fn dotted<'a>(place: &str, text: &'a str, span: &Range<usize>, errors: &mut Errors) -> Vec<&'a str> {
    let mut secrets = Vec::new();
    for (reference, (kind, name)) in variables(text).into_iter().filter_map(|it| Some((it, it.split_once('.')?))) {
        match KINDS.iter().find(|(known, _)| *known == kind) {
            Some(("secret", _)) => secrets.push(name),
            Some((_, true)) => {}
            Some((_, false)) => {
                let reference = cut(reference);
                let message =
                    format!("{place}: ${{{reference}}} is not built yet: this hirsel has no {kind} to take it from");
                errors.at(span.clone(), message);
            }
            None => {
                let known: Vec<&str> = KINDS.iter().filter(|(_, built)| *built).map(|(kind, _)| *kind).collect();
                let what = format!("kind of reference in ${{{}}}:", cut(reference));
                errors.at(span.clone(), format!("{place}: {}", unknown(&what, kind, "", &known)));
            }
        }
    }
    secrets
}

fn cut(text: &str) -> String {
    text.chars().take(SHOWN_CHARS_MAX).collect()
}
