//! Looks up a system user the way every program does, whatever the host keeps its users in.
#![allow(unsafe_code)] // Leaf around getpwnam_r and getgrouplist, for which there is no safe library among ours.

use std::ffi::CString;
use std::io;
use std::ptr;

use crate::host::folder::Identity;

/// Most that one entry of the user database may take.
const ENTRY_BYTES_MAX: usize = 1 << 20;
/// Most groups of a user: the kernel's own limit.
const GROUPS_MAX: libc::c_int = 65_536;

/// The user called `name`, or none when that is who the agent runs as. Refuses another user when the agent may not become it.
pub(super) fn identity(name: &str) -> io::Result<Option<Identity>> {
    let wrong =
        |reason: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("cannot run as user {name:?}: {reason}"));
    let c_name = CString::new(name).map_err(|_| wrong("no such user on this host"))?;
    let (uid, gid) = entry(&c_name)?.ok_or_else(|| wrong("no such user on this host"))?;
    let own = rustix::process::geteuid();
    if own.as_raw() == uid {
        return Ok(None);
    }
    if !own.is_root() {
        return Err(wrong("the agent does not run as root"));
    }
    Ok(Some(Identity { uid, gid, groups: groups(&c_name, gid)? }))
}

fn entry(name: &CString) -> io::Result<Option<(u32, u32)>> {
    let mut buffer: Vec<libc::c_char> = vec![0; 4096];
    loop {
        // SAFETY: a passwd of zeros is a valid value of plain numbers and null pointers.
        let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
        let mut found = ptr::null_mut();
        // SAFETY: name, entry, buffer (with its length) and found live through the call.
        let error = unsafe {
            libc::getpwnam_r(name.as_ptr(), &raw mut entry, buffer.as_mut_ptr(), buffer.len(), &raw mut found)
        };
        match error {
            libc::ERANGE if buffer.len() < ENTRY_BYTES_MAX => buffer.resize(buffer.len() * 4, 0),
            libc::EINTR => {}
            _ if !found.is_null() => return Ok(Some((entry.pw_uid, entry.pw_gid))),
            // "The given name was not found" has many numbers (getpwnam(3)).
            0 | libc::ENOENT | libc::ESRCH | libc::EBADF | libc::EPERM => return Ok(None),
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

fn groups(name: &CString, gid: u32) -> io::Result<Vec<u32>> {
    let mut count: libc::c_int = 64;
    loop {
        let mut groups = vec![0; usize::try_from(count).unwrap_or(0)];
        let room = count;
        // SAFETY: `groups` has room for `count` entries, and both live through the call.
        let result = unsafe { libc::getgrouplist(name.as_ptr(), gid, groups.as_mut_ptr(), &raw mut count) };
        if result >= 0 {
            groups.truncate(usize::try_from(count).unwrap_or(0));
            return Ok(groups);
        }
        // Some C libraries do not tell how many there are.
        count = count.max(room * 2);
        if count > GROUPS_MAX {
            return Err(io::Error::other(format!("more than {GROUPS_MAX} groups")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_found_and_nobody_is_not_confused_with_somebody() {
        assert_eq!(entry(&CString::new("root").unwrap()).unwrap(), Some((0, 0)));
        let error = identity("no-such-user-here").unwrap_err().to_string();
        assert_eq!(error, "cannot run as user \"no-such-user-here\": no such user on this host");
    }
}
