//! The engine of a replica: how it is set up, and with which times.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use hirsel_model::{NodeId, Tag};
use openraft::{Config, SnapshotPolicy};

use super::Raft;
use super::calls::Calls;
use super::group::GroupNames;
use super::log::Log;
use super::machine::Machine;
use super::network::Network;
use super::store::StoreError;

/// A leader says this often that it is there. What is committed is told at once and does not wait for it; so oftener would only cost
/// processor time, of which heartbeats are the largest part while nothing happens.
const HEARTBEAT: Duration = Duration::from_millis(150);
/// Who hears nothing for the leader's lease, which is the end of this range, and then for a time drawn from it, stands for election:
/// 0.9 to 1.2 s after the last heartbeat. So six heartbeats in a row must be lost or late, and the processors of a busy host must
/// withhold an agent for that long, before a leader that lives is doubted. The draw keeps candidates apart: a round of votes takes
/// some milliseconds, of which the range holds dozens. A shorter range gains less than the half second after which traffic avoids
/// the node anyway, and every election costs the leader's notes.
const ELECTION: std::ops::Range<Duration> = Duration::from_millis(300)..Duration::from_millis(600);
/// The engine lets a leader lead this long after a majority last heard it.
pub(super) const LEASE: Duration = ELECTION.end;
/// A leader that lost its majority is silent and speaks up in turns of this length, so that those who still hear it get to elect
/// another one (the engine asks for at least lease and election timeout together).
const QUORUM_LOSS_PROBE: Duration = Duration::from_millis(1200);
/// Entries between two snapshots. Applying them again at a restart takes less than a second.
const SNAPSHOT_EVERY: u64 = 5_000;
/// Entries kept behind a snapshot, for members that are a little behind.
const KEPT_BEHIND_SNAPSHOT: u64 = 1_000;

/// Starts the engine on what is in the log.
pub(super) async fn engine(
    names: GroupNames,
    me: NodeId,
    tag: &Tag,
    (calls, alone, hung): (&Arc<dyn Calls>, &Arc<AtomicBool>, &Arc<AtomicBool>),
    log: &Log,
    machine: &Machine,
) -> Result<Raft, StoreError> {
    let network = Network {
        calls: calls.clone(),
        kind: names.raft,
        tag: tag.clone(),
        alone: alone.clone(),
        hung: hung.clone(),
        machine: machine.clone(),
    };
    let refused = |error: &dyn std::fmt::Display| log.damaged(format!("{} does not start: {error}", names.group));
    let config = engine_config(names.group).map_err(|error| refused(&error))?;
    let raft = Raft::new(me.0, Arc::new(config), network, log.clone(), machine.clone()).await;
    raft.map_err(|error| refused(&error))
}

fn engine_config(group: &str) -> Result<Config, openraft::ConfigError> {
    Config {
        cluster_name: group.into(),
        heartbeat_interval: HEARTBEAT.as_millis() as u64,
        election_timeout_min: ELECTION.start.as_millis() as u64,
        election_timeout_max: ELECTION.end.as_millis() as u64,
        // A candidate that cannot win must not raise the term of those who have a leader.
        enable_pre_vote: Some(true),
        // By default a restarted leader takes up its old term without an election, and leads until it hears of a newer one.
        enable_leader_restore: Some(false),
        quorum_loss_probe_interval: Some(QUORUM_LOSS_PROBE.as_millis() as u64),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_EVERY),
        max_in_snapshot_log_to_keep: KEPT_BEHIND_SNAPSHOT,
        // Beyond this a snapshot is quicker; it must exceed the distance between snapshots.
        replication_lag_threshold: 2 * SNAPSHOT_EVERY,
        // Forgetting entries one by one would write to disk for each.
        purge_batch_size: 256,
        ..Config::default()
    }
    .validate()
}
