//! Webhooks are told what happens to objects: in order, again after they failed, and by a new leader where the old one was.

mod common;
#[path = "common/tls.rs"]
mod tls;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{Node, nodes};
use hirsel_mesh::seam::real;
use hirsel_role::host::real::{Groups, GuardConfig, RealHost, RealHostConfig};
use hirsel_role::outbound::Outbound;
use hirsel_storage::meta::command::{BucketChange, By, Command, Condition, Put};
use hirsel_storage::meta::kinds::{About, Acl, Class, DocumentKind, Written};
use hirsel_storage::meta::names::{BucketName, ObjectKey};
use hirsel_storage::meta::outbox::queues;
use hirsel_storage::rules::notify::Rule;
use hirsel_storage::tell;
use rustls::pki_types::CertificateDer;
use tls::Authority;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

const SOON: Duration = Duration::from_secs(60);

/// A webhook that fails so many times before it takes what it is told.
#[derive(Clone)]
struct Hook {
    addr: SocketAddr,
    fails: Arc<AtomicU32>,
    tried: Arc<AtomicU32>,
    keys: Arc<Mutex<Vec<String>>>,
}

impl Hook {
    async fn start(addr: &str, fails: u32) -> Self {
        let listener = TcpListener::bind((addr, 0)).await.unwrap();
        let hook = Self {
            addr: listener.local_addr().unwrap(),
            fails: Arc::new(AtomicU32::new(fails)),
            tried: Arc::default(),
            keys: Arc::default(),
        };
        let serving = hook.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serving.answer(stream).await;
            }
        });
        hook
    }

    async fn answer(&self, stream: TcpStream) {
        let (mut stream, mut length, mut line) = (BufReader::new(stream), 0, String::new());
        while stream.read_line(&mut line).await.unwrap() > 2 {
            if let Some(said) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = said.trim().parse().unwrap();
            }
            line.clear();
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        self.tried.fetch_add(1, Ordering::SeqCst);
        let fails = self.fails.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        if !fails {
            let told: serde_json::Value = serde_json::from_slice(&body).unwrap();
            let records = told["Records"].as_array().unwrap();
            assert!(records.iter().all(|record| record["eventName"] == "ObjectCreated:Put"), "{told}");
            let keys = records.iter().map(|record| record["s3"]["object"]["key"].as_str().unwrap().to_owned());
            self.keys.lock().unwrap().extend(keys);
        }
        let status = if fails { "500 Internal Server Error" } else { "204 No Content" };
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.unwrap();
    }

    fn keys(&self) -> Vec<String> {
        self.keys.lock().unwrap().clone()
    }

    fn url(&self) -> String {
        format!("http://{}/hook?token=x", self.addr)
    }
}

fn pasture() -> BucketName {
    BucketName::new("pasture").unwrap()
}

/// A bucket that tells these.
async fn telling(node: &Node, urls: &[String]) {
    let create = Command::CreateBucket {
        name: pasture(),
        owner: "ann".into(),
        region: "here".into(),
        lockable: false,
        acl: Acl::Private,
        class: Class::default(),
    };
    node.gateway.ask(create).await.unwrap();
    let rule = |url: &String| Rule {
        id: "all".into(),
        to: format!("arn:hirsel:webhook:::{url}"),
        events: vec!["s3:ObjectCreated:*".into()],
        ..Rule::default()
    };
    let rules: Vec<Rule> = urls.iter().map(rule).collect();
    let text = serde_json::to_string(&rules).unwrap();
    let change = BucketChange::Document(DocumentKind::Notification, Some(text));
    node.gateway.ask(Command::SetBucket { name: pasture(), change }).await.unwrap();
}

async fn put(node: &Node, key: &str) {
    let put = Put {
        bucket: pasture(),
        key: ObjectKey::new(key).unwrap(),
        body: Written::Inline(b"baa".to_vec()),
        etag: "etag".into(),
        checksum: None,
        about: About::default(),
        lock: None,
        condition: Condition::default(),
        by: By::Put,
    };
    node.gateway.ask(Command::Put(Box::new(put))).await.unwrap();
}

