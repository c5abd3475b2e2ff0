//! How well clients are served.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How well clients are served. The order is from good to bad.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// Clients are served, and a director could take over (where there is another).
    #[default]
    Healthy,
    /// Clients are served; something needs a person.
    Degraded,
    /// Clients of at least one service get no answer: no server, no holder or no quorum.
    Down,
}

impl Verdict {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Healthy, Self::Degraded, Self::Down];
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Healthy => "HEALTHY",
            Self::Degraded => "DEGRADED",
            Self::Down => "DOWN",
        })
    }
}
