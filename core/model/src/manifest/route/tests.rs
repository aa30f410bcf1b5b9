use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::id::RoleName;
use crate::manifest::parse;
use crate::spec::{Assets, Encoding, RateLimit, Statuses, Target};

const SERVICES: &str = "app = \"a\"\n[service.web]\ncommand = [\"x\"]\n[service.next]\ncommand = [\"x\"]\n";

fn built() -> [RoleName; 2] {
    [RoleName::compute(), RoleName::lb()]
}

/// The routes of a manifest that has the services `web` and `next`.
pub(super) fn routes(text: &str) -> Vec<RouteSpec> {
    let read = parse(&format!("{SERVICES}{text}"), &built());
    read.unwrap_or_else(|errors| panic!("{text}: {errors:#?}")).1.routes
}

/// What is wrong with it, lines counted from where the routes begin.
pub(super) fn wrong(text: &str) -> Vec<String> {
    let errors = parse(&format!("{SERVICES}{text}"), &built()).expect_err(text);
    errors.iter().map(|error| format!("{}:{} {}", error.line - 5, error.column, error.message)).collect()
}

fn service(name: &str) -> Target {
    Target::Service(name.parse().unwrap())
}

#[test]
fn the_rules_of_a_route_come_before_it_and_take_from_it_what_they_do_not_say() {
    let text = r#"
[route."Shop.example.com"]
to = "web"
header = { X-Tenant = true }

[[route."shop.example.com".rule]]
path = "/api/*"
method = ["GET", "HEAD"]
to = "next"

[[route."shop.example.com".rule]]
path = "/cart"
header = { x-canary = "1" }
query = { beta = true, v = "2" }
"#;
    // Two spellings of one host are two routes to TOML.
    assert_eq!(wrong(text), ["6:9 route \"shop.example.com\" is the same as \"Shop.example.com\""]);
    let routes = routes(&text.replace("Shop", "shop"));
    let shown: Vec<String> = routes.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["shop.example.com/api", "shop.example.com=/cart", "shop.example.com/"]);
    assert_eq!(routes[0].to, service("next"));
    assert_eq!(routes[0].when.methods, BTreeSet::from(["GET".to_owned(), "HEAD".to_owned()]));
    assert_eq!(routes[0].when.headers, BTreeMap::from([("x-tenant".to_owned(), None)]));
    assert_eq!(routes[1].to, service("web"));
    assert_eq!(routes[1].when.headers, BTreeMap::from([("x-canary".to_owned(), Some("1".to_owned()))]));
    assert_eq!(routes[1].when.count(), 3);
    assert_eq!(routes[2].when.count(), 1);
}

#[test]
fn a_route_may_have_rules_only_and_a_path_of_its_own() {
    let routes = routes(
        "[[route.\"h/shop\".rule]]\npath = \"/shop/cart/*\"\nto = \"web\"\n[[route.\"h/shop\".rule]]\nmethod = \"POST\"\nto = \"next\"\n",
    );
    assert_eq!(routes.iter().map(ToString::to_string).collect::<Vec<_>>(), ["h/shop/cart", "h/shop"]);
    assert_eq!(super::tests::routes("[route.\"h/api/*\"]\nto = \"web\"\n")[0].path, "/api");
    assert_eq!(super::tests::routes("[route.\"*.h/*\"]\nto = \"web\"\n")[0].to_string(), "*.h/");
    let regex = &super::tests::routes("[[route.h.rule]]\npath_regex = '^/img/.*\\.png$'\nto = \"web\"\n")[0];
    assert_eq!((regex.kind, regex.path.as_str()), (PathKind::Regex, r"^/img/.*\.png$"));
}

#[test]
fn requests_are_shared_by_weight_or_leave_the_cluster() {
    let to = |to: &str| routes(&format!("[route.h]\nto = {to}\n"))[0].to.clone();
    let shares = BTreeMap::from([("next".parse().unwrap(), 10), ("web".parse().unwrap(), 90)]);
    assert_eq!(to("{ web = 90, next = 10 }"), Target::Shares(shares));
    assert_eq!(to("\"http://10.0.0.5:8080\""), Target::Outside(vec!["10.0.0.5:8080".parse().unwrap()]));
    let two = vec!["10.0.0.5:80".parse().unwrap(), "[fd00::1]:81".parse().unwrap()];
    assert_eq!(to("[\"http://10.0.0.5\", \"http://[fd00::1]:81/\"]"), Target::Outside(two.clone()));
    assert_eq!(to("[\"h2c://10.0.0.5\", \"h2c://[fd00::1]:81/\"]"), Target::OutsideH2c(two));
}

