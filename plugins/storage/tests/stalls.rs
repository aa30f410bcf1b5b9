//! What clients feel of a node that goes, and of a disk that hangs, under the data or the metadata, at the gateways of the other nodes: nothing
//! fails, and nothing takes long.
//!
//! Disks are in memory; the mesh and the metadata are real. That a process freezes or a host is cut off is looked at with whole agents.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{Mesh, Node, content, steer};
use futures::future::join_all;
use hirsel_mesh::seam::volume::memory::Platter;
use hirsel_model::NodeId;
use hirsel_storage::gateway::Gateway;
use hirsel_storage::meta::command::{Answer, By, Command, Condition, Put};
use hirsel_storage::meta::kinds::{About, Acl, Class, WhenShort};
use hirsel_storage::meta::names::{BucketName, ObjectKey};
use hirsel_storage::meta::query::{Query, Reply};

const NODES: u64 = 7;
/// The others only keep data.
const VOTERS: u64 = 5;
const DISK_BYTES: u64 = 1 << 30;
/// Clients of each gateway.
const CLIENTS: usize = 1;
/// What each client puts and reads in each round: every class in every size.
const REQUESTS: usize = 12;
/// Bodies: in their row, packed with others, and in files of their own.
const SIZES: [usize; 3] = [3_000, 100_000, 600_000];
/// Promised is a second; this is a debug build, and others use the machine.
const LONGEST: Duration = Duration::from_secs(3);
/// The same where those who keep the metadata have to agree on another leader, or first notice that the disk of the present one hangs.
const LONGEST_ELECTION: Duration = Duration::from_secs(8);

fn bucket() -> BucketName {
    BucketName::new("pasture").unwrap()
}

/// The longest of some requests of a kind.
type Longest = BTreeMap<&'static str, Duration>;

/// One client, which reads what it has put.
async fn client(gateway: Gateway, name: String) -> Longest {
    let mut longest = Longest::new();
    for number in 0..REQUESTS {
        let (class, kinds) = match number % 2 {
            0 => (Class::Copies(3), ["copies put", "copies read"]),
            _ => (Class::Erasure(4, 2), ["stripes put", "stripes read"]),
        };
        let (key, body) = (format!("{name}/{number}"), content(number as u8, SIZES[number / 2 % SIZES.len()]));
        let begun = Instant::now();
        put(&gateway, &key, class, &body).await;
        let (put, begun) = (begun.elapsed(), Instant::now());
        assert!(read(&gateway, &key).await == body, "{key}");
        for (kind, took) in kinds.into_iter().zip([put, begun.elapsed()]) {
            let known = longest.entry(kind).or_default();
            *known = took.max(*known);
        }
    }
    longest
}

async fn put(gateway: &Gateway, key: &str, class: Class, content: &Bytes) {
    let mut writer = gateway.writer(class, WhenShort::Degrade);
    writer.push(content.clone()).await.unwrap_or_else(|error| panic!("{key}: {error}"));
    let body = writer.finish().await.unwrap_or_else(|error| panic!("{key}: {error}"));
    let (about, condition, etag) = (About::default(), Condition::default(), "etag".to_owned());
    let (name, checksum, lock) = (ObjectKey::new(key).unwrap(), None, None);
    let put = Put { bucket: bucket(), key: name, body, etag, checksum, about, lock, condition, by: By::Put };
    let put = gateway.ask(Command::Put(Box::new(put))).await;
    assert!(matches!(put, Ok(Answer::Made(_))), "{key}: {put:?}");
}

async fn read(gateway: &Gateway, key: &str) -> Bytes {
    let query = Query::Version { bucket: bucket(), key: ObjectKey::new(key).unwrap(), version: None, from: 0 };
    let found = match gateway.look(query).await {
        Ok(Reply::Version(found)) => found,
        other => panic!("{key}: {other:?}"),
    };
    let read = gateway.read_whole(&found.version.object.unwrap(), found.pieces, 64 << 20).await;
    read.unwrap_or_else(|words| panic!("{key}: {words}")).unwrap()
}

