//! Access control lists: what a canned word grants, how lists come in headers, and whom a list lets do something.
//!
//! A list belongs to a bucket or to a version of an object. Who owns it may always read and change the list itself; apart from that
//! only what is granted counts. Lists are off where a bucket says that its owner owns everything ([`Ownership::Enforced`]).

use crate::meta::kinds::{Acl, Grant, Grantee, Permission};

/// Who owns what others put into a bucket (S3's object ownership).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ownership {
    /// Whoever puts an object owns it. So it is where a bucket says nothing.
    #[default]
    Writer,
    /// So it is, unless it is put with `bucket-owner-full-control`.
    Preferred,
    /// The owner of the bucket owns everything, and lists do not count.
    Enforced,
}

impl Ownership {
    /// As documents write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Ownership::Writer => "ObjectWriter",
            Ownership::Preferred => "BucketOwnerPreferred",
            Ownership::Enforced => "BucketOwnerEnforced",
        }
    }

    /// Reads it.
    pub fn parse(text: &str) -> Option<Self> {
        [Ownership::Writer, Ownership::Preferred, Ownership::Enforced].into_iter().find(|it| it.as_str() == text)
    }

    /// Who owns an object that `writer` puts with this list; none if it is the owner of the bucket.
    pub fn owner_of(self, bucket_owner: &str, writer: &str, acl: &Acl) -> Option<String> {
        let others = match self {
            Ownership::Writer => writer != bucket_owner,
            Ownership::Preferred => writer != bucket_owner && *acl != Acl::BucketOwnerFullControl,
            Ownership::Enforced => false,
        };
        others.then(|| writer.to_owned())
    }
}

/// Why a list is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AclError {
    /// There is no owner of that name.
    #[error("there is nobody called {0:.80?}")]
    Unknown(String),
    /// Hirsel knows no addresses of mail.
    #[error("{0:.80?} is nobody's address")]
    Mail(String),
    /// It is neither a word nor a list.
    #[error("{0}")]
    Argument(String),
}

impl AclError {
    /// S3's name for it.
    pub fn code(&self) -> &'static str {
        match self {
            AclError::Unknown(_) | AclError::Argument(_) => "InvalidArgument",
            AclError::Mail(_) => "UnresolvableGrantByEmailAddress",
        }
    }
}

/// The list that a canned word stands for.
///
/// # Errors
/// When it is no word, or one that is not known here (`aws-exec-read`).
pub fn canned(word: &str) -> Result<Acl, AclError> {
    Ok(match word {
        "private" => Acl::Private,
        "public-read" => Acl::PublicRead,
        "public-read-write" => Acl::PublicReadWrite,
        "authenticated-read" => Acl::AuthenticatedRead,
        "bucket-owner-read" => Acl::BucketOwnerRead,
        "bucket-owner-full-control" => Acl::BucketOwnerFullControl,
        "log-delivery-write" => Acl::Grants(vec![
            Grant { to: Grantee::Logs, may: Permission::Write },
            Grant { to: Grantee::Logs, may: Permission::ReadAcp },
        ]),
        _ => return Err(AclError::Argument(format!("{word:.80?} is no canned access control list"))),
    })
}

/// The addresses of groups.
const GROUPS: [(Grantee, &str); 3] = [
    (Grantee::Everybody, "http://acs.amazonaws.com/groups/global/AllUsers"),
    (Grantee::Authenticated, "http://acs.amazonaws.com/groups/global/AuthenticatedUsers"),
    (Grantee::Logs, "http://acs.amazonaws.com/groups/s3/LogDelivery"),
];

/// The group that has this address.
pub fn group(uri: &str) -> Option<Grantee> {
    GROUPS.into_iter().find(|(_, known)| *known == uri).map(|(group, _)| group)
}

/// The address of a group; none of somebody's name.
pub fn uri(grantee: &Grantee) -> Option<&'static str> {
    GROUPS.into_iter().find(|(known, _)| known == grantee).map(|(_, uri)| uri)
}

const PERMISSIONS: [(Permission, &str); 5] = [
    (Permission::Read, "READ"),
    (Permission::Write, "WRITE"),
    (Permission::ReadAcp, "READ_ACP"),
    (Permission::WriteAcp, "WRITE_ACP"),
    (Permission::FullControl, "FULL_CONTROL"),
];

/// As documents write it.
pub fn word(permission: Permission) -> &'static str {
    PERMISSIONS.into_iter().find(|(known, _)| *known == permission).map_or("", |(_, word)| word)
}

/// Reads it.
pub fn permission(word: &str) -> Option<Permission> {
    PERMISSIONS.into_iter().find(|(_, known)| *known == word).map(|(permission, _)| permission)
}

