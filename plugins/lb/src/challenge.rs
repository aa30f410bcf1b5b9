//! Answers a directory that wants to see, before it certifies a host, that the host is ours (ACME).
//!
//! It asks any load balancer, for it knows the host's addresses alone: so each of them answers for all hosts that get a certificate now.
//! What it does not ask for of them passes on to the routes, so that a program which gets certificates of its own goes on doing so.

use std::sync::Arc;

use bytes::Bytes;
use hirsel_role::certificate::Challenges as Told;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response};
use rustls::crypto::CryptoProvider;
use rustls::server::ClientHello;
use rustls::sign::CertifiedKey;
use tokio::sync::watch;
use tracing::debug;

use crate::stream::AnswerBody;
use crate::tls;

/// Where it asks over plain HTTP (RFC 8555, section 8.3). The token follows.
const FOLDER: &str = "/.well-known/acme-challenge/";

/// What it alone speaks over TLS (RFC 8737, section 6.2), and nothing beside it.
pub const ACME_TLS: &[u8] = b"acme-tls/1";

/// What is to be answered now.
#[derive(Clone, Debug)]
pub struct Challenges(watch::Receiver<Arc<Told>>);

impl Challenges {
    /// Follows what the agent says.
    pub fn new(told: watch::Receiver<Arc<Told>>) -> Self {
        Self(told)
    }

    /// The answer to a request, if it is a directory's.
    pub fn answer<B>(&self, request: &Request<B>) -> Option<Response<AnswerBody>> {
        let token = request.uri().path().strip_prefix(FOLDER)?;
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return None;
        }
        let body = self.0.borrow().http.get(token)?.clone();
        debug!(token, "host is proven over HTTP");
        let mut answer = Response::new(AnswerBody::whole(Bytes::from(body)));
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        Some(answer)
    }

    /// The certificate that proves `name`, in lower case.
    pub fn certificate(&self, provider: &CryptoProvider, name: &str) -> Option<Arc<CertifiedKey>> {
        let bundle = self.0.borrow().tls.get(name)?.clone();
        // It is not read as others are: it has a critical extension that is for directories alone.
        let made = tls::parts(&bundle).and_then(|(chain, key)| {
            let key = provider.key_provider.load_private_key(key).map_err(|error| format!("its key: {error}"))?;
            Ok(Arc::new(CertifiedKey::new(chain, key)))
        });
        match made {
            Ok(key) => {
                debug!(host = name, "host is proven over TLS");
                Some(key)
            }
            Err(words) => {
                debug!(host = name, words, "host cannot be proven over TLS");
                None
            }
        }
    }

    /// Whether hosts get certificates, so that both ports are needed.
    pub fn are_expected(&self) -> bool {
        self.0.borrow().expected
    }

    /// Completes when something else is to be answered.
    ///
    /// # Errors
    /// When the agent ends.
    pub async fn changed(&mut self) -> Result<(), watch::error::RecvError> {
        self.0.changed().await
    }
}

/// Whether a client wants to see a proof, and nothing else.
pub fn is_asked_for(hello: &ClientHello<'_>) -> bool {
    hello.alpn().is_some_and(|mut offered| offered.next() == Some(ACME_TLS) && offered.next().is_none())
}
