//! Which answers of a route are kept, and for how long (RFC 9111, RFC 5861).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::is_default;

/// Which answers of a route load balancers keep. What programs say of their answers comes first; nothing in here keeps what they
/// want to be kept by nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cache {
    /// Paths whose answers are kept, as the client asks for them: `/logo.png`, or `/static/*` for all below. All of the route where
    /// there are none.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub paths: BTreeSet<String>,
    /// For how many milliseconds an answer is fresh that says nothing of that; none keeps only what says something.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ttl_ms: Option<u64>,
    /// For how many milliseconds an answer is fresh at most, whatever it says.
    #[serde(default, skip_serializing_if = "is_default")]
    pub max_ttl_ms: Option<u64>,
    /// For how many milliseconds more an answer that says nothing of that is given while a new one is asked for.
    #[serde(default, skip_serializing_if = "is_default")]
    pub stale_ms: Option<u64>,
    /// For how many milliseconds more an answer that says nothing of that is given while none is to be had.
    #[serde(default, skip_serializing_if = "is_default")]
    pub stale_if_error_ms: Option<u64>,
    /// Parameters of the query that make no difference: `fbclid`, or `utm_*` for all that begin so.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub ignore: BTreeSet<String>,
}

impl Cache {
    /// Whether answers for this path are kept.
    pub fn has(&self, path: &str) -> bool {
        self.paths.is_empty() || self.paths.iter().any(|pattern| is_below(pattern, path))
    }

    /// Whether a parameter of this name makes no difference.
    pub fn ignores(&self, parameter: &str) -> bool {
        self.ignore.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(prefix) => parameter.starts_with(prefix),
            None => parameter == pattern,
        })
    }
}

/// Whether `path` is what `pattern` says: the path itself, or with `/*` at its end all below, itself included.
pub fn is_below(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix("/*") {
        Some(prefix) => path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        None => path == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_ends_at_the_end_of_a_segment() {
        assert!(is_below("/static/*", "/static") && is_below("/static/*", "/static/a/b"));
        assert!(!is_below("/static/*", "/statics") && !is_below("/static", "/static/a"));
        assert!(is_below("/*", "/") && is_below("/*", "/a"));
        let cache = Cache { paths: ["/a/*".into(), "/b".into()].into(), ..Cache::default() };
        assert!(cache.has("/a/1") && cache.has("/b") && !cache.has("/c") && Cache::default().has("/c"));
    }

    #[test]
    fn a_parameter_is_named_whole_or_by_its_beginning() {
        let cache = Cache { ignore: ["fbclid".into(), "utm_*".into()].into(), ..Cache::default() };
        assert!(cache.ignores("fbclid") && cache.ignores("utm_source") && cache.ignores("utm_"));
        assert!(!cache.ignores("fbclids") && !cache.ignores("utm") && !cache.ignores(""));
    }
}
