//! Hosts with a network of their own: namespaces on one bridge. Needs root; cables are cut in an nftables *bridge* table.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::LOOK_EVERY;

/// Whether this machine can do it.
pub fn is_possible() -> bool {
    let has = |program: &str| {
        ["/usr/sbin", "/sbin", "/usr/bin"].iter().any(|folder| Path::new(folder).join(program).exists())
    };
    rustix::process::geteuid().is_root() && has("ip") && has("nft")
}

/// Hosts on one bridge. Dropping it takes everything away.
pub struct Network {
    tag: String,
    subnet: u8,
    count: u8,
}

fn sh(script: &str) {
    let output = Command::new("sh").args(["-ec", script]).output().expect("sh runs");
    assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
}

impl Network {
    /// A network of `count` hosts, which can also be reached from here.
    ///
    /// # Panics
    /// When the machine does not let us.
    pub fn new(count: u8) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let first = std::process::id().wrapping_mul(8).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        // A test that was killed leaves its network behind: what its bridge has is not taken again.
        let network = (0..250).map(|step| Self::numbered(first.wrapping_add(step), count)).find(Self::is_free);
        let network = network.expect("a network is free");
        let (tag, gate) = (&network.tag, network.address(254));
        sh(&format!(
            "ip link add {tag}br type bridge; ip addr add {gate}/24 dev {tag}br; ip link set {tag}br up; \
             nft add table bridge {tag}; nft 'add chain bridge {tag} f {{ type filter hook forward priority 0; }}'; \
             nft 'add chain bridge {tag} i {{ type filter hook input priority 0; }}'; \
             nft 'add chain bridge {tag} o {{ type filter hook output priority 0; }}'"
        ));
        for host in 1..=count {
            let ip = network.address(host);
            sh(&format!(
                "ip netns add {tag}n{host}; ip link add {tag}v{host} type veth peer name eth0 netns {tag}n{host}; \
                 ip link set {tag}v{host} master {tag}br up; ip -n {tag}n{host} addr add {ip}/24 dev eth0; \
                 ip -n {tag}n{host} link set eth0 up; ip -n {tag}n{host} link set lo up; \
                 ip -n {tag}n{host} route add default via {gate}"
            ));
        }
        network
    }

    /// Gives each host a second interface, `eth1`, on a bridge of its own.
    ///
    /// # Panics
    /// When the machine does not let us.
    pub fn add_second(&self) {
        let tag = &self.tag;
        sh(&format!("ip link add {tag}bs type bridge; ip link set {tag}bs up"));
        for host in 1..=self.count {
            let ip = self.second_address(host);
            sh(&format!(
                "ip link add {tag}w{host} type veth peer name eth1 netns {tag}n{host}; ip link set {tag}w{host} master {tag}bs up; \
                 ip -n {tag}n{host} addr add {ip}/24 dev eth1; ip -n {tag}n{host} link set eth1 up"
            ));
        }
    }

    /// The address of a host on its second interface.
    pub fn second_address(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 214, self.subnet, host)
    }

    fn numbered(number: u32, count: u8) -> Self {
        // Names of interfaces have 15 bytes at most.
        Self { tag: format!("h{:x}", number % 0xffff), subnet: (number % 250) as u8 + 1, count }
    }

    fn is_free(&self) -> bool {
        let (tag, gate) = (&self.tag, self.address(254));
        let taken = format!(
            "ip -o addr show to {gate}/24; ip -o link show {tag}br 2>/dev/null; ip -o link show {tag}bs 2>/dev/null; ip netns list | grep ^{tag}n"
        );
        let output = Command::new("sh").args(["-c", &taken]).output().expect("sh runs");
        output.stdout.is_empty()
    }

    /// The address of a host, counted from one.
    pub fn address(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, self.subnet, host)
    }

    /// What a command on this host begins with.
    pub fn prefix(&self, host: u8) -> Vec<String> {
        ["ip", "netns", "exec", &format!("{}n{host}", self.tag)].map(str::to_string).to_vec()
    }

    /// Pulls the cable of a host: nothing is refused, packets vanish.
    pub fn cut(&self, host: u8) {
        self.cut_wire(&format!("{}v{host}", self.tag));
    }

    /// Pulls the second cable of a host.
    pub fn cut_second(&self, host: u8) {
        self.cut_wire(&format!("{}w{host}", self.tag));
    }

    fn cut_wire(&self, wire: &str) {
        let tag = &self.tag;
        sh(&format!(
            "for c in f i; do nft add rule bridge {tag} $c iifname {wire} drop; done; \
             for c in f o; do nft add rule bridge {tag} $c oifname {wire} drop; done"
        ));
    }

    /// Cuts the bridge between two groups of hosts: within each all goes on.
    pub fn split(&self, one: &[u8], other: &[u8]) {
        let tag = &self.tag;
        let names = |hosts: &[u8]| hosts.iter().map(|host| format!("{tag}v{host}")).collect::<Vec<_>>().join(", ");
        let (one, other) = (names(one), names(other));
        sh(&format!(
            "nft 'add rule bridge {tag} f iifname {{ {one} }} oifname {{ {other} }} drop'; \
             nft 'add rule bridge {tag} f iifname {{ {other} }} oifname {{ {one} }} drop'"
        ));
    }

    /// Lets only packets of so many bytes pass towards a host, and drops larger ones without a word.
    pub fn narrow(&self, host: u8, bytes: u16) {
        let tag = &self.tag;
        // A length is that of the frame's content here, headers of IP included.
        sh(&format!(
            "for c in f o; do nft add rule bridge {tag} $c oifname {tag}v{host} ip length gt {bytes} drop; done"
        ));
    }

    /// Begins to watch what is still sent over TCP towards a host whose cable is cut: attempts to connect, and pieces of data on
    /// connections that were open. What is only sent again counts once.
    pub fn watch(&self, host: u8) -> Watch {
        let tag = &self.tag;
        // Before the rules that drop. The kernel sends again from the same sequence number, with longer and longer pauses.
        sh(&format!("nft 'add chain bridge {tag} w {{ type filter hook forward priority -10; }}'"));
        let kinds = [("dials", "syn | ack", "syn"), ("data", "psh", "psh")];
        let [dials, data] = kinds.map(|(kind, mask, flag)| {
            let set = format!("{kind}{host}");
            sh(&format!(
                "nft 'add set bridge {tag} {set} {{ typeof ip saddr . tcp sport . tcp sequence; size 65535; flags dynamic; }}'; \
                 nft flush set bridge {tag} {set}; \
                 nft 'add rule bridge {tag} w oifname {tag}v{host} tcp flags & ({mask}) == {flag} add @{set} \
                      {{ ip saddr . tcp sport . tcp sequence }}'"
            ));
            format!("nft -j list set bridge {tag} {set}")
        });
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, began) = (stop.clone(), Instant::now());
        let thread = std::thread::spawn(move || {
            let mut seen = Seen::default();
            while !stopped.load(Ordering::Relaxed) {
                let now = began.elapsed();
                for (list, into) in [(&dials, &mut seen.dials), (&data, &mut seen.data)] {
                    for (piece, from) in pieces(list) {
                        into.entry(piece).or_insert((from, now));
                    }
                }
                std::thread::sleep(LOOK_EVERY);
            }
            seen
        });
        Watch { stop, thread }
    }

    /// Harms the cable of a host in one of several ways.
    pub fn harm(&self, host: u8, wire: Wire) {
        let tag = &self.tag;
        let drop_from = format!("for c in f i; do nft add rule bridge {tag} $c iifname {tag}v{host} drop; done");
        let drop_to = format!("for c in f o; do nft add rule bridge {tag} $c oifname {tag}v{host} drop; done");
        match wire {
            Wire::Cut => self.cut(host),
            Wire::Mute => sh(&drop_from),
            Wire::Deaf => sh(&drop_to),
            Wire::Loses(percent) => sh(&format!(
                "nft add rule bridge {tag} f iifname {tag}v{host} numgen random mod 100 lt {percent} drop; \
                 nft add rule bridge {tag} f oifname {tag}v{host} numgen random mod 100 lt {percent} drop"
            )),
        }
    }

    /// Plugs all cables in.
    pub fn heal(&self) {
        sh(&format!("nft flush table bridge {}", self.tag));
    }

    /// Where the namespace of a host is.
    pub fn name_space(&self, host: u8) -> PathBuf {
        Path::new("/var/run/netns").join(format!("{}n{host}", self.tag))
    }

    /// Gives the interface of a host another address, with the bits of its network.
    pub fn give(&self, host: u8, address: &str) {
        sh(&format!("ip -n {}n{host} addr add {address} dev eth0 nodad", self.tag));
    }

    /// Whether a host has this address on one of its interfaces.
    pub fn has(&self, host: u8, address: IpAddr) -> bool {
        let output = Command::new("ip").args(["-n", &format!("{}n{host}", self.tag), "-o", "addr"]).output();
        let text = String::from_utf8_lossy(&output.expect("ip runs").stdout).into_owned();
        text.lines().any(|line| line.contains(&format!(" {address}/")))
    }

    /// Ports on which processes in this host listen, beyond loopback: `udp 7400` and so on.
    pub fn listening(&self, host: u8) -> Vec<String> {
        let output =
            Command::new("ip").args(["netns", "exec", &format!("{}n{host}", self.tag)]).args(["ss", "-Hlntu"]).output();
        let text = String::from_utf8_lossy(&output.expect("ss runs").stdout).into_owned();
        let sockets = text.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (ip, port) = fields.get(4)?.rsplit_once(':')?;
            (!ip.starts_with("127.") && ip != "[::1]").then(|| format!("{} {port}", fields[0]))
        });
        let mut sockets: Vec<String> = sockets.collect();
        sockets.sort();
        sockets.dedup();
        sockets
    }
}

