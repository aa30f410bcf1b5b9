//! What an agent answers to other agents, besides gossip and Raft.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use hirsel_mesh::identity::SealingKey;
use hirsel_mesh::seam::BoxStream;
use hirsel_mesh::transport::Transport;
use hirsel_model::book::Granted;
use hirsel_model::codec::{decode, encode};
use hirsel_model::grant::{Grant, grantable};
use hirsel_model::{InstanceId, NodeId};
use hirsel_role::Doors;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use crate::admission::{self, ADMIT_CALL};
use crate::leader::Desk;
use crate::lease::{Answer, Ask, LEASE_CALL};
use crate::renewal::{self, RENEW_CALL};
use crate::run::REPEAT;
use crate::shared::Shared;

/// The kind of call by which voters and spares fetch the key that seals the authority's key.
const SEALING_KEY_CALL: &str = "sealing-key";
/// A majority answers within this, or nothing exclusive is granted this time.
const CONFIRM_WITHIN: Duration = Duration::from_millis(500);
const SEALING_KEY_WITHIN: Duration = Duration::from_secs(1);

/// Registers everything this agent answers.
pub fn serve(shared: &Arc<Shared>, desk: &Desk) {
    let (agent, desk) = (shared.clone(), desk.clone());
    shared.transport.serve(LEASE_CALL, move |from, body| {
        let (agent, desk) = (agent.clone(), desk.clone());
        async move { lease(&agent, &desk, from, &body).await }.boxed()
    });
    let agent = shared.clone();
    shared.transport.serve(ADMIT_CALL, move |_, body| admission::admit(agent.clone(), body).boxed());
    let agent = shared.clone();
    shared.transport.serve_join(move |_, body| admission::receive(agent.clone(), body).boxed());
    let agent = shared.clone();
    shared.transport.serve(SEALING_KEY_CALL, move |from, _| {
        let answer = sealing_key(&agent, from);
        async move { answer }.boxed()
    });
    let agent = shared.clone();
    shared.transport.serve(RENEW_CALL, move |from, body| {
        let answer = renewal::issue(&agent, from, &body);
        async move { answer }.boxed()
    });
}

/// Answers a question for a lease. Whoever may let something exclusive act is answered after a majority has confirmed, since the
/// question came, that this node leads.
async fn lease(shared: &Shared, desk: &Desk, from: NodeId, body: &[u8]) -> Result<Vec<u8>, String> {
    let ask: Ask = decode(body).map_err(|error| error.to_string())?;
    let leadership = shared.control.leadership();
    let asked_in = leadership.borrow().clone();
    if !asked_in.mine {
        return Err("this node does not lead".into());
    }
    let asks_much = !grantable(&shared.control.state().borrow(), from).is_empty();
    let leads = asks_much && shared.control.lead_barrier(asked_in.term, CONFIRM_WITHIN).await.is_ok();
    let leadership = leadership.borrow().clone();
    // Deposed and elected again, it would have to be confirmed again.
    if !leadership.mine || leadership.term != asked_in.term {
        return Err("this node does not lead any more".into());
    }
    let mut book = desk.book();
    if book.term != leadership.term {
        return Err("this node has just been elected".into());
    }
    let now = shared.world.clock.now();
    let granted = book.asked(from, ask.into(), now);
    // Read under the lock: a pass that drops an instance then knows of every grant for it.
    let exclusive = match leads {
        true => book.grant(&shared.control.state().borrow(), from, now),
        false => Grant::default(),
    };
    drop(book);
    if granted.changed {
        desk.bell.notify_one();
    }
    let Granted { grant, report_version, .. } = granted;
    Ok(encode(&Answer { term: leadership.term, grant, report_version, exclusive }))
}

fn sealing_key(shared: &Shared, from: NodeId) -> Result<Vec<u8>, String> {
    let state = shared.control.state().borrow().clone();
    if !state.plan.voters.contains(&from) && !state.plan.spares.contains(&from) {
        return Err("only voters and spares hold the sealing key".into());
    }
    match SealingKey::load(shared.world.disk.as_ref()) {
        Ok(Some(key)) => Ok(key.as_bytes().to_vec()),
        Ok(None) => Err("this node does not hold the sealing key".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// Fetches the sealing key once this node is a voter or a spare, and forgets it when it is neither any more.
pub async fn keep_sealing_key(shared: Arc<Shared>) {
    let mut state = shared.control.state();
    loop {
        let now = state.borrow_and_update().clone();
        let trusted = now.plan.voters.contains(&shared.node) || now.plan.spares.contains(&shared.node);
        let disk = shared.world.disk.as_ref();
        match SealingKey::load(disk) {
            // With a plan that names nobody yet, the founder's key is the only one.
            Ok(Some(_)) if !trusted && !now.plan.voters.is_empty() => {
                if let Err(error) = SealingKey::forget(disk) {
                    warn!(%error, "sealing key not forgotten");
                }
            }
            Ok(None) if trusted => fetch_sealing_key(&shared, now.plan.voters.iter().copied()).await,
            Ok(_) => {}
            Err(error) => warn!(%error, "sealing key unreadable"),
        }
        tokio::select! {
            () = sleep(REPEAT) => {}
            () = shared.stop.cancelled() => return,
        }
        let missing = matches!(SealingKey::load(shared.world.disk.as_ref()), Ok(None));
        if !(missing && trusted) {
            tokio::select! {
                changed = state.changed() => if changed.is_err() { return },
                () = shared.stop.cancelled() => return,
            }
        }
    }
}

async fn fetch_sealing_key(shared: &Shared, voters: impl Iterator<Item = NodeId>) {
    for voter in voters.filter(|voter| *voter != shared.node) {
        match shared.transport.call(voter, SEALING_KEY_CALL, Vec::new(), SEALING_KEY_WITHIN).await {
            Ok(bytes) => match SealingKey::from_bytes(&bytes).and_then(|key| key.save(shared.world.disk.as_ref())) {
                Ok(()) => {
                    info!("sealing key received");
                    return;
                }
                Err(error) => warn!(%error, "sealing key not kept"),
            },
            Err(error) => debug!(%voter, %error, "no sealing key from there"),
        }
    }
}

/// The mesh's doors, as roles see them.
pub struct MeshDoors(pub Arc<Transport>);

impl Doors for MeshDoors {
    fn open<'a>(
        &'a self,
        node: NodeId,
        node_addr: SocketAddr,
        instance: &'a InstanceId,
    ) -> BoxFuture<'a, io::Result<BoxStream>> {
        self.0.open_door(node, node_addr, instance).boxed()
    }

    fn publish(&self, table: BTreeMap<InstanceId, SocketAddr>) {
        self.0.publish_doors(table);
    }
}
