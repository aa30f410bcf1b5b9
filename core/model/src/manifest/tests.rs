//! What a manifest may say, and what it is told when it says something else.

use std::collections::BTreeMap;

use super::*;
use crate::control::samples::named;
use crate::spec::{
    AppProtocol, Capacity, Check, HealthSpec, Replicas, RouteSpec, ServiceSpec, Spread, StopSpec, UpdateOrder,
    UpdateSpec,
};

fn built() -> Vec<RoleName> {
    vec![RoleName::compute(), RoleName::lb(), RoleName::mgmt()]
}

/// The errors of `text`, each as `LINE:COLUMN MESSAGE`.
fn wrong(text: &str) -> Vec<String> {
    let errors = parse(text, &built()).expect_err("something is wrong with it");
    errors.iter().map(|error| format!("{}:{} {}", error.line, error.column, error.message)).collect()
}

/// The one error of a service that holds `lines` besides its command.
fn wrong_service(lines: &str) -> String {
    let errors = wrong(&format!("app = \"shop\"\n[service.web]\ncommand = [\"serve\"]\n{lines}\n"));
    assert_eq!(errors.len(), 1, "{errors:#?}");
    errors.into_iter().next().expect("one error")
}

fn service(lines: &str) -> ServiceSpec {
    let text = format!("app = \"shop\"\n[service.web]\ncommand = [\"serve\"]\n{lines}\n");
    let (_, mut spec) = parse(&text, &built()).unwrap_or_else(|errors| panic!("{errors:#?}"));
    spec.services.remove(&named::<crate::id::ServiceName>("web")).expect("the service")
}

#[test]
fn a_whole_manifest_is_read_as_it_was_written() {
    let text = r#"
app = "shop"

[service.web]
command   = ["gunicorn", "shop.wsgi", "--bind", "${HOST}:${PORT}"]
path      = "/srv/shop"
replicas  = { min = 2, max = 20 }
resources = { cpu = 0.5, memory = "256MiB" }
health    = { http = "/healthz", interval = "1s", timeout = "250ms", failures = 2 }
update    = { order = "stop-first", parallel = 3, auto_revert = true }
stop      = { signal = "SIGINT", grace = "5s", drain = "2m" }
exclusive = false
env       = { MODE = "production" }
user      = "www-data"
constraints = { zone = "a", disk = "SSD" }
spread    = "node"

[service.worker]
command = ["work"]
health = { tcp = true }
replicas = 3

[route."Shop.Example.com"]
to = "web"

[route."*/api"]
to = "worker"
"#;
    let (app, spec) = parse(text, &built()).expect("nothing is wrong with it");
    assert_eq!(app, named("shop"));
    let web = &spec.services[&named::<crate::id::ServiceName>("web")];
    let expected = ServiceSpec {
        revision: Revision(0),
        command: ["gunicorn", "shop.wsgi", "--bind", "${HOST}:${PORT}"].map(String::from).into(),
        workdir: Some("/srv/shop".into()),
        env: BTreeMap::from([("MODE".into(), "production".into())]),
        user: Some("www-data".into()),
        replicas: Replicas { min: 2, max: 20 },
        resources: Capacity { cpu_millis: 500, memory_bytes: 256 << 20 },
        health: Some(HealthSpec {
            check: Check::Http { path: "/healthz".into() },
            interval_ms: 1_000,
            timeout_ms: 250,
            failures: 2,
        }),
        update: UpdateSpec { order: UpdateOrder::StopFirst, parallel: 3, auto_revert: true },
        stop: StopSpec { signal: 2, grace_ms: 5_000, drain_ms: 120_000 },
        constraints: BTreeMap::from([("disk".into(), "SSD".into()), ("zone".into(), "a".into())]),
        spread: Spread::Node,
        exclusive: false,
        secrets: BTreeMap::new(),
        protocol: Default::default(),
    };
    assert_eq!(*web, expected);
    let worker = &spec.services[&named::<crate::id::ServiceName>("worker")];
    assert_eq!(worker.health.as_ref().map(|health| &health.check), Some(&Check::Tcp));
    assert_eq!(worker.replicas, Replicas { min: 3, max: 3 });
    let expected =
        [RouteSpec::plain("shop.example.com", "/", named("web")), RouteSpec::plain("*", "/api", named("worker"))];
    assert_eq!(spec.routes, expected);
    assert!(!spec.stopped);
}

