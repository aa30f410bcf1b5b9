//! How chunks live and die, against everything that comes late, twice, in another order, or never: gateways open, write, commit, give up and die;
//! clients copy, overwrite, delete, and upload in parts; whoever leads sweeps, unlinks and mends by what it knew once, and is replaced half way;
//! nodes audit; rows are taken from a snapshot, or made anew from the log.
//!
//! Kept at every step: nothing dies on a disk, or is condemned, that can be read or could still be committed. And in the end nothing is on a disk
//! that nobody can read. `HIRSEL_STORAGE_SEEDS` says how many histories there are.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::model::Model;
use super::*;
use crate::heal::deaths;
use crate::meta::key;
use crate::meta::read::{self, Known};
use crate::meta::snapshot::{Frames, Taken, Taking};

/// Histories of the quick tier.
const SEEDS: u64 = 300;
const STEPS: usize = 220;
/// Whoever keeps pieces.
const NODES: u64 = 4;
/// Copies of a chunk, and without how many nothing is committed.
const COPIES: u64 = 3;
const LEAST: usize = 2;
const GATEWAYS: [NodeId; 2] = [NodeId(11), NodeId(12)];
const BUCKETS: [&str; 2] = ["pics", "films"];
const KEYS: [&str; 4] = ["a", "b", "c", "d"];
/// After so many rounds of whoever leads and of audits, nothing is left of what is dead.
const ROUNDS: usize = 40;

/// The pieces on a node: whether each is condemned; and what it remembers of those that died.
#[derive(Default)]
struct Shelf {
    pieces: BTreeMap<ChunkId, bool>,
    notes: BTreeSet<ChunkId>,
}

/// A body on its way through a gateway.
struct Body {
    write: WriteId,
    body: Written,
    /// Nodes on which all of it is safe.
    safe: BTreeSet<u64>,
    is_committing: bool,
}

#[derive(Default)]
struct Desk {
    incarnation: u64,
    /// Writes that are open, as far as it knows.
    ready: Vec<WriteId>,
    bodies: Vec<Body>,
}

/// Who waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Asker {
    /// A gateway of this start: it opened these writes.
    Opening(usize, u64),
    /// It commits the body of this write.
    Committing(usize, u64, WriteId),
    Nobody,
}

/// What is on its way.
enum Flying {
    /// To the log: carried out at most once.
    Command(Entry, Asker),
    /// Pieces to a node: of a body of a gateway, or of a repair.
    Pieces { node: u64, chunks: Vec<ChunkId>, write: Option<(usize, u64, WriteId)> },
    /// Deaths to a node, by the step of a leader.
    Deaths { node: u64, chunks: Vec<ChunkId>, is_unlink: bool, step: u64 },
}

/// What whoever leads has begun: which nodes did not answer yet.
struct Unlinking {
    step: u64,
    chunks: Vec<ChunkId>,
    waits: BTreeSet<u64>,
}

struct Farm {
    seed: u64,
    chance: SmallRng,
    town: Town,
    model: Model,
    shelves: BTreeMap<u64, Shelf>,
    desks: Vec<Desk>,
    flying: Vec<Flying>,
    /// Starts of gateways, as whoever leads knows them.
    known: BTreeMap<NodeId, Incarnation>,
    leader: Option<Unlinking>,
    steps: u64,
    /// What somebody knew once.
    past: Memory,
    /// The log that was carried out, and the rows at one point of it.
    applied: Vec<Entry>,
    kept: (usize, Memory),
    table: u64,
    uploads: Vec<(BucketName, ObjectKey, UploadId)>,
    versions: Vec<VersionRef>,
    /// On which nodes each chunk was safe when it was committed.
    promised: BTreeMap<ChunkId, BTreeSet<u64>>,
    met: BTreeMap<&'static str, u64>,
}

fn homes(chunk: ChunkId) -> impl Iterator<Item = u64> {
    (0..COPIES).map(move |copy| 1 + (u64::from(chunk.partition()) + copy) % NODES)
}

fn chunks_of(body: &Written) -> Vec<ChunkId> {
    match body {
        Written::Chunks { chunks, .. } => chunks.iter().map(|chunk| chunk.id).collect(),
        Written::Inline(_) => Vec::new(),
    }
}

