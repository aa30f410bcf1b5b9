//! Asks an agent: HTTP over its unix socket, or over TLS with the cluster's authority pinned by the token.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hirsel_mesh::identity::JoinToken;
use hirsel_mesh::seam::{BoxStream, real};
use hirsel_mesh::transport::connect_https;
use http::{Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::api::envelope::Envelope;
use crate::api::error::{ApiError, Code, ErrorBody};
use crate::api::server::short_path;

/// An agent that accepts but says nothing for this long is taken as gone. A change may take an election, and ten seconds more.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// Connecting takes no longer than this.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// A piece of an object is taken or given within this: disks that are busy, or a node that has just died, take seconds.
const PIECE_WITHIN: Duration = Duration::from_secs(60);
/// Largest answer that is read into memory.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Where an agent is, and what to show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// An agent on this host.
    Socket(PathBuf),
    /// An agent anywhere.
    Network {
        /// Its mesh address.
        addr: SocketAddr,
        /// A token for people.
        token: String,
        /// Fingerprint of the authority to believe; the one of the token when none was seen since.
        pin: Option<[u8; 32]>,
    },
}

/// Asks one agent.
#[derive(Clone, Debug)]
pub struct Client {
    target: Target,
    /// What is looked at is known to be fresh.
    fresh: bool,
}

/// An answer, as it came and as it is understood.
pub struct Answer<T> {
    /// The line as it came.
    pub text: String,
    /// The same, understood.
    pub envelope: Envelope<T>,
}

impl Client {
    /// Asks the agent at `target`.
    pub fn new(target: Target) -> Self {
        Self { target, fresh: false }
    }

    /// Asks for answers that reflect every change confirmed before, or for what the agent knows.
    #[must_use]
    pub fn fresh(self, fresh: bool) -> Self {
        Self { fresh, ..self }
    }

    /// Asks, and understands the answer.
    pub async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Answer<T>, ApiError> {
        let asked = async {
            let response = self.send(method, path, body).await?;
            self.understand(response).await
        };
        match timeout(ANSWER_WITHIN, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(self.unreachable(&format!("no answer within {} s", ANSWER_WITHIN.as_secs()))),
        }
    }

    async fn understand<T: DeserializeOwned>(&self, response: Response<Incoming>) -> Result<Answer<T>, ApiError> {
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let bytes = body.map_err(|error| self.broken(&error.to_string()))?.to_bytes();
        if !status.is_success() {
            return Err(told(status, &bytes));
        }
        let envelope = serde_json::from_slice(&bytes).map_err(|error| self.broken(&error.to_string()))?;
        Ok(Answer { text: String::from_utf8_lossy(&bytes).trim_end().to_string(), envelope })
    }

