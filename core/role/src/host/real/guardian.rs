//! The agent's side of the guard: starts it, tells it deadlines, adopts the one that is there, and replaces one that is silent.
//!
//! A guard is started with the first thing that has a deadline, and not before. What an agent told one that was killed since, it tells the
//! next one, so that a guard is only ever missing for as long as nobody says anything: less than the time between two grants.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hirsel_model::Timestamp;
use tracing::{debug, warn};

use super::GuardConfig;
use super::processes::wait_for_end;
use crate::host::floating::Floating;
use crate::host::guard::talk::{self, Answer, Wish};
use crate::host::guard::{named, with_socket};
use crate::host::{GuardState, deadline};

/// A guard answers within a millisecond. One that takes longer than this is frozen, or as good as: with a grant of two seconds that is asked
/// for every 400 ms, there is time to start another one.
const ANSWER_MAX: Duration = Duration::from_millis(300);
/// A guard is there some milliseconds after its start.
const START_MAX: Duration = Duration::from_secs(1);
/// A process that was killed is gone within some milliseconds, unless it waits for a broken disk.
const KILL_MAX: Duration = Duration::from_millis(300);
/// After an attempt in vain the next one is made no sooner: each takes a while, and there may be many processes to tell of.
const REST: Duration = Duration::from_millis(500);
/// What the guard itself complained about, in its folder.
const COMPLAINTS: &str = "guard.err";

/// Talks with the guard.
#[derive(Debug)]
pub(super) struct Guardian {
    config: GuardConfig,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    talk: Option<(UnixStream, u32)>,
    /// Until when what is guarded, as the guard was last told. What is over is left out in time.
    told: BTreeMap<PathBuf, Timestamp>,
    /// When an attempt to reach or start one failed, and why.
    failed: Option<(Instant, String)>,
}

impl Guardian {
    pub(super) fn new(config: GuardConfig) -> Self {
        Self { config, inner: Mutex::default() }
    }

    /// Has guarded what is about to be started in `folder`. An error means that it must not be started.
    pub(super) fn begin(&self, folder: &Path, until: Timestamp) -> io::Result<()> {
        self.tell(Wish::Begin(folder.to_owned(), until), folder, until).map(drop)
    }

    /// Has guarded what runs in `folder` until then and no longer: false when it is over. An error means that no guard may know.
    pub(super) fn keep(&self, folder: &Path, until: Timestamp) -> io::Result<bool> {
        let answer = self.tell(Wish::Keep(folder.to_owned(), until), folder, until)?;
        Ok(answer == Answer::Kept)
    }

    /// Has the guard take a floating address off this host then, and no sooner. An error means that no guard may know.
    pub(super) fn hold(&self, floating: &Floating, until: Timestamp) -> io::Result<()> {
        self.say_alone(Wish::Hold(floating.clone(), until))
    }

    /// Has the guard leave a floating address alone, which this host has no more.
    pub(super) fn release(&self, floating: &Floating) -> io::Result<()> {
        self.say_alone(Wish::Release(floating.clone()))
    }

    /// What is said so often that another guard need not be told it again.
    fn say_alone(&self, wish: Wish) -> io::Result<()> {
        let Some(line) = wish.line() else { return Ok(()) };
        self.say(&mut self.inner(), &line, wish.version()).map(drop)
    }

    /// How the guard is, seen from outside of what is said to it otherwise. Nothing is repaired.
    pub(super) fn state(&self) -> GuardState {
        let (now, guarded) = (deadline::now(), self.inner().told.values().copied().collect::<Vec<_>>());
        match guarded.iter().filter(|until| **until > now).count() {
            0 => GuardState::Unneeded,
            guards => match self.connect() {
                Ok(_) => GuardState::Watches { guards },
                Err(error) => GuardState::Silent { message: error.to_string() },
            },
        }
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        // Whoever panicked left at worst a connection on which an answer is due, which is then found wrong and closed.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, wish: Wish, folder: &Path, until: Timestamp) -> io::Result<Answer> {
        let line = wish.line().ok_or_else(|| {
            let message =
                format!("the folder {:?} cannot be told to a guard: a line end, or too long", folder.display());
            io::Error::new(io::ErrorKind::InvalidInput, message)
        })?;
        let now = deadline::now();
        let mut inner = self.inner();
        inner.told.retain(|_, until| *until > now);
        let answer = self.say(&mut inner, &line, wish.version())?;
        if answer == Answer::Kept {
            inner.told.insert(folder.to_owned(), until);
        } else {
            inner.told.remove(folder);
        }
        Ok(answer)
    }

