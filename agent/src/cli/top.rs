//! `top`: the cluster as it is now, again every second, until somebody has seen enough.

use std::io::{IsTerminal, Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::Done;
use super::client::Client;
use super::look::{print_members, print_status};
use super::output::{self, Colour, line, paint};
use super::traffic::{self, Looks};
use crate::api::envelope::Envelope;
use crate::api::error::{ApiError, Code};
use crate::api::requests::RouteTraffic;
use crate::api::views::members::Member;
use crate::api::views::status::Status;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);

/// `top`
pub async fn top(client: &Client, json: bool) -> Result<Done, ApiError> {
    let failed = |error: std::io::Error| ApiError::new(Code::Failed, format!("cannot listen for signals: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    // Whoever cannot be asked at all is no cluster that comes back.
    let (begun, mut looks) = (Instant::now(), Looks::default());
    let mut seen = Some(look(client).await?);
    let screen = (!json && std::io::stdout().is_terminal()).then(Screen::open);
    let (quit, mut quits) = oneshot::channel();
    if screen.is_some() && std::io::stdin().is_terminal() {
        std::thread::spawn(move || wait_for_q(quit));
    }
    let mut asks_to_quit = true;
    loop {
        match seen.take() {
            Some(seen) if json => {
                looks.see(begun.elapsed(), seen.traffic);
                let mut all = seen.all;
                all["data"]["routes"] = json!(looks.rates());
                output::raw(&all.to_string());
            }
            Some(seen) => {
                looks.see(begun.elapsed(), seen.traffic);
                clear(&screen);
                print_status(&seen.status);
                line("");
                traffic::print(&looks.rates());
                line("");
                print_members(&seen.members);
                line(paint("q ends", Colour::Dim));
            }
            None => {}
        }
        tokio::select! {
            () = sleep(EVERY) => {}
            _ = interrupt.recv() => return Ok(Done::Well),
            _ = terminate.recv() => return Ok(Done::Well),
            told = &mut quits, if asks_to_quit => match told {
                Ok(()) => return Ok(Done::Well),
                // Nobody reads keys: there is no terminal, or it was closed.
                Err(_) => asks_to_quit = false,
            },
        }
        match look(client).await {
            Ok(next) => seen = Some(next),
            Err(error) => {
                clear(&screen);
                output::error(&error, json);
            }
        }
    }
}

struct Seen {
    all: Value,
    traffic: Vec<RouteTraffic>,
    status: Envelope<Status>,
    members: Envelope<Vec<Member>>,
}

async fn look(client: &Client) -> Result<Seen, ApiError> {
    let status = client.get::<Status>("/v1/status").await?;
    let members = client.get::<Vec<Member>>("/v1/members").await?;
    // A node that is too old for this question is one without routes.
    let traffic =
        client.get::<Vec<RouteTraffic>>("/v1/traffic").await.map(|told| told.envelope.data).unwrap_or_default();
    let mut all: Value = serde_json::from_str(&status.text).unwrap_or_default();
    all["data"] = json!({ "status": status.envelope.data, "members": members.envelope.data });
    Ok(Seen { all, traffic, status: status.envelope, members: members.envelope })
}

fn clear(screen: &Option<Screen>) {
    if screen.is_some() {
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(b"\x1b[H\x1b[2J");
        let _ = out.flush();
    }
}

/// Ends with `q`; with anything else only when there is nothing more to read.
fn wait_for_q(quit: oneshot::Sender<()>) {
    let mut key = [0];
    while let Ok(1) = std::io::stdin().read(&mut key) {
        if key == *b"q" {
            let _ = quit.send(());
            return;
        }
    }
}

/// The second screen of the terminal, with keys read one by one. Dropping it brings back what was there.
struct Screen {
    /// How the terminal was, in the words of `stty`; none where that is missing, and then `q` wants Enter.
    before: Option<String>,
}

impl Screen {
    fn open() -> Self {
        let before = stty(&["-g"]).map(|words| words.trim().to_string()).filter(|words| !words.is_empty());
        if before.is_some() {
            stty(&["-icanon", "-echo"]);
        }
        let mut out = std::io::stdout();
        let _ = out.write_all(b"\x1b[?1049h\x1b[?25l");
        let _ = out.flush();
        Self { before }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let mut out = std::io::stdout();
        let _ = out.write_all(b"\x1b[?25h\x1b[?1049l");
        let _ = out.flush();
        if let Some(before) = &self.before {
            stty(&[before]);
        }
    }
}

/// What `stty` says about the terminal of this process, or does to it.
fn stty(words: &[&str]) -> Option<String> {
    let ran = Command::new("stty").args(words).stdin(Stdio::inherit()).stderr(Stdio::null()).output().ok()?;
    ran.status.success().then(|| String::from_utf8_lossy(&ran.stdout).into_owned())
}
