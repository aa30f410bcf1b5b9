//! Who asks, what for, and whether the access control list in one word lets them (pure).
//!
//! Whatever is asked of a bucket goes through [`super::Front::admit`], which asks here; nobody but the owner may do anything unless a list
//! says so.

use hirsel_model::access::May;

use crate::meta::kinds::{Bucket, Object, Permission};
use crate::rules::acl::Owned;

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

/// What a list may let somebody do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grant {
    /// Read the object.
    Read,
    /// List the bucket.
    List,
    /// Write to the bucket.
    Write,
    /// The owner's alone: of the object if there is one, else of the bucket.
    Own,
    /// The owner's of the bucket alone.
    OwnBucket,
}

fn grant(action: Action) -> Grant {
    use Action::*;
    match action {
        GetObject
        | GetObjectVersion
        | GetObjectAttributes
        | GetObjectVersionAttributes
        | GetObjectTagging
        | GetObjectVersionTagging => Grant::Read,
        ListBucket | ListBucketVersions | ListBucketMultipartUploads => Grant::List,
        PutObject | DeleteObject | DeleteObjectVersion | AbortMultipartUpload | ListMultipartUploadParts => {
            Grant::Write
        }
        GetObjectAcl
        | GetObjectVersionAcl
        | PutObjectAcl
        | PutObjectVersionAcl
        | PutObjectTagging
        | PutObjectVersionTagging
        | DeleteObjectTagging
        | DeleteObjectVersionTagging
        | GetObjectLegalHold
        | GetObjectRetention
        | PutObjectLegalHold
        | PutObjectRetention => Grant::Own,
        BypassGovernanceRetention
        | CreateBucket
        | DeleteBucket
        | DeleteBucketPolicy
        | DeleteBucketWebsite
        | GetBucketAcl
        | GetBucketCORS
        | GetBucketLocation
        | GetBucketNotification
        | GetBucketObjectLockConfiguration
        | GetBucketOwnershipControls
        | GetBucketPolicy
        | GetBucketPolicyStatus
        | GetBucketPublicAccessBlock
        | GetBucketTagging
        | GetBucketVersioning
        | GetBucketWebsite
        | GetEncryptionConfiguration
        | GetLifecycleConfiguration
        | ListAllMyBuckets
        | PutBucketAcl
        | PutBucketCORS
        | PutBucketNotification
        | PutBucketObjectLockConfiguration
        | PutBucketOwnershipControls
        | PutBucketPolicy
        | PutBucketPublicAccessBlock
        | PutBucketTagging
        | PutBucketVersioning
        | PutBucketWebsite
        | PutEncryptionConfiguration
        | PutLifecycleConfiguration => Grant::OwnBucket,
    }
}

/// To whom an object belongs.
pub fn owner_of<'a>(bucket: &'a Bucket, object: &'a Object) -> &'a str {
    object.about.owner.as_deref().unwrap_or(&bucket.owner)
}

fn list_of<'a>(bucket: &'a Bucket, object: &'a Object) -> Owned<'a> {
    Owned { acl: &object.about.acl, owner: owner_of(bucket, object), bucket_owner: &bucket.owner }
}

/// Whether the lists of a bucket, and of the object that is asked for if there is one, let somebody do this.
pub fn lists_allow(caller: &Caller, action: Action, bucket: &Bucket, object: Option<&Object>) -> bool {
    let (user, bucket_owner) = (caller.owner(), bucket.owner.as_str());
    let owns_bucket = caller.is(bucket_owner);
    let list = Owned { acl: &bucket.acl, owner: bucket_owner, bucket_owner };
    match (grant(action), object) {
        (Grant::Read, Some(object)) => {
            caller.is(owner_of(bucket, object)) || list_of(bucket, object).grants(user, Permission::Read, true)
        }
        // Whether a key is there is told to those who may list.
        (Grant::List, _) | (Grant::Read, None) => owns_bucket || list.grants(user, Permission::Read, true),
        (Grant::Write, _) => owns_bucket || list.grants(user, Permission::Write, true),
        (Grant::Own, Some(object)) => {
            caller.is(owner_of(bucket, object)) || list_of(bucket, object).grants(user, Permission::FullControl, true)
        }
        (Grant::Own, None) | (Grant::OwnBucket, _) => owns_bucket,
    }
}

