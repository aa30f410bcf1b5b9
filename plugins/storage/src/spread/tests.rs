use proptest::prelude::*;

use super::*;

const COPIES: Goal = Goal { needed: 3, least: 2 };

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn begins(todo: &[Do]) -> Vec<(usize, usize)> {
    let begun = |it: &Do| match it {
        Do::Begin { piece, target, .. } => Some((*piece, *target)),
        Do::GiveUp { .. } => None,
    };
    todo.iter().filter_map(begun).collect()
}

#[test]
fn three_copies_go_to_the_first_three_and_that_is_all() {
    let mut write = Spread::new(3, 5, COPIES);
    assert_eq!(begins(&write.decide(ms(0))), [(0, 0), (1, 1), (2, 2)]);
    assert_eq!(write.outcome(ms(0)), None);
    (0..3).for_each(|attempt| write.done(attempt, ms(3)));
    assert!(write.decide(ms(3)).is_empty());
    let outcome = write.outcome(ms(3)).unwrap();
    assert_eq!((outcome.places, outcome.missed, outcome.is_written), (vec![Some(0), Some(1), Some(2)], vec![], true));
}

#[test]
fn one_that_fails_is_replaced_at_once_and_one_that_stands_still_after_a_while() {
    let mut write = Spread::new(3, 5, COPIES);
    write.decide(ms(0));
    write.failed(1, "the disk is full".into());
    assert_eq!(begins(&write.decide(ms(2))), [(1, 3)]);
    write.done(0, ms(4));
    write.done(3, ms(4));
    assert_eq!(write.wake(ms(4)), SLOW);
    write.moved(2, ms(300));
    assert!(write.decide(ms(600)).is_empty(), "it went on");
    assert_eq!(write.wake(ms(600)), ms(800));
    assert_eq!(write.decide(ms(800)), [Do::Begin { attempt: 4, piece: 2, target: 4 }]);
    let mut other = write.clone();
    write.done(4, ms(810));
    assert_eq!(write.decide(ms(810)), [Do::GiveUp { attempt: 2 }]);
    write.done(2, ms(815));
    let outcome = write.outcome(ms(815)).unwrap();
    assert_eq!(outcome.places, [Some(0), Some(3), Some(4)]);
    assert_eq!(outcome.missed.iter().map(|missed| missed.target).collect::<Vec<_>>(), [1, 2]);
    other.done(2, ms(805));
    assert_eq!(other.decide(ms(805)), [Do::GiveUp { attempt: 4 }], "the slow one was faster after all");
    assert_eq!(other.outcome(ms(805)).unwrap().places, [Some(0), Some(3), Some(2)]);
}

#[test]
fn where_everybody_is_slow_a_write_is_slow() {
    let mut write = Spread::new(3, 5, COPIES);
    write.decide(ms(0));
    assert_eq!(begins(&write.decide(ms(500))), [(0, 3), (1, 4)], "all that there are to spare");
    assert!(write.decide(ms(1_000)).is_empty());
    assert_eq!((write.outcome(ms(1_000)), write.wake(ms(1_000))), (None, DEADLINE));
    write.done(1, ms(3_000));
    write.done(3, ms(3_000));
    let [first, second, third] = [Do::GiveUp { attempt: 0 }, Do::GiveUp { attempt: 2 }, Do::GiveUp { attempt: 4 }];
    assert_eq!(write.decide(ms(3_000)), [first, second, third], "two are the least, and nobody else is left");
    let outcome = write.outcome(ms(3_000)).unwrap();
    assert_eq!((outcome.places.clone(), outcome.is_written), (vec![Some(3), Some(1), None], true));
}

