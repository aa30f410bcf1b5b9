//! Decides the next step of one instance. Pure: told what is wanted, what the host runs, what is remembered, and the time.

use std::time::Duration;

use hirsel_model::plan::Phase;
use hirsel_model::spec::StopSpec;
use hirsel_model::{Revision, Timestamp};
use hirsel_role::host::ProcessState;

/// First wait before a program that ended is started again. Short: most ends are accidents.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// Longest wait: a program that cannot run costs next to nothing, and one whose database came back is up within half a minute.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// After running for this long a program is no longer one that cannot run.
pub(crate) const STEADY_AFTER: Duration = Duration::from_secs(60);
/// A kill that had no effect is repeated: a process may have been forked off in that moment.
const KILL_AGAIN: Duration = Duration::from_secs(1);

/// What the order says of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub revision: Revision,
    pub phase: Phase,
    /// It is not exclusive, or its node holds a grant for it that is good for a while.
    pub may_act: bool,
    /// What it has to be told, and what has not come yet.
    pub lacks: Lacks,
}

/// What an instance has to be told before it can start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Lacks {
    /// It is all here.
    #[default]
    Nothing,
    /// The values of its secrets.
    Secrets,
    /// The access key of its application.
    AccessKey,
    /// A bucket that it names, which is not made yet.
    Bucket,
}

/// What the host says of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found<'a> {
    pub revision: Revision,
    pub state: &'a ProcessState,
}

/// What is remembered of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Past {
    /// An action is under way.
    pub busy: bool,
    /// That action only removes what an ended process left.
    pub forgetting: bool,
    /// Since when it is being stopped, and when it was last killed.
    pub stopping: Option<Stopping>,
    /// When it may be started (again).
    pub start_at: Option<Timestamp>,
}

/// A stop that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stopping {
    pub since: Timestamp,
    pub killed: Option<Timestamp>,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing, until something changes or this moment comes.
    Wait { until: Option<Timestamp> },
    /// Start it.
    Start,
    /// Ask it to stop.
    Stop,
    /// End it by force.
    Kill,
    /// It ended, and is not wanted any more.
    Forget,
}

/// The next step of one instance.
pub(crate) fn step(
    wanted: Option<Wanted>,
    found: Option<Found<'_>>,
    past: &Past,
    stop: &StopSpec,
    now: Timestamp,
) -> Step {
    if past.busy {
        return Step::Wait { until: None };
    }
    match found {
        Some(Found { state: ProcessState::Running { .. }, revision }) => match past.stopping {
            // What began to stop is stopped, even if it is wanted again: half of it may be gone.
            Some(stopping) => stop_further(stopping, stop, now),
            None if wanted.is_none_or(|wanted| wanted.revision != revision) => Step::Stop,
            None => Step::Wait { until: None },
        },
        Some(Found {
            state: ProcessState::Exited { .. } | ProcessState::Killed { .. } | ProcessState::Lost { .. },
            ..
        }) => wanted.map_or(Step::Forget, |wanted| start(wanted, past, now)),
        None => wanted.map_or(Step::Wait { until: None }, |wanted| start(wanted, past, now)),
    }
}

fn start(wanted: Wanted, past: &Past, now: Timestamp) -> Step {
    match (wanted.phase, past.start_at) {
        // Its requests are gone with it; another one takes its place.
        (Phase::Draining, _) => Step::Wait { until: None },
        // A grant wakes whoever waits for it, and so does a value. What runs without a grant is ended by its shim.
        (Phase::Active, _) if !wanted.may_act || wanted.lacks != Lacks::Nothing => Step::Wait { until: None },
        (Phase::Active, Some(at)) if at > now => Step::Wait { until: Some(at) },
        (Phase::Active, _) => Step::Start,
    }
}

fn stop_further(stopping: Stopping, stop: &StopSpec, now: Timestamp) -> Step {
    let kill_at = match stopping.killed {
        None => stopping.since + Duration::from_millis(stop.grace_ms),
        Some(killed) => killed + KILL_AGAIN,
    };
    if now >= kill_at { Step::Kill } else { Step::Wait { until: Some(kill_at) } }
}

