//! Feature levels: how agents of two builds live together in one cluster, and how the cluster grows a new ability.
//!
//! A level is a number for everything that is strong (log entries, snapshots) and understood by a build. Soft things (reports, gossip,
//! calls) need no level: unknown fields are passed over there. What is strong is not passed over, so nothing that a level brings may
//! be written before every member understands it:
//!
//! - [`BUILT`] is what this build understands. A cluster has a level of its own, in its state; a new cluster begins at `BUILT`.
//! - [`needed`] says which level a command needs. It is asked where a command is proposed, which is what keeps it out of the logs of
//!   older replicas, and again where it is applied. It is the only such place.
//! - Below its level a new field is never written: it has a default, and a default is not encoded. What an old command does must not
//!   change either, unless the state's level is high enough, for old and new replicas apply it side by side.
//! - The level rises when the operator says that the upgrade is finished, and only if every member says that it understands the new
//!   one ([`hesitations`]). It never falls. Until then every node can go back to the older build.
//!
//! One level stands for all that is added between two releases. `tests/levels` keeps what each level wrote, byte for byte.

use std::collections::BTreeMap;

use crate::control::{Command, Refusal};
use crate::id::{Incarnation, NodeId};
use crate::planner::change::PlanChange;
use crate::spec::{AppProtocol, AppSpec, Check, RoleSpec, RouteSpec, ServiceSpec, Spec};
use crate::storage::STORAGE;

/// The highest level that this build understands.
pub const BUILT: u32 = 2;
/// The level of all that came before there were levels.
pub const FIRST: u32 = 1;

/// What something needs: the highest level of its parts, and what people call the part that needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// The level.
    pub level: u32,
    /// For example `an exclusive service`; empty for what every build understands.
    pub what: &'static str,
}

impl Need {
    /// Every build understands it.
    pub const NOTHING: Self = Self { level: FIRST, what: "" };

    /// `what` needs `level`.
    pub const fn of(level: u32, what: &'static str) -> Self {
        Self { level, what }
    }

    /// This if `there`, otherwise nothing.
    pub fn when(self, there: bool) -> Self {
        if there { self } else { Self::NOTHING }
    }

    /// The higher one.
    pub fn and(self, other: Self) -> Self {
        if other.level > self.level { other } else { self }
    }
}

/// A plan that lists who may take the place of an exclusive instance.
pub const CANDIDATES: Need = Need::of(2, "a list of who may take the place of an exclusive instance");

/// What lets something exclusive act on while its node's agent is restarted.
pub const LONG_GRANT: Need = Need::of(2, "a long grant");

/// What the cluster holds wherever a load balancer lives.
pub const ADDRESS: Need = Need::of(2, "a floating address");

fn most(needs: impl IntoIterator<Item = Need>) -> Need {
    needs.into_iter().fold(Need::NOTHING, Need::and)
}

/// What `command` needs before it may be written. A new command, or a new field in an old one, is added here: the patterns name every
/// field, so that it cannot be forgotten.
pub fn needed(command: &Command) -> Need {
    match command {
        Command::Found { .. }
        | Command::Admit { .. }
        | Command::Announce { .. }
        | Command::SetAvailability { .. }
        | Command::RemoveNode { .. }
        | Command::Scale { .. }
        | Command::Restart { .. }
        | Command::SetStopped { .. }
        | Command::RemoveApp { .. }
        | Command::MoveRole { .. }
        | Command::NewToken { .. }
        | Command::RevokeToken { .. }
        | Command::SetWebhook { .. }
        | Command::Note { .. } => Need::NOTHING,
        // Written when everyone understands it, by definition.
        Command::RaiseLevel { .. } => Need::NOTHING,
        Command::SetSecret { .. } | Command::RemoveSecret { .. } | Command::RotateSealing | Command::Reseal { .. } => {
            Need::of(2, "a secret")
        }
        Command::SetCertificate { .. } | Command::RemoveCertificate { .. } => {
            Need::of(crate::certificate::LEVEL, "a certificate of the front door")
        }
        Command::Acme { .. } => Need::of(crate::acme::LEVEL, "a certificate that the cluster gets by itself"),
        Command::SetAddress { .. } | Command::RemoveAddress { .. } => ADDRESS,
        Command::Purge { .. } => Need::of(2, "a purge of answers that load balancers keep"),
        Command::Tickets { .. } => Need::of(crate::tickets::LEVEL, "a key of TLS tickets"),
        Command::Access { .. } => Need::of(crate::access::LEVEL, "an access key of the object store"),
        Command::Signing { .. } => Need::of(crate::dnssec::LEVEL, "a key of a zone"),
        Command::Recover { .. } | Command::ConfirmOff { .. } => Need::of(2, "a new foundation of the control group"),
        Command::Rejoin { .. } => Need::of(2, "a node that joins again as another one"),
        Command::RotateAuthority | Command::ReplaceAuthority { .. } | Command::DropAuthority { .. } => {
            Need::of(2, "a new authority")
        }
        Command::LongGrant { .. } | Command::EndLongGrants { .. } => LONG_GRANT,
        Command::ApplyApp { app: _, spec } => app(spec),
        Command::SetRole { role: _, spec } => role(spec),
        Command::Adopt { base: _, spec_index: _, change, events: _ } => plan_change(change),
    }
}

