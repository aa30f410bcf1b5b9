//! Clients that stay with the instance that answered them first: a cookie names it.
//!
//! The name is a hash, the same on every load balancer, of which nothing can be told but whether it is that of a known instance. It
//! gives no rights: whoever makes one up is answered by an instance that might have been chosen anyway.

use std::fmt;

use hirsel_model::InstanceId;
use hirsel_model::spec::Sticky;
use http::{HeaderMap, HeaderValue};
use ring::digest::{SHA256, digest};

use super::cookie;
use crate::matching::Unusable;

/// What a cookie says of an instance: a number that is known to whoever knows the instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token(pub u64);

/// Characters of a token in a cookie.
const TOKEN_CHARS: usize = 16;

impl Token {
    /// That of an instance.
    pub fn of_instance(id: &InstanceId) -> Self {
        Self::of(&format!("hirsel session {id}"))
    }

    /// That of a program outside the cluster: by its place in the list, for an address can be found by trying all.
    pub fn of_outside(app: &str, place: usize) -> Self {
        Self::of(&format!("hirsel session {app} outside {place}"))
    }

    fn of(text: &str) -> Self {
        let hash = digest(&SHA256, text.as_bytes());
        Self(hash.as_ref().iter().take(8).fold(0, |all, byte| (all << 8) | u64::from(*byte)))
    }

    fn read(text: &[u8]) -> Option<Self> {
        let good = |b: &u8| b.is_ascii_digit() || (b'a'..=b'f').contains(b);
        let text = std::str::from_utf8(text).ok()?;
        let token = (text.len() == TOKEN_CHARS && text.bytes().all(|b| good(&b))).then_some(text)?;
        u64::from_str_radix(token, 16).ok().map(Self)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The cookie of a route.
#[derive(Debug)]
pub struct Sessions {
    cookie: String,
    /// What follows the value.
    attributes: String,
    secure: bool,
}

impl Sessions {
    /// As a route says it.
    ///
    /// # Errors
    /// If no cookie can be so.
    pub fn of(sticky: &Sticky) -> Result<Self, Unusable> {
        let Sticky { cookie, path, same_site, max_age_s, secure } = sticky;
        let mut attributes = format!("; Path={path}; HttpOnly; SameSite={}", same_site.name());
        if let Some(seconds) = max_age_s {
            attributes.push_str(&format!("; Max-Age={seconds}"));
        }
        let sessions = Self { cookie: cookie.clone(), attributes, secure: *secure };
        let usable = !cookie.is_empty() && !cookie.contains([';', '=', ' ', '\t']) && !path.contains(';');
        match usable.then(|| sessions.written(Token(0), true)).flatten() {
            Some(_) => Ok(sessions),
            None => Err(Unusable::new("no cookie")),
        }
    }

    /// Whom a request with these header fields was answered by before.
    pub fn find(&self, headers: &HeaderMap) -> Option<Token> {
        Token::read(cookie(headers, &self.cookie)?)
    }

    /// What a client is told that shall come back to `token`, over TLS (`encrypted`) or not.
    pub fn written(&self, token: Token, encrypted: bool) -> Option<HeaderValue> {
        let secure = if encrypted || self.secure { "; Secure" } else { "" };
        HeaderValue::try_from(format!("{}={token}{}{secure}", self.cookie, self.attributes)).ok()
    }
}

#[cfg(test)]
mod tests {
    use hirsel_model::spec::SameSite;
    use proptest::prelude::*;

    use super::*;

    fn sessions(max_age_s: Option<u64>, secure: bool) -> Sessions {
        let (cookie, path, same_site) = ("at".into(), "/shop".into(), SameSite::Strict);
        Sessions::of(&Sticky { cookie, path, same_site, max_age_s, secure }).unwrap()
    }

    fn token(number: u64) -> Token {
        Token::of_instance(&InstanceId { app: "shop".parse().unwrap(), service: "web".parse().unwrap(), number })
    }

    #[test]
    fn a_cookie_says_who_may_see_it_and_for_how_long() {
        let shown = |sessions: Sessions, encrypted| {
            sessions.written(Token(0xAB), encrypted).unwrap().to_str().unwrap().to_owned()
        };
        let plain = "at=00000000000000ab; Path=/shop; HttpOnly; SameSite=Strict";
        assert_eq!(shown(sessions(None, false), false), plain);
        assert_eq!(shown(sessions(None, false), true), format!("{plain}; Secure"));
        assert_eq!(shown(sessions(Some(60), true), false), format!("{plain}; Max-Age=60; Secure"));
    }

    #[test]
    fn a_token_tells_nothing_and_stays_as_it_is() {
        assert_ne!(token(1), token(2));
        let shown = token(17).to_string();
        assert!(shown.len() == 16 && !shown.contains("17") && !shown.contains("web"), "{shown}");
        assert_ne!(Token::of_outside("shop", 0), Token::of_outside("shop", 1));
        assert_ne!(Token::of_outside("shop", 0), Token::of_outside("blog", 0));
    }

    #[test]
    fn a_cookie_that_would_be_two_is_refused() {
        let sticky = |cookie: &str, path: &str| {
            let (cookie, path) = (cookie.to_owned(), path.to_owned());
            Sessions::of(&Sticky { cookie, path, same_site: SameSite::Lax, max_age_s: None, secure: false })
        };
        assert!(sticky("at", "/").is_ok());
        for (cookie, path) in
            [("a;b", "/"), ("a=b", "/"), ("", "/"), ("at", "/; Domain=x"), ("a\r\nb", "/"), ("at", "/\n")]
        {
            assert!(sticky(cookie, path).is_err(), "{cookie:?} {path:?}");
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_found_again_among_others(number: u64, before in "[a-z]{0,5}=[a-z0-9]{0,20}") {
            let sessions = sessions(None, false);
            let written = sessions.written(token(number), false).unwrap();
            let pair = written.to_str().unwrap().split(';').next().unwrap().to_owned();
            let mut headers = HeaderMap::new();
            if !before.starts_with("at=") {
                headers.insert("cookie", HeaderValue::try_from(format!("{before}; {pair}; x=y")).unwrap());
                prop_assert_eq!(sessions.find(&headers), Some(token(number)));
            }
        }

        #[test]
        fn whatever_a_client_sends_is_a_token_or_none(text in "\\PC{0,24}") {
            if let Some(token) = Token::read(text.as_bytes()) {
                prop_assert_eq!(token.to_string(), text);
            }
        }
    }
}
