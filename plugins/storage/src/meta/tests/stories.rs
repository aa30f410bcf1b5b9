//! What clients may rely on, one story after the other.

use super::*;
use crate::meta::list::{self, Ask};
use crate::meta::read;

const PICS: &str = "pics";

fn etag(if_match: Option<&str>, if_none_match: Option<&str>) -> Condition {
    Condition { if_match: if_match.map(Into::into), if_none_match: if_none_match.map(Into::into) }
}

fn begin(town: &mut Town, key: &str) -> UploadId {
    let (about, lock, checksum) = (About::default(), None, None);
    let create = CreateUpload { bucket: bucket(PICS), key: object(key), about, lock, checksum };
    match town.run(Command::CreateUpload(Box::new(create))) {
        Ok(Answer::Upload(id)) => id,
        other => panic!("{other:?}"),
    }
}

fn part(town: &mut Town, key: &str, upload: UploadId, number: u16, bytes: u64) -> Result<Made, Refusal> {
    let body = town.body(1, bytes);
    let etag = format!("p{number}");
    let part = PutPart { bucket: bucket(PICS), key: object(key), upload, number, body, etag, checksum: None };
    town.run(Command::PutPart(Box::new(part))).map(made)
}

fn finish(town: &mut Town, key: &str, upload: UploadId, parts: &[u16]) -> Result<Made, Refusal> {
    let parts = parts.iter().map(|number| (*number, format!("p{number}"))).collect();
    let complete = CompleteUpload {
        bucket: bucket(PICS),
        key: object(key),
        upload,
        parts,
        etag: "whole-2".into(),
        checksum: None,
        bytes: None,
        condition: Condition::default(),
    };
    town.run(Command::CompleteUpload(Box::new(complete))).map(made)
}

fn id_of(town: &Town) -> u64 {
    read::bucket(&town.rows, &bucket(PICS)).expect("it is there").id
}

fn usage(town: &Town) -> Usage {
    read::usage(&town.rows, id_of(town)).expect("memory")
}

fn newest(town: &Town, key: &str) -> Option<Version> {
    read::newest(&town.rows, id_of(town), &object(key)).expect("memory")
}

#[test]
fn a_bucket_is_its_owners_and_goes_when_it_is_empty() {
    let mut town = Town::with(PICS, Versioning::Off);
    assert_eq!(town.run(create(PICS, false)), Err(Refusal::BucketYours));
    let Command::CreateBucket { name, region, .. } = create(PICS, false) else { unreachable!() };
    let other = Command::CreateBucket {
        name,
        owner: "bob".into(),
        region,
        lockable: false,
        acl: Acl::Private,
        class: Default::default(),
    };
    assert_eq!(town.run(other), Err(Refusal::BucketTaken));
    town.put(PICS, "a", Condition::default()).expect("a put");
    let delete = Command::DeleteBucket { name: bucket(PICS) };
    assert_eq!(town.run(delete.clone()), Err(Refusal::BucketNotEmpty));
    town.delete(PICS, "a", None).expect("a deletion");
    let upload = begin(&mut town, "b");
    part(&mut town, "b", upload, 1, MIB).expect("a part");
    town.set(PICS, BucketChange::Document(DocumentKind::Cors, Some("<c/>".into()))).expect("a document");
    town.run(delete.clone()).expect("uploads do not keep it");
    assert_eq!(town.run(delete), Err(Refusal::NoSuchBucket));
    assert_eq!(part(&mut town, "b", upload, 2, MIB), Err(Refusal::NoSuchBucket));
    town.run(create(PICS, false)).expect("the name is free");
    assert_eq!(read::document(&town.rows, id_of(&town), DocumentKind::Cors), Ok(None));
    assert_eq!(part(&mut town, "b", upload, 2, MIB), Err(Refusal::NoSuchUpload), "another bucket has the name");
    town.sweep();
    let kinds: std::collections::BTreeSet<char> = town.rows.keys().map(|key| char::from(key[0])).collect();
    // The head, the bucket with its usage, two condemned chunks, and the two writes that were refused and are still open.
    assert_eq!(kinds.iter().collect::<String>(), "abegis");
}

