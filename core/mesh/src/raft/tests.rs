//! Stories of whole groups: in memory, in virtual time, on disks that lose what was not synced.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hirsel_model::view::RaftFacts;
use hirsel_model::{NodeId, codec};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::time::{Instant, timeout};

use super::calls::Calls;
use super::store::{Store, lock};
use super::testing::{Platter, Wires, world};
use super::{Group, GroupConfig, GroupNames, ProposeError, StateMachine, StateMachineError};

mod crash;
mod damage;
mod hung;
mod kept;
mod reads;
mod refound;

const NAMES: GroupNames =
    GroupNames { group: "test", raft: "test/raft", propose: "test/propose", read: "test/read", seen: "test/seen" };
const FILE: &str = "test.redb";
const SOON: Duration = Duration::from_secs(20);

/// What was applied, by index.
type Shown = Arc<Mutex<BTreeMap<u64, String>>>;

/// Keeps every line; does not understand lines that begin with `newer`, and panics over those that begin with `poison`.
#[derive(Default)]
struct Ledger(Shown);

impl StateMachine for Ledger {
    fn apply(&mut self, index: u64, command: &[u8]) -> Result<Vec<u8>, StateMachineError> {
        let line = String::from_utf8_lossy(command).into_owned();
        assert!(!line.starts_with("poison"), "{line} crashes the machine");
        if line.starts_with("newer") {
            return Err(StateMachineError("written by a newer hirsel, upgrade this node".into()));
        }
        let mut lines = lock(&self.0);
        lines.insert(index, line);
        Ok(lines.len().to_string().into_bytes())
    }

    fn reset(&mut self) {
        lock(&self.0).clear();
    }

    fn snapshot(&self) -> Vec<u8> {
        codec::encode(&*lock(&self.0))
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), StateMachineError> {
        *lock(&self.0) = codec::decode(bytes).map_err(|error| StateMachineError(error.to_string()))?;
        Ok(())
    }
}

struct Member {
    group: Group,
    store: Arc<Store>,
    lines: Shown,
}

#[derive(Default)]
struct Cluster {
    wires: Wires,
    platters: BTreeMap<NodeId, Platter>,
    members: BTreeMap<NodeId, Member>,
    lives: u64,
    /// Its machines keep their state on disk.
    on_disk: bool,
}

impl Cluster {
    /// A group with these voters.
    async fn founded(nodes: u64) -> Self {
        let mut cluster = Self::default();
        cluster.found(nodes).await;
        cluster
    }

    async fn found(&mut self, nodes: u64) {
        for node in 1..=nodes {
            self.start(NodeId(node)).await.unwrap();
        }
        self.group(1).found().await.unwrap();
        let voters = (1..=nodes).map(NodeId).collect();
        self.reach(&voters, &BTreeSet::new()).await;
    }

    async fn start(&mut self, node: NodeId) -> Result<(), super::StoreError> {
        self.lives += 1;
        let platter = self.platters.entry(node).or_default();
        let world = world(platter.mount(), node.0 << 32 | self.lives);
        let store = Store::open(&world, FILE).await?;
        let lines = Shown::default();
        let machine: Box<dyn StateMachine> = match self.on_disk {
            true => kept::machine(&*world.disk, &lines),
            false => Box::new(Ledger(lines.clone())),
        };
        let config = GroupConfig { names: NAMES, me: node, world, store: store.clone(), calls: self.wires.plug(node) };
        let group = Group::start(config, machine).await?;
        self.members.insert(node, Member { group, store, lines });
        Ok(())
    }

    /// Ends a member in order.
    async fn stop(&mut self, node: NodeId) {
        self.wires.unplug(node);
        let member = self.members.remove(&node).unwrap();
        member.group.shutdown().await;
        member.store.close().await;
    }

    /// The power of a member fails.
    async fn crash(&mut self, node: NodeId, chance: &mut SmallRng) {
        self.wires.unplug(node);
        self.platters[&node].crash(chance);
        let member = self.members.remove(&node).unwrap();
        member.group.shutdown().await;
        member.store.close().await;
    }

    fn group(&self, node: u64) -> &Group {
        &self.members[&NodeId(node)].group
    }

    fn lines(&self, node: u64) -> Vec<String> {
        lock(&self.members[&NodeId(node)].lines).values().cloned().collect()
    }

