//! VIPs of a node follow the log, and believe what their kernel says.

use nines_model::{LogIndex, Millis};
use prost::Message as _;

use super::*;
use crate::{
    Action, Event,
    node::Config,
    snapshot,
    state::{State, Vips},
    vip_set,
    wire::{Ack, Frame, HardState, Member, Persisted, Snapshot, frame},
};

const TEXT: &str = "[cluster]\nname = \"x\"\n[nodes]\nlb1 = \"10.0.0.1\"\nlb2 = \"10.0.0.2\"\n\
    wit = { addresses = \"10.0.0.3\", role = \"witness\" }\n\
    [vip.a]\naddress = \"10.0.0.100\"\n[vip.b]\naddress = \"10.0.0.101\"\n";

/// lb1, which the log has given both VIPs.
fn holder(now: Time) -> Node {
    let spec = nines_model::config::parse(TEXT).expect("it is right").into();
    let member = |(id, name): (u64, &str)| Member { id, name: name.into(), ..Member::default() };
    let members = (1..).zip(["lb1", "lb2", "wit"]).map(member);
    let held = |token| Holding::Held { node: "lb1".into(), token: LogIndex(token) };
    let holdings = [(vip(100), held(4)), (vip(101), held(5))];
    let mut state = State::founded(TEXT.into(), spec, members);
    state.vips = Vips::restored(holdings.into(), BTreeMap::new());
    state.applied = LogIndex(5);
    let data = snapshot::encode(&state);
    let kept = Persisted {
        hard_state: HardState { term: 1, vote: 0, commit: 5 },
        snapshot: Snapshot { index: 5, term: 1, voters: vec![1, 2, 3], learners: vec![], data },
        ..Persisted::default()
    };
    let (id, name) = (NodeId(1), "lb1".into());
    let config =
        Config { id, name, boot: Incarnation(7), machine_boot: 1, place: 1, seeds: vec![] };
    Node::new(config, now, &kept)
}

