//! When less can be lost than before: a pure decision over what is seen.

use std::time::Duration;

use hirsel_model::Timestamp;

/// A change must last this long: a node that is late for a moment is no news.
const SETTLED: Duration = Duration::from_secs(3);
/// A drop that was not this holder's to tell is kept so long, for its teller may have fallen with it.
const INHERITED: Duration = Duration::from_secs(60);

/// Less can be lost than before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drop {
    /// Before.
    pub from: u32,
    /// Now.
    pub to: u32,
}

/// What was seen so far.
#[derive(Debug, Default)]
pub struct Watcher {
    settled: Option<u32>,
    candidate: Option<(u32, Timestamp)>,
    untold: Option<(Drop, Timestamp)>,
}

impl Watcher {
    /// Takes in what can be lost at `now`, and says what to tell, if it is this holder's to tell.
    pub fn look(&mut self, now: Timestamp, can_lose: u32, tells: bool) -> Option<Drop> {
        match self.candidate {
            Some((value, _)) if value == can_lose => {}
            _ => self.candidate = Some((can_lose, now)),
        }
        if let Some((value, since)) = self.candidate
            && now.since(since) >= SETTLED
        {
            let before = self.settled.replace(value);
            if let Some(from) = before.filter(|before| *before > value) {
                self.untold = Some((Drop { from, to: value }, now));
            } else if before.is_some_and(|before| before < value) {
                self.untold = None;
            }
        }
        self.untold = self.untold.take().filter(|(_, at)| now.since(*at) < INHERITED);
        if tells { self.untold.take().map(|(drop, _)| drop) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks every second; the digit is what can be lost, `*` after it means that this holder tells.
    fn told(story: &str) -> Vec<(u64, u32, u32)> {
        let mut watcher = Watcher::default();
        let mut out = Vec::new();
        for (second, word) in (0..).zip(story.split(' ')) {
            let can_lose = word[..1].parse().unwrap();
            if let Some(drop) = watcher.look(Timestamp(second * 1000), can_lose, word.ends_with('*')) {
                out.push((second, drop.from, drop.to));
            }
        }
        out
    }

    #[test]
    fn a_drop_that_lasts_is_told_once() {
        assert_eq!(told("2* 2* 2* 2* 1* 1* 1* 1* 1* 1* 1*"), [(7, 2, 1)]);
    }

    #[test]
    fn a_moment_of_doubt_and_a_rise_are_not_told() {
        assert!(told("2* 2* 2* 2* 1* 1* 2* 2* 2* 2* 3* 3* 3* 3*").is_empty());
    }

    #[test]
    fn what_is_seen_first_is_no_drop() {
        assert!(told("0* 0* 0* 0* 0*").is_empty());
    }

    #[test]
    fn who_inherits_the_duty_tells_what_nobody_told() {
        assert_eq!(told("2 2 2 2 1 1 1 1 1 1* 1*"), [(9, 2, 1)]);
    }

    #[test]
    fn old_news_is_not_told() {
        let mut watcher = Watcher::default();
        for (second, can_lose) in [(0, 2), (3, 2), (4, 1), (7, 1)] {
            assert_eq!(watcher.look(Timestamp(second * 1000), can_lose, false), None);
        }
        assert_eq!(watcher.look(Timestamp(68_000), 1, true), None);
    }
}