#[test]
fn an_exclusive_service_is_one_and_goes_before_it_comes() {
    let one = service("exclusive = true");
    assert!(one.exclusive && one.replicas.max == 1 && one.update.order == UpdateOrder::StopFirst);
    assert_eq!(service("exclusive = true\nupdate = { parallel = 2 }").update.order, UpdateOrder::StopFirst);
    let text = "app = \"shop\"\n[service.web]\ncommand = [\"serve\"]\nexclusive = true\nreplicas = 2\nupdate = { order = \"start-first\" }\n";
    let expected = [
        "5:1 [service.web] is exclusive, never two at once: replicas = 1",
        "6:1 [service.web] is exclusive, never two at once: order = \"stop-first\"",
    ];
    assert_eq!(wrong(text), expected);
}

#[test]
fn a_service_says_what_it_speaks() {
    assert_eq!(service("").protocol, AppProtocol::Http1);
    assert_eq!(service("protocol = \"http/1.1\"").protocol, AppProtocol::Http1);
    assert_eq!(service("protocol = \"h2c\"").protocol, AppProtocol::H2c);
    let check = |lines: &str| service(lines).health.map(|health| health.check);
    let asked = |service: &str| Some(Check::Grpc { service: service.into() });
    assert_eq!(check("protocol = \"h2c\"\nhealth = { grpc = \"\" }"), asked(""));
    assert_eq!(check("health = { grpc = \"shop.Prices\" }\nprotocol = \"h2c\""), asked("shop.Prices"));
    let text = "app = \"shop\"\n[service.web]\ncommand = [\"serve\"]\nhealth = { grpc = \"a b\", tcp = true }\n";
    let expected = [
        "4:12 [service.web.health] has both tcp and grpc; one of them is tried",
        "4:19 grpc in [service.web.health]: \"a b\" is no name of a service of gRPC, like \"shop.Prices\"",
    ];
    assert_eq!(wrong(text), expected);
    let text = "app = \"shop\"\n[service.web]\ncommand = [\"serve\"]\nhealth = { grpc = \"\" }\n";
    assert_eq!(wrong(text), ["4:12 grpc in [service.web.health] is asked in HTTP/2: protocol = \"h2c\""]);
    let text = "app = \"shop\"\n[service.web]\ncommand = [\"serve\"]\nprotocol = \"h2\"\n";
    assert_eq!(wrong(text), ["4:12 unknown protocol in [service.web]: \"h2\"; did you mean \"h2c\"?"]);
}

#[test]
fn what_a_service_does_not_say_has_a_default() {
    let web = service("");
    assert_eq!((web.replicas, web.resources), (Replicas { min: 1, max: 1 }, Capacity::default()));
    assert_eq!((web.health, web.update, web.stop), (None, UpdateSpec::default(), StopSpec::default()));
    assert_eq!((web.workdir, web.user, web.spread), (None, None, Spread::Zone));
    let health = service("health = { tcp = true }").health.expect("a check");
    assert_eq!((health.interval_ms, health.timeout_ms, health.failures), (1_000, 1_000, 3));
}

