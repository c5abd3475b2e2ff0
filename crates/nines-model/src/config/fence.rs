//! The sections `[fence.NAME]` and `[fencing]`, and the key `fence` of a node.
//!
//! Decides: which device switches which node, and what a device may be told. Whether its agent is
//! installed and has these options is not known here: `nines-exec` asks the agent.

use std::{collections::BTreeMap, ops::RangeInclusive};

use super::{
    keys,
    reader::{Name, Reader, Table, Value},
};
use crate::{
    DeviceName, FenceDevice, FenceProgram, Fencing, Millis, NodeName, Spec, Watchdog,
    fence::{OUTLET_KEYS, RESERVED_KEYS, SECRET_KEYS, is_agent_name, line_value},
    printable::clean,
};

/// Lengths of one switching, in ms. An agent has to log in, to switch and to ask for the state.
const TIMEOUT: RangeInclusive<u64> = 5_000..=600_000;
/// Silence before a node is fenced, in ms.
const AFTER: RangeInclusive<u64> = 500..=3_600_000;
/// By how much the node that holds less waits longer, in ms.
const DELAY: RangeInclusive<u64> = 0..=600_000;
/// Time between two tests of a device, in ms.
const TEST: RangeInclusive<u64> = 3_600_000..=365 * 86_400_000;

/// A node that has no watchdog.
const NO_WATCHDOG: &str = "none";

type Outlets = BTreeMap<NodeName, Option<String>>;

/// Reads all about fencing, after the nodes.
pub(super) fn read(r: &mut Reader, root: &Table<'_>, spec: &mut Spec) {
    let section = r.table(root, "fence");
    for (name, value) in section.iter().flat_map(Table::entries) {
        r.check_name(&name);
        let Some(table) = r.as_table(&value) else { continue };
        let Some(device) = device(r, &table, spec) else { continue };
        of_another_machine(r, &table, &device, spec);
        spec.fence.insert(name.text.into(), device);
    }
    spec.fencing = fencing(r, root);
    spec.watchdog = match r.table(root, "fencing").and_then(|table| watchdog(r, &table)) {
        Some(Watchdog::Device(path)) => Some(path),
        Some(Watchdog::None) | None => None,
    };
    let nodes = root.get("nodes").and_then(|nodes| nodes.as_table());
    for (name, value) in nodes.iter().flat_map(Table::entries) {
        let Some(table) = value.as_table() else { continue };
        let own = watchdog(r, &table);
        if let Some(node) = spec.nodes.get_mut(name.text.as_str()) {
            node.watchdog = own;
        }
        let Some(list) = table.get("fence") else { continue };
        let levels = levels(r, &name.text, &list, spec, section.as_ref());
        if let Some(node) = spec.nodes.get_mut(name.text.as_str()) {
            node.fence = levels;
        }
    }
}

fn fencing(r: &mut Reader, root: &Table<'_>) -> Fencing {
    let mut fencing = Fencing::default();
    let Some(table) = r.table(root, "fencing") else { return fencing };
    r.known(&table, keys::FENCING);
    fencing.after = r.millis_in(&table, "after", AFTER).unwrap_or(fencing.after);
    fencing.delay = r.millis_in(&table, "delay", DELAY).unwrap_or(fencing.delay);
    fencing.on_again = r.flag(&table, "on-again").unwrap_or(fencing.on_again);
    fencing.test = match r.millis(&table, "test") {
        None => fencing.test,
        Some(never @ Millis(0)) => never,
        Some(_) => r.millis_in(&table, "test", TEST).unwrap_or(fencing.test),
    };
    fencing
}

/// The key `watchdog` of a node, or of all.
fn watchdog(r: &mut Reader, table: &Table<'_>) -> Option<Watchdog> {
    let value = table.get("watchdog")?;
    let path = r.string(&value)?;
    if NO_WATCHDOG == path {
        return Some(Watchdog::None);
    }
    let is_device = path.strip_prefix("/dev/").is_some_and(|name| {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '/');
        !name.is_empty() && name.chars().all(plain)
    });
    if is_device {
        return Some(Watchdog::Device(path));
    }
    let message = format!("\"{}\" is not a watchdog", clean(&path));
    let help = "write watchdog = \"/dev/watchdog\"   (`ls /dev/watchdog*`), or \"none\"";
    r.error(value.span, message, Some(help.into()));
    None
}

