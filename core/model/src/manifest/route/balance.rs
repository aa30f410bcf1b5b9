//! How a route shares its requests among instances: `balance`, `slow_start`, `zone`, `concurrency` and `queue`, `eject`, `try_timeout`, `hedge`;
//! `sticky` is read in [`super::sticky`].

use std::ops::RangeInclusive;

use toml::de::DeValue;

use super::super::errors::{Errors, quoted};
use super::super::table::{Table, unknown};
use super::super::values::duration;
use super::actions::time;
use super::matching::header_name;
use super::sticky;
use crate::control::limits::CONDITION_BYTES_MAX;
use crate::spec::{Balance, Eject, HashBy, HashKey, Hedge, HedgeAfter, Policy, Queue};

/// The keys that are read here.
pub(super) const KEYS: [&str; 9] =
    ["balance", "slow_start", "sticky", "zone", "concurrency", "queue", "eject", "try_timeout", "hedge"];

/// Policies that are one word.
const POLICIES: [(&str, Policy); 3] = [
    ("least-loaded", Policy::LeastLoaded),
    ("round-robin", Policy::RoundRobin),
    ("least-requests", Policy::LeastRequests),
];
/// Parts of a request that are one word.
const HASH_KEYS: [(&str, HashKey); 2] = [("client", HashKey::Client), ("path", HashKey::Path)];
/// Half as much again as the mean, unless it is said: the paper recommends 1.25 to 2, and less moves more requests away from where
/// they belong.
const BOUND_PERCENT: u32 = 150;
/// Closer to the mean than this every second request would be moved; above, nothing ever is.
const BOUND_PERCENT_RANGE: RangeInclusive<u32> = 110..=1_000;
/// Time in which a new instance comes to its full share. In less than a second no cache is filled.
const SLOW_START_MS: RangeInclusive<u64> = 1_000..=3_600_000;
/// Requests of an instance, and of a queue: more than one load balancer carries at once.
const REQUESTS_MAX: u32 = 100_000;
/// Time in a queue. Longer than a minute no client waits.
const WAIT_MS: RangeInclusive<u64> = 10..=60_000;
/// A queue that says nothing of time: what people still take for an answer.
const WAIT_MS_DEFAULT: u64 = 5_000;
/// Errors in a row.
const ERRORS_MAX: u32 = 1_000;
/// Half of the instances may be left alone unless it is said: the other half has to carry twice as much.
const SHARE_PERCENT: u32 = 50;
/// Time before a second instance is told.
const HEDGE_MS: RangeInclusive<u64> = 1..=60_000;
/// Below half every second request would be told twice; above 99 the few that are slower are not known well enough.
const PERCENTILE: RangeInclusive<u32> = 50..=99;
/// Time of one try.
const TRY_MS: RangeInclusive<u64> = 10..=3_600_000;

/// Reads what `table` says.
pub(super) fn read(balance: &mut Balance, table: &Table<'_>, errors: &mut Errors) {
    if let Some(policy) = policy(table, errors) {
        balance.policy = policy;
    }
    if let Some(ms) = time(table, "slow_start", SLOW_START_MS, errors) {
        balance.slow_start_ms = Some(ms);
    }
    if let Some(sticky) = sticky::read(table, errors) {
        balance.sticky = sticky;
    }
    if let Some(same_zone) = table.choice("zone", &[("own", true), ("any", false)], errors) {
        balance.same_zone = same_zone;
    }
    if let Some(requests) = table.count("concurrency", 1, REQUESTS_MAX, errors) {
        balance.concurrency = Some(requests);
    }
    if let Some(inner) = table.below_table("queue", errors) {
        balance.queue = queue(&inner, errors);
        if balance.concurrency.is_none() && table.get("concurrency").is_none() {
            let message =
                format!("{} is never waited in: concurrency = N says how many an instance takes", inner.path());
            errors.absent(table.key_span("queue"), message);
        }
    }
    if let Some(inner) = table.below_table("eject", errors) {
        balance.eject = eject(&inner, errors);
    }
    if let Some(ms) = time(table, "try_timeout", TRY_MS, errors) {
        balance.try_timeout_ms = Some(ms);
    }
    if let Some(hedge) = hedge(table, errors) {
        balance.hedge = hedge;
    }
}

