//! Purges: answers that load balancers kept, and shall forget before their time.
//!
//! A purge is a record in the control state, and goes to each load balancer with its order like anything else that it shall make true:
//! none misses one for being away. What a load balancer keeps is in its memory alone, so one that starts has nothing to forget. The
//! list has an end, and says what it lost there: whoever has not carried out all of that forgets everything.

use std::collections::VecDeque;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::control::limits::{HOST_BYTES_MAX, PATH_BYTES_MAX};
use crate::id::{AppName, LogIndex};
use crate::spec::is_below;

/// Purges that are known at a time: a node that was cut off while more came forgets all that it keeps, and that costs little.
pub const PURGES_MAX: usize = 128;
/// Bytes of a tag. Those of pages are ids and short words.
pub const TAG_BYTES_MAX: usize = 128;

/// What shall be forgotten.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Purged {
    /// Everything.
    All,
    /// All answers of the routes of an application.
    App(AppName),
    /// Answers for a host.
    Place {
        /// In lower case, without port.
        host: String,
        /// The path as clients ask for it, with any query; with `/*` at its end all below. All of the host where there is none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<String>,
    },
    /// Answers with this tag.
    Tag(String),
}

/// An answer that is kept, as far as a purge looks at it.
#[derive(Clone, Copy, Debug)]
pub struct Kept<'a> {
    /// Whose route it came by.
    pub app: &'a AppName,
    /// The host it was asked for, in lower case, without port.
    pub host: &'a str,
    /// The path it was asked for.
    pub path: &'a str,
}

/// Why something cannot be purged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PurgeError {
    /// It names no host.
    #[error("{0:?} is no host: write shop.example.com, without scheme and port")]
    Host(String),
    /// It names no path.
    #[error(
        "{0:?} is no path: it begins with '/', is at most {PATH_BYTES_MAX} bytes long, and '*' stands behind its last '/' only"
    )]
    Path(String),
    /// It is no tag.
    #[error("{0:?} is no tag: 1 to {TAG_BYTES_MAX} printable characters but ',' and blanks")]
    Tag(String),
}

impl Purged {
    /// Whether it makes sense.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), PurgeError> {
        let cut = |text: &str| text.chars().take(64).collect();
        match self {
            Purged::All | Purged::App(_) => Ok(()),
            Purged::Tag(tag) if is_tag(tag) => Ok(()),
            Purged::Tag(tag) => Err(PurgeError::Tag(cut(tag))),
            Purged::Place { host, path } => {
                let good = |b: u8| b.is_ascii_graphic() && !b.is_ascii_uppercase() && !b"/?#@*\\\"<>".contains(&b);
                let bracketed = host.starts_with('[') && host.ends_with(']');
                let fits = !host.is_empty() && host.len() <= HOST_BYTES_MAX && host.bytes().all(good);
                if !fits || (host.contains(':') && !bracketed) {
                    return Err(PurgeError::Host(cut(host)));
                }
                match path {
                    Some(path) if !is_pattern(path) => Err(PurgeError::Path(cut(path))),
                    Some(_) | None => Ok(()),
                }
            }
        }
    }

    /// Whether it is about this answer, which has `tags`.
    pub fn is_about<'a>(&self, kept: Kept<'_>, tags: impl IntoIterator<Item = &'a str>) -> bool {
        match self {
            Purged::All => true,
            Purged::App(app) => app == kept.app,
            Purged::Tag(tag) => tags.into_iter().any(|it| it == tag),
            Purged::Place { host, path } => {
                host == kept.host && path.as_ref().is_none_or(|pattern| is_below(pattern, kept.path))
            }
        }
    }
}

impl fmt::Display for Purged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Purged::All => f.write_str("everything"),
            Purged::App(app) => write!(f, "all of {app}"),
            Purged::Tag(tag) => write!(f, "tag {tag}"),
            Purged::Place { host, path } => write!(f, "{host}{}", path.as_deref().unwrap_or("/*")),
        }
    }
}

/// Whether answers can have this tag.
pub fn is_tag(text: &str) -> bool {
    (1..=TAG_BYTES_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() && b != b',')
}

fn is_pattern(path: &str) -> bool {
    let bare = path.strip_suffix("/*").unwrap_or(path);
    let good = |b: u8| b.is_ascii_graphic() && !b"?#*".contains(&b);
    path.starts_with('/') && path.len() <= PATH_BYTES_MAX && bare.bytes().all(good)
}

/// A purge on record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Purge {
    /// Its place in the control log.
    pub index: LogIndex,
    /// What shall be forgotten of all that was asked for before.
    pub what: Purged,
}

/// The purges on record, in rising order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Purges {
    /// The last one that is on record no more.
    #[serde(default, skip_serializing_if = "crate::spec::is_default")]
    pub dropped: LogIndex,
    /// Those that are.
    pub latest: VecDeque<Purge>,
}

/// What is owed by whoever carried out all purges up to some index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owed<'a> {
    /// Whether these, which may be none.
    These(Vec<&'a Purged>),
    /// It is not known any more what.
    All,
}

impl Purges {
    /// The last one there was.
    pub fn last(&self) -> LogIndex {
        self.latest.back().map_or(self.dropped, |purge| purge.index)
    }