#[test]
fn ten_errors_are_all_told_each_in_its_place() {
    let text = r#"app = "Shop"

[service.web]
comand = ["serve"]
replicas = "three"
resources = { cpu = 0.5, memory = "256MB5" }
health = { http = "healthz", interval = "1x" }
exclusive = "yes"
stop = { signal = "TREM" }

[route."shop.test"]
to = "webb"

[db.main]
engine = "auto"

[cache]
"#;
    let expected = [
        r#"1:7 "Shop" is no name: use a-z, 0-9 and '-', beginning and ending with a letter or digit"#,
        r#"3:10 [service.web] has no command: command = ["PROGRAM", …]"#,
        r#"4:1 unknown key "comand" in [service.web]; did you mean "command"?"#,
        r#"5:12 replicas in [service.web] is a string; expected a whole number or { min = 2, max = 20 }"#,
        r#"6:35 memory in [service.web.resources]: "256MB5" is not a size: write for example 64KiB, 256MiB or 2GiB"#,
        r#"7:19 http in [service.web.health]: "healthz" is no path of a request: it begins with '/' and has no blanks"#,
        r#"7:41 interval in [service.web.health]: "1x" is not a duration: write for example 250ms, 1s, 2m or 1h"#,
        r#"8:13 exclusive in [service.web] is a string; expected true or false"#,
        r#"9:19 signal in [service.web.stop]: unknown signal "TREM"; did you mean "TERM"?"#,
        r#"12:6 unknown service "webb"; did you mean "web"?"#,
        r#"14:5 [db.main] needs the role db, which this hirsel does not have (it has compute, lb, mgmt)"#,
        r#"17:2 unknown block "cache"; known are app, service, route, port, zone, bucket"#,
    ];
    assert_eq!(wrong(text), expected);
}

#[test]
fn what_is_no_toml_is_told_with_what_else_is_wrong_on_other_lines() {
    let text = "app = \"shop\"\n[service.web]\ncommand = [\"a\" \"b\"]\nreplicas = = 3\nspread = \"zoen\"\n";
    let errors = wrong(text);
    assert_eq!(errors.len(), 3, "{errors:#?}");
    assert!(errors[0].starts_with("3:16 missing comma"), "{errors:#?}");
    assert!(errors[1].starts_with("4:12 extra `=`"), "{errors:#?}");
    assert_eq!(errors[2], "5:10 unknown spread in [service.web]: \"zoen\"; did you mean \"zone\"?");
}

#[test]
fn the_same_thing_twice_is_an_error() {
    let errors =
        wrong("app = \"a\"\napp = \"b\"\n[service.web]\ncommand = [\"x\"]\n[service.web]\ncommand = [\"y\"]\n");
    assert!(errors.len() >= 2 && errors[0].starts_with("2:1 duplicate key"), "{errors:#?}");
    assert!(errors.iter().any(|error| error.starts_with("5:")), "{errors:#?}");
    let errors = wrong(
        "app = \"a\"\n[service.web]\ncommand = [\"x\"]\n[route.\"h\"]\nto = \"web\"\n[route.\"H/\"]\nto = \"web\"\n",
    );
    assert_eq!(errors, ["6:8 route \"H/\" is the same as \"h\""]);
}

#[test]
fn what_only_leads_elsewhere_needs_no_program() {
    let (_, app) = parse("app = \"a\"\n[route.\"h\"]\nto = [\"http://10.0.0.5:80\"]\n", &built()).unwrap();
    assert_eq!((app.services.len(), app.routes.len()), (0, 1));
    let errors = wrong("app = \"a\"\n[route.\"h\"]\nto = \"web\"\n");
    assert_eq!(errors, ["3:6 unknown service \"web\": there is none"]);
}

#[test]
fn an_empty_manifest_says_what_is_missing() {
    let expected = [
        "1:1 an application has nothing in it; most begin with a program: [service.NAME]",
        "1:1 the name of the application is missing: app = \"NAME\"",
    ];
    assert_eq!(wrong(""), expected);
    assert_eq!(wrong("app = \"a\"\n[service]\n"), ["2:2 [service] needs a name: [service.NAME]"]);
    assert_eq!(wrong("app = \"a\"\nservice = 3\n"), ["2:11 [service] is a whole number, not a table"]);
    assert_eq!(wrong("app = \"a\"\n[[service]]\n"), ["2:1 [service] is a list, not a table"]);
}

