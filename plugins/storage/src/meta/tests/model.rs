//! What the metadata should be, plain to see: lists that are looked through from one end to the other, and chunks that are counted anew
//! each time. Names of versions and uploads it learns from the answers, everything else it says itself.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::meta::list::Ask;

#[derive(Clone, Debug, Default)]
pub struct Model {
    pub buckets: BTreeMap<BucketName, ModelBucket>,
    pub open: BTreeMap<WriteId, (NodeId, Incarnation)>,
    /// Every chunk that was ever named, or condemned without a name; those that were forgotten are taken out.
    pub known: BTreeSet<ChunkId>,
    pub tables: BTreeMap<u16, u64>,
}

#[derive(Clone, Debug)]
pub struct ModelBucket {
    pub owner: String,
    pub versioning: Versioning,
    pub lockable: bool,
    pub quota: Quota,
    /// Of each key, the oldest first.
    pub keys: BTreeMap<String, Vec<ModelVersion>>,
    pub uploads: BTreeMap<(String, UploadId), ModelUpload>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ModelVersion {
    pub name: VersionRef,
    pub at: WallTime,
    /// None for a marker.
    pub object: Option<ModelObject>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ModelObject {
    pub bytes: u64,
    pub etag: String,
    pub chunks: Vec<ChunkRef>,
    pub tags: BTreeMap<String, String>,
    pub lock: Lock,
    /// The upload that it was made by.
    pub upload: Option<UploadId>,
}

#[derive(Clone, Debug, Default)]
pub struct ModelUpload {
    pub parts: BTreeMap<u16, (u64, String, Vec<ChunkRef>)>,
}

impl ModelBucket {
    pub fn newest(&self, key: &str) -> Option<&ModelVersion> {
        self.keys.get(key).and_then(|versions| versions.last())
    }

    fn current(&self, key: &str) -> Option<&ModelObject> {
        self.newest(key).and_then(|version| version.object.as_ref())
    }

    fn add(&mut self, key: &str, version: ModelVersion) {
        if version.name == VersionRef::Null {
            self.remove(key, VersionRef::Null);
        }
        self.keys.entry(key.into()).or_default().push(version);
    }

    fn remove(&mut self, key: &str, name: VersionRef) {
        if let Some(versions) = self.keys.get_mut(key) {
            versions.retain(|version| version.name != name);
            if versions.is_empty() {
                self.keys.remove(key);
            }
        }
    }

    pub fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        for versions in self.keys.values() {
            for (at, version) in versions.iter().enumerate() {
                let Some(object) = &version.object else {
                    usage.markers += 1;
                    continue;
                };
                usage.bytes += object.bytes;
                if at + 1 == versions.len() { usage.objects += 1 } else { usage.noncurrent += 1 }
            }
        }
        for upload in self.uploads.values() {
            usage.uploads += 1;
            usage.parts += upload.parts.len() as u64;
            usage.part_bytes += upload.parts.values().map(|(bytes, ..)| bytes).sum::<u64>();
        }
        usage
    }

    fn condition(&self, key: &str, condition: &Condition) -> Result<(), Refusal> {
        let etag = self.current(key).map(|object| &object.etag);
        match (&condition.if_match, etag) {
            (Some(_), None) => return Err(Refusal::NoSuchKey),
            (Some(wanted), Some(etag)) if wanted != "*" && wanted != etag => {
                return Err(Refusal::Condition("If-Match".into()));
            }
            _ => {}
        }
        match (&condition.if_none_match, etag) {
            (Some(unwanted), Some(etag)) if unwanted == "*" || unwanted == etag => {
                Err(Refusal::Condition("If-None-Match".into()))
            }
            _ => Ok(()),
        }
    }

    /// What it would be with this as well.
    fn fits(&self, key: &str, object: &ModelObject, without: Option<&(String, UploadId)>) -> Result<(), Refusal> {
        let mut then = self.clone();
        if let Some(upload) = without {
            then.uploads.remove(upload);
        }
        let name = match self.versioning {
            Versioning::On => VersionRef::Id(Stamp::default()),
            Versioning::Off | Versioning::Suspended => VersionRef::Null,
        };
        then.add(key, ModelVersion { name, at: WallTime(0), object: Some(object.clone()) });
        then.within()
    }

    fn within(&self) -> Result<(), Refusal> {
        let usage = self.usage();
        let (bytes, objects) = (usage.bytes + usage.part_bytes, usage.objects + usage.noncurrent);
        if let Some(most) = self.quota.bytes.filter(|most| bytes > *most) {
            return Err(Refusal::Quota(format!("{bytes} bytes of {most}")));
        }
        match self.quota.objects.filter(|most| objects > *most) {
            Some(most) => Err(Refusal::Quota(format!("{objects} objects of {most}"))),
            None => Ok(()),
        }
    }

    fn named(&self, made: &Made) -> VersionRef {
        made.version.unwrap_or(VersionRef::Null)
    }
}

impl Model {
    fn bucket(&mut self, name: &BucketName) -> Result<&mut ModelBucket, Refusal> {
        self.buckets.get_mut(name).ok_or(Refusal::NoSuchBucket)
    }

