//! What is deleted by itself, and when (S3's lifecycle configuration).
//!
//! A rule is about the versions, delete markers and uploads that its filter fits. Days are counted from when something was made, and
//! something is due at the midnight (UTC) after so many; see [`Day::days_after`]. [`due`] says what is to be done with a key; whoever
//! carries it out deletes as any client does, so locks hold.
//!
//! Transitions to other storage classes are refused: there is one class.

use std::collections::{BTreeMap, BTreeSet};

use hirsel_model::WallTime;

use super::date::{self, DAY_MS, Day};

/// Rules of a bucket (S3).
pub const RULES_MAX: usize = 1_000;
/// Characters of the name of a rule (S3).
pub const ID_MAX: usize = 255;
/// Newer noncurrent versions that may be kept (S3).
pub const NEWER_MAX: u32 = 100;

/// A rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Its name.
    pub id: String,
    /// Whether it counts.
    pub enabled: bool,
    /// What it is about.
    pub filter: Filter,
    /// When the newest version goes (behind a marker, where versions are kept).
    pub expires: Option<Expiry>,
    /// Delete markers go behind which nothing is left.
    pub lone_markers: bool,
    /// When versions go that are not the newest.
    pub noncurrent: Option<Noncurrent>,
    /// Days after which uploads end that were not finished.
    pub abort_days: Option<u32>,
}

/// What a rule is about: all of it must fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Keys that begin with this.
    pub prefix: String,
    /// Objects with these tags.
    pub tags: BTreeMap<String, String>,
    /// Objects of more bytes.
    pub larger_than: Option<u64>,
    /// Objects of fewer bytes.
    pub smaller_than: Option<u64>,
}

/// When the newest version goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// So many days after it was made.
    Days(u32),
    /// On this day, and whatever is made later at once.
    Date(WallTime),
}

/// When versions go that are not the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noncurrent {
    /// So many days after a newer one took their place.
    pub days: u32,
    /// So many of them stay all the same, the newest first.
    pub keep: u32,
}

/// Why rules are not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LifecycleError {
    /// A value is out of its range.
    #[error("{0}")]
    Argument(String),
    /// What is there does not go together.
    #[error("{0}")]
    Malformed(String),
    /// It does not go with what the rule does.
    #[error("{0}")]
    Request(String),
}

impl LifecycleError {
    /// S3's name for it.
    pub fn code(&self) -> &'static str {
        match self {
            LifecycleError::Argument(_) => "InvalidArgument",
            LifecycleError::Malformed(_) => "MalformedXML",
            LifecycleError::Request(_) => "InvalidRequest",
        }
    }
}

/// Checks rules when they are put.
///
/// # Errors
/// In words.
pub fn check(rules: &[Rule]) -> Result<(), LifecycleError> {
    use LifecycleError::{Argument, Malformed, Request};
    if !(1..=RULES_MAX).contains(&rules.len()) {
        return Err(Malformed(format!("{} rules, 1 to {RULES_MAX} are", rules.len())));
    }
    let mut ids = BTreeSet::new();
    for rule in rules {
        if rule.id.chars().count() > ID_MAX {
            return Err(Argument(format!("ID length should not exceed allowed limit of {ID_MAX}")));
        }
        if !ids.insert(&rule.id) {
            return Err(Argument(format!("rule ID must be unique: {:.80?}", rule.id)));
        }
        let does =
            rule.expires.is_some() || rule.noncurrent.is_some() || rule.abort_days.is_some() || rule.lone_markers;
        if !does {
            return Err(Request("a rule does something: expiration, noncurrent versions, or uploads".into()));
        }
        let days = [
            matches!(rule.expires, Some(Expiry::Days(0))),
            rule.noncurrent.is_some_and(|noncurrent| noncurrent.days == 0),
            rule.abort_days == Some(0),
        ];
        if days.contains(&true) {
            return Err(Argument("days are a positive number".into()));
        }
        if let Some(Expiry::Date(date)) = rule.expires
            && date.0 % DAY_MS != 0
        {
            return Err(Argument("'Date' must be at midnight GMT".into()));
        }
        if rule.noncurrent.is_some_and(|noncurrent| noncurrent.keep > NEWER_MAX) {
            return Err(Argument(format!("at most {NEWER_MAX} newer noncurrent versions are kept")));
        }
        if rule.lone_markers && rule.expires.is_some() {
            return Err(Malformed("expired delete markers go with no days and no date".into()));
        }
        let narrow =
            !rule.filter.tags.is_empty() || rule.filter.larger_than.is_some() || rule.filter.smaller_than.is_some();
        if narrow && (rule.abort_days.is_some() || rule.lone_markers) {
            return Err(Request("uploads and delete markers have neither tags nor sizes".into()));
        }
        if let (Some(larger), Some(smaller)) = (rule.filter.larger_than, rule.filter.smaller_than)
            && larger >= smaller
        {
            return Err(Request("objects larger than the one and smaller than the other size are none".into()));
        }
    }
    Ok(())
}

