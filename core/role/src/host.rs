//! The host seam: what a plugin may do to the machine it runs on. A plugin that reaches for `tokio::process`, `std::process`,
//! `std::fs` or a socket by itself fails a test; everything goes through here, so that plugins run unchanged in simulation.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures::future::BoxFuture;
use hirsel_mesh::seam::volume::Volume;
use hirsel_mesh::seam::{BoxStream, Datagrams, Listener};
use hirsel_model::{InstanceId, Revision, Timestamp};
use serde::{Deserialize, Serialize};

use crate::secret::Plain;
use floating::{Floating, HostNetwork};
use scratch::Scratch;

mod announce;
mod deadline;
pub mod floating;
mod folder;
mod group;
pub mod guard;
mod journal;
mod netlink;
mod orphan;
mod output;
mod procfs;
pub mod real;
pub mod scratch;
pub mod shim;

pub use output::rfc3339;

/// The machine, as a plugin may touch it.
///
/// Processes outlive the agent: each is watched over by a shim of its own, which keeps its identity and exit status on disk. A
/// process is addressed by its instance id.
pub trait Host: Send + Sync {
    /// Starts a process under a shim and returns when it runs (or could not be started: it is then also listed as
    /// [`ProcessState::Lost`]). Refuses an id that runs already; one that ended is replaced, and its output goes on.
    /// One with a deadline is not started where no guard keeps that too. A start goes on when the future is dropped.
    fn start(&self, spec: ProcessSpec) -> BoxFuture<'_, io::Result<()>>;
    /// Every process this host knows of: running ones (their identity verified: pid, start time, instance id) and ended ones that
    /// were not forgotten yet. After a restart of the agent this is the adoption scan.
    fn processes(&self) -> BoxFuture<'_, io::Result<BTreeMap<InstanceId, Process>>>;
    /// Sends `signal` to the whole group of the process (9 ends every descendant). No error when it has ended.
    fn signal<'a>(&'a self, id: &'a InstanceId, signal: i32) -> BoxFuture<'a, io::Result<()>>;
    /// Moves the moment at which the process is ended by force ([`ProcessSpec::deadline`]) to `until`, earlier or later. No error when
    /// it has ended. An error says that the guard of this host does not know of it: then the process ends when it had to end before.
    fn prolong<'a>(&'a self, id: &'a InstanceId, until: Timestamp) -> BoxFuture<'a, io::Result<()>>;
    /// How the guard of this host is: the process that ends what has a deadline even if this agent and shims stand still. Takes at most
    /// some hundred milliseconds.
    fn guard(&self) -> BoxFuture<'_, GuardState> {
        Box::pin(std::future::ready(GuardState::Unneeded))
    }
    /// Whether the whole machine is being switched off or started anew, as far as that can be told; otherwise it is taken for not. Takes at
    /// most half a second.
    fn is_shutting_down(&self) -> BoxFuture<'_, bool> {
        Box::pin(std::future::ready(false))
    }
    /// Forgets an ended process with its status and output. Refuses while it runs.
    fn forget<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, io::Result<()>>;
    /// Completes when some process that [`Host::processes`] told to run has ended (or spuriously).
    fn changed(&self) -> BoxFuture<'_, ()>;
    /// The last `bytes` of what the process wrote (both streams, as lines `RFC3339 o|e text`), and the offset to go on from.
    fn output<'a>(&'a self, id: &'a InstanceId, from: OutputFrom) -> BoxFuture<'a, io::Result<Output>>;

    /// Listens for TCP.
    fn listen(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>>;
    /// Listens for TCP at an address that this host may have later only.
    fn listen_ahead(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        self.listen(addr)
    }
    /// What this host has of interfaces and addresses.
    fn network(&self) -> BoxFuture<'_, io::Result<HostNetwork>> {
        Box::pin(std::future::ready(Err(io::ErrorKind::Unsupported.into())))
    }
    /// Puts a floating address on its interface, unless it is there, and has the guard take it off again at `until`, whether an agent runs
    /// or not. An error may leave it there until then.
    fn hold<'a>(&'a self, _floating: &'a Floating, _until: Timestamp) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(std::future::ready(Err(io::ErrorKind::Unsupported.into())))
    }
    /// Takes a floating address off its interface. No error where it is not there.
    fn let_go<'a>(&'a self, _floating: &'a Floating) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(std::future::ready(Err(io::ErrorKind::Unsupported.into())))
    }
    /// Tells the neighbours once that this host has a floating address now.
    fn announce<'a>(&'a self, _floating: &'a Floating) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(std::future::ready(Err(io::ErrorKind::Unsupported.into())))
    }
    /// Runs a program of the operator to its end, with no input, `env` and the usual `PATH` for its environment, and `/` for its folder. It
    /// and its group are killed when it has not ended after `limit`, and when the future is dropped. An error says in words how it ended
    /// where it did not end well.
    fn run<'a>(
        &'a self,
        _command: &'a [String],
        _env: &'a [(&'static str, String)],
        _limit: Duration,
    ) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(std::future::ready(Err("this host runs no programs for its operator".into())))
    }
    /// A socket for UDP at an address of one interface, which sends and hears there only.
    fn udp_on<'a>(&'a self, _at: IpAddr, _port: u16, _interface: &'a str) -> BoxFuture<'a, io::Result<Datagrams>> {
        Box::pin(std::future::ready(Err(io::ErrorKind::Unsupported.into())))
    }
    /// A socket for UDP.
    fn udp(&self, _addr: SocketAddr) -> BoxFuture<'_, io::Result<Datagrams>> {
        Box::pin(std::future::ready(Err(io::ErrorKind::Unsupported.into())))
    }
    /// A socket for UDP at an address that this host may have later only.
    fn udp_ahead(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<Datagrams>> {
        self.udp(addr)
    }
    /// Connects by TCP.
    fn connect(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<BoxStream>>;
    /// Addresses of `name`, which may be written as an address itself.
    fn resolve<'a>(&'a self, name: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        let parsed = name.parse::<std::net::IpAddr>().map(|ip| vec![SocketAddr::new(ip, port)]);
        let unknown = io::Error::new(io::ErrorKind::NotFound, "this host resolves no names");
        Box::pin(std::future::ready(parsed.map_err(|_| unknown)))
    }
    /// Whether a port of `addr` can be listened on now.
    fn port_is_free(&self, addr: SocketAddr) -> bool;
    /// Path of the executable of this agent, where programs can run it.
    fn executable(&self) -> Option<String> {
        None
    }
    /// Path of the instance's own folder, which is made when it starts and removed when it is forgotten.
    fn own_folder(&self, _id: &InstanceId) -> Option<String> {
        None
    }

    /// The whole file under the role's data folder, or none.
    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>>;
    /// Replaces a file under the role's data folder, durably and whole.
    fn write(&self, path: &str, bytes: &[u8]) -> io::Result<()>;
    /// Removes a file under the role's data folder.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// A folder on a disk for data that is the role's to keep safe: the one at `path`, which must be there, or `disk` in the role's own
    /// folder, which is made. Refused while somebody else uses it. It blocks for a moment.
    fn volume(&self, _path: Option<&str>) -> io::Result<std::sync::Arc<dyn Volume>> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "this host has no disk for data"))
    }

    /// Files that the role can do without; none where there are none, as in a simulation.
    fn scratch(&self) -> Option<std::sync::Arc<dyn Scratch>> {
        None
    }

    /// Appends whole lines to the journal `name` of the role, which takes a bounded room of the disk: the oldest lines give way. False if
    /// not all of them arrived, as on a full disk.
    fn append<'a>(&'a self, _name: &'a str, _lines: Vec<u8>) -> BoxFuture<'a, bool> {
        Box::pin(std::future::ready(false))
    }
    /// Whole lines of the journal `name`, and the offset to go on from.
    fn journal<'a>(&'a self, _name: &'a str, _from: OutputFrom) -> BoxFuture<'a, io::Result<Output>> {
        Box::pin(std::future::ready(Err(io::ErrorKind::Unsupported.into())))
    }
}

