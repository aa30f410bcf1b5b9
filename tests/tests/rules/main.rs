//! The rules of the repository that no compiler holds: who may depend on whom, and that time, chance, network, disk and processes
//! come in through the seams only. Without these, simulation would quietly stop being the same code under another world.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

mod source;

use source::{Source, production_files};

/// Folders of packages from the bottom up: a package depends only on packages of a lower row.
const LAYERS: [&[&str]; 6] = [
    &["core/model", "core/mesh/histogram"],
    &["core/mesh"],
    &["core/role"],
    &[
        "plugins/lb",
        "plugins/compute",
        "plugins/storage",
        "plugins/db",
        "plugins/mgmt",
        "plugins/dns",
        "plugins/address",
    ],
    &["agent"],
    &["simulations", "tests"],
];

/// All that the model may use: no clock, no async, no I/O.
const MODEL_USES: [&str; 7] = ["data-encoding", "regex", "rmp-serde", "serde", "strsim", "thiserror", "toml"];

/// Whatever the host does, with what to use instead.
const HOST: [(&str, &str); 12] = [
    ("std::process", "Host::processes"),
    ("tokio::process", "Host::processes"),
    ("rustix::process", "Host::processes"),
    ("std::fs", "the seam Disk or Host's files"),
    ("tokio::fs", "the seam Disk or Host's files"),
    ("rustix::fs", "the seam Disk or Host's files"),
    ("std::net::TcpListener", "the seam Net or Host's listeners"),
    ("std::net::TcpStream", "the seam Net or Host's connections"),
    ("std::net::UdpSocket", "the seam Net"),
    ("std::os::unix::net", "the seam Net"),
    ("tokio::net", "the seam Net or Host's listeners and connections"),
    ("rustix::net", "the seam Net"),
];

/// Time and chance, with what to use instead. The clock of `tokio::time` is virtual where time is.
const TIME_AND_CHANCE: [(&str, &str); 11] = [
    ("std::time::Instant::now", "the seam Clock, or tokio::time to wait"),
    ("std::time::SystemTime::now", "the seam Clock"),
    ("rustix::time", "the seam Clock"),
    ("std::thread::sleep", "tokio::time::sleep"),
    ("rand::rng", "the seam Chance"),
    ("rand::thread_rng", "the seam Chance"),
    ("rand::random", "the seam Chance"),
    ("rand::rngs::OsRng", "the seam Chance"),
    ("rand::rngs::ThreadRng", "the seam Chance"),
    ("rand::rngs::StdRng::from_os_rng", "the seam Chance"),
    ("rand::rngs::SmallRng::from_os_rng", "the seam Chance"),
];

/// The real side of the seams: leaf code that only the agent's executable uses.
const REAL: [&str; 2] = ["core/mesh/src/seam/real", "core/role/src/host/"];

/// The parts of the agent that only its executable uses; all others run in simulation too.
const COMMAND_LINE: [&str; 3] = ["agent/src/launch", "agent/src/cli", "agent/src/main.rs"];

fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are a folder of the workspace");
    root.canonicalize().expect("the workspace is there")
}

fn metadata() -> Metadata {
    MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .no_deps()
        .other_options(["--offline".to_owned()])
        .exec()
        .expect("cargo metadata answers")
}

/// The folder of a package, as the layers name it.
fn folder(package: &Package) -> String {
    let path = package.manifest_path.parent().expect("a manifest is in a folder");
    let path = path.as_std_path().canonicalize().expect("the folder is there");
    path.strip_prefix(root()).expect("members are inside").display().to_string()
}

fn layer(folder: &str) -> usize {
    let found = LAYERS.iter().position(|layer| layer.contains(&folder));
    found.unwrap_or_else(|| panic!("{folder} has no place in the layout: give it one in LAYERS"))
}

/// Production files of each package whose folder is asked for, by package folder.
fn sources(metadata: &Metadata, wanted: impl Fn(&str) -> bool) -> BTreeMap<String, Vec<Source>> {
    let mut sources = BTreeMap::new();
    for package in metadata.packages.iter().filter(|package| wanted(&folder(package))) {
        let roots = package.targets.iter().filter(|target| target.is_lib() || target.is_bin());
        let files: BTreeMap<PathBuf, Source> = roots
            .flat_map(|target| production_files(target.src_path.as_std_path()))
            .map(|source| (source.path.clone(), source))
            .collect();
        assert!(!files.is_empty(), "{} has no sources", package.name);
        sources.insert(folder(package), files.into_values().collect());
    }
    sources
}

fn shown(source: &Source) -> String {
    source.path.strip_prefix(root()).unwrap_or(&source.path).display().to_string()
}

