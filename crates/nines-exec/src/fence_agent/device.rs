//! A fence device as it is configured, and what is wrong with that.
//!
//! Decides: which keys and values an agent may be told. Every call comes from a [`Device`], and
//! that is a config whose keys its agent's metadata has: to the agent a misspelt key is a warning,
//! and the machine is switched without it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use nines_model::{
    fence::{OUTLET_KEYS, RESERVED_KEYS, SECRET_KEYS, is_agent_name, line_value},
    printable, suggest,
};

use super::metadata::{Kind, Metadata, Parameter};

/// Where agents are.
pub(super) const DIRECTORY: &str = "/usr/sbin";
/// What agents read as a yes or a no.
const BOOLEANS: [&str; 8] = ["1", "yes", "on", "true", "0", "no", "off", "false"];

/// A fence device: its agent, what that is told, and which nodes it can switch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceConfig {
    /// Its name in the cluster, "bmc-a".
    pub name: String,
    /// Name of its agent, "fence_ipmilan".
    pub agent: String,
    /// What the agent is told on each call, but for the action, the outlet and secrets.
    pub parameters: BTreeMap<String, String>,
    /// Secrets, as files whose content is the value; one line end at the end is no part of it.
    pub secrets: BTreeMap<String, PathBuf>,
    /// What it switches, by the names of nodes.
    pub outlets: BTreeMap<String, Outlet>,
    /// If its agent cannot say whether a machine is on: take its word that `off` has worked.
    /// Without this nothing counts as switched off by such a device; with a status it makes no
    /// difference.
    pub trusts_off: bool,
}

/// What a device switches of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outlet {
    /// The outlet, slot or virtual machine of this name; several in one text as the agent takes
    /// them, "1,2".
    Named(String),
    /// The device has one machine only, as a baseboard management controller does.
    Only,
}

/// A device whose config its agent can work with.
#[derive(Clone, Debug)]
pub struct Device {
    config: DeviceConfig,
    metadata: Arc<Metadata>,
    /// Its program.
    program: PathBuf,
    interface: Interface,
}

/// How a program is told what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interface {
    /// A fence agent: by lines on its standard input.
    Agent,
    /// A program of the operator: by arguments and its environment (`command.rs`).
    Command,
}

