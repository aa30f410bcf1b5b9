//! The command line. Verbs that start agents only parse here; all others are small programs over the interface of an agent.
//!
//! Exit status: 0 done or healthy · 1 failed · 2 usage · 3 done but degraded · 4 would change · 5 timed out · 6 refused by a safety
//! rule · 7 no leader or no quorum · 8 not permitted · 9 not found · 10 conflict.

use std::io::Read;
use std::path::Path;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use hirsel_model::WallTime;

pub mod acme;
pub mod act;
pub mod address;
pub mod args;
pub mod backup;
pub mod bucket;
pub mod bundle;
pub mod cache;
pub mod cert;
pub mod client;
pub mod cp;
pub mod dns;
pub mod evolve;
pub mod foreseen;
pub mod here;
pub mod key;
pub mod look;
pub mod output;
pub mod recover;
pub mod secret;
pub mod survey;
pub mod target;
pub mod top;
mod traffic;
pub mod wait;

#[cfg(test)]
mod tests;

pub use args::{Cli, DevCommand, DevVerb, HiddenArgs, Verb};

use crate::api::error::{ApiError, Code};
use args::{AcmeVerb, AddressVerb, BucketVerb, CacheVerb, CertVerb, DnsVerb, KeyVerb, RoleVerb, SecretVerb, TokenVerb};

/// How a verb ended, when it did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// Done, or healthy.
    Well,
    /// Done, but not all is well.
    Degraded,
    /// Something would change.
    WouldChange,
    /// It was looked at, and does not work.
    Broken,
}

impl Done {
    /// The exit status.
    pub fn exit(self) -> u8 {
        match self {
            Done::Well => 0,
            Done::Degraded => 3,
            Done::WouldChange => 4,
            Done::Broken => 1,
        }
    }
}

/// Carries out a verb that asks an agent, or none; the verbs that start agents are handled before.
pub fn main(cli: Cli) -> ExitCode {
    let json = cli.ask.json;
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&ApiError::new(Code::Failed, format!("cannot start: {error}")), json),
    };
    let ended = runtime.block_on(run(cli));
    // Nobody waits for a read of standard input that is under way.
    runtime.shutdown_background();
    match ended {
        Ok(done) => ExitCode::from(done.exit()),
        Err(error) => fail(&error, json),
    }
}

/// Tells an error and gives its exit status.
pub fn fail(error: &ApiError, json: bool) -> ExitCode {
    output::error(error, json);
    ExitCode::from(error.code.exit())
}

