//! Exclusive services in the model: questions for grants and their answers travel late, twice, out of order or not at all; a leader
//! answers once a majority says that it leads; a shim ends what is granted no longer; and whatever acts is checked.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hirsel_model::book::Asked;
use hirsel_model::control::Command;
use hirsel_model::grant::{ASK_EVERY, Grant, NoPromise, grantable};
use hirsel_model::order::InstanceOrder;
use hirsel_model::plan::Phase;
use hirsel_model::*;
use rand::Rng;
use rand::rngs::SmallRng;

use super::Bug;
use super::check::Found;
use super::host::{Host, Power};
use super::mistakes::as_ever;
use super::world::World;
use crate::check::Actor;

/// A grant that ends sooner is not worth a start.
const GRANT_LEFT_MIN: Duration = Duration::from_millis(500);
/// A majority answers within this, or nothing exclusive is granted.
const CONFIRM_WITHIN: Duration = Duration::from_millis(500);
/// What takes long to end takes so much longer.
const ENDS_LATE: Duration = Duration::from_millis(1_500);
/// Restarts of one instance raise its fence.
const FENCE_RESTART_BITS: u32 = 24;

/// A process that acts for an exclusive service.
#[derive(Clone, Debug)]
pub(super) struct Acting {
    pub revision: Revision,
    pub healthy_at: Timestamp,
    /// When its shim ends it, on the clock of its host.
    pub deadline: Timestamp,
    /// The start of the agent that told the shim so.
    pub told_by: Incarnation,
    /// By that start it was told the end of a long grant.
    pub long: bool,
    /// Its guard takes no sooner end before.
    pub mute_until: Option<Timestamp>,
    /// When it ends because it was asked to.
    pub ends: Option<Timestamp>,
    /// How many processes this host had before it.
    pub pid: u32,
    pub fence: u64,
}

impl Acting {
    /// Whether guard and shim take this end from this start of the agent. The guard may be silent for a while when it is to keep a sooner
    /// end than an agent before told.
    fn is_told(&mut self, until: Timestamp, by: Incarnation, now: Timestamp, rng: &mut SmallRng) -> bool {
        if self.told_by == by || until >= self.deadline {
            return true;
        }
        let mute = *self.mute_until.get_or_insert_with(|| now + Duration::from_millis(rng.random_range(0..3_000)));
        now >= mute
    }
}

/// Something under way.
#[derive(Clone, Debug)]
pub(super) struct Letter {
    at: Timestamp,
    pub from: NodeId,
    pub to: NodeId,
    body: Body,
}

#[derive(Clone, Debug)]
enum Body {
    Question(Question),
    Answer(Answer),
    Plea(Plea),
    Promise(Plea, Result<(), NoPromise>),
}

/// A plea for a promise.
#[derive(Clone, Debug)]
struct Plea {
    life: Incarnation,
    /// The foundation that it follows.
    tag: Tag,
    /// On the clock of who asks.
    asked_at: Timestamp,
    id: InstanceId,
}

#[derive(Clone, Debug)]
struct Question {
    /// On the clock of who asks.
    asked_at: Timestamp,
    asked: Asked,
}

#[derive(Clone, Debug)]
struct Answer {
    life: Incarnation,
    asked_at: Timestamp,
    number: u64,
    grant: Grant,
}

/// A question that waits for a majority to confirm who leads.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub leader: NodeId,
    term: u64,
    since: Timestamp,
    pub asker: NodeId,
    question: Question,
    /// When the leader goes on, once a majority has confirmed or the wait was too long.
    goes_on: Option<(Timestamp, bool)>,
}

/// A plan that is proposed and not decided yet.
#[derive(Clone, Debug)]
pub(super) struct Proposed {
    at: Timestamp,
    command: Command,
}

impl World {
    fn post(&mut self, from: NodeId, to: NodeId, body: Body) {
        let copies = if self.rng.random_ratio(1, 30) { 2 } else { 1 };
        for _ in 0..copies {
            // A call is sent again until it is through or late, so it survives a lost datagram. Who stands still finds it later.
            let waits = matches!(self.hosts[&to].power, Power::Frozen(_)) && !self.cuts.contains(&(from, to));
            if from != to && !waits && !self.arrives_by_call(from, to) {
                continue;
            }
            let late = match self.rng.random_range(0..100) {
                _ if from == to || self.prompt => 0,
                0..80 => 0,
                80..95 => self.rng.random_range(0..600),
                _ => self.rng.random_range(0..4_000),
            };
            let letter = Letter { at: self.now + Duration::from_millis(late), from, to, body: body.clone() };
            if self.keeps_back.contains(&(from, to)) && matches!(letter.body, Body::Answer(_) | Body::Promise(..)) {
                self.kept_back.push(letter);
            } else {
                self.mail.push(letter);
            }
        }
    }

