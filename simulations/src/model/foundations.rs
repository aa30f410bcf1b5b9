//! Two foundations of one cluster: most voters are given up and go on behind a cut, and those who are left found it anew.

use std::collections::BTreeSet;
use std::sync::Arc;

use hirsel_model::control::{Command, ControlState, Entry, Outcome};
use hirsel_model::*;
use rand::Rng;

use super::Bug;
use super::check::Found;
use super::world::World;

/// The foundation of those who were given up, and go on behind a cut.
pub(super) struct Past {
    pub lost: BTreeSet<NodeId>,
    committed: Arc<ControlState>,
    raft: BTreeSet<NodeId>,
    index: u64,
    /// It is in the place of the present one, for the turn of one of its nodes.
    pub in_place: bool,
}

impl World {
    /// Whether the node was given up.
    pub(super) fn is_past(&self, node: NodeId) -> bool {
        self.past.as_ref().is_some_and(|past| past.lost.contains(&node))
    }

    pub(super) fn change_places(&mut self) {
        let Some(past) = &mut self.past else { return };
        past.in_place = !past.in_place;
        std::mem::swap(&mut self.committed, &mut past.committed);
        std::mem::swap(&mut self.raft, &mut past.raft);
        std::mem::swap(&mut self.index, &mut past.index);
    }

    /// An operator gives up `lost`: the survivor with the most founds the control group anew.
    pub fn refound(&mut self, lost: &BTreeSet<NodeId>) -> Result<(), Found> {
        let survivors = || self.hosts.values().filter(|host| host.is_on() && !lost.contains(&host.id));
        let Some(best) = survivors().max_by_key(|host| (host.state.applied, std::cmp::Reverse(host.id))) else {
            return Ok(());
        };
        let (survivor, mut state) = (best.id, (*best.state).clone());
        let term = survivors().map(|host| host.term).max().unwrap_or(0) + 1;
        let tag = state.cluster.tag.next(self.rng.random());
        let off = self.bug == Bug::LostTakenForOff;
        let command = Command::Recover { tag, survivor, lost: lost.clone(), off };
        let index = state.applied.next();
        let outcome =
            state.apply(index, Entry { at: WallTime(self.now.0), by: String::new(), if_index: None, command });
        assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
        self.say(&format!("{survivor} founds the control group anew without {lost:?}"));
        self.proposed.clear();
        self.past = Some(Past {
            lost: lost.clone(),
            committed: std::mem::replace(&mut self.committed, Arc::new(state)),
            raft: std::mem::replace(&mut self.raft, [survivor].into()),
            index: std::mem::replace(&mut self.index, index.0),
            in_place: false,
        });
        for host in self.hosts.values_mut().filter(|host| !lost.contains(&host.id)) {
            host.book = None;
        }
        self.hosts.get_mut(&survivor).expect("a host").state = self.committed.clone();
        self.lead(survivor, term);
        self.checks.elected(self.committed.cluster.tag.epoch, term, survivor)
    }

    /// Who was given up is off for good.
    pub fn bury(&mut self) {
        let Some(Past { lost, .. }) = self.past.take() else { return };
        self.say(&format!("{lost:?} are off"));
        self.hosts.retain(|node, _| !lost.contains(node));
        self.mail.retain(|letter| !lost.contains(&letter.from) && !lost.contains(&letter.to));
        self.waiting.retain(|waiting| !lost.contains(&waiting.leader) && !lost.contains(&waiting.asker));
        for host in self.hosts.values_mut() {
            host.leader = host.leader.filter(|(leader, _)| !lost.contains(leader));
        }
    }
}
