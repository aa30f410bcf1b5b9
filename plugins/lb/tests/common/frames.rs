//! HTTP/2 in clear: an instance that speaks it, a client, and both as bare frames.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::{Buf, Bytes};
use futures::future::BoxFuture;
use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::request::Parts;
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::within;

/// What an instance does with a request.
pub type Deed = Arc<dyn Fn(Request<RecvStream>, SendResponse<Bytes>) -> BoxFuture<'static, ()> + Send + Sync>;

/// An instance that speaks HTTP/2 in clear.
pub struct Peer {
    pub addr: SocketAddr,
    /// Heads of the requests so far.
    pub seen: Arc<Mutex<Vec<Parts>>>,
    pub connections: Arc<AtomicUsize>,
    /// Connections that are open now.
    pub open: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Peer {
    /// One that answers each request with `ok NAME`.
    pub async fn named(name: &'static str) -> Self {
        Self::new(100, move |_, respond| Box::pin(async move { say(respond, 200, name) })).await
    }

    /// One that takes so many requests at once on a connection, and does `deed` with each.
    pub async fn new(
        streams: u32,
        deed: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> BoxFuture<'static, ()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let deed: Deed = Arc::new(deed);
        let seen = Arc::<Mutex<Vec<Parts>>>::default();
        let (connections, open) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let task = {
            let (seen, connections, open) = (seen.clone(), connections.clone(), open.clone());
            tokio::spawn(async move {
                let mut sessions = JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    connections.fetch_add(1, Ordering::SeqCst);
                    let (seen, deed, open) = (seen.clone(), deed.clone(), Open::new(&open));
                    sessions.spawn(async move {
                        let _open = open;
                        session(stream, streams, seen, deed).await;
                    });
                }
            })
        };
        Self { addr, seen, connections, open, task }
    }

    pub fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// Ends the program, its listener and its connections.
    pub fn kill(&self) {
        self.task.abort();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Open(Arc<AtomicUsize>);

impl Open {
    fn new(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::SeqCst);
        Self(open.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn session(stream: TcpStream, streams: u32, seen: Arc<Mutex<Vec<Parts>>>, deed: Deed) {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(streams);
    let Ok(mut connection) = builder.handshake(stream).await else { return };
    let mut requests = JoinSet::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        let (head, body) = request.into_parts();
        seen.lock().unwrap().push(head.clone());
        requests.spawn(deed(Request::from_parts(head, body), respond));
    }
}

/// Answers with a body at hand.
pub fn say(mut respond: SendResponse<Bytes>, status: u16, body: &'static str) {
    let answer = Response::builder().status(status).body(()).unwrap();
    let mut stream = respond.send_response(answer, body.is_empty()).unwrap();
    if !body.is_empty() {
        stream.send_data(Bytes::from_static(body.as_bytes()), true).unwrap();
    }
}

/// All of a body, and what comes behind it.
pub async fn whole(mut body: RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut bytes = Vec::new();
    while let Some(piece) = within(body.data()).await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        bytes.extend_from_slice(&piece);
    }
    Ok((bytes, within(body.trailers()).await?))
}

/// A client of HTTP/2 in clear.
#[derive(Clone)]
pub struct Client2(SendRequest<Bytes>);

impl Client2 {
    pub async fn connect(addr: SocketAddr) -> Self {
        let stream = within(TcpStream::connect(addr)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut builder = h2::client::Builder::new();
        // Streams hold each other up by their own windows alone.
        builder.initial_connection_window_size(16 * 1024 * 1024);
        let (sender, connection) = within(builder.handshake(stream)).await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    pub async fn begin(
        &self,
        request: Request<()>,
        ends: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        within(self.0.clone().ready()).await?.send_request(request, ends)
    }

    /// Whether the other side takes requests to be connected to something else.
    pub fn may_connect(&self) -> bool {
        self.0.is_extended_connect_protocol_enabled()
    }

    /// A request with a body at hand, and its answer.
    pub async fn ask(&self, request: Request<()>, body: &'static str) -> Result<Answer2, h2::Error> {
        let (answer, mut stream) = self.begin(request, body.is_empty()).await?;
        if !body.is_empty() {
            stream.send_data(body.into(), true)?;
        }
        let (head, body) = within(answer).await?.into_parts();
        let (body, trailer) = whole(body).await?;
        Ok(Answer2 { head, body: String::from_utf8(body).unwrap(), trailer: trailer.unwrap_or_default() })
    }

    pub async fn get(&self, path: &str) -> Result<Answer2, h2::Error> {
        self.ask(request("GET", path), "").await
    }
}

pub struct Answer2 {
    pub head: http::response::Parts,
    pub body: String,
    pub trailer: HeaderMap,
}

pub fn request(method: &str, path: &str) -> Request<()> {
    Request::builder().method(method).uri(format!("http://shop.example{path}")).body(()).unwrap()
}

/// What both ends begin with, in bare frames.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const ACK: u8 = 1;

/// One frame.
#[derive(Clone, Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// The last stream that was taken, and why.
pub fn goaway(last: u32, reason: u32) -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[last.to_be_bytes(), reason.to_be_bytes()].concat())
}

/// Status 200, and a body.
pub fn ok(stream: u32, body: &str) -> Vec<u8> {
    [frame(HEADERS, END_HEADERS, stream, &[0x88]), frame(DATA, END_STREAM, stream, body.as_bytes())].concat()
}

/// Fields as HPACK has them that nobody indexes.
pub fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            assert!(text.len() < 127);
            out.push(text.len() as u8);
            out.extend_from_slice(text.as_bytes());
        }
    }
    out
}

/// The next frame; none when the connection ends.
pub async fn read_frame(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Option<Frame> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.ok()?;
    let mut rest = &head[..];
    let length = (usize::from(rest.get_u8()) << 16) | usize::from(rest.get_u16());
    let (kind, flags, number) = (rest.get_u8(), rest.get_u8(), rest.get_u32());
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await.ok()?;
    Some(Frame { kind, flags, stream: number, payload })
}

/// An instance in bare frames: `deed` is told how many connections came before and a frame, and says what is written.
pub async fn bare(deed: impl Fn(usize, &Frame) -> Vec<u8> + Send + Sync + 'static) -> (SocketAddr, impl Drop) {
    struct Stop(tokio::task::JoinHandle<()>);
    impl Drop for Stop {
        fn drop(&mut self) {
            self.0.abort();
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let deed = Arc::new(deed);
    let task = tokio::spawn(async move {
        let mut sessions = JoinSet::new();
        for number in 0.. {
            let Ok((mut stream, _)) = listener.accept().await else { return };
            let deed = deed.clone();
            sessions.spawn(async move {
                let mut preface = [0; PREFACE.len()];
                stream.read_exact(&mut preface).await.ok()?;
                stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.ok()?;
                while let Some(came) = read_frame(&mut stream).await {
                    let mut out = deed(number, &came);
                    if came.kind == SETTINGS && came.flags & ACK == 0 {
                        out = [frame(SETTINGS, ACK, 0, &[]), out].concat();
                    }
                    stream.write_all(&out).await.ok()?;
                }
                Some(())
            });
        }
    });
    (addr, Stop(task))
}
