//! Carries out commands. Total and deterministic: everything it depends on is in the state and in the entry, a command that cannot be
//! carried out is refused before anything is touched, and nothing here panics whatever the entry holds.

use super::nodes::Announcement;
use super::record::record;
use super::{
    Command, Context, ControlState, Entry, Outcome, Refusal, access, acme, addresses, apps, authority, certificates,
    dnssec, long, nodes, purges, recover, secrets, tickets, tokens,
};
use crate::event::NewEvent;
use crate::feature;
use crate::id::{Generation, LogIndex};
use crate::planner::change::PlanChange;

pub(super) fn apply(state: &mut ControlState, index: LogIndex, entry: Entry) -> Outcome {
    state.applied = index;
    let Entry { at, by, if_index, command } = entry;
    if let Some(expected) = if_index
        && expected != state.spec_index
    {
        return Outcome::Refused(conflict("index of the last change", expected.0, state.spec_index.0));
    }
    let allowed = feature::check(&command, state.cluster.feature_level);
    let context = Context { index, at, by };
    allowed.and_then(|()| carry_out(state, &context, command)).unwrap_or_else(Outcome::Refused)
}

fn carry_out(state: &mut ControlState, context: &Context, command: Command) -> Result<Outcome, Refusal> {
    match command {
        Command::Found { cluster, node } => nodes::found(state, context, cluster, node),
        Command::Admit { node, token } => nodes::admit(state, context, node, token),
        Command::Announce { node, incarnation, addr, capacity, built, version } => {
            nodes::announce(state, context, Announcement { node, incarnation, addr, capacity, built, version })
        }
        Command::SetAvailability { node, availability } => nodes::set_availability(state, context, node, availability),
        Command::RemoveNode { node } => nodes::remove(state, context, node),
        Command::ApplyApp { app, spec } => apps::apply_app(state, context, app, spec),
        Command::Scale { app, service, replicas } => apps::scale(state, context, app, service, replicas),
        Command::Restart { app, service } => apps::restart(state, context, app, service),
        Command::SetStopped { app, stopped } => apps::set_stopped(state, context, app, stopped),
        Command::RemoveApp { app } => apps::remove_app(state, context, app),
        Command::SetRole { role, spec } => apps::set_role(state, context, role, spec),
        Command::MoveRole { role, from, to } => apps::move_role(state, context, role, from, to),
        Command::NewToken { id, record } => tokens::new_token(state, context, id, record),
        Command::RevokeToken { id } => tokens::revoke_token(state, context, id),
        Command::SetWebhook { url } => tokens::set_webhook(state, context, url),
        Command::SetSecret { id, sealed, key } => secrets::set(state, context, id, sealed, &key),
        Command::RemoveSecret { id } => secrets::remove(state, context, id),
        Command::SetCertificate { name, new } => certificates::set(state, context, name, new),
        Command::RemoveCertificate { name } => certificates::remove(state, context, &name),
        Command::Acme { change } => acme::change(state, context, change),
        Command::SetAddress { address, spec } => addresses::set(state, context, address, spec),
        Command::RemoveAddress { address } => addresses::remove(state, context, address),
        Command::Purge { what } => purges::purge(state, context, what),
        Command::Tickets { change } => tickets::change(state, context, change),
        Command::Access { change } => access::change(state, context, change),
        Command::Signing { change } => dnssec::change(state, context, change),
        Command::RotateSealing => secrets::want_sealing(state, context),
        Command::Reseal { resealed } => secrets::reseal(state, context, resealed),
        Command::Recover { tag, survivor, lost, off } => recover::recover(state, context, tag, survivor, &lost, off),
        Command::ConfirmOff { nodes } => recover::confirm_off(state, context, &nodes),
        Command::Rejoin { former, node } => nodes::rejoin(state, context, former, node),
        Command::RotateAuthority => authority::want(state, context),
        Command::ReplaceAuthority { new } => authority::replace(state, context, new),
        Command::DropAuthority { ca } => authority::drop_former(state, context, &ca),
        Command::LongGrant { node, incarnation, length_ms } => long::give(state, context, node, incarnation, length_ms),
        Command::EndLongGrants { over } => Ok(long::end(state, context, over)),
        Command::Adopt { base, spec_index, change, events } => adopt(state, context, base, spec_index, change, events),
        Command::Note { events } => {
            record(state, context.at, events);
            Ok(context.done())
        }
        Command::RaiseLevel { to, understood } => nodes::raise_level(state, context, to, &understood),
    }
}

fn adopt(
    state: &mut ControlState,
    context: &Context,
    base: Generation,
    spec_index: LogIndex,
    change: PlanChange,
    events: Vec<NewEvent>,
) -> Result<Outcome, Refusal> {
    if base != state.plan.generation {
        return Err(conflict("generation of the plan", base.0, state.plan.generation.0));
    }
    if spec_index != state.spec_index {
        return Err(conflict("index of the last change", spec_index.0, state.spec_index.0));
    }
    if let Some(next) = change.next_instance
        && next < state.plan.next_instance
    {
        let known = state.plan.next_instance;
        return Err(Refusal::Invalid(format!("instance number {next} was given before: the next is {known}")));
    }
    state.plan.apply(change);
    state.plan.generation = base.next();
    state.plan.spec_index = spec_index;
    apps::forget_former(state);
    secrets::forget_old(state);
    secrets::note_holders(state);
    // Each was looked at by this plan, for no other spec is accepted; what is not done now is not wanted later.
    state.spec.roles.values_mut().for_each(|role| role.moves.clear());
    record(state, context.at, events);
    Ok(context.done())
}

fn conflict(what: &str, expected: u64, found: u64) -> Refusal {
    Refusal::Conflict { what: what.into(), expected, found }
}
