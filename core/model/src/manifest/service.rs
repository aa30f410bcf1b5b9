//! `[service.NAME]`: a program, how many of it, and how it is kept.

use std::collections::BTreeMap;

use toml::de::DeValue;

use super::errors::{Errors, quoted};
use super::reference;
use super::table::{Block, Table, Word, kind, whole};
use super::values::{duration, is_given, is_variable, shown_ms, signal, size};
use crate::control::limits::*;
use crate::id::{ServiceName, check_name};
use crate::spec::{
    AppProtocol, Capacity, Check, HealthSpec, Replicas, ServiceSpec, Spread, StopSpec, UpdateOrder, UpdateSpec,
};

const KEYS: [&str; 14] = [
    "command",
    "path",
    "workdir",
    "replicas",
    "resources",
    "health",
    "update",
    "stop",
    "env",
    "user",
    "constraints",
    "spread",
    "exclusive",
    "protocol",
];
const LATER: [(&str, &str); 3] = [
    ("artifact", "the role storage is missing; use path, a folder that every host has"),
    ("image", "containers are not run; use command and path"),
    ("scale", "services do not breathe with load; use replicas = N"),
];

/// By their names in a handshake of TLS (the registry of ALPN), where h2c would be the one without it.
const PROTOCOLS: [(&str, AppProtocol); 2] = [("http/1.1", AppProtocol::Http1), ("h2c", AppProtocol::H2c)];

/// Time between two checks. A tenth of a second is what a host with hundreds of instances still bears.
const INTERVAL_MS: std::ops::RangeInclusive<u64> = 100..=3_600_000;
/// Time of one check.
const TIMEOUT_MS: std::ops::RangeInclusive<u64> = 10..=600_000;
/// Time to stop, and to end requests under way.
const STOP_MS: std::ops::RangeInclusive<u64> = 0..=WAIT_MS_MAX;
/// A service that says nothing about it is checked every second, and may miss two answers.
const HEALTH_DEFAULT: (u64, u64, u32) = (1_000, 1_000, 3);
/// A thousand processors.
const CPU_MAX: f64 = 1_024.0;
/// More memory than hosts have.
const MEMORY_BYTES_MAX: u64 = 1 << 46;

/// `known` is what its environment may name.
pub(super) fn read(
    block: &Block<'_>,
    known: reference::Known<'_>,
    errors: &mut Errors,
) -> Option<(ServiceName, ServiceSpec)> {
    let table = &block.table;
    let name = Word { text: block.word.clone(), span: block.key.clone() };
    let name = name.parsed(errors);
    table.check_keys(&KEYS, &LATER, errors);
    let exclusive = table.boolean("exclusive", errors).unwrap_or_default();
    let replicas = replicas(table, errors).unwrap_or(Replicas { min: 1, max: 1 });
    if exclusive && replicas.max > 1 {
        let message = format!("{} is exclusive, never two at once: replicas = 1", table.path());
        errors.at(table.key_span("replicas"), message);
    }
    let order = if exclusive { UpdateOrder::StopFirst } else { UpdateOrder::StartFirst };
    let update = below(table, "update", errors).map(|table| update(&table, order, errors));
    let update = update.unwrap_or(UpdateSpec { order, ..UpdateSpec::default() });
    if exclusive && update.order == UpdateOrder::StartFirst {
        let message = format!("{} is exclusive, never two at once: order = \"stop-first\"", table.path());
        errors.at(table.key_span("update"), message);
    }
    let env = env(table, known, errors);
    let service = ServiceSpec {
        revision: Default::default(),
        command: command(block, &env, errors),
        workdir: workdir(table, errors),
        env,
        user: table.text("user", "a string", user, errors),
        replicas,
        resources: below(table, "resources", errors).map(|table| resources(&table, errors)).unwrap_or_default(),
        health: below(table, "health", errors).and_then(|table| health(&table, block, errors)),
        update,
        stop: below(table, "stop", errors).map(|table| stop(&table, errors)).unwrap_or_default(),
        constraints: constraints(table, errors),
        spread: table.choice("spread", &[("zone", Spread::Zone), ("node", Spread::Node)], errors).unwrap_or_default(),
        exclusive,
        secrets: BTreeMap::new(),
        protocol: table.choice("protocol", &PROTOCOLS, errors).unwrap_or_default(),
    };
    Some((name?, service))
}

/// The table under `key`.
fn below<'a>(table: &Table<'a>, key: &str, errors: &mut Errors) -> Option<Table<'a>> {
    Table::new(table.below(key), table.get(key)?, errors)
}

