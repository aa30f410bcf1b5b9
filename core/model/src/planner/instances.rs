//! Which instance runs where.
//!
//! An instance is *good* while its revision is wanted and its node may keep it. Whatever is not good goes: at once when its node is
//! lost, otherwise through [`Phase::Draining`]. With start-first the replacement is healthy before the old one is drained; with
//! stop-first the old one is gone before the new one starts. A drained instance leaves the plan when every live load balancer follows
//! a plan in which it drains and none has requests for it, or when its time is up.
//!
//! Everything is a level: how many are good, ready, going and missing now. So any leader continues where the last one stopped.

use std::collections::BTreeMap;
use std::time::Duration;

use super::ground::{Ground, Health};
use super::place::Board;
use super::{Draft, exclusive, long, reason};
use crate::id::*;
use crate::plan::{Because, InstanceAssignment, Phase};
use crate::spec::{AppSpec, Capacity, ServiceSpec, UpdateOrder};

mod because;

/// A new instance that is not healthy for this long has failed, and its revision with it.
const FAILED_AFTER: Duration = Duration::from_secs(60);
/// Or one that was started again this often without becoming healthy.
const FAILED_RESTARTS: u32 = 3;
/// An instance that is unhealthy for this long no longer holds up the draining of a node.
const STUCK_AFTER: Duration = Duration::from_secs(60);
/// So many instances move at a time for the sake of balance alone, in the whole cluster: it must not be felt.
const BALANCING_MAX: usize = 4;
/// A node that came and went is not given instances for the sake of balance before it was steady this long.
const BALANCE_STEADY: Duration = Duration::from_secs(60);

/// Brings every service to its count, revision and spread, as far as may be done now.
pub(super) fn settle(ground: &Ground, draft: &mut Draft) {
    forget_reverted(ground, draft);
    forget_proven(ground, draft);
    let stop_first = |app: &AppSpec| app.services.values().any(|s| s.update.order == UpdateOrder::StopFirst);
    let ghosts =
        if ground.view.spec.apps.values().any(stop_first) { ground.ghosts(&draft.plan) } else { BTreeMap::new() };
    let balanced = ground.balanced(&draft.plan);
    let mut board = Board::new(ground, &draft.plan);
    let mut groups = gather(ground, draft);
    for group in &mut groups {
        group.lose(draft);
        for member in &group.members {
            board.add(member.row, group.needs());
        }
    }
    let moving =
        |member: &Member| matches!(member.assigned.reason.because, Because::Joined { .. }) && !member.is_ready();
    let moving = groups.iter().flat_map(|group| &group.members).filter(|member| moving(member)).count();
    // Whoever is not heard and not judged yet will be back or lost in a moment. What is best without it is known then.
    let mut balancing = if ground.is_in_doubt() { 0 } else { BALANCING_MAX.saturating_sub(moving) };
    let mut out = Vec::new();
    for group in groups {
        let ghosts = ghosts.get(&(&group.app, &group.service)).copied().unwrap_or(0);
        let target = Revision::default();
        let mut shift = Shift { ground, board: &mut board, draft, group, target, balanced, ghosts };
        shift.work(&mut balancing);
        out.extend(shift.group.members.into_iter().map(|member| (member.id, member.assigned)));
    }
    draft.plan.instances = out.into_iter().collect();
}

/// A revision stays reverted until the service is described anew.
fn forget_reverted(ground: &Ground, draft: &mut Draft) {
    let apps = &ground.view.spec.apps;
    for (app, services) in &mut draft.plan.reverted {
        let now = apps.get(app).map(|app| &app.services);
        services.retain(|name, revision| now.and_then(|s| s.get(name)).is_some_and(|s| s.revision == *revision));
    }
    draft.plan.reverted.retain(|_, services| !services.is_empty());
}

/// What works is remembered as long as the service is described and wants to go back.
fn forget_proven(ground: &Ground, draft: &mut Draft) {
    let apps = &ground.view.spec.apps;
    for (app, services) in &mut draft.plan.proven {
        let now = apps.get(app).map(|app| &app.services);
        services.retain(|name, _| now.and_then(|s| s.get(name)).is_some_and(|s| s.update.auto_revert));
    }
    draft.plan.proven.retain(|_, services| !services.is_empty());
}

/// One service with its instances.
struct Group<'a> {
    app: AppName,
    service: ServiceName,
    /// None when the service is no longer described.
    spec: Option<(&'a AppSpec, &'a ServiceSpec)>,
    members: Vec<Member>,
    /// Instances whose node is gone.
    orphans: Vec<(InstanceId, InstanceAssignment)>,
    /// Where they were.
    lost: Vec<NodeId>,
}