#[test]
fn what_is_not_built_yet_is_refused_by_name() {
    let expected = [
        (
            "artifact = \"s3://a/b\"",
            "4:1 artifact in [service.web] is not built yet: the role storage is missing; use path, a folder that every host has",
        ),
        (
            "image = \"nginx\"",
            "4:1 image in [service.web] is not built yet: containers are not run; use command and path",
        ),
        (
            "scale = { cpu = 0.5 }",
            "4:1 scale in [service.web] is not built yet: services do not breathe with load; use replicas = N",
        ),
        (
            "update = { canary = 1 }",
            "4:12 canary in [service.web.update] is not built yet: every instance of an update is treated alike; use parallel = 1",
        ),
        (
            "env = { KEY = \"${bucket.media.url}\" }",
            "4:15 \"KEY\" in [service.web.env]: no bucket named \"media\"; add a block [bucket.media]",
        ),
        (
            "[bucket.media]",
            "4:9 [bucket.media] needs the role storage, which this hirsel does not have (it has compute, lb, mgmt)",
        ),
        (
            "[cron.nightly]",
            "4:7 [cron.nightly] is not built yet: the role mgmt of this hirsel does not do commands that run by the clock",
        ),
        (
            "[job.thumbs]",
            "4:6 [job.thumbs] is not built yet: the role compute of this hirsel does not do commands in parallel blocks",
        ),
    ];
    for (lines, message) in expected {
        assert_eq!(wrong_service(lines), message);
    }
    let text = "app = \"a\"\n[service.web]\ncommand = [\"x\"]\n[route.h]\nto = \"web\"\n";
    let errors = parse(text, &[RoleName::compute()]).expect_err("no lb");
    assert_eq!(errors[0].message, "[route.h] needs the role lb, which this hirsel does not have (it has compute)");
}

#[test]
fn every_field_of_a_service_says_what_it_expects() {
    let expected = [
        ("replicas = -1", "4:12 replicas in [service.web]: -1 is not between 0 and 10000"),
        ("replicas = 10001", "4:12 replicas in [service.web]: 10001 is not between 0 and 10000"),
        (
            "replicas = 2.5",
            "4:12 replicas in [service.web] is a number with a fraction; expected a whole number or { min = 2, max = 20 }",
        ),
        ("replicas = { min = 3, max = 2 }", "4:12 min of 3 in [service.web.replicas] is more than max of 2"),
        ("replicas = { min = 3 }", "4:12 max is missing in [service.web.replicas]"),
        (
            "replicas = { min = 1, max = 2, mx = 3 }",
            "4:32 unknown key \"mx\" in [service.web.replicas]; did you mean \"max\"?",
        ),
        (
            "replicas = 99999999999999999999999999",
            "4:12 replicas in [service.web]: 99999999999999999999999999 is not between 0 and 10000",
        ),
        ("resources = { cpu = 0.0001 }", "4:21 cpu in [service.web.resources] is less than a thousandth"),
        ("resources = { cpu = -1 }", "4:21 cpu in [service.web.resources] is not between 0 and 1024"),
        ("resources = { cpu = nan }", "4:21 cpu in [service.web.resources] is not between 0 and 1024"),
        ("resources = { cpu = 1025 }", "4:21 cpu in [service.web.resources] is not between 0 and 1024"),
        (
            "resources = { memory = 256 }",
            "4:24 memory in [service.web.resources] is a whole number; expected a size like \"256MiB\"",
        ),
        (
            "resources = { memory = \"256\" }",
            "4:24 memory in [service.web.resources]: \"256\" has no unit: write for example 64KiB, 256MiB or 2GiB",
        ),
        (
            "resources = { memory = \"65TiB\" }",
            "4:24 memory in [service.web.resources]: \"65TiB\" is more than any host has",
        ),
        ("health = {}", "4:1 [service.web.health] tries nothing: http = \"/PATH\", tcp = true or grpc = \"\""),
        ("health = { tcp = false }", "4:12 tcp = false in [service.web.health]: leave health out instead"),
        (
            "health = { tcp = true, http = \"/\" }",
            "4:12 [service.web.health] has both http and tcp; one of them is tried",
        ),
        (
            "health = { tcp = true, interval = \"99ms\" }",
            "4:35 interval in [service.web.health]: \"99ms\" is not between 100ms and 3600s",
        ),
        (
            "health = { tcp = true, timeout = \"9ms\" }",
            "4:34 timeout in [service.web.health]: \"9ms\" is not between 10ms and 600s",
        ),
        ("health = { tcp = true, failures = 0 }", "4:35 failures in [service.web.health]: 0 is not between 1 and 1000"),
        ("health = { tcp = 1 }", "4:18 tcp in [service.web.health] is a whole number; expected true or false"),
        ("update = { parallel = 0 }", "4:23 parallel in [service.web.update]: 0 is not between 1 and 1000"),
        (
            "update = { order = \"start_first\" }",
            "4:20 unknown order in [service.web.update]: \"start_first\"; did you mean \"start-first\"?",
        ),
        ("stop = { signal = 0 }", "4:19 signal in [service.web.stop]: 0 is not between 1 and 64"),
        ("stop = { signal = 65 }", "4:19 signal in [service.web.stop]: 65 is not between 1 and 64"),
        ("stop = { grace = \"25h\" }", "4:18 grace in [service.web.stop]: \"25h\" is not between 0s and 86400s"),
        (
            "stop = { drain = 30 }",
            "4:18 drain in [service.web.stop] is a whole number; expected a duration like \"1s\"",
        ),
        ("env = { PORT = \"80\" }", "4:9 \"PORT\" in [service.web.env] is given by hirsel itself"),
        ("env = { 1A = \"\" }", "4:9 \"1A\" in [service.web.env] is no variable: use letters, digits and '_'"),
        ("env = { A = 1 }", "4:13 A in [service.web.env] is a whole number; expected a string: put it in quotes"),
        (
            "env = { A = \"\\u0000\" }",
            "4:13 \"A\" in [service.web.env] holds a zero byte, which no program can be given",
        ),
        ("path = \"srv\"", "4:8 path in [service.web]: \"srv\" is no folder that every host has: it begins with '/'"),
        ("path = \"/a\"\nworkdir = \"/b\"", "5:1 [service.web] has both path and workdir, which mean the same"),
        ("user = \"a b\"", "4:8 user in [service.web]: \"a b\" is no name of a system user"),
        (
            "constraints = { zone = \"A\" }",
            "4:24 zone in [service.web.constraints]: \"A\" is no name: use a-z, 0-9 and '-', beginning and ending with a letter or digit",
        ),
        ("constraints = { disk = true }", "4:24 disk in [service.web.constraints] is true or false; expected a string"),
        ("spread = 1", "4:10 spread in [service.web] is a whole number; expected a string"),
        ("exclusive = \"no\"", "4:13 exclusive in [service.web] is a string; expected true or false"),
        ("replica = 3", "4:1 unknown key \"replica\" in [service.web]; did you mean \"replicas\"?"),
        ("update = 3", "4:10 [service.web.update] is a whole number, not a table"),
    ];
    for (lines, message) in expected {
        assert_eq!(wrong_service(lines), message);
    }
}

