//! The few system calls that shims and the guard need and no safe library offers: becoming a background process, receiving signals as
//! bytes, and preparing a child between fork and exec.
#![allow(unsafe_code)] // Leaf of raw system calls; each block says why it is sound.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus};
use std::ptr;

use std::os::unix::process::ExitStatusExt;

use hirsel_model::Timestamp;

use crate::host::deadline;
use crate::host::folder::Identity;

/// Goes on in a child of its own session, whose parent has ended, with nothing open but its three streams. The caller must have no
/// other thread, and nothing open of its own.
pub(in crate::host) fn into_background() -> io::Result<()> {
    // SAFETY: whatever is open came from the agent by mistake; nothing of this process refers to it.
    unsafe { each_other_descriptor(0, close) };
    // SAFETY: there is no other thread whose locks the child could miss.
    match unsafe { libc::fork() } {
        -1 => return Err(io::Error::last_os_error()),
        0 => {}
        // SAFETY: ends this process at once; its copy of everything belongs to the child now.
        _ => unsafe { libc::_exit(0) },
    }
    // SAFETY: no arguments; fails only for the leader of a group, which a fresh child is not.
    match unsafe { libc::setsid() } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// From now on no signal interrupts or ends this process (but those that cannot be blocked); `SIGCHLD` and `SIGTERM` are read from
/// the returned descriptor.
pub(in crate::host) fn signals() -> io::Result<OwnedFd> {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    let mut heard = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: both sets are initialized by the calls before they are used; the descriptor returned is owned by nobody else.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::sigemptyset(heard.as_mut_ptr());
        libc::sigaddset(heard.as_mut_ptr(), libc::SIGCHLD);
        libc::sigaddset(heard.as_mut_ptr(), libc::SIGTERM);
        // A fault of our own must end us, not hang.
        for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT] {
            libc::sigdelset(all.as_mut_ptr(), signal);
        }
        if libc::sigprocmask(libc::SIG_SETMASK, all.as_ptr(), ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        match libc::signalfd(-1, heard.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

/// The number of a signal read from [`signals`], at the start of its record of [`SIGNAL_BYTES`] (signalfd(2)).
pub(super) fn signal_of(record: &[u8]) -> Option<i32> {
    let number = record.get(..4)?.try_into().ok()?;
    i32::try_from(u32::from_ne_bytes(number)).ok()
}

/// Length of one record read from [`signals`].
pub(super) const SIGNAL_BYTES: usize = size_of::<libc::signalfd_siginfo>();

/// What a look for ended children found.
pub(super) enum Reaped {
    /// This one had ended.
    Child(u32, ExitStatus),
    /// There are children, none has ended.
    Nothing,
    /// There are no children at all.
    Childless,
}

/// Takes note of one ended child, without waiting.
pub(super) fn reap() -> Reaped {
    let mut status = 0;
    // SAFETY: `status` is a valid place for an int.
    match unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) } {
        0 => Reaped::Nothing,
        -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => Reaped::Nothing,
        -1 => Reaped::Childless,
        pid => Reaped::Child(pid.unsigned_abs(), ExitStatus::from_raw(status)),
    }
}

/// Sends a signal to one process.
pub(crate) fn kill(pid: u32, signal: i32) {
    let Ok(pid @ 2..) = libc::pid_t::try_from(pid) else { return };
    // SAFETY: plain values. That it is gone already is no error here.
    unsafe { libc::kill(pid, signal) };
}

/// Sends a signal to a process group.
pub(super) fn kill_group(group: u32, signal: i32) {
    let Ok(group @ 2..) = libc::pid_t::try_from(group) else { return };
    // SAFETY: plain values; a group of 0 or 1, which would mean others, is excluded above.
    unsafe { libc::kill(-group, signal) };
}

/// Soft limit of open files of a program: enough for a server, small enough for programs that close all of them in a loop.
const OPEN_FILES: libc::rlim_t = 65_536;

/// Makes `command` begin as a program expects to: a session of its own, default signals, nothing open but its three streams, sane
/// limits, the given user, and the group whose `door` is given. One with a deadline is ended by the kernel with this process, and does not
/// begin once its group is removed or the deadline has come, however long this process stood still meanwhile.
pub(super) fn prepare(
    command: &mut Command,
    identity: Option<Identity>,
    door: Option<File>,
    deadline: Option<Timestamp>,
) {
    let us = std::process::id();
    let prepare = move || {
        // SAFETY: system calls with plain values or pointers to live locals, in a child that has one thread.
        unsafe {
            check(libc::setsid())?;
            // While it still may, and before anything that it could fork.
            if let Some(door) = &door
                && libc::write(door.as_raw_fd(), c"0".as_ptr().cast(), 1) == -1
            {
                let error = io::Error::last_os_error();
                // One that may not join is found in other ways; one whose group is gone comes too late.
                if error.raw_os_error() == Some(libc::ENODEV) {
                    return Err(error);
                }
            }
            for signal in 1..=libc::SIGRTMAX() {
                // Refused for SIGKILL, SIGSTOP and those the C library keeps: they are as they should be.
                libc::signal(signal, libc::SIG_DFL);
            }
            let mut none = MaybeUninit::<libc::sigset_t>::uninit();
            libc::sigemptyset(none.as_mut_ptr());
            check(libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut()))?;
            libc::umask(0o022);
            limit(libc::RLIMIT_NOFILE, OPEN_FILES);
            // A crash loop must not fill the disk.
            limit(libc::RLIMIT_CORE, 0);
            if let Some(identity) = &identity {
                check(libc::setgroups(identity.groups.len(), identity.groups.as_ptr()))?;
                check(libc::setgid(identity.gid))?;
                check(libc::setuid(identity.uid))?;
            }
            if let Some(deadline) = deadline {
                // After the change of user, which would undo it.
                check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
                if libc::getppid().unsigned_abs() != us || deadline::now() >= deadline {
                    return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT));
                }
            }
            each_other_descriptor(libc::CLOSE_RANGE_CLOEXEC, close_at_exec);
        }
        Ok(())
    };
    // SAFETY: the closure runs in the child of a process with one thread, so that allocating or locking in it cannot hang.
    unsafe { command.pre_exec(prepare) };
}

