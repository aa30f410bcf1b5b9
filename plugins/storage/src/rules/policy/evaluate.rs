//! Asking a policy: a denial counts before a permission, and both before silence.

use std::collections::BTreeMap;

use super::{Effect, Policy, Principal, Principals, Selected, Statement};
use crate::rules::pattern::Pattern;

/// What is known of a request, by the keys of conditions. Keys are without case before a slash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context(BTreeMap<String, Vec<String>>);

impl Context {
    /// Adds a value.
    pub fn add(&mut self, key: &str, value: impl Into<String>) {
        self.0.entry(folded(key)).or_default().push(value.into());
    }

    /// Adds a value where there is one.
    pub fn add_some(&mut self, key: &str, value: Option<impl Into<String>>) {
        if let Some(value) = value {
            self.add(key, value);
        }
    }

    pub(super) fn get(&self, key: &str) -> &[String] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    /// The only value of a key.
    pub(super) fn one(&self, key: &str) -> Option<String> {
        match self.get(&folded(key)) {
            [value] => Some(value.clone()),
            _ => None,
        }
    }
}

fn folded(key: &str) -> String {
    match key.split_once('/') {
        Some((name, tag)) => format!("{}/{tag}", name.to_ascii_lowercase()),
        None => key.to_ascii_lowercase(),
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who<'a> {
    /// Somebody without a name.
    Anonymous,
    /// The owner of the access key that signed.
    User(&'a str),
    /// A part of hirsel that acts for itself.
    Service(&'a str),
}

/// One question.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Who asks.
    pub who: Who<'a>,
    /// What for: `s3:GetObject`.
    pub action: &'a str,
    /// Of what: `bucket` or `bucket/key`.
    pub resource: &'a str,
    /// What is known besides.
    pub context: &'a Context,
}

/// What a policy says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No, whatever others say.
    Denied,
    /// Yes.
    Allowed,
    /// Nothing.
    Silent,
}

impl Policy {
    /// What it says to a question.
    pub fn verdict(&self, ask: &Ask<'_>) -> Verdict {
        let action = ask.action.to_ascii_lowercase();
        let mut verdict = Verdict::Silent;
        for statement in self.statements.iter().filter(|statement| statement.is_about(ask, &action)) {
            match statement.effect {
                Effect::Deny => return Verdict::Denied,
                Effect::Allow => verdict = Verdict::Allowed,
            }
        }
        verdict
    }
}

impl Statement {
    fn is_about(&self, ask: &Ask<'_>, action: &str) -> bool {
        let lookup = |name: &str| ask.context.one(name);
        self.principals.has(ask.who)
            && self.actions.has(|pattern| pattern.matches_plainly(action))
            && self.resources.has(|pattern| pattern.matches(ask.resource, &lookup))
            && self.conditions.iter().all(|condition| condition.holds(ask.context))
    }
}

impl Principals {
    fn has(&self, who: Who<'_>) -> bool {
        let is = |principal: &Principal| match (principal, who) {
            (Principal::Everybody, Who::Anonymous | Who::User(_)) => true,
            (Principal::User(name), Who::User(user)) => name == user,
            (Principal::Service(name), Who::Service(service)) => name == service,
            (Principal::Everybody | Principal::User(_) | Principal::Service(_) | Principal::Stranger(_), _) => false,
        };
        match self {
            Principals::These(list) => list.iter().any(is),
            Principals::AllBut(list) => !list.iter().any(is),
        }
    }
}

impl Selected {
    fn has(&self, is: impl Fn(&Pattern) -> bool) -> bool {
        match self {
            Selected::These(patterns) => patterns.iter().any(is),
            Selected::AllBut(patterns) => !patterns.iter().any(is),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::one;
    use super::*;

    fn ask(policy: &str, who: Who<'_>, action: &str, resource: &str) -> Verdict {
        let policy = Policy::parse("pics", policy).unwrap_or_else(|error| panic!("{policy}: {error}"));
        policy.verdict(&Ask { who, action, resource, context: &Context::default() })
    }

    #[test]
    fn an_action_on_the_bucket_is_not_one_on_its_objects() {
        let policy =
            one(r#""Effect":"Allow","Principal":{"AWS":"*"},"Action":"s3:PutObject","Resource":"arn:aws:s3:::pics""#);
        assert_eq!(ask(&policy, Who::User("bob"), "s3:PutObject", "pics/a"), Verdict::Silent);
        let policy = policy.replace(":::pics", ":::pics/a");
        assert_eq!(ask(&policy, Who::User("bob"), "s3:PutObject", "pics/a"), Verdict::Allowed);
        assert_eq!(ask(&policy, Who::User("bob"), "s3:putobject", "pics/a"), Verdict::Allowed, "case does not count");
        assert_eq!(ask(&policy, Who::User("bob"), "s3:PutObject", "pics/A"), Verdict::Silent, "in keys it does");
        assert_eq!(ask(&policy, Who::Anonymous, "s3:PutObject", "pics/a"), Verdict::Allowed);
        assert_eq!(
            ask(&policy, Who::Service("x"), "s3:PutObject", "pics/a"),
            Verdict::Silent,
            "no service is everybody"
        );
        assert_eq!(ask(&policy, Who::User("bob"), "s3:GetObject", "pics/a"), Verdict::Silent);
    }

    #[test]
    fn a_denial_counts_wherever_it_is() {
        let allow = r#"{"Effect":"Allow","Principal":"*","Action":"s3:*","Resource":["arn:aws:s3:::pics","arn:aws:s3:::pics/*"]}"#;
        let deny = r#"{"Effect":"Deny","NotPrincipal":{"AWS":"ann"},"NotAction":"s3:Get*","NotResource":"arn:aws:s3:::pics/open/*"}"#;
        for both in [format!("[{allow},{deny}]"), format!("[{deny},{allow}]")] {
            let policy = format!(r#"{{"Version":"2012-10-17","Statement":{both}}}"#);
            let ask = |who, action, resource| ask(&policy, who, action, resource);
            assert_eq!(ask(Who::User("bob"), "s3:PutObject", "pics/a"), Verdict::Denied);
            assert_eq!(ask(Who::User("ann"), "s3:PutObject", "pics/a"), Verdict::Allowed);
            assert_eq!(ask(Who::User("bob"), "s3:GetObject", "pics/a"), Verdict::Allowed);
            assert_eq!(ask(Who::User("bob"), "s3:PutObject", "pics/open/a"), Verdict::Allowed);
        }
    }

    #[test]
    fn names_services_and_variables_are_who_asks() {
        let policy = one(
            r#""Effect":"Allow","Principal":{"AWS":["ann"],"Service":"logging.s3.amazonaws.com"},"Action":"s3:PutObject","Resource":"arn:aws:s3:::pics/${aws:username}/*""#,
        );
        let policy = Policy::parse("pics", &policy).expect("a policy");
        let mut context = Context::default();
        context.add("aws:userName", "ann");
        let ask = |who, resource| policy.verdict(&Ask { who, action: "s3:PutObject", resource, context: &context });
        assert_eq!(ask(Who::User("ann"), "pics/ann/a"), Verdict::Allowed);
        assert_eq!(ask(Who::User("ann"), "pics/bob/a"), Verdict::Silent);
        assert_eq!(ask(Who::User("bob"), "pics/ann/a"), Verdict::Silent);
        assert_eq!(ask(Who::Service("logging.s3.amazonaws.com"), "pics/ann/a"), Verdict::Allowed);
        assert_eq!(ask(Who::Anonymous, "pics/ann/a"), Verdict::Silent);
    }

    proptest! {
        #[test]
        fn whatever_is_added_a_denial_stays_a_denial(
            effects in prop::collection::vec(any::<bool>(), 0..6),
            at in any::<prop::sample::Index>(),
        ) {
            let statement = |allow: bool| {
                let effect = if allow { "Allow" } else { "Deny" };
                format!(r#"{{"Effect":"{effect}","Principal":"*","Action":"s3:*","Resource":"arn:aws:s3:::pics/*"}}"#)
            };
            let mut all: Vec<String> = effects.into_iter().map(statement).collect();
            all.insert(at.index(all.len() + 1), statement(false));
            let policy = format!(r#"{{"Statement":[{}]}}"#, all.join(","));
            prop_assert_eq!(ask(&policy, Who::User("ann"), "s3:GetObject", "pics/a"), Verdict::Denied);
        }
    }
}
