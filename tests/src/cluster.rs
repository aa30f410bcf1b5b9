//! A cluster of agents on one machine, each with a loopback address of its own and the same ports, so that clusters of tests that
//! run at the same time never meet.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::cli::{Ran, ask};
use crate::executable::hirsel;
use crate::{power, wait_for};

/// Port of the load balancer.
pub const HTTP_PORT: u16 = 8080;
/// Where names are answered.
pub const DNS_PORT: u16 = 8053;
/// Port of HTTPS on each.
pub const HTTPS_PORT: u16 = 8443;
/// Port of the mesh.
pub const MESH_PORT: u16 = 7400;
/// An agent says within this that it is ready. Debug builds on a shared machine are slow.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// A cluster. Dropping it switches everything off.
pub struct Cluster {
    /// Holds the data folders.
    pub folder: tempfile::TempDir,
    /// The nodes, `n1` first.
    pub nodes: Vec<Node>,
    /// Names of nodes whose cable is out: their agents run, nobody asks them, and nothing should be left with them.
    pub away: BTreeSet<String>,
    /// What nodes that are added run.
    pub executable: PathBuf,
    /// The configuration file of nodes that are added.
    pub config: Option<PathBuf>,
    /// Objects that each node that is added may keep: all have the same disk, which may be nearly full.
    pub storage_capacity: String,
    token: Option<String>,
    net: [u8; 3],
}

/// A node.
pub struct Node {
    /// What it is called.
    pub name: String,
    /// Its address.
    pub ip: Ipv4Addr,
    /// Its data folder.
    pub data: PathBuf,
    /// How `hirsel up` is to be run: through `ip netns exec` for a host of its own.
    pub prefix: Vec<String>,
    /// What its agent is started from.
    pub executable: PathBuf,
    /// Its configuration file.
    pub config: Option<PathBuf>,
    storage_capacity: String,
    zone: String,
    agent: Option<Child>,
}

/// More than any test keeps.
const STORAGE_CAPACITY: &str = "2GiB";

/// The first three numbers of loopback addresses that no other test uses.
pub fn loopback() -> [u8; 3] {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // 127.0.0 is left to people. Tests of one process count, processes differ by their id.
    let number = std::process::id().wrapping_mul(64).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % (250 * 250);
    [127, 1 + (number / 250) as u8, 1 + (number % 250) as u8]
}

impl Default for Cluster {
    fn default() -> Self {
        Self::new()
    }
}

