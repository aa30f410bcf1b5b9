//! Tells the neighbours on a wire which host has an address now: an ARP request for oneself, which every host and switch learns from
//! (RFC 5227, section 3), or an unsolicited neighbour advertisement (RFC 4861, section 7.2.6).
#![allow(unsafe_code)] // One address of a kind that no safe library knows; its block says why it is sound.

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::floating::Floating;
use super::netlink::link;

/// Bytes of an address on the wire.
const WIRE_BYTES: usize = 6;
/// What says so to whoever hears it.
type Wire = [u8; WIRE_BYTES];
/// To every host on the wire.
const EVERYBODY: Wire = [0xff; WIRE_BYTES];
/// All hosts of a link (RFC 4291, section 2.7.1).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// A router would have made it less: so it comes from this link (RFC 4861, section 7.1.2).
const HOPS: u32 = 255;

/// Says once that this host has the address, on the interface that carries it. Nothing is said where there is no wire to say it on.
pub(crate) fn announce(floating: &Floating) -> io::Result<()> {
    let link = link(&floating.interface)?;
    let Ok(wire) = Wire::try_from(link.wire.as_slice()) else { return Ok(()) };
    match floating.address {
        IpAddr::V4(address) => ask_for_oneself(address, wire, link.index),
        IpAddr::V6(address) => advertise(address, wire, link.index),
    }
}

fn ask_for_oneself(address: Ipv4Addr, wire: Wire, index: u32) -> io::Result<()> {
    let protocol = (libc::ETH_P_ARP as u16).to_be();
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(i32::from(protocol))))?;
    socket.set_nonblocking(true)?;
    let mut to = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol,
        sll_ifindex: i32::try_from(index).unwrap_or(0),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: WIRE_BYTES as u8,
        sll_addr: [0; 8],
    };
    to.sll_addr[..WIRE_BYTES].copy_from_slice(&EVERYBODY);
    // SAFETY: a `sockaddr_ll` is smaller than the storage of any address, which is zeroed, aligned for it, and long enough.
    let (_, to) = unsafe {
        SockAddr::try_init(|storage, length| {
            storage.cast::<libc::sockaddr_ll>().write(to);
            *length = mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })?
    };
    socket.send_to(&request(address, wire), &to).map(drop)
}

/// A request (RFC 826) of which sender and target are one: it is not answered, and everybody who hears it learns.
fn request(address: Ipv4Addr, wire: Wire) -> Vec<u8> {
    // Ethernet, IPv4, with addresses of 6 and 4 bytes; a request.
    let mut bytes = vec![0, 1, 8, 0, 6, 4, 0, 1];
    bytes.extend(wire);
    bytes.extend(address.octets());
    bytes.extend([0; WIRE_BYTES]);
    bytes.extend(address.octets());
    bytes
}

fn advertise(address: Ipv6Addr, wire: Wire, index: u32) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    socket.set_nonblocking(true)?;
    socket.set_multicast_hops_v6(HOPS)?;
    socket.set_multicast_if_v6(index)?;
    socket.bind(&SocketAddrV6::new(address, 0, 0, index).into())?;
    let to = SocketAddrV6::new(ALL_NODES, 0, 0, index);
    socket.send_to(&advertisement(address, wire), &to.into()).map(drop)
}

/// An advertisement that replaces what was known before. The kernel adds its checksum (RFC 3542, section 3.1).
fn advertisement(address: Ipv6Addr, wire: Wire) -> Vec<u8> {
    let mut bytes = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    bytes.extend(address.octets());
    // The target's address on the wire, in units of eight bytes.
    bytes.extend([2, 1]);
    bytes.extend(wire);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_has_the_form_that_others_read() {
        let wire = [2, 0, 0, 0, 0, 7];
        let asked = request([192, 0, 2, 10].into(), wire);
        assert_eq!(asked.len(), 28);
        assert_eq!(
            (&asked[8..14], &asked[14..18], &asked[24..28]),
            (&wire[..], &[192, 0, 2, 10][..], &[192, 0, 2, 10][..])
        );
        let told = advertisement("2001:db8::10".parse().unwrap(), wire);
        assert_eq!((told.len(), told[0], told[4], &told[26..]), (32, 136, 0x20, &wire[..]));
    }
}
