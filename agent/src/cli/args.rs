//! The verbs, one level deep, with their flags. Completions and man pages come from the same definitions.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use super::backup::BackupArgs;
use super::bundle::BundleArgs;
use super::evolve::UpgradeArgs;
use super::recover::RecoverArgs;
use crate::args::{DevArgs, JoinArgs, Power, RestoreArgs, UpArgs};

mod bucket;
mod cache;
mod cert;
mod dns;
mod verbs;

pub use bucket::*;
pub use cache::*;
pub use cert::*;
pub use dns::*;
pub use verbs::*;

/// One executable for a redundant, self-healing cluster behind a single endpoint.
#[derive(Parser, Debug)]
#[command(
    name = "hirsel",
    version,
    propagate_version = true,
    disable_help_subcommand = true,
    max_term_width = 110,
    about = "hirsel: one executable on every host makes a redundant, self-healing cluster",
    override_usage = "hirsel VERB [OPTIONS]",
    help_template = HELP,
)]
pub struct Cli {
    /// Which agent to ask, and how to answer.
    #[command(flatten)]
    pub ask: AskArgs,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

const HELP: &str = "\
{about}

Usage: {usage}

Start    up           start the first agent and make a cluster
         join         start an agent and join the cluster behind an address
         dev          start a whole cluster on this machine, with a sample application
         leave        hand everything over, then leave for good
         token        tokens to join or to log in with (new, list, revoke)
         login        remember a cluster and the token to ask it with
Look     status       one screen: health, leader, what can be lost, roles, apps
         members, roles   one line per node; per role and slot, with the reason
         apps, ps     applications; the instances of one
         events       the cluster's log: what happened, what was decided, and why
         logs, top    output of instances, from all nodes; a live view
Reason   why          why something is where it is, why it moved, why it waits
         plan         what `apply` would do; exit status 4 if anything would change
         simulate     what would move, and what would be left, if nodes were lost
         doctor       clock, ports, disk, versions, certificate; before joining and after
Act      apply        create or update an application
         scale, restart, rollback, stop, start, rm change an application
         drain, cordon, uncordon, forget           change a node
         role, cache, webhook      prefer a node for a role; forget kept answers; whom to tell of losses
         bucket, cp, dns   the object store; an object in or out; keys of zones that are signed
         secret, cert, address     values that nobody shall see; certificates; addresses that float
         upgrade, support-bundle   go to another build; all that a helper needs, in one file
         backup, restore, recover  one sealed file, and a cluster from it; go on without the majority
Shell    completions, man, install   the last one writes a systemd unit

Options:
{options}

Try it on one machine:  hirsel dev
More about a verb:      hirsel VERB --help";

const LOGS_HELP: &str = "\
Example: hirsel logs shop/web -f
         hirsel logs shop --requests -f
         hirsel logs --requests --json | jq .data.request

Requests are written down where a route says so (log = \"json\" in its manifest), or the cluster: hirsel role log lb json";

const SECRET_HELP: &str = "\
Example: hirsel secret set db-pw --app shop --file ./pw
         hirsel secret set mail-key < key.txt
         hirsel secret list

A manifest names a secret in its env, and a new value is rolled out like any other update:
         env = { DATABASE_URL = \"postgres://shop:${secret.db-pw}@db/shop\" }

A secret belongs to the whole cluster, or with --app to one application; where both have one of a
name, the application's is meant. One of an application may be set before it is applied, and stays
when it is removed. At most 1000 secrets of 16 KiB. Values are sealed with a key that voters and
spares hold, reach a program only in its environment, and are in no answer, log or command line.";

const CP_HELP: &str = "\
Example: hirsel cp cat.jpg media/pets/cat.jpg
         hirsel cp media/pets/cat.jpg .
         tar c site | hirsel cp - backups/site.tar

An end that is there as a file, or has no slash, is a file; the other one is BUCKET/KEY (s3://BUCKET/KEY
always is). An object is there whole or not at all, and so is a file. Up to 5 GiB; larger ones are for
clients of S3, which send them in parts. Exit status: 9 if there is no such bucket, object or file";

const BACKUP_HELP: &str = "\
Example: hirsel backup cluster.backup
         hirsel backup cluster.backup --recovery-key > key
         hirsel backup --verify cluster.backup --passphrase-file pass

The file is sealed under a passphrase of at least 12 characters, or under a recovery key that is shown
once. Whoever has the file and what opens it can read every secret and act as the cluster's authority:
keep them apart. Not in it: what programs wrote, and logs. Only admins may make one, through a node
that holds the sealing key; that and when is in `hirsel events`.
Exit status: 3 if no leader confirmed that nothing newer exists, 8 if what shall open it is wrong";

const RESTORE_HELP: &str = "\
Example: hirsel restore cluster.backup --plan
         hirsel restore cluster.backup --addr 10.0.0.1 --passphrase-file pass

The cluster keeps its id, authority, applications and secrets, and begins as another foundation with a
tag of its own and this one node. Nodes, tokens and logins of before are not let in: make tokens
(hirsel token new) and join. Afterwards this node is started with: hirsel up
Exit status: 6 if a node of the backup answers at its address (the cluster lives), or the folder is not empty";

/// Flags that every verb takes which asks an agent.
#[derive(Args, Clone, Debug, Default)]
pub struct AskArgs {
    /// Agent to ask: a node of the development cluster, or an address logged in to [default: the agent on this host]
    // Its variable, HIRSEL_NODE, is read by `target`: clap cannot tell a person's from the one that each instance is given.
    #[arg(long = "node", id = "ask-node", global = true, value_name = "NODE|ADDR")]
    pub node: Option<String>,
    /// Data folder of the agent to ask, or folder of a development cluster
    #[arg(long, global = true, env = "HIRSEL_DATA", value_name = "DIR", hide_env = true)]
    pub data: Option<PathBuf>,
    /// Answer with no less than what was confirmed to anybody before
    #[arg(long, global = true)]
    pub fresh: bool,
    /// Answer in JSON: one envelope on one line; errors too, on standard error
    #[arg(long, global = true)]
    pub json: bool,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Start the first agent and make a cluster; on a folder with data, go on
    #[command(
        after_help = "Example: hirsel up --addr 10.0.0.1 --zone a\nAn agent that is stopped (Ctrl-C, SIGTERM) leaves its programs running, what is exclusive for 15 s; to hand over first: hirsel drain"
    )]
    Up(UpArgs),
    /// Start an agent and join the cluster behind any of its addresses; on the folder of a node of that cluster, go on
    #[command(
        after_help = "Example: hirsel join 10.0.0.1 --token hirsel1q2w...   (get the token with: hirsel token new)"
    )]
    Join(JoinArgs),
    /// Start a whole cluster on this machine, with a sample application
    #[command(
        after_help = "Example: hirsel dev --nodes 3\n         hirsel dev kill n2",
        args_conflicts_with_subcommands = true
    )]
    Dev(DevCommand),
    /// Hand everything over, then leave the cluster for good
    #[command(after_help = "Example: hirsel leave --yes --wait")]
    Leave(ChangeArgs),
    /// Make, list and revoke tokens
    #[command(after_help = "Example: hirsel token new\n         hirsel token new --operator")]
    Token(TokenCommand),
    /// Remember a cluster and the token to ask it with; its authority is pinned
    #[command(after_help = "Example: hirsel login 10.0.0.1 --token hirsel1q2w...")]
    Login(LoginArgs),
    /// Show one screen: health, leader, voters, what can be lost, roles, apps, last incident
    #[command(after_help = "Example: hirsel status --json\nExit status: 0 healthy, 3 not healthy")]
    Status,
    /// Show one line per node
    #[command(after_help = "Example: hirsel members --node 10.0.0.2\n         hirsel members --all")]
    Members(MembersArgs),
    /// Show one line per role and slot, with the reason
    #[command(after_help = "Example: hirsel roles")]
    Roles,
    /// Show one line per application
    #[command(after_help = "Example: hirsel apps")]
    Apps,
    /// Show the instances of an application
    #[command(after_help = "Example: hirsel ps shop --all")]
    Ps(PsArgs),
    /// Show the cluster's log: what happened, what was decided, why, what it did
    #[command(after_help = "Example: hirsel events -f")]
    Events(EventsArgs),
    /// Show output of instances, or requests that were written down, from all nodes
    #[command(after_help = LOGS_HELP)]
    Logs(LogsArgs),
    /// Say why something is where it is, why it moved, why it waits
    #[command(
        after_help = "Example: hirsel why shop/web/17\n         hirsel why lb/0\n         hirsel why 4bf92f3577b34da6a3ce929d0e0e4736     (the X-Request-Id of an answer)\n         hirsel why media/pets/cat.jpg                       (BUCKET/KEY)\n         hirsel why bucket/shop-media                        (a bucket that an application wants)\n         hirsel why can_lose"
    )]
    Why(WhyArgs),
    /// Show what `apply` would do
    #[command(after_help = "Example: hirsel plan shop.toml\nExit status: 4 if anything would change")]
    Plan(PlanArgs),
    /// Show what would move and what would be left if nodes were lost, drained or taken out, all at once; nothing is changed
    #[command(
        after_help = "Example: hirsel simulate kill:n3\n         hirsel simulate zone:a leave:n5\nExit status: 3 if something would be left unmet"
    )]
    Simulate(SimulateArgs),
    /// Check clock, ports both ways, disk, limits, versions and certificate of a node; or of this host before it joins
    #[command(
        after_help = "Example: hirsel doctor\n         hirsel doctor 10.0.0.1     (before joining the cluster behind that address)\nExit status: 3 with warnings, 1 if a check failed"
    )]
    Doctor(DoctorArgs),
    /// Create or update an application
    #[command(after_help = "Example: hirsel apply shop.toml --wait")]
    Apply(ApplyArgs),
    /// Change the number of instances of a service
    #[command(after_help = "Example: hirsel scale shop/web=5 --wait")]
    Scale(ScaleArgs),
    /// Replace the instances of an application, or of one service, by new ones
    #[command(after_help = "Example: hirsel restart shop/web --wait")]
    Restart(AppArgs),
    /// Go back to the former revision of an application; counts and routes stay as they are
    #[command(after_help = "Example: hirsel rollback shop --plan\n         hirsel rollback shop --wait")]
    Rollback(AppArgs),
    /// Show which build each node runs and in which order to upgrade them; then end the upgrade
    #[command(
        after_help = "Example: hirsel upgrade\n         hirsel upgrade --finish --yes     (no node can go back to an older build then)\nExit status: 4 while the cluster is below the feature level of the node asked"
    )]
    Upgrade(UpgradeArgs),
    /// Show the cluster as it is, again every second; q or Ctrl-C ends it
    #[command(
        after_help = "Example: hirsel top\n         hirsel top --json     (one object per second: status and members)"
    )]
    Top,
    /// Write what somebody needs who shall help into one file: no secret, key or token is in it
    #[command(
        after_help = "Example: hirsel support-bundle --plan\n         hirsel support-bundle --logs --to help.tar.zst"
    )]
    SupportBundle(BundleArgs),
    /// Show what survived the loss of a majority of the voters, and go on with the most of it
    #[command(
        after_help = "Example: hirsel recover --plan\n         hirsel recover --lost n1,n2\n         hirsel recover --off\nExit status: 4 with --plan, 6 if a safety rule refuses"
    )]
    Recover(RecoverArgs),
    /// Write all that is agreed on into one sealed file (what is wanted and decided, secrets and their key, the authority); or look into one
    #[command(after_help = BACKUP_HELP)]
    Backup(BackupArgs),
    /// Found the cluster of a backup anew in an empty data folder, and start its first agent
    #[command(after_help = RESTORE_HELP)]
    Restore(RestoreArgs),
    /// Stop an application without forgetting it
    #[command(after_help = "Example: hirsel stop shop")]
    Stop(AppArgs),
    /// Start an application that was stopped
    #[command(after_help = "Example: hirsel start shop --wait")]
    Start(AppArgs),
    /// Forget an application
    #[command(after_help = "Example: hirsel rm shop --yes")]
    Rm(AppArgs),
    /// Move everything away from a node
    #[command(
        after_help = "Example: hirsel drain n3 --wait\nBefore an agent is stopped for good: what is exclusive there would act on for 15 s, and nowhere else meanwhile"
    )]
    Drain(NodeTarget),
    /// Put nothing new on a node
    #[command(after_help = "Example: hirsel cordon n3")]
    Cordon(NodeTarget),
    /// Let a node take work again
    #[command(after_help = "Example: hirsel uncordon n3")]
    Uncordon(NodeTarget),
    /// Forget a node that is off for good: its key is not accepted any more, and what it ran exclusively may start elsewhere
    #[command(after_help = "Example: hirsel forget n3 --yes")]
    Forget(NodeTarget),
    /// Prefer a node for a role, or no longer; or move one slot now
    #[command(after_help = "Example: hirsel role pin lb n2\n         hirsel role move lb n2 --to n4 --wait")]
    Role(RoleCommand),
    /// Set, list and remove values that programs need and nobody shall see
    #[command(after_help = SECRET_HELP)]
    Secret(SecretCommand),
    /// Certificates that load balancers show to clients (add, show, rm), and those that nodes show each other (rotate)
    #[command(
        after_help = "Example: hirsel cert add shop --cert fullchain.pem --key privkey.pem\n         hirsel cert list\n         hirsel cert rotate --wait"
    )]
    Cert(CertCommand),
    /// Addresses that one of the nodes which balance load holds, and another one when it cannot (add, list, rm)
    #[command(after_help = "Example: hirsel address add 192.0.2.10/24 --wait\n         hirsel address list")]
    Address(AddressCommand),
    /// Zones that are signed (list): what zones above have to say of their keys (ds), and the next key (roll)
    #[command(after_help = "Example: hirsel dns list\n         hirsel dns ds example.com")]
    Dns(DnsCommand),
    /// Answers that load balancers keep (show), and shall forget (purge)
    #[command(
        after_help = "Example: hirsel cache purge shop.example.com/static/* --wait\n         hirsel cache purge --tag product-17\n         hirsel cache show"
    )]
    Cache(CacheCommand),
    /// The object store: buckets (create, list, usage, set, replicate, rm), and access keys, with which programs ask it (key)
    #[command(
        after_help = "Example: hirsel bucket create media --quota 10GiB\n         hirsel bucket key create shop --bucket media\n         hirsel bucket list"
    )]
    Bucket(BucketCommand),
    /// Copy a file into the object store, or an object out of it
    #[command(after_help = CP_HELP)]
    Cp(CpArgs),
    /// Say whom to tell when less can be lost than before
    #[command(after_help = "Example: hirsel webhook set https://example.com/hook")]
    Webhook(WebhookCommand),
    /// Print shell completions
    #[command(after_help = "Example: hirsel completions bash > /etc/bash_completion.d/hirsel")]
    Completions(CompletionsArgs),
    /// Print the man page, or write all of them into a folder
    #[command(after_help = "Example: hirsel man | man -l -\n         hirsel man --dir /usr/local/share/man/man1")]
    Man(ManArgs),
    /// Write a systemd unit that starts the agent with the host
    #[command(
        after_help = "Example: hirsel install -- up --zone a\n         hirsel install --print -- join 10.0.0.1 --token-file /etc/hirsel/token"
    )]
    Install(InstallArgs),
    /// Watch over one process (started by the agent)
    #[command(hide = true)]
    Shim(HiddenArgs),
    /// End what may act no longer, though agent and shims stand still (started by the agent)
    #[command(hide = true)]
    Guard(HiddenArgs),
    /// Serve the sample application (started by `dev`)
    #[command(hide = true)]
    Sample(HiddenArgs),
}

