//! The seam's sockets over turmoil's network.
//!
//! turmoil delivers, delays and reorders. What it cannot do as a real network does is done here, in [`Links`]: datagrams are lost
//! and doubled one by one (turmoil's own failure rate cuts a link until a later packet repairs it), and a cut takes datagrams
//! away but only holds streams back, for a real TCP sends again when the cut heals. A stream stands still when either direction is
//! cut: its acknowledgements are lost.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, Waker, ready};

use futures::future::BoxFuture;
use hirsel_mesh::seam::{BoxStream, Listener, Net};
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use rand::Rng;
use rand::rngs::SmallRng;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;

use crate::host::Machine;
use crate::trace::Trace;

/// Datagrams an agent left unread. A kernel's socket buffer holds about as many of the size of ours.
const UNREAD_MAX: usize = 4096;

/// What is wrong with the network at the moment. One for a whole simulation; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Links(Arc<Mutex<Faults>>);

#[derive(Debug, Default)]
struct Faults {
    /// Datagrams from the first to the second are lost.
    cut: BTreeSet<(IpAddr, IpAddr)>,
    /// Hosts whose agent does not run: nobody reads their datagrams.
    down: BTreeSet<IpAddr>,
    /// Share of datagrams lost on the wire of this host, both ways.
    loss: BTreeMap<IpAddr, f64>,
    /// Share of datagrams lost everywhere.
    base_loss: f64,
    /// Share of datagrams that arrive twice.
    duplication: f64,
    /// Writers that wait for a cut to end.
    parked: Vec<Waker>,
}

impl Links {
    /// A network that loses and doubles this share of all datagrams.
    pub fn new(base_loss: f64, duplication: f64) -> Self {
        Self(Arc::new(Mutex::new(Faults { base_loss, duplication, ..Faults::default() })))
    }

    /// Takes all datagrams from `from` to `to` away.
    pub fn cut(&self, from: IpAddr, to: IpAddr) {
        crate::lock(&self.0).cut.insert((from, to));
    }

    /// Ends a cut.
    pub fn repair(&self, from: IpAddr, to: IpAddr) {
        let mut faults = crate::lock(&self.0);
        faults.cut.remove(&(from, to));
        faults.parked.drain(..).for_each(Waker::wake);
    }

    /// Completes when neither direction between two hosts is cut.
    fn poll_open(&self, a: IpAddr, b: IpAddr, cx: &Context<'_>) -> Poll<()> {
        let mut faults = crate::lock(&self.0);
        if faults.cut.contains(&(a, b)) || faults.cut.contains(&(b, a)) {
            faults.parked.push(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// Whether datagrams from `from` reach `to`, apart from chance.
    pub fn is_open(&self, from: IpAddr, to: IpAddr) -> bool {
        let faults = crate::lock(&self.0);
        !faults.cut.contains(&(from, to)) && !faults.down.contains(&to) && !faults.down.contains(&from)
    }

    /// Says whether an agent runs at `host`.
    pub fn set_down(&self, host: IpAddr, down: bool) {
        let mut faults = crate::lock(&self.0);
        if down {
            faults.down.insert(host);
        } else {
            faults.down.remove(&host);
        }
    }

    /// Loses this share of what `host` sends and of what is sent to it.
    pub fn set_loss(&self, host: IpAddr, share: f64) {
        crate::lock(&self.0).loss.insert(host, share);
    }

    /// How many copies of a datagram arrive.
    fn copies(&self, from: IpAddr, to: IpAddr, rng: &mut SmallRng) -> u8 {
        if !self.is_open(from, to) {
            return 0;
        }
        let (kept, doubled) = {
            let faults = crate::lock(&self.0);
            let kept = |host| 1.0 - faults.loss.get(&host).copied().unwrap_or(0.0);
            ((1.0 - faults.base_loss) * kept(from) * kept(to), faults.duplication)
        };
        if !rng.random_bool(kept) {
            0
        } else if doubled > 0.0 && rng.random_bool(doubled) {
            2
        } else {
            1
        }
    }
}

/// The network as one life of an agent sees it.
#[derive(Clone, Debug)]
pub struct SimNet {
    /// The address of its host; it binds no other.
    pub ip: IpAddr,
    /// What is wrong with the network.
    pub links: Links,
    /// The host, whose processes listen on loopback.
    pub machine: Arc<Machine>,
    /// Which datagrams are lost.
    pub rng: Arc<Mutex<SmallRng>>,
    /// The history.
    pub trace: Trace,
    /// What this life opened.
    pub open: Open,
}

/// The sockets of one life of an agent. A real process takes them all with it; here something may outlive the tasks (agents hold
/// themselves in cycles), so the end of a life closes them one by one. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Open(Arc<Mutex<Vec<Weak<dyn Close>>>>);

/// So many closed sockets are kept in the list before it is swept.
const SWEEP_AT: usize = 256;

trait Close: fmt::Debug + Send + Sync {
    fn close(&self);
}

/// A socket, until it is closed from outside.
struct Slot<T>(Mutex<Option<T>>);

impl<T> fmt::Debug for Slot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slot")
    }
}

impl<T: Send> Close for Slot<T> {
    fn close(&self) {
        let taken = crate::lock(&self.0).take();
        drop(taken);
    }
}

impl<T> Slot<T> {
    fn with<R>(&self, f: impl FnOnce(&mut T) -> io::Result<R>) -> io::Result<R> {
        f(crate::lock(&self.0).as_mut().ok_or(io::ErrorKind::BrokenPipe)?)
    }
}

impl Open {
    fn add<T: Send + 'static>(&self, socket: T) -> Arc<Slot<T>> {
        let slot = Arc::new(Slot(Mutex::new(Some(socket))));
        let mut all = crate::lock(&self.0);
        if all.len() >= SWEEP_AT {
            all.retain(|slot| slot.strong_count() > 0);
        }
        let weak: Weak<dyn Close> = Arc::downgrade(&(slot.clone() as Arc<dyn Close>));
        all.push(weak);
        slot
    }

