//! What the agent's configuration says of names: where they are answered, which zones were handed over, which addresses are told.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, anyhow, bail};
use hirsel_model::check_name;
use hirsel_model::control::limits::ACTION_LIST_MAX;
use hirsel_model::spec::Block;
use hirsel_role::INTERNAL_ZONE;

use crate::digest::PUBLIC_MAX;

/// Where programs ask for names when nobody says otherwise.
const PORT: u16 = 53;
/// Each question looks at all zones; who has more of them has a DNS server of another kind.
const ZONES_MAX: usize = 32;
/// A name has at most 253 characters (RFC 1035), and a name server's is put in front of its zone: `NODE.ns.`
const ZONE_BYTES_MAX: usize = 253 - 63 - 4;

/// Resolvers that are named: each is tried twice before who asks gives up.
const RESOLVERS_MAX: usize = 8;
/// Networks larger than these are nobody's own: 10.0.0.0/8 is the largest private one of IPv4, fc00::/7 of IPv6.
const OPEN_BITS_V4: u8 = 8;
const OPEN_BITS_V6: u8 = 7;

/// `off`, or an address whose port may be left out.
pub(super) fn listen(text: Option<&str>, public: IpAddr) -> Result<Option<SocketAddr>> {
    let Some(text) = text else { return Ok(Some(SocketAddr::new(public, PORT))) };
    if text == "off" {
        return Ok(None);
    }
    if let Ok(addr) = text.parse() {
        return Ok(Some(addr));
    }
    let ip = text.trim_matches(['[', ']']).parse();
    let ip = ip.with_context(|| format!("{text:?} is no address for names; expected IP, IP:PORT or off"))?;
    Ok(Some(SocketAddr::new(ip, PORT)))
}

/// Zones in lower case, without a final dot.
pub(super) fn zones(written: &[String]) -> Result<Vec<String>> {
    let mut zones = BTreeSet::new();
    for word in written {
        let zone = word.trim_end_matches('.').to_ascii_lowercase();
        if zone == INTERNAL_ZONE || zone.ends_with(&format!(".{INTERNAL_ZONE}")) {
            bail!("dns.zones: {word:?} is of the cluster's own zone, which is always answered; leave it out");
        }
        if zone.len() > ZONE_BYTES_MAX || !zone.split('.').all(|label| check_name(label).is_ok()) {
            bail!(
                "dns.zones: {word:?} is no zone; use labels of a-z, 0-9 and '-' between dots, for example example.com"
            );
        }
        zones.insert(zone);
    }
    if zones.len() > ZONES_MAX {
        bail!("dns.zones: {} zones exceed {ZONES_MAX}", zones.len());
    }
    Ok(zones.into_iter().collect())
}

/// The addresses that names tell of this node's public services: those written, or where they listen, or where the mesh is.
pub(super) fn told_public(written: Vec<IpAddr>, public: IpAddr, advertised: IpAddr) -> Result<Vec<IpAddr>> {
    if let Some(wrong) = written.iter().find(|addr| addr.is_unspecified()) {
        bail!("dns.public: {wrong} is no address that others can be told");
    }
    if written.len() > PUBLIC_MAX {
        bail!("dns.public: {} addresses exceed {PUBLIC_MAX}", written.len());
    }
    Ok(match written {
        written if !written.is_empty() => written,
        _ if public.is_unspecified() => vec![advertised],
        _ => vec![public],
    })
}

/// Resolvers by address, none of them this agent.
pub(super) fn forward(written: &[String], own: Option<SocketAddr>) -> Result<Vec<SocketAddr>> {
    if written.len() > RESOLVERS_MAX {
        bail!("dns.forward: {} resolvers exceed {RESOLVERS_MAX}", written.len());
    }
    let mut resolvers = Vec::new();
    for word in written {
        let addr = word.parse().or_else(|_| word.trim_matches(['[', ']']).parse().map(|ip| SocketAddr::new(ip, PORT)));
        let addr =
            addr.with_context(|| format!("dns.forward: {word:?} is no address of a resolver; expected IP or IP:PORT"))?;
        if addr.ip().is_unspecified() || addr.ip().is_multicast() || addr.port() == 0 {
            bail!("dns.forward: {word:?} is no address of one resolver");
        }
        if own == Some(addr) {
            bail!("dns.forward: {word:?} is this agent itself; name the resolver that it shall ask");
        }
        if !resolvers.contains(&addr) {
            resolvers.push(addr);
        }
    }
    Ok(resolvers)
}

