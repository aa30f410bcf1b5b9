//! Sockets between two hosts of one simulation.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use super::*;
use crate::chance::stream;
use crate::clock::SimClock;

const PORT: u16 = 7400;

fn sim(seed: u64) -> turmoil::Sim<'static> {
    turmoil::Builder::new()
        .rng_seed(seed)
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(5))
        .simulation_duration(Duration::from_secs(120))
        .build()
}

fn net(sim: &turmoil::Sim<'_>, name: &str, links: &Links, trace: &Trace) -> SimNet {
    SimNet {
        ip: sim.lookup(name),
        links: links.clone(),
        machine: Machine::new(name, SimClock::default()),
        rng: Arc::new(Mutex::new(stream(1, name))),
        trace: trace.clone(),
        open: Open::default(),
    }
}

fn send(socket: &Arc<dyn AsyncUdpSocket>, to: SocketAddr, contents: &[u8]) {
    let transmit = Transmit { destination: to, ecn: None, contents, segment_size: None, src_ip: None };
    socket.try_send(&transmit).unwrap();
}

async fn receive(socket: &Arc<dyn AsyncUdpSocket>) -> Option<(Vec<u8>, SocketAddr)> {
    let mut buffer = [0; 2048];
    let wait = std::future::poll_fn(|cx| {
        let mut meta = [RecvMeta::default()];
        let count = ready!(socket.poll_recv(cx, &mut [IoSliceMut::new(&mut buffer)], &mut meta))?;
        assert_eq!(count, 1);
        Poll::Ready(io::Result::Ok((meta[0].len, meta[0].addr)))
    });
    let (len, from) = timeout(Duration::from_secs(1), wait).await.ok()?.unwrap();
    Some((buffer[..len].to_vec(), from))
}

/// Sends `count` numbered datagrams from n1 to n2 and returns how many arrived, with the hash of the history.
fn datagrams(links: Links, count: u32) -> (u32, u64) {
    let mut sim = sim(3);
    let trace = Trace::default();
    let (one, two) = (net(&sim, "n1", &links, &trace), net(&sim, "n2", &links, &trace));
    let to = SocketAddr::new(two.ip, PORT);
    let arrived = Rc::new(Cell::new(0));
    let counter = arrived.clone();
    sim.client("n1", async move {
        let socket = one.udp((one.ip, PORT).into()).await?;
        for number in 0..count {
            tokio::time::sleep(Duration::from_millis(10)).await;
            send(&socket, to, &number.to_be_bytes());
        }
        Ok(())
    });
    sim.client("n2", async move {
        let socket = two.udp(to).await?;
        while receive(&socket).await.is_some() {
            counter.set(counter.get() + 1);
        }
        Ok(())
    });
    sim.run().unwrap();
    (arrived.get(), trace.finish().0)
}

#[test]
fn datagrams_are_lost_and_doubled_in_the_share_asked_for() {
    assert_eq!(datagrams(Links::new(0.0, 0.0), 200).0, 200);
    let (lossy, _) = datagrams(Links::new(0.3, 0.0), 1000);
    assert!((600..800).contains(&lossy), "{lossy} of 1000 arrived at 30 % loss");
    let (doubled, _) = datagrams(Links::new(0.0, 0.5), 1000);
    assert!((1400..1600).contains(&doubled), "{doubled} of 1000 arrived at 50 % duplication");
}

#[test]
fn one_seed_is_one_history() {
    let run = || crate::entropy::with_seed(5, || datagrams(Links::new(0.2, 0.1), 300)).unwrap();
    assert_eq!(run(), run());
    let other = crate::entropy::with_seed(5, || datagrams(Links::new(0.3, 0.1), 300)).unwrap();
    assert_ne!(run().1, other.1);
}

#[test]
fn a_host_binds_only_its_own_address_and_each_port_once() {
    let mut sim = sim(1);
    let net = net(&sim, "n1", &Links::default(), &Trace::default());
    sim.client("n1", async move {
        let elsewhere = SocketAddr::from(([10, 9, 9, 9], PORT));
        assert_eq!(net.udp(elsewhere).await.unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
        assert!(net.listen(elsewhere).await.is_err());
        let own = SocketAddr::new(net.ip, PORT);
        let first = (net.udp(own).await?, net.listen(own).await?);
        assert_eq!(net.udp(own).await.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert!(net.listen(own).await.is_err());
        drop(first);
        tokio::time::sleep(Duration::from_millis(10)).await;
        net.udp(own).await?;
        net.listen(own).await?;
        Ok(())
    });
    sim.run().unwrap();
}

#[test]
fn a_cut_takes_datagrams_of_one_direction_and_holds_streams_back() {
    let mut sim = sim(1);
    let links = Links::default();
    let trace = Trace::default();
    let (one, two) = (net(&sim, "n1", &links, &trace), net(&sim, "n2", &links, &trace));
    let (a, b) = (one.ip, two.ip);
    sim.client("n1", async move {
        let udp = one.udp((a, PORT).into()).await?;
        let mut stream = one.connect((b, PORT).into()).await?;
        links.cut(a, b);
        send(&udp, (b, PORT).into(), b"lost");
        assert_eq!(receive(&udp).await.unwrap().0, b"one way only");
        assert!(timeout(Duration::from_secs(5), stream.write_all(b"held")).await.is_err());
        assert!(timeout(Duration::from_secs(5), one.connect((b, PORT).into())).await.is_err());
        links.repair(a, b);
        stream.write_all(b"held").await?;
        Ok(())
    });
    sim.client("n2", async move {
        let udp = two.udp((b, PORT).into()).await?;
        let mut listener = two.listen((b, PORT).into()).await?;
        let (mut stream, from) = listener.accept().await?;
        assert_eq!(from.ip(), a);
        tokio::time::sleep(Duration::from_millis(50)).await;
        send(&udp, (a, PORT).into(), b"one way only");
        let began = Instant::now();
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes).await?;
        assert_eq!(&bytes, b"held");
        assert!(began.elapsed() > Duration::from_secs(3));
        assert!(receive(&udp).await.is_none());
        Ok(())
    });
    sim.run().unwrap();
}

/// What an agent leaves behind in a cycle of references must not keep its port.
#[test]
fn the_end_of_a_life_closes_what_nobody_drops() {
    let mut sim = sim(1);
    let (links, trace) = (Links::default(), Trace::default());
    let (one, two) = (net(&sim, "n1", &links, &trace), net(&sim, "n2", &links, &trace));
    let own = SocketAddr::new(one.ip, PORT);
    sim.client("n1", async move {
        let mut listener = one.listen(own).await?;
        let (stream, _) = listener.accept().await?;
        let kept = (one.udp(own).await?, listener, stream);
        one.open.close();
        tokio::time::sleep(Duration::from_millis(10)).await;
        // The reader of the datagrams ends with its task, here with the socket's owner.
        one.listen(own).await?;
        drop(kept);
        Ok(())
    });
    sim.client("n2", async move {
        let mut stream = two.connect(own).await?;
        let mut bytes = [0; 1];
        assert_eq!(stream.read(&mut bytes).await.unwrap_or(0), 0);
        Ok(())
    });
    sim.run().unwrap();
}
