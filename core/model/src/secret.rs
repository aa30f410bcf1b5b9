//! Secrets: values that programs need and nobody else shall see. The control state keeps them sealed, and only voters and spares hold
//! the key; what is decided about them needs names and versions, never a value.
//!
//! A secret belongs to the whole cluster or to one application, and where both have one of a name, the application's is meant. Each
//! value that is set gets a version, a number no other value of the cluster ever gets. A service says which versions it runs with, so
//! that a new value is a new description, and is rolled out as one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::control::ControlState;
use crate::id::*;
use crate::spec::ServiceSpec;
use crate::time::WallTime;

/// Longest value in bytes: a private key with its chain of certificates fits.
pub const SECRET_BYTES_MAX: usize = 16 << 10;
/// Secrets of a cluster.
pub const SECRETS_MAX: usize = 1_000;
/// Bytes of all sealed values, old ones that are still in use included: all of them travel in one change when they are sealed anew.
pub const SECRETS_BYTES_MAX: usize = 1 << 20;
/// What sealing adds to a value at most.
pub const SEAL_BYTES_MAX: usize = 64;

/// The feature level from which on secrets may be written: every agent knows them.
pub const LEVEL: u32 = 2;

/// Whether every agent of the cluster understands what is said of secrets.
pub fn may_be_written(state: &ControlState) -> bool {
    state.cluster.feature_level >= LEVEL
}

/// Bytes that only a key opens, or that are too long to print.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sealed(pub Vec<u8>);

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({} bytes)", self.0.len())
    }
}

impl Serialize for Sealed {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Sealed {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl<'de> Visitor<'de> for Bytes {
            type Value = Sealed;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Sealed, E> {
                Ok(Sealed(bytes.to_vec()))
            }
            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Sealed, E> {
                Ok(Sealed(bytes))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Sealed, A::Error> {
                let mut bytes = Vec::new();
                while let Some(byte) = items.next_element()? {
                    bytes.push(byte);
                }
                Ok(Sealed(bytes))
            }
        }
        from.deserialize_byte_buf(Bytes)
    }
}

/// All secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secrets {
    /// Version of the value that was set last.
    pub last: u64,
    /// Those of the whole cluster.
    pub cluster: BTreeMap<SecretName, Secret>,
    /// Those of one application, which come before those of the cluster.
    pub apps: BTreeMap<AppName, BTreeMap<SecretName, Secret>>,
}

/// One secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secret {
    /// When its newest value was set.
    pub set_at: WallTime,
    /// By version: the newest value, and older ones that some description still names.
    pub values: BTreeMap<u64, Sealed>,
}

impl Secret {
    /// Version of the newest value.
    pub fn version(&self) -> u64 {
        self.values.keys().next_back().copied().unwrap_or_default()
    }
}

/// Whose secret, and which.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretId {
    /// The application it belongs to; none for the whole cluster.
    pub app: Option<AppName>,
    /// Its name.
    pub name: SecretName,
}

impl SecretId {
    /// What its values are sealed for: a sealed value that is put elsewhere does not open.
    pub fn purpose(&self) -> String {
        format!("secret {self}")
    }
}

impl fmt::Display for SecretId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.app {
            Some(app) => write!(f, "{app}/{}", self.name),
            None => self.name.fmt(f),
        }
    }
}

/// Which value an instance needs: of an application, by the name its services use, in this version.
pub type ValueKey = (AppName, SecretName, u64);

impl Secrets {
    /// One of them.
    pub fn get(&self, id: &SecretId) -> Option<&Secret> {
        self.scope(id.app.as_ref())?.get(&id.name)
    }

    fn scope(&self, app: Option<&AppName>) -> Option<&BTreeMap<SecretName, Secret>> {
        match app {
            Some(app) => self.apps.get(app),
            None => Some(&self.cluster),
        }
    }

    /// The secret that services of `app` mean by `name`.
    pub fn meant(&self, app: &AppName, name: &SecretName) -> Option<&Secret> {
        self.apps.get(app).and_then(|own| own.get(name)).or_else(|| self.cluster.get(name))
    }

