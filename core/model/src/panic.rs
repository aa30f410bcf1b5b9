//! What a panic said. Whoever catches one (a role, the planner, an entry that is applied) tells it to people, and no more than this.

use std::any::Any;

/// Longest words of a panic that are told, in characters: they end up in reports and in the log.
const WORDS_CHARS_MAX: usize = 200;

/// The words of a caught panic, cut to 200 characters.
pub fn words(panic: &(dyn Any + Send)) -> String {
    let words = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let words = words.or_else(|| panic.downcast_ref::<String>().cloned());
    words.unwrap_or_else(|| "no words".into()).chars().take(WORDS_CHARS_MAX).collect()
}