    fn say(&self, inner: &mut Inner, line: &[u8], version: u32) -> io::Result<Answer> {
        let mut silent = false;
        if let Some((mut talk, known)) = inner.talk.take().filter(|(_, known)| *known >= version) {
            match exchange(&mut talk, line) {
                Ok(answer) => {
                    inner.talk = Some((talk, known));
                    return Ok(answer);
                }
                Err(error) => silent = error.kind() == io::ErrorKind::TimedOut,
            }
        }
        if let Some((at, message)) = &inner.failed
            && at.elapsed() < REST
        {
            return Err(io::Error::new(io::ErrorKind::TimedOut, message.clone()));
        }
        match self.renew(&inner.told, silent, line, version) {
            Ok((talk, answer)) => {
                inner.failed = None;
                inner.talk = Some(talk);
                Ok(answer)
            }
            Err(error) => {
                inner.failed = Some((Instant::now(), error.to_string()));
                Err(error)
            }
        }
    }

    /// A connection to a guard that answers, told all there is to tell: the one that is there, or another one.
    fn renew(
        &self,
        told: &BTreeMap<PathBuf, Timestamp>,
        silent: bool,
        line: &[u8],
        version: u32,
    ) -> io::Result<((UnixStream, u32), Answer)> {
        let there = if silent { Err(io::ErrorKind::TimedOut.into()) } else { self.connect() };
        let (mut talk, known) = match there {
            Ok((talk, known)) if known >= version => (talk, known),
            // A guard that an older build left knows too little: what it guards is told to the next one.
            Ok(_) | Err(_) => {
                self.replace(!told.is_empty())?;
                self.connect()?
            }
        };
        for (folder, until) in told {
            if let Some(line) = Wish::Keep(folder.clone(), *until).line() {
                exchange(&mut talk, &line)?;
            }
        }
        let answer = exchange(&mut talk, line)?;
        Ok(((talk, known), answer))
    }

