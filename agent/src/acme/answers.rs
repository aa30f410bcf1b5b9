//! What the load balancer of this node answers while hosts are proven to be ours; and whether it does so already.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
use hirsel_mesh::identity::fingerprint;
use hirsel_model::acme::{Challenge, Way, is_asked_for};
use hirsel_model::certificate::shows;
use hirsel_model::codec::{decode, encode};
use hirsel_model::control::ControlState;
use hirsel_model::{NodeId, RoleName};
use hirsel_role::certificate::{Bundle, Challenges};
use hirsel_role::secret::Plain;
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};

use crate::pace::Pace;
use crate::shared::Shared;

/// The kind of call by which a node is asked whether it answers for a host.
const READY_CALL: &str = "acme-ready";
/// One node says so within this.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// A port of this host takes a connection within this.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// All nodes that are heard are waited for this long: some round trips, and opening a port.
const SPREAD_WITHIN: Duration = Duration::from_secs(15);
/// Between two rounds of questions.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// What is asked.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Question {
    host: String,
    token: String,
}

/// What is answered: nothing when all is well.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Hindrance {
    words: String,
}

/// Registers what this agent answers.
pub fn serve(shared: &Arc<Shared>) {
    let agent = shared.clone();
    shared.transport.serve(READY_CALL, move |_, body| {
        let agent = agent.clone();
        async move {
            let question: Question = decode(&body).unwrap_or_default();
            let words = is_ready(&agent, &question).await.err().unwrap_or_default();
            Ok(encode(&Hindrance { words }))
        }
        .boxed()
    });
}

/// Whether the load balancer of this node answers, and its port is open.
async fn is_ready(shared: &Shared, question: &Question) -> Result<(), String> {
    let told = shared.challenges.borrow().clone();
    let config = &shared.config.roles;
    let port = match (told.http.contains_key(&question.token), told.tls.contains_key(&question.host)) {
        (true, _) => config.http_port,
        (false, true) => config.https_port,
        (false, false) => return Err("it has not heard of it".into()),
    };
    let ip = match shared.me.bind {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let host = shared.hosts.get(&RoleName::lb()).ok_or("it has no load balancer")?;
    match timeout(CONNECT_WITHIN, host.connect(SocketAddr::new(ip, port))).await {
        Ok(Ok(_connected)) => Ok(()),
        Ok(Err(error)) => Err(format!("port {port}: {error}")),
        Err(_late) => Err(format!("port {port} takes no connection")),
    }
}

/// Waits until every load balancer that is heard answers for `host`, or a while; then those that do have to be enough.
///
/// # Errors
/// In words, when none does.
pub async fn spread(shared: &Shared, host: &str, token: &str) -> Result<(), String> {
    let question = encode(&Question { host: host.into(), token: token.into() });
    let until = Instant::now() + SPREAD_WITHIN;
    loop {
        let state = shared.control.state().borrow().clone();
        let heard = balancers(shared, &state);
        let asked = heard.iter().map(|node| ask(shared, *node, &question));
        let waiting: Vec<String> = join_all(asked)
            .await
            .into_iter()
            .zip(&heard)
            .filter_map(|(answer, node)| Some(format!("{}: {}", state.spec.name_of(*node), answer.err()?)))
            .collect();
        let ready = heard.len() - waiting.len();
        if waiting.is_empty() && ready > 0 {
            return Ok(());
        }
        if Instant::now() >= until {
            let words = waiting.join("; ");
            debug!(host, ready, words, "not every load balancer answers for it");
            return match (ready, heard.len()) {
                (0, 0) => Err("no node that is heard balances load".into()),
                (0, _) => Err(format!("no load balancer answers for it: {words}")),
                _ => Ok(()),
            };
        }
        sleep(AGAIN_AFTER).await;
    }
}

fn balancers(shared: &Shared, state: &ControlState) -> Vec<NodeId> {
    let unheard = shared.unheard.borrow();
    let slots = state.plan.roles.get(&RoleName::lb()).into_iter().flat_map(|slots| slots.values());
    let nodes: std::collections::BTreeSet<NodeId> = slots.map(|slot| slot.node).collect();
    nodes.into_iter().filter(|node| !unheard.contains(node)).collect()
}

async fn ask(shared: &Shared, node: NodeId, question: &[u8]) -> Result<(), String> {
    if node == shared.node {
        return is_ready(shared, &decode(question).unwrap_or_default()).await;
    }
    let answer = shared.transport.call(node, READY_CALL, question.to_vec(), ANSWER_WITHIN).await;
    let answer = answer.map_err(|error| error.to_string())?;
    let Hindrance { words } = decode(&answer).map_err(|_| "the answer cannot be read".to_owned())?;
    if words.is_empty() { Ok(()) } else { Err(words) }
}

/// Keeps `told` in line with the control state, until the agent stops.
pub async fn keep(shared: Arc<Shared>, told: watch::Sender<Arc<Challenges>>) {
    let mut state = shared.control.state();
    let mut of = None;
    let mut pace = Pace::begin();
    loop {
        pace.looks();
        let now = state.borrow_and_update().clone();
        let shows = shows(&now, shared.node);
        let expected = shows && now.acme.settings.is_some() && is_asked_for(&now);
        let asked = if shows { now.acme.challenges.clone() } else { BTreeMap::new() };
        if of.as_ref() != Some(&(expected, asked.clone())) {
            let next = answers(expected, &asked);
            told.send_if_modified(|before| {
                let changed = **before != next;
                if changed {
                    *before = Arc::new(next);
                }
                changed
            });
            of = Some((expected, asked));
        }
        drop(now);
        tokio::select! {
            changed = pace.changed(&mut state) => if changed.is_err() { return },
            () = shared.stop.cancelled() => return,
        }
    }
}

fn answers(expected: bool, asked: &BTreeMap<String, Challenge>) -> Challenges {
    let mut all = Challenges { expected, ..Challenges::default() };
    for (host, challenge) in asked {
        match challenge.way {
            Way::Http => drop(all.http.insert(challenge.token.clone(), challenge.answer.clone())),
            Way::TlsAlpn => match proof(host, &challenge.answer) {
                Ok(bundle) => drop(all.tls.insert(host.clone(), bundle)),
                Err(error) => warn!(host, %error, "no certificate made that proves a host"),
            },
        }
    }
    all
}

/// The certificate that proves `host` (RFC 8737, section 3): self-signed, for it alone, with the hash of the answer.
fn proof(host: &str, answer: &str) -> Result<Bundle, rcgen::Error> {
    let mut params = CertificateParams::new(vec![host.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(&fingerprint(answer.as_bytes()))];
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let chain = params.self_signed(&key)?.pem();
    Ok(Bundle { version: 0, chain, key: Plain(key.serialize_pem()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_answered_for_in_the_way_that_was_chosen() {
        let challenge = |way| Challenge { way, token: "t".into(), answer: "t.thumb".into(), since: Default::default() };
        let asked =
            [("a.example".to_owned(), challenge(Way::Http)), ("b.example".to_owned(), challenge(Way::TlsAlpn))].into();
        let all = answers(true, &asked);
        assert!(all.expected);
        assert_eq!(all.http, [("t".to_owned(), "t.thumb".to_owned())].into());
        let bundle = &all.tls["b.example"];
        assert_eq!(all.tls.len(), 1);
        assert!(bundle.chain.contains("BEGIN CERTIFICATE") && bundle.key.0.contains("PRIVATE KEY"));
    }
}
