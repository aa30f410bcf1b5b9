//! A load balancer under test: the role over real sockets on loopback, instances that do as told, and a client that shows the wire.
#![allow(dead_code, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use hirsel_lb::Lb;
use hirsel_mesh::seam::real::{OsClock, OsNet};
use hirsel_mesh::seam::{BoxStream, Chance, Clock, Datagrams, Listener, Net};
use hirsel_mesh::transport::datagrams;
use hirsel_model::duty::Duty;
use hirsel_model::manifest::parse;
use hirsel_model::order::{Backend as PlannedBackend, LbOrder, Order, Work};
use hirsel_model::plan::Phase;
use hirsel_model::report::{InstanceFacts, InstanceState, RoleFacts, RoleReport, RoleState};
use hirsel_model::spec::{AppProtocol, RouteSpec};
use hirsel_model::time::{Timestamp, WallTime};
use hirsel_model::view::Liveness;
use hirsel_model::{Generation, InstanceId, NodeId, RoleName, Slot};
use hirsel_role::certificate::{Bundles, Challenges, TicketKeys};
use hirsel_role::host::{Host, Output, OutputFrom, Process, ProcessSpec};
use hirsel_role::requests::Window;
use hirsel_role::{Context, Doors, Live, LiveNode, Me, Plugin, Role, RoleConfig, Spawner};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

pub mod authority;
pub mod backend;
pub mod frames;
pub mod haproxy;
pub mod quic;
pub mod scratch;
pub mod wire;

/// Nothing in these tests takes this long unless it hangs.
pub const LIMIT: Duration = Duration::from_secs(20);

pub const ME: NodeId = NodeId(1);
pub const OTHER: NodeId = NodeId(2);

/// The host: sockets of the kernel, and addresses that swallow every packet.
#[derive(Default)]
pub struct FakeHost {
    pub cut: Mutex<BTreeSet<SocketAddr>>,
    /// What was appended to the journal of requests.
    pub journal: Mutex<Vec<u8>>,
    /// Where that goes instead, for whoever measures.
    pub log: Mutex<Option<std::fs::File>>,
    /// What was written into files.
    pub files: Mutex<BTreeMap<String, Vec<u8>>>,
    /// Where answers are kept that memory has no room for.
    pub scratch: Option<scratch::FakeScratch>,
    /// It takes no more.
    pub is_full: std::sync::atomic::AtomicBool,
}

impl FakeHost {
    fn is_cut(&self, addr: SocketAddr) -> bool {
        self.cut.lock().unwrap().contains(&addr)
    }
}

fn unsupported<T>() -> BoxFuture<'static, io::Result<T>>
where
    T: Send + 'static,
{
    futures::future::ready(Err(io::ErrorKind::Unsupported.into())).boxed()
}

impl Host for FakeHost {
    fn start(&self, _: ProcessSpec) -> BoxFuture<'_, io::Result<()>> {
        unsupported()
    }
    fn processes(&self) -> BoxFuture<'_, io::Result<BTreeMap<InstanceId, Process>>> {
        unsupported()
    }
    fn signal<'a>(&'a self, _: &'a InstanceId, _: i32) -> BoxFuture<'a, io::Result<()>> {
        unsupported()
    }
    fn prolong<'a>(&'a self, _: &'a InstanceId, _: hirsel_model::Timestamp) -> BoxFuture<'a, io::Result<()>> {
        unsupported()
    }
    fn forget<'a>(&'a self, _: &'a InstanceId) -> BoxFuture<'a, io::Result<()>> {
        unsupported()
    }
    fn changed(&self) -> BoxFuture<'_, ()> {
        futures::future::pending().boxed()
    }
    fn output<'a>(&'a self, _: &'a InstanceId, _: OutputFrom) -> BoxFuture<'a, io::Result<Output>> {
        unsupported()
    }
    fn listen(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        OsNet.listen(addr)
    }
    fn udp(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<Datagrams>> {
        async move { Ok(Datagrams::new(OsNet.udp(addr).await?)) }.boxed()
    }
    fn connect(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<BoxStream>> {
        async move {
            if self.is_cut(addr) {
                futures::future::pending::<()>().await;
            }
            OsNet.connect(addr).await
        }
        .boxed()
    }
    fn port_is_free(&self, _: SocketAddr) -> bool {
        true
    }
    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.files.lock().unwrap().get(path).cloned())
    }
    fn write(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.files.lock().unwrap().insert(path.to_owned(), bytes.to_vec());
        Ok(())
    }
    fn remove(&self, _: &str) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn scratch(&self) -> Option<Arc<dyn hirsel_role::host::scratch::Scratch>> {
        self.scratch.clone().map(|scratch| Arc::new(scratch) as Arc<dyn hirsel_role::host::scratch::Scratch>)
    }
    fn append<'a>(&'a self, name: &'a str, lines: Vec<u8>) -> BoxFuture<'a, bool> {
        assert_eq!(name, hirsel_role::requests::JOURNAL);
        let takes = !self.is_full.load(Ordering::SeqCst);
        if takes {
            match &mut *self.log.lock().unwrap() {
                Some(file) => std::io::Write::write_all(file, &lines).unwrap(),
                None => self.journal.lock().unwrap().extend(lines),
            }
        }
        futures::future::ready(takes).boxed()
    }
}