#[test]
fn of_many_that_want_to_be_the_first_one_is() {
    let mut town = Town::with(PICS, Versioning::Off);
    let first = || etag(None, Some("*"));
    let won = (0..5).filter(|_| town.put(PICS, "lock", first()).is_ok()).count();
    assert_eq!(won, 1);
    assert_eq!(town.put(PICS, "lock", first()), Err(Refusal::Condition("If-None-Match".into())));
    assert_eq!(town.put(PICS, "lock", etag(Some("e2"), None)), Err(Refusal::Condition("If-Match".into())));
    assert!(town.put(PICS, "lock", etag(Some("e1"), None)).is_ok());
    assert!(town.put(PICS, "lock", etag(None, Some("e2"))).is_ok());
    assert_eq!(town.put(PICS, "new", etag(Some("*"), None)), Err(Refusal::NoSuchKey));
    town.delete(PICS, "lock", None).expect("a deletion");
    assert!(town.put(PICS, "lock", first()).is_ok(), "what is deleted is not there");
}

#[test]
fn versions_come_and_go_and_a_marker_hides_them() {
    let mut town = Town::with(PICS, Versioning::Off);
    assert_eq!(town.put(PICS, "a", Condition::default()).expect("a put").version, None);
    town.set(PICS, BucketChange::Versioning(Versioning::On)).expect("it may be set");
    let second = town.put(PICS, "a", Condition::default()).expect("a put").version.expect("it has a version");
    let marker = town.delete(PICS, "a", None).expect("a deletion");
    assert!(marker.made && newest(&town, "a").is_some_and(|newest| newest.object.is_none()));
    assert_eq!(town.put(PICS, "a", etag(Some("*"), None)), Err(Refusal::NoSuchKey));
    let page = list::versions(&town.rows, id_of(&town), &Ask { max: 10, ..Ask::default() }, None).expect("memory");
    let seen: Vec<_> = page.entries.iter().map(|listed| (listed.version.name(), listed.latest)).collect();
    assert_eq!(seen, [(marker.marker.expect("a marker"), true), (second, false), (VersionRef::Null, false)]);
    // Without the marker the one below is the newest.
    let gone = town.delete(PICS, "a", marker.marker).expect("a deletion");
    assert_eq!(gone, Deleted { marker: marker.marker, made: false });
    assert_eq!(newest(&town, "a").map(|newest| newest.name()), Some(second));
    // While versions are suspended, what is written takes the place of the null version, wherever that is.
    town.set(PICS, BucketChange::Versioning(Versioning::Suspended)).expect("it may be set");
    let null = town.put(PICS, "a", Condition::default()).expect("a put");
    assert_eq!(null.version, Some(VersionRef::Null));
    assert_eq!(usage(&town), Usage { objects: 1, noncurrent: 1, bytes: 200, ..Usage::default() });
    let marker = town.delete(PICS, "a", None).expect("a deletion");
    assert_eq!(marker, Deleted { marker: Some(VersionRef::Null), made: true });
    assert_eq!(usage(&town), Usage { noncurrent: 1, markers: 1, bytes: 100, ..Usage::default() });
    town.delete(PICS, "a", Some(VersionRef::Null)).expect("a deletion");
    town.delete(PICS, "a", Some(second)).expect("a deletion");
    assert_eq!(town.delete(PICS, "a", Some(second)), Ok(Deleted::default()), "deleting what is not there is no error");
    assert_eq!((usage(&town), newest(&town, "a")), (Usage::default(), None));
    let off = BucketChange::Versioning(Versioning::Off);
    assert!(matches!(town.set(PICS, off), Err(Refusal::Argument(_))));
}

