//! The socket of chitchat: messages of the transport, compressed.
//!
//! chitchat knows peers by address, the transport by node. What a member sends counts as sent from the address it is known at, so
//! that an answer finds it; what is meant for an address that no member has goes nowhere.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use async_trait::async_trait;
use chitchat::transport::{Socket, Transport as ChitchatTransport};
use chitchat::{ChitchatId, ChitchatMessage, Deserializable, Serializable};
use hirsel_model::NodeId;
use tokio::time::Instant;
use tracing::debug;
use zstd::bulk::{Compressor, Decompressor};

use super::node_of;
use crate::transport::{Inbox, Peers, Transport};

/// What a compressed message may become: chitchat fills at most a datagram of 65,507 bytes, and cannot take a digest larger than
/// one either.
const MESSAGE_BYTES_MAX: usize = 66 << 10;
/// Magic number, version and type: chitchat reads them unasked.
const HEADER_BYTES: usize = 4;
/// The types of messages that begin with a digest: Syn and SynAck.
const WITH_DIGEST: [u8; 2] = [0, 1];
/// An Ack that brings nothing: a header, and a delta that ends where it begins.
const EMPTY_ACK_BYTES: usize = HEADER_BYTES + 1;
/// What follows an id in a digest: heartbeat and two versions.
const COUNTERS_BYTES: usize = 24;
/// A delta that ends where it begins.
const EMPTY_DELTA_BYTES: usize = EMPTY_ACK_BYTES - HEADER_BYTES;
/// Who began to gossip with us this lately, a little less than an interval ago, has not counted another heartbeat since.
const MET_WITHIN: Duration = Duration::from_millis(200);
/// The fastest level: messages are mostly numbers and names seen a moment ago.
const LEVEL: i32 = 1;

/// When this node last learned something that others may not know yet: a value of its own, or of somebody else.
#[derive(Debug, Default)]
pub(super) struct News(Mutex<Option<Instant>>);

impl News {
    /// Something is new now.
    pub(super) fn note(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn is_older_than(&self, moment: Instant) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_none_or(|news| news < moment)
    }
}

/// Opens sockets for one chitchat after another.
pub(super) struct GossipTransport {
    transport: Arc<Transport>,
    news: Arc<News>,
}

impl GossipTransport {
    pub(super) fn new(transport: Arc<Transport>, news: Arc<News>) -> Self {
        Self { transport, news }
    }
}

#[async_trait]
impl ChitchatTransport for GossipTransport {
    async fn open(&self, _listen: SocketAddr) -> Result<Box<dyn Socket>> {
        Ok(Box::new(GossipSocket {
            messages: self.transport.messages(),
            transport: self.transport.clone(),
            meetings: Meetings { news: self.news.clone(), met: BTreeMap::new() },
            compressor: Compressor::new(LEVEL)?,
            decompressor: Decompressor::new()?,
        }))
    }
}

struct GossipSocket {
    transport: Arc<Transport>,
    messages: Inbox,
    meetings: Meetings,
    // Kept: setting up their tables costs far more than compressing a message.
    compressor: Compressor<'static>,
    decompressor: Decompressor<'static>,
}

#[async_trait]
impl Socket for GossipSocket {
    // Must not wait: chitchat sends and receives in one task, so waiting for a dead peer would stop gossip with the others.
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> Result<()> {
        let begins = matches!(message, ChitchatMessage::Syn { .. });
        if begins {
            // chitchat's rounds begin with these, and so do those of all else.
            self.transport.beat();
        }
        let node = self.transport.peers().borrow().at(to);
        if let Some(node) = node {
            if is_idle_talk(&message) || begins && self.meetings.have_told_all(node, Instant::now()) {
                return Ok(());
            }
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
            let peers = self.transport.peers().borrow().clone();
            let Some(addr) = peers.nodes.get(&from).map(|peer| peer.addr) else { continue };
            let plain = self.decompressor.decompress(&body, MESSAGE_BYTES_MAX).ok();
            match plain.and_then(|plain| parse(&plain, self.transport.me(), &peers)) {
                Some(message) => {
                    self.meetings.note(from, &message, Instant::now());
                    return Ok((addr, message));
                }
                None => debug!(node = %from, bytes = body.len(), "not a gossip message"),
            }
        }
    }
}