    /// Reads.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Answer<T>, ApiError> {
        self.ask(Method::GET, path, Vec::new()).await
    }

    /// Reads a stream of envelopes for as long as it lasts; `each` says whether to go on.
    pub async fn follow(&self, path: &str, mut each: impl FnMut(&str) -> bool) -> Result<(), ApiError> {
        let response = timeout(ANSWER_WITHIN, self.send(Method::GET, path, Vec::new()));
        let response = response.await.map_err(|_| self.unreachable("no answer"))??;
        let status = response.status();
        let mut body = response.into_body();
        if !status.is_success() {
            let bytes = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
            return Err(told(status, &bytes.map(|bytes| bytes.to_bytes()).unwrap_or_default()));
        }
        let mut rest = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| self.broken(&error.to_string()))?;
            rest.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            if rest.len() > ANSWER_BYTES_MAX {
                return Err(self.broken("a line without end"));
            }
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line[..end]);
                if !line.is_empty() && !each(&line) {
                    return Ok(());
                }
            }
        }
        Err(self.unreachable("the agent ended the stream"))
    }

    /// Asks for bytes, and gives them away as they come.
    pub async fn download(
        &self,
        path: &str,
        body: Vec<u8>,
        mut each: impl FnMut(&[u8]) -> Result<(), ApiError>,
    ) -> Result<(), ApiError> {
        let late = |_| self.unreachable(&format!("nothing came for {} s", ANSWER_WITHIN.as_secs()));
        let response = timeout(ANSWER_WITHIN, self.send(Method::POST, path, body)).await.map_err(late)??;
        let status = response.status();
        let mut body = response.into_body();
        if !status.is_success() {
            let bytes = timeout(ANSWER_WITHIN, Limited::new(body, ANSWER_BYTES_MAX).collect()).await.map_err(late)?;
            return Err(told(status, &bytes.map_err(|error| self.broken(&error.to_string()))?.to_bytes()));
        }
        while let Some(frame) = timeout(ANSWER_WITHIN, body.frame()).await.map_err(late)? {
            let frame = frame.map_err(|error| self.broken(&error.to_string()))?;
            if let Some(data) = frame.data_ref() {
                each(data)?;
            }
        }
        Ok(())
    }

    /// Sends a body as its pieces come, `length` bytes of them where that is known, and understands the answer.
    pub async fn upload<T: DeserializeOwned>(
        &self,
        path: &str,
        content_type: Option<&str>,
        length: Option<u64>,
        pieces: mpsc::Receiver<io::Result<Bytes>>,
    ) -> Result<Answer<T>, ApiError> {
        let pace = Arc::new(Pace::default());
        let next = |(mut pieces, pace): (mpsc::Receiver<io::Result<Bytes>>, Arc<Pace>)| async move {
            pace.waits.store(true, Ordering::Relaxed);
            let piece = pieces.recv().await;
            pace.waits.store(false, Ordering::Relaxed);
            pace.taken.fetch_add(1, Ordering::Relaxed);
            piece.map(|piece| (piece.map(Frame::data), (pieces, pace)))
        };
        let body = StreamBody::new(futures::stream::unfold((pieces, pace.clone()), next)).boxed_unsync();
        let length = length.map(|length| ("content-length", length.to_string()));
        let content_type = content_type.map(|text| ("content-type", text.to_owned()));
        let headers: Vec<_> = length.into_iter().chain(content_type).collect();
        let asked = async {
            let response = self.send_with(Method::PUT, path, &headers, body).await?;
            self.understand(response).await
        };
        let mut asked = std::pin::pin!(asked);
        loop {
            let before = pace.taken.load(Ordering::Relaxed);
            match timeout(PIECE_WITHIN, asked.as_mut()).await {
                Ok(answer) => return answer,
                // Whoever gives the pieces may take his time.
                Err(_) if pace.waits.load(Ordering::Relaxed) || pace.taken.load(Ordering::Relaxed) > before => {}
                Err(_) => {
                    return Err(self.unreachable(&format!("it took nothing for {} s", PIECE_WITHIN.as_secs())));
                }
            }
        }
    }

    /// Asks for bytes, to be taken piece by piece.
    pub async fn fetch(&self, path: &str) -> Result<Coming<'_>, ApiError> {
        let late = |_| self.unreachable(&format!("no answer within {} s", ANSWER_WITHIN.as_secs()));
        let response = timeout(ANSWER_WITHIN, self.send(Method::GET, path, Vec::new())).await.map_err(late)??;
        let status = response.status();
        if !status.is_success() {
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect();
            let bytes = timeout(ANSWER_WITHIN, body).await.map_err(late)?;
            return Err(told(status, &bytes.map_err(|error| self.broken(&error.to_string()))?.to_bytes()));
        }
        let length = response.headers().get("content-length").and_then(|text| text.to_str().ok()?.parse().ok());
        Ok(Coming { client: self, length, body: response.into_body() })
    }

    /// Whether the agent works and answers within `limit`.
    pub async fn answers(&self, limit: Duration) -> bool {
        let asked = timeout(limit, self.send(Method::GET, "/healthz", Vec::new())).await;
        matches!(asked, Ok(Ok(response)) if response.status().is_success())
    }

    async fn send(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Response<Incoming>, ApiError> {
        let body = Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed_unsync();
        self.send_with(method, path, &[], body).await
    }

    async fn send_with(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, String)],
        body: UnsyncBoxBody<Bytes, io::Error>,
    ) -> Result<Response<Incoming>, ApiError> {
        let stream = self.connect().await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.unreachable(&error.to_string()))?;
        tokio::spawn(connection);
        let path = match self.fresh && method == Method::GET {
            true => format!("{path}{}fresh=true", if path.contains('?') { '&' } else { '?' }),
            false => path.to_string(),
        };
        let mut request = Request::builder().method(method).uri(&path).header("host", "hirsel");
        if let Target::Network { token, .. } = &self.target {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request
            .body(body)
            .map_err(|error| ApiError::new(Code::Usage, format!("cannot ask for {path:?}: {error}")))?;
        sender.send_request(request).await.map_err(|error| self.unreachable(&error.to_string()))
    }

    async fn connect(&self) -> Result<BoxStream, ApiError> {
        match &self.target {
            Target::Socket(path) => match timeout(CONNECT_WITHIN, connect_unix(path)).await {
                Ok(Ok(stream)) => Ok(Box::new(stream)),
                Ok(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
                    let message = format!("{} is not yours to open", path.display());
                    Err(ApiError::new(Code::Forbidden, message).next("repeat with sudo"))
                }
                Ok(Err(error)) => Err(self.unreachable(&error.to_string())),
                Err(_) => Err(self.unreachable("it does not accept")),
            },
            Target::Network { addr, token: word, pin } => {
                let token: JoinToken = word.parse().map_err(|error: hirsel_mesh::identity::TokenError| {
                    ApiError::new(Code::Usage, error.to_string())
                })?;
                // A client keeps nothing on disk, and whoever else asks at the same time has a folder too.
                let folder = std::env::temp_dir().join(format!("hirsel-client-{}", std::process::id()));
                let world = real::world(&folder)
                    .map_err(|error| ApiError::new(Code::Failed, format!("cannot reach out: {error}")))?;
                let _ = std::fs::remove_dir_all(&folder);
                let pinned = pin.unwrap_or(token.ca_fingerprint);
                let connected = timeout(CONNECT_WITHIN, connect_https(&world, *addr, pinned)).await;
                let (stream, of) = connected
                    .map_err(|_| self.unreachable("it does not accept"))?
                    .map_err(|error| ApiError::new(Code::Unreachable, error.to_string()))?;
                if let Some(of) = of.filter(|of| *of != pinned) {
                    // The authority was replaced, and the one that was pinned vouches for the new one: from now on only that is believed.
                    super::target::pin(word, of);
                }
                Ok(stream)
            }
        }
    }

    fn place(&self) -> String {
        match &self.target {
            Target::Socket(path) => path.display().to_string(),
            Target::Network { addr, .. } => addr.to_string(),
        }
    }

    fn unreachable(&self, why: &str) -> ApiError {
        let error = ApiError::new(Code::Unreachable, format!("no agent answers at {}: {why}", self.place()));
        match &self.target {
            Target::Socket(_) => error.next("hirsel up (or: hirsel join, hirsel dev)").next("hirsel VERB --node ADDR"),
            Target::Network { .. } => error.next("hirsel VERB --node ANOTHER-ADDR"),
        }
    }

    fn broken(&self, why: &str) -> ApiError {
        ApiError::new(Code::Failed, format!("the answer of {} cannot be understood: {why}", self.place()))
            .next("hirsel --version, here and there")
    }
}