#[test]
fn a_locked_version_stays_until_its_time_is_over() {
    let mut town = Town { at: 1_000, ..Town::default() };
    town.run(create(PICS, true)).expect("a bucket");
    assert!(town.set(PICS, BucketChange::Versioning(Versioning::Suspended)).is_err());
    let until = WallTime(town.at + 500);
    let lock = |mode| Some(Lock { retention: Some(Retention { mode, until }), hold: false });
    let locked = |town: &mut Town, key: &str, lock| {
        let body = town.body(1, 10);
        let put = Put { lock, ..put(PICS, key, body) };
        town.run(Command::Put(Box::new(put))).map(|answer| made(answer).version.expect("a version"))
    };
    let (soft, hard) =
        (locked(&mut town, "g", lock(LockMode::Governance)), locked(&mut town, "c", lock(LockMode::Compliance)));
    let (soft, hard) = (soft.expect("a put"), hard.expect("a put"));
    assert!(town.delete(PICS, "c", None).expect("a marker deletes nothing").made);
    assert_eq!(town.delete(PICS, "c", Some(hard)), Err(Refusal::Locked));
    assert_eq!(town.delete(PICS, "g", Some(soft)), Err(Refusal::Locked));
    let retention = |key: &str, version, to, bypass| Command::SetObject {
        bucket: bucket(PICS),
        key: object(key),
        version: Some(version),
        change: ObjectChange::Retention { to, bypass },
    };
    let ends = |mode, at| Some(Retention { mode, until: WallTime(at) });
    assert_eq!(town.run(retention("c", hard, None, true)), Err(Refusal::Locked));
    assert_eq!(town.run(retention("c", hard, ends(LockMode::Governance, until.0 + 9), true)), Err(Refusal::Locked));
    town.run(retention("c", hard, ends(LockMode::Compliance, until.0 + 9), false)).expect("it may be longer");
    assert_eq!(town.run(retention("g", soft, None, false)), Err(Refusal::Locked));
    let stricter = ends(LockMode::Compliance, until.0);
    assert_eq!(
        town.run(retention("g", soft, stricter, false)),
        Err(Refusal::Locked),
        "the mode is his who may bypass it"
    );
    town.run(retention("g", soft, ends(LockMode::Governance, until.0 - 9), true)).expect("he may bypass");
    let deletion = Deletion { key: object("g"), version: Some(soft), if_match: None };
    let bypassed =
        town.run(Command::Delete { bucket: bucket(PICS), deletions: vec![deletion], bypass: true, expired: false });
    assert_eq!(bypassed, Ok(Answer::Deleted(vec![Ok(Deleted::default())])));
    town.at = until.0 + 10;
    let hold = |hold| Command::SetObject {
        bucket: bucket(PICS),
        key: object("c"),
        version: Some(hard),
        change: ObjectChange::Hold(hold),
    };
    town.run(hold(true)).expect("a hold");
    assert_eq!(town.delete(PICS, "c", Some(hard)), Err(Refusal::Locked));
    town.run(hold(false)).expect("no hold");
    town.delete(PICS, "c", Some(hard)).expect("its time is over");
    // By default, for days.
    let days = BucketChange::Lock(Some(LockDefault { mode: LockMode::Compliance, days: 1 }));
    town.set(PICS, days).expect("a default");
    let kept = locked(&mut town, "d", None).expect("a put");
    town.at += 23 * 60 * 60 * 1_000;
    assert_eq!(town.delete(PICS, "d", Some(kept)), Err(Refusal::Locked));
    town.at += 2 * 60 * 60 * 1_000;
    town.delete(PICS, "d", Some(kept)).expect("a day is over");
}

