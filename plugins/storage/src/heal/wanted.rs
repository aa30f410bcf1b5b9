//! Makes the buckets that applications want, and sets them up as they want them.
//!
//! What is wanted comes with the order, what there is with the rows; the difference is done, by whoever leads, whenever there is one. A bucket that is
//! not wanted any more stays as it is: nothing here removes one. One that has another account was made by somebody else, and is left alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use hirsel_model::order::{StorageOrder, WantedBucket};
use hirsel_model::spec::WhenShort as Short;
use hirsel_model::storage::{UNMET_MAX, Unmet};
use tokio::sync::watch;
use tracing::info;

use super::Healing;
use crate::gateway::Gateway;
use crate::meta::access::MetaError;
use crate::meta::command::{BucketChange, Command};
use crate::meta::kinds::{Acl, Bucket, Quota, Versioning, WhenShort};
use crate::meta::names::BucketName;
use crate::meta::read::{self, ReadError};
use crate::meta::refusal::Refusal;
use crate::people::class;

/// Buckets that are seen to in one step: each is a commit or two, and others want theirs.
const AT_ONCE: usize = 16;

/// What there is to do about one bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Due {
    Make,
    Change(Vec<BucketChange>),
    /// It is somebody else's.
    Taken(String),
}

/// Sees to some buckets. Whether there is more to do.
pub async fn step(
    gateway: Gateway,
    order: Arc<StorageOrder>,
    region: Arc<str>,
    healing: watch::Sender<Healing>,
) -> Result<bool, String> {
    let mut unmet = Unmet::new();
    let mut todo = Vec::new();
    {
        let here = gateway.meta().group().here().map_err(|error| error.to_string())?;
        for (text, wanted) in &order.buckets {
            let name = match BucketName::new(text.clone()) {
                Ok(name) => name,
                Err(error) => {
                    unmet.insert(text.clone(), error.to_string());
                    continue;
                }
            };
            let there = match read::bucket(&here, &name) {
                Ok(bucket) => Some(bucket),
                Err(ReadError::Refused(Refusal::NoSuchBucket)) => None,
                Err(error) => return Err(error.to_string()),
            };
            match due(there.as_ref(), wanted) {
                None => {}
                Some(Due::Taken(words)) => drop(unmet.insert(text.clone(), words)),
                Some(due) if todo.len() <= AT_ONCE => todo.push((name, due)),
                Some(_) => {}
            }
        }
    }
    let more = !todo.is_empty();
    let mut refused = false;
    for (name, due) in todo.into_iter().take(AT_ONCE) {
        match bring(&gateway, &name, &order.buckets, due, &region).await {
            Ok(()) => {}
            Err(MetaError::Refused(refusal)) => {
                refused = true;
                unmet.insert(name.to_string(), refusal.to_string());
            }
            Err(error) => return Err(error.to_string()),
        }
    }
    // What is told goes to every node, again and again.
    let told: Unmet = unmet.into_iter().take(UNMET_MAX).collect();
    healing.send_if_modified(|healing| {
        let changed = healing.unmet != told;
        healing.unmet = told;
        changed
    });
    // What was refused once is not tried again at once.
    Ok(more && !refused)
}

/// What there is to do, if anything.
fn due(there: Option<&Bucket>, wanted: &WantedBucket) -> Option<Due> {
    let WantedBucket { account, spec } = wanted;
    let Some(there) = there else { return Some(Due::Make) };
    if there.owner != account.as_str() {
        let words = format!("there is one of this name already, of account {}, which is not taken", there.owner);
        return Some(Due::Taken(words));
    }
    let mut changes = Vec::new();
    let class = class(spec.safety);
    let when_short = match spec.when_short {
        Short::Degrade => WhenShort::Degrade,
        Short::Refuse => WhenShort::Refuse,
    };
    if (there.class, there.when_short) != (class, when_short) {
        changes.push(BucketChange::Class(class, when_short));
    }
    if there.quota.bytes != spec.quota_bytes {
        changes.push(BucketChange::Quota(Quota { bytes: spec.quota_bytes, ..there.quota }));
    }
    let versioning = match (spec.versioning, there.versioning) {
        (Some(true), Versioning::Off | Versioning::Suspended) => Some(Versioning::On),
        // Versions that may be locked are kept, whatever anybody wants.
        (Some(false), Versioning::On) if !there.lockable => Some(Versioning::Suspended),
        (Some(_) | None, _) => None,
    };
    changes.extend(versioning.map(BucketChange::Versioning));
    (!changes.is_empty()).then_some(Due::Change(changes))
}

