//! What `doctor` says: facts about a host and the ways between nodes, each held against a limit, with the next command. Pure.

use hirsel_mesh::transport::{Carried, DATAGRAM_BYTES, HEADERS_BYTES};
use hirsel_model::WallTime;
use hirsel_model::certificate::{Age, LATE_MS, age};
use hirsel_model::report::RoleState;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::sight::{Sight, Standing, people_order};
use super::views::{acme, certificates, storage, zones};

/// Clocks further apart than this make the times in logs misleading, and tokens expire early or late.
const CLOCK_WARN_MS: u64 = 1_000;
/// Beyond this certificates and tokens of one node are not good on another.
const CLOCK_FAIL_MS: u64 = 300_000;
/// A durable write that takes longer costs every change of the cluster as much.
const SYNC_WARN_MS: u64 = 25;
/// A durable write that takes longer than the shortest election timeout endangers the leadership.
const SYNC_FAIL_MS: u64 = 400;
/// Free space below which a log that grows, and a snapshot beside it, may not fit.
const SPACE_WARN_BYTES: u64 = 1 << 30;
const SPACE_FAIL_BYTES: u64 = 64 << 20;
/// Every connection is an open file; a load balancer has tens of thousands.
const FILES_WARN: u64 = 65_536;
const FILES_FAIL: u64 = 1_024;
const DAY_MS: u64 = 86_400_000;
/// The wall clock may move this much against the monotonic one while it is looked at.
const DRIFT_WARN_MS: u64 = 200;

/// What was found, before it is judged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// What was found out about this host.
    pub host: HostFindings,
    /// When the certificate of this node ends, in seconds since 1970; none before joining.
    pub certificate_ends: Option<u64>,
    /// The ways to the others: members, or the seed before joining.
    pub peers: Vec<PeerFindings>,
}

/// What was found out about a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFindings {
    /// Time that one durable write to the data folder took, on average and at worst, in milliseconds; or why there was none.
    pub sync: Option<Result<(u64, u64), String>>,
    /// Free and all bytes of the file system of the data folder.
    pub space: Option<(u64, u64)>,
    /// Whether space is kept for the control log; none before joining.
    pub reserve: Option<bool>,
    /// Most files that the agent may have open.
    pub open_files: Option<u64>,
    /// How far the wall clock moved against the monotonic one meanwhile, in milliseconds.
    pub drift_ms: u64,
    /// The wall clock.
    pub wall: WallTime,
    /// Whether the agent was started by systemd; none where that does not matter.
    pub supervised: Option<bool>,
    /// The guard: how many processes it guards, or why it does not answer; none while nothing needs one.
    pub guard: Option<Result<usize, String>>,
    /// Whom instances run as; none when the question does not arise.
    pub user: Option<User>,
    /// Where names are answered, or why they are not; none where they shall not be.
    pub names: Option<Result<String, String>>,
    /// How many floating addresses are held here, or why none can be; none while none are wanted.
    pub addresses: Option<Result<usize, String>>,
    /// Whether the mesh's port could be bound here, before joining: what is in the way.
    pub port_taken: Option<Result<(), String>>,
}

/// Whom instances run as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum User {
    /// The agent's own user, which is not root.
    Own,
    /// The agent's own user, which is root.
    Root,
    /// A user of this name, who exists or not.
    Named(String, bool),
}

/// A way to another node, and back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerFindings {
    /// Its name, or the address of a seed.
    pub name: String,
    /// TCP there.
    pub tcp: Way,
    /// UDP there, with a full packet.
    pub udp: Way,
    /// How large packets may be there.
    pub sizes: Option<Sizes>,
    /// What the agent there answered; none before joining.
    pub answer: Option<Result<Answered, String>>,
}

/// What an agent answered that was asked to look back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answered {
    /// Its wall clock less ours, in milliseconds, as far as the way there and back lets us know.
    pub offset_ms: i64,
    /// TCP from there to here.
    pub tcp: Way,
    /// UDP from there to here, with a full packet.
    pub udp: Way,
    /// How large packets may be from there to here.
    pub sizes: Option<Sizes>,
    /// The version of the agent there.
    pub version: String,
}

/// How large packets may be one way, in bytes with all headers of IP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sizes {
    /// The largest that the host sends in one piece, as far as it knows.
    pub mtu: Option<u64>,
    /// The largest that arrived; none if none did.
    pub arrived: Option<u64>,
    /// The largest that was tried.
    pub tried: u64,
}