/// What headers say: `x-amz-grant-read` and so on, each `id="NAME", uri="GROUP"`. None if there is no such header.
///
/// # Errors
/// When one cannot be read, or names somebody who is not there.
pub fn from_headers(
    headers: &[(Permission, Option<&str>)],
    is_there: &dyn Fn(&str) -> bool,
) -> Result<Option<Acl>, AclError> {
    let mut grants = Vec::new();
    let mut any = false;
    for (may, header) in headers {
        let Some(header) = header else { continue };
        any = true;
        for part in header.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (kind, value) = part
                .split_once('=')
                .ok_or_else(|| AclError::Argument(format!("{part:.80?} is no grantee: id=, uri= or emailAddress=")))?;
            let value = value.trim().trim_matches('"');
            let to = grantee(kind.trim(), value, is_there)?;
            grants.push(Grant { to, may: *may });
        }
    }
    Ok(any.then_some(Acl::Grants(grants)))
}

/// Somebody by a name, a group by its address.
///
/// # Errors
/// When there is no such.
pub fn grantee(kind: &str, value: &str, is_there: &dyn Fn(&str) -> bool) -> Result<Grantee, AclError> {
    match kind.to_ascii_lowercase().as_str() {
        "id" if is_there(value) => Ok(Grantee::User(value.to_owned())),
        "id" => Err(AclError::Unknown(value.to_owned())),
        "uri" => group(value).ok_or_else(|| AclError::Argument(format!("{value:.80?} is no group"))),
        "emailaddress" => Err(AclError::Mail(value.to_owned())),
        _ => Err(AclError::Argument(format!("{kind:.80?} is no kind of grantee"))),
    }
}

/// What a list grants: a canned word as the grants it stands for.
pub fn grants(acl: &Acl, owner: &str, bucket_owner: &str) -> Vec<Grant> {
    let user = |name: &str, may| Grant { to: Grantee::User(name.to_owned()), may };
    let group = |to, may| Some(Grant { to, may });
    let more = match acl {
        Acl::Grants(grants) => return grants.clone(),
        Acl::Private => [None, None],
        Acl::PublicRead => [group(Grantee::Everybody, Permission::Read), None],
        Acl::PublicReadWrite => {
            [group(Grantee::Everybody, Permission::Read), group(Grantee::Everybody, Permission::Write)]
        }
        Acl::AuthenticatedRead => [group(Grantee::Authenticated, Permission::Read), None],
        Acl::BucketOwnerRead | Acl::BucketOwnerFullControl if owner == bucket_owner => [None, None],
        Acl::BucketOwnerRead => [Some(user(bucket_owner, Permission::Read)), None],
        Acl::BucketOwnerFullControl => [Some(user(bucket_owner, Permission::FullControl)), None],
    };
    [user(owner, Permission::FullControl)].into_iter().chain(more.into_iter().flatten()).collect()
}

/// Whether a list lets everybody, or everybody with a key, do anything.
pub fn is_public(acl: &Acl) -> bool {
    match acl {
        Acl::PublicRead | Acl::PublicReadWrite | Acl::AuthenticatedRead => true,
        Acl::Private | Acl::BucketOwnerRead | Acl::BucketOwnerFullControl => false,
        Acl::Grants(grants) => {
            grants.iter().any(|grant| matches!(grant.to, Grantee::Everybody | Grantee::Authenticated))
        }
    }
}

/// A list with its owner.
#[derive(Clone, Copy, Debug)]
pub struct Owned<'a> {
    /// What it grants.
    pub acl: &'a Acl,
    /// Who owns what it belongs to.
    pub owner: &'a str,
    /// Who owns the bucket.
    pub bucket_owner: &'a str,
}

