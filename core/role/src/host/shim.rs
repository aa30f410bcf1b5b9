//! The shim: a small process that watches over one program, so that the program outlives the agent and its end is never missed.
//!
//! It has one thread and no runtime. It starts the program, keeps its output, passes on the signals that the agent writes into a
//! named pipe, adopts every descendant whose parent ends (`PR_SET_CHILD_SUBREAPER`), and when the program itself has ended, ends
//! all of them and writes down the exit status. It never starts the program again and decides nothing.
//!
//! Whatever ends the shim releases its lock, by which the agent notices: what it left running is then ended by the agent. A program with
//! a deadline begins in a group of its own where there are groups, and the guard keeps its deadline too, for a shim can be frozen.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FlockOperation;

use super::deadline::{self, Deadline, Message, Messages};
use super::folder::{Folder, HIDDEN, Launch, MARK, ShimState};
use super::group::Group;
use super::output::{Lines, Writer};
use super::procfs::{self, ProcessKey};
use super::{LAPSED, ProcessState};
use sys::Reaped;

pub(crate) mod sys;

/// Time from a wish to end (the host shuts down) to the kill.
const END_GRACE: Duration = Duration::from_secs(10);
/// Time between two looks while descendants are being ended: most are gone at once, and each look reads all of `/proc`.
const SWEEP_EVERY: Duration = Duration::from_millis(10);
/// A process that cannot be ended (it waits for a broken disk) must not keep the exit status from the agent for longer.
const SWEEP_MAX: Duration = Duration::from_secs(10);
/// How long, and how often, it is tried to write down the end of the program.
const LAST_WORD_MAX: Duration = Duration::from_secs(5);
const LAST_WORD_EVERY: Duration = Duration::from_millis(100);
/// Bytes taken from a stream at once: the size of a pipe.
const READ_BYTES: usize = 64 << 10;

/// Runs the program that the agent left in `dir`. Returns the exit status of the shim itself, or never in the process that called.
/// The caller must not have started a thread.
pub fn main(dir: &Path) -> i32 {
    let folder = Folder::new(dir.to_owned());
    match run(&folder) {
        Ok(()) => 0,
        Err(error) => {
            complain(&format!("shim of {}: {error}", dir.display()));
            1
        }
    }
}

#[allow(clippy::print_stderr)] // The standard error is a file in the folder of the process.
fn complain(message: &str) {
    eprintln!("{message}");
}

fn run(folder: &Folder) -> io::Result<()> {
    hold_lock(folder)?;
    sys::into_background()?;
    sys::name_process(c"hirsel-shim");
    let signals = sys::signals()?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let control = OpenOptions::new()
        .read(true)
        .write(true) // So that the pipe has no end while no agent holds it.
        .custom_flags(libc::O_NONBLOCK)
        .open(folder.control())?;

    let launch = folder.launch()?;
    let me = ProcessKey::of(std::process::id());
    let mut state = ShimState {
        boot: procfs::boot_id()?,
        id: launch.spec.id.clone(),
        shim: Some(me),
        mark: format!("{}-{}", me.pid, me.start),
        program: None,
        ended: None,
        group: launch.group.clone(),
    };
    // From here on everything that carries the mark can be found, even if this process ends before its next line.
    folder.write_state(&state)?;

    let stop_signal = launch.spec.stop_signal;
    let deadline = Deadline::new(launch.spec.deadline)?;
    let ended = match start(folder, launch, &state.mark) {
        Ok(program) => {
            state.program = Some(ProcessKey::of(program.pid));
            folder.write_state(&state)?;
            sys::close_stdout()?;
            let ending = Ending { stop_signal, deadline, group: state.group() };
            Watch::new(folder, program, signals, control, ending).until_the_end()
        }
        Err(message) => ProcessState::Lost { message },
    };
    state.ended = Some(ended);
    if let Some(group) = state.group() {
        // One in which something is left stays, and the agent sees that.
        let _ = group.remove();
    }
    // A disk that is full for a moment must not cost the exit status.
    let give_up = Instant::now() + LAST_WORD_MAX;
    loop {
        match folder.write_state(&state) {
            Err(_) if Instant::now() < give_up => std::thread::sleep(LAST_WORD_EVERY),
            result => return result,
        }
    }
}

/// The agent hands the lock over as standard input. Without it somebody tries this by hand.
fn hold_lock(folder: &Folder) -> io::Result<()> {
    let held = rustix::fs::fstat(io::stdin())?;
    let wanted = std::fs::metadata(folder.lock())?;
    if (held.st_dev, held.st_ino) != (wanted.dev(), wanted.ino()) {
        return Err(io::Error::other("started without its lock; shims are started by the agent only"));
    }
    rustix::fs::flock(io::stdin(), FlockOperation::NonBlockingLockExclusive)?;
    Ok(())
}