/// Clients at the gateways of these nodes, all at once.
async fn round(nodes: &[Node], doors: &[u64], what: &str, limit: Duration) {
    let clients = doors.iter().flat_map(|door| (0..CLIENTS).map(move |number| (*door, number)));
    let run = |(door, number): (u64, usize)| {
        let name = format!("{what}/{door}/{number}");
        tokio::spawn(client(nodes[door as usize - 1].gateway.clone(), name))
    };
    let mut longest = Longest::new();
    for one in join_all(clients.map(run)).await {
        for (kind, took) in one.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())) {
            let known = longest.entry(kind).or_default();
            *known = took.max(*known);
        }
    }
    eprintln!("{what}: {longest:?}");
    assert!(longest.values().all(|took| *took < limit), "{what}: {longest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_disk_and_nodes_that_go_are_felt_by_nobody_for_long() {
    // What the metadata sync is not what is looked at here.
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    let mesh = Mesh::new(folder.path(), 79, NODES, VOTERS);
    let (mut nodes, mut platters): (Vec<Node>, Vec<Arc<Platter>>) = (Vec::new(), Vec::new());
    for number in 1..=NODES {
        let platter = Platter::new(DISK_BYTES);
        nodes.push(mesh.start_on(number, platter.mount()).await);
        platters.push(platter);
    }
    let table = mesh.order.borrow().table.clone();
    steer(nodes.iter(), &table).await;
    let (name, owner, region, acl) = (bucket(), "ann".into(), "here".into(), Acl::Private);
    let create = Command::CreateBucket { name, owner, region, lockable: false, acl, class: Class::default() };
    assert_eq!(nodes[0].gateway.ask(create).await, Ok(Answer::Done));
    let leader = nodes.iter().find(|node| node.group.leads()).unwrap().target.node.0;
    let voters: Vec<u64> = (1..=VOTERS).filter(|voter| *voter != leader).collect();

    // One gateway has the metadata itself, the other one asks for it.
    let doors = [voters[0], NODES];
    round(&nodes, &doors, "all is well", LONGEST).await;
    // Nobody knows of any of it: all are heard, and in the table.
    let hung = [NODES - 1, voters[1]];
    for node in hung {
        platters[node as usize - 1].set_hung(true);
        round(&nodes, &doors, &format!("the disk of node {node} hangs"), LONGEST).await;
        platters[node as usize - 1].set_hung(false);
    }
    // The data folder of one that has the metadata, at the gateway of the same node, too: it asks another copy meanwhile.
    nodes[voters[0] as usize - 1].hung.send_replace(true);
    let what = format!("the disk under the metadata of node {} hangs", voters[0]);
    round(&nodes, &doors[1..], &what, LONGEST).await;
    round(&nodes, &doors[..1], &format!("{what}, at this node"), LONGEST_ELECTION).await;
    nodes[voters[0] as usize - 1].hung.send_replace(false);
    nodes[leader as usize - 1].hung.send_replace(true);
    let what = format!("the disk under the metadata of their leader, node {leader}, hangs");
    round(&nodes, &[doors[0], doors[1], leader], &what, LONGEST_ELECTION).await;
    // Most of them need its disk for nothing: it may take longer than that until it is noticed.
    let begun = Instant::now();
    let next = loop {
        let leads = nodes.iter().find(|node| node.group.leads()).map(|node| node.target.node.0);
        if let Some(next) = leads.filter(|next| *next != leader) {
            break next;
        }
        assert!(begun.elapsed() < LONGEST_ELECTION, "{leads:?} leads");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    round(&nodes, &[doors[0], doors[1], leader], &format!("{what}, and another one leads"), LONGEST).await;
    nodes[leader as usize - 1].hung.send_replace(false);

    let leader = next;
    // It may have been one of the doors.
    let voters: Vec<u64> = (1..=VOTERS).filter(|voter| *voter != leader).collect();
    let (doors, gone) = ([voters[0], NODES], voters[1]);
    nodes[gone as usize - 1].transport.close().await;
    round(&nodes, &doors, "a node with data and metadata is gone", LONGEST).await;
    mesh.live.send_modify(|live| {
        Arc::make_mut(live).nodes.remove(&NodeId(gone));
    });
    nodes[leader as usize - 1].transport.close().await;
    round(&nodes, &doors, "the leader of the metadata is gone, too", LONGEST_ELECTION).await;
}
