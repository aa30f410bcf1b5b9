//! Conditions of a statement: an operator, a key of what is known of the request, and values.

use std::net::IpAddr;

use serde_json::Value;

use super::{Context, PolicyError, texts, wrong};
use crate::rules::date;
use crate::rules::pattern::Pattern;

/// The keys that are known, in lower case; one that ends with a slash goes on with the key of a tag.
pub const KEYS: &[&str] = &[
    "aws:currenttime",
    "aws:epochtime",
    "aws:principalarn",
    "aws:principaltype",
    "aws:referer",
    "aws:securetransport",
    "aws:sourceaccount",
    "aws:sourcearn",
    "aws:sourceip",
    "aws:useragent",
    "aws:userid",
    "aws:username",
    "s3:authtype",
    "s3:delimiter",
    "s3:existingobjecttag/",
    "s3:max-keys",
    "s3:object-lock-legal-hold",
    "s3:object-lock-mode",
    "s3:object-lock-retain-until-date",
    "s3:prefix",
    "s3:requestobjecttag/",
    "s3:requestobjecttagkeys",
    "s3:signatureversion",
    "s3:versionid",
    "s3:x-amz-acl",
    "s3:x-amz-content-sha256",
    "s3:x-amz-copy-source",
    "s3:x-amz-grant-full-control",
    "s3:x-amz-grant-read",
    "s3:x-amz-grant-read-acp",
    "s3:x-amz-grant-write",
    "s3:x-amz-grant-write-acp",
    "s3:x-amz-metadata-directive",
    "s3:x-amz-server-side-encryption",
    "s3:x-amz-server-side-encryption-aws-kms-key-id",
    "s3:x-amz-server-side-encryption-customer-algorithm",
    "s3:x-amz-storage-class",
];

/// A condition.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// How values are compared.
    pub(super) operator: Operator,
    /// The negation of it.
    pub(super) not: bool,
    /// It holds where the key is not known.
    pub(super) if_exists: bool,
    /// What of several values must fit.
    pub(super) of: Quantifier,
    /// The key, lower case before the first slash.
    pub(super) key: String,
    /// One of them must fit.
    pub(super) values: Values,
}

/// Which of several values of a key must fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quantifier {
    /// The key has one value.
    One,
    All,
    Any,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Equals,
    EqualsIgnoreCase,
    Like,
    Number(Order),
    Date(Order),
    Bool,
    Address,
    Null,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Values {
    Texts(Vec<Pattern>),
    /// Numbers, and moments in seconds.
    Numbers(Vec<f64>),
    Bools(Vec<bool>),
    Networks(Vec<Network>),
}

/// Addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Network {
    pub(super) address: IpAddr,
    pub(super) bits: u8,
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            Some(bits) if bits.bytes().all(|c| c.is_ascii_digit()) => bits.parse().ok().filter(|bits| *bits <= most)?,
            Some(_) => return None,
            None => most,
        };
        Some(Self { address, bits })
    }

    fn has(&self, address: IpAddr) -> bool {
        let plain = |address: IpAddr| match address.to_canonical() {
            IpAddr::V4(four) => (u128::from(four.to_bits()) << 96, true),
            IpAddr::V6(six) => (six.to_bits(), false),
        };
        let ((ours, four), (theirs, also)) = (plain(self.address), plain(address));
        let differ = (ours ^ theirs).leading_zeros();
        four == also && differ >= u32::from(self.bits)
    }
}

/// Reads the element `Condition` of a statement.
pub(super) fn parse(value: &Value, variables: bool) -> Result<Vec<Condition>, PolicyError> {
    let Value::Object(operators) = value else { return wrong("a condition is an object of operators") };
    let mut conditions = Vec::new();
    for (name, keys) in operators {
        let Value::Object(keys) = keys else { return wrong(format!("{name:.80?} is no object of keys")) };
        for (key, values) in keys {
            conditions.push(condition(name, key, values, variables)?);
        }
    }
    Ok(conditions)
}

