//! The verbs that change something: ask where that is due, do it, say what was done and how to undo it, wait where wanted.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use super::args::{ApplyArgs, ChangeArgs, ScaleArgs, TokenNewArgs, TokenRevokeArgs, WebhookVerb};
use super::client::{Answer, Client};
use super::look::{escape, in_file, print_forecast, warn};
use super::output::{self, Colour, line, note, paint, since};
use super::wait::{Goal, wait_for};
use super::{Done, read_file, wall};
use crate::api::error::{ApiError, Code};
use crate::api::forecast::Forecast;
use crate::api::handlers::changes::Changed;
use crate::api::views::tokens::NewToken;

/// How long `--wait` waits unless told otherwise: a rolling update of some dozen instances.
const WAIT_USUAL: Duration = Duration::from_secs(120);

/// A change to ask for.
pub struct Request<'a> {
    /// HTTP method.
    pub method: Method,
    /// Path.
    pub path: String,
    /// Body.
    pub body: Vec<u8>,
    /// What `--wait` waits for.
    pub goal: Goal,
    /// What cannot be undone is asked about first, in these words.
    pub confirm: Option<String>,
    /// The flags.
    pub change: &'a ChangeArgs,
}

/// Does it, or shows what it would do.
pub async fn change(client: &Client, json: bool, request: Request<'_>) -> Result<Done, ApiError> {
    let flags = request.change;
    let path = with_flags(&request.path, flags);
    if flags.plan {
        let answer = client.ask::<Forecast>(request.method, &path, request.body).await?;
        return Ok(print_forecast(&answer, json));
    }
    if let Some(question) = request.confirm.as_ref().filter(|_| !flags.yes) {
        confirm(question)?;
    }
    let answer = client.ask::<Changed>(request.method, &path, request.body).await?;
    if !json {
        print_changed(&answer);
    }
    let goal = match request.goal {
        Goal::Purged(_) => Goal::Purged(answer.envelope.data.index),
        goal => goal,
    };
    let done = waited(client, json, &goal, (flags.wait, flags.timeout)).await?;
    if json {
        output::raw(&answer.text);
    }
    Ok(done)
}

/// Waits for `goal` if that is wished, by `--wait` and `--timeout`.
pub(super) async fn waited(
    client: &Client,
    json: bool,
    goal: &Goal,
    (wait, timeout): (bool, Option<Duration>),
) -> Result<Done, ApiError> {
    if !wait {
        return Ok(Done::Well);
    }
    wait_for(client, goal, timeout.unwrap_or(WAIT_USUAL), json).await
}

fn print_changed(answer: &Answer<Changed>) {
    line(&answer.envelope.data.did);
    if let Some(undo) = &answer.envelope.data.undo {
        note(paint(&format!("undo: {undo}"), Colour::Dim));
    }
    warn(&answer.envelope.warnings);
}

pub(super) fn with_flags(path: &str, flags: &ChangeArgs) -> String {
    let plan = flags.plan.then(|| "plan=true".to_string());
    let if_index = flags.if_index.map(|index| format!("if_index={index}"));
    let force = flags.force.as_ref().map(|reason| format!("force={}", escape(reason).replace('/', "%2F")));
    let parts: Vec<String> = [plan, if_index, force].into_iter().flatten().collect();
    let first = if path.contains('?') { "&" } else { "?" };
    if parts.is_empty() { path.to_string() } else { format!("{path}{first}{}", parts.join("&")) }
}

/// Asks on the terminal; where there is none, `--yes` is needed.
pub(super) fn confirm(question: &str) -> Result<(), ApiError> {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(nobody_to_ask(question));
    }
    let _ = write!(anstream::stderr(), "{question} [y/N] ");
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    match (read, answer.trim()) {
        (Ok(_), "y" | "Y" | "yes") => Ok(()),
        _ => Err(ApiError::new(Code::Unsafe, "not confirmed; nothing was changed")),
    }
}

