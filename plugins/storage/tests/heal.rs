//! What heals by itself: damage, what nobody names any more, and partitions that move.

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Node, content, nodes};
use hirsel_model::NodeId;
use hirsel_storage::heal::budget::Budget;
use hirsel_storage::heal::{Healing, deaths, moves, repair, upkeep};
use hirsel_storage::meta::command::{Answer, By, Command, Condition, Deletion, Put};
use hirsel_storage::meta::kinds::{About, Acl, Class, WhenShort, Written};
use hirsel_storage::meta::names::{BucketName, ObjectKey};
use hirsel_storage::meta::query::{Query, Reply};
use tokio::sync::watch;
use tokio::time::sleep;

const SOON: Duration = Duration::from_secs(30);

fn bucket() -> BucketName {
    BucketName::new("pasture").unwrap()
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new(name).unwrap()
}

async fn make_bucket(node: &Node) {
    let create = Command::CreateBucket {
        name: bucket(),
        owner: "ann".into(),
        region: "here".into(),
        lockable: false,
        acl: Acl::Private,
        class: Class::default(),
    };
    assert_eq!(node.gateway.ask(create).await, Ok(Answer::Done));
}

async fn put(node: &Node, name: &str, class: Class, bytes: usize) -> Written {
    let mut writer = node.gateway.writer(class, WhenShort::Degrade);
    writer.push(content(name.len() as u8, bytes)).await.unwrap();
    let body = writer.finish().await.unwrap();
    let (about, condition) = (About::default(), Condition::default());
    let (etag, written) = ("etag".into(), body.clone());
    let put =
        Put { bucket: bucket(), key: key(name), body, etag, checksum: None, about, lock: None, condition, by: By::Put };
    assert!(matches!(node.gateway.ask(Command::Put(Box::new(put))).await, Ok(Answer::Made(_))));
    written
}

async fn read(node: &Node, name: &str) -> Result<Vec<u8>, String> {
    let query = Query::Version { bucket: bucket(), key: key(name), version: None, from: 0 };
    let Reply::Version(found) = node.gateway.look(query).await.map_err(|error| error.to_string())? else {
        return Err("another answer".into());
    };
    let object = found.version.object.ok_or("a marker")?;
    let whole = node.gateway.read_whole(&object, found.pieces, 64 << 20).await?;
    Ok(whole.ok_or("too long")?.to_vec())
}

/// The node that leads the metadata group.
async fn leader(nodes: &[Node]) -> &Node {
    let begun = Instant::now();
    loop {
        if let Some(leader) = nodes.iter().find(|node| node.group.leads()) {
            return leader;
        }
        assert!(begun.elapsed() < SOON, "nobody leads");
        sleep(Duration::from_millis(20)).await;
    }
}

fn pieces(nodes: &[Node]) -> usize {
    nodes.iter().map(|node| node.disk.list(None).iter().filter(|listed| !listed.condemned).count()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_piece_is_found_and_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let nodes = nodes(folder.path(), 75, 6, 3).await;
    make_bucket(&nodes[0]).await;
    for (name, class) in [("copied", Class::Copies(3)), ("codes", Class::Erasure(4, 2))] {
        put(&nodes[0], name, class, 3 << 20).await;
        let has = |node: &&Node| !node.disk.list(None).is_empty();
        let broken = nodes.iter().find(has).unwrap();
        let chunks = broken.folder.join("chunks");
        for file in std::fs::read_dir(&chunks).unwrap() {
            let path = file.unwrap().path();
            let mut bytes = std::fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(&path, bytes).unwrap();
        }
        let whole = content(name.len() as u8, 3 << 20);
        assert!(read(broken, name).await.as_deref() == Ok(&whole[..]), "the others have it");
        let damaged = broken.disk.scrub(u64::MAX, 1).await.unwrap().damaged;
        assert!(!damaged.is_empty(), "{name}");
        upkeep::repair(&broken.gateway, &damaged).await;
        let order = nodes[0].order.borrow().clone();
        let healing = watch::Sender::new(Healing::default());
        let begun = Instant::now();
        while !broken.disk.usage().await.unwrap().damaged.is_empty() {
            let _ =
                repair::step(leader(&nodes).await.gateway.clone(), order.clone(), healing.clone(), Budget::default())
                    .await;
            assert!(begun.elapsed() < SOON, "never made anew");
        }
        // With all others silent about it, this one gives it.
        let again = broken.disk.scrub(u64::MAX, 2).await.unwrap();
        assert_eq!(again.damaged, []);
        assert!(read(broken, name).await.as_deref() == Ok(&whole[..]));
        let deletions = vec![Deletion { key: key(name), version: None, if_match: None }];
        nodes[1]
            .gateway
            .ask(Command::Delete { bucket: bucket(), deletions, bypass: false, expired: false })
            .await
            .unwrap();
        let begun = Instant::now();
        while pieces(&nodes) > 0 {
            let _ = deaths::step(leader(&nodes).await.gateway.clone(), order.clone()).await;
            assert!(begun.elapsed() < SOON, "what was deleted is still there");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_is_whole_where_it_moved_to_and_what_came_meanwhile_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let nodes = nodes(folder.path(), 76, 7, 3).await;
    make_bucket(&nodes[0]).await;
    let Written::Chunks { chunks, .. } = put(&nodes[0], "copied", Class::Copies(3), 1 << 20).await else {
        panic!("it has chunks")
    };
    let number = chunks[0].id.partition();
    nodes[0].order.send_modify(|order| {
        let order = Arc::make_mut(order);
        order.table.version = 2;
        let partition = order.table.partitions.get_mut(&number).unwrap();
        let free: Vec<NodeId> = (1..=7).map(NodeId).filter(|node| !partition.nodes.contains(node)).take(2).collect();
        partition.next = vec![free[0], partition.nodes[1], free[1]];
        partition.table = 2;
    });
    let order = nodes[0].order.borrow().clone();
    let next: BTreeSet<NodeId> = order.table.partitions[&number].next.iter().copied().collect();
    let healing = watch::Sender::new(Healing::default());
    let begun = Instant::now();
    while healing.borrow().moved.get(&number) != Some(&2) {
        let _ =
            moves::step(leader(&nodes).await.gateway.clone(), order.clone(), healing.clone(), Budget::default()).await;
        assert!(begun.elapsed() < SOON, "never moved");
    }
    let id = chunks[0].id.on_disk(0);
    let have = nodes.iter().filter(|node| node.disk.find(id).is_some()).map(|node| node.target.node);
    assert!(have.collect::<BTreeSet<_>>().is_superset(&next));
    let late = match nodes[3].gateway.look(Query::Waiting(Some(number))).await {
        Ok(Reply::Waiting(waiting)) => waiting.least_table,
        other => panic!("{other:?}"),
    };
    assert_eq!(late, 2, "nothing is placed by the older table any more");
}
