//! What sees all requests of this node: it gives them their ids, counts them, remembers them, and has them written down.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use hirsel_mesh::seam::Clock;
use hirsel_model::order::LbOrder;
use hirsel_model::spec::AccessLog;
use hirsel_model::{NodeId, NodeName};
use hirsel_role::requests::{Remembered, Teller, Traffic};

use crate::access::Queue;
use crate::access::line::{Line, Names};
use crate::access::syslog::{self, Sender};
use crate::ids::Ids;
use crate::memory::Memory;
use crate::meter::Meters;

/// What sees all requests.
pub struct Seer {
    /// Draws their ids.
    pub ids: Ids,
    /// Counts them by route.
    pub meters: Arc<Meters>,
    /// Remembers those that are over.
    pub memory: Memory,
    /// Lines on their way to disk.
    pub log: Arc<Queue>,
    /// And to collectors.
    pub syslog: Arc<Sender>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    me: NodeName,
    told: ArcSwap<Told>,
}

/// What the order says besides routes.
#[derive(Default)]
struct Told {
    usual: Option<AccessLog>,
    names: BTreeMap<NodeId, NodeName>,
}

impl Seer {
    /// Has seen nothing yet.
    pub fn new(context: &hirsel_role::Context, meters: Arc<Meters>) -> Self {
        Self {
            ids: Ids::new(context.chance.as_ref()),
            meters,
            memory: Memory::default(),
            log: Arc::default(),
            syslog: Arc::default(),
            clock: context.clock.clone(),
            me: context.me.name.clone(),
            told: ArcSwap::default(),
        }
    }

    /// Takes what an order says of logs and names.
    pub fn adopt(&self, order: &LbOrder) {
        let told = self.told.load();
        if told.usual != order.log || told.names != order.names {
            self.told.store(Arc::new(Told { usual: order.log, names: order.names.clone() }));
        }
    }

    /// How requests are written down that no route takes.
    pub fn usual(&self) -> Option<AccessLog> {
        self.told.load().usual
    }

    /// Writes a request down.
    pub fn write_down(&self, log: AccessLog, line: &Line<'_>, failed: bool) {
        let text = line.write(log, &Called { me: &self.me, told: &self.told.load() });
        self.log.push(&text);
        if let Some(to) = log.syslog {
            self.syslog.push(to, syslog::message(line.at, self.me.as_str(), failed, &text));
        }
    }
}

struct Called<'a> {
    me: &'a NodeName,
    told: &'a Told,
}

impl Names for Called<'_> {
    fn me(&self) -> &str {
        self.me.as_str()
    }

    fn of(&self, node: NodeId) -> Option<&str> {
        self.told.names.get(&node).map(NodeName::as_str)
    }
}

impl Teller for Seer {
    fn recall(&self, id: &str) -> Vec<Remembered> {
        self.memory.recall(id, self.clock.now(), self.clock.wall())
    }

    fn traffic(&self) -> Vec<Traffic> {
        self.meters.all().iter().map(|meter| meter.traffic()).collect()
    }
}

impl fmt::Debug for Seer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seer").field("me", &self.me).finish_non_exhaustive()
    }
}
