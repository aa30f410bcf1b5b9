//! `[port.5432]`, `[port."5432/tcp"]`: a port that load balancers open and pass on as it comes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;

use toml::de::DeValue;

use super::errors::{Errors, quoted};
use super::route::actions::{blocks, time};
use super::route::target::{can_answer, service, shares};
use super::table::{Block, Table, Word};
use crate::control::limits::{OUTSIDE_MAX, PORT_CONNECTIONS_MAX, PORT_WAIT_MS, PORTS_PER_APP_MAX};
use crate::spec::{PortId, PortSpec, Protocol, ProxyVersion, Target};

const KEYS: [&str; 9] = [
    "to",
    "allow",
    "deny",
    "idle_timeout",
    "connect_timeout",
    "connections_max",
    "client_connections_max",
    "send_proxy",
    "accept_proxy",
];
const LATER: [(&str, &str); 1] = [("tls", "what comes in at a port is passed on as it is; a route ends TLS")];

const EXPECTED: &str =
    "a service, shares like { db = 90, next = 10 }, or addresses outside like \"tcp://10.0.0.5:5432\"";
/// Time without a byte. Below a second nobody could think.
const IDLE_MS: RangeInclusive<u64> = 1_000..=*PORT_WAIT_MS.end();
/// Time until a target accepts. A minute is what a far one needs that lost every packet but the last.
const CONNECT_MS: RangeInclusive<u64> = 10..=60_000;
/// What makes no sense over UDP.
const OF_CONNECTIONS: [&str; 3] = ["connect_timeout", "send_proxy", "accept_proxy"];
const PROXY_WORDS: [(&str, ProxyVersion); 2] = [("v1", ProxyVersion::V1), ("v2", ProxyVersion::V2)];

/// All ports.
pub(super) fn read(top: &Table<'_>, services: &[&str], errors: &mut Errors) -> BTreeMap<PortId, PortSpec> {
    let blocks = top.blocks("port", errors);
    if blocks.len() > PORTS_PER_APP_MAX {
        let number = blocks.len();
        errors.at(blocks[PORTS_PER_APP_MAX].key.clone(), format!("{number} ports exceed {PORTS_PER_APP_MAX}"));
        return BTreeMap::new();
    }
    let mut ports = BTreeMap::new();
    for block in &blocks {
        let port = block.word.parse::<PortId>();
        let spec = port_of(block, port.as_ref().ok().copied(), services, errors);
        match (port, spec) {
            (Err(why), _) => errors.at(block.key.clone(), format!("port {why}")),
            (Ok(_), None) => {}
            (Ok(port), Some(spec)) => {
                if ports.insert(port, spec).is_some() {
                    errors.at(block.key.clone(), format!("port {port} is there twice"));
                }
            }
        }
    }
    ports
}

fn port_of(block: &Block<'_>, id: Option<PortId>, services: &[&str], errors: &mut Errors) -> Option<PortSpec> {
    let table = &block.table;
    table.check_keys(&KEYS, &LATER, errors);
    if table.get("to").is_none() {
        errors.absent(block.key.clone(), format!("{} leads nowhere: to = \"SERVICE\"", table.path()));
    }
    let protocol = id.map_or(Protocol::Tcp, |id| id.protocol);
    let mut port = PortSpec::to(target(table, protocol, services, errors)?);
    port.allow = blocks("allow", table, errors).unwrap_or_default();
    port.deny = blocks("deny", table, errors).unwrap_or_default();
    port.idle_ms = time(table, "idle_timeout", IDLE_MS, errors);
    port.connect_ms = time(table, "connect_timeout", CONNECT_MS, errors);
    port.connections_max = table.count("connections_max", 1, PORT_CONNECTIONS_MAX, errors);
    port.client_connections_max = table.count("client_connections_max", 1, PORT_CONNECTIONS_MAX, errors);
    port.send_proxy = table.choice("send_proxy", &PROXY_WORDS, errors);
    port.accept_proxy = blocks("accept_proxy", table, errors).unwrap_or_default();
    if id.is_some_and(|id| id.protocol == Protocol::Udp) {
        for key in OF_CONNECTIONS.into_iter().filter(|key| table.get(key).is_some()) {
            errors.at(table.key_span(key), format!("{key} in {}: there are no connections over UDP", table.path()));
        }
    }
    Some(port)
}

