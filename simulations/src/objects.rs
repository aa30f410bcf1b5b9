//! Clients that use objects through the gateways of whatever agents they come to, all of them at once: put, put only as the first or only in
//! the place of what they saw, get, delete, list, copy, upload in parts. Each key is a register: what clients were told is judged by
//! [`linear`], and what they were given must be what somebody put, byte for byte.
//!
//! What is put is told from all else by its ETag, which is its number, and what is in it follows from that. A list reads all keys, and a
//! copy reads one and writes another. Whoever gets no answer in time goes on without knowing; an agent that dies answers nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngCore, SeedableRng};

use crate::chance::{mix, stream};
use crate::linear::{self, Act, End, Operation, Value, Verdict};
use crate::node::{Deed, Node};
use crate::plugins::storage::meta::kinds::{Class, WhenShort};

mod call;
mod pieces;

pub use call::{Ask, Call, Only};
pub use pieces::{Inspection, Inspections, Look, expected, is_settled};

/// Clients that ask at once, and the keys of each bucket: few, so that they meet.
const CLIENTS: usize = 5;
const KEYS: [&str; 2] = ["a", "b"];
/// Who got no answer for so long goes on: a write may take ten seconds, and its commit five.
const PATIENCE: Duration = Duration::from_secs(16);

/// How bodies of a bucket are kept.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    /// Its name.
    pub name: &'static str,
    /// How safe.
    pub class: Class,
    /// What becomes of those that cannot be kept so safe.
    pub when_short: WhenShort,
}

/// All buckets.
pub const BUCKETS: [Bucket; 3] = [
    Bucket { name: "copied", class: Class::Copies(3), when_short: WhenShort::Degrade },
    Bucket { name: "coded", class: Class::Erasure(4, 2), when_short: WhenShort::Degrade },
    Bucket { name: "certain", class: Class::Copies(3), when_short: WhenShort::Refuse },
];

/// A key of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Which of [`BUCKETS`].
    pub bucket: usize,
    /// Which of its keys.
    pub key: usize,
}

impl Place {
    fn all() -> impl Iterator<Item = Place> {
        (0..BUCKETS.len()).flat_map(|bucket| (0..KEYS.len()).map(move |key| Place { bucket, key }))
    }

    /// Its key.
    pub fn name(self) -> &'static str {
        KEYS[self.key]
    }

    fn register(self) -> String {
        format!("{}/{}", BUCKETS[self.bucket].name, KEYS[self.key])
    }
}

/// What is in the body with this number, when it is so long.
pub fn content(value: u64, bytes: usize) -> Vec<u8> {
    let mut content = vec![0; bytes];
    SmallRng::seed_from_u64(mix(value)).fill_bytes(&mut content);
    content
}

/// What was asked and answered, by all clients. Calls and returns are counted in the order in which they happen.
#[derive(Debug, Default)]
pub struct Journal {
    operations: Vec<Operation>,
    moments: u64,
    /// How long each body is that somebody may have put.
    pub bytes: BTreeMap<u64, usize>,
    /// Buckets that are there.
    pub made: BTreeSet<usize>,
    /// What must never be: a body that nobody put, a key that there is not.
    pub wrong: Vec<String>,
    /// Bodies that were given, and those that could not be read although they were there.
    pub given: u64,
    /// See above.
    pub unread: Vec<String>,
}

impl Journal {
    fn moment(&mut self) -> u64 {
        self.moments += 1;
        self.moments
    }

    fn begin(&mut self, client: &str, acts: Vec<(Place, Act)>) -> Range<usize> {
        let (called, first) = (self.moment(), self.operations.len());
        let operation = |(place, act): (Place, Act)| Operation {
            client: client.into(),
            key: place.register(),
            act,
            called,
            returned: None,
            end: End::Unknown,
        };
        self.operations.extend(acts.into_iter().map(operation));
        first..self.operations.len()
    }

    /// An answer came. One that nobody waits for any more changes nothing.
    fn end(&mut self, numbers: &Range<usize>, ends: Vec<(Act, End)>) {
        let Some(operations) = self.operations.get(numbers.clone()) else { return };
        if operations.iter().any(|operation| operation.returned.is_some()) {
            return;
        }
        let returned = self.moment();
        for (operation, (act, end)) in self.operations[numbers.clone()].iter_mut().zip(ends) {
            // What nobody knows may still happen.
            let returned = if end == End::Unknown { u64::MAX } else { returned };
            (operation.returned, operation.act, operation.end) = (Some(returned), act, end);
        }
    }

    /// What each read of a get that was answered saw.
    fn saw(&self, numbers: &Range<usize>) -> Option<(String, Value)> {
        match &self.operations[numbers.clone()] {
            [Operation { act: Act::Read, end: End::Done(value), key, .. }] => Some((key.clone(), *value)),
            _ => None,
        }
    }
}

