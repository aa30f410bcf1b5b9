//! A majority lost for good: what each survivor has, and the way to go on with what the most advanced one has.
//!
//! Whoever is asked asks all others. The one with the most begins another foundation of the control group and says so in its first
//! entry; the others learn of it by the state they follow. What was begun is on disk before it begins, so that a start in the middle
//! goes on with it.
//!
//! Nothing exclusive is granted before every earlier grant of those who are left is over: the first leader of the foundation waits like
//! any other leader ([`hirsel_model::grant::GRANT_OVER`] from its election), and who promised keeps it. Against those who are given up
//! no wait helps: what is exclusive stays where it is until somebody says that they are off ([`hirsel_model::plan::Estranged`]).
//!
//! The metadata of objects have a group of their own. Where that lost its majority with the same nodes it goes on by itself once they are given up
//! ([`hirsel_model::storage::left`]): here is only said what becomes of it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::FutureExt;
use futures::future::join_all;
use hirsel_mesh::control::Evidence;
use hirsel_mesh::transport::CallError;
use hirsel_model::codec::{decode, encode};
use hirsel_model::control::{Command, Entry, Outcome};
use hirsel_model::spec::AppSpec;
use hirsel_model::{AppName, NodeId, Tag};
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::api::error::{ApiError, Code};
use crate::api::recovery::{Recovery, Survivor, judge};
use crate::api::sight::Sight;
use crate::api::views::storage;
use crate::run::REPEAT;
use crate::shared::Shared;

/// The kind of call by which a survivor is asked what it has.
const EVIDENCE_CALL: &str = "recover/evidence";
/// The kind of call by which the most advanced one is told to begin.
const BEGIN_CALL: &str = "recover/begin";
/// One answer; a host that is gone does not answer at all.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Writing the beginning to disk and starting on it.
const BEGIN_WITHIN: Duration = Duration::from_secs(10);
/// The only voter elects itself within some election timeouts.
const LEAD_WITHIN: Duration = Duration::from_secs(10);
/// In the data folder, from the decision until its first entry is committed.
pub const ORDER_FILE: &str = "recovery";

/// What was decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Order {
    tag: Tag,
    /// No survivor has voted in a later term.
    above: u64,
    lost: BTreeSet<NodeId>,
    /// Whether somebody made sure that they are off.
    #[serde(default)]
    off: bool,
    /// Who asked for it.
    by: String,
}

/// What a survivor says.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Testimony {
    /// Its foundation.
    pub tag: Tag,
    /// The newest term it voted in.
    pub term: u64,
    /// The most that it could bring: term and index.
    pub best: (u64, u64),
    /// How far it knows its log to be committed.
    pub committed: Option<(u64, u64)>,
    /// Whether it votes.
    pub votes: bool,
    /// Who votes, as far as it knows.
    pub voters: BTreeSet<NodeId>,
    /// The leader it hears.
    pub hears: Option<NodeId>,
    /// How long ago.
    pub stale_ms: u64,
    /// Why its log does not work.
    pub stopped: Option<String>,
    /// Whether it holds the key that secrets and the authority are sealed with.
    pub sealing_key: bool,
}

/// Begins to answer.
pub fn serve(shared: &Arc<Shared>) {
    let agent = shared.clone();
    shared.transport.serve(EVIDENCE_CALL, move |_, _| {
        let testimony = encode(&testify(&agent));
        async move { Ok(testimony) }.boxed()
    });
    let agent = shared.clone();
    shared.transport.serve(BEGIN_CALL, move |_, body| {
        let agent = agent.clone();
        async move {
            let order: Order = decode(&body).map_err(|error| error.to_string())?;
            begin(&agent, order).await.map_err(|error| format!("{error:#}"))?;
            Ok(Vec::new())
        }
        .boxed()
    });
}

fn testify(shared: &Shared) -> Testimony {
    let evidence = shared.control.evidence();
    let best = evidence.best();
    let Evidence { tag, term, committed, votes, voters, hears, stale_ms, stopped, .. } = evidence;
    let sealing_key = crate::sealing::key(shared, &shared.control.state().borrow().clone()).is_ok();
    Testimony { tag, term, best, committed, votes, voters, hears, stale_ms, stopped, sealing_key }
}

/// Asks every member what it has.
async fn gather(shared: &Shared) -> Vec<(NodeId, Survivor)> {
    let state = shared.control.state().borrow().clone();
    let asked = state.spec.nodes.iter().map(|(node, spec)| async move {
        let said = match *node == shared.node {
            true => Ok(testify(shared)),
            false => match shared.transport.call(*node, EVIDENCE_CALL, Vec::new(), ANSWER_WITHIN).await {
                Ok(bytes) => decode::<Testimony>(&bytes).map_err(|error| error.to_string()),
                Err(error @ (CallError::Unreachable | CallError::TimedOut)) => Err(error.to_string()),
                Err(error) => Err(format!("it answers, but not this: {error}")),
            },
        };
        (*node, Survivor::new(spec.name.to_string(), said))
    });
    join_all(asked).await
}

/// What `recover` would do if `lost` were given up.
pub async fn plan(shared: &Shared, sight: &Sight, lost: &[String]) -> Result<Recovery, ApiError> {
    let known = shared.control.state().borrow().spec.clone();
    for name in lost {
        if known.node_named(name).is_none() {
            return Err(ApiError::not_found("node", name, known.nodes.values().map(|node| node.name.as_str())));
        }
    }
    let survivors = gather(shared).await;
    let mut plan = judge(survivors, lost, &shared.control.tag());
    let exclusive = |(name, app): (&AppName, &AppSpec)| {
        let services = app.services.iter().filter(|(_, service)| service.exclusive);
        services.map(|(service, _)| format!("{name}/{service}")).collect::<Vec<_>>()
    };
    plan.objects = storage::prospect(sight, &plan.lost_ids);
    plan.exclusive = known.apps.iter().flat_map(exclusive).collect();
    Ok(plan)
}