impl From<Carried> for Sizes {
    fn from(Carried { mtu, arrived, tried }: Carried) -> Self {
        Self { mtu, arrived, tried }
    }
}

/// One way: how long there and back takes, or why there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Way {
    /// Milliseconds there and back.
    pub ms: Option<u64>,
    /// What went wrong.
    pub error: Option<String>,
}

impl From<std::io::Result<std::time::Duration>> for Way {
    fn from(knocked: std::io::Result<std::time::Duration>) -> Self {
        match knocked {
            Ok(took) => Way { ms: Some(u64::try_from(took.as_millis()).unwrap_or(u64::MAX)), error: None },
            Err(error) => Way { ms: None, error: Some(error.to_string()) },
        }
    }
}

/// All checks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Doctor {
    /// The worst state of all.
    pub state: String,
    /// One by one.
    pub checks: Vec<Check>,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Check {
    /// `clock`, `tcp`, `udp`, `mtu`, `disk`, `space`, `reserve`, `files`, `versions`, `certificate`, `unit`, `guard`, `user`, `dns`, `address`, `objects`, `port`.
    pub check: String,
    /// What was looked at: this node, or `n1 -> n2`.
    pub subject: String,
    /// `ok`, `warning`, `failed`.
    pub state: String,
    /// What was found.
    pub value: String,
    /// What it is held against.
    pub limit: String,
    /// The next command, where there is something to do.
    pub next: Option<String>,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Grade {
    Ok,
    Warning,
    Failed,
}

impl Grade {
    fn word(self) -> &'static str {
        match self {
            Grade::Ok => "ok",
            Grade::Warning => "warning",
            Grade::Failed => "failed",
        }
    }

    /// High values are bad.
    fn above(value: u64, warn: u64, fail: u64) -> Self {
        match value {
            _ if value > fail => Grade::Failed,
            _ if value > warn => Grade::Warning,
            _ => Grade::Ok,
        }
    }

    /// Low values are bad.
    fn below(value: u64, warn: u64, fail: u64) -> Self {
        match value {
            _ if value < fail => Grade::Failed,
            _ if value < warn => Grade::Warning,
            _ => Grade::Ok,
        }
    }
}

fn check(what: &str, subject: &str, grade: Grade, value: impl Into<String>, limit: &str, next: &str) -> Check {
    Check {
        check: what.into(),
        subject: subject.into(),
        state: grade.word().into(),
        value: value.into(),
        limit: limit.into(),
        next: (grade != Grade::Ok).then(|| next.into()),
    }
}

/// Judges what was found on the node that is asked.
pub fn doctor(sight: &Sight, found: &Findings) -> Doctor {
    let me = sight.name(sight.me);
    let mut checks = host(&me, &found.host);
    if let Some(ends) = found.certificate_ends {
        let left = ends.saturating_sub(found.host.wall.0 / 1000);
        let grade = Grade::below(left, certificates::LATE_S, 1);
        let value = if left == 0 { "expired".into() } else { format!("good for {} days", left / 86_400) };
        let limit = "renewed when 20 days are left";
        checks.push(check("certificate", &me, grade, value, limit, "hirsel events: why it is not renewed"));
    }
    checks.extend(late_certificates(sight, &me));
    checks.extend(front_certificates(sight));
    let told = acme::warnings(sight).into_iter();
    checks.extend(told.map(|words| {
        check("certificate", "automatic", Grade::Warning, words, "one for each host that asks", "hirsel cert acme show")
    }));
    let told = zones::to_do(sight).into_iter();
    checks.extend(told.map(|words| {
        check("dnssec", "zones", Grade::Warning, words, "signed, and named by the zone above", "hirsel dns list")
    }));
    checks.extend(storage(sight));
    let mut peers: Vec<&PeerFindings> = found.peers.iter().collect();
    peers.sort_by(|one, other| people_order(&one.name, &other.name));
    for peer in peers {
        let node = sight.state.spec.node_named(&peer.name).map(|(id, _)| id);
        let down = node.is_some_and(|node| sight.standing(node) == Standing::Down);
        checks.extend(ways(&me, peer, down));
    }
    checks.push(versions(sight, found));
    judged(checks)
}

