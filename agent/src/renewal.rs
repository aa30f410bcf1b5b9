//! Certificates: a node asks for a new one when a third of the present one's life is over, and a voter or spare issues it.
//!
//! Whoever holds the sealing key may issue, for what is certified is only what the control state says already: this key speaks for
//! this node. The new certificate is kept before it is shown, so that a restart goes on with it. A node whose certificate has expired
//! is still believed while its key is pinned, and renews like any other.

use std::sync::Arc;
use std::time::Duration;

use hirsel_mesh::identity::{Age, Authority, Certified, Identity, NodeKey, certified};
use hirsel_model::codec::{decode, encode};
use hirsel_model::control::{Command, ControlState, Entry};
use hirsel_model::event::{Cause, EventKind, NewEvent};
use hirsel_model::{NodeId, WallTime};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use crate::pace::Pace;
use crate::shared::Shared;
use crate::{admission, authority};

/// The kind of call by which a node asks for a new certificate.
pub const RENEW_CALL: &str = "renew";
/// What one issuer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// The certificate's age is looked at so often: clocks are set, and hosts sleep.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// First wait after a failure; each further one doubles it, up to [`RETRY_MAX`].
const RETRY_FIRST: Duration = Duration::from_secs(10);
/// Twenty days are left when the first try is made.
const RETRY_MAX: Duration = Duration::from_secs(3_600);
/// A new certificate that is not good by this node's clock either is followed by another not sooner: then the clocks differ, and
/// asking again changes nothing.
const AGAIN_AFTER: Duration = Duration::from_secs(3_600);
/// After the authority was replaced, all nodes ask within this for their new certificates: some milliseconds of work for each.
const SPREAD: Duration = Duration::from_secs(3);
/// People are told after so many failures in a row: a cluster that was off for a year has no leader at first.
const TELL_AFTER: u32 = 5;
/// What telling them may take.
const TELL_WITHIN: Duration = Duration::from_secs(3);

/// What a node asks.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Request {
    /// Signed with the node's key (PKCS #10).
    csr: Vec<u8>,
}

/// What it gets.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Reply {
    /// DER.
    certificate: Vec<u8>,
}

/// Issues a certificate to the member `from`, for the key that is pinned for it.
pub fn issue(shared: &Shared, from: NodeId, body: &[u8]) -> Result<Vec<u8>, String> {
    let request: Request = decode(body).map_err(|error| error.to_string())?;
    let state = shared.control.state().borrow().clone();
    let authority = admission::authority(shared, &state)?;
    let certificate = certify(&state, &authority, from, &request.csr, shared.world.clock.wall())?;
    debug!(node = %from, "certificate issued");
    Ok(encode(&Reply { certificate }))
}

fn certify(
    state: &ControlState,
    authority: &Authority,
    from: NodeId,
    csr: &[u8],
    wall: WallTime,
) -> Result<Vec<u8>, String> {
    let node = state.spec.nodes.get(&from).ok_or_else(|| format!("node {from} is no member"))?;
    let cluster = &state.cluster.id;
    let certificate = authority.issue(from, cluster, csr, wall).map_err(|error| error.to_string())?;
    let said = certified(&certificate, cluster).map_err(|error| error.to_string())?;
    if said.key != node.key {
        return Err(format!("the request is for another key than the one pinned for {}", node.name));
    }
    Ok(certificate)
}

/// Keeps this node's certificate fresh until the agent stops.
pub async fn keep(shared: Arc<Shared>, mut identity: Identity) {
    let mut trouble = Trouble::default();
    let mut next_try = Instant::now();
    let mut state = shared.control.state();
    let mut pace = Pace::begin();
    loop {
        pace.looks();
        let now = state.borrow_and_update().clone();
        match authority::follow(&shared, &now, &mut identity) {
            Ok(false) => {}
            // All nodes learn of it at once; who certifies them should not be asked at once by all.
            Ok(true) => next_try = Instant::now() + SPREAD.mul_f64(share(shared.world.chance.number())),
            Err(error) => warn!(error, "the new authority cannot be followed yet"),
        }
        let age = shared.transport.certificate().age(shared.world.clock.wall());
        let due = age != Age::Fresh || !shared.transport.is_current();
        if due && Instant::now() >= next_try {
            let pause = match renew(&shared, &mut identity).await {
                Ok(said) => {
                    let wall = shared.world.clock.wall();
                    info!(days_left = said.left(wall).as_secs() / 86_400, "certificate renewed");
                    trouble.ends(&shared).await;
                    if said.age(wall) == Age::Fresh { Duration::ZERO } else { AGAIN_AFTER }
                }
                Err(words) => trouble.goes_on(&shared, age, &words).await,
            };
            next_try = Instant::now() + pause;
        }
        let until_try = next_try.saturating_duration_since(Instant::now());
        tokio::select! {
            () = sleep(if until_try.is_zero() { LOOK_EVERY } else { until_try.min(LOOK_EVERY) }) => {}
            changed = pace.changed(&mut state) => if changed.is_err() { return },
            () = shared.stop.cancelled() => return,
        }
    }
}

/// Evenly from 0 to 1.
fn share(number: u64) -> f64 {
    f64::from(u32::try_from(number >> 32).unwrap_or(0)) / f64::from(u32::MAX)
}

