//! What a body is checked against while it passes: MD5, which is also the ETag, and one checksum of those that S3 knows.
//!
//! A checksum is said before the body, behind it (in a trailer), or not at all, when only its kind is said. Whatever is said holds, or
//! nothing is kept.

use data_encoding::BASE64;
use http::HeaderMap;
use s3s::crypto::{Checksum as _, Crc32, Crc32c, Crc64Nvme, Md5, Sha1, Sha256};

use super::error::{Done, error};
use crate::meta::kinds::Checksum;

/// A kind of checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Algorithm {
    Crc32,
    Crc32c,
    Crc64Nvme,
    Sha1,
    Sha256,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Crc32, Self::Crc32c, Self::Crc64Nvme, Self::Sha1, Self::Sha256];

    /// As S3 writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Crc32 => "CRC32",
            Self::Crc32c => "CRC32C",
            Self::Crc64Nvme => "CRC64NVME",
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
        }
    }

    /// The one that S3 writes so, in large letters or small ones.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.name().eq_ignore_ascii_case(name))
    }

    /// The header that carries it.
    pub fn header(self) -> &'static str {
        match self {
            Self::Crc32 => "x-amz-checksum-crc32",
            Self::Crc32c => "x-amz-checksum-crc32c",
            Self::Crc64Nvme => "x-amz-checksum-crc64nvme",
            Self::Sha1 => "x-amz-checksum-sha1",
            Self::Sha256 => "x-amz-checksum-sha256",
        }
    }

    /// How many bytes it has.
    pub fn bytes(self) -> usize {
        match self {
            Self::Crc32 | Self::Crc32c => 4,
            Self::Crc64Nvme => 8,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }
}

enum Sum {
    Crc32(Crc32),
    Crc32c(Crc32c),
    Crc64Nvme(Crc64Nvme),
    Sha1(Sha1),
    Sha256(Box<Sha256>),
}

impl Sum {
    fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Crc32 => Self::Crc32(Crc32::new()),
            Algorithm::Crc32c => Self::Crc32c(Crc32c::new()),
            Algorithm::Crc64Nvme => Self::Crc64Nvme(Crc64Nvme::new()),
            Algorithm::Sha1 => Self::Sha1(Sha1::new()),
            Algorithm::Sha256 => Self::Sha256(Box::new(Sha256::new())),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Crc32(sum) => sum.update(bytes),
            Self::Crc32c(sum) => sum.update(bytes),
            Self::Crc64Nvme(sum) => sum.update(bytes),
            Self::Sha1(sum) => sum.update(bytes),
            Self::Sha256(sum) => sum.update(bytes),
        }
    }

    fn finish(self) -> Vec<u8> {
        match self {
            Self::Crc32(sum) => sum.finalize().to_vec(),
            Self::Crc32c(sum) => sum.finalize().to_vec(),
            Self::Crc64Nvme(sum) => sum.finalize().to_vec(),
            Self::Sha1(sum) => sum.finalize().to_vec(),
            Self::Sha256(sum) => sum.finalize().to_vec(),
        }
    }
}

/// The checksum of some bytes, as clients see it.
pub fn sum(algorithm: Algorithm, bytes: &[u8]) -> String {
    let mut sum = Sum::new(algorithm);
    sum.update(bytes);
    BASE64.encode(&sum.finish())
}

/// The MD5 of some bytes.
pub fn md5(bytes: &[u8]) -> [u8; 16] {
    Md5::checksum(bytes)
}

/// What a request says of its body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Its MD5.
    pub md5: Option<[u8; 16]>,
    /// Which checksum it has.
    pub algorithm: Option<Algorithm>,
    /// Its value, if it comes before the body.
    pub value: Option<String>,
    /// It is promised behind the body.
    pub trailing: bool,
}

