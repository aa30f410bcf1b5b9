//! What is counted of ports. Each port has counters of its own for as long as it is open.

use hirsel_model::AppName;
use hirsel_model::spec::PortId;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Of {
    app: String,
    port: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Refusal {
    app: String,
    port: String,
    why: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Way {
    app: String,
    port: String,
    to: &'static str,
}

/// Why a connection is ended before it is passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// There are too many already, or its client has too many.
    Full,
    /// Its client is not among those that are let in.
    Denied,
    /// Nobody takes it.
    NoTarget,
    /// It does not say whom it is for, as those who are trusted have to.
    NoHeader,
}

impl Why {
    const ALL: [Self; 4] = [Self::Full, Self::Denied, Self::NoTarget, Self::NoHeader];

    fn word(self) -> &'static str {
        match self {
            Why::Full => "full",
            Why::Denied => "denied",
            Why::NoTarget => "no_target",
            Why::NoHeader => "no_header",
        }
    }
}

const WAYS: [&str; 2] = ["target", "client"];

/// Counters of all ports.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    connections: Family<Of, Counter>,
    open: Family<Of, Gauge>,
    refused: Family<Refusal, Counter>,
    bytes: Family<Way, Counter>,
}

/// Counters of one port.
#[derive(Clone, Debug)]
pub struct Counted {
    connections: Counter,
    open: Gauge,
    /// What went to the target.
    pub to_target: Counter,
    /// What went to the client.
    pub to_client: Counter,
    refused: [Counter; Why::ALL.len()],
}

/// A connection that is counted among those that are open.
#[derive(Debug)]
pub struct Open(Gauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Counted {
    /// Counts a connection that is passed on, until what is returned is dropped.
    pub fn begin(&self) -> Open {
        self.connections.inc();
        self.open.inc();
        Open(self.open.clone())
    }

    /// Counts a connection that was not passed on.
    pub fn refuse(&self, why: Why) {
        self.refused[why as usize].inc();
    }
}

impl Metrics {
    /// Makes them readable.
    pub fn register(&self, registry: &mut Registry) {
        let connections = "Connections of a port that were passed on";
        registry.register("hirsel_lb_port_connections", connections, self.connections.clone());
        registry.register("hirsel_lb_port_open", "Connections of a port that are open", self.open.clone());
        registry.register(
            "hirsel_lb_port_refused",
            "Connections of a port that were ended at once",
            self.refused.clone(),
        );
        registry.register("hirsel_lb_port_bytes", "Bytes passed on at a port", self.bytes.clone());
    }

    /// Those of one port.
    pub fn of(&self, port: PortId, app: &AppName) -> Counted {
        let of = Of { app: app.to_string(), port: port.to_string() };
        let bytes = |to| self.bytes.get_or_create(&way(&of, to)).clone();
        Counted {
            connections: self.connections.get_or_create(&of).clone(),
            open: self.open.get_or_create(&of).clone(),
            to_target: bytes(WAYS[0]),
            to_client: bytes(WAYS[1]),
            refused: Why::ALL.map(|why| self.refused.get_or_create(&refusal(&of, why)).clone()),
        }
    }

    /// Shows those of a port no more.
    pub fn forget(&self, port: PortId, app: &AppName) {
        let of = Of { app: app.to_string(), port: port.to_string() };
        for to in WAYS {
            self.bytes.remove(&way(&of, to));
        }
        for why in Why::ALL {
            self.refused.remove(&refusal(&of, why));
        }
        self.connections.remove(&of);
        self.open.remove(&of);
    }
}

fn way(of: &Of, to: &'static str) -> Way {
    Way { app: of.app.clone(), port: of.port.clone(), to }
}

fn refusal(of: &Of, why: Why) -> Refusal {
    Refusal { app: of.app.clone(), port: of.port.clone(), why: why.word() }
}
