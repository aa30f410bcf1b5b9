//! The three kinds of duty. The kind decides what may happen when nobody can say who holds it, so it is part of the type.

use serde::{Deserialize, Serialize};

/// How many may act at once, and what that costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DutyKind {
    /// Stateless instances, lb, replicas: kept for ever on the last plan known; one copy too many for some seconds is harmless.
    Plural,
    /// A floating address: two holders for a moment are harmless, none is an outage.
    Announced,
    /// A database primary, a cron line: needs a grant, and never runs twice.
    Exclusive,
}

/// What a slot of a role is to do. Part of the plan, so one that is unknown stops the reader instead of being taken for something else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Duty {
    /// One of several that act alike. Plural.
    #[default]
    Replica,
    /// Acts alone. Exclusive.
    Primary,
    /// Holds an address or a lock of the announced kind.
    Holder,
    /// Ready to take over.
    Standby,
}

impl Duty {
    /// The kind this duty is of.
    pub fn kind(self) -> DutyKind {
        match self {
            Duty::Replica | Duty::Standby => DutyKind::Plural,
            Duty::Holder => DutyKind::Announced,
            Duty::Primary => DutyKind::Exclusive,
        }
    }
}
