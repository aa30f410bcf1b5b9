//! Refuses routes that make no sense, would take too much room, or belong to another application.
//!
//! Expressions are not built here: replicas of two builds might disagree about what is right (see [`crate::expression`]).

use super::limits::*;
use super::{ControlState, Refusal};
use crate::codec::encode;
use crate::id::AppName;
use crate::spec::{
    Actions, AppSpec, Assets, Conditions, Contradiction, PathKind, RouteSpec, Seen, Target, Tls, client_authorities,
};

/// From this level on a final slash of a prefix makes no difference to whom it belongs.
const SLASHES_ALIKE_LEVEL: u32 = 2;

/// Refuses routes of `app` that are wrong in themselves.
pub(super) fn check(app: &AppSpec) -> Result<(), Refusal> {
    for (number, route) in app.routes.iter().enumerate() {
        let shown = format!("{}{}", cut(&route.host, HOST_BYTES_MAX), cut(&route.path, 64));
        at_most(|| format!("host of route {shown:?} in bytes"), route.host.len(), HOST_BYTES_MAX)?;
        at_most(|| format!("path of route {shown:?} in bytes"), route.path.len(), PATH_BYTES_MAX)?;
        if route.host.is_empty() || !(route.path.starts_with('/') || route.kind == PathKind::Regex) {
            return Err(Refusal::Invalid(format!("route {shown:?} needs a host and a path that begins with '/'")));
        }
        if let Some(stranger) = route.to.services().find(|name| !app.services.contains_key(*name)) {
            return Err(Refusal::Invalid(format!(
                "route {shown:?} leads to {:?}, which is no service",
                stranger.as_str()
            )));
        }
        let is_twice = |other: &RouteSpec| {
            (&other.host, &other.path, other.kind, &other.when) == (&route.host, &route.path, route.kind, &route.when)
        };
        if app.routes[..number].iter().any(is_twice) {
            return Err(Refusal::Invalid(format!("route {shown:?} is there twice")));
        }
        check_room(&shown, route)?;
        check_passed(&shown, route)?;
        check_clients(&shown, route)?;
        match app.routes[..number].iter().find_map(|other| other.contradiction(route)) {
            None => {}
            Some(Contradiction::Passed) => {
                return Err(Refusal::Invalid(format!("route {shown:?} has a host that another route passes on whole")));
            }
            Some(Contradiction::Certificates) => {
                let message =
                    format!("route {shown:?} asks clients for other certificates than another route of its host");
                return Err(Refusal::Invalid(message));
            }
        }
        if route.tls == Tls::Auto
            && let Some(why) = crate::acme::unfit(&route.host)
        {
            return Err(Refusal::Invalid(format!("route {shown:?} asks for a certificate by itself: {why}")));
        }
    }
    Ok(())
}

/// What is encrypted cannot be looked into.
fn check_passed(shown: &str, route: &RouteSpec) -> Result<(), Refusal> {
    if !route.is_passed_through() {
        return Ok(());
    }
    let bare = Actions { allow: Vec::new(), deny: Vec::new(), ..(*route.actions).clone() };
    let is_whole = route.kind == PathKind::Prefix && route.path == "/" && route.when == Conditions::default();
    let is_whole = is_whole && route.seen == Seen::default();
    let leads = matches!(route.to, Target::Service(_) | Target::Shares(_) | Target::Outside(_));
    if is_whole && leads && bare == Actions::default() {
        return Ok(());
    }
    Err(Refusal::Invalid(format!("route {shown:?} passes on what is encrypted: nobody here can look into it")))
}

/// Whoever is let in by a certificate is let in by somebody's word.
fn check_clients(shown: &str, route: &RouteSpec) -> Result<(), Refusal> {
    let Some(clients) = &route.actions.client_certificates else { return Ok(()) };
    let read = client_authorities(&clients.authorities);
    read.map(drop).map_err(|why| Refusal::Invalid(format!("route {shown:?} asks clients for certificates: {why}")))
}

