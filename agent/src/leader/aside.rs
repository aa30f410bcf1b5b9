//! A planner that panics ends no agent and no cluster: the application that it panics over is found by trying without each, set aside,
//! and everything else is planned as before.
//!
//! An application that is set aside is first stopped, which the log and `status` tell with the words of the panic, and which the operator
//! undoes once it is mended: `hirsel apply` or `hirsel start`. One that the planner fails on even when it is stopped is left out of what
//! is planned, by each leader that finds the same. When no single application is to blame, the plan in force stays.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use hirsel_model::AppName;
use hirsel_model::panic::words;
use hirsel_model::view::View;

/// What came of planning.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Planned<T> {
    /// What the planner says; nothing is wrong.
    Sound(T),
    /// The planner fails on this application as it is: it is to be stopped.
    Stop {
        /// Which.
        app: AppName,
        /// What the planner said.
        words: String,
    },
    /// The planner fails on it even when it is stopped: what it says of everything else.
    Without {
        /// Which.
        app: AppName,
        /// What the planner said.
        words: String,
        /// The plan without it.
        plan: T,
    },
    /// It fails whatever is left out.
    Never {
        /// What the planner said.
        words: String,
    },
}

/// Plans `view` with `planner`, which may panic.
pub(super) fn plan<T>(view: &View, planner: impl Fn(&View) -> T) -> Planned<T> {
    let attempt = |view: &View| catch_unwind(AssertUnwindSafe(|| planner(view))).map_err(|panic| words(panic.as_ref()));
    let words = match attempt(view) {
        Ok(plan) => return Planned::Sound(plan),
        Err(words) => words,
    };
    let running = view.spec.apps.iter().filter(|(_, spec)| !spec.stopped).map(|(app, _)| app.clone());
    for app in running {
        let mut stopped = view.clone();
        if let Some(spec) = Arc::make_mut(&mut stopped.spec).apps.get_mut(&app) {
            spec.stopped = true;
        }
        if attempt(&stopped).is_ok() {
            return Planned::Stop { app, words };
        }
    }
    for app in view.spec.apps.keys() {
        if let Ok(plan) = attempt(&without(view, app)) {
            return Planned::Without { app: app.clone(), words, plan };
        }
    }
    Planned::Never { words }
}

/// `view` as if nobody had ever applied `app`; what runs of it is in the plan still.
pub(super) fn without(view: &View, app: &AppName) -> View {
    let mut view = view.clone();
    Arc::make_mut(&mut view.spec).apps.remove(app);
    view
}

/// What was told already, so that a pass four times a second does not repeat it.
#[derive(Debug, Default)]
pub(super) struct Told(BTreeSet<String>);

impl Told {
    /// Whether this is new.
    pub fn is_new(&mut self, words: &str) -> bool {
        self.0.insert(words.to_owned())
    }

    /// All is well again.
    pub fn forget(&mut self) {
        self.0.clear();
    }
}