/// Who gossiped with us of its own accord, and when.
///
/// A handshake tells both sides all that the other knows. Of two nodes that each choose the other in the same interval, the second
/// would ask for what it was told a moment ago; among few nodes that is every other handshake.
struct Meetings {
    news: Arc<News>,
    met: BTreeMap<NodeId, Instant>,
}

impl Meetings {
    fn note(&mut self, from: NodeId, message: &ChitchatMessage, now: Instant) {
        match message {
            ChitchatMessage::Syn { .. } => drop(self.met.insert(from, now)),
            ChitchatMessage::SynAck { delta, .. } | ChitchatMessage::Ack { delta }
                if delta.serialized_len() > EMPTY_DELTA_BYTES =>
            {
                self.news.note();
            }
            _ => {}
        }
    }

    /// Whether `node` began a handshake so lately that another would bring neither side anything.
    fn have_told_all(&self, node: NodeId, now: Instant) -> bool {
        let met = self.met.get(&node).filter(|met| now.duration_since(**met) < MET_WITHIN);
        met.is_some_and(|met| self.news.is_older_than(*met))
    }
}

/// The third message of a handshake, when the peer lacks nothing. Heartbeats travel in the digests of the first two; so among nodes
/// that have nothing new to say this is one message in three, and whoever receives it does nothing.
fn is_idle_talk(message: &ChitchatMessage) -> bool {
    matches!(message, ChitchatMessage::Ack { .. }) && message.serialized_len() == EMPTY_ACK_BYTES
}

/// Reads what a member sent, compressed or not ([`crate::decoders`]).
pub(super) fn decode(bytes: &[u8], me: NodeId, peers: &Peers) {
    let _ = parse(bytes, me, peers);
    if let Ok(plain) = zstd::bulk::decompress(bytes, MESSAGE_BYTES_MAX) {
        let _ = parse(&plain, me, peers);
    }
}

/// A digest, an Ack without news, and the digest as it is sent.
pub(super) fn samples() -> Vec<Vec<u8>> {
    let mut digest = vec![0x53, 0xb0, 0, 0, 2, 0];
    for name in ["n1", "n2"] {
        ChitchatId::new(name, 1, ([127, 0, 0, 1], 1).into()).serialize(&mut digest);
        digest.extend([7; COUNTERS_BYTES]);
    }
    "cluster".serialize(&mut digest);
    let packed = zstd::bulk::compress(&digest, LEVEL).unwrap_or_default();
    vec![digest, vec![0x53, 0xb0, 0, 2, 0], packed]
}

/// None for anything that is no message. chitchat's parser slices some of its input before it looks at the length.
fn parse(plain: &[u8], me: NodeId, peers: &Peers) -> Option<ChitchatMessage> {
    catch_unwind(AssertUnwindSafe(|| {
        let members = members_only(plain, me, peers)?;
        let mut rest = members.as_slice();
        let message = ChitchatMessage::deserialize(&mut rest).ok()?;
        rest.is_empty().then_some(message)
    }))
    .unwrap_or(None)
}

