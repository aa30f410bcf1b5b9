//! Refuses zones that make no sense, would take too much room, or would answer for names of another application.

use super::limits::*;
use super::{ControlState, Refusal};
use crate::id::AppName;
use crate::spec::{APEX, AppSpec, NameSpec, ZoneSpec, owner_name, unfit_zone};

/// Refuses zones of `app` that are wrong in themselves.
pub(super) fn check(app: &AppSpec) -> Result<(), Refusal> {
    at_most(|| "number of zones".into(), app.zones.len(), ZONES_PER_APP_MAX)?;
    for (name, zone) in &app.zones {
        let shown = cut(name, HOST_BYTES_MAX);
        if let Some(why) = unfit_zone(name) {
            return Err(Refusal::Invalid(format!("{shown:?} {why}")));
        }
        at_most(|| format!("records of zone {shown}"), zone.count(), RECORDS_PER_ZONE_MAX)?;
        at_most(|| format!("names of zone {shown}"), zone.records.len(), RECORDS_PER_ZONE_MAX)?;
        if let Some(fault) = zone.faults(name).into_iter().next() {
            let owner = fault.owner.map_or(String::new(), |owner| format!(" {}", cut(&owner, HOST_BYTES_MAX)));
            let kind = fault.kind.map_or(String::new(), |kind| format!(" {kind}"));
            return Err(Refusal::Invalid(format!("zone {shown}:{owner}{kind} {}", fault.why)));
        }
    }
    Ok(())
}

/// A zone belongs to one application. Names of it may be hosts of routes of all of them, and then have no other addresses; a zone below
/// it may be another one's, and then holds what is there.
pub(super) fn check_owners(state: &ControlState, app: &AppName, new: &AppSpec) -> Result<(), Refusal> {
    let refused = |why: String| Err(Refusal::Invalid(why));
    let others = state.spec.apps.iter().filter(|(other, _)| *other != app);
    let all = || others.clone().chain([(app, new)]);
    for (other, spec) in others.clone() {
        if let Some(zone) = new.zones.keys().find(|zone| spec.zones.contains_key(*zone)) {
            return refused(format!("zone {zone} belongs to application {other}"));
        }
    }
    for (other, spec) in all() {
        for (name, zone) in &spec.zones {
            let is_new = other == app;
            // What was there before among others has been looked at then.
            for (theirs, it) in all().filter(|(theirs, _)| is_new || *theirs == app) {
                if let Some((inner, owner)) =
                    it.zones.keys().find_map(|inner| Some((inner, hidden(name, zone, inner)?)))
                {
                    return refused(format!(
                        "name {owner} of zone {name} is in the zone {inner} of application {theirs}"
                    ));
                }
                let host =
                    it.routes.iter().find(|route| hosts(name, zone, &route.host).is_some_and(NameSpec::takes_host));
                if let Some(route) = host {
                    let host = &route.host;
                    return refused(format!(
                        "{host} is the host of a route of application {theirs}, and zone {name} of application {other} says \
                         other addresses for it"
                    ));
                }
                if let Some((host, cut)) =
                    it.routes.iter().find_map(|route| Some((&route.host, delegated(name, zone, &route.host)?)))
                {
                    return refused(format!(
                        "{host} is the host of a route of application {theirs}, and zone {name} of application {other} says that \
                         others answer for {cut}"
                    ));
                }
            }
        }
    }
    Ok(())
}

/// What there is of `host` in a zone.
fn hosts<'z>(name: &str, zone: &'z ZoneSpec, host: &str) -> Option<&'z NameSpec> {
    zone.records.get(&owner(name, host)?)
}

/// From which name on others answer for `host`.
fn delegated(name: &str, zone: &ZoneSpec, host: &str) -> Option<String> {
    zone.delegation(&owner(name, host)?).map(|cut| owner_name(cut, name))
}

/// What `host` is called below a zone.
fn owner(zone: &str, host: &str) -> Option<String> {
    let host = host.to_ascii_lowercase();
    if host == zone {
        return Some(APEX.into());
    }
    host.strip_suffix(zone)?.strip_suffix('.').map(str::to_owned)
}

/// A name of a zone that another zone below it holds.
fn hidden(name: &str, zone: &ZoneSpec, inner: &str) -> Option<String> {
    let from = owner(name, inner).filter(|from| from != APEX)?;
    let is_in =
        |at: &String| at.strip_suffix(from.as_str()).is_some_and(|above| above.is_empty() || above.ends_with('.'));
    zone.records.keys().find(|at| is_in(at)).map(|at| owner_name(at, name))
}

