//! Three of five that have the metadata are lost for good: objects whose pieces survive are read, and writes go on.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use common::{Node, content, nodes};
use hirsel_model::storage::{Foundation, StorageTable};
use hirsel_model::{NodeId, Tag};
use hirsel_storage::meta::command::{Answer, By, Command, Condition, Put};
use hirsel_storage::meta::kinds::{About, Acl, Class, WhenShort};
use hirsel_storage::meta::names::{BucketName, ObjectKey};
use hirsel_storage::meta::query::{Query, Reply};
use tokio::time::sleep;

const SOON: Duration = Duration::from_secs(60);
/// No two of them follow each other in a partition of three, so that a copy of each chunk is left.
const LOST: [u64; 3] = [1, 3, 5];

fn bucket() -> BucketName {
    BucketName::new("pasture").unwrap()
}

async fn put(node: &Node, name: &str, class: Class, bytes: usize) -> Result<(), String> {
    let mut writer = node.gateway.writer(class, WhenShort::Degrade);
    writer.push(content(name.len() as u8, bytes)).await.map_err(|error| error.to_string())?;
    let body = writer.finish().await.map_err(|error| error.to_string())?;
    let (about, condition, key) = (About::default(), Condition::default(), ObjectKey::new(name).unwrap());
    let etag = "etag".into();
    let put = Put { bucket: bucket(), key, body, etag, checksum: None, about, lock: None, condition, by: By::Put };
    match node.gateway.ask(Command::Put(Box::new(put))).await {
        Ok(Answer::Made(_)) => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

async fn read(node: &Node, name: &str) -> Result<Vec<u8>, String> {
    let query = Query::Version { bucket: bucket(), key: ObjectKey::new(name).unwrap(), version: None, from: 0 };
    let Reply::Version(found) = node.gateway.look(query).await.map_err(|error| error.to_string())? else {
        return Err("another answer".into());
    };
    let object = found.version.object.ok_or("a marker")?;
    let whole = node.gateway.read_whole(&object, found.pieces, 64 << 20).await?;
    Ok(whole.ok_or("too long")?.to_vec())
}

/// What a leader of the control group puts into the table, once these are given up.
fn planned(nodes: &[&Node], table: &mut StorageTable) {
    let left: BTreeMap<NodeId, _> =
        nodes.iter().filter_map(|node| Some((node.target.node, node.group.left()?))).collect();
    let tags: BTreeMap<NodeId, Tag> = nodes.iter().map(|node| (node.target.node, node.group.tag())).collect();
    let (left, heard) = (left.iter().collect::<Vec<_>>(), tags.iter().map(|(node, tag)| (*node, tag)).collect());
    let left = left.into_iter().map(|(node, left)| (*node, left)).collect();
    let is_member = |node: NodeId| !LOST.contains(&node.0);
    table.foundation = Foundation::next(table.foundation.as_ref(), is_member, &heard, &left, 11);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_survives_is_read_and_writes_go_on_without_three_of_five_that_had_the_metadata() {
    let folder = tempfile::tempdir().unwrap();
    let nodes = nodes(folder.path(), 79, 7, 5).await;
    let create = Command::CreateBucket {
        name: bucket(),
        owner: "ann".into(),
        region: "here".into(),
        lockable: false,
        acl: Acl::Private,
        class: Class::default(),
    };
    assert_eq!(nodes[6].gateway.ask(create).await, Ok(Answer::Done));
    for (name, class, bytes) in
        [("a", Class::Copies(3), 100), ("bb", Class::Copies(3), 3 << 20), ("ccc", Class::Erasure(4, 2), 3 << 20)]
    {
        put(&nodes[6], name, class, bytes).await.unwrap();
    }
    for lost in LOST {
        let node = &nodes[lost as usize - 1];
        node.transport.close().await;
        node.group.stop().await;
    }
    let living: Vec<&Node> = nodes.iter().filter(|node| !LOST.contains(&node.target.node.0)).collect();
    assert!(read(living[0], "a").await.is_err(), "nobody can say that it is the newest");

    let mut order = (**nodes[0].order.borrow()).clone();
    let voters: BTreeSet<NodeId> = [2, 4, 6].map(NodeId).into();
    (order.table.voters, order.table.founder) = (voters.clone(), None);
    order.nodes.retain(|node| !LOST.contains(&node.0));
    order.incarnations.retain(|node, _| !LOST.contains(&node.0));
    let begun = Instant::now();
    while living.iter().any(|node| node.group.tag() == Tag::default())
        || living.iter().filter(|node| voters.contains(&node.target.node)).any(|node| node.group.voters() != voters)
    {
        planned(&living, &mut order.table);
        for node in &living {
            // In words; what is reached is looked at.
            let _ = node.group.steer(&order.table).await;
        }
        assert!(begun.elapsed() < SOON, "it does not go on: {:?}", order.table.foundation);
        sleep(Duration::from_millis(20)).await;
    }
    nodes[0].order.send_replace(order.into());

    // Node 7 has no metadata, and learned by the plan alone to whom it speaks.
    for node in [living[0], living[3]] {
        for (name, bytes) in [("a", 100), ("bb", 3 << 20)] {
            let whole = content(name.len() as u8, bytes);
            assert!(read(node, name).await.as_deref() == Ok(&whole[..]), "{name} on {}", node.target.node);
        }
    }
    // Of six pieces two or three are lost: it is whole, or is known to be there and not whole.
    match read(living[3], "ccc").await {
        Ok(whole) => assert!(whole == content(3, 3 << 20)),
        Err(words) => assert!(!words.contains("metadata"), "{words}"),
    }
    put(living[3], "dddd", Class::Copies(3), 1 << 20).await.unwrap();
    assert!(read(living[1], "dddd").await.as_deref() == Ok(&content(4, 1 << 20)[..]));
}
