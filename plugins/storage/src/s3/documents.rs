//! Documents of buckets: taken as XML, looked at, kept, and given back as they were understood.

use s3s::xml::{Deserialize, Deserializer, Serialize, Serializer};

use super::access::Action;
use super::error::{Done, error, strange};
use super::front::{Asked, Front};
use crate::meta::command::{BucketChange, Command};
use crate::meta::kinds::{Bucket, DocumentKind};
use crate::meta::names::BucketName;
use crate::meta::query::{Query, Reply};

/// A document as it is kept.
///
/// # Errors
/// Never: what was read can be written.
pub fn write<T: Serialize>(document: &T) -> Done<String> {
    let mut bytes = Vec::new();
    document.serialize(&mut Serializer::new(&mut bytes)).map_err(|_| strange())?;
    String::from_utf8(bytes).map_err(|_| strange())
}

/// A document that was kept.
///
/// # Errors
/// When it is not one that was written here.
pub fn read<T: for<'xml> Deserialize<'xml>>(text: &str) -> Done<T> {
    let mut from = Deserializer::new(text.as_bytes());
    T::deserialize(&mut from).map_err(|_| error("InternalError", "a document of the bucket cannot be read"))
}

impl Front {
    /// A document of a bucket, for whoever may do this to it.
    pub(crate) async fn document<T: for<'xml> Deserialize<'xml>>(
        &self,
        asked: &Asked,
        action: Action,
        bucket: &str,
        kind: DocumentKind,
    ) -> Done<Option<T>> {
        let (name, _) = self.bucket(asked, action, bucket).await?;
        let Reply::Document(text) = self.look(Query::Document(name, kind)).await? else { return Err(strange()) };
        text.map(|text| read(&text)).transpose()
    }

    /// Keeps a document, or removes it.
    pub(crate) async fn keep(&self, name: BucketName, kind: DocumentKind, text: Option<String>) -> Done<()> {
        self.ask(Command::SetBucket { name, change: BucketChange::Document(kind, text) }).await.map(drop)
    }

    /// Removes a document, for whoever may do this to a bucket.
    pub(crate) async fn remove(&self, asked: &Asked, action: Action, bucket: &str, kind: DocumentKind) -> Done<Bucket> {
        let (name, there) = self.bucket(asked, action, bucket).await?;
        self.keep(name, kind, None).await?;
        Ok(there)
    }
}
