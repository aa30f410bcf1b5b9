//! A network that counts what is sent, and that can be cut at one node.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::BoxFuture;
use hirsel_mesh::seam::{BoxStream, Listener, Net};
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

/// Of IPv4 and UDP, for each datagram.
const HEADER_BYTES: u64 = 28;

/// What one node sends.
#[derive(Debug, Default)]
pub struct Wire {
    cut: AtomicBool,
    bytes: AtomicU64,
    packets: AtomicU64,
}

impl Wire {
    /// From now on what goes out or comes in is lost.
    pub fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    /// Ends a cut.
    pub fn repair(&self) {
        self.cut.store(false, Ordering::Relaxed);
    }

    /// Bytes and datagrams so far.
    pub fn sent(&self) -> (u64, u64) {
        (self.bytes.load(Ordering::Relaxed), self.packets.load(Ordering::Relaxed))
    }

    fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }
}

/// Another network with a [`Wire`].
#[derive(Debug)]
pub struct Counted {
    net: Arc<dyn Net>,
    wire: Arc<Wire>,
}

impl Counted {
    pub fn new(net: Arc<dyn Net>, wire: Arc<Wire>) -> Self {
        Self { net, wire }
    }
}

impl Net for Counted {
    fn udp(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<Arc<dyn AsyncUdpSocket>>> {
        async move {
            let inner = self.net.udp(addr).await?;
            Ok(Arc::new(Socket { inner, wire: self.wire.clone() }) as Arc<dyn AsyncUdpSocket>)
        }
        .boxed()
    }

    fn listen(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        self.net.listen(addr)
    }

    fn connect(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<BoxStream>> {
        self.net.connect(addr)
    }
}

struct Socket {
    inner: Arc<dyn AsyncUdpSocket>,
    wire: Arc<Wire>,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if self.wire.is_cut() {
            return Ok(());
        }
        self.inner.try_send(transmit)?;
        let bytes = transmit.contents.len();
        let packets = transmit.segment_size.map_or(1, |segment| bytes.div_ceil(segment)) as u64;
        self.wire.packets.fetch_add(packets, Ordering::Relaxed);
        self.wire.bytes.fetch_add(bytes as u64 + packets * HEADER_BYTES, Ordering::Relaxed);
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            let received = self.inner.poll_recv(cx, bufs, meta);
            if !(self.wire.is_cut() && matches!(received, Poll::Ready(Ok(_)))) {
                return received;
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}
