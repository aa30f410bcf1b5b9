//! A plain HTTP/1.1 client: small, blocking, and without any second try, so that every failure is seen.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longest answer that is read.
const BODY_BYTES_MAX: u64 = 16 << 20;

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// Whole.
    pub body: Vec<u8>,
}

impl Answer {
    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A connection that is kept open.
pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    /// Connects; each step of a request may take `patience`.
    pub fn open(addr: SocketAddr, patience: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&addr, patience)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Asks. The answer's second part says whether the connection may be used again.
    pub fn ask(&mut self, method: &str, host: &str, path: &str, body: &[u8]) -> io::Result<(Answer, bool)> {
        let mut request = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n");
        if !body.is_empty() || ["POST", "PUT"].contains(&method) {
            request.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        request.push_str("\r\n");
        let mut bytes = request.into_bytes();
        bytes.extend_from_slice(body);
        self.stream.get_mut().write_all(&bytes)?;
        let answer = self.read(method)?;
        let kept = !answer.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        Ok((answer, kept))
    }

    fn read(&mut self, method: &str) -> io::Result<Answer> {
        let first = self.line()?;
        let status = first.split(' ').nth(1).and_then(|word| word.parse().ok());
        let status =
            status.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("no answer: {first:?}")))?;
        let mut answer = Answer { status, headers: Vec::new(), body: Vec::new() };
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':') {
                answer.headers.push((name.to_ascii_lowercase(), value.trim().into()));
            }
        }
        if method == "HEAD" || matches!(status, 204 | 304) {
            return Ok(answer);
        }
        if answer.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            answer.body = self.chunks()?;
        } else if let Some(length) = answer.header("content-length") {
            let length: u64 = length.parse().map_err(|_| io::ErrorKind::InvalidData)?;
            answer.body = self.exactly(length)?;
        } else {
            self.stream.by_ref().take(BODY_BYTES_MAX).read_to_end(&mut answer.body)?;
        }
        Ok(answer)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.by_ref().take(64 << 10).read_line(&mut line)? == 0 || !line.ends_with('\n') {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().into())
    }

    fn exactly(&mut self, length: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length.min(BODY_BYTES_MAX) as usize];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.line()?;
            let length = u64::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16);
            let length = length.map_err(|_| io::ErrorKind::InvalidData)?;
            body.extend(self.exactly(length)?);
            self.line()?;
            if length == 0 {
                return Ok(body);
            }
        }
    }
}

/// One request on a connection of its own.
pub fn get(addr: SocketAddr, host: &str, path: &str) -> io::Result<Answer> {
    let mut connection = Connection::open(addr, Duration::from_secs(5))?;
    connection.ask("GET", host, path, b"").map(|(answer, _)| answer)
}
