//! The one decision for every operation: whether somebody may do something to a bucket or an object.
//!
//! In this order: a policy that denies; the owner; a policy that allows; an access control list that grants; no. Two things are stronger
//! than a denial, so that nobody locks himself out: the owner of a bucket always reads, changes and removes its policy. What a bucket
//! blocks ([`Block`]) takes from what policies and lists open to everybody.
//!
//! What an *access key* may do (a bucket, or reading alone) is not asked here: it narrows all this, and is looked at before.

use super::acl::{self, Owned, Ownership};
use super::policy::{Ask, Context, Policy, Verdict, Who};
use crate::meta::kinds::{Acl, Permission};

/// What a bucket blocks (S3's public access block).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// New lists that open something to everybody are refused.
    pub new_public_lists: bool,
    /// Lists do not open anything to everybody.
    pub public_lists: bool,
    /// New policies that open something to everybody are refused.
    pub new_public_policies: bool,
    /// A policy that opens something to everybody opens it to the owner alone.
    pub public_policies: bool,
}

/// What a bucket says about access.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    /// Its policy.
    pub policy: Option<Policy>,
    /// What it blocks.
    pub block: Block,
    /// Who owns what others put.
    pub ownership: Ownership,
}

/// What is asked about.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Who asks.
    pub who: Who<'a>,
    /// What for, as policies call it, without `s3:`.
    pub action: &'a str,
    /// The name of the bucket.
    pub bucket: &'a str,
    /// Its list and owner.
    pub list: Owned<'a>,
    /// The key, of an operation on an object.
    pub key: Option<&'a str>,
    /// The list and owner of the object; none if it is not there, or not asked about.
    pub object: Option<Owned<'a>>,
    /// What is known besides.
    pub context: &'a Context,
}

/// Why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// A policy says so.
    #[error("a policy of the bucket denies it")]
    Policy,
    /// Nothing says that it may.
    #[error("nothing allows it")]
    Nothing,
}

/// What an action takes where no policy says anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    /// A grant on the bucket.
    Bucket(Permission),
    /// A grant on the object; where it is not there, to list the bucket: whoever may not list is not told what is not there.
    Object(Permission),
    /// To own the object, or to be granted all of it.
    Object100,
    /// To own the bucket.
    Owner,
}

fn needs(action: &str) -> Needs {
    match action {
        "ListBucket" | "ListBucketVersions" | "ListBucketMultipartUploads" => Needs::Bucket(Permission::Read),
        "PutObject" | "DeleteObject" | "DeleteObjectVersion" | "AbortMultipartUpload" | "ListMultipartUploadParts" => {
            Needs::Bucket(Permission::Write)
        }
        "GetBucketAcl" => Needs::Bucket(Permission::ReadAcp),
        "PutBucketAcl" => Needs::Bucket(Permission::WriteAcp),
        "GetObject" | "GetObjectVersion" | "GetObjectAttributes" | "GetObjectVersionAttributes" => {
            Needs::Object(Permission::Read)
        }
        "GetObjectAcl" | "GetObjectVersionAcl" => Needs::Object(Permission::ReadAcp),
        "PutObjectAcl" | "PutObjectVersionAcl" => Needs::Object(Permission::WriteAcp),
        "GetObjectTagging"
        | "GetObjectVersionTagging"
        | "PutObjectTagging"
        | "PutObjectVersionTagging"
        | "DeleteObjectTagging"
        | "DeleteObjectVersionTagging"
        | "GetObjectRetention"
        | "PutObjectRetention"
        | "GetObjectLegalHold"
        | "PutObjectLegalHold" => Needs::Object100,
        // All of the bucket itself, and whatever comes to be asked for later.
        _ => Needs::Owner,
    }
}

/// Actions that the owner of a bucket may always do.
const NEVER_LOCKED_OUT: [&str; 3] = ["GetBucketPolicy", "PutBucketPolicy", "DeleteBucketPolicy"];

