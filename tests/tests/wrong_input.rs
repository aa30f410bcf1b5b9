//! Wrong input of every kind: a clear error with the next command, no panic, and nothing acknowledged lost.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use hirsel_tests::cluster::{Cluster, MESH_PORT, Node, loopback, sample};
use hirsel_tests::{cli, lacks, power, wait_for};
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

/// Words of a start that must fail, and what the complaint must say.
fn refused(words: &[String], says: &[&str]) {
    let ran = cli::hirsel(words);
    assert!(matches!(ran.code, Some(code) if code != 0), "{words:?} must fail: {ran:?}");
    let text = ran.words();
    assert!(!text.contains("panicked"), "{text}");
    for word in says {
        assert!(text.to_lowercase().contains(word), "{words:?} should say {word:?}: {text}");
    }
}

/// The words that would let a new node join with `token`.
fn joining(cluster: &Cluster, folder: &Path, token: &str) -> Vec<String> {
    let [a, b, c] = loopback();
    let seed = cluster.nodes[0].addr(MESH_PORT).to_string();
    let addr = format!("{a}.{b}.{c}.1:{MESH_PORT}");
    let data = folder.display().to_string();
    ["join", &seed, "--token", token, "--name", "new", "--addr", &addr, "--data", &data].map(str::to_string).to_vec()
}

#[test]
fn a_token_that_is_bad_revoked_or_of_another_cluster_lets_nobody_in() {
    let (cluster, other) = (Cluster::start(1), Cluster::start(1));
    let folder = tempfile::tempdir().unwrap();
    let token = cluster.nodes[0].token();
    refused(&joining(&cluster, folder.path(), "nonsense"), &["token"]);
    let mut typo: Vec<char> = token.chars().collect();
    let at = typo.len() / 2;
    typo[at] = if typo[at] == 'a' { 'b' } else { 'a' };
    refused(&joining(&cluster, folder.path(), &typo.into_iter().collect::<String>()), &["token"]);
    refused(&joining(&cluster, folder.path(), &other.nodes[0].token()), &["cluster"]);

    let id = token_id(&cluster.nodes[0]);
    let ran = cluster.nodes[0].ask(["token", "revoke", &id]);
    assert_eq!(ran.code, Some(0), "{}", ran.words());
    refused(&joining(&cluster, folder.path(), &token), &["revoked", "hirsel token new"]);
    assert_eq!(cluster.nodes[0].ask(["members"]).data().as_array().unwrap().len(), 1);
}

fn token_id(node: &Node) -> String {
    let list = node.ask(["token", "list"]).data();
    let row = list.as_array().and_then(|rows| rows.first()).unwrap_or_else(|| panic!("no tokens in {list}"));
    row["id"].as_str().unwrap_or_else(|| panic!("no id in {row}")).to_string()
}

#[test]
fn a_token_for_one_use_is_used_up() {
    let mut cluster = Cluster::start(1);
    let data = cluster.nodes[0].ask(["token", "new", "--uses", "1"]).data();
    let token = data["token"].as_str().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let words = joining(&cluster, folder.path(), &token);
    let mut child = std::process::Command::new(hirsel_tests::executable::hirsel()).args(&words).spawn().unwrap();
    wait_for("the first one joins", Duration::from_secs(30), || {
        let count = cluster.nodes[0].ask(["members"]).try_data()?.as_array().map_or(0, Vec::len);
        if count == 2 { Ok(()) } else { Err(count.to_string()) }
    });
    let second = tempfile::tempdir().unwrap();
    refused(&joining(&cluster, second.path(), &token), &["token", "hirsel token new"]);
    power::off(folder.path());
    child.wait().unwrap();
    cluster.nodes[0].off();
}

#[test]
fn a_second_agent_on_a_folder_and_a_taken_port_are_refused() {
    let cluster = Cluster::start(1);
    let node = &cluster.nodes[0];
    refused(&node.words(None), &["in use", "hirsel status"]);
    let folder = tempfile::tempdir().unwrap();
    let mut words = node.words(None);
    let at = words.iter().position(|word| word == "--data").unwrap();
    words[at + 1] = folder.path().display().to_string();
    refused(&words, &["in use", &MESH_PORT.to_string()]);
    // TCP alone is enough to be refused.
    let [a, b, c] = loopback();
    let addr = format!("{a}.{b}.{c}.7:{MESH_PORT}");
    let _taken = TcpListener::bind(&addr).unwrap();
    let at = words.iter().position(|word| word == "--addr").unwrap();
    words[at + 1] = addr;
    let other = tempfile::tempdir().unwrap();
    let at = words.iter().position(|word| word == "--data").unwrap();
    words[at + 1] = other.path().display().to_string();
    refused(&words, &["in use"]);
}

#[test]
fn join_on_a_folder_that_belongs_to_a_node_of_another_cluster_is_refused() {
    let (mut cluster, other) = (Cluster::start(1), Cluster::start(1));
    let told: serde_json::Value = serde_json::from_str(&cluster.nodes[0].ask(["status"]).stdout).unwrap();
    let mine = told["cluster"].as_str().unwrap().to_string();
    cluster.nodes[0].off();
    let data = cluster.nodes[0].data.clone();
    refused(&joining(&cluster, &data, &other.nodes[0].token()), &["belongs", &mine, "another cluster", "hirsel up"]);
    assert!(cluster.nodes[0].data.join("identity").exists(), "nothing was lost");
}

