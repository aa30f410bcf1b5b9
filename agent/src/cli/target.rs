//! Which agent to ask: what was named, else the development cluster of this folder, else the agent on this host, else the cluster
//! logged in to last.

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesOrdered;
use serde::{Deserialize, Serialize};

use super::args::AskArgs;
use super::client::{Client, Target};
use crate::api::error::{ApiError, Code};
use crate::config::{DATA_FOLDER, parse_addr};

/// Name of an agent's socket in its data folder.
pub const SOCKET: &str = "agent.sock";
/// Where the agent of this host may have its socket besides its data folder.
const RUN_SOCKET: &str = "/run/hirsel/agent.sock";
/// Folder of a development cluster, in the folder it was started in.
const DEV_FOLDER: &str = ".hirsel-dev";
/// A node of the development cluster that takes longer is passed over: it may be frozen.
const DEV_ANSWERS_WITHIN: Duration = Duration::from_millis(300);

/// Finds the agent to ask.
pub async fn find(ask: &AskArgs) -> Result<Client, ApiError> {
    let node = named(ask.node.clone(), |variable| std::env::var(variable).ok());
    let client = find_named(&AskArgs { node, ..ask.clone() }).await?;
    Ok(client.fresh(ask.fresh))
}

/// The node to ask: as the flag says, else as `HIRSEL_NODE` says. An instance is given that variable to know where it runs, not whom
/// to ask; a program that calls `hirsel` there asks the agent of its host, as it would anywhere else.
fn named(flag: Option<String>, variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    let in_instance = variable("HIRSEL_INSTANCE").is_some();
    flag.or_else(|| variable("HIRSEL_NODE").filter(|node| !node.is_empty() && !in_instance))
}

async fn find_named(ask: &AskArgs) -> Result<Client, ApiError> {
    if let Some(folder) = &ask.data {
        return in_folder(folder, ask.node.as_deref()).await;
    }
    let dev = Path::new(DEV_FOLDER);
    if let Some(node) = &ask.node {
        return match dev_node(dev, node) {
            Some(socket) => Ok(Client::new(Target::Socket(socket))),
            None => logged_in(Some(node)),
        };
    }
    if !dev_sockets(dev).is_empty() {
        return first_of_dev(dev).await;
    }
    let local = [PathBuf::from(RUN_SOCKET), Path::new(DATA_FOLDER).join(SOCKET)];
    match local.into_iter().find(|socket| socket.exists()) {
        Some(socket) => Ok(Client::new(Target::Socket(socket))),
        None => logged_in(None),
    }
}

async fn in_folder(folder: &Path, node: Option<&str>) -> Result<Client, ApiError> {
    let socket = folder.join(SOCKET);
    if let Some(node) = node {
        if let Some(socket) = dev_node(folder, node) {
            return Ok(Client::new(Target::Socket(socket)));
        }
        if !socket.exists() && !dev_sockets(folder).is_empty() {
            let known: Vec<String> = dev_sockets(folder).into_iter().map(|(name, _)| name).collect();
            return Err(ApiError::not_found("node", node, known.iter().map(String::as_str)));
        }
        return logged_in(Some(node));
    }
    if socket.exists() || dev_sockets(folder).is_empty() {
        return Ok(Client::new(Target::Socket(socket)));
    }
    first_of_dev(folder).await
}

/// The nodes of a development cluster that have a socket, `n2` before `n10`.
fn dev_sockets(folder: &Path) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut nodes: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.strip_prefix('n')?.parse().ok()?;
            let socket = entry.path().join(SOCKET);
            socket.exists().then_some((number, socket))
        })
        .collect();
    nodes.sort();
    nodes.into_iter().map(|(number, socket)| (format!("n{number}"), socket)).collect()
}

/// The socket of a node named `n3`, or by its address: node k has the address that ends in k.
fn dev_node(folder: &Path, node: &str) -> Option<PathBuf> {
    let name = match parse_addr(node).ok().map(|addr| addr.ip()) {
        Some(std::net::IpAddr::V4(ip)) if ip.is_loopback() => format!("n{}", ip.octets()[3]),
        Some(_) => return None,
        None => node.to_string(),
    };
    let number = name.strip_prefix('n')?;
    // A node that is switched off has a folder but no socket: it is still the one that was meant.
    let known = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) && folder.join(&name).is_dir();
    known.then(|| folder.join(name).join(SOCKET))
}

async fn first_of_dev(folder: &Path) -> Result<Client, ApiError> {
    let asked: FuturesOrdered<_> = dev_sockets(folder)
        .into_iter()
        .map(|(_, socket)| async {
            let client = Client::new(Target::Socket(socket));
            client.answers(DEV_ANSWERS_WITHIN).await.then_some(client)
        })
        .collect();
    let first = asked.filter_map(std::future::ready).boxed_local().next().await;
    first.ok_or_else(|| {
        let limit = DEV_ANSWERS_WITHIN.as_millis();
        ApiError::new(Code::Unreachable, format!("no node of {} answers within {limit} ms", folder.display()))
            .next(format!("hirsel dev --data {}", folder.display()))
    })
}

/// Clusters logged in to, the last one first.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Logins {
    logins: Vec<Login>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Login {
    addr: SocketAddr,
    token: String,
    /// Fingerprint of the cluster's authority, in hexadecimal digits, when it is not the one of the token any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    authority: Option<String>,
}

impl Login {
    fn pin(&self) -> Option<[u8; 32]> {
        let digits = self.authority.as_ref().filter(|digits| digits.is_ascii() && digits.len() == 64)?;
        let mut print = [0; 32];
        for (at, byte) in print.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).ok()?;
        }
        Some(print)
    }
}

