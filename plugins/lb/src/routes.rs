//! The routing table in force, and the instances behind all tables: takes orders and news in, and swaps the table.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use hirsel_mesh::seam::Clock;
use hirsel_model::order::LbOrder;
use hirsel_model::plan::Phase;
use hirsel_model::spec::AppProtocol;
use hirsel_model::view::Liveness;
use hirsel_model::{Generation, InstanceId, Timestamp};
use hirsel_role::{Live, Me};
use tokio::sync::{Notify, watch};
use tracing::warn;

use crate::actions::Tools;
use crate::instance::{Instance, Whom};
use crate::table::{Standing, Table, liveness_of, standings};
use crate::ways::Ways;

/// The table in force.
#[derive(Debug)]
pub struct Routes {
    me: Me,
    live: watch::Receiver<Arc<Live>>,
    tools: Tools,
    table: ArcSwap<Table>,
    building: Mutex<Building>,
    swapped: watch::Sender<u64>,
    idle: Arc<Notify>,
    clock: Arc<dyn Clock>,
}

/// What the next table is built from.
#[derive(Debug, Default)]
struct Building {
    generation: Generation,
    order: Arc<LbOrder>,
    instances: BTreeMap<InstanceId, Arc<Instance>>,
    outside: BTreeMap<(SocketAddr, AppProtocol), Arc<Instance>>,
    standings: BTreeMap<InstanceId, Standing>,
    /// Of the routes of the order.
    ways: Arc<Ways>,
}

impl Building {
    /// All that requests may be under way on.
    fn all(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.instances.values().chain(self.outside.values())
    }
}

impl Routes {
    /// No route yet. `idle` is told when the last request of an instance that drains has ended.
    pub fn new(
        me: Me,
        live: watch::Receiver<Arc<Live>>,
        tools: Tools,
        idle: Arc<Notify>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let (table, building, swapped) = (ArcSwap::default(), Mutex::default(), watch::Sender::new(0));
        Self { me, live, tools, table, building, swapped, idle, clock }
    }

    /// The table in force. Not to be kept over an await.
    pub fn table(&self) -> arc_swap::Guard<Arc<Table>> {
        self.table.load()
    }

    /// Tells when the table was swapped.
    pub fn swaps(&self) -> watch::Receiver<u64> {
        self.swapped.subscribe()
    }

    /// Takes an order. When this returns, no request will be begun on an instance that the order drains or leaves out, but those of
    /// its sessions while it is told to have some under way.
    pub fn adopt(&self, generation: Generation, order: &Arc<LbOrder>) {
        let mut building = self.building();
        let same = Arc::ptr_eq(&building.order, order) || building.order == *order;
        if same && building.generation == generation {
            return;
        }
        building.generation = generation;
        if building.order.routes != order.routes || building.order.log != order.log {
            let before = (&building.order.routes[..], &*building.ways);
            let ways = Ways::build(&order.routes, order.log, &self.tools, before);
            ways.left_out
                .iter()
                .filter(|words| !building.ways.left_out.contains(words))
                .for_each(|words| warn!("{words}"));
            building.ways = Arc::new(ways);
        }
        building.order = order.clone();
        let live = self.live.borrow().clone();
        self.rebuild(&mut building, &live);
    }

    /// Takes what is heard of the nodes now.
    pub fn hear(&self) {
        let mut building = self.building();
        // Read while building, so that two who hear at once never go back in time.
        let live = self.live.borrow().clone();
        let standings = standings(&building.order, &live, self.me.id);
        if standings != building.standings {
            self.rebuild(&mut building, &live);
        }
        self.end_the_forgotten(&mut building, &live);
    }

    /// Requests under way on each instance that takes no new ones; one that still answers its sessions is not done with.
    pub fn draining(&self) -> BTreeMap<InstanceId, u32> {
        let building = self.building();
        let number = |instance: &Instance| match instance.is_lingering() {
            true => instance.in_flight().max(1),
            false => instance.in_flight(),
        };
        let ending = building.instances.iter().filter(|(_, it)| it.is_closed() || it.is_lingering());
        ending.map(|(id, instance)| (id.clone(), number(instance))).filter(|(_, n)| *n > 0).collect()
    }

    /// All that requests may be under way on.
    pub fn instances(&self) -> Vec<Arc<Instance>> {
        self.building().all().cloned().collect()
    }

