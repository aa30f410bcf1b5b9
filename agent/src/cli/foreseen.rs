//! `bucket create|set|replicate|rm --plan`, and how to undo what `bucket set` did: what there is, against what is asked for.

use super::Done;
use super::args::{BucketCreateArgs, BucketReplicateArgs, BucketSetArgs};
use super::client::{Answer, Client};
use super::look::print_forecast;
use crate::api::envelope::Envelope;
use crate::api::error::{ApiError, Code};
use crate::api::forecast::{Difference, Forecast};
use crate::api::views::buckets::Bucket;

/// What `bucket create` would do.
pub async fn create(client: &Client, json: bool, args: &BucketCreateArgs) -> Result<Done, ApiError> {
    let (name, words) = (&args.bucket, format!("make bucket {}", args.bucket));
    foresee(client, json, (name, words), |there| created(args, there)).await
}

/// What `bucket set` would do.
pub async fn set(client: &Client, json: bool, args: &BucketSetArgs) -> Result<Done, ApiError> {
    let (name, words) = (&args.bucket, format!("change bucket {}", args.bucket));
    foresee(client, json, (name, words), |there| changed(args, there.ok_or_else(|| none(name))?)).await
}

/// What `bucket replicate` would do. The secret is neither asked for nor compared: nobody is shown the one that is kept.
pub async fn replicate(client: &Client, json: bool, args: &BucketReplicateArgs) -> Result<Done, ApiError> {
    let name = &args.bucket;
    let words = match &args.to {
        Some(to) => format!("have bucket {name} copied to {to}"),
        None => format!("have bucket {name} copied nowhere"),
    };
    foresee(client, json, (name, words), |there| Ok(copied(args, there.ok_or_else(|| none(name))?))).await
}

/// What `bucket rm` would do.
pub async fn remove(client: &Client, json: bool, name: &str) -> Result<Done, ApiError> {
    foresee(client, json, (name, format!("remove bucket {name}")), |there| removed(name, there)).await
}

async fn foresee(
    client: &Client,
    json: bool,
    (name, words): (&str, String),
    what: impl FnOnce(Option<&Bucket>) -> Result<Vec<Difference>, ApiError>,
) -> Result<Done, ApiError> {
    let Envelope { api, cluster, node, index, stale_ms, data, warnings } =
        client.get::<Vec<Bucket>>("/v1/buckets").await?.envelope;
    let spec = what(data.iter().find(|bucket| bucket.bucket == name))?;
    let data = Forecast { command: words, changes: !spec.is_empty(), spec, complete: true, ..Forecast::default() };
    let envelope = Envelope { api, cluster, node, index, stale_ms, data, warnings };
    let text = serde_json::to_string(&envelope).unwrap_or_default();
    Ok(print_forecast(&Answer { text, envelope }, json))
}

fn none(name: &str) -> ApiError {
    ApiError::new(Code::NotFound, format!("no bucket named {name:?}")).next("hirsel bucket list")
}

/// What is wanted by an application is said there.
fn refuse_wanted(there: &Bucket) -> Result<(), ApiError> {
    let Some(app) = &there.app else { return Ok(()) };
    let message = format!("bucket {} is wanted by application {app}: it is changed in its manifest", there.bucket);
    Err(ApiError::new(Code::Unsafe, message).next("hirsel apply FILE"))
}

fn created(args: &BucketCreateArgs, there: Option<&Bucket>) -> Result<Vec<Difference>, ApiError> {
    if let Some(there) = there {
        let message = format!("bucket {} is there already, of account {}", there.bucket, there.account);
        return Err(ApiError::new(Code::Conflict, message).next(format!("hirsel bucket usage {}", there.bucket)));
    }
    let safety = args.erasure.clone().unwrap_or_else(|| copies(args.copies.unwrap_or(3)));
    let account = args.account.clone().unwrap_or_else(|| hirsel_model::access::ACCOUNT.into());
    let values = [
        ("account", Some(account)),
        ("quota_bytes", args.quota.filter(|bytes| *bytes > 0).map(|bytes| bytes.to_string())),
        ("safety", Some(safety)),
        ("versioning", args.versioning.then(|| "true".into())),
    ];
    Ok(values.into_iter().filter_map(|(what, after)| differs(&args.bucket, what, None, after)).collect())
}

