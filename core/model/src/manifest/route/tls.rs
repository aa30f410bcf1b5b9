//! Where the certificate of a route's host comes from: `tls`.

use super::super::errors::Errors;
use super::super::table::Table;
use crate::acme::unfit;
use crate::spec::Tls;

/// The key.
pub(super) const KEY: &str = "tls";

const WORDS: [(&str, Tls); 2] = [("auto", Tls::Auto), ("own", Tls::Brought)];

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

#[cfg(test)]
mod tests {
    use super::super::tests::{routes, wrong};
    use super::*;

    #[test]
    fn a_route_and_its_rules_ask_for_a_certificate_of_their_host() {
        let text = "[route.\"shop.test\"]\nto = \"web\"\ntls = \"auto\"\n[[route.\"shop.test\".rule]]\npath = \"/a\"\nto = \"next\"\n\
                    [route.\"*.shop.test\"]\nto = \"web\"\ntls = \"own\"\n";
        let tls: Vec<_> = routes(text).into_iter().map(|route| (route.host, route.tls)).collect();
        let auto = || ("shop.test".to_owned(), Tls::Auto);
        assert_eq!(tls, [auto(), auto(), ("*.shop.test".to_owned(), Tls::Brought)]);
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
