//! One order: a host is proven to be ours, and its certificate fetched and kept.

use std::time::Duration;

use hirsel_mesh::identity::{Front, front};
use hirsel_model::acme::{Automatic, Challenge, Change, Way, certificate, way};
use hirsel_model::certificate::{Age, NewCertificate};
use hirsel_model::control::{Command, SEALING_KEY};
use hirsel_model::secret::Sealed;
use instant_acme::{
    Account, AuthorizationStatus, CertificateIdentifier, ChallengeType, Error, Identifier, NewOrder, Order,
    OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use tracing::{debug, info};

use super::client::Client;
use super::session::{Session, is_called, leaf, told};
use super::{Failure, answers, propose};
use crate::certificates;
use crate::shared::Shared;

/// A directory has this long to look at a host, or to sign.
const STEP_WITHIN: Duration = Duration::from_secs(120);
/// How often it is asked whether it is done: first after this, then less and less often.
const ASKED_FIRST: Duration = Duration::from_millis(300);
/// A certificate whose key was sealed with a key that is not in force any more is sealed again so often.
const TRIES_MAX: u32 = 3;

/// Gets a certificate for `host`, and has it kept.
pub async fn make(shared: &Shared, session: &Session, host: &str) -> Result<(), Failure> {
    let (account, client) = session.account(shared).await?;
    let failed = |error: Error| session.failure(&error, &client);
    let state = shared.control.state().borrow().clone();
    let way = way(session.settings(), state.acme.troubles.get(host));
    let before = certificate(&state, host).and_then(|it| leaf(&it.chain).ok());
    info!(host, %way, "certificate ordered");
    let mut order = begin(&account, host, before).await.map_err(failed)?;
    prove(shared, session, &client, &mut order, host, way).await?;
    let (key, request) = ask(host)?;
    if order.state().status != OrderStatus::Valid {
        order.finalize_csr(&request).await.map_err(failed)?;
    }
    let patience = RetryPolicy::new().initial_delay(ASKED_FIRST).backoff(1.5).timeout(STEP_WITHIN);
    let chain = order.poll_certificate(&patience).await.map_err(failed)?;
    keep(shared, host, &chain, &key).await
}

/// Begins an order, as one that takes the place of `before` if the directory cares.
async fn begin(
    account: &Account,
    host: &str,
    before: Option<rustls_pki_types::CertificateDer<'static>>,
) -> Result<Order, Error> {
    let names = [Identifier::Dns(host.to_owned())];
    let replaced = before.as_ref().and_then(|leaf| CertificateIdentifier::try_from(leaf).ok());
    if let Some(replaced) = replaced {
        match account.new_order(&NewOrder::new(&names).replaces(replaced)).await {
            Ok(order) => return Ok(order),
            // What is told of the one before is a courtesy, and no directory that minds it is to be minded.
            Err(Error::Api(problem))
                if !is_called(&problem, "alreadyReplaced") && !is_called(&problem, "malformed") =>
            {
                return Err(Error::Api(problem));
            }
            Err(Error::Http(error)) => return Err(Error::Http(error)),
            Err(error) => debug!(host, %error, "ordered without a word of the one before"),
        }
    }
    account.new_order(&NewOrder::new(&names)).await
}

/// Lets the directory see that `host` is ours.
async fn prove(
    shared: &Shared,
    session: &Session,
    client: &Client,
    order: &mut Order,
    host: &str,
    way: Way,
) -> Result<(), Failure> {
    let failed = |error: Error| session.failure(&error, client);
    let kind = match way {
        Way::Http => ChallengeType::Http01,
        Way::TlsAlpn => ChallengeType::TlsAlpn01,
    };
    let mut asked = false;
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(failed)?;
        match authorization.status {
            AuthorizationStatus::Valid => continue,
            AuthorizationStatus::Pending => {}
            status => return Err(format!("the directory has an authorization for it that is {status:?}").into()),
        }
        let mut challenge = authorization
            .challenge(kind.clone())
            .ok_or_else(|| format!("the directory does not offer {way} for it"))?;
        let offer = Challenge {
            way,
            token: challenge.token.clone(),
            answer: challenge.key_authorization().as_str().to_owned(),
            since: shared.world.clock.wall(),
        };
        let token = offer.token.clone();
        propose(shared, Command::Acme { change: Change::Offer { host: host.to_owned(), challenge: offer } }).await?;
        answers::spread(shared, host, &token).await?;
        challenge.set_ready().await.map_err(failed)?;
        asked = true;
    }
    if !asked && order.state().status != OrderStatus::Pending {
        return Ok(());
    }
    let patience = RetryPolicy::new().initial_delay(ASKED_FIRST).backoff(1.5).timeout(STEP_WITHIN);
    let seen = order.poll_ready(&patience).await;
    match seen {
        Ok(OrderStatus::Ready) => Ok(()),
        Ok(_) | Err(Error::Api(_)) => {
            // What the directory saw is said of the challenge, the order only knows that it failed.
            let words = seen_by_directory(order).await;
            let general = || seen.as_ref().err().map(|error| session.failure(error, client).words);
            let words =
                words.or_else(general).unwrap_or_else(|| "the directory says no more than that it failed".into());
            Err(Failure { words: format!("{way}: {words}"), ..Failure::default() })
        }
        Err(error) => Err(failed(error)),
    }
}

async fn seen_by_directory(order: &mut Order) -> Option<String> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.ok()?;
        let state = authorization.refresh().await.ok()?;
        if let Some(problem) = state.challenges.iter().find_map(|challenge| challenge.error.as_ref()) {
            return Some(told(problem));
        }
    }
    None
}

/// A new key, in PEM, and the request to certify it, in DER.
fn ask(host: &str) -> Result<(String, Vec<u8>), String> {
    let make = || -> Result<_, rcgen::Error> {
        let mut params = CertificateParams::new(vec![host.to_owned()])?;
        params.distinguished_name = DistinguishedName::new();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let request = params.serialize_request(&key)?.der().to_vec();
        Ok((key.serialize_pem(), request))
    };
    make().map_err(|error| format!("no request for a certificate can be made: {error}"))
}

/// Has what came kept, if it is what was asked for.
async fn keep(shared: &Shared, host: &str, chain: &str, key: &str) -> Result<(), Failure> {
    let read = front(format!("{}\n{key}", chain.trim_end()).as_bytes());
    let Front { facts, chain, key } = read.map_err(|error| format!("what came is not shown: {error}"))?;
    if !facts.names.contains(host) {
        return Err("what came is for another host".into());
    }
    if facts.age(shared.world.clock.wall()) == Age::Expired {
        return Err("what came has expired; is the clock of this node right?".into());
    }
    let name = host.parse().map_err(|error| format!("no certificate can be called {host}: {error}"))?;
    for tried in 1.. {
        let sealed = certificates::seal(shared, &name, key.clone()).await?;
        let new = NewCertificate {
            facts: facts.clone(),
            chain: chain.clone(),
            sealed: Sealed(sealed.sealed),
            key: sealed.key,
            automatic: Some(Automatic::default()),
        };
        match propose(shared, Command::SetCertificate { name: name.clone(), new }).await {
            Err(words) if words.starts_with(SEALING_KEY) && tried < TRIES_MAX => {}
            done => return Ok(done?),
        }
    }
    Err("the sealing key changes all the time".into())
}