/// A version of a key, as far as rules look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version<'a> {
    /// When it was made.
    pub at: WallTime,
    /// Bytes and tags; none of a delete marker.
    pub object: Option<(u64, &'a BTreeMap<String, String>)>,
}

/// When it is asked what is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The moment.
    pub at: WallTime,
    /// How long days are.
    pub day: Day,
}

impl From<WallTime> for Now {
    fn from(at: WallTime) -> Self {
        Self { at, day: Day::REAL }
    }
}

impl Filter {
    fn fits(&self, key: &str, version: &Version<'_>) -> bool {
        key.starts_with(&self.prefix)
            && match version.object {
                None => self.tags.is_empty() && self.larger_than.is_none() && self.smaller_than.is_none(),
                Some((bytes, tags)) => {
                    self.larger_than.is_none_or(|than| bytes > than)
                        && self.smaller_than.is_none_or(|than| bytes < than)
                        && self.tags.iter().all(|(key, value)| tags.get(key) == Some(value))
                }
            }
    }
}

/// When a version that is an object, and the newest, goes by which rule: what `x-amz-expiration` says.
pub fn expiry<'a>(rules: &'a [Rule], key: &str, version: &Version<'_>, day: Day) -> Option<(WallTime, &'a str)> {
    version.object?;
    let enabled = rules.iter().filter(|rule| rule.enabled && rule.filter.fits(key, version));
    let all = enabled.filter_map(|rule| {
        let when = match rule.expires? {
            Expiry::Days(days) => day.days_after(version.at, days),
            Expiry::Date(date) => date,
        };
        Some((when, rule.id.as_str()))
    });
    all.min_by_key(|(when, _)| *when)
}

/// The header `x-amz-expiration` of an object.
pub fn header(rules: &[Rule], key: &str, version: &Version<'_>) -> Option<String> {
    let (when, rule) = expiry(rules, key, version, Day::REAL)?;
    Some(format!("expiry-date=\"{}\", rule-id=\"{}\"", date::http(when), escaped(rule)))
}

/// What cannot be in a header, as S3 escapes it.
fn escaped(id: &str) -> String {
    let plain = |byte: u8| (byte.is_ascii_graphic() && !matches!(byte, b'"' | b'%' | b'\\')) || byte == b' ';
    id.bytes().fold(String::new(), |out, byte| match plain(byte) {
        true => out + &char::from(byte).to_string(),
        false => out + &format!("%{byte:02X}"),
    })
}

/// What is to be done with a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Delete the newest, as a client does that names no version: where versions are kept, it stays behind a marker.
    Expire,
    /// Delete this one for good: the number in the list that was asked about.
    Remove(usize),
}