/// Doors that lead to wherever an instance of another node listens.
#[derive(Default)]
pub struct FakeDoors {
    pub behind: Mutex<BTreeMap<InstanceId, SocketAddr>>,
    pub opened: AtomicU64,
}

impl Doors for FakeDoors {
    fn open<'a>(&'a self, _: NodeId, _: SocketAddr, instance: &'a InstanceId) -> BoxFuture<'a, io::Result<BoxStream>> {
        async move {
            self.opened.fetch_add(1, Ordering::SeqCst);
            let behind = self.behind.lock().unwrap().get(instance).copied();
            OsNet.connect(behind.ok_or(io::ErrorKind::ConnectionRefused)?).await
        }
        .boxed()
    }
    fn open_for_datagrams<'a>(
        &'a self,
        _: NodeId,
        _: SocketAddr,
        instance: &'a InstanceId,
    ) -> BoxFuture<'a, io::Result<BoxStream>> {
        async move {
            self.opened.fetch_add(1, Ordering::SeqCst);
            let behind = self.behind.lock().unwrap().get(instance).copied();
            let behind = behind.ok_or(io::ErrorKind::ConnectionRefused)?;
            let (here, mut there) = tokio::io::duplex(1 << 16);
            let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await?;
            socket.connect(behind).await?;
            tokio::spawn(async move {
                let (mut incoming, mut room) = (datagrams::Incoming::default(), vec![0; 1 << 16]);
                loop {
                    tokio::select! {
                        asked = incoming.next(&mut there) => match asked {
                            Ok(Some(datagram)) => drop(socket.send(&datagram).await),
                            Ok(None) | Err(_) => return,
                        },
                        answered = socket.recv(&mut room) => if let Ok(length) = answered {
                            datagrams::write(&mut there, &room[..length]).await.unwrap();
                        },
                    }
                }
            });
            Ok(Box::new(here) as BoxStream)
        }
        .boxed()
    }
    fn publish(&self, _: BTreeMap<InstanceId, SocketAddr>) {}
}

/// Counts instead of drawing: every test takes the same course.
#[derive(Debug, Default)]
pub struct Counted(AtomicU64);

impl Chance for Counted {
    fn fill(&self, bytes: &mut [u8]) {
        for byte in bytes {
            *byte = self.0.fetch_add(1, Ordering::SeqCst) as u8;
        }
    }
}

/// The clock of the system, set forward as a test wants.
#[derive(Debug, Default)]
pub struct Forward(AtomicU64);

impl Forward {
    pub fn by(&self, time: Duration) {
        self.0.fetch_add(time.as_millis() as u64, Ordering::SeqCst);
    }
}

impl Clock for Forward {
    fn now(&self) -> Timestamp {
        OsClock.now() + Duration::from_millis(self.0.load(Ordering::SeqCst))
    }
    fn wall(&self) -> WallTime {
        OsClock.wall()
    }
}

