//! Processes, and what the kernel says of them.

use std::fs;
use std::iter::Sum;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::{Add, AddAssign, Sub};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Seconds of processor time.
#[derive(Clone, Copy, Default)]
pub struct Cpu {
    pub user: f64,
    pub system: f64,
}

impl Cpu {
    pub fn total(self) -> f64 {
        self.user + self.system
    }
}

impl Add for Cpu {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { user: self.user + other.user, system: self.system + other.system }
    }
}

impl AddAssign for Cpu {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Cpu {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self { user: self.user - other.user, system: self.system - other.system }
    }
}

impl Sum for Cpu {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Self::add)
    }
}

/// Where a process runs, if the machine has more than one processor and `taskset`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Processor {
    First,
    Others,
}

pub fn on(processor: Processor, program_: &str) -> Command {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let Some(taskset) = program("taskset").filter(|_| cores > 1) else { return Command::new(program_) };
    let list = if processor == Processor::First { "0".to_owned() } else { format!("1-{}", cores - 1) };
    let mut command = Command::new(taskset);
    command.args(["-c", &list, program_]);
    command
}

pub fn program(name: &str) -> Option<String> {
    ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"]
        .iter()
        .map(|folder| format!("{folder}/{name}"))
        .find(|path| Path::new(path).exists())
}

pub fn free_addr() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

pub fn wait_for(addr: SocketAddr) {
    let until = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(addr).is_err() {
        assert!(Instant::now() < until, "nothing listens on {addr}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A process and what it started.
fn family(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let children = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let children: Vec<u32> =
        children.flat_map(|line| line.split(' ').filter_map(|word| word.parse().ok()).collect::<Vec<_>>()).collect();
    std::iter::once(pid).chain(children.into_iter().flat_map(family)).collect()
}

/// Processor time of a process and what it started, with all threads.
pub fn cpu(pid: u32) -> Cpu {
    let of = |pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        // USER_HZ is 100 on every Linux.
        let seconds =
            |field: usize| fields.get(field).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0) / 100.0;
        Cpu { user: seconds(11), system: seconds(12) }
    };
    family(pid).into_iter().map(of).sum()
}

/// Bytes of a process and what it started that are resident and its own.
pub fn resident(pid: u32) -> u64 {
    let of = |pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or("0");
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1024
    };
    family(pid).into_iter().map(of).sum()
}

/// A process that is ended with this, and what it started.
pub struct Running(Child);

impl Running {
    pub fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let family = family(self.id());
        let _ = self.0.kill();
        let _ = self.0.wait();
        for pid in &family[1..] {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).stderr(Stdio::null()).status();
        }
    }
}
