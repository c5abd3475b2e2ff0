//! What changes the cluster: the bodies of requests, and the answer to them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Body of `POST /v1/act`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ActRequest {
    /// "drain", "undrain", "standby", "ready", "remove", "keep", "power-off", "power-on",
    /// "test-fence", "confirm-off".
    pub verb: String,
    /// "r2", "web/r2", "lb1".
    pub subjects: Vec<String>,
    /// Reason in the operator's words; empty: none given.
    #[serde(default)]
    pub reason: String,
    /// Until, ms since 1970; 0: until undone.
    #[serde(default)]
    pub until_ms: u64,
    /// The safety rule to break, by name.
    #[serde(default)]
    pub force: Option<String>,
}

/// Body of `POST /v1/move`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct MoveRequest {
    /// Service, VIP's name or address.
    pub vip: String,
    /// Name of the node that shall hold the VIP.
    pub to: String,
}

/// The answer to a request that changed the cluster.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Done {
    /// Log index of the command.
    pub index: u64,
    /// What was done.
    pub text: String,
}
