//! What the rules ([`crate::rules`]) are told of a request, and what of a bucket counts for it.
//!
//! What is known of where a request comes from is what the connection says: behind a load balancer that is the load balancer.

use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use s3s::dto::{OwnershipControls, PublicAccessBlockConfiguration};

use super::about::{self, header, unescape};
use super::access::{Action, Caller, owner_of};
use super::documents::read;
use super::error::{Done, argument, denied, error, failed, strange};
use super::front::{Asked, EXPECTED_OWNER, Front};
use crate::meta::kinds::{About, Acl, Bucket, DocumentKind, Object, Permission};
use crate::meta::names::BucketName;
use crate::meta::query::{Query, Reply};
use crate::meta::refusal::Refusal;
use crate::rules::access::{Block, Facts, Rules, Untaken, decide};
use crate::rules::acl::{self, AclError, Owned, Ownership};
use crate::rules::date;
use crate::rules::policy::{Context, Policy, Who};

/// What a bucket says that counts for a request.
#[derive(Debug, Default)]
pub struct Told {
    /// Who may.
    pub rules: Rules,
    /// What is deleted by itself, as it is kept.
    pub lifecycle: Option<String>,
    /// How objects are sealed that do not say it themselves, as it is kept.
    pub encryption: Option<String>,
}

impl Deref for Told {
    type Target = Rules;

    fn deref(&self) -> &Rules {
        &self.rules
    }
}

/// Where a request comes from: kept with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remote(pub IpAddr);

/// Headers of the request that conditions of policies look at.
const HEADERS: [&str; 14] = [
    "x-amz-acl",
    "x-amz-content-sha256",
    "x-amz-copy-source",
    "x-amz-grant-full-control",
    "x-amz-grant-read",
    "x-amz-grant-read-acp",
    "x-amz-grant-write",
    "x-amz-grant-write-acp",
    "x-amz-metadata-directive",
    "x-amz-server-side-encryption",
    "x-amz-server-side-encryption-aws-kms-key-id",
    "x-amz-server-side-encryption-customer-algorithm",
    "x-amz-storage-class",
    "x-amz-object-lock-mode",
];

/// Headers that conditions call otherwise.
const OTHERS: [(&str, &str); 4] = [
    ("referer", "aws:Referer"),
    ("user-agent", "aws:UserAgent"),
    ("x-amz-object-lock-legal-hold", "s3:object-lock-legal-hold"),
    ("x-amz-object-lock-retain-until-date", "s3:object-lock-retain-until-date"),
];

/// What of the query conditions look at.
const QUERY: [(&str, &str); 4] = [
    ("prefix", "s3:prefix"),
    ("delimiter", "s3:delimiter"),
    ("max-keys", "s3:max-keys"),
    ("versionId", "s3:VersionId"),
];

impl Front {
    /// What a bucket says that counts for a request. It is looked up once for each.
    pub(crate) async fn rules(&self, asked: &Asked, name: &BucketName) -> Done<Arc<Told>> {
        if let Some(known) = asked.known(name) {
            return Ok(known);
        }
        let replies = self.gateway.look_all(rules_of(name)).await.map_err(failed)?;
        let told = Arc::new(told(name, replies)?);
        asked.remember(name, told.clone());
        Ok(told)
    }

    /// Lets through whoever may do this to a bucket, or to the object in it with its key.
    pub(crate) async fn admit(
        &self,
        asked: &Asked,
        action: Action,
        name: &BucketName,
        bucket: &Bucket,
        object: Option<(&str, Option<&Object>)>,
    ) -> Done<()> {
        if let Some(owner) = header(&asked.headers, EXPECTED_OWNER)
            && owner != bucket.owner
        {
            return Err(denied());
        }
        if !asked.caller.key_allows(action, name.as_str()) {
            return Err(denied());
        }
        let rules = self.rules(asked, name).await?;
        let context = context(asked, self.gateway.wall(), object.and_then(|(_, object)| object));
        let bucket_owner = bucket.owner.as_str();
        let facts = Facts {
            who: who(&asked.caller),
            action: action.name(),
            bucket: name.as_str(),
            list: Owned { acl: &bucket.acl, owner: bucket_owner, bucket_owner },
            key: object.map(|(key, _)| key).filter(|key| !key.is_empty()),
            object: object.and_then(|(_, object)| object).map(|object| Owned {
                acl: &object.about.acl,
                owner: owner_of(bucket, object),
                bucket_owner,
            }),
            context: &context,
        };
        decide(&rules.rules, &facts).map_err(|_| denied())
    }