impl Said {
    /// What the headers of a request say where checksums in them are of something else.
    ///
    /// # Errors
    /// When it is no digest.
    pub fn read_md5(headers: &HeaderMap) -> Done<Self> {
        let said = headers.get("content-md5").map(|value| value.to_str().unwrap_or("\u{fffd}").trim());
        Ok(Self { md5: said.map(digest).transpose()?, ..Self::default() })
    }

    /// What the headers of a request say.
    ///
    /// # Errors
    /// When they say what cannot be, or two things at once.
    pub fn read(headers: &HeaderMap) -> Done<Self> {
        let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("\u{fffd}").trim());
        let md5 = Self::read_md5(headers)?.md5;
        let mut values = Algorithm::ALL.into_iter().filter_map(|one| Some((one, text(one.header())?)));
        let value = values.next();
        if values.next().is_some() {
            return Err(error("InvalidRequest", "expecting a single x-amz-checksum- header"));
        }
        let trailer = text("x-amz-trailer").and_then(|names| {
            let mut names = names.split(',').map(str::trim);
            names.find_map(|name| Algorithm::ALL.into_iter().find(|one| one.header().eq_ignore_ascii_case(name)))
        });
        let named = match text("x-amz-sdk-checksum-algorithm").filter(|name| !name.is_empty()) {
            None => None,
            Some(name) => {
                let unknown = || error("InvalidRequest", format!("checksum algorithm {name:.40?} is not known"));
                Some(Algorithm::named(name).ok_or_else(unknown)?)
            }
        };
        if let Some((algorithm, value)) = value {
            if named.is_some_and(|named| named != algorithm) {
                return Err(error("InvalidRequest", "the checksum is of another kind than the request says"));
            }
            well_formed(algorithm, value)?;
            return Ok(Self { md5, algorithm: Some(algorithm), value: Some(value.to_owned()), trailing: false });
        }
        Ok(Self { md5, algorithm: trailer.or(named), value: None, trailing: trailer.is_some() })
    }
}

/// Refuses what is no checksum of this kind.
///
/// # Errors
/// As S3 says it.
pub fn well_formed(algorithm: Algorithm, value: &str) -> Done<()> {
    match BASE64.decode(value.as_bytes()) {
        Ok(bytes) if bytes.len() == algorithm.bytes() => Ok(()),
        _ => Err(error("BadDigest", format!("value for {} header is invalid", algorithm.header()))),
    }
}

fn digest(said: &str) -> Done<[u8; 16]> {
    let bytes = BASE64.decode(said.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or_else(|| error("InvalidDigest", "the Content-MD5 you specified is not valid"))
}

/// Counts while a body passes.
pub struct Counting {
    said: Said,
    md5: Md5,
    sum: Option<(Algorithm, Sum)>,
    bytes: u64,
}

/// What was counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// MD5 in hex: the ETag.
    pub etag: String,
    /// The checksum, if one was asked for.
    pub checksum: Option<Checksum>,
    /// How long the body was.
    pub bytes: u64,
}

impl Counting {
    /// Against what was said.
    pub fn new(said: Said) -> Self {
        let sum = said.algorithm.map(|algorithm| (algorithm, Sum::new(algorithm)));
        Self { said, md5: Md5::new(), sum, bytes: 0 }
    }