/// The role on a node, and everything it hears.
pub struct Bed {
    pub role: Box<dyn Role>,
    pub addr: SocketAddr,
    /// Where HTTPS is offered while there are certificates.
    pub https: SocketAddr,
    /// Whether the agent is about to end.
    pub ending: watch::Sender<bool>,
    pub certificates: watch::Sender<Arc<Bundles>>,
    pub challenges: watch::Sender<Arc<Challenges>>,
    pub tickets: watch::Sender<Arc<TicketKeys>>,
    pub host: Arc<FakeHost>,
    pub doors: Arc<FakeDoors>,
    pub wake: Arc<Notify>,
    pub order: Order,
    pub live: watch::Sender<Arc<Live>>,
    pub registry: Arc<Mutex<prometheus_client::registry::Registry>>,
    pub clock: Arc<Forward>,
    /// What instances speak that are placed from now on.
    pub protocol: AppProtocol,
    /// Who tells of requests.
    pub requests: Window,
    /// Where objects are had.
    pub objects: hirsel_role::storage::Window,
}

impl Bed {
    /// A role that was started and told nothing yet.
    pub async fn new() -> Self {
        Self::listening_on(free_addr().await).await
    }

    pub async fn listening_on(addr: SocketAddr) -> Self {
        Self::configured(addr, &[]).await
    }

    /// One that lets these addresses say by the PROXY protocol whom they connect for.
    pub async fn configured(addr: SocketAddr, accept_proxy: &[&str]) -> Self {
        let accept_proxy = accept_proxy.iter().map(|block| block.parse().unwrap()).collect();
        Self::with(addr, RoleConfig { accept_proxy, ..RoleConfig::default() }).await
    }

    /// One whose agent is configured like that, but for its ports.
    pub async fn with(addr: SocketAddr, config: RoleConfig) -> Self {
        Self::on(Arc::default(), addr, free_addr().await, config)
    }

    /// The same on a host that was there before, with both ports.
    pub fn on(host: Arc<FakeHost>, addr: SocketAddr, https: SocketAddr, config: RoleConfig) -> Self {
        let (certificates, shown) = watch::channel(Arc::default());
        let (ending, ended) = watch::channel(false);
        let (challenges, asked) = watch::channel(Arc::default());
        let (tickets, resumed) = watch::channel(Arc::default());
        let mut live = Live::default();
        for node in [ME, OTHER] {
            live.nodes.insert(node, LiveNode { liveness: Liveness::Alive, ..LiveNode::default() });
        }
        let (live, hear) = watch::channel(Arc::new(live));
        let (doors, wake) = (Arc::<FakeDoors>::default(), Arc::<Notify>::default());
        let registry = Arc::<Mutex<prometheus_client::registry::Registry>>::default();
        let clock = Arc::<Forward>::default();
        let requests = Window::default();
        let objects = hirsel_role::storage::Window::default();
        let context = Context {
            me: Me {
                id: ME,
                name: "n1".parse().unwrap(),
                zone: "a".parse().unwrap(),
                instance_host: IpAddr::V4(Ipv4Addr::LOCALHOST),
                bind: addr.ip(),
            },
            host: host.clone(),
            live: hear,
            grants: watch::channel(Arc::default()).1,
            secrets: watch::channel(Arc::default()).1,
            certificates: shown,
            challenges: asked,
            tickets: resumed,
            access_keys: watch::channel(Arc::default()).1,
            zone_keys: watch::channel(Arc::default()).1,
            floating: Arc::default(),
            ending: ended,
            voice: Arc::default(),
            doors: doors.clone(),
            peers: Arc::new(hirsel_role::peers::Nobody),
            groups: None,
            clock: clock.clone(),
            chance: Arc::new(Counted::default()),
            spawner: Spawner::new(tokio::runtime::Handle::current()),
            wake: wake.clone(),
            metrics: registry.clone(),
            requests: requests.clone(),
            objects: objects.clone(),
            config: RoleConfig { http_port: addr.port(), https_port: https.port(), ..config },
        };
        let order = Order {
            role: RoleName::lb(),
            generation: Generation(1),
            slots: BTreeMap::from([(Slot(0), Duty::Replica)]),
            work: Work::Lb(Arc::default()),
        };
        let role = Lb::new().start(context);
        let protocol = AppProtocol::Http1;
        Self {
            role,
            addr,
            https,
            ending,
            certificates,
            challenges,
            tickets,
            host,
            doors,
            wake,
            order,
            live,
            registry,
            clock,
            protocol,
            requests,
            objects,
        }
    }

