//! The PROXY protocol (haproxy, "The PROXY protocol, versions 1 & 2", 2020): one header before everything else on a connection, by
//! which a proxy tells whom it connects for.
//!
//! Pure: bytes in, bytes out. Whether a header is to be believed is for others to decide: whoever can write one can name any client.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hirsel_model::spec::ProxyVersion;

/// Longest header of version 1, its end included (section 2.1).
const V1_BYTES_MAX: usize = 107;

/// Longest header of version 2 that is taken. One may have 64 KiB; what proxies add besides addresses (what TLS agreed on, names of
/// networks) is some hundred bytes.
const V2_BYTES_MAX: usize = 4096;

/// Longest header that is taken.
pub const HEADER_BYTES_MAX: usize = V2_BYTES_MAX;

/// How version 2 begins: no protocol does (section 2.2).
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const V2_FIXED_BYTES: usize = 16;

const V1_BEGIN: &[u8] = b"PROXY ";

/// Whom a proxy connects for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// A client.
    For {
        /// Its address.
        client: SocketAddr,
        /// Where it connected to.
        to: SocketAddr,
    },
    /// For itself, to see whether we are there, or for somebody without an address.
    Itself,
}

/// What is no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wrong(pub &'static str);

/// The header that `bytes` begin with, and how long it is. None if more has to come.
///
/// # Errors
/// Why it is none.
pub fn read(bytes: &[u8]) -> Result<Option<(Header, usize)>, Wrong> {
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(byte, expected)| byte == expected);
    if begins(SIGNATURE) {
        return if bytes.len() < V2_FIXED_BYTES { Ok(None) } else { read_v2(bytes) };
    }
    if begins(V1_BEGIN) {
        return if bytes.len() < V1_BEGIN.len() { Ok(None) } else { read_v1(bytes) };
    }
    Err(Wrong("it begins with no header of the PROXY protocol"))
}

fn read_v1(bytes: &[u8]) -> Result<Option<(Header, usize)>, Wrong> {
    let head = &bytes[..bytes.len().min(V1_BYTES_MAX)];
    let Some(end) = head.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() < V1_BYTES_MAX { Ok(None) } else { Err(Wrong("its line does not end")) };
    };
    let line = str::from_utf8(&head[V1_BEGIN.len()..end]).map_err(|_| Wrong("its line is no text"))?;
    let length = end + 2;
    let words: Vec<&str> = line.split(' ').collect();
    let header = match words[..] {
        // What follows is to be passed over (section 2.1).
        ["UNKNOWN", ..] => Header::Itself,
        ["TCP4", from, to, from_port, to_port] => {
            Header::For { client: v1_addr::<Ipv4Addr>(from, from_port)?, to: v1_addr::<Ipv4Addr>(to, to_port)? }
        }
        ["TCP6", from, to, from_port, to_port] => {
            Header::For { client: v1_addr::<Ipv6Addr>(from, from_port)?, to: v1_addr::<Ipv6Addr>(to, to_port)? }
        }
        _ => return Err(Wrong("its line does not name two addresses and two ports")),
    };
    Ok(Some((header, length)))
}

fn v1_addr<A: std::str::FromStr + Into<IpAddr>>(ip: &str, port: &str) -> Result<SocketAddr, Wrong> {
    let ip: A = ip.parse().map_err(|_| Wrong("an address of its line is none"))?;
    let digits = port.bytes().all(|b| b.is_ascii_digit()) && (port == "0" || !port.starts_with('0'));
    let port = port.parse().ok().filter(|_| digits).ok_or(Wrong("a port of its line is none"))?;
    Ok(SocketAddr::new(ip.into(), port))
}

