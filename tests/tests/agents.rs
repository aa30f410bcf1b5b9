//! Agents that end while their host goes on: stopped by a service manager, or killed at any moment.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hirsel_tests::cluster::{Cluster, array, sample};
use hirsel_tests::load::Load;
use hirsel_tests::unit::Unit;
use hirsel_tests::{cli, lacks, wait_for};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

#[test]
fn the_unit_that_install_writes_restarts_the_agent_and_leaves_its_instances_alone() {
    let mut cluster = Cluster::start(3);
    cluster.apply(&sample(3));
    let (_, node) = cluster.instances("hello").into_iter().next_back().unwrap();
    let index = cluster.index(&node);
    // What a shell and a service manager read differently goes through as it is.
    let label = ["--label", "note=50% of $HOME \"x\""].map(String::from);
    let seed = cluster.nodes[0].addr(hirsel_tests::cluster::MESH_PORT).to_string();
    let token = cluster.nodes[0].ask(["token", "new", "--ttl", "1s"]).data();
    wait_for("the token expires", Duration::from_secs(30), || {
        let list = cluster.nodes[0].ask(["token", "list"]).try_data()?;
        let row = array(&list).iter().find(|row| row["id"] == token["id"]).ok_or("it is not listed")?;
        if row["state"] == "expired" { Ok(()) } else { Err(row.to_string()) }
    });
    let join = cluster.nodes[index].words(Some((&seed, token["token"].as_str().unwrap())));
    let units = [cluster.nodes[index].words(None), join].map(|words| {
        let start: Vec<String> = words.into_iter().chain(label.clone()).collect();
        installed(&cluster.folder.path().join("hirsel.service"), &start)
    });

    let before = cluster.nodes[index].programs("sample");
    assert!(!before.is_empty());
    let targets = cluster.lbs().into_iter().filter(|(name, _)| *name != node).map(|(_, addr)| addr).collect();
    let load =
        Load { targets, host: "any".into(), path: "/".into(), method: "GET", status: 200, rate: 200, connections: 12 };
    let running = load.start();
    let answered = |more: u64| {
        let enough = running.answered() + more;
        wait_for("the load goes on", Duration::from_secs(30), || {
            if running.answered() >= enough { Ok(()) } else { Err(format!("{} of {enough}", running.answered())) }
        });
    };
    answered(100);
    // Twice: what was adopted once is adopted again.
    for command in &units {
        // KillMode=process: the main process alone is asked to end.
        cluster.nodes[index].stop_agent();
        assert_eq!(cluster.nodes[index].programs("sample"), before, "they run without the agent");
        cluster.nodes[index].launch_as(command);
        cluster.nodes[index].ready();
        cluster.whole();
        cluster.well(Duration::from_secs(30));
        assert_eq!(cluster.nodes[index].programs("sample"), before, "the same processes");
        answered(100);
    }
    running.end().assert_sound(300);
    let log = std::fs::read_to_string(cluster.nodes[index].log()).unwrap();
    assert_eq!(log.matches("a node of this cluster already").count(), 1, "join says what it does");
    assert_eq!(array(&cluster.any().ask(["members"]).data()).len(), 3, "nobody new was let in");
}

/// Has the unit written that starts an agent with these words, and reads from it what systemd would start.
fn installed(path: &Path, start: &[String]) -> Vec<String> {
    let words = ["install", "--unit", path.to_str().unwrap(), "--"].map(String::from).into_iter();
    let ran = cli::hirsel(words.chain(start.iter().cloned()));
    assert_eq!(ran.code, Some(0), "{}", ran.words());
    if let Ok(verified) = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(path).output() {
        let complaint = String::from_utf8_lossy(&verified.stderr).into_owned();
        assert!(verified.status.success() && complaint.is_empty(), "{complaint}");
    } else {
        eprintln!("systemd-analyze is not here: the unit is read by this test alone");
    }
    let unit = Unit::read(path);
    for (key, value) in [("Type", "simple"), ("KillMode", "process"), ("Delegate", "yes"), ("Restart", "on-failure")] {
        assert_eq!(unit.service.get(key).map(String::as_str), Some(value), "{key}");
    }
    let command = unit.command();
    assert_eq!(command[1..], *start);
    command
}

/// Fewer than the cluster remembers.
const WRITES_MAX: usize = 900;

