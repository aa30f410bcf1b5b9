//! Everything here that reads what clients or disks give, by name, as something that takes any bytes: for fuzzing (`fuzz/` in the root)
//! and a property test. None may panic, whatever the bytes are.

use super::pattern::Pattern;
use super::policy::{Ask, Context, Policy, Who};
use super::{acl, date, notify, seal};
use crate::meta::kinds::Permission;

/// A decoder by its name.
pub type Decoder = (&'static str, fn(&[u8]));

/// All of them.
pub const ALL: &[Decoder] = &[("policy", policy), ("grants", grants), ("sealed", sealed), ("words", words)];

/// Gives `bytes` to all of them.
pub fn all(bytes: &[u8]) {
    ALL.iter().for_each(|(_, decode)| decode(bytes));
}

/// A policy, which is also asked something.
fn policy(bytes: &[u8]) {
    let Some(policy) = std::str::from_utf8(bytes).ok().and_then(|text| Policy::parse("pics", text).ok()) else {
        return;
    };
    let mut context = Context::default();
    context.add("s3:prefix", "a");
    context.add("aws:SourceIp", "10.0.0.1");
    for who in [Who::Anonymous, Who::User("ann")] {
        let _ = policy.verdict(&Ask { who, action: "s3:GetObject", resource: "pics/a", context: &context });
    }
    let _ = policy.is_public();
}

fn grants(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        drop(acl::from_headers(&[(Permission::Read, Some(text))], &|_| true));
        drop(acl::canned(text));
    }
}

/// A header of an object, and a stream.
fn sealed(bytes: &[u8]) {
    if let Ok(header) = seal::header::Header::decode(bytes) {
        let _ = (header.open_with_customer(&[1; 32]), header.open_with_master(&[1; 32]));
    }
    let plain = seal::plain_bytes(bytes.len() as u64).unwrap_or(bytes.len() as u64);
    if let Ok(mut opening) = seal::Opening::new(&seal::DataKey([1; 32]), 1, [2; 32], plain, 0) {
        let _ = (opening.push(bytes), opening.finish());
    }
}

fn words(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let (pattern, rest) = text.split_once('\n').unwrap_or((text, ""));
        if let Ok(pattern) = Pattern::new(pattern, true) {
            let _ = pattern.matches(rest, &|name| Some(name.to_owned()));
        }
        let _ = (date::parse(text), notify::url(text));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn samples() -> Vec<Vec<u8>> {
        let policy = r#"{"Version":"2012-10-17","Statement":[{"Sid":"a","Effect":"Allow","Principal":{"AWS":["ann","arn:aws:iam:::user/bob"]},
            "NotAction":"s3:Put*","Resource":["arn:aws:s3:::pics/${aws:username}/*"],"Condition":{"ForAnyValue:StringLikeIfExists":
            {"s3:RequestObjectTagKeys":["a*","${*}"]},"IpAddress":{"aws:SourceIp":"10.0.0.0/8"},"DateLessThan":
            {"aws:CurrentTime":"2026-01-01T00:00:00Z"},"NumericEquals":{"s3:max-keys":5},"Null":{"s3:x-amz-acl":"true"}}}]}"#;
        assert!(Policy::parse("pics", policy).is_ok());
        let grants = r#"id="ann", uri="http://acs.amazonaws.com/groups/global/AllUsers""#;
        let texts = [policy, grants, "public-read", "a*${aws:username}?\nbc", "2026-01-01T00:00:00.000Z"];
        let (header, _) = seal::header::Header::customer(&[1; 32], [2; 32]);
        texts.iter().map(|text| text.as_bytes().to_vec()).chain([header.encode()]).collect()
    }

    proptest! {
        #[test]
        fn no_decoder_panics(bytes in prop::collection::vec(any::<u8>(), 0..400), text in "\\PC{0,60}") {
            all(&bytes);
            all(text.as_bytes());
        }

        #[test]
        fn no_decoder_panics_at_what_is_almost_right(
            which in any::<prop::sample::Index>(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3_u8), 1..5),
        ) {
            let samples = samples();
            let mut bytes = which.get(&samples).clone();
            for (at, with, how) in changes {
                if bytes.is_empty() {
                    break;
                }
                let at = at.index(bytes.len());
                match how {
                    0 => bytes[at] = with,
                    1 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, with),
                }
            }
            all(&bytes);
        }
    }
}
