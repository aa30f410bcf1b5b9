//! `plan(&View) -> Plan`: total, deterministic, idempotent, level-triggered.
//!
//! Verdicts come first (who is lost), then voters, then slots of roles, then instances, each in its own file and each looking only at
//! the view and at what was decided before it. What is decided can open the way for more (a slot given makes a node eligible for
//! instances), so the steps are repeated until they change nothing: that is what makes planning idempotent.

mod addresses;
mod exclusive;
mod ground;
mod instances;
pub mod long;
mod narrate;
mod place;
mod roles;
mod storage;
pub(crate) mod verdicts;
mod voters;

pub mod change;

pub use narrate::narrate;

use std::collections::BTreeMap;

use crate::id::{AppName, Generation, ServiceName};
use crate::plan::Because;
use crate::plan::{Plan, Reason, Unmet};
use crate::view::View;

use ground::Ground;

/// The steps are repeated at most this often. Each round ends in fewer open wishes, and three are the most any story needs; the rest
/// is left to the next look at the world.
const ROUNDS_MAX: usize = 64;

/// The complete target for what `view` shows. Equal to the plan in force when nothing has to change; otherwise its generation is the
/// next one.
pub fn plan(view: &View) -> Plan {
    let mut draft = Draft {
        plan: (*view.plan).clone(),
        generation: view.plan.generation.next(),
        touched: false,
        unmet: Vec::new(),
        let_go: BTreeMap::new(),
    };
    draft.plan.next_instance = draft.plan.next_instance.max(1);
    verdicts::judge(view, &mut draft);
    exclusive::clear(view, &mut draft);
    let ground = Ground::new(view, &draft.plan);
    roles::move_once(&ground, &mut draft);
    for _ in 0..ROUNDS_MAX {
        draft.touched = false;
        draft.unmet.clear();
        voters::settle(&ground, &mut draft);
        roles::settle(&ground, &mut draft);
        instances::settle(&ground, &mut draft);
        storage::settle(&ground, &mut draft);
        if !draft.touched {
            break;
        }
    }
    exclusive::remember(&ground, &mut draft);
    exclusive::list_candidates(&ground, &mut draft);
    addresses::list(&ground, &mut draft);
    let mut next = draft.plan;
    next.unmet = draft.unmet;
    next.unmet.sort();
    next.unmet.dedup();
    if next == *view.plan {
        return next;
    }
    next.generation = draft.generation;
    next.spec_index = view.spec_index;
    next
}

/// The plan while it is made.
struct Draft {
    plan: Plan,
    /// The generation it will have.
    generation: Generation,
    /// Something was changed in this round.
    touched: bool,
    unmet: Vec<Unmet>,
    /// Services whose last exclusive instance has let go now, and why it was dropped.
    let_go: BTreeMap<(AppName, ServiceName), Reason>,
}

impl Draft {
    fn unmet(&mut self, subject: impl Into<String>, reason: impl Into<String>) {
        self.unmet.push(Unmet { subject: subject.into(), reason: reason.into() });
    }
}

fn reason(because: Because, text: impl Into<String>) -> Reason {
    Reason { because, text: text.into() }
}
