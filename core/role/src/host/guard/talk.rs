//! What agent and guard say to each other: lines, for the two may be of different builds and have little to say.
//!
//! | who | line | means |
//! |---|---|---|
//! | guard | `hirsel-guard 2` | once, at the start of each connection: its version |
//! | agent | `begin UNTIL FOLDER` | a process is about to be started in FOLDER and may run until then, whatever ran there before |
//! | agent | `keep UNTIL FOLDER` | the process in FOLDER may run until then |
//! | agent | `hold UNTIL ADDRESS/PREFIX INTERFACE` | this host may have the floating address until then (from version 2 on) |
//! | agent | `release 0 ADDRESS/PREFIX INTERFACE` | it is gone already (from version 2 on) |
//! | guard | `kept` | it is guarded until then and no longer |
//! | guard | `over` | its deadline has passed: it is being ended, or has ended |
//! | guard | `what` | a line that this guard does not know: it is older than the agent |
//!
//! UNTIL is a moment of `CLOCK_BOOTTIME` in milliseconds. Each line of the agent is answered by one of the guard, in order. Besides, the
//! guard reads the `state` file that a shim leaves in its folder, which a later build may only add to.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use hirsel_model::Timestamp;

use crate::host::floating::Floating;

/// What this build speaks. A guard of a higher version understands all that those before did.
pub(crate) const VERSION: u32 = 2;
/// The first one that knows of floating addresses.
pub(crate) const ADDRESSES: u32 = 2;
/// Longest line: a path has at most 4096 bytes.
pub(crate) const LINE_BYTES_MAX: usize = 8 << 10;
/// Begins the line by which a guard says who it is.
const GREETING: &str = "hirsel-guard ";

/// The first line of a guard, with its end.
pub(crate) fn greeting() -> Vec<u8> {
    format!("{GREETING}{VERSION}\n").into_bytes()
}

/// The version that a first line tells; none when it is no guard's.
pub(crate) fn version(line: &[u8]) -> Option<u32> {
    std::str::from_utf8(line).ok()?.strip_prefix(GREETING)?.parse().ok()
}

/// What an agent wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Guard what is about to be started in this folder until then.
    Begin(PathBuf, Timestamp),
    /// Guard what runs in this folder until then.
    Keep(PathBuf, Timestamp),
    /// Take this address off the host then.
    Hold(Floating, Timestamp),
    /// Leave this address alone.
    Release(Floating),
}

impl Wish {
    /// The first version that knows it.
    pub(crate) fn version(&self) -> u32 {
        match self {
            Wish::Begin(..) | Wish::Keep(..) => 1,
            Wish::Hold(..) | Wish::Release(_) => ADDRESSES,
        }
    }

    /// Its line, with its end; none for a path with a line end in it.
    pub(crate) fn line(&self) -> Option<Vec<u8>> {
        let (word, folder, until) = match self {
            Wish::Begin(folder, until) => ("begin", folder, until),
            Wish::Keep(folder, until) => ("keep", folder, until),
            Wish::Hold(floating, until) => return Some(format!("hold {} {floating}\n", until.0).into_bytes()),
            Wish::Release(floating) => return Some(format!("release 0 {floating}\n").into_bytes()),
        };
        let path = folder.as_os_str().as_bytes();
        let mut line = format!("{word} {} ", until.0).into_bytes();
        line.extend_from_slice(path);
        line.push(b'\n');
        (!path.contains(&b'\n') && line.len() <= LINE_BYTES_MAX).then_some(line)
    }

    /// Reads a line without its end; none when it is no wish that this build knows.
    pub(crate) fn read(line: &[u8]) -> Option<Self> {
        let mut words = line.splitn(3, |byte| *byte == b' ');
        let word = words.next()?;
        let until = Timestamp(std::str::from_utf8(words.next()?).ok()?.parse().ok()?);
        let rest = words.next()?;
        let floating = || std::str::from_utf8(rest).ok()?.parse().ok();
        let folder = Path::new(std::ffi::OsStr::from_bytes(rest));
        match word {
            b"hold" => Some(Wish::Hold(floating()?, until)),
            b"release" => Some(Wish::Release(floating()?)),
            _ if !folder.is_absolute() => None,
            b"begin" => Some(Wish::Begin(folder.into(), until)),
            b"keep" => Some(Wish::Keep(folder.into(), until)),
            _ => None,
        }
    }
}

