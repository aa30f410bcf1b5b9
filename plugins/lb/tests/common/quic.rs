//! A client of HTTP/3: that of the library, and one that writes its frames by hand.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::{Buf, Bytes};
use h3::error::{ConnectionError, StreamError};
use http::{HeaderMap, Request, StatusCode, Version};
use quinn::crypto::rustls::{HandshakeData, QuicClientConfig};
use quinn::{Endpoint, VarInt};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use super::authority::Authority;
use super::{Bed, within};

/// An answer, whole.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailer: Option<HeaderMap>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// A connection of QUIC to the load balancer.
pub async fn dial(bed: &Bed, authority: &Authority, name: &str) -> Result<(Endpoint, quinn::Connection), String> {
    dial_at(bed.https, authority, name).await
}

/// Begins so many connections at once.
pub fn begin(addr: SocketAddr, authority: &Authority, times: usize) -> (Endpoint, Vec<quinn::Connecting>) {
    begin_with(addr, authority.client_config(&["h3"]), times)
}

fn begin_with(addr: SocketAddr, tls: rustls::ClientConfig, times: usize) -> (Endpoint, Vec<quinn::Connecting>) {
    let tls = QuicClientConfig::try_from(tls).unwrap();
    let mut endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(tls)));
    let begun = (0..times).map(|_| endpoint.connect(addr, "shop.example").unwrap()).collect();
    (endpoint, begun)
}

/// The same to where something stands between.
pub async fn dial_at(
    addr: SocketAddr,
    authority: &Authority,
    name: &str,
) -> Result<(Endpoint, quinn::Connection), String> {
    let (endpoint, _) = begin(addr, authority, 0);
    let connecting = endpoint.connect(addr, name).map_err(|error| error.to_string())?;
    let quic = within(connecting).await.map_err(|error| error.to_string())?;
    let said = quic.handshake_data().unwrap().downcast::<HandshakeData>().unwrap();
    assert_eq!(said.protocol.as_deref(), Some(&b"h3"[..]));
    Ok((endpoint, quic))
}

/// The client of the library.
#[derive(Clone)]
pub struct Client {
    pub endpoint: Endpoint,
    pub quic: quinn::Connection,
    requests: h3::client::SendRequest<h3_quinn::OpenStreams, Bytes>,
    driver: Arc<JoinHandle<ConnectionError>>,
}

impl Client {
    pub async fn connect(bed: &Bed, authority: &Authority) -> Self {
        Self::named(bed, authority, "shop.example").await.unwrap()
    }

    /// One that wants to talk to `name`.
    pub async fn named(bed: &Bed, authority: &Authority, name: &str) -> Result<Self, String> {
        let (endpoint, quic) = dial(bed, authority, name).await?;
        Self::over(endpoint, quic).await
    }

    /// One that begins like that.
    pub async fn with(bed: &Bed, tls: rustls::ClientConfig, name: &str) -> Result<Self, String> {
        let (endpoint, _) = begin_with(bed.https, tls, 0);
        let connecting = endpoint.connect(bed.https, name).map_err(|error| error.to_string())?;
        let quic = within(connecting).await.map_err(|error| error.to_string())?;
        Self::over(endpoint, quic).await
    }

    async fn over(endpoint: Endpoint, quic: quinn::Connection) -> Result<Self, String> {
        let over = h3_quinn::Connection::new(quic.clone());
        let (mut connection, requests) = within(h3::client::new(over)).await.map_err(|error| error.to_string())?;
        let driver = tokio::spawn(async move { std::future::poll_fn(|cx| connection.poll_close(cx)).await });
        Ok(Self { endpoint, quic, requests, driver: Arc::new(driver) })
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.try_ask(request("GET", path), &[], None).await.unwrap()
    }

    pub async fn ask(&self, request: Request<()>, pieces: &[&str]) -> Answer {
        let pieces: Vec<Bytes> = pieces.iter().map(|piece| Bytes::copy_from_slice(piece.as_bytes())).collect();
        self.try_ask(request, &pieces, None).await.unwrap()
    }

    /// Sends a body and reads the answer at the same time.
    pub async fn try_ask(
        &self,
        request: Request<()>,
        pieces: &[Bytes],
        trailer: Option<HeaderMap>,
    ) -> Result<Answer, StreamError> {
        let stream = within(self.requests.clone().send_request(request)).await?;
        let (mut send, mut receive) = stream.split();
        let writing = async {
            for piece in pieces {
                // Who does not want to hear the rest answers all the same.
                if send.send_data(piece.clone()).await.is_err() {
                    return;
                }
            }
            if let Some(trailer) = trailer {
                let _ = send.send_trailers(trailer).await;
            }
            let _ = send.finish().await;
        };
        let reading = async {
            let (head, ()) = receive.recv_response().await?.into_parts();
            assert_eq!(head.version, Version::HTTP_3);
            let mut body = Vec::new();
            while let Some(mut piece) = receive.recv_data().await? {
                body.extend_from_slice(&piece.copy_to_bytes(piece.remaining()));
            }
            let trailer = receive.recv_trailers().await?;
            Ok(Answer { status: head.status, headers: head.headers, body, trailer })
        };
        within(async { tokio::join!(writing, reading).1 }).await
    }

