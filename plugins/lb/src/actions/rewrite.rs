//! Another path for a request, and where a redirect leads. Pure.
//!
//! What comes out begins with exactly one slash, whatever the client sent: `//evil.example` would be another host to a browser. And
//! nothing that a client sends leads out of where a changed path leads: one that has a step upwards, in whatever spelling, is none.

use hirsel_model::expression;
use hirsel_model::spec::{Redirect, Rewrite};
use http::uri::PathAndQuery;
use http::{HeaderValue, Uri};
use regex::bytes::{Captures, Regex};

use crate::matching::Unusable;
use crate::paths;

/// A change of a path.
#[derive(Debug)]
pub struct Rewriter {
    path: Option<String>,
    strip_prefix: Option<String>,
    replace: Option<(Regex, String)>,
    add_prefix: Option<String>,
}

impl Rewriter {
    /// The change, if there is one.
    ///
    /// # Errors
    /// If this build cannot make it out.
    pub fn of(rewrite: &Rewrite) -> Result<Option<Self>, Unusable> {
        if *rewrite == Rewrite::default() {
            return Ok(None);
        }
        let Rewrite { path, strip_prefix, replace, add_prefix } = rewrite.clone();
        let bare = |prefix: String| prefix.trim_end_matches('/').to_owned();
        let replace = replace.map(|it| expression::build(&it.regex).map(|regex| (regex, it.with))).transpose();
        let replace = replace.map_err(Unusable::new)?;
        Ok(Some(Self { path, strip_prefix: strip_prefix.map(bare), replace, add_prefix: add_prefix.map(bare) }))
    }

    /// Path and query instead of those of `uri`; none if nothing comes out that a request can have.
    pub fn apply(&self, uri: &Uri) -> Option<PathAndQuery> {
        let before = uri.path();
        if !before.starts_with('/') {
            // `OPTIONS *`.
            return uri.path_and_query().cloned();
        }
        let changed = match &self.path {
            Some(path) => path.clone(),
            None => {
                let changed = self.change(before)?;
                let path = changed.split('?').next().unwrap_or_default();
                if paths::climbs(path) {
                    return None;
                }
                changed
            }
        };
        let mut changed = one_slash(&changed);
        if let Some(query) = uri.query()
            && !changed.contains('?')
        {
            changed.push('?');
            changed.push_str(query);
        }
        PathAndQuery::try_from(changed).ok()
    }

    fn change(&self, path: &str) -> Option<String> {
        let stripped = self.strip_prefix.as_deref().and_then(|prefix| path.strip_prefix(prefix));
        let rest = stripped.filter(|rest| rest.is_empty() || rest.starts_with('/')).unwrap_or(path);
        let replaced = match &self.replace {
            Some((regex, with)) => replace(regex, with, rest)?,
            None => rest.to_owned(),
        };
        Some(match &self.add_prefix {
            Some(prefix) if replaced == "/" || replaced.is_empty() => format!("{prefix}{replaced}"),
            Some(prefix) => format!("{prefix}{}", one_slash(&replaced)),
            None => replaced,
        })
    }
}

/// `path` with one slash at its beginning. A backslash is a slash to browsers.
fn one_slash(path: &str) -> String {
    format!("/{}", path.trim_start_matches(['/', '\\']))
}

/// `text` with `with` in place of the first match; none if that cuts a character in two.
fn replace(regex: &Regex, with: &str, text: &str) -> Option<String> {
    let Some(captures) = regex.captures(text.as_bytes()) else { return Some(text.to_owned()) };
    let whole = captures.get(0)?;
    let mut replaced = text.as_bytes()[..whole.start()].to_vec();
    expand(&captures, with, &mut replaced);
    replaced.extend_from_slice(&text.as_bytes()[whole.end()..]);
    String::from_utf8(replaced).ok()
}

/// `$0` to `$9` are groups, `$$` is a dollar; everything else is itself.
fn expand(captures: &Captures<'_>, with: &str, into: &mut Vec<u8>) {
    let mut bytes = with.bytes().peekable();
    while let Some(byte) = bytes.next() {
        match (byte, bytes.peek()) {
            (b'$', Some(digit @ b'0'..=b'9')) => {
                let group = captures.get(usize::from(digit - b'0'));
                into.extend_from_slice(group.map_or(&[], |group| group.as_bytes()));
                bytes.next();
            }
            (b'$', Some(b'$')) => {
                into.push(b'$');
                bytes.next();
            }
            (byte, _) => into.push(byte),
        }
    }
}

