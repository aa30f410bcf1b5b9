//! Routes: which requests take which way in, and what answers them.
//!
//! A route that is host, path prefix and service is written as it was before there was more; everything else is left out while it is
//! not used.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::action::{Actions, BasicAuth, Redirect, Respond};
use super::assets::Assets;
use super::is_default;
use super::seen::Seen;
use crate::id::{SecretName, ServiceName};

/// One way in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteSpec {
    /// Host name in lower case; `*.example.com` for every name with one more label than that; `*` for any.
    pub host: String,
    /// A path as `kind` says: a prefix, `/` for all, or the path itself, or an expression.
    pub path: String,
    /// What answers.
    pub to: Target,
    /// What `path` is.
    #[serde(default, skip_serializing_if = "is_default")]
    pub kind: PathKind,
    /// What else a request must have.
    #[serde(default, skip_serializing_if = "is_default")]
    pub when: Conditions,
    /// What is done with its requests.
    #[serde(default, skip_serializing_if = "is_default")]
    pub actions: Box<Actions>,
    /// Where the certificate of its host comes from.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tls: Tls,
    /// What is seen of its requests.
    #[serde(default, skip_serializing_if = "is_default")]
    pub seen: Seen,
}

/// Where the certificate of a host comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tls {
    /// People bring it, if any.
    #[default]
    Brought,
    /// The cluster gets it by itself ([`crate::acme`]).
    Auto,
    /// Nobody here has it: what is encrypted is passed on as it is, and whoever takes it shows one.
    Passthrough,
}

/// What the path of a route is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathKind {
    /// The beginning of paths, up to the end of a segment: `/api` is that of `/api` and `/api/v1`, not of `/apis`.
    #[default]
    Prefix,
    /// The whole path, to the letter.
    Exact,
    /// A regular expression that is found in the path.
    Regex,
}

/// What a request must have besides host and path. All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conditions {
    /// One of these methods; any when none is given.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub methods: BTreeSet<String>,
    /// These header fields, by name in lower case: with this value in one of their lines, or with any.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, Option<String>>,
    /// These parameters of the query, decoded: with this value, or with any.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub query: BTreeMap<String, Option<String>>,
}

impl Conditions {
    /// How many there are: of two routes with one path, the one with more is tried first.
    pub fn count(&self) -> usize {
        usize::from(!self.methods.is_empty()) + self.headers.len() + self.query.len()
    }
}

/// What answers the requests of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A service of the application. Written as its name alone, as it always was.
    Service(ServiceName),
    /// Services that share the requests by weight. A weight of zero takes none.
    Shares(BTreeMap<ServiceName, u32>),
    /// Programs outside the cluster, over plain HTTP.
    Outside(Vec<SocketAddr>),
    /// The same that speak HTTP/2 ([`super::AppProtocol::H2c`]).
    OutsideH2c(Vec<SocketAddr>),
    /// No program: the client is led elsewhere.
    Redirect(Redirect),
    /// No program: the answer is known.
    Respond(Respond),
    /// No program: objects of a bucket.
    Bucket(Assets),
}

impl Target {
    /// The services that it leads to.
    pub fn services(&self) -> impl Iterator<Item = &ServiceName> {
        let (one, shares) = match self {
            Target::Service(name) => (Some(name), None),
            Target::Shares(shares) => (None, Some(shares.keys())),
            Target::Outside(_)
            | Target::OutsideH2c(_)
            | Target::Redirect(_)
            | Target::Respond(_)
            | Target::Bucket(_) => (None, None),
        };
        one.into_iter().chain(shares.into_iter().flatten())
    }
}

/// Why two routes of one host cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contradiction {
    /// One passes on the host whole that the other has a part in.
    Passed,
    /// They ask clients for different certificates, and a client is asked once, before it says what it wants.
    Certificates,
}

impl RouteSpec {
    /// The plainest one: every request of `host` below `path` goes to one service.
    pub fn plain(host: impl Into<String>, path: impl Into<String>, to: ServiceName) -> Self {
        Self {
            host: host.into(),
            path: path.into(),
            to: Target::Service(to),
            kind: PathKind::Prefix,
            when: Conditions::default(),
            actions: Box::default(),
            tls: Tls::default(),
            seen: Seen::default(),
        }
    }

    /// Whether `other` is for the same host and path, whatever else each of them wants.
    pub fn meets(&self, other: &Self) -> bool {
        (&self.host, self.kind, self.bare_path()) == (&other.host, other.kind, other.bare_path())
    }

    /// The path; a prefix without its final slash, which says nothing.
    pub fn bare_path(&self) -> &str {
        match self.kind {
            PathKind::Prefix => self.path.trim_end_matches('/'),
            PathKind::Exact | PathKind::Regex => &self.path,
        }
    }

    /// Whether its host is passed on encrypted, as it is.
    pub fn is_passed_through(&self) -> bool {
        self.tls == Tls::Passthrough
    }

