//! A simulated machine: processes that go on when the agent dies and end with the machine's power, and the [`Host`] that one life of
//! an agent sees of it.
//!
//! A process is no task: what it does follows from when it was started and what it was told, so it needs no runtime and survives
//! every agent. Only connections to it are tasks; they end with the agent, as the other side of a loopback connection does.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use hirsel_mesh::seam::volume::Volume;
use hirsel_mesh::seam::{BoxStream, Datagrams, Disk, Listener, Net};
use hirsel_model::{InstanceId, Timestamp};
use hirsel_role::Host;
use hirsel_role::host::{GuardState, Output, OutputFrom, Process, ProcessSpec, ProcessState};
use tokio::sync::{Notify, watch};

use crate::clock::{SimClock, elapsed};
use crate::disk::SimDisk;
use crate::drive::Drive;
use crate::net::SimNet;

mod program;

pub use program::Program;

/// How long it takes to start a process.
const FORK: Duration = Duration::from_millis(3);
/// What a program is told that acts on something for itself alone.
const FENCE: &str = "HIRSEL_FENCE";
/// Bytes under way in one direction of a loopback connection.
const PIPE_BYTES: usize = 64 << 10;
const SIGKILL: i32 = 9;

/// A machine. It outlives the agents on it.
#[derive(Debug)]
pub struct Machine {
    /// For the answers of its programs.
    name: String,
    /// Deadlines of processes are moments of it.
    clock: SimClock,
    inner: Mutex<Inner>,
    ended: Notify,
    /// Whether its agent stands still: what it does waits until it moves again. Shims and programs go on.
    still: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Inner {
    processes: BTreeMap<InstanceId, Entry>,
    pids: u32,
    /// Its guard answers nobody, and no other one can be started.
    guard_is_silent: bool,
}

#[derive(Debug)]
struct Entry {
    process: Process,
    program: Program,
    /// When it begins to listen.
    listens_at: Duration,
    /// When and how it ends, as far as that is known.
    ends: Option<(Duration, ProcessState)>,
    /// When it is ended by force: by its shim, by the guard if that stands still, by whichever acts first.
    deadline: Option<Duration>,
    /// Falls when it ends: connections end with it.
    alive: watch::Sender<bool>,
    output: Vec<u8>,
}

impl Entry {
    fn is_running(&self) -> bool {
        matches!(self.process.state, ProcessState::Running { .. })
    }

    fn say(&mut self, at: Duration, stream: char, text: &str) {
        let line = format!(
            "2027-01-15T08:{:02}:{:02}.{:03}Z {stream} {text}\n",
            at.as_secs() / 60 % 60,
            at.as_secs() % 60,
            at.subsec_millis()
        );
        self.output.extend_from_slice(line.as_bytes());
    }

    /// When and how it ends if nothing else happens.
    fn next_end(&self) -> Option<(Duration, ProcessState)> {
        let late = self.deadline.map(|at| (at, ProcessState::lapsed()));
        self.ends.clone().into_iter().chain(late).min_by_key(|(at, _)| *at)
    }

    fn end(&mut self, state: ProcessState) {
        self.process.state = state;
        self.ends = None;
        self.deadline = None;
        self.alive.send_replace(false);
    }
}

impl Inner {
    fn ask_guard(&self) -> io::Result<()> {
        match self.guard_is_silent {
            true => Err(io::Error::new(io::ErrorKind::TimedOut, "the guard of this host does not answer")),
            false => Ok(()),
        }
    }

