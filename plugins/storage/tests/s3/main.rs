//! S3 through HTTP, as clients speak it and as nobody should.

use client::{Answer, Ask, Client, anonymous, ask};
use hirsel_storage::rules::date::Day;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use town::{HOST, Town, start};

mod client;
mod forms;
mod notifications;
mod replication;
mod rules;
mod sites;
#[path = "../common/tls.rs"]
mod tls;
mod town;

const PART: usize = 5 << 20;

struct World {
    town: Town,
    ann: Client,
    bob: Client,
    _folder: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        Self::with_days_of(Day::REAL).await
    }

    async fn with_days_of(day: Day) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let keys = ["ann", "bob"].map(|who| (id(who), format!("secret of {who}"), who.to_owned()));
        let town = start(folder.path(), ([127, 0, 0, 1], 0).into(), keys.to_vec(), day).await;
        let client = |who: &str| Client { addr: town.addr, id: id(who), secret: format!("secret of {who}") };
        let (ann, bob) = (client("ann"), client("bob"));
        assert_eq!(ann.send(ask("PUT", "/box")).await.status, 200);
        Self { town, ann, bob, _folder: folder }
    }

    async fn put(&self, key: &str, body: impl Into<Vec<u8>>) -> Answer {
        let at = format!("/box/{key}");
        let answer = self.ann.send(ask("PUT", &at).body(body)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer
    }

    async fn get(&self, key: &str) -> Answer {
        self.ann.send(ask("GET", &format!("/box/{key}"))).await
    }

    async fn is_empty(&self) -> bool {
        let listed = self.ann.send(ask("GET", "/box?list-type=2")).await;
        listed.tag("KeyCount").as_deref() == Some("0")
    }
}

fn id(who: &str) -> String {
    format!("HIRS{:0>16}", who.to_uppercase())
}

