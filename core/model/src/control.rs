//! The control state: what Raft keeps on every voter, and the commands that change it.
//!
//! Commands are changes, never whole objects read, altered and written back. Applying is total and deterministic: a command that
//! cannot be carried out is refused with a reason and changes nothing. An unknown field or command is an error of decoding, which
//! stops the replica: it was written by a newer hirsel.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::access::{Access, Change as AccessChange};
use crate::acme::{Acme, Change as AcmeChange};
use crate::certificate::{Certificates, NewCertificate};
use crate::dnssec::{Change as SigningChange, Signing};
use crate::event::{EventLog, NewEvent};
use crate::grant::long::{Lengthened, LongGrants, Over};
use crate::id::*;
use crate::plan::Plan;
use crate::planner::change::PlanChange;
use crate::purge::{Purged, Purges};
use crate::secret::{Sealed, SecretId, Secrets};
use crate::spec::{AddressSpec, AppSpec, Availability, Former, NodeSpec, Replicas, RoleSpec, ServiceSpec, Spec};
use crate::tag::Tag;
use crate::tickets::{Change as TicketChange, Tickets};
use crate::time::WallTime;

mod access;
mod acme;
mod addresses;
mod apply;
mod apps;
pub mod authority;
mod buckets;
mod certificates;
mod dnssec;
pub mod limits;
mod long;
mod nodes;
mod ports;
#[cfg(test)]
mod properties;
mod purges;
mod record;
mod recover;
pub mod restore;
mod routes;
#[cfg(test)]
pub(crate) mod samples;
pub mod secrets;
#[cfg(test)]
mod tests;
mod tickets;
mod tokens;
mod zones;

pub use authority::{FORMER_AUTHORITIES_MAX, FormerAuthority, NewAuthority};
pub use secrets::{Resealed, SEALING_KEY, Sealing};

/// Everything that is strong and small.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControlState {
    /// Who we are.
    pub cluster: ClusterInfo,
    /// What the operator wants.
    pub spec: Spec,
    /// The log index of the last command that changed `spec`.
    pub spec_index: LogIndex,
    /// What the leader decided.
    pub plan: Plan,
    /// How services were described before, for the instances that still run that way.
    pub former: Former,
    /// What happened, and why.
    pub log: EventLog,
    /// Tokens that were given out.
    pub tokens: BTreeMap<String, TokenRecord>,
    /// The number of the next node.
    pub next_node: NodeId,
    /// The last command applied.
    pub applied: LogIndex,
    /// The nodes that were removed last, the newest one at the end: people ask what became of them.
    #[serde(default, skip_serializing_if = "VecDeque::is_empty")]
    pub left: VecDeque<LeftNode>,
    /// Values that programs need, sealed.
    #[serde(default, skip_serializing_if = "crate::spec::is_default")]
    pub secrets: Secrets,
    /// What load balancers show to clients, with keys sealed.
    #[serde(default, skip_serializing_if = "crate::spec::is_default")]
    pub certificates: Certificates,
    /// Long grants that may still run.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub long: LongGrants,
    /// Where more certificates come from by themselves, and what came of that.
    #[serde(default, skip_serializing_if = "crate::spec::is_default")]
    pub acme: Acme,
    /// Answers that load balancers shall forget.
    #[serde(default, skip_serializing_if = "crate::spec::is_default")]
    pub purges: Purges,
    /// Keys of TLS tickets, sealed.
    #[serde(default, skip_serializing_if = "crate::spec::is_default")]
    pub tickets: Tickets,
    /// Who may ask the object store for something, and with what it encrypts; sealed.
    #[serde(default, skip_serializing_if = "crate::spec::is_default")]
    pub access: Access,
    /// Keys with which zones are signed, sealed.
    #[serde(default, skip_serializing_if = "crate::spec::is_default")]
    pub signing: Signing,
}

/// A node that is no member any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeftNode {
    /// Its number, which no other node ever gets.
    pub id: NodeId,
    /// When it was removed.
    pub at: WallTime,
    /// As it was known.
    pub spec: NodeSpec,
}

