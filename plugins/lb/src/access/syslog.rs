//! Lines of the log of requests that go to a collector too: syslog (RFC 5424) over UDP (RFC 5426), one datagram each.
//!
//! UDP promises nothing, and neither does this: what there is no room for, and what cannot be sent, is dropped and counted.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hirsel_mesh::seam::{Datagrams, Origin};
use hirsel_model::WallTime;
use hirsel_role::Host;
use hirsel_role::host::rfc3339;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::Notify;
use tracing::{info, warn};

/// Datagrams that wait, in bytes.
const WAITING_BYTES_MAX: usize = 1 << 20;

/// A collector takes at least 2 KiB (RFC 5426, section 3.2), and most take this much; a longer line is cut.
const MESSAGE_BYTES_MAX: usize = 8 << 10;

/// Facility local0, as of programs that have none of their own.
const FACILITY: u8 = 16;
/// A request that went well.
const INFORMATIONAL: u8 = 6;
/// One that failed.
const WARNING: u8 = 4;

/// After a failure nothing is sent for this long: a collector that is away for a while costs no more than that.
const PAUSE: Duration = Duration::from_secs(1);

/// Lines on their way to collectors.
#[derive(Debug, Default)]
pub struct Sender {
    waiting: Mutex<Waiting>,
    some: Notify,
    /// Datagrams that were sent.
    pub sent: Counter,
    /// Lines that were dropped.
    pub dropped: Counter,
}

#[derive(Debug, Default)]
struct Waiting {
    messages: VecDeque<(SocketAddr, Vec<u8>)>,
    bytes: usize,
}

impl Sender {
    /// Takes a line for the collector at `to`, if there is room.
    pub fn push(&self, to: SocketAddr, message: Vec<u8>) {
        {
            let mut waiting = self.waiting();
            if waiting.bytes + message.len() > WAITING_BYTES_MAX {
                drop(waiting);
                self.dropped.inc();
                return;
            }
            waiting.bytes += message.len();
            waiting.messages.push_back((to, message));
        }
        self.some.notify_one();
    }

    /// Sends what comes, until it is dropped.
    pub async fn send(self: Arc<Self>, host: Arc<dyn Host>) {
        let mut sockets = Sockets::default();
        let mut fails = false;
        loop {
            self.some.notified().await;
            while let Some((to, message)) = self.next() {
                let sent = sockets.send(&*host, to, &message).await;
                let count = if sent.is_ok() { &self.sent } else { &self.dropped };
                count.inc();
                // Only a change is worth a word.
                match (&sent, std::mem::replace(&mut fails, sent.is_err())) {
                    (Err(error), false) => warn!(%to, %error, "requests cannot be told to a collector"),
                    (Ok(()), true) => info!(%to, "requests are told to a collector again"),
                    (Ok(()), false) | (Err(_), true) => {}
                }
                if fails {
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn next(&self) -> Option<(SocketAddr, Vec<u8>)> {
        let mut waiting = self.waiting();
        let next = waiting.messages.pop_front()?;
        waiting.bytes -= next.1.len();
        Some(next)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One socket for each kind of address, once it is needed.
#[derive(Default)]
struct Sockets {
    v4: Option<Datagrams>,
    v6: Option<Datagrams>,
}

impl Sockets {
    async fn send(&mut self, host: &dyn Host, to: SocketAddr, message: &[u8]) -> std::io::Result<()> {
        let (socket, any): (_, IpAddr) = match to {
            SocketAddr::V4(_) => (&mut self.v4, Ipv4Addr::UNSPECIFIED.into()),
            SocketAddr::V6(_) => (&mut self.v6, Ipv6Addr::UNSPECIFIED.into()),
        };
        let open = match socket.take() {
            Some(open) => open,
            None => host.udp(SocketAddr::new(any, 0)).await?,
        };
        let sent = open.send(message, Origin { peer: to, local: None }).await;
        // One that failed may be of an address that this host has no more.
        if sent.is_ok() {
            *socket = Some(open);
        }
        sent
    }
}

/// A line as a message: `<134>1 2026-11-26T14:05:09.042Z n1 hirsel-lb - requests - LINE`.
pub fn message(at: WallTime, node: &str, failed: bool, line: &str) -> Vec<u8> {
    let priority = FACILITY * 8 + if failed { WARNING } else { INFORMATIONAL };
    let mut message = format!("<{priority}>1 {} {node} hirsel-lb - requests - ", rfc3339(at.0)).into_bytes();
    let line = line.trim_end_matches('\n');
    let room = MESSAGE_BYTES_MAX.saturating_sub(message.len());
    message.extend_from_slice(&line.as_bytes()[..line.floor_char_boundary(room)]);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_message_of_the_standard_and_cut_where_it_is_too_long() {
        let at = WallTime(1_795_702_509_042);
        let text = |failed, line: &str| String::from_utf8(message(at, "n1", failed, line)).expect("text");
        assert_eq!(text(false, "{\"a\":1}\n"), "<134>1 2026-11-26T14:15:09.042Z n1 hirsel-lb - requests - {\"a\":1}");
        assert!(text(true, "x").starts_with("<132>1 "));
        assert_eq!(text(false, &"ß".repeat(9_000)).len(), MESSAGE_BYTES_MAX);
    }

    #[test]
    fn what_there_is_no_room_for_is_dropped_and_counted() {
        let sender = Sender::default();
        let to = ([127, 0, 0, 1], 514).into();
        for _ in 0..200 {
            sender.push(to, vec![b'x'; MESSAGE_BYTES_MAX]);
        }
        assert_eq!((sender.waiting().messages.len(), sender.dropped.get()), (128, 72));
        while sender.next().is_some() {}
        assert_eq!(sender.waiting().bytes, 0);
    }
}
