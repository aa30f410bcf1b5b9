//! Learns of the end of a process that is no child of the agent, at once and without looking again and again.
#![allow(unsafe_code)] // Leaf around the registration of a descriptor with the runtime.

use std::io;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Where the kernel has no process descriptors (before Linux 5.3), processes are looked at this often.
const POLL_EVERY: Duration = Duration::from_millis(200);

/// Completes when the process has ended. None when it has ended already.
pub(super) fn end_of(pid: u32) -> Option<BoxFuture<'static, ()>> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
    match pidfd_open(pid, PidfdFlags::NONBLOCK) {
        // SAFETY: an `OwnedFd` is open, stays what it is, and is owned by the `AsyncFd` until that is dropped.
        Ok(fd) => match unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) } {
            Ok(fd) => Some(async move { drop(fd.readable().await) }.boxed()),
            Err(_) => Some(tokio::time::sleep(POLL_EVERY).boxed()),
        },
        Err(error) if io::Error::from(error).raw_os_error() == Some(libc::ESRCH) => None,
        Err(_) => Some(tokio::time::sleep(POLL_EVERY).boxed()),
    }
}
