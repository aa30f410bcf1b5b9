//! Users and passwords (RFC 7617).
//!
//! A hash costs tens of milliseconds to check, which is its purpose. So it is checked aside from the threads that carry requests, two
//! at a time, and what was found right is remembered, under a key of this process: a client that asks again costs microseconds, and
//! many wrong passwords keep two threads busy and nobody else waiting.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use data_encoding::BASE64;
use hirsel_model::password::{self, PasswordHash};
use hirsel_model::spec::BasicAuth;
use hirsel_model::{AppName, SecretName};
use hirsel_role::secret::Values;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};
use ring::{hmac, pbkdf2};
use tokio::sync::Semaphore;

use crate::matching::Unusable;

/// Hashes computed at once, whatever is asked: each keeps a processor busy.
pub const HASHES_AT_ONCE: usize = 2;

/// Passwords remembered for each route: its users with some of their clients.
const REMEMBERED_MAX: usize = 1024;

/// Tells the program that answers who asked.
pub const X_FORWARDED_USER: HeaderName = HeaderName::from_static("x-forwarded-user");

/// What all routes share.
pub struct Keeper {
    key: hmac::Key,
    turns: Arc<Semaphore>,
}

impl Keeper {
    /// `secret` is by chance, and this process's alone.
    pub fn new(secret: &[u8; 32]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, secret), turns: Arc::new(Semaphore::new(HASHES_AT_ONCE)) }
    }
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keeper")
    }
}

/// The users of a route.
#[derive(Debug)]
pub struct Auth {
    app: AppName,
    /// What the client is asked for.
    pub challenge: HeaderValue,
    users: BTreeMap<String, Credential>,
    keeper: Arc<Keeper>,
    right: Mutex<BTreeSet<[u8; 32]>>,
}

#[derive(Clone, Debug)]
enum Credential {
    Hash(PasswordHash),
    Secret(SecretName),
}

/// What a password is compared with.
enum Expected {
    Hash(PasswordHash),
    Plain(String),
}

impl Auth {
    /// As it is carried out.
    ///
    /// # Errors
    /// If this build cannot make it out.
    pub fn of(app: &AppName, auth: &BasicAuth, keeper: &Arc<Keeper>) -> Result<Self, Unusable> {
        let challenge = HeaderValue::try_from(format!("Basic realm=\"{}\", charset=\"UTF-8\"", auth.realm));
        let mut users = BTreeMap::new();
        for (user, text) in &auth.users {
            let secret = text.strip_prefix("${secret.").and_then(|rest| rest.strip_suffix('}'));
            let credential = match secret {
                Some(name) => Credential::Secret(name.parse().map_err(|_| Unusable::new("no name of a secret"))?),
                None => Credential::Hash(text.parse().map_err(Unusable::new)?),
            };
            users.insert(user.clone(), credential);
        }
        Ok(Self {
            app: app.clone(),
            challenge: challenge.map_err(|_| Unusable::new("no realm"))?,
            users,
            keeper: keeper.clone(),
            right: Mutex::default(),
        })
    }

    /// Whether the request may pass; it then says who asks, and not with which password.
    pub async fn admit(&self, headers: &mut HeaderMap, secrets: &Values) -> bool {
        let Some((user, password)) = headers.get(AUTHORIZATION).and_then(credentials) else { return false };
        if !self.is_right(&user, &password, secrets).await {
            return false;
        }
        headers.remove(AUTHORIZATION);
        headers.remove(X_FORWARDED_USER);
        if let Ok(user) = HeaderValue::try_from(user) {
            headers.insert(X_FORWARDED_USER, user);
        }
        true
    }

    async fn is_right(&self, user: &str, password: &str, secrets: &Values) -> bool {
        // Whoever is unknown takes as long as a user with a wrong password.
        let known = self.users.get(user);
        let Some(credential) = known.or_else(|| self.users.values().next()) else { return false };
        let expected = match credential {
            Credential::Hash(hash) => Expected::Hash(hash.clone()),
            Credential::Secret(name) => match newest(secrets, &self.app, name) {
                // A damaged hash is no password: it would be one that others may have seen.
                Some(text) if text.starts_with(password::MARK) => match text.trim_end().parse() {
                    Ok(hash) => Expected::Hash(hash),
                    Err(_) => return false,
                },
                Some(text) => Expected::Plain(text.to_owned()),
                None => return false,
            },
        };
        let right = match expected {
            Expected::Plain(plain) => {
                let plain = plain.trim_end_matches(['\r', '\n']);
                let of = |text: &str| hmac::sign(&self.keeper.key, text.as_bytes());
                !plain.is_empty() && hmac::verify(&self.keeper.key, password.as_bytes(), of(plain).as_ref()).is_ok()
            }
            Expected::Hash(hash) => self.hashes_to(user, password, hash).await,
        };
        right && known.is_some()
    }

