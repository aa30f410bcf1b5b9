//! A port of an application on a whole cluster: open at every load balancer, whoever of its instances dies.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use hirsel_tests::cluster::{Cluster, HTTP_PORT, array};
use hirsel_tests::{lacks, wait_for};

const SOON: Duration = Duration::from_secs(30);
const PORT: u16 = 5432;

/// A program that says which process it is, and gives back each line.
const ECHO: &str = r#"
import os, socketserver
class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b'%d\n' % os.getpid())
        for line in self.rfile:
            self.wfile.write(line)
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
Server((os.environ['HOST'], int(os.environ['PORT'])), Echo).serve_forever()
"#;

fn manifest(app: &str, port: u16) -> String {
    format!(
        "app = \"{app}\"\n[service.echo]\ncommand = [\"python3\", \"-c\", '''{ECHO}''']\nreplicas = 2\n\
         health = {{ tcp = true, interval = \"200ms\" }}\n[port.{port}]\nto = \"echo\"\n"
    )
}

/// A conversation at `addr`: which process takes part in it, once it has given a line back.
fn talk(addr: SocketAddr) -> Result<u32, String> {
    let mut stream = TcpStream::connect_timeout(&addr, SOON).map_err(|error| error.to_string())?;
    stream.set_read_timeout(Some(SOON)).map_err(|error| error.to_string())?;
    let mut reader = BufReader::new(stream.try_clone().map_err(|error| error.to_string())?);
    let mut line = String::new();
    reader.read_line(&mut line).map_err(|error| error.to_string())?;
    let pid = line.trim().parse().map_err(|_| format!("{line:?} is no process"))?;
    stream.write_all(b"hello\n").map_err(|error| error.to_string())?;
    line.clear();
    reader.read_line(&mut line).map_err(|error| error.to_string())?;
    if line == "hello\n" { Ok(pid) } else { Err(format!("{line:?} came back")) }
}

/// A program that answers every datagram with its own process before it.
const ECHO_DATAGRAMS: &str = r#"
import os, socketserver
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        said, socket = self.request
        socket.sendto(b'%d ' % os.getpid() + said, self.client_address)
socketserver.UDPServer((os.environ['HOST'], int(os.environ['PORT'])), Echo).serve_forever()
"#;

#[test]
fn datagrams_come_to_the_one_instance_from_every_load_balancer() {
    let python = std::process::Command::new("python3").arg("--version").output();
    if lacks("python3", python.is_ok_and(|python| python.status.success())) {
        return;
    }
    let cluster = Cluster::start(3);
    cluster.apply(&format!(
        "app = \"names\"\n[service.echo]\ncommand = [\"python3\", \"-c\", '''{ECHO_DATAGRAMS}''']\n\
         [port.\"{PORT}/udp\"]\nto = \"echo\"\n"
    ));
    let mut processes = Vec::new();
    for node in &cluster.nodes {
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        client.connect(node.addr(PORT)).unwrap();
        // Two of three reach it through the mesh; and datagrams may be lost before it listens.
        let (answer, _) = wait_for("an answer", SOON, || {
            let mut room = [0; 100];
            client.send(b"hello").map_err(|error| error.to_string())?;
            let length = client.recv(&mut room).map_err(|error| error.to_string())?;
            Ok::<_, String>(String::from_utf8_lossy(&room[..length]).into_owned())
        });
        let (pid, said) = answer.split_once(' ').unwrap();
        assert_eq!(said, "hello");
        processes.push(pid.to_owned());
    }
    processes.dedup();
    assert_eq!(processes.len(), 1, "{processes:?}");
    let listed = cluster.any().ask(["apps"]).data();
    let first = format!("udp://{}", cluster.nodes[0].addr(PORT));
    assert_eq!(listed[0]["endpoints"][0], *first);
}

#[test]
fn a_port_is_open_at_every_load_balancer_whichever_instance_dies() {
    let python = std::process::Command::new("python3").arg("--version").output();
    if lacks("python3", python.is_ok_and(|python| python.status.success())) {
        return;
    }
    let cluster = Cluster::start(3);
    cluster.apply(&manifest("shop", PORT));
    let doors: Vec<SocketAddr> = cluster.nodes.iter().map(|node| node.addr(PORT)).collect();
    for door in &doors {
        wait_for("the port is open", SOON, || talk(*door));
    }
    let listed = cluster.any().ask(["apps"]).data();
    let endpoints: Vec<&str> = array(&listed[0]["endpoints"]).iter().filter_map(serde_json::Value::as_str).collect();
    assert_eq!(endpoints, doors.iter().map(|door| format!("tcp://{door}")).collect::<Vec<_>>());

    // Whoever asks while one of two instances is gone gets the other.
    let victim = talk(doors[0]).unwrap();
    let pid = rustix::process::Pid::from_raw(victim.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let left = format!("/proc/{victim}/fd");
    wait_for("the process is gone", SOON, || match std::fs::read_dir(&left).map_or(0, Iterator::count) {
        0 => Ok(()),
        open => Err(format!("{open} files of it are open")),
    });
    // What its kernel took just before is lost with it, and is nobody's to try again.
    for door in &doors {
        wait_for("somebody answers", SOON, || talk(*door));
    }
    for round in 0..30 {
        let door = doors[round % doors.len()];
        let pid = talk(door).unwrap_or_else(|error| panic!("round {round} at {door}: {error}"));
        assert_ne!(pid, victim);
    }
    cluster.well(SOON);

    for (app, port, words) in [
        ("blog", PORT, "port 5432/tcp belongs to application shop".to_owned()),
        ("blog", HTTP_PORT, format!("port {HTTP_PORT}/tcp is not to be had: hirsel has it itself")),
    ] {
        let ran = cluster.apply_only(&manifest(app, port));
        assert_ne!(ran.code, Some(0));
        assert!(ran.words().contains(&words), "{}", ran.words());
    }
    assert_eq!(cluster.any().ask(["rm", "shop", "--yes"]).code, Some(0));
    for door in &doors {
        wait_for("the port is closed", SOON, || match TcpStream::connect(door) {
            Ok(_) => Err(format!("{door} is open")),
            Err(_) => Ok(()),
        });
    }
}
