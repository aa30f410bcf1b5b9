//! Who asks, and what for.
//!
//! Whatever is asked of a bucket goes through [`super::Front::admit`], which asks [`crate::rules::access`].

use hirsel_model::access::May;

use crate::meta::kinds::{Bucket, Object};

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Nobody who has signed.
    Anonymous,
    /// Whoever has this access key.
    Known {
        /// The id of the access key.
        key: String,
        /// To whom what is made belongs.
        owner: String,
        /// What the key may do at most, whatever lists and policies say.
        may: May,
    },
}

impl Caller {
    /// To whom what is made belongs; nobody's is the bucket's owner's.
    pub fn owner(&self) -> Option<&str> {
        match self {
            Caller::Anonymous => None,
            Caller::Known { owner, .. } => Some(owner),
        }
    }

    /// Whether the access key lets its holder do this in a bucket, at most. Whoever has none is let in by others.
    pub fn key_allows(&self, action: Action, bucket: &str) -> bool {
        let Caller::Known { may, .. } = self else { return true };
        match action {
            Action::CreateBucket | Action::DeleteBucket => may.make(bucket),
            action if action.name().starts_with("Get") || action.name().starts_with("List") => may.read(bucket),
            _ => may.write(bucket),
        }
    }

    /// Whether this is it.
    pub fn is(&self, owner: &str) -> bool {
        self.owner() == Some(owner)
    }
}

macro_rules! actions {
    ($($name:ident),* $(,)?) => {
        /// What is asked for, as policies call it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum Action { $($name),* }

        impl Action {
            /// As policies call it, without `s3:`.
            pub fn name(self) -> &'static str {
                match self { $(Action::$name => stringify!($name)),* }
            }
        }
    };
}

actions!(
    AbortMultipartUpload,
    BypassGovernanceRetention,
    CreateBucket,
    DeleteBucket,
    DeleteBucketPolicy,
    DeleteBucketWebsite,
    DeleteObject,
    DeleteObjectTagging,
    DeleteObjectVersion,
    DeleteObjectVersionTagging,
    GetBucketAcl,
    GetBucketCORS,
    GetBucketLocation,
    GetBucketNotification,
    GetBucketObjectLockConfiguration,
    GetBucketOwnershipControls,
    GetBucketPolicy,
    GetBucketPolicyStatus,
    GetBucketPublicAccessBlock,
    GetBucketTagging,
    GetBucketVersioning,
    GetBucketWebsite,
    GetEncryptionConfiguration,
    GetLifecycleConfiguration,
    GetObject,
    GetObjectAcl,
    GetObjectAttributes,
    GetObjectLegalHold,
    GetObjectRetention,
    GetObjectTagging,
    GetObjectVersion,
    GetObjectVersionAcl,
    GetObjectVersionAttributes,
    GetObjectVersionTagging,
    ListAllMyBuckets,
    ListBucket,
    ListBucketMultipartUploads,
    ListBucketVersions,
    ListMultipartUploadParts,
    PutBucketAcl,
    PutBucketCORS,
    PutBucketNotification,
    PutBucketObjectLockConfiguration,
    PutBucketOwnershipControls,
    PutBucketPolicy,
    PutBucketPublicAccessBlock,
    PutBucketTagging,
    PutBucketVersioning,
    PutBucketWebsite,
    PutEncryptionConfiguration,
    PutLifecycleConfiguration,
    PutObject,
    PutObjectAcl,
    PutObjectLegalHold,
    PutObjectRetention,
    PutObjectTagging,
    PutObjectVersionAcl,
    PutObjectVersionTagging,
);

/// To whom an object belongs.
pub fn owner_of<'a>(bucket: &'a Bucket, object: &'a Object) -> &'a str {
    object.about.owner.as_deref().unwrap_or(&bucket.owner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_narrows_what_its_account_may() {
        let may = |buckets: &str, reads_only, makes_buckets| {
            let buckets = [buckets.parse().expect("a pattern")].into();
            Caller::Known { key: "k".into(), owner: "ann".into(), may: May { buckets, reads_only, makes_buckets } }
        };
        let reader = may("log*", true, true);
        assert!(reader.key_allows(Action::GetObject, "logs") && reader.key_allows(Action::ListBucket, "log"));
        assert!(!reader.key_allows(Action::GetObject, "data") && !reader.key_allows(Action::PutObject, "logs"));
        assert!(!reader.key_allows(Action::CreateBucket, "logs"));
        let writer = may("data", false, false);
        assert!(writer.key_allows(Action::DeleteObject, "data") && !writer.key_allows(Action::DeleteBucket, "data"));
        assert!(Caller::Anonymous.key_allows(Action::PutObject, "data"));
    }
}