/// `{ after = "p95" }`, `{ after = "200ms" }`, `false` (for a rule of a route that does); the inner nothing is none, or something wrong.
fn hedge(table: &Table<'_>, errors: &mut Errors) -> Option<Option<Hedge>> {
    let value = table.get("hedge")?;
    match value.get_ref() {
        DeValue::Boolean(false) => return Some(None),
        DeValue::Table(_) => {}
        _ => return table.wrong_type("hedge", value, "a time like { after = \"p95\" }, or false", errors),
    }
    let inner = table.below_table("hedge", errors)?;
    inner.check_keys(&["after"], &[], errors);
    if inner.get("after").is_none() {
        errors.absent(value.span(), format!("{} says not after what: after = \"p95\" or \"200ms\"", inner.path()));
    }
    let after = |text: &str| match text.strip_prefix('p').map(str::parse::<u32>) {
        Some(Ok(percent)) if PERCENTILE.contains(&percent) => Ok(HedgeAfter::Percentile(percent)),
        Some(_) => Err(format!("{} is not between p50 and p99", quoted(text))),
        None => match duration(text)? {
            ms if HEDGE_MS.contains(&ms) => Ok(HedgeAfter::Ms(ms)),
            _ => Err(format!("{} is not between 1ms and 60s", quoted(text))),
        },
    };
    let after = inner.text("after", "\"p95\" or a duration like \"200ms\"", after, errors);
    Some(after.map(|after| Hedge { after }))
}

/// `{ requests = 100, wait = "2s" }`.
fn queue(table: &Table<'_>, errors: &mut Errors) -> Option<Queue> {
    table.check_keys(&["requests", "wait"], &[], errors);
    if table.get("requests").is_none() {
        errors.absent(table.span(), format!("{} says not how many wait: requests = 100", table.path()));
    }
    let wait_ms = time(table, "wait", WAIT_MS, errors).unwrap_or(WAIT_MS_DEFAULT);
    Some(Queue { requests: table.count("requests", 1, REQUESTS_MAX, errors)?, wait_ms })
}

/// `{ errors = 5, share = 50 }`.
fn eject(table: &Table<'_>, errors: &mut Errors) -> Option<Eject> {
    table.check_keys(&["errors", "share"], &[], errors);
    if table.get("errors").is_none() {
        errors.absent(table.span(), format!("{} says not after how many errors: errors = 5", table.path()));
    }
    let share_percent = table.count("share", 1, 100, errors).unwrap_or(SHARE_PERCENT);
    Some(Eject { errors: table.count("errors", 1, ERRORS_MAX, errors)?, share_percent })
}

/// `"round-robin"`, `{ hash = "client" }`, `{ hash = { header = "x-user" }, bound = 200 }`.
fn policy(table: &Table<'_>, errors: &mut Errors) -> Option<Policy> {
    const EXPECTED: &str = "\"least-loaded\", \"round-robin\", \"least-requests\" or { hash = \"client\" }";
    let value = table.get("balance")?;
    match value.get_ref() {
        DeValue::String(word) => {
            let known = POLICIES.into_iter().find(|(name, _)| name == word);
            if known.is_none() {
                let what = format!("balance in {}:", table.path());
                errors.at(value.span(), unknown(&what, word, "", &POLICIES.map(|(name, _)| name)));
            }
            known.map(|(_, policy)| policy)
        }
        DeValue::Table(_) => {
            let inner = table.below_table("balance", errors)?;
            inner.check_keys(&["hash", "bound"], &[], errors);
            if inner.get("hash").is_none() {
                errors.absent(value.span(), format!("{} shares by nothing: {{ hash = \"client\" }}", inner.path()));
            }
            let (least, most) = (*BOUND_PERCENT_RANGE.start(), *BOUND_PERCENT_RANGE.end());
            let bound_percent = inner.count("bound", least, most, errors).unwrap_or(BOUND_PERCENT);
            Some(Policy::Hash(HashBy { key: hash_key(&inner, errors)?, bound_percent }))
        }
        _ => table.wrong_type("balance", value, EXPECTED, errors),
    }
}

