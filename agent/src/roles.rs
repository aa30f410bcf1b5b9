//! Drives the plugins: one task per role, on a runtime of its own in the agent.
//!
//! A runner calls `converge` whenever its order changed, the role asked for it, or a second passed. A role that panics is started
//! again with backoff, its runtime thrown away; one that panics too often is `Failed`, with its last words, until its order
//! changes. Neither a panic nor a busy loop in a plugin reaches gossip, Raft or another plugin.

use std::collections::{BTreeMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use hirsel_model::order::Order;
use hirsel_model::report::{RoleReport, RoleState};
use hirsel_model::{Generation, RoleName, panic};
use hirsel_role::{Context, Plugin, Spawner};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

/// A role that has nothing new to do is still asked this often: healing looks at levels.
const TICK: Duration = Duration::from_secs(1);
/// A step of `converge` ends in a second by contract; this leaves room for a busy host before it is dropped.
const STEP_MAX: Duration = Duration::from_secs(3);
/// Two steps are at least this far apart, so that a role that wakes itself for ever does not eat a processor.
const PAUSE: Duration = Duration::from_millis(20);
/// So many panics within [`INTENSITY_WINDOW`] and the role is given up.
const INTENSITY_MAX: usize = 5;
/// See [`INTENSITY_MAX`].
const INTENSITY_WINDOW: Duration = Duration::from_secs(120);
/// First wait after a panic; doubles up to [`INTENSITY_MAX`] times.
const RESTART_AFTER: Duration = Duration::from_millis(500);

/// Where plugins run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtimes {
    /// One runtime per plugin: in the agent.
    Own,
    /// All on the runtime the agent runs on: in simulation.
    Shared,
}

/// Reports of all roles of this node.
pub type Reports = watch::Sender<BTreeMap<RoleName, RoleReport>>;

/// Runs `plugin` until `stop`. `context` is made anew for each start of the role.
pub async fn drive(
    plugin: Arc<dyn Plugin>,
    context: impl Fn(Spawner) -> Context + Send + Sync + 'static,
    orders: watch::Receiver<Arc<Order>>,
    reports: Reports,
    runtimes: Runtimes,
    stop: CancellationToken,
) {
    let name = plugin.role();
    let mut panics: VecDeque<Instant> = VecDeque::new();
    while !stop.is_cancelled() {
        let words = match life(&plugin, &context, &orders, &reports, runtimes, &stop).await {
            Ok(()) => return,
            Err(words) => words,
        };
        let now = Instant::now();
        panics.push_back(now);
        panics.retain(|at| now.duration_since(*at) < INTENSITY_WINDOW);
        let given_up = panics.len() >= INTENSITY_MAX;
        let generation = orders.borrow().generation;
        publish(&reports, &name, failed(generation, &words, given_up));
        if given_up {
            error!(role = %name, panics = panics.len(), words, "role given up until its order changes");
            let mut orders = orders.clone();
            orders.mark_unchanged();
            tokio::select! {
                changed = orders.changed() => if changed.is_err() { return },
                () = stop.cancelled() => return,
            }
            panics.clear();
        } else {
            warn!(role = %name, words, "role panicked and is started again");
            let wait = RESTART_AFTER * 2u32.pow(u32::try_from(panics.len()).unwrap_or(1) - 1);
            tokio::select! {
                () = sleep(wait) => {}
                () = stop.cancelled() => return,
            }
        }
    }
}

