//! A majority that is lost for good, and disks that go back in time.

use super::*;
use crate::raft::testing::Platter;
use hirsel_model::Tag;

fn tag() -> Tag {
    Tag::default().next(7)
}

#[tokio::test(start_paused = true)]
async fn one_that_is_left_goes_on_with_all_it_has_and_the_others_join_it() {
    let mut cluster = Cluster::founded(5).await;
    for number in 0..20 {
        cluster.write(1, &number.to_string()).await;
    }
    let lost: Vec<NodeId> = (1..=3).map(NodeId).collect();
    for node in &lost {
        cluster.stop(*node).await;
    }
    let before = cluster.group(4).evidence();
    assert!(cluster.group(4).propose("no".into(), Duration::from_secs(2)).await.is_err(), "there is no majority");
    let above = before.term.max(cluster.group(5).evidence().term);
    cluster.group(4).refound(tag(), above).await.unwrap();
    cluster.group(4).refound(tag(), above).await.unwrap();
    cluster.group(5).follow_tag(tag()).await.unwrap();
    until("it to lead", || cluster.group(4).standing().borrow().mine.then_some(())).await;
    assert!(cluster.group(4).standing().borrow().term > above, "terms go on rising");
    cluster.reach(&[NodeId(4), NodeId(5)].into(), &BTreeSet::new()).await;
    cluster.write(5, "again").await;
    for node in [4, 5] {
        until("all lines", || (cluster.lines(node).len() == 21).then_some(())).await;
    }
    // All of the former foundation come back: they have a majority of it, and neither side takes anything of the other.
    for node in &lost {
        cluster.start(*node).await.unwrap();
    }
    until("the former one to lead itself", || {
        lost.iter().find(|node| cluster.members[*node].group.standing().borrow().mine).map(|_| ())
    })
    .await;
    cluster.group(1).propose("former".into(), SOON).await.unwrap();
    cluster.write(4, "latter").await;
    until("both to go on", || (cluster.lines(5).contains(&"latter".into())).then_some(())).await;
    for node in [4, 5] {
        assert!(!cluster.lines(node).contains(&"former".into()));
    }
    assert!(!cluster.lines(1).contains(&"latter".into()));
    // It is durable.
    cluster.stop(NodeId(4)).await;
    cluster.start(NodeId(4)).await.unwrap();
    assert_eq!(*cluster.group(4).tag().borrow(), tag());
    cluster.write(5, "restarted").await;
}

