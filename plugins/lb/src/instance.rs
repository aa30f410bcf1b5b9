//! What the load balancer keeps of one instance for as long as it knows it, over all routing tables: requests under way, latency,
//! its record of failures, and its connections.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hirsel_model::spec::AppProtocol;
use hirsel_model::{InstanceId, NodeId, Timestamp};
use tokio::sync::Notify;

use crate::balance::{Latency, alike};
use crate::eject::{self, Record};
use crate::pool::Pool;
use crate::sharing::line::Line;
use crate::sharing::session::Token;

/// An instance about to stop has no session any more if none asked anything for this long: who still reads is not waited for.
const SESSION_PAUSE: Duration = Duration::from_secs(10);

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
    /// Stands for it wherever instances are hashed: the same on every load balancer.
    pub name: u64,
    /// What the cookies of its sessions say.
    pub token: Token,
    /// What it speaks.
    pub protocol: AppProtocol,
    /// Its connections.
    pub pool: Pool,
    /// How its requests ended.
    pub tally: Tally,
    in_flight: AtomicU32,
    /// It takes no new requests: it drains, or left the plan.
    closed: AtomicBool,
    /// When a session was last answered; zero for never.
    session_at: AtomicU64,
    /// Until when it answers its sessions though it drains; zero where it does not.
    lingers_until: AtomicU64,
    /// Answers in a row that speak against it.
    errors: AtomicU32,
    /// Mirror of `erring`: zero for a clean record.
    errs_until: AtomicU64,
    /// As `record`, of answers that speak against it. Only routes that count them look at it.
    erring: Mutex<Record>,
    /// Since when it is ready, as far as we saw it become so; zero for one that always was.
    ready_since: AtomicU64,
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
    pub fn new(whom: Whom, protocol: AppProtocol, idle: Arc<Notify>) -> Self {
        Self {
            name: alike::key(whom.to_string().as_bytes()),
            token: match &whom {
                Whom::Instance { id, .. } => Token::of_instance(id),
                // By its place in the list of each route.
                Whom::Outside(_) => Token(0),
            },
            whom,
            protocol,
            pool: Pool::default(),
            tally: Tally::default(),
            in_flight: AtomicU32::new(0),
            closed: AtomicBool::new(false),
            session_at: AtomicU64::new(0),
            lingers_until: AtomicU64::new(0),
            errors: AtomicU32::new(0),
            errs_until: AtomicU64::new(0),
            erring: Mutex::new(Record::default()),
            ready_since: AtomicU64::new(0),
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
        self.lingers_until.store(0, Ordering::SeqCst);
        if self.closed.swap(false, Ordering::SeqCst) {
            self.pool.open_again();
        }
    }

    /// Closes it to new requests and ends its idle connections, so that none is open when it stops. After this, `in_flight` never
    /// rises: a request counts itself before it looks whether the instance is closed.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.lingers_until.store(0, Ordering::SeqCst);
        self.pool.close();
    }

    /// Takes a request on, unless the instance is closed.
    pub fn take(self: &Arc<Self>) -> Option<Ticket> {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        let ticket = Ticket { instance: self.clone(), line: None };
        (!self.is_closed()).then_some(ticket)
    }

    /// Takes a request on, unless the instance is closed or has `most` of them. `line` is told when the request has ended.
    pub fn take_within(self: &Arc<Self>, most: u32, line: &Arc<Line>) -> Option<Ticket> {
        let before = self.in_flight.fetch_add(1, Ordering::SeqCst);
        let mut ticket = Ticket { instance: self.clone(), line: None };
        if before >= most || self.is_closed() {
            return None;
        }
        ticket.line = Some(line.clone());
        Some(ticket)
    }

    /// Notes a request of a session.
    pub fn answers_session(&self, now: Timestamp) {
        self.session_at.store(now.0, Ordering::Relaxed);
    }

    /// Whether it answers its sessions though it drains.
    pub fn is_lingering(&self) -> bool {
        self.lingers_until.load(Ordering::SeqCst) != 0
    }

    /// It drains, and will be stopped after `drain` or when no request is under way: goes on answering its sessions if it has any,
    /// else closes it. False once it is closed.
    pub fn linger(&self, drain: Duration, now: Timestamp) -> bool {
        if self.is_closed() {
            return false;
        }
        let until = Timestamp(self.lingers_until.load(Ordering::SeqCst));
        let until = if until.0 == 0 { now + eject::lingers_for(drain) } else { until };
        let session_at = Timestamp(self.session_at.load(Ordering::Relaxed));
        if session_at.0 == 0 || now.since(session_at) > SESSION_PAUSE || now >= until {
            self.close();
            return false;
        }
        self.lingers_until.store(until.0, Ordering::SeqCst);
        true
    }

    /// Whether it is left alone after answers that speak against it.
    pub fn errs(&self, now: Timestamp) -> bool {
        now.0 < self.errs_until.load(Ordering::Relaxed)
    }

    /// Notes an answer that does not speak against it.
    pub fn answered_well(&self) {
        if self.errors.load(Ordering::Relaxed) != 0 {
            self.errors.store(0, Ordering::Relaxed);
            let mut erring = self.erring.lock().unwrap_or_else(PoisonError::into_inner);
            *erring = erring.succeeded();
            self.errs_until.store(0, Ordering::Relaxed);
        }
    }

    /// Notes an answer that speaks against it. True if there were `most` of them in a row.
    pub fn answered_badly(&self, most: u32) -> bool {
        self.errors.fetch_add(1, Ordering::Relaxed).saturating_add(1) >= most
    }

    /// Leaves it alone for a while because of its answers. True if it was not before.
    pub fn eject_erring(&self, now: Timestamp) -> bool {
        let mut erring = self.erring.lock().unwrap_or_else(PoisonError::into_inner);
        let newly = !erring.is_ejected(now);
        *erring = erring.failed(now);
        self.errs_until.store(erring.until().0, Ordering::Relaxed);
        newly
    }

    /// Since when it is ready, as far as we saw it become so.
    pub fn ready_since(&self) -> Timestamp {
        Timestamp(self.ready_since.load(Ordering::Relaxed))
    }

    /// It has become ready at `now`.
    pub fn became_ready(&self, now: Timestamp) {
        self.ready_since.store(now.0, Ordering::Relaxed);
    }

    /// Recent latency in microseconds.
    pub fn latency_us(&self, now: Timestamp) -> u64 {
        self.latency().at(now)
    }

    /// Whether it is left alone after failures.
    pub fn is_ejected(&self, now: Timestamp) -> bool {
        now.0 < self.ejected_until.load(Ordering::Relaxed)
    }

    /// Notes that it has taken this long, and is not done.
    pub fn was_slow(&self, took: Duration, now: Timestamp) {
        // Two answers at the same moment may overwrite each other: one sample more or less changes no choice.
        let (latency_us, at) = self.latency().with(took, now).into_parts();
        self.latency_us.store(latency_us, Ordering::Relaxed);
        self.latency_at.store(at.0, Ordering::Relaxed);
    }

    /// Notes an answer.
    pub fn succeeded(&self, took: Duration, now: Timestamp) {
        self.was_slow(took, now);
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

/// How requests of an instance ended, since it is known.
#[derive(Debug, Default)]
pub struct Tally {
    answered: AtomicU64,
    failed: AtomicU64,
}

impl Tally {
    /// An answer came.
    pub fn answered(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    /// A try failed.
    pub fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Answers, and tries that failed.
    pub fn counts(&self) -> (u64, u64) {
        (self.answered.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }
}

/// A request under way on an instance; ends when dropped.
#[derive(Debug)]
pub struct Ticket {
    instance: Arc<Instance>,
    /// Who waits for such a request to end.
    line: Option<Arc<Line>>,
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
        if let Some(line) = &self.line {
            line.freed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance() -> Arc<Instance> {
        let whom = Whom::Instance { id: "shop/web/1".parse().unwrap(), node: NodeId(1) };
        Arc::new(Instance::new(whom, AppProtocol::default(), Arc::new(Notify::new())))
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
    fn an_instance_with_as_many_requests_as_it_may_have_takes_no_other() {
        let (instance, line) = (instance(), Arc::new(Line::new(None)));
        let tickets = [instance.take_within(2, &line), instance.take_within(2, &line)];
        assert!(tickets.iter().all(Option::is_some));
        assert!(instance.take_within(2, &line).is_none());
        assert_eq!(instance.in_flight(), 2);
        drop(tickets);
        assert!(instance.take_within(2, &line).is_some());
    }

    #[test]
    fn one_that_drains_answers_its_sessions_for_a_while_and_then_closes() {
        let (now, drain) = (Timestamp(100_000), Duration::from_secs(30));
        let after = |seconds: u64| now + Duration::from_secs(seconds);
        let without = instance();
        assert!(!without.linger(drain, now) && without.is_closed(), "it never had a session");
        let asked = instance();
        asked.answers_session(now);
        assert!(asked.linger(drain, after(5)) && asked.is_lingering() && asked.take().is_some());
        assert!(!asked.linger(drain, after(16)) && asked.is_closed() && asked.take().is_none(), "nobody asks any more");
        let busy = instance();
        for second in 0..=20 {
            busy.answers_session(after(second));
            assert!(busy.linger(drain, after(second)), "{second}");
        }
        busy.answers_session(after(22));
        assert!(!busy.linger(drain, after(22)), "well before it is stopped");
        busy.open();
        assert!(busy.take().is_some() && !busy.is_lingering());
        let short = instance();
        short.answers_session(now);
        assert!(!short.linger(Duration::from_secs(1), now), "there is no time to be sure of");
    }

    #[test]
    fn answers_in_a_row_speak_against_an_instance_and_for_longer_each_time() {
        let instance = instance();
        let mut now = Timestamp(1_000);
        assert!(!instance.answered_badly(3) && !instance.answered_badly(3));
        instance.answered_well();
        assert!(!instance.answered_badly(3) && !instance.answered_badly(3) && instance.answered_badly(3));
        let mut times = Vec::new();
        for _ in 0..3 {
            assert!(instance.eject_erring(now) && !instance.eject_erring(now));
            let begun = now;
            while instance.errs(now) {
                now = now + Duration::from_millis(100);
            }
            times.push(now.since(begun).as_millis());
            assert!(instance.answered_badly(3), "it is on probation");
        }
        assert_eq!(times, [1_000, 2_000, 4_000]);
        assert!(!instance.is_ejected(now), "whoever does not count answers goes on");
        instance.answered_well();
        assert!(!instance.answered_badly(3));
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
