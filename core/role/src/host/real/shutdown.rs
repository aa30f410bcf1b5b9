//! Whether the machine is about to be switched off, as systemd knows it. Others have no word for it that can be asked for.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// There where systemd is process 1.
const SYSTEMD: &str = "/run/systemd/system";
/// systemd answers within some milliseconds; one that is busy with more urgent things is not waited for.
const ANSWER_MAX: Duration = Duration::from_millis(400);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Whether the machine is being switched off or started anew; false where nobody can tell.
pub(super) fn is_under_way() -> bool {
    std::path::Path::new(SYSTEMD).exists()
        && answer(&["systemctl", "is-system-running"]).is_some_and(|said| said == "stopping")
}

/// The first line that a command says within the time it has.
fn answer(words: &[&str]) -> Option<String> {
    let (program, arguments) = words.split_first()?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().ok()?;
    let until = Instant::now() + ANSWER_MAX;
    // What it exits with tells of much besides.
    while child.try_wait().ok()?.is_none() {
        if Instant::now() >= until {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    let mut said = String::new();
    child.stdout.take()?.read_to_string(&mut said).ok()?;
    Some(said.lines().next().unwrap_or_default().trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_answers_late_or_not_at_all_is_no_answer() {
        assert_eq!(answer(&["echo", "stopping"]).as_deref(), Some("stopping"));
        assert_eq!(answer(&["sh", "-c", "echo degraded; exit 1"]).as_deref(), Some("degraded"));
        assert_eq!(answer(&["false"]).as_deref(), Some(""));
        assert_eq!(answer(&["no-such-program-here"]), None);
        let begun = Instant::now();
        assert_eq!(answer(&["sleep", "30"]), None);
        assert!(begun.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_machine_that_runs_tests_is_not_being_switched_off() {
        assert!(!is_under_way());
    }
}
