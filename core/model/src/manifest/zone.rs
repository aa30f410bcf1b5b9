//! `[zone."example.com"]`: a zone that is handed over to the cluster, and its records by name and kind.

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use super::errors::{Errors, quoted};
use super::nearest;
use super::route::actions::time;
use super::table::{Block, Table};
use crate::control::limits::ZONES_PER_APP_MAX;
use crate::spec::{
    APEX, NameSpec, RECORD_KINDS, RecordData, RecordKind, RouteSpec, ZONE_TTL_S_MAX, ZoneSpec, owner_name, unfit_zone,
};

const KEYS: [&str; 3] = ["ttl", "dnssec", "records"];
const TTL_MS: RangeInclusive<u64> = 0..=ZONE_TTL_S_MAX as u64 * 1_000;

/// Where things stand, for what is found out later.
#[derive(Default)]
struct Places {
    /// Of names.
    owners: BTreeMap<String, Range<usize>>,
    /// Of kinds at a name.
    kinds: BTreeMap<(String, RecordKind), Range<usize>>,
}

/// All zones. `routes` are those of the same manifest, whose hosts are answered by themselves.
pub(super) fn read(top: &Table<'_>, routes: &[RouteSpec], errors: &mut Errors) -> BTreeMap<String, Arc<ZoneSpec>> {
    let blocks = top.blocks("zone", errors);
    if blocks.len() > ZONES_PER_APP_MAX {
        let number = blocks.len();
        errors.at(blocks[ZONES_PER_APP_MAX].key.clone(), format!("{number} zones exceed {ZONES_PER_APP_MAX}"));
        return BTreeMap::new();
    }
    let mut zones = BTreeMap::new();
    for block in &blocks {
        let name = block.word.trim_end_matches('.').to_ascii_lowercase();
        if let Some(why) = unfit_zone(&name) {
            errors.at(block.key.clone(), format!("{} {why}", quoted(&block.word)));
            continue;
        }
        let zone = zone(block, &name, routes, errors);
        if zones.insert(name, Arc::new(zone)).is_some() {
            errors.at(block.key.clone(), format!("zone {} is there twice", quoted(&block.word)));
        }
    }
    hidden(&blocks, &zones, errors);
    zones
}

fn zone(block: &Block<'_>, name: &str, routes: &[RouteSpec], errors: &mut Errors) -> ZoneSpec {
    let table = &block.table;
    table.check_keys(&KEYS, &[], errors);
    let (mut zone, mut places) = (
        ZoneSpec {
            ttl_s: ttl(table, errors),
            dnssec: table.boolean("dnssec", errors).unwrap_or(false),
            ..ZoneSpec::default()
        },
        Places::default(),
    );
    let records = table.below_table("records", errors);
    for (word, value) in records.iter().flat_map(Table::entries) {
        let path = records.as_ref().map(|records| records.below(&word.text)).unwrap_or_default();
        let Some(said) = Table::new(path, value, errors) else { continue };
        let owner = word.text.to_ascii_lowercase();
        places.owners.insert(owner.clone(), word.span.clone());
        if zone.records.contains_key(&owner) {
            errors.at(word.span, format!("name {} is there twice", quoted(&word.text)));
            continue;
        }
        let found = one(&said, &owner, name, &mut places, errors);
        // Of what could not be read nothing more is to be said.
        if !found.data.is_empty() || said.entries().is_empty() {
            zone.records.insert(owner, found);
        }
    }
    for fault in zone.faults(name) {
        let owner = fault.owner.as_deref();
        let place = owner.and_then(|owner| {
            let kind = fault.kind.and_then(|kind| places.kinds.get(&(owner.to_owned(), kind)));
            kind.or_else(|| places.owners.get(owner))
        });
        let what = match (owner, fault.kind) {
            (Some(owner), Some(kind)) => format!("{kind} of {}: ", quoted(owner)),
            (Some(owner), None) => format!("name {}: ", quoted(owner)),
            (None, _) => String::new(),
        };
        errors.at(place.unwrap_or(&block.key).clone(), format!("{what}{}", fault.why));
    }
    for (owner, spec) in zone.records.iter().filter(|(_, spec)| spec.takes_host()) {
        let whole = owner_name(owner, name);
        if routes.iter().any(|route| route.host.eq_ignore_ascii_case(&whole)) {
            let place = places.owners.get(owner).unwrap_or(&block.key).clone();
            let takes = |kind: &RecordKind| {
                matches!(kind, RecordKind::A | RecordKind::Aaaa | RecordKind::Cname | RecordKind::Ns)
            };
            let kind = spec.data.iter().map(RecordData::kind).find(takes);
            let kind = kind.map_or_else(String::new, |kind| kind.to_string());
            errors.at(
                place,
                format!(
                    "{kind} of {}: {whole} is the host of a route, whose addresses are those of the load balancers",
                    quoted(owner)
                ),
            );
        }
    }
    zone
}