fn command(block: &Block<'_>, env: &BTreeMap<String, String>, errors: &mut Errors) -> Vec<String> {
    const EXPECTED: &str = "a list of words, for example [\"python3\", \"app.py\"]";
    let table = &block.table;
    let Some(value) = table.get("command") else {
        errors.absent(block.key.clone(), format!("{} has no command: command = [\"PROGRAM\", …]", table.path()));
        return Vec::new();
    };
    let DeValue::Array(list) = value.get_ref() else {
        table.wrong_type::<()>("command", value, EXPECTED, errors);
        return Vec::new();
    };
    let place = format!("command in {}", table.path());
    let mut words = Vec::new();
    for value in list.iter() {
        match value.get_ref() {
            DeValue::String(word) => {
                check_text(&place, word, value.span(), errors);
                reference::check_command(&place, word, env, value.span(), errors);
                words.push(word.to_string());
            }
            other => errors.at(value.span(), format!("{place} holds {}; expected words in quotes", kind(other))),
        }
    }
    let bytes: usize = words.iter().map(|word| word.len() + 1).sum();
    if list.is_empty() || words.first().is_some_and(String::is_empty) {
        errors.at(value.span(), format!("{place} names no program"));
    } else if list.len() > COMMAND_ARGS_MAX {
        errors.at(value.span(), format!("{place}: {} words exceed {COMMAND_ARGS_MAX}", list.len()));
    } else if bytes > COMMAND_BYTES_MAX {
        errors.at(value.span(), format!("{place}: {bytes} bytes exceed {COMMAND_BYTES_MAX}"));
    }
    words
}

/// Refuses what no program can be given.
fn check_text(place: &str, text: &str, span: std::ops::Range<usize>, errors: &mut Errors) {
    if text.contains('\0') {
        errors.at(span, format!("{place} holds a zero byte, which no program can be given"));
    }
}

fn workdir(table: &Table<'_>, errors: &mut Errors) -> Option<String> {
    if table.get("path").is_some() && table.get("workdir").is_some() {
        let message = format!("{} has both path and workdir, which mean the same", table.path());
        errors.at(table.key_span("workdir"), message);
    }
    let folder = |text: &str| match text {
        _ if text.len() > PATH_BYTES_MAX => Err(format!("path of {} bytes exceeds {PATH_BYTES_MAX}", text.len())),
        _ if text.contains('\0') || !text.starts_with('/') => {
            Err(format!("{} is no folder that every host has: it begins with '/'", quoted(text)))
        }
        _ => Ok(text.to_owned()),
    };
    let path = table.text("path", "a string", folder, errors);
    let workdir = table.text("workdir", "a string", folder, errors);
    path.or(workdir)
}

fn env(table: &Table<'_>, known: reference::Known<'_>, errors: &mut Errors) -> BTreeMap<String, String> {
    let Some(env) = below(table, "env", errors) else { return BTreeMap::new() };
    let mut variables = BTreeMap::new();
    for (word, value) in env.entries() {
        if is_given(&word.text) {
            errors.at(word.span.clone(), format!("{} in {} is given by hirsel itself", quoted(&word.text), env.path()));
        } else if !is_variable(&word.text) {
            let message =
                format!("{} in {} is no variable: use letters, digits and '_'", quoted(&word.text), env.path());
            errors.at(word.span.clone(), message);
        }
        match value.get_ref() {
            DeValue::String(text) => {
                let place = format!("{} in {}", quoted(&word.text), env.path());
                check_text(&place, text, value.span(), errors);
                reference::check_variable(&place, text, known, value.span(), errors);
                variables.insert(word.text, text.to_string());
            }
            _ => drop(env.wrong_type::<()>(&word.text, value, "a string: put it in quotes", errors)),
        }
    }
    let bytes: usize = variables.iter().map(|(key, value)| key.len() + value.len() + 2).sum();
    let at = table.key_span("env");
    if variables.len() > ENV_VARS_MAX {
        errors.at(at, format!("{}: {} variables exceed {ENV_VARS_MAX}", env.path(), variables.len()));
    } else if bytes > ENV_BYTES_MAX {
        errors.at(at, format!("{}: {bytes} bytes exceed {ENV_BYTES_MAX}", env.path()));
    }
    variables
}

fn user(text: &str) -> Result<String, String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"_-.$@".contains(&b);
    if text.is_empty() || text.len() > USER_BYTES_MAX || text.starts_with('-') || !text.bytes().all(good) {
        return Err(format!("{} is no name of a system user", quoted(text)));
    }
    Ok(text.into())
}