impl Farm {
    fn new(seed: u64) -> Farm {
        let mut farm = Farm {
            seed,
            chance: SmallRng::seed_from_u64(seed),
            town: Town { at: 1_000, ..Town::default() },
            model: Model::default(),
            shelves: (1..=NODES).map(|node| (node, Shelf::default())).collect(),
            desks: GATEWAYS.iter().map(|_| Desk { incarnation: 1, ..Desk::default() }).collect(),
            flying: Vec::new(),
            known: GATEWAYS.iter().map(|node| (*node, Incarnation(1))).collect(),
            leader: None,
            steps: 0,
            past: Memory::new(),
            applied: Vec::new(),
            kept: (0, Memory::new()),
            table: 1,
            uploads: Vec::new(),
            versions: vec![VersionRef::Null],
            promised: BTreeMap::new(),
            met: BTreeMap::new(),
        };
        for name in BUCKETS {
            let entry = farm.town.entry(create(name, false));
            assert_eq!(farm.carry_out(entry), Ok(Answer::Done));
        }
        farm
    }

    fn meet(&mut self, what: &'static str) {
        *self.met.entry(what).or_default() += 1;
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from.choose(&mut self.chance).expect("there is one").clone()
    }

    fn a_place(&mut self) -> (BucketName, ObjectKey) {
        (bucket(self.pick(&BUCKETS)), object(self.pick(&KEYS)))
    }

    /// Sends a command off; it comes at any time, or never.
    fn send(&mut self, command: Command, asker: Asker) {
        let entry = self.town.entry(command);
        self.flying.push(Flying::Command(entry, asker));
    }

    fn step(&mut self) {
        match self.chance.random_range(0..100) {
            0..=44 => self.deliver_one(),
            45..=49 => self.open(),
            50..=62 => self.begin(),
            63..=72 => self.commit(),
            73 => self.give_up(),
            74 => self.die(),
            75 => self.learn(),
            76..=86 => self.client(),
            87..=90 => self.lead(),
            91 => {
                if self.leader.take().is_some() {
                    self.meet("a leader was replaced half way");
                }
            }
            92..=94 => {
                let node = self.chance.random_range(1..=NODES);
                self.audit(node);
            }
            95 => self.mend(),
            96 => {
                let (partition, table) = (self.chance.random_range(0..5), self.table + 1);
                self.table = table;
                self.send(Command::MoveComplete { partition, table }, Asker::Nobody);
            }
            97 => self.past = self.town.rows.clone(),
            98 => self.restore(),
            _ => self.forget_notes(),
        }
    }

    fn deliver_one(&mut self) {
        if self.flying.is_empty() {
            return;
        }
        let number = self.chance.random_range(0..self.flying.len());
        let one = self.flying.swap_remove(number);
        if self.chance.random_bool(0.05) {
            self.meet("something was lost on its way");
            return;
        }
        self.deliver(one);
    }

    fn deliver(&mut self, one: Flying) {
        match one {
            Flying::Command(entry, asker) => {
                let outcome = self.carry_out(entry);
                // The answer may be lost: then who asked gives up some time.
                if self.chance.random_bool(0.9) {
                    self.answer(asker, outcome);
                }
            }
            Flying::Pieces { node, chunks, write } => self.put(node, chunks, write),
            Flying::Deaths { node, chunks, is_unlink, step } => self.kill(node, chunks, is_unlink, step),
        }
    }

    fn carry_out(&mut self, entry: Entry) -> Result<Answer, Refusal> {
        let (at, command) = (entry.at, entry.command.clone());
        self.applied.push(entry.clone());
        let (changes, outcome) = apply(&self.town.rows, entry).expect("nothing of it is broken");
        assert!(outcome.is_ok() || changes.is_empty(), "what is refused changes nothing");
        let of_kind = |kind: u8, is_there: bool| {
            let rows = changes.iter().filter(move |(row, change)| row[0] == kind && change.is_some() == is_there);
            rows.filter_map(|(row, _)| key::chunk_in(row)).collect::<BTreeSet<_>>()
        };
        let (condemned, unnamed) = (of_kind(b'e', true), of_kind(b'k', false));
        take(&mut self.town.rows, changes);
        if let Ok(answer) = &outcome {
            let followed = self.model.carry_out(at, &command, Some(answer));
            assert_eq!(followed, Ok(()), "seed {}: {command:?}", self.seed);
            self.note(&command, answer);
        }
        if !condemned.is_empty() || !unnamed.is_empty() {
            self.check_alive(&condemned, "is condemned");
            assert!(unnamed.is_subset(&condemned), "seed {}: {command:?} loses {unnamed:?}", self.seed);
            self.meet(if unnamed.is_empty() {
                "what nobody named was condemned"
            } else {
                "what was deleted was condemned"
            });
        }
        match &outcome {
            Err(Refusal::NotOpen) => self.meet("a commit came too late"),
            Err(Refusal::OldTable { .. }) => self.meet("a commit was placed by an older table"),
            _ => {}
        }
        outcome
    }

