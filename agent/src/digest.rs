//! A node's report as gossip carries it: a few short texts, under 2 KB for some sixty instances.
//!
//! Gossip repeats what it carries to every node, so the digest holds only what others act on: the plan a node follows, its load,
//! how far each role is, where its instances listen and whether they are healthy, and which draining instances the load balancer is
//! still busy with. Messages for people stay in the full report, but for one of floating addresses, which wait for no leader. What cannot be read is passed over: it may come from a newer agent.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use hirsel_model::report::{
    AddressFacts, Bound, InstanceFacts, InstanceState, NodeReport, RoleFacts, RoleReport, RoleState,
};
use hirsel_model::storage::{StorageFacts, Totals};
use hirsel_model::{AppName, Generation, Incarnation, InstanceId, LogIndex, Revision, RoleName, ServiceName};
use hirsel_role::{Addresses, Certificate, LiveNode};

/// Longest text of one role. Beyond it instances are left out (and the role says so), for a gossip message carries everything.
const TEXT_BYTES_MAX: usize = 16 << 10;
/// Of what a node says of its floating addresses.
const MESSAGE_BYTES_MAX: usize = 200;
const BEFORE_MESSAGE: &str = " ! ";

/// Key under which a node says when its certificate ends, and of which authority it is.
pub const CERTIFICATE: &str = "cert";

/// Key under which a node says where it is reached besides the mesh.
pub const ADDRESSES: &str = "addr";

/// `203.0.113.5,2001:db8::5 10.0.0.5`: where the public reaches it, and where other hosts reach its instances (left out where they do
/// not).
pub fn write_addresses(addresses: &Addresses) -> String {
    let public: Vec<String> = addresses.public.iter().map(ToString::to_string).collect();
    let instances = addresses.instances.map(|addr| format!(" {addr}")).unwrap_or_default();
    public.join(",") + &instances
}

/// What [`write_addresses`] wrote; none where no public address can be read.
pub fn read_addresses(text: &str) -> Option<Addresses> {
    let (public, instances) = text.split_once(' ').unwrap_or((text, ""));
    let public: Vec<_> = public.split(',').filter_map(|addr| addr.parse().ok()).take(PUBLIC_MAX).collect();
    (!public.is_empty()).then(|| Addresses { public, instances: instances.parse().ok() })
}

/// Addresses that a node has for the public. Each is gossiped to all.
pub const PUBLIC_MAX: usize = 4;

/// Key under which a node says which certificates its load balancer has ([`crate::certificates::mark`]).
pub const SHOWN: &str = "shown";

/// `1790000000.3f2a…`: seconds since 1970, and the mark of an authority.
pub fn read_certificate(text: &str) -> Option<Certificate> {
    let (ends, of) = text.split_once('.')?;
    Some(Certificate { ends_s: ends.parse().ok()?, of: of.into() })
}

/// Keys and values to gossip for `report`.
pub fn write(report: &NodeReport) -> BTreeMap<String, String> {
    let mut values = BTreeMap::from([
        ("gen".to_owned(), report.generation.to_string()),
        ("load".to_owned(), report.load.to_string()),
        ("report".to_owned(), report.version.to_string()),
        ("level".to_owned(), report.level.to_string()),
        ("start".to_owned(), report.incarnation.to_string()),
    ]);
    for (name, role) in &report.roles {
        values.insert(format!("role.{name}"), write_role(role));
    }
    values
}

/// What `values` say, as far as it can be read.
pub fn read(values: &BTreeMap<String, String>) -> LiveNode {
    let number = |key: &str| values.get(key).and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut node = LiveNode {
        generation: Generation(number("gen")),
        load: u8::try_from(number("load")).unwrap_or(10).min(10),
        addresses: values.get(ADDRESSES).and_then(|text| read_addresses(text)),
        certificate: values.get(CERTIFICATE).and_then(|text| read_certificate(text)),
        shown: values.get(SHOWN).cloned().unwrap_or_default(),
        level: u32::try_from(number("level")).unwrap_or(0),
        incarnation: Incarnation(number("start")),
        ..LiveNode::default()
    };
    for (key, text) in values {
        let Some(name) = key.strip_prefix("role.").and_then(|name| name.parse::<RoleName>().ok()) else { continue };
        let role = read_role(&name, text);
        node.facts.insert(name.clone(), role.facts.clone());
        node.roles.insert(name, role);
    }
    node
}

