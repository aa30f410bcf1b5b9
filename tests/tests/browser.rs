//! What a browser makes of the front door: Chromium, over HTTP/1.1, HTTP/2 and HTTP/3, says itself what it speaks, reaches a program
//! through a load balancer, and draws its page.
//!
//! `cargo test -p hirsel-tests --test browser`; `.ci/run full suites` installs what it needs. Not a part of `cargo test --workspace`.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use hirsel_tests::authority::Authority;
use hirsel_tests::cluster::{Cluster, HTTP_PORT, HTTPS_PORT, sample};
use hirsel_tests::{lacks, wait_for};

/// A browser is started anew for each page; none takes longer, or it hangs.
const PATIENCE_S: &str = "90";
/// How long a page may go on after it is loaded, by the browser's own clock, which runs ahead.
const BUDGET_MS: u32 = 20_000;
/// A picture of nothing is smaller.
const PICTURE_BYTES_MIN: usize = 8_000;

/// Asks the program behind the load balancer for itself, and says by which protocol that and the page came.
const PROBE: &str = "<!doctype html><body>waits<script>\
    fetch('/').then((answer) => answer.text()).then((text) => {\
      const of = (kind) => performance.getEntriesByType(kind).map((entry) => entry.nextHopProtocol).join(' ');\
      document.body.textContent = `page=${of('navigation')} program=${of('resource')} bytes=${text.length} hello=${text.includes('hello')}`;\
    }, (error) => { document.body.textContent = `failed: ${error}`; });</script>";

fn chromium() -> Option<&'static str> {
    let works = |name: &&str| Command::new(name).arg("--version").output().is_ok_and(|it| it.status.success());
    ["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"].into_iter().find(works)
}

/// The hash by which Chromium knows a key, in Base64.
fn fingerprint(public: &[u8]) -> String {
    let mut openssl = Command::new("sh")
        .args(["-c", "openssl dgst -sha256 -binary | openssl base64 -A"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("sh runs");
    openssl.stdin.take().expect("it listens").write_all(public).expect("it listens");
    let output = openssl.wait_with_output().expect("openssl runs");
    String::from_utf8(output.stdout).expect("Base64").trim().to_owned()
}

/// A browser that knows where the host is, and trusts this key.
struct Browser<'a> {
    program: &'a str,
    folder: &'a Path,
    ip: String,
    key: String,
}

impl Browser<'_> {
    /// Opens a page, and returns what it has become.
    fn open(&self, url: &str, words: &[&str]) -> String {
        let profile = tempfile::Builder::new().prefix("profile-").tempdir_in(self.folder).unwrap();
        let output = Command::new("timeout")
            .args([PATIENCE_S, self.program])
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1000,700"])
            .args(["--no-first-run", "--disable-background-networking", "--disable-component-update"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(format!("--host-resolver-rules=MAP front.example {}", self.ip))
            .arg(format!("--ignore-certificate-errors-spki-list={}", self.key))
            .arg(format!("--virtual-time-budget={BUDGET_MS}"))
            .args(words)
            .arg(url)
            .current_dir(self.folder)
            .output()
            .expect("timeout runs");
        assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

#[test]
fn a_browser_reaches_a_program_over_every_protocol_and_draws_its_page() {
    let Some(program) = chromium() else {
        lacks("chromium-headless-shell or chromium", false);
        return;
    };
    let cluster = Cluster::start(1);
    let rule = format!(
        "[route.\"front.example/probe\"]\nrespond = {{ status = 200, body = {PROBE:?}, headers = {{ content-type = \"text/html\" }} }}\n"
    );
    cluster.apply(&format!("{}[route.\"front.example\"]\nto = \"web\"\n{rule}", sample(1)));
    let key = fingerprint(&Authority::new().equip(&cluster, &["front.example"]));
    let node = &cluster.nodes[0];
    let browser = Browser { program, folder: cluster.folder.path(), ip: node.ip.to_string(), key };
    wait_for("HTTPS is spoken", Duration::from_secs(30), || {
        std::net::TcpStream::connect(node.addr(HTTPS_PORT)).map(drop).map_err(|error| error.to_string())
    });
    let (plain, secure) = (format!("http://front.example:{HTTP_PORT}"), format!("https://front.example:{HTTPS_PORT}"));
    let forced = format!("--origin-to-force-quic-on=front.example:{HTTPS_PORT}");
    for (protocol, origin, words) in [
        ("http/1.1", &plain, &["--disable-quic"][..]),
        ("h2", &secure, &["--disable-quic"]),
        ("h3", &secure, &["--enable-quic", &forced]),
    ] {
        let page = browser.open(&format!("{origin}/probe"), &[words, &["--dump-dom"]].concat());
        assert!(page.contains(&format!("page={protocol} program={protocol} ")), "over {protocol}: {page}");
        assert!(page.contains("hello=true"), "over {protocol}: {page}");
        let picture = cluster.folder.path().join(format!("{}.png", protocol.replace('/', "-")));
        browser.open(&format!("{origin}/"), &[words, &[&format!("--screenshot={}", picture.display())]].concat());
        let drawn = fs::read(&picture).unwrap_or_default();
        assert!(drawn.starts_with(b"\x89PNG\r\n\x1a\n"), "no picture over {protocol}");
        assert!(drawn.len() > PICTURE_BYTES_MIN, "{} bytes over {protocol} are a picture of nothing", drawn.len());
        eprintln!("{protocol}: {} and a picture of {} bytes", page.trim().replace('\n', " "), drawn.len());
        // Whoever wants to see them.
        if let Some(folder) = std::env::var_os("HIRSEL_PICTURES") {
            fs::copy(&picture, Path::new(&folder).join(picture.file_name().expect("it has a name"))).expect("a folder");
        }
    }
}
