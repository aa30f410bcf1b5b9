//! One client connection as seen from outside: what it is doing, and when it is to end.
//!
//! No request sets a timer. A sweep looks at all connections every half second ([`Client::sweep`]) and ends those that stand still.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::OwnedSemaphorePermit;

use crate::clients::Proof;
use crate::headers::ClientLines;
use crate::io::Gauge;

/// A head that began must be whole after so many sweeps (half a second each): slow writers shall not hold connections.
const HEAD_SWEEPS_MAX: u32 = 2 * 10;

/// A connection may be idle for so many sweeps. A minute is what browsers and load generators expect.
const IDLE_SWEEPS_MAX: u32 = 2 * 60;

/// A client that takes nothing of its answer is waited for so many sweeps.
const STUCK_SWEEPS_MAX: u32 = 2 * 60;

/// Requests that a client may give up between two sweeps before they are answered. Each costs work at an instance, and on a connection
/// that carries others the patience of it (CVE-2023-44487); whoever gives up a thousand in a second does nothing else.
const GIVEN_UP_MAX: u32 = 500;

/// How a connection is to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Will {
    /// As the client likes.
    Go = 0,
    /// The request under way ends, then the connection.
    Finish = 1,
    /// At once.
    End = 2,
}

/// One client connection.
#[derive(Debug)]
pub struct Client {
    /// What goes through.
    pub gauge: Arc<Gauge>,
    /// What is written into each of its requests.
    pub lines: ClientLines,
    /// Nobody between it and us spoke for it: what we say of ourselves is true where it stands.
    pub direct: bool,
    /// The connection as it was when it came, where the client's address has changed since: all but the address is kept there.
    first: Option<Arc<Client>>,
    will: AtomicU8,
    /// Requests under way.
    busy: AtomicU32,
    /// It comes over QUIC.
    quic: bool,
    /// It speaks in frames (HTTP/2, HTTP/3): bytes between two requests are no head.
    framed: AtomicBool,
    /// Requests that were given up since the last sweep.
    given_up: AtomicU32,
    /// Which TLS it speaks, once that was agreed on.
    tls: OnceLock<&'static str>,
    /// Whom it was made for, and what its client showed.
    proof: OnceLock<Arc<Proof>>,
    /// Bytes read when the last request ended.
    read_at_end: AtomicU64,
    /// Its place among the connections served at once.
    _slot: Option<OwnedSemaphorePermit>,
}

impl Client {
    /// A connection that was just accepted.
    pub fn new(lines: ClientLines, slot: Option<OwnedSemaphorePermit>) -> Self {
        Self {
            gauge: Arc::default(),
            lines,
            direct: true,
            first: None,
            will: AtomicU8::new(Will::Go as u8),
            busy: AtomicU32::new(0),
            quic: false,
            framed: AtomicBool::new(false),
            given_up: AtomicU32::new(0),
            tls: OnceLock::new(),
            proof: OnceLock::new(),
            read_at_end: AtomicU64::new(0),
            _slot: slot,
        }
    }

    /// The same connection with another address of its client, for the requests that come from now on.
    pub fn moved(self: &Arc<Self>, lines: ClientLines) -> Self {
        let first = self.first().clone();
        let tls = OnceLock::new();
        first.tls().map(|word| tls.set(word));
        Self { gauge: first.gauge.clone(), direct: first.direct, tls, first: Some(first), ..Self::new(lines, None) }
    }

    fn first(self: &Arc<Self>) -> &Arc<Self> {
        self.first.as_ref().unwrap_or(self)
    }

    /// How it is to go on.
    pub fn will(&self) -> Will {
        let will = self.first.as_ref().map_or(&self.will, |first| &first.will);
        match will.load(Ordering::Acquire) {
            0 => Will::Go,
            1 => Will::Finish,
            _ => Will::End,
        }
    }

    /// Tells it how to go on. Never takes back a harder word.
    pub fn tell(&self, will: Will) {
        self.will.fetch_max(will as u8, Ordering::AcqRel);
        self.gauge.nudge();
    }

    /// It comes over QUIC.
    pub fn over_quic(mut self) -> Self {
        self.quic = true;
        self.framed = AtomicBool::new(true);
        self
    }

    /// Whether it comes over QUIC.
    pub fn is_over_quic(&self) -> bool {
        self.quic
    }

    /// It speaks HTTP/2.
    pub fn speaks_in_frames(&self) {
        self.framed.store(true, Ordering::Relaxed);
    }

    /// It agreed on this TLS.
    pub fn shook(&self, version: Option<rustls::ProtocolVersion>) {
        let word = match version {
            Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
            Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
            _ => return,
        };
        let _ = self.tls.set(word);
    }

    /// Which TLS it speaks; none before that was agreed on, and without.
    pub fn tls(&self) -> Option<&'static str> {
        self.tls.get().copied()
    }

    /// It was made for this host, and its client showed this.
    pub fn proves(&self, proof: Proof) {
        let _ = self.proof.set(Arc::new(proof));
    }

    /// Whom it was made for, and what its client showed; none without TLS.
    pub fn proof(&self) -> Option<&Arc<Proof>> {
        self.first.as_ref().map_or(&self.proof, |first| &first.proof).get()
    }

    /// A request came; it is under way until what is returned is dropped.
    pub fn begin(self: &Arc<Self>) -> Busy {
        let client = self.first().clone();
        client.busy.fetch_add(1, Ordering::Relaxed);
        Busy { client, answered: false }
    }

    /// A request was given up before it was answered.
    fn give_up(&self) {
        if self.given_up.fetch_add(1, Ordering::Relaxed) >= GIVEN_UP_MAX {
            self.tell(Will::End);
        }
    }

    /// Whether a request is under way.
    pub fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed) > 0
    }

    /// Looks at the connection and says whether it has stood still for too long.
    pub fn sweep(&self, seen: &mut Seen) -> bool {
        let now = Seen {
            progress: self.gauge.progress(),
            posture: if self.gauge.is_write_stuck() {
                Posture::Stuck
            } else if self.is_busy() {
                Posture::Busy
            } else if self.framed.load(Ordering::Relaxed) {
                Posture::Between
            } else if self.gauge.read_bytes() != self.read_at_end.load(Ordering::Relaxed) {
                Posture::Head
            } else {
                Posture::Idle
            },
            sweeps: 0,
        };
        self.given_up.store(0, Ordering::Relaxed);
        let (sweeps, too_long) = judge(seen, &now);
        *seen = Seen { sweeps, ..now };
        too_long
    }
}

