//! What `bucket` and `cp` take.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::ChangeArgs;

/// `bucket create|list|usage|set|replicate|rm|audit|scrub|key`
#[derive(Args, Clone, Debug)]
pub struct BucketCommand {
    /// What to do.
    #[command(subcommand)]
    pub verb: BucketVerb,
}

/// What to do with buckets.
#[derive(Subcommand, Clone, Debug)]
pub enum BucketVerb {
    /// Make a bucket
    #[command(after_help = "Example: hirsel bucket create media\n         \
        hirsel bucket create archive --erasure 4+2 --quota 500GiB --versioning\n\n\
        Without --copies or --erasure there are three copies of everything, on three nodes. Erasure coding 4+2 takes half\n\
        of that room, six nodes, and like three copies loses nothing with any two of them; 8+3 takes a little less than\n\
        half, eleven nodes, and loses nothing with any three.")]
    Create(BucketCreateArgs),
    /// List the buckets, what is in each, and which application wants it
    #[command(after_help = "Example: hirsel bucket list --json")]
    List,
    /// Show what is in a bucket, and how it is kept
    #[command(after_help = "Example: hirsel bucket usage media")]
    Usage(BucketArgs),
    /// Change how a bucket is kept; what is in it already stays as it is
    #[command(after_help = "Example: hirsel bucket set media --quota 1TiB\n         \
        hirsel bucket set media --quota none --versioning on\n\n\
        A bucket that an application wants ([bucket.NAME] of its manifest) is changed there.")]
    Set(BucketSetArgs),
    /// Have a bucket copied to a bucket of another cluster, or of any S3, from now on
    #[command(
        after_help = "Example: hirsel bucket replicate media --to https://s3.example.com/media-copy --key-id HIRS6T2JQ4KX7WZB3M5A\n         \
        hirsel bucket replicate media --to http://10.1.0.5:7480/media --key-id ID --secret-file FILE --prefix public/\n         \
        hirsel bucket replicate media --off --plan\n\n\
        The secret of the key comes from a file, from HIRSEL_REPLICATION_SECRET, from standard input, or from a terminal that does\n\
        not show it; it is kept sealed. The other bucket must be there already. What is in this one is copied first, and what is\n\
        there alone stays. After that each change follows, in order for each key, with content type, user's metadata and tags, and\n\
        deletions too; clients here never wait for it. Said again, everything is compared once more. Not copied: former versions,\n\
        access control lists, locks, and what only a client can open (SSE-C). `hirsel bucket usage` says how far behind it is,\n\
        and --wait waits until it is in step."
    )]
    Replicate(BucketReplicateArgs),
    /// Remove a bucket in which nothing is, and that no application wants
    #[command(after_help = "Example: hirsel bucket rm media")]
    Rm(BucketRmArgs),
    /// Count on every disk what should be there, now, and say what is missing
    #[command(after_help = "Example: hirsel bucket audit\n         hirsel bucket audit --last --json\n\n\
        Each node compares the pieces on its disk with what the metadata say, in both directions. What is missing is made anew,\n\
        what nobody can name is removed. Exits with 0 if every piece was found where it should be, else with 3. Nodes do this by\n\
        themselves every ten minutes, and only this lets `hirsel status` call what is stored healthy.")]
    Audit(SurveyArgs),
    /// Read everything on every disk, now, and say what is damaged
    #[command(after_help = "Example: hirsel bucket scrub --timeout 2h\n         hirsel bucket scrub --last\n\n\
        Each node reads all it has and checks it; what is damaged is made anew from others. Exits with 0 if nothing was damaged,\n\
        else with 3. Nodes do this by themselves, slowly, within two weeks. It goes on when this command is ended.")]
    Scrub(SurveyArgs),
    /// Access keys, with which programs ask the object store (create, list, rm)
    #[command(after_help = "Example: hirsel bucket key create shop --bucket media\n         hirsel bucket key list")]
    Key(KeyCommand),
}

/// A bucket.
#[derive(Args, Clone, Debug)]
pub struct BucketArgs {
    /// Its name
    pub bucket: String,
}

/// What every change of a bucket takes. No `--if-index`: buckets are not part of what that counts.
#[derive(Args, Clone, Debug, Default)]
pub struct BucketChangeArgs {
    /// Wait until there is a place for what is written to it, or, of a copy, until all is copied
    #[arg(long)]
    pub wait: bool,
    /// How long to wait, in seconds or as 90s, 5m [default: 120s]
    #[arg(long, value_name = "TIME", value_parser = super::parse_duration)]
    pub timeout: Option<Duration>,
    /// Only show what would change
    #[arg(long)]
    pub plan: bool,
}

/// `bucket rm`
#[derive(Args, Clone, Debug)]
pub struct BucketRmArgs {
    /// Its name
    pub bucket: String,
    /// As for every change of a bucket.
    #[command(flatten)]
    pub change: BucketChangeArgs,
}

/// `bucket audit`, `bucket scrub`
#[derive(Args, Clone, Debug)]
pub struct SurveyArgs {
    /// Only show what was found the last time
    #[arg(long)]
    pub last: bool,
    /// How long to wait for all nodes, in seconds or as 90s, 5m [default: 10m]
    #[arg(long, value_name = "TIME", value_parser = super::parse_duration)]
    pub timeout: Option<Duration>,
}

