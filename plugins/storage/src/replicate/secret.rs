//! The secret of an access key of another store, as the metadata keep it: sealed with a key of the cluster, as objects are (SSE-S3).
//! Whoever has the metadata, a backup of them or a snapshot on its way has nothing without that.

use hirsel_mesh::seam::Chance;
use hirsel_model::codec;
use hirsel_role::secret::Plain;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::rules::seal::header::Header;
use crate::rules::seal::{DataKey, Opening, SALT_BYTES, SealError, Sealing, plain_bytes};

/// Longest secret that is taken: those of access keys have 40 characters, and are nowhere longer than some hundred.
pub const SECRET_BYTES_MAX: usize = 1_024;
/// Of which name the cluster's key is that seals these.
const NAME: &str = "hirsel replication";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    header: ByteBuf,
    stream: ByteBuf,
}

fn drawn<const N: usize>(chance: &dyn Chance) -> [u8; N] {
    let mut bytes = [0; N];
    chance.fill(&mut bytes);
    bytes
}

/// Seals a secret with this master key and its version.
///
/// # Errors
/// Never, as long as the cipher takes keys of 32 bytes.
pub fn seal(secret: &Plain, (version, master): (u64, &[u8; 32]), chance: &dyn Chance) -> Result<ByteBuf, SealError> {
    let key = DataKey(drawn(chance));
    let header = ByteBuf::from(Header::master((version, master), Some(NAME), &key, drawn(chance))?.encode());
    let mut sealing = Sealing::new(&key, 0, drawn(chance))?;
    let mut stream = sealing.push(secret.0.as_bytes())?;
    stream.extend(sealing.finish()?);
    Ok(ByteBuf::from(codec::encode(&Sealed { header, stream: stream.into() })))
}

/// Opens a secret; `master` is the master key of a version.
///
/// # Errors
/// In words: what is there is no secret, or the key has not come to this node yet.
pub fn open(sealed: &[u8], master: impl Fn(u64) -> Option<[u8; 32]>) -> Result<Plain, String> {
    let broken = |error: SealError| format!("the secret of the access key does not open: {error}");
    let Sealed { header, stream } = codec::decode(sealed).map_err(|_| broken(SealError::Header))?;
    let header = Header::decode(&header).map_err(broken)?;
    let Header::Master { version, .. } = header else { return Err(broken(SealError::Header)) };
    let master = master(version).ok_or("the key that the secret was sealed with has not come to this node yet")?;
    let key = header.open_with_master(&master).map_err(broken)?;
    let plain = plain_bytes(stream.len() as u64).ok_or_else(|| broken(SealError::Short))?;
    let (salt, rest) = stream.split_first_chunk::<{ SALT_BYTES as usize }>().ok_or_else(|| broken(SealError::Short))?;
    let mut opening = Opening::new(&key, 0, *salt, plain, 0).map_err(broken)?;
    let open = opening.push(rest).map_err(broken)?;
    opening.finish().map_err(broken)?;
    String::from_utf8(open).map(Plain).map_err(|_| broken(SealError::Header))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Counting(std::sync::atomic::AtomicU8);

    impl Chance for Counting {
        fn fill(&self, bytes: &mut [u8]) {
            for byte in bytes {
                *byte = self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        }
    }

    #[test]
    fn a_secret_opens_with_the_clusters_key_alone_and_is_nowhere_to_be_seen() {
        let secret = Plain("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".into());
        let sealed = seal(&secret, (3, &[7; 32]), &Counting(1.into())).expect("it seals");
        assert!(!sealed.windows(8).any(|some| secret.0.as_bytes().windows(8).any(|of| of == some)));
        let masters = |version| (version == 3).then_some([7; 32]);
        assert_eq!(open(&sealed, masters), Ok(secret));
        assert!(open(&sealed, |_| Some([8; 32])).is_err());
        assert!(open(&sealed, |_| None).is_err_and(|words| words.contains("has not come")));
        for cut in 0..sealed.len() {
            assert!(open(&sealed[..cut], masters).is_err());
            let mut spoiled = sealed.to_vec();
            spoiled[cut] ^= 1;
            // The name of a field may be spoiled in no way that matters; what opens is the secret, or nothing.
            assert_ne!(open(&spoiled, masters), Ok(Plain(String::new())));
        }
    }
}