/// The message without what its digest says of strangers and of former lives. chitchat believes in every node that a digest names,
/// and tells the others; so one wrong digest would stay in the herd, and a large one would leave no room for any answer.
fn members_only(plain: &[u8], me: NodeId, peers: &Peers) -> Option<Vec<u8>> {
    let (header, mut rest) = plain.split_first_chunk::<HEADER_BYTES>()?;
    if !WITH_DIGEST.contains(&header[HEADER_BYTES - 1]) {
        return Some(plain.to_vec());
    }
    let mut newest: BTreeMap<NodeId, (u64, &[u8])> = BTreeMap::new();
    for _ in 0..u16::deserialize(&mut rest).ok()? {
        let entry = rest;
        let id = ChitchatId::deserialize(&mut rest).ok()?;
        rest = rest.get(COUNTERS_BYTES..)?;
        let Some(node) = node_of(&id.node_id).filter(|node| *node == me || peers.nodes.contains_key(node)) else {
            continue;
        };
        let life = (id.generation_id, &entry[..entry.len() - rest.len()]);
        let known = newest.entry(node).or_insert(life);
        *known = life.max(*known);
    }
    let mut members = header.to_vec();
    u16::try_from(newest.len()).ok()?.serialize(&mut members);
    for (_, entry) in newest.into_values() {
        members.extend(entry);
    }
    members.extend(rest);
    Some(members)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::Peer;

    fn digest(of: &[(&str, u64)]) -> Vec<u8> {
        let mut bytes = vec![0x53, 0xb0, 0, 0];
        u16::try_from(of.len()).unwrap().serialize(&mut bytes);
        for (name, generation) in of {
            ChitchatId::new(*name, *generation, "127.0.0.1:1".parse().unwrap()).serialize(&mut bytes);
            bytes.extend([7; COUNTERS_BYTES]);
        }
        "cluster".serialize(&mut bytes);
        bytes
    }

    fn peers() -> Peers {
        let peer = |n: u64| (NodeId(n), Peer { addr: "127.0.0.1:1".parse().unwrap(), key: [0; 32] });
        Peers { nodes: [peer(2), peer(3)].into() }
    }

    #[test]
    fn of_a_digest_only_members_remain_each_in_its_newest_life() {
        let said = digest(&[("n1", 5), ("n2", 8), ("n2", 9), ("n3", 4), ("n4", 1), ("n02", 99), ("other", 1)]);
        let kept = members_only(&said, NodeId(1), &peers()).unwrap();
        assert_eq!(kept, digest(&[("n1", 5), ("n2", 9), ("n3", 4)]));
        assert!(parse(&said, NodeId(1), &peers()).is_some());
    }

    #[test]
    fn an_ack_that_brings_nothing_is_not_sent() {
        let empty = parse(&[0x53, 0xb0, 0, 2, 0], NodeId(1), &peers());
        let idle = empty.filter(is_idle_talk);
        assert!(idle.is_some(), "what chitchat reads as an Ack without news");
        assert!(!is_idle_talk(&parse(&digest(&[("n1", 5)]), NodeId(1), &peers()).unwrap()));
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_just_begun_a_handshake_is_not_asked_for_another_until_there_are_news() {
        let said = |bytes: &[u8]| parse(bytes, NodeId(1), &peers()).unwrap();
        let news = Arc::new(News::default());
        let mut meetings = Meetings { news: news.clone(), met: BTreeMap::new() };
        let met = Instant::now();
        assert!(!meetings.have_told_all(NodeId(2), met), "never met");
        meetings.note(NodeId(2), &said(&digest(&[("n2", 1)])), met);
        meetings.note(NodeId(3), &said(&[0x53, 0xb0, 0, 2, 0]), met);
        assert!(meetings.have_told_all(NodeId(2), met + MET_WITHIN / 2));
        assert!(!meetings.have_told_all(NodeId(3), met), "an answer is no handshake of its own");
        assert!(!meetings.have_told_all(NodeId(2), met + MET_WITHIN), "it has counted another heartbeat since");
        tokio::time::advance(MET_WITHIN / 4).await;
        news.note();
        assert!(!meetings.have_told_all(NodeId(2), Instant::now()), "there is something that it does not know");
    }

    #[test]
    fn what_is_cut_is_no_message() {
        let said = digest(&[("n1", 5), ("n2", 8)]);
        for length in 0..said.len() {
            assert!(parse(&said[..length], NodeId(1), &peers()).is_none(), "{length}");
        }
    }
}
