//! The conformance suite that Ceph keeps for S3 (`s3-tests`), against a server in this process.
//!
//! It is not a part of this repository: `HIRSEL_S3_TESTS` names a folder with it, `HIRSEL_S3_TESTS_PYTHON` a Python that has what its
//! `requirements.txt` asks for (`python3` else). Without the first, nothing is run. `HIRSEL_S3_TESTS_ARGS` goes to pytest, say to run a
//! few: `-k multipart`; then nothing is asked of their number.
//!
//! Everything is run but what has a mark in [`DESELECTED`]. Cases that wait for objects to grow old have a server of their own, and wait
//! beside the others.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use hirsel_storage::rules::date::Day;
use town::start;

// Others copy buckets to each other.
#[allow(dead_code)]
#[path = "s3/town.rs"]
mod town;

/// How many cases pass of the functional ones, at least: two fewer than in a run of all, for those that wait for the clock of a busy machine.
const PASSED_MIN: usize = 705;

/// Marks of cases that are not run: each of something that is not offered, and is answered with `NotImplemented`.
const DESELECTED: [&str; 3] = ["bucket_logging", "cloud_transition", "cloud_restore"];
/// The mark of cases that wait.
const WAITS: &str = "lifecycle_expiration";

/// A day of the rules of buckets, as short as the suite can be told that it is: it waits for up to twenty of them.
const DAY_S: u64 = 10;

/// Sections of the suite's configuration, each somebody with a key: its name, and who that is.
const SOMEBODY: [(&str, &str); 6] = [
    ("s3 main", "main"),
    ("s3 alt", "alt"),
    ("s3 tenant", "tenant"),
    ("iam", "iam"),
    ("iam root", "root"),
    ("iam alt root", "altroot"),
];

fn id(who: &str) -> String {
    format!("HIRS{:0>16}", who.to_uppercase())
}

fn secret(who: &str) -> String {
    format!("{who:x>40}")
}

fn configuration(port: u16) -> String {
    let mut text = format!(
        "[DEFAULT]\nhost = 127.0.0.1\nport = {port}\nis_secure = False\nssl_verify = False\n\
         [fixtures]\nbucket prefix = hs-{{random}}-\niam name prefix = s3-tests-\niam path prefix = /s3-tests/\n"
    );
    for (section, who) in SOMEBODY {
        let (id, secret) = (id(who), secret(who));
        text += &format!(
            "[{section}]\ndisplay_name = {who}\nuser_id = {who}\nemail = {who}@example.com\napi_name = hill-1\n\
             access_key = {id}\nsecret_key = {secret}\ntenant = testx\nlc_debug_interval = {DAY_S}\n"
        );
    }
    let web = ["token", "aud", "sub", "azp", "user_token", "thumbprint", "KC_REALM"];
    text + "[webidentity]\n" + &web.map(|name| format!("{name} = none\n")).concat()
}

/// How each case ended that is selected by these marks, as pytest says it in a line of its summary.
fn run(suite: &Path, marks: &str, more: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let keys = SOMEBODY.map(|(_, who)| (id(who), secret(who), who.to_owned()));
    let town = start(folder.path(), ([127, 0, 0, 1], 0).into(), keys.to_vec(), Day(DAY_S * 1_000));
    let town = runtime.block_on(town);
    let conf = folder.path().join("s3tests.conf");
    std::fs::write(&conf, configuration(town.addr.port())).unwrap();
    let python = std::env::var("HIRSEL_S3_TESTS_PYTHON").unwrap_or_else(|_| "python3".into());
    let output = Command::new(python)
        .args(["-m", "pytest", "-q", "-rA", "--tb=line", "-p", "no:cacheprovider", "-m", marks])
        .args(["s3tests/functional/test_s3.py", "s3tests/functional/test_headers.py"])
        .args(more.split_whitespace())
        .env("S3TEST_CONF", &conf)
        .current_dir(suite)
        .output()
        .expect("pytest runs");
    let text = String::from_utf8_lossy(&output.stdout);
    if !text.contains(" in ") {
        eprintln!("{text}{}", String::from_utf8_lossy(&output.stderr));
    }
    text.lines().map(str::to_owned).collect()
}

#[test]
fn what_the_suite_of_ceph_asks_is_answered() {
    let Ok(suite) = std::env::var("HIRSEL_S3_TESTS") else {
        return eprintln!("skipped: HIRSEL_S3_TESTS names no folder with s3-tests");
    };
    let (suite, more) = (Path::new(&suite), std::env::var("HIRSEL_S3_TESTS_ARGS").unwrap_or_default());
    let offered = DESELECTED.map(|mark| format!("not {mark}")).join(" and ");
    let (waiting, others) = (format!("{WAITS} and {offered}"), format!("not {WAITS} and {offered}"));
    let lines: Vec<String> = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| run(suite, &waiting, &more));
        let others = run(suite, &others, &more);
        others.into_iter().chain(waiting.join().expect("it ends")).collect()
    });
    let mut ends: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in &lines {
        if let Some((end @ ("PASSED" | "FAILED" | "ERROR" | "SKIPPED"), case)) = line.split_once(' ') {
            ends.entry(end).or_default().push(case);
        }
    }
    let count = |end: &str| ends.get(end).map_or(0, Vec::len);
    for case in ends.iter().filter(|(end, _)| **end != "PASSED").flat_map(|(_, cases)| cases) {
        eprintln!("not passed: {case}");
    }
    eprintln!("{} passed, {} failed, {} errors", count("PASSED"), count("FAILED"), count("ERROR"));
    assert!(count("PASSED") + count("FAILED") > 0, "no case was run");
    assert!(!more.is_empty() || count("PASSED") >= PASSED_MIN, "{} of {PASSED_MIN} passed", count("PASSED"));
}
