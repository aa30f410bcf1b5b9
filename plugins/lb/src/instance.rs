//! What the load balancer keeps of one instance for as long as it knows it, over all routing tables: requests under way, latency,
//! its record of failures, and its connections.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hirsel_model::{InstanceId, NodeId, Timestamp};
use tokio::sync::Notify;

use crate::balance::Latency;
use crate::eject::Record;
use crate::pool::Pool;

/// Who takes requests.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Whom {
    /// An instance of a service.
    Instance {
        /// Which.
        id: InstanceId,
        /// Where it runs.
        node: NodeId,
    },
    /// A program outside the cluster.
    Outside(SocketAddr),
}

impl fmt::Display for Whom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Whom::Instance { id, node: _ } => id.fmt(f),
            Whom::Outside(addr) => addr.fmt(f),
        }
    }
}

/// One instance, or a program outside that stands for one.
#[derive(Debug)]
pub struct Instance {
    /// Which.
    pub whom: Whom,
    /// Its connections.
    pub pool: Pool,
    in_flight: AtomicU32,
    /// It takes no new requests: it drains, or left the plan.
    closed: AtomicBool,
    latency_us: AtomicU64,
    latency_at: AtomicU64,
    /// Mirror of `record`: zero for a clean record.
    ejected_until: AtomicU64,
    record: Mutex<Record>,
    /// Told when the last request of a closed instance has ended, so that the report goes out at once.
    idle: Arc<Notify>,
}

impl Instance {
    /// An instance that was not known before.
    pub fn new(whom: Whom, idle: Arc<Notify>) -> Self {
        Self {
            whom,
            pool: Pool::default(),
            in_flight: AtomicU32::new(0),
            closed: AtomicBool::new(false),
            latency_us: AtomicU64::new(0),
            latency_at: AtomicU64::new(0),
            ejected_until: AtomicU64::new(0),
            record: Mutex::new(Record::default()),
            idle,
        }
    }

    /// Requests under way.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::SeqCst)
    }

    /// Whether it takes no new requests.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Opens it to new requests.
    pub fn open(&self) {
        if self.closed.swap(false, Ordering::SeqCst) {
            self.pool.open_again();
        }
    }

    /// Closes it to new requests and ends its idle connections, so that none is open when it stops. After this, `in_flight` never
    /// rises: a request counts itself before it looks whether the instance is closed.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.pool.close();
    }

    /// Takes a request on, unless the instance is closed.
    pub fn take(self: &Arc<Self>) -> Option<Ticket> {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        let ticket = Ticket { instance: self.clone() };
        (!self.is_closed()).then_some(ticket)
    }

    /// Recent latency in microseconds.
    pub fn latency_us(&self, now: Timestamp) -> u64 {
        self.latency().at(now)
    }

    /// Whether it is left alone after failures.
    pub fn is_ejected(&self, now: Timestamp) -> bool {
        now.0 < self.ejected_until.load(Ordering::Relaxed)
    }

    /// Notes an answer.
    pub fn succeeded(&self, took: Duration, now: Timestamp) {
        // Two answers at the same moment may overwrite each other: one sample more or less changes no choice.
        let (latency_us, at) = self.latency().with(took, now).into_parts();
        self.latency_us.store(latency_us, Ordering::Relaxed);
        self.latency_at.store(at.0, Ordering::Relaxed);
        if self.ejected_until.load(Ordering::Relaxed) != 0 {
            let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
            *record = record.succeeded();
            self.ejected_until.store(0, Ordering::Relaxed);
        }
    }

    /// Notes a failure: it is left alone for a while, and its idle connections are closed. True if it was not ejected before.
    pub fn failed(&self, now: Timestamp) -> bool {
        let newly = {
            let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
            let newly = !record.is_ejected(now);
            *record = record.failed(now);
            self.ejected_until.store(record.until().0, Ordering::Relaxed);
            newly
        };
        self.pool.clear_idle();
        newly
    }

    fn latency(&self) -> Latency {
        let at = Timestamp(self.latency_at.load(Ordering::Relaxed));
        Latency::from_parts(self.latency_us.load(Ordering::Relaxed), at)
    }
}

/// A request under way on an instance; ends when dropped.
#[derive(Debug)]
pub struct Ticket {
    instance: Arc<Instance>,
}

impl Ticket {
    /// The instance.
    pub fn instance(&self) -> &Arc<Instance> {
        &self.instance
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let last = self.instance.in_flight.fetch_sub(1, Ordering::SeqCst) == 1;
        if last && self.instance.is_closed() {
            self.instance.idle.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance() -> Arc<Instance> {
        let whom = Whom::Instance { id: "shop/web/1".parse().unwrap(), node: NodeId(1) };
        Arc::new(Instance::new(whom, Arc::new(Notify::new())))
    }

    #[test]
    fn a_closed_instance_takes_no_request_and_ends_those_under_way() {
        let instance = instance();
        let ticket = instance.take().expect("open");
        instance.close();
        assert!(instance.take().is_none());
        assert_eq!(instance.in_flight(), 1);
        drop(ticket);
        assert_eq!(instance.in_flight(), 0);
    }

    #[test]
    fn a_failure_ejects_and_an_answer_redeems() {
        let instance = instance();
        let now = Timestamp(1000);
        assert!(instance.failed(now), "newly ejected");
        assert!(!instance.failed(now), "already ejected");
        assert!(instance.is_ejected(now));
        instance.succeeded(Duration::from_millis(3), now);
        assert!(!instance.is_ejected(now));
        assert_eq!(instance.latency_us(now), 3_000);
    }
}
