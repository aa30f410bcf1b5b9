//! A client outside the cluster: it asks every lb all the time, and the oracle holds those lbs to an answer that owe one.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use crate::check::Oracle;
use crate::clock::elapsed;
use crate::trace::Trace;

/// Between two requests to one lb.
const PAUSE: Duration = Duration::from_millis(100);
/// No person waits longer.
const PATIENCE: Duration = Duration::from_secs(10);
/// After its trouble ended, an lb may take so long until it owes answers: its agent starts, finds the others, and learns the plan.
const SETTLE: Duration = Duration::from_secs(10);
/// The world looks at most so long after something happened: an lb that was given up meanwhile owed nothing.
const LOOKED_WITHIN: Duration = Duration::from_millis(150);
/// The host name of the sample application.
pub const HOST_NAME: &str = "shop.example";

/// What the client is told of the world, so that it knows which answers are owed.
#[derive(Debug, Default)]
pub struct Sight {
    live_since: BTreeMap<String, Duration>,
    served_since: Option<Duration>,
}

impl Sight {
    /// Whether `node` has the role lb and nothing is wrong with it.
    pub fn live(&mut self, now: Duration, node: &str, live: bool) {
        if live {
            self.live_since.entry(node.into()).or_insert(now);
        } else {
            self.live_since.remove(node);
        }
    }

    /// Whether an instance runs where nothing is wrong.
    pub fn served(&mut self, now: Duration, served: bool) {
        self.served_since = if served { self.served_since.or(Some(now)) } else { None };
    }

    /// Since when `node` owes answers, at `now`.
    fn owes(&self, now: Duration, node: &str) -> Option<Duration> {
        let since = (*self.live_since.get(node)?).max(self.served_since?);
        (now >= since + SETTLE).then_some(since)
    }
}

/// Asks until the simulation ends.
pub async fn run(
    targets: Vec<(String, IpAddr)>,
    sight: Arc<Mutex<Sight>>,
    oracle: Arc<Mutex<Oracle>>,
    trace: Trace,
) -> turmoil::Result {
    for (node, ip) in targets {
        let (sight, oracle, trace) = (sight.clone(), oracle.clone(), trace.clone());
        tokio::spawn(async move {
            loop {
                sleep(PAUSE).await;
                let began = elapsed();
                let Some(since) = crate::lock(&sight).owes(began, &node) else { continue };
                let answer = match timeout(PATIENCE, get((ip, 80).into())).await {
                    Ok(answer) => answer,
                    Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
                };
                if answer.is_err() {
                    sleep(LOOKED_WITHIN).await;
                }
                // Trouble that came meanwhile excuses; trouble that came and went did, too.
                if crate::lock(&sight).owes(elapsed(), &node) == Some(since) {
                    let answer = answer.map_err(|error| format!("{error} (asked at {:.3})", began.as_secs_f64()));
                    if let Err(error) = &answer {
                        trace.note("client", format!("{node}: {error}"));
                    }
                    crate::lock(&oracle).answered(elapsed(), &node, answer);
                }
            }
        });
    }
    std::future::pending().await
}

async fn get(addr: SocketAddr) -> Result<(), String> {
    let words = |what: &str, error: std::io::Error| format!("{what}: {error}");
    let mut stream = turmoil::net::TcpStream::connect(addr).await.map_err(|error| words("connect", error))?;
    let request = format!("GET /cart HTTP/1.1\r\nhost: {HOST_NAME}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|error| words("write", error))?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.map_err(|error| words("read", error))?;
    let answer = String::from_utf8_lossy(&answer);
    if !answer.starts_with("HTTP/1.1 200") {
        return Err(answer.lines().next().unwrap_or("empty answer").to_string());
    }
    if !answer.contains("GET /cart n") {
        return Err(format!("cut off: {answer:?}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_lb_owes_answers_some_time_after_all_trouble_ended() {
        let at = Duration::from_secs;
        let mut sight = Sight::default();
        sight.live(at(1), "n1", true);
        sight.served(at(5), true);
        assert_eq!(sight.owes(at(14), "n1"), None);
        assert_eq!(sight.owes(at(15), "n1"), Some(at(5)));
        sight.live(at(16), "n1", true);
        assert_eq!(sight.owes(at(17), "n1"), Some(at(5)));
        sight.live(at(18), "n1", false);
        assert_eq!(sight.owes(at(40), "n1"), None);
        assert_eq!(sight.owes(at(40), "n2"), None);
    }
}
