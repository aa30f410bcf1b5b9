//! `restore`: an empty data folder becomes that of the first node of a cluster that was backed up; then its agent starts.
//!
//! The backup is opened and found whole before anything is touched. A folder that holds anything is refused, except for what a
//! restoration left that was cut off.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use hirsel_mesh::seam::real;
use hirsel_model::{NodeName, Tag};
use tracing::warn;

use super::{ANEW, LOCK_FILE, LOG_FILE, lock, make_folder, spawn_in_background, start};
use crate::api::backup::Inside;
use crate::api::error::{ApiError, Code};
use crate::args::RestoreArgs;
use crate::backup::{self, LEFTOVERS, UNFINISHED_FILE};
use crate::birth::Start;
use crate::cli::backup::{VARIABLE, opened, read};
use crate::config::Config;
use crate::plugins;

/// The lock of the disk seam, and what else is in a folder that no agent has used yet.
const NOTHING: [&str; 3] = [LOCK_FILE, LOG_FILE, "lock"];

/// `hirsel restore`
pub async fn restore(args: RestoreArgs) -> Result<()> {
    let mut config = Config::load(&args.node, None)?;
    if std::env::var_os(ANEW).is_some() {
        return start(config, Start::Resume).await;
    }
    let file = read(&args.file)?;
    let contents = opened(&file, &args.opens)?;
    let inside = contents.inside(file.len() as u64);
    is_empty(&config.data)?;
    make_folder(&config.data)?;
    config.data = fs::canonicalize(&config.data).context("cannot find the data folder")?;
    let alone = lock(&config.data)?;
    let world = real::world(&config.data)?;
    let living = backup::living(&world, &contents).await;
    match (living.first(), &args.force) {
        (Some(first), None) => return Err(lives(&inside, first).into()),
        (Some(_), Some(reason)) => warn!(reason, "restored although the cluster lives elsewhere"),
        (None, _) => {}
    }
    let built = plugins::roles(&plugins::all());
    let identity = backup::restore(&world, &config, &built, &contents).await?;
    drop((world, alone));
    let (folder, addr) = (config.data.display(), config.advertise);
    eprintln!(
        "cluster {} is restored on {} from the backup of {}; from now on it is started with: hirsel up --data {folder}",
        identity.cluster, identity.name, inside.made_at
    );
    eprintln!("its other nodes join anew: hirsel token new, then on each: hirsel join {addr} --token T");
    eprintln!(
        "what is exclusive is started when nothing of the past can run it any more; say so with: hirsel recover --off"
    );
    eprintln!("whoever held the key of its authority may still have it: hirsel cert rotate");
    match args.node.detach {
        true => in_background(&config.data),
        false => start(config, Start::Resume).await,
    }
}

fn lives(inside: &Inside, (name, addr, tag): &(NodeName, SocketAddr, Tag)) -> ApiError {
    let message = format!(
        "not restored: {name} answers at {addr} as a member of cluster {} with tag {tag}, so the cluster lives",
        inside.cluster
    );
    ApiError::new(Code::Unsafe, message)
        .evidence("two clusters of one id would run the same applications, and neither would know of the other")
        .next(format!("on {name}: hirsel status"))
        .next(format!("on {name}, where a majority is lost for good: hirsel recover --plan"))
        .next("repeat with --force REASON")
}

/// What `restore` would do, and which nodes of the backup answer.
///
/// # Errors
/// When the backup cannot be opened.
pub async fn plan(args: &RestoreArgs) -> Result<Plan, ApiError> {
    let failed = |error: anyhow::Error| ApiError::new(Code::Failed, format!("{error:#}"));
    let config = Config::load(&args.node, None).map_err(failed)?;
    let file = read(&args.file)?;
    let contents = opened(&file, &args.opens)?;
    let folder = tempfile::tempdir().map_err(|error| failed(error.into()))?;
    let world = real::world(folder.path()).map_err(|error| failed(error.into()))?;
    let living = backup::living(&world, &contents).await;
    let words = match is_empty(&config.data) {
        Ok(()) => format!("would found the cluster anew on {}, in {}", config.name, config.data.display()),
        Err(error) => format!("would be refused: {error}"),
    };
    let answers = |(name, addr, tag): &(NodeName, SocketAddr, Tag)| format!("{name} answers at {addr} with tag {tag}");
    Ok(Plan { inside: contents.inside(file.len() as u64), living: living.iter().map(answers).collect(), words })
}

/// What a restoration would do.
pub struct Plan {
    /// What is in the backup.
    pub inside: Inside,
    /// Nodes that answer, in words: its cluster lives.
    pub living: Vec<String>,
    /// What would be done.
    pub words: String,
}

/// Whether nothing in the folder would be lost.
fn is_empty(folder: &Path) -> Result<(), ApiError> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    let names: Vec<String> = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let begun = names.iter().any(|name| name == UNFINISHED_FILE);
    let counts = |name: &&String| {
        let leftover = begun && LEFTOVERS.iter().any(|left| name.starts_with(left));
        !(leftover || NOTHING.contains(&name.as_str()))
    };
    let Some(first) = names.iter().find(counts) else { return Ok(()) };
    let shown = folder.display();
    let what = if names.iter().any(|name| name == "identity") { "belongs to a node" } else { "is not empty" };
    let error = ApiError::new(
        Code::Unsafe,
        format!("{shown} {what} (it holds {first:?}), and a backup is restored into an empty one"),
    );
    let error = if what.starts_with("belongs") { error.next(format!("hirsel up --data {shown}")) } else { error };
    Err(error.next("repeat with --data ANOTHER-DIR"))
}

fn in_background(folder: &Path) -> Result<()> {
    let mut command = Command::new(std::env::current_exe().context("cannot find this executable")?);
    command.args(std::env::args_os().skip(1).filter(|arg| arg != "--detach"));
    command.env(ANEW, "1").env_remove(VARIABLE);
    spawn_in_background(command, folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_would_miss_is_an_empty_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let touch = |name: &str| fs::write(path.join(name), b"x").unwrap();
        assert!(is_empty(&path.join("none")).is_ok() && is_empty(path).is_ok());
        NOTHING.iter().for_each(|name| touch(name));
        assert!(is_empty(path).is_ok());
        touch("control.redb");
        let error = is_empty(path).unwrap_err();
        assert!(error.message.contains("is not empty (it holds \"control.redb\")"), "{error}");
        touch(UNFINISHED_FILE);
        assert!(is_empty(path).is_ok(), "a restoration was cut off");
        touch("identity");
        let error = is_empty(path).unwrap_err();
        assert!(error.message.contains("belongs to a node"), "{error}");
        assert!(error.next[0].starts_with("hirsel up --data "), "{error:?}");
    }
}
