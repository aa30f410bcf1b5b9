//! Whatever a manifest holds, it is read or told what is wrong with it.

use proptest::prelude::*;

use super::*;
use crate::control::{Command, ControlState, Entry, Outcome};
use crate::time::WallTime;

fn built() -> Vec<RoleName> {
    vec![RoleName::compute(), RoleName::lb(), RoleName::mgmt(), RoleName::storage()]
}

/// Lines that a manifest is made of, some right, some not.
const LINES: [&str; 101] = [
    "app = \"shop\"",
    "[service.web]",
    "[service.worker]",
    "[service]",
    "[[service.web]]",
    "[service.web.health]",
    "command = [\"serve\", \"${PORT}\"]",
    "command = [1, [2, {}]]",
    "command = \"serve\"",
    "replicas = 3",
    "replicas = { min = 1, max = 2 }",
    "replicas = 0x7fffffffffffffffffffff",
    "resources = { cpu = 1e400, memory = \"1.5GiB\" }",
    "resources.cpu = 0.25",
    "health = { http = \"/healthz\", interval = \"2s\" }",
    "health.tcp = true",
    "interval = \"1.0000000000000000001s\"",
    "http = \"/\"",
    "update = { order = \"start-first\", parallel = 2 }",
    "stop = { signal = \"KILL\", grace = \"0ms\" }",
    "env = { A = \"b\", \"\" = \"c\", \"ü\" = \"\\u0000\" }",
    "constraints = { zone = \"a\", \"\" = \"\" }",
    "spread = \"node\"",
    "exclusive = true",
    "image = 1979-05-27T07:32:00Z",
    "[route.\"shop.test/a\"]",
    "[route.\"*\"]",
    "[route.\"ÄÖÜ/ü\"]",
    "to = \"web\"",
    "to = \"nowhere\"",
    "to = { web = 3, worker = 0, \"\" = 1 }",
    "to = [\"http://10.0.0.5\", \"http://[fd00::1]:81\"]",
    "to = { web = 1 }",
    "[route.\"*.shop.test\"]",
    "[[route.\"shop.test/a\".rule]]",
    "[[route.\"*\".rule]]",
    "[route.\"*\".rule]",
    "path = \"/a/*\"",
    "path = \"/ü\"",
    "path_regex = \"^/a(b\"",
    "path_regex = \"^/(a|b)$\"",
    "method = \"GET\"",
    "method = [\"POST\", 1, \"gett\"]",
    "header = { X-A = true, x-a = \"\\r\\n\" }",
    "header = { x-canary = \"1\" }",
    "query = { \"\" = 1, q = \"1\" }",
    "redirect = \"https\"",
    "redirect = { to = \"https://a.test/ü\", status = 303 }",
    "redirect = { strip_prefix = true, regex = \"(a)\", replace = \"$1$$\" }",
    "respond = { status = 503, body = \"ü\", headers = { a = \"1\" } }",
    "rewrite = { strip_prefix = true, add_prefix = \"/b\" }",
    "rewrite = { regex = \"(\", replace = \"$\" }",
    "allow = [\"10.0.0.0/8\", \"::/0\", \"10.0.0.0/99\"]",
    "deny = \"10.0.0.1\"",
    "rate_limit = { requests = 1, per = \"1s\", by = \"route\", scope = \"cluster\" }",
    "basic_auth = { users = { a = \"${secret.a}\", b = \"plain\" } }",
    "cors = { origins = \"*\", credentials = true }",
    "cors = { origins = [\"https://*.a.test\"], methods = [\"PUT\"], max_age = \"1h\" }",
    "body_max = \"1KiB\"",
    "compress = true",
    "compress = { with = [\"br\", \"deflate\"], types = [\"text/*\", \"ü\"], min = \"1\" }",
    "cache = true",
    "cache = { paths = [\"/a/*\", \"/ü\"], ttl = \"1m\", max_ttl = \"1s\", stale = \"9h\", ignore = [\"utm_*\", \"\"] }",
    "error_pages = { 404 = \"ü\", 5xx = { body = \"<p>\", programs = true } }",
    "error_pages = { 200 = 1, 4xx = { content_type = \"\\r\\n\" } }",
    "timeout = \"1s\"",
    "balance = \"round-robin\"",
    "balance = { hash = { header = \"ü\" }, bound = 0 }",
    "slow_start = \"1.5s\"",
    "sticky = { cookie = \"at\", path = \"/ü\", same_site = \"none\", max_age = \"1h\", secure = 1 }",
    "sticky = { cookie = \"at\" }",
    "zone = \"own\"",
    "concurrency = 5",
    "queue = { requests = 5, wait = \"1s\" }",
    "queue = {}",
    "eject = { errors = 5, share = 101 }",
    "try_timeout = \"1s\"",
    "hedge = { after = \"p95\" }",
    "hedge = { after = \"pü\" }",
    "request_headers = { set = { Host = \"a\", \"\" = \"b\" }, remove = [\"x\"] }",
    "response_headers = { add = { Via = \"a\" }, remove = \"x-a\" }",
    "[port.5432]",
    "[port.\"53/udp\"]",
    "send_proxy = \"v2\"",
    "accept_proxy = [\"10.0.0.0/8\"]",
    "idle_timeout = \"1h\"",
    "[bucket.media]",
    "copies = 2",
    "erasure = \"4+2\"",
    "erasure = \"ü+2\"",
    "when_short = \"refuse\"",
    "quota = \"10GiB\"",
    "versioning = true",
    "public = \"/media/*\"",
    "public = \"/ü\"",
    "env = { S3 = \"${bucket.media.url}${bucket.media.secret_access_key}\" }",
    "env = { S3 = \"${bucket.ü.url}${bucket.media}\" }",
    "[db.main]",
    "[cron]",
    "= = [",
    "\"unterminated",
];

