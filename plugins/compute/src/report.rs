//! Says what is true of the instances of this node. Pure.

use std::collections::BTreeMap;

use hirsel_model::plan::Phase;
use hirsel_model::report::{Bound, InstanceFacts, InstanceState, RoleFacts, RoleReport, RoleState};
use hirsel_model::{Generation, InstanceId, Revision};
use hirsel_role::host::Process;

use crate::decide::{Lacks, Wanted};
use crate::memory::{Instance, Told};

/// How many failing instances the message of the role names.
const NAMED_MAX: usize = 3;

/// Why an exclusive instance is not started.
const NO_GRANT: &str = "waits for a grant: it may act only while the leader says so";

/// Why an instance that needs a secret is not started.
const NO_SECRETS: &str = "waits for the values of its secrets: none of the voters has told them yet";

/// Why an instance that is told an access key is not started.
const NO_ACCESS_KEY: &str = "waits for the access key of its application: none of the voters has told it yet";

/// Why an instance that names a bucket is not started.
const NO_BUCKET: &str = "waits for a bucket of its application, half a minute at most: it is not made yet";

/// What is known of an instance besides.
pub(crate) struct Found<'a> {
    /// As the host has it.
    pub process: Option<&'a Process>,
    /// Why it may not act any more.
    pub missing: Option<&'a str>,
    /// It has a long grant.
    pub is_long: bool,
}

/// Facts of one instance.
pub(crate) fn facts(instance: &Instance, wanted: Option<Wanted>, found: Found<'_>) -> InstanceFacts {
    let Found { process, missing, is_long } = found;
    let health = instance.run.as_ref().map(super::memory::Run::health).unwrap_or_default();
    let state = match (&instance.run, wanted) {
        _ if instance.past.stopping.is_some() => InstanceState::Stopping,
        (Some(_), _) if health.passed => InstanceState::Running,
        (Some(_), _) => InstanceState::Starting,
        (None, Some(Wanted { phase: Phase::Active, .. })) => InstanceState::Waiting,
        // A start that is under way may still succeed.
        (None, _) if instance.past.busy && !instance.past.forgetting => InstanceState::Stopping,
        (None, Some(Wanted { phase: Phase::Draining, .. }) | None) => InstanceState::Ended,
    };
    InstanceFacts {
        state,
        healthy: health.healthy && instance.past.stopping.is_none(),
        port: instance.port,
        restarts: instance.restarts,
        revision: process
            .map(|process| process.spec.revision)
            .or(wanted.map(|wanted| wanted.revision))
            .unwrap_or(Revision(0)),
        message: match (state, wanted) {
            (InstanceState::Waiting, Some(Wanted { may_act: false, .. })) => Some(missing.unwrap_or(NO_GRANT).into()),
            (InstanceState::Waiting, Some(Wanted { lacks: Lacks::Secrets, .. })) => Some(NO_SECRETS.into()),
            (InstanceState::Waiting, Some(Wanted { lacks: Lacks::AccessKey, .. })) => Some(NO_ACCESS_KEY.into()),
            (InstanceState::Waiting, Some(Wanted { lacks: Lacks::Bucket, .. })) => Some(NO_BUCKET.into()),
            (InstanceState::Starting | InstanceState::Running, _) if instance.unguarded.is_some() => {
                instance.unguarded.as_ref().map(|why| format!("its grant is not prolonged, and it ends with it: {why}"))
            }
            _ => health.failure.or_else(|| instance.message.clone()),
        },
        bound: match instance.told {
            _ if process.is_none_or(|process| process.spec.deadline.is_none()) || instance.run.is_none() => {
                Bound::Unknown
            }
            // It may be told the end of a long grant in a moment.
            Told::Grant if !is_long => Bound::Grant,
            Told::Long => Bound::Long,
            Told::Nothing | Told::Grant | Told::Lengthening => Bound::Unknown,
        },
    }
}

/// The report of the role.
pub(crate) fn report(
    generation: Generation,
    wanted: &BTreeMap<InstanceId, Wanted>,
    facts: BTreeMap<InstanceId, InstanceFacts>,
    instances: &BTreeMap<InstanceId, Instance>,
    is_stop: bool,
) -> RoleReport {
    let failing: Vec<(&InstanceId, &Instance)> =
        instances.iter().filter(|(id, instance)| wanted.contains_key(id) && instance.is_failing()).collect();
    let unguarded: Vec<(&InstanceId, &str)> = instances
        .iter()
        .filter_map(|(id, instance)| Some((id, instance.run.as_ref().and(instance.unguarded.as_deref())?)))
        .collect();
    let holds = facts.iter().all(|(id, facts)| {
        let draining = wanted.get(id).is_some_and(|wanted| wanted.phase == Phase::Draining);
        wanted.contains_key(id) && (draining || facts.state == InstanceState::Running)
    });
    let state = match () {
        () if is_stop && facts.is_empty() => RoleState::Stopped,
        () if !failing.is_empty() || !unguarded.is_empty() => RoleState::Degraded,
        () if holds => RoleState::Running,
        () => RoleState::Starting,
    };
    RoleReport {
        state,
        generation,
        message: message(&failing, &unguarded),
        facts: RoleFacts::Compute(facts),
        ..RoleReport::default()
    }
}

fn message(failing: &[(&InstanceId, &Instance)], unguarded: &[(&InstanceId, &str)]) -> Option<String> {
    let mut parts: Vec<String> = failing
        .iter()
        .take(NAMED_MAX)
        .map(|(id, instance)| format!("{id} fails: {}", instance.message.as_deref().unwrap_or("no reason known")))
        .collect();
    if failing.len() > NAMED_MAX {
        parts.push(format!("{} more fail", failing.len() - NAMED_MAX));
    }
    // All for one reason.
    if let Some((id, why)) = unguarded.first() {
        let others = unguarded.len() - 1;
        let others = if others == 0 { String::new() } else { format!(" and of {others} more") };
        parts.push(format!("the grant of {id}{others} is not prolonged: {why}"));
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}
