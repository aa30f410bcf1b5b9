//! Sessions that a client resumes at another node than where they began, with OpenSSL, over changes of keys and a restart, and not after
//! the keys are forgotten.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use hirsel_tests::cluster::{Cluster, HTTPS_PORT, Node, array};
use hirsel_tests::{lacks, wait_for};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);

/// Shakes hands with the load balancer of `node`, and stores the session in a file, or resumes one from it. `New` or `Reused`.
fn shake(node: &Node, version: &str, words: &[&str]) -> Result<String, String> {
    let at = node.addr(HTTPS_PORT).to_string();
    let fixed = ["20", "openssl", "s_client", "-connect", &at, "-servername", "shop.example", version];
    // Tickets of TLS 1.3 come behind the handshake: an answer, and the end of the connection after it, is waited for.
    let asks = b"GET / HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n";
    let mut command = Command::new("timeout");
    command.args(fixed).args(["-ign_eof"]).args(words);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Who is refused reads nothing of it, and says why.
    let _ = std::io::Write::write_all(child.stdin.as_mut().unwrap(), asks);
    let ran = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&ran.stdout).into_owned();
    let kind = text.lines().find_map(|line| line.split_once(", TLSv1.").map(|(kind, _)| kind.to_owned()));
    kind.ok_or_else(|| format!("{text}{}", String::from_utf8_lossy(&ran.stderr)))
}

/// Waits until a session that begins at `one` goes on at `two`.
fn resumes(one: &Node, two: &Node, version: &str, file: &str) {
    wait_for(&format!("a session of {} is resumed at {} with {version}", one.name, two.name), SOON, || {
        shake(one, version, &["-sess_out", file])?;
        match shake(two, version, &["-sess_in", file])?.as_str() {
            "Reused" => Ok(()),
            other => Err(other.to_owned()),
        }
    });
}

fn keys(cluster: &Cluster) -> Vec<Value> {
    array(&cluster.any().ask(["cert", "list"]).data()["tickets"]).to_vec()
}

fn versions(keys: &[Value]) -> Vec<u64> {
    keys.iter().map(|key| key["version"].as_u64().unwrap()).collect()
}

fn path(folder: &Path, name: &str) -> String {
    folder.join(name).display().to_string()
}

#[test]
fn a_session_is_resumed_at_every_load_balancer_until_its_key_is_forgotten() {
    let there = Command::new("openssl").arg("version").output();
    if lacks("openssl", there.is_ok_and(|made| made.status.success())) {
        return;
    }
    let mut cluster = Cluster::start(3);
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| path(folder.path(), name);
    assert_eq!(keys(&cluster), Vec::<Value>::new(), "there is nothing to be resumed");
    let refused = cluster.any().ask(["cert", "tickets"]);
    assert_eq!(refused.code, Some(2), "{}", refused.words());

    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let cert = CertificateParams::new(vec!["shop.example".to_owned()]).unwrap().self_signed(&key).unwrap();
    std::fs::write(file("both.pem"), cert.pem() + &key.serialize_pem()).unwrap();
    let ran = cluster.any().ask(["cert", "add", "shop", "--cert", &file("both.pem"), "--wait"]);
    assert_eq!(ran.code, Some(0), "{}", ran.words());
    let lbs: Vec<String> = cluster.lbs().into_iter().map(|(name, _)| name).collect();
    let [a, b] = [&lbs[0], &lbs[1]];
    for version in ["-tls1_3", "-tls1_2"] {
        resumes(cluster.node(a), cluster.node(b), version, &file(&format!("warm{version}")));
    }
    // The second one follows the first when that has come everywhere.
    let (first, _) = wait_for("there is a key that is next", Duration::from_secs(30), || {
        let found = keys(&cluster);
        if found.len() == 2 { Ok(found) } else { Err(format!("{found:?}")) }
    });
    let states: Vec<_> = first.iter().map(|key| key["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["next", "seals"]);

    // Another key seals, and what is out stays good; who starts anew is told again.
    let session = |version: &str| file(&format!("kept{version}"));
    for version in ["-tls1_3", "-tls1_2"] {
        shake(cluster.node(a), version, &["-sess_out", &session(version)]).unwrap();
    }
    let ran = cluster.any().ask(["cert", "tickets", "--wait"]);
    assert_eq!(ran.code, Some(0), "{}", ran.words());
    assert_eq!(versions(&keys(&cluster))[1..], versions(&first), "the next one seals now");
    // Nobody keeps a key on disk: who starts again asks.
    let at = cluster.index(b);
    cluster.nodes[at].kill_agent();
    cluster.nodes[at].start(None);
    for version in ["-tls1_3", "-tls1_2"] {
        wait_for(&format!("what began before is resumed after it, {version}"), SOON, || {
            match shake(cluster.node(b), version, &["-sess_in", &session(version)])?.as_str() {
                "Reused" => Ok(()),
                other => Err(other.to_owned()),
            }
        });
    }

    // All are forgotten: what is out is nothing, and others take their place.
    let last = versions(&keys(&cluster))[0];
    let ran = cluster.any().ask(["cert", "tickets", "--forget", "--wait"]);
    assert_eq!(ran.code, Some(0), "{}", ran.words());
    assert!(versions(&keys(&cluster)).iter().all(|version| *version > last));
    for name in [a, b] {
        for version in ["-tls1_3", "-tls1_2"] {
            wait_for(&format!("{name} resumes nothing of the past, {version}"), SOON, || {
                match shake(cluster.node(name), version, &["-sess_in", &session(version)])?.as_str() {
                    "New" => Ok(()),
                    other => Err(other.to_owned()),
                }
            });
        }
        resumes(cluster.node(a), cluster.node(b), "-tls1_3", &file("anew"));
    }
}
