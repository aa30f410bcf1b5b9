//! Processor time per proxied request of 1 KB over HTTP/1.1, next to haproxy and nginx where they are installed.
//!
//! `cargo bench -p hirsel-lb --bench proxy [-- SECONDS]`. Each proxy is a process of its own with one worker thread, in front of the
//! same backend; load comes from `wrk` where it is installed, else from a client of our own. Processor time is that of the proxy
//! alone (`/proc/PID/stat`), so that neither load nor backend count. Many short rounds alternate and are summed, so that a busy
//! machine is busy for all. haproxy is there twice: as it is usually set up, adding `X-Forwarded-For` alone, and adding the lines that
//! ours adds (`Via`, host, protocol, and an id of the request in both directions; the trace, which it has no word for, is ours alone).
#![allow(missing_docs, clippy::print_stdout)]

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[path = "../tests/common/mod.rs"]
mod common;

const ROUNDS: usize = 8;
const CONNECTIONS: usize = 32;
const BODY_BYTES: usize = 1024;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[1..] {
        ["serve-proxy", listen, backend, threads] => serve_proxy(listen, backend, threads.parse().unwrap()),
        ["serve-backend", listen] => serve_backend(listen),
        _ => compare(args.iter().find_map(|arg| arg.parse().ok()).unwrap_or(2)),
    }
}

/// One proxy under comparison.
struct Proxy {
    name: &'static str,
    addr: SocketAddr,
    child: Child,
    requests: u64,
    seconds: f64,
    cpu: Cpu,
}

/// Seconds of processor time.
#[derive(Clone, Copy, Default)]
struct Cpu {
    user: f64,
    system: f64,
}

impl Cpu {
    fn total(self) -> f64 {
        self.user + self.system
    }
}