impl DeviceConfig {
    /// Compares it with its agent's metadata; tells everything that is wrong.
    pub fn check(self, metadata: Arc<Metadata>) -> Result<Device, Vec<Problem>> {
        let mut problems = self.keys_and_values(&metadata);
        problems.extend(self.missing(&metadata));
        problems.extend(self.outlet_problems(&metadata));
        if !is_agent_name(&self.agent) {
            problems.push(Problem::AgentName(self.agent.clone()));
        }
        if !metadata.actions.contains_key("off") {
            problems.push(Problem::NoOff);
        }
        if !metadata.actions.contains_key("status") && !self.trusts_off {
            problems.push(Problem::NoStatus);
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let program = Path::new(DIRECTORY).join(&self.agent);
        Ok(Device { config: self, metadata, program, interface: Interface::Agent })
    }

    fn keys_and_values(&self, metadata: &Metadata) -> Vec<Problem> {
        let mut problems = Vec::new();
        for key in self.parameters.keys().chain(self.secrets.keys()) {
            if let Some(problem) = self.key(key, metadata) {
                problems.push(problem);
            }
        }
        for (key, value) in &self.parameters {
            if SECRET_KEYS.contains(&key.as_str()) {
                problems.push(Problem::OpenSecret(key.clone()));
            } else if let Err(why) = line_value(value) {
                problems.push(Problem::Value { key: key.clone(), why: why.into() });
            } else if let Some(parameter) = metadata.parameters.get(key) {
                let why = value_of_kind(value, parameter);
                problems.extend(why.map(|why| Problem::Value { key: key.clone(), why }));
            }
        }
        let relative = self.secrets.iter().filter(|(_, path)| !path.is_absolute());
        problems.extend(relative.map(|(key, _)| Problem::RelativeSecret(key.clone())));
        problems
    }

    /// What is wrong with a key, whatever its value is.
    fn key(&self, key: &str, metadata: &Metadata) -> Option<Problem> {
        if RESERVED_KEYS.contains(&key) {
            return Some(Problem::Reserved(key.to_owned()));
        }
        if OUTLET_KEYS.contains(&key) {
            return Some(Problem::OutletAsParameter(key.to_owned()));
        }
        if !metadata.parameters.contains_key(key) {
            let known = metadata.parameters.keys().map(String::as_str);
            let known = known.filter(|known| !RESERVED_KEYS.contains(known));
            let meant = suggest::closest(key, known).map(str::to_owned);
            return Some(Problem::Unknown { key: key.to_owned(), meant });
        }
        let is_twice = self.parameters.contains_key(key) && self.secrets.contains_key(key);
        let other = metadata.other_name(key).filter(|other| self.has(other) && *other > key);
        match (is_twice, other) {
            (true, _) => Some(Problem::Twice(key.to_owned(), key.to_owned())),
            (false, other) => other.map(|other| Problem::Twice(key.to_owned(), other.to_owned())),
        }
    }

    fn has(&self, key: &str) -> bool {
        self.parameters.contains_key(key) || self.secrets.contains_key(key)
    }

    /// Required keys that nothing gives, by their newer names.
    fn missing(&self, metadata: &Metadata) -> BTreeSet<Problem> {
        let needed = metadata.parameters.iter().filter(|(key, parameter)| {
            let given = [*key].into_iter().map(String::as_str).chain(metadata.other_name(key));
            let is_ours = |key: &str| RESERVED_KEYS.contains(&key) || OUTLET_KEYS.contains(&key);
            let needs = parameter.required && !parameter.deprecated && parameter.default.is_none();
            needs && !given.into_iter().any(|key| self.has(key) || is_ours(key))
        });
        needed.map(|(key, _)| Problem::Missing(key.clone())).collect()
    }

    pub(super) fn outlet_problems(&self, metadata: &Metadata) -> Vec<Problem> {
        let key = outlet_key(metadata);
        let is_required = key.is_some_and(|key| metadata.parameters[key].required);
        let mut problems = Vec::new();
        for (node, outlet) in &self.outlets {
            match outlet {
                Outlet::Only if is_required => problems.push(Problem::NeedsOutlet(node.clone())),
                Outlet::Only => {}
                Outlet::Named(_) if key.is_none() => {
                    problems.push(Problem::NoOutlets(node.clone()))
                }
                Outlet::Named(name) => {
                    let why = line_value(name).err();
                    let why = why.or(name.is_empty().then_some("it is empty"));
                    let problem = |why: &str| Problem::OutletName(node.clone(), why.to_owned());
                    problems.extend(why.map(problem));
                }
            }
        }
        let alone = self.outlets.iter().filter(|(_, outlet)| **outlet == Outlet::Only);
        if let (Some((one, _)), true) = (alone.into_iter().next(), self.outlets.len() > 1) {
            problems.push(Problem::SharedOnly(one.clone()));
        }
        problems
    }
}

impl Device {
    /// Its config, as it was checked.
    pub fn config(&self) -> &DeviceConfig {
        &self.config
    }

    /// A device whose program is the operator's.
    pub(super) fn of_command(config: DeviceConfig, program: PathBuf, metadata: Metadata) -> Self {
        Self { config, metadata: Arc::new(metadata), program, interface: Interface::Command }
    }

    /// With an agent elsewhere than in `/usr/sbin`.
    pub fn in_directory(self, directory: impl AsRef<Path>) -> Self {
        Self { program: directory.as_ref().join(&self.config.agent), ..self }
    }

    /// Where its program is.
    pub(super) fn program(&self) -> PathBuf {
        self.program.clone()
    }

    /// How its program is told what to do.
    pub(super) fn interface(&self) -> Interface {
        self.interface
    }

    /// What its agent says of itself.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The line that says which outlet is meant; `None`: the node is none of this device's.
    pub(super) fn outlet_line(&self, node: &str) -> Option<Option<(&'static str, &str)>> {
        match self.config.outlets.get(node)? {
            Outlet::Only => Some(None),
            Outlet::Named(name) => Some(outlet_key(&self.metadata).map(|key| (key, name.as_str()))),
        }
    }
}

/// The key for an outlet that an agent has.
fn outlet_key(metadata: &Metadata) -> Option<&'static str> {
    OUTLET_KEYS.into_iter().find(|key| metadata.parameters.contains_key(*key))
}

