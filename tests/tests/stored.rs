//! What is stored, as people see it: in status, in audits, in a scrub, in the reason of an object that lacks pieces and by doctor; and as clients
//! read it through a load balancer while one node after the other is killed.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hirsel_tests::cli::Ran;
use hirsel_tests::cluster::{Cluster, array};
use hirsel_tests::load::{Load, Running};
use hirsel_tests::{http, wait_for};
use serde_json::Value;

/// A cluster that has just begun has its data placed, and its metadata group, within this.
const BEGINS_WITHIN: Duration = Duration::from_secs(90);
/// What is broken is found and mended within this: a node starts, is audited, and gets what it lacks.
const HEALS_WITHIN: Duration = Duration::from_secs(180);
/// Two chunks: one whole, and one byte more.
const BYTES: usize = (4 << 20) + 1;
/// Three copies of each.
const PIECES: u64 = 6;

/// The folder in which the large chunks of a node lie.
fn chunks(folder: &Path) -> Option<PathBuf> {
    let inside = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
    let mut inside: Vec<PathBuf> = inside.collect();
    if let Some(found) = inside.iter().position(|path| path.file_name().is_some_and(|name| name == "chunks")) {
        return Some(inside.swap_remove(found));
    }
    inside.iter().find_map(|path| chunks(path))
}

fn sum(nodes: &Value, field: &str) -> u64 {
    array(nodes).iter().map(|node| node["count"][field].as_u64().unwrap_or_else(|| panic!("{node}"))).sum()
}

/// One audit of all: what it said, pieces that should be there, and that are. None are where it did not end in time.
fn audit(cluster: &Cluster) -> (Ran, u64, u64) {
    let ran = cluster.any().ask(["bucket", "audit", "--timeout", "40s"]);
    let (expected, found) = ran.try_data().map_or((0, 0), |data| (sum(&data, "expected"), sum(&data, "found")));
    (ran, expected, found)
}

