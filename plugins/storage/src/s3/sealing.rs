//! Server-side encryption as clients ask for it: with a key of theirs (SSE-C), with the cluster's (SSE-S3), or with one of the cluster's
//! that has a name (SSE-KMS). What is done with the bytes is [`crate::rules::seal`].
//!
//! A named key needs no making: it follows from the cluster's master key and the name. Whoever may read an object may have it opened;
//! there are no rights to keys apart from that.

use std::collections::VecDeque;

use bytes::Bytes;
use data_encoding::BASE64;
use http::HeaderMap;
use s3s::dto::{ServerSideEncryptionByDefault, ServerSideEncryptionConfiguration};
use serde_bytes::ByteBuf;

use super::about::header;
use super::documents::read;
use super::error::{Done, argument, error, strange};
use super::front::{Asked, Front};
use super::hash::md5;
use crate::gateway;
use crate::meta::kinds::{About, Object};
use crate::meta::names::BucketName;
use crate::meta::query::{Query, Reply};
use crate::rules::seal::header::Header;
use crate::rules::seal::range::{Stretch, stretches};
use crate::rules::seal::{DataKey, Opening, SealError, plain_bytes, sealed_bytes};

const PREFIX: &str = "x-amz-server-side-encryption";
const SOURCE: &str = "x-amz-copy-source-server-side-encryption";
/// Longest name of a key (KMS).
const NAME_MAX: usize = 2_048;

/// How an object is to be sealed.
#[derive(Clone, PartialEq, Eq)]
pub enum Wanted {
    /// With the key of a customer.
    Customer([u8; 32]),
    /// With the cluster's.
    Cluster,
    /// With the cluster's of this name.
    Named(String),
}

impl Wanted {
    /// What the headers of a request ask for.
    ///
    /// # Errors
    /// When they do not go together, or ask for what there is not.
    pub fn read(headers: &HeaderMap) -> Done<Option<Self>> {
        let customer = customer(headers, PREFIX)?;
        let name = header(headers, "x-amz-server-side-encryption-aws-kms-key-id");
        let word = header(headers, PREFIX);
        if customer.is_some() && (word.is_some() || name.is_some()) {
            return Err(argument(
                "server side encryption with a customer's key and with the service's were both asked for",
            ));
        }
        match (customer, word.as_deref(), name) {
            (Some(key), ..) => Ok(Some(Wanted::Customer(key))),
            (None, None, None) => Ok(None),
            (None, word, name) => Self::words(word.unwrap_or_default(), name).map(Some),
        }
    }

    /// What a bucket says of objects that do not say it themselves.
    ///
    /// # Errors
    /// When it asks for what there is not.
    pub fn default_of(said: &ServerSideEncryptionByDefault) -> Done<Self> {
        Self::words(said.sse_algorithm.as_str(), said.kms_master_key_id.clone())
    }

    fn words(word: &str, name: Option<String>) -> Done<Self> {
        match (word, name) {
            ("AES256", None) => Ok(Wanted::Cluster),
            ("aws:kms", Some(name)) if (1..=NAME_MAX).contains(&name.len()) => Ok(Wanted::Named(name)),
            ("aws:kms", _) => Err(argument("aws:kms goes with the name of a key")),
            (_, Some(_)) => Err(argument("the name of a key goes with aws:kms")),
            (word, None) => Err(argument(format!("server side encryption {word:.40?}: AES256 or aws:kms"))),
        }
    }

    /// How it is answered.
    pub fn answer(&self, headers: &mut HeaderMap, asked: &HeaderMap) {
        let mut put = |name: &'static str, value: &str| {
            if let Ok(value) = value.parse() {
                headers.insert(name, value);
            }
        };
        match self {
            Wanted::Customer(key) => {
                put("x-amz-server-side-encryption-customer-algorithm", "AES256");
                let digest = header(asked, "x-amz-server-side-encryption-customer-key-md5");
                put(
                    "x-amz-server-side-encryption-customer-key-md5",
                    &digest.unwrap_or_else(|| BASE64.encode(&md5(key))),
                );
            }
            Wanted::Cluster => put(PREFIX, "AES256"),
            Wanted::Named(name) => {
                put(PREFIX, "aws:kms");
                put("x-amz-server-side-encryption-aws-kms-key-id", name);
            }
        }
    }
}