#[cfg(test)]
mod tests {
    use hirsel_model::WallTime;

    use super::*;
    use crate::meta::kinds::{About, Acl, Body, Versioning};

    fn bucket(acl: Acl) -> Bucket {
        Bucket {
            id: 1,
            owner: "ann".into(),
            region: "here".into(),
            made: WallTime(0),
            versioning: Versioning::Off,
            lockable: false,
            lock: None,
            quota: Default::default(),
            acl,
            class: Default::default(),
            when_short: Default::default(),
        }
    }

    fn object(acl: Acl, owner: Option<&str>) -> Object {
        let about = About { acl, owner: owner.map(str::to_owned), ..About::default() };
        let body = Body::Inline(Vec::new());
        Object { bytes: 0, etag: "e".into(), body, about, checksum: None, lock: Default::default(), parts: 0 }
    }

    fn known(owner: &str) -> Caller {
        Caller::Known { key: "k".into(), owner: owner.into(), may: May::default() }
    }

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

    #[test]
    fn nobody_but_the_owner_may_do_anything_unless_a_list_says_so() {
        let (private, mine) = (bucket(Acl::Private), object(Acl::Private, None));
        for action in
            [Action::GetObject, Action::ListBucket, Action::PutObject, Action::PutObjectAcl, Action::DeleteBucket]
        {
            assert!(lists_allow(&known("ann"), action, &private, Some(&mine)), "{action:?}");
            for other in [Caller::Anonymous, known("bob")] {
                assert!(!lists_allow(&other, action, &private, Some(&mine)), "{action:?}");
            }
        }
    }

    #[test]
    fn a_list_in_one_word_says_who_reads_lists_and_writes() {
        let (anybody, bob) = (Caller::Anonymous, known("bob"));
        let private = bucket(Acl::Private);
        assert!(lists_allow(&anybody, Action::GetObject, &private, Some(&object(Acl::PublicRead, None))));
        assert!(!lists_allow(&anybody, Action::GetObject, &private, Some(&object(Acl::AuthenticatedRead, None))));
        assert!(lists_allow(&bob, Action::GetObject, &private, Some(&object(Acl::AuthenticatedRead, None))));
        assert!(lists_allow(&anybody, Action::ListBucket, &bucket(Acl::PublicRead), None));
        assert!(!lists_allow(&anybody, Action::PutObject, &bucket(Acl::PublicRead), None));
        assert!(lists_allow(&anybody, Action::PutObject, &bucket(Acl::PublicReadWrite), None));
        assert!(!lists_allow(&anybody, Action::PutBucketAcl, &bucket(Acl::PublicReadWrite), None));
    }

    #[test]
    fn what_another_wrote_is_the_others_until_he_shares_it_with_the_owner_of_the_bucket() {
        let (open, ann, bob) = (bucket(Acl::PublicReadWrite), known("ann"), known("bob"));
        let his = object(Acl::Private, Some("bob"));
        assert!(lists_allow(&bob, Action::GetObject, &open, Some(&his)));
        assert!(!lists_allow(&ann, Action::GetObject, &open, Some(&his)));
        assert!(!lists_allow(&ann, Action::GetObjectAcl, &open, Some(&his)));
        assert!(lists_allow(&ann, Action::GetObject, &open, Some(&object(Acl::BucketOwnerRead, Some("bob")))));
        assert!(lists_allow(
            &ann,
            Action::GetObjectAcl,
            &open,
            Some(&object(Acl::BucketOwnerFullControl, Some("bob")))
        ));
    }
}
