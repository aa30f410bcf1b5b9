//! Whom to believe: TLS 1.3, a certificate of the cluster's authority, and the key pinned for the node it names.
//!
//! A certificate whose dates do not hold is accepted with a warning while its key is pinned: a cluster that was off for a year must
//! start, and a host whose clock is wrong must not vanish. Sessions are never resumed: a resumed one would not show its certificate.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hirsel_model::{ClusterId, NodeId};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use tokio::io::BufReader;
use tokio::sync::watch;
use tracing::{debug, warn};

use super::{Peers, TransportError};
use crate::identity::{Certified, Identity, certified, common_name, fingerprint, valid_from};
use crate::seam::{BoxStream, Clock, World};

/// Protocols of the TCP port, and the one of the UDP port.
pub(super) const DOOR: &[u8] = b"hirsel-door";
pub(super) const JOIN: &[u8] = b"hirsel-join";
const HTTP: &[u8] = b"http/1.1";
pub(super) const MESH: &[u8] = b"hirsel-mesh/1";

/// The TLS library reads four kilobytes at a time; below it a whole record (RFC 8446, section 5.2) is read at once.
const READ_BYTES: usize = (16 << 10) + 256;

/// A TCP stream as TLS should get it.
pub(super) type Buffered = BufReader<BoxStream>;

pub(super) fn buffered(stream: BoxStream) -> Buffered {
    BufReader::with_capacity(READ_BYTES, stream)
}

/// All that is needed to meet someone.
pub(super) struct Tls {
    cluster: ClusterId,
    provider: Arc<CryptoProvider>,
    clock: Arc<WallSource>,
    presenter: Arc<Presenter>,
    verifier: Arc<PeerVerifier>,
    /// What is shown and believed now: certificate and authorities change while the agent runs.
    identity: Mutex<Identity>,
    /// The certificate that is shown is of the present authority.
    is_current: AtomicBool,
    pub(super) door_server: Arc<ServerConfig>,
    pub(super) join_server: Arc<ServerConfig>,
    pub(super) https_server: Arc<ServerConfig>,
    pub(super) door_client: Arc<ClientConfig>,
}

impl Tls {
    pub(super) fn new(
        world: &World,
        identity: &Identity,
        peers: watch::Receiver<Arc<Peers>>,
    ) -> Result<Tls, TransportError> {
        let wrong = |error: Error| TransportError::Tls(error.to_string());
        let provider = provider();
        let clock = Arc::new(WallSource(world.clock.clone()));
        let presenter = Arc::new(Presenter::new(&provider, identity)?);
        let verifier = Arc::new(PeerVerifier {
            cluster: identity.cluster.clone(),
            trust: Arc::new(RwLock::new(Arc::new(Trust::new(identity)?))),
            peers,
            provider: provider.clone(),
            clients: Clients::Members,
        });
        let anybody = Arc::new(PeerVerifier { clients: Clients::Anybody, ..PeerVerifier::clone(&verifier) });
        let server = |clients: Option<Arc<PeerVerifier>>, alpn: &[u8]| {
            server_config(&provider, &clock, presenter.clone(), clients, alpn).map_err(wrong)
        };
        let tls = Tls {
            door_server: server(Some(verifier.clone()), DOOR)?,
            join_server: server(None, JOIN)?,
            https_server: server(Some(anybody), HTTP)?,
            door_client: Arc::new(
                client_config(&provider, &clock, verifier.clone(), Some(presenter.clone()), DOOR).map_err(wrong)?,
            ),
            cluster: identity.cluster.clone(),
            provider,
            clock,
            presenter,
            verifier,
            identity: Mutex::new(identity.clone()),
            is_current: AtomicBool::default(),
        };
        tls.is_current.store(tls.is_signed(&identity.cert).is_ok(), Ordering::Relaxed);
        Ok(tls)
    }

