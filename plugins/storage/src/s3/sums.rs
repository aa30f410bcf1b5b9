//! The checksum of an object out of those of its parts: pure. Either of all bytes (what a CRC allows), or of the checksums.

use crc_fast::CrcAlgorithm;
use data_encoding::BASE64;

use super::error::{Done, error};
use super::hash::{Algorithm, sum};
use crate::meta::kinds::Checksum;

/// How an upload is counted: which checksum, and whether it is one of checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Which.
    pub algorithm: Algorithm,
    /// Of the checksums of parts.
    pub composite: bool,
}

impl Way {
    /// As a client begins an upload.
    ///
    /// # Errors
    /// When there is no such thing.
    pub fn new(algorithm: Option<&str>, kind: Option<&str>) -> Done<Option<Self>> {
        let Some(name) = algorithm else {
            return match kind {
                None => Ok(None),
                Some(_) => {
                    Err(error("InvalidRequest", "x-amz-checksum-type is nothing without x-amz-checksum-algorithm"))
                }
            };
        };
        let algorithm = Algorithm::named(name);
        let algorithm =
            algorithm.ok_or_else(|| error("InvalidRequest", format!("no checksum is called {name:.40?}")))?;
        let composite = match (kind, algorithm) {
            (None, algorithm) => algorithm != Algorithm::Crc64Nvme,
            (Some("COMPOSITE"), Algorithm::Crc64Nvme) | (Some("FULL_OBJECT"), Algorithm::Sha1 | Algorithm::Sha256) => {
                let words = format!("the checksum type cannot be used with {}", algorithm.name());
                return Err(error("InvalidRequest", words));
            }
            (Some("COMPOSITE"), _) => true,
            (Some("FULL_OBJECT"), _) => false,
            (Some(kind), _) => return Err(error("InvalidRequest", format!("no checksum type is called {kind:.40?}"))),
        };
        Ok(Some(Self { algorithm, composite }))
    }

    /// As it is kept with an upload.
    pub fn kept(self) -> String {
        format!("{} {}", self.algorithm.name(), if self.composite { "COMPOSITE" } else { "FULL_OBJECT" })
    }

    /// From [`Way::kept`].
    pub fn read(kept: &str) -> Option<Self> {
        let (name, kind) = kept.split_once(' ')?;
        Some(Self { algorithm: Algorithm::named(name)?, composite: kind == "COMPOSITE" })
    }

    /// The checksum of the whole, of those of the parts in their order, each with its length.
    ///
    /// # Errors
    /// When one of them is no such checksum.
    pub fn whole(self, parts: &[(String, u64)]) -> Done<Checksum> {
        let bytes = |value: &String| {
            let bytes = BASE64.decode(value.as_bytes()).ok().filter(|bytes| bytes.len() == self.algorithm.bytes());
            bytes.ok_or_else(|| error("InvalidPart", "a part was counted in another way"))
        };
        let value = if self.composite {
            let mut all = Vec::with_capacity(parts.len() * self.algorithm.bytes());
            for (value, _) in parts {
                all.extend(bytes(value)?);
            }
            format!("{}-{}", sum(self.algorithm, &all), parts.len())
        } else {
            let crc = match self.algorithm {
                Algorithm::Crc32 => CrcAlgorithm::Crc32IsoHdlc,
                Algorithm::Crc32c => CrcAlgorithm::Crc32Iscsi,
                Algorithm::Crc64Nvme => CrcAlgorithm::Crc64Nvme,
                Algorithm::Sha1 | Algorithm::Sha256 => return Err(error("InvalidRequest", "a hash has no parts")),
            };
            let mut whole: Option<u64> = None;
            for (value, length) in parts {
                let number = bytes(value)?.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
                whole = Some(match whole {
                    None => number,
                    Some(before) => crc_fast::checksum_combine(crc, before, number, *length),
                });
            }
            let all = whole.unwrap_or_default().to_be_bytes();
            BASE64.encode(&all[all.len() - self.algorithm.bytes()..])
        };
        Ok(Checksum { algorithm: self.algorithm.name().into(), value, composite: self.composite })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crc_of_parts_is_the_one_of_all_bytes() {
        let parts: [&[u8]; 4] = [b"the first", b"", b"the second one", b"and the last"];
        for algorithm in [Algorithm::Crc32, Algorithm::Crc32c, Algorithm::Crc64Nvme] {
            let counted: Vec<(String, u64)> =
                parts.iter().map(|part| (sum(algorithm, part), part.len() as u64)).collect();
            let whole = Way { algorithm, composite: false }.whole(&counted).expect("they are checksums");
            assert_eq!(whole.value, sum(algorithm, &parts.concat()), "{algorithm:?}");
        }
    }

    #[test]
    fn a_checksum_of_checksums_says_of_how_many() {
        let parts = [b"one".as_slice(), b"two"].map(|part| (sum(Algorithm::Sha256, part), 3));
        let whole = Way { algorithm: Algorithm::Sha256, composite: true }.whole(&parts).expect("they are checksums");
        let both = parts.clone().map(|(value, _)| BASE64.decode(value.as_bytes()).expect("it is base64")).concat();
        assert_eq!(whole.value, format!("{}-2", sum(Algorithm::Sha256, &both)));
        assert!(Way { algorithm: Algorithm::Crc32, composite: true }.whole(&parts).is_err());
    }

    #[test]
    fn not_every_checksum_can_be_counted_in_both_ways() {
        let way = |name, kind| Way::new(Some(name), kind).map(|way| way.map(|way| way.composite)).ok().flatten();
        assert_eq!(way("sha256", None), Some(true));
        assert_eq!(way("CRC64NVME", None), Some(false));
        assert_eq!(way("CRC32", Some("FULL_OBJECT")), Some(false));
        assert_eq!(way("SHA1", Some("FULL_OBJECT")), None);
        assert_eq!(way("CRC64NVME", Some("COMPOSITE")), None);
        assert_eq!(way("MD4", None), None);
        let kept = Way { algorithm: Algorithm::Crc32c, composite: true };
        assert_eq!(Way::read(&kept.kept()), Some(kept));
    }
}