fn hash_key(table: &Table<'_>, errors: &mut Errors) -> Option<HashKey> {
    const EXPECTED: &str = "\"client\", \"path\", { header = \"NAME\" }, { cookie = \"NAME\" } or { query = \"NAME\" }";
    let value = table.get("hash")?;
    match value.get_ref() {
        DeValue::String(word) => {
            let known = HASH_KEYS.into_iter().find(|(name, _)| name == word);
            if known.is_none() {
                let names = ["client", "path", "header", "cookie", "query"];
                errors.at(value.span(), unknown(&format!("hash in {}:", table.path()), word, "", &names));
            }
            known.map(|(_, key)| key)
        }
        DeValue::Table(_) => {
            let inner = table.below_table("hash", errors)?;
            inner.check_keys(&["header", "cookie", "query"], &[], errors);
            let header = inner.text("header", "the name of a header field", header_name, errors);
            let cookie = inner.text("cookie", "the name of a cookie", sticky::cookie_name, errors);
            let query = inner.text("query", "the name of a parameter", parameter, errors);
            let said = ["header", "cookie", "query"].into_iter().filter(|key| inner.get(key).is_some());
            match said.collect::<Vec<_>>()[..] {
                [] => errors.absent(value.span(), format!("{} compares nothing: header = \"NAME\"", inner.path())),
                [_] => {}
                [first, second, ..] => {
                    let message = format!("{} has both {first} and {second}; one of them is compared", inner.path());
                    errors.at(inner.key_span(second), message);
                }
            }
            let header = header.map(HashKey::Header);
            header.or(cookie.map(HashKey::Cookie)).or(query.map(HashKey::Query))
        }
        _ => table.wrong_type("hash", value, EXPECTED, errors),
    }
}