fn nobody_to_ask(question: &str) -> ApiError {
    let message = format!("{question} This cannot be undone, and there is nobody to ask");
    ApiError::new(Code::Unsafe, message).next("repeat with --yes")
}

/// `apply`
pub async fn apply(client: &Client, json: bool, args: &ApplyArgs) -> Result<Done, ApiError> {
    let body = read_file(&args.file)?;
    let app = name_in(&body);
    let goal = app.map_or(Goal::Nothing, Goal::AppSettled);
    let request =
        Request { method: Method::POST, path: "/v1/apply".into(), body, goal, confirm: None, change: &args.change };
    change(client, json, request).await.map_err(|error| in_file(error, &args.file))
}

/// The name of the application in a manifest; the agent checks everything else.
fn name_in(manifest: &[u8]) -> Option<String> {
    let table: toml::Table = toml::from_str(std::str::from_utf8(manifest).ok()?).ok()?;
    table.get("app")?.as_str().map(ToString::to_string)
}

/// `scale`
pub async fn scale(client: &Client, json: bool, args: &ScaleArgs) -> Result<Done, ApiError> {
    let to = &args.what;
    let mut fields = json!({ "replicas": to.replicas });
    if let Some(service) = &to.service {
        fields["service"] = json!(service);
    }
    let path = format!("/v1/apps/{}/scale", escape(&to.app));
    let goal = Goal::AppSettled(to.app.clone());
    change(client, json, post(path, Some(fields), goal, &args.change)).await
}

/// `restart`, `rollback`, `stop`, `start`
pub async fn app(client: &Client, json: bool, verb: &str, what: &str, flags: &ChangeArgs) -> Result<Done, ApiError> {
    let (app, service) = what.split_once('/').map_or((what, None), |(app, service)| (app, Some(service)));
    if verb != "restart" && service.is_some() {
        let message = format!("{verb} is for whole applications; {what:?} names a service");
        return Err(ApiError::new(Code::Usage, message).next(format!("hirsel scale {what}=0")));
    }
    let goal = if verb == "stop" { Goal::AppGone(app.into()) } else { Goal::AppSettled(app.into()) };
    let fields = service.map(|service| json!({ "service": service }));
    change(client, json, post(format!("/v1/apps/{}/{verb}", escape(app)), fields, goal, flags)).await
}

/// `rm`
pub async fn remove(client: &Client, json: bool, app: &str, flags: &ChangeArgs) -> Result<Done, ApiError> {
    let request = Request {
        method: Method::DELETE,
        confirm: Some(format!("Stop every instance of {app} and forget it?")),
        ..post(format!("/v1/apps/{}", escape(app)), None, Goal::AppGone(app.into()), flags)
    };
    change(client, json, request).await
}

/// `drain`, `cordon`, `uncordon`, `forget`
pub async fn node(client: &Client, json: bool, verb: &str, node: &str, flags: &ChangeArgs) -> Result<Done, ApiError> {
    let goal = match verb {
        "drain" => Goal::NodeEmpty(node.into()),
        "forget" | "leave" => Goal::NodeGone(node.into()),
        _ => Goal::Nothing,
    };
    let confirm = match verb {
        "forget" => Some(format!(
            "Forget {node}? It must be off: its key will not be accepted any more, and what it runs exclusively is started elsewhere."
        )),
        "leave" => Some(format!("Hand over everything {node} holds, and leave the cluster for good?")),
        _ => None,
    };
    let request = Request { confirm, ..post(format!("/v1/nodes/{}/{verb}", escape(node)), None, goal, flags) };
    change(client, json, request).await
}

/// `leave`: of the node that is asked.
pub async fn leave(client: &Client, json: bool, flags: &ChangeArgs) -> Result<Done, ApiError> {
    let me = client.get::<Value>("/v1/status").await?.envelope.node;
    node(client, json, "leave", &me, flags).await
}

