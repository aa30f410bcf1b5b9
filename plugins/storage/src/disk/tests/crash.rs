//! The power is lost at any operation, and whatever was acknowledged is there.
//!
//! A script of puts, condemnations, unlinkings, evictions and compactions, many at once, is run against a volume whose power fails inside the n-th
//! operation that changes something, for every n; then by chance, over several lives, some of which end without a loss of power. What
//! must be there is kept beside it.

use futures::future::BoxFuture;
use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;

/// What is known of a chunk from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Being there was acknowledged, or seen.
    There { condemned: Maybe },
    /// It may be there or not.
    Unknown { condemned: Maybe },
    /// It is not there, and may come again.
    Away,
    /// It is not there, and never will be.
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Maybe {
    No,
    Perhaps,
    Yes,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Put(u64, usize),
    Condemn(u64),
    Unlink(u64),
    Evict(u64),
    /// Puts what was there before, unless it is gone for good.
    Again(u64),
    Compact,
    Scrub,
}

#[derive(Debug, Default)]
struct Book {
    chunks: BTreeMap<u64, (usize, State)>,
}

impl Book {
    fn condemned(&self, n: u64) -> Maybe {
        match self.chunks.get(&n) {
            Some((_, State::There { condemned } | State::Unknown { condemned })) => *condemned,
            _ => Maybe::No,
        }
    }

    /// What is to be put again.
    fn again(&self, n: u64) -> Option<usize> {
        self.chunks.get(&n).filter(|(_, state)| *state != State::Gone).map(|(bytes, _)| *bytes)
    }

    /// It is evicted or comes again, and something else is done to it in the same moment.
    fn is_contested(&mut self, n: u64) {
        if let Some((_, state)) = self.chunks.get_mut(&n)
            && *state != State::Gone
        {
            *state = State::Unknown { condemned: Maybe::Perhaps };
        }
    }

    /// A step is about to be tried.
    fn tries(&mut self, step: Step) {
        match step {
            Step::Evict(n) => {
                let condemned = self.condemned(n);
                if condemned != Maybe::Yes
                    && let Some((_, state)) = self.chunks.get_mut(&n)
                    && !matches!(state, State::Gone | State::Away)
                {
                    *state = State::Unknown { condemned };
                }
            }
            Step::Again(n) => {
                if let Some((_, state)) = self.chunks.get_mut(&n)
                    && *state == State::Away
                {
                    *state = State::Unknown { condemned: Maybe::No };
                }
            }
            Step::Put(n, bytes) => {
                self.chunks.entry(n).or_insert((bytes, State::Unknown { condemned: Maybe::No }));
            }
            Step::Condemn(n) => {
                if let Some((_, State::There { condemned } | State::Unknown { condemned })) = self.chunks.get_mut(&n)
                    && *condemned == Maybe::No
                {
                    *condemned = Maybe::Perhaps;
                }
            }
            Step::Unlink(n) => {
                let condemned = self.condemned(n);
                // Refused unless it was condemned.
                if condemned != Maybe::No
                    && let Some((_, state)) = self.chunks.get_mut(&n)
                    && *state != State::Gone
                {
                    *state = State::Unknown { condemned };
                }
            }
            Step::Compact | Step::Scrub => {}
        }
    }

    /// It was acknowledged.
    fn did(&mut self, step: Step, known: bool) {
        match step {
            Step::Put(n, _) => {
                let condemned = self.condemned(n);
                self.chunks.entry(n).and_modify(|(_, state)| *state = State::There { condemned });
            }
            Step::Again(n) => {
                let condemned = self.condemned(n);
                self.chunks.entry(n).and_modify(|(_, state)| *state = State::There { condemned });
            }
            Step::Evict(n) => {
                if let Some((_, state @ State::Unknown { .. })) = self.chunks.get_mut(&n)
                    && known
                {
                    *state = State::Away;
                }
            }
            // One that is unlinked in the same moment is condemned at most.
            Step::Condemn(n) if known => {
                if let Some((_, State::There { condemned } | State::Unknown { condemned })) = self.chunks.get_mut(&n) {
                    *condemned = Maybe::Yes;
                }
            }
            Step::Unlink(n) if known => {
                self.chunks.entry(n).and_modify(|(_, state)| *state = State::Gone);
            }
            _ => {}
        }
    }

