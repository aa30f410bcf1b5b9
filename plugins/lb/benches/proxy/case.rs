//! What is compared.

/// How clients come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Front {
    /// HTTP/1.1 in clear.
    Http,
    /// HTTPS.
    Https,
    /// A port whose connections are passed on as they are.
    Port,
    /// HTTP/1.1 in clear, and the answer is kept.
    Cache,
}

/// How it is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Requests over connections that are kept, by HTTP/1.1.
    Kept,
    /// The same, ten at a time on each connection, by HTTP/2.
    Streams,
    /// A connection with a whole handshake for each request.
    Anew,
}

/// One comparison.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub name: &'static str,
    pub says: &'static str,
    pub front: Front,
    pub load: Load,
    pub connections: usize,
    /// What is asked for: `/` is 1 KiB, `/100k` is 100 KiB.
    pub path: &'static str,
    /// What is wanted, as a share of the first peer's processor time; none where nothing was promised.
    pub target: Option<f64>,
}

const fn case(name: &'static str, says: &'static str, front: Front, load: Load, connections: usize) -> Case {
    Case { name, says, front, load, connections, path: "/", target: None }
}

impl Case {
    pub fn named(name: &str) -> Option<Self> {
        ALL.iter().copied().find(|case| case.name == name)
    }

    const fn large(self) -> Self {
        Self { path: "/100k", ..self }
    }

    const fn at_most(self, target: f64) -> Self {
        Self { target: Some(target), ..self }
    }
}

pub const ALL: &[Case] = &[
    case("plain", "1 KiB, HTTP/1.1, 64 connections", Front::Http, Load::Kept, 64).at_most(1.15),
    case("plain-1", "1 KiB, HTTP/1.1, one connection", Front::Http, Load::Kept, 1),
    case("plain-1024", "1 KiB, HTTP/1.1, 1,024 connections", Front::Http, Load::Kept, 1024),
    case("plain-100k", "100 KiB, HTTP/1.1, 64 connections", Front::Http, Load::Kept, 64).large().at_most(1.3),
    case("tls", "1 KiB, HTTP/1.1 over TLS 1.3, 64 connections", Front::Https, Load::Kept, 64).at_most(1.0),
    case("tls-100k", "100 KiB, HTTP/1.1 over TLS 1.3, 64 connections", Front::Https, Load::Kept, 64).large(),
    case("h2", "1 KiB, HTTP/2 over TLS 1.3, 16 connections of 10 streams", Front::Https, Load::Streams, 16)
        .at_most(1.5),
    case("tls-new", "new connections, TLS 1.3 without resumption, one request each", Front::Https, Load::Anew, 16),
    case("port-100k", "100 KiB through a TCP port, 64 connections", Front::Port, Load::Kept, 64).large(),
    case("cache", "1 KiB that is kept, HTTP/1.1, 64 connections", Front::Cache, Load::Kept, 64),
    case("cache-100k", "100 KiB that are kept, HTTP/1.1, 64 connections", Front::Cache, Load::Kept, 64).large(),
];