/// `role pin|unpin`
pub async fn role(client: &Client, json: bool, verb: &str, args: &super::args::PinArgs) -> Result<Done, ApiError> {
    let goal = match verb {
        "pin" => Goal::RoleOn(args.role.clone(), args.target.clone()),
        _ => Goal::Nothing,
    };
    let path = format!("/v1/roles/{}/{verb}", escape(&args.role));
    change(client, json, post(path, Some(json!({ "node": args.target })), goal, &args.change)).await
}

/// `role move`
pub async fn move_role(client: &Client, json: bool, args: &super::args::MoveArgs) -> Result<Done, ApiError> {
    let goal = Goal::RoleOn(args.role.clone(), args.to.clone());
    let path = format!("/v1/roles/{}/move", escape(&args.role));
    let fields = json!({ "node": args.target, "to": args.to });
    change(client, json, post(path, Some(fields), goal, &args.change)).await
}

/// `role log`
pub async fn log(client: &Client, json: bool, args: &super::args::LogArgs) -> Result<Done, ApiError> {
    let path = format!("/v1/roles/{}/log", escape(&args.role));
    let (format, sample, query) = (&args.format, args.sample, !args.no_query);
    let fields = json!({ "format": format, "sample": sample, "query": query, "syslog": args.syslog });
    let request = Request { method: Method::PUT, ..post(path, Some(fields), Goal::Nothing, &args.change) };
    change(client, json, request).await
}

/// `webhook set|rm`
pub async fn webhook(client: &Client, json: bool, verb: &WebhookVerb) -> Result<Done, ApiError> {
    let (url, flags) = match verb {
        WebhookVerb::Set { url, change } => (Some(url), change),
        WebhookVerb::Rm(change) => (None, change),
    };
    let request = Request {
        method: Method::PUT,
        ..post("/v1/webhook".into(), Some(json!({ "url": url })), Goal::Nothing, flags)
    };
    change(client, json, request).await
}

/// `token new`
pub async fn new_token(client: &Client, json: bool, args: &TokenNewArgs) -> Result<Done, ApiError> {
    let grants = match (args.viewer, args.operator, args.admin) {
        (true, _, _) => "viewer",
        (_, true, _) => "operator",
        (_, _, true) => "admin",
        _ => "join",
    };
    let fields = json!({ "grants": grants, "uses": args.uses, "ttl_s": args.ttl.map(|ttl| ttl.as_secs()) });
    let (path, body) = (with_flags("/v1/tokens", &args.change), fields.to_string().into_bytes());
    if args.change.plan {
        return Ok(print_forecast(&client.ask::<Forecast>(Method::POST, &path, body).await?, json));
    }
    // A token is good as soon as it is there: there is nothing to wait for.
    let answer = client.ask::<NewToken>(Method::POST, &path, body).await?;
    if json {
        output::raw(&answer.text);
        return Ok(Done::Well);
    }
    let made = &answer.envelope.data;
    // Alone on standard output, so that a script may catch it.
    line(&made.token);
    let uses = made.uses.map_or("any number of times".to_string(), |uses| output::count(uses, "time"));
    note(format!("good for {grants}, {uses}, expires {}; it is shown this once", since(&made.expires_at, wall())));
    note(match grants {
        "join" => "use: hirsel join ADDR --token TOKEN".to_string(),
        _ => "use: hirsel login ADDR --token TOKEN".to_string(),
    });
    note(paint(&format!("undo: hirsel token revoke {}", made.id), Colour::Dim));
    Ok(Done::Well)
}

/// `token revoke`
pub async fn revoke(client: &Client, json: bool, args: &TokenRevokeArgs) -> Result<Done, ApiError> {
    let path = format!("/v1/tokens/{}", escape(&args.id));
    let request = Request { method: Method::DELETE, ..post(path, None, Goal::Nothing, &args.change) };
    change(client, json, request).await
}

fn post(path: String, fields: Option<Value>, goal: Goal, change: &ChangeArgs) -> Request<'_> {
    let body = fields.map(|fields| fields.to_string().into_bytes()).unwrap_or_default();
    Request { method: Method::POST, path, body, goal, confirm: None, change }
}