#[test]
fn every_field_of_a_route_says_what_it_expects() {
    let route = [
        ("tp = 1", "2:1 unknown key \"tp\" in [route.h]; did you mean \"to\"?"),
        (
            "path = \"/a\"",
            "2:1 unknown key \"path\" in [route.h]; known are to, redirect, respond, index, method, header, query, allow, deny, rate_limit, cors, basic_auth, body_max, timeout, rewrite, request_headers, response_headers, compress, error_pages, cache, balance, slow_start, sticky, zone, concurrency, queue, eject, try_timeout, hedge, trace, log, rule, tls, client_ca, client_auth",
        ),
        ("to = { web = 1, nxt = 1 }", "2:17 unknown service \"nxt\"; did you mean \"next\"?"),
        ("to = { web = 0 }", "2:1 [route.h.to] leads nowhere: no weight is above 0"),
        ("to = { web = -1 }", "2:14 web in [route.h.to]: -1 is not between 0 and 10000"),
        ("to = { web = \"1\" }", "2:14 web in [route.h.to] is a string; expected a weight: a whole number"),
        (
            "to = [\"web\"]",
            "2:7 to in [route.h]: \"web\" in a list: services share requests by weight, to = { web = 90, next = 10 }",
        ),
        ("to = []", "2:1 to in [route.h]: 0 addresses are not between 1 and 64"),
        (
            "to = \"https://10.0.0.5\"",
            "2:6 to in [route.h]: \"https://10.0.0.5\" is not reached: outside the cluster only plain \"http://ADDRESS:PORT\" and \"h2c://ADDRESS:PORT\" are",
        ),
        (
            "to = [\"h2c://10.0.0.5:1\", \"http://10.0.0.6:1\"]",
            "2:27 to in [route.h]: those of one list all speak http, or all h2c",
        ),
        (
            "to = \"http://db.lan\"",
            "2:6 to in [route.h]: \"http://db.lan\" is no address: names are not looked up, write \"http://10.0.0.5:8080\"",
        ),
        ("rule = { to = \"web\" }", "2:1 [route.h.rule] is a table; expected a list of tables: [[route.h.rule]]"),
        ("method = \"get\"", "2:10 method in [route.h]: unknown method \"get\"; did you mean \"GET\"?"),
        ("method = [\"PSOT\"]", "2:11 method in [route.h]: unknown method \"PSOT\"; did you mean \"POST\"?"),
        ("method = 1", "2:10 method in [route.h] is a whole number; expected a method like \"GET\" or a list of them"),
        ("header = { \"a b\" = \"1\" }", "2:12 [route.h.header]: \"a b\" is no name of a header field"),
        ("header = { a = \"1\\r\\nx: 2\" }", "2:16 a in [route.h.header]: no header can have this value"),
        (
            "header = { a = 1 }",
            "2:16 a in [route.h.header] is a whole number; expected a string in quotes, or true for any value",
        ),
        ("header = {}", "2:1 [route.h.header] asks for nothing: header = { NAME = \"value\" }"),
        (
            "query = { a = false }",
            "2:15 a in [route.h.query] is true or false; expected a string in quotes, or true for any value",
        ),
    ];
    for (line, message) in route {
        let to = if line.starts_with("to") { "" } else { "to = \"web\"\n" };
        assert_eq!(wrong(&format!("[route.h]\n{line}\n{to}")), [message]);
    }
    let rule = [
        (
            "path = \"cart\"",
            "3:8 path in [route.h/shop.rule]: \"cart\" is no path of a request: \"/cart\" is that one, \"/cart/*\" all below it",
        ),
        (
            "path = \"/shop/*/x\"",
            "3:8 path in [route.h/shop.rule]: \"/shop/*/x\" has a '*' that is not its last segment; use path_regex",
        ),
        (
            "path = \"/shopping\"",
            "3:8 path in [route.h/shop.rule]: \"/shopping\" is not below \"/shop\", the path of its route",
        ),
        ("path_regex = \"a\"", "3:1 [route.h/shop.rule]: a path_regex stands in a route of a host, without a path"),
        (
            "rule = 1",
            "3:1 unknown key \"rule\" in [route.h/shop.rule]; known are to, redirect, respond, index, method, header, query, allow, deny, rate_limit, cors, basic_auth, body_max, timeout, rewrite, request_headers, response_headers, compress, error_pages, cache, balance, slow_start, sticky, zone, concurrency, queue, eject, try_timeout, hedge, trace, log, path, path_regex",
        ),
    ];
    for (line, message) in rule {
        let found = wrong(&format!("[[route.\"h/shop\".rule]]\nto = \"web\"\n{line}\n"));
        assert_eq!(found, [message.replace("h/shop.rule", "\"h/shop\".rule")]);
    }
    assert_eq!(wrong("[[route.h.rule]]\npath = \"/a\"\n"), ["1:1 [route.h.rule] leads nowhere: to = \"SERVICE\""]);
    let found = wrong("[[route.h.rule]]\nto = \"web\"\npath_regex = \"^/a(\"\n");
    assert_eq!(found, ["3:14 path_regex in [route.h.rule]: no regular expression: unclosed group"]);
}

