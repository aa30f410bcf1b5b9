//! What a client sees of a port over UDP: its datagrams come to one target, and the answers back from where it wrote to.

mod common;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use common::{Bed, ME, OTHER, free_addr, until, within};
use hirsel_model::report::{RoleFacts, RoleState};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// A program that answers each datagram with its name before it.
struct Program {
    addr: SocketAddr,
    /// Who wrote to it.
    seen: Arc<Mutex<Vec<SocketAddr>>>,
    task: JoinHandle<()>,
}

impl Program {
    async fn named(name: &'static str) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (addr, seen) = (socket.local_addr().unwrap(), Arc::<Mutex<Vec<SocketAddr>>>::default());
        let noted = seen.clone();
        let task = tokio::spawn(async move {
            let mut room = vec![0; 70_000];
            while let Ok((length, from)) = socket.recv_from(&mut room).await {
                noted.lock().unwrap().push(from);
                let _ = socket.send_to(&[name.as_bytes(), &room[..length]].concat(), from).await;
            }
        });
        Self { addr, seen, task }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serving(programs: &[&Program], rest: &str) -> (Bed, SocketAddr) {
    let mut bed = Bed::new().await;
    let port = free_addr().await.port();
    bed.ports(&format!("[port.\"{port}/udp\"]\nto = \"web\"\n{rest}"));
    for (number, program) in (1..).zip(programs) {
        bed.place(number, ME, program.addr.port());
    }
    let report = bed.converge().await;
    assert_eq!((report.state, report.message), (RoleState::Running, None));
    let addr = SocketAddr::new(bed.addr.ip(), port);
    (bed, addr)
}

/// A client that hears nobody but the load balancer.
async fn client(addr: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(addr).await.unwrap();
    socket
}

/// What is answered to `text`. Datagrams may be lost, and are said again.
async fn ask(client: &UdpSocket, text: &str) -> String {
    let mut room = vec![0; 70_000];
    within(async {
        loop {
            client.send(text.as_bytes()).await.unwrap();
            let second = std::time::Duration::from_secs(1);
            if let Ok(Ok(length)) = tokio::time::timeout(second, client.recv(&mut room)).await {
                return String::from_utf8_lossy(&room[..length]).into_owned();
            }
        }
    })
    .await
}

fn counted(bed: &Bed, name: &str, addr: SocketAddr, more: &str) -> u64 {
    bed.counted(&format!("{name}{{app=\"shop\",port=\"{}/udp\"{more}}}", addr.port()))
}

#[tokio::test]
async fn each_client_has_a_target_of_its_own_and_is_answered_from_where_it_wrote_to() {
    let programs = [Program::named("a ").await, Program::named("b ").await];
    let (bed, addr) = serving(&[&programs[0], &programs[1]], "").await;
    let mut names = Vec::new();
    for number in 0..6 {
        let client = client(addr).await;
        let first = ask(&client, "one").await;
        names.push(first[..2].to_owned());
        for text in ["two", "", "three"] {
            assert_eq!(ask(&client, text).await, format!("{}{text}", &first[..2]), "client {number} stays");
        }
    }
    assert!(names.contains(&"a ".to_owned()) && names.contains(&"b ".to_owned()), "{names:?}");
    // The target tells clients apart.
    let mut seen: Vec<_> = programs.iter().flat_map(|program| program.seen.lock().unwrap().clone()).collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 6);
    assert_eq!(counted(&bed, "hirsel_lb_port_connections_total", addr, ""), 6);
    assert_eq!(counted(&bed, "hirsel_lb_port_open", addr, ""), 6);
    let long = "x".repeat(9_000);
    assert_eq!(ask(&client(addr).await, &long).await.len(), 9_002);
}

#[tokio::test]
async fn an_instance_on_another_node_is_reached_through_its_door() {
    let program = Program::named("there ").await;
    let (mut bed, addr) = serving(&[], "").await;
    bed.place(1, OTHER, program.addr.port());
    bed.converge().await;
    let one = client(addr).await;
    assert_eq!(ask(&one, "one").await, "there one");
    assert_eq!(ask(&one, "").await, "there ");
    assert_eq!(ask(&client(addr).await, &"y".repeat(9_000)).await.len(), 9_006);
    assert!(bed.doors.opened.load(std::sync::atomic::Ordering::SeqCst) >= 2);
}

#[tokio::test]
async fn a_session_keeps_a_target_that_drains_and_gets_another_when_it_is_gone() {
    let (old, new) = (Program::named("old ").await, Program::named("new ").await);
    let (mut bed, addr) = serving(&[&old], "").await;
    let one = client(addr).await;
    assert_eq!(ask(&one, "a").await, "old a");
    bed.place(2, ME, new.addr.port());
    bed.drain(1);
    let report = bed.converge().await;
    assert_eq!(report.facts, RoleFacts::Lb([("shop/web/1".parse().unwrap(), 1)].into()));
    assert_eq!(ask(&one, "b").await, "old b");
    assert_eq!(ask(&client(addr).await, "c").await, "new c");
    bed.unplace(1);
    bed.converge().await;
    assert_eq!(ask(&one, "d").await, "new d");
    bed.converge_until(|report| report.facts == RoleFacts::Lb([].into())).await;
}

#[tokio::test]
async fn sessions_end_when_they_are_idle_and_with_their_port() {
    let program = Program::named("a ").await;
    let (mut bed, addr) = serving(&[&program], "idle_timeout = \"1s\"\n").await;
    let one = client(addr).await;
    ask(&one, "a").await;
    assert_eq!(counted(&bed, "hirsel_lb_port_open", addr, ""), 1);
    until(|| counted(&bed, "hirsel_lb_port_open", addr, "") == 0).await;
    assert_eq!(ask(&one, "b").await, "a b", "a new one begins");
    bed.ports("");
    bed.converge().await;
    until(|| std::net::UdpSocket::bind(addr).is_ok()).await;
    bed.ports(&format!("[port.\"{}/udp\"]\nto = \"web\"\n", addr.port()));
    bed.converge_until(|report| report.state == RoleState::Running).await;
    assert_eq!(ask(&one, "c").await, "a c");
    bed.stop().await;
    bed.converge_until(|report| report.state == RoleState::Stopped).await;
}

#[tokio::test]
async fn clients_are_let_in_by_address_and_no_more_than_there_is_room_for() {
    let program = Program::named("a ").await;
    let (mut bed, addr) = serving(&[&program], "client_connections_max = 1\n").await;
    let one = client(addr).await;
    ask(&one, "a").await;
    client(addr).await.send(b"too many").await.unwrap();
    until(|| counted(&bed, "hirsel_lb_port_refused_total", addr, ",why=\"full\"") == 1).await;
    bed.ports(&format!("[port.\"{}/udp\"]\nto = \"web\"\ndeny = \"127.0.0.0/8\"\n", addr.port()));
    bed.converge().await;
    client(addr).await.send(b"not let in").await.unwrap();
    until(|| counted(&bed, "hirsel_lb_port_refused_total", addr, ",why=\"denied\"") == 1).await;
    assert_eq!(ask(&one, "who is in stays").await, "a who is in stays");
    let seen = program.seen.lock().unwrap().clone();
    assert!(seen.iter().all(|from| *from == seen[0]), "{seen:?}");
}

#[tokio::test]
async fn with_nobody_to_take_it_a_session_waits_a_while() {
    let (mut bed, addr) = serving(&[], "").await;
    let one = client(addr).await;
    one.send(b"early").await.unwrap();
    let program = Program::named("late ").await;
    bed.place(1, ME, program.addr.port());
    bed.converge().await;
    let mut room = [0; 64];
    let length = within(one.recv(&mut room)).await.unwrap();
    assert_eq!(&room[..length], b"late early");
    bed.unplace(1);
    bed.converge().await;
    client(addr).await.send(b"nobody").await.unwrap();
    until(|| counted(&bed, "hirsel_lb_port_refused_total", addr, ",why=\"no_target\"") == 1).await;
}