impl Cluster {
    /// A cluster without nodes.
    ///
    /// # Panics
    /// When there is no folder to be had.
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("hirsel-").tempdir().expect("a folder");
        let executable = hirsel().into();
        Self {
            folder,
            nodes: Vec::new(),
            away: BTreeSet::new(),
            executable,
            config: None,
            storage_capacity: STORAGE_CAPACITY.into(),
            token: None,
            net: loopback(),
        }
    }

    /// A cluster of `count` nodes over three zones, all of them members.
    pub fn start(count: usize) -> Self {
        let mut cluster = Self::new();
        for _ in 0..count {
            cluster.add();
        }
        cluster.whole();
        cluster
    }

    /// Adds a node on an address of its own: the first one founds the cluster, the others join it.
    pub fn add(&mut self) -> &mut Node {
        let ip = self.next_ip();
        self.add_at(ip, Vec::new())
    }

    /// Adds a node at `ip`, started through `prefix`.
    ///
    /// # Panics
    /// When it does not become ready.
    pub fn add_at(&mut self, ip: Ipv4Addr, prefix: Vec<String>) -> &mut Node {
        let node = self.launch_at(ip, prefix);
        node.ready();
        node
    }

    /// Adds a node like [`Cluster::add`], without waiting for anything.
    pub fn launch(&mut self) -> &mut Node {
        let ip = self.next_ip();
        self.launch_at(ip, Vec::new())
    }

    fn next_ip(&self) -> Ipv4Addr {
        let [a, b, c] = self.net;
        Ipv4Addr::new(a, b, c, (self.nodes.len() + 1) as u8)
    }

    /// Adds a node like [`Cluster::add`], whose agent is not started.
    pub fn place(&mut self) -> &mut Node {
        let node = self.node_at(self.next_ip(), Vec::new());
        self.nodes.push(node);
        self.nodes.last_mut().expect("just added")
    }

    fn node_at(&self, ip: Ipv4Addr, prefix: Vec<String>) -> Node {
        let number = self.nodes.len() + 1;
        let name = format!("n{number}");
        let data = self.folder.path().join(&name);
        let zone = ["a", "b", "c"][(number - 1) % 3].to_string();
        let (executable, config) = (self.executable.clone(), self.config.clone());
        let storage_capacity = self.storage_capacity.clone();
        Node { data, name, ip, prefix, executable, config, storage_capacity, zone, agent: None }
    }

    fn launch_at(&mut self, ip: Ipv4Addr, prefix: Vec<String>) -> &mut Node {
        let mut node = self.node_at(ip, prefix);
        let join = (!self.nodes.is_empty()).then(|| {
            let token = self.token.get_or_insert_with(|| self.nodes[0].token()).clone();
            (self.nodes[0].addr(MESH_PORT).to_string(), token)
        });
        node.launch(join.as_ref().map(|(seed, token)| (seed.as_str(), token.as_str())));
        self.nodes.push(node);
        self.nodes.last_mut().expect("just added")
    }

    /// The node of this name.
    ///
    /// # Panics
    /// When there is none.
    pub fn node(&self, name: &str) -> &Node {
        self.nodes.iter().find(|node| node.name == name).unwrap_or_else(|| panic!("no node {name}"))
    }

    /// Its index.
    pub fn index(&self, name: &str) -> usize {
        self.nodes.iter().position(|node| node.name == name).unwrap_or_else(|| panic!("no node {name}"))
    }

    /// Some node whose agent runs and can be reached.
    ///
    /// # Panics
    /// When there is none.
    pub fn any(&self) -> &Node {
        self.running().next().expect("an agent runs")
    }

    /// Waits until every node is a member, a leader is known and health is good, and what is exclusive acts by ordinary grants again where an
    /// agent was restarted: a node that is killed before keeps its place for longer. Returns how long that took.
    pub fn whole(&self) -> Duration {
        let count = self.nodes.len();
        let (_, took) = wait_for("the cluster is whole", Duration::from_secs(60), || {
            let status = self.any().ask(["status"]).try_data()?;
            let alive = status["nodes"]["alive"].as_u64().unwrap_or(0) as usize;
            if alive != count {
                return Err(format!("{alive} of {count} nodes: {status}"));
            }
            let ordinary = status["long_grants"].as_array().is_none_or(Vec::is_empty);
            let well = status["health"] == "healthy" && status["leader"].is_string() && ordinary;
            if well { Ok(()) } else { Err(status.to_string()) }
        });
        took
    }

    /// Waits until the cluster is healthy as far as the nodes that run go: the plan asks nothing of the others, and all of it runs.
    pub fn well(&self, limit: Duration) -> Duration {
        let running: BTreeSet<&str> = self.running().map(|node| node.name.as_str()).collect();
        let (_, took) = wait_for("the cluster is well", limit, || {
            let node = self.any();
            for role in array(&node.ask(["roles"]).try_data()?) {
                let holder = role["node"].as_str().unwrap_or_default();
                if !running.contains(holder) || role["state"] != "running" {
                    return Err(format!("role {role}"));
                }
            }
            for app in array(&node.ask(["apps"]).try_data()?) {
                for service in array(&app["services"]) {
                    if service["wanted"] != service["healthy"] {
                        return Err(format!("service {service}"));
                    }
                }
                for instance in array(&node.ask(["ps", app["app"].as_str().unwrap_or_default()]).try_data()?) {
                    let holder = instance["node"].as_str().unwrap_or_default();
                    if !running.contains(holder) || instance["healthy"] != true {
                        return Err(format!("instance {instance}"));
                    }
                }
            }
            Ok(())
        });
        took
    }

    /// Nodes whose agent runs and can be reached.
    pub fn running(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.agent.is_some() && !self.away.contains(&node.name))
    }

    /// Who leads, as some running agent knows it.
    pub fn leader(&self) -> String {
        let (leader, _) = wait_for("a leader", Duration::from_secs(20), || {
            let status = self.any().ask(["status"]).try_data()?;
            let leader = status["leader"].as_str().map(str::to_string);
            let lives = |name: &String| self.running().any(|node| node.name == *name);
            leader.filter(lives).ok_or(format!("no living leader: {status}"))
        });
        leader
    }

    /// Load balancers by the plan: where the nodes that hold the role listen.
    pub fn lbs(&self) -> Vec<(String, SocketAddr)> {
        let roles = self.any().ask(["roles"]).data();
        let names = array(&roles).iter().filter(|role| role["role"] == "lb").map(|role| role["node"].as_str());
        names.flatten().map(|name| (name.to_string(), self.node(name).addr(HTTP_PORT))).collect()
    }

    /// Instances of `app` by the plan: id and node.
    pub fn instances(&self, app: &str) -> Vec<(String, String)> {
        let rows = self.any().ask(["ps", app]).data();
        let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_string();
        array(&rows).iter().map(|row| (text(row, "instance"), text(row, "node"))).collect()
    }

    /// Waits until the plan leaves nothing with `victim` and all of it runs elsewhere. Returns how long it took until it was planned,
    /// and until it was healthy.
    pub fn replaced(&self, victim: &str, limit: Duration) -> (Duration, Duration) {
        let (_, planned) = wait_for(&format!("nothing is left with {victim}"), limit, || {
            let node = self.any();
            let mut rows = array(&node.ask(["roles"]).try_data()?).to_vec();
            for app in array(&node.ask(["apps"]).try_data()?) {
                let app = app["app"].as_str().unwrap_or_default().to_string();
                rows.extend_from_slice(array(&node.ask(["ps", &app]).try_data()?));
            }
            rows.iter().find(|row| row["node"] == victim).map_or(Ok(()), |row| Err(row.to_string()))
        });
        (planned, planned + self.well(limit))
    }

    /// Applies a manifest, and waits until its instances are healthy.
    pub fn apply(&self, manifest: &str) -> Duration {
        let ran = self.apply_only(manifest);
        assert_eq!(ran.code, Some(0), "{}", ran.words());
        self.well(Duration::from_secs(60))
    }

    /// Applies a manifest.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn apply_only(&self, manifest: &str) -> Ran {
        let path = self.folder.path().join("manifest.toml");
        std::fs::write(&path, manifest).expect("a manifest can be written");
        self.any().ask([std::ffi::OsStr::new("apply"), path.as_os_str()])
    }

    /// What every node runs is what the plan lists for it, checked against the processes themselves.
    ///
    /// # Panics
    /// When it is not, for longer than a moment.
    pub fn assert_declared_is_running(&self, app: &str, program: &str) {
        wait_for("what runs is what is declared", Duration::from_secs(20), || {
            let declared = self.instances(app);
            for node in self.running() {
                let wanted = declared.iter().filter(|(_, at)| *at == node.name).count();
                let runs =
                    power::processes(&node.data).iter().filter(|process| is_program(&process.command, program)).count();
                if wanted != runs {
                    return Err(format!("{} runs {runs} of {wanted}", node.name));
                }
            }
            Ok(())
        });
    }
}