#[test]
fn a_command_is_a_list_of_words() {
    let expected = [
        (
            "command = \"serve\"",
            "3:11 command in [service.web] is a string; expected a list of words, for example [\"python3\", \"app.py\"]",
        ),
        ("command = []", "3:11 command in [service.web] names no program"),
        ("command = [\"\"]", "3:11 command in [service.web] names no program"),
        ("command = [\"a\", 1]", "3:17 command in [service.web] holds a whole number; expected words in quotes"),
        (
            "command = [\"a\", \"${db.main.url}\"]",
            "3:17 command in [service.web]: ${db.main.url} is not built yet: this hirsel has no db to take it from",
        ),
    ];
    for (line, message) in expected {
        assert_eq!(wrong(&format!("app = \"a\"\n[service.web]\n{line}\n")), [message]);
    }
}

#[test]
fn every_route_has_a_host_and_leads_somewhere() {
    let expected = [
        ("\"\"", "4:8 route \"\" has no host; \"*\" stands for any"),
        ("\"/api\"", "4:8 route \"/api\" has no host; \"*\" stands for any"),
        ("\"h:80\"", "4:8 route \"h:80\" has a port: leave it out, lb nodes answer on theirs"),
        (
            "\"a*.test\"",
            "4:8 route \"a*.test\": '*' stands for any host, or for the whole first label as in \"*.example.com\"",
        ),
        (
            "\"*.*.test\"",
            "4:8 route \"*.*.test\": '*' stands for any host, or for the whole first label as in \"*.example.com\"",
        ),
        ("\"*.\"", "4:8 route \"*.\" is no host name: use labels of a-z, 0-9 and '-' between dots, or \"*\""),
        ("\"a..b\"", "4:8 route \"a..b\" is no host name: use labels of a-z, 0-9 and '-' between dots, or \"*\""),
        ("\"a_b\"", "4:8 route \"a_b\" is no host name: use labels of a-z, 0-9 and '-' between dots, or \"*\""),
        ("\"h/a b\"", "4:8 route \"h/a b\": its path holds what no path of a request can, or is longer than 4096"),
        ("\"h/a?b\"", "4:8 route \"h/a?b\": its path holds what no path of a request can, or is longer than 4096"),
    ];
    for (name, message) in expected {
        let text = format!("app = \"a\"\n[service.web]\ncommand = [\"x\"]\n[route.{name}]\nto = \"web\"\n");
        assert_eq!(wrong(&text), [message]);
    }
    assert_eq!(wrong_service("[route.h]"), "4:8 [route.h] leads nowhere: to = \"SERVICE\"");
    assert_eq!(
        wrong_service("[route.h]\nto = 1"),
        "5:6 to in [route.h] is a whole number; expected a service, shares like { web = 90, next = 10 }, objects like \"bucket:media\", or addresses outside like \"http://10.0.0.5:8080\""
    );
}

