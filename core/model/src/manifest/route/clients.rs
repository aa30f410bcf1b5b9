//! Which certificate clients of a route's host show: `client_ca` and `client_auth`.

use super::super::errors::Errors;
use super::super::table::Table;
use crate::spec::{ClientCertificates, client_authorities};

/// PEM of those who certify clients.
pub(super) const CA: &str = "client_ca";
/// Whether clients must show one.
pub(super) const AUTH: &str = "client_auth";

const WORDS: [(&str, bool); 2] = [("require", false), ("request", true)];

/// What `table`, a route, says of it.
pub(super) fn read(table: &Table<'_>, errors: &mut Errors) -> Option<ClientCertificates> {
    let optional = table.choice(AUTH, &WORDS, errors).unwrap_or_default();
    if table.get(CA).is_none() {
        if table.get(AUTH).is_some() {
            let message = format!("{AUTH} in {}: say whose certificates: {CA} = \"\"\"PEM\"\"\"", table.path());
            errors.at(table.key_span(AUTH), message);
        }
        return None;
    }
    let pem = |text: &str| client_authorities(text).map(|_| text.to_owned());
    let authorities = table.text(CA, "certificates in PEM between \"\"\" and \"\"\"", pem, errors)?;
    Some(ClientCertificates { authorities, optional })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{routes, wrong};
    use super::*;

    const PEM: &str = "-----BEGIN CERTIFICATE-----\nAAEC\n-----END CERTIFICATE-----\n";

    fn asks(text: &str) -> Vec<Option<ClientCertificates>> {
        routes(text).into_iter().map(|route| route.actions.client_certificates).collect()
    }

    #[test]
    fn a_route_and_its_rules_ask_clients_for_the_same() {
        let text = format!(
            "[route.\"a.test\"]\nto = \"web\"\nclient_ca = \"\"\"\n{PEM}\"\"\"\n[[route.\"a.test\".rule]]\npath = \"/x\"\nto = \"next\"\n\
             [route.\"b.test\"]\nto = \"web\"\nclient_ca = \"\"\"\n{PEM}\"\"\"\nclient_auth = \"request\"\n[route.\"c.test\"]\nto = \"web\"\n"
        );
        let asked = |optional| Some(ClientCertificates { authorities: PEM.into(), optional });
        assert_eq!(asks(&text), [asked(false), asked(false), asked(true), None]);
    }

    #[test]
    fn what_lets_nobody_in_or_everybody_is_refused_with_its_place() {
        let to = "to = \"web\"\n";
        for (text, says) in [
            (
                format!("[route.\"a.test\"]\n{to}client_ca = \"ca.pem\"\n"),
                "3:13 client_ca in [route.\"a.test\"]: no certificate is in there: one in PEM begins with -----BEGIN CERTIFICATE-----",
            ),
            (
                format!("[route.\"a.test\"]\n{to}client_auth = \"require\"\n"),
                "3:1 client_auth in [route.\"a.test\"]: say whose certificates: client_ca = \"\"\"PEM\"\"\"",
            ),
            (
                format!("[route.\"a.test\"]\n{to}client_ca = \"\"\"\n{PEM}\"\"\"\n[route.\"a.test/x\"]\n{to}"),
                "8:8 route \"a.test/x\": client_ca and client_auth are for a host whole, and another route of this one says otherwise",
            ),
        ] {
            assert_eq!(wrong(&text), [says], "{text}");
        }
        for text in [
            format!("[route.\"a.test\"]\n{to}tls = \"passthrough\"\nclient_ca = \"\"\"\n{PEM}\"\"\"\n"),
            format!(
                "[route.\"a.test\"]\n{to}[[route.\"a.test\".rule]]\npath = \"/x\"\n{to}client_ca = \"\"\"\n{PEM}\"\"\"\n"
            ),
            format!("[route.\"a.test\"]\n{to}client_ca = \"\"\"\n{PEM}\"\"\"\nclient_auth = \"maybe\"\n"),
        ] {
            assert_eq!(wrong(&text).len(), 1, "{text}");
        }
    }
}