fn replicas(table: &Table<'_>, errors: &mut Errors) -> Option<Replicas> {
    let value = table.get("replicas")?;
    if let Some(number) = whole(value) {
        let count = table.within("replicas", value, number, 0, REPLICAS_MAX, errors)?;
        return Some(Replicas { min: count, max: count });
    }
    if !matches!(value.get_ref(), DeValue::Table(_)) {
        return table.wrong_type("replicas", value, "a whole number or { min = 2, max = 20 }", errors);
    }
    let range = below(table, "replicas", errors)?;
    range.check_keys(&["min", "max"], &[], errors);
    let min = range.count("min", 0, REPLICAS_MAX, errors);
    let max = range.count("max", 0, REPLICAS_MAX, errors);
    for key in ["min", "max"] {
        if range.get(key).is_none() {
            errors.absent(value.span(), format!("{key} is missing in {}", range.path()));
        }
    }
    let (min, max) = (min?, max?);
    if min > max {
        errors.at(value.span(), format!("min of {min} in {} is more than max of {max}", range.path()));
    }
    Some(Replicas { min, max })
}

fn resources(table: &Table<'_>, errors: &mut Errors) -> Capacity {
    table.check_keys(&["cpu", "memory"], &[], errors);
    let memory = |text: &str| match size(text)? {
        bytes if bytes <= MEMORY_BYTES_MAX => Ok(bytes),
        _ => Err(format!("{} is more than any host has", quoted(text))),
    };
    Capacity {
        cpu_millis: cpu(table, errors).unwrap_or_default(),
        memory_bytes: table.text("memory", "a size like \"256MiB\"", memory, errors).unwrap_or_default(),
    }
}

/// Thousandths of a processor.
fn cpu(table: &Table<'_>, errors: &mut Errors) -> Option<u64> {
    let value = table.get("cpu")?;
    let cpus = match value.get_ref() {
        DeValue::Integer(_) => whole(value).flatten().map_or(f64::INFINITY, |number| number as f64),
        DeValue::Float(number) => number.as_str().parse().unwrap_or(f64::NAN),
        _ => return table.wrong_type("cpu", value, "a number of processors, for example 0.5", errors),
    };
    if !(0.0..=CPU_MAX).contains(&cpus) {
        errors.at(value.span(), format!("cpu in {} is not between 0 and {CPU_MAX}", table.path()));
        return None;
    }
    let millis = (cpus * 1_000.0).round();
    if cpus > 0.0 && millis < 1.0 {
        errors.at(value.span(), format!("cpu in {} is less than a thousandth", table.path()));
        return None;
    }
    // Between 0 and 1,024,000 as just seen.
    Some(millis as u64)
}

fn health(table: &Table<'_>, block: &Block<'_>, errors: &mut Errors) -> Option<HealthSpec> {
    table.check_keys(&["http", "tcp", "grpc", "interval", "timeout", "failures"], &[], errors);
    let http = table.text("http", "a path like \"/healthz\"", request_path, errors);
    let tcp = table.boolean("tcp", errors);
    let grpc = table.text("grpc", "the name of a service, or \"\" for all of the program", grpc_service, errors);
    let said: Vec<&str> = ["http", "tcp", "grpc"].into_iter().filter(|key| table.get(key).is_some()).collect();
    let check = match said[..] {
        [first, second, ..] => {
            let message = format!("{} has both {first} and {second}; one of them is tried", table.path());
            errors.at(table.key_span(second), message);
            None
        }
        ["http"] => http.map(|path| Check::Http { path }),
        ["grpc"] => {
            if !speaks_http_2(block) {
                let message = format!("grpc in {} is asked in HTTP/2: protocol = \"h2c\"", table.path());
                errors.at(table.key_span("grpc"), message);
            }
            grpc.map(|service| Check::Grpc { service })
        }
        [_] => {
            if tcp == Some(false) {
                errors.at(table.key_span("tcp"), format!("tcp = false in {}: leave health out instead", table.path()));
            }
            tcp.map(|_| Check::Tcp)
        }
        [] => {
            let message = format!("{} tries nothing: http = \"/PATH\", tcp = true or grpc = \"\"", table.path());
            errors.absent(block.table.key_span("health"), message);
            None
        }
    };
    let (interval, timeout, failures) = HEALTH_DEFAULT;
    Some(HealthSpec {
        interval_ms: time(table, "interval", INTERVAL_MS, errors).unwrap_or(interval),
        timeout_ms: time(table, "timeout", TIMEOUT_MS, errors).unwrap_or(timeout),
        failures: table.count("failures", 1, COUNT_MAX, errors).unwrap_or(failures),
        check: check?,
    })
}

