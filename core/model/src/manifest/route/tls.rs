//! Where the certificate of a route's host comes from: `tls`.

use toml::de::DeValue;

use super::super::errors::Errors;
use super::super::port;
use super::super::table::{Block, Table};
use super::actions::blocks;
use crate::acme::unfit;
use crate::spec::{Actions, Conditions, PathKind, Protocol, RouteSpec, Seen, Tls};

/// The key.
pub(super) const KEY: &str = "tls";

const WORDS: [(&str, Tls); 3] = [("auto", Tls::Auto), ("own", Tls::Brought), ("passthrough", Tls::Passthrough)];

/// What a route may say whose connections are passed on as they are.
const PASSED_KEYS: [&str; 4] = [KEY, "to", "allow", "deny"];

/// What `table`, a route of `host`, says of it.
pub(super) fn read(table: &Table<'_>, host: &str, errors: &mut Errors) -> Tls {
    let tls = table.choice(KEY, &WORDS, errors).unwrap_or_default();
    // A host that could not be read is empty, and was told before.
    if tls == Tls::Auto
        && !host.is_empty()
        && let Some(why) = unfit(host)
    {
        errors.at(table.key_span(KEY), format!("tls = \"auto\" in {}: {why}", table.path()));
    }
    tls
}

/// Whether `table`, a route, is of a host that is passed on encrypted.
pub(super) fn is_passthrough(table: &Table<'_>) -> bool {
    matches!(table.get(KEY).map(|value| value.get_ref()), Some(DeValue::String(word)) if *word == "passthrough")
}

/// The route of a host that is passed on encrypted: whole, for nobody here can look into it.
pub(super) fn passthrough(
    block: &Block<'_>,
    way: Option<(String, String)>,
    services: &[&str],
    errors: &mut Errors,
) -> Option<RouteSpec> {
    let table = &block.table;
    for (word, _) in table.entries() {
        if !PASSED_KEYS.contains(&word.text.as_str()) {
            let message = format!(
                "{} in {}: with tls = \"passthrough\" nobody here can look into what is encrypted; it takes {}",
                word.text,
                table.path(),
                PASSED_KEYS.join(", ")
            );
            errors.at(word.span, message);
        }
    }
    if table.get("to").is_none() {
        errors.absent(block.key.clone(), format!("{} leads nowhere: to = \"SERVICE\"", table.path()));
    }
    let to = port::target(table, Protocol::Tcp, services, errors);
    let actions = Box::new(Actions {
        allow: blocks("allow", table, errors).unwrap_or_default(),
        deny: blocks("deny", table, errors).unwrap_or_default(),
        ..Actions::default()
    });
    let (host, path) = way?;
    if path != "/" {
        let message =
            format!("{}: with tls = \"passthrough\" nobody here sees a path; name the host alone", table.path());
        errors.at(block.key.clone(), message);
    }
    let (kind, when, seen) = (PathKind::Prefix, Conditions::default(), Seen::default());
    Some(RouteSpec { host, path, to: to?, kind, when, actions, tls: Tls::Passthrough, seen })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{routes, wrong};
    use super::*;
    use crate::spec::Target;

    #[test]
    fn a_route_and_its_rules_ask_for_a_certificate_of_their_host() {
        let text = "[route.\"shop.test\"]\nto = \"web\"\ntls = \"auto\"\n[[route.\"shop.test\".rule]]\npath = \"/a\"\nto = \"next\"\n\
                    [route.\"*.shop.test\"]\nto = \"web\"\ntls = \"own\"\n";
        let tls: Vec<_> = routes(text).into_iter().map(|route| (route.host, route.tls)).collect();
        let auto = || ("shop.test".to_owned(), Tls::Auto);
        assert_eq!(tls, [auto(), auto(), ("*.shop.test".to_owned(), Tls::Brought)]);
    }

    #[test]
    fn a_host_is_passed_through_whole_to_a_service_or_outside() {
        let text = "[route.\"db.test\"]\nto = \"web\"\ntls = \"passthrough\"\ndeny = \"10.6.6.6\"\n\
                    [route.\"*.db.test\"]\ntls = \"passthrough\"\nto = [\"tcp://10.0.0.5:443\"]\n";
        let routes = routes(text);
        assert!(routes.iter().all(RouteSpec::is_passed_through));
        assert_eq!(routes[0].actions.deny.len(), 1);
        assert_eq!(routes[1].to, Target::Outside(vec!["10.0.0.5:443".parse().unwrap()]));
    }

    #[test]
    fn what_cannot_be_done_with_what_is_encrypted_is_refused() {
        let passed = "to = \"web\"\ntls = \"passthrough\"\n";
        for (text, says) in [
            (
                format!("[route.\"a.test\"]\n{passed}timeout = \"1s\"\n"),
                "4:1 timeout in [route.\"a.test\"]: with tls = \"passthrough\" nobody here can look into what is encrypted; it takes tls, to, allow, deny",
            ),
            (
                format!("[route.\"a.test/x\"]\n{passed}"),
                "1:8 [route.\"a.test/x\"]: with tls = \"passthrough\" nobody here sees a path; name the host alone",
            ),
            (
                format!("[route.\"a.test\"]\n{passed}[route.\"a.test/x\"]\nto = \"web\"\n"),
                "4:8 route \"a.test/x\": tls = \"passthrough\" in another route passes on its host whole",
            ),
            (
                "[route.\"a.test\"]\ntls = \"passthrough\"\n".to_owned(),
                "1:8 [route.\"a.test\"] leads nowhere: to = \"SERVICE\"",
            ),
        ] {
            assert_eq!(wrong(&text), [says], "{text}");
        }
    }

    #[test]
    fn what_no_load_balancer_can_prove_is_refused_with_its_place() {
        for (host, tls, says) in [
            ("*.shop.test", "auto", "no load balancer can prove a wildcard"),
            ("*", "auto", "this route is for any"),
            ("10.0.0.1", "auto", "a certificate is for a domain"),
            ("shop.test", "Auto", "unknown tls in [route.\"shop.test\"]: \"Auto\"; did you mean \"auto\"?"),
        ] {
            let errors = wrong(&format!("[route.\"{host}\"]\nto = \"web\"\ntls = \"{tls}\"\n"));
            assert_eq!(errors.len(), 1, "{errors:?}");
            assert!(errors[0].starts_with("3:") && errors[0].contains(says), "{errors:?}");
        }
    }
}
