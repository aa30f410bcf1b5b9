//! What the role remembers of one instance between two looks. All of it can be lost: the host knows what runs, and why it runs so.

use std::sync::Arc;
use std::time::Duration;

use hirsel_model::spec::{ServiceSpec, StopSpec};
use hirsel_model::{Revision, Timestamp, codec};
use hirsel_role::host::{Process, ProcessState};
use serde::{Deserialize, Serialize};

use crate::decide::{Past, STEADY_AFTER, backoff};
use crate::health::{Health, Watch};

/// A program that ends this soon, without ever having worked, may have found its port taken.
const AT_ONCE: Duration = Duration::from_secs(2);
/// Guard and shim end a program within some milliseconds after its deadline.
const LATE: Duration = Duration::from_millis(300);
/// So many ends in a row are no accident any more.
const FAILING_AFTER: u32 = 3;

/// Kept beside each process.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Note {
    /// The way it was started.
    pub service: ServiceSpec,
    /// How often it was started again.
    pub restarts: u32,
}

impl Note {
    pub(crate) fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// None when it was written by another version, which says things that this one does not know.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        codec::decode(bytes).ok()
    }
}

/// One instance.
#[derive(Debug, Default)]
pub(crate) struct Instance {
    /// What decides its next step.
    pub past: Past,
    /// The way it was last started.
    pub service: Option<Arc<ServiceSpec>>,
    /// How often it was started again.
    pub restarts: u32,
    /// Ends in a row.
    pub failures: u32,
    /// The port it has, or is about to get.
    pub port: u16,
    /// The port seemed taken: it gets another one.
    pub avoid_port: bool,
    /// The deadline its shim was last told.
    pub deadline: Option<Timestamp>,
    /// What guard and shim are known to keep.
    pub told: Told,
    /// They are being told a deadline: the next one waits, or the older of two might be what they keep.
    pub telling: bool,
    /// Why its deadline could not be put off the last time.
    pub unguarded: Option<String>,
    /// Its process.
    pub run: Option<Run>,
    /// How it ended, once that was taken note of.
    pub end: Option<ProcessState>,
    /// Last exit or failure, for people.
    pub message: Option<String>,
    /// Handling it panicked when this revision of it was ordered, or none.
    pub set_aside: Option<Option<Revision>>,
}

/// What guard and shim of a process keep, as far as this start of the agent told them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Told {
    /// Nothing: what an agent before this one told them.
    #[default]
    Nothing,
    /// The end of an ordinary grant.
    Grant,
    /// They are being told the end of a long grant, and may keep that or an earlier one.
    Lengthening,
    /// The end of a long grant.
    Long,
}

/// A process that runs.
#[derive(Debug)]
pub(crate) struct Run {
    pub pid: u32,
    pub since: Timestamp,
    /// None when the service has no check.
    pub watch: Option<Watch>,
}

impl Run {
    /// What is known of its health; without a check it is healthy while it runs.
    pub(crate) fn health(&self) -> Health {
        self.watch.as_ref().map_or(Health { passed: true, healthy: true, failure: None }, Watch::health)
    }
}

/// What a look at the host brought.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Nothing new.
    Same,
    /// It ended by itself since the last look.
    Failed,
}

impl Instance {
    /// Takes note of how the process is.
    pub(crate) fn observe(&mut self, process: &Process, now: Timestamp) -> Seen {
        if self.service.is_none()
            && let Some(note) = Note::decode(&process.spec.note)
        {
            self.service = Some(Arc::new(note.service));
            self.restarts = note.restarts;
        }
        self.port = process.spec.port;
        match &process.state {
            ProcessState::Running { pid: 0 } => Seen::Same,
            ProcessState::Running { pid } => {
                self.end = None;
                match &self.run {
                    Some(run) if run.pid == *pid => {
                        if now.since(run.since) >= STEADY_AFTER {
                            self.failures = 0;
                        }
                    }
                    Some(_) | None => self.run = Some(Run { pid: *pid, since: now, watch: None }),
                }
                Seen::Same
            }
            ended @ (ProcessState::Exited { .. } | ProcessState::Killed { .. } | ProcessState::Lost { .. }) => {
                if self.end.is_some() {
                    return Seen::Same;
                }
                self.note_end(ended.clone(), now)
            }
        }
    }