/// Bytes that are on their way from an agent.
pub struct Coming<'a> {
    client: &'a Client,
    /// How many there are, where the agent says so.
    pub length: Option<u64>,
    body: Incoming,
}

impl Coming<'_> {
    /// The next ones; none at the end. What is cut off before it is an error.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        loop {
            let late = |_| self.client.unreachable(&format!("nothing came for {} s", PIECE_WITHIN.as_secs()));
            let frame = timeout(PIECE_WITHIN, self.body.frame()).await.map_err(late)?;
            let cut = |error: hyper::Error| {
                ApiError::new(Code::Failed, format!("what came was cut off: {error}")).next("hirsel roles")
            };
            let Some(frame) = frame.transpose().map_err(cut)? else { return Ok(None) };
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
    }
}

/// How a body is taken on its way out.
#[derive(Default)]
struct Pace {
    /// Pieces so far.
    taken: AtomicU64,
    /// The next one is waited for.
    waits: AtomicBool,
}

async fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    let (_folder, short) = short_path(path)?;
    UnixStream::connect(short).await
}

/// The error that came with `status`.
fn told(status: http::StatusCode, bytes: &[u8]) -> ApiError {
    match serde_json::from_slice::<ErrorBody>(bytes) {
        Ok(body) => body.error,
        Err(_) => {
            let text: String = String::from_utf8_lossy(bytes).chars().take(500).collect();
            ApiError::new(Code::Failed, format!("the agent answered {status}: {}", text.trim()))
        }
    }
}
