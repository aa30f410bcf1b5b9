//! The socket of chitchat: messages of the transport, compressed.
//!
//! chitchat knows peers by address, the transport by node. What a member sends counts as sent from the address it is known at, so
//! that an answer finds it; what is meant for an address that no member has goes nowhere.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use anyhow::{Context, Result};
use async_trait::async_trait;
use chitchat::transport::{Socket, Transport as ChitchatTransport};
use chitchat::{ChitchatMessage, Deserializable, Serializable};
use hirsel_model::NodeId;
use tokio::sync::mpsc;
use tracing::debug;
use zstd::bulk::{Compressor, Decompressor};

use crate::transport::Transport;

/// What a small compressed message may become. chitchat itself sends at most 64 KiB and a digest.
const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// Magic number, version and type: chitchat reads them unasked.
const HEADER_BYTES: usize = 4;
/// The fastest level: messages are mostly numbers and names seen a moment ago.
const LEVEL: i32 = 1;

/// Opens sockets for one chitchat after another.
pub(super) struct GossipTransport {
    transport: Arc<Transport>,
}

impl GossipTransport {
    pub(super) fn new(transport: Arc<Transport>) -> Self {
        Self { transport }
    }
}

#[async_trait]
impl ChitchatTransport for GossipTransport {
    async fn open(&self, _listen: SocketAddr) -> Result<Box<dyn Socket>> {
        Ok(Box::new(GossipSocket {
            messages: self.transport.messages(),
            transport: self.transport.clone(),
            compressor: Compressor::new(LEVEL)?,
            decompressor: Decompressor::new()?,
        }))
    }
}

struct GossipSocket {
    transport: Arc<Transport>,
    messages: Arc<tokio::sync::Mutex<mpsc::Receiver<(NodeId, Vec<u8>)>>>,
    // Kept: setting up their tables costs far more than compressing a message.
    compressor: Compressor<'static>,
    decompressor: Decompressor<'static>,
}

#[async_trait]
impl Socket for GossipSocket {
    // Must not wait: chitchat sends and receives in one task, so waiting for a dead peer would stop gossip with the others.
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> Result<()> {
        let node = self.transport.peers().borrow().at(to);
        if let Some(node) = node {
            let mut plain = Vec::with_capacity(message.serialized_len());
            message.serialize(&mut plain);
            self.transport.send_message(node, self.compressor.compress(&plain)?);
        }
        Ok(())
    }

    // chitchat drops this future at any await, so nothing is held across one. An error would end gossip: only a transport that is
    // gone is one.
    async fn recv(&mut self) -> Result<(SocketAddr, ChitchatMessage)> {
        loop {
            let (from, body) = self.messages.lock().await.recv().await.context("the transport is gone")?;
            let addr = self.transport.peers().borrow().nodes.get(&from).map(|peer| peer.addr);
            let Some(addr) = addr else { continue };
            match self.decompressor.decompress(&body, MESSAGE_BYTES_MAX).ok().and_then(|plain| parse(&plain)) {
                Some(message) => return Ok((addr, message)),
                None => debug!(node = %from, bytes = body.len(), "not a gossip message"),
            }
        }
    }
}

/// None for anything that is no message. chitchat's parser slices some of its input before it looks at the length.
fn parse(plain: &[u8]) -> Option<ChitchatMessage> {
    if plain.len() < HEADER_BYTES {
        return None;
    }
    catch_unwind(AssertUnwindSafe(|| {
        let mut rest = plain;
        let message = ChitchatMessage::deserialize(&mut rest).ok()?;
        rest.is_empty().then_some(message)
    }))
    .unwrap_or(None)
}
