//! Refuses ports that make no sense, would take too much room, or belong to another application.

use super::limits::*;
use super::{ControlState, Refusal};
use crate::id::AppName;
use crate::spec::{AppSpec, PortId, PortSpec, Target};

/// Refuses ports of `app` that are wrong in themselves.
pub(super) fn check(app: &AppSpec) -> Result<(), Refusal> {
    at_most(|| "number of ports".into(), app.ports.len(), PORTS_PER_APP_MAX)?;
    for (port, spec) in &app.ports {
        let wrong = |what: String| Err(Refusal::Invalid(format!("port {port} {what}")));
        if port.number == 0 {
            return wrong("is no port".into());
        }
        if let Some(stranger) = spec.to.services().find(|name| !app.services.contains_key(*name)) {
            return wrong(format!("leads to {:?}, which is no service", stranger.as_str()));
        }
        match &spec.to {
            Target::Service(_) => {}
            Target::Shares(shares) => {
                let most = shares.values().copied().max().unwrap_or(0);
                at_most(|| format!("a weight of port {port}"), most as usize, WEIGHT_MAX as usize)?;
                if most == 0 {
                    return wrong("leads nowhere: no weight is above 0".into());
                }
            }
            Target::Outside(addrs) => {
                at_most(|| format!("addresses of port {port}"), addrs.len(), OUTSIDE_MAX)?;
                if addrs.is_empty() {
                    return wrong("leads nowhere: it has no address".into());
                }
            }
            Target::OutsideH2c(_) | Target::Redirect(_) | Target::Respond(_) | Target::Bucket(_) => {
                return wrong("has an answer of HTTP, and what comes in at a port is passed on as it is".into());
            }
        }
        check_room(*port, spec)?;
    }
    Ok(())
}

fn check_room(port: PortId, spec: &PortSpec) -> Result<(), Refusal> {
    for (what, blocks) in [("allow", &spec.allow), ("deny", &spec.deny), ("accept_proxy", &spec.accept_proxy)] {
        at_most(|| format!("{what} of port {port}"), blocks.len(), ACTION_LIST_MAX)?;
    }
    for (what, ms) in [("idle_timeout", spec.idle_ms), ("connect_timeout", spec.connect_ms)] {
        if ms.is_some_and(|ms| !PORT_WAIT_MS.contains(&ms)) {
            return Err(Refusal::Invalid(format!("{what} of port {port} is not between a millisecond and a day")));
        }
    }
    for most in [spec.connections_max, spec.client_connections_max] {
        if most.is_some_and(|most| !(1..=PORT_CONNECTIONS_MAX).contains(&most)) {
            return Err(Refusal::Invalid(format!("port {port} has 1 to {PORT_CONNECTIONS_MAX} connections at once")));
        }
    }
    Ok(())
}

/// A port belongs to one application.
pub(super) fn check_owners(state: &ControlState, app: &AppName, new: &AppSpec) -> Result<(), Refusal> {
    for (other, spec) in state.spec.apps.iter().filter(|(other, _)| *other != app) {
        if let Some(port) = new.ports.keys().find(|port| spec.ports.contains_key(port)) {
            return Err(Refusal::Invalid(format!("port {port} belongs to application {other}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::samples::{app, cluster, named, service};
    use super::super::{Command, Entry, Outcome};
    use super::*;
    use crate::feature;
    use crate::spec::Respond;
    use crate::time::WallTime;

    fn shop(edit: impl FnOnce(&mut PortSpec)) -> AppSpec {
        let mut spec = app(&[("db", service("serve"))]);
        let mut port = PortSpec::to(Target::Service(named("db")));
        edit(&mut port);
        spec.ports.insert("5432".parse().unwrap(), port);
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
    fn a_port_belongs_to_the_application_that_had_it_first() {
        let mut state = cluster(1);
        apply(&mut state, "shop", shop(|_| {})).unwrap();
        let refused = apply(&mut state, "blog", shop(|_| {})).unwrap_err();
        assert_eq!(refused, "port 5432/tcp belongs to application shop");
        apply(&mut state, "shop", shop(|port| port.idle_ms = Some(5_000))).unwrap();
        apply(&mut state, "shop", app(&[("db", service("serve"))])).unwrap();
        apply(&mut state, "blog", shop(|_| {})).unwrap();
    }

    #[test]
    fn a_port_that_makes_no_sense_is_refused() {
        let mut state = cluster(1);
        for (edit, says) in [
            (
                (|port| port.to = Target::Service(named("bd"))) as fn(&mut PortSpec),
                "port 5432/tcp leads to \"bd\", which is no service",
            ),
            (
                |port| port.to = Target::Shares([(named("db"), 0)].into()),
                "port 5432/tcp leads nowhere: no weight is above 0",
            ),
            (|port| port.to = Target::Outside(Vec::new()), "port 5432/tcp leads nowhere: it has no address"),
            (
                |port| port.to = Target::Respond(Respond { status: 200, headers: [].into(), body: String::new() }),
                "port 5432/tcp has an answer of HTTP, and what comes in at a port is passed on as it is",
            ),
            (|port| port.connections_max = Some(0), "port 5432/tcp has 1 to 100000 connections at once"),
            (
                |port| port.idle_ms = Some(u64::MAX),
                "idle_timeout of port 5432/tcp is not between a millisecond and a day",
            ),
        ] {
            assert_eq!(apply(&mut state, "shop", shop(edit)).unwrap_err(), says);
        }
        let mut spec = shop(|_| {});
        let (_, port) = spec.ports.pop_first().unwrap();
        spec.ports = (1..=65u16).map(|n| (n.to_string().parse().unwrap(), port.clone())).collect();
        assert_eq!(apply(&mut state, "shop", spec).unwrap_err(), "number of ports of 65 exceeds 64");
    }

    #[test]
    fn a_cluster_of_the_first_level_has_no_ports() {
        let command = Command::ApplyApp { app: named("shop"), spec: shop(|_| {}) };
        assert_eq!(feature::needed(&command), feature::Need::of(2, "a port that load balancers open"));
    }
}
