//! The compute role on the real host, with real programs. This executable is its own shim (`real shim DIR`).
#![allow(clippy::print_stdout, missing_docs)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::exit;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, LocalBoxFuture};
use hirsel_compute::Compute;
use hirsel_mesh::seam::{BoxStream, real};
use hirsel_model::order::{InstanceOrder, Order, Work};
use hirsel_model::plan::Phase;
use hirsel_model::report::{InstanceFacts, RoleFacts, RoleReport};
use hirsel_model::spec::{Capacity, Check, HealthSpec, Replicas, ServiceSpec, Spread, StopSpec, UpdateSpec};
use hirsel_model::{Generation, InstanceId, NodeId, Revision, RoleName};
use hirsel_role::host::real::{Groups, GuardConfig, RealHost, RealHostConfig};
use hirsel_role::host::{OutputFrom, ProcessState};
use hirsel_role::{Context, Doors, Host, Me, Plugin, Role, RoleConfig, Spawner};
use tokio::sync::{Notify, watch};

/// Far longer than anything here takes.
const WAIT_MAX: Duration = Duration::from_secs(30);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, folder] = arguments.as_slice()
        && first == "shim"
    {
        exit(hirsel_role::host::shim::main(Path::new(folder)));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let tests: [(&str, LocalBoxFuture<'static, ()>); 2] = [
        ("python_servers_live_through_crashes_and_agents_and_stop_when_told", python().boxed_local()),
        ("a_program_that_ends_at_once_is_restarted_elsewhere_and_its_last_words_are_told", words().boxed_local()),
    ];
    if arguments.iter().any(|argument| argument == "--list") {
        tests.iter().for_each(|(name, _)| println!("{name}: test"));
        return;
    }
    for (name, test) in tests {
        runtime.block_on(test);
        println!("test {name} ... ok");
    }
}

async fn python() {
    if std::process::Command::new("python3").arg("-V").output().is_err() {
        assert_ne!(std::env::var("HIRSEL_REQUIRE").as_deref(), Ok("all"), "needs python3");
        println!("skipped: needs python3");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut on = Node::new(folder.path());
    let command = "python3 -u -m http.server --bind ${HOST} ${PORT}";
    let ids = ["site/web/1", "site/web/2", "site/web/3"];
    for id in ids {
        on.order(id, service(command, "/"));
    }
    on.until("all are healthy", |facts| ids.iter().all(|id| facts.get(&named(id)).is_some_and(|facts| facts.healthy)))
        .await;
    let ports: Vec<u16> = ids.iter().map(|id| on.facts()[&named(id)].port).collect();
    for port in &ports {
        let addr = SocketAddr::from(([127, 0, 0, 1], *port));
        tokio::net::TcpStream::connect(addr).await.unwrap();
    }

    // One is killed from outside: it comes back, with its port, and nobody else is touched.
    let before = on.pids().await;
    let victim = rustix::process::Pid::from_raw(i32::try_from(before[&named(ids[0])]).unwrap()).unwrap();
    rustix::process::kill_process(victim, rustix::process::Signal::KILL).unwrap();
    on.until("it is back", |facts| facts[&named(ids[0])].restarts == 1 && facts[&named(ids[0])].healthy).await;
    let after = on.pids().await;
    assert_eq!(on.facts()[&named(ids[0])].port, ports[0]);
    assert_eq!(after[&named(ids[1])], before[&named(ids[1])]);

    // The agent ends and starts: everything runs on, and what is not listed any more is stopped.
    on.unlist(ids[2]);
    on.restart(folder.path());
    on.converge().await;
    assert!(on.facts()[&named(ids[0])].healthy, "no moment of illness: {:?}", on.report);
    on.until("the third is gone", |facts| facts.len() == 2).await;
    let adopted = on.pids().await;
    assert_eq!([adopted[&named(ids[0])], adopted[&named(ids[1])]], [after[&named(ids[0])], after[&named(ids[1])]]);

    on.order.work = Work::None;
    on.until("nothing is left", BTreeMap::is_empty).await;
    assert!(on.host.processes().await.unwrap().is_empty());
}

async fn words() {
    let folder = tempfile::tempdir().unwrap();
    let mut on = Node::new(folder.path());
    let script = "echo on $PORT; echo bind: Address already in use >&2; exit 98";
    let mut service = service("/bin/sh -c", "/");
    service.command.push(script.into());
    on.order("site/web/1", service);
    let id = named("site/web/1");
    on.until("it failed often", |facts| facts.get(&id).is_some_and(|facts| facts.restarts >= 3)).await;
    let says = |facts: &InstanceFacts| facts.message.as_deref() == Some("exited with 98: bind: Address already in use");
    on.until("its last words are told", |facts| says(&facts[&id])).await;
    let output = on.host.output(&id, OutputFrom::Tail(10_000)).await.unwrap();
    let text = String::from_utf8(output.bytes).unwrap();
    let mut ports: Vec<&str> = text.lines().filter_map(|line| line.split_once("on ")).map(|(_, port)| port).collect();
    let tries = ports.len();
    ports.sort_unstable();
    ports.dedup();
    assert!(tries >= 3 && ports.len() == tries, "each try has another port: {text}");
    on.order.work = Work::None;
    on.until("nothing is left", BTreeMap::is_empty).await;
}

struct Node {
    host: Arc<RealHost>,
    order: Order,
    report: RoleReport,
    role: Box<dyn Role>,
    wake: Arc<Notify>,
}

impl Node {
    fn new(folder: &Path) -> Self {
        let (host, role, wake) = start(folder);
        let work = Work::Compute(BTreeMap::new());
        let order = Order { role: RoleName::compute(), generation: Generation(1), slots: BTreeMap::new(), work };
        Self { host, order, report: RoleReport::default(), role, wake }
    }

    fn restart(&mut self, folder: &Path) {
        (self.host, self.role, self.wake) = start(folder);
    }

    fn orders(&mut self) -> &mut BTreeMap<InstanceId, InstanceOrder> {
        match &mut self.order.work {
            Work::Compute(orders) => orders,
            other => panic!("{other:?}"),
        }
    }

    fn order(&mut self, id: &str, service: ServiceSpec) {
        let order = InstanceOrder { service: Arc::new(service), revision: Revision(1), phase: Phase::Active };
        self.orders().insert(named(id), order);
    }

    fn unlist(&mut self, id: &str) {
        self.orders().remove(&named(id)).unwrap();
    }

    fn facts(&self) -> BTreeMap<InstanceId, InstanceFacts> {
        match &self.report.facts {
            RoleFacts::Compute(facts) => facts.clone(),
            other => panic!("{other:?}"),
        }
    }

    async fn pids(&self) -> BTreeMap<InstanceId, u32> {
        let found = self.host.processes().await.unwrap();
        let pid = |state| if let ProcessState::Running { pid } = state { pid } else { 0 };
        found.into_iter().map(|(id, process)| (id, pid(process.state))).collect()
    }

    async fn converge(&mut self) {
        self.report = self.role.converge(&self.order).await;
    }

    async fn until(&mut self, what: &str, condition: impl Fn(&BTreeMap<InstanceId, InstanceFacts>) -> bool) {
        let met = async {
            loop {
                self.converge().await;
                if condition(&self.facts()) {
                    return;
                }
                let _ = tokio::time::timeout(Duration::from_secs(1), self.wake.notified()).await;
            }
        };
        let result = tokio::time::timeout(WAIT_MAX, met).await;
        assert!(result.is_ok(), "waited in vain until {what}: {:#?}", self.report);
    }
}

fn start(folder: &Path) -> (Arc<RealHost>, Box<dyn Role>, Arc<Notify>) {
    let world = real::world(folder).unwrap();
    let shim = vec![std::env::current_exe().unwrap().to_str().unwrap().to_owned(), "shim".into()];
    let guard = GuardConfig { folder: folder.join("guard"), command: vec!["false".into()] };
    let (folder, groups, net) = (folder.join("compute"), Groups::Never, Arc::clone(&world.net));
    let config = RealHostConfig { folder, shim, guard, groups, net };
    let host = Arc::new(RealHost::new(config).unwrap());
    let wake = Arc::new(Notify::new());
    let me = Me {
        id: NodeId(1),
        name: "n1".parse().unwrap(),
        zone: "a".parse().unwrap(),
        instance_host: [127, 0, 0, 1].into(),
        bind: [127, 0, 0, 1].into(),
    };
    let role = Compute.start(Context {
        me,
        host: host.clone(),
        live: watch::channel(Arc::default()).1,
        grants: watch::channel(Arc::default()).1,
        secrets: watch::channel(Arc::default()).1,
        certificates: watch::channel(Arc::default()).1,
        challenges: watch::channel(Arc::default()).1,
        tickets: watch::channel(Arc::default()).1,
        access_keys: watch::channel(Arc::default()).1,
        zone_keys: watch::channel(Arc::default()).1,
        floating: Arc::default(),
        ending: watch::channel(false).1,
        voice: Arc::default(),
        doors: Arc::new(NoDoors(Mutex::default())),
        peers: Arc::new(hirsel_role::peers::Nobody),
        groups: None,
        clock: Arc::clone(&world.clock),
        chance: Arc::clone(&world.chance),
        spawner: Spawner::new(tokio::runtime::Handle::current()),
        wake: Arc::clone(&wake),
        metrics: Arc::default(),
        requests: Default::default(),
        objects: Default::default(),
        config: RoleConfig::default(),
    });
    (host, role, wake)
}

fn named(id: &str) -> InstanceId {
    id.parse().unwrap()
}

fn service(command: &str, path: &str) -> ServiceSpec {
    let check = Check::Http { path: path.into() };
    ServiceSpec {
        revision: Revision(1),
        command: command.split(' ').map(str::to_owned).collect(),
        workdir: None,
        env: BTreeMap::new(),
        user: None,
        replicas: Replicas { min: 1, max: 1 },
        resources: Capacity::default(),
        health: Some(HealthSpec { check, interval_ms: 1_000, timeout_ms: 1_000, failures: 3 }),
        update: UpdateSpec::default(),
        stop: StopSpec::default(),
        constraints: BTreeMap::new(),
        spread: Spread::default(),
        exclusive: false,
        secrets: BTreeMap::new(),
        protocol: Default::default(),
    }
}

struct NoDoors(Mutex<BTreeMap<InstanceId, SocketAddr>>);

impl Doors for NoDoors {
    fn open<'a>(&'a self, _: NodeId, _: SocketAddr, _: &'a InstanceId) -> BoxFuture<'a, std::io::Result<BoxStream>> {
        async { Err(std::io::ErrorKind::Unsupported.into()) }.boxed()
    }
    fn publish(&self, table: BTreeMap<InstanceId, SocketAddr>) {
        *self.0.lock().unwrap() = table;
    }
}
