//! Objects that browsers send as forms (`PostObject`): s3s looks at the policy and its signature; here the fields become the headers that
//! a `PutObject` would have come with.

use http::{HeaderMap, HeaderName, HeaderValue};
use s3s::dto::*;
use s3s::{S3Request, S3Response};

use super::about::META;
use super::documents::read;
use super::error::{Done, argument, error};
use super::fields::Tags;
use super::front::Front;
use super::put::put_object;
use crate::meta::command::By;

/// Headers of the request itself that still count: who is in between, and who asked.
const KEPT: [&str; 6] = ["host", "origin", "referer", "user-agent", "authorization", "x-amz-expected-bucket-owner"];

/// `PostObject`.
pub async fn post_object(front: &Front, request: S3Request<PostObjectInput>) -> Done<S3Response<PostObjectOutput>> {
    let tagged = request.extensions.get::<Tags>().map(|Tags(document)| tags(document)).transpose()?;
    let mut headers = headers(&request.headers, &request.input)?;
    if let Some(tagged) = tagged {
        headers.insert("x-amz-tagging", field("tagging", &tagged)?);
    }
    let mut request = request.map_input(|input| PutObjectInput {
        // What a form carries was held whole, so that its length is known.
        content_length: input.body.as_ref().and_then(length),
        body: input.body,
        bucket: input.bucket,
        key: input.key,
        ..PutObjectInput::default()
    });
    request.headers = headers;
    request.extensions.insert(By::Form);
    let mut response = put_object(front, request).await?;
    // Whoever is sent on, or told in a document, gets it in quotes, as everywhere else.
    let quoted = response.output.e_tag.as_ref().map(|etag| format!("\"{}\"", etag.value()));
    if let Some(etag) = quoted.as_deref().and_then(|etag| HeaderValue::from_str(etag).ok()) {
        response.headers.insert("etag", etag);
    }
    Ok(response.map_output(|output| PostObjectOutput {
        e_tag: quoted.map(ETag::Strong),
        version_id: output.version_id,
        expiration: output.expiration,
        ..PostObjectOutput::default()
    }))
}

fn length(body: &StreamingBlob) -> Option<i64> {
    use s3s::stream::ByteStream;
    body.remaining_length().exact().and_then(|bytes| i64::try_from(bytes).ok())
}

/// The headers that a request to put the same would have.
fn headers(came: &HeaderMap, form: &PostObjectInput) -> Done<HeaderMap> {
    let mut headers = HeaderMap::new();
    for name in KEPT {
        if let Some(value) = came.get(name) {
            headers.insert(name, value.clone());
        }
    }
    let text = |value: &Option<String>| value.clone();
    let mut until = Vec::new();
    if let Some(date) = &form.object_lock_retain_until_date {
        date.format(TimestampFormat::DateTime, &mut until).map_err(|_| argument("the date cannot be read"))?;
    }
    let fields: [(&'static str, Option<String>); 23] = [
        ("x-amz-acl", form.acl.as_ref().map(|acl| acl.as_str().to_owned())),
        ("cache-control", text(&form.cache_control)),
        ("content-disposition", text(&form.content_disposition)),
        ("content-encoding", text(&form.content_encoding)),
        ("content-language", text(&form.content_language)),
        ("content-md5", text(&form.content_md5)),
        ("content-type", text(&form.content_type)),
        ("x-amz-checksum-algorithm", form.checksum_algorithm.as_ref().map(|name| name.as_str().to_owned())),
        ("x-amz-checksum-crc32", text(&form.checksum_crc32)),
        ("x-amz-checksum-crc32c", text(&form.checksum_crc32c)),
        ("x-amz-checksum-crc64nvme", text(&form.checksum_crc64nvme)),
        ("x-amz-checksum-sha1", text(&form.checksum_sha1)),
        ("x-amz-checksum-sha256", text(&form.checksum_sha256)),
        ("x-amz-object-lock-mode", form.object_lock_mode.as_ref().map(|mode| mode.as_str().to_owned())),
        ("x-amz-object-lock-retain-until-date", String::from_utf8(until).ok().filter(|text| !text.is_empty())),
        ("x-amz-object-lock-legal-hold", form.object_lock_legal_hold_status.as_ref().map(|it| it.as_str().to_owned())),
        ("x-amz-server-side-encryption", form.server_side_encryption.as_ref().map(|it| it.as_str().to_owned())),
        ("x-amz-server-side-encryption-aws-kms-key-id", text(&form.ssekms_key_id)),
        ("x-amz-server-side-encryption-customer-algorithm", text(&form.sse_customer_algorithm)),
        ("x-amz-server-side-encryption-customer-key", text(&form.sse_customer_key)),
        ("x-amz-server-side-encryption-customer-key-md5", text(&form.sse_customer_key_md5)),
        ("x-amz-storage-class", form.storage_class.as_ref().map(|class| class.as_str().to_owned())),
        ("x-amz-website-redirect-location", text(&form.website_redirect_location)),
    ];
    for (name, value) in fields {
        if let Some(value) = value {
            headers.insert(name, field(name, &value)?);
        }
    }
    for (name, value) in form.metadata.iter().flatten() {
        let unfit = |_| argument(format!("field {name:.40?} cannot be a header"));
        let name = HeaderName::from_bytes(format!("{META}{name}").as_bytes()).map_err(unfit)?;
        let value = field(name.as_str(), value)?;
        headers.insert(name, value);
    }
    Ok(headers)
}

fn field(name: &str, value: &str) -> Done<HeaderValue> {
    HeaderValue::from_bytes(value.as_bytes()).map_err(|_| argument(format!("field {name:.80} cannot be a header")))
}

/// Tags, which are a document in a form, as the query that they are in a header.
fn tags(document: &str) -> Done<String> {
    let tags: Tagging = read(document).map_err(|_| error("MalformedXML", "the tags of the form cannot be read"))?;
    let escaped = |text: &str| {
        text.bytes().fold(String::new(), |out, byte| match byte.is_ascii_alphanumeric() {
            true => out + &char::from(byte).to_string(),
            false => out + &format!("%{byte:02X}"),
        })
    };
    let one = |tag: &Tag| {
        let (key, value) = (tag.key.as_deref().unwrap_or_default(), tag.value.as_deref().unwrap_or_default());
        format!("{}={}", escaped(key), escaped(value))
    };
    Ok(tags.tag_set.iter().map(one).collect::<Vec<_>>().join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_of_a_form_are_the_query_that_a_header_would_have() {
        let document = "<Tagging><TagSet><Tag><Key>a b</Key><Value>&amp;</Value></Tag><Tag><Key>c</Key><Value></Value></Tag></TagSet></Tagging>";
        assert_eq!(tags(document).ok().as_deref(), Some("a%20b=%26&c="));
        assert!(tags("a=b").is_err());
    }

    #[test]
    fn fields_come_as_headers_and_those_of_the_form_itself_do_not() {
        let mut came = HeaderMap::new();
        came.insert("content-type", HeaderValue::from_static("multipart/form-data"));
        came.insert("origin", HeaderValue::from_static("http://x"));
        let metadata = Some([("a".to_owned(), "1".to_owned())].into());
        let form = PostObjectInput { content_type: Some("text/x".into()), metadata, ..PostObjectInput::default() };
        let headers = headers(&came, &form).expect("they can be");
        let get = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        assert_eq!((get("content-type"), get("origin"), get("x-amz-meta-a")), ("text/x", "http://x", "1"));
        let odd = PostObjectInput { content_type: Some("a\nb".into()), ..PostObjectInput::default() };
        assert!(super::headers(&came, &odd).is_err(), "nothing ends a header");
    }
}
