//! The program that simulated processes run: a tiny HTTP/1.1 server, told by its arguments how slow and how mortal to be.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hirsel_model::InstanceId;
use hirsel_role::host::ProcessState;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::watch;

use super::Machine;

/// The name of the program in a command.
const NAME: &str = "sim-web";
/// Longest request a program reads.
const REQUEST_BYTES_MAX: usize = 64 << 10;
/// Time a program takes to answer.
const THINK: Duration = Duration::from_millis(2);

/// What a process does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Time from its start until it listens.
    pub start: Duration,
    /// Time from the stop signal to its end; none when it ignores the signal.
    pub stop: Option<Duration>,
    /// When it ends by itself, counted from its start.
    pub crash_after: Option<Duration>,
    /// What it returns then.
    pub exit_code: i32,
    /// Whether its health check passes.
    pub healthy: bool,
}

impl Default for Program {
    fn default() -> Self {
        Self {
            start: Duration::from_millis(100),
            stop: Some(Duration::from_millis(20)),
            crash_after: None,
            exit_code: 1,
            healthy: true,
        }
    }
}

impl Program {
    /// Reads `sim-web [start=MS] [stop=MS|never] [crash-after=MS] [exit=CODE] [sick]`.
    pub fn parse(command: &[String]) -> io::Result<Self> {
        let wrong = |what: &str| io::Error::new(io::ErrorKind::NotFound, format!("no such program or option: {what}"));
        let Some((NAME, options)) = command.split_first().map(|(name, rest)| (name.as_str(), rest)) else {
            return Err(wrong(command.first().map_or("", String::as_str)));
        };
        let mut program = Self::default();
        for option in options {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            let ms = || value.parse().map(Duration::from_millis).map_err(|_| wrong(option));
            match key {
                "start" => program.start = ms()?,
                "stop" if value == "never" => program.stop = None,
                "stop" => program.stop = Some(ms()?),
                "crash-after" => program.crash_after = Some(ms()?),
                "exit" => program.exit_code = value.parse().map_err(|_| wrong(option))?,
                "sick" => program.healthy = false,
                _ => return Err(wrong(option)),
            }
        }
        Ok(program)
    }
}

/// Which process a connection visits.
pub(super) struct Visit {
    pub machine: Arc<Machine>,
    pub id: InstanceId,
    pub node: String,
}

/// Serves one connection until either side ends.
pub(super) async fn serve(visit: Visit, program: Program, mut stream: DuplexStream, mut alive: watch::Receiver<bool>) {
    tokio::select! {
        // Dropping the stream is what the kernel does when a process dies.
        _ = alive.wait_for(|alive| !alive) => {}
        _ = answer_all(&visit, &program, &mut stream) => {}
    }
}

async fn answer_all(visit: &Visit, program: &Program, stream: &mut DuplexStream) -> io::Result<()> {
    let mut unread = Vec::new();
    while let Some(request) = next_request(stream, &mut unread).await? {
        tokio::time::sleep(THINK).await;
        let (status, body) = match request.path.as_str() {
            "/healthz" if program.healthy => ("200 OK", "well".to_string()),
            "/healthz" => ("503 Service Unavailable", "sick".to_string()),
            "/crash" => {
                visit.machine.end_from_inside(&visit.id, ProcessState::Exited { code: program.exit_code });
                return Ok(());
            }
            path => ("200 OK", format!("{} {path} {} {}", request.method, visit.node, visit.id)),
        };
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\ncontent-type: text/plain\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).await?;
        if request.method != "HEAD" {
            stream.write_all(body.as_bytes()).await?;
        }
    }
    Ok(())
}

struct Request {
    method: String,
    path: String,
}

async fn next_request(stream: &mut DuplexStream, unread: &mut Vec<u8>) -> io::Result<Option<Request>> {
    let head_end = loop {
        if let Some(at) = unread.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if !read_more(stream, unread).await? {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&unread[..head_end]).into_owned();
    let mut lines = head.lines();
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = lines.filter_map(|line| line.split_once(':'));
    let length = headers.rfind(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length: usize = length.and_then(|(_, value)| value.trim().parse().ok()).unwrap_or(0);
    while unread.len() < head_end + length {
        if !read_more(stream, unread).await? {
            return Ok(None);
        }
    }
    unread.drain(..head_end + length);
    Ok(Some(Request { method: method.into(), path: path.into() }))
}

async fn read_more(stream: &mut DuplexStream, unread: &mut Vec<u8>) -> io::Result<bool> {
    let mut buffer = [0; 4096];
    let len = stream.read(&mut buffer).await?;
    unread.extend_from_slice(&buffer[..len]);
    if unread.len() > REQUEST_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(len > 0)
}
