//! Which answers of a route are kept: `cache`.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use toml::de::DeValue;

use super::super::errors::{Errors, quoted};
use super::super::table::Table;
use super::actions::{time, words};
use super::is_path;
use crate::control::limits::CONDITION_BYTES_MAX;
use crate::spec::{Actions, Cache};

/// The keys that are read here.
pub(super) const KEYS: [&str; 1] = ["cache"];

/// Time for which an answer is fresh; HTTP counts in seconds. Beyond a month it is only memory.
const TTL_MS: RangeInclusive<u64> = 1_000..=30 * 24 * 3_600_000;
/// Time for which one is given that is not.
const STALE_MS: RangeInclusive<u64> = 1_000..=7 * 24 * 3_600_000;

/// Reads what `table` says.
pub(super) fn read(actions: &mut Actions, table: &Table<'_>, errors: &mut Errors) {
    if let Some(cache) = cache(table, errors) {
        actions.cache = cache;
    }
}

/// `true`, `false` (for a rule of a route that does), `{ paths = ["/static/*"], ttl = "1m", stale = "10s", ignore = ["utm_*"] }`.
fn cache(table: &Table<'_>, errors: &mut Errors) -> Option<Option<Cache>> {
    let value = table.get("cache")?;
    match value.get_ref() {
        DeValue::Boolean(wanted) => return Some(wanted.then(Cache::default)),
        DeValue::Table(_) => {}
        _ => {
            let expected = "true, false, or a table like { paths = [\"/static/*\"], ttl = \"1m\" }";
            return table.wrong_type("cache", value, expected, errors);
        }
    }
    let inner = table.below_table("cache", errors)?;
    inner.check_keys(&["paths", "ttl", "max_ttl", "stale", "stale_if_error", "ignore"], &[], errors);
    let is_pattern = |text: &str| {
        let bare = text.strip_suffix("/*").unwrap_or(text);
        (bare.is_empty() && text == "/*") || (is_path(bare) && !bare.contains('*'))
    };
    let read = Cache {
        paths: list(
            &inner,
            ("paths", "a list of paths like [\"/static/*\"]"),
            is_pattern,
            "path: \"/logo.png\", or \"/static/*\" for all below",
            errors,
        ),
        ttl_ms: time(&inner, "ttl", TTL_MS, errors),
        max_ttl_ms: time(&inner, "max_ttl", TTL_MS, errors),
        stale_ms: time(&inner, "stale", STALE_MS, errors),
        stale_if_error_ms: time(&inner, "stale_if_error", STALE_MS, errors),
        ignore: list(
            &inner,
            ("ignore", "a list of parameters like [\"utm_*\"]"),
            is_parameter,
            "parameter: \"fbclid\", or \"utm_*\" for all that begin so",
            errors,
        ),
    };
    if let (Some(ttl), Some(most)) = (read.ttl_ms, read.max_ttl_ms)
        && ttl > most
    {
        errors.at(inner.value_span("ttl"), format!("ttl in {} is longer than max_ttl", inner.path()));
    }
    Some(Some(read))
}

fn list(
    table: &Table<'_>,
    (key, expected): (&str, &str),
    is_good: impl Fn(&str) -> bool,
    what: &str,
    errors: &mut Errors,
) -> BTreeSet<String> {
    let mut read = BTreeSet::new();
    for word in words(key, table, expected, errors).unwrap_or_default() {
        if is_good(&word.text) {
            read.insert(word.text);
        } else {
            errors.at(word.span, format!("{key} in {}: {} is no {what}", table.path(), quoted(&word.text)));
        }
    }
    read
}

/// As it stands in a query, and is compared: not decoded.
fn is_parameter(text: &str) -> bool {
    let bare = text.strip_suffix('*').unwrap_or(text);
    let good = |b: u8| b.is_ascii_graphic() && !b"&=#?*\"<>".contains(&b);
    !text.is_empty() && text.len() <= CONDITION_BYTES_MAX && bare.bytes().all(good)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{routes, wrong};
    use super::*;

    fn of(word: &str) -> Option<Cache> {
        routes(&format!("[route.h]\nto = \"web\"\ncache = {word}\n"))[0].actions.cache.clone()
    }

    #[test]
    fn a_route_says_which_of_its_answers_are_kept_and_a_rule_may_say_otherwise() {
        assert_eq!(of("true"), Some(Cache::default()));
        assert_eq!(of("false"), None);
        assert_eq!(of("{}"), Some(Cache::default()));
        let all = of(
            "{ paths = [\"/static/*\", \"/\"], ttl = \"1m\", max_ttl = \"1h\", stale = \"10s\", stale_if_error = \"24h\", ignore = [\"utm_*\", \"fbclid\"] }",
        );
        let expected = Cache {
            paths: ["/static/*".into(), "/".into()].into(),
            ttl_ms: Some(60_000),
            max_ttl_ms: Some(3_600_000),
            stale_ms: Some(10_000),
            stale_if_error_ms: Some(86_400_000),
            ignore: ["utm_*".into(), "fbclid".into()].into(),
        };
        assert_eq!(all, Some(expected));
        let text = "[route.h]\nto = \"web\"\ncache = true\n[[route.h.rule]]\npath = \"/a\"\n[[route.h.rule]]\npath = \"/b\"\ncache = false\n";
        let kept: Vec<_> = routes(text).into_iter().map(|route| route.actions.cache.is_some()).collect();
        assert_eq!(kept, [true, false, true]);
    }

    #[test]
    fn what_cannot_be_kept_so_is_refused_with_its_place_and_the_word_that_was_meant() {
        for (word, says) in [
            (
                "1",
                "3:9 cache in [route.h] is a whole number; expected true, false, or a table like { paths = [\"/static/*\"], ttl = \"1m\" }",
            ),
            ("{ til = \"1m\" }", "3:11 unknown key \"til\" in [route.h.cache]; did you mean \"ttl\"?"),
            ("{ ttl = \"10ms\" }", "3:17 ttl in [route.h.cache]: \"10ms\" is not between 1s and 2592000s"),
            ("{ ttl = 60 }", "3:17 ttl in [route.h.cache] is a whole number; expected a duration like \"30s\""),
            ("{ ttl = \"2h\", max_ttl = \"1h\" }", "3:17 ttl in [route.h.cache] is longer than max_ttl"),
            ("{ stale = \"700h\" }", "3:19 stale in [route.h.cache]: \"700h\" is not between 1s and 604800s"),
            (
                "{ paths = [\"static\"] }",
                "3:20 paths in [route.h.cache]: \"static\" is no path: \"/logo.png\", or \"/static/*\" for all below",
            ),
            (
                "{ paths = [\"/a*\"] }",
                "3:20 paths in [route.h.cache]: \"/a*\" is no path: \"/logo.png\", or \"/static/*\" for all below",
            ),
            ("{ paths = [] }", "3:11 paths in [route.h.cache]: a list of 0 is not between 1 and 256"),
            (
                "{ ignore = [\"a=b\"] }",
                "3:21 ignore in [route.h.cache]: \"a=b\" is no parameter: \"fbclid\", or \"utm_*\" for all that begin so",
            ),
        ] {
            assert_eq!(wrong(&format!("[route.h]\nto = \"web\"\ncache = {word}\n")), [says], "{word}");
        }
    }
}