#[test]
fn without_anybody_to_spare_it_is_less_where_that_is_allowed() {
    let frozen = |least| {
        let mut write = Spread::new(3, 3, Goal { needed: 3, least });
        write.decide(ms(0));
        write.done(0, ms(2));
        write.done(1, ms(2));
        write.decide(ms(500));
        write
    };
    let outcome = frozen(2).outcome(ms(500)).unwrap();
    assert!(outcome.is_written && outcome.safe() == 2);
    assert_eq!(outcome.missed[0].target, 2);
    let mut strict = frozen(3);
    assert_eq!(strict.outcome(ms(500)), None, "it may yet come");
    assert_eq!(strict.wake(ms(500)), DEADLINE, "and nobody is busy waiting");
    strict.done(2, ms(4_000));
    assert!(strict.outcome(ms(4_000)).unwrap().is_written);
    assert!(!frozen(3).outcome(DEADLINE).unwrap().is_written);
    let mut few = Spread::new(3, 1, COPIES);
    few.decide(ms(0));
    few.done(0, ms(1));
    assert!(!few.outcome(ms(1)).unwrap().is_written, "never below the least");
}

#[test]
fn what_is_more_than_the_promise_is_waited_for_a_little() {
    // 8+3 that promises two losses.
    let mut write = Spread::new(11, 11, Goal { needed: 10, least: 9 });
    write.decide(ms(0));
    (0..10).for_each(|attempt| write.done(attempt, ms(20)));
    assert_eq!(write.outcome(ms(100)), None);
    assert_eq!(write.wake(ms(100)), ms(120));
    let outcome = write.outcome(ms(120)).unwrap();
    assert!(outcome.is_written && outcome.places[10].is_none());
    assert_eq!(outcome.missed, [Missed { piece: 10, target: 10, why: "it was not done in time".into() }]);
}

proptest! {
    /// Whatever targets do: it ends in time, no target has two pieces, and what is said to be safe is.
    #[test]
    fn every_write_ends_and_says_what_is_so(
        pieces in 1usize..8,
        spare in 0usize..5,
        needed in 1usize..8,
        least in 1usize..8,
        fates in prop::collection::vec((0u8..4, 0u64..700), 13),
    ) {
        let targets = pieces + spare;
        let mut write = Spread::new(pieces, targets, Goal { needed, least });
        let mut events: Vec<(Duration, usize, u8)> = Vec::new();
        let mut of = Vec::new();
        let mut now = ms(0);
        let outcome = loop {
            for todo in write.decide(now) {
                match todo {
                    Do::Begin { attempt, piece, target } => {
                        prop_assert_eq!(attempt, of.len());
                        of.push((piece, target));
                        let (fate, after) = fates[target];
                        if fate < 3 {
                            events.push((now + ms(after), attempt, fate));
                        }
                    }
                    Do::GiveUp { attempt } => events.retain(|(_, of, _)| *of != attempt),
                }
            }
            if let Some(outcome) = write.outcome(now) {
                break outcome;
            }
            let first = events.iter().map(|(at, ..)| *at).min();
            let wake = write.wake(now);
            prop_assert!(wake > now || first.is_some_and(|first| first <= now));
            now = first.map_or(wake, |first| first.min(wake)).max(now);
            let due: Vec<_> = events.extract_if(.., |(at, ..)| *at <= now).collect();
            for (_, attempt, fate) in due {
                if fate == 0 { write.failed(attempt, "no".into()) } else { write.done(attempt, now) }
            }
        };
        prop_assert!(now <= DEADLINE);
        let placed: Vec<usize> = outcome.places.iter().flatten().copied().collect();
        let mut distinct = placed.clone();
        distinct.sort_unstable();
        distinct.dedup();
        prop_assert_eq!(distinct.len(), placed.len());
        for (piece, place) in outcome.places.iter().enumerate() {
            if let Some(target) = place {
                prop_assert!(of.contains(&(piece, *target)) && matches!(fates[*target].0, 1 | 2));
            }
        }
        if (0..targets).all(|target| matches!(fates[target].0, 1 | 2)) {
            prop_assert!(outcome.is_written, "all were good: {outcome:?}");
        }
        let good = (0..targets).filter(|target| matches!(fates[*target], (1 | 2, after) if after < 500)).count();
        if good >= needed.min(pieces) {
            prop_assert!(outcome.is_written, "{good} were good: {outcome:?}");
        }
        prop_assert!(!outcome.is_written || outcome.safe() >= least.min(needed).min(pieces));
    }
}