#[test]
fn a_chunk_that_is_condemned_is_never_named_again() {
    let mut town = Town::with(PICS, Versioning::Off);
    let write = town.open();
    let body = written(write, 2, 100);
    let chunks = [ChunkId::new(0, write, 0), ChunkId::new(1, write, 1)];
    let unknown = Command::CondemnUnknown { chunks: chunks.into() };
    assert_eq!(town.run(unknown.clone()), Ok(Answer::Fates(vec![Fate::Open; 2])), "its commit may be on its way");
    town.run(Command::Abort { writes: vec![write] }).expect("an abort");
    let late = Command::Put(Box::new(put(PICS, "late", body)));
    assert_eq!(town.run(late.clone()), Err(Refusal::NotOpen));
    assert_eq!(town.run(unknown.clone()), Ok(Answer::Fates(vec![Fate::Condemned; 2])));
    assert!(matches!(town.run(late.clone()), Err(Refusal::Chunk(_))));
    town.run(Command::Forget { chunks: chunks.into() }).expect("they are unlinked");
    assert_eq!(town.run(late), Err(Refusal::NotOpen));
    // What is named is neither condemned nor named twice.
    let write = town.open();
    let body = written(write, 2, 100);
    town.run(Command::Put(Box::new(put(PICS, "a", body.clone())))).expect("a put");
    let chunks: Vec<ChunkId> = vec![ChunkId::new(0, write, 0), ChunkId::new(4, write, 4)];
    let fates = town.run(Command::CondemnUnknown { chunks });
    assert_eq!(fates, Ok(Answer::Fates(vec![Fate::Named, Fate::Condemned])));
    assert!(town.run(Command::Put(Box::new(put(PICS, "b", body)))).is_err());
}

#[test]
fn a_copy_shares_chunks_and_the_last_of_them_condemns() {
    let mut town = Town::with(PICS, Versioning::Off);
    for chunks in [2, 20] {
        let write = town.open();
        town.run(Command::Put(Box::new(put(PICS, "a", written(write, chunks, 100))))).expect("a put");
        town.run(Command::Copy(Box::new(copying("a", "b")))).expect("a copy");
        // Onto itself, with other headers.
        let headers = tags(&[("content-type", "text/plain")]);
        let about = Some(About { headers, ..About::default() });
        town.run(Command::Copy(Box::new(Copying { about, ..copying("b", "b") }))).expect("a copy");
        town.delete(PICS, "a", None).expect("a deletion");
        town.sweep();
        let chunk = ChunkId::new(1, write, 1);
        assert!(matches!(read::chunk(&town.rows, chunk), Ok(read::Known::Named(_))));
        let object = newest(&town, "b").and_then(|version| version.object).expect("the copy");
        let pieces = read::layout(&town.rows, &object.body, 60, 3).expect("memory");
        assert!(pieces.iter().any(|piece| piece.offset <= 60) && pieces.len() == 3.min(usize::from(chunks) / 2));
        town.delete(PICS, "b", None).expect("a deletion");
        town.sweep();
        assert_eq!(read::chunk(&town.rows, chunk), Ok(read::Known::Condemned));
    }
    let gone = Copying { from_etag: Some("e9".into()), ..copying("a", "b") };
    assert_eq!(town.run(Command::Copy(Box::new(gone))), Err(Refusal::NoSuchKey));
}

#[test]
fn writes_end_with_the_start_of_the_gateway_that_opened_them() {
    let mut town = Town::with(PICS, Versioning::Off);
    let writes: Vec<WriteId> = (0..100).map(|_| town.draw()).collect();
    let open = |gateway, incarnation, writes: &[WriteId]| Command::Open {
        gateway: NodeId(gateway),
        incarnation: Incarnation(incarnation),
        writes: writes.to_vec(),
    };
    town.run(open(7, 3, &writes[..50])).expect("new writes");
    town.run(open(7, 4, &writes[50..60])).expect("new writes");
    town.run(open(8, 1, &writes[60..])).expect("new writes");
    assert_eq!(town.run(open(8, 1, &writes[..1])), Err(Refusal::UsedWrite));
    let gone = Command::AbortGone { gateway: NodeId(7), before: Incarnation(4) };
    assert_eq!(town.run(gone.clone()), Ok(Answer::Some { done: 50, more: false }));
    assert_eq!(town.run(gone), Ok(Answer::Some { done: 0, more: false }));
    assert_eq!(read::head(&town.rows).expect("memory").writes, 50);
    let commit = |write| Command::Put(Box::new(put(PICS, "a", written(write, 1, 9))));
    assert_eq!(town.run(commit(writes[0])), Err(Refusal::NotOpen));
    assert!(town.run(commit(writes[50])).is_ok() && town.run(commit(writes[60])).is_ok());
}

