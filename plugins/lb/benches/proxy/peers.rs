//! Who is compared, each set up to do the same.

use std::fmt::Write;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use super::case::{Case, Front};
use super::process::{Processor, Running, on, program};
use super::{HOSTS, own};

/// Where a peer is to serve, and what.
pub struct Site<'a> {
    pub folder: &'a Path,
    /// What all have: the certificate.
    pub shared: &'a Path,
    pub addr: SocketAddr,
    pub backend: SocketAddr,
    pub front: Front,
    pub case: &'static str,
}

type Start = fn(&Site) -> Option<Running>;

/// Those that can do what a case asks for; the first peer is what targets are about.
pub fn of(case: &Case) -> Vec<(&'static str, Start)> {
    let ours: (&str, Start) = ("hirsel lb", ours);
    let nginx: (&str, Start) = ("nginx", nginx);
    match case.front {
        Front::Http | Front::Https => {
            vec![ours, ("haproxy", haproxy), ("haproxy, same lines", haproxy_same), nginx, ("caddy", caddy)]
        }
        Front::Port => vec![ours, ("haproxy", haproxy_port), nginx],
        Front::Cache => vec![ours, nginx, ("varnish", varnish)],
    }
}

fn ours(site: &Site) -> Option<Running> {
    fs::write(site.folder.join("addr"), site.addr.to_string()).unwrap();
    fs::write(site.folder.join("backend"), site.backend.to_string()).unwrap();
    Some(own(&["serve-proxy", site.folder.to_str().unwrap(), site.case], Processor::First))
}

/// What our load balancer adds besides `X-Forwarded-For`; the trace, which it has no word for, is ours alone.
const SAME_LINES: &str = "  http-request set-header X-Forwarded-Proto http\n  \
    http-request set-header X-Forwarded-Host %[req.hdr(host)]\n  \
    http-request add-header Via \"1.1 haproxy\"\n  \
    unique-id-format %{+X}o\\ %ci:%cp_%fi:%fp_%Ts_%rt:%pid\n  unique-id-header X-Request-Id\n  \
    http-response set-header X-Request-Id %[unique-id]\n";

fn haproxy(site: &Site) -> Option<Running> {
    haproxy_with(site, "")
}

fn haproxy_same(site: &Site) -> Option<Running> {
    haproxy_with(site, SAME_LINES)
}

fn haproxy_with(site: &Site, lines: &str) -> Option<Running> {
    let map = site.folder.join("hosts.map");
    let hosts: String = (0..HOSTS).fold(String::new(), |mut all, host| {
        writeln!(all, "h{host}.example.com b{}", host % 10).unwrap();
        all
    });
    fs::write(&map, hosts).unwrap();
    let secure = match site.front {
        Front::Https => format!(" ssl crt {}/both.pem alpn h2,http/1.1", site.shared.display()),
        _ => String::new(),
    };
    let backends: String = (0..10).fold(String::new(), |mut all, number| {
        writeln!(all, "backend b{number}\n  server s {}", site.backend).unwrap();
        all
    });
    let text = format!(
        "global\n  nbthread 1\n  maxconn 4000\n  log stdout format raw local0\n  tune.ssl.default-dh-param 2048\ndefaults\n  mode http\n  log global\n  \
         option httplog\n  timeout connect 1s\n  timeout client 60s\n  timeout server 60s\n  option forwardfor\n  http-reuse always\n\
         frontend f\n  bind {}{secure}\n{lines}  use_backend %[req.hdr(host),lower,map({})]\n{backends}",
        site.addr,
        map.display()
    );
    start_haproxy(site, &text)
}

fn haproxy_port(site: &Site) -> Option<Running> {
    let text = format!(
        "global\n  nbthread 1\n  maxconn 4000\n  log stdout format raw local0\ndefaults\n  mode tcp\n  log global\n  option tcplog\n  \
         option splice-auto\n  timeout connect 1s\n  timeout client 60s\n  timeout server 60s\nlisten f\n  bind {}\n  server s {}\n",
        site.addr, site.backend
    );
    start_haproxy(site, &text)
}

fn start_haproxy(site: &Site, text: &str) -> Option<Running> {
    let config = site.folder.join("haproxy.cfg");
    fs::write(&config, text).unwrap();
    let mut command = on(Processor::First, &program("haproxy")?);
    command.arg("-db").arg("-f").arg(config).stdout(File::create(site.folder.join("access.log")).unwrap());
    Some(spawn(site, &mut command))
}