    /// Ends what has ended by `now`. True when something did.
    fn settle(&mut self, now: Duration) -> bool {
        let mut any = false;
        for entry in self.processes.values_mut() {
            if let Some((at, state)) = entry.next_end()
                && at <= now
                && entry.is_running()
            {
                entry.say(at, 'e', "ended");
                entry.end(state);
                any = true;
            }
        }
        any
    }
}

impl Machine {
    /// A machine without processes.
    pub fn new(name: &str, clock: SimClock) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            clock,
            inner: Mutex::default(),
            ended: Notify::new(),
            still: watch::Sender::new(false),
        })
    }

    /// Ends every process at once. What ran is found as lost afterwards.
    pub fn lose_power(&self) {
        let mut inner = crate::lock(&self.inner);
        for entry in inner.processes.values_mut().filter(|entry| entry.is_running()) {
            entry.end(ProcessState::Lost { message: "the host was switched off".into() });
        }
    }

    /// Ends one process from outside, as a fault.
    pub fn kill(&self, id: &InstanceId, signal: i32) {
        let mut inner = crate::lock(&self.inner);
        if let Some(entry) = inner.processes.get_mut(id).filter(|entry| entry.is_running()) {
            entry.end(ProcessState::Killed { signal });
            self.ended.notify_one();
        }
    }

    /// What runs at `now` (true time): instance and revision.
    pub fn running(&self, now: Duration) -> BTreeMap<InstanceId, ProcessSpec> {
        let mut inner = crate::lock(&self.inner);
        if inner.settle(now) {
            self.ended.notify_one();
        }
        let running = inner.processes.iter().filter(|(_, entry)| entry.is_running());
        running.map(|(id, entry)| (id.clone(), entry.process.spec.clone())).collect()
    }

    /// The processes of exclusive services that act at `now` (true time): instance, process and fence.
    pub fn acting(&self, now: Duration) -> Vec<(InstanceId, u32, u64)> {
        let running = |inner: &mut Inner| {
            let ended = inner.settle(now);
            let acting = inner.processes.iter().filter_map(|(id, entry)| {
                let ProcessState::Running { pid } = entry.process.state else { return None };
                Some((id.clone(), pid, entry.process.spec.env.get(FENCE)?.parse().ok()?))
            });
            (ended, acting.collect())
        };
        let (ended, acting) = running(&mut crate::lock(&self.inner));
        if ended {
            self.ended.notify_one();
        }
        acting
    }

    /// Lets its agent stand still, or move again.
    pub fn hold_still(&self, still: bool) {
        self.still.send_replace(still);
    }

    /// Lets its guard answer nobody, or answer again. What it and the shims know until then holds.
    pub fn silence_guard(&self, silent: bool) {
        crate::lock(&self.inner).guard_is_silent = silent;
    }

    async fn moves(&self) {
        // The sender lives as long as the machine.
        let _ = self.still.subscribe().wait_for(|still| !still).await;
    }

    /// A loopback connection to whatever listens on `port`.
    pub fn connect(self: &Arc<Self>, port: u16) -> io::Result<BoxStream> {
        let now = elapsed();
        let mut inner = crate::lock(&self.inner);
        inner.settle(now);
        let mut running = inner.processes.iter().filter(|(_, entry)| entry.is_running());
        let listens = running.find(|(_, entry)| entry.process.spec.port == port && entry.listens_at <= now);
        let Some((id, entry)) = listens else {
            return Err(io::Error::new(io::ErrorKind::ConnectionRefused, format!("nothing listens on port {port}")));
        };
        let (near, far) = tokio::io::duplex(PIPE_BYTES);
        let visit = program::Visit { machine: self.clone(), id: id.clone(), node: self.name.clone() };
        tokio::spawn(program::serve(visit, entry.program.clone(), far, entry.alive.subscribe()));
        Ok(Box::new(near))
    }

    fn end_from_inside(&self, id: &InstanceId, state: ProcessState) {
        let mut inner = crate::lock(&self.inner);
        if let Some(entry) = inner.processes.get_mut(id).filter(|entry| entry.is_running()) {
            entry.end(state);
            self.ended.notify_one();
        }
    }

    fn start(&self, spec: ProcessSpec) -> io::Result<()> {
        let now = elapsed();
        let program = Program::parse(&spec.command)?;
        let mut inner = crate::lock(&self.inner);
        inner.settle(now);
        if inner.processes.get(&spec.id).is_some_and(Entry::is_running) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{} runs already", spec.id)));
        }
        if spec.deadline.is_some() {
            inner.ask_guard()?;
        }
        inner.pids += 1;
        let (id, pid) = (spec.id.clone(), 1000 + inner.pids);
        let taken = inner.processes.values().any(|other| other.is_running() && other.process.spec.port == spec.port);
        let listens_at = now + program.start;
        let ends = if taken {
            Some((listens_at, ProcessState::Exited { code: 98 }))
        } else {
            program.crash_after.map(|after| (now + after, ProcessState::Exited { code: program.exit_code }))
        };
        let deadline = spec.deadline.map(|at| self.clock.when(at));
        let process = Process { spec, state: ProcessState::Running { pid } };
        let (alive, output) = (watch::Sender::new(true), Vec::new());
        let mut entry = Entry { process, program, listens_at, ends, deadline, alive, output };
        entry.say(now, 'o', "started");
        inner.processes.insert(id, entry);
        // Whoever waits for an end must learn of one that is scheduled earlier than those it knows.
        self.ended.notify_one();
        Ok(())
    }

    fn signal(&self, id: &InstanceId, signal: i32) {
        let now = elapsed();
        let mut inner = crate::lock(&self.inner);
        let Some(entry) = inner.processes.get_mut(id).filter(|entry| entry.is_running()) else { return };
        if signal == SIGKILL {
            entry.end(ProcessState::Killed { signal });
        } else if let Some(stop) = entry.program.stop {
            entry.ends = Some((now + stop, ProcessState::Exited { code: 0 }));
        }
        self.ended.notify_one();
    }

    /// The guard is told first: without its word the shim is not.
    fn prolong(&self, id: &InstanceId, until: Timestamp) -> io::Result<()> {
        let mut inner = crate::lock(&self.inner);
        inner.settle(elapsed());
        let guarded = |entry: &Entry| entry.is_running() && entry.deadline.is_some();
        if inner.processes.get(id).is_some_and(guarded) {
            inner.ask_guard()?;
        }
        if let Some(entry) = inner.processes.get_mut(id).filter(|entry| guarded(entry)) {
            entry.deadline = Some(self.clock.when(until));
            self.ended.notify_one();
        }
        Ok(())
    }

    fn guard(&self) -> GuardState {
        let mut inner = crate::lock(&self.inner);
        inner.settle(elapsed());
        let guarded = |entry: &&Entry| entry.is_running() && entry.deadline.is_some();
        match (inner.processes.values().filter(guarded).count(), inner.ask_guard()) {
            (0, _) => GuardState::Unneeded,
            (guards, Ok(())) => GuardState::Watches { guards },
            (_, Err(error)) => GuardState::Silent { message: error.to_string() },
        }
    }

    fn next_end(&self) -> Option<Duration> {
        crate::lock(&self.inner).processes.values().filter_map(|entry| entry.next_end().map(|(at, _)| at)).min()
    }
}