    /// Why the connection ended, once it has.
    pub async fn ended(self) -> String {
        // Without it the client would end the connection by itself.
        let Self { driver, requests: _requests, .. } = self;
        within(async {
            while !driver.is_finished() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        within(Arc::into_inner(driver).expect("nobody else waits")).await.unwrap().to_string()
    }
}

pub fn request(method: &str, path: &str) -> Request<()> {
    Request::builder().method(method).uri(format!("https://shop.example{path}")).body(()).unwrap()
}

/// A client that writes frames by hand.
pub struct Bare {
    _endpoint: Endpoint,
    pub quic: quinn::Connection,
    _control: quinn::SendStream,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// With these bytes.
    Answered(Vec<u8>),
    /// With this code.
    Reset(u64),
    /// With its connection, for that reason.
    Closed(u64),
}

impl Bare {
    /// One that says how it is set, and nothing else.
    pub async fn connect(bed: &Bed, authority: &Authority) -> Self {
        let (endpoint, quic) = dial(bed, authority, "shop.example").await.unwrap();
        Self::over(endpoint, quic).await
    }

    /// The same over a connection that is there.
    pub async fn over(endpoint: Endpoint, quic: quinn::Connection) -> Self {
        let mut control = quic.open_uni().await.unwrap();
        control.write_all(&[0, 4, 0]).await.unwrap();
        Self { _endpoint: endpoint, quic, _control: control }
    }

    /// Sends these bytes as a request, and its end.
    pub async fn ask(&self, bytes: &[u8]) -> End {
        let (mut send, receive) = within(self.quic.open_bi()).await.unwrap();
        // Who refuses it may not wait for the rest.
        let _ = within(send.write_all(bytes)).await;
        let _ = send.finish();
        end(receive).await
    }

    /// With which code the connection is closed.
    pub async fn closed(&self) -> u64 {
        code(within(self.quic.closed()).await)
    }
}

/// Reads a stream to its end.
pub async fn end(mut receive: quinn::RecvStream) -> End {
    match within(receive.read_to_end(1 << 24)).await {
        Ok(bytes) => End::Answered(bytes),
        Err(quinn::ReadToEndError::Read(quinn::ReadError::Reset(code))) => End::Reset(code.into_inner()),
        Err(quinn::ReadToEndError::Read(quinn::ReadError::ConnectionLost(error))) => End::Closed(code(error)),
        Err(other) => panic!("{other}"),
    }
}

fn code(error: quinn::ConnectionError) -> u64 {
    match error {
        quinn::ConnectionError::ApplicationClosed(close) => close.error_code.into_inner(),
        other => panic!("{other}"),
    }
}

/// A frame.
pub fn frame(kind: u8, content: &[u8]) -> Vec<u8> {
    assert!(kind < 64 && content.len() < 1 << 14);
    let length = 0x4000 | content.len() as u16;
    [&[kind][..], &length.to_be_bytes(), content].concat()
}

/// A head or what comes behind a body: all names and values are spelled out.
pub fn fields(lines: &[(&str, &str)]) -> Vec<u8> {
    let mut section = vec![0, 0];
    for (name, value) in lines {
        put(&mut section, 0x20, 3, name);
        put(&mut section, 0, 7, value);
    }
    frame(1, &section)
}

/// A text behind its length, of which the first byte has so many bits (RFC 7541, section 5.1).
fn put(into: &mut Vec<u8>, first: u8, bits: u32, text: &str) {
    let most = (1 << bits) - 1;
    if text.len() < most {
        into.push(first | text.len() as u8);
    } else {
        into.push(first | most as u8);
        let mut rest = text.len() - most;
        while rest >= 128 {
            into.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        into.push(rest as u8);
    }
    into.extend_from_slice(text.as_bytes());
}

/// Resets both sides of a request as a client that has seen enough.
pub fn give_up(mut send: quinn::SendStream, mut receive: quinn::RecvStream) {
    let cancelled = VarInt::from_u32(0x10c);
    let _ = (send.reset(cancelled), receive.stop(cancelled));
}

/// What lies between a client and the load balancer, and can be cut.
pub struct Cable {
    pub addr: SocketAddr,
    is_cut: Arc<AtomicBool>,
    is_deaf: Arc<AtomicBool>,
    /// Datagrams that went through it towards the load balancer.
    pub passed: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Cable {
    pub async fn to(addr: SocketAddr) -> Self {
        let (near, far) =
            (UdpSocket::bind("127.0.0.1:0").await.unwrap(), UdpSocket::bind("127.0.0.1:0").await.unwrap());
        far.connect(addr).await.unwrap();
        let (addr, is_cut) = (near.local_addr().unwrap(), Arc::<AtomicBool>::default());
        let is_deaf = Arc::<AtomicBool>::default();
        let passed = Arc::<AtomicUsize>::default();
        let (cut, deaf, count) = (is_cut.clone(), is_deaf.clone(), passed.clone());
        let task = tokio::spawn(async move {
            let (mut asked, mut answered) = (vec![0; 1 << 16], vec![0; 1 << 16]);
            let mut client = None;
            loop {
                // Whoever is not there says so by an error.
                tokio::select! {
                    came = near.recv_from(&mut asked) => if let Ok((length, from)) = came {
                        client = Some(from);
                        if !cut.load(Ordering::SeqCst) {
                            let _ = far.send(&asked[..length]).await;
                            count.fetch_add(1, Ordering::SeqCst);
                        }
                    },
                    came = far.recv(&mut answered) => if let (Ok(length), Some(client)) = (came, client)
                        && !cut.load(Ordering::SeqCst)
                        && !deaf.load(Ordering::SeqCst)
                    {
                        let _ = near.send_to(&answered[..length], client).await;
                    },
                }
            }
        });
        Self { addr, is_cut, is_deaf, passed, task }
    }

    pub fn set_cut(&self, cut: bool) {
        self.is_cut.store(cut, Ordering::SeqCst);
    }
}

impl Cable {
    /// Nothing comes back through it.
    pub fn set_deaf(&self, deaf: bool) {
        self.is_deaf.store(deaf, Ordering::SeqCst);
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.task.abort();
    }
}
