//! What buckets say of themselves as web sites: kept as it was understood, and read for those who look at the site ([`super::site`]).

use s3s::dto::{self, *};
use s3s::{S3Request, S3Response};

use super::access::Action;
use super::documents::{read, write};
use super::error::{Done, argument, missing};
use super::front::Front;
use crate::meta::kinds::DocumentKind;
use crate::rules::website::{Elsewhere, Redirect, Rule, Website};

/// A document as the rules know it.
///
/// # Errors
/// When it says something that would not be carried out.
pub fn website(said: &WebsiteConfiguration) -> Done<Website> {
    let site = match &said.redirect_all_requests_to {
        Some(all) => {
            if said.index_document.is_some() || said.error_document.is_some() || said.routing_rules.is_some() {
                return Err(argument("RedirectAllRequestsTo stands alone"));
            }
            let protocol = all.protocol.as_ref().map(|protocol| protocol.as_str().to_owned());
            Website::Elsewhere(Elsewhere { host: all.host_name.clone(), protocol })
        }
        None => {
            let Some(index) = &said.index_document else {
                return Err(argument("an IndexDocument is said, unless all requests are sent elsewhere"));
            };
            let rules = said.routing_rules.iter().flatten().map(rule).collect::<Done<_>>()?;
            let error = said.error_document.as_ref().map(|error| error.key.clone());
            Website::Objects { index: index.suffix.clone(), error, rules }
        }
    };
    site.check().map_err(|why| argument(why.to_string()))?;
    Ok(site)
}

/// A document that was kept, as the rules know it.
///
/// # Errors
/// When it is not one that was written here.
pub fn kept(text: &str) -> Done<Website> {
    website(&read(text)?)
}

fn rule(said: &RoutingRule) -> Done<Rule> {
    let status = |code: &String| code.parse().map_err(|_| argument(format!("{code:.20?} is no status of HTTP")));
    let (mut prefix, mut error) = (None, None);
    if let Some(condition) = &said.condition {
        prefix.clone_from(&condition.key_prefix_equals);
        error = condition.http_error_code_returned_equals.as_ref().map(status).transpose()?;
        if prefix.is_none() && error.is_none() {
            return Err(argument("a condition names a prefix, an error, or both"));
        }
    }
    let dto::Redirect { host_name, http_redirect_code, protocol, replace_key_prefix_with, replace_key_with } =
        &said.redirect;
    let to = Redirect {
        host: host_name.clone(),
        protocol: protocol.as_ref().map(|protocol| protocol.as_str().to_owned()),
        status: http_redirect_code.as_ref().map(status).transpose()?,
        prefix: replace_key_prefix_with.clone(),
        key: replace_key_with.clone(),
    };
    Ok(Rule { prefix, status: error, to })
}

/// `GetBucketWebsite`.
pub async fn get_bucket_website(
    front: &Front,
    request: S3Request<GetBucketWebsiteInput>,
) -> Done<S3Response<GetBucketWebsiteOutput>> {
    let asked = front.asked(&request);
    let (action, kind) = (Action::GetBucketWebsite, DocumentKind::Website);
    let found: Option<WebsiteConfiguration> = front.document(&asked, action, &request.input.bucket, kind).await?;
    let none = || missing("NoSuchWebsiteConfiguration", "the bucket is no web site");
    let found = found.ok_or_else(none)?;
    Ok(S3Response::new(GetBucketWebsiteOutput {
        error_document: found.error_document,
        index_document: found.index_document,
        redirect_all_requests_to: found.redirect_all_requests_to,
        routing_rules: found.routing_rules,
    }))
}

/// `PutBucketWebsite`.
pub async fn put_bucket_website(
    front: &Front,
    request: S3Request<PutBucketWebsiteInput>,
) -> Done<S3Response<PutBucketWebsiteOutput>> {
    let asked = front.asked(&request);
    let input = request.input;
    let (name, _) = front.bucket(&asked, Action::PutBucketWebsite, &input.bucket).await?;
    website(&input.website_configuration)?;
    front.keep(name, DocumentKind::Website, Some(write(&input.website_configuration)?)).await?;
    Ok(S3Response::new(PutBucketWebsiteOutput::default()))
}

/// `DeleteBucketWebsite`.
pub async fn delete_bucket_website(
    front: &Front,
    request: S3Request<DeleteBucketWebsiteInput>,
) -> Done<S3Response<DeleteBucketWebsiteOutput>> {
    let asked = front.asked(&request);
    front.remove(&asked, Action::DeleteBucketWebsite, &request.input.bucket, DocumentKind::Website).await?;
    Ok(S3Response::new(DeleteBucketWebsiteOutput::default()))
}