async fn bring(
    gateway: &Gateway,
    name: &BucketName,
    wanted: &BTreeMap<String, WantedBucket>,
    due: Due,
    region: &str,
) -> Result<(), MetaError> {
    let Some(WantedBucket { account, spec }) = wanted.get(name.as_str()) else { return Ok(()) };
    match due {
        Due::Make => {
            let command = Command::CreateBucket {
                name: name.clone(),
                owner: account.to_string(),
                region: region.to_owned(),
                lockable: false,
                acl: Acl::default(),
                class: class(spec.safety),
            };
            match gateway.ask(command).await {
                Ok(_) => info!(bucket = name.as_str(), account = account.as_str(), "made a bucket that is wanted"),
                // These rows were behind.
                Err(MetaError::Refused(Refusal::BucketYours)) => {}
                Err(error) => return Err(error),
            }
        }
        Due::Change(changes) => {
            for change in changes {
                let command = Command::SetBucket { name: name.clone(), change: change.clone() };
                gateway.ask(command).await?;
                info!(bucket = name.as_str(), ?change, "set up a bucket as it is wanted");
            }
        }
        Due::Taken(_) => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hirsel_model::WallTime;
    use hirsel_model::spec::{BucketSpec, Safety};

    use crate::meta::kinds::Class;

    fn there() -> Bucket {
        Bucket {
            id: 7,
            owner: "app-shop".into(),
            region: "here".into(),
            made: WallTime(0),
            versioning: Versioning::Off,
            lockable: false,
            lock: None,
            quota: Quota::default(),
            acl: Acl::default(),
            class: Class::default(),
            when_short: WhenShort::default(),
            tells: false,
            replication: None,
        }
    }

    fn wanted(spec: BucketSpec) -> WantedBucket {
        WantedBucket { account: "app-shop".parse().unwrap(), spec }
    }

    #[test]
    fn what_is_there_as_it_is_wanted_is_left_alone_and_what_is_not_is_made() {
        assert_eq!(due(Some(&there()), &wanted(BucketSpec::default())), None);
        assert_eq!(due(None, &wanted(BucketSpec::default())), Some(Due::Make));
    }

    #[test]
    fn a_bucket_of_somebody_else_is_not_taken() {
        for owner in ["main", "app-blog"] {
            let theirs = Bucket { owner: owner.into(), ..there() };
            let spec = BucketSpec { quota_bytes: Some(1), ..BucketSpec::default() };
            let Some(Due::Taken(words)) = due(Some(&theirs), &wanted(spec)) else { panic!("taken from {owner}") };
            assert!(words.contains(owner), "{words}");
        }
    }

    #[test]
    fn what_differs_is_brought_about_and_nothing_else() {
        let spec = BucketSpec {
            safety: Safety::Erasure(4, 2),
            when_short: Short::Refuse,
            quota_bytes: Some(9),
            versioning: Some(true),
            public: Some("/media".into()),
        };
        let objects = Quota { bytes: None, objects: Some(5) };
        let found = Bucket { quota: objects, ..there() };
        let Some(Due::Change(changes)) = due(Some(&found), &wanted(spec.clone())) else { panic!("nothing due") };
        let expected = [
            BucketChange::Class(Class::Erasure(4, 2), WhenShort::Refuse),
            BucketChange::Quota(Quota { bytes: Some(9), objects: Some(5) }),
            BucketChange::Versioning(Versioning::On),
        ];
        assert_eq!(changes, expected);
        let done = Bucket {
            class: Class::Erasure(4, 2),
            when_short: WhenShort::Refuse,
            quota: Quota { bytes: Some(9), objects: Some(5) },
            versioning: Versioning::On,
            ..there()
        };
        assert_eq!(due(Some(&done), &wanted(spec)), None);
    }

    #[test]
    fn a_limit_that_is_not_said_any_more_is_none_and_versions_are_left_to_programs_that_say_nothing() {
        let found = Bucket { quota: Quota { bytes: Some(9), objects: None }, versioning: Versioning::On, ..there() };
        let Some(Due::Change(changes)) = due(Some(&found), &wanted(BucketSpec::default())) else { panic!("no change") };
        assert_eq!(changes, [BucketChange::Quota(Quota::default())]);
        let off = |versioning, lockable| {
            let found = Bucket { versioning, lockable, ..there() };
            due(Some(&found), &wanted(BucketSpec { versioning: Some(false), ..BucketSpec::default() }))
        };
        assert_eq!(off(Versioning::Off, false), None);
        assert_eq!(off(Versioning::Suspended, false), None);
        assert_eq!(off(Versioning::On, true), None, "they may be locked");
        let suspended = vec![BucketChange::Versioning(Versioning::Suspended)];
        assert_eq!(off(Versioning::On, false), Some(Due::Change(suspended)));
    }
}
