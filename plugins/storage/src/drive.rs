//! Carries out what [`crate::spread`] and [`crate::gather`] decide.
//!
//! All attempts run in the task of who asked, so whoever stops asking ends them. Time is that of tokio, which is virtual where time is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::future::{AbortHandle, Abortable};
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until};

use crate::gather::{End, Gather};
use crate::spread::{Do, Outcome, Spread};

/// How often is looked whether attempts went on: a target that stands still is found this much late.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Says that an attempt goes on.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<AtomicU64>);

impl Progress {
    /// It went on.
    pub fn moved(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Sends each piece to its target with `send(piece, target, …)`, until the write has ended.
pub async fn spread<F>(mut write: Spread, send: impl Fn(usize, usize, Progress) -> F) -> Outcome
where
    F: Future<Output = Result<(), String>>,
{
    let begun = Instant::now();
    let mut running = FuturesUnordered::new();
    let mut attempts: Vec<(AbortHandle, Progress, u64)> = Vec::new();
    loop {
        let now = begun.elapsed();
        for (attempt, (_, progress, seen)) in attempts.iter_mut().enumerate() {
            let count = progress.count();
            if count != *seen {
                *seen = count;
                write.moved(attempt, now);
            }
        }
        for todo in write.decide(now) {
            match todo {
                Do::Begin { attempt, piece, target } => {
                    let progress = Progress::default();
                    let (handle, registration) = AbortHandle::new_pair();
                    let sent = Abortable::new(send(piece, target, progress.clone()), registration);
                    running.push(async move { (attempt, sent.await) });
                    attempts.push((handle, progress, 0));
                }
                Do::GiveUp { attempt } => attempts[attempt].0.abort(),
            }
        }
        if let Some(outcome) = write.outcome(now) {
            return outcome;
        }
        let wake = write.wake(now).min(now + LOOK_EVERY);
        tokio::select! {
            Some((attempt, sent)) = running.next() => match sent {
                Ok(Ok(())) => write.done(attempt, begun.elapsed()),
                Ok(Err(why)) => write.failed(attempt, why),
                // Given up; that was decided.
                Err(_) => {}
            },
            () = sleep_until(begun + wake) => {}
        }
    }
}

/// Asks sources with `ask(source)` until enough have answered: what they said, by source, or why each did not. `hedged` is called for each that
/// is asked since others are slow.
pub async fn gather<T, F>(
    mut read: Gather,
    ask: impl Fn(usize) -> F,
    hedged: impl Fn(),
) -> Result<Vec<(usize, T)>, Vec<(usize, String)>>
where
    F: Future<Output = Result<T, String>>,
{
    let begun = Instant::now();
    let mut running = FuturesUnordered::new();
    let (mut answers, mut failures) = (Vec::new(), Vec::new());
    loop {
        let (now, hedges) = (begun.elapsed(), read.hedges());
        for source in read.decide(now) {
            let asked = ask(source);
            running.push(async move { (source, asked.await) });
        }
        (hedges..read.hedges()).for_each(|_| hedged());
        match read.end(now) {
            Some(End::Enough) => return Ok(answers),
            Some(End::TooFew) => return Err(failures),
            None => {}
        }
        tokio::select! {
            Some((source, answer)) = running.next() => match answer {
                Ok(answer) => {
                    read.answered();
                    answers.push((source, answer));
                }
                Err(why) => {
                    read.failed();
                    failures.push((source, why));
                }
            },
            () = sleep_until(begun + read.wake()) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::spread::Goal;

    const HEDGE_AFTER: Duration = Duration::from_millis(50);

    #[tokio::test(start_paused = true)]
    async fn a_frozen_target_costs_half_a_second_and_one_that_goes_on_nothing() {
        let begun = Instant::now();
        let goal = Goal { needed: 3, least: 2 };
        let outcome = spread(Spread::new(3, 4, goal), |_, target, progress| async move {
            match target {
                0 => std::future::pending().await,
                1 => {
                    // Three seconds in all, and something each 300 ms.
                    for _ in 0..10 {
                        tokio::time::sleep(Duration::from_millis(300)).await;
                        progress.moved();
                    }
                    Ok(())
                }
                _ => Ok(()),
            }
        });
        let outcome = outcome.await;
        assert_eq!(outcome.places, [Some(3), Some(1), Some(2)]);
        assert_eq!(outcome.missed.len(), 1);
        assert_eq!(begun.elapsed().as_millis(), 3_000);

        let begun = Instant::now();
        let outcome = spread(Spread::new(3, 3, goal), |_, target, _| async move {
            if target == 2 { std::future::pending().await } else { Ok(()) }
        });
        assert!(outcome.await.is_written);
        assert!(begun.elapsed() <= Duration::from_millis(600), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_takes_who_answers_first() {
        let (begun, hedges) = (Instant::now(), Cell::new(0));
        let ask = |source| async move {
            match source {
                0 => std::future::pending().await,
                1 => Err("damaged".to_owned()),
                _ => Ok(source * 10),
            }
        };
        let answers = gather(Gather::new(3, 1, HEDGE_AFTER), ask, || hedges.set(hedges.get() + 1));
        assert_eq!(answers.await, Ok(vec![(2, 20)]));
        assert_eq!(begun.elapsed().as_millis(), 100, "hedged twice, since one is still asked");
        assert_eq!(hedges.get(), 2);
        let fail = |source| async move { Err(format!("{source}")) };
        let none: Result<Vec<(usize, ())>, _> =
            gather(Gather::new(2, 1, HEDGE_AFTER), fail, || panic!("who fails is not slow")).await;
        assert_eq!(none.unwrap_err().len(), 2);
    }
}