fn app(app: &AppSpec) -> Need {
    let AppSpec { revision: _, services, routes, stopped: _, ports, zones, buckets } = app;
    let port = Need::of(2, "a port that load balancers open").when(!ports.is_empty());
    let zone = Need::of(2, "a zone of names").when(!zones.is_empty());
    let bucket = Need::of(2, "a bucket of an application").when(!buckets.is_empty());
    most(services.values().map(service).chain(routes.iter().map(route)).chain([port, zone, bucket]))
}

/// What a route may say is a pattern of [`RouteSpec::is_plain`].
fn route(route: &RouteSpec) -> Need {
    Need::of(2, "a route that is more than a host, a path and a service").when(!route.is_plain())
}

fn service(service: &ServiceSpec) -> Need {
    let ServiceSpec {
        revision: _,
        command: _,
        workdir: _,
        env: _,
        user: _,
        replicas: _,
        resources: _,
        health,
        update: _,
        stop: _,
        constraints: _,
        spread: _,
        exclusive: _,
        secrets,
        protocol,
    } = service;
    let secret = Need::of(2, "a secret").when(!secrets.is_empty());
    let protocol = Need::of(2, "a program that speaks HTTP/2").when(*protocol != AppProtocol::default());
    secret.and(protocol).and(most(health.as_ref().map(|health| match health.check {
        Check::Http { .. } | Check::Tcp => Need::NOTHING,
        Check::Grpc { .. } => Need::of(2, "a check by gRPC"),
    })))
}

fn role(role: &RoleSpec) -> Need {
    let RoleSpec { count: _, pins: _, moves: _, log } = role;
    Need::of(2, "a log of requests").when(log.is_some())
}

/// The planner looks at [`crate::view::View::level`] before it decides anything that needs more, so this refuses nothing in a cluster
/// that is well.
fn plan_change(change: &PlanChange) -> Need {
    let PlanChange {
        roles: _,
        instances: _,
        letting_go: _,
        candidates,
        addresses,
        storage,
        voters: _,
        spares: _,
        verdicts: _,
        flaps: _,
        brake: _,
        reverted: _,
        proven: _,
        unmet: _,
        next_instance: _,
    } = change;
    let parts =
        [CANDIDATES.when(!candidates.is_empty()), ADDRESS.when(!addresses.is_empty()), STORAGE.when(storage.is_some())];
    most(parts)
}

/// Refuses a command that a cluster at `level` must not write yet.
///
/// # Errors
/// The refusal, with what needs more and what to do.
pub fn check(command: &Command, level: u32) -> Result<(), Refusal> {
    let Need { level: needs, what } = needed(command);
    if needs <= level {
        return Ok(());
    }
    Err(Refusal::Level { what: what.into(), needs, level })
}

/// What one node says of itself, as far as it is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// Which start of its agent speaks.
    pub incarnation: Incarnation,
    /// The level its build understands.
    pub level: u32,
}

/// The level that an agent reports: those of the first level do not report any.
pub fn reported(level: u32) -> u32 {
    level.max(FIRST)
}

/// Why the cluster cannot go to level `to`, one reason for each member that stands in the way; empty when it can. `said` holds the
/// nodes that are heard now, and only those: one that is away may come back as anything.
pub fn hesitations(spec: &Spec, said: &BTreeMap<NodeId, Said>, to: u32) -> Vec<(NodeId, String)> {
    let members = spec.nodes.iter();
    members
        .filter_map(|(id, node)| {
            let name = &node.name;
            let words = match said.get(id) {
                None => format!("{name} is not heard: start it, or, if it is gone for good: hirsel forget {name}"),
                Some(said) if said.level < to => {
                    format!("{name} runs {}, which understands level {}: upgrade it", node.version, said.level)
                }
                Some(said) if said.incarnation != node.incarnation => {
                    format!("{name} has just been started: try again")
                }
                Some(_) => return None,
            };
            Some((*id, words))
        })
        .collect()
}

