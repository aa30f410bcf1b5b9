//! `bucket create|list|usage|set|replicate|rm`.

use std::io::IsTerminal;
use std::path::Path;

use http::Method;
use serde_json::json;

use super::act::waited;
use super::args::{BucketChangeArgs, BucketCreateArgs, BucketReplicateArgs, BucketRmArgs, BucketSetArgs};
use super::client::{Answer, Client};
use super::foreseen;
use super::look::{escape, show};
use super::output::{self, Colour, ago, line, note, paint, since, table};
use super::wait::Goal;
use super::{Done, read_file, secret, wall};
use crate::api::envelope::Envelope;
use crate::api::error::{ApiError, Code};
use crate::api::handlers::changes::Changed;
use crate::api::views::buckets::{Bucket, Replication};
use crate::api::views::wanted;

/// Where the secret of the access key of another store may be.
const SECRET: &str = "HIRSEL_REPLICATION_SECRET";

/// `bucket create`
pub async fn create(client: &Client, json: bool, args: &BucketCreateArgs) -> Result<Done, ApiError> {
    if args.change.plan {
        return foreseen::create(client, json, args).await;
    }
    let fields = json!({
        "bucket": args.bucket,
        "account": args.account,
        "copies": args.copies,
        "erasure": args.erasure,
        "quota_bytes": args.quota.unwrap_or(0),
        "versioning": args.versioning,
    });
    let answer = client.ask::<Bucket>(Method::POST, "/v1/buckets", fields.to_string().into_bytes()).await?;
    told(&answer, json, "made", Some(&format!("hirsel bucket rm {}", args.bucket)));
    end(client, json, &answer, Goal::BucketPlaced(args.bucket.clone()), &args.change).await
}

/// `bucket set`
pub async fn set(client: &Client, json: bool, args: &BucketSetArgs) -> Result<Done, ApiError> {
    if args.change.plan {
        return foreseen::set(client, json, args).await;
    }
    // Only to say how to undo it: what cannot be read is said by the change itself.
    let before = client.get::<Bucket>(&path(&args.bucket)).await.ok().map(|answer| answer.envelope.data);
    let fields = json!({
        "copies": args.copies,
        "erasure": args.erasure,
        "quota_bytes": args.quota,
        "versioning": args.versioning,
    });
    let answer = client.ask::<Bucket>(Method::PUT, &path(&args.bucket), fields.to_string().into_bytes()).await?;
    let undo = before.and_then(|before| foreseen::undo(args, &before));
    told(&answer, json, "changed", undo.as_deref());
    end(client, json, &answer, Goal::BucketPlaced(args.bucket.clone()), &args.change).await
}

fn told(answer: &Answer<Bucket>, json: bool, did: &str, undo: Option<&str>) {
    if json {
        return;
    }
    let bucket = &answer.envelope.data;
    line(format!("{did} bucket {}: {}", bucket.bucket, kept(bucket)));
    if let Some(undo) = undo {
        note(paint(&format!("undo: {undo}"), Colour::Dim));
    }
}

/// Waits where that is wished, and ends with what was answered.
async fn end<T>(
    client: &Client,
    json: bool,
    answer: &Answer<T>,
    goal: Goal,
    flags: &BucketChangeArgs,
) -> Result<Done, ApiError> {
    let done = waited(client, json, &goal, (flags.wait, flags.timeout)).await?;
    if json {
        output::raw(&answer.text);
    }
    Ok(done)
}