/// `STATE GENERATION [FACTS] [! MESSAGE]`.
fn write_role(role: &RoleReport) -> String {
    let state = match role.state {
        RoleState::Stopped => 's',
        RoleState::Starting => 'b',
        RoleState::Running => 'r',
        RoleState::Degraded => 'd',
        RoleState::Failed => 'f',
        RoleState::Unknown => '?',
    };
    let mut text = format!("{state} {}", role.generation);
    let mut group = None;
    match &role.facts {
        // What only a leader asks for is not in the digest: it has the whole report.
        RoleFacts::None | RoleFacts::Unknown => {}
        // Nor is which moves are complete, and who votes over the metadata; how things are is asked of every node.
        RoleFacts::Storage(facts) => {
            let short = |words: &Option<String>| {
                words.as_ref().map(|it| it[..it.floor_char_boundary(MESSAGE_BYTES_MAX)].to_owned())
            };
            let totals = facts.totals.as_deref();
            let totals = totals.map(|totals| Box::new(Totals { stuck: short(&totals.stuck), ..totals.clone() }));
            let unable = short(&facts.unable);
            let told =
                StorageFacts { unable, totals, moved: BTreeMap::new(), voters: BTreeSet::new(), ..facts.clone() };
            if let Ok(json) = serde_json::to_string(&told) {
                let _ = write!(text, " {json}");
            }
        }
        // Who may hold what only a leader asks, and it has the whole report.
        RoleFacts::Address(facts) => {
            for address in &facts.held {
                let _ = write!(text, " {address}");
            }
            if let Some(message) = &role.message {
                let end = message.floor_char_boundary(MESSAGE_BYTES_MAX);
                let _ = write!(text, "{BEFORE_MESSAGE}{}", &message[..end]);
            }
        }
        RoleFacts::Compute(instances) => {
            for (id, facts) in instances {
                if text.len() > TEXT_BYTES_MAX {
                    break;
                }
                open_group(&mut text, &mut group, id);
                let (state, health) = (instance_letter(facts.state), if facts.healthy { '+' } else { '-' });
                let (port, restarts, revision) = (facts.port, facts.restarts, facts.revision);
                // Writing into a String cannot fail.
                let _ = write!(text, ",{}{state}{health}{port}.{restarts}.{revision}", id.number);
            }
        }
        RoleFacts::Lb(busy) => {
            for (id, count) in busy {
                if text.len() > TEXT_BYTES_MAX {
                    break;
                }
                open_group(&mut text, &mut group, id);
                let _ = write!(text, ",{}={count}", id.number);
            }
        }
    }
    if role.purged > LogIndex(0) {
        // An agent that knows nothing of it takes it for a service without a name, and passes it over.
        let _ = write!(text, " !{}", role.purged);
    }
    text
}

/// Instances of one service follow each other, so the service is named once.
fn open_group(text: &mut String, group: &mut Option<(AppName, ServiceName)>, id: &InstanceId) {
    let key = (id.app.clone(), id.service.clone());
    if group.as_ref() != Some(&key) {
        let _ = write!(text, " {}/{}", key.0, key.1);
        *group = Some(key);
    }
}

fn read_role(name: &RoleName, text: &str) -> RoleReport {
    if *name == RoleName::storage()
        && let Some(begins) = text.find('{')
    {
        let report = read_words(name, text[..begins].trim_end());
        let facts = serde_json::from_str(&text[begins..]).map_or(RoleFacts::None, RoleFacts::Storage);
        return RoleReport { facts, ..report };
    }
    read_words(name, text)
}

