//! Buckets, access keys and single objects by the command line, on a whole cluster of three: through every node, and with one of them gone.

use std::path::Path;
use std::time::Duration;

use hirsel_tests::cluster::{Cluster, array};
use hirsel_tests::wait_for;

/// A cluster that has just begun has its data placed, and its metadata group, within this.
const BEGINS_WITHIN: Duration = Duration::from_secs(90);
/// What goes on without a node goes on within this.
const GOES_ON_WITHIN: Duration = Duration::from_secs(60);

fn path(folder: &Path, name: &str) -> String {
    folder.join(name).display().to_string()
}

/// Bytes that are not alike anywhere, a little more than a large chunk holds.
fn bytes() -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..(5 << 20) + 3).map(|_| next()).collect()
}

#[test]
fn buckets_keys_and_objects_are_had_at_every_node_and_outlive_one() {
    let mut cluster = Cluster::start(3);
    let folder = tempfile::tempdir().unwrap();
    wait_for("a bucket can be made", BEGINS_WITHIN, || {
        match cluster.any().ask(["bucket", "create", "media", "--quota", "1GiB"]) {
            ran if ran.code == Some(0) => Ok(()),
            ran => Err(ran.words()),
        }
    });
    for (words, code) in [
        (&["bucket", "create", "media"][..], 10),
        (&["bucket", "create", "A"], 2),
        (&["bucket", "usage", "none"], 9),
        (&["bucket", "rm", "none"], 9),
        (&["cp", "none/key", "-"], 9),
    ] {
        let ran = cluster.any().ask(words);
        assert_eq!(ran.code, Some(code), "{words:?}: {}", ran.words());
    }

    // In through one node, out through every other.
    let whole = bytes();
    let (file, back) = (path(folder.path(), "cat.jpg"), path(folder.path(), "back.jpg"));
    std::fs::write(&file, &whole).unwrap();
    let ran = cluster.any().ask(["cp", &file, "media/pets/", "--content-type", "image/jpeg"]);
    assert_eq!(ran.code, Some(0), "{}", ran.words());
    assert_eq!((&ran.data()["key"], &ran.data()["bytes"]), (&"pets/cat.jpg".into(), &(whole.len() as u64).into()));
    for node in &cluster.nodes {
        let ran = node.ask(["cp", "media/pets/cat.jpg", &back]);
        assert_eq!(ran.code, Some(0), "{}: {}", node.name, ran.words());
        assert!(std::fs::read(&back).unwrap() == whole, "{} gives other bytes", node.name);
        std::fs::remove_file(&back).unwrap();
    }
    let usage = cluster.any().ask(["bucket", "usage", "media"]).data();
    assert_eq!((&usage["objects"], &usage["bytes"]), (&1.into(), &(whole.len() as u64).into()), "{usage}");
    assert_eq!((&usage["quota_bytes"], &usage["safety"]), (&(1_u64 << 30).into(), &"3 copies".into()), "{usage}");
    let ran = cluster.any().ask(["bucket", "rm", "media"]);
    assert_eq!(ran.code, Some(10), "it is not empty: {}", ran.words());

    // A quota is kept, and lifted.
    let ran = cluster.any().ask(["bucket", "set", "media", "--quota", "1MiB", "--versioning", "on"]);
    assert_eq!(ran.code, Some(0), "{}", ran.words());
    let ran = cluster.any().ask(["cp", &file, "media/dog.jpg"]);
    assert_eq!(ran.code, Some(6), "{}", ran.words());
    let ran = cluster.any().ask(["bucket", "set", "media", "--quota", "none"]);
    assert_eq!((ran.code, ran.data()["versioning"].as_bool()), (Some(0), Some(true)), "{}", ran.words());

    // A key is shown once, and listed without its secret.
    let made = cluster.any().ask(["bucket", "key", "create", "shop", "--bucket", "media"]).data();
    let (id, secret) = (made["access_key_id"].as_str().unwrap(), made["secret_access_key"].as_str().unwrap());
    assert!(id.len() == 20 && secret.len() == 40 && made["endpoint"].as_str().unwrap().ends_with(":7480"), "{made}");
    for node in &cluster.nodes {
        let listed = node.ask(["bucket", "key", "list", "--fresh"]);
        assert!(listed.words().contains(id) && !listed.words().contains(secret), "{}", listed.words());
    }

    // With one node gone all is there, and more is taken.
    cluster.nodes[2].kill_agent();
    wait_for("an object is read without one of three nodes", GOES_ON_WITHIN, || {
        match cluster.nodes[0].ask(["cp", "media/pets/cat.jpg", &back]) {
            ran if ran.code == Some(0) => Ok(()),
            ran => Err(ran.words()),
        }
    });
    assert!(std::fs::read(&back).unwrap() == whole);
    wait_for("an object is written without one of three nodes", GOES_ON_WITHIN, || {
        match cluster.nodes[1].ask(["cp", &file, "media/dog.jpg"]) {
            ran if ran.code == Some(0) => Ok(()),
            ran => Err(ran.words()),
        }
    });
    let ran = cluster.nodes[0].ask(["bucket", "key", "rm", id, "--yes"]);
    assert_eq!(ran.code, Some(0), "{}", ran.words());
    let buckets = cluster.nodes[0].ask(["bucket", "list"]).data();
    assert_eq!(array(&buckets).iter().map(|it| &it["objects"]).collect::<Vec<_>>(), [&2]);
}
