//! `secret list`: names, versions and users. There is no way from here to a value.

use hirsel_model::AppName;
use hirsel_model::secret::{SecretId, used};
use hirsel_model::spec::AppSpec;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::sight::{Sight, rfc3339};

/// A secret that is set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Secret {
    /// Its name.
    pub name: String,
    /// The application it belongs to; none for the whole cluster.
    pub app: Option<String>,
    /// Number of its newest value, which no other value of the cluster has.
    pub version: u64,
    /// When that was set.
    pub set_at: String,
    /// Services that run with it, `APP/SERVICE`, and routes that ask for it, `APP, route HOST/PATH`.
    pub used_by: Vec<String>,
}

/// The key that seals them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Sealing {
    /// What the key in force is recognized by: part of a hash of it.
    pub key: String,
    /// Nodes that may have got it.
    pub holders: Vec<String>,
    /// Another one was asked for and is not in force yet.
    pub wanted: bool,
}

/// Which key is in force.
pub fn sealing(sight: &Sight) -> Sealing {
    let sealing = &sight.state.cluster.sealing;
    let holders = sealing.holders.iter().map(|node| sight.name(*node)).collect();
    Sealing { key: sealing.key.clone(), holders, wanted: sealing.wanted }
}

/// Every secret.
pub fn secrets(sight: &Sight) -> Vec<Secret> {
    let all = sight.state.secrets.all().map(|(id, secret)| Secret {
        name: id.name.to_string(),
        app: id.app.as_ref().map(ToString::to_string),
        version: secret.version(),
        set_at: rfc3339(secret.set_at),
        used_by: users(sight, &id),
    });
    all.collect()
}

/// Services and routes that use a secret, or would if it were set.
pub fn users(sight: &Sight, id: &SecretId) -> Vec<String> {
    let apps = sight.state.spec.apps.iter().filter(|(app, _)| match &id.app {
        Some(own) => own == *app,
        // One of the application's own comes before that of the cluster.
        None => !sight.state.secrets.apps.get(*app).is_some_and(|own| own.contains_key(&id.name)),
    });
    let of_app = |(app, spec): (&AppName, &AppSpec)| -> Vec<String> {
        let services = spec.services.iter().filter(|(_, service)| used(service).contains(&id.name));
        let services = services.map(|(name, _)| format!("{app}/{name}"));
        let routes = spec.routes.iter().filter(|route| route.secrets().contains(&id.name));
        services.chain(routes.map(|route| format!("{app}, route {route}"))).collect()
    };
    apps.flat_map(of_app).collect()
}