struct Member {
    id: InstanceId,
    assigned: InstanceAssignment,
    row: usize,
    health: Health,
}

impl Member {
    fn is_ready(&self) -> bool {
        self.health == Health::Ready
    }

    fn is_active(&self) -> bool {
        self.assigned.phase == Phase::Active
    }
}

/// Takes the instances out of the draft, by service, in order; services without instances included.
fn gather<'a>(ground: &Ground<'a>, draft: &mut Draft) -> Vec<Group<'a>> {
    let mut groups: BTreeMap<(AppName, ServiceName), Group<'a>> = BTreeMap::new();
    for (app, spec) in &ground.view.spec.apps {
        for (service, described) in &spec.services {
            let group = Group::new(app.clone(), service.clone(), Some((spec, described)));
            groups.insert((app.clone(), service.clone()), group);
        }
    }
    let mut instances = std::mem::take(&mut draft.plan.instances).into_iter().peekable();
    while let Some((first, _)) = instances.peek() {
        let key = (first.app.clone(), first.service.clone());
        let group =
            groups.entry(key).or_insert_with_key(|(app, service)| Group::new(app.clone(), service.clone(), None));
        let same = |(id, _): &(InstanceId, InstanceAssignment)| id.app == group.app && id.service == group.service;
        while let Some((id, assigned)) = instances.next_if(same) {
            let stays = |row: &usize| !ground.rows[*row].lost || long::stays(ground.view, &id, &assigned);
            match ground.row(assigned.node).filter(stays) {
                Some(row) => {
                    let health = ground.health(row, &id, assigned.since);
                    group.members.push(Member { id, assigned, row, health });
                }
                None => group.orphans.push((id, assigned)),
            }
        }
    }
    groups.into_values().collect()
}

impl<'a> Group<'a> {
    fn new(app: AppName, service: ServiceName, spec: Option<(&'a AppSpec, &'a ServiceSpec)>) -> Self {
        Self { app, service, spec, members: Vec::new(), orphans: Vec::new(), lost: Vec::new() }
    }

    /// Drops the instances whose node is gone.
    fn lose(&mut self, draft: &mut Draft) {
        for (_, assigned) in self.orphans.drain(..) {
            draft.touched = true;
            if assigned.phase == Phase::Active {
                self.lost.push(assigned.node);
            }
        }
    }

    fn needs(&self) -> Capacity {
        self.spec.map(|(_, service)| service.resources).unwrap_or_default()
    }

    fn want(&self) -> usize {
        match self.spec {
            Some((app, service)) if !app.stopped => usize::try_from(service.replicas.min).unwrap_or(usize::MAX),
            Some(_) | None => 0,
        }
    }

    /// Whether load balancers may know it. Of an application that is gone nobody can say, so it counts as routed.
    fn is_routed(&self) -> bool {
        self.spec.is_none_or(|(app, _)| app.is_balanced(&self.service))
    }
}

/// What is to become of an active instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Good,
    /// Its revision is not wanted any more.
    Outdated,
    /// Its node may not keep it.
    Displaced,
    /// Its service is not wanted at all.
    Unwanted,
}

/// How the instances of a service stand.
#[derive(Default)]
struct Tally {
    good: usize,
    good_ready: usize,
    /// Good, but unhealthy for so long that nobody should wait for them.
    stuck: usize,
    outdated: usize,
    displaced: usize,
    /// Going, and as far as known still serving.
    going_serving: usize,
    /// Started to replace a displaced one, not ready.
    relieving: usize,
    /// Started to replace an outdated one, not ready.
    updating: usize,
    /// Started for balance, not ready.
    balancing: usize,
    draining: usize,
}

/// One service while it is worked on.
struct Shift<'a, 'w> {
    ground: &'w Ground<'a>,
    board: &'w mut Board<'a>,
    draft: &'w mut Draft,
    group: Group<'a>,
    /// The revision that instances shall have.
    target: Revision,
    /// The newest plan that every live load balancer follows; none without any.
    balanced: Option<Generation>,
    /// Instances that run on although the plan has dropped them.
    ghosts: usize,
}

