//! Addresses of network interfaces, asked of and told to the kernel (rtnetlink(7)): one question at a time, without a runtime, for the guard
//! has none. The kernel answers within microseconds.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use hirsel_model::spec::{INTERFACE_BYTES_MAX, Network};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, CacheInfo};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily as Family, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::floating::Floating;

/// A kernel that does not answer in this time is out of order.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// The kernel cuts what it lists into pieces of at most this many bytes.
const PIECE_BYTES_MAX: usize = 64 << 10;
/// Marks what is ours for people who look with `ip addr`, where the name of the interface leaves room for it.
const LABEL: &str = "hirsel";

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    /// Its number.
    pub index: u32,
    /// Its address on the wire; empty where it has none.
    pub wire: Vec<u8>,
    up: bool,
    loopback: bool,
}

/// All interfaces by name.
pub(crate) fn links() -> io::Result<BTreeMap<String, Link>> {
    let question = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let told = ask(question, NLM_F_REQUEST | NLM_F_DUMP)?.into_iter().filter_map(|message| match message {
        RouteNetlinkMessage::NewLink(link) => named(link),
        _ => None,
    });
    Ok(told.collect())
}

fn named(message: LinkMessage) -> Option<(String, Link)> {
    let (mut name, mut wire) = (None, Vec::new());
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text),
            LinkAttribute::Address(bytes) => wire = bytes,
            _ => {}
        }
    }
    let has = |flag| message.header.flags.contains(flag);
    let (up, loopback) = (has(LinkFlags::Up), has(LinkFlags::Loopback));
    Some((name?, Link { index: message.header.index, wire, up, loopback }))
}

/// The interface with this name.
pub(crate) fn link(name: &str) -> io::Result<Link> {
    let missing = || io::Error::new(io::ErrorKind::NotFound, format!("this host has no interface {name}"));
    links()?.remove(name).ok_or_else(missing)
}

/// The addresses of each interface that is up, loopback and what is good on one link only left out.
pub(crate) fn interfaces() -> io::Result<BTreeMap<String, BTreeSet<Network>>> {
    let links = links()?;
    let names: BTreeMap<u32, &String> =
        links.iter().filter(|(_, link)| link.up && !link.loopback).map(|(name, link)| (link.index, name)).collect();
    let mut all: BTreeMap<String, BTreeSet<Network>> =
        names.values().map(|name| ((*name).clone(), BTreeSet::new())).collect();
    let question = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    for message in ask(question, NLM_F_REQUEST | NLM_F_DUMP)? {
        let RouteNetlinkMessage::NewAddress(message) = message else { continue };
        let Some(name) = names.get(&message.header.index) else { continue };
        if let Some(address) = own(&message.attributes).filter(is_reachable)
            && let Some(has) = all.get_mut(*name)
        {
            has.insert(Network { address, prefix: message.header.prefix_len });
        }
    }
    Ok(all)
}

/// Of a point-to-point interface the address of this end.
fn own(attributes: &[AddressAttribute]) -> Option<IpAddr> {
    let local = attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let plain = attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    });
    local.or(plain)
}

fn is_reachable(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(it) => !it.is_loopback() && !it.is_link_local(),
        IpAddr::V6(it) => !it.is_loopback() && !it.is_unicast_link_local(),
    }
}

/// Puts a floating address on its interface. No error where it is there already.
pub(crate) fn add(floating: &Floating) -> io::Result<()> {
    let mut message = message(floating)?;
    match floating.address {
        IpAddr::V4(_) => {
            let label = format!("{}:{LABEL}", floating.interface);
            message.attributes.extend((label.len() <= INTERFACE_BYTES_MAX).then_some(AddressAttribute::Label(label)));
        }
        IpAddr::V6(_) => {
            // Another holder may have it for a moment, so that nobody is asked whether it is taken (RFC 4862, section 5.4). And it is
            // never the source of what this host begins by itself: such an address is called deprecated.
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            let mut life = CacheInfo::default();
            (life.ifa_preferred, life.ifa_valid) = (0, u32::MAX);
            message.attributes.push(AddressAttribute::CacheInfo(life));
        }
    }
    let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
    match ask(RouteNetlinkMessage::NewAddress(message), flags) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        told => told.map(drop),
    }
}

/// Takes a floating address off its interface. No error where it is not there, or the interface is gone.
pub(crate) fn remove(floating: &Floating) -> io::Result<()> {
    let message = match message(floating) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        message => message?,
    };
    match ask(RouteNetlinkMessage::DelAddress(message), NLM_F_REQUEST | NLM_F_ACK) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::ENODEV)) => Ok(()),
        told => told.map(drop),
    }
}

fn message(floating: &Floating) -> io::Result<AddressMessage> {
    let mut message = AddressMessage::default();
    message.header.family = if floating.address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.prefix_len = floating.prefix;
    message.header.index = link(&floating.interface)?.index;
    message.attributes = vec![AddressAttribute::Local(floating.address), AddressAttribute::Address(floating.address)];
    Ok(message)
}

/// Asks the kernel, and returns all that it answers.
fn ask(question: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
    // Of all protocols the first, `NETLINK_ROUTE`.
    let socket: OwnedFd = rustix::net::socket_with(Family::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_WITHIN))?;
    let mut header = NetlinkHeader::default();
    (header.flags, header.sequence_number) = (flags, 1);
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(question));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    // Whoever is not connected speaks with the kernel.
    rustix::net::send(&socket, &bytes, SendFlags::empty())?;
    let mut told = Vec::new();
    let mut piece = vec![0; PIECE_BYTES_MAX];
    loop {
        let (length, _) = rustix::net::recv(&socket, piece.as_mut_slice(), RecvFlags::empty())?;
        let mut rest = &piece[..length.min(PIECE_BYTES_MAX)];
        while !rest.is_empty() {
            let wrong = |error| io::Error::new(io::ErrorKind::InvalidData, format!("an answer of the kernel: {error}"));
            let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(wrong)?;
            match answer.payload {
                NetlinkPayload::Done(_) => return Ok(told),
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                NetlinkPayload::Error(_) => return Ok(told),
                NetlinkPayload::InnerMessage(message) => told.push(message),
                _ => {}
            }
            // Each begins at a multiple of four bytes (`NLMSG_ALIGN`).
            let taken = (answer.header.length as usize).next_multiple_of(4).max(4);
            rest = rest.get(taken..).unwrap_or_default();
        }
    }
}
