//! Stories of single commands, and the state machine against a model of it that is plain to see.

use std::collections::BTreeMap;

use hirsel_model::{Incarnation, NodeId, WallTime, codec};

use super::apply::{Changes, apply};
use super::command::*;
use super::kinds::*;
use super::names::*;
use super::refusal::Refusal;
use super::rows::Memory;

mod crash;
mod foundation;
mod garbage;
mod group;
mod model;
mod notify;
mod random;
mod replicate;
mod stories;
mod work;

/// A group in memory.
#[derive(Clone, Default)]
struct Town {
    rows: Memory,
    /// The wall clock.
    at: u64,
    drawn: u64,
    /// Everything that was asked of it.
    log: Vec<Entry>,
}

const GATEWAY: NodeId = NodeId(7);
const MIB: u64 = 1 << 20;

impl Town {
    fn run(&mut self, command: Command) -> Result<Answer, Refusal> {
        let entry = self.entry(command);
        let decoded: Entry = codec::decode(&codec::encode(&entry)).expect("an entry comes back as it was");
        assert_eq!(decoded, entry);
        let (changes, outcome) = apply(&self.rows, entry).expect("nothing of it is broken");
        assert!(outcome.is_ok() || changes.is_empty(), "what is refused changes nothing");
        take(&mut self.rows, changes);
        assert_eq!(codec::decode::<Result<Answer, Refusal>>(&codec::encode(&outcome)).expect("an answer"), outcome);
        outcome
    }

    fn entry(&mut self, command: Command) -> Entry {
        self.at += 1;
        self.drawn += 1;
        let entry = Entry { at: WallTime(self.at), salt: self.drawn.wrapping_mul(0x9e37_79b9_7f4a_7c15), command };
        self.log.push(entry.clone());
        entry
    }

    /// With this bucket.
    fn with(name: &str, versioning: Versioning) -> Self {
        let mut town = Self { at: 1_000, ..Self::default() };
        town.run(create(name, false)).expect("a new bucket");
        if versioning != Versioning::Off {
            town.set(name, BucketChange::Versioning(versioning)).expect("it may be set");
        }
        town
    }

    fn set(&mut self, name: &str, change: BucketChange) -> Result<Answer, Refusal> {
        self.run(Command::SetBucket { name: bucket(name), change })
    }

    fn draw(&mut self) -> WriteId {
        self.drawn += 1;
        let mut id = [0; 12];
        id[..8].copy_from_slice(&self.drawn.wrapping_mul(0xd6e8_feb8_6659_fd93).to_be_bytes());
        WriteId(id)
    }

    /// An open write.
    fn open(&mut self) -> WriteId {
        let write = self.draw();
        let opened = Command::Open { gateway: GATEWAY, incarnation: Incarnation(3), writes: vec![write] };
        self.run(opened).expect("a new write");
        write
    }

    /// A body in so many chunks, written.
    fn body(&mut self, chunks: u16, bytes: u64) -> Written {
        let write = self.open();
        written(write, chunks, bytes)
    }

    fn put(&mut self, name: &str, key: &str, condition: Condition) -> Result<Made, Refusal> {
        let body = self.body(1, 100);
        let put = Put { condition, ..put(name, key, body) };
        self.run(Command::Put(Box::new(put))).map(made)
    }

    fn delete(&mut self, name: &str, key: &str, version: Option<VersionRef>) -> Result<Deleted, Refusal> {
        let deletion = Deletion { key: object(key), version, if_match: None };
        match self.run(Command::Delete {
            bucket: bucket(name),
            deletions: vec![deletion],
            bypass: false,
            expired: false,
        })? {
            Answer::Deleted(mut answers) => answers.remove(0),
            other => panic!("{other:?}"),
        }
    }

    /// Sweeps until nothing dies.
    fn sweep(&mut self) -> u64 {
        for times in 1..10_000 {
            match self.run(Command::Sweep) {
                Ok(Answer::Some { more: false, .. }) => return times,
                Ok(Answer::Some { more: true, .. }) => {}
                other => panic!("{other:?}"),
            }
        }
        panic!("sweeping does not end")
    }
}

fn take(rows: &mut Memory, changes: Changes) {
    for (key, change) in changes {
        match change {
            Some(value) => drop(rows.insert(key, value)),
            None => drop(rows.remove(&key)),
        }
    }
}

fn create(name: &str, lockable: bool) -> Command {
    let (owner, region) = ("ann".into(), "here".into());
    Command::CreateBucket { name: bucket(name), owner, region, lockable, acl: Acl::Private, class: Default::default() }
}

/// A body in so many chunks, as this write made it.
fn written(write: WriteId, chunks: u16, bytes: u64) -> Written {
    let each = bytes / u64::from(chunks);
    let chunk = |number: u16| {
        let rest = if number == 0 { bytes - each * u64::from(chunks) } else { 0 };
        ChunkRef { id: ChunkId::new(number % 5, write, number), bytes: (each + rest) as u32 }
    };
    let chunks = (0..chunks).map(chunk).collect();
    Written::Chunks { write, class: Class::Copies(3), table: 1, chunks, missed: Vec::new() }
}

fn put(name: &str, key: &str, body: Written) -> Put {
    Put {
        bucket: bucket(name),
        key: object(key),
        body,
        etag: "e1".into(),
        checksum: None,
        about: About::default(),
        lock: None,
        condition: Condition::default(),
        by: By::Put,
    }
}

fn copying(from: &str, to: &str) -> Copying {
    Copying {
        from_bucket: bucket("pics"),
        from_key: object(from),
        from_version: None,
        from_etag: None,
        bucket: bucket("pics"),
        key: object(to),
        about: None,
        tags: None,
        acl: Acl::Private,
        lock: None,
        condition: Condition::default(),
    }
}

fn made(answer: Answer) -> Made {
    match answer {
        Answer::Made(made) => made,
        other => panic!("{other:?}"),
    }
}

fn bucket(name: &str) -> BucketName {
    name.parse().expect("a bucket name")
}

fn object(key: &str) -> ObjectKey {
    key.parse().expect("a key")
}

fn tags(tags: &[(&str, &str)]) -> BTreeMap<String, String> {
    tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}