    /// A role that routes everything to `shop/web`, which runs on `backends`, all on this node.
    pub async fn serving(backends: &[&backend::Backend]) -> Self {
        let mut bed = Self::new().await;
        bed.route("*", "/", "web");
        for (number, backend) in (1..).zip(backends) {
            bed.place(number, ME, backend.addr.port());
        }
        assert_eq!(bed.converge().await.state, RoleState::Running);
        bed
    }

    pub fn route(&mut self, host: &str, path: &str, service: &str) {
        let spec = RouteSpec::plain(host, path, service.parse().unwrap());
        self.change(|order| order.routes.push(("shop".parse().unwrap(), spec)));
    }

    /// Takes the routes of a manifest, as they are written, over services that have any of these names.
    pub fn routes(&mut self, text: &str) {
        let services = ["web", "api", "next", "admin"].map(|name| format!("[service.{name}]\ncommand = [\"x\"]\n"));
        let text = format!("app = \"shop\"\n{}{text}", services.concat());
        let (app, spec) = parse(&text, &[RoleName::compute(), RoleName::lb()]).unwrap();
        self.change(|order| {
            order.routes.clear();
            order.routes.extend(spec.routes.into_iter().map(|route| (app.clone(), route)));
        });
    }

    /// Takes the ports of a manifest, as they are written.
    pub fn ports(&mut self, text: &str) {
        let services = ["web", "next"].map(|name| format!("[service.{name}]\ncommand = [\"x\"]\n"));
        let text = format!("app = \"shop\"\n{}{text}", services.concat());
        let (app, spec) = parse(&text, &[RoleName::compute(), RoleName::lb()]).unwrap();
        self.change(|order| {
            order.ports = spec.ports.into_iter().map(|(port, spec)| (port, (app.clone(), spec))).collect();
        });
    }

    /// Has what is kept be forgotten.
    pub fn purge(&mut self, what: hirsel_model::purge::Purged) {
        self.change(|order| {
            let next = order.purges.last().next();
            order.purges.record(next, what);
        });
    }

    /// How requests are written down where a route does not say.
    pub fn usual_log(&mut self, log: hirsel_model::spec::AccessLog) {
        self.change(|order| order.log = Some(log));
    }

    /// Plans `shop/web/NUMBER` on `node`, healthy at `port`.
    pub fn place(&mut self, number: u64, node: NodeId, port: u16) {
        self.place_as("web", number, node, port);
    }

    pub fn place_as(&mut self, service: &str, number: u64, node: NodeId, port: u16) {
        let id: InstanceId = format!("shop/{service}/{number}").parse().unwrap();
        let backend = PlannedBackend {
            node,
            addr: SocketAddr::from(([127, 0, 0, node.0 as u8], 7400)),
            zone: "a".parse().unwrap(),
            phase: Phase::Active,
            drain_ms: 30_000,
            protocol: self.protocol,
        };
        self.change(|order| {
            let key = ("shop".parse().unwrap(), service.parse().unwrap());
            order.backends.entry(key).or_default().insert(id.clone(), backend);
        });
        let facts = InstanceFacts { state: InstanceState::Running, healthy: true, port, ..InstanceFacts::default() };
        self.report(node, &id, Some(facts));
        self.doors.behind.lock().unwrap().insert(id, SocketAddr::from(([127, 0, 0, 1], port)));
    }

    pub fn unplace(&mut self, number: u64) {
        self.change(|order| {
            for backends in order.backends.values_mut() {
                backends.retain(|id, _| id.number != number);
            }
        });
    }