fn one(table: &Table<'_>, owner: &str, zone: &str, places: &mut Places, errors: &mut Errors) -> NameSpec {
    let mut name = NameSpec { ttl_s: ttl(table, errors), ..NameSpec::default() };
    for (word, _) in table.entries().into_iter().filter(|(word, _)| word.text != "ttl") {
        let Some((shown, kind)) = RECORD_KINDS.iter().find(|(known, _)| known.eq_ignore_ascii_case(&word.text)) else {
            let upper = word.text.to_uppercase();
            let known: Vec<&str> = RECORD_KINDS.iter().map(|(word, _)| *word).collect();
            let lower: Vec<String> = known.iter().map(|word| word.to_lowercase()).collect();
            let meant = nearest(&upper, lower.iter().map(String::as_str)).map(str::to_uppercase);
            let hint = meant.map_or_else(
                || format!("known are {}, and ttl", known.join(", ")),
                |it| format!("did you mean {it:?}?"),
            );
            errors.at(word.span, format!("unknown kind of record {} in {}; {hint}", quoted(&word.text), table.path()));
            continue;
        };
        if places.kinds.insert((owner.to_owned(), *kind), word.span.clone()).is_some() {
            errors.at(word.span.clone(), format!("{shown} is there twice in {}", table.path()));
        }
        let Some(said) = table.words(&word.text, "a text or a list of them", errors) else { continue };
        if said.is_empty() {
            errors.at(word.span, format!("{shown} in {} says nothing; leave it out", table.path()));
        }
        for text in said {
            match RecordData::read(*kind, &text.text, Some(zone)) {
                Err(why) => errors.at(text.span, format!("{shown} in {}: {why}", table.path())),
                Ok(data) => {
                    if !name.data.insert(data) {
                        errors.at(
                            text.span,
                            format!("{shown} in {}: {} is there twice", table.path(), quoted(&text.text)),
                        );
                    }
                }
            }
        }
    }
    name
}

/// Seconds.
fn ttl(table: &Table<'_>, errors: &mut Errors) -> Option<u32> {
    let ms = time(table, "ttl", TTL_MS, errors)?;
    if !ms.is_multiple_of(1_000) {
        errors.at(table.value_span("ttl"), format!("ttl in {}: it is counted in whole seconds", table.path()));
    }
    u32::try_from(ms / 1_000).ok()
}

