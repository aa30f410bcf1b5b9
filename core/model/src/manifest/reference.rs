//! What `${KIND.NAME}` in a manifest may stand for.
//!
//! Secrets stand in the environment only: a command is shown to everyone on a host who lists its processes. What is told of a bucket is
//! known where the instance runs, and stands there, too.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::errors::{Errors, quoted};
use super::{nearest, table::unknown};
use crate::id::check_name;
use crate::secret::{references, variables};
use crate::spec::{BUCKET_VALUES, holds_access_secret};

/// Kinds of things that a manifest may take a value from, and whether there are any yet.
const KINDS: [(&str, bool); 3] = [("secret", true), ("db", false), ("bucket", true)];
/// Longest piece of a reference that an error repeats.
const SHOWN_CHARS_MAX: usize = 60;

/// What may be named.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    /// The secrets there are; none when nobody knows.
    pub(super) secrets: Option<&'a BTreeSet<&'a str>>,
    /// The buckets of the application, by what it calls them; none where none can be named.
    pub(super) buckets: Option<&'a BTreeMap<String, String>>,
}

/// What a text refers to.
#[derive(Default)]
struct Named<'a> {
    secrets: Vec<&'a str>,
    /// What stands behind `bucket.`.
    buckets: Vec<&'a str>,
}

/// Refuses references that nothing answers in the value of a variable.
pub(super) fn check_variable(place: &str, text: &str, known: Known<'_>, span: Range<usize>, errors: &mut Errors) {
    let named = dotted(place, text, &span, errors);
    for name in named.secrets {
        if let Err(error) = check_name(name) {
            errors.at(span.clone(), format!("{place}: the name of a secret is wrong: {error}"));
        } else if let Some(secrets) = known.secrets.filter(|secrets| !secrets.contains(name)) {
            let hint = match nearest(name, secrets.iter().copied()) {
                Some(meant) => format!("did you mean {meant:?}?"),
                None => format!("try: hirsel secret set {name}"),
            };
            errors.at(span.clone(), format!("{place}: no secret named {}; {hint}", quoted(name)));
        }
    }
    for rest in named.buckets {
        if let Err(why) = check_bucket(rest, known.buckets) {
            errors.at(span.clone(), format!("{place}: {why}"));
        }
    }
}

/// Whether `NAME.VALUE` is something of a bucket; what is wrong if not.
fn check_bucket(rest: &str, buckets: Option<&BTreeMap<String, String>>) -> Result<(), String> {
    let Some(buckets) = buckets else {
        return Err(format!("${{bucket.{}}} is told to programs only, in env", cut(rest)));
    };
    let (label, value) = rest.split_once('.').unwrap_or((rest, ""));
    if !buckets.contains_key(label) {
        let hint = match nearest(label, buckets.keys().map(String::as_str)) {
            Some(meant) => format!("did you mean {meant:?}?"),
            None => format!("add a block [bucket.{}]", cut(label)),
        };
        return Err(format!("no bucket named {}; {hint}", quoted(label)));
    }
    let words = BUCKET_VALUES.map(|(word, _)| word);
    match value {
        "" => Err(format!(
            "${{bucket.{0}}} says not what of it: ${{bucket.{0}.url}}; known are {1}",
            cut(label),
            words.join(", ")
        )),
        value if words.contains(&value) => Ok(()),
        value => Err(unknown(&format!("value of bucket {}:", cut(label)), value, "", &words)),
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
    let named = dotted(place, word, &span, errors);
    for name in named.secrets {
        let name = cut(name);
        let message = format!(
            "{place}: a secret in a command is seen by whoever lists processes; put it into env: NAME = \"${{secret.{name}}}\""
        );
        errors.at(span.clone(), message);
    }
    for rest in named.buckets {
        let rest = cut(rest);
        let message = format!(
            "{place}: what is told of a bucket comes with the environment: put it into env: NAME = \"${{bucket.{rest}}}\", and write ${{NAME}} here"
        );
        errors.at(span.clone(), message);
    }
    let is_secret = |value: &String| !references(value).is_empty() || holds_access_secret(value);
    let holds = |name: &&str| env.get(*name).is_some_and(is_secret);
    for name in variables(word).into_iter().filter(holds) {
        let message = format!(
            "{place}: {name} holds a secret, and a command is seen by whoever lists processes; let the program read {name} from its environment"
        );
        errors.at(span.clone(), message);
    }
}

/// What a text refers to. Every reference with a dot to anything else is an error.
fn dotted<'a>(place: &str, text: &'a str, span: &Range<usize>, errors: &mut Errors) -> Named<'a> {
    let mut named = Named::default();
    for (reference, (kind, name)) in variables(text).into_iter().filter_map(|it| Some((it, it.split_once('.')?))) {
        match KINDS.iter().find(|(known, _)| *known == kind) {
            Some(("secret", _)) => named.secrets.push(name),
            Some(("bucket", _)) => named.buckets.push(name),
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
    named
}

fn cut(text: &str) -> String {
    text.chars().take(SHOWN_CHARS_MAX).collect()
}
