//! Objects through any node: put, read, deleted, with nodes gone.

mod common;

use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{Node, content, nodes};
use futures::{FutureExt, StreamExt};
use hirsel_model::NodeId;
use hirsel_storage::gateway::{CHUNKS_COMING_MAX, CHUNKS_GOING_MAX};
use hirsel_storage::meta::access::MetaError;
use hirsel_storage::meta::command::{Answer, By, Command, Condition, Deletion, Put};
use hirsel_storage::meta::kinds::{About, Acl, Class, WhenShort, Written};
use hirsel_storage::meta::names::{BucketName, ObjectKey};
use hirsel_storage::meta::query::{Found, Query, Reply};
use hirsel_storage::meta::read::Known;
use hirsel_storage::meta::refusal::Refusal;

fn bucket() -> BucketName {
    BucketName::new("pasture").unwrap()
}

fn creation() -> Command {
    Command::CreateBucket {
        name: bucket(),
        owner: "ann".into(),
        region: "here".into(),
        lockable: false,
        acl: Acl::Private,
        class: Class::default(),
    }
}

/// A commit of this body.
fn commit(key: &str, body: Written, condition: Condition) -> Command {
    Command::Put(Box::new(Put {
        bucket: bucket(),
        key: ObjectKey::new(key).unwrap(),
        body,
        etag: "etag".into(),
        checksum: None,
        about: About::default(),
        lock: None,
        condition,
        by: By::Put,
    }))
}

async fn put(node: &Node, key: &str, class: Class, body: &Bytes) -> Written {
    let mut writer = node.gateway.writer(class, WhenShort::Degrade);
    // In pieces as they come from a network.
    for from in (0..body.len()).step_by(100_000) {
        writer.push(body.slice(from..body.len().min(from + 100_000))).await.unwrap();
    }
    let written = writer.finish().await.unwrap();
    let put = commit(key, written.clone(), Condition::default());
    assert!(matches!(node.gateway.ask(put).await, Ok(Answer::Made(_))));
    written
}

async fn look(node: &Node, key: &str, from: u64) -> Result<Found, MetaError> {
    let key = ObjectKey::new(key).unwrap();
    match node.gateway.look(Query::Version { bucket: bucket(), key, version: None, from }).await? {
        Reply::Version(found) => Ok(*found),
        other => panic!("{other:?}"),
    }
}

