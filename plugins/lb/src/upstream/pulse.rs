//! What others may tell whoever waits on a connection to an instance, and how long it may stand still.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};

use crate::io::Gauge;
use crate::replay::Failure;

/// What a connection is doing: how long it may stand still depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// A request is sent, or the head of its answer is waited for. A minute, as usual among proxies.
    Waiting,
    /// The body of an answer comes. Event streams may be silent for minutes.
    Streaming,
    /// It is a tunnel. An hour, for sessions in which people type.
    Tunnel,
}

impl Stage {
    /// How many sweeps (half a second each) nothing may move.
    fn sweeps_max(self) -> u32 {
        match self {
            Stage::Waiting => 2 * 60,
            Stage::Streaming => 2 * 600,
            Stage::Tunnel => 2 * 3600,
        }
    }
}

const OVER_NOT: u8 = 0;
const OVER_LOST: u8 = 1;
const OVER_TIMED_OUT: u8 = 2;

/// What others may tell whoever waits on a connection.
#[derive(Debug)]
pub struct Pulse {
    /// How much went through.
    pub gauge: Arc<Gauge>,
    sweeps_max: AtomicU32,
    lost: AtomicBool,
    over: AtomicU8,
}

impl Default for Pulse {
    fn default() -> Self {
        let sweeps_max = AtomicU32::new(Stage::Waiting.sweeps_max());
        Self { gauge: Arc::default(), sweeps_max, lost: AtomicBool::new(false), over: AtomicU8::new(OVER_NOT) }
    }
}

impl Pulse {
    /// Says what the connection is doing now.
    pub fn enter(&self, stage: Stage) {
        self.sweeps_max.store(stage.sweeps_max(), Ordering::Relaxed);
    }

    /// It may stand still for so many sweeps, whatever it does.
    pub fn bears(&self, sweeps: u32) {
        self.sweeps_max.store(sweeps, Ordering::Relaxed);
    }

    /// How many sweeps nothing may move.
    pub fn sweeps_max(&self) -> u32 {
        self.sweeps_max.load(Ordering::Relaxed)
    }

    /// The node is not heard any more, or the instance ended: what can be told again is told elsewhere, and the connection is not
    /// used again.
    pub fn lose(&self) {
        self.lost.store(true, Ordering::Release);
        self.gauge.nudge();
    }

    /// Nothing will come any more: whoever waits fails with `failure`.
    pub fn end(&self, failure: Failure) {
        let over = if failure == Failure::TimedOut { OVER_TIMED_OUT } else { OVER_LOST };
        self.over.store(over, Ordering::Release);
        self.lose();
    }

    /// Whether [`Pulse::lose`] was called.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Whether [`Pulse::end`] was called, and with which failure.
    pub fn over(&self) -> Option<Failure> {
        match self.over.load(Ordering::Acquire) {
            OVER_NOT => None,
            OVER_TIMED_OUT => Some(Failure::TimedOut),
            _ => Some(Failure::Lost),
        }
    }
}
