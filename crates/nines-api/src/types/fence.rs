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
    /// Their fence agents, or the paths of programs of the operator; each once.
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
    /// How often its devices did what they were asked for, and how often not.
    #[serde(default)]
    pub counts: FenceCounts,
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

/// Answers of a node's devices since it joined, once every member counts them (feature level 5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FenceCounts {
    /// Switched off.
    pub off_done: u64,
    /// Not switched off, or nobody knows.
    pub off_failed: u64,
    /// Switched on.
    pub on_done: u64,
    /// Not switched on, or nobody knows.
    pub on_failed: u64,
    /// Tests that succeeded.
    pub tests_done: u64,
    /// Tests that failed.
    pub tests_failed: u64,
    /// When the last test succeeded, ms since 1970; 0: none has.
    pub test_ok_ms: u64,
}
