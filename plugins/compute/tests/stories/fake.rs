//! A host in memory. The first word of a command says how the program behaves.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use hirsel_mesh::seam::{BoxStream, Listener};
use hirsel_model::{InstanceId, Timestamp};
use hirsel_role::Host;
use hirsel_role::host::{Output, OutputFrom, Process, ProcessSpec, ProcessState};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::Instant;

#[derive(Default)]
struct Inner {
    processes: BTreeMap<InstanceId, Process>,
    files: BTreeMap<String, Vec<u8>>,
    /// Every start ever tried: when (in seconds), and with which port.
    starts: BTreeMap<InstanceId, Vec<(f64, u16)>>,
    starting: BTreeSet<InstanceId>,
    signals: BTreeMap<InstanceId, Vec<i32>>,
    ill: BTreeSet<InstanceId>,
    hanging: bool,
    start_takes: Duration,
    silent_guard: bool,
    pids: u32,
    writes: u32,
}

#[derive(Clone)]
pub struct FakeHost {
    inner: Arc<Mutex<Inner>>,
    ended: Arc<Notify>,
    begun: Instant,
}

impl FakeHost {
    pub fn new() -> Self {
        Self { inner: Arc::default(), ended: Arc::default(), begun: Instant::now() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    pub fn end(&self, id: &str, state: ProcessState) {
        self.finish(&id.parse().unwrap(), None, state);
    }
    pub fn spec(&self, id: &str) -> ProcessSpec {
        self.inner().processes[&id.parse().unwrap()].spec.clone()
    }
    pub fn runs(&self, id: &str) -> bool {
        let found = self.inner().processes.get(&id.parse().unwrap()).cloned();
        found.is_some_and(|process| matches!(process.state, ProcessState::Running { .. }))
    }
    pub fn starts(&self, id: &str) -> usize {
        self.start_times(id).len()
    }
    pub fn start_times(&self, id: &str) -> Vec<f64> {
        let starts = self.inner().starts.get(&id.parse().unwrap()).cloned().unwrap_or_default();
        starts.into_iter().map(|(at, _)| at).collect()
    }
    pub fn ports(&self, id: &str) -> Vec<u16> {
        self.inner().starts[&id.parse().unwrap()].iter().map(|(_, port)| *port).collect()
    }
    pub fn signals(&self, id: &str) -> Vec<i32> {
        self.inner().signals.get(&id.parse().unwrap()).cloned().unwrap_or_default()
    }
    pub fn set_ill(&self, id: &str, ill: bool) {
        let id = id.parse().unwrap();
        if ill {
            self.inner().ill.insert(id)
        } else {
            self.inner().ill.remove(&id)
        };
    }
    pub fn set_hanging(&self, hanging: bool) {
        self.inner().hanging = hanging;
    }
    pub fn set_start_takes(&self, time: Duration) {
        self.inner().start_takes = time;
    }
    pub fn set_silent_guard(&self, silent: bool) {
        self.inner().silent_guard = silent;
    }
    pub fn is_empty(&self) -> bool {
        self.inner().processes.is_empty()
    }
    pub fn writes(&self) -> u32 {
        self.inner().writes
    }
    pub fn distinct_running_ports(&self) -> usize {
        let inner = self.inner();
        inner.processes.values().map(|process| process.spec.port).collect::<BTreeSet<_>>().len()
    }

    /// Ends a process: the one with this pid, or whichever runs.
    fn finish(&self, id: &InstanceId, only: Option<u32>, state: ProcessState) {
        if let Some(process) = self.inner().processes.get_mut(id)
            && let ProcessState::Running { pid } = process.state
            && only.is_none_or(|only| only == pid)
        {
            process.state = state;
        }
        self.ended.notify_waiters();
    }

    fn begin(&self, spec: ProcessSpec) -> io::Result<()> {
        let words: Vec<&str> = spec.command.iter().flat_map(|word| word.split(' ')).collect();
        if words[0] == "refused" {
            return Err(io::Error::other("could not start \"refused\""));
        }
        let ends_after = match words[0] {
            "crash" => Some(words[1].parse().unwrap()),
            "taken" => Some(20),
            _ => None,
        };
        let (id, pid) = {
            let mut inner = self.inner();
            inner.pids += 1;
            let pid = inner.pids;
            let id = spec.id.clone();
            inner.processes.insert(id.clone(), Process { spec, state: ProcessState::Running { pid } });
            (id, pid)
        };
        if let Some(after) = ends_after {
            let host = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(after)).await;
                host.finish(&id, Some(pid), ProcessState::Exited { code: 3 });
            });
        }
        Ok(())
    }

    /// What answers behind an address.
    fn answer_of(&self, addr: SocketAddr) -> Option<&'static str> {
        let inner = self.inner();
        let process = inner.processes.values().find(|process| {
            process.spec.port == addr.port() && matches!(process.state, ProcessState::Running { .. })
        })?;
        let began = inner.starts[&process.spec.id].last()?.0;
        let words: Vec<&str> = process.spec.command.iter().flat_map(|word| word.split(' ')).collect();
        match words[0] {
            _ if inner.ill.contains(&process.spec.id) => Some("HTTP/1.1 503 Ill\r\n\r\n"),
            "hang" => Some(""),
            "after" => {
                let since = self.begun.elapsed().as_secs_f64() - began;
                (since * 1000.0 >= words[1].parse().unwrap()).then_some("HTTP/1.1 200 OK\r\n\r\nfine")
            }
            _ => Some("HTTP/1.1 204 No Content\r\n\r\n"),
        }
    }
}