/// Why a value is none of a parameter.
fn value_of_kind(value: &str, parameter: &Parameter) -> Option<String> {
    match &parameter.kind {
        Kind::Text => None,
        Kind::Integer if value.parse::<i64>().is_ok() => None,
        Kind::Integer => Some("it must be a whole number".into()),
        Kind::Seconds if value.parse::<u64>().is_ok() => None,
        Kind::Seconds => Some("it must be a number of seconds, without a unit".into()),
        Kind::Boolean if BOOLEANS.contains(&value.to_lowercase().as_str()) => None,
        Kind::Boolean => Some("it must be \"1\" or \"0\"".into()),
        Kind::Select(options) if options.iter().any(|o| o.eq_ignore_ascii_case(value)) => None,
        Kind::Select(options) => {
            let all: Vec<&str> = options.iter().map(String::as_str).collect();
            Some(format!("it must be one of {}", all.join(", ")))
        }
    }
}

/// What is wrong with a device's config.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Problem {
    /// The agent does not have this key; one that is meant, perhaps.
    Unknown {
        /// As it was written.
        key: String,
        /// The key of the agent that is most like it.
        meant: Option<String>,
    },
    /// The caller of an agent decides this key.
    Reserved(String),
    /// The outlet's key is given as a parameter.
    OutletAsParameter(String),
    /// Two keys, or two places of one key, say the same thing.
    Twice(String, String),
    /// A secret stands in the config.
    OpenSecret(String),
    /// The path of this secret's file is not absolute.
    RelativeSecret(String),
    /// The value of this key cannot be told to the agent.
    Value {
        /// The key.
        key: String,
        /// What is wrong with its value.
        why: String,
    },
    /// The agent needs this key.
    Missing(String),
    /// The agent needs an outlet for this node.
    NeedsOutlet(String),
    /// The agent knows no outlets, and this node has one.
    NoOutlets(String),
    /// The outlet of this node cannot be told to the agent, for this reason.
    OutletName(String, String),
    /// The device has this node only, and has others, too.
    SharedOnly(String),
    /// This is not the name of a fence agent: "fence_", then letters, digits and lines.
    AgentName(String),
    /// The agent cannot switch anything off.
    NoOff,
    /// The agent cannot say whether a machine is on.
    NoStatus,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = printable::clean;
        match self {
            Self::Unknown { key, meant: Some(meant) } => {
                write!(f, "\"{}\" is not a key of the agent; did you mean \"{meant}\"?", shown(key))
            }
            Self::Unknown { key, meant: None } => {
                write!(f, "\"{}\" is not a key of the agent", shown(key))
            }
            Self::Reserved(key) => write!(f, "\"{key}\" is decided by the cluster: take it out"),
            Self::OutletAsParameter(key) => {
                write!(f, "\"{key}\" differs from node to node: give it as the outlet of a node")
            }
            Self::Twice(key, other) if key == other => write!(f, "\"{key}\" is given twice"),
            Self::Twice(key, other) => write!(f, "\"{key}\" and \"{other}\" are the same key"),
            Self::OpenSecret(key) => write!(f, "\"{key}\" is a secret: give a file that has it"),
            Self::RelativeSecret(key) => write!(f, "the file of \"{key}\" needs an absolute path"),
            Self::Value { key, why } => write!(f, "the value of \"{key}\": {why}"),
            Self::Missing(key) => write!(f, "\"{key}\" is missing"),
            Self::NeedsOutlet(node) => write!(f, "{}: the agent needs its outlet", shown(node)),
            Self::NoOutlets(node) => write!(f, "{}: the agent knows no outlets", shown(node)),
            Self::OutletName(node, why) => write!(f, "the outlet of {}: {why}", shown(node)),
            Self::SharedOnly(node) => {
                write!(f, "{} has no outlet of its own, and other nodes are there", shown(node))
            }
            Self::AgentName(name) => write!(f, "\"{}\" is not a fence agent's name", shown(name)),
            Self::NoOff => f.write_str("the agent cannot switch a machine off"),
            Self::NoStatus => f.write_str(
                "the agent cannot say whether a machine is on: its word alone must be trusted",
            ),
        }
    }
}

#[cfg(test)]
mod tests;