/// Whether it may be done.
///
/// # Errors
/// Why not.
pub fn decide(rules: &Rules, facts: &Facts<'_>) -> Result<(), Denied> {
    let user = match facts.who {
        Who::User(name) => Some(name),
        Who::Anonymous | Who::Service(_) => None,
    };
    let owns_bucket = user == Some(facts.list.owner);
    let verdict = ask(rules, facts, facts.action, facts.key, facts.context);
    if owns_bucket && NEVER_LOCKED_OUT.contains(&facts.action) {
        return Ok(());
    }
    if verdict == Verdict::Denied {
        return Err(Denied::Policy);
    }
    let closed = rules.block.public_policies && rules.policy.as_ref().is_some_and(Policy::is_public);
    if verdict == Verdict::Allowed && (!closed || owns_bucket) {
        return Ok(());
    }
    let granted = |list: &Owned<'_>, may| match rules.ownership {
        Ownership::Enforced => false,
        Ownership::Writer | Ownership::Preferred => list.grants(user, may, !rules.block.public_lists),
    };
    let may = match (needs(facts.action), &facts.object) {
        (Needs::Owner, _) => owns_bucket,
        (Needs::Bucket(may), _) => owns_bucket || granted(&facts.list, may),
        (Needs::Object(may), Some(object)) => owns(rules, object, user) || granted(object, may),
        (Needs::Object100, Some(object)) => owns(rules, object, user) || granted(object, Permission::FullControl),
        (Needs::Object(_) | Needs::Object100, None) => owns_bucket || lists(rules, facts, granted, closed),
    };
    if may { Ok(()) } else { Err(Denied::Nothing) }
}

fn owns(rules: &Rules, object: &Owned<'_>, user: Option<&str>) -> bool {
    match rules.ownership {
        Ownership::Enforced => user == Some(object.bucket_owner),
        Ownership::Writer | Ownership::Preferred => user == Some(object.owner),
    }
}

/// Whether somebody may list what begins with a key.
fn lists(rules: &Rules, facts: &Facts<'_>, granted: impl Fn(&Owned<'_>, Permission) -> bool, closed: bool) -> bool {
    let mut context = facts.context.clone();
    context.add_some("s3:prefix", facts.key);
    match ask(rules, facts, "ListBucket", None, &context) {
        Verdict::Denied => false,
        Verdict::Allowed if !closed => true,
        Verdict::Allowed | Verdict::Silent => granted(&facts.list, Permission::Read),
    }
}

fn ask(rules: &Rules, facts: &Facts<'_>, action: &str, key: Option<&str>, context: &Context) -> Verdict {
    let Some(policy) = &rules.policy else { return Verdict::Silent };
    let resource = match key {
        Some(key) => format!("{}/{key}", facts.bucket),
        None => facts.bucket.to_owned(),
    };
    policy.verdict(&Ask { who: facts.who, action: &format!("s3:{action}"), resource: &resource, context })
}

/// Why a list or a policy is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Untaken {
    /// The bucket has no lists.
    #[error("the bucket does not allow access control lists: its owner owns everything")]
    NoLists,
    /// It would open something to everybody.
    #[error("the bucket blocks what opens it to everybody")]
    Blocked,
    /// Something is open to others, and would not be any more.
    #[error("the list of the bucket grants something to others: make it private first")]
    Open,
}

impl Untaken {
    /// S3's name for it.
    pub fn code(&self) -> &'static str {
        match self {
            Untaken::NoLists => "AccessControlListNotSupported",
            Untaken::Blocked => "AccessDenied",
            Untaken::Open => "InvalidBucketAclWithObjectOwnership",
        }
    }
}

impl Rules {
    /// Whether a list may be put, for a bucket or an object; none if the request brings none. Where lists do not count, the only one
    /// that is taken is the one that says so (`bucket-owner-full-control`).
    ///
    /// # Errors
    /// Why not.
    pub fn takes_list(&self, acl: Option<&Acl>) -> Result<(), Untaken> {
        let Some(acl) = acl else { return Ok(()) };
        if self.ownership == Ownership::Enforced && *acl != Acl::BucketOwnerFullControl {
            return Err(Untaken::NoLists);
        }
        if self.block.new_public_lists && acl::is_public(acl) {
            return Err(Untaken::Blocked);
        }
        Ok(())
    }

    /// Whether a policy may be put.
    ///
    /// # Errors
    /// Why not.
    pub fn takes_policy(&self, policy: &Policy) -> Result<(), Untaken> {
        match self.block.new_public_policies && policy.is_public() {
            true => Err(Untaken::Blocked),
            false => Ok(()),
        }
    }

    /// Whether a bucket with this list may have another ownership.
    ///
    /// # Errors
    /// Why not.
    pub fn takes_ownership(&self, list: Owned<'_>, ownership: Ownership) -> Result<(), Untaken> {
        let others =
            |grant: &crate::meta::kinds::Grant| grant.to != crate::meta::kinds::Grantee::User(list.owner.to_owned());
        let open = acl::grants(list.acl, list.owner, list.bucket_owner).iter().any(others);
        if ownership == Ownership::Enforced && open { Err(Untaken::Open) } else { Ok(()) }
    }