/// The value of `Location` (RFC 9110, section 10.2.2) for a request of `host`; none if there is none that makes sense.
///
/// Without scheme and host it is a path: nothing that a client sends leads to another host.
pub fn location(redirect: &Redirect, rewriter: Option<&Rewriter>, host: &str, uri: &Uri) -> Option<HeaderValue> {
    let path = match rewriter {
        Some(rewriter) => rewriter.apply(uri)?.as_str().to_owned(),
        None => one_slash(uri.path_and_query().map_or("/", PathAndQuery::as_str)),
    };
    let text = match (&redirect.scheme, &redirect.host) {
        (None, None) => path,
        // As the client came.
        (None, Some(host)) => format!("//{host}{path}"),
        (Some(scheme), target) => {
            let host = target.as_deref().unwrap_or(host);
            let good = |b: u8| b.is_ascii_alphanumeric() || b"-._~:[]".contains(&b);
            if host.is_empty() || !host.bytes().all(good) {
                return None;
            }
            format!("{scheme}://{host}{path}")
        }
    };
    HeaderValue::try_from(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hirsel_model::spec::Replacement;
    use proptest::prelude::*;

    fn rewriter(change: impl FnOnce(&mut Rewrite)) -> Rewriter {
        let mut rewrite = Rewrite::default();
        change(&mut rewrite);
        Rewriter::of(&rewrite).unwrap().unwrap()
    }

    fn applied(rewriter: &Rewriter, uri: &str) -> String {
        rewriter.apply(&uri.parse().unwrap()).map_or("-".into(), |uri| uri.to_string())
    }

    #[test]
    fn a_prefix_is_stripped_where_a_segment_ends() {
        let strip = rewriter(|it| it.strip_prefix = Some("/api".into()));
        assert_eq!(applied(&strip, "/api/v1?x=%2F"), "/v1?x=%2F");
        assert_eq!(applied(&strip, "/api"), "/");
        assert_eq!(applied(&strip, "/api/"), "/");
        assert_eq!(applied(&strip, "/apis"), "/apis");
        assert_eq!(applied(&strip, "/api//evil.example/x"), "/evil.example/x");
        assert_eq!(applied(&strip, "*"), "*");
        let both = rewriter(|it| {
            it.strip_prefix = Some("/api/".into());
            it.add_prefix = Some("/v2/".into());
        });
        assert_eq!(applied(&both, "/api/a%20b"), "/v2/a%20b");
        assert_eq!(applied(&both, "/api"), "/v2");
        assert_eq!(applied(&both, "/api/"), "/v2/");
        for path in ["/api/../x", "/api/%2e%2e/x", "/api/a/..%2f..%2fx", "/api/..;/x", "/.."] {
            assert_eq!(applied(&both, path), "-", "{path}");
        }
    }

    #[test]
    fn an_expression_replaces_its_first_match_with_groups() {
        let replace = |regex: &str, with: &str| {
            let replacement = Replacement { regex: regex.into(), with: with.into() };
            rewriter(|it| it.replace = Some(replacement))
        };
        assert_eq!(applied(&replace("^/u/([0-9]+)/(.*)$", "/users/$1?rest=$2"), "/u/7/a"), "/users/7?rest=a");
        assert_eq!(applied(&replace("a", "$0$0$$$10$x$"), "/a/a"), "/aa$0$x$/a", "group 1 is none, and 0 follows it");
        assert_eq!(applied(&replace("^/+", "//evil"), "/x"), "/evilx");
        assert_eq!(applied(&replace("x", "ü"), "/y"), "/y");
    }

    #[test]
    fn a_whole_path_takes_the_place_of_any_and_keeps_the_query_unless_it_has_one() {
        let whole = |path: &str| rewriter(|it| it.path = Some(path.into()));
        assert_eq!(applied(&whole("/index.html"), "/a?b"), "/index.html?b");
        assert_eq!(applied(&whole("/s?q=1"), "/a?b"), "/s?q=1");
    }

    #[test]
    fn a_redirect_leads_to_another_host_only_if_it_names_one() {
        let to = |scheme: Option<&str>, host: Option<&str>, uri: &str| {
            let redirect = Redirect {
                status: 302,
                scheme: scheme.map(Into::into),
                host: host.map(Into::into),
                rewrite: Rewrite::default(),
            };
            location(&redirect, None, "shop.test", &uri.parse().unwrap()).map(|it| it.to_str().unwrap().to_owned())
        };
        assert_eq!(to(Some("https"), None, "/a?b").as_deref(), Some("https://shop.test/a?b"));
        assert_eq!(to(Some("https"), Some("www.test:8443"), "/a").as_deref(), Some("https://www.test:8443/a"));
        assert_eq!(to(None, Some("www.test"), "/a").as_deref(), Some("//www.test/a"));
        assert_eq!(to(None, None, "//evil.example/a").as_deref(), Some("/evil.example/a"));
        assert_eq!(to(None, None, "/\\evil.example").as_deref(), Some("/evil.example"));
        assert_eq!(to(Some("https"), None, "//evil.example").as_deref(), Some("https://shop.test/evil.example"));
        let https = Redirect { status: 301, scheme: Some("https".into()), host: None, rewrite: Rewrite::default() };
        for host in ["", "a\u{e9}", "a<b", "a\\b"] {
            assert_eq!(location(&https, None, host, &"/".parse().unwrap()), None, "{host:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_out_is_a_path_with_one_slash_at_its_beginning(
            path in "/[/a-c%2.\\\\;=]{0,30}",
            strip in prop::option::of("/[a-c]{0,2}"),
            add in prop::option::of("/[a-c]{0,2}"),
            regex in prop::option::of(prop::sample::select(vec!["^/", "a+", "(b)(c)?", "$", "%2"])),
            with in "[$0-2/a\\\\]{0,6}",
        ) {
            let Ok(uri) = path.parse::<Uri>() else { return Ok(()) };
            let rewrite = Rewrite {
                path: None,
                strip_prefix: strip,
                replace: regex.map(|regex| Replacement { regex: regex.into(), with }),
                add_prefix: add,
            };
            let Some(rewriter) = Rewriter::of(&rewrite).unwrap() else { return Ok(()) };
            if let Some(out) = rewriter.apply(&uri) {
                let out = out.as_str().to_owned();
                prop_assert!(out.starts_with('/') && !out.starts_with("//") && !out.starts_with("/\\"), "{}", out);
                let parsed = out.parse::<Uri>();
                prop_assert!(parsed.is_ok_and(|uri| uri.host().is_none()), "{}", out);
            }
        }
    }
}