#[test]
fn a_commit_by_an_older_table_is_refused_once_the_partition_has_moved() {
    let mut town = Town::with(PICS, Versioning::Off);
    let write = town.open();
    let body = written(write, 3, 30);
    town.run(Command::MoveComplete { partition: 2, table: 5 }).expect("a move");
    town.run(Command::MoveComplete { partition: 2, table: 4 }).expect("it was told late");
    let commit = |body: &Written| Command::Put(Box::new(put(PICS, "a", body.clone())));
    assert_eq!(town.run(commit(&body)), Err(Refusal::OldTable { partition: 2, by: 1, least: 5 }));
    let Written::Chunks { write, class, chunks, missed, .. } = body else { unreachable!() };
    let lacks = Missed { chunk: chunks[1].id, shard: 0, node: NodeId(9) };
    let newer = Written::Chunks { write, class, chunks: chunks.clone(), missed, table: 5 };
    town.run(commit(&newer)).expect("the write is still open");
    // What a commit missed is queued with it, and what is not named is not mended.
    assert_eq!(read::repairs(&town.rows, Some(1), None, 10), Ok(vec![]));
    town.run(Command::AddRepairs { missed: vec![lacks] }).expect("a repair");
    assert_eq!(read::repairs(&town.rows, Some(1), None, 10), Ok(vec![lacks]));
    town.delete(PICS, "a", None).expect("a deletion");
    assert_eq!(read::repairs(&town.rows, Some(1), None, 10), Ok(vec![]));
    assert_eq!(town.run(Command::AddRepairs { missed: vec![lacks] }), Ok(Answer::Some { done: 0, more: false }));
    let write = town.open();
    let Written::Chunks { class, chunks, .. } = written(write, 2, 30) else { unreachable!() };
    let missed: Vec<Missed> =
        chunks.iter().map(|chunk| Missed { chunk: chunk.id, shard: 1, node: NodeId(4) }).collect();
    town.run(commit(&Written::Chunks { write, class, chunks, missed: missed.clone(), table: 5 })).expect("a put");
    assert_eq!(read::repairs(&town.rows, Some(0), None, 10), Ok(missed[..1].to_vec()));
    town.run(Command::Repaired { missed: missed[..1].to_vec() }).expect("it is there");
    assert_eq!(read::repairs(&town.rows, Some(0), None, 10), Ok(vec![]));
}

#[test]
fn an_upload_is_finished_by_its_parts_as_the_client_knows_them() {
    let mut town = Town::with(PICS, Versioning::On);
    let upload = begin(&mut town, "big");
    let five = 5 * MIB;
    for (number, bytes) in [(1, five), (2, five), (3, 10), (7, 20)] {
        part(&mut town, "big", upload, number, bytes).expect("a part");
    }
    for number in [0, 10_001] {
        assert!(matches!(part(&mut town, "big", upload, number, 9), Err(Refusal::Argument(_))));
    }
    part(&mut town, "big", upload, 2, five + 1).expect("the same number again");
    assert_eq!(usage(&town), Usage { uploads: 1, parts: 4, part_bytes: 2 * five + 31, ..Usage::default() });
    assert_eq!(finish(&mut town, "big", upload, &[2, 1]), Err(Refusal::PartOrder));
    assert_eq!(finish(&mut town, "big", upload, &[1, 1]), Err(Refusal::PartOrder));
    assert_eq!(finish(&mut town, "big", upload, &[1, 4]), Err(Refusal::InvalidPart(4)));
    assert_eq!(finish(&mut town, "big", upload, &[1, 3, 7]), Err(Refusal::PartTooSmall(3)));
    assert!(matches!(finish(&mut town, "big", upload, &[]), Err(Refusal::Argument(_))));
    assert_eq!(finish(&mut town, "small", upload, &[1]), Err(Refusal::NoSuchUpload), "it is of another key");
    let (page, more) = list::parts(&town.rows, upload, 2, 1).expect("memory");
    assert_eq!((page[0].0, page.len(), more), (3, 1, true));
    let won = finish(&mut town, "big", upload, &[1, 2, 3]).expect("an object");
    assert_eq!(usage(&town), Usage { objects: 1, bytes: 2 * five + 11, ..Usage::default() });
    assert_eq!(finish(&mut town, "big", upload, &[1, 2, 3]), Ok(won.clone()), "whose answer was lost asks again");
    assert_eq!(part(&mut town, "big", upload, 1, five), Err(Refusal::NoSuchUpload));
    let object = newest(&town, "big").and_then(|version| version.object).expect("an object");
    assert_eq!(read::parts(&town.rows, &object.body).expect("memory").len(), 3);
    let pieces = read::layout(&town.rows, &object.body, five, 10).expect("memory");
    assert_eq!(pieces.iter().map(|piece| piece.offset).collect::<Vec<_>>(), [five, 2 * five + 1]);
    town.sweep();
    assert_eq!(list::parts(&town.rows, upload, 3, 10), Ok((Vec::new(), false)), "what is not listed is gone");
    town.delete(PICS, "big", won.version).expect("a deletion");
    assert_eq!(finish(&mut town, "big", upload, &[1, 2, 3]), Err(Refusal::NoSuchUpload));
    town.sweep();
    let left = town.rows.keys().filter(|key| matches!(key[0], b'k' | b'm' | b'p' | b'x')).count();
    assert_eq!(left, 0);
}

