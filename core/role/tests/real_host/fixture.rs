//! A real host in a folder of its own, and waiting for conditions.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hirsel_mesh::seam::real::OsNet;
use hirsel_model::{InstanceId, Revision};
use hirsel_role::Host;
use hirsel_role::host::real::{Groups, GuardConfig, RealHost, RealHostConfig};
use hirsel_role::host::{OutputFrom, ProcessSpec, ProcessState};

/// Far longer than anything here takes, on a machine that does other things too.
const WAIT_MAX: Duration = Duration::from_secs(20);

pub fn run<F: Future<Output = ()>>(test: fn(Fixture) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let fixture = Fixture::on(folder.path(), Groups::IfPossible);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(test(fixture))));
    // Nothing a failed test started goes on, and no guard waits for deadlines that are an hour away.
    runtime.block_on(async {
        let on = Fixture::on(folder.path(), Groups::IfPossible);
        for id in on.host.processes().await.unwrap().into_keys() {
            on.host.signal(&id, 9).await.unwrap();
        }
        on.guard().into_iter().for_each(crate::life::kill);
    });
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

pub struct Fixture {
    pub folder: PathBuf,
    pub host: RealHost,
}

/// Command lines that make this executable a shim or a guard.
fn becomes(what: &str) -> Vec<String> {
    vec![std::env::current_exe().unwrap().to_str().unwrap().to_owned(), what.into()]
}

impl Fixture {
    fn on(folder: &Path, groups: Groups) -> Self {
        Self { folder: folder.to_owned(), host: host(folder, groups, becomes("guard")) }
    }

    /// The agent ends and another one starts on the same folder.
    pub fn restart(&mut self) {
        *self = Self::on(&self.folder, Groups::IfPossible);
    }

    /// The same, on a host without control groups.
    pub fn restart_without_groups(&mut self) {
        *self = Self::on(&self.folder, Groups::Never);
    }

    /// The same, on a host that starts no guard.
    pub fn restart_without_guards(&mut self) {
        self.host = host(&self.folder, Groups::IfPossible, vec!["/bin/false".into()]);
    }

    /// A host on another folder.
    pub fn elsewhere(folder: &Path) -> RealHost {
        Self::on(folder, Groups::IfPossible).host
    }

    /// The process id of the guard, if there is one.
    pub fn guard(&self) -> Option<u32> {
        let folder = self.folder.join("guard");
        let words = |pid: &u32| std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let ends = |words: Vec<u8>| words.strip_suffix(b"\0").is_some_and(|words| words.ends_with(path(&folder)));
        pids().find(|pid| runs(*pid) && ends(words(pid)))
    }

    pub fn folder_of(&self, id: &InstanceId) -> PathBuf {
        self.folder.join("processes").join(id.to_string().replace('/', "."))
    }

    pub async fn state(&self, id: &InstanceId) -> Option<ProcessState> {
        self.host.processes().await.unwrap().remove(id).map(|process| process.state)
    }

    pub async fn pid(&self, id: &InstanceId) -> u32 {
        match self.state(id).await {
            Some(ProcessState::Running { pid }) => pid,
            other => panic!("{id} does not run: {other:?}"),
        }
    }

    /// How the process ended, as learned by waiting for changes.
    pub async fn end(&self, id: &InstanceId) -> ProcessState {
        let end = async {
            loop {
                match self.state(id).await {
                    Some(ProcessState::Running { .. }) => self.host.changed().await,
                    Some(ended) => return ended,
                    None => panic!("{id} is not known"),
                }
            }
        };
        tokio::time::timeout(WAIT_MAX, end).await.expect("it ends")
    }

    /// What the process wrote to standard output and error, without times.
    pub async fn text(&self, id: &InstanceId) -> String {
        let (mut bytes, mut from) = (Vec::new(), 0);
        loop {
            let output = self.host.output(id, OutputFrom::Offset(from)).await.unwrap();
            if output.bytes.is_empty() {
                break;
            }
            bytes.extend(output.bytes);
            from = output.next;
        }
        let text = String::from_utf8(bytes).unwrap();
        text.lines().map(|line| format!("{}\n", line.split_once(' ').unwrap().1)).collect()
    }

    /// Waits until the output has this line.
    pub async fn line(&self, id: &InstanceId, line: &str) {
        let what = format!("the line {line:?}");
        eventually(&what, async || self.text(id).await.lines().any(|found| found == line)).await;
    }

    /// Runs a shell script to its end and returns its output.
    pub async fn output_of(&self, mut spec: ProcessSpec) -> String {
        spec.id = id("output/of/1");
        self.host.start(spec.clone()).await.unwrap();
        self.end(&spec.id).await;
        let text = self.text(&spec.id).await;
        self.host.forget(&spec.id).await.unwrap();
        text
    }
}

/// Waits for a condition.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let met = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(WAIT_MAX, met).await.unwrap_or_else(|_| panic!("waited in vain for {what}"));
}

fn host(folder: &Path, groups: Groups, guard: Vec<String>) -> RealHost {
    let guard = GuardConfig { folder: folder.join("guard"), command: guard };
    let config =
        RealHostConfig { folder: folder.to_owned(), shim: becomes("shim"), guard, groups, net: Arc::new(OsNet) };
    RealHost::new(config).unwrap()
}

fn path(path: &Path) -> &[u8] {
    path.as_os_str().as_encoded_bytes()
}

pub fn id(text: &str) -> InstanceId {
    text.parse().unwrap()
}

/// A shell script to run.
pub fn script(name: &str, text: &str) -> ProcessSpec {
    command(name, &["/bin/sh", "-c", text])
}

pub fn command(name: &str, command: &[&str]) -> ProcessSpec {
    ProcessSpec {
        id: id(name),
        revision: Revision(3),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        env: BTreeMap::from([("PATH".into(), "/usr/bin:/bin".into())]),
        secret_env: BTreeMap::new(),
        workdir: None,
        user: None,
        stop_signal: 15,
        port: 20_017,
        deadline: None,
        note: vec![1, 2, 3],
    }
}

/// Process ids of everything whose environment holds `NAME=value`.
pub fn carriers(entry: &str) -> Vec<u32> {
    pids()
        .filter(|pid| {
            let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environ.split(|byte| *byte == 0).any(|found| found == entry.as_bytes())
        })
        .collect()
}

pub fn pids() -> impl Iterator<Item = u32> {
    std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// State letter and parent of a process.
pub fn state_and_parent(pid: u32) -> Option<(char, u32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

pub fn runs(pid: u32) -> bool {
    state_and_parent(pid).is_some_and(|(state, _)| state != 'Z')
}