/// Believes only the authority with this fingerprint from now on where `token` is used. What cannot be written is learned again.
pub fn pin(token: &str, authority: [u8; 32]) {
    let mut logins = read_logins();
    let digits: String = authority.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut changed = false;
    for login in logins.logins.iter_mut().filter(|login| login.token == token) {
        changed |= login.authority.as_ref() != Some(&digits);
        login.authority = Some(digits.clone());
    }
    if changed {
        let _ = write_logins(&logins);
    }
}

/// Nobody uses more clusters than this from one account; older logins are dropped.
const LOGINS_MAX: usize = 64;

/// A client with the login for `node`, or the last one.
fn logged_in(node: Option<&str>) -> Result<Client, ApiError> {
    let nowhere = || {
        ApiError::new(Code::Unreachable, "no agent runs on this host, and no cluster was logged in to")
            .next("hirsel dev (a whole cluster on this machine)")
            .next("hirsel up, or: hirsel join SEED --token T")
            .next("hirsel login ADDR --token T")
    };
    let logins = read_logins().logins;
    let Some(node) = node else {
        let last = logins.into_iter().next().ok_or_else(nowhere)?;
        let pin = last.pin();
        return Ok(Client::new(Target::Network { addr: last.addr, token: last.token, pin }));
    };
    let addr = parse_addr(node).map_err(|_| {
        ApiError::new(Code::Usage, format!("{node:?} is neither an address nor a node of a development cluster here"))
            .next("hirsel VERB --node IP[:PORT]")
    })?;
    // A token is good on every node of its cluster, so the last one serves for an address that was never logged in to.
    let exact = logins.iter().find(|login| login.addr == addr).or(logins.first()).map(|login| login.token.clone());
    let token = std::env::var("HIRSEL_TOKEN").ok().or(exact).ok_or_else(|| {
        ApiError::new(Code::Unauthorized, format!("no token for {addr}")).next(format!("hirsel login {addr} --token T"))
    })?;
    let pin = logins.iter().find(|login| login.token == token).and_then(Login::pin);
    Ok(Client::new(Target::Network { addr, token, pin }))
}

fn logins_path() -> Option<PathBuf> {
    let config = std::env::var_os("XDG_CONFIG_HOME").filter(|folder| !folder.is_empty()).map(PathBuf::from);
    let config = config.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".config")));
    config.map(|folder| folder.join("hirsel").join("logins.json"))
}

fn read_logins() -> Logins {
    let text = logins_path().and_then(|path| fs::read(path).ok());
    text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

/// Remembers a login, readable by its owner only.
pub fn remember(addr: SocketAddr, token: &str) -> io::Result<PathBuf> {
    let mut logins = read_logins();
    // What was learned of the authority while logging in, or before with this token, is kept.
    let authority = logins.logins.iter().find(|login| login.token == token).and_then(|login| login.authority.clone());
    logins.logins.retain(|login| login.addr != addr);
    logins.logins.insert(0, Login { addr, token: token.into(), authority });
    logins.logins.truncate(LOGINS_MAX);
    write_logins(&logins)
}

fn write_logins(logins: &Logins) -> io::Result<PathBuf> {
    let path = logins_path().ok_or_else(|| io::Error::other("neither HOME nor XDG_CONFIG_HOME is set"))?;
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let fresh = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(&serde_json::to_vec_pretty(logins)?)?;
    file.sync_all()?;
    fs::rename(&fresh, &path)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_of_a_development_cluster_is_found_by_name_and_by_address() {
        let folder = tempfile::tempdir().unwrap();
        for node in ["n1", "n2", "n10"] {
            fs::create_dir(folder.path().join(node)).unwrap();
            fs::write(folder.path().join(node).join(SOCKET), "").unwrap();
        }
        let named = |node: &str| dev_node(folder.path(), node);
        assert_eq!(named("n2"), Some(folder.path().join("n2").join(SOCKET)));
        assert_eq!(named("127.0.0.10:7400"), Some(folder.path().join("n10").join(SOCKET)));
        assert_eq!((named("n3"), named("10.0.0.1"), named("../n1"), named("n")), (None, None, None, None));
        let order: Vec<String> = dev_sockets(folder.path()).into_iter().map(|(name, _)| name).collect();
        assert_eq!(order, ["n1", "n2", "n10"]);
    }

    #[test]
    fn the_node_that_an_instance_runs_on_is_not_the_one_that_is_asked() {
        let person = |variable: &str| (variable == "HIRSEL_NODE").then(|| "10.0.0.2".to_owned());
        let instance = |variable: &str| match variable {
            "HIRSEL_NODE" => Some("3".to_owned()),
            "HIRSEL_INSTANCE" => Some("shop/web/17".to_owned()),
            _ => None,
        };
        assert_eq!(named(None, person).as_deref(), Some("10.0.0.2"));
        assert_eq!(named(Some("n1".into()), person).as_deref(), Some("n1"), "flags beat the environment");
        assert_eq!(named(None, instance), None);
        assert_eq!(named(Some("n1".into()), instance).as_deref(), Some("n1"));
        assert_eq!(named(None, |_| Some(String::new())), None);
    }

    #[tokio::test]
    async fn the_folder_of_one_agent_is_asked_through_its_socket() {
        let folder = tempfile::tempdir().unwrap();
        let ask = AskArgs { data: Some(folder.path().into()), ..AskArgs::default() };
        let error = find(&ask).await.unwrap().get::<()>("/v1/status").await.err().unwrap();
        assert_eq!(error.code, Code::Unreachable);
        assert!(!error.next.is_empty());
    }
}
