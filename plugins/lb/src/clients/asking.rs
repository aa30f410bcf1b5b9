//! How a client is asked for its certificate: by the name that it says first.
//!
//! rustls takes one answer for all connections of a configuration, and over QUIC a configuration is needed before the name is known. So
//! where any host asks for certificates each connection has a configuration of its own, whose parts are one value ([`Asking`]) that is
//! told the name when a certificate of ours is looked for, which comes before everything else (tickets and the question itself). Should
//! that order ever change, nobody is asked, and the host answers nobody: what lets in is decided by what was proven, not by this.

use std::fmt;
use std::io;
use std::sync::{Arc, OnceLock};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use quinn::crypto::rustls::QuicServerConfig;
use quinn_proto::ConnectionId;
use quinn_proto::crypto::{Keys, Session, UnsupportedVersion};
use quinn_proto::transport_parameters::TransportParameters;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{
    ClientHello, ProducesTickets, ResolvesServerCert, ServerSessionMemoryCache, StoresServerSessions,
};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::{Trust, Trusts};
use crate::challenge;
use crate::http3::HTTP_3;
use crate::tls::{Certificates, SESSIONS_MAX, plain_name};

/// Why a client was not let in.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Reason {
    reason: &'static str,
}

/// Clients that were not let in for their certificate.
#[derive(Clone, Debug, Default)]
pub struct Refusals(pub Family<Reason, Counter>);

impl Refusals {
    /// It showed none.
    pub fn none(&self) {
        self.count("none");
    }

    fn wrong(&self, error: &Error) {
        self.count(match error {
            Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => "expired",
            Error::InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) => {
                "early"
            }
            Error::InvalidCertificate(CertificateError::UnknownIssuer) => "unknown",
            Error::InvalidCertificate(
                CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. },
            ) => "purpose",
            _ => "wrong",
        });
    }

    fn count(&self, reason: &'static str) {
        self.0.get_or_create(&Reason { reason }).inc();
    }
}

/// How connections over TLS begin.
#[derive(Clone, Debug)]
pub struct Tls {
    /// What is shown, and what is asked for.
    pub certificates: Arc<Certificates>,
    plain: Arc<ServerConfig>,
    sessions: Sessions,
}

/// What is remembered of sessions.
#[derive(Clone)]
struct Sessions(Arc<dyn StoresServerSessions>);

impl Tls {
    /// With these certificates.
    pub fn new(certificates: &Arc<Certificates>) -> Self {
        let plain = certificates.config();
        let sessions = Sessions(plain.session_storage.clone());
        Self { certificates: certificates.clone(), plain, sessions }
    }

    /// How the next connection over TCP begins.
    pub fn begin(&self) -> Arc<ServerConfig> {
        match Asking::of(&self.certificates, &self.sessions) {
            None => self.plain.clone(),
            Some(asking) => Arc::new(self.certificates.asking(&asking)),
        }
    }

    /// How connections over QUIC begin.
    ///
    /// # Errors
    /// When the provider lacks what QUIC needs.
    pub fn over_quic(&self) -> io::Result<Arc<dyn quinn::crypto::ServerConfig>> {
        // What is remembered of sessions over TCP is not for QUIC. Tickets are for both: without early data they hold nothing of either.
        let sessions = Sessions(ServerSessionMemoryCache::new(SESSIONS_MAX));
        let mut plain = (*self.plain).clone();
        plain.session_storage = sessions.0.clone();
        let plain = for_quic(plain).map_err(io::Error::other)?;
        Ok(Arc::new(OverQuic { certificates: self.certificates.clone(), plain: Arc::new(plain), sessions }))
    }
}

fn for_quic(mut config: ServerConfig) -> Result<QuicServerConfig, quinn::crypto::rustls::NoInitialCipherSuite> {
    config.alpn_protocols = vec![HTTP_3.to_vec()];
    // Without early data.
    config.max_early_data_size = 0;
    QuicServerConfig::try_from(config)
}

/// What quinn begins connections with.
struct OverQuic {
    certificates: Arc<Certificates>,
    plain: Arc<QuicServerConfig>,
    sessions: Sessions,
}

