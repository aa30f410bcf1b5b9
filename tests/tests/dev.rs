//! `hirsel dev`: a whole cluster with one command, gone with Ctrl-C, back with the same command.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hirsel_tests::cluster::{HTTP_PORT, array, loopback};
use hirsel_tests::{cli, executable, http, power, wait_for};
use rustix::process::Signal;
use serde_json::Value;

struct Dev {
    folder: tempfile::TempDir,
    net: [u8; 3],
    child: Option<Child>,
}

impl Dev {
    fn new() -> Self {
        Self { folder: tempfile::Builder::new().prefix("hirsel-").tempdir().unwrap(), net: loopback(), child: None }
    }

    fn data(&self) -> &Path {
        self.folder.path()
    }

    fn start(&mut self) {
        let [a, b, c] = self.net;
        let log = File::create(self.log()).unwrap();
        let mut command = Command::new(executable::hirsel());
        command.args(["dev", "--nodes", "5", "--net", &format!("{a}.{b}.{c}"), "--data"]).arg(self.data());
        command.current_dir("/").stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    fn log(&self) -> std::path::PathBuf {
        self.data().with_extension("log")
    }

    fn ask(&self, words: &[&str]) -> Result<Value, String> {
        cli::ask(self.data(), words).try_data()
    }

    fn until_ready(&mut self) -> String {
        let (words, _) = wait_for("dev says that it is ready", Duration::from_secs(90), || {
            let words = std::fs::read_to_string(self.log()).unwrap_or_default();
            if let Some(status) = self.child.as_mut().unwrap().try_wait().unwrap() {
                panic!("dev ended with {status}: {words}");
            }
            if words.contains("Ctrl-C") { Ok(words) } else { Err(words) }
        });
        words
    }

    fn interrupt(&mut self) {
        let mut child = self.child.take().unwrap();
        power::signal(child.id(), Signal::INT);
        wait_for("dev ends", Duration::from_secs(30), || match child.try_wait().unwrap() {
            Some(status) if status.success() => Ok(()),
            Some(status) => panic!("dev ended with {status}"),
            None => Err("it runs".into()),
        });
    }

    fn lb(&self, node: u8) -> SocketAddr {
        let [a, b, c] = self.net;
        (Ipv4Addr::new(a, b, c, node), HTTP_PORT).into()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        power::off(self.data());
        let _ = std::fs::remove_file(self.log());
    }
}

fn lb_nodes(dev: &Dev) -> Vec<u8> {
    let roles = dev.ask(&["roles"]).unwrap();
    let lbs = array(&roles).iter().filter(|role| role["role"] == "lb");
    lbs.map(|role| role["node"].as_str().unwrap().trim_start_matches('n').parse().unwrap()).collect()
}

#[test]
fn one_command_makes_a_cluster_that_ctrl_c_ends_and_the_same_command_resumes() {
    let mut dev = Dev::new();
    dev.start();
    let words = dev.until_ready();
    assert!(words.contains("hirsel why") && words.contains("http://"), "says where to look and what to try: {words}");

    // It was asked of the first node; any may answer now, and has heard the same a moment later.
    let (status, _) = wait_for("every node says healthy", Duration::from_secs(30), || {
        let status = dev.ask(&["status"]).unwrap();
        if status["health"] == "healthy" { Ok(status) } else { Err(status.to_string()) }
    });
    assert!(status["leader"].is_string() && array(&status["voters"]).len() == 5, "{status}");
    let members = dev.ask(&["members"]).unwrap();
    let mut zones: Vec<&str> = array(&members).iter().filter_map(|row| row["zone"].as_str()).collect();
    zones.sort_unstable();
    assert_eq!(zones, ["a", "a", "b", "b", "c"]);
    let lbs = lb_nodes(&dev);
    assert_eq!(lbs.len(), 3, "lb has min(3, n) slots");
    for node in &lbs {
        let answer = http::get(dev.lb(*node), "anything", "/").unwrap();
        assert_eq!(answer.status, 200, "lb on n{node}: {}", answer.text());
    }

    dev.interrupt();
    assert_eq!(power::processes(dev.data()), [], "Ctrl-C leaves nothing behind");

    dev.start();
    dev.until_ready();
    let identity = |rows: &Value| -> Vec<(String, u64)> {
        array(rows).iter().map(|row| (row["name"].to_string(), row["id"].as_u64().unwrap_or(0))).collect()
    };
    // A start is announced a moment after the agent is ready.
    wait_for("the same nodes, restarted and not made anew", Duration::from_secs(20), || {
        let resumed = dev.ask(&["members"])?;
        let restarted = array(&resumed).iter().all(|row| row["incarnation"].as_u64() >= Some(2));
        if restarted && identity(&resumed) == identity(&members) { Ok(()) } else { Err(resumed.to_string()) }
    });
    for node in lb_nodes(&dev) {
        wait_for("the sample answers again", Duration::from_secs(20), || {
            let answer = http::get(dev.lb(node), "anything", "/").map_err(|error| error.to_string())?;
            if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
        });
    }
    dev.interrupt();
    assert_eq!(power::processes(dev.data()), []);
}

#[test]
fn the_power_switch_works_without_dev_and_a_node_stays_off_until_it_is_switched_on() {
    let mut dev = Dev::new();
    dev.start();
    dev.until_ready();
    let alive = |dev: &Dev, wanted: u64| {
        wait_for(&format!("{wanted} nodes are alive"), Duration::from_secs(30), || {
            let status = dev.ask(&["status"])?;
            if status["nodes"]["alive"] == wanted { Ok(()) } else { Err(status.to_string()) }
        });
    };
    alive(&dev, 5);
    // dev itself is killed: its agents go on.
    let mut child = dev.child.take().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    alive(&dev, 5);
    let data = dev.data().to_str().unwrap();
    let ran = cli::hirsel(["dev", "kill", "n4", "--data", data]);
    assert_eq!(ran.code, Some(0), "{}", ran.words());
    assert_eq!(power::processes(&dev.data().join("n4")), []);
    alive(&dev, 4);
    let ran = cli::hirsel(["dev", "start", "n4", "--data", data]);
    assert_eq!(ran.code, Some(0), "{}", ran.words());
    alive(&dev, 5);
    let ran = cli::hirsel(["dev", "stop", "--data", data]);
    assert_eq!(ran.code, Some(0), "{}", ran.words());
    assert_eq!(power::processes(dev.data()), []);
}