#[test]
fn an_agent_killed_five_times_in_a_row_at_random_moments_loses_nothing_acknowledged() {
    let seed: u64 = rand::random();
    eprintln!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::start(3);
    let folders: Vec<_> = cluster.nodes.iter().map(|node| node.data.clone()).collect();
    let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::<String>::new())));
    let writer = std::thread::spawn({
        let (stop, acknowledged) = (stop.clone(), acknowledged.clone());
        move || {
            let mut refused = 0;
            for data in folders.iter().cycle() {
                if stop.load(Ordering::Relaxed) || acknowledged.lock().unwrap().len() >= WRITES_MAX {
                    break;
                }
                // Without an answer it may have happened or not; only what was acknowledged is owed.
                match cli::ask(data, ["token", "new"]).try_data() {
                    Ok(token) => acknowledged.lock().unwrap().push(token["id"].as_str().unwrap().to_string()),
                    Err(_) => refused += 1,
                }
            }
            refused
        }
    });
    let count = || acknowledged.lock().unwrap().len();
    // The same agent each time, so that it is killed while it recovers from the last time too; the leader's, at first.
    let victim = cluster.index(&cluster.leader());
    for _ in 0..5 {
        let enough = count() + rng.random_range(1..12);
        wait_for("more is acknowledged", Duration::from_secs(60), || {
            if count() >= enough { Ok(()) } else { Err(format!("{} of {enough}", count())) }
        });
        // Nothing is waited for here: this draws the moment within a write.
        std::thread::sleep(Duration::from_micros(rng.random_range(0..100_000)));
        cluster.nodes[victim].kill_agent();
        cluster.nodes[victim].start(None);
    }
    cluster.whole();
    stop.store(true, Ordering::Relaxed);
    let refused = writer.join().unwrap();
    let acknowledged: BTreeSet<String> = acknowledged.lock().unwrap().iter().cloned().collect();
    eprintln!("{} writes were acknowledged, {refused} were not", acknowledged.len());
    assert!(acknowledged.len() < WRITES_MAX, "the kills came too late to matter");
    for node in &cluster.nodes {
        wait_for(&format!("{} has all that was acknowledged", node.name), Duration::from_secs(20), || {
            let list = node.ask(["token", "list"]).try_data()?;
            let there: BTreeSet<&str> = array(&list).iter().filter_map(|token| token["id"].as_str()).collect();
            let lost: Vec<&String> = acknowledged.iter().filter(|id| !there.contains(id.as_str())).collect();
            if lost.is_empty() { Ok(()) } else { Err(format!("lacks {lost:?}")) }
        });
    }
}

/// A small file system of its own for a data folder. Dropping it takes it away.
struct Small(std::path::PathBuf);

impl Small {
    fn mount(at: &Path) -> Self {
        let small = Self(at.into());
        std::fs::create_dir_all(at).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=24m,mode=0711", "small"]).arg(at).status();
        assert!(mounted.unwrap().success(), "cannot mount a tmpfs on {}", at.display());
        small
    }

    /// Fills what is left.
    fn fill(&self) -> std::path::PathBuf {
        let path = self.0.join("filler");
        let mut file = std::fs::File::create(&path).unwrap();
        let full = loop {
            match std::io::Write::write(&mut file, &[7; 4096]) {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull, "{full}");
        path
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Lazily: an agent may still look at it.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn an_agent_whose_disk_was_full_votes_again_once_there_is_room() {
    let can_mount = rustix::process::geteuid().is_root() && Command::new("mount").arg("-V").output().is_ok();
    if lacks("root with mount", can_mount) {
        return;
    }
    let mut cluster = Cluster::new();
    cluster.add();
    cluster.add();
    let disk = Small::mount(&cluster.folder.path().join("n3"));
    cluster.add();
    cluster.whole();
    cluster.apply(&sample(3));
    let node = cluster.node("n3");
    let (agent, before) = (node.agent_pid(), node.programs("sample"));
    let filler = disk.fill();
    let writes = |node: &hirsel_tests::cluster::Node| node.ask(["token", "new"]).try_data();
    let log = || std::fs::read_to_string(node.log()).unwrap_or_default();
    wait_for("the log is stopped by the full disk", Duration::from_secs(60), || {
        // The others go on all the time.
        writes(&cluster.nodes[0]).unwrap();
        if log().contains("takes no more writes") {
            Ok(())
        } else {
            Err(log().lines().last().unwrap_or("").to_string())
        }
    });
    assert_eq!(node.programs("sample"), before, "its instances go on");
    std::fs::remove_file(filler).unwrap();
    wait_for("the agent starts anew", Duration::from_secs(60), || {
        if log().contains("the agent starts anew") {
            Ok(())
        } else {
            Err(log().lines().last().unwrap_or("").to_string())
        }
    });
    cluster.well(Duration::from_secs(60));
    assert_eq!(cluster.node("n3").agent_pid(), agent, "no supervisor had to see it end");
    // A majority needs it now.
    cluster.nodes[1].off();
    wait_for("its vote counts", Duration::from_secs(30), || writes(&cluster.nodes[0]));
}
