//! Leases, the node's side: every 400 ms a node asks the leader, says what it does not hear, and hands over its report when the
//! leader has an older one. Who asks and acknowledges has a lease; nodes with a lease are the leader's observers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use hirsel_mesh::control::Control;
use hirsel_mesh::seam::Clock;
use hirsel_mesh::transport::Transport;
use hirsel_model::book::Asked;
use hirsel_model::codec::{decode, encode};
use hirsel_model::control::ControlState;
use hirsel_model::grant::{ASK_EVERY, Grant, Holdings, grantable};
use hirsel_model::report::NodeReport;
use hirsel_model::{Generation, Incarnation, NodeId, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// The kind of call by which leases are asked for.
pub const LEASE_CALL: &str = "lease";
/// A question that is not answered by then was lost; the next one follows at once.
const ANSWER_WITHIN: Duration = Duration::from_millis(700);
/// Questions are at least so far apart, however often the report changes. A hand-over waits for two of them.
const PAUSE: Duration = Duration::from_millis(20);

/// What a node asks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ask {
    /// Which start of its agent.
    pub incarnation: Incarnation,
    /// The last grant it received in this term: an acknowledgement. Zero for none.
    pub last_grant: u64,
    /// Nodes it does not hear.
    pub unheard: BTreeSet<NodeId>,
    /// Its report, when the leader's is older.
    pub report: Option<NodeReport>,
    /// The newest plan at which it holds nothing exclusive.
    pub released: Generation,
}

impl From<Ask> for Asked {
    fn from(ask: Ask) -> Self {
        let Ask { incarnation, last_grant, unheard, report, released } = ask;
        Self { incarnation, last_grant, unheard, report: report.map(Arc::new), released }
    }
}

/// What the leader answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Answer {
    /// The leader's term.
    pub term: u64,
    /// Counts the grants of this term for this node.
    pub grant: u64,
    /// The report the leader has.
    pub report_version: u64,
    /// What the node may let act. Empty as well when the leader could not make sure in time that it still leads.
    pub exclusive: Grant,
}

/// What the questions are made of, and where the answers go.
pub struct Asker {
    /// To reach the leader.
    pub transport: Arc<Transport>,
    /// Knows who leads.
    pub control: Arc<Control>,
    /// Grants run on this clock.
    pub clock: Arc<dyn Clock>,
    /// This node.
    pub me: NodeId,
    /// This start of its agent.
    pub incarnation: Incarnation,
    /// What this node does not hear.
    pub unheard: watch::Receiver<BTreeSet<NodeId>>,
    /// What it reports.
    pub report: watch::Receiver<Arc<NodeReport>>,
    /// Until when its exclusive instances may act.
    pub grants: watch::Sender<Arc<Holdings>>,
}

/// Asks for leases until `stop`.
pub async fn ask(asker: Asker, stop: CancellationToken) {
    let Asker { transport, control, clock, me, incarnation, unheard, mut report, grants } = asker;
    let state = control.state();
    let mut followed = state.clone();
    let mut last: Option<(NodeId, Answer)> = None;
    let mut leadership = control.leadership();
    loop {
        let asked_at = Instant::now();
        let leader = leadership.borrow_and_update().leader;
        if let Some(leader) = leader {
            let mine = report.borrow_and_update().clone();
            let known = last.as_ref().filter(|(node, _)| *node == leader).map(|(_, answer)| answer.clone());
            let known = known.unwrap_or_default();
            let ask = Ask {
                incarnation,
                last_grant: known.grant,
                unheard: unheard.borrow().clone(),
                report: (mine.version != known.report_version).then(|| (*mine).clone()),
                released: mine.generation,
            };
            let asked = clock.now();
            match transport.call(leader, LEASE_CALL, encode(&ask), ANSWER_WITHIN).await {
                Ok(bytes) => match decode::<Answer>(&bytes) {
                    Ok(answer) => {
                        receive(&grants, &state.borrow(), me, &answer.exclusive, asked);
                        last = Some((leader, answer));
                    }
                    Err(error) => debug!(%error, "answer to a lease question is unreadable"),
                },
                Err(error) => {
                    // A leader that forgot us (it was elected anew) must get the whole report again.
                    last = None;
                    debug!(%leader, %error, "no lease");
                }
            }
        }
        let earliest = Instant::now() + PAUSE;
        tokio::select! {
            () = sleep_until(asked_at + ASK_EVERY) => {}
            () = given_something(&mut followed, &grants, me, &*clock) => {}
            changed = report.changed() => if changed.is_err() { return },
            changed = leadership.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
        sleep_until(earliest).await;
    }
}

/// Returns when the plan gives this node something exclusive that it holds no grant for: a hand-over waits for this alone.
async fn given_something(
    followed: &mut watch::Receiver<Arc<ControlState>>,
    grants: &watch::Sender<Arc<Holdings>>,
    me: NodeId,
    clock: &dyn Clock,
) {
    while followed.changed().await.is_ok() {
        let (held, now) = (grants.borrow().clone(), clock.now());
        if grantable(&followed.borrow_and_update(), me).iter().any(|id| held.until(id, now).is_none()) {
            return;
        }
    }
    std::future::pending().await
}

/// Takes a grant, and lets go of what the plan that this node follows does not list any more.
fn receive(grants: &watch::Sender<Arc<Holdings>>, state: &ControlState, me: NodeId, grant: &Grant, asked: Timestamp) {
    grants.send_if_modified(|held| {
        let mut next = (**held).clone();
        next.dropped(state.plan.generation, &grantable(state, me));
        next.receive(grant, asked);
        let changed = **held != next;
        if changed {
            *held = Arc::new(next);
        }
        changed
    });
}
