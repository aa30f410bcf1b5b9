//! Arguments of the verbs that start agents. The other verbs are in `cli`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::Args;

use crate::cli::backup::OpensArgs;

/// What `up` and `join` have in common: how this node presents itself.
#[derive(Args, Clone, Debug, Default)]
pub struct NodeArgs {
    /// Name of this node, unique in the cluster [default: the host's name]
    #[arg(long, env = "HIRSEL_NAME")]
    pub name: Option<String>,
    /// Address of the mesh on this host, with or without a port [default: the address other hosts would see, port 7400]
    #[arg(long, env = "HIRSEL_ADDR", value_name = "IP[:PORT]")]
    pub addr: Option<String>,
    /// Address that other nodes are told to use, where it differs from --addr
    #[arg(long, env = "HIRSEL_ADVERTISE", value_name = "IP:PORT")]
    pub advertise: Option<SocketAddr>,
    /// Address that public services (the load balancer) listen on [default: the host of --addr]
    #[arg(long, env = "HIRSEL_BIND", value_name = "IP")]
    pub bind: Option<IpAddr>,
    /// Failure domain of this node [default: the node's own name]
    #[arg(long, env = "HIRSEL_ZONE")]
    pub zone: Option<String>,
    /// Data centre of this node [default: "default"]
    #[arg(long, env = "HIRSEL_SITE")]
    pub site: Option<String>,
    /// Label for constraints; may be given several times
    #[arg(long = "label", value_name = "K=V")]
    pub labels: Vec<String>,
    /// Data folder [default: /var/lib/hirsel]
    #[arg(long, env = "HIRSEL_DATA")]
    pub data: Option<PathBuf>,
    /// Configuration file [default: /etc/hirsel/hirsel.toml, which need not exist]
    #[arg(long, env = "HIRSEL_CONFIG")]
    pub config: Option<PathBuf>,
    /// Port of plain HTTP on nodes that balance load [default: 80]
    #[arg(long, env = "HIRSEL_HTTP_PORT")]
    pub http_port: Option<u16>,
    /// Address that names of the cluster are answered at, over UDP and TCP, or `off` [default: the address of --bind, port 53]
    #[arg(long, env = "HIRSEL_DNS", value_name = "IP[:PORT]|off")]
    pub dns: Option<String>,
    /// Port of HTTPS on nodes that balance load [default: 443]
    #[arg(long, env = "HIRSEL_HTTPS_PORT")]
    pub https_port: Option<u16>,
    /// Whether nodes that balance load offer HTTP/3 beside HTTPS, on the same port over UDP [default: true]
    #[arg(long, env = "HIRSEL_HTTP3", value_name = "true|false", hide_possible_values = true)]
    pub http3: Option<bool>,
    /// Address or network of balancers before this one, which say by the PROXY protocol whom they connect for, on both ports; may be
    /// given several times
    #[arg(long, env = "HIRSEL_ACCEPT_PROXY", value_name = "IP[/BITS]", value_delimiter = ',')]
    pub accept_proxy: Vec<String>,
    /// Memory for answers that routes keep, on nodes that balance load; 0B for none [default: 64MiB]
    #[arg(long, env = "HIRSEL_CACHE", value_name = "SIZE")]
    pub cache: Option<String>,
    /// Disk for such answers that memory has no room for, in the data folder [default: none]
    #[arg(long, env = "HIRSEL_CACHE_DISK", value_name = "SIZE")]
    pub cache_disk: Option<String>,
    /// Address that objects are served at by the protocol of S3, or `off` [default: the address of --bind, port 7480]
    #[arg(long, env = "HIRSEL_S3", value_name = "IP[:PORT]|off")]
    pub s3: Option<String>,
    /// How much of this node's disk objects may take, at least 64MiB [default: all but a twentieth]
    #[arg(long, env = "HIRSEL_STORAGE_CAPACITY", value_name = "SIZE")]
    pub storage_capacity: Option<String>,
    /// User that programs run as when the agent is root, or `self` for the agent's own [default: nobody]
    #[arg(long, env = "HIRSEL_RUN_AS", value_name = "USER")]
    pub run_as: Option<String>,
    /// Go into the background when the agent is ready
    #[arg(long)]
    pub detach: bool,
}

/// `hirsel up`
#[derive(Args, Clone, Debug, Default)]
pub struct UpArgs {
    /// How this node presents itself.
    #[command(flatten)]
    pub node: NodeArgs,
}

/// `hirsel join`
#[derive(Args, Clone, Debug, Default)]
pub struct JoinArgs {
    /// Address of any node of the cluster, with or without a port
    #[arg(value_name = "SEED", required = true)]
    pub seeds: Vec<String>,
    /// Join token, from `hirsel token new` on a member
    #[arg(long, env = "HIRSEL_TOKEN", conflicts_with = "token_file")]
    pub token: Option<String>,
    /// File that holds the join token
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// How this node presents itself.
    #[command(flatten)]
    pub node: NodeArgs,
}

/// `hirsel restore`
#[derive(Args, Clone, Debug, Default)]
pub struct RestoreArgs {
    /// The backup
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// What opens it.
    #[command(flatten)]
    pub opens: OpensArgs,
    /// Only say what is in it, whether its cluster lives, and what would be done
    #[arg(long)]
    pub plan: bool,
    /// Do it although a node of the backup answers, and say why
    #[arg(long, value_name = "REASON")]
    pub force: Option<String>,
    /// How this node presents itself.
    #[command(flatten)]
    pub node: NodeArgs,
}

/// `hirsel dev`
#[derive(Args, Clone, Debug)]
pub struct DevArgs {
    /// How many nodes
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=50))]
    pub nodes: u8,
    /// Folder of the cluster
    #[arg(long, env = "HIRSEL_DEV", default_value = "./.hirsel-dev")]
    pub data: PathBuf,
    /// Do not deploy the sample application
    #[arg(long)]
    pub empty: bool,
    /// The first three numbers of the nodes' loopback addresses: node k is PREFIX.k
    #[arg(long, default_value = "127.0.0", value_name = "PREFIX")]
    pub net: String,
}

/// What `hirsel dev VERB` does to one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// Switches the node off: the agent and everything it runs, at once.
    Kill,
    /// Stops its processes where they are.
    Freeze,
    /// Lets them go on.
    Thaw,
    /// Switches it on.
    Start,
}