struct Program {
    pid: u32,
    stdout: PipeReader,
    stderr: PipeReader,
}

fn start(folder: &Folder, launch: Launch, mark: &str) -> Result<Program, String> {
    let Launch { spec, identity, group } = launch;
    let Some((program, arguments)) = spec.command.split_first() else {
        return Err("could not start: the command is empty".into());
    };
    if spec.deadline.is_some_and(|deadline| deadline::now() >= deadline) {
        return Err(LAPSED.into());
    }
    let workdir = spec.workdir.map_or_else(|| folder.work(), Into::into);
    // Entered with the rights of the shim, and inherited: a user need not be able to reach its own folder by its path.
    std::env::set_current_dir(&workdir)
        .map_err(|error| format!("could not enter the working folder {}: {error}", workdir.display()))?;

    let pipes = || Ok::<_, io::Error>((io::pipe()?, io::pipe()?));
    let ((stdout, to_stdout), (stderr, to_stderr)) =
        pipes().map_err(|error| format!("could not open a pipe: {error}"))?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(&spec.env).envs(hidden()).env(MARK, mark);
    command.stdin(Stdio::null()).stdout(to_stdout).stderr(to_stderr);
    let closed = |error| format!("could not open its group: {error}");
    let door = group.map(|group| Group::new(group).door()).transpose().map_err(closed)?;
    sys::prepare(&mut command, identity, door, spec.deadline);
    let child = command.spawn().map_err(|error| match spec.deadline {
        Some(deadline) if deadline::now() >= deadline => LAPSED.into(),
        Some(_) | None => format!("could not start {program:?}: {error}"),
    })?;
    // The folder may be removed or unmounted while the program runs.
    let _ = std::env::set_current_dir("/");
    Ok(Program { pid: child.id(), stdout, stderr })
}

/// Variables that only the shim was told.
fn hidden() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os().filter_map(|(name, value)| {
        let name = name.as_bytes().strip_prefix(HIDDEN.as_bytes())?;
        Some((OsStr::from_bytes(name).to_owned(), value))
    })
}

/// How a program is ended.
struct Ending {
    /// Asks it to.
    stop_signal: i32,
    /// When it may act no more, told by the agent.
    deadline: Deadline,
    /// What it began in.
    group: Option<Group>,
}

/// Watches over a program that runs.
struct Watch {
    program: u32,
    ending: Ending,
    signals: OwnedFd,
    control: File,
    streams: [Option<(PipeReader, Lines)>; 2],
    writer: Writer,
    /// How the program ended.
    status: Option<ExitStatus>,
    /// No process is left.
    childless: bool,
    /// When everything is ended by force: `None` is never.
    kill_at: Option<Instant>,
    /// Begun messages of the agent.
    told: Messages,
}

impl Watch {
    fn new(folder: &Folder, program: Program, signals: OwnedFd, control: File, ending: Ending) -> Self {
        Self {
            program: program.pid,
            ending,
            signals,
            control,
            streams: [Some((program.stdout, Lines::new(b'o'))), Some((program.stderr, Lines::new(b'e')))],
            writer: Writer::open(folder.path()),
            status: None,
            childless: false,
            kill_at: None,
            told: Messages::default(),
        }
    }

    fn until_the_end(mut self) -> ProcessState {
        let mut buffer = vec![0; READ_BYTES];
        while self.status.is_none() && !self.childless {
            self.wait(self.kill_at.map(|at| at.saturating_duration_since(Instant::now())), &mut buffer);
            if self.kill_at.is_some_and(|at| Instant::now() >= at) {
                kill_descendants();
                self.kill_at = Some(Instant::now() + SWEEP_EVERY);
            }
            if self.ending.deadline.has_passed() {
                if let Some(group) = &self.ending.group {
                    // At once and whole; what has left it is met below.
                    let _ = group.kill();
                }
                kill_descendants();
                self.kill_at = Some(Instant::now() + SWEEP_EVERY);
            }
        }
        let too_late = self.ending.deadline.has_passed();
        let give_up = Instant::now() + SWEEP_MAX;
        while !self.childless && Instant::now() < give_up {
            kill_descendants();
            self.wait(Some(SWEEP_EVERY), &mut buffer);
        }
        // What the pipes still hold.
        while self.wait(Some(Duration::ZERO), &mut buffer) {}
        for stream in 0..self.streams.len() {
            self.end_stream(stream);
        }
        if too_late {
            return ProcessState::lapsed();
        }
        match self.status {
            Some(status) => match (status.code(), status.signal()) {
                (Some(code), _) => ProcessState::Exited { code },
                (None, Some(signal)) => ProcessState::Killed { signal },
                (None, None) => ProcessState::Lost { message: format!("ended with the odd status {status}") },
            },
            None => ProcessState::Lost { message: "ended without a status".into() },
        }
    }