/// Arguments of a verb that only this executable calls.
#[derive(Args, Clone, Debug)]
pub struct HiddenArgs {
    /// As the caller wrote them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub args: Vec<OsString>,
}

/// `dev`, or its power switch.
#[derive(Args, Clone, Debug)]
pub struct DevCommand {
    /// Flags of `dev` itself.
    #[command(flatten)]
    pub args: DevArgs,
    /// The power switch.
    #[command(subcommand)]
    pub power: Option<DevVerb>,
}

/// The power switch of the development cluster.
#[derive(Subcommand, Clone, Debug)]
pub enum DevVerb {
    /// Switch a node off: the agent and everything it runs, at once
    Kill(DevNode),
    /// Stop the processes of a node where they are
    Freeze(DevNode),
    /// Let the processes of a node go on
    Thaw(DevNode),
    /// Switch a node on
    Start(DevNode),
    /// End the whole cluster
    Stop(DevFolder),
}

/// A node of the development cluster.
#[derive(Args, Clone, Debug)]
pub struct DevNode {
    /// Name of the node
    #[arg(value_name = "NODE")]
    pub target: String,
    /// Where the cluster is.
    #[command(flatten)]
    pub folder: DevFolder,
}

/// Where the development cluster is.
#[derive(Args, Clone, Debug)]
pub struct DevFolder {
    /// Folder of the cluster
    #[arg(long, env = "HIRSEL_DEV", default_value = "./.hirsel-dev", value_name = "DIR")]
    pub data: PathBuf,
}

