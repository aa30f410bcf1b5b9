//! Floating addresses: what the operator wants the cluster to hold.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// Longest name of a network interface (`IFNAMSIZ` of Linux, without the zero at its end).
pub const INTERFACE_BYTES_MAX: usize = 15;
/// Floating addresses of a cluster. Each is in the beats that its candidates send ten times a second, which shall fit into one packet.
pub const ADDRESSES_MAX: usize = 16;

/// How a floating address is to be held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddressSpec {
    /// Bits of its network, 1 to 32 or 128.
    pub prefix: u8,
    /// The interface that carries it, on every node; any that has an address of its network when none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
}

/// Why something cannot be a floating address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Nobody could be reached there.
    #[error("{0} is no address that a node could hold for others: {1}")]
    Kind(IpAddr, &'static str),
    /// More bits than it has.
    #[error("prefix /{1} of {0} is not between 1 and {2}")]
    Prefix(IpAddr, u8, u8),
    /// It names the network, or everybody in it.
    #[error("{0}/{1} is the address of a network or of everybody in it")]
    Network(IpAddr, u8),
    /// No name of an interface.
    #[error(
        "{0:?} is no name of an interface: at most {INTERFACE_BYTES_MAX} bytes, without '/', ':' and spaces; see: ip link"
    )]
    Interface(String),
}

impl AddressSpec {
    /// Whether a node can hold `address` in this way.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self, address: IpAddr) -> Result<(), AddressError> {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let unusable = match address {
            IpAddr::V4(it) if it.is_loopback() => Some("it is the host itself"),
            IpAddr::V4(it) if it.is_multicast() || it.octets()[0] >= 240 => Some("it is no address of one host"),
            IpAddr::V4(it) if it.octets()[0] == 0 => Some("it stands for any address"),
            IpAddr::V4(it) if it.is_link_local() => Some("it is good on one link only"),
            IpAddr::V6(it) if it.is_loopback() => Some("it is the host itself"),
            IpAddr::V6(it) if it.is_multicast() => Some("it is no address of one host"),
            IpAddr::V6(it) if it.is_unspecified() => Some("it stands for any address"),
            IpAddr::V6(it) if it.is_unicast_link_local() => Some("it is good on one link only"),
            IpAddr::V6(it) if it.to_ipv4_mapped().is_some() => Some("write it as IPv4"),
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        };
        if let Some(why) = unusable {
            return Err(AddressError::Kind(address, why));
        }
        if self.prefix == 0 || self.prefix > bits {
            return Err(AddressError::Prefix(address, self.prefix, bits));
        }
        let network = Network { address, prefix: self.prefix };
        if self.prefix < bits - 1 && network.is_edge() {
            return Err(AddressError::Network(address, self.prefix));
        }
        let is_name = |name: &str| {
            let good = |b: u8| b.is_ascii_graphic() && !matches!(b, b'/' | b':');
            (1..=INTERFACE_BYTES_MAX).contains(&name.len()) && name.bytes().all(good) && name != "." && name != ".."
        };
        match &self.interface {
            Some(name) if !is_name(name) => Err(AddressError::Interface(name.chars().take(32).collect())),
            Some(_) | None => Ok(()),
        }
    }
}

/// An address with the bits of its network, as an interface has it: `192.0.2.10/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Network {
    /// The address.
    pub address: IpAddr,
    /// How many of its bits are those of the network.
    pub prefix: u8,
}

impl Network {
    /// Whether `other` is an address of the same network.
    pub fn contains(&self, other: IpAddr) -> bool {
        match (self.address, other) {
            (IpAddr::V4(one), IpAddr::V4(other)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix.min(32))).unwrap_or(0);
                u32::from(one) & mask == u32::from(other) & mask
            }
            (IpAddr::V6(one), IpAddr::V6(other)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix.min(128))).unwrap_or(0);
                u128::from(one) & mask == u128::from(other) & mask
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }

    /// The network itself, for people: `192.0.2.0/24`.
    pub fn base(&self) -> Self {
        let address = match self.address {
            IpAddr::V4(it) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix.min(32))).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from(u32::from(it) & mask))
            }
            IpAddr::V6(it) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix.min(128))).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from(u128::from(it) & mask))
            }
        };
        Self { address, prefix: self.prefix }
    }

    /// The first address of the network (IPv6: that of any router), or the last one of IPv4, which is everybody.
    fn is_edge(&self) -> bool {
        let last = match self.address {
            IpAddr::V4(it) => {
                let host = u32::MAX.checked_shr(self.prefix.into()).unwrap_or(0);
                u32::from(it) & host == host
            }
            IpAddr::V6(_) => false,
        };
        last || self.base().address == self.address
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> String {
        let (address, prefix) = text.split_once('/').expect("a prefix");
        let spec = AddressSpec { prefix: prefix.parse().expect("a number"), interface: None };
        spec.check(address.parse().expect("an address")).err().map_or_else(String::new, |error| error.to_string())
    }

    #[test]
    fn an_address_that_no_node_could_hold_is_refused_with_the_reason() {
        for good in ["192.0.2.10/24", "10.0.0.1/32", "10.0.0.0/31", "2001:db8::10/64", "2001:db8::1/128"] {
            assert_eq!(wrong(good), "", "{good}");
        }
        let cases = [
            ("127.0.0.1/8", "the host itself"),
            ("224.0.0.1/4", "no address of one host"),
            ("255.255.255.255/32", "no address of one host"),
            ("0.0.0.1/8", "stands for any"),
            ("169.254.0.1/16", "one link"),
            ("192.0.2.10/0", "prefix /0"),
            ("192.0.2.10/33", "between 1 and 32"),
            ("192.0.2.0/24", "of a network"),
            ("192.0.2.255/24", "of a network"),
            ("::1/128", "the host itself"),
            ("fe80::1/64", "one link"),
            ("ff02::1/64", "no address of one host"),
            ("::ffff:192.0.2.1/96", "write it as IPv4"),
            ("2001:db8::/64", "of a network"),
        ];
        for (text, part) in cases {
            assert!(wrong(text).contains(part), "{text}: {:?}", wrong(text));
        }
        for name in ["", "eth0:1", "a/b", "sixteen-bytes-ab", ".."] {
            let spec = AddressSpec { prefix: 24, interface: Some(name.into()) };
            assert!(matches!(spec.check([192, 0, 2, 1].into()), Err(AddressError::Interface(_))), "{name:?}");
        }
    }

    #[test]
    fn a_network_contains_what_has_its_bits() {
        let network = |text: &str| {
            let (address, prefix) = text.split_once('/').expect("a prefix");
            Network { address: address.parse().expect("an address"), prefix: prefix.parse().expect("a number") }
        };
        let holds = |text: &str, other: &str| network(text).contains(other.parse().expect("an address"));
        assert!(holds("192.0.2.7/24", "192.0.2.10") && !holds("192.0.2.7/24", "192.0.3.10"));
        assert!(holds("192.0.2.7/32", "192.0.2.7") && !holds("192.0.2.7/32", "192.0.2.8"));
        assert!(holds("2001:db8::7/64", "2001:db8::ffff:1") && !holds("2001:db8::7/64", "2001:db8:0:1::1"));
        assert!(!holds("192.0.2.7/24", "2001:db8::1"));
        assert_eq!(network("192.0.2.7/24").base().to_string(), "192.0.2.0/24");
        assert_eq!(network("2001:db8::7/64").base().to_string(), "2001:db8::/64");
    }
}
