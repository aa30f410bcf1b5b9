use super::*;
use crate::cache::kept::{Content, held};
use crate::cache::policy::{Asker, Rules, Times, keep};
use hirsel_model::spec::Cache;
use hirsel_model::{LogIndex, WallTime};
use http::{HeaderValue, StatusCode};
use proptest::prelude::*;

const WAY: Way = Way { route: 1, encrypted: false };

fn key(path: &str) -> Key {
    Key::of(b"h", false, path, &Cache::default()).unwrap()
}

fn asked(language: &str) -> HeaderMap {
    HeaderMap::from_iter([(http::header::ACCEPT_LANGUAGE, HeaderValue::try_from(language).unwrap())])
}

fn head(path: &str, asked: &HeaderMap, vary: bool) -> Head {
    let mut headers = HeaderMap::new();
    headers.insert("cache-control", HeaderValue::from_static("max-age=60"));
    if vary {
        headers.insert("vary", HeaderValue::from_static("accept-language"));
    }
    let times = Times { asked: Timestamp(0), came: Timestamp(0), wall: WallTime(0) };
    let freshness = keep(Asker::default(), StatusCode::OK, &headers, &Rules::default(), times).unwrap();
    let whose = (key(path), WAY, "shop".parse().unwrap());
    Head::of(whose, asked, (StatusCode::OK, headers), freshness, (times, LogIndex(0))).unwrap()
}

/// Puts an answer of so many bytes in.
fn put(store: &Store, path: &str, language: &str, vary: bool, bytes: usize) -> Option<Arc<Kept>> {
    let asked = asked(language);
    let head = head(path, &asked, vary);
    let begun = store.begin(&head.key);
    let reserved = store.reserve(head.weight())?;
    let body = held(vec![b'x'; bytes], store.reserve(bytes as u64)?);
    let kept = Arc::new(Kept::new(Arc::new(head), Content::Memory(body), reserved));
    store.put(&kept, begun, |_| false).then_some(kept)
}

fn has(store: &Store, path: &str, language: &str) -> bool {
    matches!(store.find(&key(path), WAY, &asked(language), |_| true), Found::Answer(_))
}

#[test]
fn an_answer_is_found_by_requests_that_say_the_same_in_what_it_depends_on() {
    let store = Store::new(1 << 20);
    assert!(matches!(store.find(&key("/a"), WAY, &asked("de"), |_| true), Found::Nothing));
    put(&store, "/a", "de", true, 10).unwrap();
    assert!(has(&store, "/a", "de"));
    let Found::Others(names) = store.find(&key("/a"), WAY, &asked("en"), |_| true) else {
        panic!("there is another one")
    };
    assert_eq!(names, ["accept-language"]);
    put(&store, "/a", "en", true, 10).unwrap();
    assert!(has(&store, "/a", "de") && has(&store, "/a", "en"));
    put(&store, "/a", "en", true, 10).unwrap();
    assert_eq!(store.counts().0, 2, "in place of the one before");
    let other = Way { route: 2, ..WAY };
    assert!(matches!(store.find(&key("/a"), other, &asked("de"), |_| true), Found::Nothing), "by another route");
    store.forget(&key("/a"));
    assert_eq!((store.counts().0, store.counts().1), (0, 0));
}

#[test]
fn there_are_so_many_answers_of_one_key() {
    let store = Store::new(1 << 20);
    for number in 0..2 * VARIANTS_MAX {
        put(&store, "/a", &format!("l{number}"), true, 1).unwrap();
    }
    assert_eq!(store.counts().0, VARIANTS_MAX as u64);
    assert!(!has(&store, "/a", "l0") && has(&store, "/a", &format!("l{}", 2 * VARIANTS_MAX - 1)));
}

