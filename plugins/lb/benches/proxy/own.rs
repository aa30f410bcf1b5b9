//! Our role, and the backend, each in a process of its own.

use std::fs::{self, OpenOptions};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hirsel_model::spec::{AccessLog, LogFormat};
use hirsel_role::certificate::Bundle;
use hirsel_role::secret::Plain;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::case::{Case, Front};
use super::{HOST, HOSTS, common, process};

/// Leaves a certificate for everybody in `folder`.
pub fn certify(folder: &Path) {
    let authority = common::authority::Authority::new();
    let bundle = authority.certify(&["*.example.com"], 1);
    // The leaf, then who signed it.
    let second = bundle.chain.rfind("-----BEGIN").unwrap();
    fs::write(folder.join("authority.pem"), &bundle.chain[second..]).unwrap();
    fs::write(folder.join("cert.pem"), &bundle.chain).unwrap();
    fs::write(folder.join("key.pem"), &bundle.key.0).unwrap();
    fs::write(folder.join("both.pem"), format!("{}{}", bundle.chain, bundle.key.0)).unwrap();
}

/// Our role as the agent runs it, with one worker, and its log on disk.
pub fn serve_proxy(folder: &Path, case: Case) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap().parse::<SocketAddr>().unwrap();
        let (addr, backend) = (read("addr"), read("backend"));
        let (http, https) =
            if case.front == Front::Https { (process::free_addr(), addr) } else { (addr, process::free_addr()) };
        // A port of the manifest is open where the role is bound, beside HTTP.
        let http = if case.front == Front::Port { process::free_addr() } else { http };
        let host = common::FakeHost::default();
        let log = OpenOptions::new().create(true).append(true).open(folder.join("access.log")).unwrap();
        *host.log.lock().unwrap() = Some(log);
        let mut bed = common::Bed::on(Arc::new(host), http, https, hirsel_role::RoleConfig::default());
        if case.front == Front::Cache {
            bed.routes(&format!("[route.\"{HOST}\"]\nto = \"web\"\ncache = true\n"));
        } else {
            bed.route(HOST, "/", "web");
        }
        for host in (0..HOSTS).map(|host| format!("h{host}.example.com")).filter(|host| host != HOST) {
            bed.route(&host, "/", "web");
        }
        if case.front == Front::Port {
            bed.ports(&format!("[port.{}]\nto = \"web\"\n", addr.port()));
        }
        bed.usual_log(AccessLog::of(LogFormat::Combined));
        bed.place(1, common::ME, backend.port());
        if case.front == Front::Https {
            let pem = |name: &str| fs::read_to_string(folder.parent().unwrap().join(name)).unwrap();
            let bundle = Bundle { version: 1, chain: pem("cert.pem"), key: Plain(pem("key.pem")) };
            bed.certificates.send_replace(common::authority::bundles(&[("wild", &bundle)]));
        }
        loop {
            bed.converge().await;
            let _ = tokio::time::timeout(Duration::from_secs(1), bed.wake.notified()).await;
        }
    });
}

/// The cheapest thing that answers.
pub fn serve_backend(listen: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let answer = |bytes: usize| -> Arc<[u8]> {
        let head = "HTTP/1.1 200 OK\r\nServer: bench\r\nContent-Type: text/plain\r\nCache-Control: max-age=3600\r\n";
        format!("{head}Content-Length: {bytes}\r\n\r\n{}", "x".repeat(bytes)).into_bytes().into()
    };
    let (small, large) = (answer(1024), answer(100 * 1024));
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(listen).await.unwrap();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (small, large) = (small.clone(), large.clone());
            tokio::spawn(async move {
                let mut buffer = Vec::with_capacity(4096);
                while stream.read_buf(&mut buffer).await.is_ok_and(|n| n > 0) {
                    if buffer.ends_with(b"\r\n\r\n") {
                        let answer = if buffer.starts_with(b"GET /100k") { &large } else { &small };
                        buffer.clear();
                        if stream.write_all(answer).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
}