/// Names of one zone that are in another one of these, which is asked instead.
fn hidden(blocks: &[Block<'_>], zones: &BTreeMap<String, Arc<ZoneSpec>>, errors: &mut Errors) {
    for block in blocks {
        let name = block.word.trim_end_matches('.').to_ascii_lowercase();
        let Some(zone) = zones.get(&name) else { continue };
        for owner in zone.records.keys().filter(|owner| *owner != APEX) {
            let whole = owner_name(owner, &name);
            let inner = zones.keys().find(|inner| inner.len() > name.len() && is_in(&whole, inner));
            if let Some(inner) = inner {
                let message = format!("name {} is in the zone {inner}: say it there", quoted(owner));
                let records = block.table.get("records").and_then(|records| match records.get_ref() {
                    toml::de::DeValue::Table(table) => table.get_key_value(owner.as_str()).map(|(key, _)| key.span()),
                    _ => None,
                });
                errors.at(records.unwrap_or(block.key.clone()), message);
            }
        }
    }
}

/// Whether `name` is `zone` or below it.
fn is_in(name: &str, zone: &str) -> bool {
    name.strip_suffix(zone).is_some_and(|above| above.is_empty() || above.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::super::{ManifestError, parse};
    use crate::id::RoleName;
    use crate::spec::AppSpec;

    fn read(text: &str) -> Result<AppSpec, Vec<String>> {
        let text = format!("app = \"shop\"\n{text}");
        // The zones begin in line 2.
        let shown = |error: &ManifestError| format!("{}:{} {}", error.line - 1, error.column, error.message);
        let read = parse(&text, &[RoleName::lb(), RoleName::compute()]);
        read.map(|(_, spec)| spec).map_err(|errors| errors.iter().map(shown).collect())
    }

    #[test]
    fn a_zone_says_what_no_route_gives_and_needs_no_program() {
        let spec = read(
            "[zone.\"Example.COM.\"]\nttl = \"1h\"\n\
             [zone.\"example.com\".records]\n\"@\" = { MX = [\"10 mail\", \"20 mx.example.net.\"], TXT = \"v=spf1 mx -all\" }\n\
             mail = { A = \"192.0.2.7\", aaaa = [\"2001:db8::7\"], ttl = \"1m\" }\n\"*.Dev\" = { CNAME = \"@\" }\n",
        );
        // TOML tells the two spellings apart; the zone is one.
        assert!(spec.is_err());
        let spec = read(
            "[zone.\"Example.COM.\"]\nttl = \"1h\"\n\
             [zone.\"Example.COM.\".records]\n\"@\" = { MX = [\"10 mail\", \"20 mx.example.net.\"], TXT = \"v=spf1 mx -all\" }\n\
             mail = { A = \"192.0.2.7\", aaaa = [\"2001:db8::7\"], ttl = \"1m\" }\n\"*.Dev\" = { CNAME = \"@\" }\n\
             [zone.\"b.test\"]\n",
        )
        .unwrap();
        assert_eq!(spec.zones.keys().collect::<Vec<_>>(), ["b.test", "example.com"]);
        let zone = &spec.zones["example.com"];
        assert_eq!((zone.ttl_s, zone.records["mail"].ttl_s, zone.count()), (Some(3_600), Some(60), 6));
        let told: Vec<String> = zone.records.values().flat_map(|name| &name.data).map(ToString::to_string).collect();
        let expected = [
            "CNAME example.com.",
            "MX 10 mail.example.com.",
            "MX 20 mx.example.net.",
            "TXT v=spf1 mx -all",
            "A 192.0.2.7",
            "AAAA 2001:db8::7",
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn what_is_wrong_is_said_where_it_stands() {
        let zone = "[zone.\"example.com\".records]\n";
        for (text, says) in [
            (
                "[zone.\"exa_mple.com\"]\n".into(),
                "1:7 \"exa_mple.com\" is no zone: use labels of a-z, 0-9 and '-' between dots, for example example.com",
            ),
            (
                "[zone.\"shop.hirsel\"]\n".into(),
                "1:7 \"shop.hirsel\" is the cluster's own zone, which is always answered",
            ),
            (
                "[zone.\"example.com\"]\nrecord = {}\n".into(),
                "2:1 unknown key \"record\" in [zone.\"example.com\"]; did you mean \"records\"?",
            ),
            (
                "[zone.\"example.com\"]\nttl = \"2d\"\n".into(),
                "2:7 ttl in [zone.\"example.com\"]: \"2d\" is not a duration: write for example 250ms, 1s, 2m or 1h",
            ),
            (
                format!("{zone}a = {{ A = \"192.0.2.256\" }}\n"),
                "2:11 A in [zone.\"example.com\".records.a]: \"192.0.2.256\" is not an IPv4 address, for example \"192.0.2.7\"",
            ),
            (
                format!("{zone}a = {{ AA = \"192.0.2.2\" }}\n"),
                "2:7 unknown kind of record \"AA\" in [zone.\"example.com\".records.a]; did you mean \"A\"?",
            ),
            (
                format!("{zone}a = {{ PTR = \"x.\" }}\n"),
                "2:7 unknown kind of record \"PTR\" in [zone.\"example.com\".records.a]; known are A, AAAA, CNAME, CAA, MX, NS, SRV, TXT, and ttl",
            ),
            (
                format!("{zone}a = {{ TXT = \"x\", CNAME = \"b\" }}\n"),
                "2:18 CNAME of \"a\": is another name, so there is one CNAME and nothing else",
            ),
            (
                format!("{zone}a = {{ A = [\"192.0.2.1\", \"192.0.2.1\"] }}\n"),
                "2:25 A in [zone.\"example.com\".records.a]: \"192.0.2.1\" is there twice",
            ),
            (
                format!("{zone}a = {{ A = [] }}\n"),
                "2:7 A in [zone.\"example.com\".records.a] says nothing; leave it out",
            ),
            (format!("{zone}a = {{}}\n"), "2:1 name \"a\": has no records"),
            (format!("{zone}a = 7\n"), "2:5 [zone.\"example.com\".records.a] is a whole number, not a table"),
            (
                format!("{zone}\"n1.ns\" = {{ A = \"192.0.2.1\" }}\n"),
                "2:1 name \"n1.ns\": names below ns are those of the nodes, NODE.ns.example.com",
            ),
            (
                format!("{zone}\"a.sub\" = {{ A = \"192.0.2.1\" }}\n[zone.\"sub.example.com\"]\n"),
                "2:1 name \"a.sub\" is in the zone sub.example.com: say it there",
            ),
            (
                format!(
                    "[service.web]\ncommand = [\"x\"]\n[route.\"www.example.com\"]\nto = \"web\"\n{zone}www = {{ TXT = \"fine\", A = \"192.0.2.1\" }}\n"
                ),
                "6:1 A of \"www\": www.example.com is the host of a route, whose addresses are those of the load balancers",
            ),
        ] {
            assert_eq!(read(&text).unwrap_err().first().map(String::as_str), Some(says), "{text}");
        }
    }
}
