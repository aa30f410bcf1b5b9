//! What the load balancer counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use rustls::HandshakeKind;

use crate::clients::asking::Refusals;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Class {
    class: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

/// Counters, each found once so that a request pays one addition.
#[derive(Clone, Debug)]
pub struct Metrics {
    by_class: Family<Class, Counter>,
    /// Members of the family, by the first digit of the status less one.
    answers: [Counter; 5],
    /// Connections of clients that had as many as they may.
    pub refused_connections: Counter,
    /// What was taken for a request, and was none: over HTTP/1.1 each, over HTTP/2 and HTTP/3 each connection that ended for it.
    pub refused_requests: Counter,
    /// Tries after the first one.
    pub retries: Counter,
    /// Requests that were written more than once.
    pub replays: Counter,
    /// Instances that were left alone after a failure.
    pub ejections: Counter,
    /// Requests that a second instance was told before the first had answered.
    pub hedges: Counter,
    /// Requests that waited because every instance had as many as it may.
    pub queued: Counter,
    /// Requests that were refused because of that.
    pub overflows: Counter,
    /// Connections made to instances.
    pub connects: Counter,
    by_kind: Family<Kind, Counter>,
    /// TLS handshakes over TCP: in full, and of sessions that were resumed.
    handshakes: [Counter; 2],
    /// TLS handshakes that failed, for want of a certificate or of a common tongue.
    pub refused_handshakes: Counter,
    /// Of these, for what the client showed of itself.
    pub refused_certificates: Refusals,
    /// Connections of those who have to say whom they connect for, and did not.
    pub refused_headers: Counter,
    /// TLS connections that were passed on as they are.
    pub passed_through: Counter,
    /// Client connections that are open.
    pub clients: Gauge,
}

impl Metrics {
    /// Counters that nobody reads yet.
    pub fn new() -> Self {
        let by_class = Family::<Class, Counter>::default();
        let answers = ["1xx", "2xx", "3xx", "4xx", "5xx"].map(|class| by_class.get_or_create(&Class { class }).clone());
        let by_kind = Family::<Kind, Counter>::default();
        let handshakes = ["full", "resumed"].map(|kind| by_kind.get_or_create(&Kind { kind }).clone());
        Self {
            by_class,
            answers,
            refused_connections: Counter::default(),
            refused_requests: Counter::default(),
            retries: Counter::default(),
            replays: Counter::default(),
            ejections: Counter::default(),
            hedges: Counter::default(),
            queued: Counter::default(),
            overflows: Counter::default(),
            connects: Counter::default(),
            by_kind,
            handshakes,
            refused_handshakes: Counter::default(),
            refused_certificates: Refusals::default(),
            passed_through: Counter::default(),
            refused_headers: Counter::default(),
            clients: Gauge::default(),
        }
    }

    /// Makes them readable.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("hirsel_lb_answers", "Answers sent to clients", self.by_class.clone());
        registry.register(
            "hirsel_lb_refused_connections",
            "Connections refused because their client had as many as it may",
            self.refused_connections.clone(),
        );
        registry.register(
            "hirsel_lb_refused_requests",
            "Requests that could not be understood",
            self.refused_requests.clone(),
        );
        registry.register("hirsel_lb_retries", "Tries after the first one", self.retries.clone());
        registry.register("hirsel_lb_replays", "Requests written more than once", self.replays.clone());
        registry.register("hirsel_lb_ejections", "Instances left alone after a failure", self.ejections.clone());
        registry.register("hirsel_lb_hedges", "Requests told to a second instance in time", self.hedges.clone());
        registry.register("hirsel_lb_queued", "Requests that waited for an instance with room", self.queued.clone());
        registry.register("hirsel_lb_overflows", "Requests refused for want of room", self.overflows.clone());
        registry.register("hirsel_lb_connects", "Connections made to instances", self.connects.clone());
        registry.register("hirsel_lb_handshakes", "TLS handshakes over TCP that were done", self.by_kind.clone());
        registry.register(
            "hirsel_lb_refused_handshakes",
            "TLS handshakes that failed",
            self.refused_handshakes.clone(),
        );
        registry.register(
            "hirsel_lb_refused_client_certificates",
            "TLS handshakes that failed for what the client showed of itself, or did not",
            self.refused_certificates.0.clone(),
        );
        registry.register(
            "hirsel_lb_refused_headers",
            "Connections that should begin with a header of the PROXY protocol, and did not",
            self.refused_headers.clone(),
        );
        registry.register(
            "hirsel_lb_passed_through",
            "TLS connections passed on as they are",
            self.passed_through.clone(),
        );
        registry.register("hirsel_lb_clients", "Client connections open", self.clients.clone());
    }

    /// Counts a handshake.
    pub fn shook(&self, kind: Option<HandshakeKind>) {
        let [full, resumed] = &self.handshakes;
        match kind {
            Some(HandshakeKind::Resumed) => resumed.inc(),
            Some(_) | None => full.inc(),
        };
    }

    /// Counts an answer.
    pub fn answered(&self, status: http::StatusCode) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        self.answers[class].inc();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