#[test]
fn rules_count_as_routes() {
    let rules: String = (0..257).map(|n| format!("[[route.h.rule]]\npath = \"/{n}\"\nto = \"web\"\n")).collect();
    assert_eq!(wrong(&rules), ["1:9 routes and their rules are more than 256 together"]);
}

#[test]
fn two_rules_for_the_same_requests_are_refused() {
    let same = "[[route.h.rule]]\npath = \"/a/*\"\nto = \"web\"\n";
    assert_eq!(
        wrong(&format!("{same}{same}")),
        ["4:1 [route.h.rule] is for the same requests as a route or rule before it"]
    );
    let found = wrong(&format!("{same}[route.\"h/a/\"]\nto = \"next\"\n"));
    assert_eq!(found, ["4:8 [route.\"h/a/\"] is for the same requests as a route or rule before it"]);
    assert_eq!(routes(&format!("{same}method = \"GET\"\n{same}")).len(), 2);
}

#[test]
fn actions_are_read_and_a_rule_has_those_of_its_route_unless_it_says_otherwise() {
    let text = r#"
[route."h/api"]
to = "web"
allow = ["10.0.0.0/8", "fd00::1"]
timeout = "30s"
body_max = "10MiB"
rewrite = { strip_prefix = true, regex = '^/u/([0-9]+)$', replace = "/users/$1" }
request_headers = { set = { X-Tenant = "shop" }, remove = ["Cookie"] }
rate_limit = { requests = 100, per = "1m", by = "route", scope = "cluster" }
cors = { origins = "https://app.test", max_age = "10m" }

[[route."h/api".rule]]
path = "/api/v2/*"
timeout = "1s"
rewrite = { strip_prefix = true }

[[route."h/api".rule]]
path = "/api/old"
redirect = { to = "/api/new", status = 301 }

[[route."h/api".rule]]
path = "/api/down"
respond = { status = 503, body = "later" }
"#;
    let routes = routes(text);
    let of = |at: usize| &routes[at].actions;
    let base = of(3);
    assert_eq!(base.allow, ["10.0.0.0/8".parse().unwrap(), "fd00::1".parse().unwrap()]);
    assert_eq!((base.timeout_ms, base.body_bytes_max), (Some(30_000), Some(10 << 20)));
    assert_eq!(base.rewrite.strip_prefix.as_deref(), Some("/api"));
    assert_eq!(base.rewrite.replace.as_ref().unwrap().with, "/users/$1");
    assert_eq!(base.request_headers.set["x-tenant"], "shop");
    assert!(base.request_headers.remove.contains("cookie"));
    let limit = RateLimit { requests: 100, per_ms: 60_000, burst: 100, together: true, cluster: true };
    assert_eq!(base.rate_limit, Some(limit));
    assert_eq!(base.cors.as_ref().unwrap().max_age_s, Some(600));
    let rule = of(0);
    assert_eq!((rule.timeout_ms, rule.rewrite.strip_prefix.as_deref()), (Some(1_000), Some("/api/v2")));
    assert_eq!((&rule.rewrite.replace, &rule.allow), (&None, &base.allow));
    let Target::Redirect(redirect) = &routes[1].to else { panic!("{:?}", routes[1].to) };
    assert_eq!((redirect.status, redirect.rewrite.path.as_deref()), (301, Some("/api/new")));
    assert_eq!(of(1).allow, base.allow, "what protects a route protects its rules");
    assert!(matches!(&routes[2].to, Target::Respond(it) if it.status == 503 && it.body == "later"));
}