/// The machine as one life of an agent sees it.
pub struct SimHost {
    machine: Arc<Machine>,
    net: SimNet,
    disk: Arc<SimDisk>,
    drive: Arc<Drive>,
    folder: String,
}

impl fmt::Debug for SimHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimHost({})", self.machine.name)
    }
}

impl SimHost {
    /// The host of `role` of an agent with this network, this disk, on which its files lie beside the agent's own, and this one for data.
    pub fn new(net: SimNet, disk: Arc<SimDisk>, drive: Arc<Drive>, role: &str) -> Self {
        Self { machine: net.machine.clone(), net, disk, drive, folder: format!("roles/{role}") }
    }

    fn path_of(&self, path: &str) -> String {
        format!("{}/{path}", self.folder)
    }
}

impl Host for SimHost {
    fn start(&self, spec: ProcessSpec) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async move {
            tokio::time::sleep(FORK).await;
            self.machine.moves().await;
            self.machine.start(spec)
        })
    }

    fn processes(&self) -> BoxFuture<'_, io::Result<BTreeMap<InstanceId, Process>>> {
        Box::pin(async move {
            self.machine.moves().await;
            let mut inner = crate::lock(&self.machine.inner);
            inner.settle(elapsed());
            Ok(inner.processes.iter().map(|(id, entry)| (id.clone(), entry.process.clone())).collect())
        })
    }

    fn signal<'a>(&'a self, id: &'a InstanceId, signal: i32) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            self.machine.moves().await;
            self.machine.signal(id, signal);
            Ok(())
        })
    }

    fn prolong<'a>(&'a self, id: &'a InstanceId, until: Timestamp) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            self.machine.moves().await;
            self.machine.prolong(id, until)
        })
    }

    fn guard(&self) -> BoxFuture<'_, GuardState> {
        Box::pin(async move { self.machine.guard() })
    }

    fn forget<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            let mut inner = crate::lock(&self.machine.inner);
            inner.settle(elapsed());
            if inner.processes.get(id).is_some_and(Entry::is_running) {
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, format!("{id} runs")));
            }
            inner.processes.remove(id);
            Ok(())
        })
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let Some(at) = self.machine.next_end() else { return self.machine.ended.notified().await };
            let left = at.saturating_sub(elapsed());
            // A whole millisecond at least, so that waiting for an end that nobody settled never spins.
            let wait = left.max(Duration::from_millis(1));
            let _ = tokio::time::timeout(wait, self.machine.ended.notified()).await;
        })
    }

    fn output<'a>(&'a self, id: &'a InstanceId, from: OutputFrom) -> BoxFuture<'a, io::Result<Output>> {
        Box::pin(async move {
            let inner = crate::lock(&self.machine.inner);
            let entry = inner.processes.get(id).ok_or(io::ErrorKind::NotFound)?;
            let len = entry.output.len() as u64;
            let begin = match from {
                OutputFrom::Tail(bytes) => len.saturating_sub(bytes),
                OutputFrom::Offset(offset) => offset.min(len),
            };
            Ok(Output { bytes: entry.output[begin as usize..].to_vec(), next: len })
        })
    }

    fn udp(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<Datagrams>> {
        Box::pin(async move { Ok(Datagrams::new(self.net.udp(addr).await?)) })
    }

    fn listen(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        self.net.listen(addr)
    }

    fn connect(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<BoxStream>> {
        self.net.connect(addr)
    }

    fn port_is_free(&self, addr: SocketAddr) -> bool {
        let now = elapsed();
        let mut inner = crate::lock(&self.machine.inner);
        inner.settle(now);
        !inner.processes.values().any(|entry| entry.is_running() && entry.process.spec.port == addr.port())
    }

    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        self.disk.read(&self.path_of(path))
    }

    fn write(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.disk.write(&self.path_of(path), bytes)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.disk.remove(&self.path_of(path))
    }

    fn volume(&self, _path: Option<&str>) -> io::Result<Arc<dyn Volume>> {
        Ok(self.drive.mount(&self.disk)?)
    }
}

#[cfg(test)]
mod tests;