impl Shift<'_, '_> {
    fn work(&mut self, balancing: &mut usize) {
        self.release();
        self.prove();
        self.revert();
        self.target = self.wanted_revision();
        self.board.begin();
        for at in 0..self.group.members.len() {
            if self.fate(at) == Some(Fate::Good) {
                self.board.mark(self.group.members[at].row);
            }
        }
        self.drain_going();
        self.drain_excess();
        self.start();
        if *balancing > 0 && !self.draft.plan.brake && self.balance() {
            *balancing -= 1;
        }
    }

    /// Lets go of drained instances that nobody uses any more.
    fn release(&mut self) {
        let stop = self.group.spec.map(|(_, service)| service.stop.clone()).unwrap_or_default();
        let (needs, routed) = (self.group.needs(), self.group.is_routed());
        let drain = Duration::from_millis(stop.drain_ms);
        let members = std::mem::take(&mut self.group.members);
        for member in members {
            let followed = self.balanced.is_none_or(|generation| generation >= member.assigned.since);
            let idle = followed && !self.ground.is_busy(&member.id);
            let late = self.ground.view.draining_for.get(&member.id).is_some_and(|since| *since >= drain);
            let free = !routed || member.health == Health::Unready || idle || late;
            if !member.is_active() && free {
                self.board.remove(member.row, needs);
                self.draft.touched = true;
            } else {
                self.group.members.push(member);
            }
        }
    }

    /// Notes that the newest revision works: as many as wanted run by it, are ready, and are all there is.
    fn prove(&mut self) {
        let Some((app, service)) = self.group.spec else { return };
        let works = |member: &Member| member.is_ready() && member.assigned.revision == service.revision;
        let all = self.group.members.len();
        if service.update.auto_revert
            && !app.stopped
            && (all > 0 && all >= self.group.want())
            && self.group.members.iter().all(works)
            && self.proven() != Some(service.revision)
        {
            let services = self.draft.plan.proven.entry(self.group.app.clone()).or_default();
            services.insert(self.group.service.clone(), service.revision);
            self.draft.touched = true;
        }
    }

    fn proven(&self) -> Option<Revision> {
        self.draft.plan.proven.get(&self.group.app).and_then(|services| services.get(&self.group.service)).copied()
    }

    /// The revision that worked last, where it is another than the newest and still known how to run.
    fn resort(&self) -> Option<Revision> {
        let (_, service) = self.group.spec?;
        let former = self.ground.view.former.get(&self.group.app)?.get(&self.group.service)?;
        self.proven().filter(|revision| *revision != service.revision && former.contains_key(revision))
    }

    /// The described one; after a revert the newest former one that still runs, or the one that worked last.
    fn wanted_revision(&self) -> Revision {
        let Some((_, service)) = self.group.spec else { return Revision::default() };
        let former = self.group.members.iter().filter(|m| m.is_active() && m.assigned.revision < service.revision);
        let former = former.map(|member| member.assigned.revision).max();
        match former.or_else(|| self.resort()) {
            Some(former) if self.is_reverted() => former,
            Some(_) | None => service.revision,
        }
    }

    fn is_reverted(&self) -> bool {
        let services = self.draft.plan.reverted.get(&self.group.app);
        services.is_some_and(|services| services.contains_key(&self.group.service))
    }

    /// Finds the newest revision wanting when one of its instances failed before it ever worked, and there is something to go back to.
    fn revert(&mut self) {
        let Some((_, service)) = self.group.spec else { return };
        let members = || self.group.members.iter().filter(|member| member.is_active());
        if !service.update.auto_revert
            || self.is_reverted()
            || !(members().any(|member| member.assigned.revision < service.revision) || self.resort().is_some())
        {
            return;
        }
        let failed = members().any(|member| {
            member.assigned.revision == service.revision
                && member.health == Health::Unready
                && (self.is_unhealthy_for(member, FAILED_AFTER)
                    || self.ground.facts(member.row, &member.id).is_some_and(|facts| facts.restarts >= FAILED_RESTARTS))
        });
        if failed {
            let services = self.draft.plan.reverted.entry(self.group.app.clone()).or_default();
            services.insert(self.group.service.clone(), service.revision);
            self.draft.touched = true;
        }
    }

    fn is_unhealthy_for(&self, member: &Member, at_least: Duration) -> bool {
        self.ground.view.unhealthy_for.get(&member.id).is_some_and(|time| *time >= at_least)
    }