/// Does it, or says why not.
pub async fn recover(
    shared: &Arc<Shared>,
    sight: &Sight,
    lost: &[String],
    off: bool,
    force: Option<&str>,
    by: String,
) -> Result<Recovery, ApiError> {
    let mut plan = plan(shared, sight, lost).await?;
    let refuse = |words: &str| {
        let error = ApiError::new(Code::Unsafe, format!("not recovered: {words}"));
        plan.survivors.iter().fold(error, |error, survivor| error.evidence(survivor.in_words()))
    };
    if let Some(words) = plan.never.first() {
        let error = refuse(words).next("hirsel status");
        // The metadata of objects have a group of their own: that goes on when those who are lost are no members any more.
        return Err(match &plan.objects {
            Some(words) => error.evidence(words.clone()).next("of each node that is lost for good: hirsel forget NODE"),
            None => error,
        });
    }
    if let (Some(words), None) = (plan.refusals.first(), force) {
        return Err(refuse(words).next("hirsel recover --plan").next("repeat with --force REASON"));
    }
    let Some(from) = plan.from_id else { return Err(refuse("nobody has anything to go on with")) };
    let tag = shared.control.tag().next(shared.world.chance.number());
    let by = force.map_or(by.clone(), |reason| format!("{by}: {reason}"));
    let order = Order { tag: tag.clone(), above: plan.term, lost: plan.lost_ids.clone(), off, by };
    let begun = match from == shared.node {
        true => begin(shared, order).await.map_err(|error| format!("{error:#}")),
        false => {
            let called = shared.transport.call(from, BEGIN_CALL, encode(&order), BEGIN_WITHIN).await;
            called.map(drop).map_err(|error| error.to_string())
        }
    };
    begun.map_err(|error| {
        ApiError::new(Code::Failed, format!("{} did not begin: {error}", plan.from.clone().unwrap_or_default()))
            .next("hirsel recover --plan")
    })?;
    plan.new_tag = Some(tag.to_string());
    Ok(plan)
}

/// Begins on this node: what is decided is on disk before anything else happens.
async fn begin(shared: &Arc<Shared>, order: Order) -> Result<()> {
    let evidence = shared.control.evidence();
    if evidence.tag.epoch >= order.tag.epoch {
        bail!("this node belongs to the foundation with tag {} already", evidence.tag);
    }
    if hears_leader(evidence.hears, evidence.stale_ms) {
        bail!("this node hears a leader");
    }
    let order_bytes = encode(&order);
    let disk = shared.world.disk.clone();
    let written = shared.world.disk.run(Box::new(move || disk.write(ORDER_FILE, &order_bytes)));
    written.await.context("cannot keep what was decided")?;
    shared.control.refound(order.tag.clone(), order.above).await?;
    tokio::spawn(complete(shared.clone(), order));
    Ok(())
}

/// Whether a leader was heard so lately that it may still lead.
pub fn hears_leader(leader: Option<NodeId>, stale_ms: u64) -> bool {
    leader.is_some() && stale_ms <= crate::api::sight::NO_LEADER_AFTER_MS
}

/// Goes on with what a former start began.
pub fn go_on(shared: &Arc<Shared>) -> Result<()> {
    let Some(bytes) = shared.world.disk.read(ORDER_FILE).context("cannot read what was decided")? else {
        return Ok(());
    };
    let order: Order = decode(&bytes).context("what was decided in a recovery is damaged")?;
    let shared = shared.clone();
    tokio::spawn(async move {
        match shared.control.refound(order.tag.clone(), order.above).await {
            Ok(()) => complete(shared, order).await,
            Err(error) => warn!(%error, "the control group cannot be founded anew"),
        }
    });
    Ok(())
}

/// Says in the log of the new foundation what it is.
async fn complete(shared: Arc<Shared>, order: Order) {
    let Order { tag, lost, off, by, .. } = order;
    while !shared.stop.is_cancelled() {
        let mut leadership = shared.control.leadership();
        let led =
            timeout(LEAD_WITHIN, leadership.wait_for(|leadership| leadership.mine)).await.is_ok_and(|led| led.is_ok());
        if led {
            let command = Command::Recover { tag: tag.clone(), survivor: shared.node, lost: lost.clone(), off };
            let entry = Entry { at: shared.world.clock.wall(), by: by.clone(), if_index: None, command };
            match shared.control.propose(entry, LEAD_WITHIN).await {
                Ok(Outcome::Done { .. } | Outcome::Admitted { .. } | Outcome::Lengthened { .. }) => break,
                Ok(Outcome::Refused(refusal)) => {
                    warn!(%refusal, "the new foundation is not announced");
                    break;
                }
                Err(error) => warn!(%error, "the new foundation is not announced yet"),
            }
        }
        sleep(REPEAT).await;
    }
    if shared.stop.is_cancelled() {
        return;
    }
    match shared.world.disk.remove(ORDER_FILE) {
        Ok(()) => info!(%tag, "the control group was founded anew"),
        Err(error) => warn!(%error, "what was decided in the recovery is not forgotten"),
    }
}