fn device(r: &mut Reader, table: &Table<'_>, spec: &Spec) -> Option<FenceDevice> {
    r.known(table, keys::FENCE);
    let program = program(r, table);
    let outlets = machines(r, table, spec);
    let options = options(r, table);
    let secrets = secrets(r, table, &options);
    if let Some(FenceProgram::Command(_)) = program {
        told_to_nobody(r, table);
    }
    let trust_off = r.flag(table, "trust-off").unwrap_or(false);
    let timeout = r.millis_in(table, "timeout", TIMEOUT).unwrap_or(FenceDevice::TIMEOUT);
    Some(FenceDevice { program: program?, options, secrets, outlets: outlets?, trust_off, timeout })
}

/// What speaks to the device.
fn program(r: &mut Reader, table: &Table<'_>) -> Option<FenceProgram> {
    match (table.get("agent"), table.get("command")) {
        (Some(_), Some(command)) => {
            let help = "agent: a program of the package fence-agents. command: one of your own";
            let message = "a device has either agent or command";
            r.error(command.span, message, Some(help.into()));
            None
        }
        (None, Some(value)) => command(r, &value),
        (None, None) if r.is_misspelt(table, "command") => None,
        _ => r.required(table, "agent").and_then(|value| agent(r, &value)),
    }
}

fn command(r: &mut Reader, value: &Value<'_>) -> Option<FenceProgram> {
    let path = r.string(value)?;
    if path.starts_with('/') && !path.ends_with('/') && line_value(&path).is_ok() {
        return Some(FenceProgram::Command(path));
    }
    let message = format!("\"{}\" is not the absolute path of a program", clean(&path));
    let help = "it is called as PATH ACTION NODE, without a shell: command = \
                \"/usr/local/sbin/power\"";
    r.error(value.span.clone(), message, Some(help.into()));
    None
}

/// A command has its own settings: nothing of the config but the node and its outlet is told to it.
fn told_to_nobody(r: &mut Reader, table: &Table<'_>) {
    for key in ["options", "secrets"] {
        if let Some(value) = table.get(key) {
            let message = format!("a command takes no {key}");
            let help = "the program has its own settings: it is told the action, the node and the \
                        outlet";
            r.error(value.span, message, Some(help.into()));
        }
    }
}

fn agent(r: &mut Reader, value: &Value<'_>) -> Option<FenceProgram> {
    let text = r.string(value)?;
    if is_agent_name(&text) {
        return Some(FenceProgram::Agent(text));
    }
    let meant = format!("fence_{text}");
    let help = if is_agent_name(&meant) {
        format!("write agent = \"{meant}\"")
    } else if text.starts_with('/') {
        format!("a program of your own is a command: command = \"{}\"", clean(&text))
    } else {
        "write its name without a path, such as \"fence_ipmilan\": `ls /usr/sbin/fence_*`".into()
    };
    let message = format!("\"{}\" is not the name of a fence agent", clean(&text));
    r.error(value.span.clone(), message, Some(help));
    None
}

/// The machines of a device: its only one, or each with its outlet.
fn machines(r: &mut Reader, table: &Table<'_>, spec: &Spec) -> Option<Outlets> {
    match (table.get("node"), table.get("outlets")) {
        (Some(node), None) => {
            let name = r.string(&node)?;
            let name = known_node(r, &Name { text: name, span: node.span.clone() }, spec)?;
            Some([(name, None)].into())
        }
        (None, Some(_)) => {
            let outlets = r.table(table, "outlets")?;
            Some(named_outlets(r, &outlets, spec))
        }
        (Some(_), Some(outlets)) => {
            let help = "node: a device of one machine. outlets: a device that switches several";
            let message = "a device has either node or outlets";
            r.error(outlets.span, message, Some(help.into()));
            None
        }
        (None, None) => {
            if !["node", "outlets"].iter().any(|key| r.is_misspelt(table, key)) {
                let help = "write node = \"lb1\" for a device of one machine, or \
                            outlets = { lb1 = \"3\", lb2 = \"4\" }";
                let message = "this device switches no node";
                r.error(table.span.clone(), message, Some(help.into()));
            }
            None
        }
    }
}

