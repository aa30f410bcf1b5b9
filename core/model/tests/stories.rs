//! Decisions of the planner as stories in text: a small cluster in words, what befalls it, and what the log then says.
//!
//! Each file in `stories/` is a list of commands; what is indented below one is what came out. `UPDATE_STORIES=1` writes it anew.
//! Commands: `cluster`, `join`, `node N silent|back`, `node N stops` (its agent, on purpose), `zone Z silent|back`, `apply`, `scale`, `stop`, `rm`, `drain|cordon|open|leave|
//! forget N`, `address add|rm IP/24 [IFACE]`, `network N IP/24` (that of its interface from then on), `role R`, `sick APP@REVISION`, `cured`, `busy`, `idle`, `wait T`, `show`, `why SUBJECT`.

#![allow(clippy::disallowed_methods, reason = "the driver reads the stories; the model itself does no I/O")]

mod town;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use hirsel_model::control::{Command, Outcome};
use hirsel_model::event::EventKind;
use hirsel_model::plan::Phase;
use hirsel_model::spec::*;
use hirsel_model::*;
use town::{Town, node};

#[test]
fn every_story_comes_out_as_it_was_told() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stories");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 12, "only {} stories", files.len());
    let mut wrong = String::new();
    for file in files {
        let told = std::fs::read_to_string(&file).unwrap();
        let came_out = play(&told);
        if came_out == told {
            continue;
        }
        if std::env::var_os("UPDATE_STORIES").is_some() {
            std::fs::write(&file, &came_out).unwrap();
            continue;
        }
        let differs = told.lines().zip(came_out.lines()).position(|(a, b)| a != b);
        let line = differs.unwrap_or(told.lines().count().min(came_out.lines().count()));
        let of = |text: &str| text.lines().nth(line).unwrap_or("(end)").to_owned();
        let _ = writeln!(
            wrong,
            "{}:{}\n  told:     {}\n  came out: {}",
            file.display(),
            line + 1,
            of(&told),
            of(&came_out)
        );
    }
    assert!(wrong.is_empty(), "{wrong}UPDATE_STORIES=1 takes over what came out");
}

fn play(story: &str) -> String {
    let mut out = String::new();
    let mut town = None;
    for line in story.lines().filter(|line| !line.starts_with("    ")) {
        let _ = writeln!(out, "{line}");
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.is_empty() || line.starts_with('#') {
            continue;
        }
        for said in act(&mut town, &words).lines() {
            let _ = writeln!(out, "    {said}");
        }
    }
    out
}