    async fn hashes_to(&self, user: &str, password: &str, hash: PasswordHash) -> bool {
        let mark = self.mark(user, password, &hash);
        if self.remembered().contains(&mark) {
            return true;
        }
        let Ok(_turn) = self.keeper.turns.clone().acquire_owned().await else { return false };
        let password = password.as_bytes().to_vec();
        let computed = tokio::task::spawn_blocking(move || {
            pbkdf2::verify(pbkdf2::PBKDF2_HMAC_SHA256, hash.rounds, &hash.salt, &password, &hash.hash).is_ok()
        });
        let right = computed.await.unwrap_or(false);
        if right {
            let mut remembered = self.remembered();
            if remembered.len() >= REMEMBERED_MAX {
                remembered.clear();
            }
            remembered.insert(mark);
        }
        right
    }

    /// Stands for a user, a password, and the hash that it was compared with; says nothing of any of them.
    fn mark(&self, user: &str, password: &str, hash: &PasswordHash) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.keeper.key);
        for part in [user.as_bytes(), password.as_bytes(), &hash.salt, &hash.hash, &hash.rounds.get().to_be_bytes()] {
            context.update(&part.len().to_be_bytes());
            context.update(part);
        }
        context.sign().as_ref().try_into().unwrap_or_default()
    }

    fn remembered(&self) -> std::sync::MutexGuard<'_, BTreeSet<[u8; 32]>> {
        self.right.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The newest value of a secret that has come.
fn newest<'a>(secrets: &'a Values, app: &AppName, name: &SecretName) -> Option<&'a str> {
    let of = |version| (app.clone(), name.clone(), version);
    secrets.0.range(of(0)..=of(u64::MAX)).next_back().map(|(_, value)| value.0.as_str())
}

/// User and password of the value of `Authorization`.
fn credentials(value: &HeaderValue) -> Option<(String, String)> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(BASE64.decode(token.trim().as_bytes()).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hirsel_role::secret::Plain;

    /// PBKDF2 of `right` with 1000 rounds and the salt `salt`.
    fn hash_of(password: &str) -> String {
        let mut hash = [0; 32];
        let rounds = 1000.try_into().unwrap();
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, b"salt", password.as_bytes(), &mut hash);
        format!("$pbkdf2-sha256$i=1000$c2FsdA${}", data_encoding::BASE64_NOPAD.encode(&hash))
    }

    fn auth() -> (Auth, Values) {
        let users = [("anna", hash_of("right")), ("ben", "${secret.ben}".into()), ("eve", "${secret.eve}".into())];
        let users = users.map(|(user, text)| (user.to_owned(), text)).into();
        let app: AppName = "shop".parse().unwrap();
        let auth = Auth::of(&app, &BasicAuth { realm: "staff".into(), users }, &Arc::new(Keeper::new(&[7; 32])));
        let secret = |name: &str, version, text: String| ((app.clone(), name.parse().unwrap(), version), Plain(text));
        let values = [
            secret("ben", 3, "old".into()),
            secret("ben", 4, "plain:new\n".into()),
            secret("eve", 5, "$pbkdf2-sha256$damaged".into()),
        ];
        (auth.unwrap(), Values(values.into()))
    }

    async fn admits(auth: &Auth, values: &Values, user: &str, password: &str) -> bool {
        let token = BASE64.encode(format!("{user}:{password}").as_bytes());
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::try_from(format!("bAsic {token}")).unwrap());
        headers.insert(X_FORWARDED_USER, HeaderValue::from_static("root"));
        let admitted = auth.admit(&mut headers, values).await;
        if admitted {
            assert!(!headers.contains_key(AUTHORIZATION));
            assert_eq!(headers[X_FORWARDED_USER], user);
        }
        admitted
    }

    #[tokio::test]
    async fn a_user_with_the_right_password_passes_and_nobody_else() {
        let (auth, values) = auth();
        for _ in 0..2 {
            assert!(admits(&auth, &values, "anna", "right").await);
            assert!(!admits(&auth, &values, "anna", "wrong").await);
            assert!(!admits(&auth, &values, "anna", "").await);
            assert!(!admits(&auth, &values, "nobody", "right").await);
        }
        assert!(admits(&auth, &values, "ben", "plain:new").await);
        assert!(!admits(&auth, &values, "ben", "old").await, "a former value");
        assert!(!admits(&auth, &Values::default(), "ben", "").await, "a value that has not come");
        assert!(!admits(&auth, &values, "eve", "$pbkdf2-sha256$damaged").await);
        assert_eq!(auth.remembered().len(), 1);
    }

    #[tokio::test]
    async fn what_is_no_basic_authorization_does_not_pass() {
        let (auth, values) = auth();
        for text in ["", "Basic", "Basic !", "Bearer YW5uYTpyaWdodA==", "Basic YW5uYQ==", "Basic  /w=="] {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, HeaderValue::try_from(text).unwrap());
            assert!(!auth.admit(&mut headers, &values).await, "{text}");
        }
    }
}
