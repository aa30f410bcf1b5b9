//! What an object says of how it opens: kept with it, and worth nothing without the key that it names.

use hirsel_model::codec;
use ring::aead::Aad;
use serde::{Deserialize, Serialize};

use super::{DataKey, SealError, cipher, derive};

/// How an object opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Header {
    /// With the key of a customer, which must come with each request (SSE-C).
    Customer {
        /// Drawn for this object.
        #[serde(with = "serde_bytes")]
        salt: [u8; 32],
        /// Follows from the key, and says whether it is the one: 16 bytes.
        #[serde(with = "serde_bytes")]
        check: [u8; 16],
    },
    /// With a master key of the cluster (SSE-S3, SSE-KMS).
    Master {
        /// Which version of it.
        version: u64,
        /// The data key, wrapped: nonce, bytes, tag.
        #[serde(with = "serde_bytes")]
        wrapped: Vec<u8>,
        /// The name of the key that clients asked for (SSE-KMS). Each has a master key of its own, which follows from the cluster's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
}

impl Header {
    /// Of an object for the key of a customer, and the key that seals it. The salt must be drawn for this object.
    pub fn customer(key: &[u8; 32], salt: [u8; 32]) -> (Self, DataKey) {
        (Header::Customer { salt, check: check(key, &salt) }, DataKey(derive(key, &salt, &[b"hirsel object"])))
    }

    /// Of an object for a master key, with the data key wrapped. Key and nonce must be drawn for this object.
    ///
    /// # Errors
    /// Never, as long as the cipher takes keys of 32 bytes.
    pub fn master(
        master: (u64, &[u8; 32]),
        name: Option<&str>,
        key: &DataKey,
        nonce: [u8; 12],
    ) -> Result<Self, SealError> {
        let (version, master) = master;
        let mut bytes = key.0.to_vec();
        let drawn = ring::aead::Nonce::assume_unique_for_key(nonce);
        let tag = wrapping(master, name)
            .and_then(|cipher| {
                cipher.seal_in_place_separate_tag(drawn, Aad::from(version.to_be_bytes()), &mut bytes).ok()
            })
            .ok_or(SealError::Key)?;
        let wrapped = [&nonce[..], &bytes, tag.as_ref()].concat();
        Ok(Header::Master { version, wrapped, name: name.map(str::to_owned) })
    }

    /// The data key, for whoever brings the customer's key.
    ///
    /// # Errors
    /// When it is another one, or the object is not the customer's.
    pub fn open_with_customer(&self, key: &[u8; 32]) -> Result<DataKey, SealError> {
        match self {
            Header::Customer { salt, check: expected } if check(key, salt) == *expected => {
                Ok(DataKey(derive(key, salt, &[b"hirsel object"])))
            }
            Header::Customer { .. } | Header::Master { .. } => Err(SealError::Key),
        }
    }

    /// The data key, for whoever has the master key of this version.
    ///
    /// # Errors
    /// When it is another one, or the object is a customer's.
    pub fn open_with_master(&self, master: &[u8; 32]) -> Result<DataKey, SealError> {
        let Header::Master { version, wrapped, name } = self else { return Err(SealError::Key) };
        let (nonce, rest) = wrapped.split_first_chunk::<12>().ok_or(SealError::Header)?;
        let mut rest = rest.to_vec();
        let nonce = ring::aead::Nonce::assume_unique_for_key(*nonce);
        let opened = wrapping(master, name.as_deref())
            .and_then(|cipher| {
                cipher.open_in_place(nonce, Aad::from(version.to_be_bytes()), &mut rest).ok().map(|it| it.to_vec())
            })
            .ok_or(SealError::Key)?;
        opened.try_into().map(DataKey).map_err(|_| SealError::Header)
    }

    /// As it is kept.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn decode(bytes: &[u8]) -> Result<Self, SealError> {
        codec::decode(bytes).map_err(|_| SealError::Header)
    }
}

/// Says whether a key is the one, and nothing else of it.
fn check(key: &[u8; 32], salt: &[u8; 32]) -> [u8; 16] {
    let whole = derive(key, salt, &[b"hirsel check"]);
    let mut check = [0; 16];
    check.copy_from_slice(&whole[..16]);
    check
}

fn wrapping(master: &[u8; 32], name: Option<&str>) -> Option<ring::aead::LessSafeKey> {
    let what: [&[u8]; 2] = match name {
        None => [b"hirsel wrap", b""],
        Some(name) => [b"hirsel wrap for ", name.as_bytes()],
    };
    cipher(&derive(master, b"", &what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_customers_object_opens_with_his_key_alone() {
        let (header, key) = Header::customer(&[1; 32], [2; 32]);
        let header = Header::decode(&header.encode()).expect("it was encoded");
        assert_eq!(header.open_with_customer(&[1; 32]), Ok(key.clone()));
        assert_eq!(header.open_with_customer(&[3; 32]), Err(SealError::Key));
        assert_eq!(header.open_with_master(&[1; 32]), Err(SealError::Key));
        assert_ne!(Header::customer(&[1; 32], [3; 32]).1, key, "each object has a key of its own");
    }

    #[test]
    fn a_data_key_comes_out_of_its_wrap_with_the_master_key_and_name_alone() {
        let key = DataKey([5; 32]);
        for name in [None, Some("k1")] {
            let header = Header::master((3, &[1; 32]), name, &key, [4; 12]).expect("a header");
            let header = Header::decode(&header.encode()).expect("it was encoded");
            assert_eq!(header.open_with_master(&[1; 32]), Ok(key.clone()));
            assert_eq!(header.open_with_master(&[2; 32]), Err(SealError::Key));
            assert_eq!(header.open_with_customer(&[1; 32]), Err(SealError::Key));
            let Header::Master { version, wrapped, name } = header else { panic!("it is a master's") };
            for changed in [
                Header::Master { version: version + 1, wrapped: wrapped.clone(), name: name.clone() },
                Header::Master { version, wrapped: wrapped.clone(), name: Some("k2".into()) },
                Header::Master { version, wrapped: wrapped[..59].to_vec(), name: name.clone() },
            ] {
                assert_eq!(changed.open_with_master(&[1; 32]), Err(SealError::Key), "{changed:?}");
            }
            let short = Header::Master { version, wrapped: vec![0; 11], name };
            assert_eq!(short.open_with_master(&[1; 32]), Err(SealError::Header));
        }
        assert_eq!(Header::decode(b"x"), Err(SealError::Header));
    }
}
