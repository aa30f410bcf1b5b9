//! Random commands, carried out by the state machine and by the model of it.

use std::collections::BTreeSet;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::model::{Model, page};
use super::*;
use crate::meta::list::{self, Ask};
use crate::meta::outbox::{self, Ending, QueueId};
use crate::meta::read::{self, Known};

/// Each is one history.
const SEEDS: u64 = 60;
const STEPS: usize = 150;
const KEYS: [&str; 10] = ["a", "a/b", "a/b/c", "a/c", "a\0", "a\0b", "b", "b/", "ä/☃", "z"];

#[test]
fn random_commands_end_as_the_model_says() {
    let mut met = BTreeSet::new();
    for seed in 0..SEEDS {
        let mut history = History::new(seed);
        for _ in 0..STEPS {
            history.step();
        }
        history.end();
        met.extend(history.met);
    }
    // What the histories never come to is not tested by them.
    let expected = [
        "put",
        "copy",
        "delete_bucket",
        "complete_upload",
        "abort_upload",
        "put_part",
        "condemn_unknown",
        "end_notices",
        "put QuotaExceeded",
        "put PreconditionFailed",
        "put OldTable",
        "put NotOpen",
        "put Chunk",
        "put_part NoSuchUpload",
        "put_part QuotaExceeded",
        "complete_upload NoSuchUpload",
        "complete_upload InvalidPart",
        "complete_upload EntityTooSmall",
        "complete_upload InvalidPartOrder",
        "complete_upload PreconditionFailed",
        "copy NoSuchKey",
        "copy NoSuchVersion",
        "copy MethodNotAllowed",
        "set_object NoSuchVersion",
        "delete_bucket BucketNotEmpty",
        "create_bucket BucketAlreadyExists",
        "set_bucket InvalidArgument",
    ];
    let missed: Vec<&str> = expected.into_iter().filter(|it| !met.contains(*it)).collect();
    assert_eq!(missed, [""; 0], "of {met:?}");
}

#[test]
fn replicas_that_apply_the_same_have_the_same_rows() {
    let (mut a, mut b) = (History::new(7), History::new(7));
    for _ in 0..STEPS {
        a.step();
        b.step();
        assert_eq!(a.town.rows, b.town.rows);
    }
}

/// The command, and how it was refused.
fn met(command: &Command, answer: &Result<Answer, Refusal>) -> String {
    let debug = format!("{command:?}");
    let (mut name, mut last) = (String::new(), ' ');
    for letter in debug.chars().take_while(|letter| letter.is_alphanumeric()) {
        if letter.is_uppercase() && last.is_lowercase() {
            name.push('_');
        }
        name.push(letter.to_ascii_lowercase());
        last = letter;
    }
    match answer {
        Ok(_) => name,
        Err(Refusal::OldTable { .. }) => format!("{name} OldTable"),
        Err(Refusal::NotOpen) => format!("{name} NotOpen"),
        Err(Refusal::Chunk(_)) => format!("{name} Chunk"),
        Err(refusal) => format!("{name} {}", refusal.code()),
    }
}

pub struct History {
    pub town: Town,
    model: Model,
    chance: SmallRng,
    seed: u64,
    /// Uploads and versions that were seen, gone or not.
    uploads: Vec<(BucketName, String, UploadId)>,
    versions: Vec<VersionRef>,
    bodies: Vec<Written>,
    /// Which commands were met with which answers.
    met: BTreeSet<String>,
}

impl History {
    pub fn new(seed: u64) -> Self {
        let town = Town { at: 1_000, ..Town::default() };
        let mut history = Self {
            town,
            model: Model::default(),
            chance: SmallRng::seed_from_u64(seed),
            seed,
            uploads: Vec::new(),
            versions: vec![VersionRef::Null, VersionRef::Id(Stamp { number: 9_999, salt: 1 })],
            bodies: Vec::new(),
            met: BTreeSet::new(),
        };
        for (name, lockable) in [("pics", false), ("films", false), ("deeds", true)] {
            history.run(create(name, lockable));
        }
        // What happens in one of them is told to two.
        let change = super::notify::telling_two();
        history.run(Command::SetBucket { name: bucket("pics"), change });
        history
    }

