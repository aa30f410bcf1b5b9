//! The processes of one data folder: starts shims, reads what they say, tells them what to pass on.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, PipeReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hirsel_model::{InstanceId, Timestamp};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, Mode};
use tracing::{debug, warn};

use super::guardian::Guardian;
use super::{Groups, user};
use crate::host::deadline;
use crate::host::folder::{Folder, HIDDEN, Launch, ShimState, absent_is_fine, is_damage, passable_folder};
use crate::host::group::Slice;
use crate::host::output;
use crate::host::{GuardState, LAPSED, Output, OutputFrom, Process, ProcessSpec, ProcessState};
use crate::host::{orphan, procfs};
use crate::secret::Plain;

/// A shim starts in some milliseconds; a host that takes longer than this for it is in trouble, and the process is looked at again.
const START_MAX: Duration = Duration::from_secs(10);
/// A process that told its end holds its lock for some microseconds more.
const UNLOCK_MAX: Duration = Duration::from_secs(2);
/// Folders on their way out are renamed to begin with this, so that they vanish at once.
const GONE: &str = ".gone-";

#[derive(Debug)]
pub(super) struct Processes {
    folder: PathBuf,
    shim: Vec<String>,
    guardian: Guardian,
    /// Groups for what has a deadline; none where this host has none.
    slice: Option<Slice>,
    /// This run of the kernel.
    boot: String,
    /// Held while locks are tried: two tries at once would each take the other for a shim.
    table: Mutex<Table>,
    /// Process ids of programs that the last scan told to run. Held for moments only: the runtime itself reads it.
    watched: Mutex<BTreeMap<InstanceId, u32>>,
}

#[derive(Debug, Default)]
struct Table {
    /// Counts removed folders, so that each has a name of its own.
    removed: u64,
}

/// Whether a shim holds the lock of a folder.
enum Lock {
    Held,
    /// And now it is ours.
    Free(File),
}

impl Processes {
    pub(super) fn open(folder: PathBuf, shim: Vec<String>, guardian: Guardian, groups: Groups) -> io::Result<Self> {
        passable_folder(&folder)?;
        for entry in fs::read_dir(&folder)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(GONE) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        let boot = procfs::boot_id()?;
        let slice = match groups {
            Groups::IfPossible => Slice::of(&folder),
            Groups::Never => None,
        };
        if let Some(slice) = &slice {
            // Of those that a folder is left of the state tells more.
            slice.sweep(|name| folder.join(name).exists());
        }
        Ok(Self { folder, shim, guardian, slice, boot, table: Mutex::default(), watched: Mutex::default() })
    }

