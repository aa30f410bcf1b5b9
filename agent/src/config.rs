//! The agent's own configuration: flags beat environment beats file. (What the *operator wants of the cluster* is the spec.)

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use hirsel_model::control::limits::ACTION_LIST_MAX;
use hirsel_model::manifest::size;
use hirsel_model::spec::{Block, Capacity};
use hirsel_model::{NodeName, ZoneName};
use hirsel_role::{Addresses, CACHE_BYTES, RoleConfig};
use serde::Deserialize;

use crate::args::NodeArgs;
use crate::digest;

mod dns;
mod storage;

/// The one port number between hosts.
pub const MESH_PORT: u16 = 7400;
/// Where the configuration is looked for when none is named.
pub const CONFIG_FILE: &str = "/etc/hirsel/hirsel.toml";
/// Where data is kept when no folder is named.
pub const DATA_FOLDER: &str = "/var/lib/hirsel";
/// More memory than this no host has.
const CACHE_BYTES_MAX: u64 = 1 << 40;
/// Disk for the same: more than a node has.
const CACHE_DISK_BYTES_MAX: u64 = 1 << 46;
/// A node carries few labels; each travels in the control state.
const LABELS_MAX: usize = 32;

/// How this agent presents itself and where it keeps its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What people call it. A name that is taken gets a number appended at admission.
    pub name: NodeName,
    /// Address of the mesh on this host.
    pub bind: SocketAddr,
    /// Address other nodes are told.
    pub advertise: SocketAddr,
    /// Address of public services.
    pub public: IpAddr,
    /// Addresses at which the public reaches those, where names tell them; never empty.
    pub told_public: Vec<IpAddr>,
    /// Address instances listen on.
    pub instance_host: IpAddr,
    /// Failure domain.
    pub zone: ZoneName,
    /// Data centre.
    pub site: ZoneName,
    /// For constraints.
    pub labels: BTreeMap<String, String>,
    /// What the host has to give.
    pub capacity: Capacity,
    /// Data folder.
    pub data: PathBuf,
    /// For the roles.
    pub roles: RoleConfig,
}