    async fn leader(&self) -> NodeId {
        until("a leader", || {
            let led = self.members.iter().find(|(_, member)| member.group.standing().borrow().mine);
            led.map(|(node, _)| *node)
        })
        .await
    }

    /// Steps until the membership is this.
    async fn reach(&self, voters: &BTreeSet<NodeId>, learners: &BTreeSet<NodeId>) {
        let deadline = Instant::now() + SOON;
        loop {
            let leader = self.leader().await;
            let group = &self.members[&leader].group;
            let standing = group.standing().borrow().clone();
            if standing.voters == *voters && standing.learners == *learners {
                return;
            }
            assert!(Instant::now() < deadline, "stuck at {standing:?}");
            let _ = group.set_membership(voters, learners).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn write(&self, through: u64, line: &str) -> u64 {
        self.group(through).propose(line.into(), SOON).await.unwrap().0
    }

    async fn all_have(&self, lines: &[String]) {
        for node in self.members.keys() {
            until(&format!("{lines:?} on node {node}, which has {:?}", self.lines(node.0)), || {
                (self.lines(node.0) == lines).then_some(())
            })
            .await;
        }
    }
}

async fn until<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, wait).await.unwrap_or_else(|_| panic!("never saw {what}"))
}

fn nodes<const N: usize>(nodes: [u64; N]) -> BTreeSet<NodeId> {
    nodes.map(NodeId).into()
}

#[tokio::test(start_paused = true)]
async fn a_group_of_one_is_founded_and_answers() {
    let cluster = Cluster::founded(1).await;
    cluster.write(1, "a").await;
    let (index, result) = cluster.group(1).propose("b".into(), SOON).await.unwrap();
    assert_eq!(result, "2");
    assert_eq!(cluster.lines(1), ["a", "b"]);
    assert_eq!(cluster.group(1).read_point(SOON).await.unwrap(), index);
    // Founding again changes nothing.
    cluster.group(1).found().await.unwrap();
    assert_eq!(cluster.group(1).standing().borrow().voters, nodes([1]));
}

#[tokio::test(start_paused = true)]
async fn any_member_may_propose_and_all_apply_the_same() {
    let cluster = Cluster::founded(3).await;
    for (through, line) in [(1, "a"), (2, "b"), (3, "c")] {
        cluster.write(through, line).await;
    }
    cluster.all_have(&["a", "b", "c"].map(String::from)).await;
    let point = cluster.group(2).read_point(SOON).await.unwrap();
    assert_eq!(point, *lock(&cluster.members[&NodeId(1)].lines).keys().last().unwrap());
}