fn compare(seconds: u64) {
    let folder = std::env::temp_dir().join(format!("hirsel-lb-bench-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let backend = free_addr();
    let mut backend_child = own(&["serve-backend", &backend.to_string()]);
    let mut proxies = Vec::new();
    let mut add = |name, addr: SocketAddr, child: Option<Child>| match child {
        Some(child) => proxies.push(Proxy { name, addr, child, requests: 0, seconds: 0.0, cpu: Cpu::default() }),
        None => println!("skipped: needs {name}"),
    };
    let addr = free_addr();
    add("hirsel lb", addr, Some(own(&["serve-proxy", &addr.to_string(), &backend.to_string(), "1"])));
    let addr = free_addr();
    add("haproxy", addr, haproxy(&folder.join("haproxy.cfg"), addr, backend, ""));
    let addr = free_addr();
    add("haproxy, same lines", addr, haproxy(&folder.join("lines.cfg"), addr, backend, SAME_LINES));
    let addr = free_addr();
    add("nginx", addr, nginx(&folder, addr, backend));
    for proxy in &proxies {
        wait_for(proxy.addr);
    }
    wait_for(backend);
    for round in 0..=ROUNDS {
        for proxy in &mut proxies {
            let before = cpu(proxy.child.id());
            let started = Instant::now();
            // The first round only warms up.
            let requests = load(proxy.addr, if round == 0 { 1 } else { seconds });
            let after = cpu(proxy.child.id());
            if round > 0 {
                proxy.requests += requests;
                proxy.seconds += started.elapsed().as_secs_f64();
                proxy.cpu.user += after.user - before.user;
                proxy.cpu.system += after.system - before.system;
            }
        }
    }
    report(&proxies, seconds);
    for proxy in &mut proxies {
        proxy.child.kill().unwrap();
        proxy.child.wait().unwrap();
    }
    backend_child.kill().unwrap();
    backend_child.wait().unwrap();
    fs::remove_dir_all(&folder).unwrap();
}

fn report(proxies: &[Proxy], seconds: u64) {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpuinfo.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or("").trim_start_matches([' ', '\t', ':']);
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let loader = if installed("wrk") { "wrk -t1" } else { "own client" };
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("machine: {cores} cores, {model}, load {}", load.split(' ').next().unwrap_or(""));
    println!(
        "method: {loader}, {CONNECTIONS} connections, {BODY_BYTES} byte answers, HTTP/1.1 kept alive, one worker each; processor \
         time of the proxy's process over {ROUNDS} alternating rounds of {seconds} s"
    );
    let micros = |seconds: f64, proxy: &Proxy| seconds * 1e6 / proxy.requests as f64;
    let reference = proxies.iter().find(|p| p.name == "haproxy").map(|p| micros(p.cpu.total(), p));
    println!(
        "{:<20}{:>14}{:>9}{:>9}{:>12}{:>12}",
        "proxy", "CPU µs/request", "user", "system", "requests/s", "× haproxy"
    );
    for proxy in proxies {
        let total = micros(proxy.cpu.total(), proxy);
        let (user, system) = (micros(proxy.cpu.user, proxy), micros(proxy.cpu.system, proxy));
        let per_second = proxy.requests as f64 / proxy.seconds;
        let ratio = reference.map_or("-".to_owned(), |reference| format!("{:.2}", total / reference));
        println!("{:<20}{total:>14.2}{user:>9.2}{system:>9.2}{per_second:>12.0}{ratio:>12}", proxy.name);
    }
}

fn own(args: &[&str]) -> Child {
    Command::new(std::env::current_exe().unwrap()).args(args).stdin(Stdio::null()).spawn().unwrap()
}

/// What our load balancer adds besides `X-Forwarded-For`.
const SAME_LINES: &str = "  http-request set-header X-Forwarded-Proto http\n  \
    http-request set-header X-Forwarded-Host %[req.hdr(host)]\n  \
    http-request add-header Via \"1.1 haproxy\"\n  \
    unique-id-format %{+X}o\\ %ci:%cp_%fi:%fp_%Ts_%rt:%pid\n  unique-id-header X-Request-Id\n  \
    http-response set-header X-Request-Id %[unique-id]\n";

fn haproxy(config: &Path, listen: SocketAddr, backend: SocketAddr, lines: &str) -> Option<Child> {
    let text = format!(
        "global\n  nbthread 1\n  maxconn 1000\ndefaults\n  mode http\n  timeout connect 1s\n  timeout client 60s\n  timeout server 60s\n  \
         option forwardfor\n  http-reuse always\nfrontend f\n  bind {listen}\n{lines}  default_backend b\nbackend b\n  server s {backend}\n"
    );
    fs::write(config, text).unwrap();
    let mut command = Command::new(program("haproxy")?);
    Some(command.arg("-db").arg("-f").arg(config).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

fn nginx(folder: &Path, listen: SocketAddr, backend: SocketAddr) -> Option<Child> {
    let config = folder.join("nginx.conf");
    let at = folder.display();
    let text = format!(
        "daemon off; master_process off; pid {at}/nginx.pid; error_log {at}/nginx.log;\nevents {{ worker_connections 1000; }}\n\
         http {{ access_log off; keepalive_requests 100000000; client_body_temp_path {at}/b; proxy_temp_path {at}/p; \
         fastcgi_temp_path {at}/f; uwsgi_temp_path {at}/u; scgi_temp_path {at}/s;\n\
         upstream u {{ server {backend}; keepalive 64; keepalive_requests 100000000; }}\n\
         server {{ listen {listen}; location / {{ proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection \"\"; \
         proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }} }} }}\n"
    );
    fs::write(&config, text).unwrap();
    let mut command = Command::new(program("nginx")?);
    command.arg("-p").arg(folder).arg("-c").arg(&config).stdout(Stdio::null()).stderr(Stdio::null());
    Some(command.spawn().unwrap())
}

fn program(name: &str) -> Option<String> {
    ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"]
        .iter()
        .map(|folder| format!("{folder}/{name}"))
        .find(|path| Path::new(path).exists())
}

fn installed(name: &str) -> bool {
    program(name).is_some()
}

fn free_addr() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn wait_for(addr: SocketAddr) {
    let until = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(addr).is_err() {
        assert!(Instant::now() < until, "nothing listens on {addr}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Time of a process with all its threads.
fn cpu(pid: u32) -> Cpu {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the proxy runs");
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    // USER_HZ is 100 on every Linux.
    let seconds = |field: usize| fields[field].parse::<f64>().unwrap() / 100.0;
    Cpu { user: seconds(11), system: seconds(12) }
}

/// Loads `addr` and returns the number of answers.
fn load(addr: SocketAddr, seconds: u64) -> u64 {
    let Some(wrk) = program("wrk") else { return own_load(addr, seconds) };
    let output = Command::new(wrk)
        .args(["-t1", &format!("-c{CONNECTIONS}"), &format!("-d{seconds}s"), &format!("http://{addr}/")])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!text.contains("Non-2xx") && !text.contains("Socket errors"), "{text}");
    let line = text.lines().find(|line| line.contains(" requests in ")).unwrap_or_else(|| panic!("{text}"));
    line.trim().split(' ').next().unwrap().parse().unwrap()
}

fn own_load(addr: SocketAddr, seconds: u64) -> u64 {
    let (done, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let clients: Vec<_> = (0..CONNECTIONS)
            .map(|_| {
                let (done, over) = (done.clone(), over.clone());
                tokio::spawn(async move {
                    let mut client = common::wire::Client::connect(addr).await;
                    while !over.load(Ordering::Relaxed) {
                        client.send("GET / HTTP/1.1\r\nHost: bench\r\n\r\n").await;
                        assert_eq!(client.answer().await.status(), 200);
                        done.fetch_add(1, Ordering::Relaxed);
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
    done.load(Ordering::Relaxed)
}

/// Our role in a process of its own, as the agent runs it.
fn serve_proxy(listen: &str, backend: &str, threads: usize) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build().unwrap();
    runtime.block_on(async {
        let backend: SocketAddr = backend.parse().unwrap();
        let mut bed = common::Bed::listening_on(listen.parse().unwrap()).await;
        bed.route("*", "/", "web");
        bed.place(1, common::ME, backend.port());
        bed.converge().await;
        std::future::pending::<()>().await;
    });
}

/// The cheapest thing that answers.
fn serve_backend(listen: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let answer = format!(
        "HTTP/1.1 200 OK\r\nServer: bench\r\nContent-Type: text/plain\r\nContent-Length: {BODY_BYTES}\r\n\r\n{}",
        "x".repeat(BODY_BYTES)
    );
    let answer: Arc<[u8]> = answer.into_bytes().into();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(listen).await.unwrap();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut buffer = Vec::with_capacity(4096);
                while stream.read_buf(&mut buffer).await.is_ok_and(|n| n > 0) {
                    if buffer.ends_with(b"\r\n\r\n") {
                        buffer.clear();
                        if stream.write_all(&answer).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    let _ = std::io::stdout().flush();
}
