//! Certificates of the public side, and which one a client is shown.
//!
//! A client says whom it wants to talk to (SNI, RFC 6066, section 3) before anything else, and is shown the certificate that is good
//! for exactly that name, else the one for its wildcard (RFC 9525, section 6.3: the leftmost label alone). A name that no certificate
//! covers is refused: another one would only make the client warn of it. Certificates change without a restart: a new set takes the
//! place of the old one whole, and connections that are open go on.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use hirsel_model::spec::RouteSpec;
use hirsel_model::{AppName, CertificateName, Timestamp};
use hirsel_role::certificate::{Bundle, Bundles};
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert, WantsServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ConfigBuilder, ServerConfig, WantsVerifier};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tracing::{info, warn};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::challenge::{self, ACME_TLS, Challenges};
use crate::clients::Trusts;
use crate::clients::asking::{Asking, Refusals};
use crate::tickets::Tickets;

/// What is spoken over TLS, the best first (RFC 7301). The last one is nobody's second choice: who speaks it offers nothing else.
const PROTOCOLS: [&[u8]; 3] = [HTTP_2, b"http/1.1", ACME_TLS];

/// HTTP/2, as it is named in the handshake (RFC 9113, section 3.2).
pub const HTTP_2: &[u8] = b"h2";

/// Sessions that are remembered here alone, for clients that take no tickets; each holds some hundred bytes.
pub const SESSIONS_MAX: usize = 10_000;

/// The certificates of this load balancer.
pub struct Certificates {
    provider: Arc<CryptoProvider>,
    shown: ArcSwap<Shown>,
    /// Since when there should be nothing to show, and all is shown still.
    doubted: Mutex<Option<Timestamp>>,
    challenges: Challenges,
    trusts: ArcSwap<Trusts>,
    /// Clients that were not let in for what they showed.
    pub refusals: Refusals,
    /// With what clients resume sessions; the same at all load balancers.
    pub tickets: Arc<Tickets>,
}

/// One set of certificates.
#[derive(Debug, Default)]
struct Shown {
    bundles: BTreeMap<CertificateName, (u64, Result<Arc<Certificate>, String>)>,
    /// By name, in lower case; of a wildcard what follows the first dot.
    exact: BTreeMap<String, Arc<Certificate>>,
    wildcard: BTreeMap<String, Arc<Certificate>>,
}

/// One certificate.
#[derive(Debug)]
struct Certificate {
    key: Arc<CertifiedKey>,
    /// What it is good for, in lower case.
    names: Vec<String>,
    /// Until when, in seconds since 1970.
    not_after: i64,
}

impl Certificates {
    /// None yet.
    pub fn new(challenges: Challenges, refusals: Refusals) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let (shown, trusts) = (ArcSwap::default(), ArcSwap::default());
        Self { provider, shown, doubted: Mutex::default(), challenges, trusts, refusals, tickets: Arc::default() }
    }

    /// Asks clients of these routes for what they say, from the next handshake on.
    pub fn ask(&self, routes: &[(AppName, RouteSpec)]) {
        let before = self.trusts.load();
        let next = Trusts::of(routes, &self.provider, &before);
        if !(next.is_empty() && before.is_empty()) {
            self.trusts.store(Arc::new(next));
        }
    }

    /// What clients are asked for.
    pub fn trusts(&self) -> Arc<Trusts> {
        self.trusts.load_full()
    }

    /// Shows these from now on, unless they are none and there were some: the last ones may have been removed, or this node may be about to be
    /// no load balancer any more, and then it needs them for those who come until others have taken its place. Which of both it is, tells
    /// the next order ([`Certificates::let_go`]). Whether it is in doubt.
    pub fn hear(&self, bundles: &Bundles, now: Timestamp) -> bool {
        let is_in_doubt = bundles.0.is_empty() && !self.shown.load().bundles.is_empty();
        if is_in_doubt {
            self.doubt().get_or_insert(now);
        } else {
            self.show(bundles);
        }
        is_in_doubt
    }

    /// Shows nothing any more if there should have been nothing for `patience`.
    pub fn let_go(&self, now: Timestamp, patience: Duration) {
        let since = *self.doubt();
        if since.is_some_and(|since| now.since(since) >= patience) {
            self.show(&Bundles::default());
        }
    }

    fn doubt(&self) -> MutexGuard<'_, Option<Timestamp>> {
        self.doubted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows these from now on. What cannot be used is left out, with a word in the log when it is new.
    pub fn show(&self, bundles: &Bundles) {
        *self.doubt() = None;
        let before = self.shown.load();
        let mut next = Shown::default();
        for (name, bundle) in &bundles.0 {
            let known = before.bundles.get(name).filter(|(version, _)| *version == bundle.version);
            let usable = match known {
                Some((_, usable)) => usable.clone(),
                None => {
                    let usable = Certificate::read(&self.provider, bundle).map(Arc::new);
                    match &usable {
                        Ok(_) => info!(certificate = %name, version = bundle.version, "certificate is shown"),
                        Err(words) => warn!(certificate = %name, words, "certificate cannot be shown"),
                    }
                    usable
                }
            };
            if let Ok(certificate) = &usable {
                next.list(certificate);
            }
            next.bundles.insert(name.clone(), (bundle.version, usable));
        }
        self.shown.store(Arc::new(next));
    }

    /// Whether there is anything to show.
    pub fn is_empty(&self) -> bool {
        let shown = self.shown.load();
        shown.exact.is_empty() && shown.wildcard.is_empty()
    }

    /// Certificates that cannot be shown, and why.
    pub fn unusable(&self) -> BTreeMap<CertificateName, String> {
        let shown = self.shown.load();
        let words = shown.bundles.iter().filter_map(|(name, (_, usable))| Some((name.clone(), usable.clone().err()?)));
        words.collect()
    }

    /// How connections begin: TLS 1.3 or 1.2, with what rustls offers, which is forward secret and authenticated throughout, in its order.
    pub fn config(self: &Arc<Self>) -> Arc<ServerConfig> {
        let mut config = finish(self.versions().with_no_client_auth(), self.clone());
        config.ticketer = self.tickets.clone();
        // For clients that take no tickets, and while there is no key for them.
        config.session_storage = rustls::server::ServerSessionMemoryCache::new(SESSIONS_MAX);
        Arc::new(config)
    }

    /// How one connection begins whose client may be asked for a certificate.
    pub fn asking(&self, asking: &Arc<Asking>) -> ServerConfig {
        let mut config = finish(self.versions().with_client_cert_verifier(asking.clone()), asking.clone());
        config.ticketer = asking.clone();
        config.session_storage = asking.clone();
        config
    }

    fn versions(&self) -> ConfigBuilder<ServerConfig, WantsVerifier> {
        let versions = ServerConfig::builder_with_provider(self.provider.clone()).with_safe_default_protocol_versions();
        versions.expect("the provider knows both versions")
    }

    fn for_name(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let shown = self.shown.load();
        let parent = || name.split_once('.').and_then(|(_, parent)| shown.wildcard.get(parent));
        shown.exact.get(name).or_else(parent).map(|certificate| certificate.key.clone())
    }
}

