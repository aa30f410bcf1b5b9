//! A front door in a storm: two load balancers, a floating address, and a thousand requests a second through it from a host of their own,
//! a tenth over TLS, while everything befalls the cluster that may. No request fails on a connection that survives; what broke with its
//! host is counted apart, and asked again. WebSockets through load balancers that nothing befalls never end.
//!
//! `cargo test -p hirsel-tests --test storm`; some minutes. Not a part of `cargo test --workspace`.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hirsel_tests::authority::Authority;
use hirsel_tests::callers::{self, Callers, Calls, Sockets, Tally};
use hirsel_tests::cluster::{Cluster, HTTP_PORT, HTTPS_PORT, sample};
use hirsel_tests::echo::{self, Seen};
use hirsel_tests::many::Tls;
use hirsel_tests::netns::{self, Network};
use hirsel_tests::visitor::Visitor;
use hirsel_tests::{api, http, lacks, power, wait_for};
use rustix::process::Signal;

const NODES: u8 = 5;
/// The host of all clients, and of the program that speaks through WebSockets.
const CLIENTS: u8 = NODES + 1;
/// Requests per second, and the connections that they share.
const RATE: u32 = 1_000;
const CONNECTIONS: u32 = 60;
/// WebSockets through each load balancer.
const SOCKETS: usize = 20;
/// Changes of the routing table, and in how long they are made.
const UPDATES: u64 = 5_000;
const UPDATES_WITHIN: Duration = Duration::from_secs(60);
/// How many change it at the same time.
const UPDATERS: u64 = 8;
/// Requests that are answered before something happens, and after it.
const WARM: u64 = 2_000;
/// All is well again within this on a machine that others use too.
const SOON: Duration = Duration::from_secs(90);
/// What is promised is about a second; builds of tests are slow and their machines shared.
const GAP_MAX: Duration = Duration::from_secs(8);

/// What a phase lets happen to connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bears {
    /// None ends under a request.
    Nothing,
    /// They are brought to an end, between two requests.
    HandOver,
    /// They are gone with their host.
    Death,
}

struct Storm {
    network: Network,
    cluster: Cluster,
    address: IpAddr,
    callers: Callers,
}

impl Storm {
    fn begin() -> (Self, Authority) {
        let network = Network::new(CLIENTS);
        let mut cluster = Cluster::new();
        for host in 1..=NODES {
            cluster.add_at(network.address(host), network.prefix(host));
        }
        cluster.whole();
        cluster.apply(&sample(4));
        let still = SocketAddr::from((network.address(CLIENTS), 9_000));
        callers::forever(network.name_space(CLIENTS), async move {
            echo::serve(still, Seen::default()).await;
        });
        let service = sample(1).replace("\"hello\"", "\"still\"").replace("[route.\"*\"]\nto = \"web\"\n", "");
        cluster.apply(&format!("{service}[route.\"still.example\"]\nto = \"http://{still}\"\n"));
        let authority = Authority::new();
        authority.equip(&cluster, &["storm.example"]);
        let address = IpAddr::from(network.address(200));
        let ran = cluster.any().ask(["address", "add", &format!("{address}/24"), "--wait", "--timeout", "30s"]);
        assert_eq!(ran.code, Some(0), "{}", ran.words());
        let calls = Calls {
            plain: SocketAddr::new(address, HTTP_PORT),
            secure: Some((SocketAddr::new(address, HTTPS_PORT), Tls::new(&authority.pem(), "storm.example"))),
            host: "storm.example".into(),
            rate: RATE,
            connections: CONNECTIONS,
        };
        let callers = Callers::start(network.name_space(CLIENTS), calls);
        (Self { network, cluster, address, callers }, authority)
    }

    /// Who holds the address, as the cluster knows it and as it is on hosts; waits until it is one node in both.
    fn holder(&self) -> String {
        let (holder, _) = wait_for("one node holds the address", SOON, || {
            let listed = self.cluster.any().ask(["address", "list"]).try_data()?;
            let holders: Vec<&str> =
                listed[0]["holders"].as_array().into_iter().flatten().filter_map(|it| it.as_str()).collect();
            let there =
                |host: &u8| !self.cluster.away.contains(&format!("n{host}")) && self.network.has(*host, self.address);
            let on: Vec<String> = (1..=NODES).filter(there).map(|host| format!("n{host}")).collect();
            if on.len() == 1 && holders == [on[0].as_str()] {
                Ok(on[0].clone())
            } else {
                Err(format!("{on:?} {listed}"))
            }
        });
        holder
    }