/// Networks whose questions are passed on besides those of this host. The whole world is none.
pub(super) fn forward_for(written: &[String], forward: &[String]) -> Result<Vec<Block>> {
    if !written.is_empty() && forward.is_empty() {
        bail!("dns.forward_for says for whom, and nothing says to whom; add dns.forward = [\"IP\"]");
    }
    if written.len() > ACTION_LIST_MAX {
        bail!("dns.forward_for: {} blocks of addresses exceed {ACTION_LIST_MAX}", written.len());
    }
    let mut blocks = Vec::new();
    for word in written {
        let block: Block = word.parse().map_err(|why| anyhow!("dns.forward_for: {why}"))?;
        let shown = block.to_string();
        let (addr, bits) = shown.split_once('/').unwrap_or((&shown, ""));
        let least = if addr.contains(':') { OPEN_BITS_V6 } else { OPEN_BITS_V4 };
        if bits.parse::<u8>().is_ok_and(|bits| bits < least) {
            bail!(
                "dns.forward_for: {word:?} is most of the world; an open resolver is used to attack others, name your own networks"
            );
        }
        blocks.push(block);
    }
    Ok(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_answered_where_it_is_said_or_not_at_all() {
        let public: IpAddr = "10.0.0.1".parse().unwrap();
        let at = |text| listen(text, public).unwrap().map(|addr| addr.to_string());
        assert_eq!(at(None).as_deref(), Some("10.0.0.1:53"));
        assert_eq!(at(Some("off")), None);
        assert_eq!(at(Some("127.0.0.1")).as_deref(), Some("127.0.0.1:53"));
        assert_eq!(at(Some("127.0.0.1:8053")).as_deref(), Some("127.0.0.1:8053"));
        assert_eq!(at(Some("::1")).as_deref(), Some("[::1]:53"));
        assert!(listen(Some("8053"), public).unwrap_err().to_string().contains("IP:PORT"));
    }

    #[test]
    fn zones_are_names_and_never_the_cluster_s_own() {
        let read = |words: &[&str]| zones(&words.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(read(&["Example.COM.", "example.com", "a.b"]).unwrap(), ["a.b", "example.com"]);
        assert!(read(&["hirsel."]).unwrap_err().to_string().contains("own zone"));
        assert!(read(&["shop.hirsel"]).unwrap_err().to_string().contains("own zone"));
        for wrong in ["", ".", "*.example.com", "exa_mple.com", "a..b", &"a.".repeat(120)] {
            assert!(read(&[wrong]).unwrap_err().to_string().contains("is no zone"), "{wrong}");
        }
    }

    #[test]
    fn the_public_is_told_an_address_that_exists() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let (any, mesh, own) = (ip("0.0.0.0"), ip("10.0.0.1"), ip("203.0.113.5"));
        assert_eq!(told_public(vec![], own, mesh).unwrap(), [own]);
        assert_eq!(told_public(vec![], any, mesh).unwrap(), [mesh]);
        assert_eq!(told_public(vec![own], any, mesh).unwrap(), [own]);
        assert!(told_public(vec![any], own, mesh).is_err());
        assert!(told_public(vec![own; PUBLIC_MAX + 1], own, mesh).is_err());
    }

    #[test]
    fn questions_are_passed_on_to_others_and_never_for_the_whole_world() {
        let own = Some("10.0.0.1:53".parse().unwrap());
        let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        let read = |list: &[&str]| {
            forward(&words(list), own).map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let good = read(&["10.0.0.2", "10.0.0.3:5353", "fd00::1", "[fd00::1]:53", "10.0.0.2"]).unwrap();
        assert_eq!(good, ["10.0.0.2:53", "10.0.0.3:5353", "[fd00::1]:53"]);
        for (word, says) in
            [("dns.test", "no address of a resolver"), ("0.0.0.0", "one resolver"), ("10.0.0.1", "this agent itself")]
        {
            assert!(read(&[word]).unwrap_err().to_string().contains(says), "{word}");
        }
        let serves = |list: &[&str]| forward_for(&words(list), &words(&["10.0.0.2"]));
        assert_eq!(serves(&["10.0.0.0/8", "fd00::/8", "192.0.2.7"]).unwrap().len(), 3);
        for open in ["0.0.0.0/0", "::/0", "10.0.0.0/7"] {
            assert!(serves(&[open]).unwrap_err().to_string().contains("most of the world"), "{open}");
        }
        assert!(serves(&["10.0.0.0/33"]).is_err());
        assert!(forward_for(&words(&["10.0.0.0/8"]), &[]).unwrap_err().to_string().contains("dns.forward ="));
    }
}
