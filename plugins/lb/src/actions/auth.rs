//! Users and passwords (RFC 7617).
//!
//! A hash costs tenths of a second to check, which is its purpose. So it is checked aside from the threads that carry requests, two at a
//! time, and what was found right is remembered, under a key of this process: a client that asks again costs microseconds, and many
//! wrong passwords keep two threads busy and nobody waiting who is known. How many a client may have checked is limited, for all routes
//! together; so is how many requests wait for a turn.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use data_encoding::BASE64;
use hirsel_model::password::{self, PasswordHash};
use hirsel_model::spec::{BasicAuth, RateLimit};
use hirsel_model::{AppName, SecretName, Timestamp};
use hirsel_role::secret::Values;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};
use ring::{hmac, pbkdf2};
use tokio::sync::Semaphore;

use super::rate::{Clients, Limiter};
use crate::matching::Unusable;

/// Hashes computed at once, whatever is asked: each keeps a processor busy.
pub const HASHES_AT_ONCE: usize = 2;

/// Hashes computed for one client: a person errs a few times, a page of many parts asks at once, and whoever guesses gets a quarter of
/// a processor at most.
const HASHES_PER_CLIENT: RateLimit =
    RateLimit { requests: 60, per_ms: 60_000, burst: 20, together: false, cluster: false };

/// Requests that wait for their turn: some seconds' worth. Whoever comes then is told to come again.
const WAITING_MAX: usize = 64;

/// After how long.
const COME_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// Passwords remembered for each route: its users with some of their clients.
const REMEMBERED_MAX: usize = 1024;

/// Tells the program that answers who asked.
pub const X_FORWARDED_USER: HeaderName = HeaderName::from_static("x-forwarded-user");

/// What all routes share.
pub struct Keeper {
    key: hmac::Key,
    turns: Arc<Semaphore>,
    waiting: Semaphore,
    clients: Limiter,
}

impl Keeper {
    /// `secret` is by chance, and this process's alone.
    pub fn new(secret: &[u8; 32], clients: &Arc<Clients>) -> Self {
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, secret),
            turns: Arc::new(Semaphore::new(HASHES_AT_ONCE)),
            waiting: Semaphore::new(WAITING_MAX),
            clients: Limiter::new(&HASHES_PER_CLIENT, b"passwords", clients),
        }
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

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// User and password are right.
    Right,
    /// They are not, or are missing.
    Wrong,
    /// Too much was asked; after this time it may be again.
    TooMany(Duration),
}

impl Verdict {
    fn of(right: bool) -> Self {
        if right { Verdict::Right } else { Verdict::Wrong }
    }
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

    /// Whether a request of `client` may pass; it then says who asks, and not with which password.
    pub async fn admit(&self, headers: &mut HeaderMap, client: IpAddr, now: Timestamp, secrets: &Values) -> Verdict {
        let Some((user, password)) = headers.get(AUTHORIZATION).and_then(credentials) else { return Verdict::Wrong };
        let verdict = self.judge(&user, &password, (client, now), secrets).await;
        if verdict == Verdict::Right {
            headers.remove(AUTHORIZATION);
            headers.remove(X_FORWARDED_USER);
            if let Ok(user) = HeaderValue::try_from(user) {
                headers.insert(X_FORWARDED_USER, user);
            }
        }
        verdict
    }

    async fn judge(&self, user: &str, password: &str, asks: (IpAddr, Timestamp), secrets: &Values) -> Verdict {
        // Whoever is unknown takes as long as a user with a wrong password.
        let known = self.users.get(user);
        let Some(credential) = known.or_else(|| self.users.values().next()) else { return Verdict::Wrong };
        let expected = match credential {
            Credential::Hash(hash) => Expected::Hash(hash.clone()),
            Credential::Secret(name) => match newest(secrets, &self.app, name) {
                // A damaged hash is no password: it would be one that others may have seen.
                Some(text) if text.starts_with(password::MARK) => match text.trim_end().parse() {
                    Ok(hash) => Expected::Hash(hash),
                    Err(_) => return Verdict::Wrong,
                },
                Some(text) => Expected::Plain(text.to_owned()),
                None => return Verdict::Wrong,
            },
        };
        match expected {
            Expected::Plain(plain) => {
                let plain = plain.trim_end_matches(['\r', '\n']);
                let of = |text: &str| hmac::sign(&self.keeper.key, text.as_bytes());
                // Compared in constant time.
                let same = hmac::verify(&self.keeper.key, password.as_bytes(), of(plain).as_ref()).is_ok();
                Verdict::of(!plain.is_empty() && same && known.is_some())
            }
            Expected::Hash(hash) => {
                let mark = self.mark(user, password, &hash);
                if self.remembered().contains(&mark) {
                    return Verdict::Right;
                }
                match self.compute(&mark, password, hash, asks).await {
                    Verdict::Right if known.is_none() => Verdict::Wrong,
                    Verdict::Right => {
                        self.remember(mark);
                        Verdict::Right
                    }
                    other => other,
                }
            }
        }
    }