/// What is stored: each disk, how many nodes there are for it, and who votes over the metadata.
fn storage(sight: &Sight) -> Vec<Check> {
    let Some(seen) = storage::storage(sight) else { return Vec::new() };
    let mut checks: Vec<Check> = storage::disks(sight)
        .into_iter()
        .map(|(node, state, why, free)| {
            let (grade, value) = match (state, why, free) {
                (RoleState::Failed, why, _) => (Grade::Failed, why.unwrap_or_else(|| "the disk does not work".into())),
                (_, Some(why), _) => (Grade::Warning, why),
                (_, None, Some(0)) => (Grade::Warning, "less than a tenth is free".into()),
                (_, None, Some(free)) => (Grade::Ok, format!("{free} tenths are free")),
                (_, None, None) => (Grade::Ok, "no disk is in use yet".into()),
            };
            let next =
                "give it a larger disk (storage.disk in hirsel.toml), or add a node; of a dead one: hirsel drain NODE";
            check("objects", &node, grade, value, "a tenth free, and a disk that takes writes", next)
        })
        .collect();
    let voters = seen.voters.len();
    let (grade, value) = match (storage::has_majority(sight), seen.voters_can_lose) {
        (false, _) => (Grade::Failed, format!("no majority of its {voters} voters is heard")),
        (true, 0) if voters > 2 => (Grade::Warning, format!("any further loss among its {voters} voters stops it")),
        (true, bears) => (Grade::Ok, format!("{voters} voters, {bears} of which may be lost")),
    };
    let next = "hirsel members: bring the nodes back that vote";
    checks.push(check("objects", "metadata", grade, value, "a majority of its voters, and one to spare", next));
    let told = storage::too_few(sight).into_iter();
    checks.extend(told.map(|words| {
        let next = "add nodes, or have less asked for: hirsel bucket set NAME --copies N";
        check("objects", "classes", Grade::Warning, words, "as many nodes as classes ask for", next)
    }));
    checks
}

/// Certificates of the other nodes that are not as they should be, as those say themselves.
fn late_certificates(sight: &Sight, me: &str) -> Vec<Check> {
    let all = certificates::certificates(sight).nodes;
    let late = all.into_iter().filter(|it| it.node != me && matches!(it.state.as_str(), "late" | "expired" | "former"));
    let told = late.map(|it| {
        let grade = if it.state == "expired" { Grade::Failed } else { Grade::Warning };
        let ends = it.ends_at.unwrap_or_default();
        let value = match it.state.as_str() {
            "former" => "of an authority that was replaced".into(),
            state => format!("{state}: it ends at {ends}"),
        };
        check(
            "certificate",
            &it.node,
            grade,
            value,
            "renewed when 20 days are left",
            "hirsel events: why it is not renewed",
        )
    });
    told.collect()
}

/// Certificates of the front door: each that is not good for long, or one line for all of them.
fn front_certificates(sight: &Sight) -> Vec<Check> {
    let named = &sight.state.certificates.named;
    let judge = |age: Age| match age {
        Age::Good => Grade::Ok,
        Age::Early | Age::Late => Grade::Warning,
        Age::Expired => Grade::Failed,
    };
    let all = named.iter().map(|(name, it)| (name, judge(age(name, it, sight.wall)), it));
    let wrong: Vec<_> = all.filter(|(_, grade, _)| *grade != Grade::Ok).collect();
    let limit = format!("good for {} days at least", LATE_MS / DAY_MS);
    if wrong.is_empty() && !named.is_empty() {
        return vec![check("certificate", "front door", Grade::Ok, format!("{} are good", named.len()), &limit, "")];
    }
    let told = wrong.into_iter().map(|(name, grade, it)| {
        let next = match it.automatic.is_some() {
            true => format!("hirsel cert acme show; hirsel cert renew {name}"),
            false => format!("hirsel cert add {name}, renewed"),
        };
        let value = certificates::in_words(sight.wall, &it.facts);
        check("certificate", &format!("certificate/{name}"), grade, value, &limit, &next)
    });
    told.collect()
}

/// Judges what was found on a host that is no member yet.
pub fn before_joining(found: &Findings) -> Doctor {
    let mut checks = host("this host", &found.host);
    for peer in &found.peers {
        checks.extend(ways("this host", peer, false));
    }
    judged(checks)
}

fn judged(checks: Vec<Check>) -> Doctor {
    let worst = ["failed", "warning"].into_iter().find(|state| checks.iter().any(|check| check.state == *state));
    Doctor { state: worst.unwrap_or("ok").into(), checks }
}

