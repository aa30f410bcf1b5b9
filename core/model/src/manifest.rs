//! The application manifest: what a user writes, read into a spec.
//!
//! A manifest that is wrong is refused whole, with every error at its line and column and, where a word is unknown, the nearest one that
//! is known. Nothing is ignored: a key or block that this build does not carry out yet is refused by name. Whatever the text holds,
//! reading it never panics.

use serde::{Deserialize, Serialize};
use toml::de::DeTable;

use crate::control::limits::SERVICES_PER_APP_MAX;
use crate::id::{AppName, Revision, RoleName};
use crate::secret::Secrets;
use crate::spec::AppSpec;

mod blocks;
mod bucket;
mod errors;
mod port;
#[cfg(test)]
mod properties;
mod reference;
mod route;
mod service;
mod table;
#[cfg(test)]
mod tests;
mod values;
mod zone;

pub use values::size;

use errors::Errors;
use table::Table;

/// Longest manifest in bytes: hundreds of services with large environments.
pub const MANIFEST_BYTES_MAX: usize = 256 * 1024;
/// How many errors are told. Who made more of them sees the rest after these.
pub const ERRORS_MAX: usize = 100;

/// What is wrong at one place of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct ManifestError {
    /// Counted from one.
    pub line: usize,
    /// In characters, counted from one.
    pub column: usize,
    /// What is wrong, and what would be right.
    pub message: String,
}

/// Reads a manifest for an agent that has the roles `built`. The revisions in the result are zero: they are given when it is applied.
pub fn parse(text: &str, built: &[RoleName]) -> Result<(AppName, AppSpec), Vec<ManifestError>> {
    parse_for(text, built, None)
}

/// As [`parse`], for a cluster that has these secrets: one that is named and not set is an error, too.
pub fn parse_for(
    text: &str,
    built: &[RoleName],
    secrets: Option<&Secrets>,
) -> Result<(AppName, AppSpec), Vec<ManifestError>> {
    let mut errors = Errors::new(text);
    if text.len() > MANIFEST_BYTES_MAX {
        errors.at(0..0, format!("manifest of {} bytes exceeds {MANIFEST_BYTES_MAX}", text.len()));
        return Err(errors.finish());
    }
    let (document, broken) = DeTable::parse_recoverable(text);
    for error in &broken {
        errors.syntax(error.span().unwrap_or(0..0), error.message());
    }
    let read = read(document.get_ref(), built, secrets, &mut errors);
    match (read, errors.finish()) {
        (Some(read), errors) if errors.is_empty() => Ok(read),
        (_, errors) => Err(errors),
    }
}

/// The word of `known` that was probably meant by `word`.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // One slip in three letters; whoever is further off meant something else.
    let limit = (word.chars().count() / 3).max(1);
    let word = word.to_lowercase();
    known
        .into_iter()
        .map(|known| (strsim::damerau_levenshtein(&word, known), known))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, known)| known)
}

fn read(
    document: &DeTable<'_>,
    built: &[RoleName],
    secrets: Option<&Secrets>,
    errors: &mut Errors,
) -> Option<(AppName, AppSpec)> {
    let top = Table::top(document);
    blocks::check(&top, built, errors);

    let name: Option<AppName> = match top.string("app", errors) {
        Some(word) => word.parsed(errors),
        None => {
            if top.get("app").is_none() {
                errors.absent(0..0, "the name of the application is missing: app = \"NAME\"");
            }
            None
        }
    };
    let buckets = bucket::Buckets::find(&top, name.as_ref(), errors);
    let mut services = std::collections::BTreeMap::new();
    let blocks = top.blocks("service", errors);
    if blocks.len() > SERVICES_PER_APP_MAX {
        let number = blocks.len();
        errors.at(blocks[SERVICES_PER_APP_MAX].key.clone(), format!("{number} services exceed {SERVICES_PER_APP_MAX}"));
    } else if ["service", "route", "port", "zone", "bucket"].iter().all(|block| top.get(block).is_none()) {
        // What leads to addresses outside, or only names something, needs no program.
        errors.absent(0..0, "an application has nothing in it; most begin with a program: [service.NAME]");
    }
    for block in &blocks {
        let known = secrets.map(|secrets| secrets.names(name.as_ref()));
        if let Some((name, service)) =
            service::read(block, reference::Known { secrets: known.as_ref(), buckets: Some(buckets.names()) }, errors)
        {
            services.insert(name, service);
        }
    }
    let named: Vec<&str> = blocks.iter().map(|block| block.word.as_str()).collect();
    let known = secrets.map(|secrets| secrets.names(name.as_ref()));
    let known = route::Known { services: &named, secrets: known.as_ref(), buckets: buckets.names() };
    let mut routes = route::read(&top, known, errors);
    let ports = port::read(&top, &named, errors);
    let zones = zone::read(&top, &routes, errors);
    let buckets = buckets.read(name.as_ref(), &mut routes, errors);
    Some((name?, AppSpec { revision: Revision(0), services, routes, stopped: false, ports, zones, buckets }))
}