/// Lowers (or raises, within what is allowed) a soft limit. Best effort: a program starts without.
unsafe fn limit(resource: libc::__rlimit_resource_t, soft: libc::rlim_t) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` lives through both calls.
    unsafe {
        if libc::getrlimit(resource, &raw mut limit) == 0 {
            limit.rlim_cur = soft.min(limit.rlim_max);
            libc::setrlimit(resource, &raw const limit);
        }
    }
}

/// Does to all descriptors but the first three what `flags` of close_range(2) ask, or `otherwise` one by one before Linux 5.11.
unsafe fn each_other_descriptor(flags: libc::c_uint, otherwise: unsafe fn(libc::c_int)) {
    // SAFETY: plain values; what it means to lose the descriptors is the caller's to know.
    if unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, flags) } != 0 {
        for fd in 3..1024 {
            // SAFETY: a number that is not open is refused.
            unsafe { otherwise(fd) };
        }
    }
}

unsafe fn close(fd: libc::c_int) {
    // SAFETY: see `each_other_descriptor`.
    unsafe { libc::close(fd) };
}

unsafe fn close_at_exec(fd: libc::c_int) {
    // SAFETY: see `each_other_descriptor`.
    unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Lets go of the standard output that the agent waits on for its end.
pub(in crate::host) fn close_stdout() -> io::Result<()> {
    let null = File::options().write(true).open("/dev/null")?;
    // SAFETY: both descriptors are open.
    check(unsafe { libc::dup2(null.as_raw_fd(), libc::STDOUT_FILENO) })
}

/// What `ps` shows as the name of this process: at most 15 bytes of it.
pub(in crate::host) fn name_process(name: &'static CStr) {
    // SAFETY: the name is a C string, which is cut by the kernel.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}
