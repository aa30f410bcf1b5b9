//! What goes over a follow stream: length, then MessagePack.

use std::collections::BTreeSet;
use std::io;

use bytes::Bytes;
use hirsel_model::control::ControlState;
use hirsel_model::{NodeId, codec};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The kind of the stream.
pub(super) const FOLLOW: &str = "control/follow";
/// Largest frame: a whole state, compressed.
const FRAME_BYTES_MAX: usize = 64 << 20;
/// Largest state, unpacked.
const STATE_BYTES_MAX: usize = 512 << 20;
/// Fast; the state shrinks to a tenth anyway.
const COMPRESSION: i32 = 1;

/// The first words of a follower.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    /// The last command it has.
    pub applied: u64,
}

/// From a source to its follower.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Frame {
    /// Who leads, again and again.
    Beat(Beat),
    /// Entries that follow each other.
    Entries(Vec<(u64, Bytes)>),
    /// A whole state, encoded and compressed.
    State(Bytes),
}

/// What a source knows of the group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Beat {
    pub term: u64,
    pub leader: Option<NodeId>,
    pub voters: BTreeSet<NodeId>,
    pub learners: BTreeSet<NodeId>,
    /// The last command the source has.
    pub applied: u64,
    /// How long ago the source heard a leader; none if it never did.
    pub stale_ms: Option<u64>,
    /// The term of the last entry that led to `applied`, or of a later one that changed nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied_term: Option<u64>,
}

pub(super) fn pack(state: &impl Serialize) -> io::Result<Bytes> {
    Ok(zstd::bulk::compress(&codec::encode(state), COMPRESSION)?.into())
}

pub(super) fn unpack(packed: &[u8]) -> io::Result<Vec<u8>> {
    // The frame says how large it is when it was compressed in one go; believe it only up to the limit.
    let claimed = zstd::zstd_safe::get_frame_content_size(packed).ok().flatten().unwrap_or(0);
    if claimed > STATE_BYTES_MAX as u64 {
        return Err(io::Error::other(format!("state of {claimed} bytes exceeds {STATE_BYTES_MAX}")));
    }
    zstd::bulk::decompress(packed, claimed as usize)
}

pub(super) async fn write(stream: &mut (impl AsyncWrite + Unpin), frame: &Frame) -> io::Result<()> {
    let body = codec::encode(frame);
    let length = u32::try_from(body.len()).ok().filter(|length| *length as usize <= FRAME_BYTES_MAX);
    let length =
        length.ok_or_else(|| io::Error::other(format!("frame of {} bytes exceeds {FRAME_BYTES_MAX}", body.len())))?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(&body).await?;
    stream.flush().await
}

/// Reads what a source or a follower may send, up to what would be applied ([`crate::decoders`]).
pub(crate) async fn decode(mut bytes: &[u8]) {
    drop(codec::decode::<Hello>(bytes));
    match read(&mut bytes).await {
        Ok(Frame::State(packed)) => drop(unpack(&packed).map(|bytes| super::machine::decode_state(&bytes).is_ok())),
        Ok(Frame::Entries(entries)) => {
            let mut state = Default::default();
            // The first that cannot be applied ends the stream.
            let _ = entries
                .iter()
                .try_for_each(|(index, entry)| super::machine::apply(&mut state, *index, entry).map(drop));
        }
        Ok(Frame::Beat(_)) | Err(_) => {}
    }
}

/// One frame of each kind.
pub(crate) fn samples(state: &ControlState, entry: Vec<u8>) -> Vec<Vec<u8>> {
    let frames = [
        Frame::Beat(Beat { voters: [NodeId(1)].into(), leader: Some(NodeId(1)), ..Beat::default() }),
        Frame::Entries(vec![(1, entry.clone().into()), (2, entry.into())]),
        Frame::State(pack(state).unwrap_or_default()),
    ];
    let framed = |frame: &Frame| {
        let body = codec::encode(frame);
        [&u32::try_from(body.len()).unwrap_or(0).to_be_bytes()[..], &body].concat()
    };
    frames.iter().map(framed).collect()
}

pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Frame> {
    let length = stream.read_u32().await? as usize;
    if length > FRAME_BYTES_MAX {
        return Err(io::Error::other(format!("frame of {length} bytes exceeds {FRAME_BYTES_MAX}")));
    }
    // Grows with what arrives, not with what was announced.
    let mut body = Vec::new();
    stream.take(length as u64).read_to_end(&mut body).await?;
    if body.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    codec::decode(&body).map_err(io::Error::other)
}
