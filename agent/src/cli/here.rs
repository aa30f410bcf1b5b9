//! The verbs that ask no agent: completions, man pages, the systemd unit; and `login`, which asks one it is told of.

use std::fs;
use std::io::Write;
use std::path::Path;

use clap::CommandFactory;
use hirsel_mesh::identity::{JoinToken, TokenError};
use serde_json::json;

use super::Done;
use super::args::{Cli, CompletionsArgs, InstallArgs, LoginArgs, ManArgs};
use super::client::{Client, Target};
use super::output::{line, note};
use super::target::remember;
use crate::api::error::{ApiError, Code};
use crate::api::views::status::Status;
use crate::config::parse_addr;

/// `completions`
pub fn completions(args: &CompletionsArgs) -> Result<Done, ApiError> {
    clap_complete::generate(args.shell, &mut Cli::command(), "hirsel", &mut std::io::stdout());
    Ok(Done::Well)
}

/// `man`
pub fn man(args: &ManArgs) -> Result<Done, ApiError> {
    match &args.dir {
        Some(dir) => {
            let written = fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(Cli::command(), dir));
            written.map_err(|error| failed(&format!("cannot write man pages into {}: {error}", dir.display())))?;
            line(format!("wrote the man pages into {}", dir.display()));
        }
        None => {
            let mut page = Vec::new();
            let rendered = clap_mangen::Man::new(Cli::command()).render(&mut page);
            rendered.map_err(|error| failed(&format!("cannot make the man page: {error}")))?;
            let _ = std::io::stdout().write_all(&page);
        }
    }
    Ok(Done::Well)
}

/// `login`
pub async fn login(json: bool, args: &LoginArgs) -> Result<Done, ApiError> {
    let addr = parse_addr(&args.addr).map_err(|error| ApiError::new(Code::Usage, format!("{error:#}")))?;
    let token: JoinToken = args.token.trim().parse().map_err(|error: TokenError| {
        ApiError::new(Code::Usage, error.to_string())
            .next("on a host of the cluster: hirsel token new --viewer (or --operator, --admin)")
    })?;
    let client = Client::new(Target::Network { addr, token: token.to_string(), pin: None });
    let envelope = client.get::<Status>("/v1/status").await?.envelope;
    let path =
        remember(addr, &token.to_string()).map_err(|error| failed(&format!("cannot remember the login: {error}")))?;
    if json {
        let told = json!({
            "api": envelope.api, "cluster": envelope.cluster, "node": envelope.node, "index": envelope.index,
            "stale_ms": envelope.stale_ms, "data": { "addr": addr, "file": path }, "warnings": envelope.warnings,
        });
        line(told.to_string());
        return Ok(Done::Well);
    }
    line(format!(
        "logged in to cluster {} through {} ({addr}); its authority is pinned",
        envelope.cluster, envelope.node
    ));
    note(format!("remembered in {}; verbs ask it when no agent runs here, or with: --node {addr}", path.display()));
    Ok(Done::Well)
}

/// `doctor SEED`: of this host, which is no member yet.
pub async fn doctor(ask: &super::args::AskArgs, args: &super::args::DoctorArgs) -> Result<Done, ApiError> {
    let seed = args.seed.as_deref().unwrap_or_default();
    let told = crate::launch::host::before(seed, ask.data.clone()).await?;
    if ask.json {
        // There is no cluster and no node yet.
        let envelope = json!({
            "api": 1, "cluster": "", "node": "", "index": 0, "stale_ms": 0, "data": told, "warnings": [],
        });
        line(envelope.to_string());
    } else {
        super::look::print_doctor(&told);
    }
    Ok(super::look::doctor_done(&told))
}

