//! What heals by itself: damage, what nobody names any more, and partitions that move.

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Node, content, nodes};
use hirsel_model::NodeId;
use hirsel_model::storage::{Audit, StorageTable};
use hirsel_role::storage::Auditing;
use hirsel_storage::heal::budget::Budget;
use hirsel_storage::heal::{Healing, audit, deaths, moves, repair, upkeep};
use hirsel_storage::meta::command::{Answer, By, Command, Condition, Deletion, Put};
use hirsel_storage::meta::kinds::{About, Acl, Class, WhenShort, Written};
use hirsel_storage::meta::names::{BucketName, ObjectKey};
use hirsel_storage::meta::query::{Query, Reply};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

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

/// Has a partition moved to `next`, by a table of this version, and lets go of where it was once all is there.
async fn move_to(nodes: &[Node], number: u16, version: u64, next: &[NodeId]) {
    let change = |change: &dyn Fn(&mut StorageTable)| {
        nodes[0].order.send_modify(|order| change(&mut Arc::make_mut(order).table));
    };
    change(&|table| {
        table.version = version;
        let partition = table.partitions.get_mut(&number).unwrap();
        (partition.next, partition.table) = (next.to_vec(), version);
    });
    let order = nodes[0].order.borrow().clone();
    let healing = watch::Sender::new(Healing::default());
    let begun = Instant::now();
    while healing.borrow().moved.get(&number) != Some(&version) {
        let leader = leader(nodes).await.gateway.clone();
        // In words; what is reached is looked at.
        let _ = moves::step(leader, order.clone(), healing.clone(), Budget::default()).await;
        assert!(begun.elapsed() < SOON, "never moved");
    }
    change(&|table| {
        table.version = version + 1;
        let partition = table.partitions.get_mut(&number).unwrap();
        (partition.nodes, partition.next, partition.table) = (next.to_vec(), Vec::new(), version + 1);
    });
}

/// One audit of a node.
async fn audited(node: &Node) -> Audit {
    let (audits, now) = (watch::Sender::new(Auditing::default()), Arc::new(Notify::new()));
    let mut told = audits.subscribe();
    now.notify_one();
    let (gateway, disk, order) = (node.gateway.clone(), node.disk.clone(), node.order.subscribe());
    let kept = audit::keep(gateway, disk, order, node.spares.clone(), audits, now);
    tokio::select! {
        () = kept => panic!("it goes on for ever"),
        ended = timeout(SOON, told.changed()) => assert!(ended.unwrap().is_ok()),
    }
    let told = told.borrow().clone();
    assert_eq!(told.failed, None);
    told.last
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_partition_leaves_behind_is_evicted_once_all_is_where_it_moved_to_and_may_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let nodes = nodes(folder.path(), 80, 7, 3).await;
    make_bucket(&nodes[0]).await;
    // A file of its own, and a record among others.
    for (step, bytes) in [1 << 20, 20_000].into_iter().enumerate() {
        let name = format!("object {bytes}");
        let Written::Chunks { chunks, .. } = put(&nodes[0], &name, Class::Copies(3), bytes).await else {
            panic!("it has chunks")
        };
        let (number, id) = (chunks[0].id.partition(), chunks[0].id.on_disk(0));
        let old = nodes[0].order.borrow().table.partitions[&number].nodes.clone();
        let next: Vec<NodeId> = (1..=7).map(NodeId).filter(|node| !old.contains(node)).take(3).collect();
        let of = |id: &NodeId| &nodes[id.0 as usize - 1];
        let have = || nodes.iter().filter(|node| node.disk.find(id).is_some()).count();
        let version = 10 * (step as u64 + 1);
        move_to(&nodes, number, version, &next).await;
        assert_eq!(have(), 6);
        // One of those that have it now loses it: nobody gives up anything.
        assert_eq!(of(&next[1]).disk.evict(&[id]).await, Ok(1));
        for node in &old {
            assert_eq!(audited(of(node)).await.elsewhere, 1);
        }
        assert_eq!(have(), 5);
        let order = nodes[0].order.borrow().clone();
        let lacking = audited(of(&next[1])).await;
        assert_eq!(lacking.wanted - lacking.there, 1);
        let begun = Instant::now();
        while of(&next[1]).disk.find(id).is_none() {
            let (leader, healing) = (leader(&nodes).await.gateway.clone(), watch::Sender::new(Healing::default()));
            let _ = repair::step(leader, order.clone(), healing, Budget::default()).await;
            assert!(begun.elapsed() < SOON, "never made anew");
        }
        for node in &old {
            assert_eq!(audited(of(node)).await.elsewhere, 0);
        }
        assert_eq!(have(), 3);
        // It comes back to where it was given up, and is found there after another move.
        move_to(&nodes, number, version + 4, &old).await;
        for node in &next {
            assert_eq!(audited(of(node)).await.elsewhere, 0);
        }
        assert!(old.iter().all(|node| of(node).disk.find(id).is_some()) && have() == 3);
        for node in &nodes {
            assert!(read(node, &name).await.as_deref() == Ok(&content(name.len() as u8, bytes)[..]));
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
    let partition = nodes[0].order.borrow().table.partitions[&number].clone();
    let free: Vec<NodeId> = (1..=7).map(NodeId).filter(|node| !partition.nodes.contains(node)).take(2).collect();
    let next = [free[0], partition.nodes[1], free[1]];
    move_to(&nodes, number, 2, &next).await;
    let id = chunks[0].id.on_disk(0);
    let have = nodes.iter().filter(|node| node.disk.find(id).is_some()).map(|node| node.target.node);
    assert!(have.collect::<BTreeSet<_>>().is_superset(&next.into()));
    let late = match nodes[3].gateway.look(Query::Waiting(Some(number))).await {
        Ok(Reply::Waiting(waiting)) => waiting.least_table,
        other => panic!("{other:?}"),
    };
    assert_eq!(late, 2, "nothing is placed by the older table any more");
}
