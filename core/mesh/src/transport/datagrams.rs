//! Doors for datagrams: an lb tells an instance on another node what clients send over UDP, and is told what it answers.
//!
//! Over one connection of TLS each datagram goes behind its length. One connection is one client's: behind it is a socket of its own,
//! so that the instance tells clients apart by their ports, and no answer goes astray.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hirsel_model::InstanceId;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::server::TlsStream;
use tracing::debug;

use super::Shared;
use super::door::{NOT_ACCEPTED, OPEN};
use super::tls::Buffered;
use crate::seam::{Datagrams, Origin};

/// Longest datagram there is.
pub const DATAGRAM_BYTES_MAX: usize = u16::MAX as usize;

/// What is read at once: a datagram as usual networks carry it.
const READ_BYTES: usize = 2048;

/// Writes one datagram.
///
/// # Errors
/// When it is too long to be one, or the connection broke.
pub async fn write(to: &mut (impl AsyncWrite + Unpin), datagram: &[u8]) -> io::Result<()> {
    let length = u16::try_from(datagram.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let framed = [&length.to_be_bytes()[..], datagram].concat();
    to.write_all(&framed).await?;
    to.flush().await
}

/// Datagrams as they come over a connection.
#[derive(Debug, Default)]
pub struct Incoming {
    read: Vec<u8>,
}

impl Incoming {
    /// The next one; none when the connection ends. Cancel-safe.
    ///
    /// # Errors
    /// When the connection breaks, also within a datagram.
    pub async fn next(&mut self, from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some((length, rest)) = self.read.split_first_chunk::<2>() {
                let length = usize::from(u16::from_be_bytes(*length));
                if let Some(datagram) = rest.get(..length) {
                    let datagram = datagram.to_vec();
                    self.read.drain(..2 + length);
                    return Ok(Some(datagram));
                }
            }
            self.read.reserve(READ_BYTES);
            if from.read_buf(&mut self.read).await? == 0 {
                let is_between = self.read.is_empty();
                return if is_between { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }
}

/// Passes datagrams between the opener of a door and the instance at `addr`, until the opener ends.
pub(super) async fn serve(shared: &Shared, mut tls: TlsStream<Buffered>, instance: &InstanceId, addr: SocketAddr) {
    let any: IpAddr = if addr.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = shared.world.net.udp(SocketAddr::new(any, 0)).await;
    let status = if socket.is_ok() { OPEN } else { NOT_ACCEPTED };
    if tls.write_all(&[status]).await.is_err() || tls.flush().await.is_err() {
        return;
    }
    let Ok(socket) = socket else { return };
    if let Err(error) = pass(&mut tls, &mut Datagrams::new(socket), addr).await {
        debug!(%instance, %error, "door for datagrams broke");
    }
}

async fn pass(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    socket: &mut Datagrams,
    addr: SocketAddr,
) -> io::Result<()> {
    enum Came {
        Asked(Option<Vec<u8>>),
        Answered(Vec<u8>),
    }
    let to = Origin { peer: addr, local: None };
    let mut incoming = Incoming::default();
    loop {
        let came = tokio::select! {
            asked = incoming.next(stream) => Came::Asked(asked?),
            answered = socket.receive() => match answered {
                // Nobody but the instance is heard.
                Ok((datagram, from)) if from.peer == addr => Came::Answered(datagram.to_vec()),
                Ok(_) => continue,
                // So the kernel tells that nobody listened there just now.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                Err(error) => return Err(error),
            },
        };
        match came {
            Came::Asked(Some(datagram)) => socket.send(&datagram, to).await?,
            Came::Asked(None) => return Ok(()),
            Came::Answered(datagram) => write(stream, &datagram).await?,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::duplex;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn datagrams_arrive_one_by_one_whatever_pieces_they_come_in(
            sent in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 0..8), room in 1..200usize
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let came = runtime.block_on(async {
                let (mut here, mut there) = duplex(room);
                let written = async {
                    for datagram in &sent {
                        write(&mut here, datagram).await.unwrap();
                    }
                    drop(here);
                };
                let read = async {
                    let (mut incoming, mut came) = (Incoming::default(), Vec::new());
                    while let Some(datagram) = incoming.next(&mut there).await.unwrap() {
                        came.push(datagram);
                    }
                    came
                };
                tokio::join!(written, read).1
            });
            prop_assert_eq!(came, sent);
        }
    }

    #[tokio::test]
    async fn a_connection_that_ends_within_a_datagram_broke() {
        let mut bytes = &[0, 5, 1, 2][..];
        assert_eq!(Incoming::default().next(&mut bytes).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert!(write(&mut Vec::new(), &[0; 70_000]).await.is_err());
    }
}
