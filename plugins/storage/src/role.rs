//! The storage role of a node: its part of the metadata group, its disk, and the gateway through which objects are reached.
//!
//! It runs in every agent. With a slot, or while the table of the plan still names this node, it keeps data; without one it only answers for all
//! objects, so that any node may be asked. Everything here is started beside [`Role::converge`], which only passes on what is to be true and
//! tells what is.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use hirsel_model::RoleName;
use hirsel_model::order::{Order, StorageOrder, Work};
use hirsel_model::report::{RoleFacts, RoleReport, RoleState};
use hirsel_model::storage::{Belongs, StorageFacts, Unmet};
use hirsel_role::outbound::Outbound;
use hirsel_role::peers::Peers;
use hirsel_role::storage::{Auditing, Scrubbing};
use hirsel_role::{Context, Groups, Plugin, Role, S3_NAME, WEB_NAME};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tracing::warn;

use crate::counts::Counts;
use crate::disk::Disk;
use crate::gateway::{Gateway, Parts};
use crate::heal::audit;
use crate::heal::budget::Budget;
use crate::heal::spare::Spares;
use crate::heal::{self, Healing, upkeep};
use crate::meta::access::Metadata;
use crate::meta::group::MetaGroup;
use crate::people::People;
use crate::replicate;
use crate::s3::keys::Keys;
use crate::s3::{Front, Names, Server};
use crate::store::Store;
use crate::tell;
use crate::tidy;
use crate::wire::{Remote, Service};

mod room;

pub use room::Room;

/// Between two tries to open files: whoever had them may be on his way out.
const RETRY: Duration = Duration::from_millis(500);
/// The group is steered this often, and whenever the plan changes.
const STEER_EVERY: Duration = Duration::from_secs(1);

/// Nobody reads what is counted more often than this matters.
const COUNT_EVERY: Duration = Duration::from_secs(5);

/// The plugin.
pub struct Storage;

impl Plugin for Storage {
    fn role(&self) -> RoleName {
        RoleName::storage()
    }

    fn start(&self, context: Context) -> Box<dyn Role> {
        Box::new(Keeper::new(context).0)
    }
}

/// The plugin, which lets somebody else at what it has: a simulation, whose clients use the gateways of agents and whose checkers count
/// what is on their disks.
pub struct Shown(pub watch::Sender<Option<Seen>>);

impl Plugin for Shown {
    fn role(&self) -> RoleName {
        RoleName::storage()
    }

    fn start(&self, context: Context) -> Box<dyn Role> {
        let (keeper, seen) = Keeper::new(context);
        self.0.send_replace(Some(seen));
        Box::new(keeper)
    }
}

/// What a node has of storage, seen from outside.
#[derive(Clone)]
pub struct Seen {
    begun: watch::Receiver<Begun>,
    disk: watch::Receiver<Option<Arc<Disk>>>,
    peers: Arc<dyn Peers>,
}

impl Seen {
    /// Its gateway, once there is one.
    pub fn gateway(&self) -> Option<Gateway> {
        self.begun.borrow().gateway.clone()
    }

    /// Its disk, once it is in use.
    pub fn disk(&self) -> Option<Arc<Disk>> {
        self.disk.borrow().clone()
    }

    /// The same role on all nodes.
    pub fn peers(&self) -> &dyn Peers {
        &*self.peers
    }
}

/// What this node has of it so far.
#[derive(Clone, Default)]
struct Begun {
    gateway: Option<Gateway>,
    /// Why there is none yet.
    trouble: Option<String>,
}

struct Keeper {
    orders: watch::Sender<Arc<StorageOrder>>,
    begun: watch::Receiver<Begun>,
    room: watch::Receiver<Room>,
    healing: watch::Receiver<Healing>,
    wanted: watch::Receiver<bool>,
    audited: watch::Receiver<Auditing>,
    belongs: watch::Receiver<Belongs>,
    me: hirsel_model::NodeId,
}

impl Keeper {
    fn new(context: Context) -> (Self, Seen) {
        let me = context.me.id;
        let orders = watch::Sender::new(Arc::new(StorageOrder::default()));
        let (begin, begun) = watch::channel(Begun::default());
        let (rooms, room) = watch::channel(Room::default());
        let service = Service::default();
        service.serve(&*context.peers);
        let (spawner, wake) = (context.spawner.clone(), context.wake.clone());
        let (disks, disk) = watch::channel(None);
        let seen = Seen { begun: begun.clone(), disk: disk.clone(), peers: context.peers.clone() };
        let (heal, healing) = watch::channel(Healing::default());
        let (want, wanted) = watch::channel(false);
        let store = Store::new(Remote::new(context.peers.clone()).beside(me, service.clone()));
        spawner.spawn(room::keep(context.clone(), orders.subscribe(), service, rooms, disks));
        let (audits, audited) = watch::channel(Auditing::default());
        let (belong, belongs) = watch::channel(Belongs::default());
        spawner.spawn(take_part(context, store, orders.subscribe(), begin, disk, (heal, want, audits, belong)));
        // What is to be told changed.
        let (mut one, mut two, mut three, mut four) = (begun.clone(), room.clone(), healing.clone(), wanted.clone());
        let (mut five, mut six) = (audited.clone(), belongs.clone());
        spawner.spawn(async move {
            loop {
                let changed = tokio::select! {
                    changed = one.changed() => changed,
                    changed = two.changed() => changed,
                    changed = three.changed() => changed,
                    changed = four.changed() => changed,
                    changed = five.changed() => changed,
                    changed = six.changed() => changed,
                };
                if changed.is_err() {
                    return;
                }
                wake.notify_one();
            }
        });
        (Self { orders, begun, room, healing, wanted, audited, belongs, me }, seen)
    }

