//! `support-bundle`: what somebody needs who shall help, in one file.
//!
//! Everything in it is an answer that a viewer gets: no secret, key, token or manifest is asked for. What programs wrote may hold
//! anything, so it comes only where it is asked for.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::client::Client;
use super::look::escape;
use super::output::{self, line, note};
use super::{Done, wall};
use crate::api::error::{ApiError, Code};
use crate::api::views::apps::App;

/// Events that are taken along: some days of a cluster that is not well.
const EVENTS: usize = 2_000;
/// Lines of output taken along per application.
const LINES: usize = 200;
/// Text shrinks to a tenth at the usual level.
const COMPRESSION: i32 = 3;
/// Size of a block of a tar archive (POSIX.1-1988, `ustar`).
const BLOCK_BYTES: usize = 512;

/// `support-bundle`
#[derive(Args, Clone, Debug)]
pub struct BundleArgs {
    /// Where to write it [default: hirsel-support-TIME.tar.zst in this folder]
    #[arg(long, value_name = "FILE")]
    pub to: Option<PathBuf>,
    /// Take the last lines along that programs wrote; they may hold anything
    #[arg(long)]
    pub logs: bool,
    /// Only list what would be inside
    #[arg(long)]
    pub plan: bool,
}

/// `support-bundle`
pub async fn support_bundle(client: &Client, json: bool, args: &BundleArgs) -> Result<Done, ApiError> {
    let apps = client.get::<Vec<App>>("/v1/apps").await?;
    let names: Vec<&str> = apps.envelope.data.iter().map(|app| app.app.as_str()).collect();
    let wanted = contents(&names, args.logs);
    if args.plan {
        match json {
            true => told(&apps.text, json!({ "inside": wanted.iter().map(|(name, _)| name).collect::<Vec<_>>() })),
            false => wanted.iter().for_each(|(name, path)| line(format!("{name:<28} {path}"))),
        }
        return Ok(Done::Well);
    }
    let now = wall();
    let (mut tar, mut missing) = (Vec::new(), Vec::new());
    for (name, path) in &wanted {
        match client.get::<Value>(path).await {
            Ok(answer) => file(&mut tar, name, answer.text.as_bytes(), now.0 / 1_000),
            Err(error) => missing.push(format!("{name}: {}", error.message)),
        }
    }
    let about = format!("{}\nmissing: {}\n", env!("CARGO_PKG_VERSION"), missing.join("; "));
    file(&mut tar, "about.txt", about.as_bytes(), now.0 / 1_000);
    // Two empty blocks end an archive.
    tar.resize(tar.len() + 2 * BLOCK_BYTES, 0);
    let failed = |error: std::io::Error| ApiError::new(Code::Failed, format!("cannot write the bundle: {error}"));
    let packed = zstd::encode_all(&tar[..], COMPRESSION).map_err(failed)?;
    let to = args.to.clone().unwrap_or_else(|| format!("hirsel-support-{}.tar.zst", now.0 / 1_000).into());
    // Its owner alone reads it, and nothing that is there is lost.
    let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&to);
    let mut out = created.map_err(|error| {
        ApiError::new(Code::Failed, format!("cannot write {}: {error}", to.display()))
            .next("hirsel support-bundle --to ANOTHER-FILE")
    })?;
    out.write_all(&packed).and_then(|()| out.sync_all()).map_err(failed)?;
    match json {
        true => told(
            &apps.text,
            json!({ "file": to.display().to_string(), "bytes": packed.len(), "files": wanted.len(), "missing": missing }),
        ),
        false => {
            line(format!("wrote {} ({} bytes); look inside with: tar --zstd -tf {0}", to.display(), packed.len()));
            missing.iter().for_each(|words| note(format!("missing: {words}")));
        }
    }
    Ok(if missing.is_empty() { Done::Well } else { Done::Degraded })
}

/// Names of files, and what is asked to fill them.
fn contents(apps: &[&str], logs: bool) -> Vec<(String, String)> {
    let fixed = ["status", "roles", "apps", "upgrade", "doctor"].map(|what| (what.to_string(), format!("/v1/{what}")));
    let mut wanted: Vec<(String, String)> = fixed.into();
    wanted.push(("members".into(), "/v1/members?all=true".into()));
    wanted.push(("events".into(), format!("/v1/events?tail={EVENTS}")));
    for app in apps {
        wanted.push((format!("apps/{app}"), format!("/v1/apps/{}/ps?all=true", escape(app))));
        if logs {
            wanted.push((format!("logs/{app}"), format!("/v1/logs/{}?tail={LINES}", escape(app))));
        }
    }
    wanted.into_iter().map(|(name, path)| (format!("{name}.json"), path)).collect()
}

/// An answer of this verb's own, in the envelope that an agent sent.
fn told(envelope: &str, data: Value) {
    let Ok(mut envelope) = serde_json::from_str::<Value>(envelope) else { return };
    envelope["data"] = data;
    output::raw(&envelope.to_string());
}

/// Adds a file to a tar archive (POSIX.1-1988, `ustar`). Names of ours are short and plain.
fn file(tar: &mut Vec<u8>, name: &str, bytes: &[u8], modified_s: u64) {
    let mut head = [0_u8; BLOCK_BYTES];
    let mut put = |at: usize, text: &str| head[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, &name[..name.len().min(100)]);
    put(100, "0000600\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{:011o}\0", bytes.len()));
    put(136, &format!("{modified_s:011o}\0"));
    // The sum is made with spaces in its own place.
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\0");
    put(263, "00");
    let sum: u32 = head.iter().map(|byte| u32::from(*byte)).sum();
    head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    tar.extend_from_slice(&head);
    tar.extend_from_slice(bytes);
    tar.resize(tar.len().next_multiple_of(BLOCK_BYTES), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_programs_wrote_is_taken_along_only_when_asked_for_and_tokens_never() {
        let plain = contents(&["shop"], false);
        assert!(plain.iter().all(|(name, path)| !name.starts_with("logs/") && !path.contains("token")), "{plain:?}");
        assert!(contents(&["shop"], true).contains(&("logs/shop.json".into(), "/v1/logs/shop?tail=200".into())));
    }

    #[test]
    fn tar_reads_what_was_written() {
        let mut tar = Vec::new();
        file(&mut tar, "a.json", b"{}", 1_700_000_000);
        file(&mut tar, "apps/shop.json", &[b'x'; 600], 1_700_000_000);
        tar.resize(tar.len() + 2 * BLOCK_BYTES, 0);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("b.tar");
        std::fs::write(&path, &tar).unwrap();
        let listed = std::process::Command::new("tar").arg("-tvf").arg(&path).output().unwrap();
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        assert!(listed.status.success() && listed.stderr.is_empty(), "{listed:?}");
        assert!(text.contains("a.json") && text.contains("apps/shop.json") && text.contains(" 600 "), "{text}");
    }
}
