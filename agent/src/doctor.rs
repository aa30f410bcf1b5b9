//! Looks at this node and its ways to the others, and looks back at whoever asks. What was found is judged elsewhere.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::stream::{self, StreamExt};
use hirsel_mesh::seam::{Clock, Disk, World};
use hirsel_mesh::transport::{knock_sizes, knock_tcp, knock_udp};
use hirsel_model::codec::{decode, encode};
use hirsel_model::report::{RoleFacts, RoleState};
use hirsel_model::{NodeId, RoleName, Timestamp, WallTime};
use hirsel_role::host::GuardState;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::admission::VERSION;
use crate::api::doctor::{Answered, Findings, HostFindings, PeerFindings, Sizes, Way};
use crate::shared::Shared;

/// The kind of call by which a node asks another one to look back at it.
const CALL: &str = "doctor";
/// Looking back takes two ways of two seconds, which go on at once.
const ANSWER_WITHIN: Duration = Duration::from_millis(3_500);
/// Members that are looked at at once.
const AT_ONCE: usize = 32;
/// All of them together take no longer, so that whoever asked still waits.
const MEMBERS_WITHIN: Duration = Duration::from_secs(11);
/// Durable writes that are timed, each as large as a page of the log; fewer on a slow disk.
const SYNCS: u64 = 20;
const SYNC_BYTES: usize = 4_096;
const SYNCS_WITHIN: Duration = Duration::from_secs(1);
/// In the data folder, for a moment.
const SYNC_FILE: &str = "doctor";

/// What a node says that looked back. Unknown fields of newer nodes are ignored.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Reply {
    wall: WallTime,
    version: String,
    tcp: Way,
    udp: Way,
    sizes: Option<Sizes>,
}

/// What only the operating system knows of this host: given by whoever started the agent.
pub type HostFacts = Arc<dyn Fn() -> HostFindings + Send + Sync>;

/// Looks; once at a time, for it writes and knocks.
pub struct Examiner {
    shared: Arc<Shared>,
    facts: HostFacts,
    one: Mutex<()>,
}

impl Examiner {
    /// Looks with what `shared` has, and `facts` tells.
    pub fn new(shared: Arc<Shared>, facts: HostFacts) -> Self {
        Self { shared, facts, one: Mutex::new(()) }
    }

    /// Everything that can be found out from here.
    pub async fn examine(&self) -> Findings {
        let _one = self.one.lock().await;
        let world = &self.shared.world;
        let began = moment(world.clock.as_ref());
        let sync = time_writes(world).await;
        let peers = self.look_at_members().await;
        let facts = (self.facts)();
        Findings {
            host: HostFindings {
                sync: Some(sync),
                drift_ms: drift(began, moment(world.clock.as_ref())),
                wall: world.clock.wall(),
                guard: self.look_at_guard().await,
                names: self.look_at_names(),
                addresses: self.look_at_addresses(),
                ..facts
            },
            certificate_ends: Some(self.shared.transport.certificate().not_after),
            peers,
        }
    }

    /// One guard serves all roles; the worst that any of them sees counts.
    async fn look_at_guard(&self) -> Option<Result<usize, String>> {
        let mut seen = None;
        for host in self.shared.hosts.values() {
            match (host.guard().await, &mut seen) {
                (GuardState::Unneeded, _) => {}
                (GuardState::Watches { guards }, Some(Ok(all))) => *all += guards,
                (GuardState::Watches { guards }, seen @ None) => *seen = Some(Ok(guards)),
                (GuardState::Watches { .. }, Some(Err(_))) => {}
                (GuardState::Silent { message }, seen) => *seen = Some(Err(message)),
            }
        }
        seen
    }

    fn look_at_names(&self) -> Option<Result<String, String>> {
        let addr = self.shared.config.roles.dns?;
        let report = self.shared.report.borrow().roles.get(&RoleName::dns()).cloned().unwrap_or_default();
        Some(match report.state {
            RoleState::Running => Ok(addr.to_string()),
            _ => Err(report.message.unwrap_or_else(|| format!("names are not answered at {addr} yet"))),
        })
    }

    /// Only where an address is wanted does the host look at its interfaces.
    fn look_at_addresses(&self) -> Option<Result<usize, String>> {
        if self.shared.control.state().borrow().spec.addresses.is_empty() {
            return None;
        }
        let report = self.shared.report.borrow().roles.get(&RoleName::address()).cloned()?;
        let RoleFacts::Address(facts) = report.facts else { return None };
        Some(match facts.unable.or(report.message) {
            Some(why) => Err(why),
            None => Ok(facts.held.len()),
        })
    }

    async fn look_at_members(&self) -> Vec<PeerFindings> {
        let state = self.shared.control.state().borrow().clone();
        let others = state.spec.nodes.iter().filter(|(id, _)| **id != self.shared.node);
        let others: Vec<(NodeId, String, SocketAddr)> =
            others.map(|(id, node)| (*id, node.name.to_string(), node.addr)).collect();
        let names: Vec<String> = others.iter().map(|(_, name, _)| name.clone()).collect();
        let looks: Vec<_> = others.into_iter().map(|other| self.look_at(other).boxed()).collect();
        let mut seen = Vec::new();
        let mut looked = stream::iter(looks).buffer_unordered(AT_ONCE);
        let all = async {
            while let Some(one) = looked.next().await {
                seen.push(one);
            }
        };
        let _ = timeout(MEMBERS_WITHIN, all).await;
        drop(looked);
        for name in names {
            if seen.iter().all(|peer| peer.name != name) {
                let error = Some(format!("not reached within {} s", MEMBERS_WITHIN.as_secs()));
                let way = Way { ms: None, error };
                seen.push(PeerFindings { name, tcp: way.clone(), udp: way, sizes: None, answer: None });
            }
        }
        seen
    }