impl DevVerb {
    /// What to do with which node in which folder; none is the end of all.
    pub fn parts(&self) -> (&DevFolder, Option<(&str, Power)>) {
        match self {
            DevVerb::Kill(node) => (&node.folder, Some((&node.target, Power::Kill))),
            DevVerb::Freeze(node) => (&node.folder, Some((&node.target, Power::Freeze))),
            DevVerb::Thaw(node) => (&node.folder, Some((&node.target, Power::Thaw))),
            DevVerb::Start(node) => (&node.folder, Some((&node.target, Power::Start))),
            DevVerb::Stop(folder) => (folder, None),
        }
    }
}

/// What every verb takes that changes something.
#[derive(Args, Clone, Debug, Default)]
pub struct ChangeArgs {
    /// Wait until the cluster has done it
    #[arg(long)]
    pub wait: bool,
    /// How long to wait, in seconds or as 90s, 5m [default: 120s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub timeout: Option<Duration>,
    /// Only show what would change
    #[arg(long)]
    pub plan: bool,
    /// Refuse when what is wanted was changed after this index
    #[arg(long, value_name = "N")]
    pub if_index: Option<u64>,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
    /// Do it although a safety rule refuses, and say why
    #[arg(long, value_name = "REASON")]
    pub force: Option<String>,
}

/// Reads `90`, `90s`, `500ms`, `5m`, `1h`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| format!("{text:?} is no time; expected 90, 90s, 5m or 1h"))?;
    let seconds = |factor: u64| {
        number.checked_mul(factor).map(Duration::from_secs).ok_or_else(|| format!("{text:?} is too long"))
    };
    match &text[digits.len()..] {
        "" | "s" => seconds(1),
        "ms" => Ok(Duration::from_millis(number)),
        "m" => seconds(60),
        "h" => seconds(3_600),
        "d" => seconds(86_400),
        unit => Err(format!("{unit:?} is no unit of time; expected ms, s, m, h or d")),
    }
}