    /// None of these can be read, or could still be committed.
    fn check_alive(&self, chunks: &BTreeSet<ChunkId>, how: &str) {
        let named = self.model.named();
        for chunk in chunks {
            let seed = self.seed;
            assert!(!named.contains(chunk), "seed {seed}: {chunk} {how} and can be read");
            assert!(!self.model.open.contains_key(&chunk.write()), "seed {seed}: {chunk} {how} and its write is open");
        }
    }

    fn note(&mut self, command: &Command, answer: &Answer) {
        match (command, answer) {
            (Command::CreateUpload(create), Answer::Upload(id)) => {
                self.uploads.push((create.bucket.clone(), create.key.clone(), *id));
            }
            (Command::CompleteUpload(_), _) => self.meet("an upload was completed"),
            (Command::AbortUpload { .. }, _) => self.meet("an upload was aborted"),
            (Command::Copy(_), _) => self.meet("a body was shared"),
            (Command::AbortGone { .. }, Answer::Some { done: 1.., .. }) => self.meet("writes ended with their gateway"),
            (Command::Forget { .. }, _) => self.meet("chunks were forgotten"),
            _ => {}
        }
        match answer {
            Answer::Made(made) => self.versions.extend(made.version),
            Answer::Deleted(deleted) => self.versions.extend(deleted.iter().flatten().filter_map(|it| it.marker)),
            _ => {}
        }
    }

    fn answer(&mut self, asker: Asker, outcome: Result<Answer, Refusal>) {
        match asker {
            Asker::Opening(desk, start) => {
                let opened = self.applied.last().map(|entry| entry.command.clone());
                if self.desks[desk].incarnation == start
                    && let (Ok(_), Some(Command::Open { writes, .. })) = (outcome, opened)
                {
                    self.desks[desk].ready.extend(writes);
                }
            }
            Asker::Committing(desk, start, write) => {
                let Some(body) = self.body_of(desk, start, write) else { return };
                self.desks[desk].bodies.remove(body);
                match outcome {
                    Ok(_) => {}
                    // Whatever it had ready is taken for ended.
                    Err(Refusal::NotOpen) => self.desks[desk].ready.clear(),
                    Err(_) => self.send(Command::Abort { writes: vec![write] }, Asker::Nobody),
                }
            }
            Asker::Nobody => {}
        }
    }

    fn body_of(&self, desk: usize, start: u64, write: WriteId) -> Option<usize> {
        let desk = self.desks.get(desk).filter(|desk| desk.incarnation == start)?;
        desk.bodies.iter().position(|body| body.write == write)
    }

    /// A gateway opens some writes.
    fn open(&mut self) {
        let desk = self.chance.random_range(0..self.desks.len());
        let writes: Vec<WriteId> = (0..self.chance.random_range(1..4)).map(|_| self.town.draw()).collect();
        let (gateway, start) = (GATEWAYS[desk], self.desks[desk].incarnation);
        let open = Command::Open { gateway, incarnation: Incarnation(start), writes };
        self.send(open, Asker::Opening(desk, start));
    }

