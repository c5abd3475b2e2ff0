//! A program of the operator in place of a fence agent.
//!
//! ```text
//! PROGRAM ACTION NODE     NINES_ACTION, NINES_NODE, NINES_OUTLET, NINES_DEADLINE_MS
//! ```
//! Decides: how such a program is told what to do, and which actions it has. What its answers mean
//! is the same as for agents: exit code 0 for done, and for off the code 2 with the line
//! "Status: OFF". The code alone would not do: a shell ends with 2 when it cannot read its script,
//! and that must not pass for a machine that is off.

use std::{collections::BTreeMap, path::PathBuf};

use nines_model::Millis;

use super::{
    call::{Call, grace},
    device::{Device, DeviceConfig, Problem},
    metadata::{AgentAction, Kind, Metadata, Parameter},
};
use crate::run::Run;

/// The key under which an outlet comes from [`Device::call`].
const OUTLET: &str = "plug";

impl DeviceConfig {
    /// A device that this program switches; tells everything that is wrong. A program whose word
    /// is trusted has no `status`: a test asks it for `monitor` in its place.
    pub fn check_command(self, program: impl Into<PathBuf>) -> Result<Device, Vec<Problem>> {
        let asked = if self.trusts_off { "monitor" } else { "status" };
        let actions = ["on", "off", asked].map(|word| (word.to_owned(), AgentAction::default()));
        let outlet = Parameter {
            kind: Kind::Text,
            required: false,
            default: None,
            deprecated: false,
            obsoletes: None,
            summary: String::new(),
        };
        let metadata = Metadata {
            name: self.name.clone(),
            summary: String::new(),
            parameters: [(OUTLET.to_owned(), outlet)].into(),
            actions: actions.into(),
        };
        let problems = self.outlet_problems(&metadata);
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Device::of_command(self, program.into(), metadata))
    }
}

impl Call {
    /// The run of a program of the operator.
    pub(super) fn command(&self) -> Run {
        let mut run = Run::new(&self.program, self.deadline);
        run.args.push(self.action.to_owned());
        if !self.node.is_empty() {
            run.args.push(self.node.clone());
        }
        let Millis(deadline) = self.deadline;
        let outlet = self.lines.iter().find(|(key, _)| key == OUTLET).map(|(_, name)| name.clone());
        let told: BTreeMap<String, String> = [
            ("NINES_ACTION", self.action.to_owned()),
            ("NINES_NODE", self.node.clone()),
            ("NINES_OUTLET", outlet.unwrap_or_default()),
            ("NINES_DEADLINE_MS", deadline.to_string()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into();
        run.env.extend(told);
        run.grace = grace(self.deadline);
        run
    }
}

#[cfg(test)]
mod tests;