    /// Changes what is shown and believed from now on. Nothing changes when it cannot be used.
    pub(super) fn alter(&self, alter: impl FnOnce(&mut Identity)) -> Result<(), TransportError> {
        let mut held = self.identity.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = held.clone();
        alter(&mut next);
        let (shown, trust) = (certified_key(&self.provider, &next)?, Trust::new(&next)?);
        *self.verifier.trust.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(trust);
        self.presenter.current.send_replace(shown);
        self.is_current.store(self.is_signed(&next.cert).is_ok(), Ordering::Relaxed);
        *held = next;
        Ok(())
    }

    /// What the certificate says that is shown now.
    pub(super) fn shown(&self) -> Option<Certified> {
        self.owner(&self.presenter.current.borrow().cert)
    }

    /// Whether the certificate that is shown is of the present authority.
    pub(super) fn is_current(&self) -> bool {
        self.is_current.load(Ordering::Relaxed)
    }

    /// Whether the cluster's present authority signed this certificate, whatever its dates say.
    pub(super) fn is_signed(&self, certificate: &[u8]) -> Result<(), TransportError> {
        let now = UnixTime::since_unix_epoch(Duration::from_millis(self.clock.0.wall().0));
        let trust = self.verifier.trust();
        let signed = signed_by(&CertificateDer::from(certificate), &trust.present, &[], &self.provider, now);
        signed.map(drop).map_err(|error| TransportError::Tls(error.to_string()))
    }

    /// Both halves of the UDP port.
    pub(super) fn mesh(&self) -> Result<(Arc<ServerConfig>, ClientConfig), Error> {
        let (provider, clock) = (&self.provider, &self.clock);
        let server = server_config(provider, clock, self.presenter.clone(), Some(self.verifier.clone()), MESH)?;
        let client = client_config(provider, clock, self.verifier.clone(), Some(self.presenter.clone()), MESH)?;
        Ok((server, client))
    }

    /// What is shown and believed now.
    #[cfg(test)]
    pub(super) fn held(&self) -> Identity {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// HTTPS as a member.
    #[cfg(test)]
    pub(super) fn https_client(&self) -> Arc<ClientConfig> {
        let presenter = Some(self.presenter.clone());
        Arc::new(client_config(&self.provider, &self.clock, self.verifier.clone(), presenter, HTTP).unwrap())
    }

    /// The wall clock for whoever stamps tokens.
    pub(super) fn clock(&self) -> Arc<WallSource> {
        self.clock.clone()
    }

    /// Whose certificate this is. It was verified during the handshake; none if it was not one of ours.
    pub(super) fn owner(&self, chain: &[CertificateDer<'_>]) -> Option<Certified> {
        certified(chain.first()?, &self.cluster).ok()
    }
}

pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn server_config(
    provider: &Arc<CryptoProvider>,
    clock: &Arc<WallSource>,
    presenter: Arc<Presenter>,
    clients: Option<Arc<PeerVerifier>>,
    alpn: &[u8],
) -> Result<Arc<ServerConfig>, Error> {
    let builder = ServerConfig::builder_with_details(provider.clone(), clock.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?;
    let builder = match clients {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(presenter);
    config.alpn_protocols = vec![alpn.to_vec()];
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn client_config(
    provider: &Arc<CryptoProvider>,
    clock: &Arc<WallSource>,
    verifier: Arc<dyn ServerCertVerifier>,
    presenter: Option<Arc<Presenter>>,
    alpn: &[u8],
) -> Result<ClientConfig, Error> {
    let builder = ClientConfig::builder_with_details(provider.clone(), clock.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match presenter {
        Some(presenter) => builder.with_client_cert_resolver(presenter),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// For somebody who knows only the fingerprint of the authority: a newcomer, or a person who logs in.
pub(super) fn newcomer(world: &World, ca_fingerprint: [u8; 32], alpn: Alpn) -> Result<ClientConfig, Error> {
    let provider = provider();
    let clock = Arc::new(WallSource(world.clock.clone()));
    let verifier = Arc::new(FingerprintVerifier { ca_fingerprint, provider: provider.clone() });
    client_config(
        &provider,
        &clock,
        verifier,
        None,
        match alpn {
            Alpn::Join => JOIN,
            Alpn::Http => HTTP,
        },
    )
}

/// What a newcomer wants.
#[derive(Clone, Copy, Debug)]
pub(super) enum Alpn {
    Join,
    Http,
}

/// The wall clock as the TLS and QUIC libraries want it.
pub(super) struct WallSource(Arc<dyn Clock>);

impl rustls::time_provider::TimeProvider for WallSource {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.0.wall().0)))
    }
}

impl quinn_proto::TimeSource for WallSource {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.0.wall().0)
    }
}

impl fmt::Debug for WallSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WallSource")
    }
}

