use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::id::RoleName;
use crate::manifest::parse;
use crate::spec::Target;

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
    assert_eq!(to("[\"http://10.0.0.5\", \"http://[fd00::1]:81/\"]"), Target::Outside(two));
}

#[test]
fn every_field_of_a_route_says_what_it_expects() {
    let route = [
        ("tp = 1", "2:1 unknown key \"tp\" in [route.h]; did you mean \"to\"?"),
        ("path = \"/a\"", "2:1 unknown key \"path\" in [route.h]; known are to, method, header, query, rule"),
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
            "2:6 to in [route.h]: \"https://10.0.0.5\" is not reached: outside the cluster only plain \"http://ADDRESS:PORT\" is",
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
            "3:1 unknown key \"rule\" in [route.h/shop.rule]; known are to, method, header, query, path, path_regex",
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