fn read_words(name: &RoleName, text: &str) -> RoleReport {
    let (text, message) = match text.split_once(BEFORE_MESSAGE) {
        Some((text, message)) => (text, Some(message.to_owned())),
        None => (text, None),
    };
    let mut words = text.split(' ');
    let state = match words.next() {
        Some("s") => RoleState::Stopped,
        Some("b") => RoleState::Starting,
        Some("r") => RoleState::Running,
        Some("d") => RoleState::Degraded,
        Some("f") => RoleState::Failed,
        _ => RoleState::Unknown,
    };
    let generation = Generation(words.next().and_then(|word| word.parse().ok()).unwrap_or(0));
    if *name == RoleName::address() {
        let held = words.filter_map(|word| word.parse().ok()).collect();
        let facts = RoleFacts::Address(AddressFacts { held, ..AddressFacts::default() });
        return RoleReport { state, generation, message, facts, ..RoleReport::default() };
    }
    let mut instances = BTreeMap::new();
    let mut busy = BTreeMap::new();
    let mut purged = LogIndex(0);
    for group in words {
        if let Some(index) = group.strip_prefix('!') {
            purged = LogIndex(index.parse().unwrap_or(0));
            continue;
        }
        let mut items = group.split(',');
        let Some((app, service)) = items.next().and_then(|word| word.split_once('/')) else { continue };
        let (Ok(app), Ok(service)) = (app.parse::<AppName>(), service.parse::<ServiceName>()) else { continue };
        let id = |number| InstanceId { app: app.clone(), service: service.clone(), number };
        for item in items {
            if let Some((number, count)) = item.split_once('=') {
                if let (Ok(number), Ok(count)) = (number.parse(), count.parse()) {
                    busy.insert(id(number), count);
                }
            } else if let Some((number, facts)) = read_instance(item) {
                instances.insert(id(number), facts);
            }
        }
    }
    let facts = if *name == RoleName::compute() {
        RoleFacts::Compute(instances)
    } else if *name == RoleName::lb() {
        RoleFacts::Lb(busy)
    } else {
        RoleFacts::None
    };
    RoleReport { state, generation, message, facts, purged }
}

/// `17r+20001.0.3`: number, state, health, port, restarts, revision.
fn read_instance(item: &str) -> Option<(u64, InstanceFacts)> {
    let letter_at = item.find(|c: char| !c.is_ascii_digit())?;
    let (number, rest) = item.split_at(letter_at);
    let mut chars = rest.chars();
    let state = match chars.next()? {
        'w' => InstanceState::Waiting,
        'b' => InstanceState::Starting,
        'r' => InstanceState::Running,
        's' => InstanceState::Stopping,
        'e' => InstanceState::Ended,
        _ => InstanceState::Unknown,
    };
    let healthy = chars.next()? == '+';
    let mut numbers = chars.as_str().split('.');
    let facts = InstanceFacts {
        state,
        healthy,
        port: numbers.next()?.parse().ok()?,
        restarts: numbers.next()?.parse().ok()?,
        revision: Revision(numbers.next()?.parse().ok()?),
        message: None,
        // Only a leader asks, and it has the whole report.
        bound: Bound::Unknown,
    };
    Some((number.parse().ok()?, facts))
}

fn instance_letter(state: InstanceState) -> char {
    match state {
        InstanceState::Waiting => 'w',
        InstanceState::Starting => 'b',
        InstanceState::Running => 'r',
        InstanceState::Stopping => 's',
        InstanceState::Ended => 'e',
        InstanceState::Unknown => '?',
    }
}

#[cfg(test)]
mod tests {
    use hirsel_model::NodeId;
    use hirsel_model::storage::Audit;

    use super::*;

    fn id(text: &str) -> InstanceId {
        text.parse().unwrap()
    }

    #[test]
    fn how_what_is_stored_is_can_be_said_at_every_node() {
        let totals = Totals { term: 3, objects: 7, stuck: Some("too ! few {".repeat(100)), ..Totals::default() };
        let audit = Audit { at_ms: 5, wanted: 9, there: 8, bears: Some(2), ..Audit::default() };
        let facts = StorageFacts {
            bytes: 1 << 40,
            free: 4,
            moved: [(768, 3)].into(),
            voters: [NodeId(1)].into(),
            audit,
            totals: Some(Box::new(totals)),
            ..StorageFacts::default()
        };
        let role = RoleReport {
            state: RoleState::Degraded,
            generation: Generation(7),
            facts: RoleFacts::Storage(facts),
            ..RoleReport::default()
        };
        let report = NodeReport { roles: [(RoleName::storage(), role)].into(), ..NodeReport::default() };
        let node = read(&write(&report));
        let (read, facts) = (&node.roles[&RoleName::storage()], &node.facts[&RoleName::storage()]);
        assert_eq!((read.state, read.generation, &read.facts), (RoleState::Degraded, Generation(7), facts));
        let RoleFacts::Storage(facts) = facts else { panic!("{facts:?}") };
        assert_eq!((facts.bytes, facts.free, facts.audit), (1 << 40, 4, audit));
        assert!(facts.moved.is_empty() && facts.voters.is_empty(), "that is for the leader");
        let stuck = facts.totals.as_ref().and_then(|totals| totals.stuck.as_ref()).map(String::len);
        assert_eq!(stuck, Some(MESSAGE_BYTES_MAX));
        let none = RoleReport { state: RoleState::Running, ..RoleReport::default() };
        assert_eq!(read_role(&RoleName::storage(), &write_role(&none)), none);
        assert_eq!(read_role(&RoleName::storage(), "r 1 {half").facts, RoleFacts::None);
    }