/// A process to start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessSpec {
    /// Which instance it is.
    pub id: InstanceId,
    /// Which revision it runs.
    pub revision: Revision,
    /// Program and arguments, variables already put in.
    pub command: Vec<String>,
    /// Complete environment. The real host adds `HIRSEL_RUN`, by which it finds stray descendants.
    pub env: BTreeMap<String, String>,
    /// Variables that are not to be seen. They go to the program and nowhere else: no file holds them, and a process that is looked at
    /// later shows none.
    #[serde(skip)]
    pub secret_env: BTreeMap<String, Plain>,
    /// Folder to run in; the instance's own folder when none is given.
    pub workdir: Option<String>,
    /// System user; the agent's own when none is given.
    pub user: Option<String>,
    /// Signal that asks it to stop; the shim sends it when it is told to end by itself.
    pub stop_signal: i32,
    /// The port it was given.
    pub port: u16,
    /// When it is ended by force unless that is put off ([`Host::prolong`]), whether an agent runs or not: a moment of the host's
    /// clock (`CLOCK_BOOTTIME`), so that time during which the host sleeps counts. None for never.
    #[serde(default)]
    pub deadline: Option<Timestamp>,
    /// Whatever the role wants to find again at adoption.
    pub note: Vec<u8>,
}

/// A process as the host knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// As it was started.
    pub spec: ProcessSpec,
    /// How it is.
    pub state: ProcessState,
}

/// How a process is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProcessState {
    /// Runs under this process id.
    Running {
        /// Process id; 0 while it is being started, and while something of it is left that does not end.
        pid: u32,
    },
    /// Returned this status.
    Exited {
        /// 0 to 255.
        code: i32,
    },
    /// Was ended by this signal.
    Killed {
        /// Signal number.
        signal: i32,
    },
    /// Could not be started, or its shim is gone without a word (the host was switched off).
    Lost {
        /// What is known, for people.
        message: String,
    },
}

/// How the guard of a host is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuardState {
    /// Nothing has a deadline, so that there need not be one.
    Unneeded,
    /// It answers.
    Watches {
        /// How many processes it guards.
        guards: usize,
    },
    /// It is missing or does not answer: no deadline is put off.
    Silent {
        /// What was tried, for people.
        message: String,
    },
}

/// Why a process ended whose deadline passed, in words.
const LAPSED: &str = "was ended: nobody renewed its grant in time";

impl ProcessState {
    /// Ended, or not even begun, because its deadline passed.
    pub fn lapsed() -> Self {
        Self::Lost { message: LAPSED.into() }
    }

    /// Whether it ended because its deadline passed: no fault of the program.
    pub fn is_lapsed(&self) -> bool {
        matches!(self, Self::Lost { message } if message == LAPSED)
    }
}

/// Where to read output from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OutputFrom {
    /// The last so many bytes.
    Tail(u64),
    /// From this offset on.
    Offset(u64),
}

/// A piece of output.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Whole lines.
    pub bytes: Vec<u8>,
    /// The offset after them.
    pub next: u64,
}
