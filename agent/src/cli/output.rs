//! How answers look on a terminal and in a pipe: aligned columns without boxes, relative times, colour as a hint and never alone.

use std::io::{self, Write};

use hirsel_model::WallTime;

use crate::api::error::{ApiError, ErrorBody};

/// Prints a line of an answer. A reader that went away is no error: it has seen enough.
pub fn line(text: impl AsRef<str>) {
    let _ = writeln!(anstream::stdout(), "{}", text.as_ref());
}

/// Prints a line of an answer that is data for programs, as it is.
pub fn raw(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.write_all(b"\n");
    let _ = out.flush();
}

/// Prints a line for people beside the answer.
pub fn note(text: impl AsRef<str>) {
    let _ = writeln!(anstream::stderr(), "{}", text.as_ref());
}

/// Prints an error: for programs as JSON, for people with what is known and what to type next.
pub fn error(error: &ApiError, json: bool) {
    if json {
        let body = ErrorBody { error: error.clone() };
        note(serde_json::to_string(&body).unwrap_or_default());
        return;
    }
    note(format!("{}: {}", paint("error", Colour::Red), error.message));
    for line in error.evidence.iter().filter(|line| !error.message.ends_with(*line)) {
        note(format!("  {line}"));
    }
    for next in &error.next {
        note(format!("  try: {next}"));
    }
}

/// A hint to the eye.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// Good.
    Green,
    /// On the way, or worth a look.
    Yellow,
    /// Bad.
    Red,
    /// Less important.
    Dim,
}

/// `text` in `colour`; the stream takes the colour out again where there is no terminal, or with `NO_COLOR`.
pub fn paint(text: &str, colour: Colour) -> String {
    let code = match colour {
        Colour::Green => 32,
        Colour::Yellow => 33,
        Colour::Red => 31,
        Colour::Dim => 2,
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// The colour of a word about state.
pub fn colour_of(word: &str) -> Option<Colour> {
    match word {
        "healthy" | "alive" | "running" | "valid" | "leader" | "verified" | "ok" => Some(Colour::Green),
        "degraded" | "suspect" | "starting" | "draining" | "stopping" | "waiting" | "unfit" | "warning"
        | "unproven" => Some(Colour::Yellow),
        "critical" | "no_leader" | "down" | "failed" | "unknown" | "revoked" | "expired" => Some(Colour::Red),
        "stopped" | "ended" | "none" | "-" => Some(Colour::Dim),
        _ => None,
    }
}

/// `word`, coloured if it is one about state.
pub fn state(word: &str) -> String {
    colour_of(word).map_or_else(|| word.to_string(), |colour| paint(word, colour))
}

/// Rows under a heading, in aligned columns; the last one is as wide as it is.
pub fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = heading.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let heading = heading.iter().map(|cell| (*cell).to_string()).collect::<Vec<_>>();
    let mut lines = vec![paint(&join(&heading, &widths, str::to_string), Colour::Dim)];
    lines.extend(rows.iter().map(|row| join(row, &widths, state)));
    lines.join("\n")
}

fn join(cells: &[String], widths: &[usize], dress: impl Fn(&str) -> String) -> String {
    let mut text = String::new();
    for (number, (cell, width)) in cells.iter().zip(widths).enumerate() {
        text += &dress(cell);
        if number + 1 < cells.len() {
            text += &" ".repeat(width - cell.chars().count() + 2);
        }
    }
    text.trim_end().to_string()
}

/// A length of time in one or two units, as people say it.
pub fn ago(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0 => format!("{ms}ms"),
        1..=59 => format!("{seconds}s"),
        60..=3_599 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..=86_399 => format!("{}h{:02}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// How long ago, or that it is not known.
pub fn ago_or_dash(ms: Option<u64>) -> String {
    ms.map_or_else(|| "-".into(), ago)
}

/// How long before `now` an RFC 3339 moment was; the moment itself when it cannot be read.
pub fn since(moment: &str, now: WallTime) -> String {
    match moment.parse::<jiff::Timestamp>() {
        Ok(at) => {
            let at = u64::try_from(at.as_millisecond()).unwrap_or(0);
            match now.0.checked_sub(at) {
                Some(ms) => format!("{} ago", ago(ms)),
                None => format!("in {}", ago(at - now.0)),
            }
        }
        Err(_) => moment.to_string(),
    }
}

/// A number and its noun.
pub fn count(number: u32, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        _ => format!("{number} {noun}s"),
    }
}

/// What may vanish: `any 2 nodes`, `no zone`.
pub fn any(number: u32, noun: &str) -> String {
    if number == 0 { format!("no {noun}") } else { format!("any {}", count(number, noun)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_whatever_stands_in_them() {
        let rows =
            vec![vec!["n1".into(), "alive".into(), "x".into()], vec!["long-name".into(), "down".into(), "".into()]];
        let text = anstream::adapter::strip_str(&table(&["NAME", "STATE", "NOTE"], &rows)).to_string();
        assert_eq!(text, "NAME       STATE  NOTE\nn1         alive  x\nlong-name  down");
    }

    #[test]
    fn times_are_told_as_people_say_them() {
        let told = [12, 59_999, 60_000, 3_661_000, 90_000_000].map(ago);
        assert_eq!(told, ["12ms", "59s", "1m00s", "1h01m", "1d01h"]);
        assert_eq!(since("2023-11-14T22:13:20Z", WallTime(1_700_000_060_000)), "1m00s ago");
        assert_eq!(since("rubbish", WallTime(0)), "rubbish");
    }
}
