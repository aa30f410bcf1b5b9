//! The judge of exclusive programs: one that writes down who acts, and when, into a file that all nodes share.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::wait_for;

/// What its program is called on a command line.
pub const PROGRAM: &str = "/bin/sh -c while";

/// The file.
#[derive(Clone, Debug)]
pub struct Journal(PathBuf);

impl Journal {
    /// A journal at `path`.
    pub fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// An application whose one service appends its fence and the time every 20 ms.
    pub fn manifest(&self) -> String {
        let script = format!(
            "while :; do echo \"$HIRSEL_FENCE $HIRSEL_INSTANCE $(date +%s%3N)\" >> {}; sleep 0.02; done",
            self.0.display()
        );
        exclusive(&["/bin/sh", "-c", &script])
    }

    /// The same with a compiled program, which acts every millisecond: `program`, told `words` and the path of the journal, is to call
    /// [`Journal::act`].
    pub fn compiled(&self, program: &Path, words: &[&str]) -> String {
        let (program, path) = (program.display().to_string(), self.0.display().to_string());
        exclusive(&[&[program.as_str()], words, &[path.as_str()]].concat())
    }

    /// Acts for ever, as the instance that the environment names.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub fn act(&self) -> std::io::Result<std::convert::Infallible> {
        let told = |name: &str| std::env::var(name).unwrap_or_default();
        let (fence, instance) = (told("HIRSEL_FENCE"), told("HIRSEL_INSTANCE"));
        let mut file = File::options().append(true).create(true).open(&self.0)?;
        loop {
            // One write, so that lines of two programs never mix.
            file.write_all(format!("{fence} {instance} {}\n", now_ms()).as_bytes())?;
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Every act: fence and time (ms), as they stand in the file. A line that a power failure cut is none.
    pub fn lines(&self) -> Vec<(u64, u64)> {
        let text = std::fs::read_to_string(&self.0).unwrap_or_default();
        let lines = text.lines().filter_map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let [fence, _, at] = words.as_slice() else { return None };
            Some((fence.parse().ok()?, at.parse().ok()?))
        });
        lines.collect()
    }

    /// Who acted from when to when (ms), by fence.
    pub fn acts(&self) -> BTreeMap<u64, (u64, u64)> {
        let mut acts: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        for (fence, at) in self.lines() {
            let (first, last) = acts.entry(fence).or_insert((at, at));
            (*first, *last) = (at.min(*first), at.max(*last));
        }
        acts
    }

    /// For how long nobody acted before `fence` did; none while it, or one before it, has not acted.
    pub fn pause_before(&self, fence: u64) -> Option<Duration> {
        let acts = self.acts();
        let (_, (_, last)) = acts.range(..fence).next_back()?;
        Some(Duration::from_millis(acts.get(&fence)?.0.saturating_sub(*last)))
    }

    /// The highest fence that acted, and when it last did (ms).
    pub fn newest(&self) -> Option<(u64, u64)> {
        self.acts().last_key_value().map(|(fence, (_, last))| (*fence, *last))
    }

    /// The longest time for which nobody acted between `since` (ms) and the last act.
    pub fn longest_pause(&self, since: u64) -> Duration {
        let mut times: Vec<u64> = self.lines().into_iter().map(|(_, at)| at).filter(|at| *at >= since).collect();
        times.sort_unstable();
        let pauses = times.windows(2).map(|two| two[1] - two[0]);
        Duration::from_millis(pauses.max().unwrap_or(0))
    }

    /// No two act at once, and the fence rises with time.
    ///
    /// # Panics
    /// When two did.
    pub fn assert_never_two(&self) {
        let acts: Vec<_> = self.acts().into_iter().collect();
        for pair in acts.windows(2) {
            let [(before, (_, last)), (after, (first, _))] = pair else { continue };
            assert!(last <= first, "{before} acted until {last}, {after} from {first}: {acts:?}");
        }
    }

    /// Waits until somebody acts with a higher fence than `than`, which it returns.
    pub fn taken_over(&self, than: u64, limit: Duration) -> u64 {
        let (fence, _) = wait_for("another one acts", limit, || match self.newest() {
            Some((fence, _)) if fence > than => Ok(fence),
            last => Err(format!("the last act is {last:?}")),
        });
        fence
    }

    /// Waits until `fence` has acted for `length` after `since` (ms). Whether it did, and no other one before that.
    pub fn goes_on(&self, fence: u64, since: u64, length: Duration, limit: Duration) -> bool {
        let until = since + u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
        let (goes_on, _) = wait_for("somebody acts on", limit, || match self.newest() {
            Some((newest, _)) if newest != fence => Ok(false),
            Some((_, last)) if last >= until => Ok(true),
            last => Err(format!("the last act is {last:?}, and {fence} is to act until {until}")),
        });
        goes_on
    }
}

/// Milliseconds since 1970, as the journal counts them.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn exclusive(command: &[&str]) -> String {
    let command: Vec<String> = command.iter().map(|word| format!("{word:?}")).collect();
    format!("app = \"sole\"\n[service.one]\ncommand = [{}]\nexclusive = true\n", command.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_tells_who_acted_when_and_for_how_long_nobody_did() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        std::fs::write(&path, "1 a 100\n1 a 120\n2 b 700\n2 b 690\ngarbage\n2 b").unwrap();
        let journal = Journal::at(path);
        assert_eq!(journal.acts(), [(1, (100, 120)), (2, (690, 700))].into());
        assert_eq!(journal.pause_before(2), Some(Duration::from_millis(570)));
        assert_eq!((journal.pause_before(1), journal.pause_before(3)), (None, None));
        assert_eq!(journal.longest_pause(0), Duration::from_millis(570));
        assert_eq!(journal.longest_pause(200), Duration::from_millis(10));
        assert_eq!((journal.newest(), journal.taken_over(1, Duration::from_secs(1))), (Some((2, 700)), 2));
        assert!(journal.goes_on(2, 600, Duration::from_millis(100), Duration::from_secs(1)));
        assert!(!journal.goes_on(1, 100, Duration::from_millis(10), Duration::from_secs(1)));
        journal.assert_never_two();
        std::fs::write(folder.path().join("journal"), "1 a 100\n2 b 150\n1 a 200\n").unwrap();
        assert!(std::panic::catch_unwind(|| journal.assert_never_two()).is_err());
    }
}
