//! Connections that are passed on encrypted as they are, to whoever takes those of the name that they are for.
//!
//! A client says that name (SNI) in its first message, which is read, kept and looked into, and nothing else is. The keys are the
//! target's alone: what is said later nobody here can read, nor say who says it.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use prometheus_client::metrics::counter::Counter;
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use crate::client::Client;
use crate::io::Gauged;
use crate::ports::pump::{self, Direction};
use crate::proxy::{CONNECT_WITHIN, Dialled, Proxy};
use crate::table::Table;
use crate::tls::plain_name;
use crate::upstream::Stage;

/// Longest first message that is looked into. One with keys of two kinds, one of them safe from quantum computers, has two kilobytes;
/// one that resumes has some more.
const HELLO_BYTES_MAX: usize = 16 * 1024;

/// What is read at once: mostly all of it.
const READ_BYTES: usize = 2048;

/// The first message of a client, and the connection as if nothing had been read.
pub struct Looked<S> {
    /// The name that it is for, in lower case, without a final dot; none if it says none, or is no message of TLS.
    pub name: Option<String>,
    /// The connection.
    pub stream: Rewound<S>,
}

/// Passes on a connection for `name`, of which the first message was read, until it ends.
///
/// # Errors
/// When nobody takes it, or it breaks.
pub async fn pass(proxy: &Proxy, client: &Arc<Client>, name: &str, stream: Rewound<Gauged>) -> io::Result<()> {
    // The pulse of the target tells when it stands still for too long.
    let _busy = client.begin();
    let is_let_in = {
        let table = proxy.routes.table();
        let acts = table.ways.passes(name).and_then(|route| table.ways.acts(route));
        acts.is_none_or(|acts| acts.admits(client.lines.ip))
    };
    if !is_let_in {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "not let in"));
    }
    let target = |table: &Table, draw| table.origin(table.ways.passes(name)?, || draw).cloned();
    let Some(dialled) = proxy.dial(target, CONNECT_WITHIN, &[]).await else {
        return Err(io::Error::other("nobody takes it"));
    };
    proxy.metrics.passed_through.inc();
    let Dialled { stream: mut target, ticket: _ticket, pulse } = dialled;
    pulse.enter(Stage::Tunnel);
    let (begun, mut stream) = stream.into_parts();
    let (mut up, mut down) =
        (Direction::new(begun, Counter::default()), Direction::new(Vec::new(), Counter::default()));
    poll_fn(|cx| {
        pulse.gauge.driven_by(cx);
        if let Some(failure) = pulse.over() {
            return Poll::Ready(Err(io::Error::other(format!("{failure:?}"))));
        }
        pump::poll(cx, (&mut stream, &mut up), (&mut target, &mut down))
    })
    .await
}

/// Reads the first message. How long that may take is up to the caller.
///
/// # Errors
/// When the connection ends before.
pub async fn look<S: AsyncRead + Unpin>(stream: Rewound<S>) -> io::Result<Looked<S>> {
    let (_nothing, mut stream) = stream.into_parts();
    let mut read = Vec::new();
    let mut acceptor = Acceptor::default();
    let name = loop {
        let known = read.len();
        read.reserve(READ_BYTES);
        if stream.read_buf(&mut read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match feed(&mut acceptor, &read[known..]) {
            Step::Whole(name) => break name,
            Step::More if read.len() < HELLO_BYTES_MAX => {}
            // It is no TLS, or longer than anybody's. Whoever answers the handshake says so.
            Step::More | Step::Wrong => break None,
        }
    };
    Ok(Looked { name, stream: Rewound { read, at: 0, stream } })
}

/// What can be said of a message after some more bytes.
enum Step {
    More,
    /// It is whole, and for this name if it says one.
    Whole(Option<String>),
    /// It is none.
    Wrong,
}

fn feed(acceptor: &mut Acceptor, mut bytes: &[u8]) -> Step {
    while !bytes.is_empty() {
        if !acceptor.read_tls(&mut bytes).is_ok_and(|taken| taken > 0) {
            return Step::Wrong;
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => return Step::Whole(accepted.client_hello().server_name().map(plain_name)),
            Ok(None) => {}
            Err(_) => return Step::Wrong,
        }
    }
    Step::More
}

/// A connection of which something was read that is read again.
pub struct Rewound<S> {
    read: Vec<u8>,
    at: usize,
    stream: S,
}

impl<S> Rewound<S> {
    /// One of which nothing was read yet.
    pub fn new(stream: S) -> Self {
        Self { read: Vec::new(), at: 0, stream }
    }

    /// One of which `read` was read.
    pub fn read_of(stream: S, read: Vec<u8>) -> Self {
        Self { read, at: 0, stream }
    }

    /// What was read, and the connection behind it.
    pub fn into_parts(self) -> (Vec<u8>, S) {
        (self.read, self.stream)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.at < this.read.len() {
            let bytes = &this.read[this.at..];
            let bytes = &bytes[..bytes.len().min(buf.remaining())];
            buf.put_slice(bytes);
            this.at += bytes.len();
            if this.at == this.read.len() {
                (this.read, this.at) = (Vec::new(), 0);
            }
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};
    use rustls_pki_types::ServerName;
    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;

    /// What a client of `name` says first.
    fn hello(name: &str) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut said = Vec::new();
        client.write_tls(&mut said).unwrap();
        said
    }

    /// What is made of `bytes` that come in pieces of `size`, and what can be read then.
    fn looked(bytes: &[u8], size: usize) -> io::Result<(Option<String>, Vec<u8>)> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut client, stream) = duplex(size);
            let bytes = bytes.to_vec();
            let said = tokio::spawn(async move { client.write_all(&bytes).await });
            let mut looked = look(Rewound::new(stream)).await?;
            let mut again = Vec::new();
            looked.stream.read_to_end(&mut again).await?;
            said.await.unwrap()?;
            Ok((looked.name, again))
        })
    }

    #[test]
    fn the_name_is_found_however_the_message_comes_and_nothing_of_it_is_lost() {
        let mut said = hello("Shop.Example.com");
        said.extend(b"what comes behind");
        for size in [1, 7, 300, 100_000] {
            let (name, again) = looked(&said, size).unwrap();
            assert_eq!(name.as_deref(), Some("shop.example.com"), "in pieces of {size}");
            assert!(again == said, "in pieces of {size}");
        }
        let (name, again) = looked(&hello("127.0.0.1"), 300).unwrap();
        assert_eq!((name, again.is_empty()), (None, false), "an address is no name");
    }

    #[test]
    fn what_is_no_message_of_tls_has_no_name_and_one_that_ends_early_is_an_error() {
        let request = b"GET / HTTP/1.1\r\nHost: shop.example.com\r\n\r\n".to_vec();
        assert_eq!(looked(&request, 300).unwrap(), (None, request));
        let said = hello("shop.example.com");
        assert_eq!(looked(&said[..said.len() - 1], 300).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        // Says that it will be long, and is.
        let endless = [&[22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff][..], &vec![0; 100_000]].concat();
        let (name, again) = looked(&endless, 1_000).unwrap();
        assert_eq!((name, again.len()), (None, endless.len()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_bytes_panic(change in any::<prop::sample::Index>(), to in any::<u8>(), cut in any::<prop::sample::Index>()) {
            let mut said = hello("shop.example.com");
            let at = change.index(said.len());
            said[at] = to;
            said.truncate(cut.index(said.len()) + 1);
            if let Ok((_, again)) = looked(&said, 64) {
                prop_assert_eq!(again, said);
            }
        }
    }
}
