//! How much the control state holds. It lives in memory on every node and travels whole in snapshots, so everything in it has an end.
//!
//! The manifest refuses the same things with line and column; what is checked here holds for every way in.

use std::collections::BTreeMap;

use super::{Refusal, buckets, ports, routes, zones};
use crate::spec::{AppProtocol, AppSpec, Check, NodeSpec, Replicas, ServiceSpec};

/// Nodes of a cluster: what the planner is measured with.
pub const NODES_MAX: usize = 10_000;
/// Nodes that are no members any more and are still known: what was removed since anybody last looked.
pub const LEFT_MAX: usize = 100;
/// Applications of a cluster.
pub const APPS_MAX: usize = 1_000;
/// Services of an application.
pub const SERVICES_PER_APP_MAX: usize = 64;
/// Routes of an application.
pub const ROUTES_PER_APP_MAX: usize = 256;
/// Conditions of a route, and header fields that it sets: each is looked at for each of its requests.
pub const CONDITIONS_MAX: usize = 16;
/// Bytes of the name or the value in a condition.
pub const CONDITION_BYTES_MAX: usize = 1024;
/// Bytes of a regular expression over paths.
pub const REGEX_BYTES_MAX: usize = 1024;
/// Programs outside the cluster that answer one route.
pub const OUTSIDE_MAX: usize = 64;
/// Members of any list in the actions of a route.
pub const ACTION_LIST_MAX: usize = 256;
/// Bytes of all actions of a route, encoded: they are in the memory of every node.
pub const ACTIONS_BYTES_MAX: usize = 64 * 1024;
/// Bytes of an answer that a route gives by itself.
pub const RESPOND_BYTES_MAX: usize = 16 * 1024;
/// Weight of a service among those that share the requests of a route.
pub const WEIGHT_MAX: u32 = 10_000;
/// Ports of an application.
pub const PORTS_PER_APP_MAX: usize = 64;
/// Connections of a port on one node at once: each takes two of the agent's files, of which a host rarely gives more than a million.
pub const PORT_CONNECTIONS_MAX: u32 = 100_000;
/// Any wait that is set for a port, in milliseconds.
pub const PORT_WAIT_MS: std::ops::RangeInclusive<u64> = 1..=WAIT_MS_MAX;
/// Zones of an application. Who has more of them has an application for some of them.
pub const ZONES_PER_APP_MAX: usize = 32;
/// Records of a zone: a manifest of the longest kind holds about so many.
pub const RECORDS_PER_ZONE_MAX: usize = 4_000;
/// Records of one kind at one name: more addresses than fit into an answer over UDP help nobody.
pub const RECORDS_PER_SET_MAX: usize = 64;
/// Bytes of the text of a record: a key of 4,096 bits for mail takes 800.
pub const TEXT_BYTES_MAX: usize = 2_048;
/// Instances of a service: one on each node of the largest cluster.
pub const REPLICAS_MAX: u32 = 10_000;
/// Words of a command.
pub const COMMAND_ARGS_MAX: usize = 256;
/// Bytes of a command, and of any single environment: far below what Linux passes to a program (`MAX_ARG_STRLEN` is 128 KiB).
pub const COMMAND_BYTES_MAX: usize = 32 * 1024;
/// Buckets of an application: its access key names each.
pub const BUCKETS_PER_APP_MAX: usize = crate::access::PATTERNS_MAX;
/// Variables of a service.
pub const ENV_VARS_MAX: usize = 256;
/// Bytes of all variables of a service, names included.
pub const ENV_BYTES_MAX: usize = 64 * 1024;
/// Labels of a node, and constraints of a service.
pub const LABELS_MAX: usize = 64;
/// Bytes of the name or the value of a label.
pub const LABEL_BYTES_MAX: usize = 255;
/// Bytes of a path of a file or of a request: `PATH_MAX` of Linux.
pub const PATH_BYTES_MAX: usize = 4096;
/// Name of a service of gRPC that a check asks about: packages with several names.
pub const GRPC_SERVICE_BYTES_MAX: usize = 256;
/// Bytes of a host name (RFC 1035, section 2.3.4).
pub const HOST_BYTES_MAX: usize = 253;
/// Bytes of a system user's name (`LOGIN_NAME_MAX` of Linux is 256).
pub const USER_BYTES_MAX: usize = 255;
/// Longest time any wait of a service may take: a day.
pub const WAIT_MS_MAX: u64 = 24 * 3600 * 1000;
/// Highest signal number of Linux.
pub const SIGNAL_MAX: i32 = 64;
/// Failed checks in a row, and instances replaced at a time.
pub const COUNT_MAX: u32 = 1_000;
/// Tokens known at a time. Those that are no longer good make room first.
pub const TOKENS_MAX: usize = 1_000;
/// Bytes of the address of the webhook.
pub const WEBHOOK_BYTES_MAX: usize = 2048;
/// Bytes of the public part of a token, of the version of an agent, of an application's manifest word.
pub const WORD_BYTES_MAX: usize = 128;
/// Roles an agent can have.
pub const ROLES_MAX: usize = 64;
/// Former descriptions kept of a service: those that instances still run, and the one before. A service that is applied more often
/// than this within one roll-out runs its oldest instances by the newest description until they are replaced.
pub const FORMER_MAX: usize = 8;

/// Refuses `value` above `limit`.
pub(super) fn at_most(what: impl FnOnce() -> String, value: usize, limit: usize) -> Result<(), Refusal> {
    if value <= limit {
        return Ok(());
    }
    Err(Refusal::Limit { what: what(), value: value as u64, limit: limit as u64 })
}