    /// Starts a guard, after the end of one that is silent.
    fn replace(&self, missed: bool) -> io::Result<()> {
        match named(&self.config.folder) {
            Some(guard) if guard.is_alive() => {
                warn!(
                    pid = guard.pid,
                    "the guard of this host does not answer, or is of an older build, and is replaced"
                );
                guard.kill();
                let until = Instant::now() + KILL_MAX;
                while guard.is_alive() && Instant::now() < until {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            Some(_) if missed => warn!("the guard of this host has ended without a word and is started again"),
            Some(_) | None => debug!("a guard is started"),
        }
        self.start().map_err(|error| {
            io::Error::new(error.kind(), format!("the guard of this host could not be started: {error}"))
        })
    }

    fn start(&self) -> io::Result<()> {
        let GuardConfig { folder, command } = &self.config;
        let Some((program, arguments)) = command.split_first() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no command for guards"));
        };
        fs::create_dir_all(folder)?;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
        let path = folder.join(COMPLAINTS);
        let complaints = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        let (listens, writer) = io::pipe()?;
        let mut first = {
            // Dropped at once, and with it our copy of the pipe.
            let mut command = Command::new(program);
            command.args(arguments).arg(folder).env_clear().current_dir("/");
            command.stdin(Stdio::null()).stdout(writer).stderr(complaints);
            command.spawn()?
        };
        // It goes on in the background; this process ends at once.
        let status = first.wait()?;
        wait_for_end(listens, START_MAX)?;
        let complaint = fs::read_to_string(&path).unwrap_or_default();
        match complaint.trim() {
            "" if status.success() => Ok(()),
            "" => Err(io::Error::other(format!("{program} ended with {status}"))),
            complaint => Err(io::Error::other(complaint.to_owned())),
        }
    }

    /// A connection on which a guard has said who it is.
    fn connect(&self) -> io::Result<(UnixStream, u32)> {
        let mut talk = with_socket(&self.config.folder, UnixStream::connect)
            .map_err(|error| io::Error::new(error.kind(), format!("the guard of this host is gone ({error})")))?;
        talk.set_read_timeout(Some(ANSWER_MAX))?;
        talk.set_write_timeout(Some(ANSWER_MAX))?;
        match talk::version(&read_line(&mut talk)?) {
            Some(known @ 1..) => Ok((talk, known)),
            Some(0) | None => Err(io::Error::new(io::ErrorKind::InvalidData, "what listens for the guard is none")),
        }
    }
}

/// Says a line, and hears the answer.
fn exchange(talk: &mut UnixStream, line: &[u8]) -> io::Result<Answer> {
    talk.write_all(line).map_err(worded)?;
    let heard = read_line(talk)?;
    match Answer::read(&heard) {
        Some(answer @ (Answer::Kept | Answer::Over)) => Ok(answer),
        Some(Answer::What) | None => {
            let heard = String::from_utf8_lossy(&heard).into_owned();
            Err(io::Error::new(io::ErrorKind::InvalidData, format!("the guard of this host answered {heard:?}")))
        }
    }
}

/// A line without its end. The guard says one at a time, so that nothing follows it.
fn read_line(talk: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let until = Instant::now() + ANSWER_MAX;
    let mut bytes = [0; 64];
    while line.len() < bytes.len() && Instant::now() < until {
        match talk.read(&mut bytes).map_err(worded)? {
            0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the guard of this host has ended")),
            count => line.extend_from_slice(&bytes[..count]),
        }
        if let Some(line) = line.strip_suffix(b"\n") {
            return Ok(line.to_vec());
        }
    }
    Err(worded(io::ErrorKind::TimedOut.into()))
}

fn worded(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            let message = format!("the guard of this host does not answer within {} ms", ANSWER_MAX.as_millis());
            io::Error::new(io::ErrorKind::TimedOut, message)
        }
        kind => io::Error::new(kind, format!("the guard of this host: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A guardian that can start no guard, and something in the place of one that answers one connection after another with `says`: a first
    /// line, and a line to everything it hears.
    fn with(says: &'static [(&'static str, &'static str)]) -> (tempfile::TempDir, Guardian) {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path().join("guard");
        fs::create_dir(&folder).unwrap();
        let listener = UnixListener::bind(folder.join("socket")).unwrap();
        std::thread::spawn(move || {
            for (greeting, answer) in says {
                let Ok((mut stream, _)) = listener.accept() else { return };
                let heard = BufReader::new(stream.try_clone().unwrap());
                let _ = stream.write_all(greeting.as_bytes());
                heard.lines().map_while(Result::ok).for_each(|_| drop(stream.write_all(answer.as_bytes())));
            }
        });
        (temporary, Guardian::new(GuardConfig { folder, command: vec!["/bin/false".into()] }))
    }

    fn keep(guardian: &Guardian) -> Result<bool, String> {
        let until = deadline::now() + Duration::from_secs(3_600);
        guardian.keep(Path::new("/a"), until).map_err(|error| error.to_string())
    }

    #[test]
    fn a_guard_of_a_later_build_is_as_good_as_one_of_this() {
        let (_folder, guardian) = with(&[("hirsel-guard 9\n", "kept\n")]);
        assert_eq!((keep(&guardian), keep(&guardian)), (Ok(true), Ok(true)));
        let (_folder, guardian) = with(&[("hirsel-guard 1\n", "over\n")]);
        assert_eq!(keep(&guardian), Ok(false));
        assert_eq!(guardian.state(), GuardState::Unneeded, "what is over needs none");
    }

    #[test]
    fn what_does_not_know_the_words_is_no_guard() {
        let (_folder, guardian) = with(&[("hirsel-guard 1\n", "what\n")]);
        assert_eq!(keep(&guardian), Err("the guard of this host answered \"what\"".into()));
        for says in [&[("220 ESMTP\n", "500\n")], &[("hirsel-guard 0\n", "kept\n")], &[("hirsel-guard", "")]] {
            let (_folder, guardian) = with(says);
            let error = keep(&guardian).unwrap_err();
            assert!(error.starts_with("the guard of this host could not be started: /bin/false ended"), "{error}");
            let begun = Instant::now();
            assert_eq!(keep(&guardian), Err(error), "not tried again at once");
            assert!(begun.elapsed() < REST);
        }
    }

    #[test]
    fn a_path_that_no_line_holds_is_refused() {
        let (_folder, guardian) = with(&[]);
        let error = guardian.keep(Path::new("/a\nb"), deadline::now()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