/// What takes the connections of a port, or of a host that is passed on as it is.
pub(super) fn target(table: &Table<'_>, protocol: Protocol, services: &[&str], errors: &mut Errors) -> Option<Target> {
    let value = table.get("to")?;
    match value.get_ref() {
        DeValue::String(text) if !is_outside(text) => {
            service(Word { text: text.to_string(), span: value.span() }, services, errors).map(Target::Service)
        }
        DeValue::String(_) | DeValue::Array(_) => addresses(table, protocol, errors).map(Target::Outside),
        DeValue::Table(_) => shares(table, services, errors),
        _ => table.wrong_type("to", value, EXPECTED, errors),
    }
}

/// No name of a service looks like this.
fn is_outside(text: &str) -> bool {
    text.contains([':', '.', '/'])
}

fn addresses(table: &Table<'_>, protocol: Protocol, errors: &mut Errors) -> Option<Vec<SocketAddr>> {
    let words = table.words("to", EXPECTED, errors)?;
    let mut addrs = Vec::new();
    for word in &words {
        let wrong = |why: &str| format!("to in {}: {} {why}", table.path(), quoted(&word.text));
        match address(&word.text, protocol) {
            Err(why) => errors.at(word.span.clone(), wrong(&why)),
            Ok(addr) if addrs.contains(&addr) => errors.at(word.span.clone(), wrong("is there twice")),
            Ok(addr) => addrs.push(addr),
        }
    }
    if words.is_empty() || words.len() > OUTSIDE_MAX {
        let message = format!("to in {}: {} addresses are not between 1 and {OUTSIDE_MAX}", table.path(), words.len());
        errors.at(table.key_span("to"), message);
    }
    (!addrs.is_empty()).then_some(addrs)
}

/// `tcp://10.0.0.5:5432`.
fn address(text: &str, protocol: Protocol) -> Result<SocketAddr, String> {
    if !is_outside(text) {
        return Err("in a list: services share connections by weight, to = { db = 90, next = 10 }".into());
    }
    let written = format!("\"{protocol}://10.0.0.5:5432\"");
    let Some(rest) = text.strip_prefix(&format!("{protocol}://")) else {
        return Err(format!("is not reached: an address outside is written {written}"));
    };
    let addr = rest.strip_suffix('/').unwrap_or(rest).parse::<SocketAddr>();
    let addr = addr.map_err(|_| format!("is no address with a port: names are not looked up, write {written}"))?;
    if can_answer(&addr) { Ok(addr) } else { Err("is no address of one host with a port".into()) }
}

#[cfg(test)]
mod tests {
    use super::super::{ManifestError, parse};
    use super::*;
    use crate::id::RoleName;
    use crate::spec::AppSpec;

    fn read(text: &str) -> Result<AppSpec, Vec<String>> {
        let text =
            format!("app = \"shop\"\n[service.db]\ncommand = [\"x\"]\n[service.next]\ncommand = [\"x\"]\n{text}");
        // The ports begin in line 6.
        let shown = |error: &ManifestError| format!("{}:{} {}", error.line - 5, error.column, error.message);
        let read = parse(&text, &[RoleName::lb(), RoleName::compute()]);
        read.map(|(_, spec)| spec).map_err(|errors| errors.iter().map(shown).collect())
    }

    #[test]
    fn a_port_leads_to_a_service_or_outside_with_all_that_can_be_said() {
        let spec = read(
            "[port.5432]\nto = \"db\"\n\
             [port.\"6432/tcp\"]\nto = { db = 90, next = 10 }\nallow = \"10.0.0.0/8\"\ndeny = [\"10.6.6.6\"]\n\
             idle_timeout = \"10m\"\nconnect_timeout = \"2s\"\nconnections_max = 500\nclient_connections_max = 20\n\
             send_proxy = \"v2\"\naccept_proxy = [\"10.0.0.7\", \"fd00::/8\"]\n\
             [port.25]\nto = [\"tcp://10.0.0.5:25\", \"tcp://[fd00::1]:2525\"]\n\
             [port.\"53/udp\"]\nto = \"udp://10.0.0.5:53\"\nidle_timeout = \"10s\"\n",
        )
        .unwrap();
        let port = |id: &str| &spec.ports[&id.parse::<PortId>().unwrap()];
        assert_eq!(*port("5432"), PortSpec::to(Target::Service("db".parse().unwrap())));
        let shares = [("db".parse().unwrap(), 90), ("next".parse().unwrap(), 10)].into();
        let block = |text: &str| text.parse().unwrap();
        let all = PortSpec {
            to: Target::Shares(shares),
            allow: vec![block("10.0.0.0/8")],
            deny: vec![block("10.6.6.6")],
            idle_ms: Some(600_000),
            connect_ms: Some(2_000),
            connections_max: Some(500),
            client_connections_max: Some(20),
            send_proxy: Some(ProxyVersion::V2),
            accept_proxy: vec![block("10.0.0.7"), block("fd00::/8")],
        };
        assert_eq!(*port("6432/tcp"), all);
        let outside = vec!["10.0.0.5:25".parse().unwrap(), "[fd00::1]:2525".parse().unwrap()];
        assert_eq!(*port("25"), PortSpec::to(Target::Outside(outside)));
        let outside = Target::Outside(vec!["10.0.0.5:53".parse().unwrap()]);
        assert_eq!(*port("53/udp"), PortSpec { idle_ms: Some(10_000), ..PortSpec::to(outside) });
        assert!(spec.is_balanced(&"next".parse().unwrap()) && spec.is_balanced(&"db".parse().unwrap()));
    }

