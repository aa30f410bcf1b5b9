//! Refuses routes that make no sense, would take too much room, or belong to another application.
//!
//! Expressions are not built here: replicas of two builds might disagree about what is right (see [`crate::expression`]).

use super::limits::*;
use super::{ControlState, Refusal};
use crate::id::AppName;
use crate::spec::{AppSpec, PathKind, RouteSpec, Target};

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
    }
    Ok(())
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
    match &route.to {
        Target::Service(_) => {}
        Target::Shares(shares) => {
            let most = shares.values().copied().max().unwrap_or(0);
            at_most(|| format!("a weight of route {shown:?}"), most as usize, WEIGHT_MAX as usize)?;
            if most == 0 {
                return Err(Refusal::Invalid(format!("route {shown:?} leads nowhere: no weight is above 0")));
            }
        }
        Target::Outside(addrs) => {
            at_most(|| format!("addresses of route {shown:?}"), addrs.len(), OUTSIDE_MAX)?;
            if addrs.is_empty() {
                return Err(Refusal::Invalid(format!("route {shown:?} leads nowhere: it has no address")));
            }
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
                true => mine.meets(route),
                false => mine.host == route.host && mine.path == route.path,
            };
            if new.routes.iter().any(meets) {
                return Err(Refusal::Invalid(format!("route {route} belongs to application {other}")));
            }
        }
    }
    Ok(())
}