#[test]
fn what_is_stored_is_counted_and_what_is_missing_is_said_and_mended() {
    let mut cluster = Cluster::start(3);
    assert!(cluster.any().ask(["status"]).data()["storage"].is_null(), "nothing is stored, and nothing is said");
    wait_for("a bucket can be made", BEGINS_WITHIN, || match cluster.any().ask(["bucket", "create", "media"]) {
        ran if ran.code == Some(0) => Ok(()),
        ran => Err(ran.words()),
    });
    wait_for("the log tells of it", BEGINS_WITHIN, || {
        let events = cluster.any().ask(["events"]).words();
        if events.contains("bucket media was made") { Ok(()) } else { Err(events) }
    });
    let file = cluster.folder.path().join("cat.jpg");
    std::fs::write(&file, vec![7; BYTES]).unwrap();
    let ran = cluster.any().ask(["cp", &file.display().to_string(), "media/pets/cat.jpg"]);
    assert_eq!(ran.code, Some(0), "{}", ran.words());

    // Nothing is called healthy before every piece was counted.
    wait_for("an audit finds all there is", BEGINS_WITHIN, || match audit(&cluster) {
        (ran, PIECES, PIECES) if ran.code == Some(0) => Ok(()),
        (ran, ..) => Err(ran.words()),
    });
    wait_for("status says what was counted", BEGINS_WITHIN, || {
        let storage = cluster.nodes[2].ask(["status"]).data()["storage"].clone();
        let told = (&storage["health"], &storage["objects"], &storage["audit"]["found"], &storage["nodes"]);
        if told == (&"healthy".into(), &1.into(), &PIECES.into(), &3.into()) {
            Ok(())
        } else {
            Err(storage.to_string())
        }
    });
    let why = cluster.nodes[1].ask(["why", "media/pets/cat.jpg"]).data();
    assert!(why["chosen"]["text"].as_str().unwrap().contains("all pieces are there"), "{why}");
    assert_eq!(cluster.any().ask(["why", "media/none"]).code, Some(9));
    let ran = cluster.any().ask(["bucket", "scrub", "--timeout", "40s"]);
    assert_eq!(ran.code, Some(0), "{}", ran.words());
    let data = ran.data();
    let read: u64 = array(&data).iter().map(|node| node["last_chunks"].as_u64().unwrap()).sum();
    assert_eq!(read, PIECES, "{data}");
    let doctor = cluster.any().ask(["doctor"]).data();
    let checks = array(&doctor["checks"]).iter().filter(|check| check["check"] == "objects");
    assert_eq!(checks.clone().count(), 4, "three disks and the metadata: {doctor}");
    // How much of a disk is free is the machine's.
    assert!(checks.clone().any(|check| check["subject"] == "metadata" && check["state"] == "ok"), "{doctor}");

    // One loses what was on its disk.
    cluster.nodes[2].kill_agent();
    let folder = chunks(&cluster.nodes[2].data).unwrap();
    let files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    std::fs::remove_file(&files[0]).unwrap();
    wait_for("it is said that a node is not heard", HEALS_WITHIN, || {
        let why = cluster.nodes[0].ask(["why", "media/pets/cat.jpg"]).try_data()?;
        let text = why["chosen"]["text"].as_str().unwrap_or_default();
        let named = array(&why["rejected"]).iter().any(|node| node["node"] == "n3");
        if text.contains("2 of 2 chunks lack pieces") && named { Ok(()) } else { Err(why.to_string()) }
    });
    let ran = cluster.nodes[0].ask(["bucket", "audit", "--timeout", "40s"]);
    assert_eq!(ran.code, Some(3), "a node that is not heard is not counted: {}", ran.words());
    cluster.nodes[2].start(None);
    wait_for("it is mended, and an audit says so", HEALS_WITHIN, || match audit(&cluster) {
        (ran, PIECES, PIECES) if ran.code == Some(0) => Ok(()),
        (ran, ..) => Err(ran.words()),
    });
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "the file is there again");
    // Who goes leaves nothing behind that others have not, though nobody takes its place.
    let ran = cluster.nodes[0].ask(["drain", "n3", "--yes"]);
    assert_eq!(ran.code, Some(0), "{}", ran.words());
    assert!(ran.words().contains("bears one loss less"), "it is said before: {}", ran.words());
    wait_for("n3 keeps nothing any more", HEALS_WITHIN, || {
        let storage = cluster.nodes[0].ask(["status"]).data()["storage"].clone();
        if storage["nodes"] == 2 { Ok(()) } else { Err(storage.to_string()) }
    });
    wait_for("two nodes have it all", HEALS_WITHIN, || match audit(&cluster) {
        (ran, 4, 4) if ran.code == Some(3) && sum(&ran.data(), "homeless") == 2 => Ok(()),
        (ran, ..) => Err(ran.words()),
    });
    let back = cluster.folder.path().join("back.jpg");
    cluster.nodes[2].kill_agent();
    wait_for("it is read without the node that went", HEALS_WITHIN, || {
        match cluster.nodes[0].ask(["cp", "media/pets/cat.jpg", &back.display().to_string()]) {
            ran if ran.code == Some(0) => Ok(()),
            ran => Err(ran.words()),
        }
    });
    assert!(std::fs::read(&back).unwrap() == vec![7; BYTES]);
}

/// Reads per second of each object.
const RATE: u32 = 20;
/// How long each loss is looked at: longer than it takes to be noticed, planned around and forgotten.
const FOR: Duration = Duration::from_secs(8);
/// A gateway holds a request this long while those who keep the metadata agree on another leader. This is a debug build on a shared machine.
const LONGEST: Duration = Duration::from_secs(8);
/// In its row, packed with others, and in two files of its own.
const OBJECTS: [(&str, usize); 3] = [("row", 3_000), ("packed", 100_000), ("files", BYTES)];

/// All objects are read through these load balancers, from now on.
fn readers(targets: &[SocketAddr]) -> Vec<(&'static str, Running)> {
    let start = |(key, _): (&'static str, usize)| {
        let (targets, host, path) = (targets.to_vec(), "media.test".into(), format!("/{key}"));
        let load = Load { targets, host, path, method: "GET", status: 200, rate: RATE, connections: 4 };
        (key, load.start())
    };
    OBJECTS.map(start).into()
}

