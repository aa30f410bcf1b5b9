//! Listings: pages of bounded work. What is rolled up into a common prefix is skipped by one seek, however many keys it has.

use serde::{Deserialize, Serialize};

use super::key::{self, BucketId};
use super::kinds::{Bucket, Named, Part, Upload, Version};
use super::limits::PAGE_MAX;
use super::names::{BucketName, ObjectKey, Stamp, UploadId, VersionRef};
use super::read::{self, value};
use super::rows::{Row, Rows, RowsError, Step};

/// Which keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Those that begin with this.
    pub prefix: String,
    /// What has this after the prefix is rolled up into one common prefix, which ends with it. None if it is empty.
    pub delimiter: String,
    /// Only keys and common prefixes after this one.
    pub after: Option<String>,
    /// At most so many, and never more than [`PAGE_MAX`].
    pub max: usize,
}

/// One page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page<T> {
    /// In order.
    pub entries: Vec<T>,
    /// Common prefixes, in order.
    pub prefixes: Vec<String>,
    /// The last key or common prefix, if there is more after it: what the next page is asked after.
    pub next: Option<String>,
}

/// A page while it is made.
struct Roll<'a, T> {
    ask: &'a Ask,
    max: usize,
    page: Page<T>,
    last: Option<String>,
}

/// What becomes of a key.
enum Met {
    /// It is an entry.
    Entry,
    /// It is in a new common prefix: go on after it.
    Prefix(String),
    /// The page is full.
    Full,
}

impl<'a, T> Roll<'a, T> {
    fn new(ask: &'a Ask) -> Self {
        let page = Page { entries: Vec::new(), prefixes: Vec::new(), next: None };
        Self { ask, max: ask.max.min(PAGE_MAX), page, last: None }
    }

    fn meet(&mut self, key: &str) -> Met {
        if self.page.entries.len() + self.page.prefixes.len() >= self.max {
            self.page.next = self.last.take();
            return Met::Full;
        }
        match common(self.ask, key) {
            Some(prefix) => {
                self.page.prefixes.push(prefix.to_owned());
                self.last = Some(prefix.to_owned());
                Met::Prefix(prefix.to_owned())
            }
            None => {
                self.last = Some(key.to_owned());
                Met::Entry
            }
        }
    }
}

/// The common prefix that `key` is rolled up into.
fn common<'k>(ask: &Ask, key: &'k str) -> Option<&'k str> {
    if ask.delimiter.is_empty() {
        return None;
    }
    let at = key.get(ask.prefix.len()..)?.find(&ask.delimiter)?;
    key.get(..ask.prefix.len() + at + ask.delimiter.len())
}

/// Where rows of `kind` begin and end that `ask` is about.
fn range(kind: u8, bucket: BucketId, ask: &Ask) -> (Vec<u8>, Vec<u8>) {
    let (from, to) = key::all_of(key::keys_from(kind, bucket, &ask.prefix));
    let Some(after) = &ask.after else { return (from, to) };
    let skip = match common(ask, after).filter(|_| after.starts_with(&ask.prefix)) {
        // It was shown, or is before what is asked for.
        Some(prefix) => key::after(&key::keys_from(kind, bucket, prefix)),
        None => behind(kind, bucket, after),
    };
    (from.max(skip), to)
}

/// Behind all rows of `kind` of a key.
fn behind(kind: u8, bucket: BucketId, key: &str) -> Vec<u8> {
    let mut row = key::keys_from(kind, bucket, key);
    row.extend([0, 2]);
    row
}

fn key_of(row: &[u8]) -> Result<(String, &[u8]), RowsError> {
    key::key_in(row).ok_or_else(|| RowsError("the key of a row cannot be read".into()))
}

/// Objects: the newest version of each key that is not deleted.
///
/// # Errors
/// When the rows cannot be read.
pub fn objects(rows: &dyn Rows, bucket: BucketId, ask: &Ask) -> Result<Page<(String, Version)>, RowsError> {
    let mut roll = Roll::new(ask);
    if roll.max == 0 {
        return Ok(roll.page);
    }
    let (from, to) = range(b'c', bucket, ask);
    rows.scan(&from, &to, &mut |row, bytes| {
        let (key, _) = key_of(row)?;
        Ok(match roll.meet(&key) {
            Met::Full => Step::Stop,
            Met::Prefix(prefix) => Step::Seek(key::after(&key::keys_from(b'c', bucket, &prefix))),
            Met::Entry => {
                roll.page.entries.push((key, value(row, bytes)?));
                Step::On
            }
        })
    })?;
    Ok(roll.page)
}

