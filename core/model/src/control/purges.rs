//! Answers that load balancers shall forget.

use super::{Context, ControlState, Outcome, Refusal, not_found};
use crate::purge::Purged;

/// Has every load balancer forget `what`.
pub(super) fn purge(state: &mut ControlState, context: &Context, what: Purged) -> Result<Outcome, Refusal> {
    what.check().map_err(|error| Refusal::Invalid(error.to_string()))?;
    if let Purged::App(app) = &what
        && !state.spec.apps.contains_key(app)
    {
        return Err(not_found("app", app));
    }
    context.happened(state, "cache", &format!("load balancers forget what they keep: {what}"));
    // Nothing that is wanted changes by it: no plan is made anew.
    state.purges.record(context.index, what);
    Ok(context.done())
}

#[cfg(test)]
mod tests {
    use crate::control::samples::{cluster, named};
    use crate::control::{Command, ControlState, Entry, Outcome, Refusal};
    use crate::purge::Purged;
    use crate::time::WallTime;

    fn run(state: &mut ControlState, what: Purged) -> Outcome {
        let command = Command::Purge { what };
        state.apply(state.applied.next(), Entry { at: WallTime(0), by: String::new(), if_index: None, command })
    }

    #[test]
    fn a_purge_is_on_record_with_its_place_in_the_log_and_changes_nothing_that_is_wanted() {
        let mut state = cluster(1);
        let before = state.spec_index;
        let index = state.applied.next();
        assert_eq!(run(&mut state, Purged::Tag("p-17".into())), Outcome::Done { index });
        assert_eq!((state.purges.last(), state.spec_index), (index, before));
    }

    #[test]
    fn what_makes_no_sense_is_not_put_on_record() {
        let mut state = cluster(1);
        let empty = state.purges.clone();
        assert!(matches!(run(&mut state, Purged::Tag(" ".into())), Outcome::Refused(Refusal::Invalid(_))));
        assert!(matches!(run(&mut state, Purged::App(named("shop"))), Outcome::Refused(Refusal::NotFound { .. })));
        assert_eq!(state.purges, empty);
    }
}
