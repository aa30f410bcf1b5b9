//! How long a read waits for its sources before one more is asked: longer than reads take lately.
//!
//! Where all are busy, a read that is made twice makes them busier. So a source is slow only when it takes longer than nearly all answers
//! do: than their mean and four times their mean deviation, as the timer of TCP is set (RFC 6298, section 2). That is known of each node by
//! itself, and a read goes by the middle one of its sources: one slow node is found by what the others take, and nobody waits longer for it.
//!
//! Only answers count. A read that another one was quicker than says nothing, so a frozen node changes no estimate, nor does one that is
//! always replaced. Nothing here reads a clock: it is told how long an answer took.

use std::collections::BTreeMap;
use std::time::Duration;

use hirsel_model::NodeId;

/// No other source is asked sooner. A disk answers in some milliseconds; below, what one takes now and then would be made twice.
pub const HEDGE_AFTER_MIN: Duration = Duration::from_millis(50);
/// Nor later, however slow all are: a frozen source is replaced within half a second, and two of them within one.
pub const HEDGE_AFTER_MAX: Duration = Duration::from_millis(400);
/// Reads of more than this are told apart from others: what they take is for their bytes more than for the disk.
const SHORT_BYTES_MAX: u32 = 256 << 10;

/// What is known of nodes. It grows with the number of nodes that ever answered, by some dozen bytes each.
#[derive(Clone, Debug, Default)]
pub struct Patience {
    seen: BTreeMap<(NodeId, Length), Estimate>,
}

/// Reads that take about the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Length {
    Short,
    Long,
}

impl Length {
    fn of(bytes: u32) -> Length {
        if bytes <= SHORT_BYTES_MAX { Length::Short } else { Length::Long }
    }
}

impl Patience {
    /// A node took so long to give so many bytes.
    pub fn answered(&mut self, node: NodeId, bytes: u32, took: Duration) {
        let seen = self.seen.entry((node, Length::of(bytes)));
        seen.and_modify(|estimate| estimate.update(took)).or_insert_with(|| Estimate::first(took));
    }

    /// After how long without enough answers one more of these nodes is asked, where so many bytes are read of each.
    pub fn hedge_after(&self, nodes: impl IntoIterator<Item = NodeId>, bytes: u32) -> Duration {
        let length = Length::of(bytes);
        let known = nodes.into_iter().filter_map(|node| self.seen.get(&(node, length)));
        let mut waits: Vec<Duration> = known.map(Estimate::wait).collect();
        waits.sort_unstable();
        // Of two, the shorter one: either may be the slow one.
        let middle = waits.get(waits.len().saturating_sub(1) / 2).copied().unwrap_or_default();
        middle.clamp(HEDGE_AFTER_MIN, HEDGE_AFTER_MAX)
    }
}

/// How long one node takes.
#[derive(Clone, Copy, Debug)]
struct Estimate {
    mean: Duration,
    deviation: Duration,
}

impl Estimate {
    fn first(took: Duration) -> Estimate {
        Estimate { mean: took, deviation: took / 2 }
    }

    fn update(&mut self, took: Duration) {
        self.deviation = (self.deviation * 3 + self.mean.abs_diff(took)) / 4;
        self.mean = (self.mean * 7 + took) / 8;
    }

    fn wait(&self) -> Duration {
        self.mean + self.deviation * 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: u32 = 64 << 10;
    const LONG: u32 = 1 << 20;
    const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A hundred answers of each of these nodes, some a little later than others.
    fn answered(patience: &mut Patience, nodes: &[NodeId], took: u64) {
        for turn in 0..100 {
            nodes.iter().for_each(|node| patience.answered(*node, LONG, ms(took + took / 5 * (turn % 2))));
        }
    }

    #[test]
    fn who_takes_as_long_as_all_take_lately_is_not_slow() {
        let mut patience = Patience::default();
        assert_eq!(patience.hedge_after(NODES, LONG), HEDGE_AFTER_MIN, "nobody has answered yet");
        answered(&mut patience, &NODES, 3);
        assert_eq!(patience.hedge_after(NODES, LONG), HEDGE_AFTER_MIN);
        answered(&mut patience, &NODES, 100);
        assert!((ms(120)..ms(200)).contains(&patience.hedge_after(NODES, LONG)), "{patience:?}");
        assert_eq!(patience.hedge_after(NODES, SHORT), HEDGE_AFTER_MIN, "short reads are no longer for that");
        answered(&mut patience, &NODES, 9_000);
        assert_eq!(patience.hedge_after(NODES, LONG), HEDGE_AFTER_MAX);
        answered(&mut patience, &NODES, 3);
        assert_eq!(patience.hedge_after(NODES, LONG), HEDGE_AFTER_MIN, "what is over is forgotten");
    }

    #[test]
    fn one_slow_node_makes_nobody_wait_for_it() {
        let mut patience = Patience::default();
        answered(&mut patience, &NODES, 3);
        answered(&mut patience, &NODES[..1], 300);
        assert_eq!(patience.hedge_after(NODES, LONG), HEDGE_AFTER_MIN);
        assert_eq!(patience.hedge_after([NODES[0], NODES[1]], LONG), HEDGE_AFTER_MIN);
        assert!(patience.hedge_after([NODES[0]], LONG) > ms(300), "it is as slow as it is where there is no other");
        let unknown = [NodeId(9), NODES[1], NodeId(8)];
        assert_eq!(patience.hedge_after(unknown, LONG), HEDGE_AFTER_MIN);
    }

    #[test]
    fn one_late_answer_is_no_reason_to_wait_much_longer_for_the_next() {
        let mut patience = Patience::default();
        answered(&mut patience, &NODES, 3);
        patience.answered(NODES[0], LONG, ms(40));
        assert!(patience.hedge_after([NODES[0]], LONG) < ms(60), "{patience:?}");
        patience.answered(NODES[0], LONG, Duration::MAX / 8);
        assert_eq!(patience.hedge_after([NODES[0]], LONG), HEDGE_AFTER_MAX);
    }
}
