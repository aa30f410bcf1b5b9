//! What can be asked of answers that load balancers keep.

use clap::{Args, Subcommand};

use super::ChangeArgs;

/// `cache purge|show`
#[derive(Args, Clone, Debug)]
pub struct CacheCommand {
    /// What to do.
    #[command(subcommand)]
    pub verb: CacheVerb,
}

/// What to do with answers that load balancers keep.
#[derive(Subcommand, Clone, Debug)]
pub enum CacheVerb {
    /// Have every load balancer forget answers before their time
    #[command(after_help = "Example: hirsel cache purge shop.example.com/static/* --wait\n         \
        hirsel cache purge shop.example.com/      (the front page; without the slash all of the host)\n         \
        hirsel cache purge --tag product-17\n         \
        hirsel cache purge --app shop\n\n\
        A path stands for itself with any query, or with /* at its end for all below. Tags are what programs say in\n\
        Cache-Tag, words between commas; clients do not see them. What is on its way when the purge comes is not kept.\n\
        A load balancer that is cut off forgets as soon as it is back. --wait waits for all of them.")]
    Purge(CachePurgeArgs),
    /// Show which routes keep answers, and whether load balancers have forgotten what they were told to
    #[command(after_help = "Example: hirsel cache show --json\nExit status: 3 if one has not, or is not heard")]
    Show,
}

/// `cache purge`
#[derive(Args, Clone, Debug)]
#[group(skip)]
pub struct CachePurgeArgs {
    /// A host, with or without a path
    #[arg(value_name = "HOST[/PATH]", required_unless_present_any = ["tag", "app", "all"], conflicts_with_all = ["tag", "app", "all"])]
    pub place: Option<String>,
    /// Answers that have this tag
    #[arg(long, value_name = "TAG", conflicts_with_all = ["app", "all"])]
    pub tag: Option<String>,
    /// All answers of an application
    #[arg(long, value_name = "APP", conflicts_with = "all")]
    pub app: Option<String>,
    /// Everything
    #[arg(long)]
    pub all: bool,
    /// As for every change.
    #[command(flatten)]
    pub change: ChangeArgs,
}
