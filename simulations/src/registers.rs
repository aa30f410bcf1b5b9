//! Clients that use applications without instances as registers: each writes, swaps and reads through the interface of whatever agent it
//! comes to, one thing at a time, all of them at once. What they asked and what they were told is judged by [`linear`].
//!
//! A write applies a manifest, a swap does so with the index of a read before (`if_index`), and a read asks for the applications with
//! `fresh`. Whoever gets no answer in time goes on without knowing; an agent that dies answers nobody.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hirsel::api::agent::Agent;
use hirsel::api::auth::Source;
use hirsel::api::envelope::Envelope;
use hirsel::api::error::{Code, ErrorBody};
use hirsel::api::server::Server;
use hirsel::api::views::apps::App;
use rand::Rng;
use rand::rngs::SmallRng;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use crate::chance::stream;
use crate::linear::{self, Act, End, Operation, Value, Verdict};
use crate::node::{Deed, Node};

/// Clients that ask at once, and what they share. Few registers, so that they meet.
const CLIENTS: usize = 4;
const KEYS: [&str; 3] = ["z-1", "z-2", "z-3"];
/// Who got no answer for so long goes on.
const PATIENCE: Duration = Duration::from_secs(4);
/// What a connection holds before the other side reads it.
const PIPE_BYTES: usize = 64 << 10;

/// What was asked and answered, by all clients. Calls and returns are counted in the order in which they happen.
#[derive(Debug, Default)]
pub struct Journal {
    operations: Vec<Operation>,
    moments: u64,
    /// Indices that reads came with, for swaps.
    indices: BTreeMap<usize, u64>,
}

impl Journal {
    fn moment(&mut self) -> u64 {
        self.moments += 1;
        self.moments
    }

    fn begin(&mut self, client: String, key: &str, act: Act) -> usize {
        let called = self.moment();
        self.operations.push(Operation { client, key: key.into(), act, called, returned: None, end: End::Unknown });
        self.operations.len() - 1
    }

    /// An answer came. One that nobody waits for any more changes nothing.
    fn end(&mut self, number: usize, (end, index): (End, Option<u64>)) {
        if self.operations[number].returned.is_none() && end != End::Unknown {
            let returned = self.moment();
            self.operations[number].returned = Some(returned);
            self.operations[number].end = end;
            self.indices.extend(index.map(|index| (number, index)));
        }
    }
}

/// A question on its way to an agent.
#[derive(Clone, Debug)]
pub struct Call {
    number: usize,
    key: &'static str,
    act: Act,
    if_index: u64,
}

/// A client.
struct Client {
    name: String,
    rng: SmallRng,
    next: Duration,
    /// What it waits for, and since when.
    waits: Option<(usize, Duration)>,
    /// What it read last of each register.
    read: BTreeMap<&'static str, (Value, u64)>,
}

/// All clients.
pub struct Clients {
    journal: Arc<Mutex<Journal>>,
    clients: Vec<Client>,
    values: u64,
}

