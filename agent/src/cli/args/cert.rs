//! What can be asked of certificates, and of directories that issue them.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::ChangeArgs;

/// `cert add|list|show|rm|renew|acme|tickets|rotate`
#[derive(Args, Clone, Debug)]
pub struct CertCommand {
    /// What to do.
    #[command(subcommand)]
    pub verb: CertVerb,
}

/// What to do with certificates.
#[derive(Subcommand, Clone, Debug)]
pub enum CertVerb {
    /// Add a certificate that load balancers show to clients, or replace one: they show it within a second, and nothing stops
    #[command(after_help = "Example: hirsel cert add shop --cert fullchain.pem --key privkey.pem --wait\n         \
        cat fullchain.pem privkey.pem | hirsel cert add shop --cert -\n\n\
        The certificate comes first, then those that certify it; without --key the key is in the same file.\n\
        Keys: RSA of 2048 to 4096 bits, ECDSA on P-256 or P-384, Ed25519, not encrypted. The key is sealed, and\n\
        told only to nodes that balance load. To renew one, add it again under its name.\n\
        Exit status: 6 if it is expired or not good yet (--force REASON)")]
    Add(CertAddArgs),
    /// List certificates: those that load balancers show, the authorities of the cluster, and those of its nodes
    #[command(
        after_help = "Example: hirsel cert list --json\nExit status: 3 if a certificate is late, expired or not known"
    )]
    List,
    /// Show a certificate that load balancers show: all of it but its key
    #[command(
        after_help = "Example: hirsel cert show shop\n         hirsel cert show shop | openssl x509 -noout -text\nExit status: 3 if it is late, expired or not good yet"
    )]
    Show(CertShowArgs),
    /// Forget a certificate that load balancers show
    #[command(after_help = "Example: hirsel cert rm shop --yes --wait")]
    Rm(CertArgs),
    /// Get another certificate for a host now, by itself
    #[command(after_help = "Example: hirsel cert renew shop.example.com --wait\n\n\
        For hosts whose routes say tls = \"auto\". After a failure it is tried again at once.")]
    Renew(CertRenewArgs),
    /// Say where certificates come from by themselves (ACME), for hosts whose routes say tls = "auto"
    #[command(
        after_help = "Example: hirsel cert acme set --directory https://acme-v02.api.letsencrypt.org/directory --contact me@example.com --agree-tos\n         hirsel cert acme show"
    )]
    Acme(AcmeCommand),
    /// Replace the key of TLS tickets now: with one, a client resumes its session at any load balancer
    #[command(after_help = "Example: hirsel cert tickets --wait\n         hirsel cert tickets --forget --wait\n\n\
        It is replaced twice a day by itself, and what was sealed with the ones before is opened for a day. Whoever\n\
        may have got the keys (a load balancer that was broken into) makes --forget worth its price: each client\n\
        shakes hands in full once. hirsel cert list shows how old they are.")]
    Tickets(CertTicketsArgs),
    /// Replace the cluster's own authority: every node gets a new certificate, and nothing stops
    #[command(after_help = "Example: hirsel cert rotate --wait\n\n\
        This is about the certificates that nodes show each other, not about those that clients are shown.\n\
        Tokens and logins stay good: the old authority signs the new one, and whoever pinned it follows that.\n\
        The last 3 authorities are remembered for that; their private keys are forgotten at once.")]
    Rotate(ChangeArgs),
}

/// `cert add`
#[derive(Args, Clone, Debug)]
pub struct CertAddArgs {
    /// Its name here: a-z, 0-9, '-' and '.'
    #[arg(value_name = "NAME")]
    pub cert_name: String,
    /// File in PEM: the certificate, then those that certify it; - is standard input
    #[arg(long, value_name = "FILE")]
    pub cert: PathBuf,
    /// File in PEM with its private key; - is standard input [default: it is in the file of the certificate]
    // No flag takes the key itself: a command line is seen by whoever lists processes.
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// As for every change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `cert show`
#[derive(Args, Clone, Debug)]
pub struct CertShowArgs {
    /// Its name
    #[arg(value_name = "NAME")]
    pub cert_name: String,
}

/// `cert rm`
#[derive(Args, Clone, Debug)]
pub struct CertArgs {
    /// Its name
    #[arg(value_name = "NAME")]
    pub cert_name: String,
    /// As for every change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `cert renew`
#[derive(Args, Clone, Debug)]
pub struct CertRenewArgs {
    /// Which
    #[arg(value_name = "HOST")]
    pub host: String,
    /// As for every change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `cert tickets`
#[derive(Args, Clone, Debug)]
pub struct CertTicketsArgs {
    /// Forget all keys at once: no ticket that is out is opened any more
    #[arg(long)]
    pub forget: bool,
    /// As for every change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `cert acme set|show|off`
#[derive(Args, Clone, Debug)]
pub struct AcmeCommand {
    /// What to do.
    #[command(subcommand)]
    pub verb: AcmeVerb,
}

/// What to do about where certificates come from.
#[derive(Subcommand, Clone, Debug)]
pub enum AcmeVerb {
    /// Say where certificates come from; they are got at once, and renewed when a third of their life is left
    #[command(
        after_help = "Example: hirsel cert acme set --directory https://acme-v02.api.letsencrypt.org/directory --contact me@example.com --agree-tos --wait\n         \
        hirsel cert acme set --directory https://ca.internal/acme/directory --ca-file ca.pem --agree-tos\n\n\
        The directory looks at each host over port 80 (http-01) and over port 443 (tls-alpn-01), in turn until it\n\
        believes it: names must lead to nodes that balance load. Any of them answers.\n\
        What is set takes the place of all that was set before."
    )]
    Set(AcmeSetArgs),
    /// Show where they come from, and how things stand with each host
    #[command(
        after_help = "Example: hirsel cert acme show --json\nExit status: 3 if a host has no certificate, or something failed"
    )]
    Show,
    /// Get none any more: those that are there stay until they end
    #[command(after_help = "Example: hirsel cert acme off --yes")]
    Off(ChangeArgs),
}

/// `cert acme set`
#[derive(Args, Clone, Debug)]
pub struct AcmeSetArgs {
    /// URL of the directory
    #[arg(long, value_name = "URL")]
    pub directory: String,
    /// Mail address that the directory may write to; may be given again
    #[arg(long, value_name = "MAIL")]
    pub contact: Vec<String>,
    /// You agree to the terms of the directory
    #[arg(long)]
    pub agree_tos: bool,
    /// File in PEM with the roots of a private directory's own certificate
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// How hosts are proven: http-01 or tls-alpn-01 [default: both in turn]
    #[arg(long, value_name = "KIND")]
    pub challenge: Option<String>,
    /// Key identifier of an external account, where the directory wants one
    #[arg(long, value_name = "ID", requires = "eab_key_file")]
    pub eab_kid: Option<String>,
    /// File with the key of the external account, in Base64 for URLs; - is standard input
    // No flag takes the key itself: a command line is seen by whoever lists processes.
    #[arg(long, value_name = "FILE", requires = "eab_kid")]
    pub eab_key_file: Option<PathBuf>,
    /// As for every change.
    #[command(flatten)]
    pub change: ChangeArgs,
}
