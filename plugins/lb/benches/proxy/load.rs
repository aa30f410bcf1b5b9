//! Who asks.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::case::{Case, Front, Load};
use super::process::{Processor, on, program};
use super::{Bed, HOST};

/// What was done.
pub struct Done {
    pub requests: u64,
    /// How long one took in the mean, in seconds.
    pub mean: Option<f64>,
}

/// Loads `addr` for so many seconds: by `wrk` or `h2load` where they are installed, else by a client of our own.
pub fn run(bed: &Bed, case: &Case, addr: SocketAddr, seconds: u64) -> Done {
    let secure = case.front == Front::Https;
    match case.load {
        Load::Kept if !secure && program("wrk").is_some() => wrk(case, addr, seconds),
        Load::Kept | Load::Streams if program("h2load").is_some() => h2load(case, addr, seconds),
        Load::Kept | Load::Anew => by_ourselves(bed, case, addr, seconds),
        Load::Streams => panic!("HTTP/2 needs h2load (nghttp2-client)"),
    }
}

fn wrk(case: &Case, addr: SocketAddr, seconds: u64) -> Done {
    let output = on(Processor::Others, &program("wrk").unwrap())
        .args(["-t1", &format!("-c{}", case.connections), &format!("-d{seconds}s"), "-H", &format!("Host: {HOST}")])
        .arg(format!("http://{addr}{}", case.path))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!text.contains("Non-2xx") && !text.contains("Socket errors"), "{text}");
    let words = |mark: &str| {
        text.lines().find(|line| line.contains(mark)).map(|line| line.split_whitespace().collect::<Vec<_>>())
    };
    let requests = words(" requests in ").and_then(|words| words[0].parse().ok()).unwrap_or_else(|| panic!("{text}"));
    Done { requests, mean: words("Latency ").and_then(|words| duration(words[1])) }
}

fn h2load(case: &Case, addr: SocketAddr, seconds: u64) -> Done {
    let scheme = if case.front == Front::Https { "https" } else { "http" };
    let mut command = on(Processor::Others, &program("h2load").unwrap());
    command.args([&format!("-c{}", case.connections), "-t1", &format!("-D{seconds}"), &format!("--connect-to={addr}")]);
    match case.load {
        Load::Streams => command.arg("-m10"),
        _ => command.args(["--h1", "-m1"]),
    };
    let output = command.arg(format!("{scheme}://{HOST}{}", case.path)).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let words = |mark: &str| {
        text.lines().find(|line| line.starts_with(mark)).map(|line| line.split_whitespace().collect::<Vec<_>>())
    };
    // `status codes: N 2xx, …`: those of the measured time, as `requests:` counts.
    let codes = words("status codes:").unwrap_or_else(|| panic!("{text}"));
    let answered: u64 = codes[2].parse().unwrap();
    assert!(answered > 0 && [4, 6, 8].into_iter().all(|other| codes[other] == "0"), "{text}");
    // `time for request: MIN MAX MEAN SD …`
    Done { requests: answered, mean: words("time for request:").and_then(|words| duration(words[5])) }
}

/// `12.30us`, `1.2ms`, `0.5s`.
fn duration(word: &str) -> Option<f64> {
    let (number, unit) = word.split_at(word.find(|c: char| c.is_ascii_alphabetic())?);
    let scale = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * scale)
}

fn by_ourselves(bed: &Bed, case: &Case, addr: SocketAddr, seconds: u64) -> Done {
    let (done, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let connector = (case.front == Front::Https).then(|| connector(bed));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let started = Instant::now();
    runtime.block_on(async {
        let clients: Vec<_> = (0..case.connections)
            .map(|_| {
                let (done, over, connector, case) = (done.clone(), over.clone(), connector.clone(), *case);
                tokio::spawn(async move {
                    while !over.load(Ordering::Relaxed) {
                        let stream = TcpStream::connect(addr).await.unwrap();
                        stream.set_nodelay(true).unwrap();
                        match &connector {
                            Some(connector) => {
                                let name = ServerName::try_from(HOST).unwrap();
                                ask(&mut connector.connect(name, stream).await.unwrap(), &case, &over, &done).await;
                            }
                            None => ask(&mut { stream }, &case, &over, &done).await,
                        }
                    }
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        over.store(true, Ordering::Relaxed);
        for client in clients {
            client.await.unwrap();
        }
    });
    let requests = done.load(Ordering::Relaxed);
    Done { requests, mean: Some(started.elapsed().as_secs_f64() * case.connections as f64 / requests.max(1) as f64) }
}

/// Asks until it is over, or once where each request has a connection of its own.
async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), case: &Case, over: &AtomicBool, done: &AtomicU64) {
    let request = format!("GET {} HTTP/1.1\r\nHost: {HOST}\r\n\r\n", case.path);
    let mut buffer = Vec::with_capacity(128 * 1024);
    loop {
        stream.write_all(request.as_bytes()).await.unwrap();
        buffer.clear();
        let mut whole = None;
        while whole.is_none_or(|whole| buffer.len() < whole) {
            assert!(stream.read_buf(&mut buffer).await.unwrap() > 0, "cut short");
            if let (None, Some(end)) = (whole, buffer.windows(4).position(|at| at == b"\r\n\r\n")) {
                let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
                assert!(head.starts_with("http/1.1 200"), "{head}");
                let length = head.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap();
                whole = Some(end + 4 + length.parse::<usize>().unwrap());
            }
        }
        done.fetch_add(1, Ordering::Relaxed);
        if case.load == Load::Anew || over.load(Ordering::Relaxed) {
            return;
        }
    }
}

/// One that trusts our certificate and begins anew each time.
fn connector(bed: &Bed) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    let authority = rustls::pki_types::CertificateDer::from_pem_file(bed.folder.join("authority.pem")).unwrap();
    roots.add(authority).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13]).unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.resumption = Resumption::disabled();
    TlsConnector::from(Arc::new(config))
}