#[test]
fn a_redirect_is_written_short_or_long() {
    let redirect = |text: &str| match routes(&format!("[route.\"h/a\"]\nredirect = {text}\n")).remove(0).to {
        Target::Redirect(redirect) => redirect,
        other => panic!("{other:?}"),
    };
    let https = &routes("[route.h]\nto = \"web\"\nredirect = { to = \"https\", status = 308 }\n")[0];
    assert_eq!((https.actions.https, &https.to), (Some(308), &service("web")));
    assert_eq!(routes("[route.h]\nto = \"web\"\nredirect = \"https\"\n")[0].actions.https, Some(302));
    let long = redirect("\"https://www.test:8443/x?y\"");
    assert_eq!((long.host.as_deref(), long.rewrite.path.as_deref()), (Some("www.test:8443"), Some("/x?y")));
    assert_eq!(redirect("{ to = \"http://www.test\", status = 307 }").status, 307);
    assert_eq!(redirect("{ strip_prefix = true }").rewrite.strip_prefix.as_deref(), Some("/a"));
}

#[test]
fn every_action_says_what_it_expects() {
    let wanted = [
        (
            "allow = \"10.0.0.0/33\"",
            "3:9 allow in [route.h]: \"10.0.0.0/33\" is no block of addresses: write 10.0.0.0/8, fd00::/8, or one address",
        ),
        ("deny = []", "3:1 deny in [route.h]: a list of 0 is not between 1 and 256"),
        (
            "body_max = \"10\"",
            "3:12 body_max in [route.h]: \"10\" has no unit: write for example 64KiB, 256MiB or 2GiB",
        ),
        ("timeout = \"1ms\"", "3:11 timeout in [route.h]: \"1ms\" is not between 10ms and 3600s"),
        ("rate_limit = { per = \"1s\" }", "3:14 [route.h.rate_limit] says not how many: requests = 100, per = \"1m\""),
        ("rate_limit = { requests = 0 }", "3:27 requests in [route.h.rate_limit]: 0 is not between 1 and 1000000"),
        (
            "rate_limit = { requests = 1, by = \"clien\" }",
            "3:35 unknown by in [route.h.rate_limit]: \"clien\"; did you mean \"client\"?",
        ),
        ("cors = {}", "3:8 [route.h.cors] names nobody: origins = [\"https://app.example.com\"]"),
        (
            "cors = { origins = \"app.test\" }",
            "3:20 origins in [route.h.cors]: \"app.test\" is no origin: write \"https://app.example.com\"",
        ),
        (
            "cors = { origins = \"*\", credentials = true }",
            "3:25 credentials in [route.h.cors]: browsers send none where every origin may ask; name them",
        ),
        ("basic_auth = {}", "3:14 [route.h.basic_auth] lets nobody in: users = { anna = \"${secret.anna}\" }"),
        (
            "basic_auth = { users = { \"a:b\" = \"${secret.a}\" } }",
            "3:26 \"a:b\" in [route.h.basic_auth.users] is no user: use printable characters but ':' and blanks",
        ),
        ("rewrite = {}", "3:1 [route.h.rewrite] changes nothing: strip_prefix = true, path = \"/PATH\", …"),
        (
            "rewrite = { strip_prefix = true }",
            "3:28 strip_prefix in [route.h.rewrite]: its route has no path to strip; write it, \"/api\"",
        ),
        ("rewrite = { regex = \"a\" }", "3:21 [route.h.rewrite]: regex and replace belong together"),
        (
            "rewrite = { regex = \"(a)\", replace = \"$2\" }",
            "3:38 replace in [route.h.rewrite]: after '$' stands the number of a group, up to 1 here, or a second '$'",
        ),
        (
            "rewrite = { path = \"/a\", add_prefix = \"/b\" }",
            "3:13 [route.h.rewrite]: path is the whole path; nothing else can be changed in it",
        ),
        (
            "request_headers = { set = { Content-Length = \"1\" } }",
            "3:29 [route.h.request_headers.set]: \"Content-Length\" belongs to the connection and is not changed",
        ),
        (
            "request_headers = { remove = [\"host\"] }",
            "3:31 remove in [route.h.request_headers]: a request has a host; set it",
        ),
        (
            "response_headers = { set = { x = \"a\\r\\nb: c\" } }",
            "3:34 x in [route.h.response_headers.set]: no header can have this value",
        ),
        (
            "response_headers = { st = {} }",
            "3:22 unknown key \"st\" in [route.h.response_headers]; did you mean \"set\"?",
        ),
        ("redirect = \"/a\"", "3:1 [route.h] has both to and redirect; one of them answers"),
    ];
    for (line, message) in wanted {
        let found = wrong(&format!("[route.h]\nto = \"web\"\n{line}\n"));
        assert!(found.contains(&message.to_owned()), "{line}: {found:#?}");
    }
    // A change that is wrong is not also one that is missing.
    let found =
        wrong("[route.h]\nto = \"web\"\nresponse_headers = { set = { via = \"1\" } }\nrewrite = { regex = \"a\" }\n");
    assert_eq!(found.len(), 2, "{found:#?}");
    let alone = [
        (
            "redirect = \"ftp://a\"",
            "2:12 redirect in [route.h]: \"ftp://a\" is no web address: \"https://www.example.com\"",
        ),
        (
            "redirect = \"www.test\"",
            "2:12 redirect in [route.h]: \"www.test\" is no place to lead to: \"https://www.example.com/new\", \"https\" or \"/new\"",
        ),
        (
            "redirect = { to = \"https\", status = 303 }",
            "2:37 status in [route.h.redirect]: 303 is not 301, 302, 307 or 308",
        ),
        ("redirect = {}", "2:1 [route.h.redirect] leads to where the request came: to = \"https\", or to = \"/new\""),
        (
            "to = \"bucket:Media\"",
            "2:6 to in [route.h]: \"bucket:Media\" names no bucket: 3 to 63 of a-z, 0-9, '-' and '.', as in \"bucket:media\"",
        ),
        (
            "to = \"bucket:media\"\nindex = \"a/b\"",
            "3:9 index in [route.h]: \"a/b\" is no name of a file: \"index.html\"",
        ),
        (
            "respond = { body = \"x\" }\nindex = \"index.html\"",
            "3:1 index in [route.h]: only objects have one, to = \"bucket:media\"",
        ),
        ("respond = { status = 100 }", "2:22 status in [route.h.respond]: 100 is not between 200 and 599"),
        (
            "respond = { status = 204, body = \"x\" }",
            "2:34 body in [route.h.respond]: an answer of this status has none",
        ),
    ];
    for (line, message) in alone {
        assert_eq!(wrong(&format!("[route.h]\n{line}\n")), [message], "{line}");
    }
}

