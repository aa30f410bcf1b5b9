//! Objects through any node: metadata and data together. Whatever speaks to clients stands on this; it keeps no state of its own.
//!
//! A body is written to storage nodes first, synced there, then named by a commit: [`Gateway::writer`] takes it piece by piece, and what it ends in
//! goes into the command that makes the object. A body is read by what the metadata says of it: [`Gateway::read`].
//!
//! Kept: nothing that was not committed can be read; a commit names only what is safe on as many nodes as its class promises, or, where the
//! bucket allows that, on as many as there are, and then says which missed it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hirsel_mesh::seam::{Chance, Clock};
use hirsel_model::order::StorageOrder;
use hirsel_model::{Incarnation, NodeId, Timestamp, WallTime};
use hirsel_role::{Live, Spawner};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;

use crate::codec::{Codec, Scheme};
use crate::counts::Counts;
use crate::meta::access::{MetaError, Metadata};
use crate::meta::command::{Answer, Command, Made};
use crate::meta::kinds::{Class, Object, Versioning, WhenShort, Written};
use crate::meta::names::WriteId;
use crate::meta::query::{Found, Query, Reply};
use crate::meta::refusal::Refusal;
use crate::store::Store;

mod places;
mod pool;
mod reader;
mod writer;

pub use places::{Places, target};
pub use reader::Body;
pub use writer::{WriteError, Writer};

/// Chunks of bodies on their way in that are in memory at once, of all requests together: 256 MiB. A body waits for one before it takes more
/// of it from its client, and gives it back when the chunk is safe.
pub const CHUNKS_COMING_MAX: usize = 64;
/// Chunks of bodies on their way out that are in memory at once, of all requests together: 256 MiB. Who gets none reads in small pieces.
pub const CHUNKS_GOING_MAX: usize = 64;
/// A body waits so long for room; then its client is to come back. Chunks are safe, or given up, within ten seconds.
const ROOM_WITHIN: Duration = Duration::from_secs(30);

/// Objects, as this node reaches them. Copies are the same one.
#[derive(Clone)]
pub struct Gateway {
    shared: Arc<Shared>,
}

/// What a gateway is made of.
pub struct Parts {
    /// This node.
    pub me: NodeId,
    /// This start of it: writes of others are ended.
    pub incarnation: Incarnation,
    /// What the cluster agrees on.
    pub meta: Metadata,
    /// The disks of all nodes.
    pub store: Store,
    /// Where data is, as the plan says.
    pub order: watch::Receiver<Arc<StorageOrder>>,
    /// Set once somebody wants objects: before that nothing is founded, and an idle cluster does not pay for it.
    pub wanted: watch::Sender<bool>,
    /// Who is heard.
    pub live: watch::Receiver<Arc<Live>>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub chance: Arc<dyn Chance>,
    /// Where what goes on beside a request runs.
    pub spawner: Spawner,
}

struct Shared {
    parts: Parts,
    pool: pool::Pool,
    codecs: Mutex<BTreeMap<Scheme, Arc<Codec>>>,
    coming: Arc<Semaphore>,
    /// Bodies that wait for it.
    waiting: AtomicUsize,
    going: Arc<Semaphore>,
    counts: Counts,
}

impl Gateway {
    /// Of these parts.
    pub fn new(parts: Parts) -> Self {
        let (pool, codecs, counts) = (pool::Pool::default(), Mutex::default(), Counts::default());
        let parts = Parts { store: parts.store.counted(counts.reads.clone()), ..parts };
        let coming = Arc::new(Semaphore::new(CHUNKS_COMING_MAX));
        let (waiting, going) = (AtomicUsize::new(0), Arc::new(Semaphore::new(CHUNKS_GOING_MAX)));
        Self { shared: Arc::new(Shared { parts, pool, codecs, coming, waiting, going, counts }) }
    }

    /// Which node this is.
    pub fn me(&self) -> NodeId {
        self.shared.parts.me
    }

    /// The time, for people and clients.
    pub fn wall(&self) -> WallTime {
        self.shared.parts.clock.wall()
    }

    /// The time to measure by.
    pub fn now(&self) -> Timestamp {
        self.shared.parts.clock.now()
    }

    /// Chance.
    pub fn chance(&self) -> &dyn Chance {
        &*self.shared.parts.chance
    }

    /// What the cluster agrees on.
    pub fn meta(&self) -> &Metadata {
        &self.shared.parts.meta
    }

