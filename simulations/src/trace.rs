//! The history of a simulation: every datagram, every piece of a stream, every change of state and every fault, in order, folded
//! into one hash. Two runs are equal when their hashes are.

use std::collections::VecDeque;
use std::collections::hash_map::DefaultHasher;
use std::fmt;
use std::fs::File;
use std::hash::Hasher;
use std::io::{BufWriter, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How many notes are kept for people. A minute of a busy simulation makes a few thousand.
const NOTES_MAX: usize = 20_000;

/// One line for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// True time.
    pub at: Duration,
    /// Which host, or `world`.
    pub who: String,
    /// What happened.
    pub what: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>9.3} {:<6} {}", self.at.as_secs_f64(), self.who, self.what)
    }
}

/// The history of one simulation. Clones are the same history.
#[derive(Clone)]
pub struct Trace(Arc<Mutex<Inner>>);

struct Inner {
    // With fixed keys, unlike `RandomState`.
    hash: DefaultHasher,
    pieces: u64,
    notes: VecDeque<Note>,
    closed: bool,
    /// Everything, line by line, to find where two histories part.
    file: Option<BufWriter<File>>,
}

impl Default for Trace {
    fn default() -> Self {
        let inner = Inner { hash: DefaultHasher::new(), pieces: 0, notes: VecDeque::new(), closed: false, file: None };
        Self(Arc::new(Mutex::new(inner)))
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Trace")
    }
}

impl Inner {
    fn write(&mut self, line: fmt::Arguments<'_>) {
        if let Some(file) = &mut self.file {
            // A trace that cannot be written is seen to be short.
            let _ = writeln!(file, "{line}");
        }
    }
}

impl Trace {
    /// A history that is also written to `file`.
    pub fn to_file(file: File) -> Self {
        let trace = Self::default();
        crate::lock(&trace.0).file = Some(BufWriter::new(file));
        trace
    }

    /// Bytes handed to the network. They go into the hash whole, so equal hashes mean equal ciphertext.
    pub fn packet(&self, from: SocketAddr, to: SocketAddr, bytes: &[u8], copies: u8) {
        let mut inner = crate::lock(&self.0);
        if inner.closed {
            return;
        }
        inner.pieces += 1;
        let head = format!("{} {from} {to} {copies} {}", crate::clock::elapsed().as_nanos(), bytes.len());
        inner.hash.write(head.as_bytes());
        inner.hash.write(bytes);
        if inner.file.is_some() {
            let mut digest = DefaultHasher::new();
            digest.write(bytes);
            inner.write(format_args!("{head} {:016x} {}", digest.finish(), crate::entropy::drawn()));
        }
    }

    /// Something that happened on a host, stamped with virtual time.
    pub fn note(&self, who: &str, what: impl Into<String>) {
        self.note_at(crate::clock::elapsed(), who, what);
    }

    /// The same from outside every host, where virtual time cannot be asked for.
    pub fn note_at(&self, at: Duration, who: &str, what: impl Into<String>) {
        let mut inner = crate::lock(&self.0);
        if inner.closed {
            return;
        }
        let note = Note { at, who: who.into(), what: what.into() };
        inner.hash.write(note.to_string().as_bytes());
        inner.write(format_args!("{note}"));
        if inner.notes.len() == NOTES_MAX {
            inner.notes.pop_front();
        }
        inner.notes.push_back(note);
    }

    /// Ends the history: what destructors do afterwards is not part of it. Returns the hash, how many pieces the network carried,
    /// and the notes.
    pub fn finish(&self) -> (u64, u64, Vec<Note>) {
        let mut inner = crate::lock(&self.0);
        inner.closed = true;
        // Written to its end.
        drop(inner.file.take());
        (inner.hash.finish(), inner.pieces, std::mem::take(&mut inner.notes).into())
    }
}