    /// Two load balancers, the one that holds the address first.
    fn lbs(&self) -> [String; 2] {
        let holder = self.holder();
        let lbs = self.cluster.lbs();
        let other = lbs.iter().map(|(name, _)| name).find(|name| **name != holder);
        [holder, other.unwrap_or_else(|| panic!("two load balancers, but {lbs:?}")).clone()]
    }

    /// A node that runs an instance, and does not balance load.
    fn worker(&self) -> String {
        let lbs: Vec<String> = self.cluster.lbs().into_iter().map(|(name, _)| name).collect();
        let workers = self.cluster.instances("hello").into_iter().map(|(_, node)| node);
        workers.into_iter().find(|node| !lbs.contains(node)).expect("an instance apart")
    }

    fn host(&self, name: &str) -> u8 {
        self.cluster.index(name) as u8 + 1
    }

    fn warm(&self) {
        let before = self.callers.answered();
        wait_for("requests are answered", SOON, || match self.callers.answered() - before {
            enough if enough >= WARM => Ok(()),
            few => Err(format!("{few} were")),
        });
    }

    /// Has something happen under load, and WebSockets through `untouched` all the while. Returns what `happens` does.
    fn phase<T>(&mut self, what: &str, bears: Bears, untouched: &[String], happens: impl FnOnce(&mut Self) -> T) -> T {
        let addrs: Vec<SocketAddr> = untouched.iter().map(|name| self.cluster.node(name).addr(HTTP_PORT)).collect();
        let sockets = Sockets::open(self.network.name_space(CLIENTS), &addrs, SOCKETS, "still.example");
        wait_for("WebSockets are open", SOON, || match sockets.echoes() {
            echoes if echoes >= 2 * (SOCKETS * addrs.len()) as u64 => Ok(()),
            few => Err(format!("{few} messages came back")),
        });
        self.warm();
        self.callers.take();
        let began = Instant::now();
        let happened = happens(self);
        let took = began.elapsed();
        self.warm();
        let echoes = sockets.echoes();
        let dropped = sockets.end();
        let tally = self.callers.take();
        tell(what, &tally, took, echoes);
        assert!(dropped.is_empty(), "{what}: WebSockets ended: {dropped:?}");
        let some = |count: usize| count.min(10);
        assert!(
            tally.failed.is_empty(),
            "{what}: {} failed: {:#?}",
            tally.failed.len(),
            &tally.failed[..some(tally.failed.len())]
        );
        let unborne = tally.broken.iter().filter(|broken| match bears {
            Bears::Nothing => true,
            Bears::HandOver => !broken.idle,
            Bears::Death => false,
        });
        let unborne: Vec<_> = unborne.take(10).collect();
        assert!(
            unborne.is_empty(),
            "{what}: of {} connections that ended under a request: {unborne:#?}",
            tally.broken.len()
        );
        happened
    }

    /// The host of `name` is gone, with all that it sends; or only its cable is out.
    fn lose(&mut self, name: &str, is_cut: bool) {
        let (host, index) = (self.host(name), self.cluster.index(name));
        self.network.cut(host);
        match is_cut {
            true => drop(self.cluster.away.insert(name.to_owned())),
            false => self.cluster.nodes[index].off(),
        }
    }

    fn bring_back(&mut self, name: &str, is_cut: bool) {
        self.network.heal();
        let index = self.cluster.index(name);
        match is_cut {
            true => drop(self.cluster.away.remove(name)),
            false => self.cluster.nodes[index].start(None),
        }
        self.cluster.whole();
        self.cluster.well(SOON);
        self.holder();
    }

    /// How long nobody who came was answered at the address.
    fn gap(&mut self, happens: impl FnOnce(&mut Self)) -> Duration {
        let visitor = Visitor::start(self.network.name_space(CLIENTS), SocketAddr::new(self.address, HTTP_PORT), None);
        let answered = |visitor: &Visitor, since: Instant| {
            wait_for("somebody answers", SOON, || match visitor.answered(since) {
                enough if enough >= 20 => Ok(()),
                few => Err(format!("{few} answered; {:?}", visitor.failed(since).last())),
            });
        };
        answered(&visitor, Instant::now());
        let since = Instant::now();
        happens(self);
        // Not what was answered before it was noticed.
        answered(&visitor, since + Duration::from_millis(700));
        visitor.gap(since)
    }
}

