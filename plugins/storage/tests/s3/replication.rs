//! A bucket of one town is copied to a bucket of another, over S3 and loopback: bytes, what is said of them, deletions; while the other town is
//! away, under somebody else who goes on with it, and around in a circle.

use std::time::Duration;

use hirsel_mesh::seam::Chance;
use hirsel_storage::meta::command::{BucketChange, Command};
use hirsel_storage::meta::kinds::Target;
use hirsel_storage::meta::names::BucketName;
use hirsel_storage::meta::query::{Query, Replicated, Reply};
use hirsel_storage::replicate::secret::seal;
use tokio::time::{Instant, sleep};

use super::tls::Authority;
use super::town::MASTER;
use super::*;

/// What is waited for happens so soon on a loaded machine.
const SOON: Duration = Duration::from_secs(60);

fn target(to: &World, bucket: &str, prefix: &str, chance: &dyn Chance) -> Target {
    let secret = hirsel_role::secret::Plain(to.ann.secret.clone());
    Target {
        endpoint: format!("http://{}", to.town.addr),
        region: "hill-1".into(),
        bucket: bucket.into(),
        prefix: prefix.into(),
        key_id: to.ann.id.clone(),
        secret: seal(&secret, (MASTER.0, &MASTER.1), chance).expect("it seals"),
    }
}

async fn set(from: &World, bucket: &str, target: Option<Target>) {
    let name = bucket.parse().expect("a bucket");
    let change = BucketChange::Replication(target.map(Box::new));
    from.town.gateway.ask(Command::SetBucket { name, change }).await.expect("it may be set");
}

/// Has the box of `from` copied to the box of `to`.
async fn replicate(from: &World, to: &World) {
    let target = target(to, "box", "", from.town.gateway.chance());
    set(from, "box", Some(target)).await;
}

async fn how_far(world: &World, bucket: &str) -> Replicated {
    let name: BucketName = bucket.parse().expect("a bucket");
    match world.town.gateway.look(Query::Replication(name)).await {
        Ok(Reply::Replication(Some(replicated))) => *replicated,
        other => panic!("{other:?}"),
    }
}

