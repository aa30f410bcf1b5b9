//! The executable: verbs that start something are carried out here, all others ask an agent.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use hirsel::api::error::{ApiError, Code};
use hirsel::args::Power;
use hirsel::cli::{Cli, DevVerb, HiddenArgs, Verb};
use hirsel::launch::{self, dev, power};
use hirsel::{cli, sample};
use hirsel_role::host;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let command = Cli::parse();
    let json = command.ask.json;
    let outcome = match command.verb {
        // A shim is one of many: it stays a single small thread. So does the guard, which must act when all else stands still.
        Verb::Shim(args) => return alone(host::shim::main, &args),
        Verb::Guard(args) => return alone(host::guard::main, &args),
        Verb::Up(args) => logged(launch::up(args)),
        Verb::Join(args) => logged(launch::join(args)),
        Verb::Restore(args) if !args.plan => logged(launch::restore::restore(args)),
        Verb::Dev(command) => match command.power {
            Some(verb) => switch(verb),
            None => run(dev::dev(command.args)),
        },
        Verb::Sample(_) => {
            let environment: BTreeMap<String, String> = std::env::vars().collect();
            run(async move { sample::serve(&environment).await })
        }
        verb => return cli::main(Cli { verb, ..command }),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => cli::fail(&in_words(error), json),
    }
}

/// What was refused in words keeps them, with its exit status.
fn in_words(error: anyhow::Error) -> ApiError {
    error.downcast::<ApiError>().unwrap_or_else(|error| ApiError::new(Code::Failed, format!("{error:#}")))
}

/// Becomes a process of one thread, about the folder that the arguments name.
fn alone(work: fn(&Path) -> i32, args: &HiddenArgs) -> ExitCode {
    let folder = args.args.first().map(Path::new).unwrap_or(Path::new(""));
    ExitCode::from(u8::try_from(work(folder)).unwrap_or(1))
}

fn run(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start")?;
    let outcome = runtime.block_on(work);
    // Whatever still blocks somewhere is not waited for: this process ends.
    runtime.shutdown_background();
    outcome
}

/// Runs an agent, which tells what an operator would tell a colleague.
fn logged(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_env("HIRSEL_LOG");
    // Of HTTP/2, and of S3, whoever connects could write lines here, as many as it likes.
    let filter = filter.unwrap_or_else(|_| EnvFilter::new("info,openraft=error,chitchat=error,h2=error,s3s=off"));
    let plain = std::env::var_os("NO_COLOR").is_some() || !std::io::IsTerminal::is_terminal(&std::io::stderr());
    let lines = tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(!plain).with_target(false);
    lines.with_env_filter(filter).init();
    run(work)
}

fn switch(verb: DevVerb) -> anyhow::Result<()> {
    let (node, power) = match verb {
        DevVerb::Kill(node) => (node, Power::Kill),
        DevVerb::Freeze(node) => (node, Power::Freeze),
        DevVerb::Thaw(node) => (node, Power::Thaw),
        DevVerb::Start(node) => (node, Power::Start),
        DevVerb::Stop(folder) => return dev::stop(&folder.data),
    };
    power::switch(&node.folder.data, &node.target, power)
}
