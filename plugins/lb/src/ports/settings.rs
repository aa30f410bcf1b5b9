//! What is done with the connections of one port: what its manifest says, and what is thought fit where that says nothing.

use std::net::IpAddr;
use std::time::Duration;

use hirsel_model::spec::{Block, PortId, PortSpec, Protocol, ProxyVersion};

use super::metrics::Counted;
use crate::proxy::CONNECT_WITHIN;

/// Connections of one port at once, on each node. Programs behind it rarely bear more.
const CONNECTIONS_MAX: u32 = 10_000;

/// How many of them one client may have. Behind one address there may be an office; who runs balancers or pools there says so.
const CLIENT_CONNECTIONS_MAX: u32 = 1_000;

/// A connection on which nothing moves for so long is ended. Sessions of databases are idle for long; what is gone without a word is
/// found earlier, by probes of the kernel.
const IDLE_FOR_MAX: Duration = Duration::from_secs(3600);

/// The same over UDP, where nobody says that a session has ended. Questions and their answers take seconds; games, calls and tunnels
/// send something every half minute, to keep their place in tables like this one.
const SESSION_IDLE_FOR_MAX: Duration = Duration::from_secs(60);

/// Sweeps look at connections this often in a second.
const SWEEPS_PER_SECOND: u64 = 2;

/// What is done with the connections of a port.
pub(super) struct Settings {
    pub(super) port: PortId,
    pub(super) connections_max: u32,
    pub(super) client_connections_max: u32,
    pub(super) connect_within: Duration,
    /// For how long nothing may move.
    pub(super) idle_for: Duration,
    /// The same in sweeps.
    pub(super) idle_sweeps: u32,
    pub(super) send_proxy: Option<ProxyVersion>,
    deny: Vec<Block>,
    allow: Vec<Block>,
    accept_proxy: Vec<Block>,
    pub(super) counted: Counted,
}

impl Settings {
    pub(super) fn of(port: PortId, spec: &PortSpec, counted: Counted) -> Self {
        let unsaid = match port.protocol {
            Protocol::Tcp => IDLE_FOR_MAX,
            Protocol::Udp => SESSION_IDLE_FOR_MAX,
        };
        let idle_for = spec.idle_ms.map_or(unsaid, Duration::from_millis);
        let sweeps =
            u64::try_from(idle_for.as_millis()).unwrap_or(u64::MAX).saturating_mul(SWEEPS_PER_SECOND).div_ceil(1_000);
        Self {
            port,
            connections_max: spec.connections_max.unwrap_or(CONNECTIONS_MAX),
            client_connections_max: spec.client_connections_max.unwrap_or(CLIENT_CONNECTIONS_MAX),
            connect_within: spec.connect_ms.map_or(CONNECT_WITHIN, Duration::from_millis),
            idle_for,
            idle_sweeps: u32::try_from(sweeps).unwrap_or(u32::MAX),
            send_proxy: spec.send_proxy,
            deny: spec.deny.clone(),
            allow: spec.allow.clone(),
            accept_proxy: spec.accept_proxy.clone(),
            counted,
        }
    }

    /// Whether clients from here are served.
    pub(super) fn admits(&self, client: IpAddr) -> bool {
        !among(&self.deny, client) && (self.allow.is_empty() || among(&self.allow, client))
    }

    /// Whether whoever connects from here says whom it connects for, and is believed.
    pub(super) fn trusts(&self, remote: IpAddr) -> bool {
        among(&self.accept_proxy, remote)
    }
}

fn among(blocks: &[Block], ip: IpAddr) -> bool {
    blocks.iter().any(|block| block.holds(ip))
}
