//! The verbs that look. With `--json` the answer is passed on as it came.

use http::Method;
use serde::de::DeserializeOwned;

use super::args::{EventsArgs, LogsArgs, MembersArgs, PlanArgs, PsArgs, SimulateArgs, WhyArgs};
use super::client::{Answer, Client};
use super::output::{self, Colour, ago_or_dash, any, line, note, paint, since, state, table};
use super::{Done, read_file, survey, wall};
use crate::api::doctor::{Check, Doctor};
use crate::api::envelope::Envelope;
use crate::api::error::{ApiError, Code};
use crate::api::forecast::{Count, Forecast, Placed, SlotChange};
use crate::api::logs::LogLine;
use crate::api::requests::RequestLine;
use crate::api::simulate::Simulated;
use crate::api::views::apps::{App, Instance};
use crate::api::views::events::EventLine;
use crate::api::views::members::Member;
use crate::api::views::roles::RoleSlot;
use crate::api::views::status::{LongGrant, Losses, Status};
use crate::api::views::tokens::Token;
use crate::api::views::why::Why;

/// Reads, and shows the answer as it came or as people like it.
pub async fn show<T: DeserializeOwned>(
    client: &Client,
    json: bool,
    path: &str,
    people: impl FnOnce(&Envelope<T>),
) -> Result<Answer<T>, ApiError> {
    let answer = client.get::<T>(path).await?;
    if json {
        output::raw(&answer.text);
    } else {
        people(&answer.envelope);
        warn(&answer.envelope.warnings);
    }
    Ok(answer)
}

pub(super) fn warn(warnings: &[String]) {
    for warning in warnings {
        note(format!("{}: {warning}", paint("warning", Colour::Yellow)));
    }
}

/// `status`
pub async fn status(client: &Client, json: bool) -> Result<Done, ApiError> {
    let answer = show(client, json, "/v1/status", print_status).await?;
    let status = &answer.envelope.data;
    Ok(if status.health == "healthy" { Done::Well } else { Done::Degraded })
}

pub(super) fn print_status(envelope: &Envelope<Status>) {
    let status = &envelope.data;
    line(format!("Health    {}   cluster {}, asked {}", state(&status.health), envelope.cluster, envelope.node));
    for because in &status.because {
        line(format!("          {because}"));
    }
    let leader = status.leader.as_deref().unwrap_or("none");
    line(format!("Leader    {leader}, term {}; voters {}", status.term, status.voters.join(" ")));
    let nodes = &status.nodes;
    let mut standing = vec![format!("{} alive", nodes.alive)];
    for (number, word) in [(nodes.suspect, "suspect"), (nodes.unfit, "unfit"), (nodes.down, "down")] {
        if number > 0 {
            standing.push(format!("{number} {word}"));
        }
    }
    line(format!("Nodes     {}", standing.join(", ")));
    let can = &status.can_lose;
    line(format!("Can lose  {}, {}", any(can.nodes, "node"), any(can.zones, "zone")));
    if status.brake {
        line("Brake     on: many nodes were lost at once, so no data moves");
    }
    for long in &status.long_grants {
        let LongGrant { instance, node, until } = long;
        line(format!("Away      the agent of {node}, on purpose: {instance} may act on until about {until}"));
    }
    for it in &status.addresses {
        let by = if it.holders.is_empty() { it.state.clone() } else { it.holders.join(" and ") };
        line(format!("Address   {}: {by}", it.address));
    }
    if let Some(storage) = &status.storage {
        survey::print_storage(storage);
    }
    let roles: Vec<Vec<String>> = status
        .roles
        .iter()
        .map(|role| vec![role.role.clone(), format!("{}/{}", role.running, role.slots), role.nodes.join(" ")])
        .collect();
    if !roles.is_empty() {
        line(format!("\n{}", table(&["ROLE", "RUNS", "NODES"], &roles)));
    }
    let apps: Vec<Vec<String>> = status
        .apps
        .iter()
        .map(|(app, summary)| {
            let healthy = format!("{}/{}", summary.healthy, summary.wanted);
            vec![app.clone(), summary.health.clone(), healthy, summary.endpoints.join(" ")]
        })
        .collect();
    if !apps.is_empty() {
        line(format!("\n{}", table(&["APP", "HEALTH", "WORK", "ENDPOINTS"], &apps)));
    }
    if let Some(incident) = &status.last_incident {
        let over = if incident.verified { "healed" } else { "not seen healed" };
        line(format!("\nLast incident  {}: {} ({over})", since(&incident.at, wall()), incident.message));
        line(format!("               hirsel why {}", incident.subject));
    }
}

/// `members`
pub async fn members(client: &Client, json: bool, args: &MembersArgs) -> Result<Done, ApiError> {
    let path = if args.all { "/v1/members?all=true" } else { "/v1/members" };
    show(client, json, path, print_members).await?;
    Ok(Done::Well)
}

