//! Which route takes a request: the routes of one host, in the order in which they are tried.
//!
//! The order is total, and does not depend on the order in which applications were applied: the exact path, then prefixes, the longest
//! first, then expressions as written, then what takes every path; of those with one path the one with more conditions, then the one
//! written first. A route whose conditions are not met is passed over.
//!
//! Pure: the table is built once and asked for each request, without locks and without allocation.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;

use hirsel_model::expression;
use hirsel_model::spec::{Conditions, PathKind, RouteSpec};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method};
use regex::bytes::Regex;

/// The routes of one host.
#[derive(Debug)]
pub struct Rules<T> {
    rules: Vec<Rule<T>>,
    /// There is one, and it takes everything: no spelling of a path leads elsewhere.
    takes_all: bool,
}

/// A route as it is tried.
#[derive(Debug)]
struct Rule<T> {
    path: Path,
    wants: Option<Box<Wants>>,
    leads_to: T,
}

/// A path as it is compared.
enum Path {
    /// Without final slash.
    Prefix(Box<[u8]>),
    Exact(Box<[u8]>),
    Regex(Regex),
}

/// Conditions as they are looked at.
#[derive(Debug)]
struct Wants {
    methods: Vec<Method>,
    headers: Vec<(HeaderName, Option<HeaderValue>)>,
    query: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

/// Why a route cannot be tried: it was written by a build that knows more.
#[derive(Debug)]
pub struct Unusable(String);

impl Unusable {
    /// In words.
    pub fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Routes of one host that are being put in order.
#[derive(Debug)]
pub struct Drafts<T>(Vec<Draft<T>>);

#[derive(Debug)]
struct Draft<T> {
    rule: Rule<T>,
    conditions: usize,
    /// For comparison with those of the same path.
    path: (PathKind, String),
}

impl<T> Default for Drafts<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Drafts<T> {
    /// Adds a route. Those that were added before come before it where nothing else decides.
    ///
    /// # Errors
    /// If this build cannot make out which requests it is for.
    pub fn add(&mut self, route: &RouteSpec, leads_to: T) -> Result<(), Unusable> {
        let bare = route.bare_path();
        let path = match route.kind {
            PathKind::Prefix => Path::Prefix(bare.as_bytes().into()),
            PathKind::Exact => Path::Exact(bare.as_bytes().into()),
            PathKind::Regex => Path::Regex(expression::build(bare).map_err(Unusable)?),
        };
        let wants = Wants::of(&route.when)?;
        let rule = Rule { path, wants, leads_to };
        self.0.push(Draft { rule, conditions: route.when.count(), path: (route.kind, bare.to_owned()) });
        Ok(())
    }

    /// Puts them in order.
    pub fn finish(self) -> Rules<T> {
        let mut drafts = self.0;
        let mut first: BTreeMap<(PathKind, String), usize> = BTreeMap::new();
        for (at, draft) in drafts.iter().enumerate() {
            first.entry(draft.path.clone()).or_insert(at);
        }
        // Stable: what is written first stays first.
        drafts.sort_by_cached_key(|draft| {
            let rank = match &draft.rule.path {
                Path::Exact(_) => 0,
                Path::Prefix(prefix) if !prefix.is_empty() => 1,
                Path::Regex(_) => 2,
                Path::Prefix(_) => 3,
            };
            let longest = match &draft.rule.path {
                Path::Prefix(path) | Path::Exact(path) => path.len(),
                Path::Regex(_) => 0,
            };
            (rank, Reverse(longest), first[&draft.path], Reverse(draft.conditions))
        });
        let rules: Vec<Rule<T>> = drafts.into_iter().map(|draft| draft.rule).collect();
        let takes_all =
            matches!(&rules[..], [Rule { path: Path::Prefix(prefix), wants: None, .. }] if prefix.is_empty());
        Rules { rules, takes_all }
    }
}

impl<T> Default for Rules<T> {
    fn default() -> Self {
        Self { rules: Vec::new(), takes_all: false }
    }
}

impl<T> Rules<T> {
    /// Where `path` of a request with this head leads.
    pub fn find(&self, path: &[u8], head: &Parts) -> Option<&T> {
        let fits =
            |rule: &&Rule<T>| rule.path.covers(path) && rule.wants.as_ref().is_none_or(|wants| wants.met_by(head));
        self.rules.iter().find(fits).map(|rule| &rule.leads_to)
    }

    /// Where all requests lead, if there is one way only.
    pub fn only(&self) -> Option<&T> {
        if self.takes_all { self.rules.first().map(|rule| &rule.leads_to) } else { None }
    }
}

impl Path {
    fn covers(&self, path: &[u8]) -> bool {
        match self {
            Path::Prefix(prefix) => {
                path.strip_prefix(&**prefix).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
                    // `OPTIONS *` has no path.
                    || prefix.is_empty()
            }
            Path::Exact(exact) => **exact == *path,
            Path::Regex(regex) => regex.is_match(path),
        }
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, text) = match self {
            Path::Prefix(path) => ("Prefix", String::from_utf8_lossy(path)),
            Path::Exact(path) => ("Exact", String::from_utf8_lossy(path)),
            Path::Regex(regex) => ("Regex", regex.as_str().into()),
        };
        write!(f, "{kind}({text:?})")
    }
}

impl Wants {
    fn of(when: &Conditions) -> Result<Option<Box<Self>>, Unusable> {
        if when.count() == 0 {
            return Ok(None);
        }
        let unusable = |what: &str| Unusable(format!("no such {what}"));
        let methods = when.methods.iter().map(|it| Method::try_from(it.as_str()).map_err(|_| unusable("method")));
        let headers = when.headers.iter().map(|(name, value)| {
            let name = HeaderName::try_from(name.as_str()).map_err(|_| unusable("name of a header field"))?;
            let value = value.as_deref().map(HeaderValue::try_from).transpose();
            Ok((name, value.map_err(|_| unusable("value of a header field"))?))
        });
        let bytes = |text: &String| text.clone().into_bytes();
        Ok(Some(Box::new(Self {
            methods: methods.collect::<Result<_, _>>()?,
            headers: headers.collect::<Result<_, Unusable>>()?,
            query: when.query.iter().map(|(name, value)| (bytes(name), value.as_ref().map(bytes))).collect(),
        })))
    }

    fn met_by(&self, head: &Parts) -> bool {
        let method = self.methods.is_empty() || self.methods.contains(&head.method);
        method
            && self.headers.iter().all(|(name, wanted)| {
                let mut lines = head.headers.get_all(name).iter();
                lines.any(|line| wanted.as_ref().is_none_or(|wanted| wanted == line))
            })
            && (self.query.is_empty() || self.met_by_query(head.uri.query().unwrap_or_default()))
    }

    fn met_by_query(&self, query: &str) -> bool {
        let pairs: Vec<(Vec<u8>, Vec<u8>)> = query
            .split('&')
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(name, value)| (form_decode(name), form_decode(value)))
            .collect();
        self.query.iter().all(|(name, wanted)| {
            let mut named = pairs.iter().filter(|(it, _)| it == name);
            named.any(|(_, value)| wanted.as_ref().is_none_or(|wanted| wanted == value))
        })
    }
}

/// Decodes a name or value as forms write them (WHATWG URL, section 5.1).
pub(crate) fn form_decode(text: &str) -> Vec<u8> {
    let spaced: Vec<u8> = text.bytes().map(|byte| if byte == b'+' { b' ' } else { byte }).collect();
    crate::paths::decode(&spaced, |_| true)
}

#[cfg(test)]
mod tests;