fn read_v2(bytes: &[u8]) -> Result<Option<(Header, usize)>, Wrong> {
    let (version, command) = (bytes[12] >> 4, bytes[12] & 0x0f);
    if version != 2 {
        return Err(Wrong("it is of no version that is known"));
    }
    let length = V2_FIXED_BYTES + usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    if length > V2_BYTES_MAX {
        return Err(Wrong("it is too long"));
    }
    let is_for_itself = match command {
        0 => true,
        1 => false,
        _ => return Err(Wrong("its command is not known")),
    };
    let Some(block) = bytes.get(V2_FIXED_BYTES..length) else { return Ok(None) };
    let short = Wrong("it is too short for its addresses");
    let header = match bytes[13] {
        _ if is_for_itself => Header::Itself,
        0x00 => Header::Itself,
        0x11 | 0x12 => {
            let (from, rest) = block.split_first_chunk::<4>().ok_or(short)?;
            let (to, rest) = rest.split_first_chunk::<4>().ok_or(short)?;
            v2_pair(Ipv4Addr::from(*from).into(), Ipv4Addr::from(*to).into(), rest).ok_or(short)?
        }
        0x21 | 0x22 => {
            let (from, rest) = block.split_first_chunk::<16>().ok_or(short)?;
            let (to, rest) = rest.split_first_chunk::<16>().ok_or(short)?;
            v2_pair(Ipv6Addr::from(*from).into(), Ipv6Addr::from(*to).into(), rest).ok_or(short)?
        }
        // Paths of sockets: nobody's address.
        0x31 | 0x32 => Header::Itself,
        _ => return Err(Wrong("its kind of address is not known")),
    };
    Ok(Some((header, length)))
}

fn v2_pair(from: IpAddr, to: IpAddr, ports: &[u8]) -> Option<Header> {
    let (from_port, rest) = ports.split_first_chunk::<2>()?;
    let (to_port, _more) = rest.split_first_chunk::<2>()?;
    let client = SocketAddr::new(from, u16::from_be_bytes(*from_port));
    Some(Header::For { client, to: SocketAddr::new(to, u16::from_be_bytes(*to_port)) })
}

/// A header that tells that a client at `client` connected to `to`.
pub fn write(version: ProxyVersion, client: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let (from, to_ip) = of_one_family(client.ip(), to.ip());
    match version {
        ProxyVersion::V1 => {
            let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
            format!("PROXY {family} {from} {to_ip} {} {}\r\n", client.port(), to.port()).into_bytes()
        }
        ProxyVersion::V2 => {
            let mut bytes = SIGNATURE.to_vec();
            let (family, length) = if from.is_ipv4() { (0x11, 12u16) } else { (0x21, 36) };
            bytes.extend([0x21, family]);
            bytes.extend(length.to_be_bytes());
            for ip in [from, to_ip] {
                match ip {
                    IpAddr::V4(ip) => bytes.extend(ip.octets()),
                    IpAddr::V6(ip) => bytes.extend(ip.octets()),
                }
            }
            bytes.extend(client.port().to_be_bytes());
            bytes.extend(to.port().to_be_bytes());
            bytes
        }
    }
}

