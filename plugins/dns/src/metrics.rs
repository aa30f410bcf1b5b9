//! What is counted.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// How a question ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// With what was asked for.
    Answered,
    /// The name exists, and has nothing of that kind now.
    NoData,
    /// There is no such name.
    NxDomain,
    /// Of a zone that is not ours.
    Refused,
    /// Nobody here can know now.
    ServFail,
    /// It could not be read.
    FormErr,
    /// Of a kind that is not done here.
    NotImp,
    /// In a version of EDNS that is not known here.
    BadVers,
    /// Its network asked too often: it was told to ask over TCP.
    Slipped,
    /// Not answered: too often, or nothing that could be answered.
    Dropped,
}

/// All of them, with what they are called.
const CLASSES: [(Class, &str); 10] = [
    (Class::Answered, "answered"),
    (Class::NoData, "nodata"),
    (Class::NxDomain, "nxdomain"),
    (Class::Refused, "refused"),
    (Class::ServFail, "servfail"),
    (Class::FormErr, "formerr"),
    (Class::NotImp, "notimp"),
    (Class::BadVers, "badvers"),
    (Class::Slipped, "slipped"),
    (Class::Dropped, "dropped"),
];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Labels {
    result: &'static str,
    transport: &'static str,
}

/// Counters, each found once so that a question pays one addition.
#[derive(Clone, Debug)]
pub struct Metrics {
    family: Family<Labels, Counter>,
    udp: [Counter; CLASSES.len()],
    tcp: [Counter; CLASSES.len()],
    /// Answers over UDP that told to ask over TCP because they were too large.
    pub cut: Counter,
    /// Connections that are open.
    pub clients: Gauge,
}

impl Metrics {
    /// Counters that nobody reads yet.
    pub fn new() -> Self {
        let family = Family::<Labels, Counter>::default();
        let of = |transport| CLASSES.map(|(_, result)| family.get_or_create(&Labels { result, transport }).clone());
        Self { udp: of("udp"), tcp: of("tcp"), family, cut: Counter::default(), clients: Gauge::default() }
    }

    /// Makes them readable.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("hirsel_dns_queries", "Questions by how they ended", self.family.clone());
        registry.register("hirsel_dns_truncated", "Answers over UDP that were too large", self.cut.clone());
        registry.register("hirsel_dns_clients", "TCP connections open", self.clients.clone());
    }

    /// Counts a question over UDP.
    pub fn over_udp(&self, class: Class) {
        self.udp[class as usize].inc();
    }

    /// Counts a question over TCP.
    pub fn over_tcp(&self, class: Class) {
        self.tcp[class as usize].inc();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_has_its_own_counter() {
        for (index, (class, _)) in CLASSES.iter().enumerate() {
            assert_eq!(*class as usize, index);
        }
    }
}
