//! `cert add|list|show|rm|tickets|rotate`. A key comes from a file or from standard input, never from an argument, which anybody on the host
//! could see; and it is printed nowhere.

use std::path::Path;

use http::Method;
use serde_json::json;

use super::acme;
use super::act::{Request, change};
use super::args::{CertAddArgs, CertArgs, CertTicketsArgs, ChangeArgs};
use super::client::Client;
use super::look::{escape, show};
use super::output::{line, since, table};
use super::wait::Goal;
use super::{Done, read_file, wall};
use crate::api::envelope::Envelope;
use crate::api::error::{ApiError, Code};
use crate::api::views::certificates::{Authority, Certificates, FrontCertificate, NodeCertificate, Shower, TicketKey};

/// `cert add`
pub async fn add(client: &Client, json: bool, args: &CertAddArgs) -> Result<Done, ApiError> {
    let stdin = |path: &Path| path == Path::new("-");
    if stdin(&args.cert) && args.key.as_deref().is_some_and(stdin) {
        return Err(ApiError::new(Code::Usage, "standard input is one file: it cannot be both --cert and --key")
            .next("give it once, with both in it, as --cert -"));
    }
    let mut body = read_file(&args.cert)?;
    if let Some(key) = &args.key {
        // Whoever writes a file by hand forgets its last line end.
        body.push(b'\n');
        body.extend(read_file(key)?);
    }
    let request = Request {
        method: Method::PUT,
        path: path(&args.cert_name),
        body,
        goal: Goal::CertificateShown,
        confirm: None,
        change: &args.change,
    };
    change(client, json, request).await
}

/// `cert rm`
pub async fn remove(client: &Client, json: bool, args: &CertArgs) -> Result<Done, ApiError> {
    let request = Request {
        method: Method::DELETE,
        path: path(&args.cert_name),
        body: Vec::new(),
        goal: Goal::CertificateShown,
        confirm: Some(format!(
            "Forget certificate {}? Load balancers show it no more, and its key cannot be had back from here.",
            args.cert_name
        )),
        change: &args.change,
    };
    change(client, json, request).await
}

/// `cert show`
pub async fn show_one(client: &Client, json: bool, name: &str) -> Result<Done, ApiError> {
    let answer = show(client, json, &path(name), |envelope: &Envelope<FrontCertificate>| {
        let it = &envelope.data;
        let state = if it.state == "ok" { String::new() } else { format!(", {}", it.state) };
        let told = [
            ("name", it.name.clone()),
            ("domains", it.domains.join(", ")),
            ("issuer", it.issuer.clone()),
            ("serial", it.serial.clone()),
            ("SHA-256", it.fingerprint.clone()),
            ("key", it.key.clone()),
            ("starts", format!("{} ({})", it.starts_at, since(&it.starts_at, wall()))),
            ("ends", format!("{} ({}{state})", it.ends_at, since(&it.ends_at, wall()))),
            ("renews", it.renews_at.as_ref().map_or_else(|| "when it is added again".into(), |at| since(at, wall()))),
            ("version", format!("{}, set {}", it.version, since(&it.set_at, wall()))),
        ];
        for (what, words) in told {
            line(format!("{what:<10} {words}"));
        }
        line(format!("\n{}", it.chain.as_deref().unwrap_or_default().trim_end()));
    })
    .await?;
    Ok(if answer.envelope.data.state == "ok" { Done::Well } else { Done::Degraded })
}

