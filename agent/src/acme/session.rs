//! The cluster at its directory: an account that is opened once for all orders, and made where there is none.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use hirsel_model::acme::{ACCOUNT_PURPOSE, BINDING_PURPOSE, Change, Settings, Window};
use hirsel_model::control::{Command, ControlState};
use hirsel_model::secret::Sealed;
use hirsel_model::{RoleName, WallTime};
use instant_acme::{
    Account, AccountCredentials, CertificateIdentifier, Error, ExternalAccountKey, NewAccount, Problem, RenewalInfo,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::sync::Mutex;

use super::client::Client;
use super::{Failure, propose};
use crate::sealing;
use crate::shared::Shared;

/// Every problem of this protocol is called so, and then by its own name (RFC 8555, section 6.7).
const PROBLEM: &str = "urn:ietf:params:acme:error:";

/// One account at one directory.
pub struct Session {
    settings: Settings,
    version: Option<u64>,
    open: Mutex<Option<(Account, Client)>>,
    tells_no_windows: AtomicBool,
}

impl Session {
    /// As the control state says. Nobody is asked yet.
    pub fn new(state: &ControlState) -> Self {
        let acme = &state.acme;
        Self {
            settings: acme.settings.clone().unwrap_or_default(),
            version: acme.account.as_ref().map(|account| account.version),
            open: Mutex::default(),
            tells_no_windows: AtomicBool::new(false),
        }
    }

    /// Whether it is that of `state`.
    pub fn is_for(&self, state: &ControlState) -> bool {
        let version = state.acme.account.as_ref().map(|account| account.version);
        state.acme.settings.as_ref() == Some(&self.settings) && version == self.version
    }

    /// What it is for.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The directory said that it does not say when to renew.
    pub fn tells_no_windows(&self) -> bool {
        self.tells_no_windows.load(Ordering::Relaxed)
    }

    /// The next one opens the account anew: what failed may lie in what was read of the directory.
    pub async fn forget(&self) {
        *self.open.lock().await = None;
    }

    fn client(&self, shared: &Shared) -> Result<Client, String> {
        let host = shared.hosts.get(&RoleName::lb()).ok_or("this agent has no load balancer")?;
        Client::new(shared.world.net.clone(), host.clone(), &self.settings.roots)
    }

    /// The account, opened with its key; and who asks for it.
    pub async fn account(&self, shared: &Shared) -> Result<(Account, Client), Failure> {
        let mut open = self.open.lock().await;
        if let Some(open) = &*open {
            return Ok(open.clone());
        }
        let state = shared.control.state().borrow().clone();
        let known = state.acme.account.as_ref().filter(|known| Some(known.version) == self.version);
        let known = known.ok_or("the account changed meanwhile")?;
        let plain = sealing::key(shared, &state)?.open(ACCOUNT_PURPOSE, &known.key.0);
        // An error of decoding might repeat what it stumbled over.
        let credentials = plain.and_then(|plain| serde_json::from_slice::<AccountCredentials>(&plain).ok());
        let credentials = credentials.ok_or("the key of the account cannot be opened")?;
        let client = self.client(shared)?;
        let account = Account::builder_with_http(Box::new(client.clone())).from_credentials(credentials).await;
        let account = account.map_err(|error| self.failure(&error, &client))?;
        Ok(open.insert((account, client)).clone())
    }

    /// Makes an account, and has it kept.
    pub async fn register(&self, shared: &Shared) -> Result<(), Failure> {
        let state = shared.control.state().borrow().clone();
        let key = sealing::key(shared, &state)?;
        let external = match &self.settings.binding {
            None => None,
            Some(binding) => {
                let plain = key
                    .open(BINDING_PURPOSE, &binding.key.0)
                    .ok_or("the key of the external account cannot be opened")?;
                let plain = read_key(&plain).ok_or("the key of the external account is no Base64 for URLs")?;
                Some(ExternalAccountKey::new(binding.kid.clone(), &plain))
            }
        };
        let contacts: Vec<String> = self.settings.contacts.iter().map(|it| format!("mailto:{it}")).collect();
        let contacts: Vec<&str> = contacts.iter().map(String::as_str).collect();
        let new = NewAccount { contact: &contacts, terms_of_service_agreed: true, only_return_existing: false };
        let client = self.client(shared)?;
        let builder = Account::builder_with_http(Box::new(client.clone()));
        let made = builder.create(&new, self.settings.directory.clone(), external.as_ref()).await;
        let (account, credentials) = made.map_err(|error| self.failure(&error, &client))?;
        let plain = serde_json::to_vec(&credentials).map_err(|_| "the key of the account cannot be written")?;
        let sealed = Sealed(key.seal(ACCOUNT_PURPOSE, &plain, shared.world.chance.as_ref()));
        let (directory, id) = (self.settings.directory.clone(), account.id().to_owned());
        propose(shared, Command::Acme { change: Change::Account { directory, id, sealed, key: key.id() } }).await?;
        Ok(())
    }

    /// When the certificate of `chain` should be renewed (RFC 9773), and after which time that may be asked again.
    pub async fn window(&self, shared: &Shared, chain: &str) -> Result<(Window, Duration), Failure> {
        let (account, client) = self.account(shared).await?;
        let leaf = leaf(chain)?;
        let told = ask_for_a_window(&account, &CertificateIdentifier::try_from(&leaf)?).await;
        if let Err(Error::Unsupported(_)) = &told {
            self.tells_no_windows.store(true, Ordering::Relaxed);
        }
        told.map_err(|error| self.failure(&error, &client))
    }

    /// What went wrong, as far as people can do something about it.
    pub fn failure(&self, error: &Error, client: &Client) -> Failure {
        let directory = &self.settings.directory;
        let (words, is_stranger) = match error {
            Error::Api(problem) => {
                (format!("{directory} says: {}", told(problem)), is_called(problem, "accountDoesNotExist"))
            }
            Error::Json(_) => (format!("{directory} is no directory (RFC 8555): {error}"), false),
            Error::Timeout(_) => (format!("{directory} is not done with it yet; it is asked again later"), false),
            error => (format!("{directory}: {error}"), false),
        };
        Failure { words, asked: client.asked.wait_ms(), is_stranger }
    }
}

async fn ask_for_a_window(
    account: &Account,
    certificate: &CertificateIdentifier<'_>,
) -> Result<(Window, Duration), Error> {
    let (RenewalInfo { suggested_window, explanation_url }, again) = account.renewal_info(certificate).await?;
    let wall = |at: i128| WallTime(u64::try_from(at / 1_000_000).unwrap_or_default());
    let (start, end) =
        (wall(suggested_window.start.unix_timestamp_nanos()), wall(suggested_window.end.unix_timestamp_nanos()));
    Ok((Window { start, end, url: explanation_url.unwrap_or_default() }, again))
}

/// The certificate itself.
pub fn leaf(chain: &str) -> Result<CertificateDer<'static>, String> {
    CertificateDer::from_pem_slice(chain.as_bytes()).map_err(|error| format!("the chain is no PEM: {error}"))
}

