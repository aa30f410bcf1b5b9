//! A UDP socket for questions and answers: one datagram after the other, over the same sockets of the seam that QUIC uses.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Poll, ready};

use quinn::AsyncUdpSocket;
use quinn::udp::{RecvMeta, Transmit};

/// The kernel may hand over several datagrams of one sender at once, as much as the longest datagram holds.
const BUFFER_BYTES: usize = 65_536;
/// So many such may come with one call of the kernel: whoever is asked often pays for one call, not for one each.
const BATCH: usize = 16;

thread_local! {
    /// Where datagrams are put first: sockets may be many, and what waits in one is mostly short. What no datagram reached takes no
    /// memory.
    static ROOM: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER_BYTES * BATCH].into());
}

/// A UDP socket.
pub struct Datagrams {
    socket: Arc<dyn AsyncUdpSocket>,
    /// What has come, no more.
    buffer: Vec<u8>,
    /// Of what is in the buffer, the last one first.
    metas: Vec<RecvMeta>,
    /// Of what is handed out now.
    meta: RecvMeta,
    /// Where the next datagram begins in the buffer, and where what came with it ends.
    next: usize,
    end: usize,
}

/// Where a datagram came from, and so where its answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Who sent it.
    pub peer: SocketAddr,
    /// The address of this host that it was sent to, where the system tells: the answer comes from there.
    pub local: Option<IpAddr>,
}

impl Datagrams {
    /// Over a socket of [`super::Net::udp`].
    pub fn new(socket: Arc<dyn AsyncUdpSocket>) -> Self {
        let meta = RecvMeta { len: 0, ..RecvMeta::default() };
        Self { socket, buffer: Vec::new(), metas: Vec::new(), meta, next: 0, end: 0 }
    }

    /// The socket itself, for whoever speaks QUIC over it. What was received and not asked for is lost.
    pub fn into_socket(self) -> Arc<dyn AsyncUdpSocket> {
        self.socket
    }

    /// The next datagram. Cancel-safe.
    pub async fn receive(&mut self) -> io::Result<(&[u8], Origin)> {
        while self.next >= self.end {
            if let Some(meta) = self.metas.pop() {
                self.meta = meta;
                self.end = (self.next + meta.len).min(self.buffer.len());
                if meta.len == 0 {
                    // An empty datagram is one too.
                    return Ok((&[], self.origin()));
                }
                continue;
            }
            let (socket, buffer, metas) = (&self.socket, &mut self.buffer, &mut self.metas);
            let received = poll_fn(|context| {
                ROOM.with_borrow_mut(|room| {
                    let mut told = [RecvMeta::default(); BATCH];
                    let mut parts = room.chunks_mut(BUFFER_BYTES).map(IoSliceMut::new);
                    let mut slices: [IoSliceMut<'_>; BATCH] =
                        std::array::from_fn(|_| parts.next().unwrap_or_else(|| IoSliceMut::new(&mut [])));
                    let received = ready!(socket.poll_recv(context, &mut slices, &mut told))?.min(BATCH);
                    buffer.clear();
                    // What once came in a flood is not kept for ever.
                    buffer.shrink_to(BUFFER_BYTES);
                    for (meta, part) in told.iter_mut().zip(room.chunks(BUFFER_BYTES)).take(received) {
                        meta.len = meta.len.min(part.len());
                        buffer.extend_from_slice(&part[..meta.len]);
                    }
                    metas.extend(told.iter().take(received).rev());
                    Poll::Ready(io::Result::Ok(()))
                })
            });
            received.await?;
            (self.next, self.end) = (0, 0);
        }
        let begin = self.next;
        // Of a stride of zero there would be no end.
        self.next = (begin + self.meta.stride.max(1)).min(self.end);
        Ok((&self.buffer[begin..self.next], self.origin()))
    }

    /// Sends a datagram to where another one came from.
    pub async fn send(&self, bytes: &[u8], to: Origin) -> io::Result<()> {
        send(&self.socket, bytes, to).await
    }

    /// What others may send with, while this receives.
    pub fn sender(&self) -> Sender {
        Sender(self.socket.clone())
    }

    /// Where it is bound.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn origin(&self) -> Origin {
        Origin { peer: self.meta.addr, local: self.meta.dst_ip }
    }
}

/// Sends over a socket that others receive from.
#[derive(Clone)]
pub struct Sender(Arc<dyn AsyncUdpSocket>);

impl Sender {
    /// Sends a datagram to where another one came from.
    ///
    /// # Errors
    /// What the system says.
    pub async fn send(&self, bytes: &[u8], to: Origin) -> io::Result<()> {
        send(&self.0, bytes, to).await
    }
}

async fn send(socket: &Arc<dyn AsyncUdpSocket>, bytes: &[u8], to: Origin) -> io::Result<()> {
    let transmit = Transmit { destination: to.peer, ecn: None, contents: bytes, segment_size: None, src_ip: to.local };
    // Mostly there is room, and nobody has to wait for it.
    let mut poller = None;
    loop {
        match socket.try_send(&transmit) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let poller = poller.get_or_insert_with(|| socket.clone().create_io_poller());
                poll_fn(|context| poller.as_mut().poll_writable(context)).await?;
            }
            sent => return sent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seam::Net;
    use crate::seam::real::OsNet;

    #[tokio::test]
    async fn datagrams_arrive_one_by_one_and_are_answered() {
        let bind = || async { Datagrams::new(OsNet.udp("127.0.0.1:0".parse().unwrap()).await.unwrap()) };
        let (mut here, mut there) = (bind().await, bind().await);
        let to = Origin { peer: there.local_addr().unwrap(), local: None };
        for text in [&b"one"[..], b"", b"three", b"three"] {
            here.send(text, to).await.unwrap();
        }
        for text in [&b"one"[..], b"", b"three", b"three"] {
            let (bytes, origin) = there.receive().await.unwrap();
            assert_eq!(bytes, text);
            assert_eq!(origin.peer, here.local_addr().unwrap());
            there.send(b"heard", origin).await.unwrap();
            assert_eq!(here.receive().await.unwrap().0, b"heard");
        }
    }
}