/// Refuses a node that would take too much room.
pub(super) fn check_node(node: &NodeSpec) -> Result<(), Refusal> {
    check_version(&node.version)?;
    at_most(|| "number of roles".into(), node.built.len(), ROLES_MAX)?;
    check_labels("label", &node.labels)
}

pub(super) fn check_version(version: &str) -> Result<(), Refusal> {
    at_most(|| "version in bytes".into(), version.len(), WORD_BYTES_MAX)
}

/// Refuses an application that makes no sense or would take too much room.
pub(super) fn check_app(app: &AppSpec) -> Result<(), Refusal> {
    at_most(|| "number of services".into(), app.services.len(), SERVICES_PER_APP_MAX)?;
    at_most(|| "number of routes".into(), app.routes.len(), ROUTES_PER_APP_MAX)?;
    for (name, service) in &app.services {
        check_service(name.as_str(), service)?;
    }
    routes::check(app)?;
    ports::check(app)?;
    zones::check(app)?;
    buckets::check(app)
}

fn check_service(name: &str, service: &ServiceSpec) -> Result<(), Refusal> {
    if service.command.first().is_none_or(String::is_empty) {
        return Err(Refusal::Invalid(format!("service {name:?} has no command")));
    }
    at_most(|| format!("command of {name:?} in words"), service.command.len(), COMMAND_ARGS_MAX)?;
    let bytes = service.command.iter().map(|word| word.len() + 1).sum();
    at_most(|| format!("command of {name:?} in bytes"), bytes, COMMAND_BYTES_MAX)?;
    at_most(|| format!("variables of {name:?}"), service.env.len(), ENV_VARS_MAX)?;
    let bytes = service.env.iter().map(|(key, value)| key.len() + value.len() + 2).sum();
    at_most(|| format!("variables of {name:?} in bytes"), bytes, ENV_BYTES_MAX)?;
    let path_bytes = service.workdir.as_ref().map_or(0, String::len);
    at_most(|| format!("folder of {name:?} in bytes"), path_bytes, PATH_BYTES_MAX)?;
    at_most(|| format!("user of {name:?} in bytes"), service.user.as_ref().map_or(0, String::len), USER_BYTES_MAX)?;
    check_labels("constraint", &service.constraints)?;
    check_replicas(name, service.replicas)?;
    let wrong = |what: &str| Err(Refusal::Invalid(format!("service {name:?}: {what}")));
    if let Some(health) = &service.health {
        if !(1..=WAIT_MS_MAX).contains(&health.interval_ms) || !(1..=WAIT_MS_MAX).contains(&health.timeout_ms) {
            return wrong("interval and timeout of a check are between a millisecond and a day");
        }
        if !(1..=COUNT_MAX).contains(&health.failures) {
            return wrong("a check fails after 1 to 1000 failures");
        }
        match &health.check {
            Check::Http { path } => {
                at_most(|| format!("path of the check of {name:?} in bytes"), path.len(), PATH_BYTES_MAX)?;
                if !path.starts_with('/') {
                    return wrong("the path of a check begins with '/'");
                }
            }
            Check::Tcp => {}
            Check::Grpc { service: asked } => {
                at_most(|| format!("service of the check of {name:?} in bytes"), asked.len(), GRPC_SERVICE_BYTES_MAX)?;
                if service.protocol != AppProtocol::H2c {
                    return wrong(
                        "a check by gRPC asks in HTTP/2, which the service does not speak: protocol = \"h2c\"",
                    );
                }
            }
        }
    }
    if service.exclusive && service.replicas.max > 1 {
        return wrong("an exclusive service has one instance");
    }
    if service.exclusive && service.update.order == crate::spec::UpdateOrder::StartFirst {
        return wrong("an instance of an exclusive service is gone before the next one starts");
    }
    if !(1..=COUNT_MAX).contains(&service.update.parallel) {
        return wrong("1 to 1000 instances are replaced at a time");
    }
    if !(1..=SIGNAL_MAX).contains(&service.stop.signal) {
        return wrong("a signal is a number from 1 to 64");
    }
    if service.stop.grace_ms > WAIT_MS_MAX || service.stop.drain_ms > WAIT_MS_MAX {
        return wrong("stopping takes a day at most");
    }
    Ok(())
}

/// Refuses a count that is none.
pub(super) fn check_replicas(service: &str, replicas: Replicas) -> Result<(), Refusal> {
    let Replicas { min, max } = replicas;
    if min > max {
        return Err(Refusal::Invalid(format!("service {service:?}: at least {min} is more than at most {max}")));
    }
    at_most(|| format!("instances of {service:?}"), max as usize, REPLICAS_MAX as usize)
}

fn check_labels(what: &str, labels: &BTreeMap<String, String>) -> Result<(), Refusal> {
    at_most(|| format!("number of {what}s"), labels.len(), LABELS_MAX)?;
    for (key, value) in labels {
        at_most(|| format!("{what} in bytes"), key.len().max(value.len()), LABEL_BYTES_MAX)?;
    }
    Ok(())
}

/// The beginning of `text`, at most `bytes` long with the mark of the cut.
pub(crate) fn cut(text: &str, bytes: usize) -> String {
    const MARK: &str = "…";
    if text.len() <= bytes {
        return text.into();
    }
    let end = text.floor_char_boundary(bytes.saturating_sub(MARK.len()));
    format!("{}{MARK}", &text[..end])
}