    /// The disks of all nodes.
    pub fn store(&self) -> &Store {
        &self.shared.parts.store
    }

    /// Where what goes on beside a request runs.
    pub fn spawner(&self) -> &Spawner {
        &self.shared.parts.spawner
    }

    /// What is counted of what this node does.
    pub fn counts(&self) -> &Counts {
        &self.shared.counts
    }

    /// The plan that this node knows.
    pub fn order(&self) -> Arc<StorageOrder> {
        self.shared.parts.order.borrow().clone()
    }

    /// Nodes that keep data, or are to, by the plan that this node knows.
    pub fn keepers(&self) -> BTreeSet<NodeId> {
        self.shared.parts.order.borrow().table.holders().into_keys().collect()
    }

    /// Where data is, by the plan that this node knows and by who is heard now.
    pub fn places(&self) -> Places {
        let (order, live) = (self.shared.parts.order.borrow().clone(), self.shared.parts.live.borrow().clone());
        Places::new(order, live, self.shared.parts.me)
    }

    /// Has a command carried out; see [`Metadata::ask`]. Where the answer was lost that an object was put, it is looked for. What was written
    /// for a command that is not carried out, or for whose answer nobody waits, is given up: its chunks would otherwise lie there until this
    /// start of the gateway is over.
    ///
    /// # Errors
    /// When it is refused, or nobody leads in time.
    pub async fn ask(&self, command: Command) -> Result<Answer, MetaError> {
        self.want();
        let place = match &command {
            Command::Put(put) => Some((put.bucket.clone(), put.key.clone())),
            _ => None,
        };
        let mut unnamed = Unnamed { gateway: self, write: written(&command) };
        let salt = self.chance().number();
        let asked = self.shared.parts.meta.ask_as(command, salt).await;
        if matches!(&asked, Ok(_) | Err(MetaError::Refused(Refusal::NotOpen))) {
            unnamed.write = None;
        }
        if let (Err(MetaError::Unknown), Some((bucket, key))) = (&asked, place)
            && let Ok(Reply::Version(found)) = self.look(Query::Version { bucket, key, version: None, from: 0 }).await
            && let Some(made) = made_by(&found, salt)
        {
            return Ok(Answer::Made(made));
        }
        // Who ended one of our writes ended all that this start had opened by then.
        if matches!(&asked, Err(MetaError::Refused(Refusal::NotOpen))) {
            self.shared.pool.forget();
        }
        asked
    }

    /// The answer to one question; see [`Metadata::look`].
    ///
    /// # Errors
    /// When it is refused, or nobody can answer in time.
    pub async fn look(&self, query: Query) -> Result<Reply, MetaError> {
        self.want();
        self.shared.parts.meta.look(query).await
    }

    /// The answers to several questions out of one moment; see [`Metadata::look_all`].
    ///
    /// # Errors
    /// When nobody can answer in time.
    pub async fn look_all(&self, queries: Vec<Query>) -> Result<Vec<Result<Reply, Refusal>>, MetaError> {
        self.want();
        self.shared.parts.meta.look_all(queries).await
    }

    /// Takes a body, kept as `class` says.
    pub fn writer(&self, class: Class, when_short: WhenShort) -> Writer {
        Writer::new(self.clone(), class, when_short)
    }

    /// Gives the bytes `from..to` of an object; `pieces` are those that the metadata told with it, from `from` on.
    pub fn read(&self, object: &Object, pieces: Vec<crate::meta::read::Piece>, from: u64, to: u64) -> Body {
        Body::new(self.clone(), object, pieces, from, to)
    }

    /// The whole of a short body, at once; none of one longer than `max`.
    ///
    /// # Errors
    /// In words, when it cannot be read.
    pub async fn read_whole(
        &self,
        object: &Object,
        pieces: Vec<crate::meta::read::Piece>,
        max: usize,
    ) -> Result<Option<Bytes>, String> {
        if object.bytes > max as u64 {
            return Ok(None);
        }
        let mut body = self.read(object, pieces, 0, object.bytes);
        let mut all = bytes::BytesMut::with_capacity(usize::try_from(object.bytes).unwrap_or_default());
        while let Some(piece) = body.next().await? {
            all.extend_from_slice(&piece);
        }
        Ok(Some(all.freeze()))
    }

    /// Room in memory for a chunk on its way in; none in time.
    async fn room(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(room) = self.shared.coming.clone().try_acquire_owned() {
            return Some(room);
        }
        let _waits = Waits::new(self);
        timeout(ROOM_WITHIN, self.shared.coming.clone().acquire_owned()).await.ok()?.ok()
    }