/// Whether a command line is the program itself, and not its shim, which names it too.
fn is_program(command: &str, program: &str) -> bool {
    command.contains(program) && !command.contains(" shim")
}

/// The items of an array; none of anything else.
pub fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            if std::thread::panicking() {
                let log = std::fs::read_to_string(node.log()).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let last = &lines[lines.len().saturating_sub(30)..];
                eprintln!("--- last words of {}\n{}", node.name, last.join("\n"));
            }
            node.off();
        }
    }
}

impl Node {
    /// Its address with this port.
    pub fn addr(&self, port: u16) -> SocketAddr {
        (self.ip, port).into()
    }

    /// Runs a verb at its agent, for JSON.
    pub fn ask<S: AsRef<std::ffi::OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Ran {
        ask(&self.data, words)
    }

    /// A new join token.
    pub fn token(&self) -> String {
        let (token, _) = wait_for("a token", Duration::from_secs(20), || {
            let data = self.ask(["token", "new"]).try_data()?;
            data["token"].as_str().map(str::to_string).ok_or(data.to_string())
        });
        token
    }

    /// The words that start its agent.
    pub fn words(&self, join: Option<(&str, &str)>) -> Vec<String> {
        let verb: &[&str] = match join {
            Some((seed, token)) => &["join", seed, "--token", token],
            None => &["up"],
        };
        self.words_of(verb)
    }

    /// The words of a verb that starts its agent.
    pub fn words_of(&self, verb: &[&str]) -> Vec<String> {
        let mut words: Vec<String> = verb.iter().map(ToString::to_string).collect();
        let flags: [(&str, String); 7] = [
            ("--name", self.name.clone()),
            ("--addr", format!("{}:{MESH_PORT}", self.ip)),
            ("--bind", self.ip.to_string()),
            ("--zone", self.zone.clone()),
            ("--http-port", HTTP_PORT.to_string()),
            ("--run-as", "self".into()),
            ("--data", self.data.display().to_string()),
        ];
        words.extend(flags.into_iter().flat_map(|(name, value)| [name.to_string(), value]));
        words
    }

