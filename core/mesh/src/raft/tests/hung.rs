//! A disk under the log that neither does nor refuses what it is asked for.

use std::time::Duration;

use hirsel_model::NodeId;
use tokio::time::Instant;

use super::{Cluster, SOON, lock, until};

/// What one that does not lead feels of it.
const NOTHING: Duration = Duration::from_millis(300);
/// Until the disk is given up, and another one is elected.
const ANOTHER_LEADS_WITHIN: Duration = Duration::from_millis(4_500);

impl Cluster {
    fn others(&self, than: NodeId) -> Vec<u64> {
        self.members.keys().filter(|node| **node != than).map(|node| node.0).collect()
    }

    /// Writes and reads through this one, within `limit`.
    async fn goes_on(&self, through: u64, line: &str, limit: Duration) {
        let begun = Instant::now();
        let index = self.write(through, line).await;
        assert!(self.group(through).read_point(SOON).await.unwrap() >= index);
        assert!(begun.elapsed() < limit, "{line} took {:?} through {through}", begun.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_disk_hangs_leads_no_more_and_follows_once_the_disk_goes_on() {
    for on_disk in [false, true] {
        let mut cluster = Cluster { on_disk, ..Cluster::default() };
        cluster.found(3).await;
        cluster.write(1, "before").await;
        let old = cluster.leader().await;
        let others = cluster.others(old);
        cluster.platters[&old].set_hung(true);
        // Through one that follows, and through the one whose disk it is: both ask at once, when nobody has noticed.
        let (there, here) = (cluster.goes_on(others[0], "there", ANOTHER_LEADS_WITHIN), async {
            cluster.goes_on(old.0, "here", ANOTHER_LEADS_WITHIN).await;
        });
        tokio::join!(there, here);
        // Most have it, and that was enough; but who applies nothing, or reads a disk, would be in the way for ever.
        let noticed = || cluster.members[&old].group.is_hung() && !cluster.members[&old].group.standing().borrow().mine;
        until("it is noticed", || noticed().then_some(())).await;
        let next = || others.iter().find(|node| cluster.group(**node).standing().borrow().mine);
        until("another one leads", || next().map(drop)).await;
        // Who leads now is left alone, for as long as it takes.
        let term = cluster.group(others[0]).standing().borrow().term;
        tokio::time::sleep(Duration::from_secs(30)).await;
        for (number, through) in [others[0], others[1], old.0].into_iter().enumerate() {
            cluster.goes_on(through, &format!("later {number}"), Duration::from_secs(1)).await;
        }
        assert_eq!(cluster.group(others[0]).standing().borrow().term, term);
        cluster.platters[&old].set_hung(false);
        until("the disk is taken for good again", || (!cluster.members[&old].group.is_hung()).then_some(())).await;
        let lines = cluster.lines(others[0]);
        assert_eq!(lines.len(), 6);
        cluster.all_have(&lines).await;
        cluster.goes_on(old.0, "after", NOTHING).await;
        assert_eq!(cluster.group(others[0]).standing().borrow().term, term, "nobody stood for election");
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_feels_the_disk_of_a_follower_that_hangs() {
    let cluster = Cluster::founded(3).await;
    cluster.write(1, "before").await;
    let leader = cluster.leader().await;
    let others = cluster.others(leader);
    cluster.platters[&NodeId(others[0])].set_hung(true);
    for number in 0..20 {
        for through in [leader.0, others[0], others[1]] {
            cluster.goes_on(through, &format!("{number} through {through}"), NOTHING).await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(cluster.leader().await, leader);
    cluster.platters[&NodeId(others[0])].set_hung(false);
    let lines: Vec<String> = lock(&cluster.members[&leader].lines).values().cloned().collect();
    cluster.all_have(&lines).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_acknowledged_that_only_hung_disks_could_keep() {
    let cluster = Cluster::founded(3).await;
    cluster.write(1, "before").await;
    let leader = cluster.leader().await;
    let others = cluster.others(leader);
    for node in [leader.0, others[0]] {
        cluster.platters[&NodeId(node)].set_hung(true);
    }
    let lost = cluster.group(others[1]).propose("lost".into(), Duration::from_secs(5)).await;
    assert!(lost.is_err(), "{lost:?}");
    for node in [leader.0, others[0]] {
        cluster.platters[&NodeId(node)].set_hung(false);
    }
    cluster.goes_on(others[1], "after", Duration::from_secs(5)).await;
}