    /// Programs to watch for their end.
    pub(super) fn watched(&self) -> Vec<u32> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).values().copied().collect()
    }

    /// The instance's own folder.
    pub(super) fn work(&self, id: &InstanceId) -> PathBuf {
        Folder::of(&self.folder, id).work()
    }

    pub(super) fn start(&self, spec: ProcessSpec) -> io::Result<()> {
        let id = spec.id.clone();
        let folder = Folder::of(&self.folder, &id);
        let lock = self.lock_for_start(&folder)?;
        let (hidden, deadline) = (spec.secret_env.clone(), spec.deadline);
        // Before there is anything to guard: from its first moment on it is, and the run before is over for the guard too.
        let guarded = deadline.map_or(Ok(()), |until| self.guardian.begin(folder.path(), until));
        let prepared = self.prepare(&folder, spec);
        if let Err(error) = guarded.and(prepared) {
            return Err(self.refused(&folder, id, error));
        }
        if let Err(error) = self.start_shim(&folder, &lock, &hidden) {
            // From here on the lock is held by the shim alone, if there is one after all: then it tells how it goes.
            drop(lock);
            let _table = self.table();
            if let Lock::Held = try_lock(&folder)? {
                return Err(io::Error::new(error.kind(), format!("its shim is slow: {error}")));
            }
            return Err(self.refused(&folder, id, io::Error::other(format!("could not start its shim: {error}"))));
        }
        drop(lock);
        match folder.state() {
            Ok(ShimState { ended: Some(ProcessState::Lost { message }), .. }) => Err(io::Error::other(message)),
            Ok(ShimState { program: Some(_), .. }) => Ok(()),
            Ok(_) | Err(_) => {
                let complaint = fs::read_to_string(folder.complaints()).unwrap_or_default();
                let message = format!("its shim ended without a word {}", complaint.trim());
                Err(io::Error::other(message.trim_end().to_owned()))
            }
        }
    }

    /// Writes down why a process could not be started, as far as that can be done.
    fn refused(&self, folder: &Folder, id: InstanceId, error: io::Error) -> io::Error {
        let ended = Some(ProcessState::Lost { message: error.to_string() });
        let (boot, mark) = (self.boot.clone(), String::new());
        let state = ShimState { boot, id, shim: None, mark, program: None, ended, group: None };
        // On a full disk the caller is told all the same, and the next look finds a start that was cut short.
        let _ = folder.write_state(&state);
        error
    }

    fn lock_for_start(&self, folder: &Folder) -> io::Result<File> {
        {
            let _table = self.table();
            passable_folder(folder.path())?;
        }
        let (_table, lock) = self.lock_ended(folder)?;
        // Whoever ran here before is not to meet its successor.
        match folder.state() {
            Ok(state) => drop(orphan::end(&state, &self.boot)?),
            Err(error) if is_damage(&error) => {}
            Err(error) => return Err(error),
        }
        folder.remove_state()?;
        Ok(lock)
    }

    /// Takes the lock of a process that is not running. One that told its end is waited for.
    fn lock_ended(&self, folder: &Folder) -> io::Result<(MutexGuard<'_, Table>, File)> {
        let until = Instant::now() + UNLOCK_MAX;
        loop {
            let table = self.table();
            if let Lock::Free(file) = try_lock(folder)? {
                return Ok((table, file));
            }
            drop(table);
            let ending = folder.state().is_ok_and(|state| state.ended.is_some());
            if !ending || Instant::now() >= until {
                let message = format!("{} runs already", folder.path().display());
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Writes down what to run. A user that does not exist is found here.
    fn prepare(&self, folder: &Folder, spec: ProcessSpec) -> io::Result<()> {
        let identity = spec.user.as_deref().map(user::identity).transpose();
        let (identity, wrong) = match identity {
            Ok(identity) => (identity.flatten(), None),
            Err(error) => (None, Some(error)),
        };
        let (group, busy) = match self.group(folder, &spec) {
            Ok(group) => (group, None),
            Err(error) => (None, Some(error)),
        };
        let launch = Launch { spec, identity, group };
        folder.write_launch(&launch)?;
        if let Some(error) = wrong.or(busy) {
            return Err(error);
        }
        fs::create_dir_all(folder.work())?;
        if let Some(identity) = &launch.identity {
            std::os::unix::fs::chown(folder.work(), Some(identity.uid), Some(identity.gid))?;
        }
        match rustix::fs::mkfifoat(rustix::fs::CWD, folder.control(), Mode::RUSR | Mode::WUSR) {
            Err(error) if error != rustix::io::Errno::EXIST => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// A fresh group for what has a deadline, where there are groups. An error means that whoever ran there before is still in it.
    fn group(&self, folder: &Folder, spec: &ProcessSpec) -> io::Result<Option<PathBuf>> {
        let name = folder.path().file_name().and_then(|name| name.to_str());
        let (Some(slice), Some(name), true) = (&self.slice, name, spec.deadline.is_some()) else { return Ok(None) };
        match slice.make(name) {
            Ok(group) => Ok(Some(group.path().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Err(error),
            Err(error) => {
                debug!(%error, "no group could be made");
                Ok(None)
            }
        }
    }

    /// Starts the shim and waits until it has told how the program began.
    fn start_shim(&self, folder: &Folder, lock: &File, hidden: &BTreeMap<String, Plain>) -> io::Result<()> {
        let Some((program, arguments)) = self.shim.split_first() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no command for shims"));
        };
        let (reader, writer) = io::pipe()?;
        let complaints =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(folder.complaints())?;
        let mut first = {
            // Dropped at once, and with it our copies of the streams.
            let mut command = Command::new(program);
            command.args(arguments).arg(folder.path()).env_clear().current_dir("/");
            // Its environment, like the program's own, is read by its user and root alone; a file would stay.
            command.envs(hidden.iter().map(|(name, value)| (format!("{HIDDEN}{name}"), &value.0)));
            command.stdin(lock.try_clone()?).stdout(writer).stderr(Stdio::from(complaints));
            command.spawn()?
        };
        // The shim goes on in the background; this process ends at once.
        first.wait()?;
        wait_for_end(reader, START_MAX)
    }

    /// Every process there is, and whether other ones are to be watched than before.
    pub(super) fn scan(&self) -> io::Result<(BTreeMap<InstanceId, Process>, bool)> {
        let mut found = BTreeMap::new();
        let mut running = BTreeMap::new();
        let _table = self.table();
        for (id, folder) in folders(&self.folder)? {
            let state = look(&folder, &id, &self.boot)?;
            let launch = match folder.launch() {
                Ok(launch) if launch.spec.id == id => launch,
                Err(error) if !is_damage(&error) => return Err(error),
                // Nothing was written yet: it is being started.
                Err(error) if error.kind() == io::ErrorKind::NotFound && state == STARTING => continue,
                Ok(_) | Err(_) => {
                    give_up(&folder, &id, &state);
                    continue;
                }
            };
            if let ProcessState::Running { pid: pid @ 1.. } = state {
                running.insert(id.clone(), pid);
            }
            found.insert(id, Process { spec: launch.spec, state });
        }
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let moved = *watched != running;
        *watched = running;
        Ok((found, moved))
    }

    pub(super) fn signal(&self, id: &InstanceId, signal: i32) -> io::Result<()> {
        let number = u8::try_from(signal).ok().filter(|number| (1..=64).contains(number));
        let Some(number) = number else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{signal} is no signal")));
        };
        let folder = Folder::of(&self.folder, id);
        tell(&folder, &[number])?;
        // A shim that stands still passes nothing on, and this must not wait for it.
        match folder.state() {
            Ok(state) if signal == libc::SIGKILL && state.ended.is_none() && state.boot == self.boot => {
                orphan::strike(&state).map(drop)
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// The guard first, and the shim only if there is a guard that keeps it too. What is over now is the shim's first, which can tell.
    pub(super) fn prolong(&self, id: &InstanceId, until: Timestamp) -> io::Result<()> {
        let folder = Folder::of(&self.folder, id);
        match folder.launch() {
            Ok(launch) if launch.spec.deadline.is_some() => {}
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        }
        if folder.state().is_ok_and(|state| state.ended.is_some()) {
            return Ok(());
        }
        if until <= deadline::now() {
            tell(&folder, &deadline::message(until))?;
            return self.guardian.keep(folder.path(), until).map(drop);
        }
        if !self.guardian.keep(folder.path(), until)? {
            return Ok(());
        }
        tell(&folder, &deadline::message(until))
    }

    pub(super) fn guard(&self) -> GuardState {
        self.guardian.state()
    }

    pub(super) fn forget(&self, id: &InstanceId) -> io::Result<()> {
        let folder = Folder::of(&self.folder, id);
        let gone = {
            if !folder.path().exists() {
                return Ok(());
            }
            let (mut table, lock) = self.lock_ended(&folder)?;
            drop(lock);
            // Ends what an ended shim left, and sees that nothing did start meanwhile.
            if let ProcessState::Running { .. } = look(&folder, id, &self.boot)? {
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, format!("{id} runs and cannot be forgotten")));
            }
            if let Some(group) = folder.state().ok().and_then(|state| state.group()) {
                group.remove()?;
            }
            table.removed += 1;
            let gone = self.folder.join(format!("{GONE}{}-{}", std::process::id(), table.removed));
            fs::rename(folder.path(), &gone)?;
            gone
        };
        // The program may have left much in its own folder.
        absent_is_fine(fs::remove_dir_all(gone))
    }

    pub(super) fn output(&self, id: &InstanceId, from: OutputFrom) -> io::Result<Output> {
        let folder = Folder::of(&self.folder, id);
        if !folder.path().exists() {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("no process {id} on this host")));
        }
        output::read(folder.path(), from)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Whoever panicked left a counter behind, nothing half-done.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A process that has its lock but did not tell anything yet.
const STARTING: ProcessState = ProcessState::Running { pid: 0 };

/// A process of which something is left.
const LEFT: ProcessState = ProcessState::Running { pid: 0 };

/// The folders of all processes in `parent`.
pub(super) fn folders(parent: &Path) -> io::Result<Vec<(InstanceId, Folder)>> {
    let entry = |entry: fs::DirEntry| Some((Folder::id_of(entry.file_name().to_str()?)?, Folder::new(entry.path())));
    Ok(fs::read_dir(parent)?.flatten().filter_map(entry).collect())
}

/// How the process in `folder` is. What runs without a shim is ended. The caller holds the table.
fn look(folder: &Folder, id: &InstanceId, boot: &str) -> io::Result<ProcessState> {
    let _lock = match try_lock(folder)? {
        Lock::Held => {
            return Ok(match folder.state() {
                Ok(state) if state.ended.is_some() => whole(state),
                Ok(ShimState { program: Some(program), .. }) => ProcessState::Running { pid: program.pid },
                Ok(_) | Err(_) => STARTING,
            });
        }
        Lock::Free(lock) => lock,
    };
    let lost = |message: &str| Ok(ProcessState::Lost { message: message.into() });
    let state = match folder.state() {
        Ok(state) if state.id == *id => state,
        Err(error) if !is_damage(&error) => return Err(error),
        Ok(_) | Err(_) => return lost("its start was cut short"),
    };
    if state.boot != boot {
        return Ok(state.ended.unwrap_or(ProcessState::Lost { message: "the host was switched off".into() }));
    }
    if state.ended.is_some() {
        return Ok(whole(state));
    }
    let found = orphan::end(&state, boot)?;
    let message = match found {
        _ if folder.ended_by_guard() => LAPSED,
        true => "its shim was killed; the program was ended, for nobody watched it",
        false => "its shim was killed",
    };
    if folder.ended_by_guard() {
        warn!(%id, "its shim did not act at the deadline, and the guard ended it");
    }
    let state = ShimState { ended: Some(ProcessState::Lost { message: message.into() }), ..state };
    // If the disk is full, the next look comes to the same.
    let _ = folder.write_state(&state);
    Ok(whole(state))
}

/// How what `state` tells to have ended is: it goes on while something is left in its group, whatever its shim thought.
fn whole(state: ShimState) -> ProcessState {
    match (state.group().filter(|group| !group.is_empty()), state.ended) {
        (None, Some(ended)) => ended,
        (Some(group), Some(_)) => {
            let _ = group.kill();
            LEFT
        }
        (_, None) => LEFT,
    }
}

/// Removes what cannot be made out, so that nothing runs that nobody knows.
fn give_up(folder: &Folder, id: &InstanceId, state: &ProcessState) {
    warn!(%id, "a process whose description cannot be read is ended and removed");
    if let ProcessState::Running { .. } = state {
        // Removed at the next look.
        let _ = tell(folder, &[9]);
        return;
    }
    let _ = fs::remove_dir_all(folder.path());
}

fn try_lock(folder: &Folder) -> io::Result<Lock> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(folder.lock())?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Lock::Free(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(Lock::Held),
        Err(error) => Err(error.into()),
    }
}

/// Tells the shim something: a signal to pass on, or a deadline. Without a shim nothing runs that could be told.
fn tell(folder: &Folder, message: &[u8]) -> io::Result<()> {
    match OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(folder.control()) {
        Ok(mut control) => control.write_all(message),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENXIO | libc::ENOENT)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Waits until nobody has the other end of the pipe any more.
pub(super) fn wait_for_end(mut pipe: PipeReader, limit: Duration) -> io::Result<()> {
    let until = Instant::now() + limit;
    let mut unread = [0; 64];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer after {} s", limit.as_secs())));
        }
        let timeout =
            Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(1), tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&pipe, PollFlags::IN)], Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) if pipe.read(&mut unread)? == 0 => return Ok(()),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::procfs::ProcessKey;

    fn guardian(folder: &Path) -> Guardian {
        let command = vec!["/bin/false".into()];
        Guardian::new(super::super::GuardConfig { folder: folder.join("guard"), command })
    }

    fn processes() -> (tempfile::TempDir, Processes) {
        let folder = tempfile::tempdir().unwrap();
        let guardian = guardian(folder.path());
        let processes =
            Processes::open(folder.path().join("processes"), vec!["/bin/false".into()], guardian, Groups::Never)
                .unwrap();
        (folder, processes)
    }

    fn spec() -> ProcessSpec {
        ProcessSpec {
            id: "shop/web/1".parse().unwrap(),
            revision: hirsel_model::Revision(1),
            command: vec!["true".into()],
            env: BTreeMap::new(),
            secret_env: BTreeMap::new(),
            workdir: None,
            user: None,
            stop_signal: 15,
            port: 0,
            deadline: None,
            note: Vec::new(),
        }
    }

    fn left(processes: &Processes, boot: &str, program: ProcessKey) -> Folder {
        let folder = Folder::of(&processes.folder, &spec().id);
        passable_folder(folder.path()).unwrap();
        folder.write_launch(&Launch { spec: spec(), identity: None, group: None }).unwrap();
        let (boot, mark) = (boot.into(), "1-1".into());
        let (id, program) = (spec().id, Some(program));
        folder.write_state(&ShimState { boot, id, shim: None, mark, program, ended: None, group: None }).unwrap();
        folder
    }

    fn only(processes: &Processes) -> ProcessState {
        let (found, _) = processes.scan().unwrap();
        assert_eq!(found.len(), 1);
        found.into_values().next().unwrap().state
    }

    #[test]
    fn after_the_host_was_switched_off_a_process_is_lost_and_a_stranger_of_its_number_is_left_alone() {
        let (_folder, processes) = processes();
        left(&processes, "an earlier boot", ProcessKey::of(std::process::id()));
        assert_eq!(only(&processes), ProcessState::Lost { message: "the host was switched off".into() });
    }

    #[test]
    fn a_number_given_to_another_process_is_not_ended() {
        let (_folder, processes) = processes();
        let me = ProcessKey::of(std::process::id());
        left(&processes, &procfs::boot_id().unwrap(), ProcessKey { start: me.start - 1, ..me });
        assert_eq!(only(&processes), ProcessState::Lost { message: "its shim was killed".into() });
        assert_eq!(only(&processes), ProcessState::Lost { message: "its shim was killed".into() });
    }

    #[test]
    fn a_start_that_was_cut_short_is_lost_and_may_be_forgotten() {
        let (_folder, processes) = processes();
        left(&processes, &procfs::boot_id().unwrap(), ProcessKey { pid: 1, start: 1 }).remove_state().unwrap();
        assert_eq!(only(&processes), ProcessState::Lost { message: "its start was cut short".into() });
        processes.forget(&spec().id).unwrap();
        assert!(processes.scan().unwrap().0.is_empty());
    }

    #[test]
    fn damaged_files_are_lost_or_removed_and_never_a_panic() {
        let (_folder, processes) = processes();
        for cut in 0..60 {
            let folder = left(&processes, "x", ProcessKey { pid: 1, start: 1 });
            let state = fs::read(folder.path().join("state")).unwrap();
            fs::write(folder.path().join("state"), &state[..cut.min(state.len())]).unwrap();
            assert!(matches!(only(&processes), ProcessState::Lost { .. }));
            let launch = fs::read(folder.path().join("launch")).unwrap();
            fs::write(folder.path().join("launch"), &launch[..cut]).unwrap();
            assert!(processes.scan().unwrap().0.is_empty() && !folder.path().exists());
        }
    }

    #[test]
    fn a_shim_that_does_not_come_up_is_told() {
        let (temporary, processes) = processes();
        let error = processes.start(spec()).unwrap_err().to_string();
        assert_eq!(error, "its shim ended without a word");
        assert!(matches!(only(&processes), ProcessState::Lost { .. }));
        let (shim, guardian) = (vec!["/no/such/hirsel".into()], guardian(temporary.path()));
        let absent = Processes::open(processes.folder.clone(), shim, guardian, Groups::Never).unwrap();
        let error = absent.start(spec()).unwrap_err().to_string();
        assert!(error.starts_with("could not start its shim: No such file"), "{error}");
        assert_eq!(only(&processes), ProcessState::Lost { message: error });
    }
}