fn condition(name: &str, key: &str, values: &Value, variables: bool) -> Result<Condition, PolicyError> {
    let (of, rest) = match name.split_once(':') {
        Some(("ForAllValues", rest)) => (Quantifier::All, rest),
        Some(("ForAnyValue", rest)) => (Quantifier::Any, rest),
        Some(_) => return wrong(format!("{name:.80?} is no operator")),
        None => (Quantifier::One, name),
    };
    let (plain, if_exists) = rest.strip_suffix("IfExists").map_or((rest, false), |plain| (plain, true));
    let Some((operator, not)) = operator(plain).filter(|(operator, _)| *operator != Operator::Null || rest == plain)
    else {
        return wrong(format!("{name:.80?} is no operator"));
    };
    let key = known_key(key)?;
    let values = read(operator, values, variables)?;
    Ok(Condition { operator, not, if_exists, of, key, values })
}

fn operator(name: &str) -> Option<(Operator, bool)> {
    let ordered = |rest: &str| {
        Some(match rest {
            "Equals" => (Order::Equal, false),
            "NotEquals" => (Order::Equal, true),
            "LessThan" => (Order::Less, false),
            "LessThanEquals" => (Order::LessOrEqual, false),
            "GreaterThan" => (Order::Greater, false),
            "GreaterThanEquals" => (Order::GreaterOrEqual, false),
            _ => return None,
        })
    };
    Some(match name {
        "StringEquals" => (Operator::Equals, false),
        "StringNotEquals" => (Operator::Equals, true),
        "StringEqualsIgnoreCase" => (Operator::EqualsIgnoreCase, false),
        "StringNotEqualsIgnoreCase" => (Operator::EqualsIgnoreCase, true),
        // Of names of resources S3 lets patterns stand for both.
        "StringLike" | "ArnLike" | "ArnEquals" => (Operator::Like, false),
        "StringNotLike" | "ArnNotLike" | "ArnNotEquals" => (Operator::Like, true),
        "Bool" => (Operator::Bool, false),
        "IpAddress" => (Operator::Address, false),
        "NotIpAddress" => (Operator::Address, true),
        "Null" => (Operator::Null, false),
        _ => match (name.strip_prefix("Numeric"), name.strip_prefix("Date")) {
            (Some(rest), _) => ordered(rest).map(|(order, not)| (Operator::Number(order), not))?,
            (None, Some(rest)) => ordered(rest).map(|(order, not)| (Operator::Date(order), not))?,
            (None, None) => return None,
        },
    })
}

/// A key as it is looked up: in lower case, but for what belongs to a tag.
fn known_key(key: &str) -> Result<String, PolicyError> {
    let (name, tag) = key.split_once('/').map_or((key, None), |(name, tag)| (name, Some(tag)));
    let name = name.to_ascii_lowercase();
    let full = if tag.is_some() { format!("{name}/") } else { name };
    if !KEYS.contains(&full.as_str()) || tag == Some("") {
        return wrong(format!("key {key:.80?} of a condition is not known here"));
    }
    Ok(full + tag.unwrap_or_default())
}

