//! serf, where it is installed: as many agents as processes on loopback, with its defaults for a LAN and encryption, measured alike.
//!
//! What an agent knows is read from its log, line by line as it comes. Bytes and packets are those of the loopback interface, so nothing
//! else may talk on it; what reads them says nothing. An agent is lost by killing its process.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use crate::{LIMIT, MEASURE, SETTLE, Seen};

/// Any 32 bytes: serf encrypts only when it is given a key, and hirsel always does.
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

pub fn is_installed() -> bool {
    Command::new("serf").arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// Starts `count` agents, and looks at them quiet, with news, and losing agents, `events` of each.
pub fn look(count: usize, events: usize) -> Seen {
    let began = Instant::now();
    let mut agents = Agents::start(count);
    let mut joined = vec![0; count];
    while joined.iter().any(|heard| *heard < count) {
        let line = agents.next(LIMIT).expect("all agents join in time");
        joined[line.by] += usize::from(line.kind == "Join");
    }
    let whole = began.elapsed();
    std::thread::sleep(SETTLE);

    let (sent, processor, began) = (loopback(), agents.processor_time(), Instant::now());
    let mut mistaken = 0;
    while let Some(left) = MEASURE.checked_sub(began.elapsed()) {
        mistaken += agents.next(left).map_or(0, |line| usize::from(line.kind == "Failed"));
    }
    let each = began.elapsed().as_secs_f64() * count as f64;
    let now = loopback();
    let (bytes, packets) = ((now.0 - sent.0) as f64 / each, (now.1 - sent.1) as f64 / each);
    let processor = (agents.processor_time() - processor).as_secs_f64() / each;

    let (mut news, mut missed) = (Vec::new(), Vec::new());
    for nth in 0..events {
        let from = nth * 7 % count;
        let said = Instant::now();
        agents.say(from, nth);
        news.extend(agents.all_see("Update", from).into_iter().map(|at| at - said));
    }
    for nth in 0..events {
        let lost = nth % count;
        let killed = Instant::now();
        agents.kill(lost);
        missed.extend(agents.all_see("Failed", lost).into_iter().map(|at| at - killed));
        agents.revive(lost);
        agents.all_see("Join", lost);
        std::thread::sleep(crate::SETTLE_AGAIN);
    }
    Seen { whole, bytes, packets, processor, news, missed, mistaken }
}

/// An event of a member in the log of an agent.
struct Line {
    at: Instant,
    by: usize,
    kind: String,
    member: String,
}

struct Agents {
    running: Vec<Child>,
    lines: Receiver<Line>,
    tell: Sender<Line>,
}

impl Agents {
    fn start(count: usize) -> Self {
        let (tell, lines) = channel();
        let running = (0..count).map(|nth| run(nth, count, &tell)).collect();
        Self { running, lines, tell }
    }

    fn next(&self, within: Duration) -> Option<Line> {
        match self.lines.recv_timeout(within) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => unreachable!("we hold a sender"),
        }
    }

    /// When each other agent saw this happen to `member`, from now on.
    fn all_see(&self, kind: &str, member: usize) -> Vec<Instant> {
        let mut seen = vec![None; self.running.len()];
        let name = format!("n{member}");
        let began = Instant::now();
        while seen.iter().enumerate().any(|(by, at)| by != member && at.is_none()) {
            let left = LIMIT.saturating_sub(began.elapsed());
            let line = self.next(left).expect("all agents see it in time");
            if line.kind == kind && line.member == name && line.by != member {
                seen[line.by].get_or_insert(line.at);
            }
        }
        seen.into_iter().flatten().collect()
    }

    fn say(&self, from: usize, value: usize) {
        let mut serf = Command::new("serf");
        serf.arg("tags").arg(format!("-rpc-addr={}:7373", ip(from))).arg("-set").arg(format!("news={value}"));
        assert!(serf.stdout(Stdio::null()).status().unwrap().success(), "{serf:?}");
    }

    fn kill(&mut self, nth: usize) {
        self.running[nth].kill().unwrap();
        self.running[nth].wait().unwrap();
    }

    fn revive(&mut self, nth: usize) {
        self.running[nth] = run(nth, self.running.len(), &self.tell);
    }

    /// Of all threads of all agents so far.
    fn processor_time(&self) -> Duration {
        let threads = self.running.iter().flat_map(|agent| std::fs::read_dir(format!("/proc/{}/task", agent.id())));
        let spent = threads.flatten().flatten().filter_map(|thread| {
            let stat = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
            stat.split(' ').next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(spent.sum())
    }
}

impl Drop for Agents {
    fn drop(&mut self) {
        for agent in &mut self.running {
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }
}

fn ip(nth: usize) -> String {
    format!("127.2.{}.{}", nth / 250, nth % 250 + 1)
}

fn run(nth: usize, count: usize, tell: &Sender<Line>) -> Child {
    let mut serf = Command::new("serf");
    // Whoever comes back asks somebody who is there.
    let asked = usize::from(nth == 0) % count;
    serf.arg("agent").arg(format!("-node=n{nth}")).arg(format!("-encrypt={KEY}")).arg("-profile=lan");
    serf.arg(format!("-bind={}:7946", ip(nth))).arg(format!("-rpc-addr={}:7373", ip(nth)));
    serf.arg(format!("-retry-join={}:7946", ip(asked))).arg("-retry-interval=1s");
    serf.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut agent = serf.spawn().unwrap();
    let (log, tell) = (agent.stdout.take().unwrap(), tell.clone());
    std::thread::spawn(move || {
        for line in BufReader::new(log).lines().map_while(Result::ok) {
            let at = Instant::now();
            let event = line.split_once("serf: EventMember").and_then(|(_, event)| event.split_once(": "));
            if let Some((kind, rest)) = event {
                let member = rest.split_whitespace().next().unwrap_or_default().into();
                let _ = tell.send(Line { at, by: nth, kind: kind.into(), member });
            }
        }
    });
    agent
}

/// Bytes and packets of the loopback interface so far; each is sent and received there, and counted here once.
fn loopback() -> (u64, u64) {
    let all = std::fs::read_to_string("/proc/net/dev").unwrap();
    let lo = all.lines().find_map(|line| line.trim_start().strip_prefix("lo:")).unwrap();
    let mut received = lo.split_whitespace().map(|number| number.parse().unwrap());
    (received.next().unwrap(), received.next().unwrap())
}
