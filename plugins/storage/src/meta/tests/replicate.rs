//! Which keys are due to be copied elsewhere: exactly those whose newest version is another one, or says something else, since they were copied.

use super::random::History;
use super::*;
use crate::meta::key::{self, after};
use crate::meta::kinds::{Due, Replicating};
use crate::meta::limits::FOUND_MAX;
use crate::meta::query::{self, Query, Replicated, Reply};
use crate::meta::read;
use crate::meta::snapshot::{Frames, Taken, Taking};

fn target(bucket: &str, prefix: &str) -> Target {
    Target {
        endpoint: "https://there.example.com".into(),
        region: "there-1".into(),
        bucket: bucket.into(),
        prefix: prefix.into(),
        key_id: "AKIA".into(),
        secret: vec![1, 2, 3].into(),
    }
}

fn replicate(town: &mut Town, name: &str, target: Target) {
    town.set(name, BucketChange::Replication(Some(Box::new(target)))).expect("it may be set");
}

fn how_far(town: &Town, name: &str) -> Replicated {
    match query::answer(&town.rows, &Query::Replication(bucket(name))).expect("a bucket") {
        Reply::Replication(Some(replicated)) => *replicated,
        other => panic!("{other:?}"),
    }
}

/// Keys that are due, the one whose turn is first in front, with their stamps.
fn due(town: &Town, name: &str) -> Vec<(String, Due)> {
    let id = how_far(town, name).replication.id;
    let due = read::due(&town.rows, id, (usize::MAX, usize::MAX), &mut |_| true).expect("memory");
    due.into_iter().map(|(key, due)| (key.to_string(), due)).collect()
}

fn due_keys(town: &Town, name: &str) -> Vec<String> {
    due(town, name).into_iter().map(|(key, _)| key).collect()
}

fn find(town: &mut Town, name: &str) -> (u64, bool) {
    let replication = how_far(town, name).replication.id;
    match town.run(Command::FindDue { replication }) {
        Ok(Answer::Some { done, more }) => (done, more),
        other => panic!("{other:?}"),
    }
}

fn copied(town: &mut Town, name: &str, keys: &[(&str, u64, bool)]) -> u64 {
    let replication = how_far(town, name).replication.id;
    let copied = |(key, stamp, cannot): &(&str, u64, bool)| Copied { key: object(key), stamp: *stamp, cannot: *cannot };
    match town.run(Command::Replicated { replication, keys: keys.iter().map(copied).collect() }) {
        Ok(Answer::Some { done, .. }) => done,
        other => panic!("{other:?}"),
    }
}

/// Rows of replications that there are.
fn rows(town: &Town) -> usize {
    town.rows.keys().filter(|row| matches!(row[0], b'h' | b'l' | b'o')).count()
}

#[test]
fn what_a_key_is_becomes_due_in_the_commit_that_changes_it() {
    let mut town = Town::with("pics", Versioning::Off);
    town.put("pics", "before", Condition::default()).expect("a put");
    replicate(&mut town, "pics", target("copy", ""));
    assert_eq!(due_keys(&town, "pics"), [""; 0], "what is there is found step by step");
    town.put("pics", "b", Condition::default()).expect("a put");
    town.put("pics", "a", Condition::default()).expect("a put");
    town.run(Command::Copy(Box::new(copying("a", "c")))).expect("a copy");
    assert_eq!(due_keys(&town, "pics"), ["b", "a", "c"]);
    let first = due(&town, "pics")[0].1;
    town.put("pics", "b", Condition::default()).expect("a put");
    let again = due(&town, "pics")[0].1;
    assert_eq!((again.place, again.since), (first.place, first.since), "it keeps its place");
    assert!(again.stamp > first.stamp);
    assert_eq!(find(&mut town, "pics"), (1, false));
    assert_eq!(due_keys(&town, "pics"), ["b", "a", "c", "before"]);
    town.delete("pics", "nothing", None).expect("a deletion");
    town.delete("pics", "before", None).expect("a deletion");
    assert_eq!(due_keys(&town, "pics"), ["b", "a", "c", "before"]);
    // What is refused changes nothing.
    let never = Condition { if_none_match: Some("*".into()), ..Condition::default() };
    town.put("pics", "a", never).expect_err("there is one");
    assert_eq!(due(&town, "pics")[0].1, again);
    let said = how_far(&town, "pics");
    assert_eq!((said.replicating.due, said.oldest), (4, Some(first.since)));
}