    /// From now on answers and promises on this way are under way for long.
    pub(super) fn keep_back(&mut self, from: NodeId, to: NodeId) {
        self.say(&format!("fault: answers of {from} to {to} are kept back"));
        self.keeps_back.insert((from, to));
    }

    /// What was kept back arrives now.
    pub(super) fn let_letters_go(&mut self) {
        self.say("what was kept back arrives");
        self.keeps_back.clear();
        self.mail.append(&mut self.kept_back);
    }

    pub(super) fn send_question(&mut self, node: NodeId, leader: NodeId, asked: Asked) {
        let asked_at = self.hosts[&node].clock(self.now);
        self.post(node, leader, Body::Question(Question { asked_at, asked }));
    }

    /// What has arrived at a node whose agent runs. What arrives while it stands still waits for it.
    pub(super) fn read_mail(&mut self, node: NodeId) {
        let (now, mut rest) = (self.now, Vec::new());
        for letter in std::mem::take(&mut self.mail) {
            if letter.to != node || letter.at > now {
                rest.push(letter);
                continue;
            }
            match letter.body {
                Body::Question(question) => self.receive_question(node, letter.from, question),
                Body::Answer(answer) => self.receive_answer(node, letter.from, answer),
                Body::Plea(plea) => self.receive_plea(node, letter.from, plea),
                Body::Promise(plea, answer) => self.receive_promise(node, letter.from, &plea, answer),
            }
        }
        self.mail.extend(rest);
        self.answer(node);
    }

    /// Letters to whose agent is gone are lost with it, and so is what waits there.
    pub(super) fn lose_mail(&mut self) {
        let gone = |node: &NodeId| matches!(self.hosts[node].power, Power::Off | Power::Orphaned);
        self.mail.retain(|letter| !gone(&letter.to));
        self.waiting.retain(|waiting| !gone(&waiting.leader));
    }

    fn receive_question(&mut self, leader: NodeId, asker: NodeId, question: Question) {
        let Some(book) = &self.hosts[&leader].book else { return };
        let term = book.term;
        // Nothing to confirm when there is nothing to grant.
        let asks_much = !grantable(&self.grants_by(leader), asker).is_empty();
        let goes_on = (!asks_much).then_some((self.now, false));
        self.waiting.push(Waiting { leader, term, since: self.now, asker, question, goes_on });
    }

    /// Goes on with the questions that wait at `leader`.
    fn answer(&mut self, leader: NodeId) {
        let (now, confirmed) = (self.now, self.bug == Bug::NoBarrier || self.has_quorum(leader));
        let mut rest = Vec::new();
        for mut waiting in std::mem::take(&mut self.waiting) {
            if waiting.leader != leader {
                rest.push(waiting);
                continue;
            }
            if waiting.goes_on.is_none() && confirmed {
                // Between what a majority said and the answer the agent may be busy, or stand still.
                let busy = if self.rng.random_ratio(1, 10) { self.rng.random_range(0..300) } else { 0 };
                waiting.goes_on = Some((now + Duration::from_millis(busy), true));
            } else if waiting.goes_on.is_none() && now.since(waiting.since) >= CONFIRM_WITHIN {
                waiting.goes_on = Some((now, false));
            }
            match waiting.goes_on {
                Some((at, leads)) if at <= now => self.grant(waiting, leads),
                Some(_) | None => rest.push(waiting),
            }
        }
        self.waiting.extend(rest);
    }

    fn grant(&mut self, waiting: Waiting, leads: bool) {
        let Waiting { leader, term, asker, question, .. } = waiting;
        let Question { asked_at, asked } = question;
        let state = self.grants_by(leader);
        let host = self.hosts.get_mut(&leader).expect("a host");
        let clock = host.clock(self.now);
        let Some(book) = host.book.as_mut().filter(|book| book.term == term) else { return };
        let life = asked.incarnation;
        let number = book.asked(asker, asked, clock).grant;
        let grant = if leads { book.grant(&state, asker, clock) } else { Grant::default() };
        self.post(leader, asker, Body::Answer(Answer { life, asked_at, number, grant }));
    }