impl Clients {
    /// Clients that have asked nothing yet.
    pub fn new(seed: u64, journal: Arc<Mutex<Journal>>) -> Self {
        let client = |number: usize| {
            let name = format!("client-{number}");
            let rng = stream(seed, &name);
            Client { name, rng, next: Duration::ZERO, waits: None, read: BTreeMap::new() }
        };
        Self { journal, clients: (1..=CLIENTS).map(client).collect(), values: 0 }
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
            let (key, node) = (KEYS[client.rng.random_range(0..KEYS.len())], client.rng.random_range(0..nodes.len()));
            let known = client.read.get(key).copied();
            let act = match (client.rng.random_range(0..5), known) {
                (0, _) => Act::Write(self.values + 1),
                (1 | 2, Some((from, _))) => Act::Swap { from, to: self.values + 1 },
                _ => Act::Read,
            };
            self.values += u64::from(act != Act::Read);
            self.call(index, now, &nodes[node], key, act, known.map_or(0, |(_, index)| index));
        }
    }

    /// Has each register read through each node, one question at a time. Done when it says so.
    pub fn read_all(&mut self, now: Duration, nodes: &[Node], asked: &mut usize) -> bool {
        if !(0..self.clients.len()).all(|index| self.is_idle(index, now)) {
            return false;
        }
        let (key, node) = (*asked % KEYS.len(), *asked / KEYS.len());
        if node >= nodes.len() {
            return true;
        }
        *asked += 1;
        self.call(0, now, &nodes[node], KEYS[key], Act::Read, 0);
        false
    }

    fn call(&mut self, index: usize, now: Duration, node: &Node, key: &'static str, act: Act, if_index: u64) {
        let client = &mut self.clients[index];
        let mut journal = crate::lock(&self.journal);
        let number = journal.begin(format!("{} at {}", client.name, node.name), key, act);
        if node.ask(Deed::Call(Call { number, key, act, if_index })) {
            client.waits = Some((number, now));
        } else {
            // No agent took it.
            journal.operations.pop();
        }
    }

    /// Whether a client waits for nothing: takes the answer that came, or gives it up.
    fn is_idle(&mut self, index: usize, now: Duration) -> bool {
        let client = &mut self.clients[index];
        let Some((number, since)) = client.waits else { return true };
        let mut journal = crate::lock(&self.journal);
        let Operation { key, returned, end, act, .. } = journal.operations[number].clone();
        if returned.is_none() && now < since + PATIENCE {
            return false;
        }
        client.waits = None;
        if returned.is_none() {
            // A late answer must not be taken for one in time.
            journal.operations[number].returned = Some(u64::MAX);
        }
        if let (Act::Read, End::Done(value), Some(index)) = (act, end, journal.indices.get(&number)) {
            let key = KEYS.into_iter().find(|known| *known == key).unwrap_or(KEYS[0]);
            client.read.insert(key, (value, *index));
        }
        true
    }

    /// How many operations were done, failed, or are in doubt.
    pub fn counts(&self) -> (usize, usize, usize) {
        let journal = crate::lock(&self.journal);
        let count = |is: fn(&End) -> bool| journal.operations.iter().filter(|operation| is(&operation.end)).count();
        (count(|end| matches!(end, End::Done(_))), count(|end| *end == End::Failed), count(|end| *end == End::Unknown))
    }

    /// What is to be said of everything so far.
    ///
    /// # Errors
    /// In words, when it is not linearizable or nobody can tell.
    pub fn judge(&self) -> Result<(), String> {
        match linear::check(&crate::lock(&self.journal).operations) {
            Verdict::Linear => Ok(()),
            Verdict::Broken(why) | Verdict::Undecided(why) => Err(why),
        }
    }
}

impl Call {
    /// Asks `agent`, and writes into `journal` what it answers. Returns what that was, for people.
    pub async fn ask(self, agent: Arc<dyn Agent>, journal: Arc<Mutex<Journal>>) -> String {
        let answer = self.exchange(agent).await.unwrap_or((End::Unknown, None));
        let what = format!("{} {:?}: {:?}", self.key, self.act, answer.0);
        crate::lock(&journal).end(self.number, answer);
        what
    }

    /// The answer over HTTP, as any client gets it; none when it cannot be understood.
    async fn exchange(&self, agent: Arc<dyn Agent>) -> Option<(End, Option<u64>)> {
        let (mut near, far) = duplex(PIPE_BYTES);
        tokio::spawn(async move { Server::new(agent).serve(far, Source::Socket).await });
        near.write_all(self.request().as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        near.read_to_end(&mut answer).await.ok()?;
        let body = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").map(|at| &answer[at + 4..])?;
        if !answer.starts_with(b"HTTP/1.1 200") {
            let code = serde_json::from_slice::<ErrorBody>(body).ok()?.error.code;
            let is_certain = self.act == Act::Read || matches!(code, Code::Conflict | Code::NoLeader | Code::Unsafe);
            return Some((if is_certain { End::Failed } else { End::Unknown }, None));
        }
        if self.act != Act::Read {
            return Some((End::Done(None), None));
        }
        let listed: Envelope<Vec<App>> = serde_json::from_slice(body).ok()?;
        let app = listed.data.iter().find(|app| app.app == self.key);
        let value = app.and_then(|app| app.services.first()?.command.last()?.parse().ok());
        Some((End::Done(value), Some(listed.index)))
    }

    fn request(&self) -> String {
        let (path, value) = match self.act {
            // Nobody erases a register, and who is refused does not say why.
            Act::Read | Act::Erase | Act::Differs(_) => {
                return "GET /v1/apps?fresh=true HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n".into();
            }
            Act::Write(value) => ("/v1/apply".to_string(), value),
            Act::Swap { to, .. } => (format!("/v1/apply?if_index={}", self.if_index), to),
        };
        let body = format!("app = \"{}\"\n[service.v]\ncommand = [\"sim-web\", \"{value}\"]\nreplicas = 0\n", self.key);
        let length = body.len();
        format!("POST {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}")
    }
}