fn host(me: &str, found: &HostFindings) -> Vec<Check> {
    let mut checks = vec![check(
        "clock",
        me,
        Grade::above(found.drift_ms, DRIFT_WARN_MS, u64::MAX),
        format!("the wall clock moved {} ms against the monotonic one", found.drift_ms),
        &format!("at most {DRIFT_WARN_MS} ms while it is looked at"),
        "timedatectl: is more than one program setting the time?",
    )];
    if let Some(port) = &found.port_taken {
        let (grade, value) = match port {
            Ok(()) => (Grade::Ok, "free, UDP and TCP".to_string()),
            Err(why) => (Grade::Failed, why.clone()),
        };
        checks.push(check("port", me, grade, value, "free for this host's agent", "ss -lntup: who has it?"));
    }
    match &found.sync {
        Some(Ok((average, worst))) => checks.push(check(
            "disk",
            me,
            Grade::above(*average, SYNC_WARN_MS, SYNC_FAIL_MS).max(Grade::above(*worst, SYNC_FAIL_MS, u64::MAX)),
            format!("a durable write takes {average} ms, at worst {worst} ms"),
            &format!("at most {SYNC_WARN_MS} ms; never {SYNC_FAIL_MS} ms"),
            "choose a faster disk with --data DIR",
        )),
        Some(Err(why)) => {
            let value = format!("cannot be written durably: {why}");
            checks.push(check("disk", me, Grade::Failed, value, "it must take writes", "df -h; dmesg"));
        }
        None => {}
    }
    if let Some((free, all)) = found.space {
        checks.push(check(
            "space",
            me,
            Grade::below(free, SPACE_WARN_BYTES, SPACE_FAIL_BYTES),
            format!("{} MiB of {} MiB are free", free >> 20, all >> 20),
            &format!("at least {} MiB; below {} MiB it fails", SPACE_WARN_BYTES >> 20, SPACE_FAIL_BYTES >> 20),
            "make room, or choose another disk with --data DIR",
        ));
    }
    if let Some(reserve) = found.reserve {
        let (grade, value) = match reserve {
            true => (Grade::Ok, "space is kept for the control log"),
            false => (Grade::Warning, "no space is kept: the disk was, or is, nearly full"),
        };
        let next = "make room: the reserve is then made again";
        checks.push(check("reserve", me, grade, value, "32 MiB that the log takes when the disk is full", next));
    }
    if let Some(files) = found.open_files {
        let next = "hirsel install: its unit raises the limit";
        let grade = Grade::below(files, FILES_WARN, FILES_FAIL);
        checks.push(check("files", me, grade, format!("{files} open files"), &format!("at least {FILES_WARN}"), next));
    }
    if let Some(supervised) = found.supervised {
        let grade = if supervised { Grade::Ok } else { Grade::Warning };
        let value =
            if supervised { "started by systemd" } else { "not started by systemd: it does not start with the host" };
        checks.push(check("unit", me, grade, value, "starts with the host", "hirsel install"));
    }
    if let Some(guard) = &found.guard {
        let (grade, value) = match guard {
            Ok(1) => (Grade::Ok, "keeps the end of 1 grant".to_string()),
            Ok(count) => (Grade::Ok, format!("keeps the ends of {count} grants")),
            Err(why) => (Grade::Failed, format!("no grant is prolonged here: {why}")),
        };
        let next = "ps -C hirsel-guard: does it stand still? another one is tried all the time; hirsel roles";
        checks.push(check("guard", me, grade, value, "answers while something exclusive runs here", next));
    }
    if let Some(user) = &found.user {
        let next = "name a user with --run-as, or compute.run_as in hirsel.toml";
        let (grade, value) = match user {
            User::Own => (Grade::Ok, "instances run as the agent's own user".to_string()),
            User::Root => (Grade::Warning, "instances run as root".to_string()),
            User::Named(name, true) => (Grade::Ok, format!("instances run as {name}")),
            User::Named(name, false) => (Grade::Failed, format!("there is no user {name:?} to run instances as")),
        };
        checks.push(check("user", me, grade, value, "an unprivileged user that exists", next));
    }
    if let Some(names) = &found.names {
        let (grade, value) = match names {
            Ok(addr) => (Grade::Ok, format!("names are answered at {addr}")),
            Err(why) => (Grade::Warning, why.clone()),
        };
        let next = "ss -lntup 'sport = :53': who has the port? Or another address: --dns IP:PORT, or --dns off";
        checks.push(check("dns", me, grade, value, "every node answers names", next));
    }
    if let Some(addresses) = &found.addresses {
        let (grade, value) = match addresses {
            Ok(held) => (Grade::Ok, format!("can hold floating addresses, and holds {held}")),
            Err(why) => (Grade::Warning, why.clone()),
        };
        let next = "hirsel address list; the unit that `hirsel install` writes starts the agent as root";
        checks.push(check("address", me, grade, value, "addresses can be put on interfaces", next));
    }
    checks
}

