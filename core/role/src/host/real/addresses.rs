//! Floating addresses on this host. Each is told to the guard before it is put on its interface, so that it does not stay when nobody renews
//! it any more.

use std::io;

use hirsel_model::Timestamp;

use super::guardian::Guardian;
use crate::host::floating::{Floating, HostNetwork};
use crate::host::netlink;
use crate::host::procfs;

/// What changing addresses and telling neighbours takes (capabilities(7)): their numbers and names.
const NEEDED: [(u32, &str); 2] = [(12, "CAP_NET_ADMIN"), (13, "CAP_NET_RAW")];

/// Puts addresses on interfaces and takes them off.
#[derive(Debug)]
pub(super) struct Addresses {
    guardian: Guardian,
}

impl Addresses {
    pub(super) fn new(guardian: Guardian) -> Self {
        Self { guardian }
    }

    pub(super) fn network() -> io::Result<HostNetwork> {
        Ok(HostNetwork { barred: barred(procfs::effective_capabilities()), interfaces: netlink::interfaces()? })
    }

    pub(super) fn hold(&self, floating: &Floating, until: Timestamp) -> io::Result<()> {
        self.guardian.hold(floating, until)?;
        netlink::add(floating)
    }

    pub(super) fn let_go(&self, floating: &Floating) -> io::Result<()> {
        netlink::remove(floating)?;
        // A guard that is not told removes what is not there any more.
        let _ = self.guardian.release(floating);
        Ok(())
    }
}

/// What is missing, and where to get it; none where that cannot be told either.
fn barred(capabilities: Option<u64>) -> Option<String> {
    let capabilities = capabilities?;
    let missing: Vec<&str> =
        NEEDED.iter().filter(|(number, _)| capabilities & (1 << number) == 0).map(|(_, name)| *name).collect();
    (!missing.is_empty()).then(|| {
        format!(
            "its agent lacks {}, without which no address can be put on an interface: run it as root, or with \
             AmbientCapabilities={} in its unit",
            missing.join(" and "),
            missing.join(" ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(barred(Some(u64::MAX)), None);
        assert_eq!(barred(None), None);
        let words = barred(Some(1 << 13)).unwrap();
        assert!(words.starts_with("its agent lacks CAP_NET_ADMIN, without"), "{words}");
        assert!(barred(Some(0)).unwrap().contains("CAP_NET_ADMIN and CAP_NET_RAW"));
    }
}
