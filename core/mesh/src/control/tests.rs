//! Stories of the control state: members, followers, leaders that die, disks that remember.

use std::collections::{BTreeMap, BTreeSet};

use hirsel_model::WallTime;
use hirsel_model::control::Command;
use hirsel_model::event::NewEvent;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;
use crate::raft::testing::{Platter, Wires, world};
use crate::transport::Peer;

const SOON: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Herd {
    wires: Wires,
    platters: BTreeMap<u64, Platter>,
    nodes: BTreeMap<u64, Arc<Control>>,
    lives: u64,
}

impl Herd {
    async fn start(&mut self, node: u64) {
        self.lives += 1;
        let world = world(self.platters.entry(node).or_default().mount(), node << 32 | self.lives);
        let peer = |node: u64| (NodeId(node), Peer { addr: ([127, 0, 0, 1], 7400 + node as u16).into(), key: [0; 32] });
        let peers = watch::Sender::new(Arc::new(Peers { nodes: (1..=5).map(peer).collect() })).subscribe();
        let config = ControlConfig { world, transport: self.wires.plug(NodeId(node)), me: NodeId(node), peers };
        self.nodes.insert(node, Control::start(config).await.unwrap());
    }

    /// Voters 1 to `voters`, followers up to `nodes`.
    async fn founded(voters: u64, nodes: u64) -> Self {
        let mut herd = Self::default();
        for node in 1..=nodes {
            herd.start(node).await;
        }
        let first = herd.nodes[&1].found(url("http://first")).await.unwrap();
        assert!(matches!(first, Outcome::Done { .. }), "{first:?}");
        herd.reach((1..=voters).collect()).await;
        herd
    }