fn kept(bucket: &Bucket) -> String {
    let quota = bucket.quota_bytes.map(|quota| format!("at most {}", size(quota)));
    let versions = bucket.versioning.then(|| "versions are kept".to_owned());
    [Some(bucket.safety.clone()), quota, versions].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// `bucket list`
pub async fn list(client: &Client, json: bool) -> Result<Done, ApiError> {
    show(client, json, "/v1/buckets", |envelope: &Envelope<Vec<Bucket>>| {
        let row = |bucket: &Bucket| {
            vec![
                bucket.bucket.clone(),
                bucket.account.clone(),
                bucket.app.clone().unwrap_or_else(|| "-".into()),
                bucket.objects.to_string(),
                size(bucket.bytes),
                bucket.quota_bytes.map_or("-".into(), size),
                bucket.safety.clone(),
                if bucket.versioning { "kept".into() } else { "-".into() },
                since(&bucket.made_at, wall()),
                bucket.replication.as_ref().map_or("-".into(), behind),
            ]
        };
        let rows: Vec<_> = envelope.data.iter().map(row).collect();
        line(table(
            &[
                "BUCKET",
                "ACCOUNT",
                "WANTED BY",
                "OBJECTS",
                "SIZE",
                "QUOTA",
                "SAFETY",
                "VERSIONS",
                "MADE",
                "REPLICATION",
            ],
            &rows,
        ));
    })
    .await?;
    Ok(Done::Well)
}

/// `bucket usage`
pub async fn usage(client: &Client, json: bool, bucket: &str) -> Result<Done, ApiError> {
    show(client, json, &path(bucket), |envelope: &Envelope<Bucket>| {
        let bucket = &envelope.data;
        let of = bucket.quota_bytes.map(|quota| format!(" of {}", size(quota))).unwrap_or_default();
        line(format!("bucket    {}, of account {}", bucket.bucket, bucket.account));
        match (&bucket.app, wanted::former(&bucket.account)) {
            (Some(app), _) => line(format!("wanted by application {app}, which says in its manifest how it is kept")),
            (None, Some(former)) => line(format!("why       {former}")),
            (None, None) => {}
        }
        line(format!("objects   {}, and {} other versions and markers", bucket.objects, bucket.versions));
        line(format!("size      {}{of} ({} bytes)", size(bucket.bytes), bucket.bytes));
        line(format!("uploads   {} under way, {}", bucket.uploads, size(bucket.upload_bytes)));
        line(format!("kept as   {}", kept(bucket)));
        line(format!("made      {}", since(&bucket.made_at, wall())));
        let Some(to) = &bucket.replication else { return };
        let keys = if to.prefix.is_empty() { String::new() } else { format!(", keys that begin with {}", to.prefix) };
        line(format!("copied to {}{keys}, with key {}", to.to, to.key_id));
        line(format!("copies    {}", behind(to)));
        if to.cannot > 0 {
            line(format!("          {} that cannot be copied: sealed with a client's key, or too long", to.cannot));
        }
        if let (Some(since_at), Some(error)) = (&to.failed_at, &to.error) {
            line(format!("          failing, first {}: {error}", since(since_at, wall())));
        }
    })
    .await?;
    Ok(Done::Well)
}

/// `bucket replicate`
pub async fn replicate(client: &Client, json: bool, args: &BucketReplicateArgs) -> Result<Done, ApiError> {
    if args.change.plan {
        return foreseen::replicate(client, json, args).await;
    }
    let path = format!("{}/replication", path(&args.bucket));
    if args.off {
        let answer = client.ask::<Bucket>(Method::DELETE, &path, Vec::new()).await?;
        replicated(&answer, json);
        return end(client, json, &answer, Goal::Nothing, &args.change).await;
    }
    let mut instead = format!("hirsel bucket replicate {} --secret-file FILE", args.bucket);
    for (flag, value) in [("--to", &args.to), ("--key-id", &args.key_id)] {
        instead += &value.as_ref().map(|value| format!(" {flag} {value}")).unwrap_or_default();
    }
    let secret = match (&args.secret_file, std::env::var(SECRET)) {
        (Some(file), _) => read_file(file)?,
        (None, Ok(secret)) => secret.into_bytes(),
        (None, Err(_)) if std::io::stdin().is_terminal() => secret::ask("secret of the access key", &instead)?,
        (None, Err(_)) => read_file(Path::new("-"))?,
    };
    let secret = String::from_utf8(secret::without_line_end(secret))
        .map_err(|_| ApiError::new(Code::Usage, "the secret is no text").next(&instead))?;
    let fields = json!({
        "to": args.to,
        "region": args.region,
        "prefix": args.prefix,
        "key_id": args.key_id,
        "secret": secret,
    });
    let answer = client.ask::<Bucket>(Method::PUT, &path, fields.to_string().into_bytes()).await?;
    replicated(&answer, json);
    end(client, json, &answer, Goal::BucketCopied(args.bucket.clone()), &args.change).await
}

fn replicated(answer: &Answer<Bucket>, json: bool) {
    if json {
        return;
    }
    let Bucket { bucket, replication, .. } = &answer.envelope.data;
    let (did, then) = match replication {
        Some(to) => (
            format!("bucket {bucket} is copied to {} from now on, beginning with what is in it", to.to),
            [format!("look: hirsel bucket usage {bucket}"), format!("undo: hirsel bucket replicate {bucket} --off")]
                .to_vec(),
        ),
        None => (format!("bucket {bucket} is not copied anywhere any more; what was copied stays there"), Vec::new()),
    };
    line(did);
    for words in then {
        note(paint(&words, Colour::Dim));
    }
}

/// How far it is, in a word or two.
pub(super) fn behind(to: &Replication) -> String {
    let more = if to.finding { " or more" } else { "" };
    match (to.due, to.finding) {
        _ if to.failed_at.is_some() => format!("failing, {}{more} due", to.due),
        (0, false) => "in step".into(),
        _ => format!("{}{more} due, {} behind", to.due, ago(to.lag_ms)),
    }
}

/// `bucket rm`
pub async fn remove(client: &Client, json: bool, args: &BucketRmArgs) -> Result<Done, ApiError> {
    if args.change.plan {
        return foreseen::remove(client, json, &args.bucket).await;
    }
    let answer = client.ask::<Changed>(Method::DELETE, &path(&args.bucket), Vec::new()).await?;
    if !json {
        line(&answer.envelope.data.did);
        if let Some(undo) = &answer.envelope.data.undo {
            note(paint(&format!("undo: {undo}"), Colour::Dim));
        }
    }
    end(client, json, &answer, Goal::Nothing, &args.change).await
}

pub(super) fn path(bucket: &str) -> String {
    format!("/v1/buckets/{}", escape(bucket).replace('/', "%2F"))
}

/// Bytes in one unit, as people say it.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut of = bytes as f64 / 1024.0;
    let mut unit = 0;
    while of >= 1023.95 && unit + 1 < UNITS.len() {
        of /= 1024.0;
        unit += 1;
    }
    format!("{of:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_said_in_one_unit() {
        let said = [0, 1023, 1024, 1536, (1 << 20) - 1, 1 << 20, 5 << 40, u64::MAX].map(size);
        let expected = ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1.0 MiB", "1.0 MiB", "5.0 TiB", "16.0 EiB"];
        assert_eq!(said, expected);
    }

    #[test]
    fn how_far_a_copy_is_is_said_in_a_word_or_two() {
        let of = |due, finding, failed_at: Option<&str>| {
            let failed_at = failed_at.map(str::to_owned);
            behind(&Replication { due, finding, failed_at, lag_ms: 12_000, ..Replication::default() })
        };
        assert_eq!(of(0, false, None), "in step");
        assert_eq!(of(3, false, None), "3 due, 12s behind");
        assert_eq!(of(3, true, None), "3 or more due, 12s behind");
        assert_eq!(of(3, false, Some("2026-01-01T00:00:00Z")), "failing, 3 due");
    }

    #[test]
    fn a_name_of_a_bucket_is_one_part_of_a_path() {
        assert_eq!(path("my.bucket-1"), "/v1/buckets/my.bucket-1");
        assert_eq!(path("a/b"), "/v1/buckets/a%2Fb");
    }
}
