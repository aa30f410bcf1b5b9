//! What the agent's configuration says of names: where they are answered, which zones were handed over, which addresses are told.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, bail};
use hirsel_model::check_name;
use hirsel_role::INTERNAL_ZONE;

use crate::digest::PUBLIC_MAX;

/// Where programs ask for names when nobody says otherwise.
const PORT: u16 = 53;
/// Each question looks at all zones; who has more of them has a DNS server of another kind.
const ZONES_MAX: usize = 32;
/// A name has at most 253 characters (RFC 1035), and a name server's is put in front of its zone: `NODE.ns.`
const ZONE_BYTES_MAX: usize = 253 - 63 - 4;

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
}
