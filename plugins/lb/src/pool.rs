//! Connections to one instance: those that are idle, those that carry many requests at once, and a list of all that are open (of the
//! latter, of all requests), to tell whoever waits on them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use hirsel_model::Timestamp;

use crate::links::Links;
use crate::replay::Failure;
use crate::upstream::{Pulse, Stage, Upstream};

/// Idle connections kept to one instance, which had as many requests at once within the last seconds. More than this many are rare; each
/// costs a file descriptor here and a thread or a slot in many programs.
const IDLE_MAX: usize = 512;

/// An idle connection is used for this long. Many programs close theirs after five seconds: we shall be first.
pub const IDLE_FOR_MAX: Duration = Duration::from_secs(4);

/// An idle connection carries a request that must not be told again only this long after its last one, for the other end may be
/// closing it at this moment; the shortest limit in common use (gunicorn) is two seconds.
pub const FRESH_FOR: Duration = Duration::from_millis(500);

/// Connections to one instance.
#[derive(Debug, Default)]
pub struct Pool {
    /// Those that carry many requests at once, if the instance speaks HTTP/2.
    pub links: Links,
    idle: Mutex<Idle>,
    watched: Mutex<Vec<Watched>>,
}

/// Idle connections, the one used last on top.
#[derive(Debug, Default)]
struct Idle {
    #[expect(clippy::vec_box, reason = "they move in and out with every request, and are large")]
    stack: Vec<Box<Upstream>>,
    /// None is kept any more: the instance is about to stop.
    closed: bool,
}

/// An open connection as the sweep sees it.
#[derive(Debug)]
struct Watched {
    pulse: Weak<Pulse>,
    progress: u64,
    still_for: u32,
}

impl Pool {
    /// The idle connection that was used last, if one is alive and was used less than `idle_max` ago.
    pub fn take(&self, now: Timestamp, idle_max: Duration) -> Option<Box<Upstream>> {
        loop {
            let mut upstream = self.idle().stack.pop()?;
            if now.since(upstream.idle_since) > idle_max {
                // Those below it are older still.
                self.clear_idle_but(upstream, idle_max);
                return None;
            }
            // Put back at this very moment, it was looked at then.
            if upstream.idle_since == now && !upstream.pulse.is_lost() || upstream.is_alive() {
                return Some(upstream);
            }
        }
    }

    /// Keeps a connection whose request has ended.
    pub fn put(&self, mut upstream: Box<Upstream>, now: Timestamp) {
        if upstream.pulse.is_lost() || !upstream.settle() {
            return;
        }
        upstream.pulse.enter(Stage::Waiting);
        upstream.idle_since = now;
        upstream.reused = true;
        let mut idle = self.idle();
        if idle.stack.len() < IDLE_MAX && !idle.closed {
            idle.stack.push(upstream);
        }
    }

    /// Watches over a connection about to be used, or over a request on one that carries many.
    pub fn watch(&self) -> Arc<Pulse> {
        let pulse = Arc::new(Pulse::default());
        self.watched().push(Watched { pulse: Arc::downgrade(&pulse), progress: 0, still_for: 0 });
        pulse
    }

    /// Closes what is idle.
    pub fn clear_idle(&self) {
        let idle = std::mem::take(&mut self.idle().stack);
        drop(idle);
        self.links.clear_unused();
    }

    /// Closes what is idle, and keeps nothing from now on.
    pub fn close(&self) {
        self.idle().closed = true;
        self.clear_idle();
        self.links.close();
    }

    /// Keeps idle connections again.
    pub fn open_again(&self) {
        self.idle().closed = false;
        self.links.open_again();
    }

    /// Tells everybody who waits that the instance may be gone, and closes what is idle.
    pub fn lose(&self) {
        self.clear_idle();
        self.links.retire_all();
        self.each_watched(|pulse| pulse.lose());
    }

    /// Ends every connection: the instance is gone.
    pub fn end(&self) {
        self.clear_idle();
        self.links.retire_all();
        self.each_watched(|pulse| pulse.end(Failure::Lost));
    }

    /// Closes connections that are idle for too long and ends those on which nothing moves. Called every half second.
    pub fn sweep(&self, now: Timestamp) {
        let stale = {
            let stack = &mut self.idle().stack;
            let fresh_from = stack.partition_point(|upstream| now.since(upstream.idle_since) > IDLE_FOR_MAX);
            stack.drain(..fresh_from).collect::<Vec<_>>()
        };
        drop(stale);
        self.links.sweep();
        let mut stalled = Vec::new();
        self.watched().retain_mut(|watched| {
            let Some(pulse) = watched.pulse.upgrade() else { return false };
            let progress = pulse.gauge.progress();
            watched.still_for = if progress == watched.progress { watched.still_for + 1 } else { 0 };
            watched.progress = progress;
            if watched.still_for >= pulse.sweeps_max() {
                stalled.push(pulse);
            }
            true
        });
        stalled.iter().for_each(|pulse| pulse.end(Failure::TimedOut));
    }

    fn clear_idle_but(&self, one: Box<Upstream>, idle_max: Duration) {
        if idle_max >= IDLE_FOR_MAX {
            return self.clear_idle();
        }
        // Too old for this request, good enough for another.
        self.idle().stack.push(one);
    }

    fn each_watched(&self, tell: impl Fn(&Pulse)) {
        let open: Vec<_> = self.watched().iter().filter_map(|watched| watched.pulse.upgrade()).collect();
        open.iter().for_each(|pulse| tell(pulse));
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watched(&self) -> MutexGuard<'_, Vec<Watched>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
