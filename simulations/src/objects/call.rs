//! One thing that a client asks of a gateway.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::{BUCKETS, Bucket, Journal, KEYS, Place, content};
use crate::bug::Bug;
use crate::linear::{Act, End, Value};
use crate::plugins::storage::gateway::Gateway;
use crate::plugins::storage::meta::access::MetaError;
use crate::plugins::storage::meta::command::{
    Answer, By, Command, CompleteUpload, Condition, Copying, CreateUpload, Deletion, Put, PutPart,
};
use crate::plugins::storage::meta::kinds::{About, Acl, Written};
use crate::plugins::storage::meta::list;
use crate::plugins::storage::meta::names::{BucketName, ObjectKey, UploadId};
use crate::plugins::storage::meta::query::{Query, Reply};
use crate::plugins::storage::meta::refusal::Refusal;

/// A body comes in pieces of so many bytes, as from a network.
const PIECE_BYTES: usize = 64 << 10;
/// How often a body is asked for again that could not be read: it may have been deleted meanwhile, or whoever has it away.
const GETS_MAX: usize = 3;

/// When a body is to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Only {
    /// Whatever is there.
    Always,
    /// Where nothing is.
    First,
    /// In the place of this one.
    After(u64),
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Ask {
    Make(usize),
    Put { at: Place, value: u64, bytes: usize, only: Only },
    Get(Place),
    Delete(Place),
    List(usize),
    Copy { from: Place, value: u64, to: Place },
    Upload { at: Place, value: u64, parts: Vec<usize>, only: Only },
}

impl Ask {
    /// What it does to which registers.
    pub(super) fn acts(&self) -> Vec<(Place, Act)> {
        match self {
            Ask::Make(_) => Vec::new(),
            Ask::Put { at, value, only, .. } | Ask::Upload { at, value, only, .. } => vec![(*at, only.act(*value))],
            Ask::Get(at) => vec![(*at, Act::Read)],
            Ask::Delete(at) => vec![(*at, Act::Erase)],
            Ask::List(bucket) => (0..KEYS.len()).map(|key| (Place { bucket: *bucket, key }, Act::Read)).collect(),
            Ask::Copy { from, value, to } => vec![(*to, Act::Write(*value)), (*from, Act::Read)],
        }
    }

    /// The number and the length of the body that it brings.
    pub(super) fn brings(&self) -> Option<(u64, usize)> {
        match self {
            Ask::Put { value, bytes, .. } => Some((*value, *bytes)),
            Ask::Upload { value, parts, .. } => Some((*value, parts.iter().sum())),
            Ask::Make(_) | Ask::Get(_) | Ask::Delete(_) | Ask::List(_) | Ask::Copy { .. } => None,
        }
    }
}

impl Only {
    fn act(self, value: u64) -> Act {
        match self {
            Only::Always => Act::Write(value),
            Only::First => Act::Swap { from: None, to: value },
            Only::After(seen) => Act::Swap { from: Some(seen), to: value },
        }
    }

    /// What a refusal says of the register.
    fn refused(self) -> Act {
        match self {
            Only::Always | Only::First => Act::Differs(None),
            Only::After(seen) => Act::Differs(Some(seen)),
        }
    }

    fn condition(self) -> Condition {
        match self {
            Only::Always => Condition::default(),
            Only::First => Condition { if_none_match: Some("*".into()), ..Condition::default() },
            Only::After(seen) => Condition { if_match: Some(etag(seen)), ..Condition::default() },
        }
    }
}

/// The ETag of a body.
fn etag(value: u64) -> String {
    format!("{value:032x}")
}

fn value_of(etag: &str) -> Option<u64> {
    u64::from_str_radix(etag, 16).ok()
}

fn bucket_name(bucket: &Bucket) -> Result<BucketName, MetaError> {
    BucketName::new(bucket.name).map_err(|error| MetaError::Unreachable(error.0))
}

fn object_key(at: Place) -> Result<ObjectKey, MetaError> {
    ObjectKey::new(at.name()).map_err(|error| MetaError::Unreachable(error.0))
}

