//! Ports: what load balancers pass on as it comes, connection by connection, without looking into it.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::action::Block;
use super::is_default;
use super::route::Target;
use crate::id::ServiceName;

/// What is carried over IP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Connections.
    #[default]
    Tcp,
    /// Datagrams.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        })
    }
}

/// A port as it is opened by every load balancer. Written as `5432/tcp`; who says `5432` means that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct PortId {
    /// Never zero.
    pub number: u16,
    /// What is carried.
    pub protocol: Protocol,
}

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.protocol)
    }
}

impl FromStr for PortId {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            other => return Err(format!("{other:?} is not passed on: write 5432, \"5432/tcp\" or \"5432/udp\"")),
        };
        let digits = number.bytes().all(|b| b.is_ascii_digit()) && !number.starts_with('0');
        match number.parse::<u16>() {
            Ok(number) if digits => Ok(Self { number, protocol }),
            _ => Err(format!("{number:?} is no port: write a number from 1 to 65535")),
        }
    }
}

impl TryFrom<String> for PortId {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<PortId> for String {
    fn from(port: PortId) -> String {
        port.to_string()
    }
}

/// What is done with the connections of a port. What is none is as the load balancer thinks fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortSpec {
    /// Who takes them: services, or programs outside the cluster.
    pub to: Target,
    /// Clients from here are turned away, whatever `allow` says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<Block>,
    /// Where there is any, clients from elsewhere are turned away.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<Block>,
    /// A connection on which nothing moves for so long is ended.
    #[serde(default, skip_serializing_if = "is_default")]
    pub idle_ms: Option<u64>,
    /// How long one target may take to accept a connection before another is tried.
    #[serde(default, skip_serializing_if = "is_default")]
    pub connect_ms: Option<u64>,
    /// Connections on each node at once.
    #[serde(default, skip_serializing_if = "is_default")]
    pub connections_max: Option<u32>,
    /// How many of them one client may have: an IPv4 address, or an IPv6 network of 64 bits.
    #[serde(default, skip_serializing_if = "is_default")]
    pub client_connections_max: Option<u32>,
    /// Tell the target in this version of the PROXY protocol who the client is.
    #[serde(default, skip_serializing_if = "is_default")]
    pub send_proxy: Option<ProxyVersion>,
    /// Whoever connects from here says by the PROXY protocol whom it connects for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accept_proxy: Vec<Block>,
}

/// How a header of the PROXY protocol is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProxyVersion {
    /// As a line of text.
    V1,
    /// In binary.
    V2,
}

impl PortSpec {
    /// The plainest one: every connection goes to one of these, with nothing said.
    pub fn to(to: Target) -> Self {
        Self {
            to,
            deny: Vec::new(),
            allow: Vec::new(),
            idle_ms: None,
            connect_ms: None,
            connections_max: None,
            client_connections_max: None,
            send_proxy: None,
            accept_proxy: Vec::new(),
        }
    }

    /// The services that it leads to.
    pub fn services(&self) -> BTreeSet<&ServiceName> {
        self.to.services().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{decode, encode};

    #[test]
    fn a_port_is_read_as_it_is_written_and_tcp_need_not_be_said() {
        for (text, shown) in [
            ("5432", "5432/tcp"),
            ("5432/tcp", "5432/tcp"),
            ("1", "1/tcp"),
            ("65535/tcp", "65535/tcp"),
            ("53/udp", "53/udp"),
        ] {
            let port: PortId = text.parse().unwrap();
            assert_eq!(port.to_string(), shown);
            assert_eq!(decode::<PortId>(&encode(&port)).unwrap(), port);
        }
    }

    #[test]
    fn what_is_no_port_says_what_one_is() {
        for text in ["", "0", "05", "65536", "+5", "-1", " 5", "5432 ", "http", "5432/"] {
            assert!(text.parse::<PortId>().is_err(), "{text:?}");
        }
        let told = "53/sctp".parse::<PortId>().unwrap_err();
        assert_eq!(told, "\"sctp\" is not passed on: write 5432, \"5432/tcp\" or \"5432/udp\"");
    }

    #[test]
    fn what_a_port_does_not_say_is_not_written() {
        let port = PortSpec::to(Target::Service("db".parse().unwrap()));
        assert_eq!(serde_json::to_string(&port).unwrap(), r#"{"to":"db"}"#);
        let more = PortSpec { send_proxy: Some(ProxyVersion::V2), idle_ms: Some(5), ..port };
        assert_eq!(decode::<PortSpec>(&encode(&more)).unwrap(), more);
    }
}
