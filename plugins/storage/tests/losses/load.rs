//! A mixed load on two buckets, each object of which has one writer, who knows what may be under its key and holds every answer against that.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hirsel_model::NodeId;
use hirsel_storage::gateway::{Gateway, WriteError};
use hirsel_storage::meta::access::MetaError;
use hirsel_storage::meta::command::{
    Answer, By, Command, CompleteUpload, Condition, Copying, CreateUpload, Deletion, Put, PutPart,
};
use hirsel_storage::meta::kinds::{About, Acl, Class, WhenShort, Written};
use hirsel_storage::meta::names::{BucketName, ObjectKey};
use hirsel_storage::meta::query::{Query, Reply};
use hirsel_storage::meta::refusal::Refusal;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::time::sleep;

/// Whatever was acknowledged is read within this. An election of those who keep the metadata takes a second or two, where others leave them the machine.
const READ_WITHIN: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(20);
/// The buckets, and how what is in them is kept.
pub type Buckets = &'static [(&'static str, Class)];
/// Bodies: in their row, packed with others, in a file of their own, and of two chunks.
const SIZES: [(usize, usize); 4] = [(0, 4_096), (4_097, 100_000), (300_000, 700_000), (4_200_000, 4_400_000)];

/// What an object is: bytes that follow from a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Value {
    number: u64,
    bytes: usize,
}

impl Value {
    fn content(self) -> Bytes {
        let mut content = vec![0; self.bytes];
        blake3::Hasher::new().update(&self.number.to_be_bytes()).finalize_xof().fill(&mut content);
        content.into()
    }
}

/// What may be under a key: one thing, until somebody did not learn what became of a command.
struct Known {
    bucket: BucketName,
    may_be: Vec<Option<Value>>,
}

/// The nodes that clients reach.
#[derive(Clone, Default)]
pub struct Doors(Arc<Mutex<BTreeMap<NodeId, Gateway>>>);

impl Doors {
    pub fn open(&self, gateway: Gateway) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(gateway.me(), gateway);
    }

    pub fn close(&self, node: NodeId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&node);
    }

    /// Whoever leads the metadata group, if it can be reached.
    pub fn leader(&self) -> Option<Gateway> {
        let doors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        doors.values().find(|gateway| gateway.meta().group().leads()).cloned()
    }

    fn any(&self, chance: &mut SmallRng) -> Gateway {
        let doors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: Vec<&Gateway> = doors.values().collect();
        (*all.choose(chance).expect("some nodes live")).clone()
    }
}

/// What a client did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    pub acknowledged: usize,
    pub read: usize,
    /// Commands whose answer was lost.
    pub unknown: usize,
}

/// One client.
pub struct Client {
    doors: Doors,
    buckets: Buckets,
    number: u64,
    chance: SmallRng,
    keys: BTreeMap<String, Known>,
    made: u64,
    pub done: Done,
}

impl Client {
    pub fn new(doors: Doors, buckets: Buckets, seed: u64, number: u64) -> Client {
        let chance = SmallRng::seed_from_u64(seed.wrapping_mul(1_000).wrapping_add(number));
        Client { doors, buckets, number, chance, keys: BTreeMap::new(), made: 0, done: Done::default() }
    }

    /// One thing that clients do.
    pub async fn step(&mut self) {
        match self.chance.random_range(0..20) {
            0..=7 => {
                let (bucket, key) = self.a_new_key();
                self.put(bucket, key).await;
            }
            8..=10 => {
                if let Some(key) = self.a_sure_key() {
                    self.put(self.keys[&key].bucket.clone(), key).await;
                }
            }
            11 | 12 => {
                if let Some(key) = self.a_sure_key() {
                    self.delete(key).await;
                }
            }
            13 => {
                if let Some(key) = self.a_sure_key() {
                    self.copy(key).await;
                }
            }
            14 => self.upload().await,
            _ => {
                let keys: Vec<&String> = self.keys.keys().collect();
                if let Some(key) = keys.choose(&mut self.chance).map(|key| (*key).clone()) {
                    self.read(&key).await;
                }
            }
        }
    }

    /// Reads all that it knows of.
    pub async fn read_all(&mut self) {
        for key in self.keys.keys().cloned().collect::<Vec<_>>() {
            self.read(&key).await;
        }
    }

    fn a_new_key(&mut self) -> (BucketName, String) {
        self.made += 1;
        let (bucket, _) = self.buckets[self.chance.random_range(0..self.buckets.len())];
        (BucketName::new(bucket).unwrap(), format!("{}/{}", self.number, self.made))
    }

    fn class(&self, bucket: &BucketName) -> Class {
        self.buckets.iter().find(|(name, _)| *name == bucket.as_str()).expect("there is no other").1
    }

    /// One under which there is one certain thing, or nothing.
    fn a_sure_key(&mut self) -> Option<String> {
        let sure: Vec<&String> =
            self.keys.iter().filter(|(_, known)| known.may_be.len() == 1).map(|(key, _)| key).collect();
        sure.choose(&mut self.chance).map(|key| (*key).clone())
    }

    fn a_value(&mut self) -> Value {
        // Long ones are few: what counts is how many there are.
        let (from, to) = SIZES[[0, 1, 1, 1, 1, 1, 2, 2, 2, 3][self.chance.random_range(0..10)]];
        Value { number: self.chance.random(), bytes: self.chance.random_range(from..to) }
    }