fn read(operator: Operator, value: &Value, variables: bool) -> Result<Values, PolicyError> {
    let plain;
    // Numbers and truth may be written without quotes.
    let list = match value {
        Value::Bool(_) | Value::Number(_) => {
            plain = value.to_string();
            vec![plain.as_str()]
        }
        _ => texts(value)?,
    };
    fn all<T>(list: &[&str], what: &str, read: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, PolicyError> {
        let one = |text: &&str| read(text).map_or_else(|| wrong(format!("{text:.80?} is no {what}")), Ok);
        list.iter().map(one).collect()
    }
    Ok(match operator {
        Operator::Equals | Operator::EqualsIgnoreCase if !variables => {
            Values::Texts(list.into_iter().map(Pattern::exactly).collect())
        }
        Operator::Equals | Operator::EqualsIgnoreCase => {
            // Stars are no patterns here, variables are variables.
            let read = |text: &&str| Pattern::new(&escaped(text), true).map_err(PolicyError);
            Values::Texts(list.iter().map(read).collect::<Result<_, _>>()?)
        }
        Operator::Like => {
            let read = |text: &&str| Pattern::new(text, variables).map_err(PolicyError);
            Values::Texts(list.iter().map(read).collect::<Result<_, _>>()?)
        }
        Operator::Number(_) => Values::Numbers(all(&list, "number", number)?),
        Operator::Date(_) => Values::Numbers(all(&list, "date", moment)?),
        Operator::Bool | Operator::Null => Values::Bools(all(&list, "truth", truth)?),
        Operator::Address => Values::Networks(all(&list, "address or network", Network::parse)?),
    })
}

/// The stars and question marks of a text as variables that stand for themselves.
fn escaped(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find(['*', '?', '$']) {
        out.push_str(&rest[..at]);
        let inside = rest[at..].starts_with("${").then(|| rest[at..].find('}')).flatten();
        let end = inside.map_or(at + 1, |end| at + end + 1);
        match inside {
            Some(_) => out.push_str(&rest[at..end]),
            None => out.push_str(&format!("${{{}}}", &rest[at..end])),
        }
        rest = &rest[end..];
    }
    out + rest
}

fn number(text: &str) -> Option<f64> {
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

fn truth(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

/// Seconds since 1970, written so or as a date.
fn moment(text: &str) -> Option<f64> {
    number(text).or_else(|| date::parse(text).map(|time| time.0 as f64 / 1_000.0))
}

impl Condition {
    /// Whether it holds of a request.
    pub(super) fn holds(&self, context: &Context) -> bool {
        let known = context.get(&self.key);
        if let (Operator::Null, Values::Bools(wanted)) = (self.operator, &self.values) {
            return wanted.contains(&known.is_empty());
        }
        match (self.of, known.is_empty()) {
            (Quantifier::All, true) => true,
            (Quantifier::One | Quantifier::Any, true) if self.if_exists => true,
            (Quantifier::Any, true) => false,
            // What is not there is not equal to anything.
            (Quantifier::One, true) => self.not,
            (Quantifier::All, false) => known.iter().all(|value| self.fits(value, context) != self.not),
            (Quantifier::Any, false) => known.iter().any(|value| self.fits(value, context) != self.not),
            (Quantifier::One, false) => known.iter().any(|value| self.fits(value, context)) != self.not,
        }
    }

    /// Whether a value is what one of ours says, before any negation.
    fn fits(&self, value: &str, context: &Context) -> bool {
        let ordered = |order: Order, theirs: Option<f64>, ours: &[f64]| {
            let holds = |ours: &f64, theirs: f64| match order {
                Order::Equal => theirs == *ours,
                Order::Less => theirs < *ours,
                Order::LessOrEqual => theirs <= *ours,
                Order::Greater => theirs > *ours,
                Order::GreaterOrEqual => theirs >= *ours,
            };
            theirs.is_some_and(|theirs| ours.iter().any(|ours| holds(ours, theirs)))
        };
        let lookup = |name: &str| context.one(name);
        match (self.operator, &self.values) {
            (Operator::EqualsIgnoreCase, Values::Texts(patterns)) => {
                let lower = value.to_lowercase();
                let plain = |pattern: &Pattern| pattern.to_string().to_lowercase();
                patterns.iter().any(|pattern| pattern.matches(value, &lookup) || plain(pattern) == lower)
            }
            (_, Values::Texts(patterns)) => patterns.iter().any(|pattern| pattern.matches(value, &lookup)),
            (Operator::Number(order), Values::Numbers(ours)) => ordered(order, number(value), ours),
            (Operator::Date(order), Values::Numbers(ours)) => ordered(order, moment(value), ours),
            (_, Values::Numbers(_)) => false,
            (_, Values::Bools(ours)) => truth(value).is_some_and(|theirs| ours.contains(&theirs)),
            (_, Values::Networks(networks)) => {
                value.parse().is_ok_and(|address| networks.iter().any(|network| network.has(address)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(condition: &str, known: &[(&str, &str)]) -> bool {
        let value: Value = serde_json::from_str(condition).expect("JSON");
        let conditions = parse(&value, true).unwrap_or_else(|error| panic!("{condition}: {error}"));
        let mut context = Context::default();
        known.iter().for_each(|(key, value)| context.add(key, *value));
        conditions.iter().all(|condition| condition.holds(&context))
    }

    #[test]
    fn operators_compare_as_they_are_called() {
        let table = [
            (r#"{"StringEquals":{"s3:prefix":["a","b"]}}"#, "s3:prefix", "b", true),
            (r#"{"StringEquals":{"s3:prefix":"a*"}}"#, "s3:prefix", "ab", false),
            (r#"{"StringEquals":{"s3:prefix":"a*?$"}}"#, "s3:prefix", "a*?$", true),
            (r#"{"StringNotEquals":{"s3:prefix":["a","b"]}}"#, "s3:prefix", "b", false),
            (r#"{"StringNotEquals":{"s3:prefix":["a","b"]}}"#, "s3:prefix", "c", true),
            (r#"{"StringEqualsIgnoreCase":{"aws:Referer":"HTTP://X"}}"#, "aws:referer", "http://x", true),
            (r#"{"StringNotEqualsIgnoreCase":{"aws:Referer":"X"}}"#, "aws:referer", "x", false),
            (r#"{"StringLike":{"aws:Referer":"http://*.example/*"}}"#, "aws:referer", "http://www.example/", true),
            (r#"{"StringNotLike":{"aws:Referer":"http://*"}}"#, "aws:referer", "https://x", true),
            (r#"{"ArnEquals":{"aws:SourceArn":"arn:aws:s3:::p*"}}"#, "aws:sourcearn", "arn:aws:s3:::pics", true),
            (r#"{"NumericEquals":{"s3:max-keys":10}}"#, "s3:max-keys", "10", true),
            (r#"{"NumericNotEquals":{"s3:max-keys":"10"}}"#, "s3:max-keys", "10", false),
            (r#"{"NumericLessThan":{"s3:max-keys":"10"}}"#, "s3:max-keys", "10", false),
            (r#"{"NumericLessThanEquals":{"s3:max-keys":"10"}}"#, "s3:max-keys", "10", true),
            (r#"{"NumericGreaterThan":{"s3:max-keys":"10"}}"#, "s3:max-keys", "11", true),
            (r#"{"NumericGreaterThanEquals":{"s3:max-keys":"10"}}"#, "s3:max-keys", "x", false),
            (r#"{"DateLessThan":{"aws:CurrentTime":"2026-01-01"}}"#, "aws:currenttime", "2025-12-31T23:59:59Z", true),
            (r#"{"DateGreaterThan":{"aws:EpochTime":"2026-01-01T00:00:00Z"}}"#, "aws:epochtime", "1767225600", false),
            (r#"{"DateEquals":{"aws:EpochTime":"2026-01-01T00:00:00Z"}}"#, "aws:epochtime", "1767225600", true),
            (r#"{"Bool":{"aws:SecureTransport":"False"}}"#, "aws:securetransport", "false", true),
            (r#"{"IpAddress":{"aws:SourceIp":["10.0.0.0/8","::1"]}}"#, "aws:sourceip", "10.9.9.9", true),
            (r#"{"IpAddress":{"aws:SourceIp":"10.0.0.0/8"}}"#, "aws:sourceip", "::ffff:10.1.2.3", true),
            (r#"{"IpAddress":{"aws:SourceIp":"0.0.0.0/0"}}"#, "aws:sourceip", "::2", false),
            (r#"{"NotIpAddress":{"aws:SourceIp":"fd00::/8"}}"#, "aws:sourceip", "fe80::1", true),
            (r#"{"Null":{"s3:x-amz-acl":"true"}}"#, "s3:prefix", "", true),
            (r#"{"Null":{"s3:prefix":true}}"#, "s3:prefix", "", false),
            (r#"{"Null":{"s3:prefix":"false"}}"#, "s3:prefix", "", true),
        ];
        for (condition, key, value, is) in table {
            assert_eq!(holds(condition, &[(key, value)]), is, "{condition} {value}");
        }
    }

    #[test]
    fn what_is_not_known_equals_nothing_unless_it_may_be_missing() {
        let table = [
            (r#"{"StringEquals":{"s3:prefix":"a"}}"#, false),
            (r#"{"StringNotEquals":{"s3:prefix":"a"}}"#, true),
            (r#"{"StringEqualsIfExists":{"s3:prefix":"a"}}"#, true),
            (r#"{"StringLikeIfExists":{"aws:Referer":"x"}}"#, true),
            (r#"{"ForAllValues:StringEquals":{"s3:RequestObjectTagKeys":"a"}}"#, true),
            (r#"{"ForAnyValue:StringEquals":{"s3:RequestObjectTagKeys":"a"}}"#, false),
            (r#"{"ForAnyValue:StringEqualsIfExists":{"s3:RequestObjectTagKeys":"a"}}"#, true),
            (r#"{"NumericLessThan":{"s3:max-keys":"1"}}"#, false),
        ];
        for (condition, is) in table {
            assert_eq!(holds(condition, &[]), is, "{condition}");
        }
    }

    #[test]
    fn of_several_values_all_or_any_fit() {
        let key = "s3:requestobjecttagkeys";
        let both = [(key, "a"), (key, "b")];
        assert!(holds(r#"{"ForAllValues:StringEquals":{"s3:RequestObjectTagKeys":["a","b","c"]}}"#, &both));
        assert!(!holds(r#"{"ForAllValues:StringEquals":{"s3:RequestObjectTagKeys":"a"}}"#, &both));
        assert!(holds(r#"{"ForAnyValue:StringEquals":{"s3:RequestObjectTagKeys":"a"}}"#, &both));
        assert!(holds(r#"{"ForAnyValue:StringNotEquals":{"s3:RequestObjectTagKeys":"a"}}"#, &both));
        assert!(!holds(r#"{"ForAllValues:StringNotEquals":{"s3:RequestObjectTagKeys":"a"}}"#, &both));
    }

    #[test]
    fn keys_are_without_case_but_for_tags_and_all_must_hold() {
        let tag = r#"{"StringEquals":{"s3:ExistingObjectTag/Team":"x"}}"#;
        assert!(holds(tag, &[("s3:existingobjecttag/Team", "x")]));
        assert!(!holds(tag, &[("s3:existingobjecttag/team", "x")]));
        let two = r#"{"StringEquals":{"S3:Prefix":"a"},"Bool":{"aws:securetransport":"true"}}"#;
        assert!(holds(two, &[("s3:prefix", "a"), ("aws:securetransport", "true")]));
        assert!(!holds(two, &[("s3:prefix", "a"), ("aws:securetransport", "false")]));
        assert!(holds(
            r#"{"StringLike":{"s3:prefix":"${aws:username}/*"}}"#,
            &[("aws:username", "ann"), ("s3:prefix", "ann/")]
        ));
        assert!(holds(
            r#"{"StringEquals":{"s3:prefix":"${aws:username}"}}"#,
            &[("aws:username", "ann"), ("s3:prefix", "ann")]
        ));
    }

    #[test]
    fn values_of_the_wrong_kind_are_refused() {
        for bad in [
            r#"{"StringEqual":{"s3:prefix":"a"}}"#,
            r#"{"NullIfExists":{"s3:prefix":"true"}}"#,
            r#"{"ForSome:StringEquals":{"s3:prefix":"a"}}"#,
            r#"{"StringEquals":{"s3:frobnicate":"a"}}"#,
            r#"{"StringEquals":{"s3:ExistingObjectTag/":"a"}}"#,
            r#"{"StringEquals":{"s3:prefix":{}}}"#,
            r#"{"StringEquals":"x"}"#,
            r#"{"NumericEquals":{"s3:max-keys":"ten"}}"#,
            r#"{"NumericEquals":{"s3:max-keys":"NaN"}}"#,
            r#"{"DateEquals":{"aws:CurrentTime":"soon"}}"#,
            r#"{"Bool":{"aws:SecureTransport":"yes"}}"#,
            r#"{"IpAddress":{"aws:SourceIp":"10.0.0.0/33"}}"#,
            r#"{"IpAddress":{"aws:SourceIp":"10.0.0/8"}}"#,
            r#"{"IpAddress":{"aws:SourceIp":"10.0.0.0/+8"}}"#,
        ] {
            let value: Value = serde_json::from_str(bad).expect("JSON");
            assert!(parse(&value, true).is_err(), "{bad}");
        }
    }
}
