//! `hirsel dev`: a whole cluster on this machine, each agent a process of its own.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use crate::args::DevArgs;
use crate::launch::{power, spawn_in_background};
use crate::sample;

/// The load balancer's port in a development cluster: no privilege is needed for it.
const HTTP_PORT: u16 = 8080;
/// Where names are answered in one.
const DNS_PORT: u16 = 8053;
/// The same for HTTPS.
const HTTPS_PORT: u16 = 8443;
/// Objects that each node may keep: all of them have the same disk, and none of it alone.
const STORAGE_CAPACITY: &str = "10GiB";
/// Zones are given in turn.
const ZONES: [&str; 3] = ["a", "b", "c"];
/// The cluster and its sample application are ready within this, or what is missing is said.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How a node of the cluster is started again.
const START_FILE: &str = "start";

/// Starts the cluster, waits for Ctrl-C, and ends everything.
pub async fn dev(args: DevArgs) -> Result<()> {
    fs::create_dir_all(&args.data).with_context(|| format!("cannot make {}", args.data.display()))?;
    let cluster = fs::canonicalize(&args.data)?;
    let _lock = lock(&cluster)?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let ended = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    let work = async {
        let began = Instant::now();
        let fresh = start(&cluster, &args).await?;
        ready(&cluster, &args, fresh, began).await?;
        std::future::pending::<Result<()>>().await
    };
    let outcome = tokio::select! {
        () = ended => Ok(()),
        outcome = work => outcome,
    };
    stop(&cluster)?;
    if outcome.is_ok() {
        say("stopped; the same command goes on from here, and `rm -r` of the folder forgets it");
    }
    outcome
}

/// `hirsel dev stop`: ends every node of the cluster.
pub fn stop(cluster: &Path) -> Result<()> {
    for node in nodes(cluster)? {
        power::off(&fs::canonicalize(cluster.join(node))?)?;
    }
    Ok(())
}

/// The nodes of the cluster in this folder.
pub fn nodes(cluster: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(cluster)
        .with_context(|| format!("no development cluster in {}; try: hirsel dev", cluster.display()))?;
    let mut names: Vec<String> = entries
        .flatten()
        .filter(|entry| entry.path().join(START_FILE).exists())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort_by_key(|name| (name.len(), name.clone()));
    Ok(names)
}

fn lock(cluster: &Path) -> Result<fs::File> {
    let file = fs::File::create(cluster.join("dev.lock"))?;
    if rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
        bail!("a development cluster runs in {} already; try: hirsel status", cluster.display());
    }
    Ok(file)
}

/// Starts every node; tells whether the cluster is a new one.
async fn start(cluster: &Path, args: &DevArgs) -> Result<bool> {
    let folders: Vec<PathBuf> = (1..=args.nodes).map(|k| cluster.join(format!("n{k}"))).collect();
    // What a former `dev` left behind (it was killed) is switched off first.
    for folder in folders.iter().filter(|folder| folder.exists()) {
        power::off(folder)?;
    }
    let fresh = !folders[0].join("identity").exists();
    let first = args_of(args, 1, &folders[0]);
    launch(&folders[0], &first, None)?;
    say("n1 is up");
    let mut token = None;
    let mut started = Vec::new();
    for (k, folder) in (1..=args.nodes).zip(&folders).skip(1) {
        let mut words = args_of(args, k, folder);
        if !folder.join("identity").exists() {
            if token.is_none() {
                token =
                    Some(ask(&folders[0], &["token", "new"]).await?["token"].as_str().unwrap_or_default().to_owned());
            }
            let seed = format!("{}.1:{}", args.net, crate::config::MESH_PORT);
            words[0] = "join".into();
            words.insert(1, seed);
        }
        let (folder, token) = (folder.clone(), token.clone());
        // Side by side: each waits for its own agent.
        started.push(tokio::task::spawn_blocking(move || launch(&folder, &words, token)));
    }
    for (k, start) in (2..).zip(started) {
        start.await?.with_context(|| format!("node n{k}"))?;
        say(&format!("n{k} is up"));
    }
    Ok(fresh)
}

fn args_of(args: &DevArgs, k: u8, folder: &Path) -> Vec<String> {
    let zone = ZONES[usize::from(k - 1) % ZONES.len()];
    let words = [
        "up",
        "--name",
        &format!("n{k}"),
        "--addr",
        &format!("{}.{k}", args.net),
        "--zone",
        zone,
        "--data",
        &folder.to_string_lossy(),
        "--run-as",
        "self",
        "--http-port",
        &HTTP_PORT.to_string(),
        "--dns",
        &format!("{}.{k}:{DNS_PORT}", args.net),
        "--https-port",
        &HTTPS_PORT.to_string(),
        "--storage-capacity",
        STORAGE_CAPACITY,
    ]
    .map(str::to_owned);
    words.to_vec()
}

