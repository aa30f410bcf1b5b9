//! Space on the disk of the data folder that is kept for the control log: a file of zeros that is given up when the disk fills.
//!
//! A program that fills the disk would otherwise stop the log of its node, and on three nodes the cluster's. With the reserve given up
//! the log goes on for a good while: an entry takes hundreds of bytes, and a snapshot a tenth of the state. It is made again once there
//! is room, so that the next time finds it. `doctor` shows whether it is there.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// In the data folder.
pub const FILE: &str = "reserve";
/// How much is kept: some ten thousand changes of a full cluster, and several snapshots.
const BYTES: u64 = 32 << 20;
/// With less than this free the reserve is given up, before a write fails: what the log takes while it is looked, and more.
const GIVE_UP_BELOW: u64 = 8 << 20;
/// With as much free beyond the reserve it is made again. Far from the other limit, so that one file does not make it come and go.
const MAKE_ABOVE: u64 = 128 << 20;
/// How often is looked. A disk that is written at full speed fills the limit within one look or two.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Written at once, where the file system cannot allocate.
const PIECE_BYTES: usize = 1 << 20;

/// What is to be done about the reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    Make,
    GiveUp,
}

/// With this much space free (for this user), and a reserve there or not.
fn step(free: u64, is_there: bool) -> Step {
    match is_there {
        true if free < GIVE_UP_BELOW => Step::GiveUp,
        false if free >= BYTES + MAKE_ABOVE => Step::Make,
        true | false => Step::Nothing,
    }
}

/// Whether there is a reserve in this data folder.
pub fn is_there(folder: &Path) -> bool {
    fs::metadata(folder.join(FILE)).is_ok_and(|found| found.len() == BYTES)
}

/// Looks after the reserve until `stop`.
pub async fn keep(folder: PathBuf, stop: CancellationToken) {
    loop {
        let looked = folder.clone();
        // Allocating may take as long as the disk likes.
        match tokio::task::spawn_blocking(move || look(&looked)).await {
            Ok(Ok(Step::GiveUp)) => {
                warn!(bytes = BYTES, "the disk is nearly full: the reserve is given up for the log")
            }
            Ok(Ok(Step::Make | Step::Nothing)) => {}
            Ok(Err(error)) => info!(%error, "no space is reserved for the control log"),
            Err(_) => return,
        }
        tokio::select! {
            () = sleep(LOOK_EVERY) => {}
            () = stop.cancelled() => return,
        }
    }
}

fn look(folder: &Path) -> io::Result<Step> {
    let stat = rustix::fs::statvfs(folder)?;
    let step = step(stat.f_bavail.saturating_mul(stat.f_frsize), is_there(folder));
    match step {
        Step::Nothing => {}
        Step::Make => make(folder)?,
        Step::GiveUp => fs::remove_file(folder.join(FILE))?,
    }
    Ok(step)
}

/// Makes the file under another name first, so that half of a reserve is none.
fn make(folder: &Path) -> io::Result<()> {
    let beside = folder.join("reserve.new");
    let made = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        if rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, BYTES).is_err() {
            let zeros = vec![0; PIECE_BYTES];
            (0..BYTES / PIECE_BYTES as u64).try_for_each(|_| file.write_all(&zeros))?;
        }
        file.sync_all()?;
        fs::rename(&beside, folder.join(FILE))
    })();
    if made.is_err() {
        let _ = fs::remove_file(&beside);
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_made_where_there_is_room_and_given_up_before_there_is_none() {
        assert_eq!(step(1 << 30, false), Step::Make);
        assert_eq!(step(1 << 30, true), Step::Nothing);
        assert_eq!(step(GIVE_UP_BELOW - 1, true), Step::GiveUp);
        assert_eq!(
            step(GIVE_UP_BELOW - 1 + BYTES, false),
            Step::Nothing,
            "what was given up is not taken back at once"
        );
        assert_eq!(step(0, false), Step::Nothing);
    }

    #[test]
    fn a_reserve_takes_space_and_goes_whole() {
        let folder = tempfile::tempdir().unwrap();
        make(folder.path()).unwrap();
        assert!(is_there(folder.path()));
        use std::os::unix::fs::MetadataExt;
        let blocks = fs::metadata(folder.path().join(FILE)).unwrap().blocks();
        assert!(blocks * 512 >= BYTES, "{blocks} blocks: a file with holes reserves nothing");
        fs::remove_file(folder.path().join(FILE)).unwrap();
        assert!(!is_there(folder.path()));
    }
}
