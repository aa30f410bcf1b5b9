//! How much work a command or a page is: counted in rows, so that it holds on any machine.

use std::cell::Cell;

use super::*;
use crate::meta::limits::{CHUNKS_BESIDE, WORK_MAX};
use crate::meta::list::{self, Ask};
use crate::meta::read;
use crate::meta::rows::{Rows, RowsError, Show};

/// Counts the rows and seeks of whoever reads.
struct Counted<'a> {
    rows: &'a Memory,
    seen: Cell<usize>,
}

impl Rows for Counted<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, RowsError> {
        self.seen.set(self.seen.get() + 1);
        Rows::get(self.rows, key)
    }

    fn scan(&self, from: &[u8], to: &[u8], show: &mut Show<'_>) -> Result<(), RowsError> {
        self.seen.set(self.seen.get() + 1);
        self.rows.scan(from, to, &mut |key, value| {
            self.seen.set(self.seen.get() + 1);
            show(key, value)
        })
    }
}

fn counted<T>(rows: &Memory, work: impl FnOnce(&Counted) -> T) -> (T, usize) {
    let counted = Counted { rows, seen: Cell::new(0) };
    let result = work(&counted);
    (result, counted.seen.get())
}

/// A bucket with this many keys in each of as many folders, each of two versions, and as many that are deleted.
fn full(folders: u16, keys: u16) -> (Town, u64) {
    let mut town = Town::with("pics", Versioning::On);
    for folder in 0..folders {
        for key in 0..keys {
            let key = format!("{folder:05}/{key:05}");
            let body = || Written::Inline(vec![1]);
            town.run(Command::Put(Box::new(put("pics", &key, body())))).expect("a put");
            town.run(Command::Put(Box::new(put("pics", &key, body())))).expect("a put");
            town.delete("pics", &format!("{key}-gone"), None).expect("a deletion");
        }
    }
    let id = read::bucket(&town.rows, &bucket("pics")).expect("it is there").id;
    (town, id)
}

#[test]
fn a_page_touches_little_more_than_what_it_shows_however_much_there_is() {
    let (town, id) = full(60, 60);
    let slash = Ask { delimiter: "/".into(), max: 50, ..Ask::default() };
    let (page, rows) = counted(&town.rows, |rows| list::objects(rows, id, &slash).expect("memory"));
    assert_eq!((page.prefixes.len(), page.next.as_deref()), (50, Some("00049/")));
    assert!(rows <= 60, "{rows} rows for 50 common prefixes of 60 keys each");
    let plain = Ask { max: 50, after: Some("00030/00010".into()), ..Ask::default() };
    let (page, rows) = counted(&town.rows, |rows| list::objects(rows, id, &plain).expect("memory"));
    assert_eq!((page.entries.len(), page.next.as_deref()), (50, Some("00031/00000")));
    assert!(rows <= 60, "{rows} rows for 50 keys: older versions and deleted keys are not looked at");
    let (page, rows) = counted(&town.rows, |rows| list::versions(rows, id, &slash, None).expect("memory"));
    assert_eq!((page.prefixes.len(), page.next.as_deref()), (50, Some("00049/")));
    assert!(rows <= 4 * 60, "{rows} rows for 50 common prefixes of 180 versions each");
    let (page, rows) = counted(&town.rows, |rows| list::versions(rows, id, &plain, None).expect("memory"));
    assert!(page.entries.len() == 50 && rows <= 5 * 60, "{rows} rows for 50 versions");
}

#[test]
fn ten_thousand_parts_are_one_object_and_die_piece_by_piece() {
    let mut town = Town::with("pics", Versioning::Off);
    let create = CreateUpload {
        bucket: bucket("pics"),
        key: object("big"),
        about: About::default(),
        lock: None,
        checksum: None,
    };
    let Ok(Answer::Upload(upload)) = town.run(Command::CreateUpload(Box::new(create))) else { panic!("no upload") };
    let mut parts = Vec::new();
    for number in 1..=10_000 {
        let body = town.body(1 + number % 12, 5 * MIB);
        let (etag, checksum) = (format!("p{number}"), None);
        parts.push((number, etag.clone()));
        let part = PutPart { bucket: bucket("pics"), key: object("big"), upload, number, body, etag, checksum };
        town.run(Command::PutPart(Box::new(part))).expect("a part");
    }
    let chunks = town.rows.keys().filter(|row| row[0] == b'k').count();
    let complete = |parts: &[(u16, String)]| CompleteUpload {
        bucket: bucket("pics"),
        key: object("big"),
        upload,
        parts: parts.to_vec(),
        etag: "e-10000".into(),
        checksum: None,
        bytes: Some(50_000 * MIB),
        condition: Condition::default(),
    };
    let more = [parts.as_slice(), &[(10_001, "p1".into())]].concat();
    let refused = town.run(Command::CompleteUpload(Box::new(complete(&more))));
    assert!(matches!(refused, Err(Refusal::Argument(_))), "10,001 parts");
    town.run(Command::CompleteUpload(Box::new(complete(&parts)))).expect("an object");
    let found = read::newest(&town.rows, 1, &object("big")).expect("memory").and_then(|it| it.object).expect("it is");
    assert_eq!((found.bytes, found.parts), (50_000 * MIB, 10_000));
    let (pieces, rows) = counted(&town.rows, |rows| read::layout(rows, &found.body, 49_999 * MIB, 3).expect("memory"));
    assert!(!pieces.is_empty() && rows <= 8, "{rows} rows to find the end of an object of 10,000 parts");
    town.delete("pics", "big", None).expect("a deletion");
    // Each step of the sweep writes a limited number of rows.
    loop {
        let entry = town.entry(Command::Sweep);
        let (changes, answer) = apply(&town.rows, entry).expect("nothing of it is broken");
        let most = 3 * WORK_MAX + 4 * CHUNKS_BESIDE;
        assert!(changes.len() <= most, "{} rows are changed", changes.len());
        take(&mut town.rows, changes);
        if let Ok(Answer::Some { more: false, .. }) = answer {
            break;
        }
    }
    let condemned = town.rows.keys().filter(|row| row[0] == b'e').count();
    assert_eq!(condemned, chunks);
    assert!(town.rows.keys().all(|row| !matches!(row[0], b'k' | b'm' | b'p' | b'x')));
}