/// What is due of a key, whose versions are these from the newest down. `kept` is whether deleting leaves a marker.
pub fn due(rules: &[Rule], key: &str, versions: &[Version<'_>], now: impl Into<Now>, kept: bool) -> Vec<Due> {
    let now = now.into();
    let mut all = Vec::new();
    if let Some(newest) = versions.first() {
        let expires = expiry(rules, key, newest, now.day).is_some_and(|(when, _)| when <= now.at);
        if expires {
            all.push(if kept { Due::Expire } else { Due::Remove(0) });
        } else if newest.object.is_none() && versions.len() == 1 && lone_marker_is_due(rules, key, newest, now) {
            all.push(Due::Remove(0));
        }
    }
    for (older, pair) in versions.windows(2).enumerate() {
        // It is noncurrent since the one above it was made.
        let (since, version) = (pair[0].at, &pair[1]);
        let goes = |rule: &Rule| {
            let Some(Noncurrent { days, keep }) = rule.noncurrent else { return false };
            rule.enabled
                && rule.filter.fits(key, version)
                && older >= keep as usize
                && now.day.days_after(since, days) <= now.at
        };
        if rules.iter().any(goes) {
            all.push(Due::Remove(older + 1));
        }
    }
    all
}

/// A marker behind which nothing is goes at once where a rule says so, and with the objects of its age where one says days.
fn lone_marker_is_due(rules: &[Rule], key: &str, marker: &Version<'_>, now: Now) -> bool {
    rules.iter().filter(|rule| rule.enabled && rule.filter.fits(key, marker)).any(|rule| {
        let days = match rule.expires {
            Some(Expiry::Days(days)) => now.day.days_after(marker.at, days) <= now.at,
            Some(Expiry::Date(date)) => date <= now.at,
            None => false,
        };
        rule.lone_markers || days
    })
}

/// Whether an upload that was begun then is to end.
pub fn abort_is_due(rules: &[Rule], key: &str, begun: WallTime, now: impl Into<Now>) -> bool {
    let now = now.into();
    abort_date(rules, key, begun, now.day).is_some_and(|(when, _)| when <= now.at)
}

/// When an upload that was begun then ends if it is not finished, and by which rule.
pub fn abort_date<'a>(rules: &'a [Rule], key: &str, begun: WallTime, day: Day) -> Option<(WallTime, &'a str)> {
    let enabled = rules.iter().filter(|rule| rule.enabled && key.starts_with(&rule.filter.prefix));
    let all = enabled.filter_map(|rule| Some((day.days_after(begun, rule.abort_days?), rule.id.as_str())));
    all.min_by_key(|(when, _)| *when)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: u64 = DAY_MS;

    fn rule(id: &str) -> Rule {
        Rule { id: id.into(), enabled: true, ..Rule::default() }
    }

    fn days(days: u32) -> Rule {
        Rule { expires: Some(Expiry::Days(days)), ..rule("days") }
    }

    fn tags(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
    }

    static NONE: BTreeMap<String, String> = BTreeMap::new();

    fn object(at: u64) -> Version<'static> {
        Version { at: WallTime(at), object: Some((10, &NONE)) }
    }

    fn marker(at: u64) -> Version<'static> {
        Version { at: WallTime(at), object: None }
    }

    #[test]
    fn the_newest_goes_at_the_midnight_after_its_days() {
        let rules = [days(2)];
        let made = 10 * DAY + 5;
        let at = |now: u64, kept| due(&rules, "a", &[object(made)], WallTime(now), kept);
        assert_eq!(at(13 * DAY - 1, false), []);
        assert_eq!(at(13 * DAY, false), [Due::Remove(0)]);
        assert_eq!(at(13 * DAY, true), [Due::Expire]);
        let off = [Rule { enabled: false, ..days(2) }];
        assert_eq!(due(&off, "a", &[object(made)], WallTime(99 * DAY), false), []);
        let date = [Rule { expires: Some(Expiry::Date(WallTime(20 * DAY))), ..rule("date") }];
        assert_eq!(due(&date, "a", &[object(made)], WallTime(20 * DAY - 1), false), []);
        assert_eq!(due(&date, "a", &[object(21 * DAY)], WallTime(22 * DAY), false), [Due::Remove(0)]);
    }

    #[test]
    fn filters_look_at_key_tags_and_size_together() {
        let filter = Filter {
            prefix: "logs/".into(),
            tags: tags(&[("a", "1"), ("b", "2")]),
            larger_than: Some(5),
            smaller_than: Some(20),
        };
        let fits = |key: &str, bytes, tags: &BTreeMap<String, String>| {
            filter.fits(key, &Version { at: WallTime(0), object: Some((bytes, tags)) })
        };
        let all = tags(&[("a", "1"), ("b", "2"), ("c", "3")]);
        assert!(fits("logs/x", 10, &all));
        assert!(!fits("log/x", 10, &all) && !fits("logs/x", 5, &all) && !fits("logs/x", 20, &all));
        assert!(!fits("logs/x", 10, &tags(&[("a", "1")])) && !fits("logs/x", 10, &tags(&[("a", "1"), ("b", "3")])));
        assert!(!filter.fits("logs/x", &marker(0)));
    }

    #[test]
    fn noncurrent_versions_go_by_the_age_of_what_replaced_them_and_some_may_stay() {
        let noncurrent = |days, keep| [Rule { noncurrent: Some(Noncurrent { days, keep }), ..rule("old") }];
        let versions = [object(9 * DAY), object(5 * DAY), object(3 * DAY), object(DAY)];
        let at = |rules: &[Rule], day: u64| due(rules, "a", &versions, WallTime(day * DAY), true);
        assert_eq!(at(&noncurrent(2, 0), 10), [Due::Remove(2), Due::Remove(3)]);
        assert_eq!(at(&noncurrent(2, 0), 11), [Due::Remove(1), Due::Remove(2), Due::Remove(3)]);
        assert_eq!(at(&noncurrent(1, 2), 99), [Due::Remove(3)], "two stay");
        let markers = [object(9 * DAY), marker(5 * DAY)];
        assert_eq!(due(&noncurrent(1, 0), "a", &markers, WallTime(99 * DAY), true), [Due::Remove(1)]);
    }

    #[test]
    fn a_marker_goes_when_nothing_is_behind_it() {
        let lone = [Rule { lone_markers: true, ..rule("lone") }];
        assert_eq!(due(&lone, "a", &[marker(5)], WallTime(6), true), [Due::Remove(0)]);
        assert_eq!(due(&lone, "a", &[marker(5), object(1)], WallTime(6), true), []);
        assert_eq!(due(&lone, "a", &[object(5)], WallTime(6), true), []);
        assert_eq!(due(&[days(1)], "a", &[marker(5)], WallTime(2 * DAY - 1), true), []);
        assert_eq!(due(&[days(1)], "a", &[marker(5)], WallTime(2 * DAY), true), [Due::Remove(0)]);
        assert_eq!(due(&[days(1)], "a", &[], WallTime(2 * DAY), true), []);
    }

    #[test]
    fn uploads_end_by_the_first_rule_that_is_due() {
        let mut rules =
            vec![Rule { abort_days: Some(3), ..rule("three") }, Rule { abort_days: Some(2), ..rule("two") }];
        rules[1].filter.prefix = "tmp/".into();
        assert_eq!(abort_date(&rules, "tmp/a", WallTime(1), Day::REAL), Some((WallTime(3 * DAY), "two")));
        assert_eq!(abort_date(&rules, "a", WallTime(1), Day::REAL), Some((WallTime(4 * DAY), "three")));
        assert!(abort_is_due(&rules, "a", WallTime(1), WallTime(4 * DAY)));
        assert!(!abort_is_due(&rules, "a", WallTime(1), WallTime(4 * DAY - 1)));
        assert!(!abort_is_due(&[days(1)], "a", WallTime(1), WallTime(99 * DAY)));
    }

    #[test]
    fn clients_are_told_when_and_by_which_rule() {
        let rules = [Rule { id: "a \"b\"".into(), ..days(1) }];
        let said = header(&rules, "a", &object(20_454 * DAY + 1)).expect("it expires");
        assert_eq!(said, "expiry-date=\"Sat, 03 Jan 2026 00:00:00 GMT\", rule-id=\"a %22b%22\"");
        assert_eq!(header(&rules, "a", &marker(1)), None);
    }

    #[test]
    fn rules_that_say_nothing_or_the_impossible_are_refused() {
        let code = |rules: &[Rule]| check(rules).expect_err("it is wrong").code();
        assert!(check(&[days(1)]).is_ok());
        assert_eq!(code(&[]), "MalformedXML");
        assert_eq!(code(&vec![days(1); RULES_MAX + 1]), "MalformedXML");
        assert_eq!(code(&[rule("nothing")]), "InvalidRequest");
        assert_eq!(code(&[days(1), days(2)]), "InvalidArgument");
        assert_eq!(code(&[Rule { id: "a".repeat(256), ..days(1) }]), "InvalidArgument");
        assert_eq!(code(&[days(0)]), "InvalidArgument");
        assert_eq!(code(&[Rule { abort_days: Some(0), ..rule("a") }]), "InvalidArgument");
        assert_eq!(code(&[Rule { noncurrent: Some(Noncurrent { days: 0, keep: 0 }), ..rule("a") }]), "InvalidArgument");
        assert_eq!(
            code(&[Rule { noncurrent: Some(Noncurrent { days: 1, keep: 101 }), ..rule("a") }]),
            "InvalidArgument"
        );
        assert_eq!(code(&[Rule { expires: Some(Expiry::Date(WallTime(5))), ..rule("a") }]), "InvalidArgument");
        assert_eq!(code(&[Rule { lone_markers: true, ..days(1) }]), "MalformedXML");
        let tagged = Filter { tags: tags(&[("a", "b")]), ..Filter::default() };
        assert_eq!(code(&[Rule { abort_days: Some(1), filter: tagged, ..rule("a") }]), "InvalidRequest");
        let empty = Filter { larger_than: Some(5), smaller_than: Some(5), ..Filter::default() };
        assert_eq!(code(&[Rule { filter: empty, ..days(1) }]), "InvalidRequest");
    }

    proptest! {
        #[test]
        fn what_is_due_stays_due(at in 0_u64..100 * DAY, days_ in 1_u32..50, now in 0_u64..200 * DAY, later in 0_u64..100 * DAY) {
            let rules = [days(days_)];
            let is = |now| !due(&rules, "a", &[object(at)], WallTime(now), false).is_empty();
            prop_assert!(!is(now) || is(now + later));
            prop_assert!(!is(at + u64::from(days_) * DAY - 1), "never before its time");
            prop_assert!(is(at + u64::from(days_ + 1) * DAY), "and a day later at most");
        }
    }
}