fn vip(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

#[test]
fn acks_of_beats_before_a_vip_was_named_renew_nothing() {
    let now = Time(1_000_000_000);
    let mut node = holder(now);
    node.handle(now, Event::Tick);
    let named = node.own_vips.vips[&vip(100)].named;
    assert_eq!((node.own_vips.held.len(), named), (2, node.own_vips.sent));
    let until = Time(named.0 + 100_000_000);
    let deadline =
        |node: &Node| node.own_vips.vips[&vip(100)].renewals.deadline(&[1, 2, 3].map(NodeId));
    // Its own vote does not count before others have answered it.
    for voter in [2, 3] {
        node.renewed((NodeId(voter), Incarnation(1)), Time(named.0 - 1), until, &[]);
    }
    assert_eq!(deadline(&node), Time(0), "the voter knew of another set");
    for voter in [2, 3] {
        node.renewed((NodeId(voter), Incarnation(1)), named, until, &[vip(101)]);
    }
    assert_eq!(deadline(&node), until);
    assert_eq!(
        node.own_vips.vips[&vip(101)].renewals.deadline(&[1, 2, 3].map(NodeId)),
        Time(0),
        "refused"
    );
}

/// It must be one of a heartbeat of this incarnation, by a voter whose members this node knows too;
/// and it counts from when the heartbeat was sent, however late it comes.
#[test]
fn an_ack_renews_from_when_its_heartbeat_was_sent() {
    let now = Time(1_000_000_000);
    let renewed_by = |change: fn(&mut Ack, &Node)| {
        let mut node = holder(now);
        node.handle(now, Event::Tick);
        let (set_a, set_b) = node.own_vips.held.name();
        let mut ack = Ack { sent_ns: now.0, lease_ms: 100, set_a, set_b, ..Ack::default() };
        (ack.sent_ns, ack.incarnation) = (node.own_vips.sent.0, 7);
        change(&mut ack, &node);
        for from in [2, 3].map(NodeId) {
            let kind = Some(frame::Kind::Ack(ack.clone()));
            let frame = Frame { kind, incarnation: 1, starts: 1, ..Frame::default() };
            let event = Event::Frame { from, link: 0, bytes: frame.encode_to_vec() };
            node.handle(now.plus(Millis(30)), event);
        }
        node.renewed_until().0.saturating_sub(node.own_vips.vips[&vip(100)].named.0)
    };
    assert_eq!(renewed_by(|_, _| {}), Millis(100).ns());
    assert_eq!(renewed_by(|ack, _| ack.incarnation = 6), 0);
    assert_eq!(renewed_by(|ack, _| ack.sent_ns += Millis(90).ns()), 0, "not sent yet");
    assert_eq!(renewed_by(|ack, _| ack.membership = 6), 0, "a vote of others may count there");
    assert_eq!(renewed_by(|ack, _| ack.set_a += 1), Millis(100).ns(), "of a set before");
    let refuse = |ack: &mut Ack, node: &Node| {
        ack.refused = vip_set::marks(node.own_vips.held.iter().map(|(vip, _)| vip), |_| true);
    };
    assert_eq!(renewed_by(refuse), 0);
}

/// A machine that has the address and no table answers clients itself, and refuses them.
#[test]
fn a_vip_comes_up_once_its_packets_are_forwarded() {
    let now = Time(1_000_000_000);
    let mut node = holder(now);
    let forwards = |text: &str| nines_model::config::parse(text).unwrap().into();
    assert!(!node.may_come_up(vip(100)), "there is no table yet");
    node.requested.set_forwards(forwards(&TEXT.replace("[vip.b]\naddress = \"10.0.0.101\"\n", "")));
    node.handle(now, Event::Tick);
    let until = Time(now.0 + 100_000_000);
    for voter in [2, 3] {
        node.renewed((NodeId(voter), Incarnation(1)), node.own_vips.sent, until, &[]);
    }
    let ups = |node: &mut Node| -> Vec<IpAddr> {
        let (at, mut ups) = (now.plus(nines_model::Millis(1)), Vec::new());
        node.run_vips(at);
        // The guard first; its write comes back at once.
        loop {
            let actions = node.take_actions();
            if actions.is_empty() {
                return ups;
            }
            for action in actions {
                match action {
                    Action::Perform { operation: Operation::Address { vip, up: true }, .. } => {
                        ups.push(vip);
                    }
                    Action::Perform {
                        id,
                        operation: Operation::Guard(..) | Operation::Follow(..),
                    } => node.handle(at, Event::Done { id, result: Ok(()) }),
                    _ => {}
                }
            }
        }
    };
    node.all_vips_changed();
    assert_eq!(ups(&mut node), [vip(100)]);
    node.requested.set_forwards(forwards(TEXT));
    node.all_vips_changed();
    assert_eq!(ups(&mut node), [vip(101)]);
}

/// A holder whose packets are forwarded, with leases that last until then.
fn leased(now: Time) -> (Node, Time) {
    let mut node = holder(now);
    node.requested.set_forwards(nines_model::config::parse(TEXT).unwrap().into());
    node.handle(now, Event::Tick);
    let until = Time(now.0 + 100_000_000);
    for voter in [2, 3] {
        node.renewed((NodeId(voter), Incarnation(1)), node.own_vips.sent, until, &[]);
    }
    node.run_vips(now);
    (node, until)
}

/// The newest deadline among these actions that the kernel is to have for a VIP, with its id.
fn guard(actions: &[Action], of: IpAddr) -> (u64, Time) {
    let guard = |action: &Action| match action {
        Action::Perform {
            id,
            operation: Operation::Guard(vip, until) | Operation::Follow(vip, until),
        } if *vip == of => Some((*id, *until)),
        _ => None,
    };
    actions.iter().rev().find_map(guard).expect("a deadline")
}

#[test]
fn a_deadline_that_the_kernel_did_not_take_is_no_answer_and_is_written_again() {
    let now = Time(1_000_000_000);
    let (mut node, until) = leased(now);
    let (id, wanted) = guard(&node.take_actions(), vip(100));
    assert_eq!(wanted, until);
    let on = |node: &mut Node| node.own_vips.with(vip(100), |own| own.phase = Phase::On);
    on(&mut node);
    let failed = |id| Event::Done { id, result: Err("no room".into()) };
    node.handle(now, failed(id));
    assert!(!node.answers(vip(100), now), "the kernel does not answer");
    let again = now.plus(nines_model::Millis(20));
    node.handle(again, Event::Tick);
    let (second, same) = guard(&node.take_actions(), vip(100));
    assert_eq!(same, until);
    node.handle(again, failed(second));
    let third = again.plus(nines_model::Millis(20));
    node.handle(third, Event::Tick);
    let (id, _) = guard(&node.take_actions(), vip(100));
    node.handle(third, Event::Done { id, result: Ok(()) });
    assert!(node.answers(vip(100), third));
}

#[test]
fn an_address_is_not_put_on_without_its_guard() {
    let now = Time(1_000_000_000);
    let (mut node, _) = leased(now);
    let is_up = |action: &Action| {
        matches!(action, Action::Perform { operation: Operation::Address { up: true, .. }, .. })
    };
    let actions = node.take_actions();
    assert!(!actions.iter().any(is_up), "the guards are not written yet");
    let (id, _) = guard(&actions, vip(100));
    node.handle(now, Event::Done { id, result: Err("no room".into()) });
    assert!(!node.take_actions().iter().any(is_up));
    assert!(node.own_vips.unable.contains(&vip(100)), "another director may try");
}