/// Asks the leader first, then every other voter and spare.
async fn renew(shared: &Shared, identity: &mut Identity) -> Result<Certified, String> {
    let key = NodeKey::from_pkcs8(&identity.key).map_err(|error| error.to_string())?;
    let request = encode(&Request { csr: key.csr() });
    let leader = shared.control.leadership().borrow().leader;
    let plan = shared.control.state().borrow().plan.clone();
    let others = plan.voters.iter().chain(&plan.spares).copied().filter(|node| Some(*node) != leader);
    let mut last = "no voter is known".to_owned();
    for issuer in leader.into_iter().chain(others) {
        let answer = match shared.transport.call(issuer, RENEW_CALL, request.clone(), ANSWER_WITHIN).await {
            Ok(bytes) => decode::<Reply>(&bytes).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match answer.and_then(|reply| take(shared, identity, reply.certificate)) {
            Ok(said) => return Ok(said),
            Err(words) => last = format!("{}: {words}", shared.control.state().borrow().spec.name_of(issuer)),
        }
    }
    Err(last)
}

/// Keeps the certificate, and then shows it.
fn take(shared: &Shared, identity: &mut Identity, certificate: Vec<u8>) -> Result<Certified, String> {
    shared.transport.check_renewal(&certificate).map_err(|error| error.to_string())?;
    let renewed = Identity { cert: certificate, ..identity.clone() };
    renewed.save(shared.world.disk.as_ref()).map_err(|error| error.to_string())?;
    let said = shared.transport.renew(renewed.cert.clone()).map_err(|error| error.to_string())?;
    *identity = renewed;
    Ok(said)
}

/// Failures in a row, and whether people know of them.
#[derive(Default)]
struct Trouble {
    failures: u32,
    told: bool,
}

impl Trouble {
    /// Notes a failure, tells people once when it matters, and says how long to wait.
    async fn goes_on(&mut self, shared: &Shared, age: Age, words: &str) -> Duration {
        debug!(error = words, "certificate not renewed yet");
        let pause = backoff(self.failures);
        self.failures += 1;
        if self.is_worth_telling(age) {
            let words = if age == Age::Expired {
                format!("certificate has expired and cannot be renewed: {words}; it works as long as its key is pinned")
            } else {
                format!("certificate expires within days and cannot be renewed: {words}")
            };
            warn!("{words}");
            // Without a leader it is told with a later try.
            self.told = tell(shared, &words).await;
        }
        pause
    }

    fn is_worth_telling(&self, age: Age) -> bool {
        age >= Age::Late && self.failures >= TELL_AFTER && !self.told
    }

    async fn ends(&mut self, shared: &Shared) {
        if self.told {
            tell(shared, "certificate was renewed").await;
        }
        *self = Trouble::default();
    }
}

fn backoff(failures: u32) -> Duration {
    RETRY_FIRST.saturating_mul(2u32.saturating_pow(failures)).min(RETRY_MAX)
}

/// Puts a line about this node into the cluster's log.
async fn tell(shared: &Shared, words: &str) -> bool {
    let event = NewEvent {
        kind: EventKind::Happened,
        subject: shared.me.name.to_string(),
        message: format!("{}: {words}", shared.me.name),
        cause: Cause::None,
        rejected: Vec::new(),
    };
    let command = Command::Note { events: vec![event] };
    let entry = Entry { at: shared.world.clock.wall(), by: shared.me.name.to_string(), if_index: None, command };
    shared.control.propose(entry, TELL_WITHIN).await.is_ok()
}

#[cfg(test)]
mod tests {
    use hirsel_mesh::identity::draw_cluster_id;
    use hirsel_mesh::seam::real;

    use super::*;
    use crate::testing::node_spec;

    #[test]
    fn only_the_pinned_key_of_a_member_is_certified() {
        let folder = tempfile::tempdir().unwrap();
        let chance = real::world(folder.path()).unwrap().chance;
        let chance = chance.as_ref();
        let wall = WallTime(1_800_000_000_000);
        let mut state = ControlState::default();
        state.cluster.id = draw_cluster_id(chance);
        let authority = Authority::create(&state.cluster.id, chance, wall);
        let (mine, other) = (NodeKey::generate(chance), NodeKey::generate(chance));
        let mut node = node_spec(3);
        node.key = mine.public();
        state.spec.nodes.insert(NodeId(3), node);
        let certify = |node, key: &NodeKey| certify(&state, &authority, NodeId(node), &key.csr(), wall);
        let said = certified(&certify(3, &mine).unwrap(), &state.cluster.id).unwrap();
        assert_eq!((said.node, said.key, said.age(wall)), (NodeId(3), mine.public(), Age::Fresh));
        assert!(certify(3, &other).unwrap_err().contains("another key"));
        assert!(certify(4, &mine).unwrap_err().contains("no member"));
    }

    #[test]
    fn people_are_told_once_and_only_when_trouble_lasts() {
        let trouble = |failures, told| Trouble { failures, told };
        assert!(!trouble(TELL_AFTER, false).is_worth_telling(Age::Due), "there are weeks left");
        assert!(!trouble(TELL_AFTER - 1, false).is_worth_telling(Age::Expired), "a leader may just be elected");
        assert!(trouble(TELL_AFTER, false).is_worth_telling(Age::Late));
        assert!(!trouble(TELL_AFTER + 9, true).is_worth_telling(Age::Expired));
    }

    #[test]
    fn failures_are_repeated_ever_more_slowly_but_at_least_hourly() {
        let waits: Vec<u64> = (0..12).map(|failures| backoff(failures).as_secs()).collect();
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600, 3600]);
        assert_eq!(backoff(u32::MAX), RETRY_MAX);
    }
}
