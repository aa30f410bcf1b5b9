//! Certificates that the cluster gets by itself: where from, and how things stand with each host that asks for one.

use hirsel_model::acme::{Brought, Standing, Trouble, certificate, hosts, standing};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::sight::{Sight, rfc3339};

/// Where certificates come from, and for whom.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Acme {
    /// URL of the directory; none while certificates do not come by themselves.
    pub directory: Option<String>,
    /// Mail addresses that the directory has.
    pub contacts: Vec<String>,
    /// The directory is believed by roots of its own.
    pub own_roots: bool,
    /// How hosts are proven: `http-01`, `tls-alpn-01`, or `auto`, which is both in turn.
    pub challenge: String,
    /// Key identifier of the external account.
    pub kid: Option<String>,
    /// The cluster's account at the directory, once it has one.
    pub account: Option<String>,
    /// Why it has none.
    pub trouble: Option<Failed>,
    /// Hosts whose routes say `tls = "auto"`.
    pub hosts: Vec<AutomaticHost>,
}

/// What failed, and when it is tried again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Failed {
    /// In words: what the directory says, where it says something.
    pub message: String,
    /// The last time.
    pub at: String,
    /// How often in a row.
    pub failures: u32,
    /// Not tried before this.
    pub again_at: String,
}

/// A host whose routes say `tls = "auto"`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct AutomaticHost {
    /// It.
    pub host: String,
    /// `good`; `covered` (by a certificate that was brought); `due` (it is to get one now); `waiting` (it failed, and is tried again
    /// later); `taken` (another certificate has its name); `unset` (nobody said where certificates come from).
    pub state: String,
    /// The same in words.
    pub message: String,
    /// It has a certificate that is good.
    pub served: bool,
    /// When that will be renewed.
    pub renews_at: Option<String>,
    /// What failed last, unless it came right since.
    pub trouble: Option<Failed>,
}

/// All of it.
pub fn acme(sight: &Sight) -> Acme {
    let acme = &sight.state.acme;
    let hosts = automatic(sight);
    let Some(settings) = &acme.settings else { return Acme { hosts, ..Acme::default() } };
    Acme {
        directory: Some(settings.directory.clone()),
        contacts: settings.contacts.clone(),
        own_roots: !settings.roots.is_empty(),
        challenge: settings.way.map_or("auto", hirsel_model::acme::Way::word).into(),
        kid: settings.binding.as_ref().map(|binding| binding.kid.clone()),
        account: acme.account.as_ref().map(|account| account.id.clone()),
        trouble: acme.account_trouble.as_ref().map(failed),
        hosts,
    }
}

fn failed(trouble: &Trouble) -> Failed {
    Failed {
        message: trouble.words.clone(),
        at: rfc3339(trouble.at),
        failures: trouble.failures,
        again_at: rfc3339(trouble.again_at),
    }
}

/// How things stand with each host.
pub fn automatic(sight: &Sight) -> Vec<AutomaticHost> {
    let state = &sight.state;
    let brought = Brought::of(state);
    let of = |host: &str| {
        let mut all = AutomaticHost { host: host.into(), ..AutomaticHost::default() };
        all.served = certificate(state, host).is_some_and(|it| it.facts.not_after > sight.wall);
        all.trouble = state.acme.troubles.get(host).map(failed);
        let (word, message) = match standing(state, &brought, host, sight.wall) {
            Standing::Good { renew_at } => {
                all.renews_at = Some(rfc3339(renew_at));
                ("good", "it has one".to_owned())
            }
            Standing::Covered { name, .. } => {
                all.served = true;
                ("covered", format!("certificate {name}, which was brought, is good for it"))
            }
            Standing::Taken => ("taken", format!("certificate {host} was brought, and is not good for it")),
            Standing::Unset => ("unset", "nobody said where certificates come from: hirsel cert acme set".into()),
            Standing::Due(why) => match &state.acme.account_trouble {
                Some(trouble) => ("waiting", format!("no account at the directory: {}", trouble.words)),
                None if state.acme.challenges.contains_key(host) => {
                    ("due", "the directory looks whether it is ours".into())
                }
                None => ("due", why.words().into()),
            },
            Standing::Waiting { why, trouble } => ("waiting", format!("{}; {}", why.words(), trouble.words)),
        };
        (all.state, all.message) = (word.into(), message);
        all
    };
    hosts(state).into_iter().map(of).collect()
}

/// What should be known of them: hosts that want a certificate and do not get it.
pub fn warnings(sight: &Sight) -> Vec<String> {
    let troubled = |it: &AutomaticHost| match it.state.as_str() {
        "taken" | "unset" | "waiting" => true,
        _ => it.trouble.is_some(),
    };
    let hosts: Vec<AutomaticHost> = automatic(sight).into_iter().filter(troubled).collect();
    // One word for all: a shop has hundreds.
    let unset: Vec<&str> = hosts.iter().filter(|it| it.state == "unset").map(|it| it.host.as_str()).collect();
    let mut all = Vec::new();
    if let Some((first, more)) = unset.split_first() {
        let others = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
        all.push(format!(
            "{first}{others} asks for a certificate, and nobody said where they come from; try: hirsel cert acme set"
        ));
    }
    all.extend(hosts.iter().filter(|it| it.state != "unset").map(|it| match &it.trouble {
        Some(trouble) => {
            format!("no certificate for {}: {}; tried again at {}", it.host, trouble.message, trouble.again_at)
        }
        None => format!("no certificate for {}: {}", it.host, it.message),
    }));
    all
}