fn act(town: &mut Option<Town>, words: &[&str]) -> String {
    if words[0] == "cluster" {
        let mut nodes = words[1..].iter();
        *town = Some(Town::found(described(nodes.next().unwrap(), 1)));
        let town = town.as_mut().unwrap();
        for (node, number) in nodes.zip(2..) {
            town.join(described(node, number)).unwrap();
        }
        return String::new();
    }
    let town = town.as_mut().expect("a story begins with a cluster");
    let result = match words {
        ["join", nodes @ ..] => nodes.iter().try_for_each(|node| {
            let number = town.state.next_node.0;
            town.join(described(node, number)).map(drop)
        }),
        ["node", name, "stops"] => town.stop_agent(town.id(name)),
        ["node", name, how] => {
            town.set_alive(town.id(name), *how == "back");
            Ok(())
        }
        ["zone", zone, how] => {
            let nodes = town.state.spec.nodes.iter().filter(|(_, spec)| spec.zone.as_str() == *zone);
            for id in nodes.map(|(id, _)| *id).collect::<Vec<_>>() {
                town.set_alive(id, *how == "back");
            }
            Ok(())
        }
        ["apply", app, rest @ ..] => {
            let spec = app_described(app, rest);
            town.command(Command::ApplyApp { app: app.parse().unwrap(), spec }).map(drop)
        }
        ["scale", what, count] => {
            let (app, service) = what.split_once('/').unwrap();
            let (min, max) = (count.parse().unwrap(), count.parse().unwrap());
            let replicas = Replicas { min, max };
            let (app, service) = (app.parse().unwrap(), service.parse().unwrap());
            town.command(Command::Scale { app, service, replicas }).map(drop)
        }
        ["stop", app] => town.command(Command::SetStopped { app: app.parse().unwrap(), stopped: true }).map(drop),
        ["rm", app] => town.command(Command::RemoveApp { app: app.parse().unwrap() }).map(drop),
        ["forget", name] => town.command(Command::RemoveNode { node: town.id(name) }).map(drop),
        ["address", "add", what, interface @ ..] => {
            let (address, prefix) = what.split_once('/').unwrap();
            let interface = interface.first().map(ToString::to_string);
            let spec = AddressSpec { prefix: prefix.parse().unwrap(), interface };
            town.command(Command::SetAddress { address: address.parse().unwrap(), spec }).map(drop)
        }
        ["address", "rm", address] => {
            town.command(Command::RemoveAddress { address: address.parse().unwrap() }).map(drop)
        }
        ["network", name, what] => {
            let (address, prefix) = what.split_once('/').unwrap();
            let network = Network { address: address.parse().unwrap(), prefix: prefix.parse().unwrap() };
            let id = town.id(name);
            town.houses.get_mut(&id).unwrap().has = [network].into();
            Ok(())
        }
        ["drain", name] => availability(town, name, Availability::Draining),
        ["cordon", name] => availability(town, name, Availability::Cordoned),
        ["open", name] => availability(town, name, Availability::Open),
        ["leave", name] => availability(town, name, Availability::Leaving),
        ["role", role, wishes @ ..] => {
            let value = |key: &str| wishes.iter().find_map(|wish| wish.strip_prefix(key));
            let count = value("count=").map(|count| count.parse().unwrap());
            let pins = value("pin=").map(|pins| pins.split(',').map(|name| town.id(name)).collect());
            let spec = RoleSpec { count, pins: pins.unwrap_or_default(), ..RoleSpec::default() };
            town.command(Command::SetRole { role: role.parse().unwrap(), spec }).map(drop)
        }
        ["move", role, from, to] => {
            let (from, to) = (town.id(from), town.id(to));
            town.command(Command::MoveRole { role: role.parse().unwrap(), from, to }).map(drop)
        }
        ["sick", what] => {
            let (app, revision) = what.split_once('@').unwrap();
            town.sick.insert((app.parse().unwrap(), Revision(revision.parse().unwrap())));
            Ok(())
        }
        ["cured"] => {
            town.sick.clear();
            Ok(())
        }
        ["busy"] | ["idle"] => {
            town.busy = words[0] == "busy";
            Ok(())
        }
        ["wait", time] => return wait(town, time),
        ["show"] => return show(town),
        ["why", subject] => return why(town, subject),
        other => panic!("no such command: {other:?}"),
    };
    result.map_or_else(|refusal| format!("refused: {refusal}\n"), |()| String::new())
}

fn availability(town: &mut Town, name: &str, availability: Availability) -> Result<(), String> {
    town.command(Command::SetAvailability { node: town.id(name), availability }).map(|_: Outcome| ())
}

/// `n1=a`, `n1=a,cpu=500,disk=ssd`.
fn described(text: &str, number: u64) -> NodeSpec {
    let mut parts = text.split(',');
    let (name, zone) = parts.next().and_then(|first| first.split_once('=')).unwrap();
    let mut spec = node(name, number, zone);
    for (key, value) in parts.map(|part| part.split_once('=').unwrap()) {
        match key {
            "cpu" => spec.capacity.cpu_millis = value.parse().unwrap(),
            _ => drop(spec.labels.insert(key.into(), value.into())),
        }
    }
    spec
}

/// `web=3,command=x,order=stop-first,parallel=2,cpu=500,auto-revert,zone=a`; with `port=5432` that leads to it, and no route does.
fn app_described(name: &str, services: &[&str]) -> AppSpec {
    let mut app = AppSpec {
        revision: Revision(0),
        services: BTreeMap::new(),
        routes: Vec::new(),
        stopped: false,
        ports: BTreeMap::new(),
        zones: BTreeMap::new(),
        buckets: BTreeMap::new(),
    };
    let host = format!("{name}.example.com");
    for text in services {
        let mut parts = text.split(',');
        let (name, count) = parts.next().and_then(|first| first.split_once('=')).unwrap();
        let name: ServiceName = name.parse().unwrap();
        let count = count.parse().unwrap();
        let mut service = ServiceSpec {
            revision: Revision(0),
            command: vec!["serve".into()],
            workdir: None,
            env: BTreeMap::new(),
            user: None,
            replicas: Replicas { min: count, max: count },
            resources: Capacity::default(),
            health: None,
            update: UpdateSpec::default(),
            stop: StopSpec::default(),
            constraints: BTreeMap::new(),
            spread: Spread::Zone,
            exclusive: false,
            secrets: BTreeMap::new(),
            protocol: Default::default(),
        };
        let mut port = None;
        for (key, value) in parts.map(|part| part.split_once('=').unwrap_or((part, ""))) {
            match key {
                "port" => port = Some(value.parse().unwrap()),
                "command" => service.command = vec![value.into()],
                "order" if value == "stop-first" => service.update.order = UpdateOrder::StopFirst,
                "parallel" => service.update.parallel = value.parse().unwrap(),
                "exclusive" => {
                    service.exclusive = true;
                    service.update.order = UpdateOrder::StopFirst;
                }
                "auto-revert" => service.update.auto_revert = true,
                "cpu" => service.resources.cpu_millis = value.parse().unwrap(),
                _ => drop(service.constraints.insert(key.into(), value.into())),
            }
        }
        app.services.insert(name.clone(), service);
        match port {
            Some(port) => drop(app.ports.insert(port, PortSpec::to(Target::Service(name)))),
            None => app.routes.push(RouteSpec::plain(host.clone(), format!("/{name}"), name)),
        }
    }
    app
}

