//! Buckets that applications want: which they are, why one is not as it is wanted, and what stays when nobody wants it any more.

use hirsel_model::AppName;
use hirsel_model::control::Command;
use hirsel_model::spec::{AppSpec, BucketSpec, WhenShort, app_of_account, store_name};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::storage::heard;
use crate::api::sight::Sight;

/// A bucket that an application wants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct AppBucket {
    /// What the application calls it.
    pub name: String,
    /// What it is called in the store.
    pub bucket: String,
    /// How what is written to it is kept: `3 copies`, `4+2`.
    pub safety: String,
    /// Bytes of all versions in it, at most; none for no limit.
    pub quota_bytes: Option<u64>,
    /// Whether versions are kept; none where programs say so.
    pub versioning: Option<bool>,
    /// The path under which everybody may read it, on the hosts of the application.
    pub public: Option<String>,
    /// Why it is not as it is wanted.
    pub problem: Option<String>,
}

/// The buckets that `app` wants.
pub fn buckets(sight: &Sight, app: &AppName, spec: &AppSpec) -> Vec<AppBucket> {
    let told = spec.buckets.iter().map(|(label, bucket)| {
        let name = store_name(app, label);
        AppBucket {
            name: label.to_string(),
            safety: bucket.safety.to_string(),
            quota_bytes: bucket.quota_bytes,
            versioning: bucket.versioning,
            public: bucket.public.clone(),
            problem: problem(sight, &name),
            bucket: name,
        }
    });
    told.collect()
}

fn problem(sight: &Sight, name: &str) -> Option<String> {
    heard(sight).values().find_map(|facts| facts.unmet.get(name).cloned())
}

/// Who wants the bucket that is called `name` in the store, if anybody: the application, and how.
pub fn wanted_by<'a>(sight: &'a Sight, name: &str) -> Option<(&'a AppName, &'a BucketSpec)> {
    sight.state.spec.apps.iter().find_map(|(app, spec)| {
        let found = spec.buckets.iter().find(|(label, _)| store_name(app, label) == name);
        found.map(|(_, bucket)| (app, bucket))
    })
}

/// Buckets that are not as they are wanted, for `status`.
pub fn troubles(sight: &Sight) -> Vec<String> {
    let all = sight.state.spec.apps.iter().flat_map(|(app, spec)| buckets(sight, app, spec));
    all.filter_map(|it| Some(format!("bucket {}: {}", it.bucket, it.problem?))).collect()
}