fn known_node(r: &mut Reader, name: &Name, spec: &Spec) -> Option<NodeName> {
    let known = spec.nodes.get_key_value(name.text.as_str());
    if known.is_none() {
        let nodes = spec.nodes.keys().map(NodeName::as_str);
        r.unknown_word(name.span.clone(), "node", &clean(&name.text), nodes);
    }
    known.map(|(name, _)| name.clone())
}

fn named_outlets(r: &mut Reader, table: &Table<'_>, spec: &Spec) -> Outlets {
    let mut outlets = Outlets::new();
    // An agent takes several in one text.
    let mut taken: BTreeMap<String, NodeName> = BTreeMap::new();
    let entries = table.entries();
    if entries.is_empty() {
        let help = "write outlets = { lb1 = \"3\", lb2 = \"4\" }";
        r.error(table.span.clone(), "this device switches no node", Some(help.into()));
    }
    for (name, value) in entries {
        let node = known_node(r, &name, spec);
        let Some(outlet) = r.string(&value) else { continue };
        let why = line_value(&outlet).err().or(outlet.is_empty().then_some("it is empty"));
        if let Some(why) = why {
            r.error(value.span, format!("this cannot be an outlet: {why}"), None);
            continue;
        }
        let Some(node) = node else { continue };
        for one in outlet.split(',').map(|one| one.trim().to_owned()) {
            if let Some(other) = taken.insert(one.clone(), node.clone())
                && other != node
            {
                let message =
                    format!("outlet {one} is {other}'s: to fence {node} would switch {other}, too");
                let help = "give each machine an outlet of its own";
                r.error(value.span.clone(), message, Some(help.into()));
            }
        }
        outlets.insert(node, Some(outlet));
    }
    outlets
}

/// Whether a name in `options` or `secrets` can be an option of an agent that the config decides.
fn is_option(r: &mut Reader, name: &Name) -> bool {
    let key = name.text.as_str();
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let same = |reserved: &&str| reserved.eq_ignore_ascii_case(key);
    let (message, help) = if OUTLET_KEYS.iter().any(same) {
        let message = format!("{key} is not an option here: each node has another one");
        (message, "write outlets = { lb1 = \"3\" }   (the outlet of each node)")
    } else if RESERVED_KEYS.iter().any(same) {
        let message = format!("{key} is not an option here: nines tells the agent what to do");
        (message, "remove it")
    } else if key.starts_with(|c: char| c.is_ascii_alphabetic()) && key.chars().all(plain) {
        return true;
    } else {
        let message = format!("\"{}\" is not the name of an option", clean(key));
        (message, "`fence_ipmilan -o metadata` lists the options of an agent")
    };
    r.error(name.span.clone(), message, Some(help.into()));
    false
}

fn options(r: &mut Reader, table: &Table<'_>) -> BTreeMap<String, String> {
    let mut options = BTreeMap::new();
    for (name, value) in r.table(table, "options").iter().flat_map(Table::entries) {
        if !is_option(r, &name) {
            continue;
        }
        let key = name.text;
        if SECRET_KEYS.contains(&key.as_str()) {
            let message = format!("{key} is a secret: every member keeps and shows the config");
            let help = format!(
                "write it into a file of mode 0600, and secrets = {{ {key} = \"/etc/nines/FILE\" }}"
            );
            r.error(name.span, message, Some(help));
            continue;
        }
        let Some(text) = r.scalar(&value) else { continue };
        if let Err(why) = line_value(&text) {
            r.error(value.span, format!("the agent cannot be told this {key}: {why}"), None);
        }
        options.insert(key, text);
    }
    options
}