/// Who the cluster is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterInfo {
    /// Drawn when the cluster was made.
    pub id: ClusterId,
    /// The certificate of the cluster's authority, DER.
    pub ca: Vec<u8>,
    /// Its private key, sealed with a key that only voters and spares hold.
    pub sealed_ca_key: Vec<u8>,
    /// What every agent must understand (see [`crate::feature`]). Rises at the end of an upgrade, and never falls.
    pub feature_level: u32,
    /// Where to tell people that less can be lost than before.
    pub webhook: Option<String>,
    /// The key that seals secrets and the authority's key.
    #[serde(default, skip_serializing_if = "crate::spec::is_default")]
    pub sealing: Sealing,
    /// Which foundation of it this is.
    #[serde(default, skip_serializing_if = "crate::spec::is_default")]
    pub tag: Tag,
    /// Authorities before the present one, the latest at the end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former: Vec<FormerAuthority>,
    /// An operator wants another authority.
    #[serde(default, skip_serializing_if = "crate::spec::is_default")]
    pub authority_wanted: bool,
}

/// The cluster of a state that nothing was written to yet: whoever founds it starts with all that its build understands.
impl Default for ClusterInfo {
    fn default() -> Self {
        let (id, ca, sealed_ca_key) = Default::default();
        Self {
            id,
            ca,
            sealed_ca_key,
            feature_level: crate::feature::BUILT,
            webhook: None,
            sealing: Sealing::default(),
            tag: Tag::default(),
            former: Vec::new(),
            authority_wanted: false,
        }
    }
}

/// A token that was given out. Only a hash of its secret is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRecord {
    /// SHA-256 of the secret.
    pub secret_hash: Vec<u8>,
    /// What it is good for.
    pub grants: TokenGrants,
    /// Until when.
    pub expires_at: WallTime,
    /// How many uses are left; none means any number.
    pub uses_left: Option<u32>,
    /// Taken back.
    pub revoked: bool,
}

/// What a token is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenGrants {
    /// A node may join.
    Join,
    /// A person may look.
    Viewer,
    /// A person may also deploy, drain and pin.
    Operator,
    /// A person may do everything.
    Admin,
}

/// An entry of the control log: a change, when its proposer made it (for the event log only), and who asked for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The proposer's wall clock.
    pub at: WallTime,
    /// `n2`, `admin@n1 (socket)`, `token 3f2a`: who asked.
    pub by: String,
    /// Refuse unless the spec was last changed at this index.
    pub if_index: Option<LogIndex>,
    /// The change.
    pub command: Command,
}