/// A version in a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Its key.
    pub key: String,
    /// Itself.
    pub version: Version,
    /// It is the newest of its key.
    pub latest: bool,
}

/// All versions and delete markers, those of one key from the newest to the oldest. With `version`, those of the key [`Ask::after`]
/// that are older than that one come first.
///
/// # Errors
/// When the rows cannot be read.
pub fn versions(
    rows: &dyn Rows,
    bucket: BucketId,
    ask: &Ask,
    version: Option<VersionRef>,
) -> Result<Page<Listed>, RowsError> {
    let mut roll = Roll::new(ask);
    if roll.max == 0 {
        return Ok(roll.page);
    }
    let (mut current_from, current_to) = range(b'c', bucket, ask);
    let (mut older_from, older_to) = range(b'v', bucket, ask);
    if let (Some(after), Some(version)) = (&ask.after, version)
        && let Ok(key) = ObjectKey::new(after.as_str())
        && common(ask, after).is_none()
        && let Some(from) = older_than(rows, bucket, &key, version)?
    {
        older_from = from.max(key::keys_from(b'v', bucket, &ask.prefix));
    }
    let mut current = Peeked::new(rows.first(&current_from, &current_to)?)?;
    let mut older = Peeked::new(rows.first(&older_from, &older_to)?)?;
    loop {
        let takes_current = match (&current, &older) {
            (None, None) => break,
            (Some(current), Some(older)) => current.key <= older.key,
            (Some(_), None) => true,
            (None, Some(_)) => false,
        };
        let Some(next) = (if takes_current { &current } else { &older }) else { break };
        match roll.meet(&next.key) {
            Met::Full => break,
            Met::Prefix(prefix) => {
                current_from = current_from.max(key::after(&key::keys_from(b'c', bucket, &prefix)));
                older_from = older_from.max(key::after(&key::keys_from(b'v', bucket, &prefix)));
                current = Peeked::new(rows.first(&current_from, &current_to)?)?;
                older = Peeked::new(rows.first(&older_from, &older_to)?)?;
            }
            Met::Entry => {
                let found: Version = value(&next.row.0, &next.row.1)?;
                let latest = takes_current || is_latest(rows, bucket, &next.key, &found)?;
                roll.page.entries.push(Listed { key: next.key.clone(), version: found, latest });
                let mut from = next.row.0.clone();
                from.push(0);
                if takes_current {
                    current = Peeked::new(rows.first(&from, &current_to)?)?;
                    current_from = from;
                } else {
                    older = Peeked::new(rows.first(&from, &older_to)?)?;
                    older_from = from;
                }
            }
        }
    }
    Ok(roll.page)
}

struct Peeked {
    key: String,
    row: Row,
}

impl Peeked {
    fn new(row: Option<Row>) -> Result<Option<Self>, RowsError> {
        row.map(|row| Ok(Self { key: key_of(&row.0)?.0, row })).transpose()
    }
}

/// Whether a version that is not a current one is the newest of its key: only a delete marker can be.
fn is_latest(rows: &dyn Rows, bucket: BucketId, key: &str, found: &Version) -> Result<bool, RowsError> {
    if found.object.is_some() {
        return Ok(false);
    }
    let key = ObjectKey::new(key).map_err(|error| RowsError(error.to_string()))?;
    Ok(read::newest(rows, bucket, &key)?.is_some_and(|newest| newest.stamp == found.stamp))
}

/// Where those versions of `key` begin that are older than `version`; none if it is not known any more.
fn older_than(
    rows: &dyn Rows,
    bucket: BucketId,
    key: &ObjectKey,
    version: VersionRef,
) -> Result<Option<Vec<u8>>, RowsError> {
    let number = match version {
        VersionRef::Id(stamp) => Some(stamp.number),
        VersionRef::Null => read::version(rows, bucket, key, version)?.map(|version| version.stamp.number),
    };
    Ok(number.map(|number| {
        let mut row = key::version(bucket, key, number);
        row.push(0);
        row
    }))
}

