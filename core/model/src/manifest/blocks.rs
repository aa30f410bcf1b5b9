//! Which blocks there are, which role each needs, and which are carried out yet.

use super::errors::Errors;
use super::table::{Table, path_below, unknown};
use crate::id::RoleName;
use toml::de::DeValue;

struct Kind {
    word: &'static str,
    /// Empty where every agent has what it takes.
    role: &'static str,
    /// Whether it is carried out by this build when it has the role; else what it is for.
    later: Option<&'static str>,
}

const KINDS: [Kind; 8] = [
    Kind { word: "service", role: "compute", later: None },
    Kind { word: "route", role: "lb", later: None },
    Kind { word: "port", role: "lb", later: None },
    // Every agent answers for names.
    Kind { word: "zone", role: "", later: None },
    Kind { word: "db", role: "db", later: Some("databases") },
    Kind { word: "bucket", role: "storage", later: None },
    Kind { word: "cron", role: "mgmt", later: Some("commands that run by the clock") },
    Kind { word: "job", role: "compute", later: Some("commands in parallel blocks") },
];

/// Refuses every block that this build does not carry out, and every key at the top that is no block.
pub(super) fn check(top: &Table<'_>, built: &[RoleName], errors: &mut Errors) {
    for (word, value) in top.entries() {
        if word.text == "app" {
            continue;
        }
        let Some(kind) = KINDS.iter().find(|kind| kind.word == word.text) else {
            let mut known: Vec<&str> = KINDS.iter().filter(|kind| kind.later.is_none()).map(|kind| kind.word).collect();
            known.insert(0, "app");
            errors.at(word.span, unknown("block", &word.text, "", &known));
            continue;
        };
        let Some(why) = refusal(kind, built) else { continue };
        // Each block of the kind where it begins; the word itself when it holds none.
        let path = top.below(kind.word);
        match value.get_ref() {
            DeValue::Table(inner) if !inner.is_empty() => {
                for name in inner.keys() {
                    errors.at(name.span(), format!("{} {why}", path_below(&path, name.get_ref())));
                }
            }
            _ => errors.at(word.span, format!("{path} {why}")),
        }
    }
}

fn refusal(kind: &Kind, built: &[RoleName]) -> Option<String> {
    let role = kind.role;
    if !role.is_empty() && !built.iter().any(|built| built.as_str() == role) {
        let has: Vec<&str> = built.iter().map(RoleName::as_str).collect();
        return Some(format!("needs the role {role}, which this hirsel does not have (it has {})", has.join(", ")));
    }
    kind.later.map(|what| format!("is not built yet: the role {role} of this hirsel does not do {what}"))
}
