//! What can be asked of zones that are signed.

use clap::{Args, Subcommand};

use super::ChangeArgs;

/// `dns list|ds|roll`
#[derive(Args, Clone, Debug)]
pub struct DnsCommand {
    /// What to do.
    #[command(subcommand)]
    pub verb: DnsVerb,
}

/// What to do with zones that are signed.
#[derive(Subcommand, Clone, Debug)]
pub enum DnsVerb {
    /// List zones whose manifests say `dnssec = true`: their keys, and what comes next
    #[command(after_help = "Example: hirsel dns list --json\nExit status: 3 if one is not signed yet")]
    List,
    /// Show what the zone above a zone has to say of its key (DS): give it to whom the zone is registered with
    #[command(after_help = "Example: hirsel dns ds example.com\n\n\
        Zones above that look for CDS or CDNSKEY records find the same there (RFC 7344). While a key is replaced it is\n\
        the one that should be named next. With --json there are also the keys themselves (DNSKEY).\n\
        Exit status: 3 if the zone above has to say nothing")]
    Ds(DnsDsArgs),
    /// Replace the key of a zone, or take the next step of that
    #[command(after_help = "Example: hirsel dns roll example.com\n         hirsel dns roll example.com --seen\n\n\
        The next key is listed for two hours before it is offered to the zone above. When that names it (hirsel dns ds),\n\
        say so with --seen: the next key signs from then on, and the former is forgotten three days later.\n\
        Where the former key is known to others, do not wait: --force REASON takes the next step at once, and resolvers\n\
        that remember the one before may not believe what they are told for as long as they remember it.\n\
        Exit status: 6 if others may remember the step before")]
    Roll(DnsRollArgs),
}

/// `dns ds`
#[derive(Args, Clone, Debug)]
pub struct DnsDsArgs {
    /// Which zone
    #[arg(value_name = "ZONE")]
    pub zone_name: String,
}

/// `dns roll`
#[derive(Args, Clone, Debug)]
pub struct DnsRollArgs {
    /// Which zone
    #[arg(value_name = "ZONE")]
    pub zone_name: String,
    /// The zone above names the next key
    #[arg(long)]
    pub seen: bool,
    /// As for every change.
    #[command(flatten)]
    pub change: ChangeArgs,
}
