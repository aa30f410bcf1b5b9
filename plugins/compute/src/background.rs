//! What takes longer than a look: starts, signals and the like go on in the background, and what became of them is told at the next
//! `converge`, for which each of them wakes the loop.

use std::future::Future;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use hirsel_model::{InstanceId, Timestamp, panic};
use hirsel_role::host::{OutputFrom, ProcessSpec};
use hirsel_role::{Context, Host, Spawner};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// Changes that follow each other more closely than this are looked at together.
const CHANGES_EVERY: Duration = Duration::from_millis(10);
/// So much of the end of a program's output is looked at for its last words.
const LAST_WORDS_BYTES: u64 = 4 << 10;
/// Longest last words that are told.
const LAST_WORDS_CHARS_MAX: usize = 200;

/// What became of something.
#[derive(Debug)]
pub(crate) enum Done {
    /// A start.
    Started(InstanceId, io::Result<()>),
    /// A signal or a removal.
    Acted(InstanceId, io::Result<()>),
    /// The end of a grant was told to guard and shim, or not.
    Prolonged(InstanceId, io::Result<()>),
    /// The last line a program wrote before it ended.
    LastWords(InstanceId, String),
}

/// When the loop is woken by a deadline that was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wakes {
    /// When it could not be.
    OnFailure,
    /// In any case.
    Always,
}

/// Carries out in the background.
#[derive(Debug)]
pub(crate) struct Background {
    done: Arc<Mutex<Vec<Done>>>,
    /// Wakes the loop when a process ended.
    _watcher: Task,
    /// Wakes the loop when a grant came.
    _grants: Task,
    /// Wakes the loop when the value of a secret came.
    _secrets: Task,
    /// Wakes the loop when an access key came.
    _keys: Task,
    /// Wakes the loop at the next moment something is due.
    timer: Option<(Timestamp, Task)>,
}

/// A task that ends with its owner.
#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Background {
    pub(crate) fn new(context: &Context) -> Self {
        let (host, wake) = (Arc::clone(&context.host), Arc::clone(&context.wake));
        let watcher = context.spawner.spawn(async move {
            loop {
                host.changed().await;
                wake.notify_one();
                tokio::time::sleep(CHANGES_EVERY).await;
            }
        });
        let (mut grants, wake) = (context.grants.clone(), Arc::clone(&context.wake));
        let grants = context.spawner.spawn(async move {
            while grants.changed().await.is_ok() {
                wake.notify_one();
            }
        });
        let (mut secrets, wake) = (context.secrets.clone(), Arc::clone(&context.wake));
        let secrets = context.spawner.spawn(async move {
            while secrets.changed().await.is_ok() {
                wake.notify_one();
            }
        });
        let (mut keys, wake) = (context.access_keys.clone(), Arc::clone(&context.wake));
        let keys = context.spawner.spawn(async move {
            while keys.changed().await.is_ok() {
                wake.notify_one();
            }
        });
        Self {
            done: Arc::default(),
            _watcher: Task(watcher),
            _grants: Task(grants),
            _secrets: Task(secrets),
            _keys: Task(keys),
            timer: None,
        }
    }

    /// What became of things since the last time.
    pub(crate) fn take_done(&self) -> Vec<Done> {
        std::mem::take(&mut *self.done.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn start(&self, context: &Context, spec: ProcessSpec) {
        let host = Arc::clone(&context.host);
        let id = spec.id.clone();
        self.go(context, async move { Done::Started(id, sound(host.start(spec)).await) });
    }

    pub(crate) fn signal(&self, context: &Context, id: InstanceId, signal: i32) {
        let host = Arc::clone(&context.host);
        self.go(context, async move {
            let result = sound(host.signal(&id, signal)).await;
            Done::Acted(id, result)
        });
    }

    /// A deadline that is not told holds: the process ends sooner. Nobody is woken by one that is, but for the first and for long ones,
    /// which the report is about.
    pub(crate) fn prolong(&self, context: &Context, id: InstanceId, until: Timestamp, wakes: Wakes) {
        let (host, done, wake) = (Arc::clone(&context.host), Arc::clone(&self.done), Arc::clone(&context.wake));
        drop(context.spawner.spawn(async move {
            let result = sound(host.prolong(&id, until)).await;
            let wakes = result.is_err() || wakes == Wakes::Always;
            done.lock().unwrap_or_else(PoisonError::into_inner).push(Done::Prolonged(id, result));
            if wakes {
                wake.notify_one();
            }
        }));
    }

    pub(crate) fn forget(&self, context: &Context, id: InstanceId) {
        let host = Arc::clone(&context.host);
        self.go(context, async move {
            let result = sound(host.forget(&id)).await;
            Done::Acted(id, result)
        });
    }

    pub(crate) fn last_words(&self, context: &Context, id: InstanceId) {
        let host = Arc::clone(&context.host);
        self.go(context, async move {
            let words = last_words(host.as_ref(), &id).await;
            Done::LastWords(id, words)
        });
    }

    /// Wakes the loop at this moment, and at no other.
    pub(crate) fn wake_at(&mut self, context: &Context, at: Option<Timestamp>, now: Timestamp) {
        if self.timer.as_ref().map(|(at, _)| *at) == at && at.is_none_or(|at| at > now) {
            return;
        }
        let wake = &context.wake;
        self.timer = at.map(|at| (at, timer(&context.spawner, at.since(now), Arc::clone(wake))));
    }

    fn go(&self, context: &Context, work: impl Future<Output = Done> + Send + 'static) {
        let (done, wake) = (Arc::clone(&self.done), Arc::clone(&context.wake));
        drop(context.spawner.spawn(async move {
            let result = work.await;
            done.lock().unwrap_or_else(PoisonError::into_inner).push(result);
            wake.notify_one();
        }));
    }
}

/// A host that panics over one instance fails for that one: whoever waits for it is told, as of any failure.
async fn sound(work: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    let caught = AssertUnwindSafe(work).catch_unwind().await;
    caught.unwrap_or_else(|caught| {
        Err(io::Error::other(format!("handling it panicked ({})", panic::words(caught.as_ref()))))
    })
}

fn timer(spawner: &Spawner, after: Duration, wake: Arc<Notify>) -> Task {
    Task(spawner.spawn(async move {
        tokio::time::sleep(after).await;
        wake.notify_one();
    }))
}

async fn last_words(host: &dyn Host, id: &InstanceId) -> String {
    let Ok(output) = host.output(id, OutputFrom::Tail(LAST_WORDS_BYTES)).await else { return String::new() };
    let text = String::from_utf8_lossy(&output.bytes);
    // Each line is `TIME o|e TEXT`.
    let words = text.lines().rev().filter_map(|line| line.splitn(3, ' ').nth(2)).find(|words| !words.trim().is_empty());
    words.unwrap_or_default().trim().chars().take(LAST_WORDS_CHARS_MAX).collect()
}