    /// Why both cannot be, as routes of one host; none where they can.
    pub fn contradiction(&self, other: &Self) -> Option<Contradiction> {
        if self.host != other.host {
            return None;
        }
        if self.is_passed_through() || other.is_passed_through() {
            return Some(Contradiction::Passed);
        }
        let differ = self.actions.client_certificates != other.actions.client_certificates;
        differ.then_some(Contradiction::Certificates)
    }

    /// Whether every build that ever was understands it.
    pub fn is_plain(&self) -> bool {
        let Self { host, path: _, to, kind, when, actions, tls, seen } = self;
        let plain = !host.starts_with("*.") && matches!(to, Target::Service(_));
        plain && is_default(kind) && is_default(when) && is_default(actions) && is_default(tls) && is_default(seen)
    }

    /// The secrets that it names.
    pub fn secrets(&self) -> BTreeSet<SecretName> {
        self.actions.basic_auth.as_ref().map(BasicAuth::secrets).unwrap_or_default()
    }
}

impl fmt::Display for RouteSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.kind {
            PathKind::Prefix => "",
            PathKind::Exact => "=",
            PathKind::Regex => "~",
        };
        write!(f, "{}{mark}{}", self.host, self.path)
    }
}

/// All targets that are not the name of a service.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Other {
    Shares(BTreeMap<ServiceName, u32>),
    Outside(Vec<SocketAddr>),
    OutsideH2c(Vec<SocketAddr>),
    Redirect(Redirect),
    Respond(Respond),
    Bucket(Assets),
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Target::Service(name) => name.serialize(to),
            Target::Shares(shares) => to.serialize_newtype_variant("Target", 0, "shares", shares),
            Target::Outside(addrs) => to.serialize_newtype_variant("Target", 1, "outside", addrs),
            Target::Redirect(redirect) => to.serialize_newtype_variant("Target", 2, "redirect", redirect),
            Target::Respond(respond) => to.serialize_newtype_variant("Target", 3, "respond", respond),
            Target::OutsideH2c(addrs) => to.serialize_newtype_variant("Target", 4, "outside_h2c", addrs),
            Target::Bucket(assets) => to.serialize_newtype_variant("Target", 5, "bucket", assets),
        }
    }
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Target;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a service, or what else answers")
            }
            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Target, E> {
                name.parse().map(Target::Service).map_err(E::custom)
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Target, A::Error> {
                Ok(match Other::deserialize(MapAccessDeserializer::new(map))? {
                    Other::Shares(shares) => Target::Shares(shares),
                    Other::Outside(addrs) => Target::Outside(addrs),
                    Other::OutsideH2c(addrs) => Target::OutsideH2c(addrs),
                    Other::Redirect(redirect) => Target::Redirect(redirect),
                    Other::Respond(respond) => Target::Respond(respond),
                    Other::Bucket(assets) => Target::Bucket(assets),
                })
            }
        }
        from.deserialize_any(Either)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{decode, encode};
    use crate::spec::Rewrite;

    fn web() -> ServiceName {
        "web".parse().unwrap()
    }

    #[test]
    fn a_plain_route_is_written_as_it_always_was() {
        #[derive(Serialize)]
        struct Before {
            host: String,
            path: String,
            to: ServiceName,
        }
        let before = Before { host: "a.test".into(), path: "/api".into(), to: web() };
        let route = RouteSpec::plain("a.test", "/api", web());
        assert_eq!(encode(&route), encode(&before));
        assert!(route.is_plain());
        assert_eq!(decode::<RouteSpec>(&encode(&before)).unwrap(), route);
    }

    #[test]
    fn every_target_is_read_as_it_was_written() {
        let shares = BTreeMap::from([(web(), 90), ("next".parse().unwrap(), 10)]);
        let outside = vec!["10.0.0.5:8080".parse().unwrap(), "[fd00::1]:80".parse().unwrap()];
        let redirect = Redirect { status: 301, scheme: Some("https".into()), host: None, rewrite: Rewrite::default() };
        let respond = Respond { status: 503, headers: BTreeMap::new(), body: "later".into() };
        for to in [
            Target::Service(web()),
            Target::Shares(shares),
            Target::Outside(outside.clone()),
            Target::OutsideH2c(outside),
            Target::Redirect(redirect),
            Target::Respond(respond),
            Target::Bucket(Assets { bucket: "media".into(), index: None }),
            Target::Bucket(Assets { bucket: "media".into(), index: Some("index.html".into()) }),
        ] {
            assert_eq!(decode::<Target>(&encode(&to)).unwrap(), to);
            assert_eq!(serde_json::from_str::<Target>(&serde_json::to_string(&to).unwrap()).unwrap(), to);
        }
    }

    #[test]
    fn a_target_of_a_newer_build_is_called_that() {
        let newer = BTreeMap::from([("teleport", 1)]);
        assert!(decode::<Target>(&encode(&newer)).unwrap_err().is_newer());
    }
}
