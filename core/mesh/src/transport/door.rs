//! Doors: an lb reaches an instance on another node through the agent there, because instances listen on loopback.
//!
//! ```text
//! opener:  length of the id (u8) · instance id, as APP/SERVICE/NUMBER, behind `udp:` for datagrams
//! answer:  0 open | 1 no such instance here | 2 it does not accept connections
//! ```
//! Then bytes are copied both ways, each direction ending by itself; or datagrams, each behind its length (u16), until the opener ends
//! ([`datagrams`]).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hirsel_model::{InstanceId, NodeId};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, copy_bidirectional_with_sizes};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::server::TlsStream;
use tracing::debug;

use super::Shared;
use super::datagrams;
use super::tls::{Buffered, buffered};
use crate::identity::Certified;
use crate::seam::BoxStream;

/// TCP and TLS handshake, and the answer of the other agent.
const OPEN_WITHIN: Duration = Duration::from_secs(3);
/// The instance listens on this host: it answers at once, or its backlog is full.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// The opener sends its header with the end of the handshake.
const HEADER_WITHIN: Duration = Duration::from_secs(2);
/// Bytes copied at once in each direction: one TLS record.
const COPY_BYTES: usize = 16 << 10;

/// What passes through a door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carries {
    Bytes,
    Datagrams,
}

impl Carries {
    /// What stands before the id: no name of an application holds a colon.
    fn prefix(self) -> &'static str {
        match self {
            Carries::Bytes => "",
            Carries::Datagrams => "udp:",
        }
    }
}

pub(super) const OPEN: u8 = 0;
const NO_INSTANCE: u8 = 1;
pub(super) const NOT_ACCEPTED: u8 = 2;

pub(super) async fn open(
    shared: &Shared,
    to: NodeId,
    addr: SocketAddr,
    instance: &InstanceId,
    carries: Carries,
) -> io::Result<BoxStream> {
    let opened = async {
        if to == shared.me() && carries == Carries::Bytes {
            let local = shared.handlers().doors.get(instance).copied();
            return shared.world.net.connect(local.ok_or_else(|| no_instance(to, instance))?).await;
        }
        if to == shared.me() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "an instance of this node is told directly"));
        }
        let stream = shared.world.net.connect(addr).await?;
        let name = ServerName::try_from(shared.name_of(to)).map_err(io::Error::other)?;
        let mut tls = TlsConnector::from(shared.tls.door_client.clone()).connect(name, buffered(stream)).await?;
        let id = format!("{}{instance}", carries.prefix());
        let mut header = vec![u8::try_from(id.len()).map_err(io::Error::other)?];
        header.extend(id.as_bytes());
        tls.write_all(&header).await?;
        tls.flush().await?;
        match tls.read_u8().await? {
            OPEN => Ok(Box::new(tls) as BoxStream),
            NO_INSTANCE => Err(no_instance(to, instance)),
            _ => Err(io::Error::new(
                io::ErrorKind::ConnectionRefused,
                format!("instance {instance} on node {to} does not accept connections"),
            )),
        }
    };
    match timeout(OPEN_WITHIN, opened).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no door to {instance} on node {to} ({addr}) within {OPEN_WITHIN:?}"),
        )),
    }
}

fn no_instance(node: NodeId, instance: &InstanceId) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("instance {instance} is not on node {node}"))
}

pub(super) async fn serve(shared: &Arc<Shared>, owner: Certified, mut tls: TlsStream<Buffered>) {
    let Ok(Some((carries, instance))) = timeout(HEADER_WITHIN, header(&mut tls)).await else {
        debug!(node = %owner.node, "door without a header");
        return;
    };
    let addr = shared.handlers().doors.get(&instance).copied();
    if let (Carries::Datagrams, Some(addr)) = (carries, addr) {
        return tokio::select! {
            () = datagrams::serve(shared, tls, &instance, addr) => {}
            () = shared.unpinned(&owner) => {}
        };
    }
    let (status, local) = match addr {
        None => (NO_INSTANCE, None),
        Some(addr) => match timeout(CONNECT_WITHIN, shared.world.net.connect(addr)).await {
            Ok(Ok(local)) => (OPEN, Some(local)),
            _ => (NOT_ACCEPTED, None),
        },
    };
    if tls.write_all(&[status]).await.is_err() || tls.flush().await.is_err() {
        return;
    }
    let Some(mut local) = local else {
        let _ = tls.shutdown().await;
        return;
    };
    tokio::select! {
        copied = copy_bidirectional_with_sizes(&mut tls, &mut local, COPY_BYTES, COPY_BYTES) => {
            if let Err(error) = copied {
                debug!(node = %owner.node, %instance, %error, "door broke");
            }
        }
        () = shared.unpinned(&owner) => {}
    }
}

/// None for anything that names no instance.
pub(super) async fn header(tls: &mut (impl AsyncRead + Unpin)) -> Option<(Carries, InstanceId)> {
    let mut id = vec![0; tls.read_u8().await.ok()?.into()];
    tls.read_exact(&mut id).await.ok()?;
    let id = String::from_utf8(id).ok()?;
    match id.strip_prefix(Carries::Datagrams.prefix()) {
        Some(id) => Some((Carries::Datagrams, id.parse().ok()?)),
        None => Some((Carries::Bytes, id.parse().ok()?)),
    }
}