    pub fn drain(&mut self, number: u64) {
        self.change(|order| {
            let backends = order.backends.values_mut().flatten();
            backends.filter(|(id, _)| id.number == number).for_each(|(_, b)| b.phase = Phase::Draining);
        });
    }

    /// Puts instances with a number from `from` on into `zone`, and so many load balancers into each zone; this one is in `a`.
    pub fn zones(&mut self, from: u64, zone: &str, balancers: &[(&str, u32)]) {
        self.change(|order| {
            order.balancers = balancers.iter().map(|(zone, number)| (zone.parse().unwrap(), *number)).collect();
            let backends = order.backends.values_mut().flatten();
            backends.filter(|(id, _)| id.number >= from).for_each(|(_, it)| it.zone = zone.parse().unwrap());
        });
    }

    /// What the node of an instance says of it.
    pub fn report(&self, node: NodeId, id: &InstanceId, facts: Option<InstanceFacts>) {
        self.hear(|live| {
            let node = live.nodes.entry(node).or_default();
            let compute = node.facts.entry(RoleName::compute()).or_insert(RoleFacts::Compute(BTreeMap::new()));
            let RoleFacts::Compute(instances) = compute else { unreachable!() };
            match facts {
                Some(facts) => drop(instances.insert(id.clone(), facts)),
                None => drop(instances.remove(id)),
            }
        });
    }

    pub fn suspect(&self, node: NodeId, liveness: Liveness) {
        self.hear(|live| live.nodes.entry(node).or_default().liveness = liveness);
    }

    pub fn hear(&self, change: impl FnOnce(&mut Live)) {
        self.live.send_modify(|live| change(Arc::make_mut(live)));
    }

    fn change(&mut self, change: impl FnOnce(&mut LbOrder)) {
        let Work::Lb(work) = &mut self.order.work else { unreachable!() };
        change(Arc::make_mut(work));
        self.order.generation = self.order.generation.next();
    }

    pub async fn converge(&mut self) -> RoleReport {
        within(self.role.converge(&self.order)).await
    }

    /// Converges until the report is as wanted; woken as the agent would be.
    pub async fn converge_until(&mut self, wanted: impl Fn(&RoleReport) -> bool) -> RoleReport {
        let wake = self.wake.clone();
        within(async {
            loop {
                let report = self.role.converge(&self.order).await;
                if wanted(&report) {
                    return report;
                }
                let _ = tokio::time::timeout(Duration::from_millis(100), wake.notified()).await;
            }
        })
        .await
    }

    pub async fn stop(&mut self) -> RoleReport {
        self.order.slots.clear();
        self.order.work = Work::None;
        self.order.generation = self.order.generation.next();
        self.converge().await
    }

    /// One request on a connection of its own.
    pub async fn ask(&self, request: &str) -> wire::Answer {
        let mut client = wire::Client::connect(self.addr).await;
        client.send(request).await;
        client.answer().await
    }

    pub async fn get(&self, path: &str) -> wire::Answer {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: shop.example\r\n\r\n")).await
    }

    /// The lines of the log of requests, once there are so many.
    pub async fn log(&self, lines: usize) -> Vec<String> {
        let read = || String::from_utf8(self.host.journal.lock().unwrap().clone()).unwrap();
        until(|| read().lines().count() >= lines).await;
        read().lines().map(str::to_owned).collect()
    }

    /// A counter of the role.
    pub fn counted(&self, name: &str) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry.lock().unwrap()).unwrap();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }
}

/// Where nobody listens, on an address where no test takes a port but by this.
pub async fn free_addr() -> SocketAddr {
    TcpListener::bind("127.0.0.7:0").await.unwrap().local_addr().unwrap()
}

pub async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, work).await.expect("hangs")
}

/// Waits until `holds`.
pub async fn until(holds: impl Fn() -> bool) {
    within(async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

pub(crate) async fn read_more(stream: &mut TcpStream, into: &mut Vec<u8>) -> io::Result<usize> {
    stream.read_buf(into).await
}

pub(crate) async fn write(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await
}