impl Host for FakeHost {
    fn start(&self, spec: ProcessSpec) -> BoxFuture<'_, io::Result<()>> {
        async move {
            let taken = || io::Error::new(io::ErrorKind::AlreadyExists, "runs already");
            let takes = {
                let mut inner = self.inner();
                let running = inner.processes.get(&spec.id).map(|process| process.state.clone());
                if matches!(running, Some(ProcessState::Running { .. })) || !inner.starting.insert(spec.id.clone()) {
                    return Err(taken());
                }
                let at = self.begun.elapsed().as_secs_f64();
                inner.starts.entry(spec.id.clone()).or_default().push((at, spec.port));
                std::mem::take(&mut inner.start_takes)
            };
            if !takes.is_zero() {
                tokio::time::sleep(takes).await;
            }
            self.inner().starting.remove(&spec.id);
            self.begin(spec)
        }
        .boxed()
    }

    fn processes(&self) -> BoxFuture<'_, io::Result<BTreeMap<InstanceId, Process>>> {
        async move {
            if self.inner().hanging {
                std::future::pending::<()>().await;
            }
            Ok(self.inner().processes.clone())
        }
        .boxed()
    }

    fn signal<'a>(&'a self, id: &'a InstanceId, signal: i32) -> BoxFuture<'a, io::Result<()>> {
        async move {
            self.inner().signals.entry(id.clone()).or_default().push(signal);
            let deaf = self.inner().processes.get(id).is_some_and(|process| process.spec.command[0] == "deaf");
            if signal == 9 || !deaf {
                let host = self.clone();
                let id = id.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(30)).await;
                    host.finish(&id, None, ProcessState::Killed { signal });
                });
            }
            Ok(())
        }
        .boxed()
    }

    fn prolong<'a>(&'a self, id: &'a InstanceId, until: Timestamp) -> BoxFuture<'a, io::Result<()>> {
        async move {
            let mut inner = self.inner();
            if inner.silent_guard {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the guard of this host does not answer"));
            }
            if let Some(process) = inner.processes.get_mut(id) {
                process.spec.deadline = Some(until);
            }
            Ok(())
        }
        .boxed()
    }

    fn forget<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, io::Result<()>> {
        async move {
            self.inner().processes.remove(id);
            Ok(())
        }
        .boxed()
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        async move { self.ended.notified().await }.boxed()
    }

    fn output<'a>(&'a self, id: &'a InstanceId, _: OutputFrom) -> BoxFuture<'a, io::Result<Output>> {
        async move {
            let process = self.inner().processes.get(id).cloned().ok_or(io::ErrorKind::NotFound)?;
            let words = match process.spec.command[0].split(' ').next() {
                Some("crash") => "no such table",
                Some("taken") => "OSError: [Errno 98] Address already in use",
                _ => "",
            };
            let bytes = format!("2026-01-01T00:00:00.000Z o begins\n2026-01-01T00:00:00.000Z e {words}\n").into_bytes();
            Ok(Output { next: bytes.len() as u64, bytes })
        }
        .boxed()
    }

    fn own_folder(&self, id: &InstanceId) -> Option<String> {
        assert!(id.service.as_str() != "poison", "no folder for {id}");
        None
    }

    fn listen(&self, _: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        async { Err(io::ErrorKind::Unsupported.into()) }.boxed()
    }

    fn connect(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<BoxStream>> {
        async move {
            let answer = self.answer_of(addr).ok_or(io::ErrorKind::ConnectionRefused)?;
            let (near, mut far) = tokio::io::duplex(4096);
            tokio::spawn(async move {
                let mut request = vec![0; 4096];
                let _ = far.read(&mut request).await;
                if answer.is_empty() {
                    std::future::pending::<()>().await;
                }
                let _ = far.write_all(answer.as_bytes()).await;
            });
            Ok(Box::new(near) as BoxStream)
        }
        .boxed()
    }

    fn port_is_free(&self, addr: SocketAddr) -> bool {
        !self
            .inner()
            .processes
            .values()
            .any(|process| process.spec.port == addr.port() && matches!(process.state, ProcessState::Running { .. }))
    }

    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.inner().files.get(path).cloned())
    }

    fn write(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.inner();
        inner.writes += 1;
        inner.files.insert(path.to_owned(), bytes.to_owned());
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.inner().files.remove(path);
        Ok(())
    }
}
