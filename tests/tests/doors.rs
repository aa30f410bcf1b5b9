//! Malformed messages at every door of a running agent, which goes on: it stays a member, answers, ends no task and keeps its memory.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use hirsel_tests::cluster::{Cluster, MESH_PORT, array};
use hirsel_tests::wait_for;
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};

/// Datagrams that are thrown; the full tier of the checks throws a million.
const DATAGRAMS: usize = 30_000;
/// Connections that are opened for nothing, one for so many datagrams.
const DATAGRAMS_PER_STREAM: usize = 50;
/// More memory than this does not stay with an agent whatever is thrown at it: buffers of connections that wait for their deadline.
const GROWTH_KIB_MAX: u64 = 96 << 10;
/// Streams that are open at once.
const STREAMS_MAX: usize = 64;
/// A pause after so many datagrams: what a socket's buffer cannot hold would test nothing.
const BURST: usize = 64;

fn count() -> usize {
    std::env::var("HIRSEL_DOORS_DATAGRAMS").ok().and_then(|text| text.parse().ok()).unwrap_or(DATAGRAMS)
}

/// Memory of a process that is not swapped out, in KiB.
fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the agent runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a process has memory");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number of KiB")
}

/// A datagram that looks more or less like one of QUIC.
fn datagram(rng: &mut SmallRng) -> Vec<u8> {
    let mut bytes = vec![0; rng.random_range(0..1_500)];
    rng.fill_bytes(&mut bytes);
    let mut put = |at: usize, what: &[u8]| {
        if let Some(place) = bytes.get_mut(at..at + what.len()) {
            place.copy_from_slice(what);
        }
    };
    match rng.random_range(0..5) {
        // A first packet of version 1 with ids of 8 bytes and no token; what follows cannot be decrypted.
        0 | 1 => {
            put(0, &[0xc3, 0, 0, 0, 1, 8]);
            put(14, &[8]);
            put(23, &[0, 0x44, 0x80]);
        }
        // A handshake packet of a connection that is not there, and a version that is none.
        2 => put(0, &[0xe3, 0, 0, 0, 1, 8]),
        3 => put(0, &[0xc0, 0x1a, 0x2a, 0x3a, 0x4a, 20]),
        // A packet of a connection that is up, by its first byte.
        _ => put(0, &[0x40]),
    }
    bytes
}

/// What a stranger says on a stream: half a TLS hello, HTTP in the clear, noise, nothing.
fn hello(rng: &mut SmallRng) -> Vec<u8> {
    let mut noise = vec![0; rng.random_range(0..4_000)];
    rng.fill_bytes(&mut noise);
    match rng.random_range(0..4) {
        0 => [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &noise].concat(),
        1 => b"GET /v1/status HTTP/1.1\r\nhost: hirsel\r\n\r\n".to_vec(),
        2 => noise,
        _ => Vec::new(),
    }
}

#[test]
fn malformed_messages_at_every_door_do_no_harm() {
    let cluster = Cluster::start(3);
    let victim = &cluster.nodes[1];
    let (pid, to): (u32, SocketAddr) = (victim.agent_pid(), victim.addr(MESH_PORT));
    let before = resident_kib(pid);
    let seed = rand::random();
    eprintln!("seed {seed}, {} datagrams", count());
    let mut rng = SmallRng::seed_from_u64(seed);
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let began = Instant::now();
    let mut streams = std::collections::VecDeque::new();
    let (mut sent, mut opened) = (0, 0);
    for number in 0..count() {
        sent += usize::from(socket.send_to(&datagram(&mut rng), to).is_ok());
        if number % BURST == 0 {
            std::thread::yield_now();
        }
        if number % DATAGRAMS_PER_STREAM == 0
            && let Ok(mut stream) = TcpStream::connect_timeout(&to, Duration::from_secs(5))
        {
            opened += 1;
            // It may hang up before it has read everything.
            let _ = stream.write_all(&hello(&mut rng));
            let _ = stream.set_nonblocking(true);
            let _ = stream.read(&mut [0; 512]);
            streams.push_back(stream);
            if streams.len() > STREAMS_MAX {
                streams.pop_front();
            }
        }
    }
    drop(streams);
    eprintln!("{sent} datagrams and {opened} streams in {:?}", began.elapsed());
    assert_eq!(victim.agent_pid(), pid, "the same process");
    let members = victim.ask(["members"]).data();
    assert!(array(&members).iter().all(|member| member["liveness"] == "alive"), "{members}");
    cluster.whole();
    let log = std::fs::read_to_string(victim.log()).unwrap_or_default();
    assert!(!log.contains("panicked"), "{log}");
    let (after, _) = wait_for("its memory is as before", Duration::from_secs(60), || {
        let now = resident_kib(pid);
        if now <= before + GROWTH_KIB_MAX { Ok(now) } else { Err(format!("{before} KiB became {now} KiB")) }
    });
    eprintln!("memory: {before} KiB before, {after} KiB after");
}
