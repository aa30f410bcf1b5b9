//! Tells webhooks what happened to objects: takes notices out of their queues ([`crate::meta::outbox`]) and posts them, for as long as this node
//! leads the metadata group.
//!
//! By levels: what waits is in the rows, so a new leader goes on where the old one was, and nothing is kept here but which destinations
//! fail. Notices of a destination are told in their order, some together, and removed by a commit once it has answered with 2xx. One that
//! fails is tried again after a wait that grows; others do not wait for it. What was told just before the leader went may be told twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hirsel_model::{Timestamp, WallTime};
use hirsel_role::outbound::Outbound;
use http::Uri;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::gateway::Gateway;
use crate::meta::command::Command;
use crate::meta::outbox::{Ending, Queue, QueueId, notices, queues};
use crate::meta::read;

mod record;

/// Between two looks at what waits: nobody is told later than that after a change, where all is well.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Destinations that are told at once. One that does not answer has a place for as long as a try takes.
const AT_ONCE: usize = 16;
/// Queues that are looked at. Those of more destinations wait until others are empty.
const QUEUES_MAX: usize = 10_000;
/// Notices in one post: a destination that is some way off takes so many in the time of one.
const TOGETHER_MAX: usize = 32;
/// After the first failure of a destination it is tried again so soon; with each further one the wait doubles.
const WAIT_MIN: Duration = Duration::from_secs(1);
/// Longest wait: who is back hears of it within this.
const WAIT_MAX: Duration = Duration::from_secs(300);
/// What nobody could be told in this time is lost: long enough for a weekend, and it keeps the notices of a destination that is gone for good
/// from staying for ever.
const KEPT_MS: u64 = 3 * 24 * 60 * 60 * 1_000;

/// A try takes at most this, from the name to the answer. Whoever needs longer to take a notice puts it aside first.
const WITHIN: Duration = Duration::from_secs(10);

/// Tells, whenever this node leads the metadata group.
pub async fn keep(gateway: Gateway, outbound: Arc<Outbound>) {
    let (mut tries, mut under_way) = (Tries::default(), FuturesUnordered::new());
    loop {
        let leads = gateway.meta().group().leads();
        let found = if leads { waiting(&gateway) } else { Vec::new() };
        if !leads {
            gateway.counts().notices(0, 0);
        }
        tries.retain(&found);
        for (id, queue) in found {
            if tries.begin(id, gateway.now()) {
                under_way.push(deliver(&gateway, &outbound, id, queue));
            }
        }
        tokio::select! {
            Some((id, url, outcome)) = under_way.next(), if !under_way.is_empty() => {
                ended(&mut tries, &gateway, (id, &url), outcome);
            }
            () = sleep(LOOK_EVERY) => {}
        }
    }
}

/// Queues in which something waits, as far as can be seen here.
fn waiting(gateway: &Gateway) -> Vec<(QueueId, Queue)> {
    let Ok(here) = gateway.meta().group().here() else { return Vec::new() };
    if let Ok(head) = read::head(&here) {
        gateway.counts().notices(head.notices, head.notices_lost);
    }
    queues(&here, QUEUES_MAX).unwrap_or_default()
}

/// Tells the first notices of a queue.
async fn deliver(
    gateway: &Gateway,
    outbound: &Outbound,
    id: QueueId,
    queue: Queue,
) -> (QueueId, String, Result<(), String>) {
    let told = told(gateway, outbound, id, &queue).await;
    (id, queue.url, told)
}

async fn told(gateway: &Gateway, outbound: &Outbound, id: QueueId, queue: &Queue) -> Result<(), String> {
    let first = {
        let here = gateway.meta().group().here().map_err(|error| error.to_string())?;
        notices(&here, id, TOGETHER_MAX).map_err(|error| error.to_string())?
    };
    let now = gateway.wall();
    let old = first.iter().take_while(|(_, notice)| is_old(notice.at, now)).last();
    let (up_to, ending) = match (old, first.last()) {
        (Some((number, _)), _) => (*number, Ending::Lost),
        (None, Some((number, _))) => {
            outbound.post_json(&queue.url, record::document(&first).into(), WITHIN).await?;
            gateway.counts().told.inc_by(first.len() as u64);
            (*number, Ending::Told)
        }
        (None, None) => return Ok(()),
    };
    let command = Command::EndNotices { queue: id, up_to, ending };
    gateway.ask(command).await.map(drop).map_err(|error| error.to_string())
}

