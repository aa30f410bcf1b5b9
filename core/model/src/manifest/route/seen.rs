//! What is seen of the requests of a route: `trace` and `log`.

use toml::de::DeValue;

use super::super::errors::Errors;
use super::super::table::{Table, Value};
use crate::spec::{AccessLog, Log, LogFormat, Seen, Share, Trace, collector};

/// The keys that are read here.
pub(super) const KEYS: [&str; 2] = ["trace", "log"];

const FORMATS: [(&str, LogFormat); 2] = [("json", LogFormat::Json), ("combined", LogFormat::Combined)];

/// Reads what `table` says.
pub(super) fn read(seen: &mut Seen, table: &Table<'_>, errors: &mut Errors) {
    if let Some(trace) = trace(table, errors) {
        seen.trace = Some(trace);
    }
    if let Some(log) = log(table, errors) {
        seen.log = Some(log);
    }
}

/// `"json"`, `"combined"`, `"off"`, or `{ format = "json", sample = 0.1, query = false, syslog = "10.0.0.9:514" }`.
fn log(table: &Table<'_>, errors: &mut Errors) -> Option<Log> {
    let value = table.get("log")?;
    match value.get_ref() {
        DeValue::String(_) => {
            let on = FORMATS.map(|(word, format)| (word, Log::On(AccessLog::of(format))));
            return table.choice("log", &[on[0], on[1], ("off", Log::Off)], errors);
        }
        DeValue::Table(_) => {}
        _ => {
            let expected = "\"json\", \"combined\", \"off\", or a table like { format = \"json\", sample = 0.1 }";
            return table.wrong_type("log", value, expected, errors);
        }
    }
    let inner = table.below_table("log", errors)?;
    inner.check_keys(&["format", "sample", "query", "syslog"], &[], errors);
    let format = inner.choice("format", &FORMATS, errors);
    if inner.get("format").is_none() {
        errors.absent(inner.span(), format!("{} says not how: format = \"json\"", inner.path()));
    }
    let mut read = AccessLog::of(format.unwrap_or(LogFormat::Json));
    if let Some(value) = inner.get("sample") {
        read.sample = share("sample", &inner, value, "a share like 0.1", errors).unwrap_or(Share::ALL);
    }
    read.without_query = !inner.boolean("query", errors).unwrap_or(true);
    read.syslog = inner.text("syslog", "an address like \"10.0.0.9:514\"", collector, errors);
    Some(Log::On(read))
}

/// `true`, `false` for not at all, or the share of the traces begun here that is marked as sampled.
fn trace(table: &Table<'_>, errors: &mut Errors) -> Option<Trace> {
    let value = table.get("trace")?;
    match value.get_ref() {
        DeValue::Boolean(true) => Some(Trace::Sampled(Share::ALL)),
        DeValue::Boolean(false) => Some(Trace::Untouched),
        _ => share("trace", table, value, "true, false, or a share like 0.1", errors).map(Trace::Sampled),
    }
}

/// A number between 0 and 1, in millionths.
fn share<'a>(key: &str, table: &Table<'a>, value: Value<'a>, expected: &str, errors: &mut Errors) -> Option<Share> {
    let text = match value.get_ref() {
        DeValue::Integer(number) => number.as_str(),
        DeValue::Float(number) => number.as_str(),
        _ => return table.wrong_type(key, value, expected, errors),
    };
    let millionths = text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share)).map(|share| share * 1e6);
    // Between 0 and a million, so nothing is cut off.
    let share = millionths.filter(|it| (it - it.round()).abs() < 1e-3).map(|it| Share(it.round() as u32));
    if share.is_none() {
        let place = table.path();
        errors.at(value.span(), format!("{key} in {place}: {text} is no share between 0 and 1 of six digits at most"));
    }
    share
}

#[cfg(test)]
mod tests {
    use super::super::tests::{routes, wrong};
    use super::*;

    fn traces(text: &str) -> Vec<Option<Trace>> {
        routes(text).into_iter().map(|route| route.seen.trace).collect()
    }