    /// One random command, which is returned, and what can be seen after it.
    pub fn step(&mut self) -> Command {
        let command = self.draw();
        self.run(command.clone());
        self.look();
        command
    }

    fn run(&mut self, command: Command) {
        let answer = self.town.run(command.clone());
        self.met.insert(met(&command, &answer));
        let at = WallTime(self.town.at);
        let expected = self.model.follow(at, &command, &answer);
        // What dies is condemned a little later; that it must not be named is said in other words until then.
        let plain =
            |refusal: Refusal| if let Refusal::Chunk(_) = refusal { Refusal::Chunk(String::new()) } else { refusal };
        let given = answer.clone().map(drop).map_err(plain);
        assert_eq!(given, expected.map_err(plain), "seed {}: {command:?} gave {answer:?}", self.seed);
        match (&command, &answer) {
            (Command::CreateUpload(create), Ok(Answer::Upload(id))) => {
                self.uploads.push((create.bucket.clone(), create.key.to_string(), *id));
            }
            (_, Ok(Answer::Made(made))) => self.versions.extend(made.version),
            (_, Ok(Answer::Deleted(deleted))) => {
                self.versions.extend(deleted.iter().flatten().filter_map(|deleted| deleted.marker));
            }
            _ => {}
        }
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from.choose(&mut self.chance).expect("there is one").clone()
    }

    fn a_bucket(&mut self) -> BucketName {
        let name = self.pick(&["pics", "pics", "films", "deeds", "nowhere"]);
        bucket(name)
    }

    fn a_key(&mut self) -> ObjectKey {
        object(KEYS[self.chance.random_range(0..KEYS.len())])
    }

    fn a_version(&mut self) -> Option<VersionRef> {
        let versions = self.versions.clone();
        self.chance.random_bool(0.6).then(|| self.pick(&versions))
    }

    fn a_body(&mut self, least: u64) -> Written {
        match self.chance.random_range(0..10) {
            0 if least < 5 => Written::Inline(vec![1; self.chance.random_range(0..30)]),
            // One that was used, or refused.
            1 if !self.bodies.is_empty() => {
                let bodies = self.bodies.clone();
                self.pick(&bodies)
            }
            _ => {
                let write = self.town.draw();
                let incarnation = Incarnation(self.chance.random_range(1..4));
                self.run(Command::Open { gateway: GATEWAY, incarnation, writes: vec![write] });
                let chunks = self.chance.random_range(1..14);
                let mut body = written(write, chunks, least + self.chance.random_range(20..90));
                if let Written::Chunks { table, .. } = &mut body {
                    *table = self.chance.random_range(1..9);
                }
                self.bodies.push(body.clone());
                body
            }
        }
    }

    fn a_condition(&mut self) -> Condition {
        let etag = |chance: &mut SmallRng| {
            chance.random_bool(0.15).then(|| ["*", "e1", "e2"][chance.random_range(0..3)].to_owned())
        };
        Condition { if_match: etag(&mut self.chance), if_none_match: etag(&mut self.chance) }
    }

    fn some_tags(&mut self) -> BTreeMap<String, String> {
        tags(&[("n", &self.chance.random_range(0..9).to_string())])
    }