/// The name of a parameter of a query.
fn parameter(text: &str) -> Result<String, String> {
    match !text.is_empty() && text.len() <= CONDITION_BYTES_MAX {
        true => Ok(text.to_owned()),
        false => Err(format!("{} is no name of a parameter", quoted(text))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{routes, wrong};
    use super::*;

    fn balance(lines: &str) -> Balance {
        routes(&format!("[route.h]\nto = \"web\"\n{lines}\n")).remove(0).actions.balance
    }

    #[test]
    fn a_policy_is_a_word_or_a_part_of_the_request() {
        assert_eq!(balance(""), Balance::default());
        assert_eq!(balance("balance = \"least-loaded\""), Balance::default());
        assert_eq!(balance("balance = \"round-robin\"").policy, Policy::RoundRobin);
        assert_eq!(balance("balance = \"least-requests\"").policy, Policy::LeastRequests);
        let hash = |text: &str| match balance(&format!("balance = {text}")).policy {
            Policy::Hash(hash) => (hash.key, hash.bound_percent),
            other => panic!("{other:?}"),
        };
        assert_eq!(hash("{ hash = \"client\" }"), (HashKey::Client, 150));
        assert_eq!(hash("{ hash = \"path\", bound = 200 }"), (HashKey::Path, 200));
        assert_eq!(hash("{ hash = { header = \"X-User\" } }"), (HashKey::Header("x-user".into()), 150));
        assert_eq!(hash("{ hash = { cookie = \"Sid\" } }"), (HashKey::Cookie("Sid".into()), 150));
        assert_eq!(hash("{ hash = { query = \"id\" } }"), (HashKey::Query("id".into()), 150));
        assert_eq!(balance("slow_start = \"10s\"").slow_start_ms, Some(10_000));
    }

    #[test]
    fn limits_are_read() {
        let read = balance(
            "zone = \"own\"\nconcurrency = 20\nqueue = { requests = 100, wait = \"2s\" }\neject = { errors = 3, share = 30 }\ntry_timeout = \"2s\"",
        );
        let expected = Balance {
            same_zone: true,
            concurrency: Some(20),
            queue: Some(Queue { requests: 100, wait_ms: 2_000 }),
            eject: Some(Eject { errors: 3, share_percent: 30 }),
            try_timeout_ms: Some(2_000),
            ..Balance::default()
        };
        assert_eq!(read, expected);
        let usual = balance("concurrency = 1\nqueue = { requests = 1 }\neject = { errors = 5 }");
        assert_eq!(usual.queue, Some(Queue { requests: 1, wait_ms: 5_000 }));
        let hedge = |text: &str| balance(&format!("hedge = {text}")).hedge.map(|hedge| hedge.after);
        assert_eq!(hedge("{ after = \"p95\" }"), Some(HedgeAfter::Percentile(95)));
        assert_eq!((hedge("{ after = \"50ms\" }"), hedge("false")), (Some(HedgeAfter::Ms(50)), None));
        assert_eq!(usual.eject, Some(Eject { errors: 5, share_percent: 50 }));
    }

    #[test]
    fn a_rule_shares_as_its_route_does_unless_it_says_otherwise() {
        let text = "[route.h]\nto = \"web\"\nbalance = \"round-robin\"\nslow_start = \"5s\"\n\
                    [[route.h.rule]]\npath = \"/a\"\n[[route.h.rule]]\npath = \"/b\"\nbalance = \"least-loaded\"\n";
        let read: Vec<_> = routes(text).into_iter().map(|route| route.actions.balance).collect();
        assert_eq!(read[0], read[2]);
        assert_eq!((&read[1].policy, read[1].slow_start_ms), (&Policy::LeastLoaded, Some(5_000)));
    }

    #[test]
    fn what_is_wrong_with_sharing_is_said_where_it_stands() {
        for (line, expected) in [
            (
                "balance = \"round-robbin\"",
                "3:11 unknown balance in [route.h]: \"round-robbin\"; did you mean \"round-robin\"?",
            ),
            (
                "balance = 1",
                "3:11 balance in [route.h] is a whole number; expected \"least-loaded\", \"round-robin\", \"least-requests\" or { hash = \"client\" }",
            ),
            ("balance = {}", "3:11 [route.h.balance] shares by nothing: { hash = \"client\" }"),
            (
                "balance = { hsh = \"client\", hash = \"path\" }",
                "3:13 unknown key \"hsh\" in [route.h.balance]; did you mean \"hash\"?",
            ),
            (
                "balance = { hash = \"clint\" }",
                "3:20 unknown hash in [route.h.balance]: \"clint\"; did you mean \"client\"?",
            ),
            ("balance = { hash = {} }", "3:20 [route.h.balance.hash] compares nothing: header = \"NAME\""),
            (
                "balance = { hash = { header = \"a\", cookie = \"b\" } }",
                "3:36 [route.h.balance.hash] has both header and cookie; one of them is compared",
            ),
            (
                "balance = { hash = { query = \"\" } }",
                "3:30 query in [route.h.balance.hash]: \"\" is no name of a parameter",
            ),
            (
                "balance = { hash = { cookie = \"a b\" } }",
                "3:31 cookie in [route.h.balance.hash]: \"a b\" is no name of a cookie: use letters, digits, '-' and '_'",
            ),
            (
                "balance = { hash = \"path\", bound = 100 }",
                "3:36 bound in [route.h.balance]: 100 is not between 110 and 1000",
            ),
            (
                "slow_start = \"10\"",
                "3:14 slow_start in [route.h]: \"10\" has no unit: write for example 250ms, 1s, 2m or 1h",
            ),
            ("zone = \"ow\"", "3:8 unknown zone in [route.h]: \"ow\"; did you mean \"own\"?"),
            ("concurrency = 0", "3:15 concurrency in [route.h]: 0 is not between 1 and 100000"),
            ("concurrency = 5\nqueue = {}", "4:9 [route.h.queue] says not how many wait: requests = 100"),
            (
                "queue = { requests = 5 }",
                "3:1 [route.h.queue] is never waited in: concurrency = N says how many an instance takes",
            ),
            (
                "concurrency = 5\nqueue = { requests = 5, wait = \"5m\" }",
                "4:32 wait in [route.h.queue]: \"5m\" is not between 10ms and 60s",
            ),
            ("eject = {}", "3:9 [route.h.eject] says not after how many errors: errors = 5"),
            (
                "eject = { errors = 5, shar = 10 }",
                "3:23 unknown key \"shar\" in [route.h.eject]; did you mean \"share\"?",
            ),
            ("hedge = {}", "3:9 [route.h.hedge] says not after what: after = \"p95\" or \"200ms\""),
            (
                "hedge = true",
                "3:9 hedge in [route.h] is true or false; expected a time like { after = \"p95\" }, or false",
            ),
            ("hedge = { after = \"p40\" }", "3:19 after in [route.h.hedge]: \"p40\" is not between p50 and p99"),
            ("hedge = { after = \"2m\" }", "3:19 after in [route.h.hedge]: \"2m\" is not between 1ms and 60s"),
            (
                "hedge = { aftr = \"1s\", after = \"1s\" }",
                "3:11 unknown key \"aftr\" in [route.h.hedge]; did you mean \"after\"?",
            ),
            ("try_timeout = \"1ms\"", "3:15 try_timeout in [route.h]: \"1ms\" is not between 10ms and 3600s"),
            ("slow_start = \"2h\"", "3:14 slow_start in [route.h]: \"2h\" is not between 1s and 3600s"),
        ] {
            assert_eq!(wrong(&format!("[route.h]\nto = \"web\"\n{line}\n")), [expected], "{line}");
        }
        let header = wrong("[route.h]\nto = \"web\"\nbalance = { hash = { header = \"a b\" } }\n");
        assert!(header.len() == 1 && header[0].starts_with("3:31 header in [route.h.balance.hash]: "), "{header:?}");
    }
}