async fn read(node: &Node, key: &str, from: u64, to: u64) -> Bytes {
    let found = look(node, key, from).await.unwrap();
    let object = found.version.object.unwrap();
    let mut body = node.gateway.read(&object, found.pieces, from, to);
    let mut all = Vec::new();
    while let Some(piece) = body.next().await.unwrap() {
        all.extend_from_slice(&piece);
    }
    all.into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_put_through_one_node_is_read_through_every_other() {
    let folder = tempfile::tempdir().unwrap();
    let nodes = nodes(folder.path(), 74, 7, 3).await;
    // Node 7 is no member of the metadata group.
    let create = creation();
    assert_eq!(nodes[6].gateway.ask(create.clone()).await, Ok(Answer::Done));
    assert_eq!(nodes[1].gateway.ask(create).await, Err(MetaError::Refused(Refusal::BucketYours)));

    let sizes = [(1, 0), (2, 4_096), (3, 4_097), (4, 300_000), (5, 9_000_001)];
    for (n, bytes) in sizes {
        for (name, class) in [("copied", Class::Copies(3)), ("coded", Class::Erasure(4, 2))] {
            let written = put(&nodes[6], &format!("{name}/{n}"), class, &content(n, bytes)).await;
            assert_eq!(matches!(written, Written::Inline(_)), bytes <= 4_096);
        }
    }
    for node in [&nodes[0], &nodes[3], &nodes[6]] {
        for (n, bytes) in sizes {
            for name in ["copied", "coded"] {
                let (key, whole) = (format!("{name}/{n}"), content(n, bytes));
                assert_eq!(read(node, &key, 0, u64::MAX).await, whole, "{key}");
                let (from, to) = (bytes / 3, bytes / 3 * 2);
                assert_eq!(read(node, &key, from as u64, to as u64).await, whole.slice(from..to), "{key}");
            }
        }
    }

    // Two nodes that keep data are gone; one of them has the metadata as well.
    for gone in [2, 4] {
        nodes[gone].transport.close().await;
    }
    for (n, bytes) in sizes {
        for name in ["copied", "coded"] {
            assert_eq!(read(&nodes[6], &format!("{name}/{n}"), 0, u64::MAX).await, content(n, bytes));
        }
    }
    let missed = match put(&nodes[6], "late", Class::Copies(3), &content(9, 1 << 20)).await {
        Written::Chunks { missed, .. } => missed,
        Written::Inline(_) => panic!("too long for a row"),
    };
    assert!(missed.iter().all(|missed| [3, 5].contains(&missed.node.0)), "{missed:?}");
    assert_eq!(read(&nodes[5], "late", 0, u64::MAX).await, content(9, 1 << 20));
    let deletions = vec![Deletion { key: ObjectKey::new("late").unwrap(), version: None, if_match: None }];
    let delete = Command::Delete { bucket: bucket(), deletions, bypass: false, expired: false };
    assert!(matches!(nodes[6].gateway.ask(delete).await, Ok(Answer::Deleted(_))));
    assert_eq!(look(&nodes[0], "late", 0).await.err(), Some(MetaError::Refused(Refusal::NoSuchKey)));

    // Bodies on their way have so much room together, and small ones need none of it.
    let gateway = &nodes[6].gateway;
    let writer = || gateway.writer(Class::Copies(3), WhenShort::Degrade);
    let mut coming = Vec::new();
    for _ in 0..CHUNKS_COMING_MAX {
        coming.push(writer());
        coming.last_mut().unwrap().push(content(1, 100_000)).await.unwrap();
    }
    let mut waiting = writer();
    let waits = tokio::time::timeout(Duration::from_millis(100), waiting.push(content(1, 100_000))).await;
    assert!(waits.is_err(), "there is no room");
    assert!(writer().push(content(2, 4_096)).await.is_ok());
    coming.pop();
    assert!(waiting.push(content(1, 100_000)).await.is_ok());

    // Who sends slowly makes way for others, and goes on.
    let slow: Vec<_> = coming
        .drain(..)
        .chain([waiting])
        .map(|mut writer| {
            let (end, mut more) = tokio::sync::oneshot::channel::<Bytes>();
            let task = tokio::spawn(async move {
                let mut last = (&mut more).into_stream().filter_map(async |piece| piece.ok()).boxed();
                let piece = writer.next_of(&mut last).await?.unwrap_or_default();
                drop(last);
                writer.push(piece).await?;
                writer.finish().await
            });
            (end, task)
        })
        .collect();
    let nine = content(8, 9_000_001);
    let hurried = put(&nodes[6], "hurried", Class::Copies(3), &nine);
    tokio::time::timeout(Duration::from_secs(25), hurried).await.expect("others make way");
    for (n, (end, task)) in slow.into_iter().enumerate() {
        end.send(content(2, 50_000)).unwrap();
        let Written::Chunks { chunks, .. } = task.await.unwrap().unwrap() else { panic!("too long for a row") };
        assert_eq!(chunks.iter().map(|chunk| chunk.bytes).sum::<u32>(), 150_000, "{n}");
    }

    // Bodies on their way out, too, have so much room together; with none left they go in smaller pieces.
    let found = look(&nodes[6], "copied/5", 0).await.unwrap();
    let object = found.version.object.clone().unwrap();
    let mut going = Vec::new();
    for _ in 0..CHUNKS_GOING_MAX {
        let mut body = gateway.read(&object, found.pieces.clone(), 0, u64::MAX);
        // Begun, and taken by nobody.
        drop(body.next().now_or_never());
        going.push(body);
    }
    let mut body = gateway.read(&object, found.pieces.clone(), 100, u64::MAX);
    let mut all = Vec::new();
    while let Some(piece) = body.next().await.unwrap() {
        assert!(piece.len() <= 256 << 10, "{} bytes without room", piece.len());
        all.extend_from_slice(&piece);
    }
    assert_eq!(all, content(5, 9_000_001).slice(100..));
    drop(going);
    assert_eq!(read(&nodes[6], "coded/5", 0, u64::MAX).await, content(5, 9_000_001));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_written_for_a_commit_that_is_refused_or_that_nobody_waits_for_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let nodes = nodes(folder.path(), 77, 3, 3).await;
    assert_eq!(nodes[0].gateway.ask(creation()).await, Ok(Answer::Done));
    put(&nodes[0], "there", Class::Copies(3), &content(1, 10_000)).await;
    for (n, is_dropped) in [(2, false), (3, true)] {
        let mut writer = nodes[1].gateway.writer(Class::Copies(3), WhenShort::Degrade);
        writer.push(content(n, 10_000)).await.unwrap();
        let written = writer.finish().await.unwrap();
        let Written::Chunks { chunks, .. } = written.clone() else { panic!("too long for a row") };
        let first = Condition { if_none_match: Some("*".into()), ..Condition::default() };
        let asked = nodes[1].gateway.ask(commit("there", written, first));
        if is_dropped {
            assert!(asked.now_or_never().is_none());
        } else {
            assert!(matches!(asked.await, Err(MetaError::Refused(Refusal::Condition(_)))));
        }
        let begun = Instant::now();
        let fate = || async { nodes[2].gateway.look(Query::Fates(vec![chunks[0].id])).await };
        while fate().await == Ok(Reply::Fates(vec![Known::Open])) {
            assert!(begun.elapsed() < Duration::from_secs(30), "the write stays open");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    assert_eq!(read(&nodes[2], "there", 0, u64::MAX).await, content(1, 10_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_taken_out_of_the_group_asks_those_who_are_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let nodes = nodes(folder.path(), 78, 4, 3).await;
    assert_eq!(nodes[0].gateway.ask(creation()).await, Ok(Answer::Done));
    let mut table = nodes[0].order.borrow().table.clone();
    table.voters = [NodeId(1), NodeId(2), NodeId(4)].into();
    let begun = Instant::now();
    while [0, 1, 3].iter().any(|number| nodes[*number].group.voters() != table.voters) {
        assert!(begun.elapsed() < Duration::from_secs(30), "the group never changed");
        for node in &nodes {
            // In words; what is reached is looked at.
            let _ = node.group.steer(&table).await;
        }
    }
    put(&nodes[0], "late", Class::Copies(3), &content(1, 10_000)).await;
    assert_eq!(read(&nodes[2], "late", 0, u64::MAX).await, content(1, 10_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_eleven_shards_three_may_be_lost() {
    let folder = tempfile::tempdir().unwrap();
    let nodes = nodes(folder.path(), 80, 12, 3).await;
    let reader = &nodes[11];
    assert_eq!(reader.gateway.ask(creation()).await, Ok(Answer::Done));
    let (class, whole) = (Class::Erasure(8, 3), content(7, 9_000_001));
    let Written::Chunks { chunks, .. } = put(reader, "wide", class, &whole).await else { panic!("too long for a row") };
    assert!(chunks.iter().all(|chunk| chunk.id.partition() / 256 == 11), "{chunks:?}");
    // On a machine that others use a node may be slow, and its piece be on the twelfth, too.
    let pieces: usize = nodes.iter().map(|node| node.disk.list(None).len()).sum();
    assert!((11 * chunks.len()..=12 * chunks.len()).contains(&pieces), "{pieces} pieces of {chunks:?}");
    for gone in [3, 5, 7] {
        nodes[gone].transport.close().await;
    }
    assert_eq!(read(reader, "wide", 0, u64::MAX).await, whole);
    // Nine nodes are left, which is the least that a stripe of eight is acknowledged with.
    put(reader, "late", class, &whole).await;
    assert_eq!(read(&nodes[0], "late", 4_000_000, 5_000_000).await, whole.slice(4_000_000..5_000_000));
}