#[test]
fn dependencies_point_downwards_only() {
    let metadata = metadata();
    let layers: BTreeMap<String, (String, usize)> = metadata
        .packages
        .iter()
        .map(|package| (package.name.to_string(), (folder(package), layer(&folder(package)))))
        .collect();
    for package in &metadata.packages {
        let (from, own) = &layers[package.name.as_str()];
        for dependency in &package.dependencies {
            if let Some((to, other)) = layers.get(&dependency.name) {
                assert!(other < own, "{from} may not depend on {to}: they meet in the plan, or it is a layer above");
            }
        }
    }
}

#[test]
fn packages_are_called_after_the_project() {
    for package in &metadata().packages {
        let name = package.name.as_str();
        // One stands in for a library that another one asks for by its name.
        let stands_in = folder(package) == "core/mesh/histogram" && name == "base2histogram";
        let expected = folder(package) == "agent" && name == "hirsel" || name.starts_with("hirsel-") || stands_in;
        assert!(expected, "{name} in {}", folder(package));
    }
}

#[test]
fn the_model_uses_nothing_that_looks_at_the_world() {
    let metadata = metadata();
    let model = metadata.packages.iter().find(|package| folder(package) == "core/model").expect("there is a model");
    let normal = model.dependencies.iter().filter(|dependency| dependency.kind != DependencyKind::Development);
    let more: Vec<&str> =
        normal.map(|dependency| dependency.name.as_str()).filter(|name| !MODEL_USES.contains(name)).collect();
    assert!(more.is_empty(), "the model may not use {more:?}");
}

#[test]
fn agent_and_simulations_name_the_plugins_in_one_file_each() {
    let metadata = metadata();
    let plugins: Vec<String> = metadata
        .packages
        .iter()
        .filter(|package| folder(package).starts_with("plugins/"))
        .map(|package| package.name.replace('-', "_"))
        .collect();
    assert!(plugins.len() >= 3, "{plugins:?}");
    for (package, files) in sources(&metadata, |folder| matches!(folder, "agent" | "simulations")) {
        let naming: Vec<String> =
            files.iter().filter(|file| plugins.iter().any(|name| file.mentions(name))).map(shown).collect();
        // The simulations may take the agent's list.
        let sound = if package == "agent" { naming.len() == 1 } else { naming.len() <= 1 };
        assert!(sound, "{package} names plugins in {naming:?}");
    }
}

/// Queues that grow for as long as somebody feeds them. In a simulation nobody does for longer than a history.
const WITHOUT_LIMIT: [(&str, &str); 4] = [
    ("tokio::sync::mpsc::unbounded_channel", "tokio::sync::mpsc::channel with a named limit"),
    ("mpsc::unbounded_channel", "tokio::sync::mpsc::channel with a named limit"),
    ("futures::channel::mpsc::unbounded", "tokio::sync::mpsc::channel with a named limit"),
    ("std::sync::mpsc::channel", "std::sync::mpsc::sync_channel with a named limit"),
];

#[test]
fn every_queue_has_a_limit() {
    let metadata = metadata();
    let files = sources(&metadata, |folder| !matches!(folder, "simulations" | "tests"));
    let broken: Vec<String> = files.values().flat_map(|files| reaching(files, &[], &WITHOUT_LIMIT)).collect();
    assert!(broken.is_empty(), "{broken:#?}");
}

/// Everything of `forbidden` that a file names, outside the files whose name begins like one of `except`.
fn reaching(files: &[Source], except: &[&str], forbidden: &[(&str, &str)]) -> Vec<String> {
    let mut broken = Vec::new();
    for file in files {
        let name = shown(file);
        if except.iter().any(|except| name.starts_with(except)) {
            continue;
        }
        for (line, path) in file.paths() {
            let found = forbidden.iter().find(|(it, _)| path == *it || path.starts_with(&format!("{it}::")));
            broken.extend(found.map(|(_, instead)| format!("{name}:{line} uses {path}; use {instead}")));
        }
    }
    broken
}

#[test]
fn plugins_and_core_reach_the_world_through_the_seams_only() {
    let sources = sources(&metadata(), |folder| folder.starts_with("plugins/") || folder.starts_with("core/"));
    assert!(sources.values().map(Vec::len).sum::<usize>() > 30, "hardly a file was read");
    let forbidden = [&HOST[..], &TIME_AND_CHANCE[..]].concat();
    let broken: Vec<_> = sources.values().flat_map(|files| reaching(files, &REAL, &forbidden)).collect();
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn the_agent_is_told_time_and_chance_wherever_it_may_be_simulated() {
    let sources = sources(&metadata(), |folder| folder == "agent");
    let broken: Vec<_> = sources.values().flat_map(|files| reaching(files, &COMMAND_LINE, &TIME_AND_CHANCE)).collect();
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn every_file_says_what_it_is_for() {
    let metadata = metadata();
    let mut silent = Vec::new();
    for files in sources(&metadata, |_| true).values() {
        silent.extend(files.iter().filter(|file| !file.has_header).map(shown));
    }
    assert!(silent.is_empty(), "these files do not open with `//!`: {silent:#?}");
}
