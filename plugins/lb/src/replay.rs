//! Whether a request that did not get its answer is tried again.
//!
//! The rule (RFC 9110, section 9.2.2): what was not written, or what the instance says it did not take (RFC 9113, section 8.7), may
//! always be tried again; what was written only if the method is
//! idempotent, its body is still at hand, and nothing of an answer went out. Tries are bounded in number and time, so that a
//! request that kills whoever reads it kills at most [`WRITTEN_MAX`] instances.
//!
//! Pure: time is an argument.

use std::time::Duration;

use http::Method;

/// How often one request is written at most, in all.
pub const WRITTEN_MAX: u32 = 3;

/// How often one request is tried at most, connections that fail included. Only a bound against a defect: time is up first.
pub const TRIES_MAX: u32 = 24;

/// How long a request without an instance that takes it waits for one. A program that restarts, or a report that is late, is there
/// within it; a client that waits longer is better told.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// Largest body that is kept to be told again. Larger ones are streamed.
pub const BODY_KEPT_BYTES_MAX: u64 = 64 * 1024;

/// Largest answer that is held until it is whole. Larger ones are streamed.
pub const ANSWER_HELD_BYTES_MAX: u64 = 64 * 1024;

/// How a try failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nothing was written: no connection, or one that was closed while it was idle.
    NotWritten,
    /// The connection broke after something was written and before the answer was complete enough to be sent on.
    Broken,
    /// The node is not heard any more, or the instance is gone, and the request waited there.
    Lost,
    /// No answer within the time limit.
    TimedOut,
    /// No answer within the time that the route gives each try.
    Slow,
    /// The instance said that it did not take the request, and all of it is still at hand.
    Refused,
    /// The instance broke off the request, and not the connection, for this reason (RFC 9113, section 7).
    Reset(u32),
    /// The answer is no HTTP.
    Garbled,
    /// The client's own body broke off.
    ClientGone,
}

impl Failure {
    /// Whether it speaks against the instance. A kept connection that ends does not: the other end may have had enough of it. Nor
    /// does slowness: one slow path would eject every instance in turn.
    pub fn ejects(self, reused: bool) -> bool {
        match self {
            Failure::NotWritten | Failure::Broken => !reused,
            Failure::Lost | Failure::TimedOut | Failure::Slow | Failure::Garbled | Failure::ClientGone => false,
            // It is well, and has had enough or does not like this one.
            Failure::Refused | Failure::Reset(_) => false,
        }
    }
}

/// What was done for a request so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// Whether the method may be carried out twice, and whether the body is still at hand.
    pub repeatable: Repeatable,
    /// Tries so far.
    pub tries: u32,
    /// How many of them wrote something.
    pub written: u32,
}

/// Whether a written request may be told again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeatable {
    /// The method is idempotent and the body is at hand.
    Yes,
    /// It may have had its effect already, or its body is gone.
    No,
}

impl Effort {
    /// Nothing was tried yet.
    pub fn new(repeatable: Repeatable) -> Self {
        Self { repeatable, tries: 0, written: 0 }
    }

    /// Counts a failed try and says whether there is to be another.
    pub fn try_again(&mut self, failure: Failure) -> bool {
        self.tries += 1;
        if !matches!(failure, Failure::NotWritten | Failure::Refused) {
            self.written += 1;
        }
        let allowed = match failure {
            Failure::NotWritten | Failure::Refused => true,
            Failure::Broken | Failure::Lost | Failure::Slow | Failure::Reset(_) => self.repeatable == Repeatable::Yes,
            // Whoever is slow, or speaks nonsense, is so for everybody: the next instance is spared.
            Failure::TimedOut | Failure::Garbled => false,
            Failure::ClientGone => false,
        };
        allowed && self.tries < TRIES_MAX && self.written < WRITTEN_MAX
    }
}

/// Whether carrying a request out twice does the same as once (RFC 9110, section 9.2.2).
pub fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE | Method::TRACE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_was_not_written_is_tried_again_whatever_the_method() {
        assert!(Effort::new(Repeatable::No).try_again(Failure::NotWritten));
        assert!(Effort::new(Repeatable::Yes).try_again(Failure::NotWritten));
        assert!(Effort::new(Repeatable::No).try_again(Failure::Refused), "the instance said that it did not take it");
    }

    #[test]
    fn what_was_written_is_told_again_only_if_repeatable() {
        for failure in [Failure::Broken, Failure::Lost, Failure::Reset(8)] {
            assert!(Effort::new(Repeatable::Yes).try_again(failure));
            assert!(!Effort::new(Repeatable::No).try_again(failure));
        }
    }

    #[test]
    fn a_request_that_kills_whoever_reads_it_kills_three() {
        let mut effort = Effort::new(Repeatable::Yes);
        let killed = 1 + (0..100).take_while(|_| effort.try_again(Failure::Broken)).count();
        assert_eq!(killed, 3);
    }

    #[test]
    fn only_what_speaks_against_the_instance_ejects_it() {
        assert!(Failure::NotWritten.ejects(false) && Failure::Broken.ejects(false));
        assert!(!Failure::NotWritten.ejects(true) && !Failure::Broken.ejects(true));
        assert!(!Failure::TimedOut.ejects(false) && !Failure::ClientGone.ejects(false));
        assert!(!Failure::Refused.ejects(false) && !Failure::Reset(2).ejects(false));
    }

    #[test]
    fn post_and_patch_and_unknown_methods_are_not_idempotent() {
        assert!(!is_idempotent(&Method::POST));
        assert!(!is_idempotent(&Method::PATCH));
        assert!(!is_idempotent(&Method::CONNECT));
        assert!(!is_idempotent(&Method::from_bytes(b"PURCHASE").unwrap()));
        assert!(is_idempotent(&Method::GET) && is_idempotent(&Method::PUT) && is_idempotent(&Method::DELETE));
    }

    fn failure() -> impl Strategy<Value = Failure> {
        prop_oneof![
            Just(Failure::NotWritten),
            Just(Failure::Broken),
            Just(Failure::Lost),
            Just(Failure::TimedOut),
            Just(Failure::Slow),
            Just(Failure::Garbled),
            Just(Failure::Refused),
            Just(Failure::Reset(2)),
            Just(Failure::ClientGone)
        ]
    }

    proptest! {
        #[test]
        fn tries_are_bounded_and_a_request_that_must_not_repeat_is_written_once(
            failures in prop::collection::vec(failure(), 100), yes: bool
        ) {
            let repeatable = if yes { Repeatable::Yes } else { Repeatable::No };
            let mut effort = Effort::new(repeatable);
            let again = failures.iter().take_while(|failure| effort.try_again(**failure)).count() as u32;
            prop_assert!(again < TRIES_MAX);
            let most = if yes { WRITTEN_MAX } else { 1 };
            prop_assert!(effort.written <= most);
        }
    }
}
