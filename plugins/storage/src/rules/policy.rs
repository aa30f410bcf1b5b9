//! Bucket policies: what a document says, and what is refused when it is put.
//!
//! A policy is JSON in the language of IAM (2012-10-17): statements that allow or deny *actions* on *resources* to *principals*, under
//! *conditions*. [`Policy::parse`] takes one; `evaluate` asks it; `public` says whether it opens the bucket to everybody.
//!
//! What is not honoured is refused when it is put, and never passed over: other operators, keys, kinds of principals, resources of
//! another bucket. Hirsel has no accounts apart from the owners of access keys, so a principal is one of these: `*`, an owner's name (in
//! `AWS` or `CanonicalUser`), `arn:aws:iam:::user/NAME`, `arn:aws:iam::NAME:root`, or a `Service`, which only hirsel itself acts as.

mod condition;
mod evaluate;
mod public;

pub use condition::{Condition, KEYS};
pub use evaluate::{Ask, Context, Verdict, Who};

use serde_json::{Map, Value};

use super::pattern::Pattern;

/// Statements of one policy. 20 KiB hold some hundred at most; each request looks at all of them.
pub const STATEMENTS_MAX: usize = 200;

/// Why a policy is not taken: S3's `MalformedPolicy`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PolicyError(pub String);

fn wrong<T>(words: impl Into<String>) -> Result<T, PolicyError> {
    Err(PolicyError(words.into()))
}

/// A policy.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// What it says. Their order means nothing: a denial counts wherever it is.
    pub statements: Vec<Statement>,
}

/// A statement.
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    /// What it does.
    pub effect: Effect,
    /// Whom it is about.
    pub principals: Principals,
    /// Which actions, in lower case: actions are compared without case.
    pub actions: Selected,
    /// Which resources, without `arn:aws:s3:::`.
    pub resources: Selected,
    /// What must hold, all of it.
    pub conditions: Vec<Condition>,
}

/// What a statement does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Effect {
    Allow,
    Deny,
}

/// Whom a statement is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principals {
    /// These.
    These(Vec<Principal>),
    /// All others.
    AllBut(Vec<Principal>),
}

/// One of whom a statement is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// Everybody, also who says no name.
    Everybody,
    /// The owner of this name.
    User(String),
    /// A part of hirsel that acts for itself, such as `logging.s3.amazonaws.com`.
    Service(String),
    /// Nobody that hirsel knows: an account of somebody else. It may be named, and matches nobody.
    Stranger(String),
}

/// Actions or resources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selected {
    /// What matches one of them.
    These(Vec<Pattern>),
    /// What matches none.
    AllBut(Vec<Pattern>),
}

impl Policy {
    /// Reads the policy of `bucket`.
    ///
    /// # Errors
    /// In words, when it cannot be read, or says something that would not be honoured.
    pub fn parse(bucket: &str, text: &str) -> Result<Self, PolicyError> {
        let value: Value = match serde_json::from_str(text) {
            Ok(value) => value,
            Err(error) => return wrong(format!("the policy is no JSON: {error}")),
        };
        let Value::Object(fields) = value else { return wrong("the policy is no object") };
        known(&fields, "the policy", &["Version", "Id", "Statement"])?;
        let variables = match fields.get("Version").map(Value::as_str) {
            None | Some(Some("2008-10-17")) => false,
            Some(Some("2012-10-17")) => true,
            Some(_) => return wrong("the version is neither 2012-10-17 nor 2008-10-17"),
        };
        let statements = match fields.get("Statement") {
            Some(Value::Array(list)) => list.as_slice(),
            Some(one @ Value::Object(_)) => std::slice::from_ref(one),
            _ => return wrong("the policy has no statement"),
        };
        if !(1..=STATEMENTS_MAX).contains(&statements.len()) {
            return wrong(format!("{} statements, 1 to {STATEMENTS_MAX} are", statements.len()));
        }
        let statements =
            statements.iter().map(|value| statement(bucket, value, variables)).collect::<Result<_, _>>()?;
        Ok(Self { statements })
    }
}

fn known(fields: &Map<String, Value>, what: &str, names: &[&str]) -> Result<(), PolicyError> {
    match fields.keys().find(|name| !names.contains(&name.as_str())) {
        Some(name) => wrong(format!("{what} has an unknown element {name:.80?}")),
        None => Ok(()),
    }
}

const ELEMENTS: [&str; 9] =
    ["Sid", "Effect", "Principal", "NotPrincipal", "Action", "NotAction", "Resource", "NotResource", "Condition"];