/// Shows our certificate, the newest one.
struct Presenter {
    current: watch::Sender<Arc<CertifiedKey>>,
}

impl Presenter {
    fn new(provider: &CryptoProvider, identity: &Identity) -> Result<Presenter, TransportError> {
        Ok(Presenter { current: watch::Sender::new(certified_key(provider, identity)?) })
    }
}

fn certified_key(provider: &CryptoProvider, identity: &Identity) -> Result<Arc<CertifiedKey>, TransportError> {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.key.clone()));
    let key = provider.key_provider.load_private_key(key).map_err(|error| TransportError::Tls(error.to_string()))?;
    // The authority is shown as well: a newcomer knows only its fingerprint; and those before it, for whoever knows one of them.
    let former = identity.former.iter().rev().flat_map(|former| [&former.successor, &former.ca]);
    let chain = [&identity.cert, &identity.ca].into_iter().chain(former);
    let chain = chain.map(|der| CertificateDer::from(der.clone())).collect();
    Ok(Arc::new(CertifiedKey::new(chain, key)))
}

impl ResolvesServerCert for Presenter {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.borrow().clone())
    }
}

impl ResolvesClientCert for Presenter {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current.borrow().clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl fmt::Debug for Presenter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Presenter")
    }
}

/// Who may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Clients {
    /// Only members.
    Members,
    /// Also who shows no certificate; what they may do is decided above.
    Anybody,
}

/// Whose signatures count.
#[derive(Debug)]
struct Trust {
    /// Those of the present authority.
    present: RootCertStore,
    /// Those of the ones before it: on certificates of nodes that have not got a new one yet.
    former: RootCertStore,
    /// Those of the ones that nobody should need any more: a node that was away may, and is believed for its pinned key.
    dropped: RootCertStore,
}

impl Trust {
    fn new(identity: &Identity) -> Result<Trust, TransportError> {
        let store = |authorities: Vec<&Vec<u8>>| {
            let mut store = RootCertStore::empty();
            for ca in authorities {
                let added = store.add(CertificateDer::from(ca.clone()));
                added.map_err(|error| TransportError::Tls(error.to_string()))?;
            }
            Ok::<_, TransportError>(store)
        };
        let of = |dropped| identity.former.iter().filter(move |it| it.dropped == dropped).map(|it| &it.ca).collect();
        Ok(Trust { present: store(vec![&identity.ca])?, former: store(of(false))?, dropped: store(of(true))? })
    }

    /// Whether a certificate is of one of them, and what is to be said about it. The chain is what came with it: it leads from an
    /// authority that is newer than all that are known here to one that is.
    fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        provider: &CryptoProvider,
        now: UnixTime,
    ) -> Result<Verified, Error> {
        let by = |roots| signed_by(certificate, roots, chain, provider, now);
        let present = by(&self.present);
        match (&present, self.former.is_empty() && self.dropped.is_empty()) {
            (Ok(Dates::Hold), _) => return Ok(Verified::Well),
            (Ok(Dates::DoNotHold), _) => return Ok(Verified::Dates),
            (Err(_), true) => return present.map(|_| Verified::Well),
            (Err(_), false) => {}
        }
        match (by(&self.former), by(&self.dropped)) {
            (Ok(Dates::Hold), _) => Ok(Verified::Well),
            (Ok(Dates::DoNotHold), _) => Ok(Verified::Dates),
            (Err(_), Ok(_)) => Ok(Verified::Dropped),
            (Err(_), Err(_)) => present.map(|_| Verified::Well),
        }
    }
}