/// An upload in a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uploading {
    /// Its key.
    pub key: String,
    /// Which.
    pub id: UploadId,
    /// Itself.
    pub upload: Upload,
}

/// Uploads under way, by key and then as they were begun. With `upload`, those of the key [`Ask::after`] that were begun after that one
/// come first.
///
/// # Errors
/// When the rows cannot be read.
pub fn uploads(
    rows: &dyn Rows,
    bucket: BucketId,
    ask: &Ask,
    upload: Option<UploadId>,
) -> Result<Page<Uploading>, RowsError> {
    let mut roll = Roll::new(ask);
    if roll.max == 0 {
        return Ok(roll.page);
    }
    let (mut from, to) = range(b'u', bucket, ask);
    if let (Some(after), Some(upload)) = (&ask.after, upload)
        && let Ok(key) = ObjectKey::new(after.as_str())
        && common(ask, after).is_none()
    {
        let mut row = key::upload(bucket, &key, upload);
        row.push(0);
        from = row.max(key::keys_from(b'u', bucket, &ask.prefix));
    }
    rows.scan(&from, &to, &mut |row, bytes| {
        let (key, rest) = key_of(row)?;
        Ok(match roll.meet(&key) {
            Met::Full => Step::Stop,
            Met::Prefix(prefix) => Step::Seek(key::after(&key::keys_from(b'u', bucket, &prefix))),
            Met::Entry => {
                let id = rest.try_into().map_err(|_| RowsError("the row of an upload is short".into()))?;
                roll.page.entries.push(Uploading { key, id: Stamp::from_bytes(id), upload: value(row, bytes)? });
                Step::On
            }
        })
    })?;
    Ok(roll.page)
}

/// Parts of an upload with numbers after `after`, at most `max`, and whether there are more.
///
/// # Errors
/// When the rows cannot be read.
pub fn parts(rows: &dyn Rows, upload: UploadId, after: u16, max: usize) -> Result<(Vec<(u16, Part)>, bool), RowsError> {
    let (mut found, mut more) = (Vec::new(), false);
    let mut from = key::part(upload, after);
    from.push(0);
    rows.scan(&from, &key::after(&key::part(upload, u16::MAX)), &mut |row, bytes| {
        if found.len() >= max.min(PAGE_MAX) {
            more = true;
            return Ok(Step::Stop);
        }
        let number = row.last_chunk().map_or(0, |number| u16::from_be_bytes(*number));
        found.push((number, value(row, bytes)?));
        Ok(Step::On)
    })?;
    Ok((found, more))
}

/// Buckets whose names begin with `prefix`, after that one, at most `max`, and whether there are more. With an owner, only his; others
/// are passed over, so a page may be short of them.
///
/// # Errors
/// When the rows cannot be read.
pub fn buckets(
    rows: &dyn Rows,
    owner: Option<&str>,
    prefix: &str,
    after: Option<&BucketName>,
    max: usize,
) -> Result<(Vec<Named>, bool), RowsError> {
    let (mut from, to) = key::all_of([b"b", prefix.as_bytes()].concat());
    if let Some(after) = after {
        let mut row = key::bucket(after);
        row.push(0);
        from = from.max(row);
    }
    let (mut found, mut more) = (Vec::new(), false);
    rows.scan(&from, &to, &mut |row, bytes| {
        let bucket: Bucket = value(row, bytes)?;
        if owner.is_some_and(|owner| owner != bucket.owner) {
            return Ok(Step::On);
        }
        if found.len() >= max.min(PAGE_MAX) {
            more = true;
            return Ok(Step::Stop);
        }
        let name = std::str::from_utf8(&row[1..]).ok().and_then(|name| BucketName::new(name).ok());
        let name = name.ok_or_else(|| RowsError("the name of a bucket cannot be read".into()))?;
        found.push(Named { name, bucket });
        Ok(Step::On)
    })?;
    Ok((found, more))
}
