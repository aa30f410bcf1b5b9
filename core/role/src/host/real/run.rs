//! Programs of the operator that this host runs to their end while an agent waits: no shim, no file, nothing that outlives the wait.

use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::time::timeout;

/// What a program says is read to its end and kept to this many bytes, the last ones.
const SAID_BYTES_MAX: usize = 4096;
/// Of the line that is told.
const TOLD_CHARS_MAX: usize = 200;
/// What it left running may hold its output open: that is not waited for any longer.
const SAID_WITHIN: Duration = Duration::from_millis(200);
/// Where programs are looked for by the program, as systemd has it.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A group of processes that ends with its last mention.
struct Group(Pid);

impl Drop for Group {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = kill_process_group(self.0, Signal::KILL);
    }
}

/// Errors say in words how it ended, with the last line that it wrote.
pub(super) async fn run(command: &[String], env: &[(&str, String)], limit: Duration) -> Result<(), String> {
    let [program, args @ ..] = command else { return Err("there is no program".into()) };
    let mut command = Command::new(program);
    command.args(args).env_clear().env("PATH", PATH).envs(env.iter().map(|(name, value)| (name, value)));
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().map_err(|error| format!("{program} cannot be started: {error}"))?;
    // Also where nobody waits for it any more.
    let group = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())).map(Group);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let ended = {
        let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
        let reads = async { tokio::join!(keep(stdout.as_mut(), &mut out), keep(stderr.as_mut(), &mut err)) };
        let mut reads = std::pin::pin!(reads);
        let waits = async {
            let mut is_read = false;
            let status = loop {
                tokio::select! {
                    _ = &mut reads, if !is_read => is_read = true,
                    status = child.wait() => break status,
                }
            };
            if !is_read {
                let _ = timeout(SAID_WITHIN, &mut reads).await;
            }
            status
        };
        timeout(limit, waits).await
    };
    drop(group);
    let how = match ended {
        Ok(Ok(status)) if status.success() => return Ok(()),
        Ok(Ok(status)) => ended_as(status),
        Ok(Err(error)) => format!("is lost: {error}"),
        Err(_) => format!("did not end within {} s and was killed", limit.as_secs()),
    };
    match last_line(&err).or_else(|| last_line(&out)) {
        Some(said) => Err(format!("{program} {how}: {said}")),
        None => Err(format!("{program} {how}")),
    }
}

fn ended_as(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, signal) => format!("was ended by signal {}", signal.unwrap_or(0)),
    }
}

/// Reads to the end and keeps the last bytes.
async fn keep(from: Option<&mut (impl AsyncRead + Unpin)>, to: &mut Vec<u8>) {
    let Some(from) = from else { return };
    let mut piece = [0; 1024];
    while let Ok(count @ 1..) = from.read(&mut piece).await {
        to.extend_from_slice(&piece[..count]);
        let over = to.len().saturating_sub(SAID_BYTES_MAX);
        to.drain(..over);
    }
}

fn last_line(said: &[u8]) -> Option<String> {
    let line = said.split(|byte| *byte == b'\n').rfind(|line| !line.trim_ascii().is_empty())?;
    let line = String::from_utf8_lossy(line.trim_ascii());
    Some(line.chars().take(TOLD_CHARS_MAX).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect())
}