    /// The next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.md5.update(bytes);
        if let Some((_, sum)) = &mut self.sum {
            sum.update(bytes);
        }
    }

    /// Compares with what was said, before the body and behind it.
    ///
    /// # Errors
    /// When something is otherwise, as S3 says it.
    pub fn finish(self, trailers: Option<&HeaderMap>) -> Done<Counted> {
        let md5 = self.md5.finalize();
        if self.said.md5.is_some_and(|said| said != md5) {
            return Err(error("BadDigest", "the Content-MD5 you specified did not match what we received"));
        }
        let mut checksum = None;
        if let Some((algorithm, sum)) = self.sum {
            let value = BASE64.encode(&sum.finish());
            let trailing = trailers.and_then(|trailers| trailers.get(algorithm.header()));
            let trailing = trailing.map(|value| value.to_str().unwrap_or("\u{fffd}").trim().to_owned());
            if self.said.trailing && trailing.is_none() {
                return Err(error("MalformedTrailerError", "the promised trailer did not come"));
            }
            if let Some(trailing) = &trailing {
                well_formed(algorithm, trailing)?;
            }
            if self.said.value.into_iter().chain(trailing).any(|said| said != value) {
                let words = format!("the {} you specified did not match the calculated checksum", algorithm.name());
                return Err(error("BadDigest", words));
            }
            checksum = Some(Checksum { algorithm: algorithm.name().into(), value, composite: false });
        }
        Ok(Counted { etag: data_encoding::HEXLOWER.encode(&md5), checksum, bytes: self.bytes })
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    fn counted(lines: &[(&'static str, &'static str)], trailers: &[(&'static str, &'static str)]) -> Done<Counted> {
        let mut counting = Counting::new(Said::read(&headers(lines))?);
        counting.update(b"123");
        counting.update(b"456789");
        counting.finish(Some(&headers(trailers)))
    }

    fn code<T: std::fmt::Debug>(done: Done<T>) -> String {
        done.expect_err("it is refused").code().as_str().to_owned()
    }

    /// Of `123456789`, as the catalogue of checksums has them.
    const KNOWN: [(&str, &str); 5] = [
        ("x-amz-checksum-crc32", "y/Q5Jg=="),
        ("x-amz-checksum-crc32c", "4waSgw=="),
        ("x-amz-checksum-crc64nvme", "rosUhgp5mIg="),
        ("x-amz-checksum-sha1", "98O8HYCOBHMq32eZZczDTKeuNEE="),
        ("x-amz-checksum-sha256", "FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU="),
    ];

    #[test]
    fn what_is_said_before_the_body_or_behind_it_holds_or_is_refused() {
        for (name, value) in KNOWN {
            let before = counted(&[(name, value)], &[]).expect("it holds");
            assert_eq!(before.checksum.as_ref().map(|sum| sum.value.as_str()), Some(value));
            assert_eq!((before.bytes, before.etag.as_str()), (9, "25f9e794323b453885f5181f1b624d0b"));
            assert_eq!(counted(&[("x-amz-trailer", name)], &[(name, value)]).expect("it holds"), before);
            let wrong = sum_of_nothing(name);
            assert_eq!(code(counted(&[(name, wrong)], &[])), "BadDigest");
            assert_eq!(code(counted(&[("x-amz-trailer", name)], &[(name, wrong)])), "BadDigest");
            assert_eq!(code(counted(&[("x-amz-trailer", name)], &[(name, "x")])), "BadDigest");
            assert_eq!(code(counted(&[(name, "AAAA")], &[])), "BadDigest");
            assert_eq!(code(counted(&[("x-amz-trailer", name)], &[])), "MalformedTrailerError");
        }
    }

    fn sum_of_nothing(name: &str) -> &'static str {
        let algorithm = Algorithm::ALL.into_iter().find(|one| one.header() == name).expect("it is known");
        Box::leak(sum(algorithm, b"").into_boxed_str())
    }

    #[test]
    fn a_digest_is_sixteen_bytes_and_holds() {
        assert!(counted(&[("content-md5", "JfnnlDI7RTiF9RgfG2JNCw==")], &[]).is_ok());
        assert_eq!(code(counted(&[("content-md5", "rL0Y20xC+Fzt72VPzMSk2A==")], &[])), "BadDigest");
        for bad in ["", "YWJyYWNhZGFicmE=", "AWS HAHAHA"] {
            assert_eq!(code(counted(&[("content-md5", bad)], &[])), "InvalidDigest");
        }
    }

    #[test]
    fn two_checksums_at_once_are_refused() {
        assert_eq!(code(counted(&[KNOWN[0], KNOWN[1]], &[])), "InvalidRequest");
        assert_eq!(code(counted(&[KNOWN[0], ("x-amz-sdk-checksum-algorithm", "SHA1")], &[])), "InvalidRequest");
    }
}
