//! What is said on one host about floating addresses, between whoever puts them on it and whoever serves at them. The two are plugins
//! that do not know each other: each says its part here, and looks at the other's.

use std::collections::BTreeSet;
use std::net::IpAddr;

use tokio::sync::watch;

/// Floating addresses on this host.
#[derive(Debug, Default)]
pub struct Handover {
    /// Said by whoever puts them there: those that are on this host.
    pub held: watch::Sender<BTreeSet<IpAddr>>,
    /// Said by the same: those of them that another node is about to take. Whoever serves at one brings it to an end, and lets nobody in.
    pub leaving: watch::Sender<BTreeSet<IpAddr>>,
    /// Said by whoever serves: those of them at which nothing is under way any more, or which are not waited for any longer.
    pub quiet: watch::Sender<BTreeSet<IpAddr>>,
}

/// Says `now` where it differs from what was said before.
pub fn say(to: &watch::Sender<BTreeSet<IpAddr>>, now: BTreeSet<IpAddr>) {
    to.send_if_modified(|before| {
        let changed = *before != now;
        *before = now;
        changed
    });
}