#[test]
fn limits_are_told_with_their_value() {
    let long = "x".repeat(64);
    assert_eq!(
        wrong(&format!("app = \"{long}\"\n[service.w]\ncommand=[\"x\"]\n")),
        ["1:7 name of 64 bytes exceeds 63"]
    );
    let text = format!("app = \"a\"\n# {}", "x".repeat(MANIFEST_BYTES_MAX));
    assert_eq!(wrong(&text), [format!("1:1 manifest of {} bytes exceeds 262144", text.len())]);
    let services: String = (0..65).map(|n| format!("[service.s{n}]\ncommand = [\"x\"]\n")).collect();
    assert_eq!(wrong(&format!("app = \"a\"\n{services}")), ["130:10 65 services exceed 64"]);
    let routes: String = (0..257).map(|n| format!("[route.h{n}]\nto = \"w\"\n")).collect();
    let errors = wrong(&format!("app = \"a\"\n[service.w]\ncommand = [\"x\"]\n{routes}"));
    assert_eq!(errors, ["516:8 257 routes exceed 256"]);
    let words = "\"x\",".repeat(257);
    let errors = wrong(&format!("app = \"a\"\n[service.w]\ncommand = [{words}]\n"));
    assert_eq!(errors, ["3:11 command in [service.w]: 257 words exceed 256"]);
    let many: String = (0..257).map(|n| format!("A{n} = \"\"\n")).collect();
    assert_eq!(
        wrong_service(&format!("[service.web.env]\n{many}")),
        "4:14 [service.web.env]: 257 variables exceed 256"
    );
    let huge = "x".repeat(65_534);
    assert_eq!(
        wrong_service(&format!("env = {{ A = \"{huge}\" }}")),
        "4:1 [service.web.env]: 65537 bytes exceed 65536"
    );
}

#[test]
fn a_hundred_errors_are_told_and_the_rest_counted() {
    let text: String = (0..150).map(|n| format!("unheard-of-{n} = 1\n")).collect();
    let errors = parse(&format!("app = \"a\"\n{text}[service.w]\ncommand = [\"x\"]\n"), &built()).expect_err("wrong");
    assert_eq!(errors.len(), ERRORS_MAX);
    assert!(errors[ERRORS_MAX - 1].message.ends_with("(and 50 more errors)"));
}

#[test]
fn columns_count_characters() {
    let errors = wrong("app = \"a\"\n[service.web]\ncommand = [\"x\"]\nenv = { A = \"üüü\", B = 1 }\n");
    assert_eq!(errors, ["4:24 B in [service.web.env] is a whole number; expected a string: put it in quotes"]);
}

