//! haproxy before or behind the load balancer.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::net::TcpStream;

use super::within;

/// A running haproxy, which is ended with this.
pub struct Haproxy(Child, PathBuf);

impl Haproxy {
    /// In tcp mode, from `addr` to `to`; none where it is not installed.
    pub async fn passing(addr: SocketAddr, accepts: &str, to: SocketAddr, sends: &str) -> Option<Self> {
        let places = ["/usr/sbin/haproxy", "/usr/local/sbin/haproxy", "/usr/bin/haproxy"].map(PathBuf::from);
        let Some(program) = places.into_iter().find(|path| path.exists()) else {
            assert_ne!(std::env::var("HIRSEL_REQUIRE").as_deref(), Ok("all"), "haproxy is missing");
            eprintln!("skipped: needs haproxy");
            return None;
        };
        let file = std::env::temp_dir().join(format!("hirsel-ports-{}-{}.cfg", std::process::id(), addr.port()));
        let text = format!(
            "defaults\n mode tcp\n timeout connect 5s\n timeout client 30s\n timeout server 30s\nlisten it\n bind {addr}{accepts}\n \
             server there {to}{sends}\n"
        );
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(program);
        command.args(["-db", "-f"]).arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let running = Self(command.spawn().unwrap(), file);
        within(async {
            while TcpStream::connect(addr).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        Some(running)
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = std::fs::remove_file(&self.1);
    }
}
