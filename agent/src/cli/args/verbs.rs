//! What each verb takes besides the flags that all share.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::{ChangeArgs, parse_duration};

/// `token new|list|revoke`
#[derive(Args, Clone, Debug)]
pub struct TokenCommand {
    /// What to do with tokens.
    #[command(subcommand)]
    pub verb: TokenVerb,
}

/// What to do with tokens.
#[derive(Subcommand, Clone, Debug)]
pub enum TokenVerb {
    /// Make a token; it is shown this once
    #[command(after_help = "Example: hirsel token new --uses 1\n         hirsel token new --viewer --ttl 7d")]
    New(TokenNewArgs),
    /// List the tokens given out
    List,
    /// Take a token back
    Revoke(TokenRevokeArgs),
}

/// `token new`
#[derive(Args, Clone, Debug)]
pub struct TokenNewArgs {
    /// For a person who may look
    #[arg(long, group = "grants")]
    pub viewer: bool,
    /// For a person who may also deploy, drain and pin
    #[arg(long, group = "grants")]
    pub operator: bool,
    /// For a person who may do everything
    #[arg(long, group = "grants")]
    pub admin: bool,
    /// How often it may be used [default: any number of times]
    #[arg(long, value_name = "N")]
    pub uses: Option<u32>,
    /// How long it is good [default: 1h to join, 30d for people]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub ttl: Option<Duration>,
    /// As for every change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `token revoke`
#[derive(Args, Clone, Debug)]
pub struct TokenRevokeArgs {
    /// Public part of the token, or the whole of it
    pub id: String,
    /// As for every change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `login`
#[derive(Args, Clone, Debug)]
pub struct LoginArgs {
    /// Address of any node, with or without a port
    pub addr: String,
    /// Token for people, from `hirsel token new --viewer|--operator|--admin`
    #[arg(long, env = "HIRSEL_TOKEN", hide_env = true)]
    pub token: String,
}

/// `members`
#[derive(Args, Clone, Debug)]
pub struct MembersArgs {
    /// Show nodes that left, too
    #[arg(long, short)]
    pub all: bool,
}

/// `ps`
#[derive(Args, Clone, Debug)]
pub struct PsArgs {
    /// Which application
    pub app: String,
    /// Show ended instances too
    #[arg(long, short)]
    pub all: bool,
}

/// `events`
#[derive(Args, Clone, Debug)]
pub struct EventsArgs {
    /// Go on showing what comes
    #[arg(long, short)]
    pub follow: bool,
    /// Show the last so many
    #[arg(long, short = 'n', default_value_t = 50, value_name = "N")]
    pub tail: usize,
    /// Show only what came after this event
    #[arg(long, value_name = "INDEX")]
    pub after: Option<u64>,
}

/// `logs`
#[derive(Args, Clone, Debug)]
pub struct LogsArgs {
    /// Whose output
    #[arg(value_name = "APP[/SERVICE]", required_unless_present = "requests")]
    pub what: Option<String>,
    /// Show requests that the load balancers wrote down; without APP those of all, and of none
    #[arg(long, short)]
    pub requests: bool,
    /// Go on showing what comes
    #[arg(long, short)]
    pub follow: bool,
    /// Show the last so many lines
    #[arg(long, short = 'n', default_value_t = 200, value_name = "N")]
    pub tail: usize,
}

/// `why`
#[derive(Args, Clone, Debug)]
pub struct WhyArgs {
    /// Node, ROLE/SLOT, APP, APP/SERVICE, instance, `voters`, `can_lose`, or the id of a request (`X-Request-Id`)
    pub thing: String,
}

/// `plan`
#[derive(Args, Clone, Debug)]
pub struct PlanArgs {
    /// Manifest; - is standard input
    pub file: PathBuf,
}

/// `doctor`
#[derive(Args, Clone, Debug)]
pub struct DoctorArgs {
    /// Address of any node of the cluster that this host shall join; without it, the agent that is asked looks around
    #[arg(value_name = "SEED")]
    pub seed: Option<String>,
}

/// `simulate`
#[derive(Args, Clone, Debug)]
pub struct SimulateArgs {
    /// What happens: kill:NODE, zone:ZONE (all its nodes are lost), leave:NODE, drain:NODE
    #[arg(value_name = "EVENT", required = true)]
    pub events: Vec<String>,
}

/// `apply`
#[derive(Args, Clone, Debug)]
pub struct ApplyArgs {
    /// Manifest; - is standard input
    pub file: PathBuf,
    /// As for every change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `scale`
#[derive(Args, Clone, Debug)]
pub struct ScaleArgs {
    /// Which service, and how many
    #[arg(value_name = "APP/SERVICE=N", value_parser = parse_scale)]
    pub what: ScaleTo,
    /// As for every change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// Which service, and how many of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScaleTo {
    /// Application.
    pub app: String,
    /// Service; may be left out where there is one only.
    pub service: Option<String>,
    /// How many.
    pub replicas: u32,
}

fn parse_scale(text: &str) -> Result<ScaleTo, String> {
    let expected = || format!("{text:?}: expected APP/SERVICE=N, for example shop/web=5");
    let (what, count) = text.split_once('=').ok_or_else(expected)?;
    let replicas = count.parse().map_err(|_| expected())?;
    let (app, service) = what.split_once('/').map_or((what, None), |(app, service)| (app, Some(service.to_string())));
    if app.is_empty() {
        return Err(expected());
    }
    Ok(ScaleTo { app: app.into(), service, replicas })
}

/// A verb about one application.
#[derive(Args, Clone, Debug)]
pub struct AppArgs {
    /// Which application
    pub app: String,
    /// As for every change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// A verb about one node.
#[derive(Args, Clone, Debug)]
pub struct NodeTarget {
    /// Which node
    #[arg(value_name = "NODE")]
    pub target: String,
    /// As for every change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `role pin|unpin|move|log`
#[derive(Args, Clone, Debug)]
pub struct RoleCommand {
    /// What to do.
    #[command(subcommand)]
    pub verb: RoleVerb,
}

/// What to do with a role.
#[derive(Subcommand, Clone, Debug)]
pub enum RoleVerb {
    /// Prefer a node for a role
    Pin(PinArgs),
    /// No longer prefer a node for a role
    Unpin(PinArgs),
    /// Move one slot to another node, once: nothing is pinned by it
    #[command(after_help = "Example: hirsel role move lb n2 --to n4 --wait")]
    Move(MoveArgs),
    /// Say how load balancers write requests down where a route does not say
    #[command(after_help = LOG_HELP)]
    Log(LogArgs),
}

const LOG_HELP: &str = "\
Example: hirsel role log lb json
         hirsel role log lb combined --sample 0.1 --no-query
         hirsel role log lb json --syslog 10.0.0.9:514
         hirsel role log lb off

Requests that fail are written down whatever the share. Read them with: hirsel logs APP --requests";

/// How requests are written down.
#[derive(Args, Clone, Debug)]
pub struct LogArgs {
    /// Which role: lb
    pub role: String,
    /// As what
    #[arg(value_parser = ["json", "combined", "off"])]
    pub format: String,
    /// How many of them, between 0 and 1
    #[arg(long, default_value_t = 1.0, value_name = "SHARE", value_parser = parse_share)]
    pub sample: f64,
    /// Leave the query of each out
    #[arg(long)]
    pub no_query: bool,
    /// Tell a collector each line as well: syslog over UDP
    #[arg(long, value_name = "ADDR[:PORT]")]
    pub syslog: Option<String>,
    /// As for every change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

fn parse_share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| format!("{text:?} is no share between 0 and 1, for example 0.1"))
}

/// A slot, and where it shall go.
#[derive(Args, Clone, Debug)]
pub struct MoveArgs {
    /// Which role
    pub role: String,
    /// The node that has a slot of it
    #[arg(value_name = "NODE")]
    pub target: String,
    /// The node that shall have it
    #[arg(long, value_name = "NODE")]
    pub to: String,
    /// As for every change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// A role and a node.
#[derive(Args, Clone, Debug)]
pub struct PinArgs {
    /// Which role
    pub role: String,
    /// Which node
    #[arg(value_name = "NODE")]
    pub target: String,
    /// As for every change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `secret set|list|rm|rotate`
#[derive(Args, Clone, Debug)]
pub struct SecretCommand {
    /// What to do.
    #[command(subcommand)]
    pub verb: SecretVerb,
}

/// What to do with secrets.
#[derive(Subcommand, Clone, Debug)]
pub enum SecretVerb {
    /// Set a secret, or change it: services that use it are updated
    #[command(after_help = "Example: hirsel secret set db-pw --app shop --file ./pw --wait\n         \
        pass show db | hirsel secret set db-pw\n\n\
        Without --file the value is read from standard input, or asked for on a terminal. One line end at its end is dropped.")]
    Set(SecretSetArgs),
    /// List the secrets that are set, and who uses them; never their values
    #[command(after_help = "Example: hirsel secret list --json")]
    List,
    /// Forget a secret that no service uses
    #[command(after_help = "Example: hirsel secret rm db-pw --app shop")]
    Rm(SecretArgs),
    /// Seal everything with a new key now; the leader does so by itself whenever a voter or spare leaves
    #[command(after_help = "Example: hirsel secret rotate --wait")]
    Rotate(ChangeArgs),
}

/// `secret set`
#[derive(Args, Clone, Debug)]
pub struct SecretSetArgs {
    /// Which secret.
    #[command(flatten)]
    pub secret: SecretArgs,
    /// File that holds the value; - is standard input
    // No flag takes the value itself: a command line is seen by whoever lists processes.
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// A secret.
#[derive(Args, Clone, Debug)]
pub struct SecretArgs {
    /// Its name: a-z, 0-9 and '-'
    pub name: String,
    /// Application it belongs to [default: the whole cluster]
    #[arg(long, value_name = "APP")]
    pub app: Option<String>,
    /// As for every change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `address add|list|rm`
#[derive(Args, Clone, Debug)]
pub struct AddressCommand {
    /// What to do.
    #[command(subcommand)]
    pub verb: AddressVerb,
}

/// What to do with floating addresses.
#[derive(Subcommand, Clone, Debug)]
pub enum AddressVerb {
    /// Have one of the nodes that balance load hold an address; another one does within a second when it cannot
    #[command(after_help = "Example: hirsel address add 192.0.2.10/24 --wait\n         \
        hirsel address add 2001:db8::10/64 --interface eth0\n\n\
        Nodes with an interface in its network may hold it, or those that have the interface which is named. They hear\n\
        each other on it over UDP 7401. The address must not be configured anywhere else.\n\
        Agents need CAP_NET_ADMIN and CAP_NET_RAW for it: as root they have them.")]
    Add(AddressAddArgs),
    /// List floating addresses: who holds each, and who may
    #[command(
        after_help = "Example: hirsel address list --json\nExit status: 3 if one is not held by exactly one node"
    )]
    List,
    /// Hold an address no more
    #[command(after_help = "Example: hirsel address rm 192.0.2.10 --yes")]
    Rm(AddressRmArgs),
}

/// `address add`
#[derive(Args, Clone, Debug)]
pub struct AddressAddArgs {
    /// The address, and how many of its bits are those of its network [default: all]
    #[arg(value_name = "IP[/PREFIX]", value_parser = parse_network)]
    pub address: (IpAddr, Option<u8>),
    /// The interface that carries it on every node [default: the one with an address in its network]
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,
    /// As for every change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `address rm`
#[derive(Args, Clone, Debug)]
pub struct AddressRmArgs {
    /// Which
    #[arg(value_name = "IP")]
    pub ip: IpAddr,
    /// As for every change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

fn parse_network(text: &str) -> Result<(IpAddr, Option<u8>), String> {
    let expected = || format!("{text:?}: expected an address with the bits of its network, for example 192.0.2.10/24");
    let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
    let prefix = prefix.map(|prefix| prefix.parse().map_err(|_| expected())).transpose()?;
    Ok((address.parse().map_err(|_| expected())?, prefix))
}

/// `webhook set|rm`
#[derive(Args, Clone, Debug)]
pub struct WebhookCommand {
    /// What to do.
    #[command(subcommand)]
    pub verb: WebhookVerb,
}

/// What to do with the webhook.
#[derive(Subcommand, Clone, Debug)]
pub enum WebhookVerb {
    /// Post to this address
    Set {
        /// `http://` or `https://`
        url: String,
        /// As for every change.
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Post nowhere
    Rm(ChangeArgs),
}

/// `completions`
#[derive(Args, Clone, Debug)]
pub struct CompletionsArgs {
    /// Which shell
    pub shell: clap_complete::Shell,
}

/// `man`
#[derive(Args, Clone, Debug)]
pub struct ManArgs {
    /// Write a page per verb into this folder
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// `install`
#[derive(Args, Clone, Debug)]
pub struct InstallArgs {
    /// Only print the unit
    #[arg(long)]
    pub print: bool,
    /// Where to write it
    #[arg(long, default_value = "/etc/systemd/system/hirsel.service", value_name = "FILE")]
    pub unit: PathBuf,
    /// How to start the agent [default: up]
    #[arg(last = true, value_name = "up|join ...")]
    pub start: Vec<String>,
}