/// The key of an external account, as directories give it to people: Base64 for URLs, perhaps padded.
pub fn read_key(text: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok()?.trim().trim_end_matches('=');
    BASE64URL_NOPAD.decode(text.as_bytes()).ok().filter(|key| !key.is_empty())
}

/// What a problem says, with its name.
pub fn told(problem: &Problem) -> String {
    let name = problem.r#type.as_deref().unwrap_or("a problem without a name");
    let name = name.strip_prefix(PROBLEM).unwrap_or(name);
    let mut words = match &problem.detail {
        Some(detail) => format!("{detail} ({name})"),
        None => name.to_owned(),
    };
    for one in &problem.subproblems {
        words += &format!("; {}", one.detail.as_deref().unwrap_or("no detail"));
    }
    words
}

/// Whether a problem has this name.
pub fn is_called(problem: &Problem, name: &str) -> bool {
    problem.r#type.as_deref().and_then(|it| it.strip_prefix(PROBLEM)) == Some(name)
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use bytes::Bytes;
    use http::{Request, Response};
    use http_body_util::Full;
    use instant_acme::{BodyWrapper, BytesResponse, HttpClient};

    use super::*;

    /// Answers each path with a text.
    struct Told(Vec<(&'static str, String)>);

    impl HttpClient for Told {
        fn request(
            &self,
            request: Request<BodyWrapper<Bytes>>,
        ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
            let path = request.uri().path();
            let found = self.0.iter().find(|(known, _)| path.starts_with(known));
            let (status, text) = found.map_or((404, String::new()), |(_, text)| (200, text.clone()));
            let answer =
                Response::builder().status(status).header("retry-after", "21600").body(Full::new(Bytes::from(text)));
            Box::pin(std::future::ready(Ok(BytesResponse::from(answer.unwrap()))))
        }
    }

    async fn account(more: &str) -> Account {
        let (_, key) = instant_acme::Key::generate_pkcs8().unwrap();
        let directory = format!(
            "{{\"newNonce\":\"https://ca/n\",\"newAccount\":\"https://ca/a\",\"newOrder\":\"https://ca/o\"{more}}}"
        );
        let window = "{\"suggestedWindow\":{\"start\":\"2026-01-02T03:04:05Z\",\"end\":\"2026-01-03T03:04:05Z\"},\
                      \"explanationURL\":\"https://ca/why\"}";
        let told = Told(vec![("/dir", directory), ("/renewal/", window.to_owned())]);
        let builder = Account::builder_with_http(Box::new(told));
        builder.from_parts("https://ca/1".into(), key, "https://ca/dir".into()).await.unwrap()
    }

    #[tokio::test]
    async fn a_directory_is_asked_when_to_renew_if_it_says_so_at_all() {
        let certificate = CertificateIdentifier {
            authority_key_identifier: "aYhba4dGQEHhs3uEe6CuLN4ByNQ".into(),
            serial: "AIdlQyE".into(),
        };
        let tells = account(",\"renewalInfo\":\"https://ca/renewal\"").await;
        let (window, again) = ask_for_a_window(&tells, &certificate).await.unwrap();
        let start = WallTime(1_767_323_045_000);
        assert_eq!(window, Window { start, end: WallTime(start.0 + 86_400_000), url: "https://ca/why".into() });
        assert!((21_590..=21_600).contains(&again.as_secs()), "{again:?}");
        let silent = account("").await;
        assert!(matches!(ask_for_a_window(&silent, &certificate).await, Err(Error::Unsupported(_))));
    }

    #[test]
    fn a_problem_is_told_with_its_name_and_without_what_all_names_begin_with() {
        let problem: Problem = serde_json::from_str(
            "{\"type\":\"urn:ietf:params:acme:error:malformed\",\"detail\":\"Some names are bad\",\"subproblems\":[\
             {\"type\":\"urn:ietf:params:acme:error:rejectedIdentifier\",\"detail\":\"not yours\"}]}",
        )
        .unwrap();
        assert_eq!(told(&problem), "Some names are bad (malformed); not yours");
        assert!(is_called(&problem, "malformed") && !is_called(&problem, "rejectedIdentifier"));
        assert_eq!(told(&serde_json::from_str("{}").unwrap()), "a problem without a name");
    }

    #[test]
    fn the_key_of_an_external_account_is_read_as_directories_give_it() {
        for good in ["AQID", " AQID\n", "AQIDBA", "AQIDBA=="] {
            assert_eq!(read_key(good.as_bytes()).unwrap()[..3], [1, 2, 3], "{good}");
        }
        for wrong in ["", "====", "a b", "+/+/", "\u{fc}"] {
            assert_eq!(read_key(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
