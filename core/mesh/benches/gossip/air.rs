//! A network in memory, for time that is simulated: every datagram takes a millisecond or two, and none is lost.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use hirsel_mesh::seam::{BoxStream, Listener, Net};
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::time::{Instant, Sleep, sleep};

const DELAY: Duration = Duration::from_millis(1);
/// Datagrams that nobody reads; a kernel's buffer holds about as many.
const UNREAD_MAX: usize = 4096;
/// Every node has an address of its own.
const PORT: u16 = 7400;

/// One for a whole herd; clones are the same.
#[derive(Clone, Default)]
pub struct Air(Arc<Mutex<BTreeMap<SocketAddr, Arc<Mutex<Inbox>>>>>);

struct Inbox {
    waiting: VecDeque<(Instant, SocketAddr, Vec<u8>)>,
    timer: Pin<Box<Sleep>>,
    reader: Option<Waker>,
}

impl fmt::Debug for Air {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Air")
    }
}

fn with_port(mut addr: SocketAddr) -> SocketAddr {
    if addr.port() == 0 {
        addr.set_port(PORT);
    }
    addr
}

impl Net for Air {
    fn udp(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<Arc<dyn AsyncUdpSocket>>> {
        async move {
            let inbox = Inbox { waiting: VecDeque::new(), timer: Box::pin(sleep(Duration::ZERO)), reader: None };
            let (local, inbox) = (with_port(addr), Arc::new(Mutex::new(inbox)));
            self.0.lock().unwrap().insert(local, inbox.clone());
            Ok(Arc::new(Socket { air: self.clone(), local, inbox }) as Arc<dyn AsyncUdpSocket>)
        }
        .boxed()
    }

    fn listen(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        async move { Ok(Box::new(Nobody(with_port(addr))) as Box<dyn Listener>) }.boxed()
    }

    fn connect(&self, _: SocketAddr) -> BoxFuture<'_, io::Result<BoxStream>> {
        async { Err(io::ErrorKind::ConnectionRefused.into()) }.boxed()
    }
}

/// Gossip opens no streams.
struct Nobody(SocketAddr);

impl Listener for Nobody {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxStream, SocketAddr)>> {
        std::future::pending().boxed()
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.0)
    }
}

struct Socket {
    air: Air,
    local: SocketAddr,
    inbox: Arc<Mutex<Inbox>>,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Socket({})", self.local)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.air.0.lock().unwrap().remove(&self.local);
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let inbox = self.air.0.lock().unwrap().get(&transmit.destination).cloned();
        if let Some(inbox) = inbox {
            let mut inbox = inbox.lock().unwrap();
            if inbox.waiting.len() < UNREAD_MAX {
                inbox.waiting.push_back((Instant::now() + DELAY, self.local, transmit.contents.to_vec()));
                inbox.reader.take().into_iter().for_each(Waker::wake);
            }
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut inbox = self.inbox.lock().unwrap();
        loop {
            let mut count = 0;
            while count < bufs.len().min(meta.len()) {
                let Some((_, addr, bytes)) = inbox.waiting.pop_front_if(|(due, ..)| *due <= Instant::now()) else {
                    break;
                };
                let len = bytes.len().min(bufs[count].len());
                bufs[count][..len].copy_from_slice(&bytes[..len]);
                meta[count] = RecvMeta { addr, len, stride: len, ecn: None, dst_ip: None };
                count += 1;
            }
            if count > 0 {
                return Poll::Ready(Ok(count));
            }
            inbox.reader = Some(cx.waker().clone());
            let Some(due) = inbox.waiting.front().map(|(due, ..)| *due) else { return Poll::Pending };
            inbox.timer.as_mut().reset(due);
            if inbox.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    fn may_fragment(&self) -> bool {
        // Otherwise QUIC does not look for the largest packet that passes.
        false
    }
}

#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
