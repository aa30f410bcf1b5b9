//! Processor time per request of the load balancer, next to haproxy, nginx, caddy and varnish where they are installed.
//!
//! `cargo bench -p hirsel-lb --bench proxy [-- SECONDS] [-- CASE...]`, with the cases of [`case::ALL`]. Every proxy does the same: it
//! has 1,000 routes by host, of which one is asked for, writes each request into a log on disk in the combined format (haproxy: its HTTP
//! log, to its standard output, which is a file), adds `X-Forwarded-For`, and has one worker. What only some of them do stays as it is:
//! ours counts each request by route and instance, gives it an id and a trace, and keeps a record of it for `hirsel why`. haproxy is there
//! twice, as people set it up, and with an id in both directions and the forwarding lines that ours adds.
//!
//! Each proxy is a process of its own on the first processor; load and backend are on the others. What is counted is the processor
//! time of the proxy's processes alone (`/proc/PID/stat`), so that neither load nor backend count. Many short rounds alternate and are
//! summed, so that a busy machine is busy for all.
#![allow(missing_docs, clippy::print_stdout)]

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Instant;

use case::Case;
use process::{Cpu, Running};

mod case;
#[path = "../../tests/common/mod.rs"]
mod common;
mod load;
mod own;
mod peers;
mod process;
mod report;

const ROUNDS: usize = 5;
/// The host that is asked for, one of a thousand.
const HOST: &str = "h500.example.com";
const HOSTS: usize = 1000;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve-proxy", folder, case] => own::serve_proxy(folder.as_ref(), Case::named(case).expect("a case")),
        ["serve-backend", listen] => own::serve_backend(listen),
        ref words => {
            let seconds = words.iter().find_map(|word| word.parse().ok()).unwrap_or(1);
            let named: Vec<_> = words.iter().filter(|word| word.parse::<u64>().is_err()).collect();
            let cases = match &named[..] {
                [] => case::ALL.to_vec(),
                names => names.iter().map(|name| Case::named(name).unwrap_or_else(|| unknown(name))).collect(),
            };
            compare(&cases, seconds);
        }
    }
}

fn unknown(name: &str) -> ! {
    let all: Vec<_> = case::ALL.iter().map(|case| case.name).collect();
    panic!("no case {name}; there are {}", all.join(", "));
}

/// Where everything of one comparison is.
pub struct Bed {
    pub folder: PathBuf,
    pub backend: std::net::SocketAddr,
}

/// What was seen of one proxy in one case.
pub struct Seen {
    pub name: &'static str,
    pub requests: u64,
    pub seconds: f64,
    pub cpu: Cpu,
    /// The sum over all requests of how long each took, in seconds; none where nobody measured it.
    pub waited: Option<f64>,
    /// Bytes that are resident at the end.
    pub resident: u64,
}

struct Proxy {
    running: Running,
    addr: std::net::SocketAddr,
    seen: Seen,
}

fn compare(cases: &[Case], seconds: u64) {
    let folder = std::env::temp_dir().join(format!("hirsel-lb-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let backend = process::free_addr();
    let serving = own(&["serve-backend", &backend.to_string()], process::Processor::Others);
    process::wait_for(backend);
    let bed = Bed { folder, backend };
    own::certify(&bed.folder);
    report::method(seconds);
    for case in cases {
        let mut proxies = start(&bed, case);
        for round in 0..=ROUNDS {
            for proxy in &mut proxies {
                let before = process::cpu(proxy.running.id());
                let started = Instant::now();
                let done = load::run(&bed, case, proxy.addr, if round == 0 { 1 } else { seconds });
                // The first round only warms up.
                if round > 0 {
                    proxy.seen.requests += done.requests;
                    proxy.seen.seconds += started.elapsed().as_secs_f64();
                    proxy.seen.cpu += process::cpu(proxy.running.id()) - before;
                    proxy.seen.waited =
                        done.mean.and_then(|mean| Some(proxy.seen.waited? + mean * done.requests as f64));
                    proxy.seen.resident = process::resident(proxy.running.id());
                }
            }
        }
        report::case(case, proxies.iter().map(|proxy| &proxy.seen));
    }
    drop(serving);
    std::fs::remove_dir_all(&bed.folder).unwrap();
}

fn start(bed: &Bed, case: &Case) -> Vec<Proxy> {
    let mut proxies = Vec::new();
    for (name, peer) in peers::of(case) {
        let folder = bed.folder.join(format!("{}-{}", case.name, name.replace([',', ' '], "-")));
        std::fs::create_dir_all(&folder).unwrap();
        let addr = process::free_addr();
        let site = peers::Site {
            folder: &folder,
            shared: &bed.folder,
            addr,
            backend: bed.backend,
            front: case.front,
            case: case.name,
        };
        let Some(running) = peer(&site) else {
            println!("skipped: needs {name}");
            continue;
        };
        process::wait_for(addr);
        let seen = Seen { name, requests: 0, seconds: 0.0, cpu: Cpu::default(), waited: Some(0.0), resident: 0 };
        proxies.push(Proxy { running, addr, seen });
    }
    proxies
}

/// This program as another process.
fn own(args: &[&str], processor: process::Processor) -> Running {
    let program = std::env::current_exe().unwrap();
    Running::start(process::on(processor, program.to_str().unwrap()).args(args).stdin(Stdio::null()))
}