    /// How often each chunk is named. Parts of one finished upload, and lists of many chunks, are named once however often they are
    /// shared; what counts is only whether that is more than never.
    pub fn named(&self) -> BTreeSet<ChunkId> {
        let mut named = BTreeSet::new();
        for bucket in self.buckets.values() {
            let objects = bucket.keys.values().flatten().filter_map(|version| version.object.as_ref());
            let bodies = objects.map(|object| &object.chunks);
            let parts = bucket.uploads.values().flat_map(|upload| upload.parts.values()).map(|(.., chunks)| chunks);
            named.extend(bodies.chain(parts).flatten().map(|chunk| chunk.id));
        }
        named
    }

    fn take(&mut self, body: &Written) -> Result<Vec<ChunkRef>, Refusal> {
        let Written::Chunks { write, table, chunks, .. } = body else { return Ok(Vec::new()) };
        let partitions: BTreeSet<u16> = chunks.iter().map(|chunk| chunk.id.partition()).collect();
        for partition in partitions {
            let least = self.tables.get(&partition).copied().unwrap_or_default();
            if *table < least {
                return Err(Refusal::OldTable { partition, by: *table, least });
            }
        }
        let named = self.named();
        for chunk in chunks {
            if self.known.contains(&chunk.id) {
                let how = if named.contains(&chunk.id) { "named already" } else { "condemned" };
                return Err(Refusal::Chunk(format!("{} is {how}", chunk.id)));
            }
        }
        self.open.remove(write).ok_or(Refusal::NotOpen)?;
        self.known.extend(chunks.iter().map(|chunk| chunk.id));
        Ok(chunks.clone())
    }

    /// Follows a command, and says what the answer should have been. Refused, it changes nothing.
    pub fn follow(&mut self, at: WallTime, command: &Command, answer: &Result<Answer, Refusal>) -> Result<(), Refusal> {
        let before = self.clone();
        let followed = self.carry_out(at, command, answer.as_ref().ok());
        if followed.is_err() {
            *self = before;
        }
        followed
    }