fn tell(what: &str, tally: &Tally, took: Duration, echoes: u64) {
    let idle = tally.broken.iter().filter(|broken| broken.idle).count();
    eprintln!(
        "{what}: {took:.1?}, {} answered, {} failed, {} asked again ({idle} of them on a connection that was just closed), longest {:.2?}; \
         {echoes} messages through WebSockets",
        tally.answered,
        tally.failed.len(),
        tally.broken.len(),
        tally.slowest
    );
}

/// One storm at a time: each is as much as a machine bears.
fn alone() -> MutexGuard<'static, ()> {
    static STORM: Mutex<()> = Mutex::new(());
    STORM.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn nobody_at_the_front_door_notices_what_befalls_the_cluster() {
    if lacks("root with ip and nft", netns::is_possible()) {
        return;
    }
    let _alone = alone();
    let (mut storm, authority) = Storm::begin();
    let lbs = storm.lbs();
    eprintln!("n1 to n{NODES}; load balancers: {lbs:?}, the first of them holds {}", storm.address);

    storm.phase("nothing", Bears::Nothing, &lbs, |_| ());

    storm.phase("an instance is killed", Bears::Nothing, &lbs, |storm| {
        let victim = storm.worker();
        let pids = storm.cluster.node(&victim).programs("sample");
        pids.iter().for_each(|pid| power::signal(*pid, Signal::KILL));
        wait_for("others run instead", SOON, || {
            let now = storm.cluster.node(&victim).programs("sample");
            if now.iter().all(|pid| !pids.contains(pid)) { Ok(()) } else { Err(format!("{now:?}")) }
        });
        storm.cluster.well(SOON);
    });

    for is_cut in [false, true] {
        let (victim, how) = (storm.worker(), if is_cut { "cut off" } else { "killed" });
        storm.phase(&format!("a host of instances is {how}"), Bears::Nothing, &lbs, |storm| {
            storm.lose(&victim, is_cut);
            storm.cluster.replaced(&victim, SOON);
        });
        storm.bring_back(&victim, is_cut);
    }

    storm.phase("everything is deployed anew", Bears::Nothing, &lbs, |storm| {
        let ids = |storm: &Storm| -> BTreeSet<String> {
            storm.cluster.instances("hello").into_iter().map(|it| it.0).collect()
        };
        let before = ids(storm);
        let ran = storm.cluster.any().ask(["restart", "hello", "--yes"]);
        assert_eq!(ran.code, Some(0), "{}", ran.words());
        wait_for("every instance is a new one", SOON, || {
            let now = ids(storm);
            if now.is_disjoint(&before) && now.len() == before.len() {
                Ok(())
            } else {
                Err(format!("{before:?} {now:?}"))
            }
        });
        storm.cluster.well(SOON);
    });

    storm.phase("the certificate is changed five times", Bears::Nothing, &lbs, |storm| {
        for _ in 0..5 {
            authority.equip(&storm.cluster, &["storm.example"]);
        }
    });

    for is_cut in [false, true] {
        let [holder, other] = storm.lbs();
        let how = if is_cut { "cut off" } else { "killed" };
        storm.phase(&format!("a load balancer without the address is {how}"), Bears::Nothing, &[holder], |storm| {
            storm.lose(&other, is_cut);
            storm.cluster.replaced(&other, SOON);
        });
        storm.bring_back(&other, is_cut);
    }

    let [holder, other] = storm.lbs();
    let gap = storm.phase("the holder of the address is drained", Bears::HandOver, &[other], |storm| {
        storm.gap(|storm| {
            let ran = storm.cluster.any().ask(["drain", &holder, "--wait", "--yes"]);
            assert_eq!(ran.code, Some(0), "{}", ran.words());
            assert_ne!(storm.holder(), holder, "it has moved");
        })
    });
    eprintln!("  nobody new was answered for {gap:.2?}");
    assert_eq!(storm.cluster.any().ask(["uncordon", &holder]).code, Some(0));
    storm.cluster.whole();
    storm.cluster.well(SOON);

    for is_cut in [false, true] {
        let [holder, other] = storm.lbs();
        let how = if is_cut { "cut off" } else { "killed" };
        let gap = storm.phase(&format!("the holder of the address is {how}"), Bears::Death, &[other], |storm| {
            let gap = storm.gap(|storm| storm.lose(&holder, is_cut));
            storm.cluster.replaced(&holder, SOON);
            gap
        });
        eprintln!("  nobody new was answered for {gap:.2?}");
        assert!(gap < GAP_MAX, "{gap:?}");
        storm.bring_back(&holder, is_cut);
    }
    for node in &storm.cluster.nodes {
        let log = std::fs::read_to_string(node.log()).unwrap_or_default();
        assert!(!log.contains("panicked"), "{}: {log}", node.name);
    }
}

