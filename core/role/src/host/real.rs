//! The real host: processes under shims, sockets of the operating system, files under the role's data folder.
//!
//! All there is to know about a process is on disk and in its lock, so that an agent that starts finds what the one before left:
//! - the lock is held: the shim lives, and its `state` names the program (or it is just starting);
//! - the lock is free and `state` tells an end: that is how it ended;
//! - the lock is free and `state` tells no end: the host was switched off, or somebody killed the shim. What the shim left running is
//!   ended, for nobody watches it, and the process is lost.
//!
//! What has a deadline is told to a guard as well, first of all, and ends in a group of its own where there are groups.
//!
//! One agent uses a folder at a time. Nothing here blocks the runtime: files and starts are left to its blocking threads.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, select_all};
use hirsel_mesh::seam::real::FolderVolume;
use hirsel_mesh::seam::volume::Volume;
use hirsel_mesh::seam::{BoxStream, Datagrams, Listener, Net};
use hirsel_model::{InstanceId, Timestamp};
use tokio::sync::Notify;

use super::floating::{Floating, HostNetwork};
use super::folder::{Durability, absent_is_fine, passable_folder, replace};
use super::journal::Journals;
use super::scratch::{Folders, Scratch};
use super::{GuardState, Host, Output, OutputFrom, Process, ProcessSpec};
use addresses::Addresses;
use guardian::Guardian;
use processes::Processes;

mod addresses;
mod end;
mod guardian;
mod power;
mod processes;
mod run;
mod shutdown;
mod user;

pub use power::running_under;

/// A change is reported without a cause after this time, so that whoever missed one looks again.
const CHANGED_EVERY: Duration = Duration::from_secs(5);

/// What a real host is made of.
#[derive(Clone, Debug)]
pub struct RealHostConfig {
    /// Data folder of the role; made when it is absent. It must be an absolute path, and passable for the users that programs run as.
    pub folder: PathBuf,
    /// The command that becomes a shim when the folder of a process is appended: `[current_exe, "shim"]`.
    pub shim: Vec<String>,
    /// What keeps deadlines besides the shims.
    pub guard: GuardConfig,
    /// Whether what has a deadline gets a group of its own.
    pub groups: Groups,
    /// Sockets.
    pub net: Arc<dyn Net>,
}

/// Where and how there is a guard, once there is something to guard.
#[derive(Clone, Debug)]
pub struct GuardConfig {
    /// Its folder; made when it is needed. Those of one agent may share it, and with it one guard.
    pub folder: PathBuf,
    /// The command that becomes a guard when its folder is appended: `[current_exe, "guard"]`.
    pub command: Vec<String>,
}

/// Whether processes are put into control groups, which nothing leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Groups {
    /// Where this agent may make them.
    IfPossible,
    /// Not at all: descendants, sessions and marks tell what belongs together.
    Never,
}

/// The machine this agent runs on.
#[derive(Debug)]
pub struct RealHost {
    processes: Arc<Processes>,
    addresses: Arc<Addresses>,
    files: PathBuf,
    journals: Arc<Journals>,
    scratch: Arc<Folders>,
    disk: PathBuf,
    executable: Option<String>,
    net: Arc<dyn Net>,
    /// A process ended, was started or forgotten.
    moved: Notify,
}