    /// None for one that drains already.
    fn fate(&self, at: usize) -> Option<Fate> {
        let member = &self.group.members[at];
        if !member.is_active() {
            return None;
        }
        let Some((app, service)) = self.group.spec else { return Some(Fate::Unwanted) };
        Some(if app.stopped {
            Fate::Unwanted
        } else if !self.keeps(member, service) {
            Fate::Displaced
        } else if member.assigned.revision != self.target {
            Fate::Outdated
        } else {
            Fate::Good
        })
    }

    fn keeps(&self, member: &Member, service: &ServiceSpec) -> bool {
        match self.ground.rows[member.row].lost {
            // It has a long grant.
            true => self.board.keeps_away(member.row, service),
            false => self.board.keeps(member.row, service),
        }
    }

    fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for (at, member) in self.group.members.iter().enumerate() {
            match self.fate(at) {
                None => tally.draining += 1,
                Some(Fate::Good) => {
                    tally.good += 1;
                    tally.good_ready += usize::from(member.is_ready());
                    if !member.is_ready() {
                        match member.assigned.reason.because {
                            Because::Drained { .. } => tally.relieving += 1,
                            Because::Updated { .. } | Because::Reverted { .. } => tally.updating += 1,
                            Because::Joined { .. } => tally.balancing += 1,
                            Because::Wanted
                            | Because::Pinned
                            | Because::Moved { .. }
                            | Because::Applied { .. }
                            | Because::Lost { .. } => {}
                        }
                        tally.stuck += usize::from(self.is_unhealthy_for(member, STUCK_AFTER));
                    }
                }
                Some(fate) => {
                    tally.going_serving += usize::from(member.health != Health::Unready);
                    match fate {
                        Fate::Outdated => tally.outdated += 1,
                        Fate::Displaced | Fate::Unwanted | Fate::Good => tally.displaced += 1,
                    }
                }
            }
        }
        tally
    }

    /// Drains what is not good, as far as enough is left to serve.
    fn drain_going(&mut self) {
        let mut going: Vec<usize> =
            (0..self.group.members.len()).filter(|at| !matches!(self.fate(*at), None | Some(Fate::Good))).collect();
        if going.is_empty() {
            return;
        }
        // What does not serve goes first, then what has to leave its node.
        going.sort_by_key(|at| (self.group.members[*at].health, self.fate(*at) != Some(Fate::Displaced), *at));
        let want = self.group.want();
        let tally = self.tally();
        let order = self.group.spec.map(|(_, service)| &service.update);
        let stop_first = order.is_some_and(|update| update.order == UpdateOrder::StopFirst);
        let parallel = order.map_or(1, |update| usize::try_from(update.parallel.max(1)).unwrap_or(usize::MAX));
        let stuck = if tally.outdated == 0 { tally.stuck } else { 0 };
        let floor = if stop_first { want.saturating_sub(parallel) } else { want.saturating_sub(stuck) };
        let (mut serving, mut all) = (tally.good_ready + tally.going_serving, tally.good + going.len());
        for at in going {
            let serves = self.group.members[at].health != Health::Unready;
            let spared = if serves { serving > floor } else { stop_first || all > want };
            if !spared {
                continue;
            }
            serving -= usize::from(serves);
            all -= 1;
            let because = self.because_going(at);
            self.drain(at, because);
        }
    }

    /// Drains what is more than wanted, worst placed first.
    fn drain_excess(&mut self) {
        let tally = self.tally();
        let excess = tally.good.saturating_sub(self.group.want() + tally.balancing);
        let Some((app, service)) = self.group.spec else { return };
        let mut good: Vec<usize> =
            (0..self.group.members.len()).filter(|at| self.fate(*at) == Some(Fate::Good)).collect();
        for _ in 0..excess {
            let worst = good.iter().copied().max_by_key(|at| {
                let member = &self.group.members[*at];
                (std::cmp::Reverse(member.health), self.board.crowd(member.row, service.spread), member.id.number)
            });
            let Some(at) = worst else { return };
            good.retain(|other| *other != at);
            self.board.unmark(self.group.members[at].row);
            let because = self.because_excess(at, app);
            self.drain(at, because);
        }
    }

    fn drain(&mut self, at: usize, because: (Because, String)) {
        let assigned = &mut self.group.members[at].assigned;
        assigned.phase = Phase::Draining;
        assigned.since = self.draft.generation;
        assigned.reason = reason(because.0, because.1);
        self.draft.touched = true;
    }

    /// Starts what is missing and may be started now.
    fn start(&mut self) {
        let Some((app, service)) = self.group.spec else { return };
        let (want, tally) = (self.group.want(), self.tally());
        let need = want.saturating_sub(tally.good);
        if need == 0 {
            return;
        }
        let Some(clear) = self.clearance(service.exclusive) else { return };
        let only = if let exclusive::Clear::On(nodes) = &clear { Some(nodes) } else { None };
        let parallel = usize::try_from(service.update.parallel.max(1)).unwrap_or(usize::MAX);
        let going = tally.outdated + tally.displaced;
        let uncovered = match service.update.order {
            UpdateOrder::StartFirst => want.saturating_sub(tally.good + going),
            UpdateOrder::StopFirst => want.saturating_sub(tally.good + going + tally.draining + self.ghosts),
        };
        let (relieve, update) = match service.update.order {
            UpdateOrder::StartFirst => {
                let update = if tally.outdated > 0 { parallel.saturating_sub(tally.updating) } else { 0 };
                (tally.displaced.saturating_sub(tally.relieving), update.min(tally.outdated))
            }
            UpdateOrder::StopFirst => (0, 0),
        };
        let mut becauses = self.because_missing(app, service, uncovered.min(need));
        let displaced = (0..self.group.members.len()).filter(|at| self.fate(*at) == Some(Fate::Displaced));
        let relieve: Vec<_> = displaced.take(relieve).map(|at| self.because_going(at)).collect();
        becauses.extend(relieve);
        becauses.extend((0..update).map(|_| self.because_updated()));
        becauses.truncate(need);
        let all = becauses.len();
        for (started, because) in becauses.into_iter().enumerate() {
            if let Some(row) = self.board.place(service, only) {
                self.put(row, because);
            } else {
                let subject = format!("{}/{}", self.group.app, self.group.service);
                let why = self.board.why_not(service);
                self.draft.unmet(subject, format!("{} of {want} instances wait for a node: {why}", all - started));
                return;
            }
        }
    }

    /// Where an instance may be started now; none, and what is waited for is told, when that is nowhere.
    fn clearance(&mut self, exclusive: bool) -> Option<exclusive::Clear> {
        let (app, service) = (&self.group.app, &self.group.service);
        let members = &self.group.members;
        let listed = |id: &InstanceId| members.iter().any(|member| member.id == *id);
        let clear = match exclusive {
            true => exclusive::clearance(self.ground.view, &self.draft.plan, (app, service), listed),
            false => exclusive::Clear::Anywhere,
        };
        if let exclusive::Clear::Nowhere(waits) = &clear {
            self.draft.unmet(format!("{app}/{service}"), waits);
            return None;
        }
        Some(clear)
    }

    fn put(&mut self, row: usize, (because, why): (Because, String)) {
        let node = &self.ground.rows[row];
        let zone = &node.spec.zone;
        let text = format!("{why}; {} in zone {zone} is the best placed", node.spec.name);
        let number = self.draft.plan.next_instance;
        self.draft.plan.next_instance += 1;
        let id = InstanceId { app: self.group.app.clone(), service: self.group.service.clone(), number };
        let assigned = InstanceAssignment {
            node: node.id,
            revision: self.target,
            phase: Phase::Active,
            reason: reason(because, text),
            since: self.draft.generation,
            exclusive: self.group.spec.is_some_and(|(_, service)| service.exclusive),
        };
        self.board.add(row, self.group.needs());
        self.board.mark(row);
        self.group.members.push(Member { id, assigned, row, health: Health::Unknown });
        self.draft.touched = true;
    }

    /// Starts one instance more where the service is clearly better spread; the worst placed one goes when the new one is ready.
    fn balance(&mut self) -> bool {
        let Some((_, service)) = self.group.spec else { return false };
        let members = &self.group.members;
        let quiet = service.update.order == UpdateOrder::StartFirst
            && members.len() == self.group.want()
            && members.len() > 1
            && members.iter().all(|member| member.is_ready())
            && (0..members.len()).all(|at| self.fate(at) == Some(Fate::Good));
        if !quiet {
            return false;
        }
        let Some(row) = self.board.place(service, None) else { return false };
        let node = &self.ground.rows[row];
        let steady = !node.flapped || node.facts.is_some_and(|facts| facts.steady_for >= BALANCE_STEADY);
        let worth = |member: &Member| self.board.is_worth_moving(member.row, row, service.spread);
        if !steady || !members.iter().any(worth) {
            return false;
        }
        let text = format!("{} has room to spread {}/{}", node.spec.name, self.group.app, self.group.service);
        self.put(row, (Because::Joined { node: node.id }, text));
        true
    }
}
