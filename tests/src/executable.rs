//! The executable under test, built once.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The root of the workspace.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate lies in the workspace")
}

/// Path of `hirsel`: what `HIRSEL_BIN` names, or built now with the profile and target folder of this test.
///
/// # Panics
/// When it cannot be built.
pub fn hirsel() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| match std::env::var_os("HIRSEL_BIN") {
        Some(path) => path.into(),
        None => build(),
    })
}

fn build() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    // TARGET/PROFILE/deps/TEST
    let profile = test.ancestors().nth(2).expect("tests lie two folders deep");
    let target = profile.parent().expect("a profile lies in a target folder");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    // With the features of the whole workspace, as `cargo test --workspace` has built everything but this executable already.
    cargo
        .args(["build", "--quiet", "--workspace", "--bin", "hirsel", "--target-dir"])
        .arg(target)
        .current_dir(workspace());
    // What cargo tells this test of its own package is not true of that build, and build scripts that look at it would begin anew, and
    // with them everything that is built on their libraries.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(is_of_a_package) {
            cargo.env_remove(name);
        }
    }
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    let status = cargo.status().expect("cargo runs");
    assert!(status.success(), "cargo build --bin hirsel failed");
    profile.join("hirsel")
}

/// Whether cargo sets this variable for the one package whose test it runs.
fn is_of_a_package(name: &str) -> bool {
    ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CFG_"].iter().any(|prefix| name.starts_with(prefix))
        || ["CARGO_CRATE_NAME", "CARGO_BIN_NAME", "CARGO_PRIMARY_PACKAGE", "OUT_DIR"].contains(&name)
}