    /// A sealed value, and which secret it is one of.
    pub fn value(&self, (app, name, version): &ValueKey) -> Option<(SecretId, &Sealed)> {
        let of = |app: Option<&AppName>| {
            let sealed = self.scope(app)?.get(name)?.values.get(version)?;
            Some((SecretId { app: app.cloned(), name: name.clone() }, sealed))
        };
        of(Some(app)).or_else(|| of(None))
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = (SecretId, &Secret)> {
        let id = |app: Option<&AppName>, name: &SecretName| SecretId { app: app.cloned(), name: name.clone() };
        let cluster = self.cluster.iter().map(move |(name, secret)| (id(None, name), secret));
        let own = self.apps.iter().flat_map(move |(app, own)| {
            own.iter().map(move |(name, secret)| (SecretId { app: Some(app.clone()), name: name.clone() }, secret))
        });
        cluster.chain(own)
    }

    /// Names that services of `app` may use.
    pub fn names<'a>(&'a self, app: Option<&AppName>) -> BTreeSet<&'a str> {
        let own = app.and_then(|app| self.apps.get(app)).into_iter().flat_map(BTreeMap::keys);
        own.chain(self.cluster.keys()).map(SecretName::as_str).collect()
    }

    /// Bytes of all sealed values.
    pub fn bytes(&self) -> usize {
        self.all().flat_map(|(_, secret)| secret.values.values()).map(|sealed| sealed.0.len()).sum()
    }

    /// The versions that `service` of `app` would run with now, or the first secret that is not set.
    pub fn resolve(&self, app: &AppName, service: &ServiceSpec) -> Result<BTreeMap<SecretName, u64>, SecretName> {
        let resolved = |name: SecretName| match self.meant(app, &name) {
            Some(secret) => Ok((name, secret.version())),
            None => Err(name),
        };
        used(service).into_iter().map(resolved).collect()
    }
}

/// The secrets that a service names in its environment.
pub fn used(service: &ServiceSpec) -> BTreeSet<SecretName> {
    service.env.values().flat_map(|text| references(text)).filter_map(|name| name.parse().ok()).collect()
}

/// What stands for `NAME` in each `${secret.NAME}` of a text. `$${` writes `${` and refers to nothing.
pub fn references(text: &str) -> Vec<&str> {
    variables(text).into_iter().filter_map(|name| name.strip_prefix("secret.")).collect()
}

/// What stands for `NAME` in each `${NAME}` of a text. `$${` writes `${` and refers to nothing.
pub fn variables(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            rest = &rest[at + 2..];
            continue;
        }
        let Some((name, after)) = rest[at + 2..].split_once('}') else { return found };
        found.push(name);
        rest = after;
    }
    found
}

/// The values that the planned instances of `node` name, and, if it is a load balancer, the routes: all that it may be told.
pub fn needed(state: &ControlState, node: NodeId) -> BTreeSet<ValueKey> {
    let mine = state.plan.instances.iter().filter(|(_, assigned)| assigned.node == node);
    let described =
        mine.filter_map(|(id, assigned)| Some((id, state.service(&id.app, &id.service, assigned.revision)?)));
    let keys = described.flat_map(|(id, service)| {
        service.secrets.iter().map(|(name, version)| (id.app.clone(), name.clone(), *version))
    });
    keys.chain(needed_by_routes(state, node)).collect()
}

/// A route has the newest value, always: nothing is started anew for it.
fn needed_by_routes(state: &ControlState, node: NodeId) -> Vec<ValueKey> {
    let slots = state.plan.roles.get(&RoleName::lb());
    if !slots.is_some_and(|slots| slots.values().any(|assignment| assignment.node == node)) {
        return Vec::new();
    }
    let apps = state.spec.apps.iter().filter(|(_, spec)| !spec.stopped);
    let named =
        apps.flat_map(|(app, spec)| spec.routes.iter().flat_map(|it| it.secrets()).map(move |name| (app, name)));
    let newest = named.filter_map(|(app, name)| {
        let version = state.secrets.meant(app, &name)?.version();
        Some((app.clone(), name, version))
    });
    newest.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_text_refers_to_is_found_and_what_is_escaped_is_not() {
        assert_eq!(references("pg://u:${secret.db-pw}@${HOST}/${secret.name}"), ["db-pw", "name"]);
        assert_eq!(references("$${secret.a} ${secret.b"), Vec::<&str>::new());
        assert_eq!(variables("$$${A} $${B}${C}"), ["C"]);
    }

    #[test]
    fn sealed_bytes_travel_as_bytes_and_are_not_printed() {
        let sealed = Sealed(vec![200; 300]);
        let bytes = crate::codec::encode(&sealed);
        assert_eq!(bytes.len(), 303);
        assert_eq!(crate::codec::decode::<Sealed>(&bytes).unwrap(), sealed);
        assert_eq!(format!("{sealed:?}"), "Sealed(300 bytes)");
    }
}