    /// The same of a command that is known not to be refused; where it should have been, what it changed is not taken back.
    pub fn carry_out(&mut self, at: WallTime, command: &Command, answer: Option<&Answer>) -> Result<(), Refusal> {
        match command {
            Command::CreateBucket { name, owner, lockable, .. } => {
                if let Some(there) = self.buckets.get(name) {
                    return Err(if there.owner == *owner { Refusal::BucketYours } else { Refusal::BucketTaken });
                }
                let bucket = ModelBucket {
                    owner: owner.clone(),
                    versioning: if *lockable { Versioning::On } else { Versioning::Off },
                    lockable: *lockable,
                    quota: Quota::default(),
                    keys: BTreeMap::new(),
                    uploads: BTreeMap::new(),
                };
                self.buckets.insert(name.clone(), bucket);
                Ok(())
            }
            Command::DeleteBucket { name } => {
                if !self.bucket(name)?.keys.is_empty() {
                    return Err(Refusal::BucketNotEmpty);
                }
                self.buckets.remove(name);
                Ok(())
            }
            Command::SetBucket { name, change } => {
                let bucket = self.bucket(name)?;
                match change {
                    BucketChange::Versioning(to) => {
                        if *to == Versioning::Off && bucket.versioning != Versioning::Off {
                            return Err(Refusal::Argument(
                                "versions were kept once: they can only be suspended".into(),
                            ));
                        }
                        if bucket.lockable && *to != Versioning::On {
                            return Err(Refusal::BucketState("versions may be locked, so they are kept".into()));
                        }
                        bucket.versioning = *to;
                    }
                    BucketChange::Quota(quota) => bucket.quota = *quota,
                    BucketChange::Lock(_)
                    | BucketChange::Acl(_)
                    | BucketChange::Class(..)
                    | BucketChange::Document(..)
                    | BucketChange::Replication(_) => {}
                }
                Ok(())
            }
            Command::Open { gateway, incarnation, writes } => {
                self.open.extend(writes.iter().map(|write| (*write, (*gateway, *incarnation))));
                Ok(())
            }
            Command::Abort { writes } => {
                self.open.retain(|write, _| !writes.contains(write));
                Ok(())
            }
            Command::AbortGone { gateway, before } => {
                self.open.retain(|_, (by, start)| by != gateway || *start >= *before);
                Ok(())
            }
            Command::Put(put) => self.put(at, put, answer),
            Command::Copy(copy) => self.copy(at, copy, answer),
            Command::Delete { bucket, deletions, bypass, expired: _ } => {
                self.bucket(bucket)?;
                let Some(Answer::Deleted(answers)) = answer else { panic!("{answer:?}") };
                for (deletion, answer) in deletions.iter().zip(answers) {
                    let expected = self.delete(at, bucket, deletion, *bypass, answer.as_ref().ok());
                    assert_eq!(*answer, expected, "{deletion:?}");
                }
                Ok(())
            }
            Command::SetObject { bucket, key, version, change } => {
                let versions = self.bucket(bucket)?.keys.entry(key.to_string()).or_default();
                let found = match version {
                    Some(wanted) => {
                        versions.iter_mut().find(|version| version.name == *wanted).ok_or(Refusal::NoSuchVersion)?
                    }
                    None => versions.last_mut().filter(|version| version.object.is_some()).ok_or(Refusal::NoSuchKey)?,
                };
                let object = found.object.as_mut().ok_or(Refusal::IsMarker)?;
                match change {
                    ObjectChange::Tags(tags) => object.tags = tags.clone(),
                    ObjectChange::Acl(_) => {}
                    ObjectChange::Hold(hold) => {
                        object.lock.hold = *hold;
                        if !self.bucket(bucket)?.lockable {
                            return Err(Refusal::Argument("versions of this bucket cannot be locked".into()));
                        }
                    }
                    ObjectChange::Retention { .. } => panic!("not drawn"),
                }
                Ok(())
            }
            Command::CreateUpload(create) => {
                let key = create.key.to_string();
                let bucket = self.bucket(&create.bucket)?;
                let Some(Answer::Upload(id)) = answer else { panic!("{answer:?}") };
                bucket.uploads.insert((key, *id), ModelUpload::default());
                Ok(())
            }
            Command::PutPart(put) => {
                let id = (put.key.to_string(), put.upload);
                let mut bucket = self.bucket(&put.bucket)?.clone();
                let upload = bucket.uploads.get_mut(&id).ok_or(Refusal::NoSuchUpload)?;
                upload.parts.insert(put.number, (put.body.bytes(), put.etag.clone(), Vec::new()));
                let objects = bucket.quota.objects.take();
                bucket.within()?;
                bucket.quota.objects = objects;
                let chunks = self.take(&put.body)?;
                let upload = bucket.uploads.get_mut(&id).expect("it was there");
                upload.parts.insert(put.number, (put.body.bytes(), put.etag.clone(), chunks));
                self.buckets.insert(put.bucket.clone(), bucket);
                Ok(())
            }
            Command::CompleteUpload(complete) => self.complete(at, complete, answer),
            Command::AbortUpload { bucket, key, upload } => {
                let gone = self.bucket(bucket)?.uploads.remove(&(key.to_string(), *upload));
                gone.map(drop).ok_or(Refusal::NoSuchUpload)
            }
            Command::CondemnUnknown { chunks } => {
                let Some(Answer::Fates(fates)) = answer else { panic!("{answer:?}") };
                let named = self.named();
                for (chunk, fate) in chunks.iter().zip(fates) {
                    match fate {
                        // What died may not be swept yet.
                        Fate::Named => assert!(self.known.contains(chunk)),
                        Fate::Open => assert!(!named.contains(chunk) && self.open.contains_key(&chunk.write())),
                        Fate::Condemned => {
                            assert!(!named.contains(chunk) && !self.open.contains_key(&chunk.write()));
                            self.known.insert(*chunk);
                        }
                    }
                }
                Ok(())
            }
            Command::Forget { chunks } => {
                self.known.retain(|chunk| !chunks.contains(chunk));
                Ok(())
            }
            Command::MoveComplete { partition, table } => {
                let least = self.tables.entry(*partition).or_default();
                *least = (*least).max(*table);
                Ok(())
            }
            Command::Sweep
            | Command::AddRepairs { .. }
            | Command::Repaired { .. }
            | Command::FindDue { .. }
            | Command::Replicated { .. }
            | Command::ReplicationFails { .. }
            | Command::EndNotices { .. }
            | Command::RaiseLevel { .. } => Ok(()),
        }
    }