    async fn reach(&self, voters: BTreeSet<u64>) {
        let voters: BTreeSet<NodeId> = voters.into_iter().map(NodeId).collect();
        let reached = async {
            while self.leader().await.leadership().borrow().voters != voters {
                let _ = self.leader().await.set_membership(voters.clone(), BTreeSet::new()).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(SOON, reached).await.unwrap();
    }

    async fn leader(&self) -> &Control {
        until("a leader", || self.nodes.values().find(|node| node.leadership().borrow().mine)).await
    }

    async fn crash(&mut self, node: u64) {
        self.wires.unplug(NodeId(node));
        self.platters[&node].crash(&mut SmallRng::seed_from_u64(node));
        self.nodes.remove(&node).unwrap().shutdown().await;
    }

    async fn set(&self, through: u64, text: &str) -> LogIndex {
        match self.nodes[&through].propose(url(text), SOON).await.unwrap() {
            Outcome::Done { index } => index,
            other => panic!("{other:?}"),
        }
    }

    async fn shows(&self, node: u64, text: &str) {
        let state = self.nodes[&node].state();
        until(&format!("{text} on node {node}"), || {
            (state.borrow().cluster.webhook.as_deref() == Some(text)).then_some(())
        })
        .await;
    }
}

async fn until<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let wait = async {
        loop {
            match look() {
                Some(found) => return found,
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    timeout(SOON, wait).await.unwrap_or_else(|_| panic!("never saw {what}"))
}

fn entry(command: Command) -> Entry {
    Entry { at: WallTime(1), by: "test".into(), if_index: None, command }
}

fn url(text: &str) -> Entry {
    entry(Command::SetWebhook { url: Some(text.into()) })
}

#[tokio::test(start_paused = true)]
async fn everyone_sees_the_state_and_may_change_it() {
    let herd = Herd::founded(3, 5).await;
    for through in 1..=5 {
        let text = format!("http://from-{through}");
        let index = herd.set(through, &text).await;
        for node in 1..=5 {
            herd.shows(node, &text).await;
            assert!(herd.nodes[&node].state().borrow().applied >= index);
        }
    }
    let place = |node: u64| herd.nodes[&node].leadership().borrow().member;
    assert_eq!(
        [1, 3, 4, 5].map(place),
        [Membership::Voter, Membership::Voter, Membership::Follower, Membership::Follower]
    );
    let leader = herd.nodes[&1].leadership().borrow().leader;
    let follower = herd.nodes[&4].leadership().borrow().clone();
    assert!(leader.is_some() && follower.leader == leader && follower.stale_ms < 2_000, "{follower:?}");
    assert_eq!(follower.voters, (1..=3).map(NodeId).collect());
}

#[tokio::test(start_paused = true)]
async fn a_read_barrier_waits_for_what_was_confirmed_elsewhere() {
    let herd = Herd::founded(3, 4).await;
    for round in 0..10 {
        let text = format!("http://{round}");
        let index = herd.set(1 + round % 3, &text).await;
        // On a member and on a follower, neither of which has it for sure.
        for node in [1 + (round + 1) % 3, 4] {
            let point = herd.nodes[&node].read_barrier(SOON).await.unwrap();
            assert!(point >= index);
            assert_eq!(herd.nodes[&node].state().borrow().cluster.webhook.as_ref(), Some(&text));
        }
    }
    // Without a majority nobody can know.
    let mut herd = herd;
    herd.crash(1).await;
    herd.crash(2).await;
    let alone = herd.nodes[&3].read_barrier(Duration::from_secs(3)).await;
    assert_eq!(alone, Err(ProposeError::NoLeader));
}

#[tokio::test(start_paused = true)]
async fn that_a_node_leads_is_confirmed_by_no_other_leader_and_in_no_other_term() {
    let herd = Herd::founded(3, 3).await;
    let first = herd.leader().await;
    let term = first.leadership().borrow().term;
    first.lead_barrier(term, SOON).await.unwrap();
    let elsewhere = herd.nodes.values().find(|node| !node.leadership().borrow().mine).unwrap();
    elsewhere.read_barrier(SOON).await.unwrap();
    assert_eq!(elsewhere.lead_barrier(term, SOON).await, Err(ProposeError::NoLeader));
    assert_eq!(first.lead_barrier(term - 1, SOON).await, Err(ProposeError::NoLeader));
    let me = first.leadership().borrow().leader;
    let next = herd.nodes.keys().map(|node| NodeId(*node)).find(|node| Some(*node) != me).unwrap();
    first.transfer_leadership(next).await.unwrap();
    // In whatever moment of its fall.
    assert!(first.lead_barrier(term, SOON).await.is_err());
    first.read_barrier(SOON).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_follower_goes_on_with_another_source_and_never_backwards() {
    let mut herd = Herd::founded(3, 4).await;
    let state = herd.nodes[&4].state();
    let mut seen = LogIndex(0);
    for round in 0..9 {
        let victim = 1 + round % 3;
        herd.crash(victim).await;
        let through = 1 + (round + 1) % 3;
        let text = format!("http://{round}");
        herd.set(through, &text).await;
        herd.shows(4, &text).await;
        let now = state.borrow().applied;
        assert!(now > seen);
        seen = now;
        herd.start(victim).await;
        herd.shows(victim, &text).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_follower_leaves_a_source_that_hears_no_leader() {
    let herd = Herd::founded(3, 4).await;
    herd.shows(4, "http://first").await;
    let leader = herd.leader().await.shared.me;
    // Each member but the leader is cut off in turn; the follower reaches all of them.
    for member in (1..=3).filter(|node| NodeId(*node) != leader) {
        let others = (1..=3).filter(|other| *other != member);
        others.for_each(|other| herd.wires.cut(NodeId(member), NodeId(other)));
        tokio::time::sleep(Duration::from_secs(5)).await;
        herd.set(leader.0, &format!("http://{member}")).await;
        herd.shows(4, &format!("http://{member}")).await;
        until("fresh news", || (herd.nodes[&4].leadership().borrow().stale_ms < 2_000).then_some(())).await;
        herd.wires.heal();
    }
}

#[tokio::test(start_paused = true)]
async fn a_follower_alone_starts_with_the_last_state_it_had() {
    let mut herd = Herd::founded(1, 2).await;
    herd.set(1, "http://kept").await;
    herd.shows(2, "http://kept").await;
    // Within the second in which it is written at the latest.
    tokio::time::sleep(Duration::from_secs(3)).await;
    herd.crash(1).await;
    herd.crash(2).await;
    herd.start(2).await;
    assert_eq!(herd.nodes[&2].state().borrow().cluster.webhook.as_deref(), Some("http://kept"));
    // It ages, and says so.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let alone = herd.nodes[&2].leadership().borrow().clone();
    assert!(alone.leader.is_none() && alone.stale_ms >= 4_500 && alone.term > 0 && !alone.mine, "{alone:?}");
    herd.start(1).await;
    herd.set(2, "http://again").await;
    herd.shows(2, "http://again").await;
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_was_away_for_long_gets_the_whole_state() {
    let mut herd = Herd::founded(1, 2).await;
    herd.shows(2, "http://first").await;
    herd.crash(2).await;
    for number in 0..1200 {
        herd.nodes[&1].propose(entry(Command::Note { events: Vec::<NewEvent>::new() }), SOON).await.unwrap();
        if number % 400 == 0 {
            herd.set(1, &format!("http://{number}")).await;
        }
    }
    herd.start(2).await;
    herd.shows(2, "http://800").await;
    assert_eq!(*herd.nodes[&2].state().borrow(), *herd.nodes[&1].state().borrow());
    herd.set(1, "http://next").await;
    herd.shows(2, "http://next").await;
    assert_eq!(*herd.nodes[&2].state().borrow(), *herd.nodes[&1].state().borrow());
}

#[tokio::test(start_paused = true)]
async fn a_member_that_is_removed_follows_from_then_on() {
    let herd = Herd::founded(3, 3).await;
    herd.reach([1, 2].into()).await;
    let leader = herd.leader().await;
    let removed = async {
        while leader.raft_facts().contains_key(&NodeId(3)) {
            let _ = leader.set_membership([NodeId(1), NodeId(2)].into(), BTreeSet::new()).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, removed).await.unwrap();
    herd.set(3, "http://after").await;
    herd.shows(3, "http://after").await;
    let place = || (herd.nodes[&3].leadership().borrow().member == Membership::Follower).then_some(());
    until("it to know its place", place).await;
    assert!(herd.nodes[&3].leadership().borrow().stale_ms < 2_000);
}

#[tokio::test(start_paused = true)]
async fn a_change_that_is_too_large_is_refused_with_the_limit() {
    let herd = Herd::founded(1, 1).await;
    let outcome = herd.nodes[&1].propose(url(&"x".repeat(COMMAND_BYTES_MAX)), SOON).await.unwrap();
    assert!(matches!(outcome, Outcome::Refused(Refusal::Limit { .. })), "{outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn an_entry_of_a_newer_hirsel_stops_the_replica_and_the_state_stays() {
    let herd = Herd::founded(1, 1).await;
    let refused = herd.nodes[&1].shared.group.propose(b"\x81\xa3new\x01".to_vec(), SOON).await;
    let Err(ProposeError::Stopped(words)) = refused else { panic!("{refused:?}") };
    assert!(words.contains("newer hirsel, upgrade this node"), "{words}");
    assert_eq!(herd.nodes[&1].stopped().borrow().as_ref(), Some(&words));
    herd.shows(1, "http://first").await;
    until("it to stop leading", || (!herd.nodes[&1].leadership().borrow().mine).then_some(())).await;
}

#[test]
fn what_a_replica_heard_itself_counts_unless_its_source_heard_later() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let _entered = runtime.enter();
    let now = Instant::now();
    let standing = Standing {
        term: 3,
        leader: Some(NodeId(1)),
        voters: [NodeId(2)].into(),
        place: Place::Voter,
        ..Standing::default()
    };
    let beat =
        Beat { term: 4, leader: Some(NodeId(5)), voters: [NodeId(5)].into(), stale_ms: Some(100), ..Beat::default() };
    let of = |heard: Option<u64>, beat: &Beat| {
        leadership(NodeId(2), standing.clone(), heard.map(Duration::from_millis), Some(&(beat.clone(), now)), now)
    };
    assert_eq!(of(Some(50), &beat).leader, Some(NodeId(1)));
    let told = of(Some(900), &beat);
    assert_eq!((told.leader, told.term, told.member, told.stale_ms), (Some(NodeId(5)), 4, Membership::Follower, 100));
    assert_eq!(of(None, &beat).leader, Some(NodeId(5)));
    // An old term is no news, however fresh.
    assert_eq!(of(Some(900), &Beat { term: 2, ..beat }).leader, Some(NodeId(1)));
}