/// What may be wrong with a cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// Nothing passes.
    Cut,
    /// Nothing leaves the host.
    Mute,
    /// Nothing reaches the host.
    Deaf,
    /// So many packets of a hundred are lost, each way.
    Loses(u8),
}

/// The pieces in the set that `list` lists, each with who sent it.
fn pieces(list: &str) -> Vec<(String, String)> {
    let output = Command::new("sh").args(["-ec", list]).output().expect("sh runs");
    let listed: Value = serde_json::from_slice(&output.stdout).expect("nft lists in JSON");
    let sets = listed["nftables"].as_array().into_iter().flatten();
    let elements = sets.filter_map(|item| item["set"]["elem"].as_array()).flatten();
    let piece = |element: &Value| {
        let from = element["concat"][0].as_str().expect("an element begins with an address");
        (element.to_string(), from.to_owned())
    };
    elements.map(piece).collect()
}

/// What a [`Watch`] saw: of each piece who sent it, and when it was first seen, since the watch began.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Attempts to connect.
    pub dials: BTreeMap<String, (String, Duration)>,
    /// Data on connections that were open.
    pub data: BTreeMap<String, (String, Duration)>,
}

/// Watches what is sent to a host.
pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

impl Watch {
    /// Ends the watch.
    ///
    /// # Panics
    /// When the machine stopped letting us look.
    pub fn end(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the watch goes on")
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let tag = &self.tag;
        let hosts: Vec<String> = (1..=self.count).map(|host| format!("ip netns del {tag}n{host}")).collect();
        let script =
            format!("{}; ip link del {tag}br; ip link del {tag}bs; nft delete table bridge {tag}", hosts.join("; "));
        // Whatever of it is there.
        let _ = Command::new("sh").args(["-c", &script]).output();
    }
}