#[test]
fn nobody_at_the_front_door_notices_five_thousand_changes_of_its_routes() {
    if lacks("root with ip and nft", netns::is_possible()) {
        return;
    }
    let _alone = alone();
    let (mut storm, _authority) = Storm::begin();
    let lbs = storm.lbs();
    storm.phase("the routing table is changed 5,000 times", Bears::Nothing, &lbs, change_routes);
}

/// Changes a route again and again, at an even pace, at the leader and elsewhere; in the end everybody sees the last change.
fn change_routes(storm: &mut Storm) {
    let service = sample(1).replace("\"hello\"", "\"many\"").replace("[route.\"*\"]\nto = \"web\"\n", "");
    let manifest = |updater: u64, number: u64| {
        let service = service.replace("\"many\"", &format!("\"many{updater}\""));
        format!("{service}[route.\"many{updater}.example\"]\nrespond = {{ status = 200, body = \"{number}\" }}\n")
    };
    let nodes = &storm.cluster.nodes;
    for updater in 0..UPDATERS {
        storm.cluster.apply(&manifest(updater, 0));
    }
    let spent_before = processor_time(storm);
    let began = Instant::now();
    let made = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for updater in 0..UPDATERS {
            let (manifest, made) = (&manifest, &made);
            scope.spawn(move || {
                let data = &nodes[updater as usize % nodes.len()].data;
                let pause = UPDATES_WITHIN / (UPDATES / UPDATERS) as u32;
                for number in 1..=UPDATES / UPDATERS {
                    std::thread::sleep((began + pause * number as u32).saturating_duration_since(Instant::now()));
                    let (status, answer) = api::ask(data, "POST", "/v1/apply", &manifest(updater, number)).unwrap();
                    assert_eq!(status, 200, "{answer}");
                    made.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let took = began.elapsed();
    let last = (UPDATES / UPDATERS).to_string();
    let ((), seen) = wait_for("everybody sees the last change", SOON, || {
        for (name, addr) in storm.cluster.lbs() {
            for updater in 0..UPDATERS {
                let answer = http::get(addr, &format!("many{updater}.example"), "/")
                    .map_err(|error| format!("{name}: {error}"))?;
                if answer.text() != last {
                    return Err(format!("{name} answers {}", answer.text()));
                }
            }
        }
        Ok(())
    });
    let spent = processor_time(storm).saturating_sub(spent_before);
    let made = made.load(Ordering::Relaxed);
    eprintln!(
        "  {made} changes in {took:.1?} (wanted: {UPDATES_WITHIN:?}), the last one seen by all after {seen:.2?}; processor time of all \
         agents meanwhile, requests and all: {spent:.1?}, {:.2?} for each change",
        spent / u32::try_from(made).unwrap_or(u32::MAX).max(1)
    );
}

/// Processor time of all agents so far.
fn processor_time(storm: &Storm) -> Duration {
    // What the kernel tells times in, the same on every architecture that this runs on.
    const TICK: Duration = Duration::from_millis(10);
    let ticks = storm.cluster.nodes.iter().map(|node| {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", node.agent_pid())).expect("the agent lives");
        // The name, in brackets, may hold anything; utime and stime are the 14th and 15th field.
        let fields: Vec<&str> = stat[stat.rfind(')').expect("a name") + 2..].split(' ').collect();
        fields[11..13].iter().map(|field| field.parse::<u32>().expect("a number")).sum::<u32>()
    });
    TICK * ticks.sum::<u32>()
}
