//! Whether the buckets that programs name are there: one that starts before its bucket would only fail.
//!
//! Each is asked for once, until it is there or has been waited for long enough, and then nothing waits for it again: a program that runs
//! without the object store, or with one that nobody leads now, does so as it did before.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hirsel_model::AppName;
use hirsel_model::secret::variables;
use hirsel_model::spec::{ServiceSpec, bucket_reference, store_name};
use hirsel_role::Context;
use tokio::time::{Instant, sleep, timeout};

/// Nothing waits longer for a bucket. An object store that is founded for it has it within half of this.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Asked,
    /// It is there, or was waited for.
    Settled,
}

/// What is known of buckets, by what they are called in the store.
#[derive(Default)]
pub(crate) struct Buckets(Arc<Mutex<BTreeMap<String, State>>>);

impl Buckets {
    /// Whether nothing that `service` of `app` names has to be waited for. What is not known yet is asked from now on.
    pub(crate) fn are_settled(&self, context: &Context, app: &AppName, service: &ServiceSpec) -> bool {
        let texts = service.env.values().flat_map(|text| variables(text));
        let mut settled = true;
        for name in texts.filter_map(bucket_reference).map(|(label, _)| store_name(app, &label)) {
            let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&name).copied();
            settled &= known == Some(State::Settled);
            if known.is_none() {
                self.ask(context, name);
            }
        }
        settled
    }

    fn ask(&self, context: &Context, name: String) {
        let set = |known: &Mutex<BTreeMap<String, State>>, name: &str, state| {
            known.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), state);
        };
        set(&self.0, &name, State::Asked);
        let (known, objects, wake) = (self.0.clone(), context.objects.clone(), context.wake.clone());
        context.spawner.spawn(async move {
            let deadline = Instant::now() + WAIT_MAX;
            while Instant::now() < deadline {
                let there = match objects.behind() {
                    Some(objects) => timeout(WAIT_MAX, objects.bucket(&name)).await.is_ok_and(|it| it.is_ok()),
                    None => false,
                };
                if there {
                    break;
                }
                sleep(LOOK_EVERY).await;
            }
            set(&known, &name, State::Settled);
            wake.notify_one();
        });
    }
}
