//! Cross-origin requests: what browsers are told (Fetch; S3's CORS configuration).
//!
//! The first rule that fits counts. Whoever is no browser sends no `Origin` and is told nothing; a rule never forbids anything here, it
//! is the browser that does not show what it was not told about.

use super::pattern::Pattern;

/// Rules of a bucket (S3).
pub const RULES_MAX: usize = 100;

/// Methods that can be allowed (S3).
const METHODS: [&str; 5] = ["GET", "PUT", "POST", "DELETE", "HEAD"];

/// A rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Origins, with at most one star each.
    pub origins: Vec<String>,
    /// Methods.
    pub methods: Vec<String>,
    /// Headers that a request may have, with at most one star each.
    pub headers: Vec<String>,
    /// Headers of answers that scripts may see.
    pub exposed: Vec<String>,
    /// How long a browser may remember what it was told, in seconds.
    pub max_age: Option<u32>,
}

/// Why rules are not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CorsError(pub String);

/// Checks rules when they are put.
///
/// # Errors
/// In words.
pub fn check(rules: &[Rule]) -> Result<(), CorsError> {
    let wrong = |words: String| Err(CorsError(words));
    if !(1..=RULES_MAX).contains(&rules.len()) {
        return wrong(format!("{} rules, 1 to {RULES_MAX} are", rules.len()));
    }
    for rule in rules {
        if rule.origins.is_empty() || rule.methods.is_empty() {
            return wrong("a rule has an origin and a method".into());
        }
        if let Some(method) = rule.methods.iter().find(|method| !METHODS.contains(&method.as_str())) {
            return wrong(format!("found unsupported HTTP method in CORS config: {method:.40?}"));
        }
        if let Some(text) = rule.origins.iter().chain(&rule.headers).find(|text| text.matches('*').count() > 1) {
            return wrong(format!("{text:.80?} has more than one star"));
        }
        if let Some(text) = rule.exposed.iter().find(|text| text.contains('*')) {
            return wrong(format!("{text:.80?}: a header that is shown has no star"));
        }
    }
    Ok(())
}

/// What a browser asks: with a request, or before it (preflight).
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// `Origin`.
    pub origin: &'a str,
    /// The method, or `Access-Control-Request-Method`.
    pub method: &'a str,
    /// `Access-Control-Request-Headers`.
    pub headers: Option<&'a str>,
}

/// What it is told: headers of the answer. None if no rule fits.
pub fn answer(rules: &[Rule], ask: Ask<'_>) -> Option<Vec<(&'static str, String)>> {
    let rule = rules.iter().find(|rule| rule.fits(&ask))?;
    let anybody = rule.origins.iter().any(|origin| origin == "*");
    let mut headers = vec![
        ("access-control-allow-origin", if anybody { "*".to_owned() } else { ask.origin.to_owned() }),
        ("access-control-allow-methods", rule.methods.join(", ")),
    ];
    if !anybody {
        headers.push(("access-control-allow-credentials", "true".to_owned()));
    }
    if let Some(wanted) = ask.headers {
        headers.push(("access-control-allow-headers", names(wanted).collect::<Vec<_>>().join(", ")));
    }
    if !rule.exposed.is_empty() {
        headers.push(("access-control-expose-headers", rule.exposed.join(", ")));
    }
    if let Some(seconds) = rule.max_age {
        headers.push(("access-control-max-age", seconds.to_string()));
    }
    headers.push(("vary", "Origin, Access-Control-Request-Headers, Access-Control-Request-Method".to_owned()));
    Some(headers)
}

fn names(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|name| !name.is_empty())
}

/// A star stands for anything, a question mark for itself.
fn fits(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        Some((head, tail)) => {
            text.strip_prefix(head).is_some_and(|rest| rest.len() >= tail.len() && rest.ends_with(tail))
        }
        None => Pattern::exactly(pattern).matches_plainly(text),
    }
}

