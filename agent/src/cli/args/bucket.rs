//! What `bucket` takes.

use clap::{Args, Subcommand};

use super::ChangeArgs;

/// `bucket key`
#[derive(Args, Clone, Debug)]
pub struct BucketCommand {
    /// What to do.
    #[command(subcommand)]
    pub verb: BucketVerb,
}

/// What to do with buckets.
#[derive(Subcommand, Clone, Debug)]
pub enum BucketVerb {
    /// Access keys, with which programs ask the object store (create, list, rm)
    #[command(after_help = "Example: hirsel bucket key create shop --bucket media\n         hirsel bucket key list")]
    Key(KeyCommand),
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
    #[command(after_help = "Example: hirsel bucket key rm HIRS6T2JQ4KX7WZB3M5A")]
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
