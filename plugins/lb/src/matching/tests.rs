use hirsel_model::RoleName;
use hirsel_model::manifest::parse;
use proptest::prelude::*;

use super::*;

/// The routes of one host, written as rules; each leads to its number.
fn rules(written: &[&str]) -> Rules<usize> {
    let mut text = String::from("app = \"a\"\n[service.s]\ncommand = [\"x\"]\n");
    for rule in written {
        text.push_str(&format!("[[route.h.rule]]\n{rule}\nto = \"s\"\n"));
    }
    let (_, spec) = parse(&text, &[RoleName::compute(), RoleName::lb()]).unwrap();
    let mut drafts = Drafts::default();
    for (number, route) in spec.routes.iter().enumerate() {
        drafts.add(route, number).unwrap();
    }
    drafts.finish()
}

fn request(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = http::Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn leads(rules: &Rules<usize>, head: &Parts) -> Option<usize> {
    rules.find(head.uri.path().as_bytes(), head).copied()
}

fn get(rules: &Rules<usize>, uri: &str) -> Option<usize> {
    leads(rules, &request("GET", uri, &[]))
}

#[test]
fn the_exact_path_comes_first_then_prefixes_then_expressions_then_everything() {
    let rules = rules(&[
        "path = \"/*\"",
        "path_regex = '\\.png$'",
        "path_regex = '^/i'",
        "path = \"/img/*\"",
        "path = \"/img/big/*\"",
        "path = \"/img/big\"",
    ]);
    assert_eq!(get(&rules, "/img/big"), Some(5));
    assert_eq!(get(&rules, "/img/big/x.png"), Some(4));
    assert_eq!(get(&rules, "/img"), Some(3));
    assert_eq!(get(&rules, "/i.png"), Some(1), "of two expressions the one written first");
    assert_eq!(get(&rules, "/index"), Some(2));
    assert_eq!(get(&rules, "/a"), Some(0));
}

#[test]
fn of_one_path_the_rule_with_more_conditions_comes_first_and_one_not_met_is_passed_over() {
    let rules = rules(&[
        "path = \"/a/*\"",
        "path = \"/a/*\"\nmethod = \"POST\"",
        "path = \"/a/*\"\nheader = { x-canary = \"1\" }",
        "path = \"/a/*\"\nmethod = [\"POST\", \"PUT\"]\nheader = { x-canary = \"1\" }",
        "path = \"/a/b\"\nquery = { v = \"2 3\", debug = true }",
    ]);
    assert_eq!(get(&rules, "/a/b"), Some(0));
    assert_eq!(leads(&rules, &request("POST", "/a", &[])), Some(1));
    assert_eq!(leads(&rules, &request("GET", "/a", &[("X-Canary", "0"), ("X-Canary", "1")])), Some(2));
    assert_eq!(leads(&rules, &request("PUT", "/a", &[("x-canary", "1")])), Some(3));
    assert_eq!(leads(&rules, &request("PUT", "/a", &[("x-canary", "11")])), Some(0));
    assert_eq!(get(&rules, "/a/b?v=2+3&debug"), Some(4));
    assert_eq!(get(&rules, "/a/b?x&debug=&%76=2%203"), Some(4));
    assert_eq!(get(&rules, "/a/b?v=2&debug"), Some(0));
    assert_eq!(get(&rules, "/b"), None);
}

#[test]
fn a_route_for_everything_is_known_as_the_only_one() {
    assert_eq!(rules(&["path = \"/*\""]).only(), Some(&0));
    assert_eq!(rules(&["path = \"/*\"\nmethod = \"GET\""]).only(), None);
    assert_eq!(rules(&["path = \"/\""]).only(), None);
    assert_eq!(rules(&["path = \"/*\"", "path = \"/a\""]).only(), None);
}

#[test]
fn a_route_that_cannot_be_made_out_is_refused_in_words() {
    let mut route = RouteSpec::plain("h", "^/a(", "s".parse().unwrap());
    route.kind = PathKind::Regex;
    let refused = Drafts::default().add(&route, 0).unwrap_err();
    assert_eq!(refused.to_string(), "no regular expression: unclosed group");
}

fn written() -> impl Strategy<Value = Vec<&'static str>> {
    let paths = vec![
        "path = \"/*\"",
        "path = \"/a/*\"",
        "path = \"/a/b/*\"",
        "path = \"/a\"",
        "path = \"/a/b\"",
        "path_regex = 'b'",
        "path_regex = '^/a'",
        "path = \"/a/*\"\nmethod = \"POST\"",
        "path = \"/a\"\nmethod = \"POST\"",
        "path_regex = 'b'\nmethod = \"POST\"",
        "method = \"POST\"",
    ];
    let count = paths.len();
    prop::sample::subsequence(paths, 1..=count).prop_shuffle()
}

proptest! {
    #[test]
    fn the_order_is_total_and_only_expressions_depend_on_how_it_is_written(
        written in written(),
        method in prop::sample::select(vec!["GET", "POST"]),
        path in "(/[ab]{1,2}){1,3}",
    ) {
        let rules = rules(&written);
        let found = leads(&rules, &request(method, &path, &[])).map(|number| written[number]);
        // The same, from the words of the documentation: the best of all that fit.
        let fits = |rule: &&str| {
            let (kind, rest) = rule.split_once(" = ").unwrap_or(("", ""));
            let text = rest.split(['"', '\'']).nth(1).unwrap_or_default();
            let covers = match kind {
                "path" => match text.strip_suffix("/*") {
                    Some(prefix) => path == prefix || path.starts_with(&format!("{prefix}/")),
                    None => path == text,
                },
                "path_regex" => path.contains(text.trim_start_matches('^')) && (!text.starts_with('^') || path.starts_with(&text[1..])),
                _ => true,
            };
            covers && (!rule.contains("method") || method == "POST")
        };
        let rank = |rule: &str| {
            let path = rule.split('\n').next().unwrap_or_default();
            let exact = path.starts_with("path = ") && !path.contains('*');
            let root = path == "path = \"/*\"" || path.starts_with("method");
            let kind = if exact { 0 } else if root { 3 } else if path.starts_with("path = ") { 1 } else { 2 };
            let long = if kind == 2 { 0 } else { path.len() };
            let first = if kind == 2 { written.iter().position(|it| it.starts_with(path)) } else { None };
            (kind, std::cmp::Reverse(long), first, !rule.contains("method"))
        };
        let best = written.iter().copied().filter(fits).min_by_key(|rule| rank(rule));
        prop_assert_eq!(found.map(rank), best.map(rank));
    }
}
