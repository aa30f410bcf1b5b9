//! A client of HTTP/1.1 for many connections on one thread, in clear or over TLS, without any second try; and memory of a process, which
//! is what many connections are about.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Longest head of an answer that is read.
const HEAD_BYTES_MAX: usize = 8 << 10;

/// What a connection is made of.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// An answer.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// Whether the connection may be used again.
    pub stays: bool,
    /// The head, as it came.
    pub head: String,
    /// All of the body.
    pub body: Vec<u8>,
}

/// Who speaks TLS, and whom it trusts.
#[derive(Clone)]
pub struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl Tls {
    /// Trusts the authorities of `pem`, and wants to talk to `name`.
    ///
    /// # Panics
    /// When there is no authority in it, or the name is none.
    pub fn new(pem: &str, name: &str) -> Self {
        use tokio_rustls::rustls::pki_types::CertificateDer;
        use tokio_rustls::rustls::pki_types::pem::PemObject;
        let mut roots = RootCertStore::empty();
        for authority in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            roots.add(authority.expect("PEM")).expect("an authority");
        }
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        Self { connector: TlsConnector::from(Arc::new(config)), name }
    }
}

/// Connects from an address of this host within `patience`.
pub async fn connect_from(from: IpAddr, to: SocketAddr, patience: Duration) -> io::Result<Box<dyn Stream>> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind((from, 0).into())?;
    let stream = tokio::time::timeout(patience, socket.connect(to)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    stream.set_nodelay(true)?;
    Ok(Box::new(stream))
}

/// Connects within `patience`, and shakes hands if there is a `tls`.
pub async fn connect(to: SocketAddr, tls: Option<&Tls>, patience: Duration) -> io::Result<Box<dyn Stream>> {
    let connecting = async {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        Ok(match tls {
            None => Box::new(stream) as Box<dyn Stream>,
            Some(tls) => Box::new(tls.connector.connect(tls.name.clone(), stream).await?),
        })
    };
    tokio::time::timeout(patience, connecting).await.map_err(|_| io::ErrorKind::TimedOut)?
}

/// Asks for `path` of `host`; the answer is whole within `patience`.
pub async fn get(stream: &mut dyn Stream, host: &str, path: &str, patience: Duration) -> io::Result<Answer> {
    let asking = async {
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes()).await?;
        read(stream).await
    };
    tokio::time::timeout(patience, asking).await.map_err(|_| io::ErrorKind::TimedOut)?
}

/// Reads an answer whose length is said. An end before its first byte is [`io::ErrorKind::ConnectionAborted`]; whatever ends it behind
/// that is [`io::ErrorKind::UnexpectedEof`].
pub async fn read(stream: &mut dyn Stream) -> io::Result<Answer> {
    let (mut bytes, mut room) = (Vec::new(), [0; 1024]);
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        let length = match stream.read(&mut room).await {
            Err(_) if !bytes.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => read?,
        };
        match length {
            0 if bytes.is_empty() => return Err(io::ErrorKind::ConnectionAborted.into()),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ if bytes.len() > HEAD_BYTES_MAX => return Err(io::ErrorKind::InvalidData.into()),
            _ => bytes.extend_from_slice(&room[..length]),
        }
    };
    let mut body = bytes.split_off(end);
    let head = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    let value = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let stays = value("connection") != Some("close");
    if status != 101 {
        let length: usize = value("content-length").and_then(|it| it.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
        while body.len() < length {
            match stream.read(&mut room).await {
                Ok(0) | Err(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => body.extend_from_slice(&room[..length]),
            }
        }
    }
    Ok(Answer { status, stays, head, body })
}

/// What a client says that wants to speak through a WebSocket.
pub fn upgrade(host: &str, path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// A field of `/proc/PID/status`, in KiB.
///
/// # Panics
/// When there is no such process, or no such field.
pub fn memory_kib(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find(|line| line.starts_with(field)).expect("a process has memory");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number of KiB")
}