fn statement(bucket: &str, value: &Value, variables: bool) -> Result<Statement, PolicyError> {
    let Value::Object(fields) = value else { return wrong("a statement is no object") };
    known(fields, "a statement", &ELEMENTS)?;
    let effect = match fields.get("Effect").and_then(Value::as_str) {
        Some("Allow") => Effect::Allow,
        Some("Deny") => Effect::Deny,
        _ => return wrong("an effect is Allow or Deny"),
    };
    let principals = match one_of(fields, "Principal", "NotPrincipal")? {
        (value, false) => Principals::These(principals(value)?),
        (_, true) if effect == Effect::Allow => return wrong("NotPrincipal goes with Deny only"),
        (value, true) => Principals::AllBut(principals(value)?),
    };
    let actions = selected(one_of(fields, "Action", "NotAction")?, action)?;
    let resources = selected(one_of(fields, "Resource", "NotResource")?, |text| resource(bucket, text, variables))?;
    let conditions = match fields.get("Condition") {
        None => Vec::new(),
        Some(value) => condition::parse(value, variables)?,
    };
    Ok(Statement { effect, principals, actions, resources, conditions })
}

/// The element that is there of the two, and whether it is the negated one.
fn one_of<'a>(fields: &'a Map<String, Value>, name: &str, not: &str) -> Result<(&'a Value, bool), PolicyError> {
    match (fields.get(name), fields.get(not)) {
        (Some(value), None) => Ok((value, false)),
        (None, Some(value)) => Ok((value, true)),
        _ => wrong(format!("a statement has either {name} or {not}")),
    }
}

/// One text, or a list of some.
fn texts(value: &Value) -> Result<Vec<&str>, PolicyError> {
    let list = match value {
        Value::Array(list) if !list.is_empty() => list.iter().map(Value::as_str).collect::<Option<Vec<_>>>(),
        Value::String(text) => Some(vec![text.as_str()]),
        _ => None,
    };
    list.map_or_else(|| wrong("a text, or a list of texts, is missing"), Ok)
}

fn selected(
    (value, negated): (&Value, bool),
    read: impl Fn(&str) -> Result<Pattern, PolicyError>,
) -> Result<Selected, PolicyError> {
    let patterns = texts(value)?.into_iter().map(read).collect::<Result<_, _>>()?;
    Ok(if negated { Selected::AllBut(patterns) } else { Selected::These(patterns) })
}

fn action(text: &str) -> Result<Pattern, PolicyError> {
    let lower = text.to_ascii_lowercase();
    if lower != "*" && !lower.starts_with("s3:") {
        return wrong(format!("{text:.80?} is no action of S3"));
    }
    Pattern::new(&lower, false).map_err(PolicyError)
}

fn resource(bucket: &str, text: &str, variables: bool) -> Result<Pattern, PolicyError> {
    let path = match text {
        "*" => text,
        _ => match text.strip_prefix("arn:aws:s3:::") {
            Some(path) => path,
            None => return wrong(format!("resource {text:.80?} does not begin with arn:aws:s3:::")),
        },
    };
    let of = path.split('/').next().unwrap_or_default();
    let pattern = |text| Pattern::new(text, variables).map_err(PolicyError);
    // A star before the first slash may reach over it.
    let (of, whole) = (pattern(of)?, pattern(path)?);
    let fits = of.matches_plainly(bucket) || of.variables().next().is_some() || !of.is_fixed() && open(&of, bucket);
    if !fits {
        return wrong(format!("resource {text:.80?} is not in bucket {bucket}"));
    }
    Ok(whole)
}

/// Whether a pattern without a slash could match the bucket with something behind it.
fn open(pattern: &Pattern, bucket: &str) -> bool {
    let text = pattern.to_string();
    text.split_once('*').is_some_and(|(head, _)| {
        Pattern::new(&format!("{head}*"), false).is_ok_and(|head| head.matches_plainly(bucket))
    })
}

fn principals(value: &Value) -> Result<Vec<Principal>, PolicyError> {
    let fields = match value {
        Value::String(text) if text == "*" => return Ok(vec![Principal::Everybody]),
        Value::Object(fields) if !fields.is_empty() => fields,
        _ => return wrong("a principal is \"*\" or an object that is not empty"),
    };
    let mut all = Vec::new();
    for (kind, value) in fields {
        let read: fn(&str) -> Result<Principal, PolicyError> = match kind.as_str() {
            "AWS" | "CanonicalUser" => user,
            "Service" => |text| Ok(Principal::Service(text.to_owned())),
            _ => return wrong(format!("principals of the kind {kind:.80?} are not known here")),
        };
        for text in texts(value)? {
            all.push(read(text)?);
        }
    }
    Ok(all)
}

