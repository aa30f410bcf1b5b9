//! Stories of notices: written with what they tell of, bounded, and removed when they are told.

use super::*;
use crate::meta::limits::{NOTICES_ALL_MAX, NOTICES_MAX};
use crate::meta::outbox::{Ending, Notice, QueueId, notices, queues};
use crate::meta::{key, read};
use crate::rules::notify::Rule;

const PICS: &str = "pics";
const HOOK: &str = "http://hook.example/a";

fn rule(url: &str, events: &[&str]) -> Rule {
    let events = events.iter().map(ToString::to_string).collect();
    Rule { id: "r".into(), to: format!("arn:hirsel:webhook:::{url}"), events, ..Rule::default() }
}

fn telling(rules: &[Rule]) -> BucketChange {
    BucketChange::Document(DocumentKind::Notification, Some(serde_json::to_string(rules).expect("rules are text")))
}

/// Every family of events.
const ALL: [&str; 5] =
    ["s3:ObjectCreated:*", "s3:ObjectRemoved:*", "s3:ObjectTagging:*", "s3:ObjectAcl:Put", "s3:LifecycleExpiration:*"];

/// Two that random histories tell.
pub const TWO: [&str; 2] = [HOOK, "http://hook.example/b"];

/// Both are told, one of them less.
pub fn telling_two() -> BucketChange {
    telling(&[rule(TWO[0], &ALL), Rule { prefix: "a".into(), ..rule(TWO[1], &ALL) }])
}

impl Town {
    fn waiting(&self, url: &str) -> Vec<(u64, Notice)> {
        notices(&self.rows, QueueId::of(url), 100_000).expect("they can be read")
    }

    /// What waits, in words.
    fn told(&self, url: &str) -> Vec<String> {
        let words = |(_, notice): &(u64, Notice)| {
            let version = if notice.version.is_some() { " v" } else { "" };
            let bytes = notice.bytes.map(|bytes| format!(" {bytes}")).unwrap_or_default();
            format!("{} {}{bytes}{version}", notice.event.trim_start_matches("s3:"), notice.key)
        };
        self.waiting(url).iter().map(words).collect()
    }

    fn end(&mut self, url: &str, up_to: u64, ending: Ending) -> Answer {
        self.run(Command::EndNotices { queue: QueueId::of(url), up_to, ending }).expect("it is carried out")
    }

    fn head(&self) -> Head {
        read::head(&self.rows).expect("it can be read")
    }
}

#[test]
fn each_change_leaves_a_notice_in_the_same_commit_for_whom_wants_to_know() {
    let mut town = Town::with(PICS, Versioning::Off);
    town.put(PICS, "before", Condition::default()).expect("a put");
    town.set(PICS, telling(&[rule(HOOK, &ALL)])).expect("a document");
    let made = town.put(PICS, "a", Condition::default()).expect("a put");
    let (_, first) = town.waiting(HOOK).remove(0);
    assert_eq!((first.at, first.etag, first.owner.as_str()), (made.at, Some(made.etag), "ann"));
    town.run(Command::Put(Box::new(Put { by: By::Form, ..put(PICS, "f", Written::Inline(b"hello".to_vec())) })))
        .expect("a form");
    town.run(Command::Copy(Box::new(copying("a", "b")))).expect("a copy");
    for (tags, key) in [(tags(&[("x", "y")]), "b"), (tags(&[]), "b")] {
        let change = ObjectChange::Tags(tags);
        let change = Command::SetObject { bucket: bucket(PICS), key: object(key), version: None, change };
        town.run(change).expect("tags");
    }
    let change = ObjectChange::Acl(Acl::PublicRead);
    town.run(Command::SetObject { bucket: bucket(PICS), key: object("b"), version: None, change }).expect("a list");
    town.delete(PICS, "b", None).expect("a deletion");
    town.delete(PICS, "b", None).expect("nothing to delete");
    let deletions = vec![Deletion { key: object("f"), version: None, if_match: None }];
    town.run(Command::Delete { bucket: bucket(PICS), deletions, bypass: false, expired: true }).expect("it is old");
    // What is refused tells nobody.
    let never = Condition { if_match: Some("other".into()), ..Condition::default() };
    assert!(town.put(PICS, "a", never).is_err());
    assert_eq!(
        town.told(HOOK),
        [
            "ObjectCreated:Put a 100",
            "ObjectCreated:Post f 5",
            "ObjectCreated:Copy b 100",
            "ObjectTagging:Put b 100",
            "ObjectTagging:Delete b 100",
            "ObjectAcl:Put b 100",
            "ObjectRemoved:Delete b",
            "LifecycleExpiration:Delete f",
        ]
    );
    let waiting = queues(&town.rows, 10).expect("they can be read");
    assert_eq!(waiting.iter().map(|(_, queue)| (queue.url.as_str(), queue.waiting)).collect::<Vec<_>>(), [(HOOK, 8)]);
    assert_eq!((town.head().notices, town.head().notices_lost), (8, 0));
    town.set(PICS, BucketChange::Document(DocumentKind::Notification, None)).expect("no document");
    town.put(PICS, "after", Condition::default()).expect("a put");
    assert_eq!(town.told(HOOK).len(), 8, "what waits is told all the same");
}

