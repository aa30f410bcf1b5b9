//! Connections that come by a proxy before this one, which says by the PROXY protocol whom it connects for.

use std::io;
use std::time::Duration;

use hirsel_mesh::seam::BoxStream;
use tokio::io::AsyncReadExt;

use crate::passthrough::Rewound;
use crate::proxy_protocol::{self, Header};

/// Whoever is trusted to say whom it connects for says so at once.
const HEADER_WITHIN: Duration = Duration::from_secs(5);

/// Headers with all that proxies add are shorter, mostly.
const READ_BYTES: usize = 256;

/// Reads the header, and leaves the connection as if it had begun behind it.
///
/// # Errors
/// When none comes, or none in time.
pub async fn told(stream: &mut BoxStream) -> io::Result<(Header, Vec<u8>)> {
    let read = async {
        let mut bytes = Vec::new();
        loop {
            match proxy_protocol::read(&bytes) {
                Ok(Some((header, length))) => return Ok((header, bytes.split_off(length))),
                Ok(None) => {}
                Err(wrong) => return Err(io::Error::new(io::ErrorKind::InvalidData, wrong.0)),
            }
            bytes.reserve(READ_BYTES);
            if stream.read_buf(&mut bytes).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    };
    tokio::time::timeout(HEADER_WITHIN, read).await.unwrap_or_else(|_late| Err(io::ErrorKind::TimedOut.into()))
}

/// A connection of which `begun` was read and is read again.
pub fn rewound(stream: BoxStream, begun: Vec<u8>) -> BoxStream {
    if begun.is_empty() { stream } else { Box::new(Rewound::read_of(stream, begun)) }
}