#[test]
fn a_bucket_holds_no_more_than_it_may() {
    let mut town = Town::with(PICS, Versioning::Off);
    let quota = Quota { bytes: Some(250), objects: Some(2) };
    town.set(PICS, BucketChange::Quota(quota)).expect("a quota");
    town.put(PICS, "a", Condition::default()).expect("100 bytes");
    town.put(PICS, "b", Condition::default()).expect("200 bytes");
    assert!(matches!(town.put(PICS, "c", Condition::default()), Err(Refusal::Quota(_))));
    town.put(PICS, "b", Condition::default()).expect("it takes the place of the other");
    let upload = begin(&mut town, "c");
    assert!(matches!(part(&mut town, "c", upload, 1, 51), Err(Refusal::Quota(_))));
    part(&mut town, "c", upload, 1, 50).expect("250 bytes");
    assert!(matches!(finish(&mut town, "c", upload, &[1]), Err(Refusal::Quota(_))), "a third object");
    town.delete(PICS, "a", None).expect("a deletion");
    finish(&mut town, "c", upload, &[1]).expect("a second object");
}

#[test]
fn what_is_too_long_or_odd_is_refused_in_the_words_of_s3() {
    let mut town = Town::with(PICS, Versioning::Off);
    let with = |town: &mut Town, about| {
        let put = Put { about, ..put(PICS, "a", Written::Inline(b"hello".to_vec())) };
        town.run(Command::Put(Box::new(put))).map_err(|refusal| (refusal.code(), refusal.status()))
    };
    let headers = tags(&[("x-amz-meta-a", &"b".repeat(9 << 10))]);
    assert_eq!(with(&mut town, About { headers, ..About::default() }), Err(("MetadataTooLarge", 400)));
    let many = (0..11).map(|n| (n.to_string(), String::new())).collect();
    assert_eq!(with(&mut town, About { tags: many, ..About::default() }), Err(("InvalidTag", 400)));
    assert_eq!(
        with(&mut town, About { tags: tags(&[("a", &"b".repeat(257))]), ..About::default() }),
        Err(("InvalidTag", 400))
    );
    let ann = |name: &str| Grant { to: Grantee::User(name.into()), may: Permission::Read };
    for grants in [vec![ann("ann"); 101], vec![ann("")], vec![ann(&"a".repeat(257))]] {
        let acl = Acl::Grants(grants);
        assert_eq!(with(&mut town, About { acl: acl.clone(), ..About::default() }), Err(("InvalidArgument", 400)));
        assert!(matches!(town.set(PICS, BucketChange::Acl(acl)), Err(Refusal::Argument(_))));
    }
    assert!(with(&mut town, About { acl: Acl::Grants(vec![ann("ann"); 100]), ..About::default() }).is_ok());
    let (key, change) = (object("a"), ObjectChange::Acl(Acl::Grants(Vec::new())));
    town.run(Command::SetObject { bucket: bucket(PICS), key, version: None, change })
        .expect("nobody is granted anything");
    assert_eq!(newest(&town, "a").and_then(|it| it.object).map(|it| it.about.acl), Some(Acl::Grants(Vec::new())));
    assert!(with(&mut town, About::default()).is_ok());
    let long = put(PICS, "a", Written::Inline(vec![0; 5 << 10]));
    assert!(matches!(town.run(Command::Put(Box::new(long))), Err(Refusal::Argument(_))));
    let body = Written::Inline(Vec::new());
    let odd = Put { etag: "a b".into(), ..put(PICS, "a", body) };
    assert!(matches!(town.run(Command::Put(Box::new(odd))), Err(Refusal::Argument(_))));
    let policy = BucketChange::Document(DocumentKind::Policy, Some("x".repeat(21 << 10)));
    assert!(matches!(town.set(PICS, policy), Err(Refusal::Argument(_))));
}