/// `cert list`
pub async fn list(client: &Client, json: bool) -> Result<Done, ApiError> {
    let answer = show(client, json, "/v1/certificates", |envelope: &Envelope<Certificates>| {
        let all = &envelope.data;
        if !all.front.is_empty() {
            let row = |it: &FrontCertificate| {
                let ends = since(&it.ends_at, wall());
                let version = it.version.to_string();
                let renews = it.renews_at.as_ref().map_or_else(|| "-".into(), |at| since(at, wall()));
                let (name, state, source) = (it.name.clone(), it.state.clone(), it.source.clone());
                vec![name, state, source, ends, renews, version, it.issuer.clone(), it.domains.join(" ")]
            };
            let rows: Vec<_> = all.front.iter().map(row).collect();
            line(table(&["CERTIFICATE", "STATE", "SOURCE", "ENDS", "RENEWS", "VERSION", "ISSUER", "DOMAINS"], &rows));
            line(format!("shown by: {}\n", shown_by(&all.shown_by)));
            if let Some(key) = all.tickets.iter().find(|key| key.state == "seals") {
                let count = all.tickets.len();
                line(format!(
                    "sessions are resumed at all of them: {count} keys of tickets, key {} seals\n",
                    key.version
                ));
            }
        }
        if !all.automatic.iter().all(acme::is_well) {
            acme::hosts(&all.automatic);
            line("");
        }
        let row = |it: &Authority| {
            let replaced = it.replaced_at.as_ref().map_or_else(|| "-".into(), |at| since(at, wall()));
            vec![it.fingerprint[..16].to_string(), it.state.clone(), replaced]
        };
        let rows: Vec<_> = all.authorities.iter().map(row).collect();
        line(table(&["AUTHORITY OF NODES", "STATE", "REPLACED"], &rows));
        line("");
        let row = |it: &NodeCertificate| {
            let ends = it.ends_at.as_ref().map_or_else(|| "-".into(), |at| since(at, wall()));
            vec![it.node.clone(), it.state.clone(), ends, it.authority.clone().unwrap_or_else(|| "-".into())]
        };
        let rows: Vec<_> = all.nodes.iter().map(row).collect();
        line(table(&["NODE", "STATE", "ENDS", "AUTHORITY"], &rows));
    })
    .await?;
    let all = &answer.envelope.data;
    let well = all.nodes.iter().all(|node| node.state == "ok") && all.front.iter().all(|it| it.state == "ok");
    let well = well && all.automatic.iter().all(acme::is_well);
    Ok(if well { Done::Well } else { Done::Degraded })
}

/// Who has them, and who has not.
fn shown_by(nodes: &[Shower]) -> String {
    let word = |it: &Shower| match it.state.as_str() {
        "ok" => it.node.clone(),
        state => format!("{} ({state})", it.node),
    };
    match nodes {
        [] => "no node, for none balances load".into(),
        nodes => nodes.iter().map(word).collect::<Vec<_>>().join(", "),
    }
}

/// `cert tickets`
pub async fn tickets(client: &Client, json: bool, args: &CertTicketsArgs) -> Result<Done, ApiError> {
    let newest = |all: Certificates| all.tickets.first().map_or(0, |key: &TicketKey| key.version);
    let before = match args.change.wait {
        true => newest(client.get::<Certificates>("/v1/certificates").await?.envelope.data),
        false => 0,
    };
    let request = Request {
        method: Method::POST,
        path: "/v1/certificates/tickets".into(),
        body: serde_json::to_vec(&json!({ "forget": args.forget })).unwrap_or_default(),
        goal: Goal::TicketKeyDrawn(before),
        // It costs each client one handshake in full, and nothing is lost.
        confirm: None,
        change: &args.change,
    };
    change(client, json, request).await
}

/// `cert rotate`
pub async fn rotate(client: &Client, json: bool, flags: &ChangeArgs) -> Result<Done, ApiError> {
    let present = |all: Certificates| all.authorities.into_iter().next().map(|authority| authority.fingerprint);
    let before = match flags.wait {
        true => present(client.get::<Certificates>("/v1/certificates").await?.envelope.data),
        false => None,
    };
    let request = Request {
        method: Method::POST,
        path: "/v1/certificates/rotate".into(),
        body: Vec::new(),
        goal: Goal::Certified(before),
        confirm: None,
        change: flags,
    };
    change(client, json, request).await
}

fn path(name: &str) -> String {
    format!("/v1/certificates/front/{}", escape(name).replace('/', "%2F"))
}