pub(super) fn print_members(envelope: &Envelope<Vec<Member>>) {
    let row = |member: &Member| {
        vec![
            member.name.clone(),
            member.liveness.clone(),
            member.raft.clone(),
            member.addr.clone(),
            member.zone.clone(),
            member.roles.join(" "),
            member.load.map_or("-".into(), |load| format!("{load:.1}")),
            ago_or_dash(member.seen_ms),
            member.version.clone(),
            member.note.clone().unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = envelope.data.iter().map(row).collect();
    let heading = ["NAME", "LIVENESS", "RAFT", "ADDR", "ZONE", "ROLES", "LOAD", "SEEN", "VERSION", "NOTE"];
    line(table(&heading, &rows));
}

/// `roles`
pub async fn roles(client: &Client, json: bool) -> Result<Done, ApiError> {
    show(client, json, "/v1/roles", |envelope: &Envelope<Vec<RoleSlot>>| {
        let row = |slot: &RoleSlot| {
            let because = match &slot.message {
                Some(message) => format!("{} ({message})", slot.because),
                None => slot.because.clone(),
            };
            vec![
                format!("{}/{}", slot.role, slot.slot),
                slot.node.clone(),
                slot.duty.clone(),
                slot.state.clone(),
                ago_or_dash(slot.since_ms),
                because,
            ]
        };
        let rows: Vec<_> = envelope.data.iter().map(row).collect();
        line(table(&["SLOT", "NODE", "DUTY", "STATE", "SINCE", "BECAUSE"], &rows));
    })
    .await?;
    Ok(Done::Well)
}

/// `apps`
pub async fn apps(client: &Client, json: bool) -> Result<Done, ApiError> {
    show(client, json, "/v1/apps", |envelope: &Envelope<Vec<App>>| {
        if envelope.data.is_empty() {
            note("no applications; create one with: hirsel apply FILE");
            return;
        }
        let row = |app: &App| {
            let services = app.services.iter();
            let services =
                services.map(|service| format!("{} {}/{}", service.service, service.healthy, service.wanted));
            vec![
                app.app.clone(),
                app.revision.to_string(),
                app.health.clone(),
                services.collect::<Vec<_>>().join(", "),
                listed(app.buckets.iter().map(|bucket| bucket.bucket.as_str())),
                app.endpoints.join(" "),
            ]
        };
        let rows: Vec<_> = envelope.data.iter().map(row).collect();
        line(table(&["APP", "REVISION", "HEALTH", "SERVICES", "BUCKETS", "ENDPOINTS"], &rows));
        envelope.data.iter().flat_map(|app| &app.unmet).for_each(|unmet| line(format!("  {unmet}")));
    })
    .await?;
    Ok(Done::Well)
}

fn listed<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let words: Vec<&str> = words.collect();
    if words.is_empty() { "-".into() } else { words.join(", ") }
}

/// `ps`
pub async fn ps(client: &Client, json: bool, args: &PsArgs) -> Result<Done, ApiError> {
    let path = format!("/v1/apps/{}/ps?all={}", escape(&args.app), args.all);
    show(client, json, &path, |envelope: &Envelope<Vec<Instance>>| {
        let row = |instance: &Instance| {
            vec![
                instance.instance.clone(),
                instance.node.clone(),
                instance.addr.clone().unwrap_or_else(|| "-".into()),
                instance.state.clone(),
                if instance.healthy { "yes" } else { "no" }.into(),
                instance.restarts.to_string(),
                instance.revision.to_string(),
                ago_or_dash(instance.since_ms),
                match &instance.message {
                    Some(message) => format!("{} ({message})", instance.because),
                    None => instance.because.clone(),
                },
            ]
        };
        let rows: Vec<_> = envelope.data.iter().map(row).collect();
        let heading = ["INSTANCE", "NODE", "ADDR", "STATE", "HEALTHY", "RESTARTS", "REV", "SINCE", "BECAUSE"];
        line(table(&heading, &rows));
    })
    .await?;
    Ok(Done::Well)
}

/// `events`
pub async fn events(client: &Client, json: bool, args: &EventsArgs) -> Result<Done, ApiError> {
    let range = match args.after {
        Some(after) => format!("after={after}"),
        None => format!("tail={}", args.tail),
    };
    if args.follow {
        let each = |text: &str| print_line::<EventLine>(text, json, print_event);
        client.follow(&format!("/v1/events?{range}&follow=1"), each).await?;
        return Ok(Done::Well);
    }
    show(client, json, &format!("/v1/events?{range}"), |envelope: &Envelope<Vec<EventLine>>| {
        envelope.data.iter().for_each(print_event);
    })
    .await?;
    Ok(Done::Well)
}

fn print_event(event: &EventLine) {
    let cause = event.cause_index.map(|cause| format!("  <- {cause}")).unwrap_or_default();
    let head = format!("{:>6}  {:>9}  {:<8}", event.index, since(&event.at, wall()), event.kind);
    line(format!("{head}  {}{}", event.message, paint(&cause, Colour::Dim)));
}

/// Shows one line of a stream; a line that cannot be understood is shown as it is.
fn print_line<T: DeserializeOwned>(text: &str, json: bool, people: impl Fn(&T)) -> bool {
    match serde_json::from_str::<Envelope<T>>(text) {
        Ok(envelope) if !json => people(&envelope.data),
        _ => output::raw(text),
    }
    true
}

/// `logs`
pub async fn logs(client: &Client, json: bool, args: &LogsArgs) -> Result<Done, ApiError> {
    let Some(what) = args.what.as_ref().filter(|_| !args.requests) else { return requests(client, json, args).await };
    let path = format!("/v1/logs/{}?tail={}", escape(what), args.tail);
    let print = |told: &LogLine| {
        let head = format!("{} {}@{}", told.at, told.instance, told.node);
        let colour = if told.stream == "err" { Colour::Yellow } else { Colour::Dim };
        line(format!("{} {}", paint(&head, colour), told.text));
    };
    if args.follow {
        client.follow(&format!("{path}&follow=1"), |text| print_line::<LogLine>(text, json, print)).await?;
        return Ok(Done::Well);
    }
    show(client, json, &path, |envelope: &Envelope<Vec<LogLine>>| envelope.data.iter().for_each(print)).await?;
    Ok(Done::Well)
}

/// `logs --requests`: the lines as they were written, for whatever reads such lines.
async fn requests(client: &Client, json: bool, args: &LogsArgs) -> Result<Done, ApiError> {
    let what = args.what.as_ref().map(|what| format!("&what={}", escape(what))).unwrap_or_default();
    let path = format!("/v1/requests?tail={}{what}", args.tail);
    let print = |told: &RequestLine| line(&told.text);
    if args.follow {
        client.follow(&format!("{path}&follow=1"), |text| print_line::<RequestLine>(text, json, print)).await?;
        return Ok(Done::Well);
    }
    show(client, json, &path, |envelope: &Envelope<Vec<RequestLine>>| {
        if envelope.data.is_empty() {
            note("no request was written down; a route says so with log = \"json\", the cluster with: hirsel role log lb json");
        }
        envelope.data.iter().for_each(print);
    })
    .await?;
    Ok(Done::Well)
}

/// `why`
pub async fn why(client: &Client, json: bool, args: &WhyArgs) -> Result<Done, ApiError> {
    show(client, json, &format!("/v1/why/{}", escape(&args.thing)), |envelope: &Envelope<Why>| {
        let why = &envelope.data;
        let since = why.since.as_deref().map(|at| format!(", {}", since(at, wall()))).unwrap_or_default();
        line(format!("{}{since}", why.subject));
        if let Some(node) = &why.chosen.node {
            line(format!("  on {node}"));
        }
        for (depth, link) in why.because.iter().enumerate() {
            let event = link.event_index.map(|index| format!("  [event {index}]")).unwrap_or_default();
            let word = if depth == 0 { "" } else { "because " };
            line(format!("  {}{word}{}{}", "  ".repeat(depth), link.text, paint(&event, Colour::Dim)));
        }
        for rejected in &why.rejected {
            line(format!("  not {}: {}", rejected.node, rejected.reason));
        }
        for link in &why.afterwards {
            line(format!("  then {}", link.text));
        }
        if let Some(undo) = &why.undo {
            line(format!("  undo: {undo}"));
        }
    })
    .await?;
    Ok(Done::Well)
}

/// `token list`
pub async fn tokens(client: &Client, json: bool) -> Result<Done, ApiError> {
    show(client, json, "/v1/tokens", |envelope: &Envelope<Vec<Token>>| {
        let row = |token: &Token| {
            let uses = token.uses_left.map_or("any".into(), |uses| uses.to_string());
            vec![token.id.clone(), token.grants.clone(), token.state.clone(), since(&token.expires_at, wall()), uses]
        };
        let rows: Vec<_> = envelope.data.iter().map(row).collect();
        line(table(&["ID", "GRANTS", "STATE", "EXPIRES", "USES LEFT"], &rows));
    })
    .await?;
    Ok(Done::Well)
}

/// `plan`
pub async fn plan(client: &Client, json: bool, args: &PlanArgs) -> Result<Done, ApiError> {
    let text = read_file(&args.file)?;
    let asked = client.ask::<Forecast>(Method::POST, "/v1/plan", text).await;
    let answer = asked.map_err(|error| in_file(error, &args.file))?;
    Ok(print_forecast(&answer, json))
}

/// Puts the name of the file before each place in it.
pub fn in_file(mut error: ApiError, file: &std::path::Path) -> ApiError {
    if error.code == Code::Manifest {
        let file = if file.as_os_str() == "-" { "stdin".into() } else { file.display().to_string() };
        let places = error.evidence.iter().map(|place| format!("{file}:{place}"));
        error.evidence = places.collect();
        error.message = match error.evidence.len() {
            1 => format!("{file} has an error"),
            many => format!("{file} has {many} errors"),
        };
    }
    error
}

/// Shows what a change would do.
pub fn print_forecast(answer: &Answer<Forecast>, json: bool) -> Done {
    let shown = &answer.envelope.data;
    let done = if shown.changes { Done::WouldChange } else { Done::Well };
    if json {
        output::raw(&answer.text);
        return done;
    }
    if !shown.changes {
        line("nothing would change");
    }
    for difference in &shown.spec {
        let (before, after) = (difference.before.as_deref(), difference.after.as_deref());
        line(match (before, after) {
            (Some(before), Some(after)) => format!("~ {}: {before} -> {after}", difference.path),
            (None, Some(after)) => paint(&format!("+ {} = {after}", difference.path), Colour::Green),
            (before, None) => paint(&format!("- {} = {}", difference.path, before.unwrap_or_default()), Colour::Red),
        });
    }
    print_moves(&shown.counts, &shown.start, &shown.stop, &shown.roles);
    shown.unmet.iter().for_each(|unmet| line(format!("! {unmet}")));
    if !shown.complete {
        note("this is only the beginning: the plan does not come to rest");
    }
    warn(&answer.envelope.warnings);
    done
}

fn print_moves(counts: &[Count], start: &[Placed], stop: &[Placed], roles: &[SlotChange]) {
    for count in counts {
        line(format!("~ {}: {} -> {} instances", count.service, count.before, count.after));
    }
    for placed in start {
        line(paint(&format!("+ {} on {}: {}", placed.instance, placed.node, placed.because), Colour::Green));
    }
    for placed in stop {
        line(paint(&format!("- {} on {}", placed.instance, placed.node), Colour::Red));
    }
    for change in roles {
        let (before, after) = (change.before.as_deref().unwrap_or("-"), change.after.as_deref().unwrap_or("-"));
        let because = change.because.as_ref().map(|because| format!(": {because}")).unwrap_or_default();
        line(format!("~ {}/{}: {before} -> {after}{because}", change.role, change.slot));
    }
}

/// `doctor`
pub async fn doctor(client: &Client, json: bool) -> Result<Done, ApiError> {
    let answer = show(client, json, "/v1/doctor", |envelope: &Envelope<Doctor>| print_doctor(&envelope.data)).await?;
    Ok(doctor_done(&answer.envelope.data))
}

/// One line per check, and one more where something is to do.
pub fn print_doctor(told: &Doctor) {
    let row = |check: &Check| {
        let next = check.next.as_ref().map(|next| format!("; try: {next}")).unwrap_or_default();
        let value = format!("{} (wanted: {}){next}", check.value, check.limit);
        vec![check.state.clone(), check.check.clone(), check.subject.clone(), value]
    };
    let rows: Vec<_> = told.checks.iter().map(row).collect();
    line(table(&["STATE", "CHECK", "OF", "FOUND"], &rows));
}

/// How `doctor` ends.
pub fn doctor_done(told: &Doctor) -> Done {
    match told.state.as_str() {
        "ok" => Done::Well,
        "warning" => Done::Degraded,
        _ => Done::Broken,
    }
}

/// `simulate`
pub async fn simulate(client: &Client, json: bool, args: &SimulateArgs) -> Result<Done, ApiError> {
    let path = format!("/v1/simulate?events={}", escape(&args.events.join(",")).replace('/', "%2F"));
    let answer = show(client, json, &path, |envelope: &Envelope<Simulated>| {
        let told = &envelope.data;
        line(format!("if {}:", told.events.join(" and ")));
        print_moves(&told.counts, &told.start, &told.stop, &told.roles);
        if told.voters.before != told.voters.after {
            line(format!("~ voters: {} -> {}", told.voters.before.join(" "), told.voters.after.join(" ")));
        }
        told.unmet.iter().for_each(|unmet| line(paint(&format!("! {unmet}"), Colour::Yellow)));
        let (before, after) = (&told.can_lose_before, &told.can_lose);
        let losses = |can: &Losses| format!("{}, {}", any(can.nodes, "node"), any(can.zones, "zone"));
        line(format!("Can lose  {} ({}); now {}", losses(after), told.limit, losses(before)));
        if !told.complete {
            note("this is only the beginning: the plan does not come to rest");
        }
    })
    .await?;
    Ok(if answer.envelope.data.unmet.is_empty() { Done::Well } else { Done::Degraded })
}

/// A part of a path; `/` is kept, it parts names.
pub fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