    #[test]
    fn what_is_written_is_read_again() {
        let facts = InstanceFacts {
            state: InstanceState::Running,
            healthy: true,
            port: 20_001,
            restarts: 2,
            revision: Revision(3),
            message: None,
            bound: Bound::Unknown,
        };
        let compute = RoleReport {
            state: RoleState::Running,
            generation: Generation(7),
            message: None,
            facts: RoleFacts::Compute(BTreeMap::from([
                (id("a/web/1"), facts.clone()),
                (id("a/web/2"), InstanceFacts { healthy: false, state: InstanceState::Waiting, ..facts.clone() }),
                (id("b/web/1"), facts),
            ])),
            ..RoleReport::default()
        };
        let held = ["192.0.2.10", "2001:db8::10"].map(|text| text.parse().unwrap()).into();
        let facts = RoleFacts::Address(AddressFacts { held, ..AddressFacts::default() });
        let address = RoleReport { facts, message: Some("192.0.2.10: its hook ! failed".into()), ..compute.clone() };
        let facts = RoleFacts::Lb(BTreeMap::from([(id("a/web/1"), 4)]));
        let lb = RoleReport { facts, purged: LogIndex(71), ..compute.clone() };
        let report = NodeReport {
            version: 9,
            generation: Generation(8),
            roles: BTreeMap::from([
                (RoleName::address(), address),
                (RoleName::compute(), compute),
                (RoleName::lb(), lb),
            ]),
            load: 3,
            level: 2,
            ..NodeReport::default()
        };
        let node = read(&write(&report));
        assert_eq!((node.generation, node.load, node.level), (Generation(8), 3, 2));
        assert_eq!(node.roles, report.roles);
        assert_eq!(node.facts[&RoleName::lb()], report.roles[&RoleName::lb()].facts);
    }

    #[test]
    fn what_a_newer_agent_writes_is_passed_over() {
        let values = BTreeMap::from([
            ("role.compute".to_owned(), "z 5 a/web,1q+1.1.1.9,!,x 2,3r".to_owned()),
            ("role.UPPER".to_owned(), "r 1".to_owned()),
            ("gen".to_owned(), "many".to_owned()),
        ]);
        let node = read(&values);
        let compute = &node.roles[&RoleName::compute()];
        assert_eq!((compute.state, compute.generation), (RoleState::Unknown, Generation(5)));
        let RoleFacts::Compute(instances) = &compute.facts else { panic!("facts of compute") };
        assert_eq!(instances.len(), 1);
        assert_eq!(node.roles.len(), 1);
    }

    #[test]
    fn addresses_are_read_as_they_were_written() {
        let texts = ["203.0.113.5,2001:db8::5 10.0.0.5", "10.0.0.1", "127.0.0.3 127.0.0.3"];
        for text in texts {
            assert_eq!(write_addresses(&read_addresses(text).unwrap()), text);
        }
        assert_eq!(read_addresses("10.0.0.1,x here").map(|read| write_addresses(&read)).as_deref(), Some("10.0.0.1"));
        assert_eq!((read_addresses(""), read_addresses("x 10.0.0.1")), (None, None));
        let many = vec!["10.0.0.1"; 100].join(",");
        assert_eq!(read_addresses(&many).map(|read| read.public.len()), Some(PUBLIC_MAX));
    }
}