/// A change of the control state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// The first entry of a cluster.
    Found {
        /// Who it is.
        cluster: ClusterInfo,
        /// Its first node, which becomes node 1.
        node: NodeSpec,
    },
    /// A node joins with a token that was already verified against its hash; uses and expiry are checked again here.
    Admit {
        /// The node. A name that is taken gets a number appended.
        node: NodeSpec,
        /// Id of the join token.
        token: String,
    },
    /// The agent of a node (re)started, or its address, capacity, version or roles changed.
    Announce {
        /// Which.
        node: NodeId,
        /// Must not be lower than known.
        incarnation: Incarnation,
        /// Mesh address.
        addr: SocketAddr,
        /// Capacity.
        capacity: crate::spec::Capacity,
        /// Roles its agent can do.
        built: std::collections::BTreeSet<RoleName>,
        /// Version of its agent.
        version: String,
    },
    /// Cordon, drain, leave, open.
    SetAvailability {
        /// Which.
        node: NodeId,
        /// To what.
        availability: Availability,
    },
    /// A node left for good: unpinned.
    RemoveNode {
        /// Which.
        node: NodeId,
    },
    /// Create or update an application. The revisions inside are ignored and given when applied.
    ApplyApp {
        /// Which.
        app: AppName,
        /// What.
        spec: AppSpec,
    },
    /// Changes the count of a service.
    Scale {
        /// Which application.
        app: AppName,
        /// Which service of it.
        service: ServiceName,
        /// To how many.
        replicas: Replicas,
    },
    /// Replaces all instances of an application (or of one service) by new ones of the same description.
    Restart {
        /// Which application.
        app: AppName,
        /// Which service; all when none is given.
        service: Option<ServiceName>,
    },
    /// Stops or starts an application without forgetting it.
    SetStopped {
        /// Which.
        app: AppName,
        /// Whether nothing of it shall run.
        stopped: bool,
    },
    /// Forgets an application.
    RemoveApp {
        /// Which.
        app: AppName,
    },
    /// Changes the wishes about a role.
    SetRole {
        /// Which.
        role: RoleName,
        /// The new wishes.
        spec: RoleSpec,
    },
    /// Moves one slot of a role to another node, once.
    MoveRole {
        /// Which role.
        role: RoleName,
        /// The node that has the slot.
        from: NodeId,
        /// The node that shall have it.
        to: NodeId,
    },
    /// Gives out a token.
    NewToken {
        /// Its public part.
        id: String,
        /// The record.
        record: TokenRecord,
    },
    /// Takes a token back.
    RevokeToken {
        /// Its public part.
        id: String,
    },
    /// Sets or removes the webhook.
    SetWebhook {
        /// Where to post; none to post nowhere.
        url: Option<String>,
    },
    /// Sets a secret to a value.
    SetSecret {
        /// Which.
        id: SecretId,
        /// The value, sealed for [`SecretId::purpose`].
        sealed: Sealed,
        /// With which key.
        key: String,
    },
    /// Forgets a secret.
    RemoveSecret {
        /// Which.
        id: SecretId,
    },
    /// Adds a certificate of the front door, or replaces it.
    SetCertificate {
        /// Which.
        name: CertificateName,
        /// By what.
        new: NewCertificate,
    },
    /// Forgets a certificate of the front door.
    RemoveCertificate {
        /// Which.
        name: CertificateName,
    },
    /// Certificates that the cluster gets by itself.
    Acme {
        /// What changes.
        change: AcmeChange,
    },
    /// A floating address shall be held, or held in another way.
    SetAddress {
        /// Which.
        address: IpAddr,
        /// How.
        spec: AddressSpec,
    },
    /// A floating address shall not be held any more.
    RemoveAddress {
        /// Which.
        address: IpAddr,
    },
    /// Load balancers shall forget answers that they keep.
    Purge {
        /// Which.
        what: Purged,
    },
    /// Keys of TLS tickets.
    Tickets {
        /// What changes.
        change: TicketChange,
    },
    /// Access keys and master keys of the object store.
    Access {
        /// What changes.
        change: AccessChange,
    },
    /// Keys with which zones are signed.
    Signing {
        /// What changes.
        change: SigningChange,
    },
    /// Asks the leader for a new sealing key.
    RotateSealing,
    /// A new sealing key is in force.
    Reseal {
        /// Everything, sealed with it.
        resealed: Resealed,
    },
    /// A majority was lost for good: the control group was founded anew on what one node had.
    Recover {
        /// Drawn for the new foundation; its epoch must be the next one.
        tag: Tag,
        /// The node that began it.
        survivor: NodeId,
        /// Nodes that are given up: they are no members any more.
        lost: BTreeSet<NodeId>,
        /// Somebody made sure that they are off. Otherwise nothing exclusive that they may run is given to anybody else.
        #[serde(default, skip_serializing_if = "crate::spec::is_default")]
        off: bool,
    },
    /// Somebody made sure that nodes which were given up are off.
    ConfirmOff {
        /// Which.
        nodes: BTreeSet<NodeId>,
    },
    /// A node whose disk went back in time goes on as another one: what the old number acknowledged or voted is not known there.
    Rejoin {
        /// Its old number, which is removed.
        former: NodeId,
        /// It, with its new key. It keeps its name, and what the operator said of it.
        node: NodeSpec,
    },
    /// Asks the leader for a new authority.
    RotateAuthority,
    /// A new authority certifies from now on.
    ReplaceAuthority {
        /// It.
        new: NewAuthority,
    },
    /// Every live node has a certificate of the present authority: this former one is not needed any more.
    DropAuthority {
        /// Its certificate, DER.
        ca: Sealed,
    },
    /// The agent of a node is about to be restarted: what it holds exclusively shall act on for a while without it.
    LongGrant {
        /// Which node.
        node: NodeId,
        /// The start of the agent that asks.
        incarnation: Incarnation,
        /// How long, in milliseconds; at most [`LONG_MAX`](crate::grant::long::LONG_MAX).
        length_ms: u64,
    },
    /// The leader knows that these long grants are over.
    EndLongGrants {
        /// Which, and how.
        over: BTreeMap<InstanceId, Over>,
    },
    /// The leader decided.
    Adopt {
        /// The generation this change follows; another one in force refuses it.
        base: Generation,
        /// The spec index it was computed from; another one refuses it.
        spec_index: LogIndex,
        /// What changes.
        change: PlanChange,
        /// What happened and what was decided because of it, in order.
        events: Vec<NewEvent>,
    },
    /// The leader saw something worth the log that changes no plan.
    Note {
        /// In order.
        events: Vec<NewEvent>,
    },
    /// An upgrade is finished: what needs this feature level may be written from here on. Older builds stop here.
    RaiseLevel {
        /// The new level.
        to: u32,
        /// Every member, by the start of its agent that was heard to understand the level. If another has joined or started since, the
        /// command is refused.
        understood: BTreeMap<NodeId, Incarnation>,
    },
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Carried out.
    Done {
        /// The log index of the command.
        index: LogIndex,
    },
    /// Carried out: the node is a member.
    Admitted {
        /// The log index of the command.
        index: LogIndex,
        /// Its number.
        node: NodeId,
        /// The name it got.
        name: NodeName,
    },
    /// Carried out: a long grant is on record.
    Lengthened {
        /// The log index of the command.
        index: LogIndex,
        /// It.
        grant: Lengthened,
    },
    /// Not carried out; nothing changed.
    Refused(Refusal),
}