#[test]
fn what_changed_while_it_was_copied_stays_due() {
    let mut town = Town::with("pics", Versioning::On);
    replicate(&mut town, "pics", target("copy", ""));
    find(&mut town, "pics");
    town.put("pics", "a", Condition::default()).expect("a put");
    town.put("pics", "b", Condition::default()).expect("a put");
    let stamps: Vec<u64> = due(&town, "pics").iter().map(|(_, due)| due.stamp).collect();
    let version = town.put("pics", "a", Condition::default()).expect("a put").version;
    assert_eq!(copied(&mut town, "pics", &[("a", stamps[0], false), ("b", stamps[1], false)]), 1);
    assert_eq!(due_keys(&town, "pics"), ["a"]);
    let stamp = due(&town, "pics")[0].1.stamp;
    assert_eq!(copied(&mut town, "pics", &[("a", stamp, false), ("a", stamp, false), ("z", 1, false)]), 1);
    assert_eq!((how_far(&town, "pics").replicating.due, how_far(&town, "pics").oldest), (0, None));
    // A former version comes back, and a marker hides it again.
    town.delete("pics", "a", version).expect("a deletion");
    let restored = due(&town, "pics");
    assert_eq!(restored[0].0, "a");
    let marker = town.delete("pics", "a", None).expect("a deletion").marker;
    let hidden = due(&town, "pics")[0].1.stamp;
    assert!(hidden > restored[0].1.stamp);
    copied(&mut town, "pics", &[("a", hidden, false)]);
    town.delete("pics", "a", marker).expect("a deletion");
    assert_eq!(due_keys(&town, "pics"), ["a"], "the marker is gone, and the object is back");
}

#[test]
fn a_key_that_cannot_be_copied_is_counted_and_is_due_again_with_its_next_change() {
    let mut town = Town::with("pics", Versioning::Off);
    replicate(&mut town, "pics", target("copy", ""));
    find(&mut town, "pics");
    town.put("pics", "a", Condition::default()).expect("a put");
    let stamp = due(&town, "pics")[0].1.stamp;
    assert_eq!(copied(&mut town, "pics", &[("a", stamp, true)]), 1);
    let said = how_far(&town, "pics").replicating;
    assert_eq!((said.due, said.cannot, due_keys(&town, "pics").len()), (0, 1, 0));
    assert_eq!(copied(&mut town, "pics", &[("a", stamp, false)]), 0, "it was said already");
    town.delete("pics", "a", None).expect("a deletion");
    let said = how_far(&town, "pics").replicating;
    assert_eq!((said.due, said.cannot, due_keys(&town, "pics")), (1, 0, vec!["a".into()]));
}

#[test]
fn all_that_is_there_is_found_in_steps_within_the_prefix() {
    let mut town = Town::with("pics", Versioning::Off);
    let keys = FOUND_MAX + 10;
    for number in 0..keys {
        for folder in ["in", "out"] {
            let inline = put("pics", &format!("{folder}/{number:05}"), Written::Inline(vec![1]));
            town.run(Command::Put(Box::new(inline))).expect("a put");
        }
    }
    replicate(&mut town, "pics", target("copy", "in/"));
    assert_eq!(find(&mut town, "pics"), (FOUND_MAX as u64, true));
    // What changes meanwhile is found once.
    let last = format!("in/{:05}", keys - 1);
    town.put("pics", &last, Condition::default()).expect("a put");
    town.put("pics", "out/00001", Condition::default()).expect("a put");
    assert_eq!(find(&mut town, "pics"), (9, false));
    assert_eq!(find(&mut town, "pics"), (0, false));
    let mut found = due_keys(&town, "pics");
    assert_eq!(found[FOUND_MAX], last, "in the order in which they became due");
    found.sort();
    assert_eq!(found, (0..keys).map(|number| format!("in/{number:05}")).collect::<Vec<_>>());
    // The same place once more: what is due keeps its stamp, and all is looked at again.
    let before = due(&town, "pics");
    copied(&mut town, "pics", &[(&before[0].0, before[0].1.stamp, false)]);
    replicate(&mut town, "pics", Target { key_id: "OTHER".into(), ..target("copy", "in/") });
    assert_eq!(due(&town, "pics"), before[1..]);
    assert_eq!(how_far(&town, "pics").oldest, Some(before[1].1.since));
    assert_eq!(find(&mut town, "pics"), (1, true));
    assert_eq!(find(&mut town, "pics"), (0, false));
    assert_eq!(due(&town, "pics").len(), keys);
}

