//! The role itself: looks at the host, has the next step of each instance decided, carries it out in the background, and reports.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use hirsel_model::order::{InstanceOrder, Order, Work};
use hirsel_model::report::{InstanceState, RoleFacts, RoleReport, RoleState};
use hirsel_model::spec::{ServiceSpec, asks_for_key};
use hirsel_model::{AppName, InstanceId, Timestamp, codec, panic};
use hirsel_role::host::{Process, ProcessSpec, ProcessState};
use hirsel_role::{Context, Role};
use tracing::{error, info, warn};

use crate::background::{Background, Done, Wakes};
use crate::buckets::Buckets;
use crate::decide::{self, Found, Lacks, Step, Stopping, Wanted};
use crate::environment::{self, Composed, Facts, Store};
use crate::health::{Checks, Watch};
use crate::memory::{Instance, Note, Seen, Told};
use crate::metrics::Metrics;
use crate::{port, report};

/// A look at the host takes some milliseconds; one that hangs must not make `converge` miss its second.
const LOOK_MAX: Duration = Duration::from_millis(700);
/// A grant that ends sooner is not worth a start.
const GRANT_LEFT_MIN: Duration = Duration::from_millis(500);
/// Restarts of one instance that raise its fence: more than it can make in a year of crashing at once.
const FENCE_RESTART_BITS: u32 = 24;
/// File that tells which processes passed a check, so that a role that starts anew need not take them for unhealthy.
const PASSED_FILE: &str = "passed";

pub(crate) struct ComputeRole {
    context: Context,
    metrics: Metrics,
    background: Background,
    buckets: Buckets,
    instances: BTreeMap<InstanceId, Instance>,
    /// Processes that passed a check, as last written down.
    passed: BTreeMap<InstanceId, u32>,
    /// As last published.
    doors: Option<BTreeMap<InstanceId, SocketAddr>>,
    /// What was last told of the instances.
    told: RoleFacts,
}

impl Role for ComputeRole {
    fn converge<'a>(&'a mut self, order: &'a Order) -> BoxFuture<'a, RoleReport> {
        async move {
            self.take_done();
            match tokio::time::timeout(LOOK_MAX, self.context.host.processes()).await {
                Ok(Ok(processes)) => self.step(order, &processes),
                Ok(Err(error)) => self.blind(order, &format!("cannot list the processes of this host: {error}")),
                Err(_) => self.blind(order, "the host takes too long to list its processes"),
            }
        }
        .boxed()
    }
}

impl ComputeRole {
    pub(crate) fn new(context: Context, metrics: Metrics) -> Self {
        let passed = read_passed(&context);
        let background = Background::new(&context);
        let instances = BTreeMap::new();
        let buckets = Buckets::default();
        Self { context, metrics, background, buckets, instances, passed, doors: None, told: RoleFacts::None }
    }

    /// The report when nothing can be seen: what was last known, and why that is old.
    fn blind(&mut self, order: &Order, message: &str) -> RoleReport {
        let now = self.context.clock.now();
        self.background.wake_at(&self.context, Some(now + LOOK_MAX), now);
        RoleReport {
            state: RoleState::Degraded,
            generation: order.generation,
            message: Some(message.into()),
            facts: self.told.clone(),
            ..RoleReport::default()
        }
    }

    fn step(&mut self, order: &Order, processes: &BTreeMap<InstanceId, Process>) -> RoleReport {
        let now = self.context.clock.now();
        let orders = match &order.work {
            Work::Compute(orders) => orders.clone(),
            Work::None | Work::Lb(_) | Work::Dns(_) | Work::Address(_) | Work::Storage(_) => BTreeMap::new(),
        };
        let wanted: BTreeMap<InstanceId, Wanted> =
            orders.iter().map(|(id, order)| (id.clone(), self.wanted(id, order, processes, now))).collect();
        self.prolong(processes, now);
        for id in wanted.keys().chain(processes.keys()) {
            self.instances.entry(id.clone()).or_default();
        }
        for (id, process) in processes {
            self.observe(id, process, now);
        }
        self.instances
            .retain(|id, instance| wanted.contains_key(id) || processes.contains_key(id) || instance.past.busy);

        let mut due: Option<Timestamp> = None;
        let ids: Vec<InstanceId> = self.instances.keys().cloned().collect();
        for id in ids {
            let until = self.carry_out_safely(&id, orders.get(&id), processes, now);
            due = due.into_iter().chain(until).min();
        }
        self.background.wake_at(&self.context, due, now);

        self.publish(processes);
        self.write_passed();
        let report = self.report(order, &wanted, processes);
        self.told = report.facts.clone();
        report
    }