async fn wait_for(world: &World, what: &str, holds: impl Fn(&Replicated) -> bool) -> Replicated {
    let deadline = Instant::now() + SOON;
    loop {
        let replicated = how_far(world, "box").await;
        if holds(&replicated) {
            return replicated;
        }
        assert!(Instant::now() < deadline, "{what} within {SOON:?}: {replicated:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until nothing is due.
async fn copied(world: &World) -> Replicated {
    let done = |it: &Replicated| it.oldest.is_none() && it.replicating.due == 0 && it.replicating.found.is_none();
    wait_for(world, "all is copied", done).await
}

/// What a client is told of an object, without when.
async fn told(world: &World, key: &str) -> (u16, Vec<u8>, Vec<String>, String) {
    let got = world.get(key).await;
    let names = ["etag", "content-type", "cache-control", "x-amz-meta-colour", "x-amz-tagging-count"];
    let headers = names.map(|name| got.header(name).to_owned()).to_vec();
    if got.status != 200 {
        return (got.status, Vec::new(), headers, String::new());
    }
    let tags = world.ann.send(ask("GET", &format!("/box/{key}?tagging"))).await;
    (got.status, got.body.to_vec(), headers, tags.text())
}

async fn is_same(a: &World, b: &World, keys: &[&str]) {
    for key in keys {
        let (here, there) = (told(a, key).await, told(b, key).await);
        assert!(here == there, "{key}: {:?} {:?} and {:?} {:?}", here.0, here.2, there.0, there.2);
    }
}

async fn upload(world: &World, key: &str, parts: &[Vec<u8>]) {
    let begin = ask("POST", "").with("content-type", "film/long").with("x-amz-meta-colour", "red");
    let at = format!("/box/{key}?uploads");
    let begun = world.ann.send(Ask { at: &at, ..begin }).await;
    let id = begun.tag("UploadId").expect("an upload");
    let mut list = String::from("<CompleteMultipartUpload>");
    for (number, part) in (1..).zip(parts) {
        let at = format!("/box/{key}?partNumber={number}&uploadId={id}");
        let put = world.ann.send(ask("PUT", &at).body(part.clone())).await;
        let etag = put.header("etag");
        list += &format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>");
    }
    list += "</CompleteMultipartUpload>";
    let at = format!("/box/{key}?uploadId={id}");
    let completed = world.ann.send(ask("POST", &at).body(list)).await;
    assert_eq!(completed.status, 200, "{}", completed.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_is_copied_with_all_that_is_said_of_its_objects_and_kept_so() {
    let (mut a, b) = (World::new().await, World::new().await);
    let said = ask("PUT", "/box/said")
        .with("content-type", "text/css")
        .with("cache-control", "max-age=60")
        .with("x-amz-meta-colour", "a b")
        .with("x-amz-tagging", "one=1&two%20=%26")
        .with("x-amz-checksum-crc32", "y/Q5Jg==")
        .body("123456789");
    assert_eq!(a.ann.send(said).await.status, 200);
    a.put("empty", "").await;
    a.put("odd%20%2B%C3%A4/key%25~", noise(70_000)).await;
    a.put("middle", noise(9_000_000)).await;
    upload(&a, "long", &[noise(PART), noise(PART + 1), noise(3)]).await;
    b.put("theirs", "t").await;
    a.town.replicate();
    replicate(&a, &b).await;
    copied(&a).await;
    let keys = ["said", "empty", "odd%20%2B%C3%A4/key%25~", "middle", "long"];
    is_same(&a, &b, &keys).await;
    assert_eq!(b.get("said").await.header("x-amz-meta-colour"), "a b");
    let sum = b.ann.send(ask("HEAD", "/box/said").with("x-amz-checksum-mode", "ENABLED")).await;
    assert_eq!(sum.header("x-amz-checksum-crc32"), "y/Q5Jg==");
    assert_eq!(b.get("theirs").await.text(), "t", "what is there alone stays");
    // What changes, and what goes.
    a.put("empty", "no more").await;
    a.put("new", noise(4_097)).await;
    let tags = "<Tagging><TagSet><Tag><Key>k</Key><Value>v</Value></Tag></TagSet></Tagging>";
    assert_eq!(a.ann.send(ask("PUT", "/box/middle?tagging").body(tags)).await.status, 200);
    for gone in ["said", "long"] {
        assert_eq!(a.ann.send(ask("DELETE", &format!("/box/{gone}"))).await.status, 204);
    }
    copied(&a).await;
    is_same(&a, &b, &["empty", "new", "middle", "said", "long"]).await;
    assert_eq!(b.get("long").await.status, 404);
    // Once more, and nothing is sent: what is there is the same to the moment it was written at.
    let modified = |world: &World| {
        let ann = world.ann.clone();
        async move { ann.send(ask("GET", "/box?list-type=2")).await.text() }
    };
    let before = modified(&b).await;
    replicate(&a, &b).await;
    copied(&a).await;
    assert_eq!(modified(&b).await, before);
    // Not any more.
    set(&a, "box", None).await;
    a.put("later", "l").await;
    let looked = a.town.gateway.look(Query::Replication("box".parse().expect("a bucket"))).await;
    assert_eq!(looked, Ok(Reply::Replication(None)));
    assert_eq!(b.get("later").await.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_while_the_other_side_is_away_is_copied_when_it_is_back() {
    let (mut a, mut b) = (World::new().await, World::new().await);
    a.put("before", "1").await;
    a.town.replicate();
    replicate(&a, &b).await;
    copied(&a).await;
    b.town.go_away();
    for round in 0..3 {
        for key in 0..20 {
            a.put(&format!("key{key}"), noise(1_000 + 100 * round + key)).await;
        }
    }
    assert_eq!(a.ann.send(ask("DELETE", "/box/before")).await.status, 204);
    let failing = wait_for(&a, "it fails", |it| it.replicating.failing.is_some()).await;
    assert_eq!(failing.replicating.due, 21, "each key once");
    assert!(failing.oldest.is_some());
    let words = failing.replicating.failing.expect("it fails").words;
    assert!(words.contains("127.0.0.1") && !words.contains(&b.ann.secret), "{words}");
    // Whoever takes over knows what is in the metadata, and no more.
    a.town.stop_replicating();
    b.town.come_back().await;
    assert_eq!(b.get("before").await.status, 200);
    a.town.replicate();
    let done = copied(&a).await;
    assert_eq!(done.replicating.cannot, 0);
    let well = wait_for(&a, "it fails no more", |it| it.replicating.failing.is_none()).await;
    assert_eq!(well.replicating.due, 0);
    let keys: Vec<String> = (0..20).map(|key| format!("key{key}")).chain(["before".to_owned()]).collect();
    is_same(&a, &b, &keys.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sealed_goes_sealed_and_what_only_a_client_can_open_stays_and_is_said() {
    let (mut a, b) = (World::new().await, World::new().await);
    let sealed = ask("PUT", "/box/sealed").with("x-amz-server-side-encryption", "AES256").body(noise(200_000));
    assert_eq!(a.ann.send(sealed).await.status, 200);
    let key = [5_u8; 32];
    let encode = |bytes: &[u8]| data_encoding::BASE64.encode(bytes);
    let md5 = "AySEl1S2wPAexPw5yRqWMQ==";
    let with = |ask: Ask<'static>| {
        let prefix = "x-amz-server-side-encryption-customer";
        let named = [("-algorithm", "AES256".to_owned()), ("-key", encode(&key)), ("-key-md5", md5.to_owned())];
        named.into_iter().fold(ask, |ask, (name, value)| ask.with(String::leak(format!("{prefix}{name}")), value))
    };
    let put = a.ann.send(with(ask("PUT", "/box/client")).body("secret")).await;
    assert_eq!(put.status, 200, "{}", put.text());
    a.town.replicate();
    replicate(&a, &b).await;
    let done = copied(&a).await;
    assert_eq!((done.replicating.cannot, done.replicating.failing), (1, None));
    let there = b.get("sealed").await;
    assert_eq!((there.header("x-amz-server-side-encryption"), there.body == noise(200_000)), ("AES256", true));
    assert_eq!(b.get("client").await.status, 404);
    a.put("client", "open").await;
    assert_eq!(copied(&a).await.replicating.cannot, 0);
    is_same(&a, &b, &["client"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_buckets_that_are_copied_to_each_other_come_to_rest() {
    let (mut a, mut b) = (World::new().await, World::new().await);
    a.town.replicate();
    b.town.replicate();
    replicate(&a, &b).await;
    replicate(&b, &a).await;
    a.put("from-a", "a").await;
    upload(&a, "long", &[noise(PART), noise(5)]).await;
    b.put("from-b", noise(5_000)).await;
    let deadline = Instant::now() + SOON;
    while b.get("long").await.status != 200 || a.get("from-b").await.status != 200 {
        assert!(Instant::now() < deadline, "both have all");
        sleep(Duration::from_millis(50)).await;
    }
    copied(&a).await;
    copied(&b).await;
    let written = |world: &World| {
        let ann = world.ann.clone();
        async move { ann.send(ask("GET", "/box?list-type=2")).await.text() }
    };
    let before = (written(&a).await, written(&b).await);
    copied(&a).await;
    copied(&b).await;
    assert_eq!((written(&a).await, written(&b).await), before, "nothing is written any more");
    is_same(&a, &b, &["from-a", "from-b", "long"]).await;
    assert_eq!(b.ann.send(ask("DELETE", "/box/from-a")).await.status, 204);
    copied(&b).await;
    copied(&a).await;
    assert_eq!((a.get("from-a").await.status, b.get("from-a").await.status), (404, 404));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_no_good_there_is_said_and_tried_again() {
    let (mut a, b) = (World::new().await, World::new().await);
    a.put("one", "1").await;
    a.town.replicate();
    let good = target(&b, "box", "", a.town.gateway.chance());
    set(&a, "box", Some(Target { key_id: id("eve"), ..good.clone() })).await;
    let failing = wait_for(&a, "it fails", |it| it.replicating.failing.is_some()).await;
    let words = failing.replicating.failing.expect("it fails").words;
    assert!(words.contains("InvalidAccessKeyId"), "{words}");
    // The same place, as somebody else.
    set(&a, "box", Some(good)).await;
    copied(&a).await;
    wait_for(&a, "it fails no more", |it| it.replicating.failing.is_none()).await;
    is_same(&a, &b, &["one"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tls_a_bucket_is_copied_to_whom_a_believed_authority_certifies_and_to_nobody_else() {
    let (mut a, b) = (World::new().await, World::new().await);
    a.put("sheep", "baa").await;
    let (believed, unknown) = (Authority::new(), Authority::new());
    let at = believed.before(b.town.addr.ip(), b.town.addr).await;
    let plain = target(&b, "box", "", a.town.gateway.chance());
    set(&a, "box", Some(Target { endpoint: format!("https://{at}"), ..plain })).await;
    a.town.believes = vec![unknown.certificate()];
    a.town.replicate();
    let failing = wait_for(&a, "it fails", |it| it.replicating.failing.is_some()).await;
    let words = failing.replicating.failing.expect("it fails").words;
    assert!(words.contains("no authority that this host believes"), "{words}");
    assert_eq!(b.get("sheep").await.status, 404);
    a.town.believes = vec![believed.certificate()];
    a.town.replicate();
    copied(&a).await;
    assert_eq!(b.get("sheep").await.text(), "baa");
}