#[test]
fn versions_and_markers_are_told_by_their_names_and_an_upload_by_its_end() {
    let mut town = Town::with(PICS, Versioning::On);
    town.set(PICS, telling(&[rule(HOOK, &ALL)])).expect("a document");
    let made = town.put(PICS, "a", Condition::default()).expect("a put");
    let marker = town.delete(PICS, "a", None).expect("a deletion").marker;
    town.delete(PICS, "a", marker).expect("the marker");
    let create =
        CreateUpload { bucket: bucket(PICS), key: object("u"), about: About::default(), lock: None, checksum: None };
    let Ok(Answer::Upload(upload)) = town.run(Command::CreateUpload(Box::new(create))) else { panic!("no upload") };
    let body = town.body(1, 77);
    let part =
        PutPart { bucket: bucket(PICS), key: object("u"), upload, number: 1, body, etag: "p1".into(), checksum: None };
    town.run(Command::PutPart(Box::new(part))).expect("a part");
    let complete = CompleteUpload {
        bucket: bucket(PICS),
        key: object("u"),
        upload,
        parts: vec![(1, "p1".into())],
        etag: "u-1".into(),
        checksum: None,
        bytes: None,
        condition: Condition::default(),
    };
    // Who asks for the end twice is told the same, and the others only once.
    for _ in 0..2 {
        town.run(Command::CompleteUpload(Box::new(complete.clone()))).expect("an object");
    }
    assert_eq!(
        town.told(HOOK),
        [
            "ObjectCreated:Put a 100 v",
            "ObjectRemoved:DeleteMarkerCreated a v",
            "ObjectRemoved:Delete a v",
            "ObjectCreated:CompleteMultipartUpload u 77 v",
        ]
    );
    let versions: Vec<_> = town.waiting(HOOK).into_iter().map(|(_, notice)| notice.version).collect();
    assert_eq!(versions[..3], [made.version, marker, marker]);
}

#[test]
fn notices_end_in_order_and_only_those_of_the_destination() {
    let mut town = Town::with(PICS, Versioning::Off);
    let other = "https://other.example/";
    let only = Rule { suffix: ".jpg".into(), ..rule(other, &["s3:ObjectCreated:Put"]) };
    town.set(PICS, telling(&[rule(HOOK, &ALL), only])).expect("a document");
    for key in ["1.jpg", "2", "3.jpg"] {
        town.put(PICS, key, Condition::default()).expect("a put");
    }
    assert_eq!((town.told(HOOK).len(), town.told(other).len(), town.head().notices), (3, 2, 5));
    let second = town.waiting(HOOK)[1].0;
    assert_eq!(town.end(HOOK, second, Ending::Told), Answer::Some { done: 2, more: false });
    assert_eq!(town.end(HOOK, second, Ending::Told), Answer::Some { done: 0, more: false }, "told twice is told");
    assert_eq!((town.told(HOOK), town.told(other).len()), (vec!["ObjectCreated:Put 3.jpg 100".into()], 2));
    town.end(HOOK, u64::MAX, Ending::Told);
    town.end(other, u64::MAX, Ending::Lost);
    assert_eq!(town.end(HOOK, u64::MAX, Ending::Told), Answer::Some { done: 0, more: false });
    assert_eq!((town.head().notices, town.head().notices_lost), (0, 2));
    assert_eq!(queues(&town.rows, 10), Ok(Vec::new()));
    assert!(town.rows.range(b"q".to_vec()..b"r".to_vec()).next().is_none(), "nothing is left of them");
}