#[test]
fn a_route_leads_to_the_objects_of_a_bucket() {
    let text = "[route.h]\nto = \"bucket:media\"\nindex = \"index.html\"\n[[route.h.rule]]\npath = \"/own\"\nindex = \"own.html\"\n\
                [[route.h.rule]]\npath = \"/other\"\nto = \"bucket:other\"\n[[route.h.rule]]\npath = \"/api\"\nto = \"web\"\n";
    let to: Vec<_> = routes(text).into_iter().map(|route| (route.path, route.to)).collect();
    let bucket = |path: &str, bucket: &str, index: Option<&str>| {
        let assets = Assets { bucket: bucket.into(), index: index.map(str::to_owned) };
        (path.to_owned(), Target::Bucket(assets))
    };
    let web = ("/api".to_owned(), Target::Service("web".parse().unwrap()));
    let (own, other) = (bucket("/own", "media", Some("own.html")), bucket("/other", "other", None));
    assert_eq!(to, [own, other, web, bucket("/", "media", Some("index.html"))]);
}

#[test]
fn a_password_stands_in_no_manifest_and_a_secret_has_to_be_set() {
    let auth = |text: &str| format!("[route.h]\nto = \"web\"\nbasic_auth = {{ users = {{ anna = \"{text}\" }} }}\n");
    let found = wrong(&auth("hunter2"));
    assert_eq!(found.len(), 1);
    assert!(
        found[0].starts_with("3:33 \"anna\" in [route.h.basic_auth.users] is neither a secret nor a hash"),
        "{found:?}"
    );
    assert!(!found[0].contains("hunter2"), "{found:?}");
    let hash = "$pbkdf2-sha256$i=1000$c2FsdA$Q/9Kvus9r/Z5pRD/V9eBFX31v5LhSkQG2Q44eDQAprk";
    assert_eq!(routes(&auth(hash))[0].secrets().len(), 0);
    assert_eq!(routes(&auth("${secret.anna}"))[0].secrets(), ["anna".parse().unwrap()].into());
    let text = format!("{SERVICES}{}", auth("${secret.anna}"));
    let errors = crate::manifest::parse_for(&text, &built(), Some(&Default::default())).unwrap_err();
    assert!(errors[0].message.ends_with("no secret named \"anna\"; try: hirsel secret set anna"), "{errors:?}");
}