fn check_room(shown: &str, route: &RouteSpec) -> Result<(), Refusal> {
    if route.kind == PathKind::Regex {
        at_most(|| format!("expression of route {shown:?} in bytes"), route.path.len(), REGEX_BYTES_MAX)?;
    }
    let when = &route.when;
    at_most(|| format!("conditions of route {shown:?}"), when.count(), CONDITIONS_MAX)?;
    at_most(|| format!("methods of route {shown:?}"), when.methods.len(), CONDITIONS_MAX)?;
    let pairs = when.headers.iter().chain(&when.query);
    let pairs = pairs.map(|(name, value)| name.len().max(value.as_ref().map_or(0, String::len)));
    let longest = pairs.chain(when.methods.iter().map(String::len)).max().unwrap_or(0);
    at_most(|| format!("a condition of route {shown:?} in bytes"), longest, CONDITION_BYTES_MAX)?;
    let bytes = encode(&route.actions).len();
    at_most(|| format!("actions of route {shown:?} in bytes"), bytes, ACTIONS_BYTES_MAX)?;
    match &route.to {
        Target::Service(_) => {}
        Target::Redirect(redirect) => {
            let bytes = encode(redirect).len();
            at_most(|| format!("redirect of route {shown:?} in bytes"), bytes, ACTIONS_BYTES_MAX)?;
        }
        Target::Respond(respond) => {
            let bytes = encode(respond).len();
            at_most(|| format!("answer of route {shown:?} in bytes"), bytes, ACTIONS_BYTES_MAX)?;
        }
        Target::Shares(shares) => {
            let most = shares.values().copied().max().unwrap_or(0);
            at_most(|| format!("a weight of route {shown:?}"), most as usize, WEIGHT_MAX as usize)?;
            if most == 0 {
                return Err(Refusal::Invalid(format!("route {shown:?} leads nowhere: no weight is above 0")));
            }
        }
        Target::Outside(addrs) | Target::OutsideH2c(addrs) => {
            at_most(|| format!("addresses of route {shown:?}"), addrs.len(), OUTSIDE_MAX)?;
            if addrs.is_empty() {
                return Err(Refusal::Invalid(format!("route {shown:?} leads nowhere: it has no address")));
            }
        }
        Target::Bucket(Assets { bucket, index }) => {
            if !Assets::is_bucket(bucket) {
                return Err(Refusal::Invalid(format!("route {shown:?} leads to {bucket:.80?}, which names no bucket")));
            }
            if let Some(index) = index.as_deref().filter(|index| !Assets::is_index(index)) {
                return Err(Refusal::Invalid(format!("route {shown:?} has the index {index:.80?}: no end of a path")));
            }
        }
    }
    Ok(())
}

/// Refuses routes that name a secret which is not set.
pub(super) fn check_secrets(state: &ControlState, app: &AppName, new: &AppSpec) -> Result<(), Refusal> {
    for route in &new.routes {
        if let Some(missing) = route.secrets().into_iter().find(|name| state.secrets.meant(app, name).is_none()) {
            return Err(Refusal::Invalid(format!(
                "route {route} needs secret {missing}, which is not set; try: hirsel secret set {missing}"
            )));
        }
    }
    Ok(())
}

