//! A directory that certifies hosts (ACME), for tests: Debian's `pebble`, and the names it asks for, which `pebble-challtestsrv` answers.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::{Value, json};

use crate::cluster::{Cluster, HTTP_PORT, HTTPS_PORT};
use crate::{lacks, wait_for};

const PORT: u16 = 14_000;
const MANAGEMENT_PORT: u16 = 15_000;
const NAMES_PORT: u16 = 8053;
const NAMES_MANAGEMENT_PORT: u16 = 8055;

/// The rule for what a machine may lack.
pub fn is_lacking() -> bool {
    let is_there = |program: &str| {
        std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|it| it.join(program).exists()))
    };
    lacks("pebble and curl", ["pebble", "pebble-challtestsrv", "curl"].into_iter().all(is_there))
}

/// A directory on an address of its own beside a cluster. Dropping it ends it.
pub struct Pebble {
    folder: PathBuf,
    ip: Ipv4Addr,
    directory: Option<Child>,
    names: Child,
    environment: Vec<(String, String)>,
}

impl Pebble {
    /// A directory for hosts of `cluster`, which looks at once and refuses no nonce unless `environment` says otherwise; `more` is added
    /// to its configuration.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(cluster: &Cluster, environment: &[(&str, &str)], more: &Value) -> Self {
        let [a, b, c, _] = cluster.nodes[0].ip.octets();
        let ip = Ipv4Addr::new(a, b, c, 250);
        let folder = cluster.folder.path().join("pebble");
        std::fs::create_dir_all(&folder).expect("a folder");
        certify(&folder, ip);
        let mut config = json!({
            "listenAddress": format!("{ip}:{PORT}"),
            "managementListenAddress": format!("{ip}:{MANAGEMENT_PORT}"),
            "certificate": folder.join("cert.pem"),
            "privateKey": folder.join("key.pem"),
            "httpPort": HTTP_PORT,
            "tlsPort": HTTPS_PORT,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        std::fs::write(folder.join("config.json"), json!({ "pebble": config }).to_string()).expect("a configuration");
        let mut names = Command::new("pebble-challtestsrv");
        names.args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv4", "", "-defaultIPv6", ""]);
        names.args(["-dns01", &format!("{ip}:{NAMES_PORT}"), "-management", &format!("{ip}:{NAMES_MANAGEMENT_PORT}")]);
        let names = spawn(names, &folder.join("names.log"));
        let environment = [("PEBBLE_VA_NOSLEEP", "1"), ("PEBBLE_WFE_NONCEREJECT", "0"), ("PEBBLE_AUTHZREUSE", "0")]
            .into_iter()
            .filter(|(name, _)| !environment.iter().any(|(other, _)| other == name))
            .chain(environment.iter().copied())
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let mut pebble = Self { folder, ip, directory: None, names, environment };
        pebble.start_again();
        pebble
    }

    /// Starts the directory, which remembers nothing of what it was before.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn start_again(&mut self) {
        self.stop();
        let mut directory = Command::new("pebble");
        directory.arg("-config").arg(self.folder.join("config.json"));
        directory.args(["-dnsserver", &format!("{}:{NAMES_PORT}", self.ip)]);
        directory.envs(self.environment.iter().map(|(name, value)| (name, value)));
        self.directory = Some(spawn(directory, &self.folder.join("directory.log")));
        wait_for("the directory answers", Duration::from_secs(20), || {
            self.fetch(&self.url()).filter(|text| text.contains("newOrder")).ok_or(String::new()).map(drop)
        });
    }

    /// Ends the directory; names are still answered.
    pub fn stop(&mut self) {
        if let Some(mut directory) = self.directory.take() {
            let _ = directory.kill();
            let _ = directory.wait();
        }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("https://{}:{PORT}/dir", self.ip)
    }

    /// File with the root that the directory itself is believed by.
    pub fn own_root(&self) -> String {
        self.folder.join("ca.pem").display().to_string()
    }

    /// File with the root of the certificates that it issues now.
    ///
    /// # Panics
    /// When it does not tell.
    pub fn root(&self) -> String {
        let text = self.fetch(&format!("https://{}:{MANAGEMENT_PORT}/roots/0", self.ip)).expect("a root");
        let path = self.folder.join("root.pem");
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    }

    /// From now on `host` has these addresses.
    ///
    /// # Panics
    /// When that cannot be said.
    pub fn names(&self, host: &str, addrs: &[Ipv4Addr]) {
        let body = json!({ "host": format!("{host}."), "addresses": addrs }).to_string();
        for (verb, body) in [("clear-a", body.clone()), ("add-a", body)] {
            let url = format!("http://{}:{NAMES_MANAGEMENT_PORT}/{verb}", self.ip);
            wait_for("names are taken", Duration::from_secs(20), || {
                let ran = Command::new("curl").args(["-sf", "-d", &body, &url]).output().expect("curl runs");
                if ran.status.success() { Ok(()) } else { Err(format!("{ran:?}")) }
            });
        }
    }

    fn fetch(&self, url: &str) -> Option<String> {
        let ran = Command::new("curl").args(["-sf", "--cacert", &self.own_root(), url]).output().expect("curl runs");
        ran.status.success().then(|| String::from_utf8_lossy(&ran.stdout).into_owned())
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        self.stop();
        let _ = self.names.kill();
        let _ = self.names.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.join("directory.log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- last words of the directory\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
}

fn spawn(mut command: Command, log: &Path) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(log).expect("a log file");
    command.current_dir("/").stdin(Stdio::null()).stdout(log.try_clone().expect("a second handle")).stderr(log);
    command.spawn().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"))
}

/// Writes a root, and a certificate for `ip` with its key.
fn certify(folder: &Path, ip: Ipv4Addr) {
    let mut root = CertificateParams::new(Vec::new()).expect("a root");
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // Whoever is called like its issuer is taken for self-signed.
    root.distinguished_name.push(DnType::CommonName, "root of the directory");
    let root = CertifiedIssuer::self_signed(root, KeyPair::generate().expect("a key")).expect("a root");
    let key = KeyPair::generate().expect("a key");
    let own = CertificateParams::new(vec![ip.to_string()]).expect("a certificate").signed_by(&key, &root);
    for (name, text) in
        [("ca.pem", root.pem()), ("cert.pem", own.expect("a certificate").pem()), ("key.pem", key.serialize_pem())]
    {
        std::fs::write(folder.join(name), text).expect("a file");
    }
}