    #[test]
    fn a_rule_traces_as_its_route_does_unless_it_says_otherwise() {
        let text = "[route.h]\nto = \"web\"\ntrace = 0.25\n[[route.h.rule]]\npath = \"/a\"\n[[route.h.rule]]\npath = \"/b\"\ntrace = false\n";
        let quarter = Some(Trace::Sampled(Share(250_000)));
        assert_eq!(traces(text), [quarter, Some(Trace::Untouched), quarter]);
        for (word, share) in [("true", 1_000_000), ("1", 1_000_000), ("0", 0), ("0.000001", 1), ("1.0", 1_000_000)] {
            let text = format!("[route.h]\nto = \"web\"\ntrace = {word}\n");
            assert_eq!(traces(&text), [Some(Trace::Sampled(Share(share)))], "{word}");
        }
        assert_eq!(traces("[route.h]\nto = \"web\"\n"), [None]);
    }

    #[test]
    fn a_route_says_how_its_requests_are_written_down() {
        let log = |word: &str| routes(&format!("[route.h]\nto = \"web\"\nlog = {word}\n"))[0].seen.log;
        let json = AccessLog::of(LogFormat::Json);
        assert_eq!(log("\"json\""), Some(Log::On(json)));
        assert_eq!(log("\"combined\""), Some(Log::On(AccessLog::of(LogFormat::Combined))));
        assert_eq!(log("\"off\""), Some(Log::Off));
        let some = AccessLog { sample: Share(100_000), without_query: true, ..json };
        assert_eq!(log("{ format = \"json\", sample = 0.1, query = false }"), Some(Log::On(some)));
        assert_eq!(log("{ format = \"json\", query = true }"), Some(Log::On(json)));
        for (word, port) in [("10.0.0.9", 514), ("10.0.0.9:1514", 1_514)] {
            let told = AccessLog { syslog: Some(([10, 0, 0, 9], port).into()), ..json };
            assert_eq!(log(&format!("{{ format = \"json\", syslog = \"{word}\" }}")), Some(Log::On(told)));
        }
        let text = "[route.h]\nto = \"web\"\nlog = \"json\"\n[[route.h.rule]]\npath = \"/a\"\n[[route.h.rule]]\npath = \"/b\"\nlog = \"off\"\n";
        let logs: Vec<_> = routes(text).into_iter().map(|route| route.seen.log).collect();
        assert_eq!(logs, [Some(Log::On(json)), Some(Log::Off), Some(Log::On(json))]);
    }

    #[test]
    fn what_is_no_log_is_refused_with_its_place_and_the_word_that_was_meant() {
        for (word, says) in [
            ("\"jsn\"", "3:7 unknown log in [route.h]: \"jsn\"; did you mean \"json\"?"),
            (
                "true",
                "3:7 log in [route.h] is true or false; expected \"json\", \"combined\", \"off\", or a table like { format = \"json\", sample = 0.1 }",
            ),
            ("{ format = \"off\" }", "3:18 unknown format in [route.h.log]: \"off\"; known are json, combined"),
            ("{ sample = 0.5 }", "3:7 [route.h.log] says not how: format = \"json\""),
            (
                "{ format = \"json\", sampel = 0.5 }",
                "3:26 unknown key \"sampel\" in [route.h.log]; did you mean \"sample\"?",
            ),
            (
                "{ format = \"json\", sample = 7 }",
                "3:35 sample in [route.h.log]: 7 is no share between 0 and 1 of six digits at most",
            ),
            (
                "{ format = \"json\", syslog = \"logs\" }",
                "3:35 syslog in [route.h.log]: \"logs\" is no address of a collector: write for example 10.0.0.9 or 10.0.0.9:514",
            ),
            (
                "{ format = \"json\", query = 1 }",
                "3:34 query in [route.h.log] is a whole number; expected true or false",
            ),
        ] {
            assert_eq!(wrong(&format!("[route.h]\nto = \"web\"\nlog = {word}\n")), [says], "{word}");
        }
    }

    #[test]
    fn what_is_no_share_is_refused_with_its_place() {
        let no_share =
            |word| format!("3:9 trace in [route.h]: {word} is no share between 0 and 1 of six digits at most");
        for (word, error) in [
            ("2", no_share("2")),
            ("-0.5", no_share("-0.5")),
            ("0.0000001", no_share("0.0000001")),
            ("nan", no_share("nan")),
            ("\"x\"", "3:9 trace in [route.h] is a string; expected true, false, or a share like 0.1".into()),
        ] {
            assert_eq!(wrong(&format!("[route.h]\nto = \"web\"\ntrace = {word}\n")), [error]);
        }
    }
}
