//! Answers that are kept, with real processes: each load balancer asks once, and a purge reaches all of them, from any node.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hirsel_tests::cluster::{Cluster, array, sample};
use hirsel_tests::{lacks, wait_for};

const SOON: Duration = Duration::from_secs(30);

/// A program outside the cluster that says how often it was asked.
fn origin() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let addr = listener.local_addr().expect("it listens");
    let asked = Arc::<AtomicUsize>::default();
    let counted = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let counted = counted.clone();
            std::thread::spawn(move || {
                let Ok(mut writer) = stream.try_clone() else { return };
                let mut lines = BufReader::new(stream).lines();
                loop {
                    let mut is_empty = true;
                    while lines.next().and_then(Result::ok).is_some_and(|line| !line.is_empty()) {
                        is_empty = false;
                    }
                    if is_empty {
                        return;
                    }
                    let body = format!("asked {}", counted.fetch_add(1, Ordering::SeqCst) + 1);
                    let head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=3600\r\nCache-Tag: page, p-17";
                    if write!(writer, "{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    (addr, asked)
}

/// What a load balancer answers, and what it says of its cache.
fn ask(lb: SocketAddr, path: &str) -> Result<(String, String), String> {
    let output = Command::new("curl")
        .args(["--silent", "--max-time", "10", "--header", "host: kept.test"])
        .args(["--write-out", "\n%header{cache-status}", &format!("http://{lb}{path}")])
        .output()
        .expect("curl runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, said) = text.rsplit_once('\n').ok_or_else(|| format!("{text:?}"))?;
    Ok((body.to_owned(), said.to_owned()))
}

#[test]
fn a_purge_reaches_all_load_balancers_and_says_when_it_has() {
    if lacks("curl 7.84", Command::new("curl").arg("--version").output().is_ok_and(|it| it.status.success())) {
        return;
    }
    let cluster = Cluster::start(3);
    let (addr, asked) = origin();
    let routes = format!("[route.\"kept.test\"]\nto = \"http://{addr}\"\ncache = {{ paths = [\"/a/*\"] }}\n");
    cluster.apply(&(sample(2) + &routes));
    // Who joined last may be given the role after all else is well.
    let (lbs, _) = wait_for("every node balances load", SOON, || match cluster.lbs() {
        lbs if lbs.len() == cluster.nodes.len() => Ok(lbs),
        lbs => Err(format!("{lbs:?}")),
    });
    let fill = |what: &str| {
        for (name, lb) in &lbs {
            wait_for(&format!("{name} keeps it {what}"), SOON, || match ask(*lb, "/a/1")? {
                (_, said) if said.starts_with("hirsel; hit") => Ok(()),
                other => Err(format!("{other:?}")),
            });
        }
    };
    fill("first");
    assert_eq!(asked.load(Ordering::SeqCst), lbs.len(), "each asks once");

    for purge in [&["kept.test/a/*"][..], &["--tag", "p-17"], &["--app", "hello"], &["--all"]] {
        let before = asked.load(Ordering::SeqCst);
        let words = ["cache", "purge"].iter().chain(purge).chain(&["--wait", "--timeout", "30s"]);
        let ran = cluster.any().ask(words);
        assert_eq!(ran.code, Some(0), "{}", ran.words());
        for (name, lb) in &lbs {
            let (body, said) = ask(*lb, "/a/1").expect("it answers");
            assert!(said.starts_with("hirsel; fwd=uri-miss"), "{name} after {purge:?}: {body:?}, {said:?}");
        }
        assert_eq!(asked.load(Ordering::SeqCst), before + lbs.len());
        fill("again");
    }
    // What is about something else leaves it alone.
    let ran = cluster.any().ask(["cache", "purge", "kept.test/b", "--wait"]);
    assert_eq!(ran.code, Some(0), "{}", ran.words());
    assert!(lbs.iter().all(|(_, lb)| ask(*lb, "/a/1").expect("it answers").1.starts_with("hirsel; hit")));

    let shown = cluster.any().ask(["cache", "show"]);
    assert_eq!(shown.code, Some(0), "{}", shown.words());
    let view = shown.data();
    assert_eq!(view["routes"][0]["route"], "kept.test/", "{view}");
    assert_eq!(array(&view["nodes"]).len(), lbs.len(), "{view}");
    assert_eq!(array(&view["purges"]).last().map(|it| it["what"].clone()), Some("kept.test/b".into()), "{view}");
    assert_eq!(cluster.any().ask(["cache", "purge", "--app", "helo"]).code, Some(9));
    assert_eq!(cluster.any().ask(["cache", "purge"]).code, Some(2));
}
