//! When a connection that carries many requests is asked whether it is still there, taken for dead, or ended for want of use.
//!
//! A question (PING) is only asked when nothing has come for a while although a request waits, and not again before something else than
//! its answer has come or minutes have passed: programs take those that ask more often for attackers (gRPC: two questions within five
//! minutes without data between them are forgiven, the third ends the connection).
//!
//! Pure: told what a sweep sees, every half second.

/// Nothing came for so many sweeps while a request waits: twenty seconds. Most answers are there by then, and of a node that is lost
/// gossip tells within a second or two.
const QUIET_SWEEPS: u32 = 2 * 20;

/// An answer to the question takes at most so many: ten seconds, as gRPC waits.
const ANSWER_SWEEPS: u32 = 2 * 10;

/// If nothing but the answer came since, the next question comes after so many: five minutes and a little.
const AGAIN_SWEEPS: u32 = 2 * 305;

/// A connection without a request is ended after so many: a minute.
const UNUSED_SWEEPS: u32 = 2 * 60;

/// Length of the frame that answers the question.
const PONG_BYTES: u64 = 17;

/// What is seen of a connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Bytes read so far.
    pub read_bytes: u64,
    /// Questions answered so far.
    pub answers: u64,
    /// Requests under way.
    pub streams: usize,
}

/// What is to be done with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Well,
    /// It is asked whether it is there.
    Ask,
    /// It did not answer.
    Dead,
    /// Nobody needs it.
    Unused,
}

/// What sweeps saw so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watch {
    read_bytes: u64,
    quiet: u32,
    unused: u32,
    /// For how long an answer is waited for.
    asked: Option<u32>,
    /// What had come, answers to questions aside, when it was asked last, and how long ago that is.
    last: Option<(u64, u32)>,
}

impl Watch {
    /// Looks at the connection.
    pub fn look(&mut self, seen: Seen) -> Verdict {
        if seen.read_bytes == self.read_bytes {
            self.quiet += 1;
        } else {
            (self.read_bytes, self.quiet, self.asked) = (seen.read_bytes, 0, None);
        }
        self.unused = if seen.streams == 0 { self.unused + 1 } else { 0 };
        if let Some((_, ago)) = &mut self.last {
            *ago = ago.saturating_add(1);
        }
        if let Some(sweeps) = &mut self.asked {
            *sweeps += 1;
            return if *sweeps >= ANSWER_SWEEPS { Verdict::Dead } else { Verdict::Well };
        }
        if self.unused >= UNUSED_SWEEPS {
            return Verdict::Unused;
        }
        let heard = seen.read_bytes.saturating_sub(seen.answers.saturating_mul(PONG_BYTES));
        let may_ask = self.last.is_none_or(|(before, ago)| before != heard || ago >= AGAIN_SWEEPS);
        if seen.streams == 0 || self.quiet < QUIET_SWEEPS || !may_ask {
            return Verdict::Well;
        }
        self.asked = Some(0);
        self.last = Some((heard, 0));
        Verdict::Ask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What sweeps say of a connection that shows itself so.
    fn verdicts(sweeps: u32, mut seen: impl FnMut(u32, u64) -> Seen) -> Vec<(u32, Verdict)> {
        let (mut watch, mut asked) = (Watch::default(), 0);
        let mut all = Vec::new();
        for sweep in 0..sweeps {
            let verdict = watch.look(seen(sweep, asked));
            asked += u64::from(verdict == Verdict::Ask);
            if verdict != Verdict::Well {
                all.push((sweep, verdict));
            }
        }
        all
    }

    fn answering(read_bytes: u64, asked: u64, streams: usize) -> Seen {
        Seen { read_bytes: read_bytes + asked * PONG_BYTES, answers: asked, streams }
    }

    #[test]
    fn one_that_is_silent_while_a_request_waits_is_asked_and_if_it_does_not_answer_dead() {
        let said = verdicts(200, |_, _| Seen { read_bytes: 100, answers: 0, streams: 1 });
        assert_eq!(said[..2], [(QUIET_SWEEPS, Verdict::Ask), (QUIET_SWEEPS + ANSWER_SWEEPS, Verdict::Dead)]);
    }

    #[test]
    fn one_that_answers_and_says_nothing_else_is_asked_again_no_sooner_than_programs_bear() {
        let said = verdicts(4 * AGAIN_SWEEPS, |_, asked| answering(100, asked, 1));
        assert!(said.iter().all(|(_, verdict)| *verdict == Verdict::Ask), "{said:?}");
        assert!(said.len() >= 3, "{said:?}");
        assert!(said.windows(2).all(|pair| pair[1].0 - pair[0].0 >= 2 * 300), "{said:?}");
    }

    #[test]
    fn data_between_two_silences_allows_another_question() {
        let said = verdicts(400, |sweep, asked| answering(if sweep < 150 { 100 } else { 200 }, asked, 1));
        let asked: Vec<u32> = said.iter().map(|(sweep, _)| *sweep).collect();
        assert_eq!(asked.len(), 2, "{said:?}");
        assert!(asked[1] > 150);
    }

    #[test]
    fn one_that_speaks_is_never_asked_and_one_that_nobody_uses_ends() {
        assert_eq!(verdicts(1000, |sweep, _| Seen { read_bytes: u64::from(sweep), answers: 0, streams: 1 }), []);
        let said = verdicts(200, |_, _| Seen { read_bytes: 100, answers: 0, streams: 0 });
        assert_eq!(said[0], (UNUSED_SWEEPS - 1, Verdict::Unused));
    }
}
