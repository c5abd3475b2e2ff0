//! Tokens of the API: what is asked for, and what is told of them.

use nines_model::{AccessRole, Coded};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::states::code;

/// Body of `POST /v1/tokens`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct TokenRequest {
    /// Name of the token.
    pub name: String,
    /// "viewer", "operator" or "admin".
    pub role: String,
    /// Until when it is valid, ms since 1970; 0: until it is revoked.
    #[serde(default)]
    pub until_ms: u64,
}

/// A token that was made a moment ago.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct TokenMade {
    /// Its name.
    pub name: String,
    /// The token. It is told this once, and kept nowhere.
    pub token: String,
    /// What was done.
    pub text: String,
}

/// Body of `POST /v1/tokens/revoke`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct TokenName {
    /// Name of the token.
    pub name: String,
}

/// A token, without what proves it.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct TokenStatus {
    /// Its name.
    pub name: String,
    /// "viewer", "operator" or "admin".
    #[serde(with = "code")]
    #[schema(value_type = String)]
    pub role: Coded<AccessRole>,
    /// Until when it is valid, ms since 1970; 0: until it is revoked.
    pub until_ms: u64,
    /// Whether that is over.
    pub expired: bool,
    /// Who made it, "alice@lb1".
    pub actor: String,
    /// When it was made, ms since 1970.
    pub at_ms: u64,
}
