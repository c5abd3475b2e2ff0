use std::{collections::BTreeMap, sync::Arc};

use nines_model::{FenceDevice, FenceProgram, Millis};

use super::*;
use crate::{
    state::tests::{act, state, tried},
    voter::consensus::Change::Learns,
};

const LB1: u64 = 1;
const LB2: u64 = 2;

/// The cluster of the other tests, with a device that switches lb2.
fn cluster() -> State {
    let mut state = state();
    let device = FenceDevice {
        program: FenceProgram::Agent("fence_ipmilan".into()),
        options: BTreeMap::new(),
        secrets: BTreeMap::new(),
        outlets: [("lb2".into(), None)].into(),
        trust_off: false,
        timeout: Millis(20_000),
    };
    Arc::make_mut(&mut state.spec).fence.insert("bmc".into(), device);
    state
}

fn fence(step: FenceStep) -> Fence {
    Fence { step: step.code().into(), target: LB2, incarnation: 7, ..Fence::default() }
}

fn order(switch: Switch) -> Fence {
    Fence { switch: switch.code().into(), by: LB1, term: 3, ..fence(FenceStep::Order) }
}

fn answer(step: FenceStep, order: u64) -> Fence {
    Fence { order, incarnation: 0, text: "so says bmc".into(), ..fence(step) }
}

fn does(state: &mut State, index: u64, fence: Fence) -> bool {
    tried(state, index, None, Kind::Fence(fence)).is_ok()
}

fn power(state: &State) -> Power {
    state.fencing.of(NodeId(LB2))
}

#[test]
fn an_order_is_answered_once_and_its_answer_says_that_the_node_is_off() {
    let mut state = cluster();
    assert!(does(&mut state, 20, order(Switch::Off)));
    assert_eq!(power(&state).order.map(|order| order.index), Some(20));
    assert!(!does(&mut state, 21, order(Switch::Off)), "one at a time");
    assert!(!does(&mut state, 22, answer(FenceStep::Done, 19)), "that is no order");
    assert!(does(&mut state, 23, answer(FenceStep::Done, 20)));
    let off = power(&state).off.unwrap();
    assert_eq!((off.incarnation, off.index, off.by_person), (7, 23, false));
    assert!(!does(&mut state, 24, answer(FenceStep::Failed, 20)), "that order is over");
    assert!(!does(&mut state, 25, order(Switch::Off)), "an incarnation is switched off once");
    let later = Fence { incarnation: 8, ..order(Switch::Off) };
    assert!(does(&mut state, 26, later), "another one may be");
}

#[test]
fn what_devices_could_not_do_is_not_done() {
    let mut state = cluster();
    for attempt in [30, 40, 50, 60] {
        assert!(does(&mut state, attempt, order(Switch::Off)));
        assert!(does(&mut state, attempt + 1, answer(FenceStep::Failed, attempt)));
    }
    let power = power(&state);
    assert_eq!((power.off, power.attempts), (None, vec![40, 50, 60]));
    assert!(!power.switched.unwrap().ok);
}

#[test]
fn a_node_that_is_heard_again_has_started_again_or_its_devices_have_lied() {
    for (heard, lied) in [(8, false), (7, true)] {
        let mut state = cluster();
        assert!(does(&mut state, 20, order(Switch::Off)));
        assert!(does(&mut state, 21, answer(FenceStep::Done, 20)));
        assert!(does(&mut state, 22, Fence { incarnation: heard, ..fence(FenceStep::Heard) }));
        let power = power(&state);
        assert_eq!((power.off, power.lied, power.attempts.is_empty()), (None, lied, !lied));
    }
    let mut state = cluster();
    assert!(!does(&mut state, 20, fence(FenceStep::Heard)), "nothing was held against it");
    assert!(does(&mut state, 21, order(Switch::Off)));
    let started = Fence { incarnation: 8, ..fence(FenceStep::Heard) };
    assert!(does(&mut state, 22, started));
    assert_eq!(power(&state).order, None, "an order is about one incarnation");
    assert!(!does(&mut state, 23, answer(FenceStep::Done, 21)));
}