/// One life of a role, from its start to `stop` (`Ok`) or to its panic (`Err` with the words).
async fn life(
    plugin: &Arc<dyn Plugin>,
    context: &(impl Fn(Spawner) -> Context + Send + Sync + 'static),
    orders: &watch::Receiver<Arc<Order>>,
    reports: &Reports,
    runtimes: Runtimes,
    stop: &CancellationToken,
) -> Result<(), String> {
    let own = match runtimes {
        Runtimes::Shared => None,
        Runtimes::Own => Some(runtime(&plugin.role())?),
    };
    let handle = own.as_ref().map_or_else(tokio::runtime::Handle::current, |own| own.handle().clone());
    let context = context(Spawner::new(handle.clone()));
    let (plugin, orders, reports, stop) = (plugin.clone(), orders.clone(), reports.clone(), stop.clone());
    let work = handle.spawn(AssertUnwindSafe(converge_loop(plugin, context, orders, reports, stop)).catch_unwind());
    let outcome = work.await;
    if let Some(own) = own {
        // What the role still had in the air belongs to nobody now.
        own.shutdown_background();
    }
    match outcome {
        Ok(Ok(())) => Ok(()),
        Ok(Err(caught)) => Err(panic::words(caught.as_ref())),
        Err(error) if error.is_panic() => Err(panic::words(error.into_panic().as_ref())),
        Err(_) => Ok(()),
    }
}

async fn converge_loop(
    plugin: Arc<dyn Plugin>,
    context: Context,
    mut orders: watch::Receiver<Arc<Order>>,
    reports: Reports,
    stop: CancellationToken,
) {
    let name = plugin.role();
    let wake = context.wake.clone();
    let mut role = plugin.start(context);
    loop {
        let order = orders.borrow_and_update().clone();
        match timeout(STEP_MAX, role.converge(&order)).await {
            Ok(report) => publish(&reports, &name, report),
            Err(_) => warn!(role = %name, limit_s = STEP_MAX.as_secs(), "a step took too long and was dropped"),
        }
        if stop.is_cancelled() {
            return;
        }
        let earliest = Instant::now() + PAUSE;
        tokio::select! {
            changed = orders.changed() => if changed.is_err() { return },
            () = wake.notified() => {}
            () = sleep(TICK) => {}
            () = stop.cancelled() => return,
        }
        sleep_until(earliest).await;
    }
}

fn runtime(role: &RoleName) -> Result<tokio::runtime::Runtime, String> {
    // The load balancer is the only role whose work is measured in processors.
    let workers = if *role == RoleName::lb() { std::thread::available_parallelism().map_or(1, |n| n.get()) } else { 1 };
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .thread_name(format!("role-{role}"))
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start a runtime: {error}"))
}

fn publish(reports: &Reports, name: &RoleName, report: RoleReport) {
    reports.send_if_modified(|all| {
        if all.get(name) == Some(&report) {
            return false;
        }
        all.insert(name.clone(), report);
        true
    });
}

fn failed(generation: Generation, words: &str, given_up: bool) -> RoleReport {
    let then = if given_up { "given up until its order changes" } else { "is started again" };
    RoleReport {
        state: RoleState::Failed,
        generation,
        message: Some(format!("the role panicked ({words}) and {then}")),
        ..RoleReport::default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future::BoxFuture;
    use hirsel_role::Role;

    use super::*;
    use crate::testing::context;

    /// Panics in its first `panics` steps, then runs.
    struct Shaky {
        panics: usize,
        steps: Arc<AtomicUsize>,
    }

    impl Plugin for Shaky {
        fn role(&self) -> RoleName {
            RoleName::mgmt()
        }
        fn start(&self, _: Context) -> Box<dyn Role> {
            Box::new(Shaky { panics: self.panics, steps: self.steps.clone() })
        }
    }

    impl Role for Shaky {
        fn converge<'a>(&'a mut self, order: &'a Order) -> BoxFuture<'a, RoleReport> {
            async move {
                let step = self.steps.fetch_add(1, Ordering::SeqCst);
                assert!(step >= self.panics, "step {step} is bad");
                RoleReport { state: RoleState::Running, generation: order.generation, ..RoleReport::default() }
            }
            .boxed()
        }
    }

    fn order(generation: u64) -> Arc<Order> {
        Arc::new(Order {
            role: RoleName::mgmt(),
            generation: Generation(generation),
            slots: BTreeMap::new(),
            work: Default::default(),
        })
    }

    /// Drives a role that panics `panics` times, and returns the states it reported until one that `ends`.
    async fn states(
        panics: usize,
        ends: fn(&RoleReport) -> bool,
    ) -> (Vec<RoleReport>, watch::Sender<Arc<Order>>, Reports) {
        let (reports, mut seen) = watch::channel(BTreeMap::new());
        let (orders, order_seen) = watch::channel(order(1));
        let plugin = Arc::new(Shaky { panics, steps: Arc::default() });
        let stop = CancellationToken::new();
        tokio::spawn(drive(plugin, context, order_seen, reports.clone(), Runtimes::Shared, stop));
        let mut states = Vec::new();
        loop {
            seen.changed().await.expect("the role is driven");
            let report = seen.borrow_and_update()[&RoleName::mgmt()].clone();
            states.push(report.clone());
            if ends(&report) {
                return (states, orders, reports);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_role_that_panics_is_started_again() {
        let (states, ..) = states(2, |report| report.state == RoleState::Running).await;
        assert!(states[0].message.as_ref().is_some_and(|words| words.contains("step 0 is bad")));
        assert_eq!(states.last().map(|report| report.generation), Some(Generation(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_role_that_panics_too_often_is_given_up_until_its_order_changes() {
        let given_up = |report: &RoleReport| report.message.as_ref().is_some_and(|words| words.contains("given up"));
        let (states, orders, reports) = states(INTENSITY_MAX, given_up).await;
        assert_eq!(states.len(), INTENSITY_MAX);
        let mut seen = reports.subscribe();
        orders.send_replace(order(2));
        let runs = |all: &BTreeMap<RoleName, RoleReport>| all[&RoleName::mgmt()].state == RoleState::Running;
        seen.wait_for(runs).await.expect("the role is driven");
    }
}