    /// A gateway begins to write a body.
    fn begin(&mut self) {
        let number = self.chance.random_range(0..self.desks.len());
        let Some(write) = self.desks[number].ready.pop() else { return self.open() };
        let (many, bytes) = (self.pick(&[1, 1, 2, 3, 12]), self.pick(&[40, 400, 6 * MIB]));
        let mut body = written(write, many, bytes);
        if let Written::Chunks { table, .. } = &mut body {
            *table = self.table;
        }
        let start = self.desks[number].incarnation;
        let chunks = chunks_of(&body);
        for node in 1..=NODES {
            let here: Vec<ChunkId> =
                chunks.iter().copied().filter(|chunk| homes(*chunk).any(|home| home == node)).collect();
            if !here.is_empty() {
                self.flying.push(Flying::Pieces { node, chunks: here, write: Some((number, start, write)) });
            }
        }
        self.desks[number].bodies.push(Body { write, body, safe: BTreeSet::new(), is_committing: false });
    }

    /// A gateway commits a body, once enough of it is safe.
    fn commit(&mut self) {
        let desk = self.chance.random_range(0..self.desks.len());
        let safe_on = |body: &Body, chunk: ChunkId| homes(chunk).filter(|node| body.safe.contains(node)).count();
        let is_ready = |body: &Body| {
            !body.is_committing && chunks_of(&body.body).iter().all(|chunk| safe_on(body, *chunk) >= LEAST)
        };
        let Some(number) = self.desks[desk].bodies.iter().position(is_ready) else { return };
        let start = self.desks[desk].incarnation;
        let body = &mut self.desks[desk].bodies[number];
        body.is_committing = true;
        let (write, mut written) = (body.write, body.body.clone());
        for chunk in chunks_of(&written) {
            let safe: BTreeSet<u64> = homes(chunk).filter(|node| body.safe.contains(node)).collect();
            if let Written::Chunks { missed, .. } = &mut written {
                let lacks = homes(chunk).filter(|node| !safe.contains(node));
                missed.extend(lacks.map(|node| Missed { chunk, shard: 0, node: NodeId(node) }));
            }
            self.promised.insert(chunk, safe);
        }
        let command = match self.chance.random_range(0..3) {
            0 if !self.uploads.is_empty() => {
                let uploads = self.uploads.clone();
                let (bucket, key, upload) = self.pick(&uploads);
                let (number, etag) = (self.chance.random_range(1..4), "p1".to_owned());
                Command::PutPart(Box::new(PutPart { bucket, key, upload, number, body: written, etag, checksum: None }))
            }
            _ => {
                let (bucket, key) = self.a_place();
                let first = self.chance.random_bool(0.2).then(|| "*".to_owned());
                let condition = Condition { if_match: None, if_none_match: first };
                Command::Put(Box::new(Put { condition, ..put(bucket.as_str(), key.as_str(), written) }))
            }
        };
        self.send(command, Asker::Committing(desk, start, write));
    }

    /// A client goes away, or an answer does not come in time: what was asked may still come.
    fn give_up(&mut self) {
        let desk = self.chance.random_range(0..self.desks.len());
        let many = self.desks[desk].bodies.len();
        if many > 0 {
            let body = self.desks[desk].bodies.remove(self.chance.random_range(0..many));
            self.meet(if body.is_committing { "a commit was given up" } else { "a body was given up" });
            self.send(Command::Abort { writes: vec![body.write] }, Asker::Nobody);
        }
    }

    /// A gateway ends, and all it knew. What it has sent is still on its way.
    fn die(&mut self) {
        let desk = self.chance.random_range(0..self.desks.len());
        if !self.desks[desk].bodies.is_empty() {
            self.meet("a gateway died with bodies on their way");
        }
        self.desks[desk] = Desk { incarnation: self.desks[desk].incarnation + 1, ..Desk::default() };
    }

    /// Whoever leads hears of the start of a gateway.
    fn learn(&mut self) {
        let desk = self.chance.random_range(0..self.desks.len());
        self.known.insert(GATEWAYS[desk], Incarnation(self.desks[desk].incarnation));
    }