/// How long a program rests after its `failures`-th end in a row, counted from one.
pub(crate) fn backoff(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    (BACKOFF_FIRST * (1 << doublings)).min(BACKOFF_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNS: ProcessState = ProcessState::Running { pid: 7 };
    const ENDED: ProcessState = ProcessState::Exited { code: 1 };
    const WAIT: Step = Step::Wait { until: None };

    fn wanted(phase: Phase) -> Option<Wanted> {
        Some(Wanted { revision: Revision(2), phase, may_act: true, lacks: Lacks::Nothing })
    }

    fn found(state: &ProcessState) -> Option<Found<'_>> {
        Some(Found { revision: Revision(2), state })
    }

    fn at(ms: u64, wanted: Option<Wanted>, found: Option<Found<'_>>, past: &Past) -> Step {
        step(wanted, found, past, &StopSpec { grace_ms: 500, ..StopSpec::default() }, Timestamp(ms))
    }

    #[test]
    fn what_is_listed_and_absent_is_started_and_what_runs_is_left_alone() {
        let past = Past::default();
        assert_eq!(at(0, wanted(Phase::Active), None, &past), Step::Start);
        assert_eq!(at(0, wanted(Phase::Active), found(&RUNS), &past), WAIT);
        assert_eq!(at(0, wanted(Phase::Draining), found(&RUNS), &past), WAIT);
        assert_eq!(at(0, None, None, &past), WAIT);
    }

    #[test]
    fn what_runs_and_is_not_listed_is_asked_then_killed_then_killed_again() {
        let mut past = Past::default();
        assert_eq!(at(100, None, found(&RUNS), &past), Step::Stop);
        past.stopping = Some(Stopping { since: Timestamp(100), killed: None });
        assert_eq!(at(599, None, found(&RUNS), &past), Step::Wait { until: Some(Timestamp(600)) });
        assert_eq!(at(600, None, found(&RUNS), &past), Step::Kill);
        past.stopping = Some(Stopping { since: Timestamp(100), killed: Some(Timestamp(600)) });
        assert_eq!(at(601, None, found(&RUNS), &past), Step::Wait { until: Some(Timestamp(1600)) });
        assert_eq!(at(1600, None, found(&RUNS), &past), Step::Kill);
        assert_eq!(at(1601, None, found(&ENDED), &past), Step::Forget);
    }

    #[test]
    fn what_began_to_stop_is_stopped_even_if_it_is_wanted_again() {
        let past = Past { stopping: Some(Stopping { since: Timestamp(0), killed: None }), ..Past::default() };
        assert_eq!(at(500, wanted(Phase::Active), found(&RUNS), &past), Step::Kill);
        assert_eq!(at(500, wanted(Phase::Active), found(&ENDED), &past), Step::Start);
    }

    #[test]
    fn what_ended_rests_before_it_is_started_again_and_a_draining_one_is_not() {
        let past = Past { start_at: Some(Timestamp(200)), ..Past::default() };
        assert_eq!(at(199, wanted(Phase::Active), found(&ENDED), &past), Step::Wait { until: Some(Timestamp(200)) });
        assert_eq!(at(200, wanted(Phase::Active), found(&ENDED), &past), Step::Start);
        assert_eq!(at(900, wanted(Phase::Draining), found(&ENDED), &past), WAIT);
        assert_eq!(at(900, wanted(Phase::Draining), None, &past), WAIT);
    }

    #[test]
    fn another_revision_of_the_same_instance_makes_way() {
        let older = Some(Found { revision: Revision(1), state: &RUNS });
        assert_eq!(at(0, wanted(Phase::Active), older, &Past::default()), Step::Stop);
        assert_eq!(
            at(0, wanted(Phase::Active), Some(Found { revision: Revision(1), state: &ENDED }), &Past::default()),
            Step::Start
        );
    }

    #[test]
    fn nothing_is_done_twice_at_once() {
        let past = Past { busy: true, ..Past::default() };
        for state in [&RUNS, &ENDED] {
            for wish in [None, wanted(Phase::Active), wanted(Phase::Draining)] {
                assert_eq!(at(0, wish, found(state), &past), WAIT);
            }
        }
    }

    #[test]
    fn the_rest_doubles_up_to_its_limit() {
        let rests: Vec<u128> = (0..12).map(|failures| backoff(failures).as_millis()).collect();
        assert_eq!(rests, [100, 100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]);
        assert_eq!(backoff(u32::MAX), BACKOFF_MAX);
    }
}
