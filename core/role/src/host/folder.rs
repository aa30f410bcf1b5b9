//! What agent and shim leave for each other in the folder of a process:
//!
//! | file | written by | holds |
//! |---|---|---|
//! | `lock` | | held (flock) from before the shim starts until it is gone, whatever ends it |
//! | `launch` | agent | what to run and as whom, without variables that are not to be seen; durable |
//! | `state` | shim | who it is, whom it started, and at last how that ended; whole or not at all |
//! | `control` | agent | a pipe with a name: each byte is a signal number to pass on |
//! | `output.N` | shim | output from offset N on; the last two of them are kept |
//! | `guard` | guard | is there when the guard ended program and shim, because the shim did not act at its deadline |
//! | `shim.err` | shim | what the shim itself complained about |
//! | `work/` | program | the instance's own folder |

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use hirsel_model::{InstanceId, codec};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::group::Group;
use super::procfs::ProcessKey;
use super::{ProcessSpec, ProcessState};

/// Largest `launch` or `state`: environment and arguments of a program are limited to 2 MiB by the kernel's default stack.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// What a shim is to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Launch {
    pub spec: ProcessSpec,
    pub identity: Option<Identity>,
    /// The folder of the group that the program begins in.
    #[serde(default)]
    pub group: Option<PathBuf>,
}

/// A user, already looked up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

/// What a shim says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShimState {
    /// The run of the kernel it is true for.
    pub boot: String,
    /// The instance it is about.
    pub id: InstanceId,
    /// The shim itself.
    pub shim: Option<ProcessKey>,
    /// Value of [`MARK`] in the environment of everything it started.
    pub mark: String,
    /// The program, once it was started.
    pub program: Option<ProcessKey>,
    /// How it ended.
    pub ended: Option<ProcessState>,
    /// The folder of the group it began in; none where there are no groups, and none from shims of earlier builds.
    #[serde(default)]
    pub group: Option<PathBuf>,
}

impl ShimState {
    /// The group it began in.
    pub(crate) fn group(&self) -> Option<Group> {
        self.group.clone().map(Group::new)
    }
}

/// The one variable that the host adds to a program's environment: the run it belongs to. A stray descendant is known by it.
pub(crate) const MARK: &str = "HIRSEL_RUN";

/// Begins the names of variables that a shim is given for its program and that no file holds.
pub(crate) const HIDDEN: &str = "HIRSEL_SHIM_HIDES_";

/// The folder of one process.
#[derive(Clone, Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// The folder of `id` in `parent`. Names hold no dot, so that no two ids share one.
    pub(crate) fn of(parent: &Path, id: &InstanceId) -> Self {
        Self(parent.join(format!("{}.{}.{}", id.app, id.service, id.number)))
    }

    /// The id that a folder of this name is of.
    pub(crate) fn id_of(name: &str) -> Option<InstanceId> {
        name.replace('.', "/").parse().ok()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
    pub(crate) fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }
    pub(crate) fn control(&self) -> PathBuf {
        self.0.join("control")
    }
    pub(crate) fn complaints(&self) -> PathBuf {
        self.0.join("shim.err")
    }
    pub(crate) fn work(&self) -> PathBuf {
        self.0.join("work")
    }

    pub(crate) fn launch(&self) -> io::Result<Launch> {
        read(&self.0.join("launch"))
    }
    pub(crate) fn write_launch(&self, launch: &Launch) -> io::Result<()> {
        replace(&self.0.join("launch"), &codec::encode(launch), Durability::Synced)
    }
    pub(crate) fn state(&self) -> io::Result<ShimState> {
        read(&self.0.join("state"))
    }
    /// Not synced: after a power failure the program does not run any more, whatever the file says.
    pub(crate) fn write_state(&self, state: &ShimState) -> io::Result<()> {
        replace(&self.0.join("state"), &codec::encode(state), Durability::Volatile)
    }
    pub(crate) fn remove_state(&self) -> io::Result<()> {
        absent_is_fine(fs::remove_file(self.0.join("guard")))?;
        absent_is_fine(fs::remove_file(self.0.join("state")))
    }
    /// Notes that the guard ended program and shim. Best effort: it is for people, and to tell whose fault it was.
    pub(crate) fn note_guard(&self) {
        let _ = File::create(self.0.join("guard"));
    }
    pub(crate) fn ended_by_guard(&self) -> bool {
        self.0.join("guard").exists()
    }
}

/// Whether a file must survive a power failure.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    Synced,
    Volatile,
}

/// Replaces a file whole: a reader finds the old one or the new one.
pub(crate) fn replace(path: &Path, bytes: &[u8], durability: Durability) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} is no file", path.display())));
    };
    let mut fresh = name.to_owned();
    fresh.push(".new");
    let fresh = parent.join(fresh);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(bytes)?;
    if durability == Durability::Synced {
        file.sync_all()?;
    }
    fs::rename(&fresh, path)?;
    if durability == Durability::Synced {
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

/// A folder that a program's user may pass through but not list.
pub(crate) fn passable_folder(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o711))
}

/// Whether an error of reading says what is on the disk (nothing, or garbage), and not merely that it could not be read now.
pub(crate) fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

pub(crate) fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    let length = fs::metadata(path)?.len();
    if length > FILE_BYTES_MAX {
        let message = format!("{} of {length} bytes exceeds {FILE_BYTES_MAX}", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    codec::decode(&fs::read(path)?).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