    /// Waits until something happened and deals with it. Whether there was output.
    fn wait(&mut self, timeout: Option<Duration>, buffer: &mut [u8]) -> bool {
        let timeout = timeout.map(|length| Timespec {
            tv_sec: i64::try_from(length.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: length.subsec_nanos().into(),
        });
        let sources: [Option<BorrowedFd<'_>>; 5] = [
            Some(self.signals.as_fd()),
            Some(self.control.as_fd()),
            self.streams[0].as_ref().map(|(pipe, _)| pipe.as_fd()),
            self.streams[1].as_ref().map(|(pipe, _)| pipe.as_fd()),
            // It only ends the waiting: what it means is asked afterwards.
            self.ending.deadline.timer(),
        ];
        let mut ready = [false; 5];
        let mut polled: Vec<PollFd<'_>> =
            sources.iter().flatten().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
        if poll(&mut polled, timeout.as_ref()).is_ok() {
            let mut found = polled.iter().map(|fd| !fd.revents().is_empty());
            for (source, ready) in sources.iter().zip(&mut ready) {
                *ready = source.is_some() && found.next().unwrap_or(false);
            }
        }
        let mut output = false;
        for stream in 0..self.streams.len() {
            output |= ready[2 + stream] && self.take_output(stream, buffer);
        }
        if ready[1] {
            self.obey(buffer);
        }
        if ready[0] {
            self.take_signals(buffer);
        }
        // Always: two children that end at once are one signal.
        self.reap();
        output
    }

    fn take_output(&mut self, stream: usize, buffer: &mut [u8]) -> bool {
        let Some((pipe, lines)) = &mut self.streams[stream] else { return false };
        match pipe.read(buffer) {
            Ok(0) => {
                self.end_stream(stream);
                false
            }
            Ok(count) => {
                let mut whole = Vec::new();
                lines.push(&buffer[..count], wall_ms(), &mut whole);
                if !whole.is_empty() {
                    self.writer.append(&whole);
                }
                true
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => true,
            Err(_) => {
                self.end_stream(stream);
                false
            }
        }
    }

    fn end_stream(&mut self, stream: usize) {
        if let Some((_, mut lines)) = self.streams[stream].take() {
            let mut whole = Vec::new();
            lines.finish(wall_ms(), &mut whole);
            self.writer.append(&whole);
        }
    }

    /// Passes on the signals the agent asks for, and takes its deadlines.
    fn obey(&mut self, buffer: &mut [u8]) {
        let count = (&self.control).read(buffer).unwrap_or(0);
        for message in self.told.take(&buffer[..count]) {
            match message {
                Message::Signal(libc::SIGKILL) => kill_descendants(),
                Message::Signal(signal) => sys::kill_group(self.program, signal),
                // What is being ended does not go on.
                Message::Deadline(_) if self.ending.deadline.has_passed() => {}
                Message::Deadline(until) => self.ending.deadline.put_off(until),
            }
        }
    }

    fn take_signals(&mut self, buffer: &mut [u8]) {
        let count = rustix::io::read(&self.signals, &mut *buffer).unwrap_or(0);
        for record in buffer[..count].chunks(sys::SIGNAL_BYTES) {
            if sys::signal_of(record) == Some(libc::SIGTERM) && self.kill_at.is_none() {
                sys::kill_group(self.program, self.ending.stop_signal);
                self.kill_at = Some(Instant::now() + END_GRACE);
            }
        }
    }

    fn reap(&mut self) {
        loop {
            match sys::reap() {
                Reaped::Child(pid, status) if pid == self.program => self.status = Some(status),
                Reaped::Child(..) => {}
                Reaped::Nothing => return,
                Reaped::Childless => {
                    self.childless = true;
                    return;
                }
            }
        }
    }
}

/// Ends everything below this process. What loses its parent meanwhile becomes a child of this process, and is met again.
fn kill_descendants() {
    // What cannot be seen now is met again: this is repeated until there is no child left.
    let all = procfs::all().unwrap_or_default();
    for process in procfs::descendants(std::process::id(), &all) {
        if process.runs() {
            sys::kill(process.pid, libc::SIGKILL);
        }
    }
}

fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
