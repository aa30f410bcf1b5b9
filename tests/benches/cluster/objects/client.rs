//! A client that costs little, so that what is measured is the other side.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::signed::Signer;

/// The bucket of all benches.
pub const BUCKET: &str = "bench";
/// Keys that a list gives in one page.
pub const PAGE: u64 = 1000;
const ANSWERS_WITHIN: Duration = Duration::from_secs(60);
const BUFFER: usize = 256 << 10;

/// A connection that is kept.
pub struct Connection {
    addr: SocketAddr,
    stream: BufReader<TcpStream>,
    buffer: Vec<u8>,
}

/// What came back, with success.
pub struct Answer {
    pub etag: String,
    pub length: u64,
    /// What was asked to be kept of it.
    pub body: Vec<u8>,
}

impl Connection {
    pub fn new(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWERS_WITHIN))?;
        Ok(Self { addr, stream: BufReader::with_capacity(BUFFER, stream), buffer: vec![0; BUFFER] })
    }

    /// The length of the answer's body, which is thrown away.
    pub fn ask(&mut self, signer: &Signer, method: &str, key: &str, body: &[u8]) -> io::Result<u64> {
        let at = signer.presigned(method, self.addr, &format!("/{BUCKET}/{key}"), &[]);
        Ok(self.exchange(method, &at, body, false)?.length)
    }

    /// The same with a query, of which nothing is to be escaped; the body is kept.
    pub fn whole(
        &mut self,
        signer: &Signer,
        method: &str,
        key: &str,
        query: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Answer> {
        let at = signer.presigned(method, self.addr, &format!("/{BUCKET}/{key}"), query);
        self.exchange(method, &at, body, true)
    }

    /// A page of the bucket's keys.
    pub fn list(&mut self, signer: &Signer, query: &[(&str, &str)]) -> io::Result<String> {
        let page = PAGE.to_string();
        let query = [&[("list-type", "2"), ("max-keys", page.as_str())], query].concat();
        let at = signer.presigned("GET", self.addr, &format!("/{BUCKET}"), &query);
        String::from_utf8(self.exchange("GET", &at, &[], true)?.body).map_err(io::Error::other)
    }

    fn exchange(&mut self, method: &str, at: &str, body: &[u8], keep: bool) -> io::Result<Answer> {
        let head = format!("{method} {at} HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\n\r\n", self.addr, body.len());
        let mut out = self.stream.get_ref();
        // Small ones in one piece, as clients send them.
        if body.len() <= BUFFER {
            out.write_all(&[head.as_bytes(), body].concat())?;
        } else {
            out.write_all(head.as_bytes())?;
            out.write_all(body)?;
        }
        let status = self.line()?;
        let (mut left, mut etag) = (None, String::new());
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').unwrap_or_default();
            if name.eq_ignore_ascii_case("content-length") {
                left = value.trim().parse::<u64>().ok();
            } else if name.eq_ignore_ascii_case("etag") {
                value.trim().clone_into(&mut etag);
            }
        }
        let mut kept = Vec::new();
        let length = match left {
            Some(length) => self.copy(length, keep, &mut kept).map(|()| length)?,
            None => self.chunked(keep, &mut kept)?,
        };
        if !status.contains(" 200") {
            return Err(io::Error::other(format!("{method} {at}: {status} {}", String::from_utf8_lossy(&kept))));
        }
        Ok(Answer { etag, length, body: kept })
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.stream.read_line(&mut line)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }

    fn copy(&mut self, mut left: u64, keep: bool, kept: &mut Vec<u8>) -> io::Result<()> {
        while left > 0 {
            let most = (self.buffer.len() as u64).min(left) as usize;
            let read = self.stream.read(&mut self.buffer[..most])?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if keep {
                kept.extend_from_slice(&self.buffer[..read]);
            }
            left -= read as u64;
        }
        Ok(())
    }

    /// A body of which nobody knew the length.
    fn chunked(&mut self, keep: bool, kept: &mut Vec<u8>) -> io::Result<u64> {
        let mut whole = 0;
        loop {
            let size = u64::from_str_radix(&self.line()?, 16).map_err(io::Error::other)?;
            self.copy(size, keep, kept)?;
            self.line()?;
            whole += size;
            if size == 0 {
                return Ok(whole);
            }
        }
    }
}
