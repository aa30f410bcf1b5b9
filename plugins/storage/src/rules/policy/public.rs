//! Whether a policy opens something to everybody, as S3 means it ("The meaning of public"): a statement that allows it to everybody, with
//! no condition that ties it to something fixed.

use super::condition::{Condition, Network, Operator, Quantifier, Values};
use super::{Effect, Policy, Principal, Principals, Statement};

/// Keys that say where a request comes from. A condition on another one does not make a statement less public.
const TIES: &[&str] = &[
    "aws:principalarn",
    "aws:sourceaccount",
    "aws:sourcearn",
    "aws:sourceip",
    "aws:userid",
    "aws:username",
    "s3:x-amz-server-side-encryption-aws-kms-key-id",
];

/// The widest networks that count as fixed (S3).
const BITS_MIN_V4: u8 = 8;
const BITS_MIN_V6: u8 = 32;

impl Policy {
    /// Whether everybody may do something by it.
    pub fn is_public(&self) -> bool {
        self.statements.iter().any(is_public)
    }
}

fn is_public(statement: &Statement) -> bool {
    let everybody = match &statement.principals {
        Principals::These(list) => list.contains(&Principal::Everybody),
        Principals::AllBut(_) => true,
    };
    statement.effect == Effect::Allow && everybody && !statement.conditions.iter().any(ties)
}

/// Whether a condition holds of requests from certain places only.
fn ties(condition: &Condition) -> bool {
    let Condition { operator, not, if_exists, of, key, values } = condition;
    if *not || *if_exists || *of == Quantifier::All || *operator == Operator::Null || !TIES.contains(&key.as_str()) {
        return false;
    }
    match values {
        Values::Texts(patterns) => patterns.iter().all(|pattern| pattern.is_fixed()),
        Values::Networks(networks) => networks.iter().all(is_narrow),
        Values::Numbers(_) | Values::Bools(_) => false,
    }
}

fn is_narrow(network: &Network) -> bool {
    network.bits >= if network.address.is_ipv4() { BITS_MIN_V4 } else { BITS_MIN_V6 }
}

#[cfg(test)]
mod tests {
    use super::super::tests::one;
    use super::*;

    fn public(elements: &str) -> bool {
        let text = one(&format!(r#"{elements},"Action":"s3:ListBucket","Resource":"arn:aws:s3:::pics""#));
        Policy::parse("pics", &text).unwrap_or_else(|error| panic!("{text}: {error}")).is_public()
    }

    #[test]
    fn everybody_without_a_tie_is_public() {
        for yes in [
            r#""Effect":"Allow","Principal":"*""#,
            r#""Effect":"Allow","Principal":{"AWS":["ann","*"]}"#,
            r#""Effect":"Allow","Principal":"*","Condition":{"IpAddress":{"aws:SourceIp":"0.0.0.0/0"}}"#,
            r#""Effect":"Allow","Principal":"*","Condition":{"NotIpAddress":{"aws:SourceIp":"10.0.0.0/8"}}"#,
            r#""Effect":"Allow","Principal":"*","Condition":{"StringLike":{"aws:userid":"*"}}"#,
            r#""Effect":"Allow","Principal":"*","Condition":{"StringEqualsIfExists":{"aws:userid":"ann"}}"#,
            r#""Effect":"Allow","Principal":"*","Condition":{"StringEquals":{"s3:prefix":"a"}}"#,
        ] {
            assert!(public(yes), "{yes}");
        }
        for no in [
            r#""Effect":"Deny","Principal":"*""#,
            r#""Effect":"Allow","Principal":{"AWS":"ann"}"#,
            r#""Effect":"Allow","Principal":{"AWS":"arn:aws:iam::s3tenant1:root"}"#,
            r#""Effect":"Allow","Principal":{"Service":"x"}"#,
            r#""Effect":"Allow","Principal":"*","Condition":{"IpAddress":{"aws:SourceIp":"10.0.0.0/32"}}"#,
            r#""Effect":"Allow","Principal":"*","Condition":{"StringEquals":{"aws:userid":["ann","bob"]}}"#,
        ] {
            assert!(!public(no), "{no}");
        }
    }
}