async fn run(cli: Cli) -> Result<Done, ApiError> {
    let json = cli.ask.json;
    match &cli.verb {
        Verb::Completions(args) => return here::completions(args),
        Verb::Man(args) => return here::man(args),
        Verb::Install(args) => return here::install(args),
        Verb::Login(args) => return here::login(json, args).await,
        Verb::Backup(args) if args.verify => return backup::verify(json, args),
        Verb::Restore(args) if args.plan => return backup::plan_restore(json, args).await,
        Verb::Doctor(args) if args.seed.is_some() => return here::doctor(&cli.ask, args).await,
        _ => {}
    }
    let client = target::find(&cli.ask).await?;
    match &cli.verb {
        Verb::Status => look::status(&client, json).await,
        Verb::Members(args) => look::members(&client, json, args).await,
        Verb::Roles => look::roles(&client, json).await,
        Verb::Apps => look::apps(&client, json).await,
        Verb::Ps(args) => look::ps(&client, json, args).await,
        Verb::Events(args) => look::events(&client, json, args).await,
        Verb::Logs(args) => look::logs(&client, json, args).await,
        Verb::Why(args) => look::why(&client, json, args).await,
        Verb::Plan(args) => look::plan(&client, json, args).await,
        Verb::Simulate(args) => look::simulate(&client, json, args).await,
        Verb::Doctor(_) => look::doctor(&client, json).await,
        Verb::Apply(args) => act::apply(&client, json, args).await,
        Verb::Scale(args) => act::scale(&client, json, args).await,
        Verb::Restart(args) => act::app(&client, json, "restart", &args.app, &args.change).await,
        Verb::Rollback(args) => act::app(&client, json, "rollback", &args.app, &args.change).await,
        Verb::Top => top::top(&client, json).await,
        Verb::SupportBundle(args) => bundle::support_bundle(&client, json, args).await,
        Verb::Backup(args) => backup::backup(&client, json, args).await,
        Verb::Upgrade(args) => evolve::upgrade(&client, json, args).await,
        Verb::Recover(args) => recover::recover(&client, json, args).await,
        Verb::Stop(args) => act::app(&client, json, "stop", &args.app, &args.change).await,
        Verb::Start(args) => act::app(&client, json, "start", &args.app, &args.change).await,
        Verb::Rm(args) => act::remove(&client, json, &args.app, &args.change).await,
        Verb::Drain(args) => act::node(&client, json, "drain", &args.target, &args.change).await,
        Verb::Cordon(args) => act::node(&client, json, "cordon", &args.target, &args.change).await,
        Verb::Uncordon(args) => act::node(&client, json, "uncordon", &args.target, &args.change).await,
        Verb::Forget(args) => act::node(&client, json, "forget", &args.target, &args.change).await,
        Verb::Leave(change) => act::leave(&client, json, change).await,
        Verb::Role(role) => match &role.verb {
            RoleVerb::Pin(args) => act::role(&client, json, "pin", args).await,
            RoleVerb::Move(args) => act::move_role(&client, json, args).await,
            RoleVerb::Log(args) => act::log(&client, json, args).await,
            RoleVerb::Unpin(args) => act::role(&client, json, "unpin", args).await,
        },
        Verb::Secret(secret) => match &secret.verb {
            SecretVerb::Set(args) => secret::set(&client, json, args).await,
            SecretVerb::List => secret::list(&client, json).await,
            SecretVerb::Rm(args) => secret::remove(&client, json, args).await,
            SecretVerb::Rotate(change) => secret::rotate(&client, json, change).await,
        },
        Verb::Cert(cert) => match &cert.verb {
            CertVerb::Add(args) => cert::add(&client, json, args).await,
            CertVerb::List => cert::list(&client, json).await,
            CertVerb::Show(args) => cert::show_one(&client, json, &args.cert_name).await,
            CertVerb::Rm(args) => cert::remove(&client, json, args).await,
            CertVerb::Renew(args) => acme::renew(&client, json, args).await,
            CertVerb::Acme(command) => match &command.verb {
                AcmeVerb::Set(args) => acme::set(&client, json, args).await,
                AcmeVerb::Show => acme::show_all(&client, json).await,
                AcmeVerb::Off(change) => acme::off(&client, json, change).await,
            },
            CertVerb::Tickets(args) => cert::tickets(&client, json, args).await,
            CertVerb::Rotate(change) => cert::rotate(&client, json, change).await,
        },
        Verb::Address(address) => match &address.verb {
            AddressVerb::Add(args) => address::add(&client, json, args).await,
            AddressVerb::List => address::list(&client, json).await,
            AddressVerb::Rm(args) => address::remove(&client, json, args).await,
        },
        Verb::Dns(dns) => match &dns.verb {
            DnsVerb::List => dns::list(&client, json).await,
            DnsVerb::Ds(args) => dns::ds(&client, json, args).await,
            DnsVerb::Roll(args) => dns::roll(&client, json, args).await,
        },
        Verb::Cache(cache) => match &cache.verb {
            CacheVerb::Purge(args) => cache::purge(&client, json, args).await,
            CacheVerb::Show => cache::show_all(&client, json).await,
        },
        Verb::Cp(args) => cp::copy(&client, json, args).await,
        Verb::Bucket(bucket) => match &bucket.verb {
            BucketVerb::Create(args) => bucket::create(&client, json, args).await,
            BucketVerb::List => bucket::list(&client, json).await,
            BucketVerb::Usage(args) => bucket::usage(&client, json, &args.bucket).await,
            BucketVerb::Set(args) => bucket::set(&client, json, args).await,
            BucketVerb::Replicate(args) => bucket::replicate(&client, json, args).await,
            BucketVerb::Rm(args) => bucket::remove(&client, json, args).await,
            BucketVerb::Audit(args) => survey::audit(&client, json, args).await,
            BucketVerb::Scrub(args) => survey::scrub(&client, json, args).await,
            BucketVerb::Key(key) => match &key.verb {
                KeyVerb::Create(args) => key::create(&client, json, args).await,
                KeyVerb::List => key::list(&client, json).await,
                KeyVerb::Rm(args) => key::remove(&client, json, args).await,
            },
        },
        Verb::Webhook(webhook) => act::webhook(&client, json, &webhook.verb).await,
        Verb::Token(token) => match &token.verb {
            TokenVerb::New(args) => act::new_token(&client, json, args).await,
            TokenVerb::List => look::tokens(&client, json).await,
            TokenVerb::Revoke(args) => act::revoke(&client, json, args).await,
        },
        Verb::Up(_)
        | Verb::Join(_)
        | Verb::Restore(_)
        | Verb::Dev(_)
        | Verb::Shim(_)
        | Verb::Guard(_)
        | Verb::Sample(_) => {
            Err(ApiError::new(Code::Failed, "a verb that starts something was taken for one that asks"))
        }
        Verb::Completions(_) | Verb::Man(_) | Verb::Install(_) | Verb::Login(_) => Ok(Done::Well),
    }
}

/// Largest manifest that is sent: what an agent accepts.
const FILE_BYTES_MAX: u64 = crate::api::server::BODY_BYTES_MAX as u64;

/// The whole file; `-` is standard input.
fn read_file(path: &Path) -> Result<Vec<u8>, ApiError> {
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
    };
    match read {
        Err(error) => Err(ApiError::new(Code::Usage, format!("cannot read {}: {error}", path.display()))),
        Ok(_) if bytes.len() as u64 > FILE_BYTES_MAX => {
            let message = format!("{} exceeds {FILE_BYTES_MAX} bytes", path.display());
            Err(ApiError::new(Code::TooLarge, message))
        }
        Ok(_) => Ok(bytes),
    }
}

/// The wall clock of this host. A client of an agent lives in no simulated world; it tells ages and nothing else by it.
fn wall() -> WallTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallTime(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
