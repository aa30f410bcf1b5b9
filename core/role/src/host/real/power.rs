//! What runs under a data folder, seen from outside: for whoever switches a node of a cluster on one machine off, or freezes it.

use std::io;
use std::path::Path;

use super::processes::folders;
use crate::host::orphan;
use crate::host::procfs::{self, ProcessKey};

/// Process ids of the shims under the data folder `folder` and of all that they run; the shims come first, so that killing them in
/// order leaves nobody who could write down an end. A program that forks meanwhile may have a child more: repeat until there is none.
pub fn running_under(folder: &Path) -> io::Result<Vec<u32>> {
    let processes = match folders(&folder.join("processes")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let (boot, all) = (procfs::boot_id()?, procfs::all()?);
    let (mut shims, mut others) = (Vec::new(), Vec::new());
    for state in processes.into_iter().filter_map(|(_, folder)| folder.state().ok()) {
        if state.boot != boot || state.mark.is_empty() {
            continue;
        }
        shims.extend(state.shim.filter(|shim: &ProcessKey| shim.is_alive()).map(|shim| shim.pid));
        others.extend(orphan::belonging(&state, &all).into_iter().map(|stat| stat.pid));
    }
    shims.extend(others);
    Ok(shims)
}