    fn put(&mut self, at: WallTime, put: &Put, answer: Option<&Answer>) -> Result<(), Refusal> {
        let key = put.key.as_str();
        let bucket = self.bucket(&put.bucket)?;
        bucket.condition(key, &put.condition)?;
        let lock = put.lock.unwrap_or_default();
        if lock != Lock::default() && !bucket.lockable {
            return Err(Refusal::Argument("versions of this bucket cannot be locked".into()));
        }
        let mut object = ModelObject {
            bytes: put.body.bytes(),
            etag: put.etag.clone(),
            chunks: Vec::new(),
            tags: put.about.tags.clone(),
            lock,
            upload: None,
        };
        bucket.fits(key, &object, None)?;
        object.chunks = self.take(&put.body)?;
        self.made(at, &put.bucket, key, object, answer);
        Ok(())
    }

    fn made(&mut self, at: WallTime, bucket: &BucketName, key: &str, object: ModelObject, answer: Option<&Answer>) {
        let Some(Answer::Made(made)) = answer else { panic!("{answer:?}") };
        let bucket = self.buckets.get_mut(bucket).expect("it was there");
        assert_eq!(made.version.is_some(), bucket.versioning != Versioning::Off);
        assert_eq!(
            made.version.is_some_and(|version| version != VersionRef::Null),
            bucket.versioning == Versioning::On
        );
        assert_eq!((&made.etag, made.at), (&object.etag, at));
        let name = bucket.named(made);
        bucket.add(key, ModelVersion { name, at, object: Some(object) });
    }

    fn copy(&mut self, at: WallTime, copy: &Copying, answer: Option<&Answer>) -> Result<(), Refusal> {
        let from = self.bucket(&copy.from_bucket)?;
        let versions = from.keys.get(copy.from_key.as_str()).cloned().unwrap_or_default();
        let source = match copy.from_version {
            Some(wanted) => {
                versions.into_iter().find(|version| version.name == wanted).ok_or(Refusal::NoSuchVersion)?
            }
            None => versions.into_iter().next_back().filter(|it| it.object.is_some()).ok_or(Refusal::NoSuchKey)?,
        };
        let source = source.object.ok_or(Refusal::IsMarker)?;
        let bucket = self.bucket(&copy.bucket)?;
        bucket.condition(copy.key.as_str(), &copy.condition)?;
        let tags = copy.tags.clone().unwrap_or(source.tags);
        let object = ModelObject { tags, lock: Lock::default(), upload: None, ..source };
        bucket.fits(copy.key.as_str(), &object, None)?;
        self.made(at, &copy.bucket, copy.key.as_str(), object, answer);
        Ok(())
    }

