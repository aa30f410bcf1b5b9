//! Garage on loopback: as many nodes as copies, each write synced, as ours are.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hirsel_tests::cluster::loopback;
use hirsel_tests::wait_for;

use super::client::BUCKET;
use super::signed::Signer;
use super::store::Store;

const S3_PORT: u16 = 3900;
const RPC_PORT: u16 = 3901;
const REGION: &str = "garage";
const BEGINS_WITHIN: Duration = Duration::from_secs(30);
/// What the layout gives each node; it looks at how full disks are itself.
const CAPACITY: &str = "100G";

pub struct Garage {
    pub store: Store,
    members: Vec<Child>,
    _folder: tempfile::TempDir,
}

impl Garage {
    pub fn start(count: u8) -> Self {
        let folder = tempfile::Builder::new().prefix("garage-").tempdir().expect("a folder");
        let net = loopback();
        let addr = |member: u8, port: u16| SocketAddr::from((Ipv4Addr::new(net[0], net[1], net[2], member + 1), port));
        let configuration = |member: u8| folder.path().join(format!("{member}.toml"));
        let mut members = Vec::new();
        for member in 0..count {
            let at = folder.path().join(member.to_string());
            let text = format!(
                "metadata_dir = \"{0}/meta\"\ndata_dir = \"{0}/data\"\ndb_engine = \"lmdb\"\nmetadata_fsync = true\ndata_fsync = true\n\
                 replication_factor = {count}\nrpc_secret = \"{1}\"\nrpc_bind_addr = \"{2}\"\nrpc_public_addr = \"{2}\"\n\
                 [s3_api]\ns3_region = \"{REGION}\"\napi_bind_addr = \"{3}\"\n",
                at.display(),
                "5a".repeat(32),
                addr(member, RPC_PORT),
                addr(member, S3_PORT),
            );
            fs::write(configuration(member), text).expect("a configuration");
            let child = Command::new("garage")
                .arg("-c")
                .arg(configuration(member))
                .arg("server")
                .env("RUST_LOG", "error")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn();
            members.push(child.expect("garage runs"));
        }
        let ask = |member: u8, words: &[&str]| ask(&configuration(member), words);
        let ids: Vec<String> = (0..count)
            .map(|member| wait_for("garage has an id", BEGINS_WITHIN, || ask(member, &["node", "id", "-q"])).0)
            .collect();
        for id in &ids[1..] {
            wait_for("garage knows another", BEGINS_WITHIN, || ask(0, &["node", "connect", id.trim()]));
        }
        for id in &ids {
            let id = id.split('@').next().unwrap_or_default();
            wait_for("garage takes a node", BEGINS_WITHIN, || {
                ask(0, &["layout", "assign", id, "-z", id, "-c", CAPACITY])
            });
        }
        wait_for("garage has a layout", BEGINS_WITHIN, || ask(0, &["layout", "apply", "--version", "1"]));
        wait_for("garage has a bucket", BEGINS_WITHIN, || ask(0, &["bucket", "create", BUCKET]));
        let (key, _) = wait_for("garage has a key", BEGINS_WITHIN, || ask(0, &["key", "create", "bench"]));
        let word = |name: &str| {
            let line = key.lines().find_map(|line| line.trim().strip_prefix(name));
            line.unwrap_or_else(|| panic!("no {name} in {key}")).trim().to_owned()
        };
        wait_for("garage lets it in", BEGINS_WITHIN, || {
            ask(0, &["bucket", "allow", "--read", "--write", "--owner", BUCKET, "--key", "bench"])
        });
        let store = Store {
            signer: Signer::new(word("Key ID:"), &word("Secret key:"), REGION),
            pids: members.iter().map(Child::id).collect(),
            addrs: (0..count).map(|member| addr(member, S3_PORT)).collect(),
            folders: (0..count).map(|member| folder.path().join(member.to_string())).collect(),
        };
        Self { store, members, _folder: folder }
    }
}

impl Drop for Garage {
    fn drop(&mut self) {
        for member in &mut self.members {
            let _ = member.kill();
            let _ = member.wait();
        }
    }
}

fn ask(configuration: &PathBuf, words: &[&str]) -> Result<String, String> {
    let ran = Command::new("garage").arg("-c").arg(configuration).args(words).env("RUST_LOG", "error").output();
    let ran = ran.map_err(|error| error.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if ran.status.success() { Ok(text(&ran.stdout)) } else { Err(format!("{words:?}: {}", text(&ran.stderr))) }
}