    fn receive_answer(&mut self, node: NodeId, leader: NodeId, answer: Answer) {
        let (now, bug, outdated) = (self.now, self.bug, self.outdated_plan(node, &answer.grant));
        let host = self.hosts.get_mut(&node).expect("a host");
        // The answer to a question of an earlier start finds nobody who asked.
        if answer.life != host.incarnation {
            return;
        }
        host.last_grant = (leader, answer.number);
        let asked_at = if bug == Bug::FromReceipt { host.clock(now) } else { answer.asked_at };
        if bug == Bug::ObeysOldPlan {
            host.outdated = outdated;
        } else {
            host.holdings.dropped(host.state.plan.generation, &grantable(&host.state, node));
        }
        host.holdings.receive(&answer.grant, asked_at);
    }

    /// Asks for promises where no leader prolongs what acts.
    pub(super) fn plead(&mut self, node: NodeId) {
        let (now, bug) = (self.now, self.bug);
        let host = self.hosts.get_mut(&node).expect("a host");
        let clock = host.clock(now);
        let out = if bug == Bug::PromiseRevives { Vec::new() } else { host.holdings.run_out(&host.state, clock) };
        for (id, why) in out {
            self.lines.push(format!("{:>9.3} {node} holds {id} no more: {why}", now.0 as f64 / 1_000.0));
        }
        if host.next_plea > now {
            return;
        }
        let (life, tag) = (host.incarnation, host.state.cluster.tag.clone());
        let pleas = host.holdings.pleas(&host.lists(bug), node, host.pleads_at(bug, clock));
        if !pleas.is_empty() {
            host.next_plea = now + ASK_EVERY;
        }
        for (id, candidates) in pleas {
            for candidate in candidates {
                let plea = Plea { life, tag: tag.clone(), asked_at: clock, id: id.clone() };
                self.post(node, candidate, Body::Plea(plea));
            }
        }
    }

    fn receive_plea(&mut self, node: NodeId, holder: NodeId, plea: Plea) {
        let (now, bug, state) = (self.now, self.bug, self.promises_by(node, holder, &plea.id));
        let host = self.hosts.get_mut(&node).expect("a host");
        let answer = host.holdings.promise(&state, (holder, &plea.tag), &plea.id, host.clock(now));
        self.post(node, holder, Body::Promise(plea, as_ever(bug, answer)));
    }

    fn receive_promise(&mut self, node: NodeId, from: NodeId, plea: &Plea, answer: Result<(), NoPromise>) {
        let (now, bug) = (self.now, self.bug);
        let host = self.hosts.get_mut(&node).expect("a host");
        if plea.life != host.incarnation {
            return;
        }
        let clock = host.clock(now);
        let (state, counts_at) = (host.lists(bug), host.pleads_at(bug, clock));
        let asked_at = if bug == Bug::PromiseFromReceipt { clock } else { plea.asked_at };
        let answer = answer.map_err(|refusal| refusal.to_string());
        let listed = state.plan.candidates.get(&plea.id).map(|listed| listed.nodes.clone()).unwrap_or_default();
        // With the mistake one promise stands for those of all.
        let from = if bug == Bug::SomePromise && answer.is_ok() { listed } else { [from].into() };
        for from in from {
            host.holdings.answered(&state, node, (&plea.id, from), answer.clone(), asked_at, counts_at);
        }
    }

    /// Shims end what is granted no longer, and programs end that were asked to.
    pub(super) fn end_processes(&mut self) {
        let now = self.now;
        for host in self.hosts.values_mut() {
            let clock = host.clock(now);
            host.acts.retain(|_, acting| clock < acting.deadline && acting.ends.is_none_or(|at| now < at));
        }
    }

    /// Never two at once. Counts how often somebody acts by promises alone.
    pub(super) fn check_acting(&mut self) -> Result<(), Found> {
        let at = Duration::from_millis(self.now.0);
        let promised = self.hosts.values().flat_map(|host| {
            let clock = host.clock(self.now);
            let acting = host.acts.keys().filter(move |id| host.holdings.acts_by_promises(id, clock));
            acting.map(|id| (host.id, id.clone()))
        });
        let promised: BTreeSet<(NodeId, InstanceId)> = promised.collect();
        self.times_promised += promised.difference(&self.promised).count();
        self.promised = promised;
        for host in self.hosts.values() {
            for (id, acting) in &host.acts {
                let actor = Actor { node: host.id.to_string(), id: id.clone(), pid: acting.pid, fence: acting.fence };
                let written = self.register.write(at, actor);
                written.map_err(|message| Found { checker: "never two at once", message })?;
            }
        }
        Ok(())
    }