/// `install`
pub fn install(args: &InstallArgs) -> Result<Done, ApiError> {
    let start = if args.start.is_empty() { vec!["up".to_string()] } else { args.start.clone() };
    check_start(&start)?;
    let me = std::env::current_exe().map_err(|error| failed(&format!("cannot find this executable: {error}")))?;
    let unit = unit(&me, &start);
    if args.print {
        line(unit.trim_end());
        return Ok(Done::Well);
    }
    let written = fs::write(&args.unit, unit);
    written.map_err(|error| {
        ApiError::new(Code::Failed, format!("cannot write {}: {error}", args.unit.display()))
            .next("sudo hirsel install")
            .next("hirsel install --print")
    })?;
    line(format!("wrote {}", args.unit.display()));
    note("start it:  systemctl daemon-reload && systemctl enable --now hirsel");
    note(format!("undo: systemctl disable hirsel; rm {}", args.unit.display()));
    Ok(Done::Well)
}

/// The unit is written once and starts for years: what it starts must parse.
fn check_start(start: &[String]) -> Result<(), ApiError> {
    use clap::Parser;
    let words = std::iter::once("hirsel").chain(start.iter().map(String::as_str));
    let parsed = Cli::try_parse_from(words).map_err(|error| ApiError::new(Code::Usage, error.to_string()))?;
    match parsed.verb {
        super::Verb::Up(args) if !args.node.detach => Ok(()),
        super::Verb::Join(args) if !args.node.detach => Ok(()),
        _ => Err(ApiError::new(Code::Usage, "a unit starts an agent in the foreground: up or join, without --detach")),
    }
}

/// The unit. Only the agent is stopped with it (`KillMode=process`): instances go on, and the next start adopts them; and it keeps
/// its cgroup to itself (`Delegate=yes`), so that it may put instances into groups of their own.
fn unit(executable: &Path, start: &[String]) -> String {
    let words = std::iter::once(executable.display().to_string()).chain(start.iter().cloned());
    let command: Vec<String> = words.map(|word| quote(&word)).collect();
    format!(
        "[Unit]
Description=hirsel agent
Documentation=man:hirsel(1)
Wants=network-online.target
After=network-online.target

[Service]
Type=simple
ExecStart={}
KillMode=process
Delegate=yes
# Ended with status 0 it was stopped, or has left the cluster for good.
Restart=on-failure
RestartSec=1
# Long enough to hand leadership over.
TimeoutStopSec=30
RuntimeDirectory=hirsel
RuntimeDirectoryMode=0700
RuntimeDirectoryPreserve=yes
StateDirectory=hirsel
StateDirectoryMode=0700
LimitNOFILE=1048576
TasksMax=infinity
OOMScoreAdjust=-900

[Install]
WantedBy=multi-user.target
",
        command.join(" ")
    )
}

/// A word of a command line as systemd reads it (systemd.service(5), "Command lines").
fn quote(word: &str) -> String {
    let escaped = word.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@+%$".contains(c);
    if !word.is_empty() && word.chars().all(plain) { escaped } else { format!("\"{escaped}\"") }
}

fn failed(message: &str) -> ApiError {
    ApiError::new(Code::Failed, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_leaves_instances_alone_and_quotes_its_words() {
        let unit = unit(Path::new("/opt/my apps/hirsel"), &["up".into(), "--label".into(), "a=100%".into()]);
        assert!(unit.contains("ExecStart=\"/opt/my apps/hirsel\" up --label a=100%%\n"), "{unit}");
        assert!(unit.contains("KillMode=process\n") && unit.contains("Delegate=yes\n"));
    }

    #[test]
    fn a_unit_starts_only_agents_that_stay() {
        let check = |words: &[&str]| check_start(&words.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert!(check(&["up", "--zone", "a"]).is_ok());
        assert!(check(&["join", "10.0.0.1", "--token-file", "/x"]).is_ok());
        for wrong in [&["up", "--detach"][..], &["status"], &["upp"], &["join"]] {
            assert_eq!(check(wrong).unwrap_err().code, Code::Usage, "{wrong:?}");
        }
    }
}