    /// The process ended, or could not be started.
    pub(crate) fn note_end(&mut self, end: ProcessState, now: Timestamp) -> Seen {
        let run = self.run.take();
        let asked = self.past.stopping.take().is_some();
        self.past.start_at = None;
        self.message = Some(words(&end));
        // That its grant ran out is no fault of the program.
        let blameless = asked || end.is_lapsed();
        self.end = Some(end);
        if blameless {
            return Seen::Same;
        }
        self.avoid_port = run.is_none_or(|run| {
            let worked = run.watch.is_some_and(|watch| watch.health().passed);
            !worked && now.since(run.since) < AT_ONCE
        });
        self.failures = self.failures.saturating_add(1);
        self.past.start_at = Some(now + backoff(self.failures));
        Seen::Failed
    }

    /// Guard and shim are about to be told another deadline.
    pub(crate) fn begin_telling(&mut self, until: Timestamp, is_long: bool) {
        (self.deadline, self.telling) = (Some(until), true);
        if is_long && self.told != Told::Long {
            self.told = Told::Lengthening;
        }
    }

    /// What they keep, once it is known that they were told.
    fn note_told(&mut self) {
        self.told = match self.told {
            Told::Nothing | Told::Grant => Told::Grant,
            Told::Lengthening | Told::Long => Told::Long,
        };
    }

    /// It is being started: what was before is over.
    pub(crate) fn begin_start(&mut self, port: u16, service: Arc<ServiceSpec>) {
        self.past.busy = true;
        self.past.start_at = None;
        self.end = None;
        self.unguarded = None;
        (self.told, self.telling) = (Told::Nothing, false);
        self.run = None;
        self.port = port;
        self.service = Some(service);
    }

    /// Whether it should have ended with the grant that it was last told of.
    pub(crate) fn is_late(&self, now: Timestamp) -> bool {
        self.deadline.is_some_and(|deadline| now.since(deadline) >= LATE)
    }

    /// It was started, with the end of an ordinary or long grant as its deadline.
    pub(crate) fn note_started(&mut self) {
        self.note_told();
    }

    /// The end of its grant was told, or not. Whether that is something new.
    pub(crate) fn note_prolonged(&mut self, result: Result<(), String>) -> bool {
        self.telling = false;
        if result.is_ok() {
            self.note_told();
        }
        let unguarded = result.err();
        let changed = self.unguarded.is_some() != unguarded.is_some();
        self.unguarded = unguarded;
        changed
    }

    /// The last line it wrote, once that is known.
    pub(crate) fn add_last_words(&mut self, last_words: &str) {
        if let Some(end) = &self.end
            && !last_words.is_empty()
        {
            self.message = Some(format!("{}: {last_words}", words(end)));
            let says_taken = ["address already in use", "address in use", "eaddrinuse", "errno 98"];
            let last_words = last_words.to_lowercase();
            self.avoid_port |= says_taken.iter().any(|phrase| last_words.contains(phrase));
        }
    }

    /// How it is stopped.
    pub(crate) fn stop(&self) -> StopSpec {
        self.service.as_ref().map(|service| service.stop.clone()).unwrap_or_default()
    }

    /// It ends again and again, or is set aside.
    pub(crate) fn is_failing(&self) -> bool {
        self.failures >= FAILING_AFTER || self.set_aside.is_some()
    }
}

fn words(end: &ProcessState) -> String {
    match end {
        ProcessState::Running { .. } => "runs".into(),
        ProcessState::Exited { code } => format!("exited with {code}"),
        ProcessState::Killed { signal } => format!("was ended by signal {signal}"),
        ProcessState::Lost { message } => message.clone(),
    }
}
