//! The moment at which a process may act no more, kept by its shim: it holds when the agent is frozen, dead, or cut off.
//!
//! It is a moment of `CLOCK_BOOTTIME`, which runs while the host sleeps: a host that wakes up ends the process first.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use hirsel_mesh::seam::Clock;
use hirsel_mesh::seam::real::OsClock;
use hirsel_model::Timestamp;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// Begins a message that holds a deadline. No signal has this number.
const DEADLINE: u8 = 0;
/// Bytes of a deadline: milliseconds, least significant byte first.
const MOMENT_BYTES: usize = 8;

/// What the agent writes into the pipe to move the deadline. Short enough for a pipe to take it whole or not at all.
pub(super) fn message(until: Timestamp) -> [u8; 1 + MOMENT_BYTES] {
    let mut message = [DEADLINE; 1 + MOMENT_BYTES];
    message[1..].copy_from_slice(&until.0.to_le_bytes());
    message
}

/// What the agent may tell a shim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// Pass this signal on.
    Signal(i32),
    /// The deadline is this one now.
    Deadline(Timestamp),
}

/// Puts messages together out of what a pipe gives.
#[derive(Debug, Default)]
pub(super) struct Messages {
    /// A deadline of which the rest is still to come, with its first byte.
    begun: Vec<u8>,
}

impl Messages {
    /// The messages that are whole with `bytes`, in order.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Vec<Message> {
        let mut whole = Vec::new();
        for byte in bytes {
            if self.begun.is_empty() && *byte != DEADLINE {
                whole.push(Message::Signal((*byte).into()));
                continue;
            }
            self.begun.push(*byte);
            if let [_, moment @ ..] = self.begun.as_slice()
                && let Ok(moment) = <[u8; MOMENT_BYTES]>::try_from(moment)
            {
                whole.push(Message::Deadline(Timestamp(u64::from_le_bytes(moment))));
                self.begun.clear();
            }
        }
        whole
    }
}

/// A deadline, and a timer that ends the waiting for other things when it comes.
#[derive(Debug)]
pub(super) struct Deadline {
    until: Option<Timestamp>,
    timer: Option<OwnedFd>,
}

impl Deadline {
    /// Keeps `until`; none for never.
    pub(super) fn new(until: Option<Timestamp>) -> std::io::Result<Self> {
        let mut deadline = Self { until: None, timer: None };
        if let Some(until) = until {
            let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
            deadline.timer = Some(timerfd_create(TimerfdClockId::Boottime, flags)?);
            deadline.put_off(until);
        }
        Ok(deadline)
    }

    /// Moves it. A process that was started without one has none.
    pub(super) fn put_off(&mut self, until: Timestamp) {
        let Some(timer) = &self.timer else { return };
        let seconds = i64::try_from(until.0 / 1000).unwrap_or(i64::MAX);
        // A value of zero would switch the timer off.
        let nanoseconds = i64::try_from(until.0 % 1000).unwrap_or(0) * 1_000_000 + 1;
        let value = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        // Only a moment that is none would be refused.
        let _ = timerfd_settime(timer, TimerfdTimerFlags::ABSTIME, &Itimerspec { it_interval: never, it_value: value });
        self.until = Some(until);
    }

    /// Whether it is over.
    pub(super) fn has_passed(&self) -> bool {
        self.until.is_some_and(|until| now() >= until)
    }

    /// Becomes readable when it is over. It stays so, and is no longer there to be waited for.
    pub(super) fn timer(&self) -> Option<BorrowedFd<'_>> {
        self.timer.as_ref().filter(|_| !self.has_passed()).map(AsFd::as_fd)
    }
}

/// The time of the host's clock.
pub(super) fn now() -> Timestamp {
    OsClock.now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_put_together_wherever_the_pipe_cuts_them() {
        let later = Timestamp(0x0102_0304_0506_0009);
        let mut bytes = vec![15];
        bytes.extend(message(later));
        bytes.push(9);
        let expected = [Message::Signal(15), Message::Deadline(later), Message::Signal(9)];
        for cut in 0..=bytes.len() {
            let mut messages = Messages::default();
            let mut whole = messages.take(&bytes[..cut]);
            whole.extend(messages.take(&bytes[cut..]));
            assert_eq!(whole, expected, "cut at {cut}");
        }
    }

    #[test]
    fn a_deadline_comes_and_can_be_put_off() {
        let mut deadline = Deadline::new(Some(Timestamp(1))).unwrap();
        assert!(deadline.has_passed());
        deadline.put_off(now() + std::time::Duration::from_secs(3_600));
        assert!(!deadline.has_passed());
        assert!(!Deadline::new(None).unwrap().has_passed());
    }
}
