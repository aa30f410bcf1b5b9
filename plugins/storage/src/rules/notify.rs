//! Whom changes of objects are told to (S3's notification configuration): matched here, and sent by whoever carries them out.
//!
//! Hirsel tells a *webhook*: the ARN of a destination is `arn:hirsel:webhook:::URL`. Others (SNS, SQS, Lambda) are refused.

use serde::{Deserialize, Serialize};

/// Destinations of a bucket. S3 has a hundred; here each that wants an event is written down with the change, a thousand of which are one commit.
pub const RULES_MAX: usize = 10;
/// Bytes of the name of a rule (S3).
const ID_BYTES_MAX: usize = 255;
/// Bytes of a prefix or suffix: those of a key.
const FILTER_BYTES_MAX: usize = 1_024;

/// What begins the name of a destination.
const WEBHOOK: &str = "arn:hirsel:webhook:::";

/// Events that are told, each with the family that it belongs to.
const EVENTS: [&str; 11] = [
    "s3:ObjectCreated:Put",
    "s3:ObjectCreated:Post",
    "s3:ObjectCreated:Copy",
    "s3:ObjectCreated:CompleteMultipartUpload",
    "s3:ObjectRemoved:Delete",
    "s3:ObjectRemoved:DeleteMarkerCreated",
    "s3:ObjectTagging:Put",
    "s3:ObjectTagging:Delete",
    "s3:ObjectAcl:Put",
    "s3:LifecycleExpiration:Delete",
    "s3:LifecycleExpiration:DeleteMarkerCreated",
];

/// Whom to tell what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Its name.
    pub id: String,
    /// The ARN of who is told.
    pub to: String,
    /// Events: one, or a family (`s3:ObjectCreated:*`).
    pub events: Vec<String>,
    /// Of keys that begin with this.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    /// And end with this.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub suffix: String,
}

/// Why rules are not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotifyError(pub String);

/// The address of a webhook by its ARN.
pub fn url(arn: &str) -> Option<&str> {
    let url = arn.strip_prefix(WEBHOOK)?;
    let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
    let plain = url.len() <= 1_024 && url.bytes().all(|c| c.is_ascii_graphic() && c != b'"');
    (plain && !host.is_empty() && !host.starts_with(['/', ':', '@'])).then_some(url)
}

/// Checks rules when they are put.
///
/// # Errors
/// In words.
pub fn check(rules: &[Rule]) -> Result<(), NotifyError> {
    if rules.len() > RULES_MAX {
        return Err(NotifyError(format!("{} destinations exceed {RULES_MAX}", rules.len())));
    }
    for rule in rules {
        if url(&rule.to).is_none() {
            return Err(NotifyError(format!("{:.80?} is no destination: {WEBHOOK}http://…", rule.to)));
        }
        let long = |text: &String| text.len() > FILTER_BYTES_MAX;
        if rule.id.len() > ID_BYTES_MAX || long(&rule.prefix) || long(&rule.suffix) {
            let words = format!("an Id has {ID_BYTES_MAX} bytes, a prefix or suffix {FILTER_BYTES_MAX}, at most");
            return Err(NotifyError(words));
        }
        if rule.events.len() > EVENTS.len() {
            return Err(NotifyError(format!(
                "{} events exceed the {} that there are",
                rule.events.len(),
                EVENTS.len()
            )));
        }
        if rule.events.is_empty() {
            return Err(NotifyError("a destination is told of some event".into()));
        }
        if let Some(event) = rule.events.iter().find(|event| !EVENTS.iter().any(|known| is(event, known))) {
            return Err(NotifyError(format!("event {event:.80?} is not told here")));
        }
    }
    Ok(())
}

/// Whether an event is one that a rule names.
fn is(named: &str, event: &str) -> bool {
    match named.strip_suffix('*') {
        Some(family) => family.ends_with(':') && family.matches(':').count() == 2 && event.starts_with(family),
        None => named == event,
    }
}

/// Who is told of this event, in order.
pub fn told<'a>(rules: &'a [Rule], event: &str, key: &str) -> Vec<&'a Rule> {
    let fits = |rule: &&Rule| {
        let about = rule.events.iter().any(|named| is(named, event));
        about && key.starts_with(&rule.prefix) && key.ends_with(&rule.suffix)
    };
    rules.iter().filter(fits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(id: &str, event: &str) -> Rule {
        let to = "arn:hirsel:webhook:::https://hooks.example/a".into();
        Rule { id: id.into(), to, events: vec![event.into()], ..Rule::default() }
    }

    #[test]
    fn who_is_told_is_a_matter_of_event_prefix_and_suffix() {
        let pics = Rule { prefix: "pics/".into(), suffix: ".jpg".into(), ..rule("pics", "s3:ObjectCreated:*") };
        let rules = [pics, rule("gone", "s3:ObjectRemoved:Delete")];
        check(&rules).expect("they are good");
        let ids = |event, key| told(&rules, event, key).into_iter().map(|rule| rule.id.as_str()).collect::<Vec<_>>();
        assert_eq!(ids("s3:ObjectCreated:Put", "pics/a.jpg"), ["pics"]);
        assert_eq!(ids("s3:ObjectCreated:Put", "pics/a.png"), [""; 0]);
        assert_eq!(ids("s3:ObjectCreated:Copy", "a.jpg"), [""; 0]);
        assert_eq!(ids("s3:ObjectRemoved:Delete", "a"), ["gone"]);
        assert_eq!(ids("s3:ObjectRemoved:DeleteMarkerCreated", "a"), [""; 0]);
    }

    #[test]
    fn what_could_not_be_told_is_refused() {
        for to in [
            "arn:aws:sns:::t",
            "arn:hirsel:webhook:::ftp://x",
            "arn:hirsel:webhook:::http://",
            "arn:hirsel:webhook:::http://a b",
        ] {
            assert!(check(&[Rule { to: to.into(), ..rule("a", "s3:ObjectCreated:*") }]).is_err(), "{to}");
        }
        for event in ["s3:ObjectRestore:*", "s3:*", "s3:ObjectCreated*", "", "*"] {
            assert!(check(&[rule("a", event)]).is_err(), "{event}");
        }
        assert!(check(&[Rule { events: Vec::new(), ..rule("a", "x") }]).is_err());
        let good = rule("a", "s3:ObjectCreated:Put");
        for bad in [
            Rule { id: "i".repeat(256), ..good.clone() },
            Rule { prefix: "p".repeat(1_025), ..good.clone() },
            Rule { suffix: "s".repeat(1_025), ..good.clone() },
            Rule { events: vec!["s3:ObjectCreated:Put".into(); 12], ..good },
        ] {
            assert!(check(&[bad]).is_err());
        }
        assert!(check(&vec![rule("a", "s3:ObjectCreated:Put"); RULES_MAX + 1]).is_err());
        assert!(check(&[]).is_ok());
    }
}
