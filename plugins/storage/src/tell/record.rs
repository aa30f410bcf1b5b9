//! Notices as S3 writes them: a JSON document with a record for each (event message structure 2.1).
//!
//! What is not known here is left out: who made the change, from where, and by which request.

use serde_json::{Value, json};

use crate::meta::outbox::Notice;
use crate::rules::date;

/// The document that tells of these notices, each with its number.
pub fn document(notices: &[(u64, Notice)]) -> Vec<u8> {
    let records: Vec<Value> = notices.iter().map(|(number, notice)| record(*number, notice)).collect();
    json!({ "Records": records }).to_string().into_bytes()
}

fn record(number: u64, notice: &Notice) -> Value {
    let mut object = json!({
        "key": escaped(notice.key.as_str()),
        // Of two records about a key the later one has the greater word.
        "sequencer": format!("{number:016X}"),
    });
    let more = [
        ("size", notice.bytes.map(Value::from)),
        ("eTag", notice.etag.clone().map(Value::from)),
        ("versionId", notice.version.map(|version| Value::from(version.to_string()))),
    ];
    if let Some(object) = object.as_object_mut() {
        object.extend(more.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    }
    json!({
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "awsRegion": notice.region,
        "eventTime": date::iso(notice.at),
        "eventName": notice.event.strip_prefix("s3:").unwrap_or(&notice.event),
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": notice.rule,
            "bucket": {
                "name": notice.bucket.as_str(),
                "ownerIdentity": { "principalId": notice.owner },
                "arn": format!("arn:aws:s3:::{}", notice.bucket),
            },
            "object": object,
        },
    })
}

/// A key as it stands in a record: like a field of a form, with `+` for a space.
fn escaped(key: &str) -> String {
    key.bytes().fold(String::with_capacity(key.len()), |mut out, byte| {
        match byte {
            b' ' => out.push('+'),
            byte if byte.is_ascii_alphanumeric() || b"-._*/".contains(&byte) => out.push(char::from(byte)),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use hirsel_model::WallTime;

    use super::*;

    #[test]
    fn a_record_says_what_happened_as_s3_does() {
        let notice = Notice {
            rule: "all".into(),
            event: "s3:ObjectCreated:Put".into(),
            at: WallTime(1_700_000_000_123),
            bucket: "pics".parse().expect("a bucket name"),
            owner: "ann".into(),
            region: "here".into(),
            key: "a b/ä+".parse().expect("a key"),
            version: None,
            bytes: Some(5),
            etag: Some("e1".into()),
        };
        let gone = Notice { event: "s3:ObjectRemoved:Delete".into(), bytes: None, etag: None, ..notice.clone() };
        let document = document(&[(7, notice), (255, gone)]);
        let read: Value = serde_json::from_slice(&document).expect("it is JSON");
        let records = &read["Records"];
        assert_eq!(records[0]["eventName"], "ObjectCreated:Put");
        assert_eq!(records[0]["eventTime"], "2023-11-14T22:13:20.123Z");
        let object = json!({ "key": "a+b/%C3%A4%2B", "sequencer": "0000000000000007", "size": 5, "eTag": "e1" });
        assert_eq!(records[0]["s3"]["object"], object);
        assert_eq!(records[0]["s3"]["bucket"]["arn"], "arn:aws:s3:::pics");
        assert_eq!(records[1]["s3"]["object"], json!({ "key": "a+b/%C3%A4%2B", "sequencer": "00000000000000FF" }));
    }
}
