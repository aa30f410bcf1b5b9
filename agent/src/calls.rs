//! What an agent answers to other agents, besides gossip and Raft.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use hirsel_mesh::seam::BoxStream;
use hirsel_mesh::transport::Transport;
use hirsel_model::book::Granted;
use hirsel_model::codec::{decode, encode};
use hirsel_model::grant::Grant;
use hirsel_model::{InstanceId, NodeId};
use hirsel_role::Doors;

use crate::admission::{self, ADMIT_CALL};
use crate::dnssec::Zones;
use crate::leader::Desk;
use crate::lease::{Answer, Ask, LEASE_CALL};
use crate::renewal::{self, RENEW_CALL};
use crate::shared::Shared;
use crate::tickets::Tickets;
use crate::{access, acme, certificates, known, sealing, secrets};

/// A majority answers within this, or nothing exclusive is granted this time.
const CONFIRM_WITHIN: Duration = Duration::from_millis(500);

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
    sealing::serve(shared);
    secrets::serve(shared);
    certificates::serve(shared);
    acme::serve(shared);
    known::serve::<Tickets>(shared);
    known::serve::<Zones>(shared);
    access::serve(shared);
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
    let asks_much = desk.book().has_to_grant(&shared.control.state().borrow(), from);
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

    fn open_for_datagrams<'a>(
        &'a self,
        node: NodeId,
        node_addr: SocketAddr,
        instance: &'a InstanceId,
    ) -> BoxFuture<'a, io::Result<BoxStream>> {
        self.0.open_datagram_door(node, node_addr, instance).boxed()
    }

    fn publish(&self, table: BTreeMap<InstanceId, SocketAddr>) {
        self.0.publish_doors(table);
    }
}