#[test]
fn no_read_through_a_load_balancer_fails_while_the_nodes_are_killed_one_after_the_other() {
    let mut cluster = Cluster::start(5);
    wait_for("a bucket can be made", BEGINS_WITHIN, || match cluster.any().ask(["bucket", "create", "media"]) {
        ran if ran.code == Some(0) => Ok(()),
        ran => Err(ran.words()),
    });
    for (number, (key, length)) in OBJECTS.into_iter().enumerate() {
        let file = cluster.folder.path().join(key);
        std::fs::write(&file, vec![number as u8; length]).unwrap();
        wait_for("objects are kept", BEGINS_WITHIN, || {
            match cluster.any().ask(["cp", &file.display().to_string(), &format!("media/{key}")]) {
                ran if ran.code == Some(0) => Ok(()),
                ran => Err(ran.words()),
            }
        });
    }
    // A cluster of a second does not bear yet what it will: all have come, and each has found what it should have.
    wait_for("what is stored is well on five nodes", HEALS_WITHIN, || {
        let storage = cluster.any().ask(["status"]).try_data()?["storage"].clone();
        let all = storage["nodes"] == 5 && array(&storage["voters"]).len() == 5;
        if all && storage["health"] == "healthy" { Ok(()) } else { Err(storage.to_string()) }
    });
    let ran = cluster.apply_only("app = \"media\"\n[route.\"media.test\"]\nto = \"bucket:media\"\n");
    assert_eq!(ran.code, Some(0), "{}", ran.words());
    let read = |lb: SocketAddr, number: usize| {
        let (key, length) = OBJECTS[number];
        let answer = http::get(lb, "media.test", &format!("/{key}")).map_err(|error| error.to_string())?;
        let whole = answer.status == 200 && answer.body == vec![number as u8; length];
        if whole { Ok(()) } else { Err(format!("{key}: {} with {} bytes", answer.status, answer.body.len())) }
    };
    for (_, lb) in cluster.lbs() {
        wait_for("every object is read", BEGINS_WITHIN, || (0..OBJECTS.len()).try_for_each(|number| read(lb, number)));
    }
    // The first one has founded the cluster and the metadata, and leads both.
    for victim in 0..cluster.nodes.len() {
        // One endpoint, and it lives: that its address moves to another node is another matter.
        let lb = cluster.lbs().into_iter().map(|(_, lb)| lb).find(|lb| lb.ip() != cluster.nodes[victim].ip);
        let lb = lb.expect("another node balances load");
        let readers = readers(&[lb]);
        let expected = u64::from(RATE) * FOR.as_secs() * 9 / 10;
        wait_for("the load runs", BEGINS_WITHIN, || {
            let answered: Vec<u64> = readers.iter().map(|(_, load)| load.answered()).collect();
            if answered.iter().all(|answered| *answered >= 10) { Ok(()) } else { Err(format!("{answered:?}")) }
        });
        let before: Vec<u64> = readers.iter().map(|(_, load)| load.answered()).collect();
        cluster.nodes[victim].kill_agent();
        wait_for("the load goes on", FOR + LONGEST * 3, || {
            let now: Vec<u64> =
                readers.iter().zip(&before).map(|((_, load), before)| load.answered() - before).collect();
            if now.iter().all(|answered| *answered >= expected) {
                Ok(())
            } else {
                Err(format!("{now:?} of {expected}"))
            }
        });
        (0..OBJECTS.len()).try_for_each(|number| read(lb, number)).unwrap();
        for (key, load) in readers {
            let tally = load.end();
            let (answered, failed) = (tally.answered, tally.failures.len());
            eprintln!(
                "n{} killed: {answered} read of {key}, {failed} failed, the longest took {:.2?}",
                victim + 1,
                tally.slowest
            );
            tally.assert_sound(expected);
            assert!(tally.slowest < LONGEST, "{key}: {:?}", tally.slowest);
        }
        cluster.nodes[victim].start(None);
        cluster.whole();
    }
}
