//! `secret set|list|rm|rotate`. A value comes from a file, from standard input or from a terminal that does not show it; never from an
//! argument, which anybody on the host could see.

use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;

use http::Method;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use super::act::{Request, change};
use super::args::{ChangeArgs, SecretArgs, SecretSetArgs};
use super::client::Client;
use super::look::{escape, show};
use super::output::{line, since, table};
use super::wait::Goal;
use super::{Done, read_file, wall};
use crate::api::envelope::Envelope;
use crate::api::error::{ApiError, Code};
use crate::api::views::secrets::{Sealing, Secret};

/// `secret set`
pub async fn set(client: &Client, json: bool, args: &SecretSetArgs) -> Result<Done, ApiError> {
    let SecretArgs { name, app, change: flags } = &args.secret;
    let body = match &args.file {
        Some(file) => read_file(file)?,
        None if std::io::stdin().is_terminal() => {
            ask(&format!("value of {name}"), &format!("hirsel secret set {name} --file FILE"))?
        }
        None => read_file(Path::new("-"))?,
    };
    let request = Request {
        method: Method::PUT,
        path: path(name, app.as_deref()),
        body: without_line_end(body),
        goal: Goal::SecretSettled(name.clone(), app.clone()),
        confirm: None,
        change: flags,
    };
    change(client, json, request).await
}

/// `secret list`
pub async fn list(client: &Client, json: bool) -> Result<Done, ApiError> {
    show(client, json, "/v1/secrets", |envelope: &Envelope<Vec<Secret>>| {
        let row = |secret: &Secret| {
            let app = secret.app.clone().unwrap_or_else(|| "all".into());
            let users = if secret.used_by.is_empty() { "-".into() } else { secret.used_by.join(", ") };
            vec![secret.name.clone(), app, secret.version.to_string(), since(&secret.set_at, wall()), users]
        };
        let rows: Vec<_> = envelope.data.iter().map(row).collect();
        line(table(&["NAME", "FOR", "VERSION", "SET", "USED BY"], &rows));
    })
    .await?;
    Ok(Done::Well)
}

/// `secret rm`
pub async fn remove(client: &Client, json: bool, args: &SecretArgs) -> Result<Done, ApiError> {
    let request = Request {
        method: Method::DELETE,
        path: path(&args.name, args.app.as_deref()),
        body: Vec::new(),
        goal: Goal::SecretSettled(args.name.clone(), args.app.clone()),
        confirm: Some(format!("Forget secret {}? Its value cannot be had back from here.", args.name)),
        change: &args.change,
    };
    change(client, json, request).await
}

/// `secret rotate`
pub async fn rotate(client: &Client, json: bool, flags: &ChangeArgs) -> Result<Done, ApiError> {
    let before = if flags.wait { Some(client.get::<Sealing>("/v1/sealing").await?.envelope.data.key) } else { None };
    let request = Request {
        method: Method::POST,
        path: "/v1/sealing/rotate".into(),
        body: Vec::new(),
        goal: Goal::Resealed(before),
        confirm: None,
        change: flags,
    };
    change(client, json, request).await
}

fn path(name: &str, app: Option<&str>) -> String {
    let app = app.map(|app| format!("?app={}", escape(app))).unwrap_or_default();
    format!("/v1/secrets/{}{app}", escape(name).replace('/', "%2F"))
}

/// Files and terminals end a value with a line end that is not part of it.
pub(super) fn without_line_end(mut value: Vec<u8>) -> Vec<u8> {
    if value.ends_with(b"\n") {
        value.pop();
        if value.ends_with(b"\r") {
            value.pop();
        }
    }
    value
}

/// Asks for `what` on the terminal, which does not show what is typed; where that fails, `instead` helps.
pub(super) fn ask(what: &str, instead: &str) -> Result<Vec<u8>, ApiError> {
    let failed = |error: &dyn std::fmt::Display| {
        ApiError::new(Code::Failed, format!("cannot read from this terminal: {error}")).next(instead)
    };
    let stdin = std::io::stdin();
    let shown = tcgetattr(&stdin).map_err(|error| failed(&error))?;
    let mut hidden = shown.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    let _ = write!(std::io::stderr(), "{what} (not shown): ");
    tcsetattr(&stdin, OptionalActions::Flush, &hidden).map_err(|error| failed(&error))?;
    let mut value = Vec::new();
    let read = stdin.lock().read_until(b'\n', &mut value);
    let _ = tcsetattr(&stdin, OptionalActions::Flush, &shown);
    let _ = writeln!(std::io::stderr());
    read.map_err(|error| failed(&error))?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_end_is_dropped_and_nothing_else() {
        let value = |text: &str| String::from_utf8(without_line_end(text.into())).unwrap();
        assert_eq!(
            [value("a"), value("a\n"), value("a\r\n"), value("a\n\n"), value(" a ")],
            ["a", "a", "a", "a\n", " a "]
        );
    }

    #[test]
    fn a_secret_of_an_application_is_asked_for_by_both_names() {
        assert_eq!(path("db-pw", Some("shop")), "/v1/secrets/db-pw?app=shop");
        assert_eq!(path("a/b", None), "/v1/secrets/a%2Fb");
    }
}