    /// Proposes a plan. Mostly it is decided at once; else later, by whoever leads then.
    pub(super) fn propose(&mut self, node: NodeId, command: Command) -> Result<bool, Found> {
        let slow = self.rng.random_ratio(1, 8);
        let kept = self.keeps_placement.filter(|_| places_something_exclusive(&command));
        if kept.is_none() && (self.undisturbed || !slow || self.is_past(node)) {
            return self.commit(node, command);
        }
        self.keeps_placement = self.keeps_placement.filter(|_| kept.is_none());
        self.say(&format!("a proposal of {node} is under way for long"));
        let at = self.now + kept.unwrap_or_else(|| Duration::from_millis(self.rng.random_range(0..4_000)));
        self.proposed.push(Proposed { at, command });
        Ok(false)
    }

    /// Decides what was proposed a while ago.
    pub(super) fn decide_late(&mut self) -> Result<(), Found> {
        let now = self.now;
        let (due, rest) = std::mem::take(&mut self.proposed).into_iter().partition(|proposed| proposed.at <= now);
        self.proposed = rest;
        let due: Vec<Proposed> = due;
        for Proposed { mut command, .. } in due {
            let Some(leader) = self.leader() else { continue };
            if self.bug == Bug::StaleAdopt
                && let Command::Adopt { base, spec_index, change, .. } = &mut command
            {
                (*base, *spec_index) = (self.committed.plan.generation, self.committed.spec_index);
                change.next_instance = None;
            }
            if self.commit(leader, command)? {
                self.say("a proposal of before is decided");
            }
        }
        Ok(())
    }
}

fn places_something_exclusive(command: &Command) -> bool {
    let Command::Adopt { change, .. } = command else { return false };
    change.instances.values().flatten().any(|assigned| assigned.exclusive && assigned.phase == Phase::Active)
}

impl Host {
    /// Starts and stops exclusive instances, and hands the end of each grant to their shims.
    pub(super) fn act(
        &mut self,
        wanted: &BTreeMap<InstanceId, InstanceOrder>,
        now: Timestamp,
        rng: &mut SmallRng,
        bug: Bug,
    ) {
        let clock = self.clock(now);
        for (id, acting) in &mut self.acts {
            if let Some(until) =
                self.holdings.until(id, clock).filter(|until| acting.is_told(*until, self.incarnation, now, rng))
            {
                acting.long = self.holdings.is_long(id) || (acting.long && acting.told_by == self.incarnation);
                (acting.deadline, acting.told_by, acting.mute_until) = (until, self.incarnation, None);
            }
            let stays = wanted.get(id).is_some_and(|order| order.revision == acting.revision);
            if !stays && acting.ends.is_none() {
                let late = if self.ends_late { ENDS_LATE } else { Duration::ZERO };
                acting.ends = Some(now + late + Duration::from_millis(rng.random_range(0..800)));
            }
        }
        let active = wanted.iter().filter(|(_, order)| order.phase == Phase::Active);
        let begins: BTreeMap<InstanceId, Revision> = active.map(|(id, order)| (id.clone(), order.revision)).collect();
        for (id, revision) in begins {
            let worth_it = self.holdings.until(&id, clock + GRANT_LEFT_MIN).is_some();
            let (Some(deadline), true) = (self.holdings.until(&id, clock), worth_it) else { continue };
            let sibling = |other: &InstanceId| other.app == id.app && other.service == id.service;
            let bound = !self.holdings.is_free(&id, clock) && bug != Bug::PromiseBroken;
            let runs = self.acts.keys().any(sibling);
            if bound || runs {
                continue;
            }
            self.starts += 1;
            let healthy_at = now + Duration::from_millis(rng.random_range(200..1_500));
            let fence = (id.number << FENCE_RESTART_BITS) + u64::from(self.starts);
            let told_by = self.incarnation;
            let long = self.holdings.is_long(&id);
            let acting = Acting {
                revision,
                healthy_at,
                deadline,
                told_by,
                long,
                mute_until: None,
                ends: None,
                pid: self.starts,
                fence,
            };
            self.acts.insert(id, acting);
        }
    }
}
