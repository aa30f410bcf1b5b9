//! `cert acme set|show|off`, `cert renew`. The key of an external account comes from a file or from standard input, never from an
//! argument, which anybody on the host could see.

use std::path::Path;

use http::Method;
use serde_json::json;

use super::act::{Request, change};
use super::args::{AcmeSetArgs, CertRenewArgs, ChangeArgs};
use super::client::Client;
use super::look::{escape, show};
use super::output::{line, since, table};
use super::wait::Goal;
use super::{Done, read_file, wall};
use crate::api::envelope::Envelope;
use crate::api::error::{ApiError, Code};
use crate::api::views::acme::{Acme, AutomaticHost};
use crate::api::views::certificates::Certificates;

const PATH: &str = "/v1/certificates/acme";

/// `cert acme set`
pub async fn set(client: &Client, json: bool, args: &AcmeSetArgs) -> Result<Done, ApiError> {
    let text = |path: &Path| {
        let bytes = read_file(path)?;
        let wrong = |_| ApiError::new(Code::Usage, format!("{} is no text", path.display()));
        String::from_utf8(bytes).map_err(wrong)
    };
    let roots = args.ca_file.as_deref().map(text).transpose()?.unwrap_or_default();
    let key = args.eab_key_file.as_deref().map(text).transpose()?;
    let fields = json!({
        "directory": args.directory,
        "contacts": args.contact,
        "agree_tos": args.agree_tos,
        "roots": roots,
        "challenge": args.challenge,
        "kid": args.eab_kid,
        "eab_key": key.map(|key| key.trim().to_owned()),
    });
    let request = Request {
        method: Method::PUT,
        path: PATH.into(),
        body: fields.to_string().into_bytes(),
        goal: Goal::AutomaticallyCertified,
        confirm: None,
        change: &args.change,
    };
    change(client, json, request).await
}

/// `cert acme off`
pub async fn off(client: &Client, json: bool, flags: &ChangeArgs) -> Result<Done, ApiError> {
    let request = Request {
        method: Method::DELETE,
        path: PATH.into(),
        body: Vec::new(),
        goal: Goal::Nothing,
        confirm: Some(
            "Get no certificates any more? Those that are there stay until they end, and are not renewed.".into(),
        ),
        change: flags,
    };
    change(client, json, request).await
}

/// `cert acme show`
pub async fn show_all(client: &Client, json: bool) -> Result<Done, ApiError> {
    let answer = show(client, json, PATH, |envelope: &Envelope<Acme>| {
        let all = &envelope.data;
        let Some(directory) = &all.directory else {
            line("certificates do not come by themselves: hirsel cert acme set --directory URL --contact MAIL --agree-tos");
            hosts(&all.hosts);
            return;
        };
        let account = match (&all.account, &all.trouble) {
            (Some(account), _) => account.clone(),
            (None, Some(trouble)) => {
                format!("none: {} (failure {}, tried again {})", trouble.message, trouble.failures, since(&trouble.again_at, wall()))
            }
            (None, None) => "none yet: it is made when the first host asks for a certificate".into(),
        };
        let told = [
            ("directory", directory.clone()),
            ("believed by", if all.own_roots { "its own roots, and those of each host" } else { "roots of each host" }.into()),
            ("contacts", if all.contacts.is_empty() { "none".into() } else { all.contacts.join(", ") }),
            ("challenge", all.challenge.clone()),
            ("external", all.kid.clone().unwrap_or_else(|| "no external account".into())),
            ("account", account),
        ];
        for (what, words) in told {
            line(format!("{what:<12} {words}"));
        }
        hosts(&all.hosts);
    })
    .await?;
    Ok(if answer.envelope.data.hosts.iter().all(is_well) { Done::Well } else { Done::Degraded })
}

/// Whether nothing is to be done about a host.
pub fn is_well(it: &AutomaticHost) -> bool {
    it.served && it.trouble.is_none()
}

/// A table of hosts, if there are any.
pub fn hosts(all: &[AutomaticHost]) {
    if all.is_empty() {
        return;
    }
    let row = |it: &AutomaticHost| {
        let renews = it.renews_at.as_ref().map_or_else(|| "-".into(), |at| since(at, wall()));
        let again = it.trouble.as_ref().map_or_else(|| "-".into(), |trouble| since(&trouble.again_at, wall()));
        let words = match &it.trouble {
            // A certificate that is good hides no failure.
            Some(trouble) if it.state == "good" => trouble.message.clone(),
            _ => it.message.clone(),
        };
        vec![it.host.clone(), it.state.clone(), renews, again, words]
    };
    let rows: Vec<_> = all.iter().map(row).collect();
    line("");
    line(table(&["AUTOMATIC HOST", "STATE", "RENEWS", "TRIED AGAIN", "BECAUSE"], &rows));
}

/// `cert renew`
pub async fn renew(client: &Client, json: bool, args: &CertRenewArgs) -> Result<Done, ApiError> {
    let host = args.host.to_ascii_lowercase();
    let before = match args.change.wait {
        true => {
            let all = client.get::<Certificates>("/v1/certificates").await?.envelope.data;
            all.front.into_iter().find(|it| it.name == host).map_or(0, |it| it.version)
        }
        false => 0,
    };
    let request = Request {
        method: Method::POST,
        path: format!("/v1/certificates/front/{}/renew", escape(&host).replace('/', "%2F")),
        body: Vec::new(),
        goal: Goal::Renewed(host, before),
        confirm: None,
        change: &args.change,
    };
    change(client, json, request).await
}
