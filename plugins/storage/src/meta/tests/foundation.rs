//! A majority that is lost for good: what is left goes on, and the past never mixes with it.

use std::time::Duration;

use hirsel_model::Tag;
use hirsel_model::storage::left::{Foundation, Prospect, prospect};
use tokio::time::{Instant, sleep};

use super::group::{Cluster, SOON};
use super::*;

impl Cluster {
    /// Looks at what is left as a leader of the control group does, with these given up, and has all carry it out, until `done`.
    async fn go_on(&mut self, gone: &[u64], done: impl Fn(&Self) -> bool) {
        let is_member = |node: NodeId| !gone.contains(&node.0);
        let deadline = Instant::now() + SOON;
        while !done(self) {
            let left: BTreeMap<NodeId, _> =
                self.nodes.iter().filter_map(|(node, group)| Some((*node, group.left()?))).collect();
            let tags: BTreeMap<NodeId, Tag> = self.nodes.iter().map(|(node, group)| (*node, group.tag())).collect();
            let left = left.iter().map(|(node, left)| (*node, left)).collect();
            let heard = tags.iter().map(|(node, tag)| (*node, tag)).collect();
            self.table.foundation = Foundation::next(self.table.foundation.as_ref(), is_member, &heard, &left, 5);
            self.steer().await;
            assert!(Instant::now() < deadline, "it does not go on: {left:?}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn is_led(&self) -> bool {
        self.nodes.values().any(|group| group.leads())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_of_five_are_lost_and_what_the_others_have_goes_on() {
    let mut cluster = Cluster::new(5).await;
    cluster.ask(2, create("pics", false)).await.expect("a bucket");
    for key in ["a", "b", "c"] {
        cluster.put(1, key, Condition::default()).await.expect("a put");
    }
    for node in 4..=5 {
        assert_eq!(cluster.keys(node).await.len(), 3);
    }
    for node in 1..=3 {
        cluster.kill(NodeId(node)).await;
    }
    assert!(cluster.nodes.values().all(|group| group.left().is_none()), "nothing is told of what may be an election");
    // While they are members, they may come back: nothing is decided.
    let told = |cluster: &Cluster| cluster.nodes.values().all(|group| group.left().is_some());
    cluster.go_on(&[], told).await;
    assert_eq!(cluster.table.foundation, None);
    let left: BTreeMap<NodeId, _> = cluster.nodes.iter().map(|(node, it)| (*node, it.left().expect("some"))).collect();
    let all = left.iter().map(|(node, left)| (*node, left)).collect();
    let silent = (1..=3).map(NodeId).collect();
    assert_eq!(prospect(|_| true, &all), Some(Prospect::Elects { silent }));

    // They are given up. Two new ones take their places.
    cluster.table.voters = [4, 5, 6].map(NodeId).into();
    cluster.start(6).await;
    cluster.go_on(&[1, 2, 3], Cluster::is_led).await;
    let first = cluster.table.foundation.clone().expect("it was decided");
    cluster.go_on(&[1, 2, 3], |cluster| cluster.nodes.values().all(|group| group.tag() == first.tag)).await;
    cluster.reach().await;
    cluster.put(6, "d", Condition::default()).await.expect("a put");
    for node in 4..=6 {
        assert_eq!(cluster.keys(node).await, ["a", "b", "c", "d"], "on node {node}");
    }
    // Said again, nothing changes.
    let term = cluster.term();
    cluster.go_on(&[1, 2, 3], |_| true).await;
    cluster.steer().await;
    assert_eq!((cluster.term(), cluster.table.foundation.as_ref().map(|it| &it.tag)), (term, Some(&first.tag)));

    // The past wakes up: it has a majority of its own, which nobody here follows.
    for node in 1..=3 {
        cluster.start(node).await;
    }
    let deadline = Instant::now() + SOON;
    while !(1..=3).any(|node| cluster.nodes[&NodeId(node)].leads()) {
        assert!(Instant::now() < deadline, "three of five may lead what was");
        sleep(Duration::from_millis(20)).await;
    }
    cluster.put(1, "past", Condition::default()).await.expect("a put");
    cluster.put(5, "e", Condition::default()).await.expect("a put");
    assert_eq!(cluster.keys(6).await, ["a", "b", "c", "d", "e"]);
    assert_eq!(cluster.keys(2).await, ["a", "b", "c", "past"]);
    // One of them learns of the plan, as a node that joined again on its old disk does: it forgets what it had.
    cluster.table.voters = [2, 4, 5, 6].map(NodeId).into();
    cluster.kill(NodeId(1)).await;
    cluster.kill(NodeId(3)).await;
    cluster.reach().await;
    assert_eq!(cluster.keys(2).await, ["a", "b", "c", "d", "e"]);
    // What was decided is on the disks.
    for node in [4, 5] {
        cluster.kill(NodeId(node)).await;
        cluster.start(node).await;
        assert_eq!(cluster.nodes[&NodeId(node)].tag(), first.tag);
    }
    cluster.put(4, "f", Condition::default()).await.expect("a put");
    for node in cluster.nodes.keys().copied().collect::<Vec<_>>() {
        cluster.kill(node).await;
    }
}
