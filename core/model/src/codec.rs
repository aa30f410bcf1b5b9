//! The one encoding of everything that crosses nodes or reaches a disk: MessagePack with field names, so that a field may be added
//! while old and new agents talk to each other.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes that are not what they should be.
#[derive(Debug, thiserror::Error)]
#[error("cannot decode {what} of {bytes} bytes: {source}")]
pub struct DecodeError {
    what: &'static str,
    bytes: usize,
    source: rmp_serde::decode::Error,
}

/// Encodes `value`.
///
/// # Panics
/// If the type of `value` cannot be encoded at all, for example a map nested deeper than 1024 levels: a mistake of the programmer.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    rmp_serde::to_vec_named(value).expect("a type of ours can be encoded")
}

/// Decodes what [`encode`] wrote. Unknown fields are passed over, unless the type says `deny_unknown_fields`.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    rmp_serde::from_slice(bytes).map_err(|source| DecodeError {
        what: std::any::type_name::<T>().rsplit("::").next().unwrap_or_default(),
        bytes: bytes.len(),
        source,
    })
}