/// What is to be said of a certificate that is accepted if its key is pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verified {
    /// Nothing.
    Well,
    /// Its dates do not hold.
    Dates,
    /// Its authority was replaced, and all others have followed.
    Dropped,
}

/// Accepts the members of the cluster, in both directions.
#[derive(Clone, Debug)]
struct PeerVerifier {
    cluster: ClusterId,
    trust: Arc<RwLock<Arc<Trust>>>,
    peers: watch::Receiver<Arc<Peers>>,
    provider: Arc<CryptoProvider>,
    clients: Clients,
}

impl PeerVerifier {
    fn trust(&self) -> Arc<Trust> {
        self.trust.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<NodeId, Error> {
        let said = certified(certificate, &self.cluster).map_err(|error| {
            debug!(%error, "peer refused");
            Error::InvalidCertificate(CertificateError::BadEncoding)
        })?;
        let verified = self.trust().verify(certificate, chain, &self.provider, now)?;
        // Last, so that only who is really certified is told apart in the log.
        if !self.peers.borrow().pins(said.node, &said.key) {
            debug!(node = %said.node, "peer refused: its key is not pinned");
            return Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure));
        }
        match verified {
            Verified::Well => {}
            Verified::Dates => {
                warn!(node = %said.node, "certificate's dates do not hold, accepted because its key is pinned; check the clocks");
            }
            Verified::Dropped => {
                warn!(node = %said.node, "certificate is of a former authority, accepted because its key is pinned; it gets a new one");
            }
        }
        Ok(said.node)
    }

    fn signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let node = self.verify(end_entity, chain, now)?;
        if server_name.to_str() != common_name(&self.cluster, node) {
            return Err(Error::InvalidCertificate(CertificateError::NotValidForName));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.clients == Clients::Members
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Members have one certificate to show, whoever asks.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(end_entity, chain, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

/// Accepts any member of the cluster whose authority has this fingerprint.
#[derive(Debug)]
struct FingerprintVerifier {
    ca_fingerprint: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for FingerprintVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let authority = intermediates.iter().find(|shown| fingerprint(shown) == self.ca_fingerprint);
        let authority = authority.ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        // Dates are not asked for: the newcomer's clock may be as wrong as theirs, and the fingerprint is what was promised.
        signed_by(end_entity, &roots, intermediates, &self.provider, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dates {
    Hold,
    DoNotHold,
}

/// Fingerprint of the authority that signed the first certificate of a chain, if it is shown in it. Of a chain that was verified this
/// is the authority in force, or the one before it.
pub(super) fn issuer(chain: &[CertificateDer<'_>], now: UnixTime) -> Option<[u8; 32]> {
    let (first, rest) = chain.split_first()?;
    let provider = provider();
    rest.iter().find_map(|shown| {
        let mut roots = RootCertStore::empty();
        roots.add(shown.clone().into_owned()).ok()?;
        signed_by(first, &roots, &[], &provider, now).ok()?;
        Some(fingerprint(shown))
    })
}

/// Whether the authority signed this certificate, and whether its dates hold now.
fn signed_by(
    certificate: &CertificateDer<'_>,
    roots: &RootCertStore,
    chain: &[CertificateDer<'_>],
    provider: &CryptoProvider,
    now: UnixTime,
) -> Result<Dates, Error> {
    let parsed = ParsedCertificate::try_from(certificate)?;
    let algorithms = provider.signature_verification_algorithms.all;
    let verify = |at| verify_server_cert_signed_by_trust_anchor(&parsed, roots, chain, at, algorithms);
    match verify(now) {
        Ok(()) => Ok(Dates::Hold),
        Err(Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        )) => {
            // Everything else about it must still be right, at a moment when its dates held.
            let from = valid_from(certificate).map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
            verify(UnixTime::since_unix_epoch(Duration::from_secs(from)))?;
            Ok(Dates::DoNotHold)
        }
        Err(error) => Err(error),
    }
}