    /// Whether a body waits for such room.
    fn is_short_of_room(&self) -> bool {
        self.shared.waiting.load(Ordering::Relaxed) > 0
    }

    /// Room in memory for a chunk on its way out; none now.
    fn room_to_go(&self) -> Option<OwnedSemaphorePermit> {
        self.shared.going.clone().try_acquire_owned().ok()
    }

    /// The same; none in time.
    async fn wait_to_go(&self) -> Option<OwnedSemaphorePermit> {
        timeout(ROOM_WITHIN, self.shared.going.clone().acquire_owned()).await.ok()?.ok()
    }

    /// Ends a write without a commit, beside. Should that be lost, the write ends with this start of the gateway.
    fn abort(&self, write: WriteId) {
        let gateway = self.clone();
        let abort = async move { drop(gateway.shared.parts.meta.ask(Command::Abort { writes: vec![write] }).await) };
        self.shared.parts.spawner.spawn(abort);
    }

    fn want(&self) {
        self.shared.parts.wanted.send_if_modified(|wanted| !std::mem::replace(wanted, true));
    }

    pub(crate) fn codec(&self, scheme: Scheme) -> Arc<Codec> {
        lock(&self.shared.codecs).entry(scheme).or_insert_with(|| Arc::new(Codec::new(scheme))).clone()
    }
}

/// Somebody waits for room.
struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn new(gateway: &'a Gateway) -> Self {
        gateway.shared.waiting.fetch_add(1, Ordering::Relaxed);
        Self(&gateway.shared.waiting)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the command with this number made, if it is what was found. If it is not, it may have been replaced, or may still come.
fn made_by(found: &Found, salt: u64) -> Option<Made> {
    let object = found.version.object.as_ref().filter(|_| found.version.stamp.salt == salt)?;
    let version = (found.bucket.versioning != Versioning::Off).then(|| found.version.name());
    Some(Made { version, etag: object.etag.clone(), at: found.version.at, from: None })
}

/// A write that a command is to name. Dropped with one, it is ended: it may have been committed all the same, and then that changes nothing.
struct Unnamed<'a> {
    gateway: &'a Gateway,
    write: Option<WriteId>,
}

impl Drop for Unnamed<'_> {
    fn drop(&mut self) {
        if let Some(write) = self.write.take() {
            self.gateway.abort(write);
        }
    }
}

/// The write that a command names.
fn written(command: &Command) -> Option<WriteId> {
    let body = match command {
        Command::Put(put) => &put.body,
        Command::PutPart(put) => &put.body,
        _ => return None,
    };
    match body {
        Written::Chunks { write, .. } => Some(*write),
        Written::Inline(_) => None,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::kinds::{self, About, Acl, Bucket, Lock, Quota, Version};
    use crate::meta::names::{Stamp, VersionRef};

    fn found(salt: u64, versioning: Versioning, is_object: bool) -> Found {
        let bucket = Bucket {
            id: 1,
            owner: "ann".into(),
            region: "here".into(),
            made: WallTime(1),
            versioning,
            lockable: false,
            lock: None,
            quota: Quota::default(),
            acl: Acl::default(),
            class: Class::default(),
            when_short: WhenShort::default(),
            replication: None,
            tells: false,
        };
        let object = Object {
            bytes: 1,
            etag: "e".into(),
            body: kinds::Body::Inline(vec![1]),
            about: About::default(),
            checksum: None,
            lock: Lock::default(),
            parts: 0,
        };
        let object = is_object.then(|| Box::new(object));
        let version = Version { stamp: Stamp { number: 5, salt }, null: false, at: WallTime(9), object };
        Found { bucket, version, latest: true, pieces: Vec::new() }
    }

    #[test]
    fn an_object_whose_making_was_not_answered_is_known_by_its_number() {
        let made = made_by(&found(7, Versioning::On, true), 7).expect("it is there");
        let version = VersionRef::Id(Stamp { number: 5, salt: 7 });
        assert_eq!((made.etag.as_str(), made.version, made.at), ("e", Some(version), WallTime(9)));
        assert_eq!(made_by(&found(7, Versioning::Off, true), 7).expect("it is there").version, None);
        assert!(made_by(&found(8, Versioning::On, true), 7).is_none(), "another took its place");
        assert!(made_by(&found(7, Versioning::On, false), 7).is_none());
    }
}
