//! Before the agent is stopped on purpose: floating addresses are handed over, and what runs here exclusively gets a long grant, so that
//! it acts on until the agent is back.
//!
//! The grant is asked for by a command of the control group, told to guard and shim, and then the agent may go. Where any of this takes too long
//! the agent goes all the same, and what runs here ends with its ordinary grant, as when an agent dies. Nothing is asked for when this
//! node is to give up what it has, nor when its host is being switched off: then somebody else should act soon.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hirsel_model::control::{Command, ControlState, Entry, Outcome};
use hirsel_model::grant::long::{LONG, Lengthened};
use hirsel_model::grant::{Holdings, grantable};
use hirsel_model::report::{Bound, InstanceFacts, NodeReport, RoleFacts};
use hirsel_model::spec::Availability;
use hirsel_model::{InstanceId, RoleName, Timestamp, feature};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{debug, info};

use crate::shared::Shared;

/// A control group with a leader answers within some milliseconds. Whoever stops an agent while there is none does not wait for longer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Another node takes an address two beats after what is under way there has ended, and that is not waited for longer than this.
const HANDED_OVER_WITHIN: Duration = Duration::from_secs(3);
/// Guard and shim are told within this: two looks of the role.
const TOLD_WITHIN: Duration = Duration::from_secs(1);

/// Lets what runs here exclusively act on for a while without this agent, where that can be had.
pub async fn lengthen(shared: &Shared, grants: &watch::Sender<Arc<Holdings>>) {
    let held = held(shared);
    if held.is_empty() || is_shutting_down(shared).await {
        return;
    }
    let asked_at = shared.world.clock.now();
    let length_ms = u64::try_from(LONG.as_millis()).unwrap_or(u64::MAX);
    let command = Command::LongGrant { node: shared.node, incarnation: shared.incarnation, length_ms };
    let entry = Entry { at: shared.world.clock.wall(), by: shared.me.name.to_string(), if_index: None, command };
    let grant = match timeout(ANSWER_WITHIN, shared.control.propose(entry, ANSWER_WITHIN)).await {
        Ok(Ok(Outcome::Lengthened { grant, .. })) => grant,
        Ok(Ok(Outcome::Done { .. } | Outcome::Admitted { .. })) => return,
        Ok(Ok(Outcome::Refused(refusal))) => return debug!(%refusal, "no long grant"),
        Ok(Err(error)) => return debug!(%error, "no long grant"),
        Err(_) => return debug!("no long grant: the control group does not answer"),
    };
    receive(shared, grants, &grant, asked_at);
    let covered: BTreeSet<InstanceId> = held.intersection(&grant.covers).cloned().collect();
    let mut report = shared.report.clone();
    let is_told = |report: &Arc<NodeReport>| covered.iter().all(|id| facts(report, id).is_none_or(knows));
    match timeout(TOLD_WITHIN, report.wait_for(is_told)).await {
        Ok(_) => {
            info!(instances = covered.len(), seconds = LONG.as_secs(), "exclusive instances act on without this agent")
        }
        Err(_) => debug!("guard and shim do not know of the long grant yet"),
    }
}

/// Waits until other nodes hold the floating addresses that this one held, where there are others to do so.
pub async fn hand_over(shared: &Shared) {
    let mut held = shared.floating.held.subscribe();
    let state = shared.control.state().borrow().clone();
    let others = |address: &IpAddr| {
        let list = state.plan.addresses.get(address);
        list.is_some_and(|list| list.candidates.iter().any(|candidate| candidate.node != shared.node))
    };
    let is_over = |held: &BTreeSet<IpAddr>| !held.iter().any(others);
    if timeout(HANDED_OVER_WITHIN, held.wait_for(is_over)).await.is_err() {
        debug!("nobody has taken the floating addresses of this node yet");
    }
}

/// What runs here and is given to this node exclusively; nothing where it is not to stay, or may not be asked for.
fn held(shared: &Shared) -> BTreeSet<InstanceId> {
    let (state, now) = (shared.control.state().borrow().clone(), shared.world.clock.now());
    if state.cluster.feature_level < feature::LONG_GRANT.level || !stays(shared, &state) {
        return BTreeSet::new();
    }
    let (grants, report) = (shared.grants.borrow().clone(), shared.report.borrow().clone());
    let acts = |id: &InstanceId| grants.until(id, now).is_some() && facts(&report, id).is_some_and(runs);
    grantable(&state, shared.node).into_iter().filter(acts).collect()
}

fn stays(shared: &Shared, state: &ControlState) -> bool {
    let availability = state.spec.nodes.get(&shared.node).map(|node| node.availability);
    matches!(availability, Some(Availability::Open | Availability::Cordoned))
}

fn facts<'a>(report: &'a NodeReport, id: &InstanceId) -> Option<&'a InstanceFacts> {
    match &report.roles.get(&RoleName::compute())?.facts {
        RoleFacts::Compute(all) => all.get(id),
        RoleFacts::None | RoleFacts::Lb(_) | RoleFacts::Address(_) | RoleFacts::Storage(_) | RoleFacts::Unknown => None,
    }
}

fn runs(facts: &InstanceFacts) -> bool {
    use hirsel_model::report::InstanceState::{Ended, Running, Starting, Stopping, Unknown, Waiting};
    match facts.state {
        Starting | Running => true,
        Waiting | Stopping | Ended | Unknown => false,
    }
}

/// Whether its guard and shim know of the long grant, or need not.
fn knows(facts: &InstanceFacts) -> bool {
    facts.bound == Bound::Long || !runs(facts)
}

async fn is_shutting_down(shared: &Shared) -> bool {
    match shared.hosts.get(&RoleName::compute()) {
        Some(host) => host.is_shutting_down().await,
        None => false,
    }
}

/// Takes the long grant as any other: not beside a plan that this node follows and that has dropped what it covers.
fn receive(shared: &Shared, grants: &watch::Sender<Arc<Holdings>>, grant: &Lengthened, asked_at: Timestamp) {
    grants.send_modify(|held| {
        let (state, now) = (shared.control.state().borrow().clone(), shared.world.clock.now());
        let held = Arc::make_mut(held);
        held.dropped(state.plan.generation, &grantable(&state, shared.node));
        if state.cluster.tag == grant.tag {
            held.lengthen(grant, asked_at, now);
        }
    });
}