fn code(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    blake3::Hasher::new().update(&bytes.to_le_bytes()).finalize_xof().fill(&mut noise);
    noise
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_put_comes_back_whole_in_part_or_only_in_words() {
    let world = World::new().await;
    for bytes in [0, 1, 4_096, 4_097, 300_000, 9_000_000] {
        let body = noise(bytes);
        let put = world.put("thing", body.clone()).await;
        let got = world.get("thing").await;
        assert_eq!((got.status, got.header("etag"), got.body.to_vec() == body), (200, put.header("etag"), true));
        let head = world.ann.send(ask("HEAD", "/box/thing")).await;
        assert_eq!((head.status, head.header("content-length")), (200, bytes.to_string().as_str()));
    }
    let part = world.ann.send(ask("GET", "/box/thing").with("range", "bytes=4194300-4194309")).await;
    assert_eq!((part.status, part.header("content-range")), (206, "bytes 4194300-4194309/9000000"));
    assert_eq!(part.body, noise(9_000_000)[4_194_300..4_194_310]);
    let end = world.ann.send(ask("GET", "/box/thing").with("range", "bytes=-3")).await;
    assert_eq!(end.body, noise(9_000_000)[8_999_997..]);
    let behind = world.ann.send(ask("GET", "/box/thing").with("range", "bytes=9000000-")).await;
    assert_eq!(behind.code(), code(416, "InvalidRange"));
    let etag = world.get("thing").await.header("etag").to_owned();
    let same = world.ann.send(ask("GET", "/box/thing").with("if-none-match", etag.clone())).await;
    assert_eq!((same.status, same.body.len()), (304, 0));
    let other = world.ann.send(ask("GET", "/box/thing").with("if-match", "\"x\"")).await;
    assert_eq!(other.code(), code(412, "PreconditionFailed"));
    let clash = world.ann.send(ask("PUT", "/box/thing").with("if-none-match", "*").body("x")).await;
    assert_eq!(clash.code(), code(412, "PreconditionFailed"));
    assert_eq!(world.ann.send(ask("DELETE", "/box/thing")).await.status, 204);
    assert_eq!(world.get("thing").await.code(), code(404, "NoSuchKey"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_gets_in_without_a_signature_that_holds_or_a_list_that_says_so() {
    let world = World::new().await;
    let addr = world.town.addr;
    world.put("secret", "s").await;
    let get = || ask("GET", "/box/secret");
    assert_eq!(anonymous(addr, get()).await.code(), code(403, "AccessDenied"));
    assert_eq!(anonymous(addr, ask("GET", "/box/none")).await.code(), code(403, "AccessDenied"));
    assert_eq!(anonymous(addr, ask("PUT", "/box/new").body("x")).await.code(), code(403, "AccessDenied"));
    assert_eq!(world.bob.send(get()).await.code(), code(403, "AccessDenied"));
    let forger = Client { secret: "guessed".into(), ..world.ann.clone() };
    assert_eq!(forger.send(get()).await.code(), code(403, "SignatureDoesNotMatch"));
    let stranger = Client { id: id("eve"), ..world.ann.clone() };
    assert_eq!(stranger.send(get()).await.code(), code(403, "InvalidAccessKeyId"));
    for ahead_s in [-1_000, 1_000] {
        let mut late = get();
        late.ahead_s = ahead_s;
        assert_eq!(world.ann.send(late).await.code(), code(403, "RequestTimeTooSkewed"));
    }
    let url = world.ann.presigned("/box/secret", 60, 0);
    assert_eq!(anonymous(addr, ask("GET", &url)).await.text(), "s");
    let spoiled = url.replace("X-Amz-Expires=60", "X-Amz-Expires=61");
    assert_eq!(anonymous(addr, ask("GET", &spoiled)).await.code(), code(403, "SignatureDoesNotMatch"));
    let expired = world.ann.presigned("/box/secret", 10, -60);
    assert_eq!(anonymous(addr, ask("GET", &expired)).await.code(), code(403, "AccessDenied"));
    let early = world.ann.presigned("/box/secret", 60, 2_000);
    assert_eq!(anonymous(addr, ask("GET", &early)).await.code(), code(403, "RequestTimeTooSkewed"));
    let open = world.ann.send(ask("PUT", "/box/open").with("x-amz-acl", "public-read").body("o")).await;
    assert_eq!(open.status, 200);
    assert_eq!(anonymous(addr, ask("GET", "/box/open")).await.text(), "o");
    assert_eq!(anonymous(addr, ask("DELETE", "/box/open")).await.code(), code(403, "AccessDenied"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_what_was_said_of_it_is_never_seen() {
    let world = World::new().await;
    let body = noise(100_000);
    let put = |name, value: &str| ask("PUT", "/box/bad").with(name, value).body(body.clone());
    assert_eq!(world.ann.send(put("content-md5", "rL0Y20xC+Fzt72VPzMSk2A==")).await.code(), code(400, "BadDigest"));
    assert_eq!(world.ann.send(put("content-md5", "x")).await.code(), code(400, "InvalidDigest"));
    for (name, wrong) in [
        ("x-amz-checksum-crc32", "AAAAAA=="),
        ("x-amz-checksum-crc32c", "AAAAAA=="),
        ("x-amz-checksum-crc64nvme", "AAAAAAAAAAA="),
        ("x-amz-checksum-sha1", "AAAAAAAAAAAAAAAAAAAAAAAAAAA="),
        ("x-amz-checksum-sha256", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
    ] {
        assert_eq!(world.ann.send(put(name, wrong)).await.code(), code(400, "BadDigest"), "{name}");
        let mut trailing = ask("PUT", "/box/bad")
            .with("x-amz-trailer", name)
            .with("x-amz-decoded-content-length", "5")
            .with("content-encoding", "aws-chunked")
            .body(format!("5\r\nhello\r\n0\r\n{name}:{wrong}\r\n\r\n"));
        trailing.sha256 = Some("STREAMING-UNSIGNED-PAYLOAD-TRAILER");
        assert_eq!(world.ann.send(trailing).await.code(), code(400, "BadDigest"), "{name}");
    }
    let mut other = ask("PUT", "/box/bad").body(body.clone());
    other.sha256 = Some("0000000000000000000000000000000000000000000000000000000000000000");
    assert_eq!(world.ann.send(other).await.code(), code(400, "XAmzContentSHA256Mismatch"));
    // Fewer bytes than were said, and the connection is gone.
    let open = ask("PUT", "/open").with("x-amz-acl", "public-read-write");
    assert_eq!(world.ann.send(open).await.status, 200);
    assert_eq!(anonymous(world.town.addr, ask("PUT", "/open/good").body("x")).await.status, 200);
    let mut raw = tokio::net::TcpStream::connect(world.town.addr).await.unwrap();
    let head = format!("PUT /open/good HTTP/1.1\r\nhost: {}\r\ncontent-length: 100000\r\n\r\n", world.town.addr);
    raw.write_all(head.as_bytes()).await.unwrap();
    raw.write_all(&body[..5_000]).await.unwrap();
    raw.shutdown().await.unwrap();
    let mut rest = Vec::new();
    let _gone = raw.read_to_end(&mut rest).await;
    assert!(!String::from_utf8_lossy(&rest).starts_with("HTTP/1.1 200"));
    assert_eq!(world.ann.send(ask("GET", "/open/good")).await.text(), "x");
    // A document that is not what was signed.
    let tags = "<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>";
    let mut document = ask("PUT", "/box?tagging").body(tags);
    document.sha256 = Some("0000000000000000000000000000000000000000000000000000000000000000");
    assert_eq!(world.ann.send(document).await.code(), code(400, "XAmzContentSHA256Mismatch"));
    let document = ask("PUT", "/box?tagging").with("content-md5", "rL0Y20xC+Fzt72VPzMSk2A==").body(tags);
    assert_eq!(world.ann.send(document).await.code(), code(400, "BadDigest"));
    assert!(world.is_empty().await);
    assert_eq!(world.ann.send(ask("GET", "/box?tagging")).await.code(), code(404, "NoSuchTagSet"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_of_parts_is_there_when_all_of_it_is() {
    let world = World::new().await;
    let begun = world.ann.send(ask("POST", "/box/big?uploads").with("x-amz-meta-a", "b")).await;
    let upload = begun.tag("UploadId").unwrap();
    let (first, last) = (noise(PART), noise(77));
    let mut listed = String::new();
    for (number, body) in [(1, &first), (2, &last)] {
        let at = format!("/box/big?partNumber={number}&uploadId={upload}");
        let put = world.ann.send(ask("PUT", &at).body(body.clone())).await;
        assert_eq!(put.status, 200, "{}", put.text());
        let etag = put.header("etag").replace('"', "&quot;");
        listed += &format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>");
    }
    for number in [0, 10_001] {
        let at = format!("/box/big?partNumber={number}&uploadId={upload}");
        assert_eq!(world.ann.send(ask("PUT", &at).body("x")).await.code(), code(400, "InvalidArgument"));
    }
    assert!(world.is_empty().await);
    let complete = |listed: &str| format!("<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>");
    let at = format!("/box/big?uploadId={upload}");
    let wrong = listed.replacen("<ETag>&quot;", "<ETag>&quot;00", 1);
    assert_eq!(world.ann.send(ask("POST", &at).body(complete(&wrong))).await.code(), code(400, "InvalidPart"));
    let done = world.ann.send(ask("POST", &at).body(complete(&listed))).await;
    assert_eq!(done.status, 200, "{}", done.text());
    let again = world.ann.send(ask("POST", &at).body(complete(&listed))).await;
    assert_eq!((again.status, again.tag("ETag")), (200, done.tag("ETag")));
    let got = world.get("big").await;
    assert!(got.header("etag").ends_with("-2\"") && got.header("x-amz-meta-a") == "b", "{}", got.text());
    assert_eq!(got.body, [first, last.clone()].concat());
    let second = world.ann.send(ask("GET", "/box/big?partNumber=2")).await;
    assert_eq!((second.status, second.body.to_vec(), second.header("x-amz-mp-parts-count")), (206, last, "2"));
    let attributes = ask("GET", "/box/big?attributes").with("x-amz-object-attributes", "ETag,ObjectParts");
    let attributes = world.ann.send(attributes).await;
    assert_eq!(
        attributes.tag("ETag"),
        done.tag("ETag").map(|etag| etag.replace("&quot;", "").replace('"', "")),
        "{}",
        attributes.text()
    );
    assert_eq!(world.get("big?partNumber=3").await.code(), code(400, "InvalidPart"));
    let begun = world.ann.send(ask("POST", "/box/none?uploads")).await.tag("UploadId").unwrap();
    let at = format!("/box/none?uploadId={begun}");
    assert_eq!(world.ann.send(ask("DELETE", &at)).await.status, 204);
    assert_eq!(world.ann.send(ask("DELETE", &at)).await.code(), code(404, "NoSuchUpload"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_key_is_a_key_and_listings_say_it() {
    let world = World::new().await;
    let keys = [
        "a%20b",
        "a%2Bb",
        "a/b/c",
        "a//b",
        "%00",
        "%01%7F",
        "%C3%A4",
        "%F0%9F%90%91",
        "%26%3C%3E%22%27",
        "..",
        "x/../y",
        "%25",
    ];
    for key in keys {
        world.put(key, key).await;
        assert_eq!(world.get(key).await.text(), key);
    }
    let listed = world.ann.send(ask("GET", "/box?list-type=2&encoding-type=url")).await.text();
    for key in ["a%20b", "a%2Bb", "a/b/c", "a//b", "%00", "%01%7F", "%C3%A4", "%26%3C%3E%22%27", "%25"] {
        assert!(listed.contains(&format!("<Key>{key}</Key>")), "{key} in {listed}");
    }
    let rolled = world.ann.send(ask("GET", "/box?delimiter=%2F&prefix=a&max-keys=1")).await;
    assert_eq!(
        (rolled.tag("IsTruncated").as_deref(), rolled.tag("NextMarker").as_deref()),
        (Some("true"), Some("a b"))
    );
    let long = "k".repeat(1_025);
    let refused = world.ann.send(ask("PUT", &format!("/box/{long}")).body("x")).await;
    assert_eq!(refused.code(), code(400, "KeyTooLongError"));
    let bad = world.ann.send(ask("PUT", "/box/%FF").body("x")).await;
    assert_eq!(bad.code(), code(400, "InvalidURI"));
    let enormous = world.ann.send(ask("PUT", "/box/x").with("x-amz-meta-a", "a".repeat(9_000)).body("x")).await;
    assert_eq!(enormous.code(), code(400, "MetadataTooLarge"));
    let more = anonymous(world.town.addr, ask("GET", "/box").with("x-a", "a".repeat(40_000))).await;
    assert_eq!(more.status, 431);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_are_kept_and_a_marker_stands_for_what_was_deleted() {
    let world = World::new().await;
    let on = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    assert_eq!(world.ann.send(ask("PUT", "/box?versioning").body(on)).await.status, 200);
    let first = world.put("v", "1").await.header("x-amz-version-id").to_owned();
    let second = world.put("v", "2").await.header("x-amz-version-id").to_owned();
    let gone = world.ann.send(ask("DELETE", "/box/v")).await;
    assert_eq!((gone.status, gone.header("x-amz-delete-marker")), (204, "true"));
    let marker = gone.header("x-amz-version-id").to_owned();
    let missing = world.get("v").await;
    assert_eq!((missing.code(), missing.header("x-amz-delete-marker")), (code(404, "NoSuchKey"), "true"));
    assert_eq!(world.get(&format!("v?versionId={marker}")).await.code(), code(405, "MethodNotAllowed"));
    assert_eq!(world.get(&format!("v?versionId={first}")).await.text(), "1");
    let listed = world.ann.send(ask("GET", "/box?versions")).await.text();
    let order = [&marker, &second, &first].map(|id| listed.find(&format!("<VersionId>{id}</VersionId>")).unwrap());
    assert!(order[1] < order[2], "{listed}");
    let body = format!(
        "<Delete><Object><Key>v</Key><VersionId>{marker}</VersionId></Object><Object><Key>w</Key></Object></Delete>"
    );
    let deleted = world.ann.send(ask("POST", "/box?delete").body(body)).await;
    assert!(deleted.text().contains("<DeleteMarker>true</DeleteMarker>"), "{}", deleted.text());
    assert_eq!(world.get("v").await.text(), "2");
    assert_eq!(world.get("v?versionId=nonsense").await.code(), code(400, "InvalidArgument"));
    let off = on.replace("Enabled", "Suspended");
    assert_eq!(world.ann.send(ask("PUT", "/box?versioning").body(off)).await.status, 200);
    assert_eq!(world.put("v", "3").await.header("x-amz-version-id"), "");
    assert_eq!(
        (world.get("v?versionId=null").await.text(), world.get(&format!("v?versionId={second}")).await.text()),
        ("3".into(), "2".into())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_is_another_object_with_the_same_bytes() {
    let world = World::new().await;
    let put = ask("PUT", "/box/from").with("x-amz-meta-a", "1").with("content-type", "text/x").body(noise(50_000));
    assert_eq!(world.ann.send(put).await.status, 200);
    let copied = world.ann.send(ask("PUT", "/box/to").with("x-amz-copy-source", "/box/from")).await;
    assert_eq!(copied.status, 200, "{}", copied.text());
    assert_eq!(world.ann.send(ask("DELETE", "/box/from")).await.status, 204);
    let got = world.get("to").await;
    assert_eq!(
        (got.body.to_vec(), got.header("x-amz-meta-a"), got.header("content-type")),
        (noise(50_000), "1", "text/x")
    );
    let itself = world.ann.send(ask("PUT", "/box/to").with("x-amz-copy-source", "box/to")).await;
    assert_eq!(itself.code(), code(400, "InvalidRequest"));
    let anew = ask("PUT", "/box/to")
        .with("x-amz-copy-source", "box/to")
        .with("x-amz-metadata-directive", "REPLACE")
        .with("x-amz-checksum-algorithm", "SHA256")
        .with("x-amz-meta-b", "2");
    let anew = world.ann.send(anew).await;
    assert!(anew.tag("ChecksumSHA256").is_some(), "{}", anew.text());
    let got = world.get("to").await;
    assert_eq!((got.body.len(), got.header("x-amz-meta-a"), got.header("x-amz-meta-b")), (50_000, "", "2"));
    let begun = world.ann.send(ask("POST", "/box/parts?uploads")).await.tag("UploadId").unwrap();
    let part =
        ask("PUT", "/box/parts").with("x-amz-copy-source", "box/to").with("x-amz-copy-source-range", "bytes=10-19");
    let at = format!("/box/parts?partNumber=1&uploadId={begun}");
    let part = world.ann.send(Ask { at: &at, ..part }).await;
    assert!(part.tag("ETag").is_some(), "{}", part.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_may_be_a_host() {
    let world = World::new().await;
    world.put("k", "v").await;
    let host = format!("box.{HOST}:9000");
    let mut by_host = ask("GET", "/k");
    by_host.host = Some(&host);
    assert_eq!(world.ann.send(by_host).await.text(), "v");
    let mut root = ask("GET", "/box/k");
    root.host = Some(HOST);
    assert_eq!(world.ann.send(root).await.text(), "v");
}