impl Rule {
    fn fits(&self, ask: &Ask<'_>) -> bool {
        let lower = |text: &str| text.to_ascii_lowercase();
        let allowed = |name: &str| self.headers.iter().any(|pattern| fits(&lower(pattern), &lower(name)));
        self.origins.iter().any(|origin| fits(origin, ask.origin))
            && self.methods.iter().any(|method| method == ask.method)
            && ask.headers.is_none_or(|wanted| names(wanted).all(allowed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(origins: &[&str], methods: &[&str]) -> Rule {
        let own = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        Rule { origins: own(origins), methods: own(methods), ..Rule::default() }
    }

    fn told(rules: &[Rule], origin: &str, method: &str, headers: Option<&str>) -> Option<(String, String)> {
        let answer = answer(rules, Ask { origin, method, headers })?;
        let get = |name: &str| answer.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
        Some((get("access-control-allow-origin")?, get("access-control-allow-methods")?))
    }

    #[test]
    fn the_first_rule_that_fits_counts() {
        let rules = [
            rule(&["*suffix"], &["GET"]),
            rule(&["start*end"], &["GET"]),
            rule(&["prefix*"], &["GET"]),
            rule(&["*.put"], &["PUT"]),
        ];
        check(&rules).expect("they are good");
        for origin in ["foo.suffix", "suffix", "startend", "start12end", "prefix", "prefix.x"] {
            assert_eq!(told(&rules, origin, "GET", None), Some((origin.into(), "GET".into())), "{origin}");
        }
        for origin in ["foo.bar", "foo.suffix.get", "0start12end", "starend", "startEND", "a.put", ""] {
            assert_eq!(told(&rules, origin, "GET", None), None, "{origin}");
        }
        assert_eq!(told(&rules, "a.put", "PUT", None), Some(("a.put".into(), "PUT".into())));
    }

    #[test]
    fn a_star_alone_is_told_as_a_star_and_without_credentials() {
        let rules = [Rule { exposed: vec!["etag".into()], max_age: Some(60), ..rule(&["*"], &["GET", "PUT"]) }];
        let answer = answer(&rules, Ask { origin: "https://x", method: "GET", headers: None }).expect("it fits");
        let has = |name: &str, value: &str| {
            answer.contains(&(answer.iter().find(|it| it.0 == name).map_or("", |it| it.0), value.into()))
        };
        assert!(has("access-control-allow-origin", "*") && has("access-control-allow-methods", "GET, PUT"));
        assert!(has("access-control-expose-headers", "etag") && has("access-control-max-age", "60"));
        assert!(!answer.iter().any(|(name, _)| *name == "access-control-allow-credentials"));
    }

    #[test]
    fn headers_of_the_request_are_all_allowed_or_none() {
        let rules = [Rule { headers: vec!["X-Amz-*".into(), "content-type".into()], ..rule(&["https://x"], &["PUT"]) }];
        assert!(told(&rules, "https://x", "PUT", Some("x-amz-date, Content-Type")).is_some());
        assert!(told(&rules, "https://x", "PUT", Some("x-amz-date, x-other")).is_none());
        assert!(told(&rules, "https://x", "PUT", None).is_some());
        assert!(told(&[rule(&["*"], &["GET"])], "x", "GET", Some("x-amz-meta-a")).is_none());
    }

    #[test]
    fn rules_that_browsers_could_not_be_told_are_refused() {
        let good = rule(&["*"], &["GET"]);
        let many = vec![good.clone(); RULES_MAX + 1];
        let two = Rule { headers: vec!["*a*".into()], ..good.clone() };
        let shown = Rule { exposed: vec!["*".into()], ..good.clone() };
        for bad in [
            &[][..],
            &many,
            &[rule(&[], &["GET"])],
            &[rule(&["*"], &[])],
            &[rule(&["*"], &["PATCH"])],
            &[rule(&["*"], &["get"])],
            &[rule(&["a*b*"], &["GET"])],
            &[two],
            &[shown],
        ] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
    }
}
