//! The rows as one entry sees and changes them: typed, with the counters of the group.

use hirsel_model::{WallTime, codec};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{ApplyError, Changes};
use crate::meta::key::{self, BucketId};
use crate::meta::kinds::{Bucket, Dying, Head, Usage, Version};
use crate::meta::names::{BucketName, ObjectKey, Stamp, VersionRef};
use crate::meta::refusal::Refusal;
use crate::meta::rows::{Overlay, Rows, RowsError};

/// Why an entry is not carried out.
pub enum Stop {
    /// It is refused.
    Refused(Refusal),
    /// The replica must stop.
    Broken(ApplyError),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Stop::Refused(refusal)
    }
}

impl From<RowsError> for Stop {
    fn from(error: RowsError) -> Self {
        Stop::Broken(error.into())
    }
}

/// Where a version is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// As the newest one.
    Current,
    /// Among the others.
    Older,
}

pub struct Scene<'a> {
    rows: Overlay<'a>,
    pub head: Head,
    found: Head,
    pub at: WallTime,
    salt: u64,
}

impl<'a> Scene<'a> {
    pub fn new(rows: &'a dyn Rows, at: WallTime, salt: u64) -> Result<Self, RowsError> {
        let found: Head = read(rows, &key::head())?.unwrap_or_default();
        Ok(Self { rows: Overlay::new(rows), head: found.clone(), found, at, salt })
    }

    /// What was changed.
    pub fn finish(mut self) -> Changes {
        if self.head != self.found {
            self.rows.put(key::head(), codec::encode(&self.head));
        }
        self.rows.take()
    }

    pub fn rows(&self) -> &dyn Rows {
        &self.rows
    }

    pub fn read<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, RowsError> {
        read(&self.rows, key)
    }

    pub fn has(&self, key: &[u8]) -> Result<bool, RowsError> {
        Ok(self.rows.get(key)?.is_some())
    }

    pub fn write<T: Serialize>(&mut self, key: Vec<u8>, value: &T) {
        self.rows.put(key, codec::encode(value));
    }

    /// A row that says all by its key.
    pub fn mark(&mut self, key: Vec<u8>) {
        self.rows.put(key, Vec::new());
    }

    pub fn remove(&mut self, key: Vec<u8>) {
        self.rows.delete(key);
    }

    /// Keys of rows from `from` to before `to`, at most `max`.
    pub fn keys(&self, (from, to): (Vec<u8>, Vec<u8>), max: usize) -> Result<Vec<Vec<u8>>, RowsError> {
        use crate::meta::rows::Step;
        let mut keys = Vec::new();
        if max > 0 {
            self.rows.scan(&from, &to, &mut |key, _| {
                keys.push(key.to_vec());
                Ok(if keys.len() < max { Step::On } else { Step::Stop })
            })?;
        }
        Ok(keys)
    }

    /// A number that nothing else has.
    pub fn number(&mut self) -> u64 {
        let number = self.head.next;
        self.head.next += 1;
        number
    }

    /// A stamp that nothing else has.
    pub fn stamp(&mut self) -> Stamp {
        Stamp { number: self.number(), salt: self.salt }
    }

    pub fn bucket(&self, name: &BucketName) -> Result<Bucket, Stop> {
        Ok(self.read(&key::bucket(name))?.ok_or(Refusal::NoSuchBucket)?)
    }

    pub fn usage(&self, bucket: BucketId) -> Result<Usage, RowsError> {
        Ok(self.read(&key::usage(bucket))?.unwrap_or_default())
    }

    pub fn set_usage(&mut self, bucket: BucketId, usage: Usage) {
        self.write(key::usage(bucket), &usage);
    }

    /// Puts something into the queue of what dies.
    pub fn dies(&mut self, dying: &Dying) {
        let number = self.number();
        self.write(key::dying(number), dying);
    }

    pub fn current(&self, bucket: BucketId, key: &ObjectKey) -> Result<Option<Version>, RowsError> {
        self.read(&key::current(bucket, key))
    }

    /// The newest of those that are not the current one.
    pub fn newest_older(&self, bucket: BucketId, key: &ObjectKey) -> Result<Option<Version>, RowsError> {
        let (from, to) = (key::version(bucket, key, u64::MAX), key::version(bucket, key, 0));
        match self.rows.first(&from, &key::after(&to))? {
            Some((row, bytes)) => decode(&row, &bytes).map(Some),
            None => Ok(None),
        }
    }

    pub fn find(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        wanted: VersionRef,
    ) -> Result<Option<(Place, Version)>, RowsError> {
        if let Some(current) = self.current(bucket, key)?
            && current.name() == wanted
        {
            return Ok(Some((Place::Current, current)));
        }
        let number = match wanted {
            VersionRef::Null => match self.read(&key::null(bucket, key))? {
                Some(number) => number,
                None => return Ok(None),
            },
            VersionRef::Id(stamp) => stamp.number,
        };
        let version: Option<Version> = self.read(&key::version(bucket, key, number))?;
        Ok(version.filter(|version| version.name() == wanted).map(|version| (Place::Older, version)))
    }

    /// Writes a version where it belongs.
    pub fn keep(&mut self, bucket: BucketId, key: &ObjectKey, place: Place, version: &Version) {
        match place {
            Place::Current => self.write(key::current(bucket, key), version),
            Place::Older => {
                self.write(key::version(bucket, key, version.stamp.number), version);
                if version.null {
                    self.write(key::null(bucket, key), &version.stamp.number);
                }
            }
        }
    }

    /// Removes the row of a version.
    pub fn drop_row(&mut self, bucket: BucketId, key: &ObjectKey, place: Place, version: &Version) {
        match place {
            Place::Current => self.remove(key::current(bucket, key)),
            Place::Older => {
                self.remove(key::version(bucket, key, version.stamp.number));
                if version.null {
                    self.remove(key::null(bucket, key));
                }
            }
        }
    }
}

/// Reads a row as what it should be.
pub fn read<T: DeserializeOwned>(rows: &dyn Rows, key: &[u8]) -> Result<Option<T>, RowsError> {
    rows.get(key)?.map(|bytes| decode(key, &bytes)).transpose()
}

/// Reads the value of a row.
pub fn decode<T: DeserializeOwned>(key: &[u8], bytes: &[u8]) -> Result<T, RowsError> {
    let kind = key.first().map_or('?', |kind| char::from(*kind));
    codec::decode(bytes).map_err(|error| RowsError(format!("a row of kind {kind}: {error}")))
}
