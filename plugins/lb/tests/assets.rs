//! Routes that lead to the objects of a bucket: what is given of them, to whom, and through the cache.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use common::wire::Answer;
use common::{Bed, ME, within};
use futures::FutureExt;
use futures::future::BoxFuture;
use hirsel_model::WallTime;
use hirsel_role::assets::Asset;
use hirsel_role::storage::{
    Ask, Auditing, Bucket, BucketChange, Fault, Found, Layout, NewBucket, NewObject, NewReplication, Objects,
    Scrubbing, StorageError, Stored, Told,
};

const PAGE: &str = "[route.h]\nto = \"bucket:media\"\nindex = \"index.html\"\n";
const CHANGED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
/// How much of an object comes at once.
const PIECE: usize = 100_000;

/// One bucket, `media`.
#[derive(Default)]
struct Shelf {
    /// By key.
    objects: BTreeMap<&'static str, Vec<u8>>,
    /// Bytes that were read.
    read: Arc<AtomicUsize>,
    /// How often an object was looked for.
    looked: AtomicUsize,
    /// Bodies break off after the first piece.
    is_torn: bool,
    /// Nobody answers.
    is_away: AtomicBool,
}

fn error<T>(fault: Fault, message: &str) -> BoxFuture<'_, Result<T, StorageError>>
where
    T: Send,
{
    let error = StorageError { fault, code: "Test".into(), message: message.into() };
    async move { Err(error) }.boxed()
}

impl Objects for Shelf {
    fn create<'a>(&'a self, _: NewBucket) -> BoxFuture<'a, Result<Bucket, StorageError>> {
        error(Fault::Failed, "not for load balancers")
    }
    fn list<'a>(&'a self, _: Option<&'a str>) -> BoxFuture<'a, Result<(Vec<Bucket>, bool), StorageError>> {
        error(Fault::Failed, "not for load balancers")
    }
    fn bucket<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Bucket, StorageError>> {
        error(Fault::Failed, "not for load balancers")
    }
    fn change<'a>(&'a self, _: &'a str, _: BucketChange) -> BoxFuture<'a, Result<Bucket, StorageError>> {
        error(Fault::Failed, "not for load balancers")
    }
    fn replicate<'a>(&'a self, _: &'a str, _: Option<NewReplication>) -> BoxFuture<'a, Result<Bucket, StorageError>> {
        error(Fault::Failed, "not for load balancers")
    }
    fn remove<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), StorageError>> {
        error(Fault::Failed, "not for load balancers")
    }
    fn put<'a>(&'a self, _: NewObject) -> BoxFuture<'a, Result<Stored, StorageError>> {
        error(Fault::Failed, "not for load balancers")
    }
    fn get<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, Result<Found, StorageError>> {
        error(Fault::Failed, "not for load balancers")
    }
    fn layout<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, Result<Layout, StorageError>> {
        error(Fault::Failed, "not for load balancers")
    }
    fn audits(&self, _: Ask) -> BoxFuture<'_, Told<Auditing>> {
        async { Told::default() }.boxed()
    }
    fn scrubs(&self, _: Ask) -> BoxFuture<'_, Told<Scrubbing>> {
        async { Told::default() }.boxed()
    }
    fn asset<'a>(&'a self, bucket: &'a str, key: &'a str) -> BoxFuture<'a, Result<Asset, StorageError>> {
        self.looked.fetch_add(1, Ordering::SeqCst);
        if self.is_away.load(Ordering::SeqCst) {
            return error(Fault::Unavailable, "too few nodes answer");
        }
        if key == "secret" {
            return error(Fault::Conflict, "the object is encrypted");
        }
        let Some(bytes) = self.objects.get(key).filter(|_| bucket == "media").cloned() else {
            return error(Fault::NotFound, "no such key");
        };
        let (read, is_torn) = (self.read.clone(), self.is_torn);
        let told = [("content-type", "text/css"), ("cache-control", "max-age=60")];
        let asset = Asset {
            bytes: bytes.len() as u64,
            etag: format!("{key}-1"),
            changed: WallTime(784_111_777_000),
            headers: told.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            open: Box::new(move |range| {
                let part = &bytes[range.start as usize..range.end as usize];
                let mut pieces: Vec<_> = part.chunks(PIECE).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
                if is_torn {
                    pieces.truncate(1);
                    pieces.push(Err("too few nodes give it".to_owned()));
                }
                Box::pin(futures::stream::iter(pieces.into_iter().inspect(move |piece| {
                    read.fetch_add(piece.as_ref().map_or(0, Bytes::len), Ordering::SeqCst);
                })))
            }),
        };
        async move { Ok(asset) }.boxed()
    }
}

