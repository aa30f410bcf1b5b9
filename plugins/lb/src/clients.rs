//! Certificates of clients (RFC 8446, section 4.3.2): whom they have to be certified by, what they showed, and who is told of it.
//!
//! A client is asked in the handshake, by the name that it says (SNI), before anybody knows what it wants. So what it showed is good
//! for that name alone: a request for a host that asks for certificates is answered only on a connection that was made for the same
//! host, under what is asked for now ([`Demand::met`]); any other one is told to connect anew (421; RFC 9110, section 15.5.20). That is
//! decided for each request, whatever the handshake was: a connection of another host, one over plain HTTP, and one from before a change
//! get nowhere.
//!
//! Sessions of such hosts are never resumed ([`asking`]): a ticket would let a client in by what it showed up to a day ago, and by
//! authorities that are not trusted any more.
//!
//! What instances are told stands in fields that nobody else can write ([`strip`]).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::Arc;

use hirsel_model::AppName;
use hirsel_model::codec::encode;
use hirsel_model::spec::{Actions, ClientCertificates, RouteSpec, client_authorities};
use http::{HeaderMap, HeaderName, HeaderValue};
use ring::digest::{SHA256, digest};
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::matching::Unusable;

pub mod asking;
pub mod shown;

use shown::Shown;

/// What an instance is told: whether a certificate was shown, whose it is, and its SHA-256.
const VERIFY: HeaderName = HeaderName::from_static("x-client-cert-verify");
const SUBJECT: HeaderName = HeaderName::from_static("x-client-cert-subject");
const FINGERPRINT: HeaderName = HeaderName::from_static("x-client-cert-fingerprint");
/// All of it (RFC 9440, section 2.2).
const CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");

/// How names of fields begin that only we write.
const OURS: [&[u8]; 2] = [b"x-client-cert", b"client-cert"];

/// By what it is known what clients of a host are asked for: a digest of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TrustId([u8; 32]);

impl TrustId {
    fn of(clients: &ClientCertificates) -> Self {
        let mut id = [0; 32];
        id.copy_from_slice(digest(&SHA256, &encode(clients)).as_ref());
        Self(id)
    }
}

/// What clients of a host are asked for.
pub struct Trust {
    id: TrustId,
    optional: bool,
    verifier: Arc<dyn ClientCertVerifier>,
}

/// Whom clients of each host have to be certified by. Hosts are found as routes are: by their name before `*.`, and that before `*`.
#[derive(Debug, Default)]
pub struct Trusts {
    hosts: HashMap<String, Option<Arc<Trust>>>,
    wildcards: HashMap<String, Option<Arc<Trust>>>,
    any_host: Option<Arc<Trust>>,
}

/// What a connection was made for, and what its client showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The name that the client said, in lower case, without a final dot.
    pub host: String,
    /// What it was asked for under that name.
    trust: Option<TrustId>,
    /// What it showed then.
    pub shown: Option<Shown>,
}

/// What a route asks of whoever wants to come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    id: TrustId,
    optional: bool,
}

/// Why a request is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmet {
    /// It came without TLS.
    InClear,
    /// Its connection was made for something else.
    Misdirected,
}

fn roots(clients: &ClientCertificates) -> Result<RootCertStore, Unusable> {
    let mut roots = RootCertStore::empty();
    let unusable = |what: String| Unusable::new(format!("no authority of clients ({what})"));
    for der in client_authorities(&clients.authorities).map_err(unusable)? {
        roots.add(CertificateDer::from(der)).map_err(|error| unusable(error.to_string()))?;
    }
    Ok(roots)
}

impl Trust {
    fn of(clients: &ClientCertificates, provider: &Arc<CryptoProvider>) -> Option<Self> {
        let roots = Arc::new(roots(clients).ok()?);
        let mut builder = WebPkiClientVerifier::builder_with_provider(roots, provider.clone());
        if clients.optional {
            builder = builder.allow_unauthenticated();
        }
        Some(Self { id: TrustId::of(clients), optional: clients.optional, verifier: builder.build().ok()? })
    }
}