/// `bucket create`
#[derive(Args, Clone, Debug)]
pub struct BucketCreateArgs {
    /// Its name: 3 to 63 of a-z, 0-9, '-' and '.'
    pub bucket: String,
    /// Keep so many copies of everything, each on a node of its own: 1 to 3 [default: 3]
    #[arg(long, value_name = "N", conflicts_with = "erasure")]
    pub copies: Option<u8>,
    /// Keep K shards with data and M more, any M of which may be lost: 4+2 or 8+3
    #[arg(long, value_name = "K+M")]
    pub erasure: Option<String>,
    /// Bytes of all versions in it, at most, as 10GiB [default: no limit]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub quota: Option<u64>,
    /// Keep former versions of each object
    #[arg(long)]
    pub versioning: bool,
    /// Whose it is [default: main]
    #[arg(long, value_name = "NAME")]
    pub account: Option<String>,
    /// As for every change of a bucket.
    #[command(flatten)]
    pub change: BucketChangeArgs,
}

/// `bucket set`
#[derive(Args, Clone, Debug)]
pub struct BucketSetArgs {
    /// Its name
    pub bucket: String,
    /// Keep so many copies of what is written from now on: 1 to 3
    #[arg(long, value_name = "N", conflicts_with = "erasure")]
    pub copies: Option<u8>,
    /// Keep K shards with data and M more of what is written from now on: 4+2 or 8+3
    #[arg(long, value_name = "K+M")]
    pub erasure: Option<String>,
    /// Bytes of all versions in it, at most, as 10GiB; `none` for no limit
    #[arg(long, value_name = "SIZE|none", value_parser = parse_quota)]
    pub quota: Option<u64>,
    /// Whether former versions of each object are kept from now on
    #[arg(long, value_name = "on|off", value_parser = parse_switch)]
    pub versioning: Option<bool>,
    /// As for every change of a bucket.
    #[command(flatten)]
    pub change: BucketChangeArgs,
}

/// `bucket replicate`
#[derive(Args, Clone, Debug)]
pub struct BucketReplicateArgs {
    /// Its name
    pub bucket: String,
    /// Where to: an S3 and a bucket of it, as `https://s3.example.com/media`
    #[arg(long, value_name = "URL/BUCKET", required_unless_present = "off")]
    pub to: Option<String>,
    /// Id of the access key that it is written with there
    #[arg(long, value_name = "ID", required_unless_present = "off")]
    pub key_id: Option<String>,
    /// File that holds the secret of that key; - is standard input
    // No flag takes the secret itself: a command line is seen by whoever lists processes.
    #[arg(long, value_name = "FILE")]
    pub secret_file: Option<PathBuf>,
    /// Region that the other side says it is
    #[arg(long, value_name = "NAME", default_value = "us-east-1")]
    pub region: String,
    /// Only copy keys that begin with this
    #[arg(long, value_name = "BEGINNING", default_value = "")]
    pub prefix: String,
    /// Copy it no more; what is there stays
    #[arg(long, conflicts_with_all = ["to", "key_id", "secret_file", "region", "prefix"])]
    pub off: bool,
    /// As for every change of a bucket.
    #[command(flatten)]
    pub change: BucketChangeArgs,
}

/// `bucket key create|list|rm`
#[derive(Args, Clone, Debug)]
pub struct KeyCommand {
    /// What to do.
    #[command(subcommand)]
    pub verb: KeyVerb,
}

/// What to do with access keys.
#[derive(Subcommand, Clone, Debug)]
pub enum KeyVerb {
    /// Make an access key; its secret is shown this once
    #[command(after_help = "Example: hirsel bucket key create shop --bucket media --bucket 'shop-*'\n         \
        hirsel bucket key create reports --read-only --json\n\n\
        Give a client of S3 the endpoint, the region, the id and the secret that are shown. Any node answers, at port 7480\n\
        unless its agent was told otherwise, and inside the cluster at s3.hirsel. A key without --bucket may use all buckets.")]
    Create(KeyCreateArgs),
    /// List the access keys, without their secrets
    #[command(after_help = "Example: hirsel bucket key list")]
    List,
    /// Take an access key back: what is signed with it is refused by every node that hears of it
    #[command(after_help = "Example: hirsel bucket key rm HIRS6T2JQ4KX7WZB3M5A\n\n\
        Where it is the key of an application with buckets, another one is made, and instances that name it are replaced.")]
    Rm(KeyRmArgs),
}

/// `bucket key create`
#[derive(Args, Clone, Debug)]
pub struct KeyCreateArgs {
    /// What it is for: a word that `bucket key list` shows
    pub name: String,
    /// A bucket that it may use, or the beginning of names with '*' behind; may be given several times [default: all]
    #[arg(long = "bucket", value_name = "NAME|BEGINNING*")]
    pub buckets: Vec<String>,
    /// It may only read and list
    #[arg(long)]
    pub read_only: bool,
    /// It may not make or remove buckets
    #[arg(long)]
    pub no_create: bool,
    /// Account that it acts for, whose the buckets are that it makes [default: main]
    #[arg(long, value_name = "NAME")]
    pub account: Option<String>,
    /// As for every change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `bucket key rm`
#[derive(Args, Clone, Debug)]
pub struct KeyRmArgs {
    /// Its id
    #[arg(value_name = "ID")]
    pub id: String,
    /// As for every change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `cp`
#[derive(Args, Clone, Debug)]
pub struct CpArgs {
    /// What is copied: a file, - for standard input, or BUCKET/KEY
    #[arg(value_name = "FROM")]
    pub from: String,
    /// Where to: BUCKET/KEY, a file or folder, or - for standard output
    #[arg(value_name = "TO")]
    pub to: String,
    /// What clients are told that the object is, as image/png
    #[arg(long, value_name = "TYPE")]
    pub content_type: Option<String>,
}

fn parse_size(text: &str) -> Result<u64, String> {
    hirsel_model::manifest::size(text)
}

/// No limit is written as 0.
fn parse_quota(text: &str) -> Result<u64, String> {
    if text == "none" { Ok(0) } else { parse_size(text) }
}

fn parse_switch(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("{text:?}: expected on or off")),
    }
}