fn user(text: &str) -> Result<Principal, PolicyError> {
    if text == "*" {
        return Ok(Principal::Everybody);
    }
    let Some(arn) = text.strip_prefix("arn:") else {
        return match text {
            _ if text.is_empty() || text.contains(['*', '?']) => wrong(format!("{text:.80?} is no principal")),
            _ => Ok(Principal::User(text.to_owned())),
        };
    };
    let parts: Vec<&str> = arn.splitn(5, ':').collect();
    let [_, "iam", "", account, what] = parts[..] else { return wrong(format!("{text:.80?} is no principal")) };
    let name = |name: &str| match name.contains(['*', '?']) || name.is_empty() {
        true => wrong(format!("{text:.80?} is no principal")),
        false => Ok(name.to_owned()),
    };
    if what == "root" {
        return Ok(Principal::User(name(account)?));
    }
    match what.strip_prefix("user/").map(|path| path.rsplit('/').next().unwrap_or(path)) {
        Some(user) if account.is_empty() || account == user => Ok(Principal::User(name(user)?)),
        Some(user) => Ok(Principal::Stranger(name(user)?)),
        None => Ok(Principal::Stranger(name(what)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A policy of bucket `pics` with one statement, with these elements changed.
    pub(super) fn one(elements: &str) -> String {
        format!(r#"{{"Version":"2012-10-17","Statement":[{{{elements}}}]}}"#)
    }

    const GOOD: &str = r#""Effect":"Allow","Principal":"*","Action":"s3:GetObject","Resource":"arn:aws:s3:::pics/*""#;

    #[test]
    fn what_is_usual_is_taken() {
        for good in [
            GOOD,
            r#""Sid":"x","Effect":"Deny","NotPrincipal":{"AWS":["ann","bob"]},"NotAction":["s3:Get*"],"NotResource":["arn:aws:s3:::pics/a"]"#,
            r#""Effect":"Allow","Principal":{"AWS":"*"},"Action":"*","Resource":["arn:aws:s3:::*","arn:aws:s3:::*/*"]"#,
            r#""Effect":"Allow","Principal":{"CanonicalUser":"ann","Service":"logging.s3.amazonaws.com"},"Action":["s3:PutObject"],"Resource":"arn:aws:s3:::p*s/x?""#,
            r#""Effect":"Allow","Principal":"*","Action":"s3:*","Resource":"arn:aws:s3:::pi*/a","Condition":{"Bool":{"aws:SecureTransport":true}}"#,
        ] {
            Policy::parse("pics", &one(good)).unwrap_or_else(|error| panic!("{good}: {error}"));
        }
        let alone = r#"{"Statement":{"Effect":"Allow","Principal":"*","Action":"s3:GetObject","Resource":"arn:aws:s3:::pics"}}"#;
        assert_eq!(Policy::parse("pics", alone).expect("one statement is no list").statements.len(), 1);
    }

    #[test]
    fn what_would_not_be_honoured_is_refused() {
        for (from, to, says) in [
            (r#""Effect":"Allow""#, r#""Effect":"allow""#, "Allow or Deny"),
            (r#""Principal":"*""#, r#""NotPrincipal":{"AWS":"ann"}"#, "NotPrincipal"),
            (r#""Principal":"*""#, r#""Principal":{"Federated":"x"}"#, "Federated"),
            (r#""Principal":"*""#, r#""Principal":"ann""#, "principal"),
            (r#""Principal":"*""#, r#""Principal":{"AWS":"a*"}"#, "no principal"),
            (r#""Principal":"*""#, r#""Principal":{"AWS":"arn:aws:s3:::x"}"#, "no principal"),
            (r#""Principal":"*","#, "", "Principal"),
            ("s3:GetObject", "ec2:Run", "no action"),
            (r#""s3:GetObject""#, "[]", "missing"),
            (r#""s3:GetObject""#, "[1]", "missing"),
            ("pics/*", "films/*", "not in bucket"),
            ("pics/*", "pics2", "not in bucket"),
            ("arn:aws:s3:::pics/*", "pics/*", "does not begin"),
            (r#""Effect""#, r#""Why":"x","Effect""#, "unknown element"),
            (r#""Effect":"Allow""#, r#""Effect":"Allow","NotAction":"s3:*""#, "either"),
            (r#""Effect""#, r#""Condition":{"StringEquals":{"x:y":"z"}},"Effect""#, "key"),
        ] {
            let text = one(&GOOD.replacen(from, to, 1));
            let error = Policy::parse("pics", &text).expect_err(&text).to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
        let whole = [
            "",
            "[]",
            "{}",
            r#"{"Statement":[]}"#,
            r#"{"Statement":["x"]}"#,
            r#"{"Version":"2013-01-01","Statement":[]}"#,
            r#"{"version":"2012-10-17"}"#,
        ];
        for text in whole {
            assert!(Policy::parse("pics", text).is_err(), "{text}");
        }
        let many = vec![format!("{{{GOOD}}}"); STATEMENTS_MAX + 1].join(",");
        assert!(Policy::parse("pics", &format!(r#"{{"Statement":[{many}]}}"#)).is_err());
    }

    #[test]
    fn principals_are_owners_by_any_of_their_names() {
        let ann = Principal::User("ann".into());
        for text in ["ann", "arn:aws:iam:::user/ann", "arn:aws:iam::ann:root", "arn:aws:iam::ann:user/team/ann"] {
            assert_eq!(user(text), Ok(ann.clone()), "{text}");
        }
        for text in ["arn:aws:iam::123:user/ann", "arn:aws:iam::123:role/ann"] {
            assert!(matches!(user(text), Ok(Principal::Stranger(_))), "{text}");
        }
    }
}
