//! Floating addresses as a host has them: what one is, how it is written, and what a host says of its network.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use hirsel_model::spec::{AddressSpec, Network};

/// A floating address on an interface of this host. Written `192.0.2.10/24 eth0`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Floating {
    /// The address.
    pub address: IpAddr,
    /// Bits of its network.
    pub prefix: u8,
    /// The interface that carries it.
    pub interface: String,
}

impl fmt::Display for Floating {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} {}", self.address, self.prefix, self.interface)
    }
}

/// A text that is no floating address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotFloating;

impl FromStr for Floating {
    type Err = NotFloating;
    fn from_str(text: &str) -> Result<Self, NotFloating> {
        let (network, interface) = text.split_once(' ').ok_or(NotFloating)?;
        let (address, prefix) = network.split_once('/').ok_or(NotFloating)?;
        let address: IpAddr = address.parse().map_err(|_| NotFloating)?;
        let spec =
            AddressSpec { prefix: prefix.parse().map_err(|_| NotFloating)?, interface: Some(interface.to_owned()) };
        spec.check(address).map_err(|_| NotFloating)?;
        Ok(Self { address, prefix: spec.prefix, interface: interface.to_owned() })
    }
}

/// What a host says of its network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostNetwork {
    /// Why this agent can put no address on an interface; none when it can.
    pub barred: Option<String>,
    /// The addresses of each interface that is up, loopback and what is good on one link only left out.
    pub interfaces: BTreeMap<String, BTreeSet<Network>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_floating_address_is_read_as_it_was_written() {
        for text in ["192.0.2.10/24 eth0", "2001:db8::10/64 enp3s0f1", "10.0.0.1/32 bond0.12"] {
            assert_eq!(text.parse::<Floating>().map(|read| read.to_string()), Ok(text.to_owned()));
        }
        for wrong in ["", "192.0.2.10/24", "192.0.2.10 eth0", "x/24 eth0", "192.0.2.10/33 eth0", "127.0.0.1/8 lo"] {
            assert_eq!(wrong.parse::<Floating>(), Err(NotFloating), "{wrong:?}");
        }
    }
}