#[test]
fn a_manifest_with_ten_errors_is_refused_with_every_one_in_its_place() {
    let cluster = Cluster::start(1);
    let manifest = "app = \"Shop\"\nreplica = 3\n[service.web]\ncommand = \"gunicorn\"\nreplicas = -1\nhealth = { htp = \"/\" }\n\
                    stopp = 1\nresources = { cpu = \"much\" }\nupdate = { order = \"sideways\" }\n\
                    [route.\"x y\"]\nto = \"wob\"\n[db.main]\nengine = \"auto\"\n";
    let ran = cluster.apply_only(manifest);
    assert!(ran.code.is_some_and(|code| code != 0), "{ran:?}");
    let text = ran.words();
    for line in [1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12] {
        let place = format!("{line}:");
        assert!(text.contains(&place) || text.contains(&format!("line {line}")), "an error in line {line}: {text}");
    }
    assert!(text.contains("replicas") && text.contains("http"), "names the nearest words: {text}");
    assert!(text.contains("db"), "names the role it lacks: {text}");
    let apps = cluster.any().ask(["apps"]).data();
    assert_eq!(apps.as_array().map(Vec::len), Some(0), "refused whole");
}

#[test]
fn garbage_on_both_ports_changes_nothing() {
    let cluster = Cluster::start(3);
    cluster.apply(&sample(1));
    let target = cluster.nodes[0].addr(MESH_PORT);
    let mut rng = StdRng::seed_from_u64(7);
    let udp = UdpSocket::bind((cluster.nodes[0].ip, 0)).unwrap();
    for _ in 0..3000 {
        let mut bytes = vec![0; rng.random_range(0..1400)];
        rng.fill_bytes(&mut bytes);
        if let Some(first) = bytes.first_mut() {
            // Half of them look like QUIC.
            *first |= if rng.random_bool(0.5) { 0xc0 } else { 0 };
        }
        let _ = udp.send_to(&bytes, target);
    }
    for _ in 0..200 {
        let Ok(mut tcp) = TcpStream::connect_timeout(&target, Duration::from_secs(5)) else { continue };
        let mut bytes = vec![0; rng.random_range(0..4000)];
        rng.fill_bytes(&mut bytes);
        let _ = tcp.set_read_timeout(Some(Duration::from_millis(20)));
        let _ = tcp.write_all(&bytes);
        let _ = tcp.read(&mut [0; 64]);
    }
    cluster.whole();
    cluster.well(Duration::from_secs(20));
    for node in &cluster.nodes {
        let log = std::fs::read_to_string(node.log()).unwrap();
        assert!(!log.contains("panicked"), "{log}");
    }
}

#[test]
fn without_credentials_only_the_health_check_answers_over_the_network() {
    let cluster = Cluster::start(1);
    let addr = cluster.nodes[0].addr(MESH_PORT).to_string();
    let mut command = std::process::Command::new(hirsel_tests::executable::hirsel());
    let empty = tempfile::tempdir().unwrap();
    command.args(["status", "--json", "--node", &addr]).env("HOME", empty.path()).env("XDG_CONFIG_HOME", empty.path());
    command.current_dir("/");
    let ran = cli::run(command);
    assert!(ran.code.is_some_and(|code| code != 0), "{ran:?}");
    assert!(ran.words().contains("login"), "names the next command: {}", ran.words());
}

#[test]
fn a_corrupt_log_is_said_and_the_node_does_not_go_on_with_it() {
    let mut cluster = Cluster::start(3);
    cluster.apply(&sample(1));
    let leader = cluster.leader();
    let index = cluster.nodes.iter().position(|node| node.name != leader).unwrap();
    cluster.nodes[index].off();
    let log = largest_file(&cluster.nodes[index].data);
    let length = std::fs::metadata(&log).unwrap().len();
    std::fs::write(&log, vec![0x5a; length as usize]).unwrap();
    refused(&cluster.nodes[index].words(None), &[]);
    // The others lost nothing and go on.
    let apps = cluster.any().ask(["apps"]).data();
    assert_eq!(apps.as_array().map(Vec::len), Some(1));
}

fn largest_file(folder: &Path) -> std::path::PathBuf {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => folders.push(entry.path()),
                Ok(metadata) if entry.path().extension().is_some_and(|end| end == "redb") => {
                    files.push((metadata.len(), entry.path()));
                }
                _ => {}
            }
        }
    }
    files.into_iter().max().expect("a log").1
}

#[test]
fn a_full_disk_under_the_log_loses_nothing_that_was_acknowledged() {
    if lacks("root (a file system of its own)", rustix::process::geteuid().is_root()) {
        return;
    }
    let mut cluster = Cluster::new();
    let mount = cluster.folder.path().join("n1");
    std::fs::create_dir_all(&mount).unwrap();
    let _mounted = Mounted::tmpfs(&mount, "24m");
    cluster.add();
    cluster.whole();
    std::fs::write(mount.join("ballast"), vec![0; 64 << 20]).unwrap_err();
    let mut acknowledged = Vec::new();
    for number in 0..20 {
        let ran = cluster.nodes[0].ask(["token", "new"]);
        assert!(!ran.words().contains("panicked"), "{}", ran.words());
        match ran.try_data() {
            Ok(data) => acknowledged.push(data["id"].as_str().unwrap_or_default().to_string()),
            Err(_) if number > 2 => break,
            Err(_) => {}
        }
    }
    cluster.nodes[0].off();
    std::fs::remove_file(mount.join("ballast")).unwrap();
    cluster.nodes[0].start(None);
    cluster.whole();
    let list = cluster.nodes[0].ask(["token", "list"]).data().to_string();
    for id in acknowledged.iter().filter(|id| !id.is_empty()) {
        assert!(list.contains(id.as_str()), "token {id} was acknowledged and is lost: {list}");
    }
}

struct Mounted(std::path::PathBuf);

impl Mounted {
    fn tmpfs(path: &Path, size: &str) -> Self {
        let status = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(path)
            .status()
            .unwrap();
        assert!(status.success(), "mount");
        Self(path.into())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        power::off(&self.0);
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