fn nginx(site: &Site) -> Option<Running> {
    let (at, shared, addr, backend) = (site.folder.display(), site.shared.display(), site.addr, site.backend);
    let before = format!(
        "daemon off; master_process off; pid {at}/nginx.pid; error_log {at}/nginx.log; worker_rlimit_nofile 8000;\n\
         events {{ worker_connections 4000; }}\n"
    );
    let upstream = format!("upstream u {{ server {backend}; keepalive 64; keepalive_requests 100000000; }}\n");
    let text = if site.front == Front::Port {
        let module = ["/usr/lib/nginx/modules/ngx_stream_module.so", "/usr/lib64/nginx/modules/ngx_stream_module.so"]
            .into_iter()
            .find(|path| Path::new(path).exists())?;
        format!("load_module {module};\n{before}stream {{ server {{ listen {addr}; proxy_pass {backend}; }} }}\n")
    } else {
        let (secure, certificate) = match site.front {
            Front::Https => (
                " ssl http2",
                format!(
                    "ssl_certificate {shared}/cert.pem; ssl_certificate_key {shared}/key.pem; ssl_protocols TLSv1.3;"
                ),
            ),
            _ => ("", String::new()),
        };
        let keeps = if site.front == Front::Cache { "proxy_cache c;" } else { "" };
        let servers: String = (0..HOSTS).fold(String::new(), |mut all, host| {
            writeln!(
                all,
                "server {{ listen {addr}{secure}; server_name h{host}.example.com; location / {{ proxy_pass http://u; \
                 proxy_http_version 1.1; proxy_set_header Connection \"\"; {keeps} \
                 proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }} }}"
            )
            .unwrap();
            all
        });
        format!(
            "{before}http {{ access_log {at}/access.log combined buffer=64k flush=1s; keepalive_requests 100000000;\n\
             server_names_hash_max_size 4096; client_body_temp_path {at}/b; proxy_temp_path {at}/p; fastcgi_temp_path {at}/f;\n\
             uwsgi_temp_path {at}/u; scgi_temp_path {at}/s; proxy_cache_path {at}/cache keys_zone=c:10m;\n\
             {certificate}\n{upstream}{servers} }}\n"
        )
    };
    let config = site.folder.join("nginx.conf");
    fs::write(&config, text).unwrap();
    let mut command = on(Processor::First, &program("nginx")?);
    command.arg("-p").arg(site.folder).arg("-c").arg(&config);
    Some(spawn(site, &mut command))
}

fn caddy(site: &Site) -> Option<Running> {
    let (at, shared) = (site.folder.display(), site.shared.display());
    let (scheme, certificate) = match site.front {
        Front::Https => ("https", format!("\ttls {shared}/cert.pem {shared}/key.pem\n")),
        _ => ("http", String::new()),
    };
    let hosts: Vec<_> = (0..HOSTS).map(|host| format!("{scheme}://h{host}.example.com:{}", site.addr.port())).collect();
    let text = format!(
        "{{\n\tadmin off\n\tauto_https off\n}}\n{} {{\n\tbind {}\n{certificate}\tlog {{\n\t\toutput file {at}/access.log\n\t}}\n\
         \treverse_proxy {}\n}}\n",
        hosts.join(", "),
        site.addr.ip(),
        site.backend
    );
    let config = site.folder.join("Caddyfile");
    fs::write(&config, text).unwrap();
    let mut command = on(Processor::First, &program("caddy")?);
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(&config);
    command
        .env("GOMAXPROCS", "1")
        .env("HOME", site.folder)
        .env("XDG_DATA_HOME", site.folder)
        .env("XDG_CONFIG_HOME", site.folder);
    Some(spawn(site, &mut command))
}

/// With the program that writes its log, whose time counts as well.
fn varnish(site: &Site) -> Option<Running> {
    let (daemon, log) = (program("varnishd")?, program("varnishncsa")?);
    let at = site.folder.display();
    let script = format!(
        "{daemon} -F -n {at} -a {} -b {} -s malloc,64m -j none -p thread_pools=1 & \
         until {log} -n {at} -d -q 'ReqURL ~ nothing' >/dev/null 2>&1; do sleep 0.1; done; {log} -n {at} -a -w {at}/access.log; wait",
        site.addr, site.backend
    );
    let mut command = on(Processor::First, "/bin/sh");
    command.args(["-c", &script]);
    Some(spawn(site, &mut command))
}

fn spawn(site: &Site, command: &mut Command) -> Running {
    let errors = File::create(site.folder.join("errors.log")).unwrap();
    command.stdin(Stdio::null()).stderr(errors.try_clone().unwrap());
    if command.get_args().any(|arg| arg == "-db") {
        return Running::start(command);
    }
    Running::start(command.stdout(errors))
}