    /// Closes everything. To be called on the simulated host.
    pub fn close(&self) {
        let all = std::mem::take(&mut *crate::lock(&self.0));
        all.iter().filter_map(Weak::upgrade).for_each(|slot| slot.close());
    }
}

impl SimNet {
    fn check(&self, addr: SocketAddr) -> io::Result<()> {
        if addr.ip() == self.ip || addr.ip().is_unspecified() {
            return Ok(());
        }
        let message = format!("{} is not an address of this host ({})", addr.ip(), self.ip);
        Err(io::Error::new(io::ErrorKind::AddrNotAvailable, message))
    }

    /// turmoil binds the unspecified address only.
    fn any(addr: SocketAddr) -> SocketAddr {
        (Ipv4Addr::UNSPECIFIED, addr.port()).into()
    }
}

impl Net for SimNet {
    fn udp(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<Arc<dyn AsyncUdpSocket>>> {
        Box::pin(async move {
            self.check(addr)?;
            let socket = Arc::new(turmoil::net::UdpSocket::bind(Self::any(addr)).await?);
            let local = SocketAddr::new(self.ip, socket.local_addr()?.port());
            // turmoil's socket can be awaited but not polled; a task turns it into a channel, which can.
            let (tx, arrived) = mpsc::channel(UNREAD_MAX);
            let task = tokio::spawn(read_datagrams(socket.clone(), tx));
            let socket = self.open.add(socket);
            let socket = SimUdp { socket, net: self.clone(), local, arrived: Mutex::new(arrived), task };
            Ok(Arc::new(socket) as Arc<dyn AsyncUdpSocket>)
        })
    }

    fn listen(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            if addr.ip().is_loopback() {
                return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, "agents do not listen on loopback here"));
            }
            self.check(addr)?;
            let listener = turmoil::net::TcpListener::bind(Self::any(addr)).await?;
            let local = SocketAddr::new(self.ip, listener.local_addr()?.port());
            let listener = self.open.add(Arc::new(listener));
            Ok(Box::new(SimListener { listener, local, net: self.clone() }) as Box<dyn Listener>)
        })
    }

    fn connect(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async move {
            if addr.ip().is_loopback() {
                return self.machine.connect(addr.port());
            }
            std::future::poll_fn(|cx| self.links.poll_open(self.ip, addr.ip(), cx)).await;
            let stream = turmoil::net::TcpStream::connect(addr).await?;
            Ok(Box::new(SimStream::new(stream, self)?) as BoxStream)
        })
    }
}