    /// Whether `password` has this hash.
    async fn compute(
        &self,
        mark: &[u8; 32],
        password: &str,
        hash: PasswordHash,
        (client, now): (IpAddr, Timestamp),
    ) -> Verdict {
        let Ok(place) = self.keeper.waiting.try_acquire() else { return Verdict::TooMany(COME_AGAIN_AFTER) };
        // Never closed: the semaphore lives as long as its owner.
        let Ok(turn) = self.keeper.turns.clone().acquire_owned().await else { return Verdict::Wrong };
        drop(place);
        // Of many parts of one page the first has had it computed for all.
        if self.remembered().contains(mark) {
            return Verdict::Right;
        }
        if let Err(wait) = self.keeper.clients.take(client, now) {
            return Verdict::TooMany(wait);
        }
        let password = password.as_bytes().to_vec();
        let computed = tokio::task::spawn_blocking(move || {
            // Until it is done, whether or not anybody still waits for it.
            let _turn = turn;
            pbkdf2::verify(pbkdf2::PBKDF2_HMAC_SHA256, hash.rounds, &hash.salt, &password, &hash.hash).is_ok()
        });
        Verdict::of(computed.await.unwrap_or(false))
    }

    fn remember(&self, mark: [u8; 32]) {
        let mut remembered = self.remembered();
        if remembered.len() >= REMEMBERED_MAX {
            remembered.clear();
        }
        remembered.insert(mark);
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
        let keeper = Arc::new(Keeper::new(&[7; 32], &Arc::new(Clients::new(7))));
        let auth = Auth::of(&app, &BasicAuth { realm: "staff".into(), users }, &keeper);
        let secret = |name: &str, version, text: String| ((app.clone(), name.parse().unwrap(), version), Plain(text));
        let values = [
            secret("ben", 3, "old".into()),
            secret("ben", 4, "plain:new\n".into()),
            secret("eve", 5, "$pbkdf2-sha256$damaged".into()),
        ];
        (auth.unwrap(), Values(values.into()))
    }

    async fn admits(auth: &Auth, values: &Values, user: &str, password: &str) -> bool {
        asks(auth, values, "10.0.0.1", user, password).await == Verdict::Right
    }

    async fn asks(auth: &Auth, values: &Values, client: &str, user: &str, password: &str) -> Verdict {
        let token = BASE64.encode(format!("{user}:{password}").as_bytes());
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::try_from(format!("bAsic {token}")).unwrap());
        headers.insert(X_FORWARDED_USER, HeaderValue::from_static("root"));
        let verdict = auth.admit(&mut headers, client.parse().unwrap(), Timestamp(1), values).await;
        if verdict == Verdict::Right {
            assert!(!headers.contains_key(AUTHORIZATION));
            assert_eq!(headers[X_FORWARDED_USER], user);
        }
        verdict
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
            let client = "10.0.0.1".parse().unwrap();
            assert_eq!(auth.admit(&mut headers, client, Timestamp(1), &values).await, Verdict::Wrong, "{text}");
        }
    }

    #[tokio::test]
    async fn whoever_guesses_has_few_guesses_and_keeps_nobody_out() {
        let (auth, values) = auth();
        assert!(admits(&auth, &values, "anna", "right").await);
        for guess in 0..HASHES_PER_CLIENT.burst {
            assert_eq!(asks(&auth, &values, "10.6.6.6", "anna", &format!("{guess}")).await, Verdict::Wrong);
        }
        let refused = asks(&auth, &values, "10.6.6.6", "anna", "one more").await;
        assert_eq!(refused, Verdict::TooMany(Duration::from_secs(1)));
        assert_eq!(
            asks(&auth, &values, "10.6.6.6", "anna", "right").await,
            Verdict::Right,
            "what is known costs nothing"
        );
        assert_eq!(asks(&auth, &values, "10.0.0.2", "anna", "wrong").await, Verdict::Wrong, "others have theirs");
    }

    /// Nothing is computed while another job holds the only thread for such work.
    #[test]
    fn a_turn_ends_with_its_hash_and_not_with_whoever_asked() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().max_blocking_threads(1).build();
        runtime.unwrap().block_on(async {
            let (auth, values) = auth();
            let all = auth.keeper.turns.clone().acquire_many_owned(HASHES_AT_ONCE as u32).await.unwrap();
            let mut waiting: Vec<_> =
                (0..WAITING_MAX).map(|_| Box::pin(asks(&auth, &values, "10.0.0.1", "anna", "right"))).collect();
            for one in &mut waiting {
                assert!(futures::poll!(one.as_mut()).is_pending());
            }
            let refused = asks(&auth, &values, "10.0.0.3", "anna", "right").await;
            assert_eq!(refused, Verdict::TooMany(COME_AGAIN_AFTER));
            drop(all);
            for one in waiting {
                assert_eq!(one.await, Verdict::Right, "computed once or twice, and then known");
            }
            // The client goes away before its hash is computed.
            let _other = auth.keeper.turns.clone().acquire_many_owned(HASHES_AT_ONCE as u32 - 1).await.unwrap();
            let (release, held) = std::sync::mpsc::channel::<()>();
            let job = tokio::task::spawn_blocking(move || held.recv());
            let mut gone = Box::pin(asks(&auth, &values, "10.0.0.1", "anna", "wrong"));
            assert!(futures::poll!(gone.as_mut()).is_pending());
            drop(gone);
            assert!(auth.keeper.turns.try_acquire().is_err(), "the hash is still to be computed");
            release.send(()).unwrap();
            job.await.unwrap().unwrap();
            let next = tokio::time::timeout(Duration::from_secs(20), auth.keeper.turns.acquire()).await;
            assert!(next.is_ok(), "the turn came back by itself");
        });
    }
}
