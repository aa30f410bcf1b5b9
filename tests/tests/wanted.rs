//! Buckets that an application wants, as its manifest says: a program is told where its own is and by what key, writes and reads it at its node's
//! endpoint, and load balancers show it to everybody. Nobody else is told the secret, and nothing is removed with the application.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use hirsel_tests::cluster::{Cluster, array};
use hirsel_tests::{http, lacks, wait_for};

/// A cluster that has just begun has its data placed, its metadata group, and the bucket, within this.
const BEGINS_WITHIN: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(30);

/// Signs as S3 wants it (version 4), by what its environment says; `/put/KEY` and `/get/KEY` do that with its bucket, `/other` reads a bucket
/// that is not its own, and `/id` says by which key.
const PROGRAM: &str = r#"
import datetime, hashlib, hmac, http.server, os, urllib.error, urllib.request
env = os.environ
def asked(method, url, body=None):
    host, _, path = url.removeprefix('http://').partition('/')
    now = datetime.datetime.now(datetime.timezone.utc).strftime('%Y%m%dT%H%M%SZ')
    day, payload = now[:8], hashlib.sha256(body or b'').hexdigest()
    signed = 'host;x-amz-content-sha256;x-amz-date'
    canonical = f'{method}\n/{path}\n\nhost:{host}\nx-amz-content-sha256:{payload}\nx-amz-date:{now}\n\n{signed}\n{payload}'
    scope = f"{day}/{env['REGION']}/s3/aws4_request"
    text = f'AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}'
    key = ('AWS4' + env['SECRET']).encode()
    for part in [day, env['REGION'], 's3', 'aws4_request', text]:
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    field = f"AWS4-HMAC-SHA256 Credential={env['ID']}/{scope}, SignedHeaders={signed}, Signature={key.hex()}"
    headers = {'Authorization': field, 'x-amz-date': now, 'x-amz-content-sha256': payload, 'content-type': 'text/plain'}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers, method=method), timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        verb, _, key = self.path.lstrip('/').partition('/')
        status, body = 200, b'well'
        try:
            if verb == 'put':
                status, body = asked('PUT', f"{env['MEDIA']}/{key}", f"{key} by {env['HIRSEL_NODE_NAME']}".encode())
            if verb == 'get':
                status, body = asked('GET', f"{env['MEDIA']}/{key}")
            if verb == 'other':
                status, body = asked('GET', f"{env['ENDPOINT']}/other/secret")
            if verb == 'id':
                body = env['ID'].encode()
        except OSError as error:
            status, body = 502, str(error).encode()
        self.send_response(status)
        self.send_header('content-length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer((env['HOST'], int(env['PORT'])), Handler).serve_forever()
"#;

fn manifest(folder: &Path, bucket: &str) -> String {
    let program = folder.join("program.py");
    std::fs::write(&program, PROGRAM).unwrap();
    format!(
        r#"
app = "shop"

[service.web]
command  = ["python3", "{}"]
replicas = 3
health   = {{ http = "/" }}

[service.web.env]
MEDIA    = "${{bucket.media.url}}"
ENDPOINT = "${{bucket.media.endpoint}}"
REGION   = "${{bucket.media.region}}"
ID       = "${{bucket.media.access_key_id}}"
SECRET   = "${{bucket.media.secret_access_key}}"

[route."shop.test"]
to = "web"

{bucket}
"#,
        program.display()
    )
}

/// The secret that a program of `app` was told, from the memory of the host.
fn secret(cluster: &Cluster) -> String {
    let pid = cluster.running().flat_map(|node| node.programs("program.py")).next().expect("a program runs");
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    let variables = environment.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    let secret = variables.into_iter().find_map(|it| it.strip_prefix("SECRET=").map(str::to_owned));
    secret.expect("the program is told")
}

#[test]
fn an_application_has_a_bucket_of_its_own_that_its_programs_use_and_everybody_may_read() {
    let python = Command::new("python3").arg("--version").output();
    if lacks("python3", python.is_ok_and(|python| python.status.success())) {
        return;
    }
    let cluster = Cluster::start(3);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("shop.toml");
    let path = file.display().to_string();
    let apply = |bucket: &str, words: &[&str]| {
        std::fs::write(&file, manifest(folder.path(), bucket)).unwrap();
        cluster.any().ask(["apply", &path].iter().chain(words))
    };
    // Before anybody stored anything: what it takes is founded, and the bucket made, because it is wanted.
    let bucket = "[bucket.media]\nquota = \"1GiB\"\npublic = \"/media\"\n";
    std::fs::write(&file, manifest(folder.path(), bucket)).unwrap();
    let ran = cluster.any().ask(["plan", &path]);
    assert!(ran.code == Some(4) && ran.words().contains("shop-media"), "{}", ran.words());
    let ran = apply(bucket, &["--wait", "--timeout", "90s"]);
    assert_eq!(ran.code, Some(0), "{}", ran.words());
    let usage = cluster.any().ask(["bucket", "usage", "shop-media"]).data();
    assert_eq!((&usage["account"], &usage["app"]), (&"app-shop".into(), &"shop".into()), "{usage}");
    assert_eq!(usage["quota_bytes"], 1_u64 << 30, "{usage}");

    let lbs = cluster.lbs();
    let lb = lbs[0].1;
    let ask = |path: &str| {
        let (answer, _) = wait_for("the program answers", SOON, || match http::get(lb, "shop.test", path) {
            Ok(answer) if answer.status < 500 => Ok(answer),
            other => Err(format!("{path}: {other:?}")),
        });
        answer
    };
    // Each instance at the endpoint of its own node; balancers take turns or not, so there are many tries.
    for number in 0..12 {
        let written = ask(&format!("/put/cats/{number}.txt"));
        assert_eq!(written.status, 200, "{}", written.text());
        let read = ask(&format!("/get/cats/{number}.txt"));
        assert!(read.status == 200 && read.text().starts_with(&format!("cats/{number}.txt by n")), "{}", read.text());
    }
    for (name, lb) in &lbs {
        let read = http::get(*lb, "shop.test", "/media/cats/3.txt").unwrap();
        assert!(read.status == 200 && read.text().starts_with("cats/3.txt by n"), "{name}: {}", read.text());
        assert_eq!(read.header("content-type"), Some("text/plain"));
        assert_eq!(http::get(*lb, "shop.test", "/media/none").unwrap().status, 404, "{name}");
    }

    // The key is for this bucket alone, and its secret is told to the program alone.
    let ran = cluster.any().ask(["bucket", "create", "other"]);
    assert_eq!(ran.code, Some(0), "{}", ran.words());
    assert_eq!(ask("/other").status, 403);
    let secret = secret(&cluster);
    let ran = Command::new("grep").args(["-r", "-a", "-l", &secret]).arg(cluster.folder.path()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&ran.stdout), "", "the secret is on a disk");
    for words in [&["events", "-n", "500"][..], &["why", "shop/media"], &["bucket", "key", "list"], &["plan", &path]] {
        let ran = cluster.any().ask(words);
        assert!(!ran.words().contains(&secret), "{words:?} shows the secret");
    }
    let ran = cluster.any().ask(["why", "bucket/shop-media"]);
    assert!(ran.code == Some(0) && ran.words().contains("application shop wants it"), "{}", ran.words());

    // Who takes the key back has another one made, and the programs run with it.
    let first = ask("/id").text();
    let ran = cluster.any().ask(["bucket", "key", "rm", &first, "--yes"]);
    assert_eq!(ran.code, Some(0), "{}", ran.words());
    wait_for("programs run with another key", BEGINS_WITHIN, || {
        let now = http::get(lb, "shop.test", "/id").map_err(|error| error.to_string())?.text();
        let read = http::get(lb, "shop.test", "/get/cats/3.txt").map_err(|error| error.to_string())?;
        if now != first && read.status == 200 { Ok(()) } else { Err(format!("{now}: {}", read.status)) }
    });

    // What is said otherwise is brought about; by hand it is not changed, nor removed.
    for words in [&["bucket", "set", "shop-media", "--quota", "none"][..], &["bucket", "rm", "shop-media"]] {
        let ran = cluster.any().ask(words);
        assert!(ran.code == Some(6) && ran.words().contains("wanted by application shop"), "{}", ran.words());
    }
    let ran = apply("[bucket.media]\nquota = \"2GiB\"\nversioning = true\nwhen_short = \"refuse\"\n", &[]);
    assert_eq!(ran.code, Some(0), "{}", ran.words());
    wait_for("the bucket is as it is wanted now", SOON, || {
        let usage = cluster.any().ask(["bucket", "usage", "shop-media"]).data();
        let is = usage["quota_bytes"] == 2_u64 << 30 && usage["versioning"] == true;
        if is { Ok(()) } else { Err(usage.to_string()) }
    });
    wait_for("it is public no more", SOON, || match http::get(lb, "shop.test", "/media/cats/3.txt") {
        Ok(answer) if answer.text() == "well" => Ok(()),
        other => Err(format!("{other:?}")),
    });

    // One that is somebody else's is not taken.
    let ran = cluster.any().ask(["bucket", "create", "blog-other"]);
    assert_eq!(ran.code, Some(0), "{}", ran.words());
    let ran = cluster.apply_only("app = \"blog\"\n[bucket.other]\n");
    assert!(ran.code == Some(10) && ran.words().contains("of account main"), "{}", ran.words());

    // The application goes, and what it wrote stays.
    let ran = cluster.any().ask(["rm", "shop", "--yes", "--wait"]);
    assert!(ran.code == Some(0) && ran.words().contains("bucket shop-media stays"), "{}", ran.words());
    let usage = cluster.any().ask(["bucket", "usage", "shop-media"]).data();
    assert!(usage["objects"] == 12 && usage["app"].is_null(), "{usage}");
    wait_for("nobody has the key any more", SOON, || {
        let keys = cluster.any().ask(["bucket", "key", "list", "--fresh"]).data();
        if array(&keys).is_empty() { Ok(()) } else { Err(keys.to_string()) }
    });
}