#[cfg(test)]
mod tests {
    use super::super::samples::{app, cluster, named, service};
    use super::super::{Command, Entry, Outcome};
    use super::*;
    use crate::feature;
    use crate::spec::RouteSpec;
    use crate::time::WallTime;

    /// An application with the zone `name` and these records: name and what it says.
    fn with(name: &str, records: &[(&str, &str)]) -> AppSpec {
        let mut spec = app(&[("web", service("serve"))]);
        let mut zone = ZoneSpec::default();
        for (owner, data) in records {
            zone.records.entry((*owner).into()).or_default().data.insert(data.parse().unwrap());
        }
        spec.zones.insert(name.into(), zone.into());
        spec
    }

    fn routed(host: &str) -> AppSpec {
        let mut spec = app(&[("web", service("serve"))]);
        spec.routes.push(RouteSpec::plain(host, "/", named("web")));
        spec
    }

    fn apply(state: &mut ControlState, name: &str, spec: AppSpec) -> Result<(), String> {
        let index = state.applied.next();
        let command = Command::ApplyApp { app: named(name), spec };
        let entry = Entry { at: WallTime(1_000), by: "admin@n1".into(), if_index: None, command };
        match state.apply(index, entry) {
            Outcome::Refused(refusal) => Err(refusal.to_string()),
            Outcome::Done { .. } | Outcome::Admitted { .. } | Outcome::Lengthened { .. } => Ok(()),
        }
    }

    #[test]
    fn a_zone_is_of_one_application_and_its_names_lead_to_one_place() {
        let mut state = cluster(1);
        apply(
            &mut state,
            "shop",
            with("example.com", &[("www", "A 192.0.2.1"), ("text", "TXT x"), ("s", "NS x.test.")]),
        )
        .unwrap();
        let mut refused = |spec| apply(&mut state, "blog", spec).unwrap_err();
        assert_eq!(refused(with("example.com", &[])), "zone example.com belongs to application shop");
        assert_eq!(
            refused(with("www.example.com", &[])),
            "name www.example.com of zone example.com is in the zone www.example.com of application blog"
        );
        assert_eq!(
            refused(routed("WWW.example.com")),
            "WWW.example.com is the host of a route of application blog, and zone example.com of application shop says other \
             addresses for it"
        );
        assert_eq!(
            refused(routed("a.s.example.com")),
            "a.s.example.com is the host of a route of application blog, and zone example.com of application shop says that \
             others answer for s.example.com"
        );
        for host in ["text.example.com", "example.com", "*.example.com", "www.example.net", "xwww.example.com"] {
            apply(&mut state, "blog", routed(host)).unwrap();
        }
        apply(&mut state, "blog", with("sub.example.com", &[("www", "A 192.0.2.1")])).unwrap();
        // The other way round: what is there already is met by a zone that comes.
        apply(&mut state, "more", routed("api.example.com")).unwrap();
        let late = with("example.com", &[("api", "CNAME x.test.")]);
        assert!(apply(&mut state, "shop", late).unwrap_err().contains("of a route of application more"));
        let late = with("example.com", &[("www.sub", "TXT x")]);
        assert_eq!(
            apply(&mut state, "shop", late).unwrap_err(),
            "name www.sub.example.com of zone example.com is in the zone sub.example.com of application blog"
        );
    }

    #[test]
    fn a_zone_that_makes_no_sense_is_refused() {
        let mut state = cluster(1);
        let mut refused = |spec| apply(&mut state, "shop", spec).unwrap_err();
        assert_eq!(
            refused(with("Example.com", &[])),
            "\"Example.com\" is no zone: use labels of a-z, 0-9 and '-' between dots, for example example.com"
        );
        assert_eq!(
            refused(with("example.com", &[("@", "CNAME a.test.")])),
            "zone example.com: @ CNAME the zone itself is no other name: it has records of its own"
        );
        assert_eq!(
            refused(with("example.com", &[("a b", "TXT x")])),
            "zone example.com: a b \"a b\" is no label: use 1 to 63 of a-z, 0-9, '-' and '_'"
        );
    }

    #[test]
    fn a_cluster_of_the_first_level_has_no_zones() {
        let command = Command::ApplyApp { app: named("shop"), spec: with("example.com", &[]) };
        assert_eq!(feature::needed(&command), feature::Need::of(2, "a zone of names"));
    }
}
