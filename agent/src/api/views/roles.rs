//! `roles`: one line per role and slot, with the reason.

use hirsel_model::duty::Duty;
use hirsel_model::report::RoleState;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::sight::{Sight, Standing};

/// A slot of a role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RoleSlot {
    /// The role.
    pub role: String,
    /// Which copy.
    pub slot: u16,
    /// Who holds it.
    pub node: String,
    /// `primary`, `replica`, `holder`, `standby`.
    pub duty: String,
    /// `stopped`, `starting`, `running`, `degraded`, `failed`; `unknown` while its node is not heard.
    pub state: String,
    /// Why there.
    pub because: String,
    /// The plan that put it there.
    pub generation: u64,
    /// For how long it has been there; none when the log does not reach back.
    pub since_ms: Option<u64>,
    /// Why it is degraded or failed.
    pub message: Option<String>,
}

/// Every slot of the plan.
pub fn roles(sight: &Sight) -> Vec<RoleSlot> {
    let slots = sight.state.plan.roles.iter().flat_map(|(role, slots)| slots.iter().map(move |slot| (role, slot)));
    slots
        .map(|(role, (slot, assignment))| {
            let report = sight.role_report(assignment.node, role);
            RoleSlot {
                role: role.to_string(),
                slot: slot.0,
                node: sight.name(assignment.node),
                duty: duty_word(assignment.duty).into(),
                state: match sight.standing(assignment.node) {
                    Standing::Alive => report.map_or("starting", |report| state_word(report.state)).into(),
                    Standing::Suspect | Standing::Unfit | Standing::Down => "unknown".into(),
                },
                because: assignment.reason.text.clone(),
                generation: assignment.since.0,
                since_ms: sight.since_ms(assignment.since),
                message: report.and_then(|report| report.message.clone()),
            }
        })
        .collect()
}

fn duty_word(duty: Duty) -> &'static str {
    match duty {
        Duty::Primary => "primary",
        Duty::Replica => "replica",
        Duty::Holder => "holder",
        Duty::Standby => "standby",
    }
}

fn state_word(state: RoleState) -> &'static str {
    match state {
        RoleState::Stopped => "stopped",
        RoleState::Starting => "starting",
        RoleState::Running => "running",
        RoleState::Degraded => "degraded",
        RoleState::Failed => "failed",
        RoleState::Unknown => "unknown",
    }
}