fn secrets(
    r: &mut Reader,
    table: &Table<'_>,
    options: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let mut secrets = BTreeMap::new();
    for (name, value) in r.table(table, "secrets").iter().flat_map(Table::entries) {
        if !is_option(r, &name) {
            continue;
        }
        let key = name.text;
        if options.contains_key(&key) {
            let message = format!("{key} is given twice: in options and here");
            r.error(name.span, message, Some("keep one of them".into()));
        }
        let Some(path) = r.string(&value) else { continue };
        if !path.starts_with('/') || path.contains(char::is_control) {
            let message = format!("\"{}\" is not an absolute path", clean(&path));
            let help = format!(
                "name the file that has the secret: secrets = {{ {key} = \"/etc/nines/FILE\" }}"
            );
            r.error(value.span, message, Some(help));
        }
        secrets.insert(key, path);
    }
    secrets
}

/// A device of one machine that is spoken to like another one is the same device: it would switch
/// the machine of the other.
fn of_another_machine(r: &mut Reader, table: &Table<'_>, device: &FenceDevice, spec: &Spec) {
    let only = |device: &FenceDevice| match device.outlets.first_key_value() {
        Some((node, None)) => Some(node.clone()),
        _ => None,
    };
    let Some(node) = only(device) else { return };
    let spoken =
        |other: &FenceDevice| other.program == device.program && other.options == device.options;
    for (name, other) in &spec.fence {
        if let Some(its) = only(other).filter(|its| *its != node)
            && spoken(other)
            && !device.options.is_empty()
        {
            let at = table.get("options").map_or_else(|| table.span.clone(), |value| value.span);
            let message = format!("these are the options of {name}, which switches {its}");
            let help = format!("write the address of the device of {node}");
            r.error(at, message, Some(help));
        }
    }
}

/// The devices of a node in the order in which they are tried.
fn levels(
    r: &mut Reader,
    node: &str,
    list: &Value<'_>,
    spec: &Spec,
    section: Option<&Table<'_>>,
) -> Vec<Vec<DeviceName>> {
    let Some(items) = list.as_array() else {
        r.wanted(list, "a list of fence devices, such as [\"bmc-lb1\", [\"pdu-a\", \"pdu-b\"]]");
        return Vec::new();
    };
    let mut levels: Vec<Vec<DeviceName>> = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    if items.is_empty() {
        let help = "without the key its devices are tried by name";
        r.error(list.span.clone(), "this list names no fence device", Some(help.into()));
    }
    for item in items {
        let of_level = item.as_array().unwrap_or_else(|| vec![item.clone()]);
        if of_level.is_empty() {
            r.error(item.span.clone(), "this level names no fence device", None);
        }
        let mut level = Vec::new();
        for one in of_level {
            let Some(name) = r.string(&one) else { continue };
            if !seen.insert(name.clone()) {
                let message = format!("{} is here twice", clean(&name));
                let help = "name each device once in the order of a node";
                r.error(one.span.clone(), message, Some(help.into()));
            } else if switches(r, node, &Name { text: name.clone(), span: one.span }, spec, section)
            {
                level.push(name.into());
            }
        }
        levels.push(level);
    }
    levels
}

/// Whether there is this device, and it switches this node.
fn switches(
    r: &mut Reader,
    node: &str,
    name: &Name,
    spec: &Spec,
    section: Option<&Table<'_>>,
) -> bool {
    let device = name.text.as_str();
    if let Some(known) = spec.fence.get(device) {
        let is_its = known.outlets.contains_key(node);
        if !is_its {
            let message = format!("fence device {device} does not switch {node}");
            let help = format!("name {node} in [fence.{device}], or remove {device} here");
            r.error(name.span.clone(), message, Some(help));
        }
        return is_its;
    }
    // What is wrong with one that has a section is told there.
    if section.is_some_and(|section| section.get(device).is_some()) {
        return false;
    }
    if spec.fence.is_empty() {
        let message = format!("unknown fence device \"{}\"", clean(device));
        let help = "describe the device in a section [fence.NAME]";
        r.error(name.span.clone(), message, Some(help.into()));
    } else {
        let known = spec.fence.keys().map(DeviceName::as_str);
        r.unknown_word(name.span.clone(), "fence device", &clean(device), known);
    }
    false
}

#[cfg(test)]
mod tests;