#[test]
fn answers_are_encoded_and_errors_shown_as_a_route_says() {
    let text = r#"
[route.h]
to = "web"
compress = { with = ["br", "gzip"], types = ["text/*", "application/json"], min = "4KiB" }
[route.h.error_pages]
404 = "nothing here"
5xx = { body = "<h1>Back soon</h1>", programs = true }
[[route.h.rule]]
path = "/a"
compress = false
error_pages = {}
[[route.h.rule]]
path = "/b"
compress = true
error_pages = { 503 = { body = "{}", content_type = "application/json" } }
"#;
    let routes = routes(text);
    let whole = &routes[2].actions;
    let compress = whole.compress.as_ref().unwrap();
    assert_eq!((&compress.encodings[..], compress.bytes_min), (&[Encoding::Br, Encoding::Gzip][..], 4096));
    assert_eq!(compress.types, BTreeSet::from(["application/json".to_owned(), "text/*".to_owned()]));
    let (one, class) = (&whole.error_pages[&Statuses::One(404)], &whole.error_pages[&Statuses::Class(5)]);
    assert_eq!((&*one.content_type, one.programs), ("text/plain; charset=utf-8", false));
    assert_eq!((&*class.content_type, class.programs), ("text/html; charset=utf-8", true));
    assert_eq!((&routes[0].actions.compress, routes[0].actions.error_pages.len()), (&None, 0));
    let usual = routes[1].actions.compress.as_ref().unwrap();
    assert_eq!((usual.encodings.len(), usual.types.len(), usual.bytes_min), (3, 0, 1024));
    assert_eq!(routes[1].actions.error_pages[&Statuses::One(503)].content_type, "application/json");
    assert!(!routes[1].is_plain());
}

#[test]
fn what_is_wrong_with_encodings_and_pages_is_said_where_it_stands() {
    let of = |line: &str| wrong(&format!("[route.h]\nto = \"web\"\n{line}\n"));
    for (line, expected) in [
        (
            "compress = \"gzip\"",
            "3:12 compress in [route.h] is a string; expected true, false, or a table like { with = [\"br\", \"gzip\"], min = \"1KiB\" }",
        ),
        (
            "compress = { with = [\"gzp\"] }",
            "3:22 unknown encoding in [route.h.compress]: \"gzp\"; did you mean \"gzip\"?",
        ),
        ("compress = { with = [\"br\", \"br\"] }", "3:28 with in [route.h.compress]: \"br\" is there twice"),
        ("compress = { with = [] }", "3:14 with in [route.h.compress]: a list of 0 is not between 1 and 256"),
        (
            "compress = { types = [\"text\"] }",
            "3:23 types in [route.h.compress]: \"text\" is no type: \"text/html\" or \"text/*\", in lower case",
        ),
        (
            "compress = { min = \"1\" }",
            "3:20 min in [route.h.compress]: \"1\" has no unit: write for example 64KiB, 256MiB or 2GiB",
        ),
        ("compress = { level = 9 }", "3:14 unknown key \"level\" in [route.h.compress]; known are with, types, min"),
        (
            "error_pages = { 200 = \"x\" }",
            "3:17 [route.h.error_pages]: \"200\" is no status of an error: 404, 4xx, 503, 5xx",
        ),
        (
            "error_pages = { 404 = 1 }",
            "3:23 404 in [route.h.error_pages] is a whole number; expected a text, or { body = \"TEXT\", programs = true }",
        ),
        ("error_pages = { 404 = {} }", "3:17 [route.h.error_pages.404] shows nothing: body = \"TEXT\""),
        (
            "error_pages = { 404 = { body = \"\", content_type = \"html\" } }",
            "3:51 content_type in [route.h.error_pages.404]: \"html\" is no type: \"text/html; charset=utf-8\"",
        ),
    ] {
        assert_eq!(of(line), [expected], "{line}");
    }
    let long = of(&format!("error_pages = {{ 404 = \"{}\" }}", "x".repeat(20_000)));
    assert_eq!(long, ["3:23 [route.h.error_pages.404]: 20000 bytes exceed 16384"]);
}