#[test]
fn durations_and_sizes_are_exact_at_their_edges() {
    let durations = [("0s", 0), ("250ms", 250), ("1s", 1_000), ("1.5s", 1_500), ("2m", 120_000), ("0.5h", 1_800_000)];
    for (text, ms) in durations {
        assert_eq!(values::duration(text), Ok(ms), "{text}");
    }
    for text in [
        "",
        "s",
        "1",
        "-1s",
        "1 s",
        "1.s",
        ".5s",
        "1.2.3s",
        "0.0001s",
        "1S",
        "1d",
        "99999999999999999999s",
        "5124095576031h",
    ] {
        assert!(values::duration(text).is_err(), "{text}");
    }
    let sizes = [
        ("0B", 0),
        ("1B", 1),
        ("1KiB", 1024),
        ("1.5KiB", 1536),
        ("1kB", 1000),
        ("2GB", 2_000_000_000),
        ("1TiB", 1 << 40),
    ];
    for (text, bytes) in sizes {
        assert_eq!(values::size(text), Ok(bytes), "{text}");
    }
    for text in ["", "1", "MiB", "1.5B", "1mb", "1KIB", "16777216TiB", "-1B"] {
        assert!(values::size(text).is_err(), "{text}");
    }
}

#[test]
fn the_nearest_word_is_near() {
    assert_eq!(nearest("replica", ["replicas", "resources"]), Some("replicas"));
    assert_eq!(nearest("HEALTH", ["health"]), Some("health"));
    assert_eq!(nearest("xyz", ["replicas", "env"]), None);
    assert_eq!(nearest("", ["env"]), None);
}

#[test]
fn a_secret_is_named_in_the_environment_by_a_name_that_is_set() {
    let text = |lines: &str| format!("app = \"shop\"\n[service.web]\ncommand = [\"serve\"]\n{lines}\n");
    let mut secrets = Secrets::default();
    secrets.cluster.insert(named("mail-key"), Default::default());
    secrets.apps.entry(named("shop")).or_default().insert(named("db-pw"), Default::default());
    secrets.apps.entry(named("blog")).or_default().insert(named("admin"), Default::default());
    let read = |lines: &str| parse_for(&text(lines), &built(), Some(&secrets)).map_err(|errors| errors[0].to_string());
    let (_, spec) = read("env = { A = \"x ${secret.db-pw}:${secret.mail-key} $${secret.no}\" }").unwrap();
    let used = crate::secret::used(&spec.services[&named::<crate::id::ServiceName>("web")]);
    assert_eq!(used, [named("db-pw"), named("mail-key")].into());
    for (lines, error) in [
        ("env = { A = \"${secret.db-pwd}\" }", "no secret named \"db-pwd\"; did you mean \"db-pw\"?"),
        ("env = { A = \"${secret.admin}\" }", "no secret named \"admin\"; try: hirsel secret set admin"),
    ] {
        let expected = format!("line 4, column 13: \"A\" in [service.web.env]: {error}");
        assert_eq!(read(lines).unwrap_err(), expected);
    }
    // Where nobody knows which are set, only what is written is looked at.
    assert!(parse(&text("env = { A = \"${secret.admin}\" }"), &built()).is_ok());
    let wrong = wrong_service("env = { A = \"${secret.DB_PW}\" }");
    assert!(wrong.starts_with("4:13 \"A\" in [service.web.env]: the name of a secret is wrong: "), "{wrong}");
    assert_eq!(
        wrong_service("env = { A = \"${secert.key}\" }"),
        "4:13 \"A\" in [service.web.env]: unknown kind of reference in ${secert.key}: \"secert\"; did you mean \"secret\"?"
    );
}

#[test]
fn no_secret_gets_into_a_command() {
    let command = |word: &str| {
        wrong(&format!("app = \"a\"\n[service.w]\ncommand = [\"a\", \"{word}\"]\nenv = {{ A = \"x${{secret.k}}\" }}\n"))
    };
    let direct = command("--key=${secret.k}");
    assert_eq!(
        direct,
        [
            "3:17 command in [service.w]: a secret in a command is seen by whoever lists processes; put it into env: NAME = \"${secret.k}\""
        ]
    );
    let through = command("${HOST} ${A}");
    assert_eq!(through.len(), 1);
    assert!(through[0].contains("A holds a secret"), "{through:?}");
    assert!(
        parse(
            "app = \"a\"\n[service.w]\ncommand = [\"sh\", \"-c\", \"echo $A $${A}\"]\nenv = { A = \"${secret.k}\" }",
            &built()
        )
        .is_ok()
    );
}
