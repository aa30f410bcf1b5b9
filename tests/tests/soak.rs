//! Hosts of their own, faults in any order, for as long as `HIRSEL_SOAK_SECONDS` says: a program of which there are never two writes down
//! who acts and when, and whatever was acknowledged is there at the end.
//!
//! The order of faults comes from a seed that is printed first; `HIRSEL_SOAK_SEED` takes it again. Real processes do not repeat
//! themselves to the millisecond, but what is tried does.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use hirsel_tests::cluster::{Cluster, array};
use hirsel_tests::journal::{Journal, PROGRAM};
use hirsel_tests::netns::{self, Network, Wire};
use hirsel_tests::{lacks, power, wait_for};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rustix::process::Signal;

const NODES: usize = 5;
/// How long it goes on, unless told otherwise.
const SECONDS: u64 = 60;
/// With more in trouble at once nothing is promised of what is acknowledged next.
const VICTIMS_MAX: usize = 2;
/// All is well again within this: the longest hold-down that a few faults in a row lead to, on a machine that others use too.
const HEALED_WITHIN: Duration = Duration::from_secs(180);
/// The disk of each node, as large as a log with its reserve needs.
const DISK: &str = "size=320m";
/// Makes the wall clock of a process what a file says.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// What is done to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    KillAgent,
    KillProgram,
    KillGuard,
    KillShim,
    FreezeAgent,
    FreezeProgram,
    FreezeGuard,
    FreezeShim,
    Off,
    Wire(Wire),
    FullDisk,
    ClockJump,
}

const FAULTS: [Fault; 15] = [
    Fault::KillAgent,
    Fault::KillProgram,
    Fault::KillGuard,
    Fault::KillShim,
    Fault::FreezeAgent,
    Fault::FreezeProgram,
    Fault::FreezeGuard,
    Fault::FreezeShim,
    Fault::Off,
    Fault::Wire(Wire::Cut),
    Fault::Wire(Wire::Mute),
    Fault::Wire(Wire::Deaf),
    Fault::Wire(Wire::Loses(30)),
    Fault::FullDisk,
    Fault::ClockJump,
];