/// Has each node tell, when it leads, whom those of the host and these certify.
fn tell(nodes: &[Node], folder: &Path, besides: &[CertificateDer<'static>]) -> Vec<JoinHandle<()>> {
    let start = |(number, node): (usize, &Node)| {
        let folder = folder.join(format!("host{number}"));
        let guard = GuardConfig { folder: folder.join("guard"), command: vec!["none".into()] };
        let net = real::world(&folder.join("world")).unwrap().net;
        let config = RealHostConfig { folder, shim: vec!["none".into()], guard, groups: Groups::Never, net };
        let outbound = Outbound::believing(Arc::new(RealHost::new(config).unwrap()), besides.to_vec());
        tokio::spawn(tell::keep(node.gateway.clone(), Arc::new(outbound)))
    };
    nodes.iter().enumerate().map(start).collect()
}

async fn until(what: &str, is: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < SOON, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn leader(nodes: &[Node]) -> Option<usize> {
    nodes.iter().position(|node| node.group.leads())
}

/// Addresses for which something waits, as a node sees it.
fn waiting(node: &Node) -> Vec<String> {
    let here = node.group.here().unwrap();
    queues(&here, 10).unwrap().into_iter().map(|(_, queue)| queue.url).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_fails_is_told_again_in_order_and_others_do_not_wait_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let nodes = nodes(folder.path(), 91, 3, 3).await;
    let (good, late) = (Hook::start("127.0.91.9", 0).await, Hook::start("127.0.91.9", 2).await);
    // Nobody listens there.
    let away = "http://127.0.91.9:9/".to_owned();
    telling(&nodes[1], &[away.clone(), late.url(), good.url()]).await;
    let _telling = tell(&nodes, folder.path(), &[]);
    let keys: Vec<String> = (0..40).map(|n| format!("sheep/{n:02}")).collect();
    for key in &keys {
        put(&nodes[2], key).await;
    }
    until("the good one is told all", || good.keys() == keys).await;
    until("the late one is told all, in order and once", || late.keys() == keys).await;
    assert!(late.tried.load(Ordering::SeqCst) >= 4, "two failures, and more than one post for forty");
    until("only what cannot be told waits", || leader(&nodes).is_some_and(|it| waiting(&nodes[it]) == [away.clone()]))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_goes_on_where_the_old_one_was() {
    let folder = tempfile::tempdir().unwrap();
    let nodes = nodes(folder.path(), 92, 3, 3).await;
    let hook = Hook::start("127.0.92.9", u32::MAX).await;
    telling(&nodes[0], &[hook.url()]).await;
    let telling = tell(&nodes, folder.path(), &[]);
    let keys: Vec<String> = (0..5).map(|n| n.to_string()).collect();
    for key in &keys {
        put(&nodes[0], key).await;
    }
    until("it is tried", || hook.tried.load(Ordering::SeqCst) > 0).await;
    until("somebody leads", || leader(&nodes).is_some()).await;
    let old = leader(&nodes).unwrap();
    telling[old].abort();
    nodes[old].group.stop().await;
    let others = || (0..nodes.len()).filter(|number| *number != old);
    until("another one leads", || others().any(|number| nodes[number].group.leads())).await;
    assert!(hook.keys().is_empty());
    hook.fails.store(0, Ordering::SeqCst);
    until("all is told", || hook.keys() == keys).await;
    until("nothing waits", || others().all(|number| waiting(&nodes[number]).is_empty())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tls_only_who_is_certified_by_a_believed_authority_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let nodes = nodes(folder.path(), 93, 1, 1).await;
    let (good, other) = (Hook::start("127.0.93.9", 0).await, Hook::start("127.0.93.9", 0).await);
    let (believed, unknown) = (Authority::new(), Authority::new());
    let good_at = believed.before(good.addr.ip(), good.addr).await;
    let other_at = unknown.before(other.addr.ip(), other.addr).await;
    let (good_url, other_url) = (format!("https://{good_at}/hook"), format!("https://{other_at}/hook"));
    telling(&nodes[0], &[good_url, other_url.clone()]).await;
    let _telling = tell(&nodes, folder.path(), &[believed.certificate()]);
    put(&nodes[0], "sheep").await;
    until("the good one is told", || good.keys() == ["sheep"]).await;
    until("the other one waits", || waiting(&nodes[0]) == [other_url.clone()]).await;
    assert_eq!(other.tried.load(Ordering::SeqCst), 0, "nothing was sent to whoever is not believed");
}
