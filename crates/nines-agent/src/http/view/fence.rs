//! How each node can be switched off, and what its devices said.
//!
//! Decides: the word for that. What the cluster knows is the core's.

use std::collections::BTreeSet;

use nines_api::{
    states::{FenceState, Subject},
    types::{FenceCounts, FenceResult, FenceStatus, ProblemLine, Status},
};
use nines_core::{
    Node,
    wire::{FenceAnswer, Member, Power},
};
use nines_model::{DeviceName, NodeName, Switch, Time};

/// A line for each node that the config or the log names.
pub fn fencing(node: &Node, now: Time) -> Vec<FenceStatus> {
    let state = node.state();
    let mut names: BTreeSet<&str> = state.spec.nodes.keys().map(NodeName::as_str).collect();
    names.extend(state.members.values().map(|member| member.name.as_str()));
    names.into_iter().map(|name| line(node, now, name)).collect()
}

fn line(node: &Node, now: Time, name: &str) -> FenceStatus {
    let spec = &node.state().spec;
    let levels = spec.fence_levels(name);
    let devices = levels.iter().flatten().filter_map(|device| spec.fence.get(device));
    let mut agents: Vec<String> = Vec::new();
    for device in devices {
        let program = device.program.to_string();
        if !agents.contains(&program) {
            agents.push(program);
        }
    }
    let text = |level: &Vec<DeviceName>| level.iter().map(DeviceName::to_string).collect();
    let line = FenceStatus {
        node: name.to_owned(),
        levels: levels.iter().map(text).collect(),
        agents,
        state: if levels.is_empty() { FenceState::None } else { FenceState::Untested }.into(),
        ..FenceStatus::default()
    };
    match node.state().member(name).map(Member::id) {
        None => line,
        Some(id) => {
            let is_blocked = node.fence_block(now, id).is_some();
            let text = node.power_text(now, id);
            told(line, &node.state().fencing.of(id), is_blocked, text)
        }
    }
}

/// What is wrong with fence devices, and why a node of two does not go on alone.
pub fn problems(node: &Node, now: Time, status: &mut Status) {
    if let Some(text) = node.alone_text(now) {
        let other = node.alone_other().unwrap_or_default();
        let next = format!(
            "start {other}; or, when you have seen that it is off: nines fence confirm {other}"
        );
        status.problems.push(ProblemLine { subject: Subject::Quorum, text, next });
    }
    for line in &status.fencing {
        let name = &line.node;
        let failed = line.last_test.as_ref().filter(|test| !test.ok).map(|test| test.text.as_str());
        let (text, next) = match line.state.known() {
            Some(FenceState::Off) => (line.text.as_str(), format!("nines fence on {name}")),
            Some(FenceState::Blocked) => (line.text.as_str(), format!("nines fence test {name}")),
            Some(FenceState::Failing) => {
                (failed.unwrap_or(&line.text), format!("nines fence test {name}"))
            }
            _ => continue,
        };
        let (subject, text) = (Subject::Node(name.clone()), text.to_owned());
        status.problems.push(ProblemLine { subject, text, next });
    }
}

/// What is known of the node's power. `text`: what the core says of it to people.
fn told(line: FenceStatus, power: &Power, is_blocked: bool, text: String) -> FenceStatus {
    let result = |answer: &FenceAnswer| FenceResult {
        at_ms: answer.at_ms,
        ok: answer.ok,
        text: answer.text.clone(),
    };
    let is_switched = power.order.as_ref().is_some_and(|order| order.switch() != Switch::Test);
    let state = match &power.tested {
        _ if is_switched => FenceState::Switching,
        _ if power.off.is_some() => FenceState::Off,
        _ if is_blocked => FenceState::Blocked,
        _ if line.levels.is_empty() => FenceState::None,
        _ if power.lied => FenceState::Failing,
        Some(tested) if tested.ok => FenceState::Ready,
        Some(_) => FenceState::Failing,
        None => FenceState::Untested,
    };
    let lie = || "its devices said that it was off, and it went on: they are not believed any more";
    FenceStatus {
        state: state.into(),
        blocked: if state == FenceState::Blocked { text.clone() } else { String::new() },
        text: match state {
            FenceState::Failing if power.lied => lie().to_owned(),
            _ => text,
        },
        counts: counts(power),
        last_test: power.tested.as_ref().map(result),
        last_switch: power.switched.as_ref().map(result),
        ..line
    }
}

fn counts(power: &Power) -> FenceCounts {
    let of = power.counts.clone().unwrap_or_default();
    FenceCounts {
        off_done: of.off_done,
        off_failed: of.off_failed,
        on_done: of.on_done,
        on_failed: of.on_failed,
        tests_done: of.tests_done,
        tests_failed: of.tests_failed,
        test_ok_ms: of.test_ok_ms,
    }
}

#[cfg(test)]
mod tests {
    use nines_core::wire::FenceOff;

    use super::*;

    fn state_of(levels: &[&str], power: &Power, is_blocked: bool) -> (FenceState, String, String) {
        let levels = levels.iter().map(|device| vec![(*device).to_owned()]).collect();
        let line = FenceStatus { levels, ..FenceStatus::default() };
        let told = told(line, power, is_blocked, "as the core says".into());
        (told.state.known().unwrap(), told.text, told.blocked)
    }

    #[test]
    fn the_word_follows_from_what_is_known() {
        let answer = |ok| Some(FenceAnswer { ok, at_ms: 7, text: "x".into() });
        let state =
            |levels: &[&str], power: Power, is_blocked| state_of(levels, &power, is_blocked).0;
        let tested = |ok| Power { tested: answer(ok), ..Power::default() };
        assert_eq!(state(&[], Power::default(), false), FenceState::None);
        assert_eq!(state(&["pdu"], Power::default(), false), FenceState::Untested);
        assert_eq!(state(&["pdu"], tested(true), false), FenceState::Ready);
        assert_eq!(state(&["pdu"], tested(false), false), FenceState::Failing);
        assert_eq!(state(&["pdu"], tested(true), true), FenceState::Blocked);
        let off = Power { off: Some(FenceOff::default()), ..tested(false) };
        assert_eq!(state(&["pdu"], off.clone(), false), FenceState::Off);
        // A person has seen it.
        assert_eq!(state(&[], off, false), FenceState::Off);
        let lied = Power { lied: true, ..tested(true) };
        let (state, text, blocked) = state_of(&["pdu"], &lied, false);
        assert!(state == FenceState::Failing && text.contains("it went on"), "{text}");
        assert_eq!(blocked, "");
        let (_, text, blocked) = state_of(&["pdu"], &tested(true), true);
        assert_eq!((text.as_str(), blocked.as_str()), ("as the core says", "as the core says"));
    }
}