/// Lets time pass and tells what the log then says.
fn wait(town: &mut Town, time: &str) -> String {
    let (number, unit) = time.split_at(time.len() - 1);
    let number: u64 = number.parse().unwrap();
    let (begin, last) = (town.now, town.state.log.last);
    town.run(Duration::from_secs(if unit == "m" { number * 60 } else { number }));
    let mut out = String::new();
    for event in town.state.log.events.iter().filter(|event| event.index > last) {
        let at = Timestamp(event.at.0).since(begin);
        let kind = match event.kind {
            EventKind::Happened => "!",
            EventKind::Decided => ">",
            EventKind::Done | EventKind::Verified => "=",
        };
        let cause = event.cause.and_then(|cause| town.state.log.get(cause));
        let cause = cause.map_or(String::new(), |cause| format!("  <- {}", cause.subject));
        let _ = writeln!(out, "{:>6.2} {kind} {}{cause}", at.as_secs_f64(), event.message);
    }
    if out.is_empty() { "nothing\n".into() } else { out }
}

fn show(town: &Town) -> String {
    let plan = &town.state.plan;
    let name = |node: NodeId| town.state.spec.name_of(node);
    let mut out = String::new();
    let voters: Vec<String> = plan.voters.iter().map(|node| name(*node)).collect();
    let spares: Vec<String> = plan.spares.iter().map(|node| name(*node)).collect();
    let _ = writeln!(out, "plan {}: voters {}; spares {}", plan.generation, list(&voters), list(&spares));
    for (role, slots) in &plan.roles {
        let slots: Vec<String> = slots.iter().map(|(slot, held)| format!("{slot} {}", name(held.node))).collect();
        let _ = writeln!(out, "{role}: {}", list(&slots));
    }
    for (id, assigned) in &plan.instances {
        let phase = if assigned.phase == Phase::Draining { " (draining)" } else { "" };
        let node = &town.state.spec.nodes[&assigned.node];
        let _ = writeln!(out, "{id}@{} on {} in {}{phase}", assigned.revision, node.name, node.zone);
    }
    for (address, planned) in &plan.addresses {
        let who: Vec<String> =
            planned.candidates.iter().map(|it| format!("{} ({})", name(it.node), it.interface)).collect();
        let _ = writeln!(out, "{address}: {}", list(&who));
    }
    for (node, verdict) in &plan.verdicts {
        let _ = writeln!(out, "{:?}: {} ({})", verdict.kind, name(*node), verdict.evidence);
    }
    if plan.brake {
        let _ = writeln!(out, "brake");
    }
    for (id, letting) in &plan.letting_go {
        let _ = writeln!(out, "{id} on {} may still act: {}", name(letting.node), letting.reason.text);
    }
    for (id, long) in &town.state.long {
        let _ = writeln!(out, "{id} on {} has a long grant of {} ms", name(long.node), long.length_ms);
    }
    for wish in &plan.unmet {
        let _ = writeln!(out, "unmet {}: {}", wish.subject, wish.reason);
    }
    out
}

fn list(words: &[String]) -> String {
    if words.is_empty() { "none".into() } else { words.join(", ") }
}

/// The latest decision about a subject, whom it rejected, and the chain of its causes.
fn why(town: &Town, subject: &str) -> String {
    let log = &town.state.log;
    let mut out = String::new();
    let mut event = log.iter().rev().find(|event| event.subject == subject);
    while let Some(this) = event {
        let _ = writeln!(out, "{}", this.message);
        for rejected in &this.rejected {
            let _ = writeln!(out, "  not {}: {}", town.state.spec.name_of(rejected.node), rejected.reason);
        }
        event = this.cause.and_then(|cause| log.get(cause));
    }
    out
}
