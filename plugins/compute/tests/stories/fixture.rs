//! A node with a compute role, driven as the agent drives it: when it is woken, and once a second.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use hirsel_compute::Compute;
use hirsel_mesh::seam::{BoxStream, Chance, Clock};
use hirsel_model::control::ControlState;
use hirsel_model::grant::long::Lengthened;
use hirsel_model::grant::{Grant, Holdings};
use hirsel_model::order::{InstanceOrder, Order, Work};
use hirsel_model::plan::{Because, InstanceAssignment, Phase, Reason};
use hirsel_model::report::{InstanceFacts, InstanceState, RoleFacts, RoleReport};
use hirsel_model::spec::{Capacity, Check, HealthSpec, Replicas, ServiceSpec, Spread, StopSpec, UpdateSpec};
use hirsel_model::{Generation, InstanceId, NodeId, Revision, RoleName, Timestamp, WallTime};
use hirsel_role::secret::{Plain, Values};
use hirsel_role::{Context, Doors, Me, Plugin, Role, RoleConfig, Spawner};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::fake::FakeHost;

/// Virtual time a story may wait for something.
const WAIT_MAX: Duration = Duration::from_secs(120);

pub struct Node {
    pub host: FakeHost,
    pub doors: FakeDoors,
    pub order: Order,
    pub report: RoleReport,
    /// How often the role asked for another look.
    pub woken: u32,
    role: Box<dyn Role>,
    wake: Arc<Notify>,
    grants: watch::Sender<Arc<Holdings>>,
    secrets: watch::Sender<Arc<Values>>,
    begun: Instant,
}

impl Node {
    pub fn new() -> Self {
        let (host, doors, wake) = (FakeHost::new(), FakeDoors::default(), Arc::new(Notify::new()));
        let grants = watch::Sender::new(Arc::default());
        let secrets = watch::Sender::new(Arc::default());
        let role = start(&host, &doors, &wake, &grants, &secrets);
        let order = Order {
            role: RoleName::compute(),
            generation: Generation(1),
            slots: BTreeMap::new(),
            work: Work::Compute(BTreeMap::new()),
        };
        let (report, begun) = (RoleReport::default(), Instant::now());
        Self { host, doors, order, report, woken: 0, role, wake, grants, secrets, begun }
    }

    /// The value of a secret of `shop` comes from a voter.
    pub fn tell(&self, name: &str, version: u64, value: &str) {
        let key = ("shop".parse().unwrap(), name.parse().unwrap(), version);
        self.secrets.send_modify(|values| drop(Arc::make_mut(values).0.insert(key, Plain(value.into()))));
    }

    /// The leader lets the instance act for one lease from now on.
    pub fn grant(&self, name: &str) {
        let now = Timestamp(u64::try_from(self.begun.elapsed().as_millis()).unwrap());
        let grant = Grant { term: 1, generation: Generation(1), covers: [id(name)].into(), ..Grant::default() };
        self.grants.send_modify(|held| Arc::make_mut(held).receive(&grant, now));
    }

    /// A long grant from now on, until the time that is returned.
    pub fn lengthen(&self, name: &str, length_ms: u64) -> Timestamp {
        let now = Timestamp(u64::try_from(self.begun.elapsed().as_millis()).unwrap());
        let (tag, generation, covers) = (Default::default(), Generation(1), [id(name)].into());
        let grant = Lengthened { tag, generation, covers, length_ms };
        self.grants.send_modify(|held| Arc::make_mut(held).lengthen(&grant, now, now));
        now + Duration::from_millis(length_ms)
    }

    /// Its node promises node 2, which the plan gives the instance `name`, to start none in its place.
    pub fn promise(&self, name: &str) {
        let now = Timestamp(u64::try_from(self.begun.elapsed().as_millis()).unwrap());
        let mut state = ControlState::default();
        let reason = Reason { because: Because::Wanted, text: String::new() };
        let (revision, since) = (Revision(1), Generation(1));
        let (node, phase, exclusive) = (NodeId(2), Phase::Active, true);
        state.plan.instances.insert(id(name), InstanceAssignment { node, revision, phase, reason, since, exclusive });
        let holder = (NodeId(2), &state.cluster.tag);
        let promised = |held: &mut Arc<Holdings>| Arc::make_mut(held).promise(&state, holder, &id(name), now);
        self.grants.send_modify(|held| promised(held).expect("nothing is in the way"));
    }

    /// The role panicked, or the agent ended: another one starts on the same host.
    pub fn restart(&mut self) {
        self.wake = Arc::new(Notify::new());
        self.grants = watch::Sender::new(Arc::default());
        self.role = start(&self.host, &self.doors, &self.wake, &self.grants, &self.secrets);
    }

    fn orders(&mut self) -> &mut BTreeMap<InstanceId, InstanceOrder> {
        self.order.generation = self.order.generation.next();
        match &mut self.order.work {
            Work::Compute(orders) => orders,
            other => panic!("{other:?}"),
        }
    }

    pub fn order(&mut self, name: &str, service: ServiceSpec) {
        let order = InstanceOrder { revision: service.revision, service: Arc::new(service), phase: Phase::Active };
        self.orders().insert(id(name), order);
    }

    /// The instance keeps its revision while the service went on.
    pub fn order_older(&mut self, name: &str, service: ServiceSpec) {
        self.orders().get_mut(&id(name)).unwrap().service = Arc::new(service);
    }

    pub fn set_phase(&mut self, name: &str, phase: Phase) {
        self.orders().get_mut(&id(name)).unwrap().phase = phase;
    }

    pub fn unlist(&mut self, name: &str) {
        self.orders().remove(&id(name)).unwrap();
        if self.orders().is_empty() {
            self.order.work = Work::None;
        }
    }

