//! Values that are written as text: durations, sizes, shares of a processor, signals, names of variables.

use super::errors::quoted;
use crate::control::limits::SIGNAL_MAX;

/// `250ms`, `1s`, `1.5s`, `2m`, `1h`, in milliseconds.
pub(super) fn duration(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
    amount(text, &UNITS, "a duration", "250ms, 1s, 2m or 1h")
}

/// `512B`, `64KiB`, `256MiB`, `1.5GiB`, `1GB`, in bytes.
///
/// # Errors
/// What is wrong with it.
pub fn size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 9] = [
        ("B", 1),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
        ("kB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
    ];
    amount(text, &UNITS, "a size", "64KiB, 256MiB or 2GiB")
}

/// A number with a unit, exact: fractions only as far as they are whole in the smallest unit.
fn amount(text: &str, units: &[(&str, u64)], what: &str, examples: &str) -> Result<u64, String> {
    let wrong = || format!("{} is not {what}: write for example {examples}", quoted(text));
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    if unit.is_empty() && !number.is_empty() {
        return Err(format!("{} has no unit: write for example {examples}", quoted(text)));
    }
    let (_, factor) = units.iter().find(|(known, _)| *known == unit).ok_or_else(wrong)?;
    let (whole, fraction) = match number.split_once('.') {
        Some((whole, fraction)) if !fraction.is_empty() => (whole, fraction),
        Some(_) => return Err(wrong()),
        None => (number, ""),
    };
    // More digits than these are no longer a fraction of anything counted here.
    if whole.is_empty() || fraction.contains('.') || fraction.len() > 9 {
        return Err(wrong());
    }
    let too_large = || format!("{} is larger than can be counted", quoted(text));
    let whole = whole.parse::<u64>().map_err(|_| too_large())?.checked_mul(*factor).ok_or_else(too_large)?;
    let part = if fraction.is_empty() { 0 } else { fraction.parse::<u128>().map_err(|_| wrong())? };
    let scaled = part * u128::from(*factor);
    let scale = 10u128.pow(u32::try_from(fraction.len()).unwrap_or(9));
    if scaled % scale != 0 {
        let (smallest, _) = units[0];
        return Err(format!("{} is not a whole number of {smallest}", quoted(text)));
    }
    whole.checked_add(u64::try_from(scaled / scale).map_err(|_| too_large())?).ok_or_else(too_large)
}

/// Milliseconds for people: `250ms`, `2s`.
pub(super) fn shown_ms(ms: u64) -> String {
    if ms.is_multiple_of(1_000) { format!("{}s", ms / 1_000) } else { format!("{ms}ms") }
}

/// Signals with a name that programs are stopped by. The numbers are those of Linux.
const SIGNALS: [(&str, i32); 8] =
    [("HUP", 1), ("INT", 2), ("QUIT", 3), ("KILL", 9), ("USR1", 10), ("USR2", 12), ("TERM", 15), ("WINCH", 28)];

/// `TERM` or `SIGTERM`.
pub(super) fn signal(text: &str) -> Result<i32, String> {
    let short = text.strip_prefix("SIG").unwrap_or(text);
    let known = SIGNALS.iter().find(|(name, _)| *name == short).map(|(_, number)| *number);
    known.ok_or_else(|| {
        let names: Vec<&str> = SIGNALS.iter().map(|(name, _)| *name).collect();
        let upper = short.to_ascii_uppercase();
        let meant = names.iter().find(|name| strsim::damerau_levenshtein(&upper, name) <= 1);
        let known = || format!("known are {}, and numbers from 1 to {SIGNAL_MAX}", names.join(", "));
        let hint = meant.map_or_else(known, |it| format!("did you mean {it:?}?"));
        format!("unknown signal {}; {hint}", quoted(text))
    })
}

/// Whether a variable may be called so (POSIX, XBD 8.1, with lower case).
pub(super) fn is_variable(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Whether hirsel itself gives this variable to instances.
pub(super) fn is_given(name: &str) -> bool {
    matches!(name, "HOST" | "PORT" | "TASK_INDEX" | "TASK_COUNT") || name.starts_with("HIRSEL_")
}