    /// What a key is from now on, or may be.
    fn learn(&mut self, bucket: BucketName, key: String, value: Option<Value>, told: Result<Answer, MetaError>) {
        let known = self.keys.entry(key).or_insert(Known { bucket, may_be: vec![None] });
        match told {
            Ok(_) => {
                self.done.acknowledged += 1;
                known.may_be = vec![value];
            }
            Err(MetaError::Unknown) => {
                self.done.unknown += 1;
                known.may_be.push(value);
            }
            // Nothing was changed.
            Err(MetaError::Refused(_) | MetaError::Unreachable(_)) => {}
        }
    }

    async fn put(&mut self, bucket: BucketName, key: String) {
        let (gateway, value) = (self.doors.any(&mut self.chance), self.a_value());
        let Ok(body) = write(&gateway, self.class(&bucket), value, false).await else { return };
        let (about, condition, etag) = (About::default(), Condition::default(), "e".to_owned());
        let object = ObjectKey::new(key.as_str()).unwrap();
        let (bucket_of, by) = (bucket.clone(), By::Put);
        let put = Put { bucket: bucket_of, key: object, body, etag, checksum: None, about, lock: None, condition, by };
        let told = gateway.ask(Command::Put(Box::new(put))).await;
        self.learn(bucket, key, Some(value), told);
    }

    async fn delete(&mut self, key: String) {
        let bucket = self.keys[&key].bucket.clone();
        let deletions = vec![Deletion { key: ObjectKey::new(key.as_str()).unwrap(), version: None, if_match: None }];
        let command = Command::Delete { bucket: bucket.clone(), deletions, bypass: false, expired: false };
        let told = self.doors.any(&mut self.chance).ask(command).await;
        self.learn(bucket, key, None, told);
    }

    async fn copy(&mut self, from: String) {
        let (_, key) = self.a_new_key();
        let source = &self.keys[&from];
        let [Some(value)] = source.may_be[..] else { return };
        // Within a bucket: what is shared is kept as it was.
        let bucket = source.bucket.clone();
        let copying = Copying {
            from_bucket: bucket.clone(),
            from_key: ObjectKey::new(from).unwrap(),
            from_version: None,
            from_etag: None,
            bucket: bucket.clone(),
            key: ObjectKey::new(key.as_str()).unwrap(),
            about: None,
            tags: None,
            acl: Acl::Private,
            lock: None,
            condition: Condition::default(),
        };
        let told = self.doors.any(&mut self.chance).ask(Command::Copy(Box::new(copying))).await;
        self.learn(bucket, key, Some(value), told);
    }

    /// One part is enough here: what it is made of is what counts.
    async fn upload(&mut self) {
        let ((bucket, key), gateway, value) = (self.a_new_key(), self.doors.any(&mut self.chance), self.a_value());
        let object = ObjectKey::new(key.as_str()).unwrap();
        let create = CreateUpload {
            bucket: bucket.clone(),
            key: object.clone(),
            about: About::default(),
            lock: None,
            checksum: None,
        };
        let Ok(Answer::Upload(upload)) = gateway.ask(Command::CreateUpload(Box::new(create))).await else { return };
        let Ok(body) = write(&gateway, self.class(&bucket), value, true).await else { return };
        let (number, etag) = (1, "p".to_owned());
        let part = PutPart { bucket: bucket.clone(), key: object.clone(), upload, number, body, etag, checksum: None };
        if gateway.ask(Command::PutPart(Box::new(part))).await.is_err() {
            return;
        }
        if self.chance.random_bool(0.3) {
            // Whether that is learned or not, there is no object.
            let _ = gateway.ask(Command::AbortUpload { bucket, key: object, upload }).await;
            return;
        }
        let complete = CompleteUpload {
            bucket: bucket.clone(),
            key: object,
            upload,
            parts: vec![(1, "p".into())],
            etag: "m".into(),
            checksum: None,
            bytes: None,
            condition: Condition::default(),
        };
        let told = gateway.ask(Command::CompleteUpload(Box::new(complete))).await;
        self.learn(bucket, key, Some(value), told);
    }

    async fn read(&mut self, key: &str) {
        let (known, begun) = (&self.keys[key], Instant::now());
        loop {
            let gateway = self.doors.any(&mut self.chance);
            let words = match read(&gateway, &known.bucket, key).await {
                Ok(found) => {
                    let is = |value: &Option<Value>| value.map(Value::content) == found;
                    let bytes = found.as_ref().map(Bytes::len);
                    assert!(known.may_be.iter().any(is), "{key} is {bytes:?} bytes, not one of {:?}", known.may_be);
                    self.done.read += 1;
                    return;
                }
                Err(words) => words,
            };
            let bucket = &known.bucket;
            assert!(begun.elapsed() < READ_WITHIN, "{key} of {bucket}, {:?}, is not read: {words}", known.may_be);
            sleep(PAUSE).await;
        }
    }
}

async fn write(gateway: &Gateway, class: Class, value: Value, is_part: bool) -> Result<Written, WriteError> {
    let mut writer = gateway.writer(class, WhenShort::Degrade);
    if is_part {
        writer = writer.of_part();
    }
    writer.push(value.content()).await?;
    writer.finish().await
}

/// The object; none where there is none.
async fn read(gateway: &Gateway, bucket: &BucketName, key: &str) -> Result<Option<Bytes>, String> {
    let query = Query::Version { bucket: bucket.clone(), key: ObjectKey::new(key).unwrap(), version: None, from: 0 };
    let found = match gateway.look(query).await {
        Ok(Reply::Version(found)) => found,
        Err(MetaError::Refused(Refusal::NoSuchKey)) => return Ok(None),
        other => return Err(format!("{other:?}")),
    };
    let object = found.version.object.ok_or("a marker")?;
    gateway.read_whole(&object, found.pieces, 64 << 20).await?.ok_or("too long".into()).map(Some)
}
