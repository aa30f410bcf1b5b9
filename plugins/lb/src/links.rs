//! Connections to one instance that carry many requests at once: HTTP/2 in clear (RFC 9113, section 3.3).
//!
//! How many go on one connection the instance says, and [`STREAMS_MAX`]. When all are full another one is made, one at a time, up to
//! [`LINKS_MAX`]; beyond that requests wait for a place. The fullest one that has a place is taken, so that those that are not needed
//! any more become empty and end. No request is written before the instance has said its settings: a program that speaks something
//! else is found out by then. A connection that the instance is about to end takes no new request ([`lane`]).
//!
//! A connection is driven by a task of its own ([`link`]); a request on it by its own task ([`lane`]). No request sets a timer: a sweep
//! finds connections that are silent or unused ([`watch`]).

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

pub mod head;
pub mod lane;
pub mod link;
pub mod watch;

use link::Link;
use watch::{Verdict, Watch};

/// Requests at once on one connection, however many its instance would take: one connection that breaks takes so many with it, and its
/// lock is that of so many.
pub const STREAMS_MAX: usize = 100;

/// Connections at once to one instance, and so 6,400 requests. Streams that last for hours (gRPC) are as many as clients.
pub const LINKS_MAX: usize = 64;

/// Connections to one instance.
#[derive(Debug, Default)]
pub struct Links {
    state: Mutex<State>,
    /// Told when there may be a place.
    freed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    links: Vec<(Arc<Link>, Watch)>,
    /// One is being made; whoever wants a place waits for it.
    opening: bool,
    /// None is kept any more: the instance is about to stop.
    closed: bool,
}

/// What there is for a request.
pub enum Claim<'a> {
    /// A place.
    Place(Place),
    /// None, and whoever gets this makes a connection.
    Open(Opening<'a>),
    /// None for now ([`Links::freed`]).
    Wait,
}

impl fmt::Debug for Claim<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Claim::Place(_) => "Place",
            Claim::Open(_) => "Open",
            Claim::Wait => "Wait",
        })
    }
}

impl Links {
    /// A place for a request.
    pub fn claim(&self) -> Claim<'_> {
        let mut state = self.state();
        state.links.retain(|(link, _)| link.vital.is_in_use());
        let roomy = state.links.iter().map(|(link, _)| link).filter(|link| link.vital.has_room());
        if let Some(link) = roomy.max_by_key(|link| link.vital.streams()) {
            return Claim::Place(Place::on(link.clone()));
        }
        if state.opening || state.links.len() >= LINKS_MAX {
            return Claim::Wait;
        }
        state.opening = true;
        Claim::Open(Opening { links: self })
    }

    /// Ends when there may be a place. To be listened to before [`Links::claim`] is asked.
    pub fn freed(&self) -> Notified<'_> {
        self.freed.notified()
    }

    /// Ends connections without a request.
    pub fn clear_unused(&self) {
        self.retire(|link| link.vital.streams() == 0);
    }

    /// No new request goes on the connections that there are; those under way go on.
    pub fn retire_all(&self) {
        self.retire(|_| true);
    }

    /// The same, and connections made from now on carry one request each.
    pub fn close(&self) {
        self.state().closed = true;
        self.retire_all();
    }

    /// Keeps connections again.
    pub fn open_again(&self) {
        self.state().closed = false;
    }

    /// Asks connections that are silent whether they still are, and ends those that do not answer or are not used. Called every half
    /// second.
    pub fn sweep(&self) {
        let mut ended = Vec::new();
        self.state().links.retain_mut(|(link, watch)| {
            let vital = &link.vital;
            match watch.look(vital.seen()) {
                Verdict::Well => return vital.is_in_use(),
                Verdict::Ask => {
                    vital.ask();
                    return true;
                }
                Verdict::Dead => vital.end(),
                Verdict::Unused => {}
            }
            ended.push(link.clone());
            false
        });
        // Not under the lock: whoever waited there is woken.
        drop(ended);
    }

    fn retire(&self, which: impl Fn(&Link) -> bool) {
        let mut gone = Vec::new();
        self.state().links.retain(|(link, _)| {
            let stays = !which(link);
            if !stays {
                link.vital.retire();
                gone.push(link.clone());
            }
            stays
        });
        // Not under the lock: the task of each is woken.
        drop(gone);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to make the next connection; given back when dropped.
pub struct Opening<'a> {
    links: &'a Links,
}

impl Opening<'_> {
    /// Who is told when there may be a place.
    pub fn freed(&self) -> Arc<Notify> {
        self.links.freed.clone()
    }

    /// Keeps a connection that was made, and takes a place on it.
    pub fn done(self, link: Arc<Link>) -> Place {
        let mut state = self.links.state();
        let place = Place::on(link.clone());
        if !state.closed {
            state.links.push((link, Watch::default()));
        }
        drop(state);
        place
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.links.state().opening = false;
        self.links.freed.notify_waiters();
    }
}

/// A place on a connection; given back when dropped.
pub struct Place {
    link: Arc<Link>,
    /// Whether the connection carried a request before.
    pub reused: bool,
}

impl Place {
    /// To be called under the lock of the list, or before the connection is in it, so that no more are given than there are.
    fn on(link: Arc<Link>) -> Self {
        let reused = link.vital.enter();
        Self { link, reused }
    }

    /// The connection.
    pub fn link(&self) -> &Link {
        &self.link
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.link.vital.leave();
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("reused", &self.reused).finish_non_exhaustive()
    }
}
