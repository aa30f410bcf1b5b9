//! Clients of S3 that people have, on a whole cluster: through nodes without TLS, and over TLS through the load balancers under a name.
//!
//! What each does is a script beside this file, in `clients/`. Each ends with nothing left behind.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use hirsel_tests::authority::Authority;
use hirsel_tests::cluster::{Cluster, HTTPS_PORT};
use hirsel_tests::{lacks, wait_for};

/// Where every node answers clients of S3.
const S3_PORT: u16 = 7480;
/// Under this name the load balancers have it.
const HOST: &str = "s3.example";
const REGION: &str = "eu-north-1";
/// A cluster that has just begun takes objects within this.
const BEGINS_WITHIN: Duration = Duration::from_secs(90);

/// A client.
struct Client {
    name: &'static str,
    /// How its script is run.
    program: Vec<String>,
    /// What it needs besides.
    env: Vec<(&'static str, String)>,
}

/// Folders where programs and modules lie that no distribution has: `.ci/run` puts them there.
fn caches() -> Vec<PathBuf> {
    let cache = std::env::var_os("HIRSEL_CI_CACHE").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/hirsel/ci"));
    cache.into_iter().chain(home).collect()
}

fn works(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

/// A Python that has these modules, and where it finds them.
fn python(modules: &str) -> Option<(String, String)> {
    let paths = caches().into_iter().map(|cache| cache.join("s3-clients").display().to_string()).chain([String::new()]);
    let pythons = ["python3", "/usr/bin/python3"];
    paths.flat_map(|path| pythons.map(|python| (python.to_owned(), path.clone()))).find(|(python, path)| {
        works(Command::new(python).args(["-c", &format!("import {modules}")]).env("PYTHONPATH", path))
    })
}

fn in_python(name: &'static str, module: &str) -> Option<Client> {
    let (python, path) = python(module)?;
    Some(Client { name, program: vec![python], env: vec![("PYTHONPATH", path)] })
}

fn in_node() -> Option<Client> {
    let from_environment = std::env::var("NODE_PATH").unwrap_or_default();
    let folders = caches().into_iter().map(|cache| cache.join("npm/node_modules").display().to_string());
    let path = folders.chain([from_environment]).find(|path| {
        works(Command::new("node").args(["-e", "require('@aws-sdk/client-s3')"]).env("NODE_PATH", path))
    })?;
    Some(Client { name: "sdk.mjs", program: vec!["node".into()], env: vec![("NODE_PATH", path)] })
}

fn in_shell(name: &'static str, program: &str) -> Option<Client> {
    let shell = || vec!["sh".into()];
    let there = works(Command::new(program).arg("--version")) && works(Command::new("curl").arg("--version"));
    there.then(|| Client { name, program: shell(), env: vec![("AWS", program.to_owned())] })
}

/// The clients that this machine has. That of AWS exists twice: the one that distributions have, and an older or newer one first in the path.
fn clients() -> Vec<Client> {
    let all = [
        (in_python("with_boto3.py", "boto3"), "Python with boto3"),
        (in_python("with_minio.py", "minio"), "Python with minio"),
        (in_python("with_s3fs.py", "s3fs"), "Python with s3fs"),
        (in_node(), "node with @aws-sdk/client-s3"),
        (in_shell("aws.sh", "/usr/bin/aws").or_else(|| in_shell("aws.sh", "aws")), "awscli and curl"),
        (in_shell("rclone.sh", "rclone"), "rclone and curl"),
        (in_shell("s3cmd.sh", "s3cmd"), "s3cmd and curl"),
    ];
    all.into_iter().filter_map(|(client, needs)| if lacks(needs, client.is_some()) { None } else { client }).collect()
}

/// Somewhere to reach the object store at.
struct Endpoint {
    url: String,
    /// A file with the authority of its certificate, and one that tells which names lead to it.
    secured: Option<(PathBuf, PathBuf)>,
}

fn run(client: &Client, endpoint: &Endpoint, bucket: &str, key: &(String, String)) -> Output {
    let folder = tempfile::Builder::new().prefix("client-").tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(client.name);
    let mut words = client.program.clone();
    words.push(script.display().to_string());
    if let Some((_, hosts)) = &endpoint.secured {
        let bind = format!("mount --bind '{}' /etc/hosts && exec \"$@\"", hosts.display());
        words = ["unshare", "--mount", "sh", "-c", &bind, "sh"].map(String::from).into_iter().chain(words).collect();
    }
    let mut command = Command::new(&words[0]);
    // What somebody has set for others of the kind is not for this one.
    let foreign = |name: &str| {
        name.starts_with("AWS_") || name.ends_with("_CA_BUNDLE") || name.to_lowercase().ends_with("_proxy")
    };
    for (name, _) in std::env::vars().filter(|(name, _)| foreign(name)) {
        command.env_remove(name);
    }
    command.args(&words[1..]).envs(client.env.iter().map(|(name, value)| (name, value)));
    command.env("S3_ENDPOINT", &endpoint.url).env("S3_BUCKET", bucket).env("S3_FOLDER", folder.path());
    command.env("AWS_ACCESS_KEY_ID", &key.0).env("AWS_SECRET_ACCESS_KEY", &key.1).env("AWS_DEFAULT_REGION", REGION);
    command.env("AWS_REGION", REGION).env("HOME", folder.path()).env("AWS_EC2_METADATA_DISABLED", "true");
    if let Some((authority, _)) = &endpoint.secured {
        command.env("S3_CA", authority).env("NODE_EXTRA_CA_CERTS", authority).env("S3_HOSTS", "yes");
    }
    command.output().expect("the client runs")
}

#[test]
fn the_clients_that_people_have_work_through_any_node_and_over_tls() {
    let clients = clients();
    if clients.is_empty() {
        return;
    }
    let mut cluster = Cluster::new();
    let at = |cluster: &Cluster, name: &str| cluster.folder.path().join(name);
    let config = at(&cluster, "hirsel.toml");
    fs::write(&config, format!("[storage]\nregion = \"{REGION}\"\ndomains = [\"{HOST}\"]\n")).unwrap();
    cluster.config = Some(config);
    for _ in 0..3 {
        cluster.add();
    }
    cluster.whole();
    let mut key = None;
    wait_for("objects are served", BEGINS_WITHIN, || {
        let ran = cluster.any().ask(["bucket", "create", "first"]);
        if ran.code != Some(0) {
            return Err(ran.words());
        }
        let made = cluster.any().ask(["bucket", "key", "create", "clients"]).data();
        let word = |name: &str| made[name].as_str().unwrap().to_owned();
        key = Some((word("access_key_id"), word("secret_access_key")));
        Ok(())
    });
    let key = key.unwrap();

    let endpoint = |node: usize| format!("http://{}", cluster.nodes[node].addr(S3_PORT));
    let mut endpoints: Vec<Endpoint> =
        [0, 2].map(|node| Endpoint { url: endpoint(node), secured: None }).into_iter().collect();
    if !lacks("root with unshare", rustix::process::geteuid().is_root() && works(Command::new("unshare").arg("-h"))) {
        let authority = Authority::new();
        authority.equip(&cluster, &[HOST, &format!("*.{HOST}")]);
        let gateways: Vec<String> = (0..3).map(|node| format!("{:?}", endpoint(node))).collect();
        let gateways = gateways.join(", ");
        cluster.apply(&format!(
            "app = \"objects\"\n[route.\"{HOST}\"]\nto = [{gateways}]\n[route.\"*.{HOST}\"]\nto = [{gateways}]\n"
        ));
        let (node, _) = cluster.lbs().into_iter().next().unwrap();
        let ip = cluster.node(&node).ip;
        let mut hosts = format!("127.0.0.1 localhost\n{ip} {HOST}\n");
        for number in 0..clients.len() {
            writeln!(hosts, "{ip} {}.{HOST}", bucket(2, number)).unwrap();
        }
        let (ca, names) = (at(&cluster, "ca.pem"), at(&cluster, "hosts"));
        fs::write(&ca, authority.pem()).unwrap();
        fs::write(&names, hosts).unwrap();
        endpoints.push(Endpoint { url: format!("https://{HOST}:{HTTPS_PORT}"), secured: Some((ca, names)) });
    }
    // Whoever looks at one failure wants to know of all.
    let mut failures = String::new();
    for (at, endpoint) in endpoints.iter().enumerate() {
        for (number, client) in clients.iter().enumerate() {
            let began = std::time::Instant::now();
            let output = run(client, endpoint, &bucket(at, number), &key);
            let took = began.elapsed();
            eprintln!("{} at {}: {} in {took:.1?}", client.name, endpoint.url, output.status);
            if !output.status.success() {
                let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
                writeln!(failures, "{} at {}: {}\n{out}\n{err}", client.name, endpoint.url, output.status).unwrap();
            }
        }
    }
    assert!(failures.is_empty(), "{failures}");
    let listed = cluster.any().ask(["bucket", "list", "--fresh"]).data();
    assert_eq!(hirsel_tests::cluster::array(&listed).len(), 1, "nobody leaves anything behind: {listed}");
}

fn bucket(endpoint: usize, client: usize) -> String {
    format!("client-{endpoint}-{client}")
}