    /// Where its agent's output goes.
    pub fn log(&self) -> PathBuf {
        self.data.with_extension("log")
    }

    /// Starts its agent, which founds, joins or resumes, and waits until it says that it is ready.
    pub fn start(&mut self, join: Option<(&str, &str)>) {
        self.launch(join);
        self.ready();
    }

    /// Starts its agent.
    pub fn launch(&mut self, join: Option<(&str, &str)>) {
        let words = [vec![self.executable.display().to_string()], self.words(join)].concat();
        self.launch_as(&words);
    }

    /// Starts its agent with this command line.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn launch_as(&mut self, command: &[String]) {
        std::fs::create_dir_all(&self.data).expect("a data folder");
        let log = File::options().create(true).append(true).open(self.log()).expect("a log file");
        let words: Vec<&String> = self.prefix.iter().chain(command).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).current_dir("/").stdin(Stdio::null());
        // Not as flags, which an older build would refuse.
        command.env("HIRSEL_DNS", self.addr(DNS_PORT).to_string());
        command.env("HIRSEL_HTTPS_PORT", HTTPS_PORT.to_string());
        command.env("HIRSEL_STORAGE_CAPACITY", &self.storage_capacity);
        command.envs(self.config.iter().map(|path| ("HIRSEL_CONFIG", path)));
        command.stdout(log.try_clone().expect("a second handle")).stderr(log);
        self.agent = Some(command.spawn().unwrap_or_else(|error| panic!("cannot run {words:?}: {error}")));
    }

    /// Waits until its agent answers.
    pub fn ready(&mut self) -> Duration {
        let (_, took) = wait_for(&format!("{} is ready", self.name), READY_WITHIN, || {
            if let Some(agent) = &mut self.agent
                && let Ok(Some(status)) = agent.try_wait()
            {
                let log = std::fs::read_to_string(self.log()).unwrap_or_default();
                panic!("{} ended with {status}:\n{log}", self.name);
            }
            self.ask(["status"]).try_data().map(drop)
        });
        took
    }

    /// Switches it off: the agent and everything it runs, at once.
    pub fn off(&mut self) {
        power::off(&self.data);
        self.reap();
    }

    /// Ends its agent alone, without warning. What it runs goes on.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill_agent(&mut self) {
        let agent = self.agent_pid();
        power::signal(agent, Signal::KILL);
        wait_for("the agent is dead", Duration::from_secs(10), || {
            let lives = power::processes(&self.data).iter().any(|process| process.pid == agent);
            if lives { Err("it lives".into()) } else { Ok(()) }
        });
        self.reap();
    }

    /// Whether its agent ended by itself.
    pub fn agent_ended(&mut self) -> bool {
        self.agent.as_mut().is_none_or(|agent| agent.try_wait().is_ok_and(|status| status.is_some()))
    }

    /// Asks its agent to end, and waits for it.
    pub fn stop_agent(&mut self) {
        power::signal(self.agent_pid(), Signal::TERM);
        self.reap();
    }

    /// The agent's process: the child itself, or what it became through a prefix.
    ///
    /// # Panics
    /// When it does not run.
    pub fn agent_pid(&self) -> u32 {
        let verb = |command: &str| [" up ", " join ", " restore "].iter().any(|verb| command.contains(verb));
        let all = power::processes(&self.data);
        let agent = all.iter().find(|process| verb(&process.command) && process.command.contains("--data"));
        agent.unwrap_or_else(|| panic!("no agent of {} in {all:?}", self.name)).pid
    }

    fn reap(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.wait();
        }
    }

    /// Processes of `program` that it runs.
    pub fn programs(&self, program: &str) -> Vec<u32> {
        let all = power::processes(&self.data).into_iter();
        all.filter(|process| is_program(&process.command, program)).map(|process| process.pid).collect()
    }
}

/// The sample application: `replicas` instances that answer under any host name.
pub fn sample(replicas: usize) -> String {
    let executable = hirsel().display();
    format!(
        "app = \"hello\"\n[service.web]\ncommand = [\"{executable}\", \"sample\"]\nreplicas = {replicas}\n\
         health = {{ http = \"/healthz\", interval = \"1s\" }}\n[route.\"*\"]\nto = \"web\"\n"
    )
}

/// Whether a path is gone or empty.
pub fn is_empty(path: &Path) -> bool {
    std::fs::read_dir(path).map_or(true, |mut entries| entries.next().is_none())
}