/// Both as a header can name them: an IPv4 address beside an IPv6 one is written as one of those.
fn of_one_family(client: IpAddr, to: IpAddr) -> (IpAddr, IpAddr) {
    let mapped = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().into(),
        IpAddr::V6(_) => ip,
    };
    match (client.to_canonical(), to.to_canonical()) {
        (client @ IpAddr::V4(_), to @ IpAddr::V4(_)) => (client, to),
        // It listens on every address, of which this was one.
        (client @ IpAddr::V4(_), to) if to.is_unspecified() => (client, Ipv4Addr::UNSPECIFIED.into()),
        (client @ IpAddr::V6(_), to) if to.is_unspecified() => (client, Ipv6Addr::UNSPECIFIED.into()),
        (client, to) => (mapped(client), mapped(to)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v4() -> Header {
        Header::For { client: "192.168.0.11:56324".parse().unwrap(), to: "192.168.0.12:443".parse().unwrap() }
    }

    fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let length = u16::try_from(block.len()).unwrap().to_be_bytes();
        [SIGNATURE.as_slice(), &[0x20 | command, family], &length, block].concat()
    }

    #[test]
    fn a_line_of_text_is_read_with_what_comes_behind_it() {
        let bytes = b"PROXY TCP4 192.168.0.11 192.168.0.12 56324 443\r\nGET / HTTP/1.1\r\n";
        assert_eq!(read(bytes), Ok(Some((v4(), 48))));
        let six = b"PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n";
        let header =
            Header::For { client: "[2001:db8::1]:1".parse().unwrap(), to: "[2001:db8::2]:65535".parse().unwrap() };
        assert_eq!(read(six), Ok(Some((header, six.len()))));
        for line in [&b"PROXY UNKNOWN\r\n"[..], b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n"] {
            assert_eq!(read(line), Ok(Some((Header::Itself, line.len()))));
        }
    }

    #[test]
    fn a_header_in_binary_is_read_with_what_it_adds() {
        let block = [192, 168, 0, 11, 192, 168, 0, 12, 0xdc, 0x04, 0x01, 0xbb];
        assert_eq!(read(&v2(1, 0x11, &block)), Ok(Some((v4(), 28))));
        let more = [&block[..], &[0x01, 0, 2, b'h', b'2']].concat();
        assert_eq!(read(&v2(1, 0x11, &more)), Ok(Some((v4(), 33))));
        assert_eq!(read(&v2(0, 0x11, &block)), Ok(Some((Header::Itself, 28))), "it looks whether we are there");
        assert_eq!(read(&v2(1, 0x00, &[])), Ok(Some((Header::Itself, 16))));
        assert_eq!(read(&v2(1, 0x31, &[0; 216])), Ok(Some((Header::Itself, 232))));
    }

    #[test]
    fn what_is_no_header_is_refused_as_soon_as_that_is_seen() {
        for line in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"P\r",
            b"\r\n\r\n\0\r\nQUIX",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4  1 2\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
            b"PROXY TCP4 1.2.3.4 ::1 1 2\r\n",
            b"PROXY TCP4 01.2.3.4 1.2.3.4 1 2\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n",
            b"PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n",
            b"PROXY  UNKNOWN\r\n",
            b"PROXY \xff\r\n",
            b"PROXY \r\n",
        ] {
            assert!(read(line).is_err(), "{}", line.escape_ascii());
        }
        assert_eq!(read(&[b"PROXY UNKNOWN ".as_slice(), &[b'x'; 93]].concat()), Err(Wrong("its line does not end")));
        for bytes in [v2(2, 0x11, &[0; 12]), v2(1, 0x11, &[0; 11]), v2(1, 0x21, &[0; 35]), v2(1, 0x41, &[0; 99])] {
            assert!(read(&bytes).is_err(), "{}", bytes.escape_ascii());
        }
        let mut old = v2(1, 0x11, &[0; 12]);
        old[12] = 0x11;
        assert_eq!(read(&old), Err(Wrong("it is of no version that is known")));
        let mut long = v2(1, 0x11, &[0; 12]);
        long[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
        assert_eq!(read(&long), Err(Wrong("it is too long")), "before all of it has come");
    }

    #[test]
    fn addresses_of_two_families_are_written_as_one() {
        let mixed = write(ProxyVersion::V1, "10.0.0.1:5".parse().unwrap(), "[fd00::1]:6".parse().unwrap());
        assert_eq!(mixed, b"PROXY TCP6 ::ffff:10.0.0.1 fd00::1 5 6\r\n");
        let any = write(ProxyVersion::V1, "[::ffff:10.0.0.1]:5".parse().unwrap(), "[::]:6".parse().unwrap());
        assert_eq!(any, b"PROXY TCP4 10.0.0.1 0.0.0.0 5 6\r\n");
    }

    fn addr() -> impl Strategy<Value = SocketAddr> {
        let ip = prop_oneof![
            any::<u32>().prop_map(|bits| IpAddr::V4(bits.into())),
            any::<u128>().prop_map(|bits| IpAddr::V6(bits.into()))
        ];
        (ip, any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_no_piece_of_it_is_taken_for_the_whole(
            client in addr(), to in addr(), one in any::<bool>(), rest in prop::collection::vec(any::<u8>(), 0..20)
        ) {
            let bytes = write(if one { ProxyVersion::V1 } else { ProxyVersion::V2 }, client, to);
            prop_assert!(bytes.len() <= V1_BYTES_MAX);
            for end in 0..bytes.len() {
                prop_assert_eq!(read(&bytes[..end]), Ok(None));
            }
            let whole = [&bytes[..], &rest].concat();
            let Ok(Some((Header::For { client: told, to: there }, length))) = read(&whole) else { panic!("{bytes:?}") };
            prop_assert_eq!(length, bytes.len());
            prop_assert_eq!((told.ip().to_canonical(), told.port()), (client.ip().to_canonical(), client.port()));
            prop_assert_eq!(there.port(), to.port());
        }

        #[test]
        fn no_bytes_panic_and_none_are_waited_for_without_end(bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 0..3usize) {
            let begin: &[u8] = [b"", V1_BEGIN, SIGNATURE.as_slice()][kind];
            let bytes = [begin, &bytes].concat();
            match read(&bytes) {
                Ok(Some((_, length))) => prop_assert!(length <= bytes.len() && length <= HEADER_BYTES_MAX),
                Ok(None) => prop_assert!(bytes.len() < HEADER_BYTES_MAX),
                Err(Wrong(why)) => prop_assert!(!why.is_empty()),
            }
        }
    }
}
