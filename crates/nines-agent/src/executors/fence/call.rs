//! One call of a fence device: from the config to an answer in words.
//!
//! Decides: that nothing but what the device said after the switching counts as done, and what
//! people read when that did not come: the device, its outlet, and what was said.

use std::{
    sync::{Arc, mpsc::channel},
    time::Instant,
};

use nines_dataplane::process::boot_time;
use nines_exec::{
    Runner,
    fence_agent::{Device, DeviceConfig, NoMetadata, Outlet, PowerOff, PowerOn, Problem, Tested},
};
use nines_model::{DeviceName, FenceDevice, FenceProgram, Millis, Switch};

use super::{Agents, queue::Stop};
use crate::{core_thread::FenceCall, logger::Logger};

/// Time for an agent to say what it can do, at most. It takes 60 to 200 ms on an idle machine.
const METADATA: Millis = Millis(10_000);

/// The device as its program takes it; or why it does not, the device's name first.
pub fn device(
    agents: &Agents,
    name: &DeviceName,
    config: &FenceDevice,
) -> Result<Arc<Device>, String> {
    let checked = match &config.program {
        FenceProgram::Agent(agent) => of_agent(agents, (name, config), agent)?,
        FenceProgram::Command(path) => configured(name, config, "").check_command(path),
    };
    let problems = match checked {
        Ok(device) => return Ok(Arc::new(device)),
        Err(problems) => problems,
    };
    let problems: Vec<String> = problems.iter().map(Problem::to_string).collect();
    Err(format!("{name}: {} does not take its options: {}", config.program, problems.join("; ")))
}

fn of_agent(
    agents: &Agents,
    (name, config): (&DeviceName, &FenceDevice),
    agent: &str,
) -> Result<Result<Device, Vec<Problem>>, String> {
    let limit = Millis((config.timeout.0 / 4).min(METADATA.0));
    let metadata = agents.installed.metadata(&**agents.processes(), agent, limit);
    let metadata = metadata.map_err(|why| match why {
        NoMetadata::NotInstalled(None) => {
            format!("{name}: {agent} is not installed: apt install fence-agents")
        }
        why => format!("{name}: {agent}: {why}"),
    })?;
    let checked = configured(name, config, agent).check(metadata);
    Ok(checked.map(|device| device.in_directory(&agents.directory)))
}

fn configured(name: &DeviceName, config: &FenceDevice, agent: &str) -> DeviceConfig {
    let FenceDevice { program: _, options, secrets, outlets, trust_off, timeout: _ } = config;
    let outlet = |outlet: &Option<String>| match outlet {
        Some(outlet) => Outlet::Named(outlet.clone()),
        None => Outlet::Only,
    };
    DeviceConfig {
        name: name.to_string(),
        agent: agent.to_owned(),
        parameters: options.clone(),
        secrets: secrets.iter().map(|(key, file)| (key.clone(), file.into())).collect(),
        outlets: outlets.iter().map(|(node, name)| (node.to_string(), outlet(name))).collect(),
        trusts_off: *trust_off,
    }
}

/// Makes the call; `Ok`: the device said after it that the node is as it should be. `stop` ends a
/// test.
pub fn carry_out(
    agents: &Agents,
    call: &FenceCall,
    stop: &Stop,
    log: &Logger,
) -> Result<(), String> {
    let FenceCall { device: name, config, node, switch, until } = call;
    let begun = Instant::now();
    let device = device(agents, name, config)?;
    // Calls before it may have taken their time; who asked counts on nothing after that.
    let before_end = until.since(boot_time()) / 1_000_000;
    let left = config.timeout.0.saturating_sub(begun.elapsed().as_millis() as u64).min(before_end);
    if left == 0 {
        return Err(format!("{name}: calls before this one took too long"));
    }
    let runner: Arc<dyn Runner> = Arc::<nines_exec::Processes>::clone(agents.processes());
    let (node, left) = (node.as_str(), Millis(left));
    let (is_done, said) = match switch {
        Switch::Off => {
            let off = device.power_off_and_wait(runner, node, left);
            (matches!(off, PowerOff::Confirmed(_)), off.to_string())
        }
        Switch::On => {
            let on = device.power_on_and_wait(runner, node, left);
            (matches!(on, PowerOn::Confirmed(_)), on.to_string())
        }
        Switch::Test => {
            let (tell, told) = channel();
            stop.ends(device.test(runner, node, left, move |tested| drop(tell.send(tested))));
            match told.recv().unwrap_or(Tested::Cancelled) {
                Tested::Cancelled => (false, "the test gave way to another call".to_owned()),
                tested => (matches!(tested, Tested::Works(_)), tested.to_string()),
            }
        }
    };
    let outlet = match device.outlet(node) {
        Some(Outlet::Named(outlet)) => format!(", outlet {outlet}"),
        Some(Outlet::Only) | None => String::new(),
    };
    if !is_done {
        return Err(format!("{name}{outlet}: {said}"));
    }
    let seconds = begun.elapsed().as_millis() as f64 / 1_000.0;
    log.line(&format!("fence device {name}{outlet}: {node}: {said} ({seconds:.1} s)"));
    Ok(())
}
