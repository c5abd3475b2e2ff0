//! What the planner would do, as the API says it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// VIPs that would be elsewhere, with the planner's reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Placement {
    /// Names of VIPs that have the rest in common.
    pub vips: Vec<String>,
    /// Node that holds them now; empty: none.
    pub from: String,
    /// Node that would hold them; empty: no node could take them.
    pub to: String,
    /// The planner's reason.
    pub why: String,
}