impl Trusts {
    /// What `routes` ask for. What is asked for as in `before` is not made anew.
    pub fn of(routes: &[(AppName, RouteSpec)], provider: &Arc<CryptoProvider>, before: &Self) -> Self {
        let asks = |route: &RouteSpec| route.actions.client_certificates.is_some();
        let mut all = Self::default();
        if !routes.iter().any(|(_, route)| asks(route)) {
            return all;
        }
        let mut known: HashMap<TrustId, Arc<Trust>> = before.all().map(|trust| (trust.id, trust.clone())).collect();
        for (_, route) in routes {
            // A route that cannot be made out answers nobody: whoever comes for it need not show anything.
            let trust = route.actions.client_certificates.as_ref().and_then(|clients| {
                let trust = match known.entry(TrustId::of(clients)) {
                    Entry::Occupied(there) => there.into_mut(),
                    Entry::Vacant(new) => new.insert(Arc::new(Trust::of(clients, provider)?)),
                };
                Some(trust.clone())
            });
            let host = route.host.to_ascii_lowercase();
            match host.strip_prefix("*.") {
                Some(domain) => drop(all.wildcards.insert(domain.to_owned(), trust)),
                None if host == "*" => all.any_host = trust,
                None => drop(all.hosts.insert(host, trust)),
            }
        }
        all
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Trust>> {
        self.hosts.values().chain(self.wildcards.values()).flatten().chain(&self.any_host)
    }

    /// Whether nobody is asked for anything.
    pub fn is_empty(&self) -> bool {
        self.all().next().is_none()
    }

    /// What clients of `host` (lower case) are asked for, if they are.
    pub fn find(&self, host: &str) -> Option<&Arc<Trust>> {
        let by_name = self.hosts.get(host);
        let by_domain = || host.split_once('.').and_then(|(_, domain)| self.wildcards.get(domain));
        by_name.or_else(by_domain).map_or(self.any_host.as_ref(), Option::as_ref)
    }

    /// What a client proves that made a connection for `host` and showed `chain`, as it is asked for now; none if that is not what it
    /// was asked for. It has proven already that it has the key.
    pub fn proof(&self, host: String, chain: Option<&[CertificateDer<'static>]>, now: UnixTime) -> Option<Proof> {
        let Some(trust) = self.find(&host) else { return Some(Proof { host, trust: None, shown: None }) };
        let shown = match chain.and_then(<[_]>::split_first) {
            None if trust.optional => None,
            None => return None,
            Some((leaf, between)) => {
                trust.verifier.verify_client_cert(leaf, between, now).ok()?;
                Some(Shown::of(leaf))
            }
        };
        Some(Proof { host, trust: Some(trust.id), shown })
    }

    /// Whether clients of its host are still asked for what this one was asked for.
    pub fn holds(&self, proof: &Proof) -> bool {
        self.find(&proof.host).map(|trust| trust.id) == proof.trust
    }
}

impl Demand {
    /// What a route demands that does this; none if nothing.
    ///
    /// # Errors
    /// If this build cannot make it out.
    pub fn of(actions: &Actions) -> Result<Option<Self>, Unusable> {
        let Some(clients) = &actions.client_certificates else { return Ok(None) };
        roots(clients)?;
        Ok(Some(Self { id: TrustId::of(clients), optional: clients.optional }))
    }

    /// Whether a request for `host` on a connection that proved this meets it.
    ///
    /// # Errors
    /// Why it does not.
    pub fn met(&self, host: &str, encrypted: bool, proof: Option<&Proof>) -> Result<(), Unmet> {
        match proof {
            // Whoever need not show anything may come without TLS: whether it may do that is another question.
            None if !encrypted && self.optional => Ok(()),
            None if !encrypted => Err(Unmet::InClear),
            Some(proof) if proof.host == host && proof.trust == Some(self.id) => match proof.shown {
                None if !self.optional => Err(Unmet::Misdirected),
                Some(_) | None => Ok(()),
            },
            Some(_) | None => Err(Unmet::Misdirected),
        }
    }
}

/// Tells an instance what a client has shown.
pub fn tell(headers: &mut HeaderMap, proof: Option<&Proof>) {
    let Some(shown) = proof.and_then(|proof| proof.shown.as_ref()) else {
        headers.insert(VERIFY, HeaderValue::from_static("none"));
        return;
    };
    headers.insert(VERIFY, HeaderValue::from_static("success"));
    headers.insert(FINGERPRINT, shown.fingerprint.clone());
    if let Some(subject) = &shown.subject {
        headers.insert(SUBJECT, subject.clone());
    }
    if let Some(whole) = &shown.whole {
        headers.insert(CLIENT_CERT, whole.clone());
    }
}

/// Takes out what a client says of its certificate in words of its own.
pub fn strip(headers: &mut HeaderMap) {
    if !headers.keys().any(is_ours) {
        return;
    }
    let gone: Vec<HeaderName> = headers.keys().filter(|name| is_ours(name)).cloned().collect();
    for name in gone {
        headers.remove(name);
    }
}

/// Whether only we write this field. Programs that take their fields from an environment (CGI, WSGI) do not tell `_` from `-`.
pub fn is_ours(name: &HeaderName) -> bool {
    let name = name.as_str().as_bytes();
    let alike = |(own, theirs): (&u8, &u8)| own == theirs || (*own == b'-' && *theirs == b'_');
    OURS.iter().any(|own| name.len() >= own.len() && own.iter().zip(name).all(alike))
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").field("id", &self.id).field("optional", &self.optional).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