    fn draw(&mut self) -> Command {
        let (bucket, key) = (self.a_bucket(), self.a_key());
        match self.chance.random_range(0..40) {
            0 => Command::DeleteBucket { name: bucket },
            1 => Command::CreateBucket {
                name: bucket,
                owner: self.pick(&["ann", "bob"]).into(),
                region: "here".into(),
                lockable: false,
                acl: Acl::Private,
                class: Class::default(),
            },
            2 | 3 => {
                let to = self.pick(&[Versioning::Off, Versioning::On, Versioning::On, Versioning::Suspended]);
                Command::SetBucket { name: bucket, change: BucketChange::Versioning(to) }
            }
            4 => {
                let bytes = self.chance.random_bool(0.5).then(|| self.chance.random_range(0..30 * MIB));
                let objects = self.chance.random_bool(0.5).then(|| self.chance.random_range(0..9));
                Command::SetBucket { name: bucket, change: BucketChange::Quota(Quota { bytes, objects }) }
            }
            5..=14 => {
                let body = self.a_body(0);
                let etag = self.pick(&["e1", "e2", "e3"]).to_owned();
                let about = About { tags: self.some_tags(), ..About::default() };
                let hold = self.chance.random_bool(0.1);
                let lock = hold.then_some(Lock { retention: None, hold });
                let condition = self.a_condition();
                Command::Put(Box::new(Put {
                    bucket,
                    key,
                    body,
                    etag,
                    checksum: None,
                    about,
                    lock,
                    condition,
                    by: By::Put,
                }))
            }
            15..=17 => {
                let from = self.a_bucket();
                let copy = copying(self.a_key().as_str(), key.as_str());
                let tags = self.chance.random_bool(0.3).then(|| self.some_tags());
                let (from_version, condition) = (self.a_version(), self.a_condition());
                let copy = Copying { from_bucket: from, bucket, tags, from_version, condition, ..copy };
                Command::Copy(Box::new(copy))
            }
            18..=23 => {
                let many = self.chance.random_range(1..4);
                let deletions = (0..many).map(|_| {
                    let if_match = self.chance.random_bool(0.1).then(|| "e1".to_owned());
                    Deletion { key: self.a_key(), version: self.a_version(), if_match }
                });
                let deletions = deletions.collect();
                Command::Delete { bucket, deletions, bypass: false, expired: false }
            }
            24 | 25 => {
                let tags = ObjectChange::Tags(self.some_tags());
                let hold = ObjectChange::Hold(self.chance.random_bool(0.3));
                let (version, change) = (self.a_version(), self.pick(&[tags, hold]));
                Command::SetObject { bucket, key, version, change }
            }
            26 | 27 => {
                let create = CreateUpload { bucket, key, about: About::default(), lock: None, checksum: None };
                Command::CreateUpload(Box::new(create))
            }
            28..=31 if !self.uploads.is_empty() => {
                let (bucket, key, upload) = self.an_upload();
                let number = self.chance.random_range(1..5);
                let least = self.pick(&[5 * MIB, 5 * MIB, 5]);
                let body = self.a_body(least);
                let etag = self.pick(&["p1", "p1", "p2"]).to_owned();
                Command::PutPart(Box::new(PutPart { bucket, key, upload, number, body, etag, checksum: None }))
            }
            32 | 33 if !self.uploads.is_empty() => {
                let (bucket, key, upload) = self.an_upload();
                let there = self.model.buckets.get(&bucket).and_then(|it| it.uploads.get(&(key.to_string(), upload)));
                let mut parts: Vec<(u16, String)> = there.map_or_else(Vec::new, |upload| {
                    upload.parts.iter().map(|(number, (_, etag, _))| (*number, etag.clone())).collect()
                });
                parts.retain(|_| self.chance.random_bool(0.8));
                match self.chance.random_range(0..10) {
                    0 => parts.reverse(),
                    1 => parts.push((9, "p1".into())),
                    _ => {}
                }
                let (etag, condition) = (self.pick(&["m1", "m2"]).to_owned(), self.a_condition());
                let complete =
                    CompleteUpload { bucket, key, upload, parts, etag, checksum: None, bytes: None, condition };
                Command::CompleteUpload(Box::new(complete))
            }
            34 if !self.uploads.is_empty() => {
                let (bucket, key, upload) = self.an_upload();
                Command::AbortUpload { bucket, key, upload }
            }
            35 => {
                let before = Incarnation(self.chance.random_range(1..5));
                Command::AbortGone { gateway: GATEWAY, before }
            }
            36 => {
                let known: Vec<ChunkId> = self.model.known.iter().copied().collect();
                let mut chunks: Vec<ChunkId> = known.choose_multiple(&mut self.chance, 5).copied().collect();
                let open: Vec<WriteId> = self.model.open.keys().copied().collect();
                chunks.extend(open.choose(&mut self.chance).map(|write| ChunkId::new(1, *write, 1)));
                chunks.push(ChunkId::new(2, self.town.draw(), 0));
                Command::CondemnUnknown { chunks }
            }
            37 => {
                let (partition, table) = (self.chance.random_range(0..5), self.chance.random_range(0..6));
                Command::MoveComplete { partition, table }
            }
            38 => {
                let (url, ending) = (self.pick(&super::notify::TWO), self.pick(&[Ending::Told, Ending::Lost]));
                let queue = QueueId::of(url);
                let waiting = outbox::notices(&self.town.rows, queue, 5).expect("memory");
                Command::EndNotices { queue, up_to: waiting.last().map_or(0, |(number, _)| *number), ending }
            }
            _ => Command::Sweep,
        }
    }

