//! serf: gossip membership and nothing else, as a measure of what gossip must cost and how soon it misses somebody.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hirsel_tests::cluster::loopback;

use crate::figures::timed;

const LIMIT: Duration = Duration::from_secs(120);

pub struct Serf {
    net: [u8; 3],
    agents: Vec<Child>,
}

impl Serf {
    /// So many agents that know each other.
    pub fn start(count: usize) -> Self {
        let mut serf = Self { net: loopback(), agents: Vec::new() };
        serf.agents = (0..count).map(|agent| serf.spawn(agent)).collect();
        timed("serf is whole", Instant::now(), LIMIT, || (serf.with_status(count - 1, "alive") == count).then_some(()));
        serf
    }

    fn at(&self, agent: usize, port: u16) -> String {
        let [a, b, c] = self.net;
        format!("{a}.{b}.{c}.{}:{port}", agent + 1)
    }

    fn spawn(&self, agent: usize) -> Child {
        let seed = self.at(usize::from(agent == 0), 7946);
        Command::new("serf")
            .args(["agent", "-log-level=err", &format!("-node=s{agent}")])
            .args([format!("-bind={}", self.at(agent, 7946)), format!("-rpc-addr={}", self.at(agent, 7373))])
            .arg(format!("-retry-join={seed}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("serf runs")
    }

    /// How many members have this status, as one of the agents says.
    fn with_status(&self, asked: usize, status: &str) -> usize {
        let (status, rpc) = (format!("-status={status}"), format!("-rpc-addr={}", self.at(asked, 7373)));
        let output = Command::new("serf").args(["members", &status, &rpc]).output();
        output.map_or(0, |output| lines(&output.stdout))
    }

    /// Kills an agent, and tells when another one calls it failed. The killed one comes back.
    pub fn fail(&mut self, victim: usize) -> Duration {
        let (count, witness) = (self.agents.len(), (victim + 1) % self.agents.len());
        let killed = Instant::now();
        let _ = self.agents[victim].kill();
        let _ = self.agents[victim].wait();
        let failed = |serf: &Self| (serf.with_status(witness, "failed") == 1).then_some(());
        let (_, took) = timed("serf calls it failed", killed, LIMIT, || failed(self));
        self.agents[victim] = self.spawn(victim);
        let back = |serf: &Self, asked: usize| serf.with_status(asked, "alive") == count;
        timed("serf is whole again", Instant::now(), LIMIT, || {
            (back(self, witness) && back(self, victim)).then_some(())
        });
        took
    }

    pub fn pids(&self) -> Vec<u32> {
        self.agents.iter().map(Child::id).collect()
    }
}

/// It ends an empty list with an empty line.
fn lines(bytes: &[u8]) -> usize {
    String::from_utf8_lossy(bytes).lines().filter(|line| !line.trim().is_empty()).count()
}

impl Drop for Serf {
    fn drop(&mut self) {
        for agent in &mut self.agents {
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }
}