fn large() -> Vec<u8> {
    (0..1_000_003_u32).map(|number| (number % 251) as u8).collect()
}

fn shelf() -> Shelf {
    let objects = [
        ("index.html", b"home".to_vec()),
        ("docs/index.html", b"docs".to_vec()),
        ("a b.css", b"0123456789".to_vec()),
        ("empty", Vec::new()),
        ("large", large()),
    ];
    Shelf { objects: objects.into(), ..Shelf::default() }
}

async fn over(routes: &str, shelf: Shelf) -> (Bed, Arc<Shelf>) {
    let mut bed = Bed::new().await;
    let shelf = Arc::new(shelf);
    bed.objects.open(shelf.clone());
    bed.routes(routes);
    bed.converge().await;
    (bed, shelf)
}

async fn ask(bed: &Bed, start: &str, lines: &str) -> Answer {
    bed.ask(&format!("{start} HTTP/1.1\r\nHost: h\r\n{lines}\r\n")).await
}

async fn get(bed: &Bed, path: &str) -> Answer {
    ask(bed, &format!("GET {path}"), "").await
}

#[tokio::test]
async fn an_object_is_given_with_what_is_said_of_it() {
    let (bed, shelf) = over(PAGE, shelf()).await;
    let answer = get(&bed, "/a%20b.css?v=1").await;
    assert_eq!((answer.status(), answer.text()), (200, "0123456789"));
    for (name, value) in [
        ("content-type", "text/css"),
        ("cache-control", "max-age=60"),
        ("content-length", "10"),
        ("etag", "\"a b.css-1\""),
        ("last-modified", CHANGED),
        ("accept-ranges", "bytes"),
    ] {
        assert_eq!(answer.header(name), Some(value), "{name}");
    }
    assert_eq!(get(&bed, "/large").await.body, large());
    let before = shelf.read.load(Ordering::SeqCst);
    let head = ask(&bed, "HEAD /large", "").await;
    assert_eq!((head.status(), head.header("content-length")), (200, Some("1000003")));
    assert_eq!(shelf.read.load(Ordering::SeqCst), before, "nothing is read for a head");
    let empty = get(&bed, "/empty").await;
    assert_eq!((empty.status(), empty.header("content-length"), empty.text()), (200, Some("0"), ""));
}

#[tokio::test]
async fn a_part_is_read_alone_and_conditions_are_met() {
    let (bed, shelf) = over(PAGE, shelf()).await;
    let part = ask(&bed, "GET /large", "Range: bytes=500000-500009\r\n").await;
    assert_eq!((part.status(), part.header("content-range")), (206, Some("bytes 500000-500009/1000003")));
    assert_eq!((&part.body[..], part.header("content-length")), (&large()[500_000..500_010], Some("10")));
    assert_eq!(shelf.read.load(Ordering::SeqCst), 10);
    for (lines, status) in [
        ("If-None-Match: \"large-1\"\r\n", 304),
        (&*format!("If-Modified-Since: {CHANGED}\r\n"), 304),
        ("If-Match: \"other\"\r\n", 412),
        ("If-Unmodified-Since: Sun, 06 Nov 1994 08:49:36 GMT\r\n", 412),
        ("Range: bytes=2000000-\r\n", 416),
        ("Range: bytes=0-1\r\nIf-Range: \"large-1\"\r\n", 206),
        ("Range: bytes=0-1\r\nIf-Match: \"large-1\"\r\n", 206),
    ] {
        assert_eq!(ask(&bed, "GET /large", lines).await.status(), status, "{lines}");
    }
    let other = ask(&bed, "HEAD /large", "Range: bytes=0-1\r\nIf-Range: \"other\"\r\n").await;
    assert_eq!((other.status(), other.header("content-length")), (200, Some("1000003")));
    let unchanged = ask(&bed, "GET /large", "If-None-Match: \"large-1\"\r\n").await;
    assert_eq!((unchanged.header("etag"), unchanged.text()), (Some("\"large-1\""), ""));
}