/// TCP, UDP and clock, there and back. Of a node that is known to be down nothing else is expected.
fn ways(me: &str, peer: &PeerFindings, down: bool) -> Vec<Check> {
    let there = format!("{me} -> {}", peer.name);
    let back = format!("{} -> {me}", peer.name);
    let open = "open the mesh's port (7400) between these hosts, UDP and TCP; packets of 1200 bytes must pass";
    let next = if down { format!("hirsel why {}", peer.name) } else { open.to_string() };
    let way = |what: &str, subject: &str, way: &Way, limit: &str| match (way.ms, &way.error) {
        (Some(ms), _) => check(what, subject, Grade::Ok, format!("{ms} ms there and back"), limit, ""),
        (None, error) => {
            let why = error.clone().unwrap_or_else(|| "not tried".into());
            check(what, subject, Grade::Failed, why, limit, &next)
        }
    };
    let (tcp, udp) = ("answers within 2 s", "a packet of 1200 bytes is answered");
    let mut checks = vec![way("tcp", &there, &peer.tcp, tcp), way("udp", &there, &peer.udp, udp)];
    checks.extend(peer.sizes.and_then(|sizes| mtu(&there, sizes)));
    match &peer.answer {
        Some(Ok(answered)) => {
            checks.push(way("tcp", &back, &answered.tcp, tcp));
            checks.push(way("udp", &back, &answered.udp, udp));
            checks.extend(answered.sizes.and_then(|sizes| mtu(&back, sizes)));
            let apart = answered.offset_ms.unsigned_abs();
            checks.push(check(
                "clock",
                &there,
                Grade::above(apart, CLOCK_WARN_MS, CLOCK_FAIL_MS),
                format!("{:+} ms", answered.offset_ms),
                &format!("at most {CLOCK_WARN_MS} ms; from {CLOCK_FAIL_MS} ms on certificates and tokens fail"),
                "timedatectl set-ntp true, on both hosts",
            ));
        }
        Some(Err(why)) => {
            checks.push(check("agent", &there, Grade::Failed, why.clone(), "the agent there answers", &next));
        }
        None => {}
    }
    checks
}

/// Whether what one host sends in one piece arrives at the other; none where nothing does, for that is told already.
fn mtu(subject: &str, Sizes { mtu, arrived, tried }: Sizes) -> Option<Check> {
    let least = DATAGRAM_BYTES as u64 + HEADERS_BYTES;
    let sends =
        mtu.map_or("what this host sends is not known".to_string(), |mtu| format!("this host sends up to {mtu}"));
    if mtu.is_some_and(|mtu| mtu < least) {
        let next = format!("ip link set dev INTERFACE mtu 1500 (at least {least})");
        let limit = format!("at least {least} bytes: no agent is heard below");
        return Some(check("mtu", subject, Grade::Failed, sends, &limit, &next));
    }
    let arrived = arrived?;
    let limit = format!("as large as it is sent: packets of {tried} bytes were tried");
    if arrived >= tried {
        return Some(check(
            "mtu",
            subject,
            Grade::Ok,
            format!("packets of {arrived} bytes arrive; {sends}"),
            &limit,
            "",
        ));
    }
    let next = format!(
        "on both hosts: ip link set dev INTERFACE mtu {arrived}; or let ICMP \"fragmentation needed\" (IPv6: \"packet too big\") pass \
         between them"
    );
    let value = format!("packets of {arrived} bytes arrive, larger ones are lost; {sends}");
    Some(check("mtu", subject, Grade::Warning, value, &limit, &next))
}

fn versions(sight: &Sight, found: &Findings) -> Check {
    let mut versions: Vec<String> = sight.state.spec.nodes.values().map(|node| node.version.clone()).collect();
    let answered = found.peers.iter().filter_map(|peer| peer.answer.as_ref()?.as_ref().ok());
    versions.extend(answered.map(|answered| answered.version.clone()));
    versions.sort();
    versions.dedup();
    let grade = if versions.len() > 1 { Grade::Warning } else { Grade::Ok };
    let next = "hirsel members: upgrade the older agents";
    check("versions", "all members", grade, versions.join(", "), "one version", next)
}

#[cfg(test)]
mod tests;
