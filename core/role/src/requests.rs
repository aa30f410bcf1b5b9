//! What the load balancer of a node tells of requests: to whoever asks for one of them, and how many there are.
//!
//! It is soft and of one node: bounded in number, and gone with the life of the role.

use hirsel_model::{AppName, NodeId};
use serde::{Deserialize, Serialize};

use crate::window;

/// Bounds of the times that are counted, in milliseconds; what is longer than the last one is counted behind it.
pub const TIME_BOUNDS_MS: [u64; 14] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000];

/// Longest id that is taken over from a client.
pub const ID_BYTES_MAX: usize = 128;
/// Shortest one. Shorter ones are counters, which say little among others.
pub const ID_BYTES_MIN: usize = 8;

/// Requests that each load balancer remembers, about half a kilobyte each.
pub const RECENT_MAX: usize = 2048;
/// The same of those that failed or were slow, which are remembered for longer.
pub const KEPT_MAX: usize = 1024;
/// Whoever waits this long asks why.
pub const SLOW_MS: u64 = 1_000;

/// The journal of the load balancer in which requests are written down.
pub const JOURNAL: &str = "requests";

/// Whether `text` is taken over as the id of a request: 8 to 128 letters, digits and `-._~+=:`. All of it is plain in a log, in a path and
/// on a command line.
pub fn is_id(text: &[u8]) -> bool {
    let good = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+=:".contains(byte);
    (ID_BYTES_MIN..=ID_BYTES_MAX).contains(&text.len()) && text.iter().all(good)
}

/// How many counts there are of times.
pub const TIMES: usize = TIME_BOUNDS_MS.len() + 1;

/// One request that is over, as it is remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Remembered {
    /// Its id.
    pub id: String,
    /// The trace it was part of, where the instance was told of one.
    pub trace: Option<String>,
    /// When it began, in milliseconds since 1970.
    pub at_ms: u64,
    /// Who asked.
    pub client: String,
    /// What was asked for: `GET shop.example.com/cart`, without the query, cut where it is long.
    pub asked: String,
    /// The route that took it, and its application; none when no route did.
    pub route: Option<String>,
    /// What it led to.
    pub origin: Option<String>,
    /// What the client was answered; 499 when it went away before.
    pub status: u16,
    /// Why it did not go as it should have.
    pub failed: Option<String>,
    /// What the cache did, where the route has one: `hit`, `stale`, `revalidated`, `miss`, `bypass`.
    pub cached: Option<String>,
    /// Whose certificate the client showed, and its SHA-256, where the route asks for one.
    pub certificate: Option<String>,
    /// From the first byte of the request to the head of the answer.
    pub first_byte_ms: Option<u64>,
    /// From the first byte of the request to the last of the answer.
    pub took_ms: u64,
    /// Bytes of the body of the answer that went out.
    pub bytes_out: u64,
    /// Tries, in order. Only the first ones and the last one are known of a request that was tried often.
    pub tries: Vec<Tried>,
    /// How many tries there were.
    pub tried: u32,
}

/// One try of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tried {
    /// The instance, or the address outside.
    pub whom: String,
    /// The node that the instance is on.
    pub node: Option<NodeId>,
    /// When it began, after the request.
    pub after_ms: u64,
    /// How long it took until the head of the answer, or the failure.
    pub took_ms: u64,
    /// `answered`, or how it failed.
    pub outcome: String,
}

/// What went through one route since the role began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Traffic {
    /// The application; none for what no route takes.
    pub app: Option<AppName>,
    /// Host and path.
    pub route: String,
    /// Answers by the first digit of their status, from 1 to 5.
    pub answers: [u64; 5],
    /// Requests that did not go as they should have, whatever they were answered.
    pub failed: u64,
    /// Tries after the first one.
    pub retries: u64,
    /// Requests under way now.
    pub in_flight: u64,
    /// How many took at most so long as [`TIME_BOUNDS_MS`] says, and longer than the bound before; the last count is of all longer ones.
    pub times: [u64; TIMES],
}

/// Who can tell of requests.
pub trait Teller: Send + Sync {
    /// Requests that are known by `id`, the oldest first. A client may choose an id more than once.
    fn recall(&self, id: &str) -> Vec<Remembered>;
    /// What went through each route.
    fn traffic(&self) -> Vec<Traffic>;
}

/// Where the agent finds who can tell.
pub type Window = window::Window<dyn Teller>;
