//! Fence devices: what can switch a machine off although it does not answer any more.
//!
//! Decides: shapes and defaults, and in which order the devices of a node are tried. How a device
//! is spoken to is `nines-exec`'s; when a node is fenced is `nines-core`'s.

use std::{collections::BTreeMap, fmt};

use crate::{DeviceName, Millis, NodeName, Spec, codes};

/// The program that speaks to a fence device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FenceProgram {
    /// A fence agent of the distribution, by its name: "fence_ipmilan".
    Agent(String),
    /// A program of the operator, by its absolute path: "/usr/local/sbin/power".
    Command(String),
}

impl fmt::Display for FenceProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent(name) => f.write_str(name),
            Self::Command(path) => f.write_str(path),
        }
    }
}

/// A device that switches machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FenceDevice {
    /// What speaks to it.
    pub program: FenceProgram,
    /// What an agent is told on each call, but for the action, the outlet and secrets.
    pub options: BTreeMap<String, String>,
    /// Secrets: the option, and the absolute path of the file whose content is its value.
    pub secrets: BTreeMap<String, String>,
    /// The nodes that it switches, each with the name of its outlet; `None`: the device has one
    /// machine only.
    pub outlets: BTreeMap<NodeName, Option<String>>,
    /// If the agent cannot say whether a machine is on: its word that it is off is believed.
    pub trust_off: bool,
    /// Time for one switching, until the state was read back.
    pub timeout: Millis,
}

impl FenceDevice {
    /// [`FenceDevice::timeout`] where the config says nothing: a management controller that is slow
    /// needs some 20 s.
    pub const TIMEOUT: Millis = Millis(60_000);
}

/// The watchdog of one node: a device that resets the machine unless it hears regularly that it is
/// not to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Watchdog {
    /// It has none, whatever the cluster's nodes have.
    None,
    /// Path of the device: "/dev/watchdog0".
    Device(String),
}

/// How the cluster fences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fencing {
    /// A node is fenced when it has been silent for so long.
    pub after: Millis,
    /// Of two nodes alone that lose each other, the one that holds less waits so much longer.
    pub delay: Millis,
    /// A node that was switched off is switched on again.
    pub on_again: bool,
    /// Each device is tested so often; zero: never.
    pub test: Millis,
}

impl Default for Fencing {
    fn default() -> Self {
        Self {
            after: Millis(2_000),
            delay: Millis(10_000),
            on_again: false,
            test: Millis(7 * 86_400_000),
        }
    }
}

codes! {
    /// What a device is asked to do with a machine.
    pub enum Switch {
        /// Cut its power, and read back that it is off.
        Off = "off",
        /// Give it power, and read back that it is on.
        On = "on",
        /// Say whether it is on, and change nothing.
        Test = "test",
    }
}

/// Options of an agent that nines gives itself.
pub const RESERVED_KEYS: [&str; 2] = ["action", "option"];
/// Options of an agent that name the outlet, the newer one first.
pub const OUTLET_KEYS: [&str; 2] = ["plug", "port"];
/// Options of agents that are secrets, and so come from files.
pub const SECRET_KEYS: [&str; 8] = [
    "apikey",
    "community",
    "hexadecimal_kg",
    "passwd",
    "password",
    "secret_key",
    "snmp_priv_passwd",
    "token",
];

/// Whether this is the name of a fence agent, and of no file elsewhere.
pub fn is_agent_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    name.strip_prefix("fence_").is_some_and(|rest| !rest.is_empty() && rest.chars().all(plain))
}

/// Why a value cannot be told to an agent, which reads lines, cuts white space off their ends, and
/// takes quotes round a value away.
pub fn line_value(value: &str) -> Result<(), &'static str> {
    if value.chars().any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')) {
        return Err("it has a line end, or another character that is not for a line");
    }
    if value.ends_with(char::is_whitespace) {
        return Err("it ends in a space, which the agent would cut off");
    }
    if value.len() > 1 && value.starts_with('"') && value.ends_with('"') {
        return Err("it stands in quotes, which the agent would take away");
    }
    Ok(())
}

impl Spec {
    /// Whether this config says anything about fencing that it need not say.
    pub fn has_fencing(&self) -> bool {
        !self.fence.is_empty()
            || self.fencing != Fencing::default()
            || self.nodes.values().any(|node| !node.fence.is_empty())
    }

    /// The devices of a node by levels: all of a level have to switch it off, and the next level is
    /// tried only if that failed. Without an order in the config each device is a level, by name.
    pub fn fence_levels(&self, node: &str) -> Vec<Vec<DeviceName>> {
        let levels = self.nodes.get(node).map(|node| &node.fence);
        match levels.filter(|levels| !levels.is_empty()) {
            Some(levels) => levels.clone(),
            None => {
                let of_it = self.fence.iter().filter(|(_, d)| d.outlets.contains_key(node));
                of_it.map(|(name, _)| vec![name.clone()]).collect()
            }
        }
    }

    /// Whether this config says anything about watchdogs or fence commands.
    pub fn has_self_fencing(&self) -> bool {
        let is_command = |device: &FenceDevice| matches!(device.program, FenceProgram::Command(_));
        self.fence.values().any(is_command)
            || self.watchdog.is_some()
            || self.nodes.values().any(|node| node.watchdog.is_some())
    }

    /// Path of the watchdog of a node; `None`: it has none.
    pub fn watchdog_of(&self, node: &str) -> Option<&str> {
        match self.nodes.get(node)?.watchdog.as_ref() {
            None => self.watchdog.as_deref(),
            Some(Watchdog::None) => None,
            Some(Watchdog::Device(path)) => Some(path),
        }
    }

    /// Whether some device can switch this node.
    pub fn can_fence(&self, node: &str) -> bool {
        self.fence.values().any(|device| device.outlets.contains_key(node))
    }
}