    async fn look_at(&self, (id, name, addr): (NodeId, String, SocketAddr)) -> PeerFindings {
        let world = &self.shared.world;
        let ways = async { tokio::join!(knock_tcp(world, addr), knock_udp(world, addr), knock_sizes(world, addr)) };
        let ((tcp, udp, sizes), answer) = tokio::join!(ways, self.ask(id));
        let sizes = sizes.ok().map(Sizes::from);
        PeerFindings { name, tcp: tcp.into(), udp: udp.into(), sizes, answer: Some(answer) }
    }

    async fn ask(&self, node: NodeId) -> Result<Answered, String> {
        let clock = self.shared.world.clock.as_ref();
        let asked = clock.now();
        let bytes = self.shared.transport.call(node, CALL, Vec::new(), ANSWER_WITHIN).await;
        let reply: Reply = decode(&bytes.map_err(|error| error.to_string())?).map_err(|error| error.to_string())?;
        // The other side reads its clock last, so only the way back lies between its reading and ours.
        let back = clock.now().since(asked).min(Duration::from_millis(reply_way_ms(&reply)));
        let there = i64::try_from(reply.wall.0).unwrap_or(i64::MAX);
        let here = clock.wall().0.saturating_sub(u64::try_from(back.as_millis()).unwrap_or(0) / 2);
        let offset_ms = there.saturating_sub(i64::try_from(here).unwrap_or(i64::MAX));
        let Reply { tcp, udp, sizes, version, .. } = reply;
        Ok(Answered { offset_ms, tcp, udp, sizes, version })
    }
}

/// There and back, as the other side measured it; nothing where it did not get through.
fn reply_way_ms(reply: &Reply) -> u64 {
    reply.udp.ms.or(reply.tcp.ms).unwrap_or(0)
}

/// Answers other nodes that ask to be looked at. Nobody can have a third one knocked at: the address is that of the asker.
pub fn serve(shared: &Arc<Shared>) {
    let agent = shared.clone();
    shared.transport.serve(CALL, move |from, _| {
        let agent = agent.clone();
        async move { look_back(&agent, from).await }.boxed()
    });
}

async fn look_back(shared: &Shared, from: NodeId) -> Result<Vec<u8>, String> {
    let addr = shared.control.state().borrow().spec.nodes.get(&from).map(|node| node.addr);
    let addr = addr.ok_or("the node that asks is no member here")?;
    let world = &shared.world;
    let (tcp, udp, sizes) = tokio::join!(knock_tcp(world, addr), knock_udp(world, addr), knock_sizes(world, addr));
    let sizes = sizes.ok().map(Sizes::from);
    let reply = Reply { tcp: tcp.into(), udp: udp.into(), sizes, version: VERSION.into(), wall: world.clock.wall() };
    Ok(encode(&reply))
}

/// A moment on both clocks.
pub(crate) type Moment = (Timestamp, WallTime);

pub(crate) fn moment(clock: &dyn Clock) -> Moment {
    (clock.now(), clock.wall())
}

/// How far the wall clock moved against the monotonic one between two moments, in milliseconds.
pub(crate) fn drift(before: Moment, after: Moment) -> u64 {
    let passed = after.0.since(before.0).as_millis();
    let told = u128::from(after.1.0).saturating_sub(u128::from(before.1.0));
    let drift =
        if after.1.0 < before.1.0 { passed + u128::from(before.1.0 - after.1.0) } else { passed.abs_diff(told) };
    u64::try_from(drift).unwrap_or(u64::MAX)
}

/// How long a durable write takes, on average and at worst, in milliseconds.
pub(crate) async fn time_writes(world: &World) -> Result<(u64, u64), String> {
    let clock = world.clock.as_ref();
    let began = clock.now();
    let (mut done, mut worst) = (0, 0);
    while done < SYNCS && (done == 0 || clock.now().since(began) < SYNCS_WITHIN) {
        let start = clock.now();
        let disk = world.disk.clone();
        let write = Box::new(move || write_once(disk.as_ref()));
        world.disk.run(write).await.map_err(|error| error.to_string())?;
        worst = worst.max(milliseconds(clock.now().since(start)));
        done += 1;
    }
    let average = milliseconds(clock.now().since(began)) / done;
    world.disk.remove(SYNC_FILE).map_err(|error| error.to_string())?;
    Ok((average, worst))
}

fn write_once(disk: &dyn Disk) -> std::io::Result<()> {
    disk.write(SYNC_FILE, &[0x5a; SYNC_BYTES])
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_clock_that_jumps_is_noticed_in_both_directions() {
        let at = |now, wall| (Timestamp(now), WallTime(wall));
        assert_eq!(drift(at(0, 1_000), at(500, 1_500)), 0);
        assert_eq!(drift(at(0, 1_000), at(500, 9_500)), 8_000);
        assert_eq!(drift(at(0, 9_000), at(500, 1_500)), 8_000);
    }
}