#[test]
fn what_was_forgotten_while_it_was_on_its_way_is_not_put_in() {
    let store = Store::new(1 << 20);
    let asked = asked("de");
    let late = |forget: &dyn Fn()| {
        let head = head("/a", &asked, false);
        let begun = store.begin(&head.key);
        forget();
        let reserved = store.reserve(head.weight()).unwrap();
        store
            .put(&Arc::new(Kept::new(Arc::new(head), Content::Memory(bytes::Bytes::new()), reserved)), begun, |_| false)
    };
    assert!(late(&|| {}) && late(&|| store.forget(&key("/b"))));
    assert!(!late(&|| store.forget(&key("/a"))));
    let many: Vec<Key> =
        (0..).map(|n| key(&format!("/{n}"))).filter(|it| it.hash() % 16 == key("/a").hash() % 16).take(300).collect();
    assert!(!late(&|| many.iter().for_each(|key| store.forget(key))), "nobody knows any more");
    let head = head("/a", &asked, false);
    let (begun, reserved) = (store.begin(&head.key), store.reserve(head.weight()).unwrap());
    assert!(
        !store
            .put(&Arc::new(Kept::new(Arc::new(head), Content::Memory(bytes::Bytes::new()), reserved)), begun, |_| true),
        "by a purge"
    );
}

#[test]
fn what_somebody_still_sends_counts() {
    let store = Store::new(100_000);
    let sent = put(&store, "/a", "de", false, 60_000).unwrap().body.clone();
    assert!(put(&store, "/b", "de", false, 60_000).is_none(), "both would be too much");
    drop(sent);
    assert!(put(&store, "/b", "de", false, 60_000).is_some());
    assert!(put(&store, "/c", "de", false, 200_000).is_none());
}

#[test]
fn nobody_waits_for_what_could_not_be_kept_and_that_has_an_end_too() {
    let store = Store::new(1 << 20);
    store.is_unfit_until(&key("/a"), Timestamp(100), Timestamp(0));
    assert!(store.is_unfit(&key("/a"), Timestamp(99)) && !store.is_unfit(&key("/a"), Timestamp(100)));
    assert!(!store.is_unfit(&key("/b"), Timestamp(0)));
    for number in 0..50_000 {
        store.is_unfit_until(&key(&format!("/{number}")), Timestamp(100), Timestamp(0));
    }
    assert!((0..SHARDS).all(|number| store.shard(number).unfit.len() <= UNFIT_MAX));
    store.is_unfit_until(&key("/a"), Timestamp(100), Timestamp(0));
    put(&store, "/a", "de", false, 1).unwrap();
    assert!(!store.is_unfit(&key("/a"), Timestamp(0)), "it can be kept now");
}

proptest! {
    /// Whatever comes and goes: never more bytes than there may be, all of them given back in the end, and nothing found that was not
    /// put in for that request, or was forgotten.
    #[test]
    fn bytes_are_bounded_and_what_is_found_was_put_in(
        steps in prop::collection::vec((0..5u8, 0..12u8, 0..3u8, 0..30_000usize), 1..120),
    ) {
        let store = Store::new(100_000);
        let mut put_in = std::collections::BTreeSet::new();
        let mut sent = VecDeque::new();
        for (step, path, language, bytes) in steps {
            let (path, language) = (format!("/{path}"), format!("l{language}"));
            match step {
                0 | 1 => if let Some(kept) = put(&store, &path, &language, true, bytes) {
                    put_in.insert((path.clone(), language.clone()));
                    if step == 1 {
                        sent.push_back(kept.body.clone());
                    }
                },
                2 => {
                    store.forget(&key(&path));
                    put_in.retain(|(it, _)| *it != path);
                }
                3 => drop(sent.pop_front()),
                _ => {
                    store.forget_all(|head| head.key.path() == path);
                    put_in.retain(|(it, _)| *it != path);
                }
            }
            let (answers, taken, _) = store.counts();
            prop_assert!(taken <= 100_000);
            prop_assert!(answers <= put_in.len() as u64);
            for path in (0..12).map(|path| format!("/{path}")) {
                for language in ["l0", "l1", "l2"] {
                    prop_assert!(!has(&store, &path, language) || put_in.contains(&(path.clone(), language.into())));
                }
            }
        }
        sent.clear();
        store.forget_all(|_| true);
        prop_assert_eq!(store.counts().1, 0);
        prop_assert!((0..SHARDS).all(|number| store.shard(number).keys.is_empty()));
    }
}