fn launch(folder: &Path, words: &[String], token: Option<String>) -> Result<()> {
    fs::create_dir_all(folder)?;
    // For the power switch. A node that has joined starts by `up`, with the same flags.
    let mut again = words.to_vec();
    if again[0] == "join" {
        again.splice(0..2, ["up".to_owned()]);
    }
    fs::write(folder.join(START_FILE), serde_json::to_vec(&again)?)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(words);
    // Not as an argument, which everybody on this host may read.
    command.envs(token.map(|token| ("HIRSEL_TOKEN", token)));
    spawn_in_background(command, folder)
}

/// Switches a node on again.
pub fn start_again(folder: &Path) -> Result<()> {
    if !power::processes(folder)?.is_empty() {
        bail!("{} runs already", folder.display());
    }
    let words: Vec<String> = serde_json::from_slice(&fs::read(folder.join(START_FILE))?)?;
    launch(folder, &words, None)
}

/// Waits until the cluster is whole and its sample application answers, and says where to look.
async fn ready(cluster: &Path, args: &DevArgs, fresh: bool, began: Instant) -> Result<()> {
    // A cluster that goes on may have lost voters before; they come back in their time, and it serves meanwhile.
    let voters_wanted = match args.nodes {
        _ if !fresh => 1,
        1 | 2 => usize::from(args.nodes),
        3 | 4 => 3,
        _ => 5,
    };
    let first = cluster.join("n1");
    if !args.empty {
        let known = ask(&first, &["apps"]).await?;
        if known.as_array().is_none_or(Vec::is_empty) {
            let manifest = cluster.join("hello.toml");
            fs::write(&manifest, sample::MANIFEST)?;
            retry(&first, &["apply", &manifest.to_string_lossy()]).await?;
            say("sample application deployed");
        }
    }
    let mut missing = String::new();
    while began.elapsed() < READY_WITHIN {
        match ask(&first, &["status"]).await {
            Ok(status) => {
                missing = lacking(&status, voters_wanted);
                if missing.is_empty() {
                    guide(cluster, args, &status, began);
                    return Ok(());
                }
            }
            Err(error) => missing = format!("{error:#}"),
        }
        sleep(Duration::from_millis(100)).await;
    }
    say(&format!("not whole after {} s: {missing}; look at: hirsel status", READY_WITHIN.as_secs()));
    Ok(())
}

fn lacking(status: &Value, voters: usize) -> String {
    let have = status["voters"].as_array().map_or(0, Vec::len);
    match () {
        () if status["leader"].is_null() => "no leader yet".into(),
        () if have < voters => format!("{have} of {voters} voters"),
        () if status["health"] != "healthy" => format!("health is {}", status["health"].as_str().unwrap_or("unknown")),
        () => String::new(),
    }
}

fn guide(cluster: &Path, args: &DevArgs, status: &Value, began: Instant) {
    let leader = status["leader"].as_str().unwrap_or("?");
    let took = began.elapsed().as_secs_f32();
    say(&format!("\n{} nodes, {leader} leads, ready in {took:.1} s\n", args.nodes));
    let apps = status["apps"].as_object().into_iter().flatten();
    let endpoints: Vec<&str> =
        apps.flat_map(|(_, app)| app["endpoints"].as_array().into_iter().flatten()).filter_map(Value::as_str).collect();
    let rows = [
        ("application", endpoints.join("  ")),
        ("look", "hirsel status | members | roles | ps hello | events -f".into()),
        ("switch a node off", "hirsel dev kill n3      and on again: hirsel dev start n3".into()),
        ("ask why", "hirsel why n3 | why role/lb/0 | why hello/web".into()),
        ("more instances", "hirsel scale hello/web=5".into()),
        ("names", format!("dig @{}.1 -p {DNS_PORT} web.hello.hirsel", args.net)),
        ("data", format!("{} (logs: nK/agent.log)", cluster.display())),
    ];
    for (name, text) in rows.iter().filter(|(_, text)| !text.is_empty()) {
        say(&format!("  {name:<20} {text}"));
    }
    say("\nCtrl-C ends everything; the same command resumes.");
}

/// Asks the agent in `folder` through the command line, as a person would.
async fn ask(folder: &Path, words: &[&str]) -> Result<Value> {
    let output = tokio::process::Command::new(std::env::current_exe()?)
        .args(words)
        .args(["--json", "--data"])
        .arg(folder)
        .output()
        .await?;
    // Three means done but degraded: it answered.
    if !matches!(output.status.code(), Some(0 | 3)) {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let envelope: Value = serde_json::from_slice(&output.stdout).context("unreadable answer")?;
    Ok(envelope["data"].clone())
}

/// As [`ask`], again while there is no leader.
async fn retry(folder: &Path, words: &[&str]) -> Result<Value> {
    let began = Instant::now();
    loop {
        match ask(folder, words).await {
            Ok(value) => return Ok(value),
            Err(error) if began.elapsed() > READY_WITHIN => return Err(error),
            Err(_) => sleep(Duration::from_millis(200)).await,
        }
    }
}

fn say(text: &str) {
    let mut out = std::io::stdout();
    // Nobody may be reading.
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}