fn is_old(at: WallTime, now: WallTime) -> bool {
    now.0.saturating_sub(at.0) > KEPT_MS
}

fn ended(tries: &mut Tries, gateway: &Gateway, (id, url): (QueueId, &str), outcome: Result<(), String>) {
    // The rest of an address may be what lets one in.
    let to = url.parse::<Uri>().ok().and_then(|uri| uri.authority().map(|authority| authority.host().to_owned()));
    let to = to.unwrap_or_default();
    match outcome {
        Ok(()) => {
            if tries.worked(id) > 1 {
                info!(to, "a webhook of buckets takes notices again");
            }
        }
        Err(words) => {
            gateway.counts().told_failed.inc();
            // The first one may be chance.
            if tries.failed(id, gateway.now()) == 2 {
                warn!(to, words, "a webhook of buckets does not take notices; they wait");
            }
        }
    }
}

/// Which destinations are tried now, and which wait.
#[derive(Default)]
struct Tries {
    busy: BTreeSet<QueueId>,
    failed: BTreeMap<QueueId, Failed>,
}

struct Failed {
    times: u32,
    until: Timestamp,
}

impl Tries {
    /// Whether a destination is to be tried now; then it is under way.
    fn begin(&mut self, id: QueueId, now: Timestamp) -> bool {
        let waits = self.failed.get(&id).is_some_and(|failed| now < failed.until);
        if waits || self.busy.len() >= AT_ONCE {
            return false;
        }
        self.busy.insert(id)
    }

    /// It has taken something. How often it had failed before.
    fn worked(&mut self, id: QueueId) -> u32 {
        self.busy.remove(&id);
        self.failed.remove(&id).map_or(0, |failed| failed.times)
    }

    /// It has not. How often by now.
    fn failed(&mut self, id: QueueId, now: Timestamp) -> u32 {
        self.busy.remove(&id);
        let failed = self.failed.entry(id).or_insert(Failed { times: 0, until: now });
        failed.times = failed.times.saturating_add(1);
        failed.until = now + wait(failed.times);
        failed.times
    }

    /// Forgets how destinations fared for which nothing waits.
    fn retain(&mut self, waiting: &[(QueueId, Queue)]) {
        let there: BTreeSet<QueueId> = waiting.iter().map(|(id, _)| *id).collect();
        self.failed.retain(|id, _| there.contains(id));
    }
}

/// How long a destination is left alone that failed so many times in a row.
fn wait(times: u32) -> Duration {
    let doubled = 2_u32.saturating_pow(times.saturating_sub(1).min(30));
    WAIT_MIN.saturating_mul(doubled).min(WAIT_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_that_fails_is_left_alone_for_longer_each_time_and_others_are_not() {
        let (mut tries, now) = (Tries::default(), Timestamp(1_000));
        let [bad, good] = ["http://bad", "http://good"].map(QueueId::of);
        let mut waits = Vec::new();
        let mut at = now;
        for times in 1..=11 {
            assert!(tries.begin(bad, at) && !tries.begin(bad, at), "one try at a time");
            assert_eq!(tries.failed(bad, at), times);
            assert!(!tries.begin(bad, at));
            assert!(tries.begin(good, at));
            assert_eq!(tries.worked(good), 0);
            let until = tries.failed[&bad].until;
            waits.push(until.since(at).as_secs());
            at = until;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert!(tries.begin(bad, at));
        assert_eq!((tries.worked(bad), tries.worked(bad)), (11, 0));
        assert_eq!(wait(u32::MAX), WAIT_MAX);
    }

    #[test]
    fn so_many_are_told_at_once_and_what_is_gone_is_forgotten() {
        let (mut tries, now) = (Tries::default(), Timestamp(1_000));
        let ids: Vec<QueueId> = (0..=AT_ONCE).map(|n| QueueId::of(&format!("http://{n}"))).collect();
        assert_eq!(ids.iter().filter(|id| tries.begin(**id, now)).count(), AT_ONCE);
        tries.failed(ids[0], now);
        assert!(tries.begin(ids[AT_ONCE], now));
        tries.retain(&[]);
        assert!(tries.failed.is_empty());
    }

    #[test]
    fn notices_grow_too_old_after_three_days() {
        let at = WallTime(5_000);
        assert!(!is_old(at, WallTime(5_000 + KEPT_MS)) && is_old(at, WallTime(5_001 + KEPT_MS)));
        assert!(!is_old(at, WallTime(0)), "a clock that went back loses nothing");
    }
}