    #[test]
    fn what_is_wrong_with_a_port_is_told_with_its_place() {
        for (text, says) in [
            ("[port.0]\nto = \"db\"\n", "1:7 port \"0\" is no port: write a number from 1 to 65535"),
            ("[port.http]\nto = \"db\"\n", "1:7 port \"http\" is no port: write a number from 1 to 65535"),
            (
                "[port.\"53/sctp\"]\nto = \"db\"\n",
                "1:7 port \"sctp\" is not passed on: write 5432, \"5432/tcp\" or \"5432/udp\"",
            ),
            ("[port.1]\nto = \"db\"\n[port.\"1/tcp\"]\nto = \"db\"\n", "3:7 port 1/tcp is there twice"),
            ("[port.1]\n", "1:7 [port.1] leads nowhere: to = \"SERVICE\""),
            ("[port.1]\nto = \"bd\"\n", "2:6 unknown service \"bd\"; did you mean \"db\"?"),
            (
                "[port.1]\nto = \"10.0.0.5:1\"\n",
                "2:6 to in [port.1]: \"10.0.0.5:1\" is not reached: an address outside is written \"tcp://10.0.0.5:5432\"",
            ),
            (
                "[port.1]\nto = \"tcp://db.internal:1\"\n",
                "2:6 to in [port.1]: \"tcp://db.internal:1\" is no address with a port: names are not looked up, write \"tcp://10.0.0.5:5432\"",
            ),
            (
                "[port.1]\nto = \"tcp://0.0.0.0:1\"\n",
                "2:6 to in [port.1]: \"tcp://0.0.0.0:1\" is no address of one host with a port",
            ),
            (
                "[port.1]\nto = [\"db\"]\n",
                "2:7 to in [port.1]: \"db\" in a list: services share connections by weight, to = { db = 90, next = 10 }",
            ),
            (
                "[port.1]\nto = \"db\"\nidle_timeout = \"1ms\"\n",
                "3:16 idle_timeout in [port.1]: \"1ms\" is not between 1s and 86400s",
            ),
            (
                "[port.1]\nto = \"db\"\nconnections_max = 0\n",
                "3:19 connections_max in [port.1]: 0 is not between 1 and 100000",
            ),
            (
                "[port.1]\nto = \"db\"\nsend_proxy = \"v3\"\n",
                "3:14 unknown send_proxy in [port.1]: \"v3\"; did you mean \"v1\"?",
            ),
            (
                "[port.1]\nto = \"db\"\naccept_proxy = true\n",
                "3:16 accept_proxy in [port.1] is true or false; expected a block of addresses like \"10.0.0.0/8\" or a list of them",
            ),
            (
                "[port.1]\nto = \"db\"\nproxy = \"v1\"\n",
                "3:1 unknown key \"proxy\" in [port.1]; known are to, allow, deny, idle_timeout, connect_timeout, connections_max, client_connections_max, send_proxy, accept_proxy",
            ),
            (
                "[port.\"1/udp\"]\nto = \"db\"\nsend_proxy = \"v2\"\n",
                "3:1 send_proxy in [port.\"1/udp\"]: there are no connections over UDP",
            ),
            (
                "[port.1]\nto = \"db\"\ntls = \"auto\"\n",
                "3:1 tls in [port.1] is not built yet: what comes in at a port is passed on as it is; a route ends TLS",
            ),
        ] {
            assert_eq!(read(text).unwrap_err(), [says], "{text}");
        }
    }
}
