//! Tokens of the API, as commands and snapshots have them.
//!
//! Decides: shapes only. A token itself is nowhere: what is kept is its digest.

/// A token that is made or revoked.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TokenChange {
    /// Name of the token.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The new token; none: the one of this name is revoked.
    #[prost(message, optional, tag = "2")]
    pub token: Option<ApiToken>,
}

/// What is kept of a token.
#[derive(Clone, Eq, PartialEq, prost::Message)]
pub struct ApiToken {
    /// SHA-256 of the token, 32 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub digest: Vec<u8>,
    /// Code of an [`AccessRole`](nines_model::AccessRole).
    #[prost(string, tag = "2")]
    pub role: String,
    /// Until when it is valid, ms since 1970; 0: until it is revoked.
    #[prost(uint64, tag = "3")]
    pub until_ms: u64,
    /// Who made it, "alice@lb1". In a command: empty, the command names its actor.
    #[prost(string, tag = "4")]
    pub actor: String,
    /// When it was made, ms since 1970. In a command: 0, the command has its time.
    #[prost(uint64, tag = "5")]
    pub at_ms: u64,
}
