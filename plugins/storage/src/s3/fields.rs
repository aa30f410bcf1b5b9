//! The fields of a form, looked at before s3s sees them: the name of the file is filled in where the key asks for it, and a form that its
//! policy does not allow is refused as S3 refuses it.
//!
//! What cannot be read here, and whatever else there is to say of a form, is left to s3s: signatures, dates, lengths, malformed policies.

use bytes::Bytes;
use data_encoding::BASE64;
use futures::StreamExt;
use http_body_util::{BodyExt, BodyStream, StreamBody};
use hyper::body::{Frame, Incoming};
use s3s::Body;
use serde_json::Value;

use super::body::ended_early;
use super::error::{Done, argument, error};
use super::stall::Paced;

/// What may stand before the file of a form: s3s takes so much of a single field, and a policy is far below it.
const HEAD_BYTES_MAX: usize = 1 << 20;
/// Stands for the name of the file in a key.
const FILENAME: &str = "${filename}";

/// What stands before the bytes of the file.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    /// Names in small letters, values, and where these stand.
    fields: Vec<(String, String, std::ops::Range<usize>)>,
    /// Without the folders that some browsers say.
    file: String,
}

impl Head {
    /// None of what is not whole yet, or is no form.
    fn read(bytes: &[u8], boundary: &str) -> Option<Self> {
        let delimiter = format!("\r\n--{boundary}");
        let mut at = bytes.strip_prefix(b"\r\n").map_or(0, |_| 2);
        at += bytes
            .get(at..)?
            .strip_prefix(&delimiter.as_bytes()[2..])?
            .strip_prefix(b"\r\n")
            .map(|_| delimiter.len())?;
        let mut fields = Vec::new();
        loop {
            let begins = at + find(bytes.get(at..)?, b"\r\n\r\n")? + 4;
            let lines = String::from_utf8_lossy(&bytes[at..begins]).into_owned();
            let name = parameter(&lines, "name")?.to_ascii_lowercase();
            if name == "file" {
                let file = parameter(&lines, "filename").unwrap_or_default();
                let file = file.rsplit(['/', '\\']).next().unwrap_or_default().to_owned();
                return Some(Self { fields, file });
            }
            let ends = begins + find(&bytes[begins..], delimiter.as_bytes())?;
            fields.push((name, std::str::from_utf8(&bytes[begins..ends]).ok()?.to_owned(), begins..ends));
            let next = ends + delimiter.len();
            at = next + bytes.get(next..)?.strip_prefix(b"\r\n").map(|_| 2)?;
        }
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, ..)| known == name).map(|(_, value, _)| value.as_str())
    }

    /// Fills in the name of the file; what it reads now.
    fn filled(&mut self, bytes: Vec<u8>) -> Vec<u8> {
        let file = self.file.clone();
        let Some((_, key, at)) = self.fields.iter_mut().find(|(name, ..)| name == "key") else { return bytes };
        if !key.contains(FILENAME) {
            return bytes;
        }
        *key = key.replace(FILENAME, &file);
        [&bytes[..at.start], key.as_bytes(), &bytes[at.end..]].concat()
    }

    fn policy(&self) -> Option<Value> {
        let policy = BASE64.decode(self.field("policy")?.as_bytes()).ok()?;
        serde_json::from_slice(&policy).ok()
    }

    /// The condition of a policy that does not hold of the fields, if there is one.
    fn unfit(&self, policy: &Value, bucket: &str) -> Option<String> {
        if let Some(said) = self.field("bucket").filter(|said| *said != bucket) {
            return Some(format!("the form is for bucket {said:.63}"));
        }
        let holds = |word: &str, name: &str, wanted: &str| {
            let name = name.trim_start_matches('$').to_ascii_lowercase();
            let value = match name.as_str() {
                "bucket" => bucket,
                name => self.field(name).unwrap_or_default(),
            };
            match word {
                "starts-with" => value.starts_with(wanted),
                _ => value == wanted,
            }
        };
        let fits = |condition: &Value| match condition {
            Value::Object(all) => {
                all.iter().all(|(name, wanted)| wanted.as_str().is_none_or(|wanted| holds("eq", name, wanted)))
            }
            Value::Array(three) => match three.as_slice() {
                [Value::String(word), Value::String(name), Value::String(wanted)] => {
                    !matches!(word.as_str(), "eq" | "starts-with") || holds(word, name, wanted)
                }
                _ => true,
            },
            _ => true,
        };
        let conditions = policy.get("conditions")?.as_array()?;
        conditions.iter().find(|condition| !fits(condition)).map(Value::to_string)
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// A parameter of `Content-Disposition` among the lines before a field.
fn parameter(lines: &str, name: &str) -> Option<String> {
    let line = lines.lines().find(|line| line.to_ascii_lowercase().starts_with("content-disposition:"))?;
    let begins = format!("{name}=\"");
    let rest = line.split(';').map(str::trim).find_map(|one| one.strip_prefix(&begins))?;
    Some(rest.split('"').next().unwrap_or_default().to_owned())
}

/// Refuses a form that its policy does not allow.
fn fits(head: &Head, policy: &Value, bucket: &str) -> Done<()> {
    // s3s would take other ways to write dates, too.
    if policy.get("expiration").and_then(Value::as_str).is_some_and(|date| date.as_bytes().get(10) != Some(&b'T')) {
        return Err(error("InvalidPolicyDocument", "the expiration of the policy is no date as ISO 8601 writes it"));
    }
    match head.unfit(policy, bucket) {
        None => Ok(()),
        Some(condition) => {
            let words = format!("invalid according to policy: policy condition failed: {condition:.200}");
            Err(error("AccessDenied", words))
        }
    }
}

/// The tags of a form, a document in a field that s3s does not look at: kept with the request.
#[derive(Clone)]
pub struct Tags(pub String);

/// A form on its way to s3s, to this bucket, and the tags in it.
///
/// # Errors
/// When its policy does not allow it.
pub async fn looked_at(boundary: &str, bucket: &str, mut body: Paced<Incoming>) -> Done<(Body, Option<Tags>)> {
    let (mut bytes, mut tags) = (Vec::new(), None);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|problem| ended_early(&problem))?;
        let Ok(data) = frame.into_data() else { continue };
        bytes.extend_from_slice(&data);
        if bytes.len() > HEAD_BYTES_MAX {
            break;
        }
        if let Some(mut head) = Head::read(&bytes, boundary) {
            bytes = head.filled(bytes);
            tags = head.field("tagging").map(|tags| Tags(tags.to_owned()));
            if head.field("policy").is_some()
                && !["signature", "x-amz-signature"].iter().any(|name| head.field(name).is_some())
            {
                return Err(argument("a form with a policy has a signature of it"));
            }
            if let Some(policy) = head.policy() {
                fits(&head, &policy, bucket)?;
            }
            break;
        }
    }
    let head = futures::stream::iter([Ok(Frame::data(Bytes::from(bytes)))]);
    Ok((Body::http_body_unsync(StreamBody::new(head.chain(BodyStream::new(body)))), tags))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(fields: &[(&str, &str)], file: &str) -> Vec<u8> {
        let mut text = String::new();
        for (name, value) in fields {
            text += &format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
        }
        text += &format!(
            "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{file}\"\r\nContent-Type: a/b\r\n\r\nbytes\r\n--b--\r\n"
        );
        text.into_bytes()
    }

    fn policy(conditions: &str) -> String {
        BASE64.encode(format!("{{\"expiration\":\"2100-01-01T00:00:00Z\",\"conditions\":[{conditions}]}}").as_bytes())
    }

    #[test]
    fn a_key_gets_the_name_of_the_file_and_nothing_else_changes() {
        let (before, after) =
            ([("Key", "a/${filename}"), ("x", "${filename}")], [("Key", "a/f.txt"), ("x", "${filename}")]);
        let bytes = form(&before, "C:\\docs\\f.txt");
        let mut head = Head::read(&bytes, "b").expect("it is whole");
        assert_eq!(head.filled(bytes), form(&after, "C:\\docs\\f.txt"));
        assert_eq!(head.field("key"), Some("a/f.txt"));
    }

    #[test]
    fn what_is_not_whole_or_no_form_is_left_alone() {
        let bytes = form(&[("key", "k"), ("acl", "private")], "f");
        let whole = find(&bytes, b"bytes").expect("they are there");
        for end in 0..whole {
            assert_eq!(Head::read(&bytes[..end], "b"), None, "{end}");
        }
        assert!(Head::read(&bytes[..whole], "b").is_some());
        assert_eq!(Head::read(&bytes, "other"), None);
        assert_eq!(Head::read(b"--b\r\nX: y\r\n\r\nv\r\n--b--", "b"), None);
    }

    #[test]
    fn a_policy_says_what_fields_may_be() {
        let unfit = |conditions: &str, fields: &[(&str, &str)]| {
            let policy = policy(conditions);
            let fields = [fields, &[("policy", policy.as_str())]].concat();
            let head = Head::read(&form(&fields, "f"), "b").expect("it is whole");
            fits(&head, &head.policy().expect("it has one"), "box").is_err()
        };
        let key = r#"["starts-with","$key","user/"]"#;
        assert!(!unfit(key, &[("key", "user/a")]) && unfit(key, &[("key", "a")]));
        let meta = r#"["eq","$X-Amz-Meta-A","1"]"#;
        assert!(!unfit(meta, &[("x-amz-meta-a", "1")]) && unfit(meta, &[("x-amz-meta-a", "2")]) && unfit(meta, &[]));
        assert!(!unfit(r#"{"bucket":"box"}"#, &[]) && unfit(r#"{"bucket":"other"}"#, &[]));
        for condition in [r#"{"bucket":"box"}"#, r#"{"bucket":"other"}"#] {
            assert!(unfit(condition, &[("bucket", "other")]), "it says two buckets");
        }
        let dated = serde_json::json!({"expiration": "2100-01-01 00:00:00+00:00", "conditions": []});
        let head = Head::read(&form(&[], "f"), "b").expect("it is whole");
        assert!(fits(&head, &dated, "box").is_err(), "no date");
        for odd in ["{}", "[]", r#"["content-length-range",0,1]"#, r#"["like","$key","a"]"#, "1"] {
            assert!(!unfit(odd, &[("key", "k")]), "{odd}: s3s says what is wrong with it, if anything is");
        }
    }
}