    /// Learns what became of what went on in the background.
    fn take_done(&mut self) {
        let now = self.context.clock.now();
        for done in self.background.take_done() {
            match done {
                Done::Started(id, result) => {
                    let Some(instance) = self.instances.get_mut(&id) else { continue };
                    instance.past.busy = false;
                    match result {
                        Ok(()) => instance.note_started(),
                        // Started by whoever was here before; the next look shows it.
                        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                            instance.past.start_at = Some(now + decide::backoff(1));
                        }
                        Err(error) => {
                            warn!(instance = %id, %error, "instance could not be started");
                            self.metrics.failures.inc();
                            instance.note_end(ProcessState::Lost { message: error.to_string() }, now);
                        }
                    }
                }
                Done::Acted(id, result) => {
                    let Some(instance) = self.instances.get_mut(&id) else { continue };
                    instance.past.busy = false;
                    instance.past.forgetting = false;
                    if let Err(error) = result {
                        warn!(instance = %id, %error, "instance could not be stopped or removed");
                    }
                }
                Done::Prolonged(id, result) => {
                    let Some(instance) = self.instances.get_mut(&id) else { continue };
                    let result = result.map_err(|error| error.to_string());
                    let words = result.as_ref().err().cloned();
                    match (instance.note_prolonged(result), words) {
                        (true, Some(error)) => warn!(instance = %id, error, "its grant is not prolonged"),
                        (true, None) => info!(instance = %id, "its grant is prolonged again"),
                        (false, _) => {}
                    }
                }
                Done::LastWords(id, words) => {
                    if let Some(instance) = self.instances.get_mut(&id) {
                        instance.add_last_words(&words);
                    }
                }
            }
        }
    }

    fn observe(&mut self, id: &InstanceId, process: &Process, now: Timestamp) {
        let Some(instance) = self.instances.get_mut(id) else { return };
        if instance.past.busy {
            // What is seen may be from before the action, and the next look comes when that is done.
            return;
        }
        match instance.observe(process, now) {
            Seen::Same => {}
            Seen::Failed => {
                self.metrics.failures.inc();
                info!(instance = %id, end = instance.message.as_deref(), "instance ended");
                self.background.last_words(&self.context, id.clone());
            }
        }
        let Some(run) = &mut instance.run else { return };
        if run.watch.as_ref().is_some_and(|watch| watch.pid == run.pid) {
            return;
        }
        let service = instance.service.as_ref();
        if let Some((spec, protocol)) = service.and_then(|service| Some((service.health.clone()?, service.protocol))) {
            let checks = Checks {
                host: Arc::clone(&self.context.host),
                wake: Arc::clone(&self.context.wake),
                addr: SocketAddr::new(self.context.me.instance_host, process.spec.port),
                spec,
                protocol,
            };
            let passed = self.passed.get(id) == Some(&run.pid);
            run.watch = Some(Watch::begin(&self.context.spawner, checks, run.pid, passed));
        }
    }

    fn wanted(
        &self,
        id: &InstanceId,
        order: &InstanceOrder,
        processes: &BTreeMap<InstanceId, Process>,
        now: Timestamp,
    ) -> Wanted {
        let may_act = !order.service.exclusive || self.may_act(id, processes, now);
        let has_secrets = self.context.secrets.borrow().of(&id.app, &order.service.secrets).is_ok();
        let has_key = || self.context.access_keys.borrow().of(&id.app).is_some();
        let lacks = match has_secrets {
            false => Lacks::Secrets,
            true if asks_for_key(&order.service) && !has_key() => Lacks::AccessKey,
            // What runs was started when they were there.
            true if processes.contains_key(id) => Lacks::Nothing,
            true if !self.buckets.are_settled(&self.context, &id.app, &order.service) => Lacks::Bucket,
            true => Lacks::Nothing,
        };
        Wanted { revision: order.revision, phase: order.phase, may_act, lacks }
    }

    /// Whether an exclusive instance may be started: its node holds a grant, has not promised another node to leave it alone, and runs no
    /// other instance of the service.
    fn may_act(&self, id: &InstanceId, processes: &BTreeMap<InstanceId, Process>, now: Timestamp) -> bool {
        let grants = self.context.grants.borrow();
        let sibling = |other: &InstanceId| *other != *id && other.app == id.app && other.service == id.service;
        let runs = |(other, process): (&InstanceId, &Process)| {
            sibling(other) && matches!(process.state, ProcessState::Running { .. })
        };
        let begins = |(other, instance): (&InstanceId, &Instance)| {
            sibling(other) && instance.past.busy && !instance.past.forgetting
        };
        // What is not worth starting for is left to the next grant.
        grants.until(id, now + GRANT_LEFT_MIN).is_some()
            && grants.is_free(id, now)
            && !processes.iter().any(runs)
            && !self.instances.iter().any(begins)
    }

    /// Hands the end of each new grant to the guard and to the shims of exclusive instances, which end what is granted no longer.
    fn prolong(&mut self, processes: &BTreeMap<InstanceId, Process>, now: Timestamp) {
        let grants = self.context.grants.borrow().clone();
        for (id, process) in processes {
            let runs = matches!(process.state, ProcessState::Running { .. });
            if process.spec.deadline.is_none() || !runs {
                continue;
            }
            let Some(instance) = self.instances.get_mut(id) else { continue };
            match grants.until(id, now) {
                // One that an agent before this one started may have been told anything.
                Some(until) if !instance.telling && instance.deadline.is_none_or(|told| until > told) => {
                    let is_long = grants.is_long(id);
                    let wakes =
                        if is_long || instance.told == Told::Nothing { Wakes::Always } else { Wakes::OnFailure };
                    instance.begin_telling(until, is_long);
                    self.background.prolong(&self.context, id.clone(), until, wakes);
                }
                // Both of them stand still.
                None if instance.is_late(now) && !instance.past.busy && instance.past.stopping.is_none() => {
                    warn!(instance = %id, "neither guard nor shim ended it with its grant, and it is killed");
                    instance.past.busy = true;
                    instance.past.stopping = Some(Stopping { since: now, killed: Some(now) });
                    self.background.signal(&self.context, id.clone(), 9);
                }
                Some(_) | None => {}
            }
        }
    }

    /// As [`ComputeRole::carry_out`], and an instance over which that panics is set aside until its order changes: it is reported with
    /// the words, nothing is done to it, and all others go on. So a poisonous order ends neither this role nor, by moving on, another.
    fn carry_out_safely(
        &mut self,
        id: &InstanceId,
        order: Option<&InstanceOrder>,
        processes: &BTreeMap<InstanceId, Process>,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let revision = order.map(|order| order.revision);
        let instance = self.instances.get_mut(id)?;
        if instance.set_aside.is_some_and(|poisonous| poisonous == revision) {
            return None;
        }
        instance.set_aside = None;
        let step = AssertUnwindSafe(|| self.carry_out(id, order, processes.get(id), processes, now));
        match catch_unwind(step) {
            Ok(until) => until,
            Err(caught) => {
                let words = panic::words(caught.as_ref());
                error!(instance = %id, words, "instance set aside: handling it panicked");
                self.metrics.failures.inc();
                let instance = self.instances.get_mut(id)?;
                instance.past.busy = false;
                instance.set_aside = Some(revision);
                instance.message = Some(format!("set aside until it is applied anew: handling it panicked ({words})"));
                None
            }
        }
    }

    /// Takes the next step of an instance. When the one after it is due, if that is known.
    fn carry_out(
        &mut self,
        id: &InstanceId,
        order: Option<&InstanceOrder>,
        process: Option<&Process>,
        processes: &BTreeMap<InstanceId, Process>,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let wanted = order.map(|order| self.wanted(id, order, processes, now));
        let instance = self.instances.get_mut(id)?;
        let found = process.map(|process| Found { revision: process.spec.revision, state: &process.state });
        let stop = instance.stop();
        match decide::step(wanted, found, &instance.past, &stop, now) {
            Step::Wait { until } => until,
            Step::Start => self.start(id, order?, processes, now),
            Step::Stop => {
                info!(instance = %id, signal = stop.signal, "instance is asked to stop");
                instance.past.busy = true;
                instance.past.stopping = Some(Stopping { since: now, killed: None });
                self.background.signal(&self.context, id.clone(), stop.signal);
                Some(now + Duration::from_millis(stop.grace_ms))
            }
            Step::Kill => {
                warn!(instance = %id, grace_ms = stop.grace_ms, "instance did not stop and is killed");
                instance.past.busy = true;
                instance.past.stopping =
                    instance.past.stopping.map(|stopping| Stopping { killed: Some(now), ..stopping });
                self.background.signal(&self.context, id.clone(), 9);
                None
            }
            Step::Forget => {
                instance.past.busy = true;
                instance.past.forgetting = true;
                self.background.forget(&self.context, id.clone());
                None
            }
        }
    }

    fn start(
        &mut self,
        id: &InstanceId,
        order: &InstanceOrder,
        processes: &BTreeMap<InstanceId, Process>,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let prepared = self.prepare(id, order, processes, now);
        let instance = self.instances.get_mut(id)?;
        match prepared {
            Ok((spec, note)) => {
                info!(instance = %id, revision = %spec.revision, port = spec.port, "instance is started");
                self.metrics.starts.inc();
                instance.restarts = note.restarts;
                instance.avoid_port = false;
                instance.begin_start(spec.port, Arc::new(note.service));
                instance.deadline = spec.deadline;
                if self.context.grants.borrow().is_long(id) {
                    instance.told = Told::Lengthening;
                }
                self.background.start(&self.context, spec);
            }
            Err(message) => {
                warn!(instance = %id, message, "instance cannot be started");
                self.metrics.failures.inc();
                instance.note_end(ProcessState::Lost { message }, now);
            }
        }
        instance.past.start_at
    }

    /// Everything a process needs to start.
    fn prepare(
        &self,
        id: &InstanceId,
        order: &InstanceOrder,
        processes: &BTreeMap<InstanceId, Process>,
        now: Timestamp,
    ) -> Result<(ProcessSpec, Note), String> {
        let instance = self.instances.get(id).ok_or("not known")?;
        let service = way(id, order, processes);
        let port = self.port(id, instance)?;
        let again = instance.failures > 0 || processes.contains_key(id);
        let restarts = instance.restarts + u32::from(again);
        let exclusive = service.exclusive;
        let deadline = match exclusive {
            true => Some(self.context.grants.borrow().until(id, now).ok_or("its grant has just run out")?),
            false => None,
        };
        let facts = Facts {
            me: &self.context.me,
            id,
            revision: order.revision,
            port,
            fence: exclusive.then(|| fence(id, restarts)),
            own_folder: self.context.host.own_folder(id),
            executable: self.context.host.executable(),
            store: self.store(&id.app),
        };
        let secrets = self.context.secrets.borrow().of(&id.app, &service.secrets);
        let secrets = secrets.map_err(|name| format!("the value of secret {name} is not here"))?;
        let Composed { env, secret_env, command } = environment::compose(&service, &facts, &secrets)?;
        let note = Note { restarts, service };
        let spec = ProcessSpec {
            id: id.clone(),
            revision: order.revision,
            command,
            env,
            secret_env,
            workdir: note.service.workdir.clone(),
            user: note.service.user.clone().or_else(|| self.context.config.run_as.clone()),
            stop_signal: note.service.stop.signal,
            port,
            deadline,
            note: note.encode(),
        };
        Ok((spec, note))
    }

    /// The object store as instances of `app` here reach it.
    fn store(&self, app: &AppName) -> Store {
        let at = |addr: SocketAddr| match addr.ip().is_unspecified() {
            true => SocketAddr::new(self.context.me.instance_host, addr.port()),
            false => addr,
        };
        let keys = self.context.access_keys.borrow();
        Store {
            addr: self.context.config.s3.map(at),
            region: self.context.config.s3_region.clone(),
            key: keys.of(app).map(|(id, key)| (id.clone(), key.secret.clone())),
        }
    }

    /// The port it had, unless that seems taken, or else a new one.
    fn port(&self, id: &InstanceId, instance: &Instance) -> Result<u16, String> {
        let host = self.context.me.instance_host;
        let config = &self.context.config;
        let is_free = |port| self.context.host.port_is_free(SocketAddr::new(host, port));
        let mut taken: BTreeSet<u16> =
            self.instances.iter().filter(|(other, _)| *other != id).map(|(_, other)| other.port).collect();
        let range = (config.port_first, config.port_last);
        let in_range = (range.0..=range.1).contains(&instance.port);
        if in_range && !instance.avoid_port && !taken.contains(&instance.port) && is_free(instance.port) {
            return Ok(instance.port);
        }
        taken.insert(instance.port);
        taken.remove(&0);
        port::pick(range, self.context.chance.number(), &taken, is_free)
    }

    /// Tells the door of this node where its instances listen.
    fn publish(&mut self, processes: &BTreeMap<InstanceId, Process>) {
        let table: BTreeMap<InstanceId, SocketAddr> = processes
            .iter()
            .filter(|(_, process)| matches!(process.state, ProcessState::Running { .. }))
            .map(|(id, process)| (id.clone(), SocketAddr::new(self.context.me.instance_host, process.spec.port)))
            .collect();
        if self.doors.as_ref() != Some(&table) {
            self.context.doors.publish(table.clone());
            self.doors = Some(table);
        }
    }

    fn write_passed(&mut self) {
        let passed: BTreeMap<InstanceId, u32> = self
            .instances
            .iter()
            .filter_map(|(id, instance)| Some((id, instance.run.as_ref()?)))
            .filter(|(_, run)| run.watch.as_ref().is_some_and(|watch| watch.health().healthy))
            .map(|(id, run)| (id.clone(), run.pid))
            .collect();
        if passed == self.passed {
            return;
        }
        // Losing it costs a moment of unknown health after the next start, no more.
        if let Err(error) = self.context.host.write(PASSED_FILE, &codec::encode(&passed)) {
            warn!(%error, "cannot note which instances are healthy");
        }
        self.passed = passed;
    }

    fn report(
        &self,
        order: &Order,
        wanted: &BTreeMap<InstanceId, Wanted>,
        processes: &BTreeMap<InstanceId, Process>,
    ) -> RoleReport {
        let grants = self.context.grants.borrow().clone();
        let facts: BTreeMap<_, _> = self
            .instances
            .iter()
            .map(|(id, instance)| {
                let missing = grants.missing(id);
                let found = report::Found { process: processes.get(id), missing, is_long: grants.is_long(id) };
                (id.clone(), report::facts(instance, wanted.get(id).copied(), found))
            })
            .collect();
        let count = |is: &dyn Fn(&hirsel_model::report::InstanceFacts) -> bool| {
            i64::try_from(facts.values().filter(|facts| is(facts)).count()).unwrap_or(i64::MAX)
        };
        self.metrics.running.set(count(&|facts| facts.state == InstanceState::Running));
        self.metrics.healthy.set(count(&|facts| facts.healthy));
        report::report(order.generation, wanted, facts, &self.instances, order.is_stop())
    }
}

/// Numbers of instances rise over the whole cluster, and restarts on their node.
fn fence(id: &InstanceId, restarts: u32) -> u64 {
    (id.number << FENCE_RESTART_BITS) + u64::from(restarts.min((1 << FENCE_RESTART_BITS) - 1)) + 1
}

/// How an instance is run: as ordered when the order knows its revision, else as this node knows it from before.
fn way(id: &InstanceId, order: &InstanceOrder, processes: &BTreeMap<InstanceId, Process>) -> ServiceSpec {
    if order.service.revision == order.revision {
        return ServiceSpec::clone(&order.service);
    }
    let same_way = |(other, process): &(&InstanceId, &Process)| {
        other.app == id.app && other.service == id.service && process.spec.revision == order.revision
    };
    let own = processes.get_key_value(id).into_iter();
    own.chain(processes)
        .filter(same_way)
        .find_map(|(_, process)| Note::decode(&process.spec.note))
        .map_or_else(|| ServiceSpec::clone(&order.service), |note| note.service)
}

fn read_passed(context: &Context) -> BTreeMap<InstanceId, u32> {
    let bytes = context.host.read(PASSED_FILE).ok().flatten().unwrap_or_default();
    codec::decode(&bytes).unwrap_or_default()
}