impl quinn::crypto::ServerConfig for OverQuic {
    fn initial_keys(&self, version: u32, dst_cid: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        self.plain.initial_keys(version, dst_cid)
    }

    fn retry_tag(&self, version: u32, orig_dst_cid: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.plain.retry_tag(version, orig_dst_cid, packet)
    }

    fn start_session(self: Arc<Self>, version: u32, params: &TransportParameters) -> Box<dyn Session> {
        let asking = Asking::of(&self.certificates, &self.sessions);
        let own = asking.and_then(|asking| for_quic(self.certificates.asking(&asking)).ok());
        own.map_or_else(|| self.plain.clone(), Arc::new).start_session(version, params)
    }
}

/// What one connection is asked for: not known before its client has said a name, and not changed after.
#[derive(Debug)]
pub struct Asking {
    certificates: Arc<Certificates>,
    trusts: Arc<Trusts>,
    trust: OnceLock<Option<Arc<Trust>>>,
    sessions: Sessions,
}

impl Asking {
    /// None where nobody is asked for anything.
    fn of(certificates: &Arc<Certificates>, sessions: &Sessions) -> Option<Arc<Self>> {
        let trusts = certificates.trusts();
        (!trusts.is_empty()).then(|| {
            let (certificates, sessions) = (certificates.clone(), sessions.clone());
            Arc::new(Self { certificates, trusts, trust: OnceLock::new(), sessions })
        })
    }

    fn trust(&self) -> Option<&Arc<Trust>> {
        self.trust.get()?.as_ref()
    }

    /// Sessions go on only where it is known that nobody has to show anything.
    fn resumes(&self) -> bool {
        self.trust.get().is_some_and(Option::is_none)
    }

    fn verifier(&self) -> Result<&dyn ClientCertVerifier, Error> {
        let trust = self.trust().ok_or_else(|| Error::General("nobody was asked for a certificate".into()))?;
        Ok(&*trust.verifier)
    }
}

impl ResolvesServerCert for Asking {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(plain_name);
        // Whoever wants a proof of a domain shows nothing, and gets nothing but that.
        let trust = match name {
            Some(name) if !challenge::is_asked_for(&hello) => self.trusts.find(&name).cloned(),
            Some(_) | None => None,
        };
        let id = trust.as_ref().map(|trust| trust.id);
        // A client is asked to begin again at times, and says the same name then.
        if self.trust.get_or_init(|| trust).as_ref().map(|trust| trust.id) != id {
            return None;
        }
        self.certificates.resolve(hello)
    }
}

impl ClientCertVerifier for Asking {
    /// What is asked before a name was said is whether anybody may be asked: rustls keeps what a signature will be about then (TLS 1.2).
    fn offer_client_auth(&self) -> bool {
        self.trust.get().is_none_or(Option::is_some)
    }

    fn client_auth_mandatory(&self) -> bool {
        self.trust().is_some_and(|trust| !trust.optional)
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.trust().map_or(&[], |trust| trust.verifier.root_hint_subjects())
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.verifier()?.verify_client_cert(leaf, between, now);
        verified.inspect_err(|error| self.certificates.refusals.wrong(error))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier()?.verify_tls12_signature(message, leaf, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier()?.verify_tls13_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust().map(|trust| trust.verifier.supported_verify_schemes()).unwrap_or_default()
    }
}

impl ProducesTickets for Asking {
    fn enabled(&self) -> bool {
        self.resumes() && self.certificates.tickets.enabled()
    }

    fn lifetime(&self) -> u32 {
        self.certificates.tickets.lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.resumes().then(|| self.certificates.tickets.encrypt(plain))?
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.resumes().then(|| self.certificates.tickets.decrypt(ticket))?
    }
}

impl StoresServerSessions for Asking {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        self.resumes() && self.sessions.0.put(key, value)
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.resumes().then(|| self.sessions.0.get(key))?
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.resumes().then(|| self.sessions.0.take(key))?
    }

    fn can_cache(&self) -> bool {
        self.resumes() && self.sessions.0.can_cache()
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sessions")
    }
}