    fn an_upload(&mut self) -> (BucketName, ObjectKey, UploadId) {
        let uploads = self.uploads.clone();
        let (bucket, key, id) = self.pick(&uploads);
        (bucket, object(&key), id)
    }

    fn an_ask(&mut self) -> Ask {
        let prefix = self.pick(&["", "", "", "a", "a/", "ä", "a\0", "b/"]).to_owned();
        let delimiter = self.pick(&["", "/", "/", "b", "/b"]).to_owned();
        let after = self
            .chance
            .random_bool(0.4)
            .then(|| self.pick(&["a", "a/", "a/b", "a/bb", "b", "0", "zz", "ä/"]).to_owned());
        Ask { prefix, delimiter, after, max: self.pick(&[0, 1, 1, 2, 3, 1_000]) }
    }

    /// What clients and storage nodes see is what the model says.
    fn look(&mut self) {
        for chunk in self.model.named() {
            let known = read::chunk(&self.town.rows, chunk);
            assert!(matches!(known, Ok(Known::Named(_))), "seed {}: {chunk} can be read and is {known:?}", self.seed);
        }
        let names: Vec<BucketName> = self.model.buckets.keys().cloned().collect();
        for name in names {
            let id = read::bucket(&self.town.rows, &name).expect("it is there").id;
            let usage = self.model.buckets[&name].usage();
            assert_eq!(read::usage(&self.town.rows, id), Ok(usage), "seed {}", self.seed);
            let ask = self.an_ask();
            self.look_at_lists(&name, id, &ask);
        }
    }

    fn look_at_lists(&mut self, name: &BucketName, id: u64, ask: &Ask) {
        let (rows, model, seed) = (&self.town.rows, &self.model.buckets[name], self.seed);
        let live = model.keys.iter().filter(|(_, versions)| versions.last().is_some_and(|it| it.object.is_some()));
        let live: Vec<&str> = live.map(|(key, _)| key.as_str()).collect();
        let found = list::objects(rows, id, ask).expect("memory");
        let keys = found.entries.iter().map(|(key, _)| key.clone()).collect();
        assert_eq!((keys, found.prefixes, found.next), page(&live, ask), "seed {seed}: {ask:?}");
        for (key, version) in found.entries {
            assert_eq!(version.name(), model.newest(&key).expect("it is there").name, "seed {seed}");
        }
        // All versions, a page at a time.
        let all: Vec<(&str, VersionRef, bool)> = model
            .keys
            .iter()
            .flat_map(|(key, versions)| {
                versions.iter().rev().enumerate().map(move |(at, version)| (key.as_str(), version.name, at == 0))
            })
            .collect();
        let (mut seen, mut after, mut version) = (Vec::new(), None, None);
        loop {
            let ask = Ask { max: ask.max.max(1), after: after.take(), ..Ask::default() };
            let found = list::versions(rows, id, &ask, version).expect("memory");
            version = found.entries.last().map(|listed| listed.version.name());
            seen.extend(found.entries);
            after = found.next;
            if after.is_none() {
                break;
            }
        }
        let seen: Vec<_> = seen.iter().map(|it| (it.key.as_str(), it.version.name(), it.latest)).collect();
        assert_eq!(seen, all, "seed {seed}");
        let keys: Vec<&str> = all.iter().map(|(key, ..)| *key).collect();
        let found = list::versions(rows, id, ask, None).expect("memory");
        let entries: Vec<String> = found.entries.iter().map(|listed| listed.key.clone()).collect();
        let expected = page(&keys, ask);
        assert_eq!((entries, found.prefixes, found.next), expected, "seed {seed}: {ask:?}");
        let uploads: Vec<&str> = model.uploads.keys().map(|(key, _)| key.as_str()).collect();
        let (mut seen, mut after, mut upload) = (Vec::new(), None, None);
        loop {
            let ask = Ask { max: ask.max.max(1), after: after.take(), ..Ask::default() };
            let found = list::uploads(rows, id, &ask, upload).expect("memory");
            upload = found.entries.last().map(|uploading| uploading.id);
            seen.extend(found.entries.into_iter().map(|uploading| uploading.key));
            after = found.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen, uploads, "seed {seed}");
        self.look_at_versions(name, id);
    }