#[tokio::test]
async fn a_folder_has_an_index_and_nothing_is_listed_or_written() {
    let (bed, _) = over(PAGE, shelf()).await;
    assert_eq!((get(&bed, "/").await.text(), get(&bed, "/docs/").await.text()), ("home", "docs"));
    let led = get(&bed, "/docs").await;
    assert_eq!((led.status(), led.header("location")), (302, Some("./docs/")));
    for path in ["/none", "/none/", "/a%zz"] {
        let answer = get(&bed, path).await;
        assert_eq!((answer.status(), answer.header("cache-control")), (404, Some("no-store")), "{path}");
    }
    assert_eq!(get(&bed, "/secret").await.status(), 403);
    for method in ["PUT", "DELETE", "POST", "OPTIONS"] {
        let answer = ask(&bed, &format!("{method} /a"), "Content-Length: 0\r\n").await;
        assert_eq!((answer.status(), answer.header("allow")), (405, Some("GET, HEAD")), "{method}");
    }
    let (bed, _) = over("[route.h]\nto = \"bucket:media\"\n", shelf()).await;
    assert_eq!((get(&bed, "/").await.status(), get(&bed, "/docs").await.status()), (404, 404));
    let (bed, _) = over("[route.h]\nto = \"bucket:other\"\n", shelf()).await;
    assert_eq!(get(&bed, "/large").await.status(), 404);
}

#[tokio::test]
async fn what_a_route_asks_and_does_holds_for_objects_too() {
    let routes = "[route.\"h/static\"]\nto = \"bucket:media\"\nrewrite = { strip_prefix = true }\ncompress = true\n\
                  response_headers = { set = { x-from = \"objects\" } }\n\
                  error_pages = { 404 = { body = \"nothing here\", content_type = \"text/plain\" } }\n\
                  [route.\"h/closed\"]\nto = \"bucket:media\"\ndeny = \"127.0.0.1\"\n\
                  [route.h]\nto = \"web\"\n";
    let (bed, _) = over(routes, shelf()).await;
    let answer = get(&bed, "/static/a%20b.css").await;
    assert_eq!((answer.text(), answer.header("x-from")), ("0123456789", Some("objects")));
    let encoded = ask(&bed, "GET /static/large", "Accept-Encoding: gzip\r\n").await;
    assert_eq!((encoded.status(), encoded.header("content-encoding")), (200, Some("gzip")));
    assert!(encoded.body.len() < 100_000, "{}", encoded.body.len());
    let missing = get(&bed, "/static/none").await;
    assert_eq!((missing.status(), missing.text()), (404, "nothing here"));
    assert_eq!(get(&bed, "/closed/large").await.status(), 403);
}

#[tokio::test]
async fn an_object_goes_through_the_cache() {
    let (bed, shelf) = over(&format!("{PAGE}cache = true\n"), shelf()).await;
    for path in ["/a%20b.css", "/large"] {
        let first = get(&bed, path).await;
        assert!(first.header("cache-status").is_some_and(|said| said.contains("stored")), "{first:?}");
        let looked = shelf.looked.load(Ordering::SeqCst);
        let again = get(&bed, path).await;
        assert!(again.header("cache-status").is_some_and(|said| said.starts_with("hirsel; hit")), "{again:?}");
        assert_eq!((again.body, shelf.looked.load(Ordering::SeqCst)), (first.body, looked));
    }
    let part = ask(&bed, "GET /large", "Range: bytes=-3\r\n").await;
    assert_eq!((part.status(), &part.body[..]), (206, &large()[1_000_000..]));
    assert!(part.header("cache-status").is_some_and(|said| said.starts_with("hirsel; hit")));
    // What is stale is asked for anew, and given if it is the same.
    bed.clock.by(std::time::Duration::from_secs(61));
    let anew = get(&bed, "/large").await;
    let said = anew.header("cache-status").unwrap_or_default();
    assert!(said.contains("fwd=stale") && said.contains("fwd-status=304"), "{said}");
    assert_eq!(anew.body, large());
}

#[tokio::test]
async fn what_cannot_be_had_is_said_and_a_body_that_breaks_off_is_no_whole_one() {
    let (bed, shelf) = over(PAGE, shelf()).await;
    shelf.is_away.store(true, Ordering::SeqCst);
    let away = get(&bed, "/large").await;
    assert_eq!((away.status(), away.header("retry-after")), (503, Some("2")));
    let (bed, _) = over(PAGE, Shelf { is_torn: true, ..crate::shelf() }).await;
    let mut client = common::wire::Client::connect(bed.addr).await;
    client.send("GET /large HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert!(within(client.try_answer()).await.is_none(), "it is not taken for the whole");
    let mut bed = Bed::new().await;
    bed.routes(PAGE);
    bed.place(1, ME, 1);
    bed.converge().await;
    assert_eq!(get(&bed, "/large").await.status(), 503, "the storage role has not begun");
}