    /// What clients ask for, and what rules of a bucket delete by themselves.
    fn client(&mut self) {
        let (bucket, key) = self.a_place();
        let versions = self.versions.clone();
        let version = self.chance.random_bool(0.4).then(|| self.pick(&versions));
        let command = match self.chance.random_range(0..16) {
            0..=5 => {
                let if_match = self.chance.random_bool(0.2).then(|| "e1".to_owned());
                let deletions = vec![Deletion { key, version, if_match }];
                Command::Delete { bucket, deletions, bypass: false, expired: false }
            }
            6..=8 => {
                let (from_bucket, from_key) = self.a_place();
                let copy = copying(from_key.as_str(), key.as_str());
                Command::Copy(Box::new(Copying { from_bucket, from_version: version, bucket, ..copy }))
            }
            9 | 10 => {
                let create = CreateUpload { bucket, key, about: About::default(), lock: None, checksum: None };
                Command::CreateUpload(Box::new(create))
            }
            11..=13 if !self.uploads.is_empty() => {
                let uploads = self.uploads.clone();
                let (bucket, key, upload) = self.pick(&uploads);
                let there = self.model.buckets.get(&bucket).and_then(|it| it.uploads.get(&(key.to_string(), upload)));
                let mut parts: Vec<(u16, String)> = there.map_or_else(Vec::new, |upload| {
                    upload.parts.iter().map(|(number, (_, etag, _))| (*number, etag.clone())).collect()
                });
                // Parts that no list names die.
                parts.retain(|_| self.chance.random_bool(0.8));
                let (etag, condition) = ("m1".to_owned(), Condition::default());
                let complete =
                    CompleteUpload { bucket, key, upload, parts, etag, checksum: None, bytes: None, condition };
                Command::CompleteUpload(Box::new(complete))
            }
            14 if !self.uploads.is_empty() => {
                let uploads = self.uploads.clone();
                let (bucket, key, upload) = self.pick(&uploads);
                Command::AbortUpload { bucket, key, upload }
            }
            _ => match self.chance.random_range(0..4) {
                0 => Command::DeleteBucket { name: bucket },
                1 => create(bucket.as_str(), false),
                _ => {
                    let to = self.pick(&[Versioning::On, Versioning::Suspended]);
                    Command::SetBucket { name: bucket, change: BucketChange::Versioning(to) }
                }
            },
        };
        self.send(command, Asker::Nobody);
    }

    /// One step of whoever leads, by what it knows now or knew once. Everything of it is on its way at once, which is more than it does.
    fn lead(&mut self) {
        let rows = if self.chance.random_bool(0.5) { &self.past } else { &self.town.rows };
        let due = deaths::due(rows, &self.known).expect("memory");
        for (gateway, before) in due.gone {
            self.send(Command::AbortGone { gateway, before }, Asker::Nobody);
        }
        if due.is_dying {
            self.send(Command::Sweep, Asker::Nobody);
        }
        if due.condemned.is_empty() {
            return;
        }
        self.steps += 1;
        for node in 1..=NODES {
            let (chunks, step) = (due.condemned.clone(), self.steps);
            self.flying.push(Flying::Deaths { node, chunks, is_unlink: false, step });
        }
        self.leader = Some(Unlinking { step: self.steps, chunks: due.condemned, waits: (1..=NODES).collect() });
    }

    /// Makes pieces anew that are missing, by what it knew once: chunks may be dead by then.
    fn mend(&mut self) {
        let rows = if self.chance.random_bool(0.5) { &self.past } else { &self.town.rows };
        let missed = read::repairs(rows, None, None, 5).expect("memory");
        let is_named = |missed: &Missed| matches!(read::chunk(rows, missed.chunk), Ok(Known::Named(_)));
        let missed: Vec<Missed> = missed.into_iter().filter(is_named).collect();
        for missed in &missed {
            self.flying.push(Flying::Pieces { node: missed.node.0, chunks: vec![missed.chunk], write: None });
        }
        if !missed.is_empty() {
            self.meet("pieces were made anew");
            self.send(Command::Repaired { missed }, Asker::Nobody);
        }
    }

    /// A node asks about what it has.
    fn audit(&mut self, node: u64) {
        let rows = if self.chance.random_bool(0.3) { &self.past } else { &self.town.rows };
        let living = self.shelves[&node].pieces.iter().filter(|(_, condemned)| !**condemned).map(|(chunk, _)| *chunk);
        let unknown: Vec<ChunkId> =
            living.filter(|chunk| read::chunk(rows, *chunk).expect("memory") == Known::Unknown).collect();
        if !unknown.is_empty() {
            self.send(Command::CondemnUnknown { chunks: unknown }, Asker::Nobody);
        }
    }

