//! Full disks and damaged files: clear words, no panic, nothing acknowledged lost.

use super::*;
use crate::raft::StoreError;

#[tokio::test(start_paused = true)]
async fn a_full_disk_stops_the_replica_with_words_and_the_others_go_on() {
    let mut cluster = Cluster::founded(3).await;
    cluster.write(1, "a").await;
    let leader = cluster.leader().await;
    cluster.platters[&leader].fill(true);
    let through = cluster.members.keys().find(|node| **node != leader).unwrap().0;
    cluster.write(through, "b").await;
    let stopped = cluster.members[&leader].group.stopped();
    let words = until("words", || stopped.borrow().clone()).await;
    assert!(words.contains("test.redb") && words.contains("free space"), "{words}");
    assert!(cluster.members[&leader].store.failed().is_some());
    // Through the stopped replica it still goes, to the new leader.
    cluster.write(leader.0, "c").await;
    // With space again and a new start, nothing is missing.
    cluster.platters[&leader].fill(false);
    cluster.stop(leader).await;
    cluster.start(leader).await.unwrap();
    cluster.all_have(&["a", "b", "c"].map(String::from)).await;
}

#[tokio::test(start_paused = true)]
async fn a_lone_replica_on_a_full_disk_says_why_it_takes_nothing() {
    let mut cluster = Cluster::founded(1).await;
    cluster.write(1, "a").await;
    cluster.platters[&NodeId(1)].fill(true);
    let refused = cluster.group(1).propose("b".into(), SOON).await;
    assert!(matches!(&refused, Err(ProposeError::Stopped(words)) if words.contains("free space")), "{refused:?}");
    cluster.platters[&NodeId(1)].fill(false);
    cluster.stop(NodeId(1)).await;
    cluster.start(NodeId(1)).await.unwrap();
    cluster.write(1, "c").await;
    assert_eq!(cluster.lines(1), ["a", "c"]);
}

#[tokio::test(start_paused = true)]
async fn a_damaged_file_is_refused_with_its_name_and_the_next_step() {
    let mut cluster = Cluster::founded(1).await;
    for line in 0..50 {
        cluster.write(1, &format!("line {line} with some length to it")).await;
    }
    cluster.stop(NodeId(1)).await;
    let mut whole = Vec::new();
    cluster.platters[&NodeId(1)].damage(FILE, |bytes| whole = bytes.clone());
    let mut chance = SmallRng::seed_from_u64(3);
    let mut refused = 0;
    for round in 0..60 {
        let length = whole.len();
        cluster.platters[&NodeId(1)].damage(FILE, |bytes| {
            *bytes = whole.clone();
            match round % 3 {
                // Cut off anywhere.
                0 => bytes.truncate(chance.random_range(1..length)),
                // A page of something else.
                1 => {
                    let at = chance.random_range(0..length / 4096) * 4096;
                    bytes[at..at + 4096].fill(0x5a);
                }
                // Some flipped bits.
                _ => (0..200).for_each(|_| bytes[chance.random_range(0..length)] ^= 1 << chance.random_range(0..8)),
            }
        });
        match cluster.start(NodeId(1)).await {
            // The harm was done where nothing is.
            Ok(()) => {
                cluster.leader().await;
                assert_eq!(cluster.lines(1).len(), 50, "round {round}");
                cluster.stop(NodeId(1)).await;
            }
            Err(error) => {
                refused += 1;
                let words = error.to_string();
                assert!(
                    matches!(error, StoreError::Damaged { .. } | StoreError::Newer { .. }),
                    "round {round}: {words}"
                );
                assert!(words.contains(FILE), "round {round}: {words}");
                cluster.wires.unplug(NodeId(1));
            }
        }
    }
    assert!(refused > 20, "only {refused} of 60 damages were noticed");
}