/// What a sweep saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    progress: u64,
    posture: Posture,
    sweeps: u32,
}

/// What a client connection is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Posture {
    /// Waits for the client's next request.
    #[default]
    Idle,
    /// The same in frames: others than those of a request may come and go.
    Between,
    /// Part of a head has come.
    Head,
    /// A request is under way; the connection to its instance has limits of its own.
    Busy,
    /// The client does not read.
    Stuck,
}

/// For how many sweeps a connection has been as it is, and whether that is too long.
fn judge(before: &Seen, now: &Seen) -> (u32, bool) {
    let same = before.posture == now.posture;
    // A head that trickles in makes progress, and yet its time runs; so do frames that are no request.
    let timed = matches!(now.posture, Posture::Head | Posture::Between);
    let still = same && (timed || before.progress == now.progress);
    let sweeps = if still { before.sweeps + 1 } else { 0 };
    let limit = match now.posture {
        Posture::Idle | Posture::Between => IDLE_SWEEPS_MAX,
        Posture::Head => HEAD_SWEEPS_MAX,
        Posture::Busy => return (sweeps, false),
        Posture::Stuck => STUCK_SWEEPS_MAX,
    };
    (sweeps, sweeps >= limit)
}

/// A request of a client under way.
#[derive(Debug)]
pub struct Busy {
    client: Arc<Client>,
    answered: bool,
}

impl Busy {
    /// It was answered; nothing of it is given up any more.
    pub fn answered(&mut self) {
        self.answered = true;
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let client = &self.client;
        if !self.answered {
            client.give_up();
        }
        client.read_at_end.store(client.gauge.read_bytes(), Ordering::Relaxed);
        client.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sweeps_until_ended(posture: Posture, progress: impl Fn(u32) -> u64) -> Option<u32> {
        let mut seen = Seen::default();
        for sweep in 0..1000 {
            let now = Seen { progress: progress(sweep), posture, sweeps: 0 };
            let (sweeps, too_long) = judge(&seen, &now);
            if too_long {
                return Some(sweep);
            }
            seen = Seen { sweeps, ..now };
        }
        None
    }

    #[test]
    fn a_head_that_trickles_in_is_cut_off_though_it_makes_progress() {
        let ended = sweeps_until_ended(Posture::Head, u64::from).expect("ended");
        assert!((HEAD_SWEEPS_MAX - 1..=HEAD_SWEEPS_MAX + 1).contains(&ended), "{ended}");
    }

    #[test]
    fn a_client_that_reads_slowly_is_kept_and_one_that_does_not_read_is_not() {
        assert_eq!(sweeps_until_ended(Posture::Stuck, u64::from), None);
        assert!(sweeps_until_ended(Posture::Stuck, |_| 7).is_some());
    }

    #[test]
    fn a_request_under_way_is_not_ended_by_the_sweep_of_its_client() {
        assert_eq!(sweeps_until_ended(Posture::Busy, |_| 7), None);
        assert!(sweeps_until_ended(Posture::Idle, |_| 7).is_some());
    }

    #[test]
    fn whoever_gives_up_all_requests_is_sent_away_and_whoever_waits_for_answers_is_not() {
        let client = || Arc::new(Client::new(ClientLines::new("127.0.0.1:1".parse().unwrap(), false), None));
        let (patient, hasty) = (client(), client());
        for _ in 0..=2 * GIVEN_UP_MAX {
            patient.begin().answered();
            drop(hasty.begin());
        }
        assert_eq!((patient.will(), hasty.will()), (Will::Go, Will::End));
        // Some, now and then, are given up by everybody.
        for _ in 0..10 {
            (0..GIVEN_UP_MAX).for_each(|_| drop(patient.begin()));
            patient.sweep(&mut Seen::default());
        }
        assert_eq!(patient.will(), Will::Go);
    }

    #[test]
    fn a_client_that_moves_is_counted_as_one() {
        let lines = |addr: &str| ClientLines::new(addr.parse().unwrap(), true);
        let first = Arc::new(Client::new(lines("127.0.0.1:1"), None));
        let moved = Arc::new(first.moved(lines("127.0.0.2:1")));
        let again = Arc::new(moved.moved(lines("127.0.0.3:1")));
        assert_eq!(again.lines.ip.to_string(), "127.0.0.3");
        let busy = again.begin();
        assert!(first.is_busy());
        drop(busy);
        for _ in 0..GIVEN_UP_MAX {
            drop(moved.begin());
        }
        assert_eq!((first.will(), again.will()), (Will::End, Will::End));
    }

    #[test]
    fn a_harder_word_is_never_taken_back() {
        let client = Client::new(ClientLines::new("127.0.0.1:1".parse().unwrap(), false), None);
        client.tell(Will::End);
        client.tell(Will::Finish);
        assert_eq!(client.will(), Will::End);
    }
}
