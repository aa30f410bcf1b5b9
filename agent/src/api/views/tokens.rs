//! `tokens`: what was given out, never the secrets.

use hirsel_model::WallTime;
use hirsel_model::control::{TokenGrants, TokenRecord};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::sight::{Sight, rfc3339};

/// A token that was given out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// Its public part.
    pub id: String,
    /// `join`, `viewer`, `operator`, `admin`.
    pub grants: String,
    /// Until when.
    pub expires_at: String,
    /// How many uses are left; none means any number.
    pub uses_left: Option<u32>,
    /// `valid`, `expired`, `used_up`, `revoked`.
    pub state: String,
}

/// A token just made. Its word is shown this once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NewToken {
    /// Its public part.
    pub id: String,
    /// The whole token.
    pub token: String,
    /// `join`, `viewer`, `operator`, `admin`.
    pub grants: String,
    /// Until when.
    pub expires_at: String,
    /// How many uses; none means any number.
    pub uses: Option<u32>,
}

/// Every token the cluster remembers.
pub fn tokens(sight: &Sight) -> Vec<Token> {
    let token = |(id, record): (&String, &TokenRecord)| Token {
        id: id.clone(),
        grants: grants_word(record.grants).into(),
        expires_at: rfc3339(record.expires_at),
        uses_left: record.uses_left,
        state: state(record, sight.wall).into(),
    };
    sight.state.tokens.iter().map(token).collect()
}

/// What is to be said of a token at `wall`.
pub fn state(record: &TokenRecord, wall: WallTime) -> &'static str {
    if record.revoked {
        "revoked"
    } else if record.expires_at <= wall {
        "expired"
    } else if record.uses_left == Some(0) {
        "used_up"
    } else {
        "valid"
    }
}

/// The word for what a token is good for.
pub fn grants_word(grants: TokenGrants) -> &'static str {
    match grants {
        TokenGrants::Join => "join",
        TokenGrants::Viewer => "viewer",
        TokenGrants::Operator => "operator",
        TokenGrants::Admin => "admin",
    }
}
