//! An answer that is kept, or comes in.

use std::sync::Arc;

use bytes::Bytes;
use hirsel_model::purge::is_tag;
use hirsel_model::{AppName, LogIndex};
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, DATE, HeaderName};
use http::{HeaderMap, StatusCode};

use super::dates;
use super::directives::Members;
use super::disk::{Opened, Stored};
use super::key::{Key, Selected, Way, selecting};
use super::policy::{self, Freshness, Times};
use crate::budget::Reserved;

/// What a program calls its answer by, for whoever shall forget it: words between commas. Clients do not see it.
pub const CACHE_TAG: HeaderName = HeaderName::from_static("cache-tag");

/// Tags of one answer. One that has more is not kept: nobody could rely on what was left out.
const TAGS_MAX: usize = 64;

/// What an answer takes besides its text: a place in the store, and what its fields are kept in.
const OVERHEAD_BYTES: u64 = 512;

/// What a field takes besides its text.
const FIELD_BYTES: u64 = 64;

/// The head of an answer, and what is known of it.
#[derive(Debug)]
pub struct Head {
    /// By what it was asked for.
    pub key: Key,
    /// By which way.
    pub way: Way,
    /// Whose route that was.
    pub app: AppName,
    /// Its status.
    pub status: StatusCode,
    /// Its fields.
    pub headers: HeaderMap,
    /// What it depends on.
    pub selected: Vec<Selected>,
    /// For how long it holds.
    pub freshness: Freshness,
    /// The last purge that was carried out before it was asked for.
    pub asked_after: LogIndex,
}

/// An answer that is kept.
#[derive(Debug)]
pub struct Kept {
    /// Its head.
    pub head: Arc<Head>,
    /// Its body, which gives back what it takes of what may be kept when the last one lets go of it.
    pub body: Content,
    _reserved: Reserved,
}

/// The body of an answer that is kept.
#[derive(Clone, Debug)]
pub enum Content {
    /// It is in memory.
    Memory(Bytes),
    /// It is on disk.
    Disk(Arc<Stored>),
}

impl Content {
    /// How long it is.
    pub fn length(&self) -> u64 {
        match self {
            Content::Memory(bytes) => bytes.len() as u64,
            Content::Disk(stored) => stored.length(),
        }
    }
}

/// The body of an answer that is kept, where it can be given at once.
#[derive(Clone, Debug)]
pub enum AtHand {
    /// All of it.
    Memory(Bytes),
    /// It can be read.
    File(Opened),
}

/// An answer that is kept, and can be given at once.
#[derive(Clone, Debug)]
pub struct Hand {
    /// The answer.
    pub kept: Arc<Kept>,
    /// Its body.
    pub body: AtHand,
}

impl Hand {
    /// Its head.
    pub fn head(&self) -> &Head {
        &self.kept.head
    }
}

/// Bytes that give back what they take when the last one lets go of them.
struct Held {
    bytes: Vec<u8>,
    _reserved: Reserved,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Bytes that give back what they take when the last one lets go of them.
pub fn held(bytes: Vec<u8>, reserved: Reserved) -> Bytes {
    Bytes::from_owner(Held { bytes, _reserved: reserved })
}

impl Head {
    /// The head of an answer to a request with the fields `asked`. None if it has too many tags, or some that are none.
    pub fn of(
        (key, way, app): (Key, Way, AppName),
        asked: &HeaderMap,
        (status, mut headers): (StatusCode, HeaderMap),
        freshness: Freshness,
        (times, asked_after): (Times, LogIndex),
    ) -> Option<Self> {
        let (mut number, mut tags) = (0, headers.get_all(CACHE_TAG).iter().flat_map(Members::of));
        let is_good = |tag: &[u8]| std::str::from_utf8(tag).is_ok_and(is_tag);
        if !tags.by_ref().inspect(|_| number += 1).all(is_good) || number > TAGS_MAX {
            return None;
        }
        if !headers.contains_key(DATE)
            && let Some(date) = dates::written(times.wall)
        {
            // Whoever keeps it has to say when it came (RFC 9110, section 6.6.1).
            headers.insert(DATE, date);
        }
        let selected = selected(&headers, asked);
        Some(Self { key, way, app, status, headers, selected, freshness, asked_after })
    }

    /// Its fields after an instance said by an answer with these that nothing has changed (RFC 9111, section 3.2).
    pub fn freshened(&self, headers: &HeaderMap) -> HeaderMap {
        let mut merged = self.headers.clone();
        let goes_over = |name: &HeaderName| !policy::OF_THE_BODY.contains(name);
        for name in headers.keys().filter(|name| goes_over(name)) {
            merged.remove(name);
        }
        for (name, value) in headers.iter().filter(|(name, _)| goes_over(name)) {
            merged.append(name.clone(), value.clone());
        }
        merged
    }

    /// What it is called.
    pub fn tags(&self) -> impl Iterator<Item = &str> {
        let members = self.headers.get_all(CACHE_TAG).iter().flat_map(Members::of);
        members.filter_map(|tag| std::str::from_utf8(tag).ok())
    }

    /// Whether it answers a request with these fields that came by this way.
    pub fn is_for(&self, way: Way, asked: &HeaderMap) -> bool {
        self.way == way && self.selected.iter().all(|(name, value)| selecting(asked, name) == *value)
    }

    /// Whether it answers the same requests as another one of its key.
    pub fn is_like(&self, other: &Self) -> bool {
        self.key == other.key && self.way == other.way && self.selected == other.selected
    }

    /// What it takes of what may be kept.
    pub fn weight(&self) -> u64 {
        let fields = self.headers.iter().map(|(name, value)| name.as_str().len() + value.len());
        let selected =
            self.selected.iter().map(|(name, value)| name.as_str().len() + value.as_ref().map_or(0, |it| it.len()));
        let texts: usize = fields.chain(selected).sum::<usize>() + self.key.as_str().len();
        OVERHEAD_BYTES + FIELD_BYTES * self.headers.len() as u64 + texts as u64
    }

    /// The length of its body, as it says.
    pub fn length(&self) -> Option<u64> {
        self.headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
    }

    /// Whether a purge with this index or a later one may be about it.
    pub fn is_older_than(&self, purge: LogIndex) -> bool {
        self.asked_after < purge
    }
}

impl Kept {
    /// An answer that is kept; `reserved` is what its head takes.
    pub fn new(head: Arc<Head>, body: Content, reserved: Reserved) -> Self {
        Self { head, body, _reserved: reserved }
    }
}

/// What an answer depends on, with what the request said.
fn selected(headers: &HeaderMap, asked: &HeaderMap) -> Vec<Selected> {
    let mut names: Vec<HeaderName> =
        policy::vary(headers).filter_map(|name| HeaderName::from_bytes(name).ok()).collect();
    // Who encodes for some and does not say so would have others get what they do not understand.
    if headers.contains_key(CONTENT_ENCODING) {
        names.push(ACCEPT_ENCODING);
    }
    names.sort_by(|one, other| one.as_str().cmp(other.as_str()));
    names.dedup();
    names.into_iter().map(|name| (name.clone(), selecting(asked, &name))).collect()
}