impl RealHost {
    /// The host with its folder at hand. What runs from before is found by the first [`Host::processes`].
    pub fn new(config: RealHostConfig) -> io::Result<RealHost> {
        if !config.folder.is_absolute() {
            let message = format!("the data folder {} is no absolute path", config.folder.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let files = config.folder.join("files");
        passable_folder(&config.folder)?;
        fs::create_dir_all(&files)?;
        let executable = config.shim.first().cloned();
        let addresses = Arc::new(Addresses::new(Guardian::new(config.guard.clone())));
        let guardian = Guardian::new(config.guard);
        let processes =
            Arc::new(Processes::open(config.folder.join("processes"), config.shim, guardian, config.groups)?);
        let journals = Arc::new(Journals::new(config.folder.join("journals")));
        let scratch = Arc::new(Folders::new(config.folder.join("scratch")));
        Ok(RealHost {
            processes,
            addresses,
            files,
            journals,
            scratch,
            disk: config.folder.join("disk"),
            executable,
            net: config.net,
            moved: Notify::new(),
        })
    }

    /// A folder for data, which is made if it is this host's own to choose.
    fn data_folder(&self, path: Option<&str>) -> io::Result<PathBuf> {
        let Some(path) = path else {
            fs::create_dir_all(&self.disk)?;
            return Ok(self.disk.clone());
        };
        Ok(PathBuf::from(path))
    }

    async fn blocking<T, F>(&self, work: F) -> io::Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Processes) -> io::Result<T> + Send + 'static,
    {
        let processes = Arc::clone(&self.processes);
        tokio::task::spawn_blocking(move || work(&processes)).await.map_err(io::Error::other)?
    }

    async fn addressing<T, F>(&self, work: F) -> io::Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Addresses) -> io::Result<T> + Send + 'static,
    {
        let addresses = Arc::clone(&self.addresses);
        tokio::task::spawn_blocking(move || work(&addresses)).await.map_err(io::Error::other)?
    }

    /// A path under the files of the role; refuses what would leave them.
    fn file(&self, path: &str) -> io::Result<PathBuf> {
        let inside = Path::new(path).components().all(|part| matches!(part, std::path::Component::Normal(_)));
        if path.is_empty() || !inside {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{path:?} is no path inside the data folder"),
            ));
        }
        Ok(self.files.join(path))
    }
}

