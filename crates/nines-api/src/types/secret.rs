//! Keys of the cluster, as far as they are told: never a key itself.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Body of `POST /v1/secret/rotate`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct RotateRequest {
    /// Rotate the key of the heartbeats.
    #[serde(default)]
    pub beat: bool,
    /// Rotate the certificate authority.
    #[serde(default)]
    pub ca: bool,
}

/// What a member says of its keys.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct MemberKeys {
    /// Name of the member.
    pub member: String,
    /// Names the key that its heartbeats are sealed with, and says nothing about it; empty:
    /// unknown.
    pub heartbeat_key: String,
    /// It believes another key, too: a rotation has not ended.
    pub rotating: bool,
    /// Why nothing is known of it; empty: it answered.
    pub trouble: String,
    /// Names the authority that its certificate comes from; empty: unknown.
    #[serde(default)]
    pub authority: String,
    /// Names others that it believes, too: a rotation of the authority has not ended.
    #[serde(default)]
    pub also_believed: Vec<String>,
}

/// The answer to `GET /v1/secret`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct SecretStatus {
    /// Version of this document.
    pub schema: u32,
    /// Members, in the order of their numbers.
    pub members: Vec<MemberKeys>,
    /// When the certificate of this node ends, RFC 3339.
    pub certificate_until: String,
    /// Names the authority that the cluster has, or gets while it is rotated.
    #[serde(default)]
    pub authority: String,
    /// Members and real servers that a rotation of the authority waits for, each with the reason;
    /// empty: there is none, or it waits for nobody.
    #[serde(default)]
    pub waits_for: Vec<String>,
    /// Whether this node believes another authority, too.
    #[serde(default)]
    pub authority_rotating: bool,
}