#[tokio::test(start_paused = true)]
async fn who_keeps_its_log_under_another_foundation_can_go_on_when_whoever_began_it_is_lost_at_once() {
    let mut cluster = Cluster::founded(5).await;
    for number in 0..20 {
        cluster.write(1, &number.to_string()).await;
    }
    for node in 1..=3 {
        cluster.stop(NodeId(node)).await;
    }
    let has = |cluster: &Cluster, node| cluster.group(node).evidence();
    let (newest, other) = if has(&cluster, 4).last >= has(&cluster, 5).last { (4, 5) } else { (5, 4) };
    let above = has(&cluster, 4).term.max(has(&cluster, 5).term);
    assert_eq!(has(&cluster, other).configs, [(1..=5).map(NodeId).collect()]);
    cluster.group(newest).refound(tag(), above).await.unwrap();
    cluster.group(other).keep_under(tag()).await.unwrap();
    cluster.group(other).keep_under(tag()).await.unwrap();
    until("it to lead", || cluster.group(newest).standing().borrow().mine.then_some(())).await;
    // Before it reached anybody.
    cluster.stop(NodeId(newest)).await;
    let next = tag().next(8);
    let above = has(&cluster, other).term + 1;
    cluster.group(other).refound(next.clone(), above).await.unwrap();
    until("the other one to lead", || cluster.group(other).standing().borrow().mine.then_some(())).await;
    cluster.write(other, "again").await;
    assert_eq!(cluster.lines(other).len(), 21);
    // One that comes late keeps what it has, too, and is brought up to date.
    cluster.start(NodeId(1)).await.unwrap();
    cluster.group(1).follow_tag(next.clone()).await.unwrap();
    cluster.start(NodeId(newest)).await.unwrap();
    cluster.group(newest).follow_tag(next).await.unwrap();
    cluster.reach(&[1, 4, 5].map(NodeId).into(), &BTreeSet::new()).await;
    for node in [1, 4, 5] {
        until("all lines", || (cluster.lines(node).len() == 21).then_some(())).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_log_that_is_kept_is_only_brought_up_to_date() {
    let mut cluster = Cluster::founded(5).await;
    for number in 0..20 {
        cluster.write(1, &number.to_string()).await;
    }
    for node in 1..=3 {
        cluster.stop(NodeId(node)).await;
    }
    let has = |cluster: &Cluster, node| cluster.group(node).evidence();
    let (newest, other) = if has(&cluster, 4).last >= has(&cluster, 5).last { (4, 5) } else { (5, 4) };
    cluster.group(newest).refound(tag(), 50).await.unwrap();
    cluster.group(other).keep_under(tag()).await.unwrap();
    cluster.reach(&[NodeId(4), NodeId(5)].into(), &BTreeSet::new()).await;
    cluster.write(other, "again").await;
    for node in [4, 5] {
        until("all lines", || (cluster.lines(node).len() == 21).then_some(())).await;
    }
    // Whoever wakes up in the past takes part in nothing.
    cluster.start(NodeId(1)).await.unwrap();
    cluster.write(newest, "once more").await;
    until("it to be everywhere", || (cluster.lines(other).len() == 22).then_some(())).await;
    assert_eq!(cluster.lines(1).len(), 20);
}

#[tokio::test(start_paused = true)]
async fn a_state_that_was_followed_can_begin_a_foundation() {
    let mut cluster = Cluster::default();
    cluster.start(NodeId(9)).await.unwrap();
    let state = codec::encode(&BTreeMap::from([(41u64, "kept".to_owned())]));
    cluster.group(9).refound_from(tag(), 6, (5, 41), state).await.unwrap();
    until("it to lead", || cluster.group(9).standing().borrow().mine.then_some(())).await;
    assert!(cluster.group(9).standing().borrow().term > 6);
    let index = cluster.write(9, "new").await;
    assert!(index > 41, "{index}");
    assert_eq!(cluster.lines(9), ["kept", "new"]);
    cluster.stop(NodeId(9)).await;
    cluster.start(NodeId(9)).await.unwrap();
    cluster.start(NodeId(8)).await.unwrap();
    // Whoever comes new is told where it belongs.
    cluster.group(8).follow_tag(tag()).await.unwrap();
    cluster.reach(&[NodeId(8), NodeId(9)].into(), &BTreeSet::new()).await;
    until("the other one to have it", || (cluster.lines(8) == ["kept", "new"]).then_some(())).await;
}

/// Everything on the disk of a node, to be put back later.
async fn copied(cluster: &mut Cluster, node: u64) -> Platter {
    cluster.stop(NodeId(node)).await;
    let copy = cluster.platters[&NodeId(node)].copy();
    cluster.start(NodeId(node)).await.unwrap();
    copy
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_went_back_in_time_never_votes_and_loses_nothing_that_was_acknowledged() {
    for copy_is_empty in [false, true] {
        let mut cluster = Cluster::founded(3).await;
        cluster.write(1, "before").await;
        let old = if copy_is_empty { Platter::default() } else { copied(&mut cluster, 3).await };
        // Only with the acknowledgement of 3: 2 is away.
        cluster.stop(NodeId(2)).await;
        for number in 0..10 {
            cluster.write(1, &format!("kept {number}")).await;
        }
        let witness = cluster.leader().await;
        if witness == NodeId(3) {
            cluster.group(3).transfer_leadership(NodeId(1)).await.unwrap();
            cluster.write(1, "led by 1").await;
        }
        cluster.stop(NodeId(3)).await;
        cluster.platters.insert(NodeId(3), old);
        cluster.start(NodeId(3)).await.unwrap();
        until("it to know that it is older", || cluster.group(3).is_older().then_some(())).await;
        let words = cluster.group(3).stopped().borrow().clone().unwrap();
        assert!(words.contains("older") && words.contains("hirsel join"), "{words}");
        // 2 lacks what was acknowledged. With the vote of 3 it could lead, and lose it.
        cluster.start(NodeId(2)).await.unwrap();
        cluster.write(2, "after").await;
        until("nothing to be lost", || {
            let lines = cluster.lines(2);
            (0..10).all(|number| lines.contains(&format!("kept {number}"))).then_some(())
        })
        .await;
        // It remembers what it was told, though nobody is there to say it again.
        cluster.stop(NodeId(3)).await;
        cluster.stop(NodeId(1)).await;
        cluster.start(NodeId(3)).await.unwrap();
        assert!(cluster.group(3).is_older());
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(!cluster.group(2).standing().borrow().mine, "it did not vote");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_leader_saw_of_a_disk_survives_its_own_restart() {
    let mut cluster = Cluster::founded(2).await;
    cluster.write(1, "before").await;
    let leader = cluster.leader().await;
    let other = if leader == NodeId(1) { NodeId(2) } else { NodeId(1) };
    let old = copied(&mut cluster, other.0).await;
    for number in 0..10 {
        cluster.write(1, &number.to_string()).await;
    }
    cluster.group(leader.0).propose("last".into(), SOON).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    for node in [1, 2] {
        cluster.stop(NodeId(node)).await;
    }
    cluster.platters.insert(other, old);
    for node in [1, 2] {
        cluster.start(NodeId(node)).await.unwrap();
    }
    until("it to know that it is older", || cluster.group(other.0).is_older().then_some(())).await;
}