    /// Looks whether a disk is as it must be, and takes down what is seen.
    async fn check(&mut self, disk: &Disk, about: &str) {
        let mut listed: BTreeMap<ChunkId, Listed> = BTreeMap::new();
        while let Some(last) = { listed.keys().next_back().copied() }.map_or(Some(None), |last| Some(Some(last))) {
            let some = disk.list(last);
            if some.is_empty() {
                break;
            }
            listed.extend(some.into_iter().map(|one| (one.chunk, one)));
        }
        for (n, (bytes, state)) in &mut self.chunks {
            let found = listed.remove(&id(*n));
            let seen = found.map(|found| found.condemned);
            let agrees = |condemned: Maybe, seen: bool| match condemned {
                Maybe::No => !seen,
                Maybe::Perhaps => true,
                Maybe::Yes => seen,
            };
            let fits = match (*state, seen) {
                (State::There { condemned } | State::Unknown { condemned }, Some(seen)) => agrees(condemned, seen),
                (State::There { .. }, None) => false,
                (State::Unknown { .. } | State::Gone | State::Away, None) => true,
                (State::Gone | State::Away, Some(_)) => false,
            };
            assert!(fits, "{about}: chunk {n} is {state:?} and is seen as {seen:?}");
            *state = match seen {
                None if matches!(state, State::Away | State::Unknown { condemned: Maybe::No }) => State::Away,
                None => State::Gone,
                Some(true) => State::There { condemned: Maybe::Yes },
                Some(false) => State::There { condemned: Maybe::No },
            };
            if found.is_some() {
                assert_eq!(get(disk, id(*n)).await.as_ref(), Ok(&content(*n, *bytes)), "{about}: chunk {n}");
            }
        }
        assert!(listed.is_empty(), "{about}: nobody wrote {listed:?}");
    }
}

/// Runs steps, all of a group at once. Ends early when something failed.
async fn run(disk: &Disk, book: &mut Book, groups: &[Vec<Step>]) {
    for group in groups {
        group.iter().for_each(|step| book.tries(*step));
        let again: BTreeMap<u64, usize> = book.chunks.keys().filter_map(|n| Some((*n, book.again(*n)?))).collect();
        let again = &again;
        let steps = group.iter().map(|step| -> BoxFuture<'_, Result<bool, DiskError>> {
            Box::pin(async move {
                match *step {
                    Step::Put(n, bytes) => put(disk, id(n), &content(n, bytes)).await.map(|_| true),
                    Step::Condemn(n) => disk.condemn(id(n)).await,
                    Step::Unlink(n) => disk.unlink(id(n)).await,
                    Step::Evict(n) => disk.evict(&[id(n)]).await.map(|evicted| evicted > 0),
                    Step::Again(n) => match again.get(&n) {
                        None => Err(DiskError::Condemned(id(n))),
                        Some(bytes) => put(disk, id(n), &content(n, *bytes)).await.map(|_| true),
                    },
                    Step::Compact => disk.compact().await.map(|freed| freed.is_some()),
                    Step::Scrub => {
                        let looked = disk.scrub(30_000, 1).await;
                        if let Ok(step) = &looked {
                            // Without power nothing can be read.
                            assert!(step.damaged.is_empty() || disk.usage().await.is_err(), "{step:?}");
                        }
                        looked.map(|_| true)
                    }
                }
            })
        });
        for (step, done) in group.iter().zip(join_all(steps).await) {
            if let Ok(known) = done {
                book.did(*step, known);
            }
        }
        let of = |step: &Step| match *step {
            Step::Put(n, _) | Step::Condemn(n) | Step::Unlink(n) | Step::Evict(n) | Step::Again(n) => Some(n),
            Step::Compact | Step::Scrub => None,
        };
        for step in group {
            if let Step::Evict(n) | Step::Again(n) = *step
                && group.iter().filter(|other| of(other) == Some(n)).count() > 1
            {
                book.is_contested(n);
            }
        }
    }
}

