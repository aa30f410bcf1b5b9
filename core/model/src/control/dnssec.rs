//! Commands about keys of zones.

use super::limits::{HOST_BYTES_MAX, at_most, cut};
use super::{Context, ControlState, Outcome, Refusal, secrets};
use crate::dnssec::{
    Cause, Change, KEY_BYTES_MAX, KEYS_MAX, PUBLIC_BYTES, Step, ZONES_MAX, ZoneKey, ZoneKeys, subject, wanted,
};
use crate::secret::{SEAL_BYTES_MAX, Sealed};

pub(super) fn change(state: &mut ControlState, context: &Context, change: Change) -> Result<Outcome, Refusal> {
    match change {
        Change::Draw { zone, base, public, sealed, key } => draw(state, context, &zone, base, (public, sealed), &key),
        Change::Want { zone } => want(state, context, &zone),
        Change::Advance { zone, from, cause } => advance(state, context, &zone, from, &cause),
        Change::Part { zone, parts } => part(state, context, &zone, parts),
        Change::Forget { zone } => {
            if state.signing.zones.remove(&zone).is_some() {
                let message = format!("zone {zone} is not signed any more; its keys are forgotten");
                context.happened(state, subject(&zone), &message);
            }
            Ok(context.done())
        }
    }
}

fn draw(
    state: &mut ControlState,
    context: &Context,
    zone: &str,
    base: u64,
    (public, sealed): (Sealed, Sealed),
    key: &str,
) -> Result<Outcome, Refusal> {
    secrets::check_key(state, key)?;
    if !wanted(state).contains(zone) {
        return Err(Refusal::Invalid(format!("zone {zone} is not to be signed")));
    }
    let found = state.signing.zones.get(zone).map_or(0, ZoneKeys::newest);
    if base != found {
        return Err(Refusal::Conflict { what: format!("newest key of zone {zone}"), expected: base, found });
    }
    if public.0.len() != PUBLIC_BYTES || sealed.0.is_empty() {
        return Err(Refusal::Invalid(format!("the key of zone {zone} is not one of ECDSA P-256")));
    }
    at_most(|| format!("key of zone {zone} in bytes"), sealed.0.len(), KEY_BYTES_MAX + SEAL_BYTES_MAX)?;
    let signing = &mut state.signing;
    if base == 0 {
        at_most(|| "zones that are signed".into(), signing.zones.len() + 1, ZONES_MAX)?;
    }
    let version = signing.last.saturating_add(1);
    let none = ZoneKeys { keys: Vec::new(), step: Step::Steady, since: context.at, wanted: false, parting: None };
    let keys = signing.zones.entry(zone.to_owned()).or_insert(none);
    at_most(|| format!("keys of zone {zone}"), keys.keys.len() + 1, KEYS_MAX)?;
    keys.step = if keys.keys.is_empty() { Step::Steady } else { Step::Published };
    keys.keys.push(ZoneKey { version, at: context.at, public, key: sealed });
    (keys.since, keys.wanted, signing.last) = (context.at, false, version);
    let message = match base {
        0 => format!("zone {zone} is signed; the zone above has to name its key: hirsel dns ds {zone}"),
        _ => format!("the next key of zone {zone} is listed; when everybody can know it: hirsel dns ds {zone}"),
    };
    context.happened(state, subject(zone), &message);
    Ok(context.done())
}

fn want(state: &mut ControlState, context: &Context, zone: &str) -> Result<Outcome, Refusal> {
    secrets::check_ready(state)?;
    let is_wanted = wanted(state).contains(zone);
    let keys = find(state, zone)?;
    if !is_wanted {
        return Err(Refusal::Invalid(format!("zone {zone} is not to be signed any more")));
    }
    if keys.step != Step::Steady {
        return Err(Refusal::Invalid(format!("a key of zone {zone} is being replaced already; see: hirsel dns list")));
    }
    keys.wanted = true;
    context.happened(state, subject(zone), &format!("another key is wanted for zone {zone}"));
    Ok(context.done())
}

fn advance(
    state: &mut ControlState,
    context: &Context,
    zone: &str,
    from: Step,
    cause: &Cause,
) -> Result<Outcome, Refusal> {
    let keys = find(state, zone)?;
    if keys.step != from {
        return Err(Refusal::Invalid(format!("zone {zone} is at another step; see: hirsel dns list")));
    }
    let is_time = keys.next_at().is_some_and(|at| at <= context.at);
    match (from, cause) {
        (Step::Steady, _) => return Err(Refusal::Invalid(format!("no key of zone {zone} is being replaced"))),
        (_, Cause::Forced(_)) | (Step::Offered, Cause::Seen) => {}
        (Step::Published | Step::Leaving, Cause::Time) if is_time => {}
        (Step::Published | Step::Leaving, _) => {
            return Err(Refusal::Unsafe(format!(
                "resolvers may remember zone {zone} as it was before; see until when: hirsel dns list"
            )));
        }
        (Step::Offered, Cause::Time) => {
            return Err(Refusal::Unsafe(format!(
                "the zone above has to name the next key of zone {zone} first: hirsel dns ds {zone}"
            )));
        }
    }
    keys.since = context.at;
    let what = match from {
        Step::Steady | Step::Published => {
            keys.step = Step::Offered;
            format!("the next key of zone {zone} can be named by the zone above: hirsel dns ds {zone}")
        }
        Step::Offered => {
            keys.step = Step::Leaving;
            format!("zone {zone} is signed with its next key")
        }
        Step::Leaving => {
            keys.step = Step::Steady;
            keys.keys.drain(..keys.keys.len().saturating_sub(1));
            format!("the former key of zone {zone} is forgotten")
        }
    };
    let message = match cause {
        Cause::Forced(reason) => format!("{what}; ahead of time: {reason}"),
        Cause::Time | Cause::Seen => what,
    };
    context.happened(state, subject(zone), &message);
    Ok(context.done())
}

fn part(state: &mut ControlState, context: &Context, zone: &str, parts: bool) -> Result<Outcome, Refusal> {
    if wanted(state).contains(zone) == parts {
        return Err(Refusal::Invalid(format!("what is wanted of zone {zone} changed meanwhile")));
    }
    let keys = find(state, zone)?;
    if keys.parting.is_some() == parts {
        return Ok(context.done());
    }
    keys.parting = parts.then_some(context.at);
    let message = match parts {
        true => format!(
            "zone {zone} shall not be signed any more: it is for three days, in which the zone above has to forget its key (DS)"
        ),
        false => format!("zone {zone} shall be signed again, with the key that it had"),
    };
    context.happened(state, subject(zone), &message);
    Ok(context.done())
}

fn find<'s>(state: &'s mut ControlState, zone: &str) -> Result<&'s mut ZoneKeys, Refusal> {
    let missing = || Refusal::NotFound { kind: "signed zone".into(), name: cut(zone, HOST_BYTES_MAX) };
    state.signing.zones.get_mut(zone).ok_or_else(missing)
}