fn check(text: &str) {
    match parse(text, &built()) {
        Ok((app, spec)) => {
            // What the manifest lets through, the control state takes too: none of its limits is narrower.
            let command = Command::ApplyApp { app, spec };
            let entry = Entry { at: WallTime(0), by: String::new(), if_index: None, command };
            let outcome = ControlState::default().apply(crate::id::LogIndex(1), entry);
            assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
        }
        Err(errors) => {
            assert!(!errors.is_empty() && errors.len() <= ERRORS_MAX);
            assert!(errors.is_sorted());
            let lines = text.split('\n').count();
            for error in &errors {
                assert!((1..=lines).contains(&error.line) && error.column >= 1 && !error.message.is_empty(), "{error}");
                let line = text.split('\n').nth(error.line - 1).unwrap_or_default();
                assert!(error.column <= line.chars().count() + 1, "{error} is beyond {line:?}");
            }
        }
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,200}") {
        check(&text);
    }

    #[test]
    fn no_bytes_that_are_text_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        check(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn no_mixture_of_lines_panics(lines in prop::collection::vec(prop::sample::select(LINES.to_vec()), 0..25)) {
        check(&lines.join("\n"));
    }

    #[test]
    fn no_piece_of_a_manifest_panics(
        lines in prop::collection::vec(prop::sample::select(LINES.to_vec()), 0..25),
        from in any::<prop::sample::Index>(),
        to in any::<prop::sample::Index>(),
    ) {
        let text: Vec<char> = lines.join("\n").chars().collect();
        let (from, to) = (from.index(text.len() + 1), to.index(text.len() + 1));
        check(&text[from.min(to)..from.max(to)].iter().collect::<String>());
    }

    #[test]
    fn every_duration_and_size_is_read_or_explained(text in "[0-9.]{0,22}[a-zA-Z]{0,3}") {
        for read in [values::duration(&text), values::size(&text)] {
            if let Err(why) = read {
                prop_assert!(!why.is_empty());
            }
        }
    }

    #[test]
    fn durations_are_as_long_as_their_number_says(ms in 0..10_000_000u64) {
        prop_assert_eq!(values::duration(&format!("{ms}ms")), Ok(ms));
        prop_assert_eq!(values::duration(&format!("{}.{:03}s", ms / 1000, ms % 1000)), Ok(ms));
    }
}
