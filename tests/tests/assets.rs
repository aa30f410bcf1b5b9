//! Objects of a bucket through load balancers, as a manifest says, on a whole cluster: with `curl`, through every one, through the cache,
//! and with a node gone while one is on its way.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Output};
use std::time::Duration;

use hirsel_tests::cluster::Cluster;
use hirsel_tests::{http, lacks, wait_for};

/// A cluster that has just begun has its data placed, and its metadata group, within this.
const BEGINS_WITHIN: Duration = Duration::from_secs(90);
/// What goes on without a node goes on within this.
const GOES_ON_WITHIN: Duration = Duration::from_secs(60);
/// Several chunks, none of them whole.
const LARGE: usize = (13 << 20) + 7;

const MANIFEST: &str = r#"
app = "site"

[route."site.test"]
to    = "bucket:site"
index = "index.html"
error_pages = { 404 = { body = "nothing here", content_type = "text/plain" } }

[route."kept.test"]
to    = "bucket:site"
cache = { ttl = "10m" }
"#;

/// Bytes that are not alike anywhere.
fn bytes(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}

fn curl(lb: SocketAddr, host: &str, path: &str, more: &[&str]) -> Output {
    let place = format!("{host}:{}:{}", lb.port(), lb.ip());
    let url = format!("http://{host}:{}{path}", lb.port());
    let mut words = vec!["--silent", "--show-error", "--max-time", "60", "--resolve", &place, &url];
    words.extend(more);
    Command::new("curl").args(words).output().expect("curl runs")
}

#[test]
fn objects_are_had_through_every_load_balancer_and_while_a_node_goes() {
    if lacks("curl", Command::new("curl").arg("--version").output().is_ok_and(|it| it.status.success())) {
        return;
    }
    let mut cluster = Cluster::start(4);
    let folder = tempfile::tempdir().unwrap();
    wait_for("a bucket can be made", BEGINS_WITHIN, || match cluster.any().ask(["bucket", "create", "site"]) {
        ran if ran.code == Some(0) => Ok(()),
        ran => Err(ran.words()),
    });
    let large = bytes(LARGE);
    for (name, key, is, content) in [
        ("index.html", "index.html", "text/html", b"<p>home".to_vec()),
        ("docs.html", "docs/index.html", "text/html", b"<p>docs".to_vec()),
        ("large", "files/large.bin", "application/x-large", large.clone()),
    ] {
        let file = folder.path().join(name);
        std::fs::write(&file, content).unwrap();
        let ran = cluster.any().ask(["cp", &file.display().to_string(), &format!("site/{key}"), "--content-type", is]);
        assert_eq!(ran.code, Some(0), "{}", ran.words());
    }
    let ran = cluster.apply_only(MANIFEST);
    assert_eq!(ran.code, Some(0), "{}", ran.words());
    let lbs = cluster.lbs();
    for (name, lb) in &lbs {
        wait_for("the route is there", GOES_ON_WITHIN, || match http::get(*lb, "site.test", "/") {
            Ok(answer) if answer.status == 200 => Ok(()),
            other => Err(format!("{name}: {other:?}")),
        });
        let home = http::get(*lb, "site.test", "/").unwrap();
        assert_eq!((home.text().as_str(), home.header("content-type")), ("<p>home", Some("text/html")));
        let whole = curl(*lb, "site.test", "/files/large.bin", &[]);
        assert!(whole.status.success() && whole.stdout == large, "{name}: {:?}", whole.status);
        let part = curl(*lb, "site.test", "/files/large.bin", &["--range", "5000000-9000000"]);
        assert!(part.stdout == large[5_000_000..=9_000_000], "{name} gives other bytes");
        let followed = curl(*lb, "site.test", "/docs", &["--location"]);
        assert_eq!(followed.stdout, b"<p>docs", "{name}");
        let missing = http::get(*lb, "site.test", "/none").unwrap();
        assert_eq!((missing.status, missing.text().as_str()), (404, "nothing here"), "{name}");
        // A client that has it is told so.
        let tag = curl(
            *lb,
            "site.test",
            "/files/large.bin",
            &["--head", "--output", "/dev/null", "--write-out", "%header{etag}"],
        );
        let tag = String::from_utf8(tag.stdout).unwrap();
        let condition = format!("If-None-Match: {tag}");
        let again =
            curl(*lb, "site.test", "/files/large.bin", &["--header", &condition, "--write-out", "%{http_code}"]);
        assert_eq!(String::from_utf8_lossy(&again.stdout), "304", "{name}: {tag}");
        let written =
            curl(*lb, "site.test", "/new", &["--request", "PUT", "--data", "x", "--write-out", "\n%{http_code}"]);
        assert!(written.stdout.ends_with(b"\n405"), "{name}: {:?}", String::from_utf8_lossy(&written.stdout));
    }
    // A second time it comes from the cache, which keeps nothing so large as the other one.
    let kept = |lb| http::get(lb, "kept.test", "/docs/index.html").unwrap();
    let (first, second) = (kept(lbs[0].1), kept(lbs[0].1));
    assert_eq!((first.text().as_str(), second.text().as_str()), ("<p>docs", "<p>docs"));
    assert!(second.header("cache-status").is_some_and(|said| said.starts_with("hirsel; hit")), "{:?}", second.headers);

    // A node that keeps data goes while an object is on its way: the client notices nothing.
    let (stays, lb) = lbs[0].clone();
    let victim = cluster.nodes.iter().position(|node| node.name != stays).expect("another node");
    let mut stream = TcpStream::connect(lb).expect("the load balancer listens");
    stream.set_read_timeout(Some(GOES_ON_WITHIN)).unwrap();
    stream.write_all(b"GET /files/large.bin HTTP/1.1\r\nhost: site.test\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = vec![0; 64 << 10];
    stream.read_exact(&mut answer).expect("it begins");
    cluster.nodes[victim].kill_agent();
    stream.read_to_end(&mut answer).expect("it goes on");
    let head = answer.windows(4).position(|it| it == b"\r\n\r\n").expect("a head") + 4;
    assert!(answer[head..] == large, "{} bytes of {LARGE}", answer.len() - head);
}
