//! Checks one running instance again and again, in the background, so that a check that hangs keeps nothing else.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hirsel_model::spec::{AppProtocol, Check, HealthSpec};
use hirsel_role::{Host, Spawner};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

mod asked;

/// Time between two checks while an instance has never passed one: it is waited for.
const STARTING_EVERY: Duration = Duration::from_millis(200);
/// No interval or time limit is shorter, whatever a manifest says: a check must not become a load.
const LENGTH_MIN: Duration = Duration::from_millis(50);
/// An answer's head is read up to here; the status is in its first line.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// The rest of an answer is read, for a program may complain of a connection that is closed under its hands, but neither for long
/// nor without bound.
const REST_BYTES_MAX: usize = 64 << 10;
const REST_MAX: Duration = Duration::from_millis(100);

/// What the checks of an instance say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Health {
    /// One passed since the process was started.
    pub passed: bool,
    /// The instance works.
    pub healthy: bool,
    /// Why the last check failed.
    pub failure: Option<String>,
}

/// The checks of one process. They end when this is dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    /// The process they are about.
    pub pid: u32,
    health: Arc<Mutex<Health>>,
    task: JoinHandle<()>,
}

/// What checks need.
pub(crate) struct Checks {
    pub host: Arc<dyn Host>,
    pub wake: Arc<Notify>,
    pub addr: SocketAddr,
    pub spec: HealthSpec,
    /// What the instance speaks.
    pub protocol: AppProtocol,
}

impl Watch {
    /// Begins to check. `passed`: it is known to have passed before, by whoever ran here until now; it counts as healthy until it fails.
    pub(crate) fn begin(spawner: &Spawner, checks: Checks, pid: u32, passed: bool) -> Self {
        let health = Arc::new(Mutex::new(Health { passed, healthy: passed, failure: None }));
        let task = spawner.spawn(checks.run(Arc::clone(&health)));
        Self { pid, health, task }
    }

    pub(crate) fn health(&self) -> Health {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Checks {
    async fn run(self, shared: Arc<Mutex<Health>>) {
        let interval = Duration::from_millis(self.spec.interval_ms).max(LENGTH_MIN);
        let limit = Duration::from_millis(self.spec.timeout_ms).max(LENGTH_MIN);
        let mut failures = 0;
        loop {
            let result = match tokio::time::timeout(limit, self.check()).await {
                Ok(result) => result,
                Err(_) => Err(format!("no answer in {} ms", limit.as_millis())),
            };
            failures = if result.is_ok() { 0 } else { failures + 1 };
            let passed = {
                let mut health = shared.lock().unwrap_or_else(PoisonError::into_inner);
                let next = after(&health, result, failures >= self.spec.failures.max(1));
                if *health != next {
                    *health = next;
                    self.wake.notify_one();
                }
                health.passed
            };
            tokio::time::sleep(if passed { interval } else { STARTING_EVERY }).await;
        }
    }

    async fn check(&self) -> Result<(), String> {
        let what = match &self.spec.check {
            Check::Http { path } => format!("GET {path}"),
            Check::Tcp => "connection".to_owned(),
            Check::Grpc { service } if service.is_empty() => "health by gRPC".to_owned(),
            Check::Grpc { service } => format!("health of {service} by gRPC"),
        };
        let failed = |error: std::io::Error| format!("{what}: {error}");
        let mut stream = self.host.connect(self.addr).await.map_err(failed)?;
        let path = match &self.spec.check {
            Check::Http { path } => path,
            Check::Tcp => return Ok(()),
            Check::Grpc { service } => {
                let asked = asked::grpc(stream, &self.addr.to_string(), service).await;
                return asked.map_err(|error| format!("{what}: {error}"));
            }
        };
        if !path.starts_with('/') || path.bytes().any(|byte| byte.is_ascii_whitespace() || byte.is_ascii_control()) {
            return Err(format!("{path:?} is no path"));
        }
        if self.protocol == AppProtocol::H2c {
            let status = asked::get(stream, &self.addr.to_string(), path).await;
            return judge(&what, status.map_err(|error| format!("{what}: {error}"))?.status);
        }
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nUser-Agent: hirsel-check\r\nAccept: */*\r\nConnection: close\r\n\r\n",
            self.addr
        );
        stream.write_all(request.as_bytes()).await.map_err(failed)?;
        let mut head = Vec::new();
        let mut buffer = [0; 2048];
        while !head.windows(4).any(|four| four == b"\r\n\r\n") {
            let count = stream.read(&mut buffer).await.map_err(failed)?;
            if count == 0 || head.len() + count > HEAD_BYTES_MAX {
                return Err(format!("{what}: no answer in HTTP"));
            }
            head.extend_from_slice(&buffer[..count]);
        }
        let status = status(&head).ok_or_else(|| format!("{what}: no answer in HTTP"))?;
        let rest = async {
            let mut left = REST_BYTES_MAX;
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                left = left.saturating_sub(count);
                if left == 0 {
                    break;
                }
            }
        };
        // A server that keeps the connection open is fine.
        let _ = tokio::time::timeout(REST_MAX, rest).await;
        judge(&what, status)
    }
}

fn judge(what: &str, status: u16) -> Result<(), String> {
    if (200..400).contains(&status) { Ok(()) } else { Err(format!("{what}: status {status}")) }
}

/// The health after one more check. `too_often`: it failed as often in a row as makes an instance unhealthy.
fn after(before: &Health, result: Result<(), String>, too_often: bool) -> Health {
    match result {
        Ok(()) => Health { passed: true, healthy: true, failure: None },
        Err(failure) => Health { passed: before.passed, healthy: before.healthy && !too_often, failure: Some(failure) },
    }
}

/// The status of an answer of HTTP/1 (RFC 9112, section 4).
fn status(head: &[u8]) -> Option<u16> {
    let rest = head.strip_prefix(b"HTTP/1.")?;
    let digits = rest.get(2..5)?;
    if rest.get(1) != Some(&b' ') || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_read_from_the_first_line_and_from_nothing_else() {
        assert_eq!(status(b"HTTP/1.1 204 No Content\r\n\r\n"), Some(204));
        assert_eq!(status(b"HTTP/1.0 500\r\n\r\n"), Some(500));
        for wrong in [&b"HTTP/1.1 20"[..], b"HTTP/2 200 ", b"", b"SSH-2.0-OpenSSH", b"HTTP/1.1 2x0 ", b"HTTP/1.1-200"] {
            assert_eq!(status(wrong), None);
        }
    }

    #[test]
    fn an_instance_turns_unhealthy_after_several_failures_and_healthy_after_one_success() {
        let failed = || Err("x".to_owned());
        let well = after(&Health::default(), Ok(()), false);
        assert!(well.healthy && well.passed);
        let once = after(&well, failed(), false);
        assert!(once.healthy && once.failure.is_some());
        let often = after(&once, failed(), true);
        assert!(!often.healthy && often.passed);
        assert_eq!(after(&often, Ok(()), false), well);
        assert!(!after(&Health::default(), failed(), false).healthy);
    }
}