/// The file. Unknown keys are refused, with the nearest valid one.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    name: Option<String>,
    addr: Option<String>,
    advertise: Option<SocketAddr>,
    bind: Option<IpAddr>,
    zone: Option<String>,
    site: Option<String>,
    labels: BTreeMap<String, String>,
    data: Option<PathBuf>,
    lb: LbFile,
    compute: ComputeFile,
    dns: DnsFile,
    storage: storage::StorageFile,
    address: AddressFile,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LbFile {
    http_port: Option<u16>,
    https_port: Option<u16>,
    http3: Option<bool>,
    accept_proxy: Vec<String>,
    cache: Option<String>,
    cache_disk: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ComputeFile {
    host: Option<IpAddr>,
    ports: Option<(u16, u16)>,
    run_as: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct DnsFile {
    listen: Option<String>,
    zones: Vec<String>,
    public: Vec<IpAddr>,
    forward: Vec<String>,
    forward_for: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct AddressFile {
    hook: Option<PathBuf>,
}

impl Config {
    /// What other nodes are told of where this one is reached.
    pub fn addresses(&self) -> Addresses {
        // A loopback address is the same host everywhere, unless a whole cluster lives on one.
        let reached = !self.instance_host.is_loopback() || self.instance_host == self.advertise.ip();
        Addresses { public: self.told_public.clone(), instances: reached.then_some(self.instance_host) }
    }

    /// The same as it is gossiped.
    pub fn told_addresses(&self) -> String {
        digest::write_addresses(&self.addresses())
    }

    /// The configuration of the agent that these flags describe. `seed`, the address of a node to join, tells which of this host's
    /// addresses others see.
    pub fn load(args: &NodeArgs, seed: Option<SocketAddr>) -> Result<Self> {
        let file = read_file(args.config.as_deref())?;
        let bind = match args.addr.as_ref().or(file.addr.as_ref()) {
            Some(text) => parse_addr(text)?,
            None => SocketAddr::new(address_towards(seed), MESH_PORT),
        };
        let name = args.name.clone().or(file.name).unwrap_or_else(host_name);
        let name: NodeName = name.parse().with_context(|| format!("node name {name:?}; choose one with --name"))?;
        let zone = args.zone.clone().or(file.zone).unwrap_or_else(|| name.to_string());
        let site = args.site.clone().or(file.site).unwrap_or_else(|| "default".into());
        let mut labels = file.labels;
        for label in &args.labels {
            let (key, value) =
                label.split_once('=').with_context(|| format!("--label {label:?}: expected KEY=VALUE"))?;
            labels.insert(key.into(), value.into());
        }
        if labels.len() > LABELS_MAX {
            bail!("{} labels exceed {LABELS_MAX}", labels.len());
        }
        let defaults = RoleConfig::default();
        let (port_first, port_last) = file.compute.ports.unwrap_or((defaults.port_first, defaults.port_last));
        if port_first == 0 || port_first >= port_last {
            bail!("compute.ports = [{port_first}, {port_last}]: expected the first port below the last");
        }
        let advertise = args.advertise.or(file.advertise).unwrap_or(bind);
        let public = args.bind.or(file.bind).unwrap_or(bind.ip());
        // Several nodes of one host share its loopback: each then uses its own address on it.
        let own_host = if bind.ip().is_loopback() { bind.ip() } else { Ipv4Addr::LOCALHOST.into() };
        let instance_host = file.compute.host.unwrap_or(own_host);
        if instance_host.is_unspecified() {
            bail!("compute.host = \"{instance_host}\" is no address that others can be told; name one of this host");
        }
        let s3 = storage::listen(args.s3.as_deref(), file.storage.s3.as_ref(), public)?;
        let (s3_domains, web_domains) = storage::domains(&file.storage)?;
        let dns_at = dns::listen(args.dns.as_deref().or(file.dns.listen.as_deref()), public)?;
        Ok(Self {
            zone: zone.parse().with_context(|| format!("zone {zone:?}"))?,
            site: site.parse().with_context(|| format!("site {site:?}"))?,
            name,
            bind,
            advertise,
            public,
            told_public: dns::told_public(file.dns.public, public, advertise.ip())?,
            instance_host,
            labels,
            capacity: host_capacity(),
            data: data_folder(args.data.clone().or(file.data)),
            roles: RoleConfig {
                mesh_port: bind.port(),
                http_port: args.http_port.or(file.lb.http_port).unwrap_or(defaults.http_port),
                https_port: args.https_port.or(file.lb.https_port).unwrap_or(defaults.https_port),
                http3: args.http3.or(file.lb.http3).unwrap_or(defaults.http3),
                accept_proxy: blocks(args.accept_proxy.iter().chain(&file.lb.accept_proxy))?,
                cache_bytes: cache(args.cache.as_ref().or(file.lb.cache.as_ref()))?,
                cache_disk_bytes: cache_disk(args.cache_disk.as_ref().or(file.lb.cache_disk.as_ref()))?,
                port_first,
                port_last,
                run_as: run_as(args.run_as.clone().or(file.compute.run_as)),
                dns: dns_at,
                dns_zones: dns::zones(&file.dns.zones)?,
                dns_forward: dns::forward(&file.dns.forward, dns_at)?,
                dns_forward_for: dns::forward_for(&file.dns.forward_for, &file.dns.forward)?,
                s3,
                s3_region: storage::region(file.storage.region)?,
                repair_rate: storage::repair_rate(file.storage.repair_rate.as_ref())?,
                storage_bytes: storage::capacity(args.storage_capacity.as_ref().or(file.storage.capacity.as_ref()))?,
                s3_domains,
                web_domains,
                storage_disk: file.storage.disk.map(storage::disk).transpose()?,
                address_hook: file.address.hook.map(hook).transpose()?,
            },
        })
    }
}

/// Checked where somebody reads what is said, and not when an address has just moved here.
fn hook(path: PathBuf) -> Result<String> {
    let executable =
        |path: &Path| std::fs::metadata(path).is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0);
    if !path.is_absolute() || !executable(&path) {
        bail!("address.hook = {path:?}: expected the absolute path of a program");
    }
    path.into_os_string().into_string().map_err(|path| anyhow!("address.hook = {path:?} is no text"))
}

/// The folder named, or the usual one.
pub fn data_folder(named: Option<PathBuf>) -> PathBuf {
    named.unwrap_or_else(|| DATA_FOLDER.into())
}

/// `IP` or `IP:PORT`, the port being [`MESH_PORT`] when it is not written.
pub fn parse_addr(text: &str) -> Result<SocketAddr> {
    if let Ok(addr) = text.parse::<SocketAddr>() {
        return Ok(addr);
    }
    let ip: IpAddr = text
        .trim_matches(['[', ']'])
        .parse()
        .with_context(|| format!("{text:?} is no address; expected IP or IP:PORT, for example 10.0.0.1:7400"))?;
    Ok(SocketAddr::new(ip, MESH_PORT))
}

/// Addresses that may say by the PROXY protocol whom they connect for.
fn blocks<'a>(texts: impl Iterator<Item = &'a String>) -> Result<Vec<Block>> {
    let blocks = texts.map(|text| text.parse::<Block>().map_err(|why| anyhow!("accept_proxy: {why}")));
    let blocks: Vec<Block> = blocks.collect::<Result<_>>()?;
    if blocks.len() > ACTION_LIST_MAX {
        bail!("{} blocks of addresses in accept_proxy exceed {ACTION_LIST_MAX}", blocks.len());
    }
    Ok(blocks)
}

/// Memory for answers that are kept.
fn cache(text: Option<&String>) -> Result<u64> {
    let Some(text) = text else { return Ok(CACHE_BYTES) };
    let bytes = size(text).map_err(|why| anyhow!("cache: {why}"))?;
    if bytes > CACHE_BYTES_MAX {
        bail!("cache: {text:?} is more than 1TiB");
    }
    Ok(bytes)
}

/// Disk for answers that are kept.
fn cache_disk(text: Option<&String>) -> Result<u64> {
    let Some(text) = text else { return Ok(0) };
    let bytes = size(text).map_err(|why| anyhow!("cache_disk: {why}"))?;
    if bytes > CACHE_DISK_BYTES_MAX {
        bail!("cache_disk: {text:?} is more than 64TiB");
    }
    Ok(bytes)
}

/// Who programs run as. Only root can choose, and then it does not lend them its own power unless it is told to.
fn run_as(named: Option<String>) -> Option<String> {
    match named.as_deref() {
        _ if !rustix::process::geteuid().is_root() => None,
        Some("self") => None,
        Some(_) => named,
        None => Some("nobody".into()),
    }
}

fn read_file(named: Option<&Path>) -> Result<File> {
    let path = named.unwrap_or(Path::new(CONFIG_FILE));
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && named.is_none() => return Ok(File::default()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    toml::from_str(&text).with_context(|| format!("in {}", path.display()))
}

/// The address of this host that `seed` (or the default route) would see. No packet is sent: connecting a UDP socket only asks the
/// routing table.
fn address_towards(seed: Option<SocketAddr>) -> IpAddr {
    let target = seed.unwrap_or(SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), MESH_PORT)));
    let any: SocketAddr =
        if target.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (std::net::Ipv6Addr::UNSPECIFIED, 0).into() };
    UdpSocket::bind(any)
        .and_then(|socket| socket.connect(target).and_then(|()| socket.local_addr()))
        .map_or(Ipv4Addr::LOCALHOST.into(), |addr| addr.ip())
}

fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    name.split('.').next().unwrap_or_default().replace('_', "-")
}

fn host_capacity() -> Capacity {
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let info = rustix::system::sysinfo();
    Capacity { cpu_millis: cpus * 1000, memory_bytes: info.totalram * u64::from(info.mem_unit) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_leave_the_port_out() {
        assert_eq!(parse_addr("10.0.0.1").unwrap(), "10.0.0.1:7400".parse().unwrap());
        assert_eq!(parse_addr("10.0.0.1:9").unwrap(), "10.0.0.1:9".parse().unwrap());
        assert_eq!(parse_addr("::1").unwrap(), "[::1]:7400".parse().unwrap());
        assert!(parse_addr("host").unwrap_err().to_string().contains("expected IP"));
    }

    #[test]
    fn flags_beat_the_file_and_an_unknown_key_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hirsel.toml");
        std::fs::write(&path, "name = \"a\"\nzone = \"z\"\n[lb]\nhttp_port = 81\nhttp3 = false\n").unwrap();
        let mut args = NodeArgs { config: Some(path.clone()), addr: Some("127.0.0.3".into()), ..NodeArgs::default() };
        args.zone = Some("y".into());
        let config = Config::load(&args, None).unwrap();
        assert_eq!((config.name.as_str(), config.zone.as_str(), config.roles.http_port), ("a", "y", 81));
        assert_eq!(config.instance_host, config.bind.ip());
        assert!(!config.roles.http3);
        args.http3 = Some(true);
        assert!(Config::load(&args, None).unwrap().roles.http3);
        std::fs::write(&path, "nmae = \"a\"\n").unwrap();
        assert!(format!("{:#}", Config::load(&args, None).unwrap_err()).contains("nmae"));
    }

    #[test]
    fn balancers_before_this_one_are_named_by_flags_and_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hirsel.toml");
        std::fs::write(&path, "name = \"a\"\n[lb]\naccept_proxy = [\"10.0.0.7\"]\n").unwrap();
        let flags = ["fd00::/8".to_owned()].into();
        let args =
            NodeArgs { config: Some(path), addr: Some("127.0.0.3".into()), accept_proxy: flags, ..NodeArgs::default() };
        let shown = |blocks: &[Block]| blocks.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(shown(&Config::load(&args, None).unwrap().roles.accept_proxy), ["fd00::/8", "10.0.0.7/32"]);
        let args = NodeArgs { accept_proxy: ["10.0.0.0/33".to_owned()].into(), ..args };
        let told = format!("{:#}", Config::load(&args, None).unwrap_err());
        assert!(told.starts_with("accept_proxy: \"10.0.0.0/33\" is no block of addresses"), "{told}");
    }

    #[test]
    fn a_hook_is_a_program_with_its_whole_path() {
        let folder = tempfile::tempdir().unwrap();
        let (path, program) = (folder.path().join("hirsel.toml"), folder.path().join("hook"));
        let load = |named: &str| {
            std::fs::write(&path, format!("name = \"a\"\n[address]\nhook = \"{named}\"\n")).unwrap();
            let addr = Some("127.0.0.3".into());
            Config::load(&NodeArgs { config: Some(path.clone()), addr, ..NodeArgs::default() }, None)
        };
        let named = program.to_str().unwrap();
        let is_refused =
            |named: &str| format!("{:#}", load(named).unwrap_err()).contains("the absolute path of a program");
        assert!(is_refused("move-address") && is_refused(named));
        std::fs::write(&program, "#!/bin/sh\n").unwrap();
        assert!(is_refused(named), "it may not be run");
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        assert_eq!(load(named).unwrap().roles.address_hook.as_deref(), Some(named));
    }

    #[test]
    fn memory_for_answers_that_are_kept_is_named_by_a_flag_or_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hirsel.toml");
        std::fs::write(&path, "name = \"a\"\n[lb]\ncache = \"1GiB\"\ncache_disk = \"10GiB\"\n").unwrap();
        let args = NodeArgs { config: Some(path), addr: Some("127.0.0.3".into()), ..NodeArgs::default() };
        assert_eq!(Config::load(&args, None).unwrap().roles.cache_bytes, 1 << 30);
        let with = |text: &str| Config::load(&NodeArgs { cache: Some(text.into()), ..args.clone() }, None);
        assert_eq!(with("0B").unwrap().roles.cache_bytes, 0);
        assert_eq!(with("0B").unwrap().roles.cache_disk_bytes, 10 << 30);
        let disk = |text: &str| Config::load(&NodeArgs { cache_disk: Some(text.into()), ..args.clone() }, None);
        assert_eq!(disk("1GiB").unwrap().roles.cache_disk_bytes, 1 << 30);
        assert!(format!("{:#}", disk("65TiB").unwrap_err()).starts_with("cache_disk: \"65TiB\" is more than 64TiB"));
        for (text, says) in [("64", "cache: \"64\" has no unit"), ("2TiB", "cache: \"2TiB\" is more than 1TiB")] {
            assert!(format!("{:#}", with(text).unwrap_err()).starts_with(says), "{text}");
        }
    }
}