type Arrived = (Vec<u8>, SocketAddr);

async fn read_datagrams(socket: Arc<turmoil::net::UdpSocket>, arrived: mpsc::Sender<Arrived>) {
    let mut buffer = vec![0; 65_536];
    while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
        match arrived.try_send((buffer[..len].to_vec(), from)) {
            Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => {}
            Err(mpsc::error::TrySendError::Closed(_)) => return,
        }
    }
}

struct SimUdp {
    socket: Arc<Slot<Arc<turmoil::net::UdpSocket>>>,
    net: SimNet,
    local: SocketAddr,
    arrived: Mutex<mpsc::Receiver<Arrived>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for SimUdp {
    fn drop(&mut self) {
        // The port is free as soon as the socket is gone, also while the reader waits.
        self.task.abort();
    }
}

impl fmt::Debug for SimUdp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimUdp({})", self.local)
    }
}

impl AsyncUdpSocket for SimUdp {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let to = transmit.destination;
        let copies = self.net.links.copies(self.local.ip(), to.ip(), &mut crate::lock(&self.net.rng));
        self.net.trace.packet(self.local, to, transmit.contents, copies);
        for _ in 0..copies {
            // UDP knows no errors of delivery: an unknown or full receiver loses the datagram.
            let _ = self.socket.with(|socket| socket.try_send_to(transmit.contents, to));
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut arrived = crate::lock(&self.arrived);
        let mut count = 0;
        while count < bufs.len().min(meta.len()) {
            match arrived.poll_recv(cx) {
                Poll::Ready(Some((bytes, addr))) => {
                    // A datagram longer than the buffer is cut, as recvmsg does.
                    let len = bytes.len().min(bufs[count].len());
                    bufs[count][..len].copy_from_slice(&bytes[..len]);
                    meta[count] = RecvMeta { addr, len, stride: len, ecn: None, dst_ip: None };
                    count += 1;
                }
                Poll::Ready(None) if count == 0 => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        if count == 0 { Poll::Pending } else { Poll::Ready(Ok(count)) }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    fn may_fragment(&self) -> bool {
        // Otherwise quinn switches path MTU discovery off.
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

struct SimListener {
    listener: Arc<Slot<Arc<turmoil::net::TcpListener>>>,
    local: SocketAddr,
    net: SimNet,
}

impl Listener for SimListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxStream, SocketAddr)>> {
        Box::pin(async move {
            let listener = self.listener.with(|listener| Ok(listener.clone()))?;
            let (stream, from) = listener.accept().await?;
            let stream = SimStream::new(stream, &self.net)?;
            Ok((Box::new(stream) as BoxStream, from))
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }
}

/// A stream of turmoil whose bytes enter the history.
struct SimStream {
    stream: Arc<Slot<turmoil::net::TcpStream>>,
    local: SocketAddr,
    peer: SocketAddr,
    links: Links,
    trace: Trace,
}

impl SimStream {
    fn new(stream: turmoil::net::TcpStream, net: &SimNet) -> io::Result<Self> {
        let (local, peer) = (stream.local_addr()?, stream.peer_addr()?);
        Ok(Self { stream: net.open.add(stream), local, peer, links: net.links.clone(), trace: net.trace.clone() })
    }
}

impl SimStream {
    fn poll<R>(&self, f: impl FnOnce(Pin<&mut turmoil::net::TcpStream>) -> Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        match crate::lock(&self.stream.0).as_mut() {
            Some(stream) => f(Pin::new(stream)),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }
}

impl AsyncRead for SimStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll(|stream| stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.links.poll_open(self.local.ip(), self.peer.ip(), cx));
        let written = ready!(self.poll(|stream| stream.poll_write(cx, buf)))?;
        self.trace.packet(self.local, self.peer, &buf[..written], 1);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(|stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(self.poll(|stream| stream.poll_shutdown(cx))) {
            // A second shutdown is no error to a real socket's owner, and TLS asks twice.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            result => Poll::Ready(result),
        }
    }
}

#[cfg(test)]
mod tests;