/// A client.
struct Client {
    name: String,
    rng: SmallRng,
    next: Duration,
    /// What it waits for, and since when.
    waits: Option<(Range<usize>, Duration)>,
    /// What it saw last of each key.
    saw: BTreeMap<String, u64>,
}

/// All clients.
pub struct Clients {
    journal: Arc<Mutex<Journal>>,
    clients: Vec<Client>,
    values: u64,
    /// Whether some bodies are of several chunks, and some parts as long as parts of others are: once in a few seeds, since that is much to send.
    is_heavy: bool,
}

impl Clients {
    /// Clients that have asked nothing yet.
    pub fn new(seed: u64, journal: Arc<Mutex<Journal>>) -> Self {
        let client = |number: usize| {
            let name = format!("guest-{number}");
            let rng = stream(seed, &name);
            Client { name, rng, next: Duration::ZERO, waits: None, saw: BTreeMap::new() }
        };
        let is_heavy = stream(seed, "heavy").random_bool(0.2);
        Self { journal, clients: (1..=CLIENTS).map(client).collect(), values: 0, is_heavy }
    }

    /// Has the buckets made that are not there yet.
    pub fn make(&mut self, now: Duration, node: &Node) {
        let made = crate::lock(&self.journal).made.clone();
        for bucket in (0..BUCKETS.len()).filter(|bucket| !made.contains(bucket)) {
            self.call(0, now, node, Ask::Make(bucket));
        }
    }

    /// Whether all buckets are there.
    pub fn are_made(&self) -> bool {
        crate::lock(&self.journal).made.len() == BUCKETS.len()
    }

    /// Lets each client that waits for nothing ask something of some node, up to `pause` after its last answer.
    pub fn ask(&mut self, now: Duration, nodes: &[Node], pause: Duration) {
        for index in 0..self.clients.len() {
            if !self.is_idle(index, now) || now < self.clients[index].next {
                continue;
            }
            let client = &mut self.clients[index];
            let millis = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
            client.next = now + Duration::from_millis(client.rng.random_range(0..=millis));
            let node = client.rng.random_range(0..nodes.len());
            let ask = self.draw(index);
            self.call(index, now, &nodes[node], ask);
        }
    }

    fn draw(&mut self, index: usize) -> Ask {
        let (value, is_heavy) = (self.values + 1, self.is_heavy);
        let client = &mut self.clients[index];
        let rng = &mut client.rng;
        let places: Vec<Place> = Place::all().collect();
        let draw = |rng: &mut SmallRng| places.choose(rng).copied().unwrap_or(Place { bucket: 0, key: 0 });
        let at = draw(rng);
        let seen = client.saw.get(&at.register()).copied();
        let only = match (rng.random_range(0..5), seen) {
            (0 | 1, _) => Only::First,
            (2, Some(seen)) => Only::After(seen),
            _ => Only::Always,
        };
        let ask = match rng.random_range(0..20) {
            0..=6 => Ask::Put { at, value, bytes: bytes(rng, is_heavy), only },
            7..=11 => Ask::Get(at),
            12..=14 => Ask::Delete(at),
            15 => Ask::List(at.bucket),
            16 | 17 => {
                let mut to = draw(rng);
                if to == at {
                    to.key = (to.key + 1) % KEYS.len();
                }
                match seen {
                    Some(seen) => Ask::Copy { from: at, value: seen, to },
                    None => Ask::Get(at),
                }
            }
            _ => {
                let last = rng.random_range(1..60_000);
                let parts = if is_heavy && rng.random_bool(0.2) { vec![5 << 20, last] } else { vec![last] };
                Ask::Upload { at, value, parts, only }
            }
        };
        if let Some((value, bytes)) = ask.brings() {
            self.values += 1;
            crate::lock(&self.journal).bytes.insert(value, bytes);
        }
        ask
    }

    /// Has each key read, and each bucket listed, through each node, one question at a time. Done when it says so.
    pub fn read_all(&mut self, now: Duration, nodes: &[Node], asked: &mut usize) -> bool {
        if !(0..self.clients.len()).all(|index| self.is_idle(index, now)) {
            return false;
        }
        let asks = Place::all().map(Ask::Get).chain((0..BUCKETS.len()).map(Ask::List));
        let asks: Vec<Ask> = asks.collect();
        let (ask, node) = (*asked % asks.len(), *asked / asks.len());
        if node >= nodes.len() {
            return true;
        }
        *asked += 1;
        self.call(0, now, &nodes[node], asks[ask].clone());
        false
    }

    fn call(&mut self, index: usize, now: Duration, node: &Node, ask: Ask) {
        let client = &mut self.clients[index];
        let mut journal = crate::lock(&self.journal);
        let numbers = journal.begin(&format!("{} at {}", client.name, node.name), ask.acts());
        if node.ask(Deed::Object(Call { numbers: numbers.clone(), ask })) {
            client.waits = (!numbers.is_empty()).then_some((numbers, now));
        } else {
            // No agent took it.
            journal.operations.truncate(numbers.start);
        }
    }