impl Host for RealHost {
    fn start(&self, spec: ProcessSpec) -> BoxFuture<'_, io::Result<()>> {
        async move {
            let result = self.blocking(move |processes| processes.start(spec)).await;
            self.moved.notify_waiters();
            result
        }
        .boxed()
    }

    fn processes(&self) -> BoxFuture<'_, io::Result<BTreeMap<InstanceId, Process>>> {
        async move {
            let (found, moved) = self.blocking(Processes::scan).await?;
            if moved {
                // Whoever waits for a change waits for the end of other processes from now on.
                self.moved.notify_waiters();
            }
            Ok(found)
        }
        .boxed()
    }

    fn signal<'a>(&'a self, id: &'a InstanceId, signal: i32) -> BoxFuture<'a, io::Result<()>> {
        let id = id.clone();
        self.blocking(move |processes| processes.signal(&id, signal)).boxed()
    }

    fn prolong<'a>(&'a self, id: &'a InstanceId, until: Timestamp) -> BoxFuture<'a, io::Result<()>> {
        let id = id.clone();
        self.blocking(move |processes| processes.prolong(&id, until)).boxed()
    }

    fn guard(&self) -> BoxFuture<'_, GuardState> {
        async move {
            let state = self.blocking(|processes| Ok(processes.guard())).await;
            state.unwrap_or_else(|error| GuardState::Silent { message: error.to_string() })
        }
        .boxed()
    }

    fn is_shutting_down(&self) -> BoxFuture<'_, bool> {
        async { tokio::task::spawn_blocking(shutdown::is_under_way).await.unwrap_or(false) }.boxed()
    }

    fn forget<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, io::Result<()>> {
        let id = id.clone();
        self.blocking(move |processes| processes.forget(&id)).boxed()
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        async move {
            let moved = self.moved.notified();
            let ended = async {
                let mut ends = Vec::new();
                for pid in self.processes.watched() {
                    match end::end_of(pid) {
                        Some(end) => ends.push(end),
                        None => return,
                    }
                }
                if ends.is_empty() {
                    std::future::pending::<()>().await;
                }
                select_all(ends).await;
            };
            tokio::select! {
                () = moved => {}
                () = ended => {}
                () = tokio::time::sleep(CHANGED_EVERY) => {}
            }
        }
        .boxed()
    }

    fn output<'a>(&'a self, id: &'a InstanceId, from: OutputFrom) -> BoxFuture<'a, io::Result<Output>> {
        let id = id.clone();
        self.blocking(move |processes| processes.output(&id, from)).boxed()
    }

    fn listen_ahead(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        self.net.listen_ahead(addr)
    }

    fn network(&self) -> BoxFuture<'_, io::Result<HostNetwork>> {
        self.addressing(|_| Addresses::network()).boxed()
    }

    fn hold<'a>(&'a self, floating: &'a Floating, until: Timestamp) -> BoxFuture<'a, io::Result<()>> {
        let floating = floating.clone();
        self.addressing(move |addresses| addresses.hold(&floating, until)).boxed()
    }

    fn let_go<'a>(&'a self, floating: &'a Floating) -> BoxFuture<'a, io::Result<()>> {
        let floating = floating.clone();
        self.addressing(move |addresses| addresses.let_go(&floating)).boxed()
    }

    fn announce<'a>(&'a self, floating: &'a Floating) -> BoxFuture<'a, io::Result<()>> {
        let floating = floating.clone();
        self.addressing(move |_| super::announce::announce(&floating)).boxed()
    }

    fn run<'a>(
        &'a self,
        command: &'a [String],
        env: &'a [(&'static str, String)],
        limit: Duration,
    ) -> BoxFuture<'a, Result<(), String>> {
        run::run(command, env, limit).boxed()
    }

    fn udp_on<'a>(&'a self, at: IpAddr, port: u16, interface: &'a str) -> BoxFuture<'a, io::Result<Datagrams>> {
        let socket = self.net.udp_on(SocketAddr::new(at, port), interface);
        Box::pin(async move { Ok(Datagrams::new(socket.await?)) })
    }

    fn udp(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<Datagrams>> {
        Box::pin(async move { Ok(Datagrams::new(self.net.udp(addr).await?)) })
    }

    fn udp_ahead(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<Datagrams>> {
        Box::pin(async move { Ok(Datagrams::new(self.net.udp_ahead(addr).await?)) })
    }

    fn listen(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        self.net.listen(addr)
    }

    fn connect(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<BoxStream>> {
        self.net.connect(addr)
    }

    fn resolve<'a>(&'a self, name: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((name, port)).await?.collect()) })
    }

    fn port_is_free(&self, addr: SocketAddr) -> bool {
        TcpListener::bind(addr).is_ok()
    }

    fn executable(&self) -> Option<String> {
        self.executable.clone()
    }

    fn own_folder(&self, id: &InstanceId) -> Option<String> {
        self.processes.work(id).into_os_string().into_string().ok()
    }

    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.file(path)?) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn write(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.file(path)?;
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        replace(&path, bytes, Durability::Synced)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        absent_is_fine(fs::remove_file(self.file(path)?))
    }

    fn volume(&self, path: Option<&str>) -> io::Result<Arc<dyn Volume>> {
        Ok(Arc::new(FolderVolume::open(&self.data_folder(path)?)?))
    }

    fn scratch(&self) -> Option<Arc<dyn Scratch>> {
        Some(self.scratch.clone())
    }

    fn append<'a>(&'a self, name: &'a str, lines: Vec<u8>) -> BoxFuture<'a, bool> {
        let (journals, name) = (self.journals.clone(), name.to_owned());
        let work = tokio::task::spawn_blocking(move || journals.append(&name, &lines));
        async move { work.await.unwrap_or(false) }.boxed()
    }

    fn journal<'a>(&'a self, name: &'a str, from: OutputFrom) -> BoxFuture<'a, io::Result<Output>> {
        let (journals, name) = (self.journals.clone(), name.to_owned());
        let work = tokio::task::spawn_blocking(move || journals.read(&name, from));
        async move { work.await.map_err(io::Error::other)? }.boxed()
    }
}
