//! The watchdog of each node, in words.
//!
//! Decides: what people hear of it. "Armed" is said only of a device that is fed now, with the
//! timeout that it really has; of a node that is not heard nothing is known.

use nines_api::{
    states::Subject,
    types::{ProblemLine, Status},
};
use nines_core::{Node, wire::WatchdogState};
use nines_model::{Millis, NodeId, Time};

/// What a node says of its watchdog, in words and as the timeout while it is fed.
pub fn of(node: &Node, now: Time, id: NodeId) -> (String, u64) {
    let state = node.watchdog(id).filter(|_| super::member_alive(node, now, id));
    state.map_or((String::new(), 0), |state| (text(state), state.timeout_ms))
}

fn text(state: &WatchdogState) -> String {
    match state.timeout_ms {
        0 => state.trouble.clone(),
        timeout => format!("armed {}", Millis(timeout)),
    }
}

/// What is wrong with watchdogs, and what does not rest on one alone.
pub fn problems(node: &Node, now: Time, status: &mut Status) {
    for (id, member) in &*node.state().members {
        let Some(state) = node.watchdog(*id).filter(|_| super::member_alive(node, now, *id)) else {
            continue;
        };
        let can_fence = node.state().spec.can_fence(&member.name);
        let subject = Subject::Node(member.name.clone());
        let line = |text: &str, next: &str| ProblemLine {
            subject: subject.clone(),
            text: text.to_owned(),
            next: next.to_owned(),
        };
        status.problems.extend(wrong(state).map(|(text, next)| line(text, next)));
        status.notices.extend(unsafe_alone(state, can_fence).map(|(text, next)| line(text, next)));
    }
}

fn wrong(state: &WatchdogState) -> Option<(&str, &str)> {
    (state.timeout_ms == 0).then_some((&state.trouble, &state.next))
}

/// A watchdog of a virtual machine stands still with it.
fn unsafe_alone(state: &WatchdogState, can_fence: bool) -> Option<(&str, &str)> {
    let text = "a virtual machine: its hypervisor can pause its watchdog with it, so a watchdog \
                alone is not safe";
    let next = "nines help keys   describes [fence.NAME]";
    (state.virtual_machine && !can_fence).then_some((text, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watchdog_is_armed_or_the_reason_is_said() {
        let armed = WatchdogState { timeout_ms: 2_000, ..WatchdogState::default() };
        assert_eq!((text(&armed).as_str(), wrong(&armed)), ("armed 2s", None));
        let (trouble, next) = ("/dev/watchdog does not exist", "ls -l /dev/watchdog*");
        let none = WatchdogState { trouble: trouble.into(), next: next.into(), ..armed.clone() };
        let none = WatchdogState { timeout_ms: 0, ..none };
        assert_eq!((text(&none).as_str(), wrong(&none)), (trouble, Some((trouble, next))));
    }

    #[test]
    fn in_a_virtual_machine_a_watchdog_alone_is_said_to_be_unsafe() {
        for (virtual_machine, can_fence, says) in
            [(false, false, false), (true, false, true), (true, true, false), (false, true, false)]
        {
            let state = WatchdogState { timeout_ms: 2_000, virtual_machine, ..Default::default() };
            assert_eq!(unsafe_alone(&state, can_fence).is_some(), says);
        }
    }
}
