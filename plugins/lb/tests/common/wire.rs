//! HTTP/1.1 as bytes, with nothing hidden.

use std::net::SocketAddr;

use tokio::net::TcpStream;

use super::{read_more, within, write};

/// A head, its body decoded, and how it was framed.
#[derive(Clone, Debug, Default)]
pub struct Message {
    pub start: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Lines behind a body in chunks.
    pub trailer: Vec<String>,
}

impl Message {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
    pub fn method(&self) -> &str {
        self.start.split(' ').next().unwrap()
    }
    pub fn path(&self) -> &str {
        self.start.split(' ').nth(1).unwrap()
    }
}

pub type Answer = Message;

impl Message {
    pub fn status(&self) -> u16 {
        self.start.split(' ').nth(1).unwrap_or_else(|| panic!("no answer: {:?}", self.start)).parse().unwrap()
    }
}

/// The client's end of a connection.
pub struct Client {
    pub stream: TcpStream,
    buffer: Vec<u8>,
    head_only: bool,
}

impl Client {
    pub async fn connect(addr: SocketAddr) -> Self {
        let stream = within(TcpStream::connect(addr)).await.expect("the load balancer listens");
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new(), head_only: false }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.head_only = bytes.as_ref().starts_with(b"HEAD ");
        let _ = within(write(&mut self.stream, bytes.as_ref())).await;
    }

    /// The next answer; an empty one when the connection ended without one.
    pub async fn answer(&mut self) -> Answer {
        self.try_answer().await.unwrap_or_default()
    }

    /// The next answer whole, or none when the connection ended before.
    pub async fn try_answer(&mut self) -> Option<Answer> {
        within(read_message(&mut self.stream, &mut self.buffer, self.head_only)).await
    }

    /// Whether the other side closes without another byte.
    pub async fn is_closed(&mut self) -> bool {
        self.buffer.is_empty() && within(read_more(&mut self.stream, &mut self.buffer)).await.unwrap_or(0) == 0
    }
}

/// Reads one message. None when the stream ends before it is whole.
pub async fn read_message(stream: &mut TcpStream, buffer: &mut Vec<u8>, head_only: bool) -> Option<Message> {
    let head_end = loop {
        if let Some(at) = find(buffer, b"\r\n\r\n") {
            break at + 4;
        }
        if read_more(stream, buffer).await.unwrap_or(0) == 0 {
            return None;
        }
    };
    let head: Vec<u8> = buffer.drain(..head_end).collect();
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.trim_end().split("\r\n");
    let mut message = Message { start: lines.next().unwrap().to_owned(), ..Message::default() };
    message.headers =
        lines.filter_map(|l| l.split_once(':')).map(|(n, v)| (n.to_owned(), v.trim().to_owned())).collect();
    let is_answer = message.start.starts_with("HTTP/");
    let bodyless = head_only || is_answer && matches!(message.status(), 100..=199 | 204 | 304);
    if bodyless {
        return Some(message);
    }
    if message.header("transfer-encoding").is_some_and(|te| te.ends_with("chunked")) {
        (message.body, message.trailer) = read_chunked(stream, buffer).await?;
    } else if let Some(length) = message.header("content-length").map(|l| l.parse::<usize>().unwrap()) {
        fill(stream, buffer, length).await?;
        message.body = buffer.drain(..length).collect();
    } else if is_answer {
        while read_more(stream, buffer).await.ok()? > 0 {}
        message.body = std::mem::take(buffer);
    }
    Some(message)
}

async fn read_chunked(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<(Vec<u8>, Vec<String>)> {
    let mut body = Vec::new();
    loop {
        let size = usize::from_str_radix(&read_line(stream, buffer).await?, 16).unwrap();
        if size == 0 {
            break;
        }
        fill(stream, buffer, size + 2).await?;
        body.extend(buffer.drain(..size));
        buffer.drain(..2);
    }
    let mut trailer = Vec::new();
    loop {
        match read_line(stream, buffer).await? {
            line if line.is_empty() => return Some((body, trailer)),
            line => trailer.push(line),
        }
    }
}

async fn read_line(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<String> {
    let end = loop {
        match find(buffer, b"\r\n") {
            Some(at) => break at,
            None => fill(stream, buffer, buffer.len() + 1).await?,
        }
    };
    let line: Vec<u8> = buffer.drain(..end + 2).collect();
    Some(std::str::from_utf8(&line[..end]).unwrap().to_owned())
}

async fn fill(stream: &mut TcpStream, buffer: &mut Vec<u8>, length: usize) -> Option<()> {
    while buffer.len() < length {
        if read_more(stream, buffer).await.ok()? == 0 {
            return None;
        }
    }
    Some(())
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

impl Client {
    /// The stream with what was read ahead put back; for after an upgrade.
    pub fn into_stream(self) -> impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin {
        let (read, write) = self.stream.into_split();
        tokio::io::join(tokio::io::AsyncReadExt::chain(std::io::Cursor::new(self.buffer), read), write)
    }
}
