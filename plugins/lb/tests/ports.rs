//! What a client sees at a port: its bytes carried both ways, whoever takes them, and no failure that somebody else could take.

mod common;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::haproxy::Haproxy;
use common::{Bed, ME, OTHER, free_addr, until, within};
use hirsel_model::report::{RoleFacts, RoleState};
use hirsel_model::view::Liveness;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// A program that says its name first, then gives back every byte until the client has said all, and keeps what it heard.
struct Program {
    addr: SocketAddr,
    heard: Arc<Mutex<Vec<u8>>>,
    task: JoinHandle<()>,
}

impl Program {
    async fn named(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (addr, heard) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<u8>>>::default());
        let kept = heard.clone();
        let task = tokio::spawn(async move {
            let mut sessions = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let kept = kept.clone();
                sessions.spawn(async move {
                    let mut piece = [0; 4096];
                    stream.write_all(name.as_bytes()).await?;
                    loop {
                        let read = stream.read(&mut piece).await?;
                        kept.lock().unwrap().extend(&piece[..read]);
                        match read {
                            0 => return stream.write_all(b".").await,
                            read => stream.write_all(&piece[..read]).await?,
                        }
                    }
                });
            }
        });
        Self { addr, heard, task }
    }

    fn heard(&self) -> String {
        String::from_utf8_lossy(&self.heard.lock().unwrap()).into_owned()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A load balancer with one port, `rest` being what the manifest says of it, that leads to `shop/web` on `programs`.
async fn serving(programs: &[&Program], rest: &str) -> (Bed, SocketAddr) {
    let mut bed = Bed::new().await;
    let port = free_addr().await.port();
    bed.ports(&format!("[port.{port}]\nto = \"web\"\n{rest}"));
    for (number, program) in (1..).zip(programs) {
        bed.place(number, ME, program.addr.port());
    }
    let report = bed.converge().await;
    assert_eq!((report.state, report.message), (RoleState::Running, None));
    let addr = SocketAddr::new(bed.addr.ip(), port);
    (bed, addr)
}

async fn connect(addr: SocketAddr) -> TcpStream {
    within(TcpStream::connect(addr)).await.expect("the port is open")
}

async fn hears(stream: &mut TcpStream, expected: &str) {
    let mut bytes = vec![0; expected.len()];
    within(stream.read_exact(&mut bytes)).await.unwrap_or_else(|error| panic!("instead of {expected:?}: {error}"));
    assert_eq!(String::from_utf8_lossy(&bytes), expected);
}

/// Whether the other side ends the connection without another byte.
async fn is_ended(stream: &mut TcpStream) -> bool {
    within(stream.read(&mut [0])).await.unwrap_or(0) == 0
}

#[tokio::test]
async fn bytes_pass_both_ways_and_each_direction_ends_by_itself() {
    let program = Program::named("a").await;
    let (bed, addr) = serving(&[&program], "").await;
    let mut client = connect(addr).await;
    // The server may speak first, as those of mail and of databases do.
    hears(&mut client, "a").await;
    let long = vec![b'x'; 1 << 20];
    let (mut read, mut write) = client.into_split();
    let speak = async {
        write.write_all(&long).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let mut heard = Vec::new();
    let (_, listened) = within(async { tokio::join!(speak, read.read_to_end(&mut heard)) }).await;
    listened.unwrap();
    assert_eq!(heard.len(), (1 << 20) + 1, "all of it, and what was said after the client had ended");
    until(|| bed.counted("hirsel_lb_port_open{") == 0).await;
    let port = addr.port();
    let counted = |name: &str, more: &str| bed.counted(&format!("{name}{{app=\"shop\",port=\"{port}/tcp\"{more}}}"));
    assert_eq!(counted("hirsel_lb_port_connections_total", ""), 1);
    assert_eq!(counted("hirsel_lb_port_bytes_total", ",to=\"target\""), 1 << 20);
    assert_eq!(counted("hirsel_lb_port_bytes_total", ",to=\"client\""), (1 << 20) + 2);
}

#[tokio::test]
async fn whoever_does_not_accept_is_passed_over_and_left_alone() {
    let works = Program::named("b").await;
    let (mut bed, addr) = serving(&[&works], "").await;
    bed.place(7, ME, free_addr().await.port());
    bed.place(8, ME, free_addr().await.port());
    // One on a cut cable answers nothing at all.
    let cut = free_addr().await;
    bed.host.cut.lock().unwrap().insert(SocketAddr::from(([127, 0, 0, 1], cut.port())));
    bed.place(9, ME, cut.port());
    bed.converge().await;
    for _ in 0..20 {
        hears(&mut connect(addr).await, "b").await;
    }
    assert!((1..=3).contains(&bed.counted("hirsel_lb_ejections_total")));
}

#[tokio::test]
async fn with_nobody_to_take_it_a_connection_waits_a_while_and_is_then_ended() {
    let (mut bed, addr) = serving(&[], "").await;
    let began = Instant::now();
    assert!(is_ended(&mut connect(addr).await).await);
    assert!(
        (Duration::from_millis(1_500)..Duration::from_secs(10)).contains(&began.elapsed()),
        "{:?}",
        began.elapsed()
    );
    let refused =
        format!("hirsel_lb_port_refused_total{{app=\"shop\",port=\"{}/tcp\",why=\"no_target\"}}", addr.port());
    assert_eq!(bed.counted(&refused), 1);
    // Who comes meanwhile takes it.
    let mut waits = connect(addr).await;
    let program = Program::named("late").await;
    bed.place(1, ME, program.addr.port());
    bed.converge().await;
    hears(&mut waits, "late").await;
}

#[tokio::test]
async fn an_instance_that_drains_keeps_its_connections_and_gets_no_new_ones() {
    let (old, new) = (Program::named("old").await, Program::named("new").await);
    let (mut bed, addr) = serving(&[&old], "").await;
    let mut client = connect(addr).await;
    hears(&mut client, "old").await;
    bed.place(2, ME, new.addr.port());
    bed.drain(1);
    let report = bed.converge().await;
    let busy = [("shop/web/1".parse().unwrap(), 1)].into();
    assert_eq!(report.facts, RoleFacts::Lb(busy), "whoever stops it knows that it is used");
    for _ in 0..10 {
        hears(&mut connect(addr).await, "new").await;
    }
    client.write_all(b"still here").await.unwrap();
    hears(&mut client, "still here").await;
    drop(client);
    bed.converge_until(|report| report.facts == RoleFacts::Lb([].into())).await;
}

#[tokio::test]
async fn connections_stay_with_the_target_they_have_whatever_the_manifest_says_then() {
    let (first, second) = (Program::named("first").await, Program::named("second").await);
    let (mut bed, addr) = serving(&[&first], "").await;
    let mut client = connect(addr).await;
    hears(&mut client, "first").await;
    bed.place_as("next", 5, ME, second.addr.port());
    bed.ports(&format!("[port.{}]\nto = \"next\"\n", addr.port()));
    bed.converge().await;
    hears(&mut connect(addr).await, "second").await;
    bed.ports("");
    bed.converge().await;
    assert!(within(TcpStream::connect(addr)).await.is_err(), "the port is closed");
    client.write_all(b"goes on").await.unwrap();
    hears(&mut client, "goes on").await;
    bed.ports(&format!("[port.{}]\nto = \"next\"\n", addr.port()));
    assert_eq!(bed.converge().await.state, RoleState::Running);
    hears(&mut connect(addr).await, "second").await;
}

#[tokio::test]
async fn connections_are_shared_by_weight_and_lead_out_of_the_cluster() {
    let (inside, outside) = (Program::named("i").await, Program::named("o").await);
    let (mut bed, addr) = serving(&[&inside], "").await;
    bed.place_as("next", 5, ME, outside.addr.port());
    bed.ports(&format!("[port.{}]\nto = {{ web = 0, next = 1 }}\n", addr.port()));
    bed.converge().await;
    for _ in 0..5 {
        hears(&mut connect(addr).await, "o").await;
    }
    let nobody = free_addr().await;
    bed.ports(&format!("[port.{}]\nto = [\"tcp://{nobody}\", \"tcp://{}\"]\n", addr.port(), outside.addr));
    bed.converge().await;
    for _ in 0..5 {
        hears(&mut connect(addr).await, "o").await;
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_told_and_the_others_are_open() {
    let program = Program::named("a").await;
    let (mut bed, addr) = serving(&[&program], "").await;
    let taken = TcpListener::bind(SocketAddr::new(bed.addr.ip(), 0)).await.unwrap();
    let number = taken.local_addr().unwrap().port();
    let own = bed.addr.port();
    let port = |number: u16| format!("[port.{number}]\nto = \"web\"\n");
    bed.ports(&[addr.port(), number, own].map(port).concat());
    let report = bed.converge().await;
    assert_eq!(report.state, RoleState::Degraded);
    let words = report.message.unwrap();
    assert!(
        words.contains(&format!("port {number}/tcp of shop is not open here: another program on this host has it")),
        "{words}"
    );
    assert!(
        words.contains(&format!("port {own}/tcp of shop is not open here: hirsel has it itself, for plain HTTP")),
        "{words}"
    );
    hears(&mut connect(addr).await, "a").await;
    drop(taken);
    bed.ports(&[addr.port(), number].map(port).concat());
    bed.converge_until(|report| report.state == RoleState::Running && report.message.is_none()).await;
    hears(&mut connect(SocketAddr::new(bed.addr.ip(), number)).await, "a").await;
}

#[tokio::test]
async fn clients_are_let_in_by_address_and_no_more_than_there_is_room_for() {
    let program = Program::named("a").await;
    let (mut bed, addr) = serving(&[&program], "client_connections_max = 2\n").await;
    let refused = |bed: &Bed, why: &str| {
        bed.counted(&format!("hirsel_lb_port_refused_total{{app=\"shop\",port=\"{}/tcp\",why=\"{why}\"}}", addr.port()))
    };
    let mut open = [connect(addr).await, connect(addr).await];
    for client in &mut open {
        hears(client, "a").await;
    }
    assert!(is_ended(&mut connect(addr).await).await);
    assert_eq!(refused(&bed, "full"), 1);
    drop(open);
    until(|| bed.counted("hirsel_lb_port_open{") == 0).await;
    hears(&mut connect(addr).await, "a").await;

    bed.ports(&format!("[port.{}]\nto = \"web\"\nconnections_max = 1\n", addr.port()));
    bed.converge().await;
    until(|| bed.counted("hirsel_lb_port_open{") == 0).await;
    let mut one = connect(addr).await;
    hears(&mut one, "a").await;
    assert!(is_ended(&mut connect(addr).await).await);
    assert_eq!(refused(&bed, "full"), 2);

    for rule in ["deny = \"127.0.0.0/8\"", "allow = \"10.0.0.0/8\"", "allow = \"127.0.0.0/8\"\ndeny = \"127.0.0.1\""] {
        bed.ports(&format!("[port.{}]\nto = \"web\"\n{rule}\n", addr.port()));
        bed.converge().await;
        assert!(is_ended(&mut connect(addr).await).await, "{rule}");
    }
    assert_eq!(refused(&bed, "denied"), 3);
    one.write_all(b"who is in stays").await.unwrap();
    hears(&mut one, "who is in stays").await;
}

#[tokio::test]
async fn a_connection_on_which_nothing_moves_is_ended_and_one_that_is_used_is_not() {
    let program = Program::named("a").await;
    let (_bed, addr) = serving(&[&program], "idle_timeout = \"1s\"\n").await;
    let (mut idle, mut used) = (connect(addr).await, connect(addr).await);
    hears(&mut idle, "a").await;
    hears(&mut used, "a").await;
    let ended = tokio::spawn(async move { is_ended(&mut idle).await });
    within(async {
        while !ended.is_finished() {
            used.write_all(b"x").await.unwrap();
            hears(&mut used, "x").await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    assert!(ended.await.unwrap());
    used.write_all(b"on").await.unwrap();
    hears(&mut used, "on").await;
}

#[tokio::test]
async fn connections_to_a_node_that_is_lost_are_ended() {
    let program = Program::named("a").await;
    let (mut bed, addr) = serving(&[], "").await;
    bed.place(1, OTHER, program.addr.port());
    bed.converge().await;
    let mut client = connect(addr).await;
    hears(&mut client, "a").await;
    bed.suspect(OTHER, Liveness::Suspect);
    bed.converge().await;
    client.write_all(b"it may come back").await.unwrap();
    hears(&mut client, "it may come back").await;
    bed.unplace(1);
    bed.converge().await;
    assert!(is_ended(&mut client).await);
}

#[tokio::test]
async fn a_role_that_stops_takes_no_more_and_waits_for_those_that_are_open() {
    let program = Program::named("a").await;
    let (mut bed, addr) = serving(&[&program], "").await;
    let mut client = connect(addr).await;
    hears(&mut client, "a").await;
    let report = bed.stop().await;
    assert_eq!(report.state, RoleState::Running);
    assert_eq!(report.message.unwrap(), "stopping: 1 connections come to an end");
    assert!(within(TcpStream::connect(addr)).await.is_err());
    client.write_all(b"last").await.unwrap();
    hears(&mut client, "last").await;
    drop(client);
    bed.converge_until(|report| report.state == RoleState::Stopped).await;
}

#[tokio::test]
async fn a_target_is_told_who_the_client_is() {
    let program = Program::named("a").await;
    let (mut bed, addr) = serving(&[&program], "send_proxy = \"v1\"\n").await;
    let mut client = connect(addr).await;
    hears(&mut client, "a").await;
    client.write_all(b"hello").await.unwrap();
    let from = client.local_addr().unwrap();
    let header = format!("PROXY TCP4 {} {} {} {}\r\n", from.ip(), addr.ip(), from.port(), addr.port());
    until(|| program.heard() == format!("{header}hello")).await;

    bed.ports(&format!("[port.{}]\nto = \"web\"\nsend_proxy = \"v2\"\n", addr.port()));
    bed.converge().await;
    program.heard.lock().unwrap().clear();
    let mut client = connect(addr).await;
    let from = client.local_addr().unwrap();
    client.write_all(b"hello").await.unwrap();
    let ports = [from.port().to_be_bytes(), addr.port().to_be_bytes()].concat();
    let header = [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x01\x7f\0\0\x07", &ports[..]].concat();
    until(|| *program.heard.lock().unwrap() == [&header[..], b"hello"].concat()).await;
}

#[tokio::test]
async fn those_who_are_trusted_say_for_whom_they_connect_and_nobody_else_is_asked() {
    let program = Program::named("a").await;
    let rest = "accept_proxy = \"127.0.0.1\"\nsend_proxy = \"v1\"\ndeny = \"10.6.6.6\"\n";
    let (mut bed, addr) = serving(&[&program], rest).await;
    let mut client = connect(addr).await;
    // In pieces, with what the client says at once behind it.
    for piece in ["PROX", "Y TCP4 192.0.2.7 192.0.2.1 1234 55", "\r\nhello"] {
        client.write_all(piece.as_bytes()).await.unwrap();
        client.flush().await.unwrap();
        tokio::task::yield_now().await;
    }
    until(|| program.heard() == "PROXY TCP4 192.0.2.7 192.0.2.1 1234 55\r\nhello").await;

    let refused = |bed: &Bed, why: &str| {
        bed.counted(&format!("hirsel_lb_port_refused_total{{app=\"shop\",port=\"{}/tcp\",why=\"{why}\"}}", addr.port()))
    };
    let mut denied = connect(addr).await;
    denied.write_all(b"PROXY TCP4 10.6.6.6 192.0.2.1 1234 55\r\n").await.unwrap();
    assert!(is_ended(&mut denied).await);
    assert_eq!(refused(&bed, "denied"), 1);
    for wrong in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], b"PROXY TCP4 here there 1 2\r\n", b"\r\n\r\n\0\r\nQUIT\n\x11\x11\0\x0c"]
    {
        let mut client = connect(addr).await;
        client.write_all(wrong).await.unwrap();
        assert!(is_ended(&mut client).await);
    }
    assert_eq!(refused(&bed, "no_header"), 3);

    bed.ports(&format!("[port.{}]\nto = \"web\"\naccept_proxy = \"192.0.2.0/24\"\n", addr.port()));
    bed.converge().await;
    program.heard.lock().unwrap().clear();
    let mut stranger = connect(addr).await;
    stranger.write_all(b"PROXY TCP4 192.0.2.7 192.0.2.1 1234 55\r\n").await.unwrap();
    until(|| program.heard() == "PROXY TCP4 192.0.2.7 192.0.2.1 1234 55\r\n").await;
}

#[tokio::test]
async fn haproxy_in_front_and_behind_agrees_who_the_client_is() {
    for (sends_to_us, version) in [(" send-proxy", "v1"), (" send-proxy-v2", "v2")] {
        let program = Program::named("a").await;
        let (mut bed, addr) = serving(&[], "").await;
        // It tells the program who came, in words that can be read.
        let behind = free_addr().await;
        let behind = SocketAddr::from(([127, 0, 0, 1], behind.port()));
        let Some(_behind) = Haproxy::passing(behind, " accept-proxy", program.addr, " send-proxy").await else {
            return;
        };
        bed.place(1, ME, behind.port());
        bed.ports(&format!(
            "[port.{}]\nto = \"web\"\naccept_proxy = \"127.0.0.0/8\"\nsend_proxy = \"{version}\"\n",
            addr.port()
        ));
        bed.converge().await;
        let front = free_addr().await;
        let Some(_front) = Haproxy::passing(front, "", addr, sends_to_us).await else { return };
        let mut client = connect(front).await;
        hears(&mut client, "a").await;
        let from = client.local_addr().unwrap();
        client.write_all(b"hello").await.unwrap();
        let header = format!("PROXY TCP4 {} {} {} {}\r\n", from.ip(), front.ip(), from.port(), front.port());
        // Whoever looked whether haproxy is there may be heard between.
        until(|| program.heard().contains(&header) && program.heard().contains("hello")).await;
    }
}
