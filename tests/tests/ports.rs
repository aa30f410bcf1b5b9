//! A port of an application on a whole cluster: open at every load balancer, whoever of its instances dies.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
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
