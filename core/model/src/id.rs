//! Identifiers. Each is a type of its own, so that a slot is never passed for a node.
//!
//! Names are text that has been checked once, when it entered; whoever holds a name may print it, put it into a path or a label.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::control::limits::HOST_BYTES_MAX;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The number after this one.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// A node of one cluster. Given by the control state when the node is admitted, never given twice.
    NodeId
}
number! {
    /// Restart counter of a node: rises, durably, with every start of its agent.
    Incarnation
}
number! {
    /// Number of a plan. Rises by one with each adopted change and fences everything downstream.
    Generation
}
number! {
    /// How often an application was applied, counted from one.
    Revision
}
number! {
    /// Index of an entry in the control log.
    LogIndex
}

/// Which copy of a role, counted from zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Slot(pub u16);

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Longest name. A name becomes a DNS label (RFC 1035, section 2.3.4) and a file name.
pub const NAME_BYTES_MAX: usize = 63;

/// A text that is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was written.
    #[error("empty name")]
    Empty,
    /// Longer than [`NAME_BYTES_MAX`].
    #[error("name of {0} bytes exceeds {NAME_BYTES_MAX}")]
    TooLong(usize),
    /// A name of several parts is longer than a domain may be.
    #[error("name of {0} bytes exceeds {HOST_BYTES_MAX}")]
    LongDomain(usize),
    /// Holds something else than `a-z`, `0-9` and inner `-`.
    #[error("{0:?} is no name: use a-z, 0-9 and '-', beginning and ending with a letter or digit")]
    Characters(String),
}

/// Checks that `text` is a DNS label in lower case (RFC 1123, section 2.1).
pub fn check_name(text: &str) -> Result<(), NameError> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    match text.as_bytes() {
        [] => Err(NameError::Empty),
        bytes if bytes.len() > NAME_BYTES_MAX => Err(NameError::TooLong(bytes.len())),
        [b'-', ..] | [.., b'-'] => Err(NameError::Characters(text.into())),
        bytes if bytes.iter().copied().all(inner) => Ok(()),
        _ => Err(NameError::Characters(text.into())),
    }
}

/// Checks that `text` is one such label, or several with dots between them, as the name of a host is.
pub fn check_dotted(text: &str) -> Result<(), NameError> {
    if text.len() > HOST_BYTES_MAX {
        return Err(NameError::LongDomain(text.len()));
    }
    text.split('.').try_for_each(check_name)
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        name! { $(#[$doc])* $name, check_name }
    };
    ($(#[$doc:meta])* $name:ident, $check:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                $check(text)?;
                Ok(Self(text.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                $check(&text)?;
                Ok(Self(text))
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name! {
    /// What people call a node, unique in its cluster.
    NodeName
}
name! {
    /// Failure domain inside a site.
    ZoneName
}
name! {
    /// A role. An open set: an old agent must decode a plan that names a role it lacks.
    RoleName
}
name! {
    /// An application.
    AppName
}
name! {
    /// One program of an application.
    ServiceName
}
name! {
    /// A secret, unique in the cluster or in one application.
    SecretName
}
name! {
    /// A bucket as its application calls it.
    BucketLabel
}
name! {
    /// Whose a bucket is, and for whom an access key acts.
    AccountName
}
name! {
    /// A certificate that load balancers show. It may have dots, for one that came by itself is called after its host.
    CertificateName, check_dotted
}

impl RoleName {
    /// Load balancer.
    pub fn lb() -> Self {
        Self("lb".into())
    }
    /// Runs applications.
    pub fn compute() -> Self {
        Self("compute".into())
    }
    /// Keeps objects.
    pub fn storage() -> Self {
        Self("storage".into())
    }
    /// Answers names.
    pub fn dns() -> Self {
        Self("dns".into())
    }
    /// Holds floating addresses.
    pub fn address() -> Self {
        Self("address".into())
    }
    /// Monitoring and automation.
    pub fn mgmt() -> Self {
        Self("mgmt".into())
    }
}

/// One running copy of a service. The number is given by the planner and never used again for this service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceId {
    /// Application.
    pub app: AppName,
    /// Service of the application.
    pub service: ServiceName,
    /// Rises with every instance of the cluster.
    pub number: u64,
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.app, self.service, self.number)
    }
}

/// A text that is no instance id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no instance: expected APP/SERVICE/NUMBER")]
pub struct InstanceIdError(String);

impl FromStr for InstanceId {
    type Err = InstanceIdError;
    fn from_str(text: &str) -> Result<Self, InstanceIdError> {
        let wrong = || InstanceIdError(text.chars().take(200).collect());
        let mut parts = text.split('/');
        let (Some(app), Some(service), Some(number), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(wrong());
        };
        Ok(Self {
            app: app.parse().map_err(|_| wrong())?,
            service: service.parse().map_err(|_| wrong())?,
            number: number.parse().map_err(|_| wrong())?,
        })
    }
}

impl TryFrom<String> for InstanceId {
    type Error = InstanceIdError;
    fn try_from(text: String) -> Result<Self, InstanceIdError> {
        text.parse()
    }
}

impl From<InstanceId> for String {
    fn from(id: InstanceId) -> String {
        id.to_string()
    }
}

/// Identity of a cluster: drawn when it is made, and again, as a new tag, by whatever re-founds it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterId(pub String);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}
