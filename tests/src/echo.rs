//! A program outside the cluster, in the process of the test: it answers, takes bodies of any length and forgets them, and speaks through
//! WebSockets, where it sends back what comes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Read at once; kept small where nothing but a short message is awaited.
const UPLOAD_READ_BYTES: u64 = 256 << 10;

/// What it saw.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Bytes of bodies that came so far.
    pub uploaded: Arc<AtomicU64>,
    /// Requests whose path says that they were smuggled in.
    pub smuggled: Arc<AtomicU64>,
    /// WebSockets that were opened.
    pub sockets: Arc<AtomicU64>,
}

/// Serves at `addr` for as long as the runtime lives; says where.
///
/// # Panics
/// When nobody can listen there.
pub async fn serve(addr: SocketAddr, seen: Seen) -> SocketAddr {
    let listener = TcpListener::bind(addr).await.expect("an address to listen at");
    let addr = listener.local_addr().expect("it has one");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // Whoever goes away has nothing more to say.
            let seen = seen.clone();
            tokio::spawn(async move { drop(converse(stream, seen).await) });
        }
    });
    addr
}

/// A connection, and what was read of it and not yet looked at.
struct Talk {
    stream: TcpStream,
    bytes: Vec<u8>,
}

impl Talk {
    async fn more(&mut self) -> io::Result<()> {
        let mut room = [0; 2048];
        match self.stream.read(&mut room).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            length => {
                self.bytes.extend_from_slice(&room[..length]);
                Ok(())
            }
        }
    }

    /// All up to `end`, which is taken too.
    async fn up_to(&mut self, end: &[u8]) -> io::Result<String> {
        loop {
            if let Some(at) = self.bytes.windows(end.len()).position(|window| window == end) {
                let taken: Vec<u8> = self.bytes.drain(..at + end.len()).collect();
                return Ok(String::from_utf8_lossy(&taken[..at]).into_owned());
            }
            self.more().await?;
        }
    }

    /// Reads so many bytes, and forgets them.
    async fn forget(&mut self, length: u64, seen: &Seen) -> io::Result<()> {
        let begun = (self.bytes.len() as u64).min(length);
        self.bytes.drain(..begun as usize);
        seen.uploaded.fetch_add(begun, Ordering::Relaxed);
        let mut left = length - begun;
        let mut room = vec![0; left.min(UPLOAD_READ_BYTES) as usize];
        while left > 0 {
            let most = left.min(UPLOAD_READ_BYTES) as usize;
            match self.stream.read(&mut room[..most]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                length => {
                    left -= length as u64;
                    seen.uploaded.fetch_add(length as u64, Ordering::Relaxed);
                }
            }
        }
        Ok(())
    }

    async fn forget_chunks(&mut self, seen: &Seen) -> io::Result<()> {
        loop {
            let line = self.up_to(b"\r\n").await?;
            let length = u64::from_str_radix(&line, 16).map_err(|_| io::ErrorKind::InvalidData)?;
            if length == 0 {
                // Up to the empty line behind what comes behind the body.
                while !self.up_to(b"\r\n").await?.is_empty() {}
                return Ok(());
            }
            self.forget(length + 2, seen).await?;
        }
    }

    async fn send_back(&mut self) -> io::Result<()> {
        let begun = std::mem::take(&mut self.bytes);
        self.stream.write_all(&begun).await?;
        let mut room = [0; 256];
        loop {
            match self.stream.read(&mut room).await? {
                0 => return Ok(()),
                length => self.stream.write_all(&room[..length]).await?,
            }
        }
    }
}

async fn converse(stream: TcpStream, seen: Seen) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut talk = Talk { stream, bytes: Vec::new() };
    loop {
        let head = talk.up_to(b"\r\n\r\n").await?.to_ascii_lowercase();
        if head.split(' ').nth(1).is_some_and(|path| path.contains("smuggled")) {
            seen.smuggled.fetch_add(1, Ordering::Relaxed);
        }
        let value =
            |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
        if value("upgrade") == Some("websocket") {
            seen.sockets.fetch_add(1, Ordering::Relaxed);
            let agreed = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                          sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
            talk.stream.write_all(agreed.as_bytes()).await?;
            return talk.send_back().await;
        }
        match value("content-length").and_then(|length| length.parse().ok()) {
            Some(length) => talk.forget(length, &seen).await?,
            None if value("transfer-encoding").is_some() => talk.forget_chunks(&seen).await?,
            None => {}
        }
        talk.stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nwell").await?;
    }
}
