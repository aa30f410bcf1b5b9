//! The command line as a person or script uses it.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;

/// No verb of these tests takes longer; one that does hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// What a verb did.
#[derive(Debug)]
pub struct Ran {
    /// Exit status; none when it was ended by a signal or hung.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
}

impl Ran {
    /// `data` of the envelope.
    ///
    /// # Panics
    /// When it was refused, or the answer is no envelope.
    pub fn data(&self) -> Value {
        self.try_data().unwrap_or_else(|error| panic!("{error}"))
    }

    /// `data` of the envelope; the complaint when there is none.
    pub fn try_data(&self) -> Result<Value, String> {
        // 3: done but degraded. 4: would change. Both answer.
        if !matches!(self.code, Some(0 | 3 | 4)) {
            return Err(format!("exit {:?}: {}{}", self.code, self.stdout, self.stderr));
        }
        let envelope: Value =
            serde_json::from_str(self.stdout.trim()).map_err(|error| format!("{error} in {:?}", self.stdout))?;
        Ok(envelope["data"].clone())
    }

    /// `error` of the complaint, with its code and words.
    ///
    /// # Panics
    /// When it complained of nothing in JSON.
    pub fn error(&self) -> Value {
        let line = self.stderr.lines().rev().find(|line| line.starts_with('{'));
        let line = line.unwrap_or_else(|| panic!("no error in JSON: {self:?}"));
        serde_json::from_str::<Value>(line).expect("an error is JSON")["error"].clone()
    }

    /// Both streams, for a look at words.
    pub fn words(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// Runs `hirsel` with these words, outside every cluster of the folder the tests run in.
pub fn hirsel<S: AsRef<OsStr>>(words: impl IntoIterator<Item = S>) -> Ran {
    let mut command = Command::new(crate::executable::hirsel());
    command.args(words).current_dir("/");
    run(command)
}

/// Asks the agent with this data folder, for JSON.
pub fn ask<S: AsRef<OsStr>>(data: &Path, words: impl IntoIterator<Item = S>) -> Ran {
    let mut command = Command::new(crate::executable::hirsel());
    command.args(words).arg("--json").arg("--data").arg(data).current_dir("/");
    run(command)
}

/// Runs a command to its end.
///
/// # Panics
/// When it cannot be started or does not end.
pub fn run(mut command: Command) -> Ran {
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("HIRSEL_")) {
        command.env_remove(name);
    }
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let pid = child.id();
    let (tx, rx) = mpsc::channel();
    std::thread::spawn(move || tx.send(child.wait_with_output()));
    match rx.recv_timeout(LIMIT) {
        Ok(output) => ran(output.expect("a child can be waited for")),
        Err(_) => {
            crate::power::signal(pid, rustix::process::Signal::KILL);
            panic!("{command:?} did not end within {LIMIT:?}");
        }
    }
}

fn ran(output: Output) -> Ran {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}