#[test]
fn a_full_queue_loses_its_oldest_and_no_write_waits() {
    let mut town = Town::with(PICS, Versioning::Off);
    town.set(PICS, telling(&[rule(HOOK, &["s3:ObjectTagging:*"])])).expect("a document");
    town.put(PICS, "a", Condition::default()).expect("a put");
    let tag = |town: &mut Town| {
        let change = ObjectChange::Tags(tags(&[("n", "1")]));
        town.run(Command::SetObject { bucket: bucket(PICS), key: object("a"), version: None, change }).expect("tags");
    };
    for _ in 0..NOTICES_MAX {
        tag(&mut town);
    }
    let oldest = town.waiting(HOOK)[0].0;
    assert_eq!((town.head().notices, town.head().notices_lost), (NOTICES_MAX, 0));
    tag(&mut town);
    assert_eq!((town.head().notices, town.head().notices_lost), (NOTICES_MAX, 1));
    assert!(town.waiting(HOOK)[0].0 > oldest);
    assert_eq!(town.waiting(HOOK).len() as u64, NOTICES_MAX);
    // All queues together are full: who has nothing there yet loses the new one.
    let mut head = town.head();
    head.notices = NOTICES_ALL_MAX;
    town.rows.insert(key::head(), codec::encode(&head));
    town.set(PICS, telling(&[rule("http://new.example", &["s3:ObjectTagging:*"])])).expect("a document");
    tag(&mut town);
    assert_eq!((town.told("http://new.example").len(), town.head().notices_lost), (0, 2));
    // What waits ends a thousand at a time.
    assert_eq!(town.end(HOOK, u64::MAX, Ending::Told), Answer::Some { done: 1_000, more: true });
}

#[test]
fn rules_that_could_not_be_carried_out_are_no_document() {
    let mut town = Town::with(PICS, Versioning::Off);
    for bad in ["x", "{}", &serde_json::to_string(&[rule("ftp://x", &ALL)]).expect("text")] {
        let change = BucketChange::Document(DocumentKind::Notification, Some((*bad).to_owned()));
        assert!(matches!(town.set(PICS, change), Err(Refusal::Argument(_))), "{bad}");
    }
    town.put(PICS, "a", Condition::default()).expect("a put");
    assert_eq!(town.head().notices, 0);
}

#[test]
fn what_waits_is_in_a_snapshot_and_there_after_all_is_carried_out_again() {
    use crate::meta::snapshot::{Frames, Taken, Taking};
    let mut town = Town::with(PICS, Versioning::Off);
    town.set(PICS, telling(&[rule(HOOK, &ALL)])).expect("a document");
    for key in ["a", "b"] {
        town.put(PICS, key, Condition::default()).expect("a put");
    }
    let mut again = Memory::new();
    for entry in town.log.clone() {
        let (changes, _) = apply(&again, entry).expect("nothing of it is broken");
        take(&mut again, changes);
    }
    assert_eq!(again, town.rows);
    let (mut frames, mut taking) = (Frames::default(), Taking::default());
    let mut copied = Memory::new();
    while let Some(frame) = frames.next(&town.rows).expect("they can be read") {
        if let Taken::Rows(rows) = taking.take(&frame).expect("it is whole") {
            copied.extend(rows);
        }
    }
    assert_eq!(notices(&copied, QueueId::of(HOOK), 10), Ok(town.waiting(HOOK)));
}