/// Why a command changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// There is no such thing.
    #[error("no {kind} named {name:?}")]
    NotFound {
        /// `node`, `app`, `service`, `token`, `role`, `secret`, `certificate`, `access key`.
        kind: String,
        /// What was asked for.
        name: String,
    },
    /// Something else changed meanwhile.
    #[error("{what}: expected {expected}, found {found}")]
    Conflict {
        /// What was compared.
        what: String,
        /// What the command was made for.
        expected: u64,
        /// What is in force.
        found: u64,
    },
    /// A join token that is not good (any more).
    #[error("token {id} is not valid: {reason}; try on a member: hirsel token new")]
    Token {
        /// Its public part.
        id: String,
        /// Expired, used up, revoked, not for joining.
        reason: String,
    },
    /// A limit.
    #[error("{what} of {value} exceeds {limit}")]
    Limit {
        /// What is too large.
        what: String,
        /// How large it is.
        value: u64,
        /// How large it may be.
        limit: u64,
    },
    /// It makes no sense as it is.
    #[error("{0}")]
    Invalid(String),
    /// A safety rule.
    #[error("refused: {0}")]
    Unsafe(String),
    /// Not every member understands it yet.
    #[error(
        "{what} needs feature level {needs}, and the cluster is at {level}; see which nodes are too old: hirsel upgrade --plan"
    )]
    Level {
        /// What needs it.
        what: String,
        /// The level it needs.
        needs: u32,
        /// The level of the cluster.
        level: u32,
    },
}

impl ControlState {
    /// Carries out the entry at `index`, on every replica alike. A refused entry changes nothing but `applied`.
    pub fn apply(&mut self, index: LogIndex, entry: Entry) -> Outcome {
        apply::apply(self, index, entry)
    }

    /// How instances of `revision` of a service are run; the newest description when that one is no longer known. None when there is
    /// no trace of the service.
    pub fn service(&self, app: &AppName, service: &ServiceName, revision: Revision) -> Option<&ServiceSpec> {
        let current = self.spec.apps.get(app).and_then(|app| app.services.get(service));
        if let Some(current) = current
            && current.revision == revision
        {
            return Some(current);
        }
        let former = self.former.get(app).and_then(|services| services.get(service));
        let exact = former.and_then(|former| former.get(&revision));
        exact.or(current).or_else(|| former.and_then(|former| former.values().next_back()))
    }
}

/// What a command is carried out with, besides the state.
struct Context {
    index: LogIndex,
    at: WallTime,
    by: String,
}

impl Context {
    fn done(&self) -> Outcome {
        Outcome::Done { index: self.index }
    }

    /// Records that whoever asked did something.
    fn happened(&self, state: &mut ControlState, subject: impl ToString, message: &str) {
        record::happened(state, self.at, &self.by, subject, message);
    }
}

fn not_found(kind: &str, name: impl ToString) -> Refusal {
    Refusal::NotFound { kind: kind.into(), name: name.to_string() }
}