    /// Whether everybody may do something in the bucket, by its policy or list (`GetBucketPolicyStatus`).
    pub fn is_public(&self, list: &Acl) -> bool {
        let by_list = acl::is_public(list) && !self.block.public_lists && self.ownership != Ownership::Enforced;
        let by_policy = self.policy.as_ref().is_some_and(Policy::is_public) && !self.block.public_policies;
        by_list || by_policy
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::kinds::{Grant, Grantee};

    /// A bucket of Ann's, and an object in it.
    struct Town {
        rules: Rules,
        list: Acl,
        object: Option<(Acl, &'static str)>,
        context: Context,
    }

    impl Town {
        fn new(list: Acl, object: Acl) -> Self {
            Self { rules: Rules::default(), list, object: Some((object, "ann")), context: Context::default() }
        }

        fn with_policy(mut self, effect: &str, action: &str, resource: &str) -> Self {
            let text = format!(
                r#"{{"Statement":[{{"Effect":"{effect}","Principal":"*","Action":"s3:{action}","Resource":"arn:aws:s3:::{resource}"}}]}}"#
            );
            self.rules.policy = Some(Policy::parse("pics", &text).expect("a policy"));
            self
        }

        fn ask(&self, who: Who<'_>, action: &str) -> Result<(), Denied> {
            let owned = |acl, owner| Owned { acl, owner, bucket_owner: "ann" };
            let facts = Facts {
                who,
                action,
                bucket: "pics",
                list: owned(&self.list, "ann"),
                key: (action.contains("Object") || action.contains("Parts")).then_some("a"),
                object: self.object.as_ref().map(|(acl, owner)| owned(acl, owner)),
                context: &self.context,
            };
            decide(&self.rules, &facts)
        }

        fn may(&self, who: &str, action: &str) -> bool {
            let who = if who.is_empty() { Who::Anonymous } else { Who::User(who) };
            self.ask(who, action).is_ok()
        }
    }

    #[test]
    fn nobody_but_the_owner_may_where_nothing_is_said() {
        let town = Town::new(Acl::Private, Acl::Private);
        let all = [
            "GetObject",
            "PutObject",
            "DeleteObject",
            "ListBucket",
            "GetBucketAcl",
            "PutObjectAcl",
            "PutBucketPolicy",
            "PutLifecycleConfiguration",
            "GetObjectTagging",
            "DeleteBucket",
            "Frobnicate",
        ];
        for action in all {
            assert!(town.may("ann", action), "{action}");
            assert!(!town.may("bob", action) && !town.may("", action), "{action}");
        }
        assert_eq!(town.ask(Who::Service("x"), "PutObject"), Err(Denied::Nothing));
    }

    #[test]
    fn lists_open_what_they_say_and_nothing_else() {
        let town = Town::new(Acl::PublicRead, Acl::Private);
        assert!(town.may("", "ListBucket") && !town.may("", "GetObject") && !town.may("bob", "PutObject"));
        let town = Town::new(Acl::PublicReadWrite, Acl::PublicReadWrite);
        assert!(town.may("", "PutObject") && town.may("", "DeleteObject") && town.may("", "GetObject"));
        assert!(
            !town.may("bob", "GetObjectAcl")
                && !town.may("bob", "GetObjectTagging")
                && !town.may("bob", "PutBucketAcl")
        );
        let town = Town::new(Acl::Private, Acl::PublicReadWrite);
        assert!(town.may("bob", "GetObject") && !town.may("bob", "PutObject"), "writing is the bucket's to grant");
        let grants = |may| Acl::Grants(vec![Grant { to: Grantee::User("bob".into()), may }]);
        let town = Town::new(grants(Permission::ReadAcp), grants(Permission::FullControl));
        assert!(town.may("bob", "GetBucketAcl") && !town.may("bob", "PutBucketAcl") && !town.may("bob", "ListBucket"));
        assert!(town.may("bob", "GetObject") && town.may("bob", "PutObjectAcl") && town.may("bob", "PutObjectTagging"));
        assert!(town.may("ann", "ListBucket"), "the owner's rights are not the list's to give");
    }

    #[test]
    fn what_another_wrote_is_his_but_may_be_deleted() {
        let mut town = Town::new(Acl::PublicReadWrite, Acl::Private);
        town.object = Some((Acl::Private, "bob"));
        assert!(town.may("bob", "GetObject") && !town.may("ann", "GetObject") && !town.may("ann", "GetObjectAcl"));
        assert!(town.may("ann", "DeleteObject") && town.may("eve", "DeleteObject"));
        town.object = Some((Acl::BucketOwnerFullControl, "bob"));
        assert!(town.may("ann", "GetObjectAcl"));
        town.object = Some((Acl::Private, "bob"));
        town.rules.ownership = Ownership::Enforced;
        assert!(town.may("ann", "GetObject") && !town.may("bob", "GetObject") && !town.may("eve", "DeleteObject"));
    }

    #[test]
    fn a_policy_that_denies_counts_before_owners_and_lists() {
        let town = Town::new(Acl::AuthenticatedRead, Acl::PublicRead).with_policy("Deny", "ListBucket", "pics");
        assert_eq!(town.ask(Who::User("bob"), "ListBucket"), Err(Denied::Policy));
        assert_eq!(town.ask(Who::User("ann"), "ListBucket"), Err(Denied::Policy));
        let town = Town::new(Acl::Private, Acl::Private).with_policy("Deny", "*", "pics*");
        for action in NEVER_LOCKED_OUT {
            assert!(town.may("ann", action) && !town.may("bob", action), "{action}");
        }
        assert!(!town.may("ann", "GetBucketAcl"));
    }

    #[test]
    fn a_policy_opens_what_it_says() {
        let town = Town::new(Acl::Private, Acl::Private).with_policy("Allow", "GetObject", "pics/*");
        assert!(town.may("", "GetObject") && town.may("bob", "GetObject") && !town.may("bob", "GetObjectVersion"));
        assert!(!town.may("bob", "ListBucket"));
        let town = Town::new(Acl::Private, Acl::Private).with_policy("Allow", "PutLifecycleConfiguration", "pics");
        assert!(town.may("bob", "PutLifecycleConfiguration"));
    }

    #[test]
    fn who_may_not_list_is_not_told_what_is_not_there() {
        let mut town = Town::new(Acl::Private, Acl::Private);
        town.object = None;
        assert!(town.may("ann", "GetObject") && !town.may("bob", "GetObject"));
        town.list = Acl::PublicRead;
        assert!(town.may("bob", "GetObject"));
        let mut town = Town::new(Acl::Private, Acl::Private);
        town.object = None;
        let text = |prefix: &str| {
            format!(
                r#"{{"Statement":{{"Effect":"Allow","Principal":"*","Action":"s3:ListBucket","Resource":"arn:aws:s3:::pics","Condition":{{"StringLike":{{"s3:prefix":"{prefix}"}}}}}}}}"#
            )
        };
        for (prefix, told) in [("a*", true), ("b*", false)] {
            town.rules.policy = Some(Policy::parse("pics", &text(prefix)).expect("a policy"));
            assert_eq!(town.may("bob", "GetObject"), told, "{prefix}");
        }
    }

    #[test]
    fn what_is_blocked_is_open_to_nobody() {
        let mut town = Town::new(Acl::PublicRead, Acl::PublicRead);
        town.rules.block.public_lists = true;
        assert!(!town.may("bob", "GetObject") && !town.may("", "ListBucket") && town.may("ann", "GetObject"));
        let mut town = Town::new(Acl::Private, Acl::Private).with_policy("Allow", "*", "pics*");
        assert!(town.may("bob", "GetObject"));
        town.rules.block.public_policies = true;
        assert!(!town.may("bob", "GetObject") && town.may("ann", "GetObject"));
        town.object = None;
        assert!(!town.may("bob", "GetObject"));
        let block = Block { new_public_lists: true, new_public_policies: true, ..Block::default() };
        let rules = Rules { block, ..Rules::default() };
        assert_eq!(rules.takes_list(Some(&Acl::AuthenticatedRead)), Err(Untaken::Blocked));
        assert_eq!((rules.takes_list(Some(&Acl::Private)), rules.takes_list(None)), (Ok(()), Ok(())));
        let public = town.rules.policy.expect("a policy");
        assert_eq!(rules.takes_policy(&public), Err(Untaken::Blocked));
        assert_eq!(Rules::default().takes_policy(&public), Ok(()));
    }

    #[test]
    fn a_bucket_whose_owner_owns_everything_has_no_lists() {
        let rules = Rules { ownership: Ownership::Enforced, ..Rules::default() };
        for acl in [Acl::PublicRead, Acl::Private] {
            assert_eq!(rules.takes_list(Some(&acl)), Err(Untaken::NoLists));
        }
        assert_eq!(rules.takes_list(Some(&Acl::BucketOwnerFullControl)), Ok(()));
        let list = |acl| Owned { acl, owner: "ann", bucket_owner: "ann" };
        assert_eq!(Rules::default().takes_ownership(list(&Acl::PublicRead), Ownership::Enforced), Err(Untaken::Open));
        assert_eq!(Rules::default().takes_ownership(list(&Acl::PublicRead), Ownership::Preferred), Ok(()));
        assert_eq!(Rules::default().takes_ownership(list(&Acl::Private), Ownership::Enforced), Ok(()));
        assert!(!rules.is_public(&Acl::PublicRead) && Rules::default().is_public(&Acl::PublicRead));
    }
}
