use super::*;
use hirsel_model::RoleName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

struct Running {
    addr: SocketAddr,
    stop: oneshot::Sender<()>,
    server: tokio::task::JoinHandle<()>,
}

async fn running() -> Running {
    let environment = BTreeMap::from([
        ("HIRSEL_INSTANCE".to_owned(), "hello/web/3".to_owned()),
        ("HIRSEL_NODE_NAME".to_owned(), "n<2>".to_owned()),
    ]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let server = tokio::spawn(serve_until(listener, Identity::from(&environment), async {
        let _ = stopped.await;
    }));
    Running { addr, stop, server }
}

async fn ask(addr: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn get(addr: SocketAddr, path: &str) -> String {
    ask(addr, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await
}

#[tokio::test]
async fn every_page_says_who_answered() {
    let on = running().await;
    assert!(get(on.addr, "/healthz").await.ends_with("\r\n\r\nok\n"));
    let page = get(on.addr, "/").await;
    assert!(
        page.starts_with("HTTP/1.1 200 OK") && page.contains("Answered by hello/web/3") && page.contains("n&lt;2&gt;")
    );
    assert!(!page.contains("{{"), "every place is filled");
    let whoami = get(on.addr, "/whoami").await;
    let json: serde_json::Value = serde_json::from_str(whoami.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!((&json["instance"], &json["requests"]), (&"hello/web/3".into(), &2.into()));
    assert!(get(on.addr, "/nowhere").await.starts_with("HTTP/1.1 404"));
    let post = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    assert!(ask(on.addr, post).await.starts_with("HTTP/1.1 405"));
}

#[tokio::test]
async fn what_is_sent_comes_back_up_to_the_limit() {
    let on = running().await;
    let post = "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
    assert!(ask(on.addr, post).await.ends_with("\r\n\r\nhello"));
    assert!(get(on.addr, "/echo").await.contains("GET /echo HTTP/1.1\nhost: x\n"));
    let large = format!(
        "POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        ECHO_BYTES_MAX + 1
    );
    assert!(ask(on.addr, &format!("{large}{}", "x".repeat(ECHO_BYTES_MAX + 1))).await.starts_with("HTTP/1.1 413"));
    assert!(get(on.addr, "/slow?ms=x").await.starts_with("HTTP/1.1 400"));
    assert!(get(on.addr, "/slow?ms=30001").await.contains("30001 ms exceeds 30000"));
}

#[tokio::test]
async fn a_request_under_way_is_answered_after_the_wish_to_stop() {
    let on = running().await;
    let mut idle = TcpStream::connect(on.addr).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut begun = [0; 15];
    idle.read_exact(&mut begun).await.unwrap();
    let mut stream = TcpStream::connect(on.addr).await.unwrap();
    stream.write_all(b"GET /slow?ms=300 HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    // It is under way when it is counted besides those who ask for it.
    for asked in 1..=1000 {
        let whoami = get(on.addr, "/whoami").await;
        if whoami.contains(&format!("\"requests\":{}", asked + 1)) {
            break;
        }
        assert!(asked < 1000, "{whoami}");
    }
    on.stop.send(()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("hello/web/3 answers after 300 ms\n"), "{answer}");
    on.server.await.unwrap();
    assert!(TcpStream::connect(on.addr).await.is_err());
}

#[test]
fn a_wrong_environment_is_refused_with_the_value() {
    let with = |name: &str, value: &str| listen_addr(&BTreeMap::from([(name.to_owned(), value.to_owned())]));
    assert_eq!(listen_addr(&BTreeMap::new()).unwrap(), DEFAULT);
    assert_eq!(with("PORT", "20001").unwrap().port(), 20_001);
    assert_eq!(with("PORT", "http").unwrap_err().to_string(), "PORT is \"http\", which is no port number");
    assert_eq!(with("HOST", "n1").unwrap_err().to_string(), "HOST is \"n1\", which is no IP address");
}

#[test]
fn the_manifest_is_accepted_by_a_build_that_has_lb_and_compute() {
    let (app, spec) = hirsel_model::manifest::parse(MANIFEST, &[RoleName::lb(), RoleName::compute()]).unwrap();
    assert_eq!(app.as_str(), "hello");
    let service = &spec.services[&"web".parse().unwrap()];
    assert_eq!((service.replicas.min, service.command[1].as_str()), (3, "sample"));
    assert!(service.health.is_some() && spec.routes[0].host == "*");
}
