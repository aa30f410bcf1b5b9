//! Read points that are asked for together.

use futures::future::join_all;
use hirsel_model::NodeId;

use super::{Cluster, NAMES, SOON};

#[tokio::test(start_paused = true)]
async fn read_points_that_are_asked_for_together_are_confirmed_together() {
    let cluster = Cluster::founded(3).await;
    let leader = cluster.leader().await;
    let follower = cluster.members.keys().copied().find(|node| *node != leader).unwrap().0;
    let index = cluster.write(follower, "a").await;
    let before = cluster.wires.carried(NAMES.read);
    let points = join_all((0..100).map(|_| cluster.group(follower).read_point(SOON))).await;
    assert!(points.iter().all(|point| *point == Ok(index)), "{points:?}");
    // The first may go alone.
    assert!(cluster.wires.carried(NAMES.read) - before <= 2);
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_during_a_confirmation_is_told_of_one_that_began_later() {
    let cluster = Cluster::founded(3).await;
    let leader = cluster.leader().await;
    let followers: Vec<NodeId> = cluster.members.keys().copied().filter(|node| *node != leader).collect();
    let reader = cluster.group(followers[0].0);
    for n in 0..50 {
        // One is always on its way, at another moment of it each time.
        let early = tokio::spawn({
            let reader = reader.clone();
            async move { reader.read_point(SOON).await }
        });
        tokio::time::sleep(std::time::Duration::from_micros(100 * n)).await;
        let index = cluster.write(followers[1].0, &n.to_string()).await;
        assert!(reader.read_point(SOON).await.unwrap() >= index, "after {n}");
        early.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn who_gives_up_while_others_wait_takes_nothing_from_them() {
    let cluster = Cluster::founded(3).await;
    let leader = cluster.leader().await;
    cluster.wires.isolate(leader);
    let reader = cluster.group(cluster.members.keys().copied().find(|node| *node != leader).unwrap().0);
    let short = reader.read_point(std::time::Duration::from_millis(10));
    let (short, long) = tokio::join!(short, reader.read_point(SOON));
    assert!(short.is_err(), "nobody leads yet");
    assert!(long.is_ok(), "{long:?}");
}