#[test]
fn nobody_is_fenced_without_a_device_or_by_itself() {
    let mut state = cluster();
    assert!(!does(&mut state, 20, Fence { by: LB2, ..order(Switch::Off) }));
    assert!(!does(&mut state, 21, Fence { target: LB1, by: LB2, ..order(Switch::Off) }));
    assert!(!does(&mut state, 22, Fence { target: 9, ..order(Switch::Off) }));
    assert!(!does(&mut state, 23, Fence { switch: "explode".into(), ..order(Switch::Off) }));
    assert!(!does(&mut state, 24, Fence { step: "hope".into(), ..order(Switch::Off) }));
    assert_eq!(power(&state), Power::default());
}

#[test]
fn a_test_changes_nothing_but_what_is_known_of_the_devices() {
    let mut state = cluster();
    for (index, step, ok) in [(20, FenceStep::Failed, false), (30, FenceStep::Done, true)] {
        assert!(does(&mut state, index, order(Switch::Test)));
        assert!(does(&mut state, index + 1, answer(step, index)));
        let power = power(&state);
        assert_eq!(power.tested.unwrap().ok, ok);
        assert_eq!((power.off, power.attempts), (None, vec![]));
    }
}

#[test]
fn what_an_operator_wants_waits_for_the_leader() {
    let mut state = cluster();
    assert!(tried(&mut state, 20, None, act("power-off", &["lb1"])).is_err(), "no device");
    assert!(tried(&mut state, 21, None, act("power-off", &["no"])).is_err());
    assert!(tried(&mut state, 22, None, act("confirm-off", &["lb2"])).is_err(), "which one?");
    assert!(tried(&mut state, 23, None, act("power-off", &["lb2"])).is_ok());
    assert_eq!(power(&state).wish.unwrap().switch, "off");
    assert!(does(&mut state, 24, order(Switch::Off)));
    assert_eq!(power(&state).wish, None, "it is an order now");
    assert!(does(&mut state, 25, answer(FenceStep::Done, 24)));
    assert!(tried(&mut state, 26, None, act("power-off", &["lb2"])).is_err(), "it is off");
    assert!(tried(&mut state, 27, None, act("power-on", &["lb2"])).is_ok());
    assert!(does(&mut state, 28, order(Switch::On)));
    assert!(power(&state).off.unwrap().on_tried);
}

#[test]
fn a_person_says_that_a_node_is_off() {
    let mut state = cluster();
    let says = wire_act("lb2", "its cable is in my hand");
    let Kind::Fence(said) = confirmed(&says, NodeId(LB2), 7, "alice@lb1") else { panic!() };
    assert_eq!(said.text, "alice@lb1 has seen that lb2 is off: its cable is in my hand");
    assert!(does(&mut state, 20, said.clone()));
    assert!(power(&state).off.unwrap().by_person);
    assert!(!does(&mut state, 21, said), "it is off already");
}

fn wire_act(subject: &str, reason: &str) -> Act {
    Act { subjects: vec![subject.into()], reason: reason.into(), ..Act::default() }
}

#[test]
fn a_vote_is_taken_only_with_a_change_of_voters() {
    for step in [FenceStep::Alone, FenceStep::Rests] {
        let mut state = cluster();
        assert!(!does(&mut state, 20, fence(step)));
        let other = Fence { target: LB1, ..fence(step) };
        let change = Some((NodeId(LB2), Learns));
        assert!(tried(&mut state, 21, change, Kind::Fence(other)).is_err());
        assert!(tried(&mut state, 22, change, Kind::Fence(fence(step))).is_ok());
        assert_eq!(power(&state).off.is_some(), step == FenceStep::Alone);
        assert_eq!(state.members.newest_change(), LogIndex(22));
    }
    let mut state = cluster();
    let change = Some((NodeId(LB2), Learns));
    assert!(tried(&mut state, 20, change, Kind::Fence(order(Switch::Off))).is_err());
}