    fn delete(
        &mut self,
        at: WallTime,
        name: &BucketName,
        deletion: &Deletion,
        bypass: bool,
        answer: Option<&Deleted>,
    ) -> Result<Deleted, Refusal> {
        let key = deletion.key.as_str();
        let bucket = self.bucket(name)?;
        let versions = bucket.keys.get(key).cloned().unwrap_or_default();
        let meant = match deletion.version {
            None => versions.last(),
            Some(wanted) => versions.iter().find(|version| version.name == wanted),
        };
        let object = meant.and_then(|version| version.object.as_ref());
        match (&deletion.if_match, object) {
            (Some(_), None) => return Err(Refusal::NoSuchKey),
            (Some(wanted), Some(object)) if wanted != "*" && *wanted != object.etag => {
                return Err(Refusal::Condition("If-Match".into()));
            }
            _ => {}
        }
        let Some(wanted) = deletion.version else {
            let marker = match bucket.versioning {
                Versioning::Off => {
                    bucket.remove(key, VersionRef::Null);
                    return Ok(Deleted::default());
                }
                Versioning::On => answer.and_then(|deleted| deleted.marker).expect("a marker has a name"),
                Versioning::Suspended => VersionRef::Null,
            };
            bucket.add(key, ModelVersion { name: marker, at, object: None });
            return Ok(Deleted { marker: Some(marker), made: true });
        };
        let Some(meant) = meant else { return Ok(Deleted::default()) };
        if object.is_some_and(|object| object.lock.hold) {
            return Err(Refusal::Locked);
        }
        assert!(!bypass);
        bucket.remove(key, wanted);
        Ok(Deleted { marker: meant.object.is_none().then_some(wanted), made: false })
    }

    fn complete(&mut self, at: WallTime, complete: &CompleteUpload, answer: Option<&Answer>) -> Result<(), Refusal> {
        let id = (complete.key.to_string(), complete.upload);
        let bucket = self.bucket(&complete.bucket)?;
        let Some(upload) = bucket.uploads.get(&id).cloned() else {
            let versions = bucket.keys.get(complete.key.as_str()).into_iter().flatten();
            let mut of_it = versions.filter_map(|version| version.object.as_ref()).filter(|it| it.upload == Some(id.1));
            return of_it.next().filter(|it| it.etag == complete.etag).map(drop).ok_or(Refusal::NoSuchUpload);
        };
        let numbers: Vec<u16> = complete.parts.iter().map(|(number, _)| *number).collect();
        if numbers.is_empty() {
            return Err(Refusal::Argument("0 parts, 1 to 10000 are".into()));
        }
        if numbers.iter().zip(&numbers[1..]).any(|(a, b)| a >= b) {
            return Err(Refusal::PartOrder);
        }
        let (mut bytes, mut chunks) = (0, Vec::new());
        for (number, etag) in &complete.parts {
            match upload.parts.get(number) {
                Some((length, known, body)) if known == etag => {
                    bytes += length;
                    chunks.extend(body.clone());
                }
                _ => return Err(Refusal::InvalidPart(*number)),
            }
        }
        for number in &numbers[..numbers.len() - 1] {
            if upload.parts[number].0 < 5 * MIB {
                return Err(Refusal::PartTooSmall(*number));
            }
        }
        bucket.condition(complete.key.as_str(), &complete.condition)?;
        let etag = complete.etag.clone();
        let object =
            ModelObject { bytes, etag, chunks, tags: BTreeMap::new(), lock: Lock::default(), upload: Some(id.1) };
        bucket.fits(complete.key.as_str(), &object, Some(&id))?;
        bucket.uploads.remove(&id);
        self.made(at, &complete.bucket, complete.key.as_str(), object, answer);
        Ok(())
    }
}

/// A page of these keys: which of them, which common prefixes, and what the next page comes after. The keys may repeat.
pub fn page(keys: &[&str], ask: &Ask) -> (Vec<String>, Vec<String>, Option<String>) {
    let (mut entries, mut prefixes, mut last) = (Vec::new(), Vec::<String>::new(), None);
    if ask.max == 0 {
        return (entries, prefixes, None);
    }
    for key in keys {
        let Some(rest) = key.strip_prefix(&ask.prefix) else { continue };
        let rolled = (!ask.delimiter.is_empty()).then(|| rest.find(&ask.delimiter)).flatten();
        let shown = match rolled {
            Some(at) => &key[..ask.prefix.len() + at + ask.delimiter.len()],
            None => key,
        };
        let before = ask.after.as_ref().is_some_and(|after| shown <= after.as_str());
        if before || rolled.is_some() && prefixes.last().is_some_and(|last| last == shown) {
            continue;
        }
        if entries.len() + prefixes.len() == ask.max {
            return (entries, prefixes, last);
        }
        if rolled.is_some() {
            prefixes.push(shown.into())
        } else {
            entries.push(shown.into())
        }
        last = Some(shown.to_owned());
    }
    (entries, prefixes, None)
}
