//! Asks this node's own load balancer whether it answers. A port that is open is not enough: the kernel accepts for a program that stands
//! still.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hirsel_role::{Host, LB_NAME};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// A load balancer answers within a millisecond; one on a busy host that takes longer than this answers nobody in time.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
/// What the answer begins with that only a load balancer of ours gives.
const ANSWER: &[u8] = b"HTTP/1.1 204 ";

/// Where it is asked: at the address that it listens on, or on loopback where it listens on all.
pub fn addr(bind: IpAddr, port: u16) -> SocketAddr {
    let ip = match bind {
        IpAddr::V4(it) if it.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(it) if it.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        other => other,
    };
    SocketAddr::new(ip, port)
}

/// Whether the load balancer answers now.
pub async fn answers(host: &dyn Host, addr: SocketAddr) -> bool {
    matches!(timeout(ANSWER_WITHIN, ask(host, addr)).await, Ok(Ok(true)))
}

async fn ask(host: &dyn Host, addr: SocketAddr) -> io::Result<bool> {
    let mut stream = host.connect(addr).await?;
    let question = format!("GET / HTTP/1.1\r\nhost: {LB_NAME}\r\nconnection: close\r\n\r\n");
    stream.write_all(question.as_bytes()).await?;
    let mut begun = [0; ANSWER.len()];
    stream.read_exact(&mut begun).await?;
    Ok(begun == ANSWER)
}
