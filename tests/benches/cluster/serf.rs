//! serf: gossip membership and nothing else, as a measure of what gossip must cost.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hirsel_tests::cluster::loopback;

use crate::figures::timed;

pub struct Serf(Vec<Child>);

impl Serf {
    /// So many agents that know each other.
    pub fn start(count: usize) -> Self {
        let [a, b, c] = loopback();
        let at = |number: usize, port: u16| format!("{a}.{b}.{c}.{number}:{port}");
        let agent = |number: usize| {
            Command::new("serf")
                .args(["agent", "-log-level=err", &format!("-node=s{number}")])
                .args([format!("-bind={}", at(number, 7946)), format!("-rpc-addr={}", at(number, 7373))])
                .arg(format!("-retry-join={}", at(1, 7946)))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("serf runs")
        };
        let serf = Self((1..=count).map(agent).collect());
        timed("serf is whole", Instant::now(), Duration::from_secs(120), || {
            let rpc = format!("-rpc-addr={}", at(count, 7373));
            let output = Command::new("serf").args(["members", "-status=alive", &rpc]).output().ok()?;
            (String::from_utf8_lossy(&output.stdout).lines().count() == count).then_some(())
        });
        serf
    }

    pub fn pids(&self) -> Vec<u32> {
        self.0.iter().map(Child::id).collect()
    }
}

impl Drop for Serf {
    fn drop(&mut self) {
        for agent in &mut self.0 {
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }
}