fn changed(args: &BucketSetArgs, there: &Bucket) -> Result<Vec<Difference>, ApiError> {
    refuse_wanted(there)?;
    let safety = args.erasure.clone().or(args.copies.map(copies));
    let quota = |bytes: Option<u64>| bytes.filter(|bytes| *bytes > 0).map(|bytes| bytes.to_string());
    let mut found = Vec::new();
    if let Some(safety) = safety {
        found.extend(differs(&there.bucket, "safety", Some(there.safety.clone()), Some(safety)));
    }
    if args.quota.is_some() {
        found.extend(differs(&there.bucket, "quota_bytes", quota(there.quota_bytes), quota(args.quota)));
    }
    if let Some(on) = args.versioning {
        found.extend(differs(&there.bucket, "versioning", Some(there.versioning.to_string()), Some(on.to_string())));
    }
    Ok(found)
}

fn copied(args: &BucketReplicateArgs, there: &Bucket) -> Vec<Difference> {
    let before = there.replication.as_ref();
    let after = |value: Option<&String>| value.filter(|_| !args.off).cloned();
    let values = [
        ("to", before.map(|it| &it.to), after(args.to.as_ref())),
        ("region", before.map(|it| &it.region), after(Some(&args.region))),
        ("prefix", before.map(|it| &it.prefix), after(Some(&args.prefix))),
        ("key_id", before.map(|it| &it.key_id), after(args.key_id.as_ref())),
    ];
    // No beginning is what is not said.
    let said = |text: &String| !text.is_empty();
    let differs = |(what, before, after): (&str, Option<&String>, Option<String>)| {
        let what = format!("replication.{what}");
        differs(&args.bucket, &what, before.filter(|it| said(it)).cloned(), after.filter(said))
    };
    values.into_iter().filter_map(differs).collect()
}

fn removed(name: &str, there: Option<&Bucket>) -> Result<Vec<Difference>, ApiError> {
    let there = there.ok_or_else(|| none(name))?;
    refuse_wanted(there)?;
    let inside = there.objects + there.versions;
    if inside > 0 {
        let message = format!("bucket {name} is not empty: {inside} objects, versions and markers are in it");
        return Err(ApiError::new(Code::Conflict, message).next(format!("hirsel bucket usage {name}")));
    }
    Ok(differs(name, "safety", Some(there.safety.clone()), None).into_iter().collect())
}

fn copies(copies: u8) -> String {
    hirsel_model::spec::Safety::Copies(copies).to_string()
}

fn differs(bucket: &str, what: &str, before: Option<String>, after: Option<String>) -> Option<Difference> {
    (before != after).then(|| Difference { path: format!("buckets.{bucket}.{what}"), before, after })
}