/// Two applications cannot both answer one host and path, whatever else each of them asks of a request: what one of them protects,
/// the other would open.
pub(super) fn check_owners(state: &ControlState, app: &AppName, new: &AppSpec) -> Result<(), Refusal> {
    let alike = state.cluster.feature_level >= SLASHES_ALIKE_LEVEL;
    for (other, spec) in state.spec.apps.iter().filter(|(other, _)| *other != app) {
        for route in &spec.routes {
            let meets = |mine: &RouteSpec| match alike {
                true => mine.meets(route) || mine.contradiction(route) == Some(Contradiction::Passed),
                false => mine.host == route.host && mine.path == route.path,
            };
            if new.routes.iter().any(meets) {
                return Err(Refusal::Invalid(format!("route {route} belongs to application {other}")));
            }
            let differs = |mine: &&RouteSpec| mine.contradiction(route) == Some(Contradiction::Certificates);
            if let Some(mine) = new.routes.iter().find(differs) {
                return Err(Refusal::Invalid(format!(
                    "route {mine} asks clients for other certificates than {route} of application {other}, and they are one host's: \
                     say the same client_ca in both, or use another host"
                )));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::samples::{adopt, app, cluster, named, place, service};
    use super::super::{Command, Entry, Outcome};
    use super::*;
    use crate::duty::Duty;
    use crate::id::{Generation, NodeId, RoleName, Slot};
    use crate::plan::Assignment;
    use crate::secret::{Sealed, SecretId, needed};
    use crate::spec::{BasicAuth, ClientCertificates, Respond};
    use crate::time::WallTime;

    const KEY: &str = "00000000000000aa";

    fn run(state: &mut ControlState, command: Command) -> Result<(), String> {
        let index = state.applied.next();
        let entry = Entry { at: WallTime(1_000), by: "admin@n1".into(), if_index: None, command };
        match state.apply(index, entry) {
            Outcome::Refused(refusal) => Err(refusal.to_string()),
            Outcome::Done { .. } | Outcome::Admitted { .. } | Outcome::Lengthened { .. } => Ok(()),
        }
    }

    fn set(state: &mut ControlState, secret: &str) -> Result<(), String> {
        let id = SecretId { app: None, name: named(secret) };
        run(state, Command::SetSecret { id, sealed: Sealed(vec![1]), key: KEY.into() })
    }

    /// `shop` with one route, changed by `edit`.
    fn apply(state: &mut ControlState, edit: impl FnOnce(&mut RouteSpec)) -> Result<(), String> {
        let mut spec = app(&[("web", service("serve"))]);
        let mut route = RouteSpec::plain("shop.test", "/", named("web"));
        edit(&mut route);
        spec.routes.push(route);
        run(state, Command::ApplyApp { app: named("shop"), spec })
    }

    fn asks_for_a_password(route: &mut RouteSpec) {
        let users = [("anna".to_owned(), "${secret.anna}".to_owned())].into();
        route.actions.basic_auth = Some(BasicAuth { realm: "staff".into(), users });
    }

    #[test]
    fn load_balancers_are_told_the_newest_value_of_what_routes_name_and_nobody_else_is() {
        let mut state = cluster(2);
        state.cluster.sealing.key = KEY.into();
        let refused = apply(&mut state, asks_for_a_password).unwrap_err();
        assert_eq!(refused, "route shop.test/ needs secret anna, which is not set; try: hirsel secret set anna");
        set(&mut state, "anna").unwrap();
        apply(&mut state, asks_for_a_password).unwrap();
        adopt(&mut state, |plan| {
            let reason = place(1, 1).reason;
            let held = Assignment { node: NodeId(1), duty: Duty::Replica, reason, since: Generation(1) };
            plan.roles.entry(RoleName::lb()).or_default().insert(Slot(0), held);
        });
        let version =
            |state: &ControlState, node| needed(state, NodeId(node)).into_iter().map(|(.., it)| it).collect::<Vec<_>>();
        assert_eq!((version(&state, 1), version(&state, 2)), (vec![1], vec![]));
        set(&mut state, "anna").unwrap();
        assert_eq!(version(&state, 1), [2]);
        assert_eq!(state.spec.apps[&named("shop")].revision.0, 1, "nothing is started anew for it");
        let id = SecretId { app: None, name: named("anna") };
        let refused = run(&mut state, Command::RemoveSecret { id: id.clone() }).unwrap_err();
        assert!(refused.contains("secret anna is used by shop, route shop.test/"), "{refused}");
        apply(&mut state, |_| {}).unwrap();
        assert!(version(&state, 1).is_empty());
        run(&mut state, Command::RemoveSecret { id }).unwrap();
    }

    #[test]
    fn a_host_that_is_passed_on_whole_has_no_other_route() {
        let mut state = cluster(1);
        let passes = |route: &mut RouteSpec| route.tls = Tls::Passthrough;
        apply(&mut state, passes).unwrap();
        for (edit, says) in [
            ((|route| route.path = "/x".into()) as fn(&mut RouteSpec), "nobody here can look into it"),
            (|route| route.actions.timeout_ms = Some(5), "nobody here can look into it"),
            (
                |route| route.to = Target::Respond(Respond { status: 200, headers: [].into(), body: String::new() }),
                "nobody here",
            ),
        ] {
            let refused = apply(&mut state, |route| {
                passes(route);
                edit(route);
            });
            assert!(refused.unwrap_err().contains(says));
        }
        let mut blog = app(&[("web", service("serve"))]);
        blog.routes.push(RouteSpec::plain("shop.test", "/blog", named("web")));
        let refused = run(&mut state, Command::ApplyApp { app: named("blog"), spec: blog.clone() }).unwrap_err();
        assert_eq!(refused, "route shop.test/ belongs to application shop");
        let mut both = blog.clone();
        both.routes.push(RouteSpec { tls: Tls::Passthrough, ..RouteSpec::plain("shop.test", "/", named("web")) });
        let refused = run(&mut state, Command::ApplyApp { app: named("shop"), spec: both }).unwrap_err();
        assert_eq!(refused, "route \"shop.test/\" has a host that another route passes on whole");
        apply(&mut state, |_| {}).unwrap();
        run(&mut state, Command::ApplyApp { app: named("blog"), spec: blog }).unwrap();
    }

    #[test]
    fn applications_that_share_a_host_ask_its_clients_for_the_same_certificates() {
        let mut state = cluster(1);
        let pem = "-----BEGIN CERTIFICATE-----\nAAEC\n-----END CERTIFICATE-----\n";
        let asks = |route: &mut RouteSpec| {
            route.actions.client_certificates = Some(ClientCertificates { authorities: pem.into(), optional: false });
        };
        apply(&mut state, asks).unwrap();
        let mut blog = app(&[("web", service("serve"))]);
        blog.routes.push(RouteSpec::plain("shop.test", "/blog", named("web")));
        let refused = run(&mut state, Command::ApplyApp { app: named("blog"), spec: blog.clone() }).unwrap_err();
        assert!(
            refused.starts_with(
                "route shop.test/blog asks clients for other certificates than shop.test/ of application shop"
            ),
            "{refused}"
        );
        asks(&mut blog.routes[0]);
        run(&mut state, Command::ApplyApp { app: named("blog"), spec: blog }).unwrap();
        let refused = apply(&mut state, |_| {}).unwrap_err();
        assert!(refused.contains("of application blog"), "who changes it changes it for both: {refused}");
        let refused = apply(&mut state, |route| {
            let none = ClientCertificates { authorities: "ca.pem".into(), optional: false };
            route.actions.client_certificates = Some(none);
        });
        assert!(refused.unwrap_err().contains("asks clients for certificates: no certificate is in there"));
    }

    #[test]
    fn a_route_takes_no_more_room_than_there_is() {
        let mut state = cluster(1);
        let refused = apply(&mut state, |route| {
            route.actions.response_headers.set.insert("x-a".into(), "x".repeat(ACTIONS_BYTES_MAX));
        });
        assert!(refused.unwrap_err().starts_with("actions of route \"shop.test/\" in bytes of"));
        let respond = Respond { status: 200, headers: [].into(), body: "x".repeat(ACTIONS_BYTES_MAX) };
        assert!(apply(&mut state, |route| route.to = Target::Respond(respond)).is_err());
        assert!(apply(&mut state, |route| route.to = Target::Outside(Vec::new())).is_err());
        for (bucket, index) in [("Media", None), ("x", None), ("media", Some("a/b"))] {
            let assets = Assets { bucket: bucket.into(), index: index.map(str::to_owned) };
            assert!(apply(&mut state, |route| route.to = Target::Bucket(assets)).is_err(), "{bucket} {index:?}");
        }
        let assets = Assets { bucket: "media".into(), index: Some("index.html".into()) };
        assert!(apply(&mut state, |route| route.to = Target::Bucket(assets)).is_ok());
        assert!(apply(&mut state, |route| route.to = Target::Shares([(named("web"), 0)].into())).is_err());
        assert!(apply(&mut state, |route| route.when.methods.extend((0..17).map(|n| format!("M{n}")))).is_err());
        assert!(apply(&mut state, |_| {}).is_ok());
    }
}