impl Fault {
    /// Whether the node cannot be asked meanwhile.
    fn is_of_the_agent(self) -> bool {
        match self {
            Fault::KillAgent | Fault::FreezeAgent | Fault::Off | Fault::Wire(_) | Fault::FullDisk => true,
            Fault::KillProgram | Fault::KillGuard | Fault::KillShim => false,
            Fault::FreezeProgram | Fault::FreezeGuard | Fault::FreezeShim | Fault::ClockJump => false,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

struct Soak {
    cluster: Cluster,
    network: Network,
    journal: Journal,
    rng: SmallRng,
    began: Instant,
    /// What is wrong with which node, and until when.
    wrong: BTreeMap<usize, (Fault, Instant)>,
    acknowledged: Vec<String>,
    asked: usize,
    has_faketime: bool,
}

impl Soak {
    fn start(seed: u64) -> Self {
        let (mut cluster, network) = (Cluster::new(), Network::new(NODES as u8));
        let has_faketime = Path::new(FAKETIME).exists();
        for host in 1..=NODES as u8 {
            let data = cluster.folder.path().join(format!("n{host}"));
            fs::create_dir_all(&data).expect("a data folder");
            let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", DISK, "soak"]).arg(&data).status();
            assert!(mounted.is_ok_and(|status| status.success()), "a disk of its own");
            let mut prefix = network.prefix(host);
            if has_faketime {
                let clock = data.with_extension("clock");
                fs::write(&clock, "+0").expect("a clock");
                let set = ["env".to_string(), format!("LD_PRELOAD={FAKETIME}"), "DONT_FAKE_MONOTONIC=1".into()];
                prefix.extend(set);
                prefix.extend([
                    "FAKETIME_NO_CACHE=1".into(),
                    "NO_FAKE_STAT=1".into(),
                    format!("FAKETIME_TIMESTAMP_FILE={}", clock.display()),
                ]);
            }
            cluster.add_at(network.address(host), prefix);
        }
        let journal = Journal::at(cluster.folder.path().join("journal"));
        cluster.whole();
        cluster.apply(&journal.manifest());
        Self {
            cluster,
            network,
            journal,
            rng: SmallRng::seed_from_u64(seed),
            began: Instant::now(),
            wrong: BTreeMap::new(),
            acknowledged: Vec::new(),
            asked: 0,
            has_faketime,
        }
    }

    fn say(&self, what: impl fmt::Display) {
        eprintln!("{:>7.2} s  {what}", self.began.elapsed().as_secs_f64());
    }

    /// One step: something goes wrong, or is over, or is asked for. Then a moment passes in which the judge looks.
    fn step(&mut self) {
        let over: Vec<usize> =
            self.wrong.iter().filter(|(_, (_, until))| *until <= Instant::now()).map(|(index, _)| *index).collect();
        over.into_iter().for_each(|index| self.mend(index));
        let victim = self.rng.random_range(0..NODES);
        if self.rng.random_bool(0.5) && self.wrong.len() < VICTIMS_MAX && !self.wrong.contains_key(&victim) {
            let fault = *FAULTS.choose(&mut self.rng).expect("there are faults");
            let lasts = Duration::from_millis(self.rng.random_range(500..9_000));
            self.harm(victim, fault, lasts);
        } else {
            self.write();
        }
        let pause = Duration::from_millis(self.rng.random_range(100..1_500));
        let since = Instant::now();
        wait_for(
            "a moment passes",
            pause * 10,
            || {
                if since.elapsed() >= pause { Ok(()) } else { Err("not yet".into()) }
            },
        );
        self.journal.assert_never_two();
    }

    fn harm(&mut self, index: usize, fault: Fault, lasts: Duration) {
        let data = self.cluster.nodes[index].data.clone();
        let named = |what: &str| power::processes(&data).into_iter().find(|process| process.command.contains(what));
        let send = |what: &str, signal| named(what).map(|process| power::signal(process.pid, signal)).is_some();
        let done = match fault {
            Fault::KillAgent => {
                self.cluster.nodes[index].kill_agent();
                true
            }
            Fault::KillProgram => send(PROGRAM, Signal::KILL),
            Fault::KillGuard => send(" guard ", Signal::KILL),
            Fault::KillShim => send(" shim ", Signal::KILL),
            Fault::FreezeAgent => {
                power::signal(self.cluster.nodes[index].agent_pid(), Signal::STOP);
                true
            }
            // The program alone: a whole host that is paused between two instructions is what fences are for, and a file has none.
            Fault::FreezeProgram => send(PROGRAM, Signal::STOP),
            Fault::FreezeGuard => send(" guard ", Signal::STOP),
            Fault::FreezeShim => send(" shim ", Signal::STOP),
            Fault::Off => {
                self.cluster.nodes[index].off();
                true
            }
            Fault::Wire(_) => true,
            Fault::FullDisk => {
                let _ = Command::new("dd")
                    .args(["if=/dev/zero", "bs=1M", &format!("of={}", data.join("ballast").display())])
                    .output();
                true
            }
            Fault::ClockJump => self.has_faketime && fs::write(data.with_extension("clock"), "+10m").is_ok(),
        };
        if !done {
            return;
        }
        self.say(format!("{}: {fault} for {} ms", self.cluster.nodes[index].name, lasts.as_millis()));
        let name = self.cluster.nodes[index].name.clone();
        if fault.is_of_the_agent() {
            self.cluster.away.insert(name);
        }
        self.wrong.insert(index, (fault, Instant::now() + lasts));
        self.rewire();
    }

    fn mend(&mut self, index: usize) {
        let Some((fault, _)) = self.wrong.remove(&index) else { return };
        let data = self.cluster.nodes[index].data.clone();
        match fault {
            Fault::KillAgent | Fault::Off => self.cluster.nodes[index].launch(None),
            Fault::FreezeAgent | Fault::FreezeProgram | Fault::FreezeGuard | Fault::FreezeShim => {
                power::freeze(&data, false);
            }
            Fault::FullDisk => drop(fs::remove_file(data.join("ballast"))),
            Fault::ClockJump => drop(fs::write(data.with_extension("clock"), "+0")),
            Fault::KillProgram | Fault::KillGuard | Fault::KillShim => {}
            Fault::Wire(_) => self.rewire(),
        }
        self.say(format!("{}: {fault} is over", self.cluster.nodes[index].name));
        self.cluster.away.remove(&self.cluster.nodes[index].name.clone());
    }

    /// Makes the wires what is wrong with their nodes.
    fn rewire(&self) {
        self.network.heal();
        for (index, (fault, _)) in &self.wrong {
            if let Fault::Wire(wire) = fault {
                self.network.harm(*index as u8 + 1, *wire);
            }
        }
    }

    /// Applies something through a node with which nothing is wrong, and remembers it once it is acknowledged.
    fn write(&mut self) {
        self.asked += 1;
        let name = format!("mark-{}", self.asked);
        let text = format!("app = \"{name}\"\n[service.none]\ncommand = [\"true\"]\nreplicas = 0\n");
        if self.cluster.running().next().is_some() && self.cluster.apply_only(&text).code == Some(0) {
            self.acknowledged.push(name);
        }
    }

    /// Ends everything that is wrong, and looks whether all is as it should be.
    fn heal(&mut self) {
        let all: Vec<usize> = self.wrong.keys().copied().collect();
        all.into_iter().for_each(|index| self.mend(index));
        self.network.heal();
        for node in &mut self.cluster.nodes {
            // An agent that ended with its disk is started by whoever supervises it.
            if node.agent_ended() {
                node.launch(None);
            }
        }
        self.say("all is mended");
        let (_, took) = wait_for("all is well after heal", HEALED_WITHIN, || {
            let status = self.cluster.any().ask(["status"]).try_data()?;
            let alive = status["nodes"]["alive"].as_u64() == Some(NODES as u64);
            if alive && status["health"] == "healthy" { Ok(()) } else { Err(status.to_string()) }
        });
        self.say(format!("well after {took:?}"));
        let apps = self.cluster.any().ask(["apps", "--fresh"]).data();
        let there = |name: &String| array(&apps).iter().any(|app| app["app"] == name.as_str());
        let lost: Vec<&String> = self.acknowledged.iter().filter(|name| !there(name)).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        let before = self.journal.newest();
        wait_for("somebody acts again", HEALED_WITHIN, || {
            if self.journal.newest() > before { Ok(()) } else { Err(format!("the last act was {before:?}")) }
        });
        self.journal.assert_never_two();
    }
}

impl Drop for Soak {
    fn drop(&mut self) {
        for node in &mut self.cluster.nodes {
            power::freeze(&node.data, false);
            node.off();
            let _ = Command::new("umount").args(["-l".as_ref(), node.data.as_os_str()]).status();
        }
    }
}

#[test]
fn whatever_goes_wrong_there_are_never_two_and_nothing_acknowledged_is_lost() {
    if lacks("root with ip and nft", netns::is_possible()) {
        return;
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("HIRSEL_SOAK_SEED").unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let length = Duration::from_secs(number("HIRSEL_SOAK_SECONDS").unwrap_or(SECONDS));
    eprintln!("HIRSEL_SOAK_SEED={seed} HIRSEL_SOAK_SECONDS={}", length.as_secs());
    let mut soak = Soak::start(seed);
    if !soak.has_faketime {
        eprintln!("skipped: clock jumps need faketime");
    }
    soak.began = Instant::now();
    while soak.began.elapsed() < length {
        soak.step();
    }
    soak.heal();
    let (acts, acknowledged) = (soak.journal.acts().len(), soak.acknowledged.len());
    eprintln!("{acts} acted one after the other; {acknowledged} of {} changes were acknowledged", soak.asked);
    assert!(acknowledged > 0);
}
