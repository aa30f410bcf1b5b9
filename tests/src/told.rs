//! An application that answers with its secret, and writes it nowhere.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crate::cluster::Cluster;
use crate::http::Connection;
use crate::wait_for;

/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(5);
/// A change of a secret is rolled out within this.
const SOON: Duration = Duration::from_secs(60);

/// A program that answers with a variable of its environment.
const PROGRAM: &str = "\
import http.server, os
class Told(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = ('well' if self.path == '/healthz' else os.environ['KEY']).encode()
        self.send_response(200)
        self.send_header('content-length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer((os.environ['HOST'], int(os.environ['PORT'])), Told).serve_forever()
";

/// The manifest of `shop`, whose program is written into `folder`.
///
/// # Panics
/// When it cannot be written.
pub fn manifest(folder: &Path, replicas: usize) -> String {
    let program = folder.join("told.py");
    std::fs::write(&program, PROGRAM).expect("a program can be written");
    format!(
        "app = \"shop\"\n[service.web]\ncommand = [\"python3\", \"{}\"]\nreplicas = {replicas}\n\
         health = {{ http = \"/healthz\", interval = \"1s\" }}\nenv = {{ KEY = \"key=${{secret.key}}\" }}\n\
         [route.\"*\"]\nto = \"web\"\n",
        program.display()
    )
}

/// What the application answers through a load balancer, or by itself.
///
/// # Errors
/// In words, when it does not.
pub fn told(at: SocketAddr) -> Result<String, String> {
    let asked = Connection::open(at, PATIENCE).and_then(|mut lb| lb.ask("GET", "shop.example.com", "/", b""));
    let (answer, _) = asked.map_err(|error| error.to_string())?;
    if answer.status == 200 { Ok(answer.text()) } else { Err(format!("{} {}", answer.status, answer.text())) }
}

/// Waits until every load balancer answers `expected`.
pub fn everywhere(cluster: &Cluster, expected: &str) {
    wait_for(&format!("every lb answers {expected}"), SOON, || {
        for (_, at) in cluster.lbs() {
            let answer = told(at)?;
            if answer != expected {
                return Err(answer);
            }
        }
        Ok(())
    });
}