#[test]
fn nothing_is_written_that_the_level_does_not_allow_and_no_level_is_taken_that_is_unknown() {
    let mut town = Town::with(PICS, Versioning::Off);
    let head = Head { level: 1, ..read::head(&town.rows).expect("memory") };
    town.rows.insert(crate::meta::key::head(), codec::encode(&head));
    let refused = town.run(create("films", false)).expect_err("the level is too low");
    assert_eq!(refused.to_string(), "storage needs feature level 2, and the metadata group is at 1");
    let mut town = Town::with(PICS, Versioning::Off);
    let entry = town.entry(Command::RaiseLevel { to: hirsel_model::feature::BUILT + 1 });
    let stopped = apply(&town.rows, entry).expect_err("this replica must not go on").to_string();
    assert!(stopped.ends_with("upgrade this node"), "{stopped}");
}

#[test]
fn what_is_sealed_is_as_long_for_clients_as_it_was_before() {
    use crate::rules::seal::sealed_bytes;
    let mut town = Town::with(PICS, Versioning::Off);
    let about = About { sealed: Some(serde_bytes::ByteBuf::from(vec![1])), ..About::default() };
    let body = town.body(2, sealed_bytes(100_000));
    town.run(Command::Put(Box::new(Put { about: about.clone(), ..put(PICS, "a", body) }))).expect("a put");
    let bytes = |town: &Town, key: &str| newest(town, key).and_then(|it| it.object).map(|it| it.bytes);
    assert_eq!((bytes(&town, "a"), usage(&town).bytes), (Some(100_000), 100_000));
    let body = town.body(1, 20);
    let odd = town.run(Command::Put(Box::new(Put { about: about.clone(), ..put(PICS, "b", body) })));
    assert!(matches!(odd, Err(Refusal::Argument(_))), "no stream is so short: {odd:?}");
    let create = CreateUpload { bucket: bucket(PICS), key: object("c"), about, lock: None, checksum: None };
    let Ok(Answer::Upload(upload)) = town.run(Command::CreateUpload(Box::new(create))) else { panic!("no upload") };
    part(&mut town, "c", upload, 1, sealed_bytes(5 * MIB - 1)).expect("a part");
    part(&mut town, "c", upload, 2, sealed_bytes(7)).expect("a part");
    assert_eq!(finish(&mut town, "c", upload, &[1, 2]), Err(Refusal::PartTooSmall(1)), "its open bytes count");
    part(&mut town, "c", upload, 1, sealed_bytes(5 * MIB)).expect("a part");
    finish(&mut town, "c", upload, &[1, 2]).expect("an object");
    assert_eq!(bytes(&town, "c"), Some(5 * MIB + 7));
    let found = newest(&town, "c").and_then(|it| it.object).expect("it is there");
    let pieces = read::layout(&town.rows, &found.body, 0, 100).expect("memory");
    let last = pieces.last().map(|piece| piece.offset + u64::from(piece.chunk.bytes));
    assert_eq!(last, Some(sealed_bytes(5 * MIB) + sealed_bytes(7)), "on disks it is as long as its streams");
    town.delete(PICS, "c", None).expect("a deletion");
    assert_eq!(usage(&town).bytes, 100_000);
}