    fn step(&mut self, order: &Order) -> RoleReport {
        let report = |state, message, facts| RoleReport {
            state,
            generation: order.generation,
            message,
            facts,
            ..RoleReport::default()
        };
        let Work::Storage(work) = &order.work else { return report(RoleState::Stopped, None, RoleFacts::None) };
        self.orders.send_if_modified(|before| {
            let changed = *before != *work;
            if changed {
                *before = work.clone();
            }
            changed
        });
        let (begun, room) = (self.begun.borrow().clone(), self.room.borrow().clone());
        let keeps = !order.slots.is_empty() || work.table.holds(self.me);
        if !keeps {
            return report(RoleState::Stopped, begun.trouble, RoleFacts::None);
        }
        // What is told makes the leader plan: that waits until somebody, on any node, wants objects, or an application a bucket.
        if work.table.is_empty() && !*self.wanted.borrow() && work.buckets.is_empty() {
            return report(RoleState::Running, None, RoleFacts::None);
        }
        let voters = begun.gateway.as_ref().map_or_else(BTreeSet::new, |gateway| gateway.meta().group().voters());
        let leads = begun.gateway.as_ref().is_some_and(|gateway| gateway.meta().group().leads());
        let facts = StorageFacts {
            unable: room.unable.clone(),
            bytes: room.bytes,
            free: room.free,
            moved: self.healing.borrow().moved.clone(),
            voters,
            audit: self.audited.borrow().last,
            totals: self.healing.borrow().totals.clone().filter(|_| leads).map(Box::new),
            group: Box::new(self.belongs.borrow().clone()),
            unmet: if leads { self.healing.borrow().unmet.clone() } else { Unmet::new() },
        };
        let facts = RoleFacts::Storage(facts);
        match (begun.gateway, room.unable, room.is_open) {
            (_, Some(unable), _) => report(RoleState::Failed, Some(unable), facts),
            (Some(_), None, true) if room.is_full => {
                report(RoleState::Degraded, Some("the disk is full: nothing is written to it".into()), facts)
            }
            (Some(_), None, true) => report(RoleState::Running, None, facts),
            _ => report(RoleState::Starting, begun.trouble, facts),
        }
    }
}

impl Role for Keeper {
    fn converge<'a>(&'a mut self, order: &'a Order) -> BoxFuture<'a, RoleReport> {
        async move { self.step(order) }.boxed()
    }
}

/// Takes part in the metadata group for as long as the role lives, and serves objects.
async fn take_part(
    context: Context,
    store: Store,
    mut orders: watch::Receiver<Arc<StorageOrder>>,
    begun: watch::Sender<Begun>,
    disk: watch::Receiver<Option<Arc<Disk>>>,
    (healing, wanted, audits, belongs): (
        watch::Sender<Healing>,
        watch::Sender<bool>,
        watch::Sender<Auditing>,
        watch::Sender<Belongs>,
    ),
) {
    // Before there is an order it is not known whether this node belongs to the cluster.
    let Some(groups) = context.groups.clone() else { return };
    if orders.wait_for(|order| !order.incarnations.is_empty()).await.is_err() {
        return;
    }
    let group = loop {
        match MetaGroup::start(&groups.world, context.me.id, groups.calls.clone()).boxed().await {
            Ok(group) => break Arc::new(group),
            Err(error) => {
                let trouble = format!("the metadata of objects cannot be opened: {error}");
                begun.send_if_modified(|before| {
                    let changed = before.trouble.as_ref() != Some(&trouble);
                    before.trouble = Some(trouble.clone());
                    changed
                });
            }
        }
        sleep(RETRY).await;
    };
    let gateway = gateway(&context, store, &groups, group.clone(), orders.clone(), wanted);
    gateway.meta().serve();
    gateway.counts().register(&mut context.metrics.lock().unwrap_or_else(PoisonError::into_inner));
    let front = Front::new(gateway.clone(), Keys::new(context.access_keys.clone()), &context.config.s3_region);
    context.objects.open(People::new(front.clone(), context.peers.clone()));
    begun.send_replace(Begun { gateway: Some(gateway.clone()), trouble: None });
    let objects = serve_objects(context.clone(), front.clone()).boxed();
    let region = front.region.clone();
    let outbound = Arc::new(Outbound::new(context.host.clone()));
    let replicate = replicate::keep(front, outbound.clone()).boxed();
    let budget = Budget::new(context.config.repair_rate);
    let lead = heal::lead(gateway.clone(), orders.clone(), healing, budget, region).boxed();
    let tidy = tidy::keep(gateway.clone()).boxed();
    let tell = tell::keep(gateway.clone(), outbound).boxed();
    let after = look_after(context, gateway, orders.clone(), disk, audits).boxed();
    tokio::select! { () = steer(group, orders, belongs).boxed() => {}, () = lead => {}, () = after => {}, () = objects => {}, () = tidy => {}, () = replicate => {}, () = tell => {} }
}