    /// Whether a client waits for nothing: takes the answer that came, or gives it up.
    fn is_idle(&mut self, index: usize, now: Duration) -> bool {
        let client = &mut self.clients[index];
        let Some((numbers, since)) = client.waits.clone() else { return true };
        let mut journal = crate::lock(&self.journal);
        let answered = journal.operations[numbers.clone()].iter().any(|operation| operation.returned.is_some());
        if !answered && now < since + PATIENCE {
            return false;
        }
        client.waits = None;
        for operation in journal.operations[numbers.clone()].iter_mut().filter(|it| it.returned.is_none()) {
            // A late answer must not be taken for one in time.
            operation.returned = Some(u64::MAX);
        }
        if let Some((key, value)) = journal.saw(&numbers) {
            match value {
                Some(value) => client.saw.insert(key, value),
                None => client.saw.remove(&key),
            };
        }
        true
    }

    /// How many operations were done, failed, or are in doubt.
    pub fn counts(&self) -> (usize, usize, usize) {
        let journal = crate::lock(&self.journal);
        let count = |is: fn(&End) -> bool| journal.operations.iter().filter(|operation| is(&operation.end)).count();
        (count(|end| matches!(end, End::Done(_))), count(|end| *end == End::Failed), count(|end| *end == End::Unknown))
    }

    /// How many operations there are so far.
    pub fn asked(&self) -> usize {
        crate::lock(&self.journal).operations.len()
    }

    /// What could not be read of what was asked from this operation on.
    ///
    /// # Errors
    /// In words, when there is something.
    pub fn all_read(&self, from: usize) -> Result<(), String> {
        let journal = crate::lock(&self.journal);
        let failed = journal.operations[from..].iter().find(|operation| !matches!(operation.end, End::Done(_)));
        match failed {
            None => Ok(()),
            Some(failed) => {
                Err(format!("nothing is wrong any more, and this has no answer: {failed}; {:?}", journal.unread))
            }
        }
    }

    /// What is to be said of everything so far.
    ///
    /// # Errors
    /// In words, when it is not linearizable, when nobody can tell, or when somebody was given what nobody put.
    pub fn judge(&self) -> Result<(), String> {
        let journal = crate::lock(&self.journal);
        if let Some(wrong) = journal.wrong.first() {
            return Err(wrong.clone());
        }
        match linear::check(&journal.operations) {
            Verdict::Linear => Ok(()),
            Verdict::Broken(why) | Verdict::Undecided(why) => Err(why),
        }
    }
}

/// How long a body is: in its row, packed with others, a file of its own, or some of these.
fn bytes(rng: &mut SmallRng, is_heavy: bool) -> usize {
    match rng.random_range(0..100) {
        0..3 => 0,
        3..30 => rng.random_range(1..=4_096),
        30..70 => rng.random_range(4_097..100_000),
        70..97 => rng.random_range(200_000..400_000),
        _ if is_heavy => rng.random_range(4 << 20..9 << 20),
        _ => rng.random_range(400_000..1_200_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_taken_once_and_never_late() {
        let journal = Arc::new(Mutex::new(Journal::default()));
        let clients = Clients::new(1, journal.clone());
        let at = Place { bucket: 0, key: 0 };
        let mut inner = crate::lock(&journal);
        let put = inner.begin("c", vec![(at, Act::Write(1))]);
        inner.end(&put, vec![(Act::Write(1), End::Done(None))]);
        let read = inner.begin("c", vec![(at, Act::Read)]);
        inner.end(&read, vec![(Act::Read, End::Done(Some(1)))]);
        inner.end(&read, vec![(Act::Read, End::Done(None))]);
        assert_eq!(inner.saw(&read), Some(("copied/a".into(), Some(1))));
        let lost = inner.begin("c", vec![(at, Act::Erase)]);
        inner.end(&lost, vec![(Act::Erase, End::Unknown)]);
        drop(inner);
        assert_eq!((clients.counts(), clients.judge()), ((2, 0, 1), Ok(())));
        assert!(clients.all_read(0).is_err() && clients.all_read(3).is_ok());
        crate::lock(&journal).wrong.push("half of it".into());
        assert_eq!(clients.judge(), Err("half of it".into()));
    }

    #[test]
    fn bodies_follow_from_their_numbers_and_are_of_all_kinds() {
        assert_eq!(content(7, 96), content(7, 200)[..96]);
        assert_ne!(content(7, 100), content(8, 100));
        let mut rng = stream(1, "bytes");
        let drawn: Vec<usize> = (0..500).map(|_| bytes(&mut rng, false)).collect();
        for kind in [0..1, 1..4_097, 4_097..262_144, 262_145..2 << 20] {
            assert!(drawn.iter().any(|bytes| kind.contains(bytes)), "{kind:?}");
        }
    }
}