fn script() -> Vec<Vec<Step>> {
    let puts = |range: std::ops::Range<u64>, bytes: usize| range.map(|n| Step::Put(n, bytes)).collect::<Vec<_>>();
    vec![
        puts(0..12, 3_000),
        vec![Step::Put(50, 270_000), Step::Put(12, 60_000), Step::Put(51, 263_000)],
        (0..9).map(Step::Condemn).chain([Step::Condemn(50)]).collect(),
        (0..8).map(Step::Unlink).chain([Step::Unlink(50), Step::Put(13, 700)]).collect(),
        vec![Step::Scrub],
        vec![Step::Compact, Step::Put(14, 900), Step::Unlink(8), Step::Condemn(9)],
        vec![Step::Compact, Step::Unlink(9)],
        vec![Step::Put(15, 100), Step::Scrub],
        vec![Step::Evict(10), Step::Evict(51), Step::Evict(14)],
        vec![Step::Again(10), Step::Again(51), Step::Put(16, 5_000)],
        vec![Step::Evict(10), Step::Evict(11), Step::Compact],
        vec![Step::Again(10), Step::Compact],
    ]
}

async fn cut_at(n: u64, seed: Option<u64>) -> bool {
    let about = format!("cut at {n} with {seed:?}");
    let platter = laid_out();
    let mut book = Book::default();
    let disk = open(&platter).await;
    let before = platter.operations();
    platter.fail_power_after(n);
    run(&disk, &mut book, &script()).await;
    let whole = platter.operations() - before <= n;
    drop(disk);
    let mut rng = seed.map(SmallRng::seed_from_u64);
    platter.lose_power(rng.as_mut());
    let disk = open(&platter).await;
    book.check(&disk, &about).await;
    // It goes on as if nothing had been, and a start that is cut in turn costs nothing either.
    run(&disk, &mut book, &[vec![Step::Put(90, 2_000), Step::Put(91, 264_000)], vec![Step::Compact]]).await;
    drop(disk);
    platter.lose_power(rng.as_mut());
    book.check(&open(&platter).await, &about).await;
    whole
}

#[tokio::test]
async fn the_power_may_fail_inside_every_operation() {
    let mut n = 0;
    loop {
        let whole = cut_at(n, None).await;
        for seed in 0..3 {
            cut_at(n, Some(n * 3 + seed)).await;
        }
        if whole {
            break;
        }
        n += 1;
    }
    assert!(n > 40, "the script has {n} operations only");
}

async fn lives(seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let platter = laid_out();
    let mut book = Book::default();
    let mut next = 0;
    for life in 0..5 {
        let mount = platter.mount();
        if rng.random_bool(0.3) {
            // The start itself is cut off.
            platter.fail_power_after(rng.random_range(0..12));
        }
        let spawner = Spawner::new(tokio::runtime::Handle::current());
        if let Ok(disk) = Disk::open(mount, identity(), settings(), spawner).await {
            let groups: Vec<Vec<Step>> = (0..rng.random_range(1..8))
                .map(|_| {
                    (0..rng.random_range(1..12))
                        .map(|_| match rng.random_range(0..13) {
                            0..=4 => {
                                next += 1;
                                let large = rng.random_bool(0.1);
                                Step::Put(next, if large { 263_000 } else { rng.random_range(0..9_000) })
                            }
                            5 | 6 => Step::Condemn(rng.random_range(0..=next)),
                            7 => Step::Unlink(rng.random_range(0..=next)),
                            8 => Step::Compact,
                            9 | 10 => Step::Evict(rng.random_range(0..=next)),
                            11 => Step::Again(rng.random_range(0..=next)),
                            _ => Step::Scrub,
                        })
                        .collect()
                })
                .collect();
            if rng.random_bool(0.8) {
                platter.fail_power_after(rng.random_range(0..150));
            }
            run(&disk, &mut book, &groups).await;
        }
        if rng.random_bool(0.7) {
            platter.lose_power(Some(&mut rng))
        } else {
            platter.unmount()
        }
        let disk = open(&platter).await;
        book.check(&disk, &format!("seed {seed}, life {life}")).await;
    }
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_over_many_lives() {
    for seed in 0..100 {
        lives(seed).await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_a_segment_holds_its_reader_finds_records_inside_it(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
        let list = load::scan(&bytes, 1);
        prop_assert!(list.end as usize <= bytes.len().next_multiple_of(64) && list.entries.is_empty());
    }
}
