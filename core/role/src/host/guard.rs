//! The guard: one small process beside all shims of an agent, which ends what may act no longer though agent and shim are frozen or dead.
//!
//! It has one thread and no runtime, decides nothing, and outlives the agent. The agent tells it which process may run until when, and moves
//! that with each grant, before it tells the shim: an agent that is not answered does not tell the shim either, so that a silent guard ends
//! the duty unless another one takes its place in time. When a deadline comes the guard ends the program with all that belongs to it, at
//! once, and the shim somewhat later, if that has not ended by itself. What it knows is in memory only: one that is killed is told
//! everything again by the agent, and the shims keep their deadlines meanwhile.
//!
//! Floating addresses are told in the same way, and are taken off their interface when their deadline comes.
//!
//! At rest it costs nothing: it sleeps until the next line or deadline. With nothing to guard it ends after a short while.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hirsel_model::Timestamp;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::FlockOperation;

use super::deadline::{self, Deadline};
use super::floating::Floating;
use super::folder::{Folder, absent_is_fine};
use super::netlink;
use super::procfs::{self, ProcessKey};
use super::shim::sys;
use talk::{Answer, Wish};
use ward::Ward;

pub(crate) mod talk;
mod ward;

/// In its folder: held while it is there, with who it is, and where it listens.
const LOCK: &str = "lock";
const SOCKET: &str = "socket";
/// With nothing to do it stays for so long: a duty that comes back soon, or an agent that starts again, need not start it.
const LINGER: Duration = Duration::from_secs(10);
/// One agent has one connection, and a second while it is examined; more are left from agents before it.
const CONNECTIONS_MAX: usize = 6;
/// An address that could not be taken off its interface is tried again after this.
const DROP_AGAIN: Duration = Duration::from_millis(250);

/// Guards on behalf of the agent that uses `folder`, until there is nothing left to guard. Returns the exit status, or never in the process
/// that called. The caller must not have started a thread.
pub fn main(folder: &Path) -> i32 {
    match run(folder) {
        Ok(()) => 0,
        Err(error) => {
            complain(&format!("guard in {}: {error}", folder.display()));
            1
        }
    }
}

#[allow(clippy::print_stderr)] // The standard error is a file in its folder.
fn complain(message: &str) {
    eprintln!("{message}");
}

fn run(folder: &Path) -> io::Result<()> {
    sys::into_background()?;
    sys::name_process(c"hirsel-guard");
    // Whatever ends others by asking does not end it.
    let _signals = sys::signals()?;
    // Of all processes the last that the kernel should end when memory is short. Only root may ask for that.
    let _ = fs::write("/proc/self/oom_score_adj", "-1000");
    let Some(lock) = take_lock(folder)? else { return Ok(()) };
    absent_is_fine(fs::remove_file(folder.join(SOCKET)))?;
    let listener = with_socket(folder, UnixListener::bind)?;
    listener.set_nonblocking(true)?;
    // Whoever started it learns that it listens.
    sys::close_stdout()?;
    let mut guard =
        Guard { boot: procfs::boot_id()?, wards: BTreeMap::new(), addresses: BTreeMap::new(), agents: Vec::new() };
    guard.watch(&listener)?;
    absent_is_fine(fs::remove_file(folder.join(SOCKET)))?;
    // It ends on purpose: nobody need wonder.
    lock.set_len(0)
}

/// The lock with the name of this process in it; none where another guard has it.
fn take_lock(folder: &Path) -> io::Result<Option<File>> {
    let mut lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(folder.join(LOCK))?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
        result => result?,
    }
    let me = ProcessKey::of(std::process::id());
    lock.set_len(0)?;
    write!(lock, "{} {} {}", procfs::boot_id()?, me.pid, me.start)?;
    Ok(Some(lock))
}

/// The guard that the lock in `folder` names: it is there, or ended without a word. None when it ended on purpose, before this run of the
/// kernel, or when there was none.
pub(crate) fn named(folder: &Path) -> Option<ProcessKey> {
    let text = fs::read_to_string(folder.join(LOCK)).ok()?;
    let mut words = text.split(' ');
    let boot = words.next()?;
    let key = ProcessKey { pid: words.next()?.parse().ok()?, start: words.next()?.parse().ok()? };
    (procfs::boot_id().ok()? == boot).then_some(key)
}

/// A path to the socket that is short enough for its address, however deep the folder lies.
pub(crate) fn with_socket<T>(folder: &Path, open: impl FnOnce(PathBuf) -> io::Result<T>) -> io::Result<T> {
    let folder = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_CLOEXEC).open(folder)?;
    open(format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd()).into())
}