/// Serves S3 where the configuration says, for as long as this is not dropped.
async fn serve_objects(context: Context, front: Front) {
    let Some(addr) = context.config.s3 else { return std::future::pending().await };
    let mut told = false;
    let listener = loop {
        match context.host.listen(addr).await {
            Ok(listener) => break listener,
            Err(error) if !told => {
                warn!(%addr, %error, "objects are not served yet: the address cannot be listened on");
                told = true;
            }
            Err(_) => {}
        }
        sleep(RETRY).await;
    };
    let mut names = Names { hosts: context.config.s3_domains.clone(), sites: context.config.web_domains.clone() };
    names.hosts.push(S3_NAME.to_owned());
    names.sites.push(WEB_NAME.to_owned());
    let _server = Server::start(listener, front, names, context.spawner.clone());
    std::future::pending().await
}

/// Audits this node's disk, and does what it needs, once there is one.
async fn look_after(
    context: Context,
    gateway: Gateway,
    orders: watch::Receiver<Arc<StorageOrder>>,
    mut disk: watch::Receiver<Option<Arc<Disk>>>,
    audits: watch::Sender<Auditing>,
) {
    let (audit_now, scrub_now) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let scrubs = watch::Sender::new(Scrubbing::default());
    audit::serve(&*context.peers, audits.subscribe(), audit_now.clone());
    upkeep::serve(&*context.peers, scrubs.subscribe(), scrub_now.clone());
    let disk = match disk.wait_for(Option::is_some).await {
        Ok(disk) => disk.clone(),
        Err(_) => None,
    };
    if let Some(disk) = disk {
        let spares = Spares::new(&gateway, disk.clone(), orders.clone(), context.peers.clone());
        spares.serve();
        let count = count(gateway.counts().clone(), disk.clone(), audits.subscribe(), scrubs.subscribe()).boxed();
        let audit = audit::keep(gateway.clone(), disk.clone(), orders, spares, audits, audit_now).boxed();
        tokio::join!(audit, upkeep::keep(gateway, disk, scrubs, scrub_now).boxed(), count);
    }
    // Without one this node goes on serving.
    std::future::pending().await
}

/// Keeps what is counted as it is.
async fn count(counts: Counts, disk: Arc<Disk>, audits: watch::Receiver<Auditing>, scrubs: watch::Receiver<Scrubbing>) {
    loop {
        if let Ok(usage) = disk.usage().await {
            counts.disk(&usage);
        }
        counts.audit(&audits.borrow());
        counts.scrub(&scrubs.borrow());
        sleep(COUNT_EVERY).await;
    }
}

fn gateway(
    context: &Context,
    store: Store,
    groups: &Groups,
    group: Arc<MetaGroup>,
    order: watch::Receiver<Arc<StorageOrder>>,
    wanted: watch::Sender<bool>,
) -> Gateway {
    let (clock, chance) = (context.clock.clone(), context.chance.clone());
    Gateway::new(Parts {
        me: context.me.id,
        incarnation: groups.incarnation,
        meta: Metadata::new(group, context.peers.clone(), clock.clone(), chance.clone()),
        store,
        order,
        wanted,
        live: context.live.clone(),
        clock,
        chance,
        spawner: context.spawner.clone(),
    })
}

/// Keeps the group as the plan says.
async fn steer(group: Arc<MetaGroup>, mut orders: watch::Receiver<Arc<StorageOrder>>, belongs: watch::Sender<Belongs>) {
    let mut told = None;
    loop {
        let order = orders.borrow_and_update().clone();
        let steered = group.steer(&order.table).await.err();
        if steered.is_some() && steered != told {
            let words = steered.as_deref().unwrap_or_default();
            warn!(words, "the metadata group is not as the plan says yet");
        }
        told = steered;
        let now = Belongs { tag: group.tag(), left: group.left(), led: group.is_led() };
        belongs.send_if_modified(|before| std::mem::replace(before, now.clone()) != now);
        if let Ok(Err(_)) = timeout(STEER_EVERY, orders.changed()).await {
            return;
        }
    }
}
