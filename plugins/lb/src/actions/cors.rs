//! Which pages of other origins may ask (Fetch standard, section 3.2). Pure.

use std::collections::BTreeSet;

use hirsel_model::spec;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD,
    ORIGIN, VARY,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};

use crate::matching::Unusable;
use crate::pages;
use crate::stream::AnswerBody;

/// What is allowed to pages of other origins.
#[derive(Debug)]
pub struct Cors {
    any: bool,
    exact: BTreeSet<String>,
    /// What stands before and after the one label that may be anything.
    wild: Vec<(String, String)>,
    methods: HeaderValue,
    headers: Option<HeaderValue>,
    expose: Option<HeaderValue>,
    credentials: bool,
    max_age: Option<HeaderValue>,
}

/// What one request is allowed.
#[derive(Debug)]
pub struct Leave {
    /// The value for its origin; none for one that is not allowed.
    origin: Option<HeaderValue>,
}

impl Cors {
    /// As it is carried out.
    ///
    /// # Errors
    /// If this build cannot make it out.
    pub fn of(cors: &spec::Cors) -> Result<Self, Unusable> {
        let value = |text: String| HeaderValue::try_from(text).map_err(|_| Unusable::new("no value of a header field"));
        let list = |words: &BTreeSet<String>| words.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        let some = |words: &BTreeSet<String>| (!words.is_empty()).then(|| value(list(words))).transpose();
        let mut methods = cors.methods.clone();
        methods.extend(["GET", "HEAD", "POST"].map(String::from));
        let (wild, exact): (Vec<_>, Vec<_>) = cors.origins.iter().partition(|origin| origin.contains('*'));
        let any = cors.origins.contains("*");
        if any && cors.credentials {
            return Err(Unusable::new("credentials for every origin"));
        }
        let split = |origin: &String| origin.split_once('*').map(|(a, b)| (a.to_owned(), b.to_owned()));
        Ok(Self {
            any,
            exact: exact.into_iter().cloned().collect(),
            wild: wild.into_iter().filter(|it| *it != "*").filter_map(split).collect(),
            methods: value(list(&methods))?,
            headers: some(&cors.headers)?,
            expose: some(&cors.expose)?,
            credentials: cors.credentials,
            max_age: cors.max_age_s.map(HeaderValue::from),
        })
    }

    /// What a request with these header fields is allowed.
    pub fn leave(&self, headers: &HeaderMap) -> Leave {
        let origin = headers.get(ORIGIN).filter(|origin| self.allows(origin));
        let value = |origin: &HeaderValue| if self.any { HeaderValue::from_static("*") } else { origin.clone() };
        Leave { origin: origin.map(value) }
    }

    fn allows(&self, origin: &HeaderValue) -> bool {
        let Ok(text) = origin.to_str() else { return false };
        let fits = |(before, after): &(String, String)| {
            let label = text.strip_prefix(before.as_str()).and_then(|rest| rest.strip_suffix(after.as_str()));
            label.is_some_and(|it| !it.is_empty() && it.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'))
        };
        self.any || self.exact.contains(text) || self.wild.iter().any(fits)
    }

    /// The answer to a question whether something may be asked, to which [`Cors::grant`] adds who; none if the request is no such
    /// question.
    pub fn preflight(&self, head: &Parts) -> Option<Response<AnswerBody>> {
        let asks = head.headers.contains_key(ORIGIN) && head.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        if head.method != Method::OPTIONS || !asks {
            return None;
        }
        let leave = self.leave(&head.headers);
        let answer = match leave.origin {
            Some(_) => {
                let mut answer = Response::new(AnswerBody::whole(bytes::Bytes::new()));
                *answer.status_mut() = StatusCode::NO_CONTENT;
                let headers = answer.headers_mut();
                headers.insert(ACCESS_CONTROL_ALLOW_METHODS, self.methods.clone());
                if let Some(list) = &self.headers {
                    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, list.clone());
                }
                if let Some(seconds) = &self.max_age {
                    headers.insert(ACCESS_CONTROL_MAX_AGE, seconds.clone());
                }
                answer
            }
            None => pages::forbidden("pages of this origin may not ask here"),
        };
        Some(answer)
    }

    /// Writes `leave` into an answer. What the program that answered said of other origins does not count.
    pub fn grant(&self, leave: Leave, headers: &mut HeaderMap) {
        headers.remove(ACCESS_CONTROL_ALLOW_ORIGIN);
        headers.remove(ACCESS_CONTROL_ALLOW_CREDENTIALS);
        if !self.any {
            // Another origin gets another answer: a cache shall know.
            headers.append(VARY, HeaderValue::from_static("Origin"));
        }
        let Some(origin) = leave.origin else { return };
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        if self.credentials {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        if let Some(list) = &self.expose {
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, list.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cors(origins: &[&str]) -> Cors {
        let origins = origins.iter().map(|it| (*it).to_owned()).collect();
        Cors::of(&spec::Cors { origins, ..spec::Cors::default() }).unwrap()
    }

    fn allows(cors: &Cors, origin: &str) -> bool {
        cors.allows(&HeaderValue::try_from(origin).unwrap())
    }

    #[test]
    fn an_origin_is_allowed_by_its_name_or_by_one_label_of_a_domain() {
        let some = cors(&["https://a.test", "https://*.b.test:8443"]);
        for origin in ["https://a.test", "https://x.b.test:8443", "https://x-1.b.test:8443"] {
            assert!(allows(&some, origin), "{origin}");
        }
        for origin in [
            "http://a.test",
            "https://a.test:444",
            "https://a.test.evil",
            "null",
            "https://x.y.b.test:8443",
            "https://.b.test:8443",
            "https://evil/.b.test:8443",
            "https://b.test:8443",
            "*",
        ] {
            assert!(!allows(&some, origin), "{origin}");
        }
        assert!(allows(&cors(&["*"]), "https://anything"));
    }

    #[test]
    fn credentials_are_not_for_everyone() {
        let origins = BTreeSet::from(["*".to_owned()]);
        assert!(Cors::of(&spec::Cors { origins, credentials: true, ..spec::Cors::default() }).is_err());
    }

    #[test]
    fn what_the_program_says_of_origins_is_replaced() {
        let mut headers = HeaderMap::new();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        cors(&["https://a.test"]).grant(Leave { origin: None }, &mut headers);
        assert!(!headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN));
        assert_eq!(headers[VARY], "Origin");
    }
}