/// Whether the service says so; what is wrong with that is told elsewhere.
fn speaks_http_2(block: &Block<'_>) -> bool {
    matches!(block.table.get("protocol").map(|value| value.get_ref()), Some(DeValue::String(text)) if *text == "h2c")
}

/// A name as gRPC has it, `package.Service`.
fn grpc_service(text: &str) -> Result<String, String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'.';
    if text.len() > GRPC_SERVICE_BYTES_MAX || !text.bytes().all(good) {
        return Err(format!("{} is no name of a service of gRPC, like \"shop.Prices\"", quoted(text)));
    }
    Ok(text.into())
}

/// Path and query of a request.
fn request_path(text: &str) -> Result<String, String> {
    let good = |b: u8| b.is_ascii_graphic() && b != b'#';
    if !text.starts_with('/') || text.len() > PATH_BYTES_MAX || !text.bytes().all(good) {
        return Err(format!("{} is no path of a request: it begins with '/' and has no blanks", quoted(text)));
    }
    Ok(text.into())
}

fn time(table: &Table<'_>, key: &str, range: std::ops::RangeInclusive<u64>, errors: &mut Errors) -> Option<u64> {
    let within = |text: &str| match duration(text)? {
        ms if range.contains(&ms) => Ok(ms),
        _ => {
            let (least, most) = (shown_ms(*range.start()), shown_ms(*range.end()));
            Err(format!("{} is not between {least} and {most}", quoted(text)))
        }
    };
    table.text(key, "a duration like \"1s\"", within, errors)
}

fn update(table: &Table<'_>, order: UpdateOrder, errors: &mut Errors) -> UpdateSpec {
    const ORDERS: [(&str, UpdateOrder); 2] =
        [("start-first", UpdateOrder::StartFirst), ("stop-first", UpdateOrder::StopFirst)];
    let later = [("canary", "every instance of an update is treated alike; use parallel = 1")];
    table.check_keys(&["order", "parallel", "auto_revert"], &later, errors);
    let default = UpdateSpec::default();
    UpdateSpec {
        order: table.choice("order", &ORDERS, errors).unwrap_or(order),
        parallel: table.count("parallel", 1, COUNT_MAX, errors).unwrap_or(default.parallel),
        auto_revert: table.boolean("auto_revert", errors).unwrap_or(default.auto_revert),
    }
}

fn stop(table: &Table<'_>, errors: &mut Errors) -> StopSpec {
    table.check_keys(&["signal", "grace", "drain"], &[], errors);
    let default = StopSpec::default();
    let signal = match table.get("signal").map(|value| (value, whole(value))) {
        Some((value, Some(number))) => {
            let most = SIGNAL_MAX.unsigned_abs();
            table.within("signal", value, number, 1, most, errors).and_then(|number| i32::try_from(number).ok())
        }
        _ => table.text("signal", "a name like \"TERM\" or a number", signal, errors),
    };
    StopSpec {
        signal: signal.unwrap_or(default.signal),
        grace_ms: time(table, "grace", STOP_MS, errors).unwrap_or(default.grace_ms),
        drain_ms: time(table, "drain", STOP_MS, errors).unwrap_or(default.drain_ms),
    }
}

fn constraints(table: &Table<'_>, errors: &mut Errors) -> BTreeMap<String, String> {
    let Some(wanted) = below(table, "constraints", errors) else { return BTreeMap::new() };
    let mut constraints = BTreeMap::new();
    for (word, value) in wanted.entries() {
        let DeValue::String(text) = value.get_ref() else {
            wanted.wrong_type::<()>(&word.text, value, "a string", errors);
            continue;
        };
        if matches!(word.text.as_str(), "zone" | "site" | "node")
            && let Err(error) = check_name(text)
        {
            errors.at(value.span(), format!("{} in {}: {error}", word.text, wanted.path()));
        }
        if word.text.is_empty() || word.text.len() > LABEL_BYTES_MAX || text.len() > LABEL_BYTES_MAX {
            let message = format!(
                "{} in {} has a name or value of 0 or more than {LABEL_BYTES_MAX} bytes",
                quoted(&word.text),
                wanted.path()
            );
            errors.at(word.span, message);
        }
        constraints.insert(word.text, text.to_string());
    }
    if constraints.len() > LABELS_MAX {
        let message = format!("{}: {} labels exceed {LABELS_MAX}", wanted.path(), constraints.len());
        errors.at(table.key_span("constraints"), message);
    }
    constraints
}