    pub fn stop(&mut self) {
        self.order.work = Work::None;
    }

    pub fn seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    pub async fn converge(&mut self) {
        let begun = Instant::now();
        self.report = self.role.converge(&self.order).await;
        assert!(begun.elapsed() < Duration::from_secs(1), "converge takes too long");
    }

    /// One look, and the wait for the next.
    async fn turn(&mut self) {
        self.converge().await;
        if tokio::time::timeout(Duration::from_secs(1), self.wake.notified()).await.is_ok() {
            self.woken += 1;
        }
    }

    pub async fn run_for(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.turn().await;
        }
        self.converge().await;
    }

    pub async fn until(&mut self, what: &str, condition: impl Fn(&Node) -> bool) {
        let until = Instant::now() + WAIT_MAX;
        loop {
            self.converge().await;
            if condition(self) {
                return;
            }
            assert!(Instant::now() < until, "waited in vain until {what}: {:#?}", self.report);
            self.turn().await;
        }
    }

    fn all_facts(&self) -> &BTreeMap<InstanceId, InstanceFacts> {
        match &self.report.facts {
            RoleFacts::Compute(facts) => facts,
            other => panic!("{other:?}"),
        }
    }

    pub fn knows(&self, name: &str) -> bool {
        self.all_facts().contains_key(&id(name))
    }

    pub fn facts(&self, name: &str) -> InstanceFacts {
        self.all_facts()[&id(name)].clone()
    }

    pub fn state(&self, name: &str) -> InstanceState {
        self.facts(name).state
    }
}

fn start(
    host: &FakeHost,
    doors: &FakeDoors,
    wake: &Arc<Notify>,
    grants: &watch::Sender<Arc<Holdings>>,
    secrets: &watch::Sender<Arc<Values>>,
) -> Box<dyn Role> {
    let me = Me {
        id: NodeId(9),
        name: "n9".parse().unwrap(),
        zone: "a".parse().unwrap(),
        instance_host: "127.0.0.9".parse().unwrap(),
        bind: "127.0.0.9".parse().unwrap(),
    };
    Compute.start(Context {
        me,
        host: Arc::new(host.clone()),
        live: watch::channel(Arc::default()).1,
        grants: grants.subscribe(),
        secrets: secrets.subscribe(),
        certificates: watch::channel(Arc::default()).1,
        challenges: watch::channel(Arc::default()).1,
        tickets: watch::channel(Arc::default()).1,
        access_keys: watch::channel(Arc::default()).1,
        zone_keys: watch::channel(Arc::default()).1,
        floating: Arc::default(),
        ending: watch::channel(false).1,
        voice: Arc::default(),
        doors: Arc::new(doors.clone()),
        peers: Arc::new(hirsel_role::peers::Nobody),
        groups: None,
        clock: Arc::new(VirtualClock(Instant::now())),
        chance: Arc::new(Counted(AtomicU64::new(5))),
        spawner: Spawner::new(tokio::runtime::Handle::current()),
        wake: Arc::clone(wake),
        metrics: Arc::default(),
        requests: Default::default(),
        objects: Default::default(),
        config: RoleConfig { port_first: 20_000, port_last: 20_009, ..RoleConfig::default() },
    })
}

pub fn id(name: &str) -> InstanceId {
    name.parse().unwrap()
}

pub fn service(command: &str) -> ServiceSpec {
    ServiceSpec {
        revision: Revision(1),
        command: command.split(' ').map(str::to_owned).collect(),
        workdir: None,
        env: BTreeMap::new(),
        user: None,
        replicas: Replicas { min: 1, max: 1 },
        resources: Capacity::default(),
        health: None,
        update: UpdateSpec::default(),
        stop: StopSpec::default(),
        constraints: BTreeMap::new(),
        spread: Spread::default(),
        exclusive: false,
        secrets: BTreeMap::new(),
        protocol: Default::default(),
    }
}

pub fn with_check(service: ServiceSpec) -> ServiceSpec {
    let check = Check::Http { path: "/healthz".into() };
    ServiceSpec { health: Some(HealthSpec { check, interval_ms: 1_000, timeout_ms: 500, failures: 3 }), ..service }
}

/// The doors of the node as last published.
#[derive(Clone, Default)]
pub struct FakeDoors(Arc<Mutex<(BTreeMap<InstanceId, SocketAddr>, u32)>>);

impl FakeDoors {
    pub fn table(&self) -> BTreeMap<InstanceId, SocketAddr> {
        self.0.lock().unwrap().0.clone()
    }
    pub fn published(&self) -> u32 {
        self.0.lock().unwrap().1
    }
}

impl Doors for FakeDoors {
    fn open<'a>(&'a self, _: NodeId, _: SocketAddr, _: &'a InstanceId) -> BoxFuture<'a, std::io::Result<BoxStream>> {
        async { Err(std::io::ErrorKind::Unsupported.into()) }.boxed()
    }
    fn publish(&self, table: BTreeMap<InstanceId, SocketAddr>) {
        let mut inner = self.0.lock().unwrap();
        inner.0 = table;
        inner.1 += 1;
    }
}

#[derive(Debug)]
struct VirtualClock(Instant);

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        Timestamp(u64::try_from(self.0.elapsed().as_millis()).unwrap())
    }
    fn wall(&self) -> WallTime {
        WallTime(0)
    }
}

#[derive(Debug)]
struct Counted(AtomicU64);

impl Chance for Counted {
    fn fill(&self, bytes: &mut [u8]) {
        let number = self.0.fetch_add(7, Ordering::Relaxed).to_le_bytes();
        bytes.iter_mut().zip(number.iter().cycle()).for_each(|(byte, from)| *byte = *from);
    }
}