struct Guard {
    /// This run of the kernel.
    boot: String,
    /// What is guarded, by its folder.
    wards: BTreeMap<PathBuf, Ward>,
    /// Addresses that this host has, and until when.
    addresses: BTreeMap<Floating, Timestamp>,
    agents: Vec<Talk>,
}

/// A connection, and what was begun to be said on it.
struct Talk {
    stream: UnixStream,
    begun: Vec<u8>,
}

impl Guard {
    /// Returns when there is nothing to guard any more.
    fn watch(&mut self, listener: &UnixListener) -> io::Result<()> {
        let mut idle_until = deadline::now() + LINGER;
        let mut timer = Deadline::new(Some(idle_until))?;
        loop {
            let now = deadline::now();
            // Before anything that is said: a host that was asleep ends first what had to end meanwhile.
            self.end_late(now);
            if let Some(due) = self.wards.values().map(Ward::due).chain(self.addresses.values().copied()).min() {
                idle_until = now + LINGER;
                timer.put_off(due);
            } else if now >= idle_until {
                return Ok(());
            } else {
                timer.put_off(idle_until);
            }
            self.wait(listener, &timer);
        }
    }

    fn end_late(&mut self, now: Timestamp) {
        let boot = &self.boot;
        self.wards.retain(|_, ward| ward.due() > now || !ward.end(boot, now));
        self.addresses.retain(|floating, until| {
            if *until > now {
                return true;
            }
            *until = now + DROP_AGAIN;
            netlink::remove(floating).is_err()
        });
    }

    /// Waits for something to do, and takes what is said.
    fn wait(&mut self, listener: &UnixListener, timer: &Deadline) {
        // A timer that has passed meanwhile is not there to be waited for.
        let Some(timer) = timer.timer() else { return };
        let talks = self.agents.iter().map(|talk| talk.stream.as_fd());
        let sources = [listener.as_fd(), timer].into_iter().chain(talks);
        let mut polled: Vec<PollFd<'_>> = sources.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        if poll(&mut polled, None).is_err() {
            return;
        }
        let ready: Vec<bool> = polled.iter().map(|fd| !fd.revents().is_empty()).collect();
        let now = deadline::now();
        self.end_late(now);
        let mut heard = ready[2..].iter();
        let mut agents = std::mem::take(&mut self.agents);
        agents.retain_mut(|talk| !*heard.next().unwrap_or(&false) || self.hear(talk, now));
        self.agents = agents;
        while ready[0]
            && let Ok((stream, _)) = listener.accept()
        {
            self.greet(stream);
        }
    }

    fn greet(&mut self, mut stream: UnixStream) {
        if stream.set_nonblocking(true).is_ok() && stream.write_all(&talk::greeting()).is_ok() {
            self.agents.push(Talk { stream, begun: Vec::new() });
        }
        let surplus = self.agents.len().saturating_sub(CONNECTIONS_MAX);
        self.agents.drain(..surplus);
    }

    /// Takes what one agent says. Whether it is still there.
    fn hear(&mut self, talk: &mut Talk, now: Timestamp) -> bool {
        let mut bytes = [0; talk::LINE_BYTES_MAX];
        match talk.stream.read(&mut bytes) {
            Ok(0) => return false,
            Ok(count) => talk.begun.extend_from_slice(&bytes[..count]),
            Err(error) => return matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
        }
        let Some(lines) = talk::lines(&mut talk.begun) else { return false };
        lines.iter().all(|line| {
            let answer = Wish::read(line).map_or(Answer::What, |wish| self.obey(wish, now));
            talk.stream.write_all(answer.line()).is_ok()
        })
    }

    fn obey(&mut self, wish: Wish, now: Timestamp) -> Answer {
        let kept = match wish {
            Wish::Begin(folder, until) => {
                self.wards.insert(folder.clone(), Ward::new(Folder::new(folder), until));
                true
            }
            Wish::Keep(folder, until) => match self.wards.get_mut(&folder) {
                Some(ward) => ward.keep(until, now),
                // This guard is newer than the process.
                None => {
                    let mut ward = Ward::new(Folder::new(folder.clone()), until);
                    let runs = !ward.has_ended();
                    if runs {
                        ward.learn();
                        self.wards.insert(folder, ward);
                    }
                    runs
                }
            },
            // One that comes late puts the address there again, and has it guarded anew.
            Wish::Hold(floating, until) => {
                self.addresses.insert(floating, until);
                true
            }
            Wish::Release(floating) => {
                self.addresses.remove(&floating);
                true
            }
        };
        if kept { Answer::Kept } else { Answer::Over }
    }
}
