//! What only the operating system knows of this host, for `doctor`.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hirsel_mesh::seam::World;
use hirsel_mesh::seam::real;
use hirsel_mesh::transport::{knock_sizes, knock_tcp, knock_udp};

use crate::api::doctor::{Doctor, Findings, HostFindings, PeerFindings, User, before_joining};
use crate::api::error::{ApiError, Code};
use crate::config::{Config, MESH_PORT, data_folder};
use crate::doctor::{HostFacts, drift, moment, time_writes};

/// What a running agent knows of its own host and process.
pub fn facts(config: &Config) -> HostFacts {
    let (data, run_as) = (config.data.clone(), config.roles.run_as.clone());
    // Agents of a development cluster start with it, not with the host.
    let stays = !config.bind.ip().is_loopback();
    Arc::new(move || HostFindings {
        space: space(&data),
        reserve: Some(super::reserve::is_there(&data)),
        open_files: open_files(),
        supervised: stays.then(|| std::env::var_os("INVOCATION_ID").is_some()),
        user: Some(user(run_as.as_deref())),
        ..HostFindings::default()
    })
}

/// Looks at this host before it joins the cluster behind `seed`. Nothing is left behind.
pub async fn before(seed: &str, data: Option<PathBuf>) -> Result<Doctor, ApiError> {
    let seed = crate::config::parse_addr(seed).map_err(|error| ApiError::new(Code::Usage, format!("{error:#}")))?;
    let folder = data_folder(data);
    let existing = folder.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("/")).to_path_buf();
    let failed = |error: std::io::Error| ApiError::new(Code::Failed, format!("cannot look around: {error}"));
    // The data folder may belong to an agent, or not exist yet: what counts is the disk.
    let probe = tempfile::Builder::new().prefix(".hirsel-doctor-").tempdir_in(&existing);
    let (kept, sync_error) = match probe {
        Ok(probe) => (probe, None),
        Err(error) => (tempfile::tempdir().map_err(failed)?, Some(format!("{}: {error}", existing.display()))),
    };
    let world: World = real::world(kept.path()).map_err(failed)?;
    let began = moment(world.clock.as_ref());
    let sync = match sync_error {
        None => time_writes(&world).await,
        Some(error) => Err(error),
    };
    let (tcp, udp, sizes) = tokio::join!(knock_tcp(&world, seed), knock_udp(&world, seed), knock_sizes(&world, seed));
    let sizes = sizes.ok().map(Into::into);
    let peer = PeerFindings { name: seed.to_string(), tcp: tcp.into(), udp: udp.into(), sizes, answer: None };
    let host = HostFindings {
        sync: Some(sync),
        space: space(&existing),
        reserve: None,
        open_files: None,
        drift_ms: drift(began, moment(world.clock.as_ref())),
        wall: world.clock.wall(),
        supervised: None,
        guard: None,
        addresses: None,
        names: None,
        user: None,
        port_taken: (!seed.ip().is_loopback()).then(port_taken),
    };
    Ok(before_joining(&Findings { host, certificate_ends: None, peers: vec![peer] }))
}

/// Whether something else has the mesh's port.
fn port_taken() -> Result<(), String> {
    let tcp = TcpListener::bind(("0.0.0.0", MESH_PORT)).map(drop);
    let udp = UdpSocket::bind(("0.0.0.0", MESH_PORT)).map(drop);
    tcp.map_err(|error| format!("TCP {MESH_PORT}: {error}"))?;
    udp.map_err(|error| format!("UDP {MESH_PORT}: {error}"))
}

/// Free (for this user) and all bytes of the file system.
fn space(folder: &Path) -> Option<(u64, u64)> {
    let stat = rustix::fs::statvfs(folder).ok()?;
    Some((stat.f_bavail.saturating_mul(stat.f_frsize), stat.f_blocks.saturating_mul(stat.f_frsize)))
}

/// Most files that this process may have open.
fn open_files() -> Option<u64> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    Some(limit.current.unwrap_or(u64::MAX))
}

/// Whom instances run as.
fn user(run_as: Option<&str>) -> User {
    match run_as {
        Some(name) => User::Named(name.into(), exists(name)),
        None if rustix::process::geteuid().is_root() => User::Root,
        None => User::Own,
    }
}

/// Whether the host knows this user, from whatever source (`getent`), or from its file where that program is missing.
fn exists(name: &str) -> bool {
    let asked = std::process::Command::new("getent").args(["passwd", "--", name]).output();
    match asked {
        Ok(answer) => answer.status.success(),
        Err(_) => {
            let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
            users.lines().any(|line| line.split(':').next() == Some(name))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_of_this_host_are_read() {
        let (free, all) = space(Path::new("/")).unwrap();
        assert!(free <= all && all > 0);
        assert!(open_files().unwrap() > 0);
        assert!(exists("root") && !exists("no-such-user-here"));
        assert_eq!(user(Some("root")), User::Named("root".into(), true));
    }
}
