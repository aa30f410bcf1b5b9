//! Long grants: what lets an exclusive instance act on while its node's agent is restarted on purpose. Why there are never two all the
//! same is told in [`crate::grant`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::*;
use crate::tag::Tag;
use crate::time::WallTime;

/// Longest there is. What takes longer than half a minute is no restart: then somebody else should act.
pub const LONG_MAX: Duration = Duration::from_secs(30);
/// What an agent asks for before it stops. An upgrade stops, replaces and starts an agent within five seconds, and there is time for a
/// slow disk. It is not longer because whoever stops an agent for good, and switches its host off by hand, waits for so long until
/// another node acts.
pub const LONG: Duration = Duration::from_secs(15);

/// A long grant on record: committed before it is given, and kept until it is known to be over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LongGrant {
    /// Where the instance may act on.
    pub node: NodeId,
    /// The start of the agent that asked. None where the control group was founded anew: survivors may hold what nobody here knows of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_by: Option<Incarnation>,
    /// How long, in milliseconds: at most [`LONG_MAX`].
    pub length_ms: u64,
    /// The log index that put it on record, by which it is told from another one.
    pub since: LogIndex,
    /// The plan in force then.
    pub generation: Generation,
    /// When it was asked for: for people.
    pub at: WallTime,
}

impl LongGrant {
    /// Until about when it runs, for people: what counts is counted on other clocks.
    pub fn until(&self) -> WallTime {
        WallTime(self.at.0.saturating_add(self.length_ms))
    }

    /// After this time on the clock of a leader that knows of it it is over on every clock.
    pub fn over_after(&self) -> Duration {
        // 5 % more, as for a lease.
        Duration::from_millis(self.length_ms.saturating_add(self.length_ms.div_ceil(20)))
    }
}

/// The answer to who asked for a long grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lengthened {
    /// The foundation that it is on record in.
    pub tag: Tag,
    /// The plan in force then.
    pub generation: Generation,
    /// Instances that may act, if they act now.
    pub covers: BTreeSet<InstanceId>,
    /// How long from when it was asked for, in milliseconds.
    pub length_ms: u64,
}

/// How a long grant on record ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HowOver {
    /// Its node is back, and guard and shim keep the end of an ordinary grant again, or it has ended.
    Released,
    /// The instance has let go.
    LetGo,
    /// Its time was up.
    RanOut,
}

/// One that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Over {
    /// Which: [`LongGrant::since`].
    pub since: LogIndex,
    /// How.
    pub how: HowOver,
}

/// Long grants on record, by instance.
pub type LongGrants = BTreeMap<InstanceId, LongGrant>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_over_a_twentieth_later_on_another_clock() {
        let grant = |length_ms| LongGrant {
            node: NodeId(1),
            asked_by: None,
            length_ms,
            since: LogIndex(1),
            generation: Generation(1),
            at: WallTime(0),
        };
        let over = |length_ms| grant(length_ms).over_after().as_millis();
        assert_eq!([over(0), over(1), over(20), over(15_000), over(30_000)], [0, 2, 21, 15_750, 31_500]);
        assert!(LONG <= LONG_MAX);
        grant(u64::MAX).over_after();
    }
}