#[test]
fn nothing_is_left_of_a_replication_that_ends() {
    let mut town = Town::with("pics", Versioning::Off);
    replicate(&mut town, "pics", target("copy", ""));
    find(&mut town, "pics");
    for number in 0..700 {
        let inline = put("pics", &format!("{number}"), Written::Inline(vec![1]));
        town.run(Command::Put(Box::new(inline))).expect("a put");
    }
    let (old, stamp) = (how_far(&town, "pics").replication.id, due(&town, "pics")[0].1.stamp);
    replicate(&mut town, "pics", target("another", ""));
    assert_ne!(how_far(&town, "pics").replication.id, old, "another place has another number");
    assert_eq!(find(&mut town, "pics").0, FOUND_MAX as u64);
    let late = Command::Replicated { replication: old, keys: vec![Copied { key: object("0"), stamp, cannot: false }] };
    assert_eq!(town.run(late), Ok(Answer::Some { done: 0, more: false }), "what was due of the other one");
    let sweeps = town.sweep();
    assert!(sweeps > 1, "1400 rows in {sweeps} steps");
    assert_eq!(rows(&town), 1 + 2 * FOUND_MAX);
    town.set("pics", BucketChange::Replication(None)).expect("it may be ended");
    town.put("pics", "later", Condition::default()).expect("a put");
    town.sweep();
    assert_eq!(rows(&town), 0);
    assert_eq!(query::answer(&town.rows, &Query::Replication(bucket("pics"))), Ok(Reply::Replication(None)));
    // With its bucket it ends, too.
    let mut town = Town::with("pics", Versioning::Off);
    replicate(&mut town, "pics", target("copy", ""));
    town.put("pics", "a", Condition::default()).expect("a put");
    town.delete("pics", "a", None).expect("a deletion");
    town.run(Command::DeleteBucket { name: bucket("pics") }).expect("it is empty");
    town.sweep();
    assert_eq!(rows(&town), 0);
}

#[test]
fn why_it_fails_is_kept_with_when_it_began() {
    let mut town = Town::with("pics", Versioning::Off);
    replicate(&mut town, "pics", target("copy", ""));
    let replication = how_far(&town, "pics").replication.id;
    let mut fails = |words: Option<&str>| {
        let words = words.map(str::to_owned);
        town.run(Command::ReplicationFails { replication, words }).expect("it may be said");
        how_far(&town, "pics").replicating.failing
    };
    let first = fails(Some("it is away")).expect("it fails");
    let then = fails(Some("it refuses")).expect("it fails");
    assert_eq!((then.since, then.words.as_str()), (first.since, "it refuses"));
    assert_eq!(fails(None), None);
    let long = Command::ReplicationFails { replication, words: Some("x".repeat(10_000)) };
    assert!(matches!(town.run(long), Err(Refusal::Argument(_))));
    for bad in [Target { endpoint: String::new(), ..target("copy", "") }, target("copy", &"p".repeat(1_025))] {
        let refused = town.set("pics", BucketChange::Replication(Some(Box::new(bad))));
        assert!(matches!(refused, Err(Refusal::Argument(_))));
    }
}

