//! Fence devices, their order for a node, and when nodes are fenced.
//!
//! Decides: what it means that a config in the log says nothing about fencing.

use std::collections::BTreeMap;

use nines_model::{DeviceName, FenceDevice, FenceProgram, Fencing, Millis, Watchdog};

use crate::wire::{FenceEntry, FenceLevel, FenceOption, FencingEntry, OutletEntry};

/// What applies where a config in the log says nothing: for good, whatever a later build begins
/// with. Builds from before there was fencing read such a config.
const UNWRITTEN: Fencing = Fencing {
    after: Millis(2_000),
    delay: Millis(10_000),
    on_again: false,
    test: Millis(7 * 86_400_000),
};

fn options(all: &BTreeMap<String, String>) -> Vec<FenceOption> {
    all.iter().map(|(key, value)| FenceOption { key: key.clone(), value: value.clone() }).collect()
}

fn read_options(all: &[FenceOption]) -> BTreeMap<String, String> {
    all.iter().map(|FenceOption { key, value }| (key.clone(), value.clone())).collect()
}

pub(super) fn device(name: &str, device: &FenceDevice) -> FenceEntry {
    let FenceDevice { program, options: told, secrets, outlets, trust_off, timeout } = device;
    let (agent, command) = match program.clone() {
        FenceProgram::Agent(name) => (name, String::new()),
        FenceProgram::Command(path) => (String::new(), path),
    };
    let outlet = |(node, outlet): (&nines_model::NodeName, &Option<String>)| OutletEntry {
        node: node.to_string(),
        outlet: outlet.clone(),
    };
    FenceEntry {
        name: name.to_owned(),
        agent,
        options: options(told),
        secrets: options(secrets),
        outlets: outlets.iter().map(outlet).collect(),
        trust_off: *trust_off,
        timeout: timeout.0,
        command,
    }
}

pub(super) fn read_device(entry: &FenceEntry) -> (DeviceName, FenceDevice) {
    let FenceEntry { name, agent, options, secrets, outlets, trust_off, timeout, command } = entry;
    let outlet =
        |OutletEntry { node, outlet }: &OutletEntry| (node.as_str().into(), outlet.clone());
    let program = if command.is_empty() {
        FenceProgram::Agent(agent.clone())
    } else {
        FenceProgram::Command(command.clone())
    };
    let device = FenceDevice {
        program,
        options: read_options(options),
        secrets: read_options(secrets),
        outlets: outlets.iter().map(outlet).collect(),
        trust_off: *trust_off,
        timeout: Millis(*timeout),
    };
    (name.as_str().into(), device)
}

pub(super) fn fencing(fencing: Fencing) -> Option<FencingEntry> {
    let Fencing { after, delay, on_again, test } = fencing;
    let entry = FencingEntry { after: after.0, delay: delay.0, on_again, test: test.0 };
    (fencing != UNWRITTEN).then_some(entry)
}

pub(super) fn read_fencing(entry: Option<&FencingEntry>) -> Fencing {
    entry.map_or(UNWRITTEN, |FencingEntry { after, delay, on_again, test }| Fencing {
        after: Millis(*after),
        delay: Millis(*delay),
        on_again: *on_again,
        test: Millis(*test),
    })
}

pub(super) fn watchdog(of: &Watchdog) -> String {
    match of {
        Watchdog::None => String::new(),
        Watchdog::Device(path) => path.clone(),
    }
}

pub(super) fn read_watchdog(path: &str) -> Watchdog {
    if path.is_empty() { Watchdog::None } else { Watchdog::Device(path.to_owned()) }
}

pub(super) fn levels(levels: &[Vec<DeviceName>]) -> Vec<FenceLevel> {
    let level = |devices: &Vec<DeviceName>| FenceLevel {
        devices: devices.iter().map(ToString::to_string).collect(),
    };
    levels.iter().map(level).collect()
}

pub(super) fn read_levels(levels: &[FenceLevel]) -> Vec<Vec<DeviceName>> {
    let level = |FenceLevel { devices }: &FenceLevel| {
        devices.iter().map(|name| name.as_str().into()).collect()
    };
    levels.iter().map(level).collect()
}