/// A question on its way to an agent.
#[derive(Clone, Debug)]
pub struct Call {
    pub(super) numbers: Range<usize>,
    pub(super) ask: Ask,
}

impl Call {
    /// Asks `gateway`, and writes into `journal` what it answers. Returns what that was, for people.
    pub async fn run(self, gateway: Option<Gateway>, journal: Arc<Mutex<Journal>>, bug: Bug) -> String {
        let failed = || self.ask.acts().into_iter().map(|(_, act)| (act, End::Failed)).collect::<Vec<_>>();
        let Some(gateway) = gateway else {
            crate::lock(&journal).end(&self.numbers, failed());
            return format!("{:?}: no gateway", self.ask);
        };
        let client = Guest { gateway, journal: journal.clone(), bug };
        let (ends, words) = match client.ask(&self.ask).await {
            Ok(ends) => (ends, String::new()),
            Err(MetaError::Unknown) => {
                // What it was to read it has not read.
                let unknown = |(_, act)| (act, if act == Act::Read { End::Failed } else { End::Unknown });
                (self.ask.acts().into_iter().map(unknown).collect(), " unknown".into())
            }
            Err(error) => (failed(), format!(" {error}")),
        };
        let what = format!("{:?}: {ends:?}{words}", self.ask);
        crate::lock(&journal).end(&self.numbers, ends);
        what
    }
}

/// A client at a gateway.
struct Guest {
    gateway: Gateway,
    journal: Arc<Mutex<Journal>>,
    bug: Bug,
}

type Ends = Result<Vec<(Act, End)>, MetaError>;

impl Guest {
    async fn ask(&self, ask: &Ask) -> Ends {
        match ask {
            Ask::Make(bucket) => self.make(*bucket).await,
            Ask::Put { at, value, bytes, only } => self.put(*at, *value, *bytes, *only).await,
            Ask::Get(at) => self.get(*at).await,
            Ask::Delete(at) => self.delete(*at).await,
            Ask::List(bucket) => self.list(*bucket).await,
            Ask::Copy { from, value, to } => self.copy(*from, *value, *to).await,
            Ask::Upload { at, value, parts, only } => self.upload(*at, *value, parts, *only).await,
        }
    }

