//! All machines are gone, and one sealed file is left: the cluster begins again from it, and the past stays outside.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use hirsel_tests::cli::{Ran, hirsel};
use hirsel_tests::cluster::{Cluster, MESH_PORT, Node, array};
use hirsel_tests::{lacks, told, wait_for};

const SOON: Duration = Duration::from_secs(60);

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// `secret set key` with the value in a file outside of every node's folder.
fn set(node: &Node, value: &str) -> Ran {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("value");
    std::fs::write(&file, value).unwrap();
    node.ask(["secret", "set", "key", "--file", &text(&file)])
}

#[test]
fn a_cluster_whose_machines_are_all_gone_begins_again_from_its_backup() {
    let python = std::process::Command::new("python3").arg("--version").output();
    if lacks("python3", python.is_ok_and(|python| python.status.success())) {
        return;
    }
    let mut old = Cluster::start(3);
    let kept = tempfile::tempdir().unwrap();
    let (file, pass) = (kept.path().join("cluster.backup"), kept.path().join("pass"));
    let (wrong, bad) = (kept.path().join("wrong"), kept.path().join("bad.backup"));
    std::fs::write(&pass, "correct horse battery staple\n").unwrap();
    std::fs::write(&wrong, "correct horse battery stable\n").unwrap();
    let (file_text, pass_text) = (text(&file), text(&pass));
    let value = "value-5e1d07";
    assert_eq!(set(&old.nodes[0], value).code, Some(0));
    old.apply(&told::manifest(kept.path(), 3));
    told::everywhere(&old, &format!("key={value}"));
    let authority = old.any().ask(["cert", "list"]).data()["authorities"][0]["fingerprint"].clone();
    let join_token = old.nodes[0].token();
    let admin = old.nodes[0].ask(["token", "new", "--admin"]).data()["token"].as_str().unwrap().to_string();

    // Over the network, too; what is short, and a file that is there, are refused.
    std::fs::write(kept.path().join("short"), "short").unwrap();
    let short = old.nodes[0].ask(["backup", &file_text, "--passphrase-file", &text(&kept.path().join("short"))]);
    assert_eq!(short.code, Some(2), "{}", short.words());
    let made = old.nodes[0].ask(["backup", &file_text, "--passphrase-file", &pass_text]);
    assert_eq!(made.code, Some(0), "{}", made.words());
    assert_eq!(made.data()["inside"]["apps"], serde_json::json!(["shop"]), "{}", made.words());
    let again = old.nodes[0].ask(["backup", &file_text, "--passphrase-file", &pass_text]);
    assert_eq!(again.code, Some(6), "{}", again.words());
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let bytes = std::fs::read(&file).unwrap();
    assert!(!bytes.windows(value.len()).any(|window| window == value.as_bytes()), "it is sealed");
    let events = old.any().ask(["events", "-n", "50"]).data().to_string();
    assert!(events.contains("the control state was backed up through n1 (by admin@n1 (socket))"), "{events}");
    let drawn = old.nodes[1].ask(["backup", &text(&kept.path().join("drawn.backup")), "--recovery-key"]);
    assert_eq!(drawn.code, Some(0), "{}", drawn.words());
    let drawn_key = kept.path().join("key");
    std::fs::write(&drawn_key, drawn.data()["recovery_key"].as_str().unwrap()).unwrap();

    // A look inside needs no agent; what is wrong with a file is told.
    let verify = |file: &Path, pass: &Path| {
        hirsel(["backup", "--verify", &text(file), "--passphrase-file", &text(pass), "--json"])
    };
    let inside = verify(&file, &pass).data();
    assert_eq!((inside["nodes"].as_array().unwrap().len(), &inside["secrets"][0]), (3, &"key".into()), "{inside}");
    assert_eq!((&inside["tag"], &inside["confirmed"]), (&"0".into(), &true.into()), "{inside}");
    assert_eq!(verify(&kept.path().join("drawn.backup"), &drawn_key).code, Some(0));
    let ran = verify(&file, &wrong);
    assert!(ran.code == Some(8) && ran.words().contains("the passphrase is wrong"), "{}", ran.words());
    std::fs::write(&bad, &bytes[..bytes.len() - 1]).unwrap();
    let ran = verify(&bad, &pass);
    assert!(ran.code == Some(1) && ran.words().contains("the backup is cut"), "{}", ran.words());
    let mut flipped = bytes.clone();
    *flipped.last_mut().unwrap() ^= 1;
    std::fs::write(&bad, &flipped).unwrap();
    assert!(verify(&bad, &pass).words().contains("the backup is damaged"));

    // While the cluster lives nothing is restored, and nothing of a try is left that would be in the way.
    let mut new = Cluster::new();
    let first = new.place();
    let restore =
        [vec!["restore".into(), file_text.clone()], first.words_of(&["--passphrase-file", &pass_text])].concat();
    let ran = hirsel(&restore);
    assert!(ran.code == Some(6) && ran.words().contains("so the cluster lives"), "{}", ran.words());
    let plan = hirsel(restore.iter().map(String::as_str).chain(["--plan", "--json"]));
    assert_eq!((plan.code, plan.data()["living"].as_array().map(Vec::len)), (Some(4), Some(3)), "{}", plan.words());
    for node in &mut old.nodes {
        node.off();
    }

    let first = &mut new.nodes[0];
    first.launch_as(&[vec![first.executable.display().to_string()], restore.clone()].concat());
    first.ready();
    let ran = hirsel(&restore);
    assert!(ran.code == Some(6) && ran.words().contains("belongs to a node"), "{}", ran.words());
    wait_for("it leads alone", SOON, || {
        let status = new.nodes[0].ask(["status"]).try_data()?;
        let alone = status["leader"] == "n1" && array(&status["voters"]).len() == 1;
        if alone { Ok(()) } else { Err(status.to_string()) }
    });

    // Nothing of the past opens it.
    let seed = new.nodes[0].addr(MESH_PORT).to_string();
    let stranger = new.folder.path().join("stranger");
    let ran = hirsel(["join", &seed, "--token", &join_token, "--name", "x", "--data", &text(&stranger)]);
    assert!(ran.code == Some(1) && ran.words().contains("did not give it out"), "{}", ran.words());
    let ran = hirsel(["login", &seed, "--token", &admin]);
    assert!(ran.code == Some(8) && ran.words().contains("does not know the token"), "{}", ran.words());

    // Others join; all runs, with its secret. A start anew goes on from the folder.
    new.nodes[0].kill_agent();
    new.nodes[0].start(None);
    new.add();
    new.add();
    new.whole();
    new.well(SOON);
    told::everywhere(&new, &format!("key={value}"));
    let same = set(&new.nodes[1], value);
    assert!(same.data()["did"].as_str().unwrap().contains("has this value already"), "{}", same.words());
    wait_for("three vote", SOON, || {
        let status = new.any().ask(["status"]).try_data()?;
        if array(&status["voters"]).len() == 3 { Ok(()) } else { Err(status.to_string()) }
    });
    assert_eq!(new.any().ask(["cert", "list"]).data()["authorities"][0]["fingerprint"], authority);
    let events = new.any().ask(["events", "-n", "500"]).data().to_string();
    assert!(events.contains("the cluster was restored on n1 from a backup made"), "{events}");
    assert!(events.contains("all secrets were sealed with a new key"), "who held the former one is gone: {events}");
}
