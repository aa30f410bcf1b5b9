//! Refuses buckets of applications that make no sense, or that another application has.

use super::limits::*;
use super::{ControlState, Refusal};
use crate::id::AppName;
use crate::spec::{AppSpec, store_name, unfit_bucket};

/// Refuses buckets of `app` that are wrong in themselves.
pub(super) fn check(app: &AppSpec) -> Result<(), Refusal> {
    at_most(|| "number of buckets".into(), app.buckets.len(), BUCKETS_PER_APP_MAX)?;
    for (label, bucket) in &app.buckets {
        if !bucket.safety.is_kept() {
            let safety = bucket.safety;
            return Err(Refusal::Invalid(format!(
                "bucket {label}: {safety} are not kept; 1 to 3 copies are, and 4+2, and 8+3"
            )));
        }
        let path = bucket.public.as_deref().unwrap_or_default();
        at_most(|| format!("public path of bucket {label} in bytes"), path.len(), PATH_BYTES_MAX)?;
        if bucket.quota_bytes == Some(0) {
            return Err(Refusal::Invalid(format!("bucket {label}: a quota of nothing keeps everything out")));
        }
    }
    Ok(())
}

/// Names in the store are those of one application each: `a-b` with `c` and `a` with `b-c` would share one.
pub(super) fn check_owners(state: &ControlState, app: &AppName, new: &AppSpec) -> Result<(), Refusal> {
    for label in new.buckets.keys() {
        if let Some(why) = unfit_bucket(app, label) {
            return Err(Refusal::Invalid(why));
        }
        let name = store_name(app, label);
        for (other, spec) in state.spec.apps.iter().filter(|(other, _)| *other != app) {
            if let Some(theirs) = spec.buckets.keys().find(|theirs| store_name(other, theirs) == name) {
                return Err(Refusal::Invalid(format!(
                    "bucket {label} would be called {name} in the store, as bucket {theirs} of application {other} is"
                )));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::samples::{app, cluster, named, service};
    use super::super::{Command, Entry, Outcome};
    use super::*;
    use crate::feature;
    use crate::id::RoleName;
    use crate::order::Work;
    use crate::reconciler::orders;
    use crate::spec::{BucketSpec, Safety};
    use crate::time::WallTime;

    fn with(label: &str, bucket: BucketSpec) -> AppSpec {
        let mut spec = app(&[("web", service("serve"))]);
        spec.buckets.insert(named(label), bucket);
        spec
    }

    fn run(state: &mut ControlState, command: Command) -> Result<(), String> {
        let index = state.applied.next();
        let entry = Entry { at: WallTime(1_000), by: "admin@n1".into(), if_index: None, command };
        match state.apply(index, entry) {
            Outcome::Refused(refusal) => Err(refusal.to_string()),
            Outcome::Done { .. } | Outcome::Admitted { .. } | Outcome::Lengthened { .. } => Ok(()),
        }
    }

    fn apply(state: &mut ControlState, name: &str, spec: AppSpec) -> Result<(), String> {
        run(state, Command::ApplyApp { app: named(name), spec })
    }

    #[test]
    fn two_applications_never_have_one_bucket() {
        let mut state = cluster(1);
        apply(&mut state, "a-b", with("c", BucketSpec::default())).unwrap();
        assert_eq!(
            apply(&mut state, "a", with("b-c", BucketSpec::default())).unwrap_err(),
            "bucket b-c would be called a-b-c in the store, as bucket c of application a-b is"
        );
        apply(&mut state, "a", with("c", BucketSpec::default())).unwrap();
        let long = "a".repeat(60);
        assert!(apply(&mut state, &long, with("c", BucketSpec::default())).unwrap_err().contains("too many for one"));
    }

    #[test]
    fn a_bucket_that_makes_no_sense_is_refused() {
        let refused = |bucket| apply(&mut cluster(1), "shop", with("media", bucket)).unwrap_err();
        let safety = |safety| BucketSpec { safety, ..BucketSpec::default() };
        assert!(refused(safety(Safety::Copies(4))).contains("4 copies are not kept"));
        assert!(refused(safety(Safety::Erasure(8, 2))).contains("8+2 are not kept"));
        assert!(refused(BucketSpec { quota_bytes: Some(0), ..BucketSpec::default() }).contains("keeps everything out"));
        let mut many = app(&[]);
        many.buckets = (0..=BUCKETS_PER_APP_MAX).map(|it| (named(&format!("b{it}")), BucketSpec::default())).collect();
        assert!(apply(&mut cluster(1), "shop", many).unwrap_err().contains("number of buckets"));
    }

    #[test]
    fn every_node_is_told_what_is_wanted_for_as_long_as_it_is() {
        let mut state = cluster(2);
        let wanted = |state: &ControlState| {
            let order = orders(state, crate::id::NodeId(2), &[RoleName::storage()]);
            let Work::Storage(order) = order[&RoleName::storage()].work.clone() else { panic!("no order") };
            order.buckets.clone()
        };
        assert!(wanted(&state).is_empty());
        let bucket = BucketSpec { quota_bytes: Some(7), ..BucketSpec::default() };
        apply(&mut state, "shop", with("media", bucket.clone())).unwrap();
        let told = wanted(&state);
        assert_eq!((told.len(), &told["shop-media"].spec), (1, &bucket));
        assert_eq!(told["shop-media"].account.as_str(), "app-shop");
        // What is stopped keeps its data.
        run(&mut state, Command::SetStopped { app: named("shop"), stopped: true }).unwrap();
        assert_eq!(wanted(&state), told);
        run(&mut state, Command::RemoveApp { app: named("shop") }).unwrap();
        assert!(wanted(&state).is_empty());
    }

    #[test]
    fn a_cluster_of_the_first_level_has_none() {
        let command = Command::ApplyApp { app: named("shop"), spec: with("media", BucketSpec::default()) };
        assert_eq!(feature::needed(&command), feature::Need::of(2, "a bucket of an application"));
    }
}