/// The key of a customer that comes with a request.
fn customer(headers: &HeaderMap, prefix: &str) -> Done<Option<[u8; 32]>> {
    let said = ["algorithm", "key", "key-md5"].map(|rest| header(headers, &format!("{prefix}-customer-{rest}")));
    match said {
        [None, None, None] => Ok(None),
        [Some(algorithm), Some(key), Some(digest)] => {
            if algorithm != "AES256" {
                return Err(error(
                    "InvalidEncryptionAlgorithmError",
                    "the encryption algorithm of a customer's key is AES256",
                ));
            }
            let bytes = BASE64.decode(key.as_bytes()).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
            let key = bytes.ok_or_else(|| argument("the secret key was invalid for the specified algorithm"))?;
            if BASE64.encode(&md5(&key)) != digest {
                return Err(argument("the calculated MD5 hash of the key did not match the hash that was provided"));
            }
            Ok(Some(key))
        }
        _ => Err(argument("a customer's key comes with its algorithm and its MD5")),
    }
}

/// What seals an object, and what is kept of it.
pub struct Sealed {
    /// What was asked for.
    pub wanted: Wanted,
    /// For [`crate::meta::kinds::About::sealed`].
    pub header: ByteBuf,
    /// What seals its bytes.
    pub key: DataKey,
}

/// What a client is told when the cipher fails.
pub fn broken(_: SealError) -> s3s::S3Error {
    error("InternalError", "the object cannot be sealed or opened")
}

impl Front {
    /// How the object is sealed that a request makes in a bucket: as it says, or as the bucket does.
    pub(crate) async fn sealing(&self, asked: &Asked, bucket: &BucketName) -> Done<Option<Sealed>> {
        let wanted = match Wanted::read(&asked.headers)? {
            Some(wanted) => Some(wanted),
            None => self.default_sealing(asked, bucket).await?,
        };
        wanted.map(|wanted| self.sealed(wanted)).transpose()
    }

    async fn default_sealing(&self, asked: &Asked, bucket: &BucketName) -> Done<Option<Wanted>> {
        let told = self.rules(asked, bucket).await?;
        let said: Option<ServerSideEncryptionConfiguration> = told.encryption.as_deref().map(read).transpose()?;
        let rule = said.as_ref().and_then(|said| said.rules.first());
        rule.and_then(|rule| rule.apply_server_side_encryption_by_default.as_ref()).map(Wanted::default_of).transpose()
    }

    fn sealed(&self, wanted: Wanted) -> Done<Sealed> {
        let (header, key) = match &wanted {
            Wanted::Customer(key) => Header::customer(key, self.drawn()),
            Wanted::Cluster | Wanted::Named(_) => {
                let name = if let Wanted::Named(name) = &wanted { Some(name.as_str()) } else { None };
                let words = "the cluster has no key to encrypt with yet";
                let (version, master) = self.keys.encrypts().ok_or_else(|| error("ServiceUnavailable", words))?;
                let key = DataKey(self.drawn());
                let mut nonce = [0; 12];
                nonce.copy_from_slice(&self.drawn()[..12]);
                (Header::master((version, &master), name, &key, nonce).map_err(broken)?, key)
            }
        };
        Ok(Sealed { wanted, header: ByteBuf::from(header.encode()), key })
    }

    /// Bytes that were drawn for this alone.
    pub(crate) fn drawn(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        self.gateway.chance().fill(&mut bytes);
        bytes
    }

    /// What opens a body, for whoever asks; none if it is not sealed. `source` is whether it is the source of a copy.
    pub(crate) fn opens(
        &self,
        sealed: Option<&ByteBuf>,
        headers: &HeaderMap,
        source: bool,
    ) -> Done<Option<(DataKey, Wanted)>> {
        let brought = customer(headers, if source { SOURCE } else { PREFIX })?;
        let Some(sealed) = sealed else {
            return match brought {
                Some(_) => Err(error("InvalidRequest", "the encryption parameters are not applicable to this object")),
                None => Ok(None),
            };
        };
        let said = Header::decode(sealed).map_err(broken)?;
        let opened = match (&said, brought) {
            (Header::Customer { .. }, None) => {
                let words = "the object was stored using a form of server side encryption: the correct parameters must be provided to retrieve it";
                return Err(error("InvalidRequest", words));
            }
            (Header::Customer { .. }, Some(key)) => {
                let wrong = |_| argument("the provided key is not the one that the object was stored with");
                (said.open_with_customer(&key).map_err(wrong)?, Wanted::Customer(key))
            }
            (Header::Master { .. }, Some(_)) => {
                return Err(error("InvalidRequest", "the encryption parameters are not applicable to this object"));
            }
            (Header::Master { version, name, .. }, None) => {
                let words = "the key that the object was encrypted with has not come to this node yet";
                let master = self.keys.master(*version).ok_or_else(|| error("ServiceUnavailable", words))?;
                let key = said.open_with_master(&master).map_err(broken)?;
                (key, name.clone().map_or(Wanted::Cluster, Wanted::Named))
            }
        };
        Ok(Some(opened))
    }

