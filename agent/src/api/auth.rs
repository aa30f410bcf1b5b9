//! Who may do what, decided in one place.
//!
//! The unix socket is admin: only its owner can open it. Over the network a token says what a person may do; a node of this cluster,
//! known by its certificate, may look. Whoever shows nothing learns nothing but that the agent works.

use hirsel_model::NodeId;
use hirsel_model::control::TokenGrants;

use super::agent::{Agent, TokenParts};
use super::error::{ApiError, Code};
use super::sight::Sight;
use super::views::tokens;

/// The way a request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Through the unix socket.
    Socket,
    /// Through the mesh's TCP port, with the certificate of this node if there was one.
    Network {
        /// The node that asks.
        node: Option<NodeId>,
    },
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// The owner of the socket.
    Owner,
    /// A node of this cluster.
    Node(NodeId),
    /// A person with a token.
    Person {
        /// Public part of the token.
        token: String,
        /// What it is good for.
        grants: TokenGrants,
    },
}

/// What a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// To look.
    Look,
    /// To deploy, drain and pin.
    Operate,
    /// To do everything.
    Administer,
}

impl Need {
    /// The least rights that suffice.
    pub fn role(self) -> &'static str {
        match self {
            Need::Look => "viewer",
            Need::Operate => "operator",
            Need::Administer => "admin",
        }
    }
}

/// Says who asks, or why nobody known does. `header` is the `Authorization` header.
pub fn identify(agent: &dyn Agent, sight: &Sight, source: Source, header: Option<&str>) -> Result<Caller, ApiError> {
    match (source, header) {
        (Source::Socket, _) => Ok(Caller::Owner),
        (Source::Network { .. }, Some(header)) => match bearer(header).and_then(|word| agent.read_token(word)) {
            Some(shown) => person(sight, shown),
            None => Err(unauthorized("the Authorization header holds no token of hirsel; expected: Bearer TOKEN")),
        },
        (Source::Network { node: Some(node) }, None) => Ok(Caller::Node(node)),
        (Source::Network { node: None }, None) => Err(unauthorized("this needs a token")),
    }
}

fn bearer(header: &str) -> Option<&str> {
    let (scheme, word) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| word.trim())
}

fn person(sight: &Sight, shown: TokenParts) -> Result<Caller, ApiError> {
    let record = sight.state.tokens.get(&shown.id);
    let named = crate::foundation::named(&sight.state.cluster.tag);
    let unknown = || unauthorized(&format!("this cluster{named} does not know the token"));
    // An unknown id is compared too, so that the time taken does not tell which ids exist.
    let hash = record.map_or(&[0; 32][..], |record| &record.secret_hash);
    if !same(hash, &shown.secret_hash) {
        return Err(unknown());
    }
    let Some(record) = record else { return Err(unknown()) };
    match tokens::state(record, sight.wall) {
        "valid" => Ok(Caller::Person { token: shown.id, grants: record.grants }),
        state => Err(unauthorized(&format!("token {} is {}", shown.id, state.replace('_', " ")))),
    }
}

/// Compares without telling by the time it takes where two texts differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differing, (a, b)| differing | (a ^ b)) == 0
}

fn unauthorized(message: &str) -> ApiError {
    ApiError::new(Code::Unauthorized, message)
        .next("on a host of the cluster: hirsel token new --viewer (or --operator, --admin)")
        .next("hirsel login ADDR --token TOKEN")
}

/// Whether `caller` may do what needs `need`.
pub fn allow(caller: &Caller, need: Need) -> Result<(), ApiError> {
    let most = match caller {
        Caller::Owner => Some(Need::Administer),
        Caller::Node(_) => Some(Need::Look),
        Caller::Person { grants: TokenGrants::Join, .. } => None,
        Caller::Person { grants: TokenGrants::Viewer, .. } => Some(Need::Look),
        Caller::Person { grants: TokenGrants::Operator, .. } => Some(Need::Operate),
        Caller::Person { grants: TokenGrants::Admin, .. } => Some(Need::Administer),
    };
    if most >= Some(need) {
        return Ok(());
    }
    let role = need.role();
    let is = match caller {
        Caller::Owner => "admin",
        Caller::Node(_) => "a node",
        Caller::Person { grants, .. } => tokens::grants_word(*grants),
    };
    Err(ApiError::new(Code::Forbidden, format!("this needs {role} rights; you ask as {is}"))
        .next(format!("hirsel token new --{role}, then: hirsel login ADDR --token TOKEN")))
}

/// How the caller is written into the log.
pub fn signature(sight: &Sight, caller: &Caller) -> String {
    match caller {
        Caller::Owner => format!("admin@{} (socket)", sight.name(sight.me)),
        Caller::Node(node) => sight.name(*node),
        Caller::Person { token, grants } => format!("{} token {token}", tokens::grants_word(*grants)),
    }
}