/// Why an agent of this build cannot serve a cluster at `level`; none if it can.
pub fn outdated(level: u32) -> Option<String> {
    (level > BUILT).then(|| {
        format!("the cluster runs at feature level {level}, this hirsel understands {BUILT}: upgrade this node")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::samples::{cluster, named};

    #[test]
    fn every_member_has_to_understand_a_level_before_it_is_reached() {
        let state = cluster(3);
        let mut said: BTreeMap<NodeId, Said> =
            (1..=3).map(|id| (NodeId(id), Said { incarnation: Incarnation(1), level: 2 })).collect();
        assert_eq!(hesitations(&state.spec, &said, 2), []);
        said.get_mut(&NodeId(1)).expect("n1").level = 1;
        said.get_mut(&NodeId(2)).expect("n2").incarnation = Incarnation(9);
        said.remove(&NodeId(3));
        let words: Vec<_> = hesitations(&state.spec, &said, 2).into_iter().map(|(_, words)| words).collect();
        assert_eq!(
            words,
            [
                "n1 runs 0.1.0, which understands level 1: upgrade it",
                "n2 has just been started: try again",
                "n3 is not heard: start it, or, if it is gone for good: hirsel forget n3",
            ]
        );
    }

    #[test]
    fn a_cluster_above_what_this_build_understands_is_refused_in_words() {
        assert_eq!(outdated(BUILT), None);
        let words = outdated(BUILT + 1).expect("too new");
        assert_eq!(words, "the cluster runs at feature level 3, this hirsel understands 2: upgrade this node");
    }

    #[test]
    fn a_route_that_is_host_path_and_service_needs_nothing_and_any_other_does() {
        use crate::spec::{Actions, Balance, Cache, Conditions, Log, PathKind, Seen, Target};
        let web: crate::id::ServiceName = named("web");
        let plain = RouteSpec::plain("shop.test", "/api", web.clone());
        assert_eq!(route(&plain), Need::NOTHING);
        assert_eq!(route(&RouteSpec::plain("*", "/", web.clone())), Need::NOTHING);
        let methods = ["GET".to_owned()].into();
        let balance = Balance { slow_start_ms: Some(1_000), ..Balance::default() };
        let more = [
            RouteSpec::plain("*.shop.test", "/", web.clone()),
            RouteSpec { kind: PathKind::Exact, ..plain.clone() },
            RouteSpec { when: Conditions { methods, ..Conditions::default() }, ..plain.clone() },
            RouteSpec { to: Target::Shares([(web, 1)].into()), ..plain.clone() },
            RouteSpec { actions: Box::new(Actions { timeout_ms: Some(1), ..Actions::default() }), ..plain.clone() },
            RouteSpec { actions: Box::new(Actions { balance, ..Actions::default() }), ..plain.clone() },
            RouteSpec {
                actions: Box::new(Actions { cache: Some(Cache::default()), ..Actions::default() }),
                ..plain.clone()
            },
            RouteSpec { seen: Seen { log: Some(Log::Off), ..Seen::default() }, ..plain.clone() },
            RouteSpec { to: Target::Outside(vec!["10.0.0.5:80".parse().expect("an address")]), ..plain.clone() },
            RouteSpec { to: Target::OutsideH2c(vec!["10.0.0.5:80".parse().expect("an address")]), ..plain },
        ];
        assert!(more.iter().all(|it| route(it).level == 2), "older builds refuse unknown fields");
    }

    #[test]
    fn a_program_that_speaks_http_2_waits_for_those_who_can_lead_to_it() {
        let plain = crate::control::samples::service("serve");
        assert_eq!(service(&plain), Need::NOTHING);
        assert_eq!(service(&ServiceSpec { protocol: AppProtocol::H2c, ..plain }).level, 2);
    }

    #[test]
    fn wishes_about_a_role_need_nothing_but_for_a_log() {
        use crate::spec::{AccessLog, LogFormat};
        let log = Some(AccessLog::of(LogFormat::Json));
        let levels = [RoleSpec::default(), RoleSpec { log, ..RoleSpec::default() }].map(|spec| role(&spec).level);
        assert_eq!(levels, [FIRST, 2]);
    }

    #[test]
    fn what_needs_more_than_the_cluster_has_says_so() {
        let need = Need::of(2, "a canary").and(Need::NOTHING);
        assert_eq!((need.level, need.what), (2, "a canary"));
        let refusal = Refusal::Level { what: "a canary".into(), needs: 2, level: 1 };
        assert_eq!(
            refusal.to_string(),
            "a canary needs feature level 2, and the cluster is at 1; see which nodes are too old: hirsel upgrade --plan"
        );
        assert_eq!(check(&Command::RemoveApp { app: named("shop") }, FIRST), Ok(()));
        let purge = Command::Purge { what: crate::purge::Purged::All };
        assert!(check(&purge, FIRST).is_err() && check(&purge, BUILT).is_ok());
    }
}