    /// Pieces come to a node.
    fn put(&mut self, node: u64, chunks: Vec<ChunkId>, write: Option<(usize, u64, WriteId)>) {
        let shelf = self.shelves.get_mut(&node).expect("a node");
        let mut taken = true;
        let mut is_late = false;
        for chunk in chunks {
            if shelf.notes.contains(&chunk) {
                taken = false;
            } else {
                is_late |= !shelf.pieces.contains_key(&chunk) && !self.model.open.contains_key(&chunk.write());
                shelf.pieces.entry(chunk).or_insert(false);
            }
        }
        if is_late {
            self.meet("a piece came when its write was over");
        }
        if let Some((desk, start, write)) = write
            && taken
            && let Some(body) = self.body_of(desk, start, write)
        {
            self.desks[desk].bodies[body].safe.insert(node);
        }
    }

    /// Deaths come to a node.
    fn kill(&mut self, node: u64, chunks: Vec<ChunkId>, is_unlink: bool, step: u64) {
        let there = |chunk: &ChunkId| self.shelves[&node].pieces.contains_key(chunk);
        self.check_alive(&chunks.iter().copied().filter(there).collect(), "dies on a disk");
        let shelf = self.shelves.get_mut(&node).expect("a node");
        let mut is_done = true;
        for chunk in &chunks {
            match shelf.pieces.get(chunk).copied() {
                None => {}
                Some(_) if !is_unlink => {
                    shelf.pieces.insert(*chunk, true);
                    shelf.notes.insert(*chunk);
                }
                Some(true) => drop(shelf.pieces.remove(chunk)),
                // It came between the two: the disk refuses.
                Some(false) => is_done = false,
            }
        }
        if !is_done {
            return self.meet("a piece came between being condemned and being unlinked");
        }
        if !is_unlink {
            return self.flying.push(Flying::Deaths { node, chunks, is_unlink: true, step });
        }
        let Some(leader) = self.leader.as_mut().filter(|leader| leader.step == step) else { return };
        leader.waits.remove(&node);
        if leader.waits.is_empty()
            && let Some(Unlinking { chunks, .. }) = self.leader.take()
        {
            self.send(Command::Forget { chunks }, Asker::Nobody);
        }
    }

    /// What a disk remembers of those that are gone from it is lost with the segment that it stood in.
    fn forget_notes(&mut self) {
        let node = self.chance.random_range(1..=NODES);
        let shelf = self.shelves.get_mut(&node).expect("a node");
        shelf.notes.retain(|chunk| shelf.pieces.contains_key(chunk));
    }

    /// Another replica goes on: with the rows of a snapshot, or with older ones and the log since.
    fn restore(&mut self) {
        let rows = if self.chance.random_bool(0.5) {
            let (mut frames, mut taking, mut rows) = (Frames::default(), Taking::default(), Memory::new());
            while let Some(frame) = frames.next(&self.town.rows).expect("memory") {
                if let Taken::Rows(some) = taking.take(&frame).expect("a frame") {
                    rows.extend(some);
                }
            }
            rows
        } else {
            let (from, mut rows) = self.kept.clone();
            for entry in &self.applied[from..] {
                let (changes, _) = apply(&rows, entry.clone()).expect("it was applied before");
                take(&mut rows, changes);
            }
            rows
        };
        assert_eq!(rows, self.town.rows, "seed {}", self.seed);
        self.kept = (self.applied.len(), rows.clone());
        self.town.rows = rows;
        self.meet("another replica went on");
    }

    /// Everything that can be read is where it was promised.
    fn check_promises(&self) {
        for chunk in self.model.named() {
            for node in &self.promised[&chunk] {
                let piece = self.shelves[node].pieces.get(&chunk);
                assert_eq!(piece, Some(&false), "seed {}: {chunk} can be read, on node {node}", self.seed);
            }
        }
    }