/// Everything that is wanted of a bucket, in words.
pub fn words(bucket: &BucketSpec) -> String {
    let BucketSpec { safety, when_short, quota_bytes, versioning, public } = bucket;
    let parts = [
        Some(safety.to_string()),
        (*when_short == WhenShort::Refuse).then(|| "less is refused".to_owned()),
        quota_bytes.map(|bytes| format!("at most {}", size(bytes))),
        versioning.map(|on| if on { "versions are kept" } else { "versions are not kept" }.to_owned()),
        public.as_ref().map(|path| format!("everybody may read it at {path}")),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Bytes as a manifest says them.
fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let unit = UNITS.iter().find(|(_, unit)| bytes.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{bytes}B"), |(word, unit)| format!("{}{word}", bytes / unit))
}

/// Why a bucket is there, and why it is not as it is wanted; none where no application wants it.
pub fn why(sight: &Sight, name: &str) -> Option<String> {
    let (app, bucket) = wanted_by(sight, name)?;
    let problem = problem(sight, name).map(|why| format!("; it is not so: {why}")).unwrap_or_default();
    Some(format!("application {app} wants it: {}{problem}", words(bucket)))
}

/// The bucket that `thing` names: `bucket/shop-media`, or `shop/media` where nothing else of the application is called so.
pub fn meant(sight: &Sight, thing: &str) -> Option<String> {
    let (first, rest) = thing.split_once('/')?;
    if first == "bucket" {
        return wanted_by(sight, rest).map(|_| rest.to_owned());
    }
    let (app, spec) = sight.state.spec.apps.iter().find(|(app, _)| app.as_str() == first)?;
    let label = spec.buckets.keys().find(|label| label.as_str() == rest)?;
    let is_service = spec.services.keys().any(|service| service.as_str() == rest);
    (!is_service).then(|| store_name(app, label))
}

/// Why a bucket that nobody wants is there, if an application made it.
pub fn former(account: &str) -> Option<String> {
    app_of_account(account).map(|app| format!("made for application {app}, which does not want it any more"))
}

/// What a change does not do to buckets, though somebody might think so.
pub fn notes(sight: &Sight, command: &Command) -> Vec<String> {
    let (app, after) = match command {
        Command::ApplyApp { app, spec } => (app, Some(spec)),
        Command::RemoveApp { app } => (app, None),
        _ => return Vec::new(),
    };
    let Some(before) = sight.state.spec.apps.get(app) else { return Vec::new() };
    let note = |(label, bucket): (&_, &BucketSpec)| {
        let name = store_name(app, label);
        match after.and_then(|after| after.buckets.get(label)) {
            None => Some(format!(
                "bucket {name} stays, with what is in it; to remove it once it is empty: hirsel bucket rm {name}"
            )),
            Some(now) if now.safety != bucket.safety => Some(format!(
                "what is in bucket {name} stays as it is kept, {}; what is written from now on: {}",
                bucket.safety, now.safety
            )),
            Some(_) => None,
        }
    };
    before.buckets.iter().filter_map(note).collect()
}

#[cfg(test)]
mod tests {
    use hirsel_model::spec::Safety;

    use super::*;
    use crate::api::fixture::altered;

    fn shop() -> AppName {
        "shop".parse().unwrap()
    }

    fn wanting() -> Sight {
        altered(|state| {
            let bucket = BucketSpec { public: Some("/media".into()), ..BucketSpec::default() };
            let spec = state.spec.apps.get_mut(&shop()).unwrap();
            spec.buckets.insert("media".parse().unwrap(), bucket);
        })
    }

    #[test]
    fn a_bucket_is_told_by_both_its_names_and_who_wants_it_is_known() {
        let sight = wanting();
        let told = buckets(&sight, &shop(), &sight.state.spec.apps[&shop()]);
        assert_eq!((told[0].name.as_str(), told[0].bucket.as_str()), ("media", "shop-media"));
        let (app, bucket) = wanted_by(&sight, "shop-media").unwrap();
        assert_eq!((app, words(bucket)), (&shop(), "3 copies, everybody may read it at /media".to_owned()));
        assert_eq!((size(10 << 30), size(1_000)), ("10GiB".into(), "1000B".into()));
        assert!(wanted_by(&sight, "media").is_none() && troubles(&sight).is_empty());
        assert_eq!(meant(&sight, "shop/media").as_deref(), Some("shop-media"));
        assert_eq!((meant(&sight, "bucket/shop-media").is_some(), meant(&sight, "shop/web")), (true, None));
        assert_eq!(
            why(&sight, "shop-media").as_deref(),
            Some("application shop wants it: 3 copies, everybody may read it at /media")
        );
        assert_eq!((former("main"), former("app-shop").is_some()), (None, true));
    }

    #[test]
    fn who_takes_a_bucket_away_or_has_it_kept_otherwise_is_told_what_stays() {
        let sight = wanting();
        let mut spec = sight.state.spec.apps[&shop()].clone();
        let note = |spec: &AppSpec| notes(&sight, &Command::ApplyApp { app: shop(), spec: spec.clone() });
        assert!(note(&spec).is_empty());
        spec.buckets.values_mut().for_each(|bucket| bucket.safety = Safety::Erasure(4, 2));
        assert_eq!(
            note(&spec),
            ["what is in bucket shop-media stays as it is kept, 3 copies; what is written from now on: 4+2"]
        );
        spec.buckets.clear();
        let stays =
            "bucket shop-media stays, with what is in it; to remove it once it is empty: hirsel bucket rm shop-media";
        assert_eq!(note(&spec), [stays]);
        assert_eq!(notes(&sight, &Command::RemoveApp { app: shop() }), [stays]);
    }
}