    /// Puts one on record.
    pub fn record(&mut self, index: LogIndex, what: Purged) {
        // Whoever has to carry out the new one has carried out the same with it.
        self.latest.retain(|purge| purge.what != what && what != Purged::All);
        self.latest.push_back(Purge { index, what });
        while self.latest.len() > PURGES_MAX {
            self.dropped = self.latest.pop_front().map_or(self.dropped, |purge| purge.index);
        }
    }

    /// What is owed by whoever carried out all of them up to `done`.
    pub fn owed(&self, done: LogIndex) -> Owed<'_> {
        if done < self.dropped {
            return Owed::All;
        }
        Owed::These(self.latest.iter().filter(|purge| purge.index > done).map(|purge| &purge.what).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn place(host: &str, path: Option<&str>) -> Purged {
        Purged::Place { host: host.into(), path: path.map(str::to_owned) }
    }

    #[test]
    fn a_purge_is_about_a_host_a_path_all_below_a_path_an_application_or_a_tag() {
        let app: AppName = "shop".parse().unwrap();
        let about = |what: &Purged, host, path| what.is_about(Kept { app: &app, host, path }, ["a", "p-17"]);
        assert!(about(&Purged::All, "h", "/"));
        assert!(about(&Purged::App(app.clone()), "h", "/") && !about(&Purged::App("x".parse().unwrap()), "h", "/"));
        assert!(about(&place("h", None), "h", "/a") && !about(&place("h", None), "i", "/a"));
        assert!(about(&place("h", Some("/a/*")), "h", "/a/b") && !about(&place("h", Some("/a/*")), "h", "/ab"));
        assert!(about(&place("h", Some("/a")), "h", "/a") && !about(&place("h", Some("/a")), "h", "/a/b"));
        assert!(about(&Purged::Tag("p-17".into()), "h", "/") && !about(&Purged::Tag("p-1".into()), "h", "/"));
    }

    #[test]
    fn what_is_no_host_path_or_tag_is_refused_in_words() {
        for good in [place("shop.example.com", Some("/a/*")), place("[::1]", None), place("h", Some("/*")), Purged::All]
        {
            assert_eq!(good.check(), Ok(()), "{good}");
        }
        for (bad, part) in [
            (place("", None), "no host"),
            (place("Shop", None), "no host"),
            (place("h:80", None), "without scheme and port"),
            (place("http://h", None), "no host"),
            (place("h", Some("a")), "begins with '/'"),
            (place("h", Some("/a*")), "behind its last '/'"),
            (place("h", Some("/a?b=1")), "no path"),
            (Purged::Tag(String::new()), "no tag"),
            (Purged::Tag("a,b".into()), "no tag"),
            (Purged::Tag("a".repeat(129)), "no tag"),
        ] {
            let words = bad.check().expect_err("it is wrong").to_string();
            assert!(words.contains(part), "{words}");
        }
    }

    #[test]
    fn one_that_is_there_again_takes_the_place_of_the_one_before_and_all_that_of_all() {
        let mut purges = Purges::default();
        purges.record(LogIndex(1), place("a", None));
        purges.record(LogIndex(2), place("b", None));
        purges.record(LogIndex(3), place("a", None));
        let indexes: Vec<u64> = purges.latest.iter().map(|purge| purge.index.0).collect();
        assert_eq!((indexes, purges.last()), (vec![2, 3], LogIndex(3)));
        purges.record(LogIndex(4), Purged::All);
        assert_eq!(purges.owed(LogIndex(0)), Owed::These(vec![&Purged::All]));
    }

    proptest! {
        /// Whoever carries out what it owes, whenever it looks, has forgotten all that any purge was about.
        #[test]
        fn nobody_misses_a_purge(hosts in prop::collection::vec(0..200u8, 1..600), looks in prop::collection::btree_set(0..600usize, 0..20)) {
            let mut purges = Purges::default();
            let app: AppName = "shop".parse().unwrap();
            let mut done = LogIndex(0);
            // What was kept, and when.
            let mut kept: Vec<u8> = (0..200).collect();
            let mut purged = std::collections::BTreeSet::new();
            let look = |purges: &Purges, done: &mut LogIndex, kept: &mut Vec<u8>| {
                match purges.owed(*done) {
                    Owed::All => kept.clear(),
                    Owed::These(these) => kept.retain(|host| {
                        let host = host.to_string();
                        !these.iter().any(|what| what.is_about(Kept { app: &app, host: &host, path: "/" }, []))
                    }),
                }
                *done = purges.last();
            };
            for (number, host) in hosts.iter().enumerate() {
                purges.record(LogIndex(number as u64 + 1), place(&host.to_string(), None));
                purged.insert(*host);
                prop_assert!(purges.latest.len() <= PURGES_MAX);
                if looks.contains(&number) {
                    look(&purges, &mut done, &mut kept);
                    prop_assert!(kept.iter().all(|host| !purged.contains(host)));
                }
            }
            look(&purges, &mut done, &mut kept);
            prop_assert!(kept.iter().all(|host| !purged.contains(host)));
            prop_assert_eq!(purges.owed(done), Owed::These(Vec::new()));
        }
    }
}