/// What is spoken, and how, is the same whoever is asked for what.
fn finish(builder: ConfigBuilder<ServerConfig, WantsServerCert>, shows: Arc<dyn ResolvesServerCert>) -> ServerConfig {
    let mut config = builder.with_cert_resolver(shows);
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    config.ignore_client_order = true;
    config
}

/// A name as a client says it, in lower case, without a final dot.
pub fn plain_name(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

impl Shown {
    /// Lists a certificate under its names. Where two are good for one name, the one that is good for longer is shown.
    fn list(&mut self, certificate: &Arc<Certificate>) {
        for name in &certificate.names {
            let (list, name) = match name.strip_prefix("*.") {
                Some(parent) => (&mut self.wildcard, parent),
                None => (&mut self.exact, name.as_str()),
            };
            let shown = list.entry(name.to_owned()).or_insert_with(|| certificate.clone());
            if shown.not_after < certificate.not_after {
                *shown = certificate.clone();
            }
        }
    }
}

impl Certificate {
    fn read(provider: &CryptoProvider, bundle: &Bundle) -> Result<Self, String> {
        let (chain, key) = parts(bundle)?;
        let key = CertifiedKey::from_der(chain, key, provider).map_err(|error| format!("its key: {error}"))?;
        let leaf = key.end_entity_cert().map_err(|error| error.to_string())?;
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|error| format!("it cannot be read: {error}"))?;
        let listed = parsed.subject_alternative_name().ok().flatten().map(|names| &names.value.general_names);
        let names = listed.into_iter().flatten().filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        });
        let (names, not_after) = (names.collect::<Vec<_>>(), parsed.validity().not_after.timestamp());
        if names.is_empty() {
            return Err("it names no domain (subject alternative name)".into());
        }
        Ok(Self { key: Arc::new(key), names, not_after })
    }
}

/// A chain, which is not empty, and its key.
///
/// # Errors
/// In words, without the key.
pub fn parts(bundle: &Bundle) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bundle.chain.as_bytes()).collect();
    let chain = chain.map_err(|error| format!("its chain is no PEM: {error}"))?;
    // An error of its key might repeat a part of it.
    let key = PrivateKeyDer::from_pem_slice(bundle.key.0.as_bytes()).map_err(|_| "its key is no PEM")?;
    if chain.is_empty() { Err("its chain holds no certificate".into()) } else { Ok((chain, key)) }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = plain_name(hello.server_name()?);
        match challenge::is_asked_for(&hello) {
            true => self.challenges.certificate(&self.provider, &name),
            false => self.for_name(&name),
        }
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("names", &self.shown.load().exact.keys()).finish_non_exhaustive()
    }
}