#[tokio::test(start_paused = true)]
async fn the_next_write_is_accepted_soon_after_the_leader_is_killed() {
    let mut cluster = Cluster::founded(3).await;
    cluster.write(1, "a").await;
    let leader = cluster.leader().await;
    let term = cluster.members[&leader].group.standing().borrow().term;
    cluster.crash(leader, &mut SmallRng::seed_from_u64(1)).await;
    let survivor = cluster.members.keys().next().unwrap().0;
    let killed = Instant::now();
    cluster.write(survivor, "b").await;
    assert!(killed.elapsed() < Duration::from_millis(3200), "{:?}", killed.elapsed());
    assert!(cluster.group(survivor).standing().borrow().term > term);
    cluster.start(leader).await.unwrap();
    cluster.all_have(&["a", "b"].map(String::from)).await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_nobody_disturbs_leads_without_a_break() {
    for voters in [1, 2, 3] {
        let cluster = Cluster::founded(voters).await;
        let leader = cluster.leader().await;
        let standing = cluster.members[&leader].group.standing();
        let before = standing.borrow().clone();
        let idle = Instant::now();
        while idle.elapsed() < Duration::from_secs(10) {
            assert_eq!(*standing.borrow(), before, "{voters} voters");
            for member in cluster.members.values() {
                assert!(member.group.heard_ago().unwrap() < Duration::from_millis(400));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_cut_off_leader_stops_saying_that_it_leads() {
    let cluster = Cluster::founded(3).await;
    let leader = cluster.leader().await;
    cluster.wires.isolate(leader);
    let old = cluster.members[&leader].group.standing();
    until("the old leader to notice", || (!old.borrow().mine).then_some(())).await;
    let others = || cluster.members.iter().filter(|(node, _)| **node != leader);
    until("a new leader", || others().any(|(_, member)| member.group.standing().borrow().mine).then_some(())).await;
    let lost = cluster.members[&leader].group.propose("lost".into(), Duration::from_secs(2)).await;
    assert!(matches!(lost, Err(ProposeError::NoLeader | ProposeError::TimedOut)), "{lost:?}");
    let term = others().map(|(_, member)| member.group.standing().borrow().term).max().unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    cluster.wires.heal();
    let through = others().next().unwrap().0.0;
    cluster.write(through, "kept").await;
    // Pre-Vote: whoever was away comes back without an election.
    assert_eq!(cluster.group(through).standing().borrow().term, term);
}

#[tokio::test(start_paused = true)]
async fn whoever_hears_only_a_leader_without_a_majority_hears_no_leader() {
    let cluster = Cluster::founded(5).await;
    let leader = cluster.leader().await;
    let others: Vec<NodeId> = cluster.members.keys().copied().filter(|node| *node != leader).collect();
    // The leader and one more on a side of their own: the engine goes on to speak up for as long as that lasts.
    for silent in &others[1..] {
        cluster.wires.isolate(*silent);
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    for node in [leader, others[0]] {
        let ago = cluster.members[&node].group.heard_ago().unwrap();
        assert!(ago > Duration::from_secs(8), "{node} says that it heard a leader {ago:?} ago");
    }
    cluster.wires.heal();
    cluster.write(others[0].0, "kept").await;
    let ago = cluster.members[&others[0]].group.heard_ago().unwrap();
    assert!(ago < Duration::from_secs(1), "{ago:?}");
}

#[tokio::test(start_paused = true)]
async fn while_most_voters_are_silent_nothing_is_handed_to_the_one_that_led() {
    let cluster = Cluster::founded(5).await;
    let leader = cluster.leader().await;
    let others: Vec<NodeId> = cluster.members.keys().copied().filter(|node| *node != leader).collect();
    // The two that are left hear each other, and both know who led last.
    for silent in [leader, others[0], others[1]] {
        cluster.wires.isolate(silent);
    }
    // What another node told just before is not true for ever.
    cluster.members[&others[2]].group.hint(Some((leader, Duration::ZERO)), others.iter().copied().collect());
    tokio::time::sleep(Duration::from_secs(10)).await;
    let asked = cluster.members[&others[2]].group.propose("nobody".into(), Duration::from_secs(5)).await;
    assert_eq!(asked, Err(ProposeError::NoLeader), "no doubt is left: nobody was given it");
    cluster.wires.heal();
    // The same when the one that led is among those that are left.
    cluster.write(others[2].0, "between").await;
    let leader = cluster.leader().await;
    let others: Vec<NodeId> = cluster.members.keys().copied().filter(|node| *node != leader).collect();
    others[..3].iter().for_each(|silent| cluster.wires.isolate(*silent));
    tokio::time::sleep(Duration::from_secs(10)).await;
    for asked in [leader, others[3]] {
        let asked = cluster.members[&asked].group.propose("nobody".into(), Duration::from_secs(5)).await;
        assert_eq!(asked, Err(ProposeError::NoLeader), "nobody was given it");
    }
    cluster.wires.heal();
    cluster.write(others[2].0, "somebody").await;
}

#[tokio::test(start_paused = true)]
async fn who_is_no_member_is_not_held_up_by_voters_that_are_gone() {
    let mut cluster = Cluster::founded(5).await;
    cluster.start(NodeId(6)).await.unwrap();
    cluster.group(6).hint(None, (1..=5).map(NodeId).collect());
    let leader = cluster.leader().await;
    let gone: Vec<NodeId> = (1..=5).map(NodeId).filter(|node| *node != leader).collect();
    // Each pair once: where whoever asks begins is not what is looked at.
    for (a, b) in [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)] {
        let (a, b) = (gone[a], gone[b]);
        [a, b].iter().for_each(|node| cluster.wires.isolate(*node));
        let begun = Instant::now();
        cluster.group(6).propose(format!("without {a} and {b}").into(), SOON).await.unwrap();
        cluster.group(6).read_point(SOON).await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?} without {a} and {b}", begun.elapsed());
        cluster.wires.heal();
    }
}

#[tokio::test(start_paused = true)]
async fn a_restarted_replica_has_its_state_before_it_hears_of_anyone() {
    let mut cluster = Cluster::founded(3).await;
    for line in ["a", "b", "c"] {
        cluster.write(1, line).await;
    }
    cluster.all_have(&["a", "b", "c"].map(String::from)).await;
    cluster.group(2).snapshot_now().await;
    cluster.write(1, "d").await;
    cluster.all_have(&["a", "b", "c", "d"].map(String::from)).await;
    // The commit point is written within a moment.
    tokio::time::sleep(Duration::from_secs(1)).await;
    for node in 1..=3 {
        cluster.stop(NodeId(node)).await;
    }
    cluster.start(NodeId(2)).await.unwrap();
    until("the old state", || (cluster.lines(2) == ["a", "b", "c", "d"]).then_some(())).await;
    let alone = cluster.group(2).propose("e".into(), Duration::from_secs(3)).await;
    assert_eq!(alone, Err(ProposeError::NoLeader));
}

/// The engine's default would let it lead its old term again, without an election, as one that has forgotten what it did in it.
#[tokio::test(start_paused = true)]
async fn a_leader_that_was_started_again_leads_no_term_that_it_led_before() {
    for size in [1, 3] {
        let mut cluster = Cluster::founded(size).await;
        cluster.write(1, "a").await;
        let leader = cluster.leader().await;
        let led = cluster.group(leader.0).standing().borrow().term;
        cluster.stop(leader).await;
        cluster.start(leader).await.unwrap();
        let again = cluster.group(leader.0).standing();
        until("a later term", || {
            let standing = again.borrow().clone();
            assert!(!standing.mine || standing.term > led, "of {size}: term {led} is led again");
            (standing.term > led && standing.leader.is_some()).then_some(())
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_learner_that_lags_gets_a_snapshot_in_pieces() {
    let mut cluster = Cluster::founded(1).await;
    let mut chance = SmallRng::seed_from_u64(7);
    let noise: Vec<String> =
        (0..40).map(|_| (0..20_000).map(|_| char::from(chance.random_range(33..127u8))).collect()).collect();
    for line in &noise {
        cluster.write(1, line).await;
    }
    cluster.group(1).snapshot_now().await;
    cluster.start(NodeId(2)).await.unwrap();
    cluster.reach(&nodes([1]), &nodes([2])).await;
    cluster.all_have(&noise).await;
    until("it to be caught up", || {
        (cluster.group(1).facts().get(&NodeId(2)) == Some(&RaftFacts::Learner { caught_up: true })).then_some(())
    })
    .await;
    // What was installed survives a restart.
    cluster.stop(NodeId(2)).await;
    cluster.start(NodeId(2)).await.unwrap();
    cluster.all_have(&noise).await;
}

#[tokio::test(start_paused = true)]
async fn leadership_is_handed_over_without_an_outage() {
    let cluster = Cluster::founded(3).await;
    let leader = cluster.leader().await;
    let next = *cluster.members.keys().find(|node| **node != leader).unwrap();
    let began = Instant::now();
    cluster.members[&leader].group.transfer_leadership(next).await.unwrap();
    assert_eq!(cluster.leader().await, next);
    assert!(began.elapsed() < Duration::from_millis(200), "{:?}", began.elapsed());
    let again = cluster.members[&leader].group.transfer_leadership(leader).await;
    assert!(again.unwrap_err().contains("does not lead"));
    cluster.write(leader.0, "a").await;
}

#[tokio::test(start_paused = true)]
async fn a_voter_is_swapped_for_a_spare_and_the_leader_may_be_the_one() {
    let mut cluster = Cluster::founded(3).await;
    cluster.start(NodeId(4)).await.unwrap();
    cluster.write(1, "a").await;
    cluster.reach(&nodes([1, 2, 3]), &nodes([4])).await;
    let leader = cluster.leader().await;
    let mut voters = nodes([1, 2, 3, 4]);
    voters.remove(&leader);
    cluster.reach(&voters, &BTreeSet::new()).await;
    let leads = |node: &NodeId| cluster.members[node].group.standing().borrow().mine;
    until("a leader among the voters", || (!leads(&leader) && voters.iter().any(leads)).then_some(())).await;
    cluster.write(4, "b").await;
    let through = voters.first().unwrap().0;
    until("both lines", || (cluster.lines(through) == ["a", "b"]).then_some(())).await;
}

#[tokio::test(start_paused = true)]
async fn a_message_that_speaks_for_another_node_is_refused() {
    let cluster = Cluster::founded(3).await;
    let leader = cluster.leader().await;
    let term = cluster.members[&leader].group.standing().borrow().term;
    let liar = cluster.wires.plug(NodeId(9));
    let victim = *cluster.members.keys().find(|node| **node != leader).unwrap();
    let ballot = super::wire::Ballot { term: term + 5, node: leader.0, won: true };
    let request =
        super::wire::Request::Append { ballot, previous: None, rows: Vec::new(), committed: None, alone: false };
    let answer = liar.call(victim, NAMES.raft, codec::encode(&request), SOON).await;
    assert!(
        matches!(&answer, Err(crate::transport::CallError::Refused(words)) if words.contains("came from node 9")),
        "{answer:?}"
    );
    // Noise is refused as well, and nothing happened.
    assert!(liar.call(victim, NAMES.raft, b"noise".to_vec(), SOON).await.is_err());
    assert_eq!(cluster.members[&victim].group.standing().borrow().term, term);
}

#[tokio::test(start_paused = true)]
async fn a_proposal_that_is_sent_again_is_applied_once() {
    let cluster = Cluster::founded(3).await;
    let leader = cluster.leader().await;
    let command = super::Command { proposer: 5, sequence: 0, settled_below: 0, body: "once".into() };
    let sender = cluster.wires.plug(NodeId(9));
    let mut answers = Vec::new();
    for _ in 0..3 {
        let answer = sender.call(leader, NAMES.propose, codec::encode(&command), SOON).await.unwrap();
        answers.push(answer);
    }
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]));
    cluster.all_have(&["once".to_owned()]).await;
    // Also by the next leader, and when the answer got lost on the way.
    let next = *cluster.members.keys().find(|node| **node != leader).unwrap();
    cluster.members[&leader].group.transfer_leadership(next).await.unwrap();
    cluster.leader().await;
    assert_eq!(sender.call(next, NAMES.propose, codec::encode(&command), SOON).await.unwrap(), answers[0]);
    cluster.all_have(&["once".to_owned()]).await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_stops_with_words_at_an_entry_it_does_not_understand() {
    let cluster = Cluster::founded(1).await;
    cluster.write(1, "a").await;
    let answer = cluster.group(1).propose("newer".into(), SOON).await;
    let Err(ProposeError::Stopped(words)) = answer else { panic!("{answer:?}") };
    assert!(words.contains("newer hirsel, upgrade this node"), "{words}");
    assert_eq!(cluster.group(1).stopped().borrow().as_ref(), Some(&words));
    assert!(!cluster.group(1).standing().borrow().mine);
    assert_eq!(cluster.lines(1), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_replica_stops_with_words_at_an_entry_that_it_panics_over() {
    let cluster = Cluster::founded(1).await;
    cluster.write(1, "a").await;
    let answer = cluster.group(1).propose("poison".into(), SOON).await;
    let Err(ProposeError::Stopped(words)) = answer else { panic!("{answer:?}") };
    assert!(words.contains("cannot apply entry") && words.contains("poison crashes the machine"), "{words}");
    assert_eq!(cluster.group(1).stopped().borrow().as_ref(), Some(&words));
    assert_eq!(cluster.lines(1), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_command_that_is_too_large_is_refused_before_it_is_sent() {
    let cluster = Cluster::founded(1).await;
    let bytes = super::COMMAND_BYTES_MAX + 1;
    assert_eq!(cluster.group(1).propose(vec![0; bytes], SOON).await, Err(ProposeError::TooLarge(bytes)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_for_the_leader_while_it_changes_waits_for_nobody() {
    const TIMES: u32 = 50_000;
    let mut cluster = Cluster::default();
    cluster.start(NodeId(1)).await.unwrap();
    cluster.group(1).found().await.unwrap();
    cluster.leader().await;
    let (asks, changes) = (cluster.group(1).clone(), cluster.group(1).clone());
    // On threads of their own: should they wait for each other, nothing else hangs.
    let (done, ended) = std::sync::mpsc::channel();
    let also = done.clone();
    std::thread::spawn(move || {
        for _ in 0..TIMES {
            let _ = asks.inner.known_leader();
        }
        done.send(())
    });
    std::thread::spawn(move || {
        for _ in 0..TIMES {
            changes.inner.standing.send_modify(|_| {});
        }
        also.send(())
    });
    for _ in 0..2 {
        let waited = tokio::task::block_in_place(|| ended.recv_timeout(SOON));
        assert_eq!(waited, Ok(()), "they wait for each other");
    }
}