    /// The access control list that comes in headers: a word, or grants one by one. None if there is none.
    pub(crate) fn list(&self, asked: &Asked) -> Done<Option<Acl>> {
        let word = header(&asked.headers, "x-amz-acl");
        let named = [
            (Permission::Read, "x-amz-grant-read"),
            (Permission::Write, "x-amz-grant-write"),
            (Permission::ReadAcp, "x-amz-grant-read-acp"),
            (Permission::WriteAcp, "x-amz-grant-write-acp"),
            (Permission::FullControl, "x-amz-grant-full-control"),
        ];
        let said = named.map(|(may, name)| (may, header(&asked.headers, name)));
        let said: Vec<(Permission, Option<&str>)> = said.iter().map(|(may, text)| (*may, text.as_deref())).collect();
        let is_there = |name: &str| self.keys.is_owner(name);
        let grants = acl::from_headers(&said, &is_there).map_err(|error| untaken_list(&error))?;
        match (word, grants) {
            (Some(_), Some(_)) => {
                Err(error("InvalidRequest", "specifying both canned ACLs and header grants is not allowed"))
            }
            (Some(word), None) => acl::canned(&word).map(Some).map_err(|error| untaken_list(&error)),
            (None, grants) => Ok(grants),
        }
    }

    /// The access control list that comes in headers, if the bucket takes it.
    pub(crate) async fn taken_list(&self, asked: &Asked, name: &BucketName) -> Done<Option<Acl>> {
        let list = self.list(asked)?;
        let rules = self.rules(asked, name).await?;
        rules.takes_list(list.as_ref()).map_err(untaken)?;
        Ok(list)
    }

    /// What a request says of the object that it makes in a bucket.
    pub(crate) async fn about(&self, asked: &Asked, name: &BucketName, bucket: &Bucket) -> Done<About> {
        let mut about = about::read(&asked.headers, &asked.caller, bucket)?;
        let ownership = self.rules(asked, name).await?.ownership;
        about.acl = self.taken_list(asked, name).await?.unwrap_or_default();
        // What somebody without a name puts is the bucket's owner's.
        about.owner = asked.caller.owner().and_then(|writer| ownership.owner_of(&bucket.owner, writer, &about.acl));
        Ok(about)
    }
}

/// The questions whose answers are [`told`].
pub fn rules_of(name: &BucketName) -> Vec<Query> {
    let kinds = [
        DocumentKind::Policy,
        DocumentKind::PublicAccess,
        DocumentKind::Ownership,
        DocumentKind::Lifecycle,
        DocumentKind::Encryption,
    ];
    kinds.map(|kind| Query::Document(name.clone(), kind)).to_vec()
}

/// What the answers to [`rules_of`] say.
pub fn told(name: &BucketName, replies: impl IntoIterator<Item = Result<Reply, Refusal>>) -> Done<Told> {
    let mut texts = Vec::new();
    for reply in replies {
        match reply {
            Ok(Reply::Document(text)) => texts.push(text),
            Ok(_) => return Err(strange()),
            Err(refusal) => return Err(super::error::refused(&refusal)),
        }
    }
    let Ok([policy, block, ownership, lifecycle, encryption]) = <[Option<String>; 5]>::try_from(texts) else {
        return Err(strange());
    };
    let unreadable = |_| error("InternalError", "the policy of the bucket cannot be read");
    let policy = policy.map(|text| Policy::parse(name.as_str(), &text)).transpose().map_err(unreadable)?;
    let block = block.map(|text| read(&text)).transpose()?.as_ref().map(blocks).unwrap_or_default();
    let ownership = ownership.map(|text| read(&text)).transpose()?.as_ref().and_then(owns).unwrap_or_default();
    Ok(Told { rules: Rules { policy, block, ownership }, lifecycle, encryption })
}

/// A refusal of the rules as clients are told.
pub fn untaken(why: Untaken) -> s3s::S3Error {
    error(why.code(), why.to_string())
}

/// A list that is not taken, as clients are told.
pub fn untaken_list(why: &AclError) -> s3s::S3Error {
    error(why.code(), why.to_string())
}