    /// Whether the order still has this instance, if only to drain.
    pub fn have(&self, instance: &Instance) -> bool {
        !instance.is_closed()
            || match &instance.whom {
                Whom::Instance { id, node: _ } => self.building().standings.contains_key(id),
                Whom::Outside(_) => false,
            }
    }

    /// Requests under way on all instances.
    pub fn in_flight(&self) -> u32 {
        self.building().all().map(|instance| instance.in_flight()).sum()
    }

    /// Ends every connection: streams and tunnels break off.
    pub fn end(&self) {
        self.building().all().for_each(|instance| instance.pool.end());
    }

    /// Looks after the connections of all instances. Called every half second.
    pub fn sweep(&self, now: Timestamp) {
        let instances: Vec<_> = {
            let building = self.building();
            // For how long was said when they began to. Under the lock: one that is wanted again is not closed.
            let ended = building.all().filter(|it| it.is_lingering() && !it.linger(Duration::ZERO, now)).count();
            if ended > 0 {
                self.idle.notify_one();
            }
            building.all().cloned().collect()
        };
        for instance in instances {
            instance.pool.sweep(now);
        }
    }

    fn rebuild(&self, building: &mut Building, live: &Live) {
        let Building { generation, order, instances, outside, standings: before, ways } = building;
        let standings = standings(order, live, self.me.id);
        let mut named = BTreeSet::new();
        let table = Table::build(*generation, ways.clone(), order, &standings, &self.me, &mut |whom, protocol| {
            let begin = || Arc::new(Instance::new(whom.clone(), protocol, self.idle.clone()));
            match &whom {
                Whom::Instance { id, node: _ } => instances.entry(id.clone()).or_insert_with(begin).clone(),
                Whom::Outside(addr) => {
                    named.insert((*addr, protocol));
                    outside.entry((*addr, protocol)).or_insert_with(begin).clone()
                }
            }
        });
        let now = self.clock.now();
        for (id, instance) in instances.iter() {
            if standings.get(id).is_some_and(|standing| has_begun(before.get(id), standing)) {
                instance.became_ready(now);
            }
        }
        // Opened before the table that offers them; closed before the report that says so.
        for (id, instance) in instances.iter() {
            match standings.get(id) {
                Some(Standing { phase: Phase::Active, .. }) => instance.open(),
                Some(Standing { phase: Phase::Draining, healthy: true, drain_ms, .. }) => {
                    instance.linger(Duration::from_millis(*drain_ms), now);
                }
                Some(Standing { phase: Phase::Draining, .. }) | None => instance.close(),
            }
        }
        self.table.store(Arc::new(table));
        // Whoever has a request under way outside keeps it.
        outside.retain(|key, instance| {
            let stays = named.contains(key);
            if stays {
                instance.open()
            } else {
                instance.close()
            }
            stays || instance.in_flight() > 0
        });
        for (id, instance) in instances.iter() {
            if let (Some(before), Some(now)) = (before.get(id), standings.get(id))
                && is_lost(before, now)
            {
                instance.pool.lose();
            }
        }
        *before = standings;
        self.end_the_forgotten(building, live);
        self.swapped.send_modify(|swaps| *swaps += 1);
    }

    /// Drops instances that left the plan and have no request under way, and ends requests on those whose node is not heard either:
    /// nothing will come from there.
    fn end_the_forgotten(&self, building: &mut Building, live: &Live) {
        let Building { instances, standings, .. } = building;
        instances.retain(|id, instance| {
            if standings.contains_key(id) {
                return true;
            }
            if let Whom::Instance { node, .. } = &instance.whom
                && liveness_of(live, *node, self.me.id) == Liveness::Suspect
            {
                instance.pool.end();
            }
            instance.in_flight() > 0
        });
    }

    fn building(&self) -> MutexGuard<'_, Building> {
        self.building.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a process has become healthy that was not before.
fn has_begun(before: Option<&Standing>, now: &Standing) -> bool {
    now.healthy && !before.is_some_and(|before| before.healthy && before.port == now.port)
}

/// Whether requests that wait at an instance should look for another place: its node is not heard any more, or its process ended or
/// was replaced.
fn is_lost(before: &Standing, now: &Standing) -> bool {
    let unheard = before.liveness == Liveness::Alive && now.liveness == Liveness::Suspect;
    let ended = before.port != 0 && before.port != now.port;
    unheard || ended
}

#[cfg(test)]
mod tests;