    async fn make(&self, number: usize) -> Ends {
        let bucket = &BUCKETS[number];
        let create = Command::CreateBucket {
            name: bucket_name(bucket)?,
            owner: "ann".into(),
            region: "here".into(),
            lockable: false,
            acl: Acl::default(),
            class: bucket.class,
        };
        match self.gateway.ask(create).await {
            Ok(_) | Err(MetaError::Refused(Refusal::BucketYours)) => {
                crate::lock(&self.journal).made.insert(number);
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    }

    /// A body that is safe and that nobody can see yet.
    async fn write(&self, at: Place, body: &[u8], is_part: bool) -> Result<Written, MetaError> {
        let bucket = &BUCKETS[at.bucket];
        let mut writer = self.gateway.writer(bucket.class, bucket.when_short);
        if is_part {
            writer = writer.of_part();
        }
        let unwritten = |error: crate::plugins::storage::gateway::WriteError| MetaError::Unreachable(error.to_string());
        for piece in body.chunks(PIECE_BYTES) {
            writer.push(Bytes::copy_from_slice(piece)).await.map_err(unwritten)?;
        }
        writer.finish().await.map_err(unwritten)
    }

    async fn put(&self, at: Place, value: u64, bytes: usize, only: Only) -> Ends {
        let body = self.write(at, &content(value, bytes), false).await?;
        let put = Put {
            bucket: bucket_name(&BUCKETS[at.bucket])?,
            key: object_key(at)?,
            body,
            etag: etag(value),
            checksum: None,
            about: About::default(),
            lock: None,
            condition: only.condition(),
            by: By::Put,
        };
        if self.bug == Bug::Unkept && value.is_multiple_of(3) {
            return Ok(vec![(only.act(value), End::Done(None))]);
        }
        committed(self.gateway.ask(Command::Put(Box::new(put))).await, value, only)
    }

    async fn get(&self, at: Place) -> Ends {
        let saw = |value: Value| Ok(vec![(Act::Read, End::Done(value))]);
        let mut why = String::new();
        for _ in 0..GETS_MAX {
            let (bucket, key) = (bucket_name(&BUCKETS[at.bucket])?, object_key(at)?);
            let found = match self.gateway.look(Query::Version { bucket, key, version: None, from: 0 }).await {
                Ok(Reply::Version(found)) => found,
                Err(MetaError::Refused(Refusal::NoSuchKey)) => return saw(None),
                Ok(other) => return self.wrong(format!("{other:?} is no version")),
                Err(error) => return Err(error),
            };
            let Some(object) = found.version.object.as_deref() else { return saw(None) };
            let known = value_of(&object.etag).and_then(|value| {
                let bytes = crate::lock(&self.journal).bytes.get(&value).copied();
                bytes.map(|bytes| (value, bytes))
            });
            let Some((value, bytes)) = known else {
                return self.wrong(format!("{at:?} has an object that nobody put: {}", object.etag));
            };
            if object.bytes != bytes as u64 {
                return self.wrong(format!("{at:?} {value} has {} bytes of {bytes}", object.bytes));
            }
            let mut body = self.gateway.read(object, found.pieces.clone(), 0, object.bytes);
            let mut given = Vec::with_capacity(bytes);
            let read = loop {
                match body.next().await {
                    Ok(Some(piece)) => given.extend_from_slice(&piece),
                    Ok(None) => break Ok(()),
                    Err(why) => break Err(why),
                }
            };
            match read {
                Ok(()) if given == content(value, bytes) => {
                    crate::lock(&self.journal).given += 1;
                    return saw(Some(value));
                }
                Ok(()) => return self.wrong(format!("{at:?} {value} was given with other bytes than were put")),
                Err(words) => why = format!("{at:?} {value}: {words}"),
            }
        }
        crate::lock(&self.journal).unread.push(why.clone());
        Err(MetaError::Unreachable(why))
    }

    async fn delete(&self, at: Place) -> Ends {
        let deletions = vec![Deletion { key: object_key(at)?, version: None, if_match: None }];
        let bucket = bucket_name(&BUCKETS[at.bucket])?;
        match self.gateway.ask(Command::Delete { bucket, deletions, bypass: false, expired: false }).await? {
            Answer::Deleted(answers) if answers.iter().all(Result::is_ok) => Ok(vec![(Act::Erase, End::Done(None))]),
            other => self.wrong(format!("{at:?} was to be deleted: {other:?}")),
        }
    }

    async fn list(&self, bucket: usize) -> Ends {
        let ask = list::Ask { max: 100, ..list::Ask::default() };
        let page = match self.gateway.look(Query::Objects(bucket_name(&BUCKETS[bucket])?, ask)).await? {
            Reply::Objects(page) => page,
            other => return self.wrong(format!("{other:?} is no page")),
        };
        if let Some((key, _)) = page.entries.iter().find(|(key, _)| !KEYS.contains(&key.as_str())) {
            return self.wrong(format!("{} lists {key:?}, which nobody put", BUCKETS[bucket].name));
        }
        let listed = |name: &&str| {
            let version = page.entries.iter().find(|(key, _)| key == name).map(|(_, version)| version);
            version.and_then(|version| value_of(&version.object.as_ref()?.etag))
        };
        Ok(KEYS.iter().map(|name| (Act::Read, End::Done(listed(name)))).collect())
    }

    async fn copy(&self, from: Place, value: u64, to: Place) -> Ends {
        let copy = Copying {
            from_bucket: bucket_name(&BUCKETS[from.bucket])?,
            from_key: object_key(from)?,
            from_version: None,
            from_etag: Some(etag(value)),
            bucket: bucket_name(&BUCKETS[to.bucket])?,
            key: object_key(to)?,
            about: None,
            tags: None,
            acl: Acl::default(),
            lock: None,
            condition: Condition::default(),
        };
        let not = |source| Ok(vec![(Act::Write(value), End::Failed), source]);
        match self.gateway.ask(Command::Copy(Box::new(copy))).await {
            Ok(Answer::Made(made)) if made.etag == etag(value) => {
                Ok(vec![(Act::Write(value), End::Done(None)), (Act::Read, End::Done(Some(value)))])
            }
            Ok(other) => self.wrong(format!("a copy of {from:?} {value} is {other:?}")),
            Err(MetaError::Refused(Refusal::NoSuchKey)) => not((Act::Read, End::Done(None))),
            Err(MetaError::Refused(Refusal::Condition(_))) => not((Act::Differs(Some(value)), End::Done(None))),
            Err(error) => Err(error),
        }
    }

    /// Everything before the last command is seen by nobody, so that whatever fails there has not happened.
    async fn upload(&self, at: Place, value: u64, parts: &[usize], only: Only) -> Ends {
        let certain = |error: MetaError| MetaError::Unreachable(error.to_string());
        let (bucket, key) = (bucket_name(&BUCKETS[at.bucket])?, object_key(at)?);
        let create = CreateUpload {
            bucket: bucket.clone(),
            key: key.clone(),
            about: About::default(),
            lock: None,
            checksum: None,
        };
        let upload = match self.gateway.ask(Command::CreateUpload(Box::new(create))).await.map_err(certain)? {
            Answer::Upload(upload) => upload,
            other => return self.wrong(format!("{other:?} is no upload")),
        };
        let whole = content(value, parts.iter().sum());
        let (mut from, mut listed) = (0, Vec::new());
        for (number, bytes) in (1u16..).zip(parts) {
            let put = self.part(at, (upload, number), (&whole[from..from + bytes], etag(value))).await;
            if let Err(error) = put {
                // As a client would that gives up; what it does not come to is left for whoever sweeps.
                let abort = Command::AbortUpload { bucket, key, upload };
                drop(self.gateway.ask(abort).await);
                return Err(certain(error));
            }
            from += bytes;
            listed.push((number, etag(value)));
        }
        let complete = CompleteUpload {
            bucket,
            key,
            upload,
            parts: listed,
            etag: etag(value),
            checksum: None,
            bytes: Some(whole.len() as u64),
            condition: only.condition(),
        };
        let command = Command::CompleteUpload(Box::new(complete));
        let answer = match self.gateway.ask(command.clone()).await {
            // Who asks twice is told the same, unless it was overwritten since.
            Err(MetaError::Unknown) => match self.gateway.ask(command).await {
                made @ Ok(_) => made,
                Err(_) => Err(MetaError::Unknown),
            },
            answer => answer,
        };
        committed(answer, value, only)
    }

    async fn part(&self, at: Place, (upload, number): (UploadId, u16), part: (&[u8], String)) -> Result<(), MetaError> {
        let put = PutPart {
            bucket: bucket_name(&BUCKETS[at.bucket])?,
            key: object_key(at)?,
            upload,
            number,
            body: self.write(at, part.0, true).await?,
            etag: part.1,
            checksum: None,
        };
        self.gateway.ask(Command::PutPart(Box::new(put))).await.map(drop)
    }

    fn wrong<T>(&self, words: String) -> Result<T, MetaError> {
        crate::lock(&self.journal).wrong.push(words.clone());
        Err(MetaError::Unreachable(words))
    }
}

/// What the answer to a commit says of its register.
fn committed(answer: Result<Answer, MetaError>, value: u64, only: Only) -> Ends {
    match answer {
        Ok(_) => Ok(vec![(only.act(value), End::Done(None))]),
        Err(MetaError::Refused(Refusal::Condition(_) | Refusal::NoSuchKey)) if only != Only::Always => {
            Ok(vec![(only.refused(), End::Done(None))])
        }
        Err(error) => Err(error),
    }
}