    /// The bytes `from..to` of an object, open.
    pub(crate) async fn outgoing(
        &self,
        object: &Object,
        pieces: Vec<crate::meta::read::Piece>,
        (from, to): (u64, u64),
        key: Option<DataKey>,
    ) -> Done<Outgoing> {
        let Some(key) = key else { return Ok(Outgoing::Plain(self.gateway.read(object, pieces, from, to))) };
        let streams = self.streams(object).await?;
        let mut stored = object.clone();
        stored.bytes = streams.iter().map(|(_, plain)| sealed_bytes(*plain)).sum();
        let rest = stretches(&streams, from..to).into();
        Ok(Outgoing::Sealed(Box::new(Opened { front: self.clone(), stored, key, rest, now: None })))
    }

    /// The streams of a sealed object, with how long their bodies are.
    async fn streams(&self, object: &Object) -> Done<Vec<(u16, u64)>> {
        if object.parts == 0 {
            return Ok(vec![(0, object.bytes)]);
        }
        let Reply::PartsOf(parts) = self.look(Query::PartsOf { body: object.body.clone() }).await? else {
            return Err(strange());
        };
        let plain = |bytes| plain_bytes(bytes).ok_or_else(strange);
        parts.iter().map(|part| Ok((part.number, plain(part.bytes)?))).collect()
    }
}

/// A body on its way out, open.
pub enum Outgoing {
    /// It never was sealed.
    Plain(gateway::Body),
    /// It is opened on the way.
    Sealed(Box<Opened>),
}

impl Outgoing {
    /// The next bytes; none at the end.
    ///
    /// # Errors
    /// In words, when they cannot be read or do not open: then the body ends before its end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, String> {
        match self {
            Outgoing::Plain(body) => body.next().await,
            Outgoing::Sealed(opened) => opened.next().await,
        }
    }
}

/// A sealed body, opened stretch by stretch.
pub struct Opened {
    front: Front,
    stored: Object,
    key: DataKey,
    rest: VecDeque<Stretch>,
    now: Option<Now>,
}

/// The stretch that is being opened.
struct Now {
    body: gateway::Body,
    opening: Opening,
    skip: u64,
    take: u64,
}

impl Opened {
    async fn next(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            if self.now.is_none() {
                let Some(stretch) = self.rest.pop_front() else { return Ok(None) };
                self.now = Some(self.begin(stretch).await?);
            }
            let Some(now) = &mut self.now else { return Ok(None) };
            let Some(piece) = now.body.next().await? else {
                if now.take > 0 {
                    return Err(SealError::Short.to_string());
                }
                self.now = None;
                continue;
            };
            let open = now.opening.push(&piece).map_err(|why| why.to_string())?;
            let skipped = now.skip.min(open.len() as u64);
            now.skip -= skipped;
            let taken = now.take.min(open.len() as u64 - skipped);
            now.take -= taken;
            if taken > 0 {
                return Ok(Some(Bytes::from(open).slice(skipped as usize..(skipped + taken) as usize)));
            }
        }
    }

    async fn begin(&mut self, stretch: Stretch) -> Result<Now, String> {
        let (gateway, stored) = (self.front.gateway.clone(), self.stored.clone());
        let read = |range: &std::ops::Range<u64>| gateway.read(&stored, Vec::new(), range.start, range.end);
        let (mut salt, mut body) = (Vec::new(), read(&stretch.salt));
        while let Some(piece) = body.next().await? {
            salt.extend_from_slice(&piece);
        }
        let salt = <[u8; 32]>::try_from(salt).map_err(|_| SealError::Short.to_string())?;
        let opening = Opening::new(&self.key, stretch.part, salt, stretch.plain, stretch.first);
        let opening = opening.map_err(|why| why.to_string())?;
        Ok(Now { body: read(&stretch.sealed), opening, skip: stretch.skip, take: stretch.take })
    }
}

/// How long a part is for clients, which lies on disks with so many bytes.
///
/// # Errors
/// When no stream is so long, which none of ours is.
pub fn open_bytes(about: &About, bytes: u64) -> Done<u64> {
    match about.sealed {
        None => Ok(bytes),
        Some(_) => plain_bytes(bytes).ok_or_else(strange),
    }
}