    /// All gateways start anew, what is on its way comes or not, and whoever leads goes on: nothing is left of what is dead.
    fn end(&mut self) {
        for (gateway, desk) in GATEWAYS.iter().zip(&mut self.desks) {
            *desk = Desk { incarnation: desk.incarnation + 1, ..Desk::default() };
            self.known.insert(*gateway, Incarnation(desk.incarnation));
        }
        let mut left = Vec::new();
        for _ in 0..ROUNDS {
            while !self.flying.is_empty() {
                self.deliver_one();
            }
            self.check_promises();
            left = self.left();
            if left.is_empty() {
                break;
            }
            self.past = self.town.rows.clone();
            self.leader = None;
            (1..=NODES).for_each(|node| self.audit(node));
            self.lead();
        }
        assert_eq!(left, [""; 0], "seed {}", self.seed);
        let named: BTreeSet<ChunkId> =
            self.town.rows.keys().filter(|row| row[0] == b'k').filter_map(|row| key::chunk_in(row)).collect();
        assert_eq!(named, self.model.named(), "seed {}", self.seed);
    }

    /// What is still there of what is dead, in words.
    fn left(&self) -> Vec<String> {
        let named = self.model.named();
        let pieces = self.shelves.iter().flat_map(|(node, shelf)| shelf.pieces.keys().map(move |chunk| (node, chunk)));
        let dead = pieces.filter(|(_, chunk)| !named.contains(*chunk));
        let dead = dead.map(|(node, chunk)| format!("{chunk} on node {node}"));
        let rows = self.town.rows.keys().filter(|row| b"egix".contains(&row[0]));
        dead.chain(rows.map(|row| format!("a row of kind {}", char::from(row[0])))).collect()
    }
}

fn history(seed: u64) -> BTreeMap<&'static str, u64> {
    let mut farm = Farm::new(seed);
    for step in 0..STEPS {
        farm.step();
        if step % 20 == 0 {
            farm.check_promises();
        }
    }
    farm.end();
    farm.met
}

#[test]
fn of_each_gateway_the_earliest_start_that_still_writes_is_known() {
    let mut town = Town::default();
    for (gateway, start, write) in [(7, 3, 1), (7, 2, 9), (9, 5, 2), (7, 4, 3), (300, 1, 4)] {
        let (gateway, incarnation, writes) = (NodeId(gateway), Incarnation(start), vec![WriteId([write; 12])]);
        assert_eq!(town.run(Command::Open { gateway, incarnation, writes }), Ok(Answer::Done));
    }
    let known = |town: &Town| {
        let writers = read::writers(&town.rows).expect("memory");
        writers.into_iter().map(|(gateway, start)| (gateway.0, start.0)).collect::<Vec<_>>()
    };
    assert_eq!(known(&town), [(7, 2), (9, 5), (300, 1)]);
    town.run(Command::AbortGone { gateway: NodeId(7), before: Incarnation(4) }).expect("it may be asked");
    town.run(Command::Abort { writes: vec![WriteId([2; 12])] }).expect("it may be asked");
    assert_eq!(known(&town), [(7, 4), (300, 1)]);
}

#[test]
fn nothing_dies_that_could_be_read_and_nothing_dead_stays() {
    let asked = std::env::var("HIRSEL_STORAGE_SEEDS").ok().and_then(|text| text.parse().ok());
    let seeds = asked.unwrap_or(SEEDS);
    let workers = std::thread::available_parallelism().map_or(1, |many| many.get() as u64);
    let some = |worker: u64| {
        let mut met = BTreeMap::new();
        for seed in (worker..seeds).step_by(workers as usize) {
            for (what, times) in history(seed) {
                *met.entry(what).or_insert(0) += times;
            }
        }
        met
    };
    let mut met: BTreeMap<&str, u64> = BTreeMap::new();
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..workers).map(|worker| scope.spawn(move || some(worker))).collect();
        for one in running {
            let one = one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            one.into_iter().for_each(|(what, times)| *met.entry(what).or_default() += times);
        }
    });
    // What the histories never come to is not tested by them.
    let expected = [
        "a body was given up",
        "a body was shared",
        "a commit came too late",
        "a commit was given up",
        "a commit was placed by an older table",
        "a gateway died with bodies on their way",
        "a leader was replaced half way",
        "a piece came between being condemned and being unlinked",
        "a piece came when its write was over",
        "an upload was aborted",
        "an upload was completed",
        "another replica went on",
        "chunks were forgotten",
        "pieces were made anew",
        "what nobody named was condemned",
        "what was deleted was condemned",
        "writes ended with their gateway",
    ];
    let missed: Vec<&str> = expected.into_iter().filter(|it| !met.contains_key(it)).collect();
    assert_eq!(missed, [""; 0], "of {met:?}");
}