/// What a guard answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// So it is.
    Kept,
    /// Too late.
    Over,
    /// It does not know what that means.
    What,
}

impl Answer {
    /// Its line, with its end.
    pub(crate) fn line(self) -> &'static [u8] {
        match self {
            Answer::Kept => b"kept\n",
            Answer::Over => b"over\n",
            Answer::What => b"what\n",
        }
    }

    /// Reads a line without its end.
    pub(crate) fn read(line: &[u8]) -> Option<Self> {
        let all = [Answer::Kept, Answer::Over, Answer::What];
        all.into_iter().find(|answer| answer.line().strip_suffix(b"\n") == Some(line))
    }
}

/// Takes the whole lines off `begun`, without their ends. None when the one that is left is longer than any may be.
pub(crate) fn lines(begun: &mut Vec<u8>) -> Option<Vec<Vec<u8>>> {
    let mut whole = Vec::new();
    while let Some(end) = begun.iter().position(|byte| *byte == b'\n') {
        let line: Vec<u8> = begun.drain(..=end).collect();
        whole.push(line[..end].to_vec());
    }
    (begun.len() < LINE_BYTES_MAX).then_some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_read_as_it_was_written_whatever_the_path() {
        for path in ["/a", "/with a space/x", "/ä", "/"] {
            for wish in [Wish::Begin(path.into(), Timestamp(17)), Wish::Keep(path.into(), Timestamp(u64::MAX))] {
                let line = wish.line().unwrap();
                assert_eq!(Wish::read(line.strip_suffix(b"\n").unwrap()), Some(wish));
            }
        }
        for text in ["192.0.2.10/24 eth0", "2001:db8::10/64 bond0.7"] {
            let floating: Floating = text.parse().unwrap();
            for wish in [Wish::Hold(floating.clone(), Timestamp(17)), Wish::Release(floating)] {
                let line = wish.line().unwrap();
                assert_eq!(Wish::read(line.strip_suffix(b"\n").unwrap()), Some(wish));
            }
        }
        assert_eq!(Wish::read(b"hold 1 127.0.0.1/8 lo"), None);
        assert_eq!(Wish::Keep("/a\nb".into(), Timestamp(1)).line(), None);
        assert_eq!(Wish::Keep("a".repeat(LINE_BYTES_MAX).into(), Timestamp(1)).line(), None);
        for wrong in ["", "keep", "keep 17", "keep x /a", "keep -1 /a", "keep 1 a", "drop 1 /a", "keep  /a", "begin 1 "]
        {
            assert_eq!(Wish::read(wrong.as_bytes()), None, "{wrong:?}");
        }
    }

    #[test]
    fn answers_and_versions_are_read_as_they_were_written() {
        for answer in [Answer::Kept, Answer::Over, Answer::What] {
            assert_eq!(Answer::read(answer.line().strip_suffix(b"\n").unwrap()), Some(answer));
        }
        assert_eq!(Answer::read(b"kep"), None);
        assert_eq!(version(greeting().strip_suffix(b"\n").unwrap()), Some(VERSION));
        assert_eq!(version(b"hirsel-guard 29"), Some(29), "of a later build");
        for wrong in ["", "hirsel-guard", "hirsel-guard x", "220 mail.example.com ESMTP"] {
            assert_eq!(version(wrong.as_bytes()), None, "{wrong:?}");
        }
    }

    #[test]
    fn lines_are_put_together_wherever_the_socket_cuts_them() {
        let text = b"one\ntwo\n\nthree";
        for cut in 0..text.len() {
            let mut begun = text[..cut].to_vec();
            let mut whole = lines(&mut begun).unwrap();
            begun.extend_from_slice(&text[cut..]);
            whole.extend(lines(&mut begun).unwrap());
            assert_eq!((whole, begun.as_slice()), (vec![b"one".to_vec(), b"two".to_vec(), Vec::new()], &b"three"[..]));
        }
        assert_eq!(lines(&mut vec![b'x'; LINE_BYTES_MAX]), None);
    }
}