impl Owned<'_> {
    /// Whether `user` (none for somebody without a name) is granted something. Without `public`, what everybody is granted does not
    /// count.
    pub fn grants(&self, user: Option<&str>, wanted: Permission, public: bool) -> bool {
        let own = matches!(wanted, Permission::ReadAcp | Permission::WriteAcp) && user == Some(self.owner);
        own || grants(self.acl, self.owner, self.bucket_owner).iter().any(|grant| {
            let may = grant.may == wanted || grant.may == Permission::FullControl;
            may && match &grant.to {
                Grantee::User(name) => user == Some(name.as_str()),
                Grantee::Everybody => public,
                Grantee::Authenticated => public && user.is_some(),
                Grantee::Logs => false,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, may: Permission) -> Grant {
        Grant { to: Grantee::User(name.into()), may }
    }

    #[test]
    fn a_canned_word_grants_what_s3_says() {
        let (read, write) = (Permission::Read, Permission::Write);
        type May = (Option<&'static str>, Permission);
        let table: [(&str, &[May]); 6] = [
            ("private", &[(Some("bob"), read), (Some("bob"), write)]),
            ("public-read", &[(None, read), (Some("bob"), read), (Some("bob"), write)]),
            ("public-read-write", &[(None, read), (Some("bob"), read), (Some("bob"), write), (None, write)]),
            ("authenticated-read", &[(Some("bob"), read), (Some("bob"), write)]),
            ("bucket-owner-read", &[(Some("bob"), read), (Some("bob"), write)]),
            ("bucket-owner-full-control", &[(Some("bob"), read), (Some("bob"), write)]),
        ];
        // Ann's object in the bucket of Bob: who may, of all that are asked.
        let who = [None, Some("ann"), Some("bob"), Some("eve")];
        for (name, _) in table {
            let acl = canned(name).expect(name);
            let list = Owned { acl: &acl, owner: "ann", bucket_owner: "bob" };
            let may = |user, wanted| list.grants(user, wanted, true);
            let readers: Vec<_> = who.into_iter().filter(|user| may(*user, read)).collect();
            let writers: Vec<_> = who.into_iter().filter(|user| may(*user, write)).collect();
            let (all, ann) = (who.to_vec(), Some("ann"));
            let expected = match name {
                "private" => (vec![ann], vec![ann]),
                "public-read" => (all, vec![ann]),
                "public-read-write" => (all.clone(), all),
                "authenticated-read" => (all[1..].to_vec(), vec![ann]),
                "bucket-owner-read" => (vec![ann, Some("bob")], vec![ann]),
                _ => (vec![ann, Some("bob")], vec![ann, Some("bob")]),
            };
            assert_eq!((readers, writers), expected, "{name}");
            assert_eq!(is_public(&acl), name.starts_with("public") || name.starts_with("auth"), "{name}");
        }
        assert!(canned("aws-exec-read").is_err() && canned("").is_err());
    }

    #[test]
    fn grants_count_one_by_one_and_owners_never_lose_the_list() {
        let acl = Acl::Grants(vec![user("bob", Permission::WriteAcp)]);
        let list = Owned { acl: &acl, owner: "ann", bucket_owner: "ann" };
        assert!(list.grants(Some("bob"), Permission::WriteAcp, true));
        assert!(!list.grants(Some("bob"), Permission::ReadAcp, true));
        assert!(
            list.grants(Some("ann"), Permission::ReadAcp, true) && list.grants(Some("ann"), Permission::WriteAcp, true)
        );
        assert!(!list.grants(Some("ann"), Permission::Read, true));
        let everybody = Acl::Grants(vec![Grant { to: Grantee::Everybody, may: Permission::FullControl }]);
        let list = Owned { acl: &everybody, ..list };
        assert!(is_public(&everybody) && list.grants(None, Permission::Write, true));
        assert!(!list.grants(None, Permission::Write, false), "what is public may be left out");
    }

    #[test]
    fn headers_name_people_and_groups() {
        let there = |name: &str| name != "eve";
        let read = |text| from_headers(&[(Permission::Read, text), (Permission::WriteAcp, None)], &there);
        assert_eq!(read(None), Ok(None));
        let acl = read(Some(r#"id="ann", id=bob , uri="http://acs.amazonaws.com/groups/global/AllUsers""#));
        let everybody = Grant { to: Grantee::Everybody, may: Permission::Read };
        let expected = vec![user("ann", Permission::Read), user("bob", Permission::Read), everybody];
        assert_eq!(acl, Ok(Some(Acl::Grants(expected))));
        let refused = |text| read(Some(text)).expect_err(text).code();
        assert_eq!(refused("id=eve"), "InvalidArgument");
        assert_eq!(refused("emailAddress=ann@example.com"), "UnresolvableGrantByEmailAddress");
        assert_eq!(refused("ann"), "InvalidArgument");
        assert_eq!(refused("uri=http://example.com"), "InvalidArgument");
        assert_eq!(refused("name=ann"), "InvalidArgument");
    }

    #[test]
    fn who_owns_what_others_put_is_the_buckets_to_say() {
        let owner = |ownership: Ownership, writer, acl| ownership.owner_of("ann", writer, &acl);
        let (bob, full) = (Some("bob".to_owned()), Acl::BucketOwnerFullControl);
        assert_eq!(owner(Ownership::Writer, "bob", full.clone()), bob);
        assert_eq!(owner(Ownership::Preferred, "bob", Acl::Private), bob);
        assert_eq!(owner(Ownership::Preferred, "bob", full), None);
        assert_eq!(owner(Ownership::Enforced, "bob", Acl::Private), None);
        assert_eq!(owner(Ownership::Writer, "ann", Acl::Private), None);
        for ownership in [Ownership::Writer, Ownership::Preferred, Ownership::Enforced] {
            assert_eq!(Ownership::parse(ownership.as_str()), Some(ownership));
        }
        assert_eq!(Ownership::parse("Nobody"), None);
    }

    #[test]
    fn words_and_addresses_are_read_as_they_are_written() {
        for (permission_, word_) in PERMISSIONS {
            assert_eq!((permission(word_), word(permission_)), (Some(permission_), word_));
        }
        for (to, address) in GROUPS {
            assert_eq!((group(address), uri(&to)), (Some(to), Some(address)));
        }
        assert_eq!((permission("read"), uri(&Grantee::User("ann".into()))), (None, None));
    }
}
