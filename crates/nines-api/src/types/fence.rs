//! Fencing: how each node can be switched off, and what its devices said.

use nines_model::Coded;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::states::{FenceState, code};

/// The fence devices of one node.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct FenceStatus {
    /// Name of the node.
    pub node: String,
    /// Devices by levels: all of a level have to switch it off, and the next level is tried only if
    /// that failed. Empty: no device switches it.
    pub levels: Vec<Vec<String>>,
    /// Their fence agents, each once.
    pub agents: Vec<String>,
    /// "none" (no device switches it), "untested", "ready" (the last test succeeded), "failing"
    /// (the last test failed), "switching" (its devices are asked to switch it), "off", "blocked"
    /// (it should be off, and is not being switched off: `blocked` says why).
    #[serde(with = "code")]
    #[schema(value_type = String)]
    pub state: Coded<FenceState>,
    /// What is to be said of that; empty: nothing.
    pub text: String,
    /// What the last test of its devices came to; null: there was none.
    pub last_test: Option<FenceResult>,
    /// What the last switching came to; null: there was none.
    pub last_switch: Option<FenceResult>,
    /// Why a node that should be off is not being switched off; empty: it is, or it need not be.
    pub blocked: String,
}

impl FenceStatus {
    /// Whether it is in this state.
    pub fn is(&self, state: FenceState) -> bool {
        self.state.is(state)
    }
}

/// What devices said when they were last asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FenceResult {
    /// When, ms since 1970.
    pub at_ms: u64,
    /// They did what was asked.
    pub ok: bool,
    /// In words.
    pub text: String,
}
