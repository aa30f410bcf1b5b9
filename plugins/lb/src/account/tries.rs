//! The tries of one request, without a list that grows: the first ones and the last one are known.

use std::sync::Arc;

use hirsel_model::Timestamp;
use hirsel_role::requests::Tried;

use crate::instance::Instance;
use crate::memory::tried;
use crate::replay::Failure;

/// Tries that are known of a request. Almost all have one.
const KNOWN: usize = 4;

/// The tries of one request.
#[derive(Debug, Default)]
pub struct Tries {
    known: [Option<Try>; KNOWN],
    count: u32,
}

#[derive(Debug)]
struct Try {
    instance: Arc<Instance>,
    begun: Timestamp,
    outcome: Outcome,
    ended: Timestamp,
}

/// How a try ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It has not, or whoever waited for it gave up.
    UnderWay,
    /// The head of an answer came.
    Answered,
    /// It failed.
    Failed(Failure),
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Outcome::UnderWay => "given_up",
            Outcome::Answered => "answered",
            Outcome::Failed(failure) => match failure {
                Failure::NotWritten => "not_connected",
                Failure::Broken => "broken",
                Failure::Lost => "lost",
                Failure::TimedOut => "timeout",
                Failure::Slow => "slow",
                Failure::Refused => "refused",
                Failure::Reset(_) => "reset",
                Failure::Garbled => "garbled",
                Failure::ClientGone => "client_gone",
            },
        }
    }
}

impl Tries {
    /// A try of `instance` begins.
    pub fn begin(&mut self, instance: &Arc<Instance>, now: Timestamp) {
        let place = usize::try_from(self.count).unwrap_or(KNOWN).min(KNOWN - 1);
        self.count += 1;
        self.known[place] =
            Some(Try { instance: instance.clone(), begun: now, outcome: Outcome::UnderWay, ended: now });
    }

    /// The one of `instance` that was begun last ended. Two may be under way at once.
    pub fn end(&mut self, instance: &Arc<Instance>, outcome: Outcome, now: Timestamp) {
        let mine = |one: &&mut Try| Arc::ptr_eq(&one.instance, instance);
        if let Some(one) = self.known.iter_mut().rev().flatten().find(mine) {
            one.outcome = outcome;
            one.ended = now;
        }
    }

    /// How many there were.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The instance that answered, or else the one that was tried last.
    pub fn instance(&self) -> Option<&Arc<Instance>> {
        let known = || self.known.iter().rev().flatten();
        let one = known().find(|one| one.outcome == Outcome::Answered).or_else(|| known().next())?;
        Some(&one.instance)
    }

    /// What is known of them, in times since `begun`, when the request began.
    pub fn told(&self, begun: Timestamp) -> impl Iterator<Item = Tried> {
        let ms = |from: Timestamp, to: Timestamp| u64::try_from(to.since(from).as_millis()).unwrap_or(u64::MAX);
        self.known.iter().flatten().map(move |one| {
            tried(&one.instance.whom, ms(begun, one.begun), ms(one.begun, one.ended), one.outcome.word())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::Whom;
    use hirsel_model::spec::AppProtocol;

    #[test]
    fn the_first_ones_and_the_last_are_known() {
        let mut tries = Tries::default();
        let outside = |number: u8| {
            let whom = Whom::Outside(([10, 0, 0, number], 80).into());
            Arc::new(Instance::new(whom, AppProtocol::Http1, Arc::default()))
        };
        tries.end(&outside(9), Outcome::Answered, Timestamp(1));
        assert_eq!((tries.count(), tries.told(Timestamp(0)).count()), (0, 0));
        for number in 1..=7u64 {
            let instance = outside(number as u8);
            tries.begin(&instance, Timestamp(100 + 10 * number));
            if number < 7 {
                tries.end(&instance, Outcome::Failed(Failure::NotWritten), Timestamp(105 + 10 * number));
            }
        }
        let told: Vec<_> =
            tries.told(Timestamp(100)).map(|it| (it.whom, it.after_ms, it.took_ms, it.outcome)).collect();
        let failed = |whom: &str, after| (whom.to_owned(), after, 5, "not_connected".to_owned());
        let last = ("10.0.0.7:80".to_owned(), 70, 0, "given_up".to_owned());
        assert_eq!(told, [failed("10.0.0.1:80", 10), failed("10.0.0.2:80", 20), failed("10.0.0.3:80", 30), last]);
        assert_eq!((tries.count(), tries.instance().map(|it| it.whom.to_string())), (7, Some("10.0.0.7:80".into())));
    }
    #[test]
    fn of_two_at_once_the_one_that_answers_counts() {
        let instances = [1, 2].map(|number| {
            let whom = Whom::Outside(([10, 0, 0, number], 80).into());
            Arc::new(Instance::new(whom, AppProtocol::Http1, Arc::default()))
        });
        let mut tries = Tries::default();
        instances.iter().for_each(|instance| tries.begin(instance, Timestamp(0)));
        tries.end(&instances[0], Outcome::Answered, Timestamp(7));
        let told: Vec<_> = tries.told(Timestamp(0)).map(|it| (it.took_ms, it.outcome)).collect();
        assert_eq!(told, [(7, "answered".to_owned()), (0, "given_up".to_owned())]);
        assert!(tries.instance().is_some_and(|it| Arc::ptr_eq(it, &instances[0])));
    }
}