#[test]
fn a_snapshot_brings_what_is_due() {
    let mut town = Town::with("pics", Versioning::Off);
    replicate(&mut town, "pics", target("copy", ""));
    for key in ["a", "b"] {
        town.put("pics", key, Condition::default()).expect("a put");
    }
    let (mut frames, mut taking, mut there) = (Frames::default(), Taking::default(), Memory::new());
    while let Some(frame) = frames.next(&town.rows).expect("memory") {
        if let Taken::Rows(rows) = taking.take(&frame).expect("it is whole") {
            there.extend(rows);
        }
    }
    let other = Town { rows: there, ..Town::default() };
    assert_eq!(due(&other, "pics"), due(&town, "pics"));
    assert_eq!(how_far(&other, "pics"), how_far(&town, "pics"));
}

#[test]
fn a_bucket_that_knew_nothing_of_replication_is_read_and_written_as_before() {
    let town = Town::with("pics", Versioning::Off);
    let row = town.rows.get(&key::bucket(&bucket("pics"))).expect("it is there");
    assert!(!row.windows(11).any(|bytes| bytes == b"replication"), "none is not written");
    assert_eq!(codec::decode::<Bucket>(row).expect("a bucket").replication, None);
}

/// What a copy of each key has to be like.
fn seen(town: &Town, id: u64) -> BTreeMap<String, (Stamp, BTreeMap<String, String>)> {
    let from = key::keys_from(b'c', id, "");
    let rows = town.rows.range(from.clone()..after(&from));
    let one = |(row, value): (&Vec<u8>, &Vec<u8>)| {
        let version: Version = codec::decode(value).expect("a version");
        let (key, _) = key::key_in(row).expect("a key");
        (key, (version.stamp, version.object.expect("an object").about.tags))
    };
    rows.map(one).collect()
}

#[test]
fn whatever_happens_exactly_what_changed_is_due() {
    let mut changes = 0;
    for seed in 0..8 {
        let mut history = History::new(1_000 + seed);
        for _ in 0..150 {
            let named = list_of_buckets(&history.town);
            for (name, known) in &named {
                if known.replication.is_none() {
                    replicate(&mut history.town, name.as_str(), target("copy", ""));
                    while find(&mut history.town, name.as_str()).1 {}
                }
            }
            let looked = |town: &Town| -> Vec<_> {
                let one = |(name, known): &(BucketName, Bucket)| {
                    let due: BTreeMap<String, Due> = due(town, name.as_str()).into_iter().collect();
                    (name.clone(), known.id, seen(town, known.id), due)
                };
                list_of_buckets(town).iter().filter(|(_, known)| known.replication.is_some()).map(one).collect()
            };
            let before = looked(&history.town);
            let command = history.step();
            let after = looked(&history.town);
            for (name, id, then, due_then) in &after {
                let Some((_, _, was, due_before)) = before.iter().find(|(_, of, ..)| of == id) else { continue };
                let keys: std::collections::BTreeSet<&String> = then.keys().chain(was.keys()).collect();
                for key in keys {
                    let stamp = |due: &BTreeMap<String, Due>| due.get(key).map(|due| due.stamp);
                    let is_changed = then.get(key) != was.get(key);
                    let is_marked = stamp(due_then) != stamp(due_before);
                    let says_the_same = matches!(command, Command::SetObject { .. });
                    assert!(is_changed == is_marked || says_the_same && is_marked, "seed {seed}: {key:?}, {command:?}");
                    changes += u32::from(is_changed);
                }
                assert_eq!(how_far(&history.town, name.as_str()).replicating.due, due_then.len() as u64);
            }
        }
    }
    assert!(changes > 60, "{changes}");
}

fn list_of_buckets(town: &Town) -> Vec<(BucketName, Bucket)> {
    let (found, _) = crate::meta::list::buckets(&town.rows, None, "", None, 100).expect("memory");
    found.into_iter().map(|named| (named.name, named.bucket)).collect()
}

#[test]
fn replicating_is_counted_as_the_rows_say() {
    let mut town = Town::with("pics", Versioning::Off);
    replicate(&mut town, "pics", target("copy", ""));
    let found: Vec<(u64, Replicating)> = read::replications(&town.rows, 10).expect("memory");
    assert_eq!(found, [(how_far(&town, "pics").replication.id, how_far(&town, "pics").replicating)]);
}
