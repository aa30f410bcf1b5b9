//! The agent's interface as programs use it, over its socket: without a process for each request.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// No request of these tests takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Asks the agent with this data folder; returns status and body.
///
/// # Errors
/// When it does not answer.
pub fn ask(data: &Path, method: &str, path: &str, body: &str) -> io::Result<(u16, String)> {
    let mut stream = UnixStream::connect(data.join("agent.sock"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: agent\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status, body.to_owned()))
}

/// The sum of what a metric of this agent counts, over all lines that contain `label`.
///
/// # Panics
/// When the agent does not answer.
pub fn counted(data: &Path, metric: &str, label: &str) -> u64 {
    let (_, text) = ask(data, "GET", "/metrics", "").expect("an answer");
    let lines = text.lines().filter(|line| line.starts_with(metric) && line.contains(label));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
}
