//! All rows as a sequence of frames, for a replica that lacks too much of the log. Neither side ever holds more than one frame.
//!
//! A frame is at most [`FRAME_BYTES_MAX`] long. The first says what follows, the last how many rows there were and what their digest is:
//! what is cut off, reordered or altered is refused before any of it counts.

use hirsel_model::codec;
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::read;
use super::rows::{Row, Rows, RowsError, Step};

/// The form that is written.
const FORM: u32 = 1;
/// A frame is closed when it has this much: a message of the mesh is of about this size.
const FRAME_BYTES: usize = 256 << 10;
/// The longest frame that is taken: one row more than [`FRAME_BYTES`], and rows are well below this.
pub const FRAME_BYTES_MAX: usize = 4 << 20;

/// Why a snapshot cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Not what [`Frames`] makes, or cut, or altered.
    #[error("the snapshot of the metadata is damaged: {0}")]
    Damaged(String),
    /// A newer hirsel made it.
    #[error("the snapshot of the metadata was written by a newer hirsel, upgrade this node ({0})")]
    Newer(String),
    /// The rows cannot be read.
    #[error("{0}")]
    Rows(#[from] RowsError),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Frame {
    Begin { form: u32, level: u32 },
    Rows(Vec<(ByteBuf, ByteBuf)>),
    End { rows: u64, digest: ByteBuf },
}

/// Makes the frames of a snapshot. The rows must not change meanwhile: a read transaction of a database sees to that.
pub struct Frames {
    /// The key after the last row that was shown; none before the first frame.
    next: Option<Vec<u8>>,
    count: u64,
    digest: Context,
    ended: bool,
}

impl Default for Frames {
    fn default() -> Self {
        Self { next: None, count: 0, digest: Context::new(&SHA256), ended: false }
    }
}

impl Frames {
    /// The next frame; none after the last.
    ///
    /// # Errors
    /// When the rows cannot be read.
    pub fn next(&mut self, rows: &dyn Rows) -> Result<Option<Vec<u8>>, RowsError> {
        if self.ended {
            return Ok(None);
        }
        let Some(from) = self.next.clone() else {
            self.next = Some(Vec::new());
            return Ok(Some(codec::encode(&Frame::Begin { form: FORM, level: read::head(rows)?.level })));
        };
        let (mut taken, mut bytes) = (Vec::new(), 0);
        rows.scan(&from, &[0xff], &mut |key, value| {
            bytes += key.len() + value.len();
            self.count += 1;
            digest_row(&mut self.digest, key, value);
            taken.push((ByteBuf::from(key), ByteBuf::from(value)));
            Ok(if bytes < FRAME_BYTES { Step::On } else { Step::Stop })
        })?;
        let Some((last, _)) = taken.last() else {
            self.ended = true;
            let digest = self.digest.clone().finish().as_ref().to_vec();
            return Ok(Some(codec::encode(&Frame::End { rows: self.count, digest: digest.into() })));
        };
        let mut next = last.to_vec();
        next.push(0);
        self.next = Some(next);
        Ok(Some(codec::encode(&Frame::Rows(taken))))
    }
}

fn digest_row(digest: &mut Context, key: &[u8], value: &[u8]) {
    digest.update(&(key.len() as u64).to_be_bytes());
    digest.update(key);
    digest.update(&(value.len() as u64).to_be_bytes());
    digest.update(value);
}

/// What a frame brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// These rows, after all before them.
    Rows(Vec<Row>),
    /// That was all, and it is whole.
    All,
}

/// Takes the frames of a snapshot, in order.
pub struct Taking {
    begun: bool,
    ended: bool,
    last: Vec<u8>,
    count: u64,
    digest: Context,
}

impl Default for Taking {
    fn default() -> Self {
        Self { begun: false, ended: false, last: Vec::new(), count: 0, digest: Context::new(&SHA256) }
    }
}

impl Taking {
    /// Takes the next frame.
    ///
    /// # Errors
    /// When it is not the next frame of a snapshot that this build understands. Nothing of the snapshot may be used then.
    pub fn take(&mut self, frame: &[u8]) -> Result<Taken, SnapshotError> {
        let damaged = |words: &str| SnapshotError::Damaged(words.into());
        if frame.len() > FRAME_BYTES_MAX {
            return Err(damaged("a frame is too long"));
        }
        if self.ended {
            return Err(damaged("something follows its end"));
        }
        let decoded = codec::decode(frame).map_err(|error| match error.is_newer() {
            true => SnapshotError::Newer(error.to_string()),
            false => SnapshotError::Damaged(error.to_string()),
        })?;
        match decoded {
            Frame::Begin { form, level } if !self.begun => {
                if form != FORM {
                    return Err(SnapshotError::Newer(format!("form {form}")));
                }
                if let Some(words) = hirsel_model::feature::outdated(level) {
                    return Err(SnapshotError::Newer(words));
                }
                self.begun = true;
                Ok(Taken::Rows(Vec::new()))
            }
            Frame::Rows(rows) if self.begun => {
                for (key, value) in &rows {
                    if key.as_slice() <= self.last.as_slice() {
                        return Err(damaged("its rows are not in order"));
                    }
                    digest_row(&mut self.digest, key, value);
                    self.last = key.to_vec();
                    self.count += 1;
                }
                Ok(Taken::Rows(rows.into_iter().map(|(key, value)| (key.into_vec(), value.into_vec())).collect()))
            }
            Frame::End { rows, digest } if self.begun => {
                if rows != self.count || digest.as_slice() != self.digest.clone().finish().as_ref() {
                    return Err(damaged("rows are missing or altered"));
                }
                self.ended = true;
                Ok(Taken::All)
            }
            Frame::Begin { .. } | Frame::Rows(_) | Frame::End { .. } => Err(damaged("a frame is out of place")),
        }
    }
}

/// What the rows are, in one word: replicas that applied the same entries have the same.
///
/// # Errors
/// When the rows cannot be read.
pub fn digest(rows: &dyn Rows) -> Result<[u8; 32], RowsError> {
    let mut digest = Context::new(&SHA256);
    rows.scan(&[], &[0xff], &mut |key, value| {
        digest_row(&mut digest, key, value);
        Ok(Step::On)
    })?;
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest.finish().as_ref());
    Ok(bytes)
}