    fn look_at_versions(&self, name: &BucketName, id: u64) {
        let (rows, model, seed) = (&self.town.rows, &self.model.buckets[name], self.seed);
        for (key, versions) in &model.keys {
            for known in versions {
                let found = read::version(rows, id, &object(key), known.name).expect("memory").expect("it is there");
                assert_eq!((found.at, found.object.is_some()), (known.at, known.object.is_some()), "seed {seed}");
                let (Some(object), Some(known)) = (found.object, &known.object) else { continue };
                assert_eq!((object.bytes, &object.etag, object.lock), (known.bytes, &known.etag, known.lock));
                assert_eq!(object.about.tags, known.tags);
                let pieces = read::layout(rows, &object.body, 0, usize::MAX).expect("memory");
                let chunks: Vec<ChunkRef> = pieces.iter().map(|piece| piece.chunk).collect();
                assert_eq!(chunks, known.chunks, "seed {seed}");
                let half = read::layout(rows, &object.body, object.bytes / 2, 2).expect("memory");
                let holds = |piece: &&read::Piece| piece.offset + u64::from(piece.chunk.bytes) > object.bytes / 2;
                let expected: Vec<_> = pieces.iter().filter(holds).take(2).copied().collect();
                assert_eq!(half, expected, "seed {seed}");
            }
        }
    }

    /// When everything that dies is dead: every chunk that was ever named is named, or condemned, and never both.
    fn end(&mut self) {
        self.town.sweep();
        let queues = outbox::queues(&self.town.rows, 10).expect("memory");
        let mut waiting = 0;
        for (id, queue) in &queues {
            let there = outbox::notices(&self.town.rows, *id, 10_000).expect("memory").len() as u64;
            assert!(there > 0 && queue.waiting == there, "seed {}: {queue:?}", self.seed);
            waiting += there;
        }
        let rows = self.town.rows.keys().filter(|row| row[0] == b'q').count() as u64;
        let head = read::head(&self.town.rows).expect("memory");
        assert_eq!((rows, head.notices), (waiting, waiting), "seed {}", self.seed);
        let named = self.model.named();
        let all = |kind: u8| -> BTreeSet<ChunkId> {
            let rows = self.town.rows.keys().filter(|row| row[0] == kind);
            rows.filter_map(|row| crate::meta::key::chunk_in(row)).collect()
        };
        assert_eq!(all(b'k'), named, "seed {}", self.seed);
        let condemned = self.model.known.difference(&named).copied().collect();
        assert_eq!(all(b'e'), condemned, "seed {}", self.seed);
        assert_eq!(read::head(&self.town.rows).expect("memory").writes, self.model.open.len() as u64);
    }
}