/// The command that takes `bucket set` back; none where nothing changed.
pub fn undo(args: &BucketSetArgs, before: &Bucket) -> Option<String> {
    let mut flags = String::new();
    for difference in changed(args, before).ok()? {
        let was = difference.before.unwrap_or_else(|| "none".into());
        flags += &match difference.path.rsplit('.').next()? {
            "quota_bytes" if was == "none" => " --quota none".to_owned(),
            "quota_bytes" => format!(" --quota {was}B"),
            "versioning" => format!(" --versioning {}", if was == "true" { "on" } else { "off" }),
            _ if was.contains('+') => format!(" --erasure {was}"),
            _ => format!(" --copies {}", was.split(' ').next().unwrap_or_default()),
        };
    }
    (!flags.is_empty()).then(|| format!("hirsel bucket set {}{flags}", before.bucket))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn media() -> Bucket {
        let quota_bytes = Some(1 << 30);
        Bucket {
            bucket: "media".into(),
            account: "main".into(),
            safety: "3 copies".into(),
            quota_bytes,
            ..Bucket::default()
        }
    }

    fn set() -> BucketSetArgs {
        BucketSetArgs {
            bucket: "media".into(),
            copies: None,
            erasure: None,
            quota: None,
            versioning: None,
            change: Default::default(),
        }
    }

    #[test]
    fn what_a_change_would_do_is_told_and_how_to_undo_it() {
        let args = BucketSetArgs { erasure: Some("4+2".into()), quota: Some(0), versioning: Some(true), ..set() };
        let shown: Vec<_> =
            changed(&args, &media()).unwrap().into_iter().map(|it| (it.path, it.before, it.after)).collect();
        let some = |text: &str| Some(text.to_owned());
        let expected = [
            ("buckets.media.safety".to_owned(), some("3 copies"), some("4+2")),
            ("buckets.media.quota_bytes".to_owned(), some("1073741824"), None),
            ("buckets.media.versioning".to_owned(), some("false"), some("true")),
        ];
        assert_eq!(shown, expected);
        assert_eq!(
            undo(&args, &media()).as_deref(),
            Some("hirsel bucket set media --copies 3 --quota 1073741824B --versioning off")
        );
        let same = BucketSetArgs { copies: Some(3), quota: Some(1 << 30), ..set() };
        assert_eq!((changed(&same, &media()).unwrap().len(), undo(&same, &media())), (0, None));
    }

    #[test]
    fn what_a_copy_would_change_is_told_without_its_secret() {
        let args = |to: Option<&str>| BucketReplicateArgs {
            bucket: "media".into(),
            to: to.map(str::to_owned),
            key_id: to.map(|_| "ID".into()),
            secret_file: None,
            region: "us-east-1".into(),
            prefix: String::new(),
            off: to.is_none(),
            change: Default::default(),
        };
        let shown = |args: &BucketReplicateArgs, there: &Bucket| -> Vec<_> {
            copied(args, there).into_iter().map(|it| (it.path, it.before, it.after)).collect()
        };
        let (some, path) = (|text: &str| Some(text.to_owned()), |what| format!("buckets.media.replication.{what}"));
        let to = args(Some("https://a/b"));
        let begun = [
            (path("to"), None, some("https://a/b")),
            (path("region"), None, some("us-east-1")),
            (path("key_id"), None, some("ID")),
        ];
        assert_eq!(shown(&to, &media()), begun);
        let (region, key_id) = ("us-east-1".to_owned(), "ID".to_owned());
        let replication =
            crate::api::views::buckets::Replication { to: "https://a/b".into(), region, key_id, ..Default::default() };
        let there = Bucket { replication: Some(replication), ..media() };
        assert_eq!(shown(&to, &there), [], "the same is said again");
        let other = shown(&args(Some("https://a/c")), &there);
        assert_eq!(other, [(path("to"), some("https://a/b"), some("https://a/c"))]);
        assert_eq!(shown(&args(None), &there).len(), 3);
        assert_eq!(shown(&args(None), &media()), []);
    }

    #[test]
    fn what_would_be_refused_is_refused_in_the_plan() {
        let code = |result: Result<Vec<Difference>, ApiError>| result.map_err(|error| error.code);
        assert_eq!(code(removed("media", None)), Err(Code::NotFound));
        assert_eq!(code(removed("media", Some(&media()))).map(|it| it.len()), Ok(1));
        let full = Bucket { versions: 1, ..media() };
        assert_eq!(code(removed("media", Some(&full))), Err(Code::Conflict));
        let wanted = Bucket { app: Some("shop".into()), ..media() };
        assert_eq!(code(removed("media", Some(&wanted))), Err(Code::Unsafe));
        assert_eq!(code(changed(&set(), &wanted)), Err(Code::Unsafe));
    }
}
