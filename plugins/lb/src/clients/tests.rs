use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

use super::*;

/// An authority of its own, in PEM.
fn authority() -> String {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
}

fn route(host: &str, authorities: Option<&str>) -> (AppName, RouteSpec) {
    let mut route = RouteSpec::plain(host, "/", "web".parse().unwrap());
    let clients = authorities.map(|pem| ClientCertificates { authorities: pem.into(), optional: false });
    route.actions.client_certificates = clients;
    ("shop".parse().unwrap(), route)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn demand(pem: &str, optional: bool) -> Demand {
    let clients = Some(ClientCertificates { authorities: pem.into(), optional });
    Demand::of(&Actions { client_certificates: clients, ..Actions::default() }).unwrap().unwrap()
}

#[test]
fn hosts_are_found_as_routes_are_and_one_that_has_routes_asks_for_what_these_say() {
    let (one, two) = (authority(), authority());
    let routes = [route("a.test", None), route("*.test", Some(&one)), route("*", Some(&two))];
    let trusts = Trusts::of(&routes, &provider(), &Trusts::default());
    let (one, two) = (demand(&one, false).id, demand(&two, false).id);
    let asked = ["a.test", "b.test", "b.a.test", "test", "other"].map(|host| trusts.find(host).map(|trust| trust.id));
    assert_eq!(asked, [None, Some(one), Some(two), Some(two), Some(two)]);
    assert!(!trusts.is_empty() && Trusts::of(&routes[..1], &provider(), &trusts).is_empty());
}

#[test]
fn what_is_asked_for_as_before_is_not_made_anew() {
    let (one, two) = (authority(), authority());
    let before = Trusts::of(&[route("a.test", Some(&one))], &provider(), &Trusts::default());
    let routes = [route("b.test", Some(&one)), route("c.test", Some(&two))];
    let after = Trusts::of(&routes, &provider(), &before);
    let found = |trusts: &Trusts, host: &str| trusts.find(host).unwrap().clone();
    assert!(Arc::ptr_eq(&found(&before, "a.test"), &found(&after, "b.test")));
    assert!(!Arc::ptr_eq(&found(&before, "a.test"), &found(&after, "c.test")));
}

#[test]
fn what_cannot_be_made_out_asks_nobody_and_answers_nobody() {
    let noise = "-----BEGIN CERTIFICATE-----\nAAEC\n-----END CERTIFICATE-----\n";
    let (_, route) = route("a.test", Some(noise));
    assert!(Demand::of(&route.actions).is_err());
    let trusts = Trusts::of(&[("shop".parse().unwrap(), route)], &provider(), &Trusts::default());
    assert!(trusts.find("a.test").is_none());
}

#[test]
fn a_request_is_taken_only_on_a_connection_of_its_host_that_proved_what_is_asked_now() {
    let (required, optional) = (demand(&authority(), false), demand(&authority(), true));
    let shown = Some(Shown::of(&CertificateDer::from(vec![0])));
    let proof = |host: &str, demand: &Demand, shown| Proof { host: host.into(), trust: Some(demand.id), shown };
    let met = |demand: &Demand, proof: Option<&Proof>| demand.met("a.test", true, proof);
    assert_eq!(met(&required, Some(&proof("a.test", &required, shown.clone()))), Ok(()));
    assert_eq!(met(&optional, Some(&proof("a.test", &optional, None))), Ok(()));
    let open = Proof { host: "a.test".into(), trust: None, shown: None };
    for wrong in [
        proof("b.test", &required, shown.clone()),
        proof("a.test", &optional, shown.clone()),
        proof("a.test", &required, None),
        open,
    ] {
        assert_eq!(met(&required, Some(&wrong)), Err(Unmet::Misdirected), "{wrong:?}");
    }
    assert_eq!(met(&required, None), Err(Unmet::Misdirected), "of a connection that said no name nothing is known");
    assert_eq!(required.met("a.test", false, None), Err(Unmet::InClear));
    assert_eq!(optional.met("a.test", false, None), Ok(()));
}

#[test]
fn what_a_client_says_of_its_certificate_is_taken_out_however_it_is_spelled() {
    let names = ["x-client-cert-subject", "x_client_cert_verify", "x-client_cert", "client-cert", "client_cert-chain"];
    let kept = ["x-client", "client", "x-client-id", "accept", "xx-client-cert"];
    let mut headers = HeaderMap::new();
    for name in names.iter().chain(&kept) {
        headers.append(*name, HeaderValue::from_static("1"));
        headers.append(*name, HeaderValue::from_static("2"));
    }
    strip(&mut headers);
    assert_eq!(headers.keys_len(), kept.len());
    assert!(kept.iter().all(|name| headers.get_all(*name).iter().count() == 2));
}
