//! A cookie by which a client stays with its instance: `sticky`.

use std::ops::RangeInclusive;

use toml::de::DeValue;

use super::super::errors::{Errors, quoted};
use super::super::table::Table;
use super::actions::time;
use super::is_path;
use crate::control::limits::CONDITION_BYTES_MAX;
use crate::spec::{SameSite, Sticky};

const SAME_SITES: [(&str, SameSite); 3] =
    [("lax", SameSite::Lax), ("strict", SameSite::Strict), ("none", SameSite::None)];
/// Time for which a browser keeps it. Browsers cut it to 400 days or less; an instance does not live that long.
const MAX_AGE_MS: RangeInclusive<u64> = 1_000..=365 * 86_400_000;

/// `{ cookie = "NAME", path = "/", same_site = "lax", max_age = "1h", secure = true }`, `false` (for a rule of a route that does); the
/// inner nothing is none, or something wrong.
pub(super) fn read(table: &Table<'_>, errors: &mut Errors) -> Option<Option<Sticky>> {
    let value = table.get("sticky")?;
    match value.get_ref() {
        DeValue::Boolean(false) => return Some(None),
        DeValue::Table(_) => {}
        _ => return table.wrong_type("sticky", value, "a cookie like { cookie = \"NAME\" }, or false", errors),
    }
    let inner = table.below_table("sticky", errors)?;
    inner.check_keys(&["cookie", "path", "same_site", "max_age", "secure"], &[], errors);
    if inner.get("cookie").is_none() {
        errors.absent(value.span(), format!("{} names no cookie: cookie = \"NAME\"", inner.path()));
    }
    let path = |text: &str| match is_path(text) && !text.contains(';') {
        true => Ok(text.to_owned()),
        false => Err(format!("{} is no path of a request: it begins with '/'", quoted(text))),
    };
    let cookie = inner.text("cookie", "the name of a cookie", cookie_name, errors);
    let path = inner.text("path", "a path like \"/shop\"", path, errors).unwrap_or_else(|| "/".into());
    let same_site = inner.choice("same_site", &SAME_SITES, errors).unwrap_or_default();
    let max_age_s = time(&inner, "max_age", MAX_AGE_MS, errors).map(|ms| ms / 1_000);
    let secure = inner.boolean("secure", errors).unwrap_or_default();
    Some(cookie.map(|cookie| Sticky { cookie, path, same_site, max_age_s, secure }))
}

/// The name of a cookie (RFC 6265, section 4.1.1: a token).
pub(super) fn cookie_name(text: &str) -> Result<String, String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    match !text.is_empty() && text.len() <= CONDITION_BYTES_MAX && text.bytes().all(good) {
        true => Ok(text.to_owned()),
        false => Err(format!("{} is no name of a cookie: use letters, digits, '-' and '_'", quoted(text))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{routes, wrong};
    use super::*;

    #[test]
    fn a_cookie_is_read_with_what_it_says_and_a_rule_may_do_without() {
        let text = "[route.h]\nto = \"web\"\nsticky = { cookie = \"at\" }\n\
                    [[route.h.rule]]\npath = \"/a\"\nsticky = false\n\
                    [[route.h.rule]]\npath = \"/b\"\nsticky = { cookie = \"b\", path = \"/b\", same_site = \"strict\", max_age = \"1h\", secure = true }\n";
        let read: Vec<_> = routes(text).into_iter().map(|route| route.actions.balance.sticky).collect();
        let plain =
            Sticky { cookie: "at".into(), path: "/".into(), same_site: SameSite::Lax, max_age_s: None, secure: false };
        let other = Sticky {
            cookie: "b".into(),
            path: "/b".into(),
            same_site: SameSite::Strict,
            max_age_s: Some(3_600),
            secure: true,
        };
        assert_eq!(read, [None, Some(other), Some(plain)]);
    }

    #[test]
    fn what_is_wrong_with_a_cookie_is_said_where_it_stands() {
        for (line, expected) in [
            ("\"at\"", "3:10 sticky in [route.h] is a string; expected a cookie like { cookie = \"NAME\" }, or false"),
            (
                "true",
                "3:10 sticky in [route.h] is true or false; expected a cookie like { cookie = \"NAME\" }, or false",
            ),
            ("{}", "3:10 [route.h.sticky] names no cookie: cookie = \"NAME\""),
            (
                "{ cookie = \"a;b\" }",
                "3:21 cookie in [route.h.sticky]: \"a;b\" is no name of a cookie: use letters, digits, '-' and '_'",
            ),
            (
                "{ cookie = \"a\", path = \"/a;b\" }",
                "3:33 path in [route.h.sticky]: \"/a;b\" is no path of a request: it begins with '/'",
            ),
            (
                "{ cookie = \"a\", same_site = \"lux\" }",
                "3:38 unknown same_site in [route.h.sticky]: \"lux\"; did you mean \"lax\"?",
            ),
            (
                "{ cookie = \"a\", max_age = \"1ms\" }",
                "3:36 max_age in [route.h.sticky]: \"1ms\" is not between 1s and 31536000s",
            ),
            (
                "{ cookie = \"a\", max_ag = \"1h\" }",
                "3:26 unknown key \"max_ag\" in [route.h.sticky]; did you mean \"max_age\"?",
            ),
        ] {
            assert_eq!(wrong(&format!("[route.h]\nto = \"web\"\nsticky = {line}\n")), [expected], "{line}");
        }
    }
}