pub fn who(caller: &Caller) -> Who<'_> {
    caller.owner().map_or(Who::Anonymous, Who::User)
}

/// What a document says is blocked.
pub fn blocks(said: &PublicAccessBlockConfiguration) -> Block {
    Block {
        new_public_lists: said.block_public_acls == Some(true),
        public_lists: said.ignore_public_acls == Some(true),
        new_public_policies: said.block_public_policy == Some(true),
        public_policies: said.restrict_public_buckets == Some(true),
    }
}

/// Who owns what others put, as a document says.
pub fn owns(said: &OwnershipControls) -> Option<Ownership> {
    match said.rules.as_slice() {
        [rule] => Ownership::parse(rule.object_ownership.as_str()),
        _ => None,
    }
}

/// What is known of a request, for conditions.
fn context(asked: &Asked, now: hirsel_model::WallTime, object: Option<&Object>) -> Context {
    let mut context = Context::default();
    for name in HEADERS {
        let key = name.strip_prefix("x-amz-object-").map_or(format!("s3:{name}"), |rest| format!("s3:object-{rest}"));
        context.add_some(&key, header(&asked.headers, name));
    }
    for (name, key) in OTHERS {
        context.add_some(key, header(&asked.headers, name));
    }
    let mut signed_in_query = false;
    for pair in asked.query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        signed_in_query |= matches!(name, "X-Amz-Signature" | "Signature");
        if let Some((_, key)) = QUERY.into_iter().find(|(known, _)| *known == name) {
            context.add_some(key, unescape(value));
        }
    }
    if let Caller::Known { owner, .. } = &asked.caller {
        context.add("aws:username", owner.as_str());
        context.add("aws:userid", owner.as_str());
        context.add("aws:PrincipalArn", format!("arn:aws:iam:::user/{owner}"));
        let signed = header(&asked.headers, "authorization");
        let kind = match (&signed, signed_in_query) {
            (Some(_), _) => "REST-HEADER",
            (None, true) => "REST-QUERY-STRING",
            (None, false) => "POST",
        };
        context.add("s3:authType", kind);
        let second = signed.is_some_and(|signed| signed.starts_with("AWS ")) || asked.query.contains("&Signature=");
        context.add("s3:signatureversion", if second { "AWS" } else { "AWS4-HMAC-SHA256" });
    }
    context.add("aws:PrincipalType", if asked.caller == Caller::Anonymous { "Anonymous" } else { "User" });
    context.add_some("aws:SourceIp", asked.remote.map(|remote| remote.to_string()));
    // Clients are spoken to without TLS here.
    context.add("aws:SecureTransport", "false");
    context.add("aws:CurrentTime", date::iso(now));
    context.add("aws:EpochTime", (now.0 / 1_000).to_string());
    for (key, value) in object.iter().flat_map(|object| &object.about.tags) {
        context.add(&format!("s3:ExistingObjectTag/{key}"), value.as_str());
    }
    let tags = header(&asked.headers, "x-amz-tagging").and_then(|said| about::tags(&said).ok());
    for (key, value) in tags.iter().flatten() {
        context.add(&format!("s3:RequestObjectTag/{key}"), value.as_str());
        context.add("s3:RequestObjectTagKeys", key.as_str());
    }
    context
}

/// A list in an answer or a request, as s3s writes it.
pub fn list_of(policy: Option<s3s::dto::AccessControlPolicy>, is_there: &dyn Fn(&str) -> bool) -> Done<Acl> {
    use crate::meta::kinds::Grant;
    let grants = policy.and_then(|policy| policy.grants).unwrap_or_default();
    let mut list = Vec::new();
    for grant in grants {
        let may = grant.permission.as_ref().and_then(|word| acl::permission(word.as_str()));
        let (Some(grantee), Some(may)) = (grant.grantee, may) else {
            return Err(error("MalformedACLError", "a grant has a grantee and a permission"));
        };
        let named = [("id", grantee.id), ("uri", grantee.uri), ("emailAddress", grantee.email_address)];
        let Some((kind, value)) = named.into_iter().find_map(|(kind, value)| Some((kind, value?))) else {
            return Err(argument("a grantee has an ID, a URI or an address"));
        };
        let to = acl::grantee(kind, &value, is_there).map_err(|error| untaken_list(&error))?;
        list.push(Grant { to, may });
    }
    Ok(Acl::Grants(list))
}
