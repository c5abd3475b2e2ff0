//! A refused command changes nothing: each kind by table, then commands at random.

use std::net::IpAddr;

use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::wire::{Apply, Give, LogEvents, Token, pack};

const CONFIG: &str = "[cluster]\nname = \"t\"\n[nodes]\nlb1 = \"10.0.0.2\"\nlb2 = \"10.0.0.3\"\n\
    w = { addresses = [\"10.0.0.4\"], role = \"witness\" }\n\
    [service.web]\nlisten = \"10.0.0.100:80\"\ncheck = \"none\"\nforward = \"full-nat\"\n\
    servers = { r1 = \"10.0.0.11\", r2 = \"10.0.0.12\" }\n\
    [service.web6]\nlisten = \"[fd00::100]:80\"\ncheck = \"none\"\nforward = \"full-nat\"\n\
    servers = { r1 = \"fd00::11\", r3 = \"fd00::13\" }\n";

fn command(kind: Kind) -> Vec<u8> {
    Command { kind: Some(kind), at_ms: 1, actor: "a".into(), ..Command::default() }.encode_to_vec()
}

fn act(verb: &str, subjects: &[&str]) -> Kind {
    let subjects = subjects.iter().map(|s| (*s).to_owned()).collect();
    Kind::Act(wire::Act { verb: verb.into(), subjects, ..wire::Act::default() })
}

fn member(id: u64, name: &str) -> Member {
    Member { id, name: name.into(), ..Member::default() }
}

fn vip(n: usize) -> IpAddr {
    ["10.0.0.100", "fd00::100", "10.0.0.99"][n % 3].parse().unwrap()
}

/// Three members, both VIPs held by lb1, one being handed over.
fn state() -> State {
    let mut state = State::default();
    let configs = &mut Configs::default();
    for (id, name) in [(1, "lb1"), (2, "lb2"), (3, "w")] {
        let done = state.apply(
            id,
            Some((id, Change::Learns)),
            &command(Kind::Join(member(id, name))),
            configs,
        );
        assert!(done.unwrap().1.is_ok());
    }
    let text = CONFIG.to_owned();
    let apply = Kind::Apply(Apply { text, ..Apply::default() });
    let give = |n| {
        let (vip, to) = (pack(vip(n)), "lb1".into());
        Kind::Give(Give { vip, to, ..Give::default() })
    };
    let moved =
        Move { vip: pack(vip(1)), from: "lb1".into(), to: "lb2".into(), why: String::new() };
    let all = [apply, give(0), give(1), Kind::Move(moved), act("drain", &["web/r2"])];
    for (index, kind) in (4..).zip(all) {
        let done = state.apply(index, None, &command(kind.clone()), configs).unwrap().1;
        assert!(done.is_ok(), "{kind:?}: {done:?}");
    }
    state
}

/// What came of it; a refusal must have left the state as it was.
fn tried(state: &mut State, index: u64, member: Option<(u64, Change)>, kind: Kind) -> Outcome {
    let before = State { applied: index, ..state.clone() };
    let configs = &mut Configs::default();
    let done = state.apply(index, member, &command(kind.clone()), configs);
    let (_, outcome) = done.expect("a command");
    if outcome.is_err() {
        assert!(*state == before, "{kind:?} was refused and took effect");
    }
    outcome
}

#[test]
fn a_command_of_several_subjects_is_done_whole_or_not_at_all() {
    for (verb, good, bad) in [
        ("drain", vec!["r1", "web/r2"], vec!["r1", "nosuch"]),
        ("drain", vec!["r1", "r1", "web/r1"], vec!["nosuch", "r1"]),
        ("undrain", vec!["web/r2", "r3"], vec!["web/r2", "web6/r2"]),
        ("standby", vec!["lb1", "lb2"], vec!["lb1", "lb3", "lb2"]),
        ("ready", vec!["lb1", "lb1"], vec!["lb1", ""]),
        ("drain", vec!["web6/r3"], vec![]),
        ("standby", vec!["w"], vec![]),
        ("ready", vec!["lb1"], vec!["web"]),
    ] {
        let mut state = state();
        assert!(tried(&mut state, 20, None, act("standby", &["lb1"])).is_ok());
        assert!(tried(&mut state, 21, None, act(verb, &bad)).is_err(), "{verb} {bad:?}");
        assert!(tried(&mut state, 22, None, act(verb, &good)).is_ok(), "{verb} {good:?}");
    }
    let mut state = state();
    assert!(tried(&mut state, 20, None, act("dance", &[])).is_err());
    assert!(tried(&mut state, 21, None, act("dance", &["lb1"])).is_err());
    let done = tried(&mut state, 22, None, act("drain", &["r1", "r1"]));
    assert_eq!(done, Ok("r1 set to drain".into()));
    let all = [("web", "r1"), ("web", "r2"), ("web6", "r1")];
    let all = all.map(|(service, server)| (service.to_owned(), server.to_owned()));
    assert_eq!(state.drained(), all.into());
}

#[test]
fn a_wish_moves_all_of_its_vips_or_none() {
    let move_request = |vips: &[usize], to: &str| {
        let packed: Vec<Vec<u8>> = vips.iter().map(|n| pack(vip(*n))).collect();
        let more = packed[1..].to_vec();
        Kind::MoveRequest(Give { vip: packed[0].clone(), to: to.into(), more, ..Give::default() })
    };
    let mut state = state();
    assert!(tried(&mut state, 20, None, move_request(&[0, 2], "lb2")).is_err());
    assert!(tried(&mut state, 21, None, move_request(&[2, 0], "lb2")).is_err());
    assert!(tried(&mut state, 22, None, move_request(&[0, 1], "w")).is_err());
    assert!(tried(&mut state, 23, None, move_request(&[0, 1], "lb3")).is_err());
    assert!(state.move_requests.is_empty());
    assert!(tried(&mut state, 24, None, move_request(&[0, 1], "lb2")).is_ok());
    assert_eq!(state.move_requests.len(), 2);
    // The holder is asked to stay: nothing is left of the earlier move request.
    assert!(tried(&mut state, 25, None, move_request(&[0], "lb1")).is_ok());
    assert_eq!(state.move_requests.keys().copied().collect::<Vec<_>>(), [vip(1)]);
}

#[test]
fn a_membership_command_takes_effect_with_its_change_or_not_at_all() {
    let join = |id, name| Kind::Join(member(id, name));
    let remove = |name: &str| Kind::Remove(name.into());
    let mut state = state();
    for (change, kind) in [
        (None, join(4, "lb4")),
        (Some(5), join(4, "lb4")),
        (Some(4), join(4, "lb2")),
        (Some(2), join(2, "lb4")),
        (None, remove("lb2")),
        (Some(1), remove("lb2")),
        (Some(4), remove("lb4")),
    ] {
        let becomes = if let Kind::Join(_) = kind { Change::Learns } else { Change::Leaves };
        let change = change.map(|id| (id, becomes));
        assert!(tried(&mut state, 20, change, kind.clone()).is_err(), "{change:?} {kind:?}");
    }
    let votes = tried(&mut state, 20, Some((4, Change::Votes)), join(4, "lb4"));
    assert!(votes.is_err(), "nobody begins with a vote");
    assert!(tried(&mut state, 21, Some((4, Change::Learns)), join(4, "lb4")).is_ok());
    assert!(tried(&mut state, 22, None, join(4, "lb4")).is_ok(), "other papers for the same");
    assert!(tried(&mut state, 23, Some((2, Change::Leaves)), remove("lb2")).is_ok());
    let again = tried(&mut state, 24, Some((2, Change::Learns)), join(2, "lb2"));
    assert!(again.is_err(), "a number is given once");
    assert_eq!(state.members.keys().copied().collect::<Vec<_>>(), [1, 3, 4]);
}

fn name() -> impl Strategy<Value = String> {
    let names = ["r1", "r2", "r3", "web/r1", "web6/r3", "web/r3", "lb1", "lb2", "w", "", "no"];
    prop::sample::select(names.map(str::to_owned).to_vec())
}

fn kind() -> impl Strategy<Value = Kind> {
    let verb = prop::sample::select(vec!["drain", "undrain", "standby", "ready", "other"]);
    let packed = (0..3_usize).prop_map(|n| pack(vip(n)));
    let broken = prop_oneof![4 => packed, 1 => prop::collection::vec(any::<u8>(), 0..20)];
    let acts = (verb, prop::collection::vec(name(), 0..4)).prop_map(|(verb, subjects)| {
        Kind::Act(wire::Act { verb: verb.into(), subjects, ..wire::Act::default() })
    });
    let gives = (
        (broken.clone(), prop::collection::vec(broken.clone(), 0..3)),
        (name(), name(), any::<bool>()),
    );
    let gives = gives.prop_map(|((vip, more), (from, to, move_request))| {
        let give = Give { vip, to, from, more, ..Give::default() };
        if move_request { Kind::MoveRequest(give) } else { Kind::Give(give) }
    });
    let moves = (broken.clone(), name(), name());
    let moves =
        moves.prop_map(|(vip, from, to)| Kind::Move(Move { vip, from, to, why: String::new() }));
    let releases = (broken, 0..12_u64);
    let releases =
        releases.prop_map(|(vip, index)| Kind::Released(Token { vip, index, ..Token::default() }));
    let other = CONFIG.replace("[service.web6]", "[service.other]");
    let texts = vec![CONFIG.to_owned(), other, CONFIG.replace("\"t\"", "\"u\""), "x".into()];
    let stays = || prop_oneof![3 => Just(0), 1 => 0..2_000_u64];
    let applies = (prop::sample::select(texts), 0..4_u64, stays(), stays())
        .prop_map(|(text, expected, head, tail)| Kind::Apply(Apply { text, expected, head, tail }));
    let joins = (0..5_u64, name()).prop_map(|(id, name)| Kind::Join(member(id, &name)));
    let removes = name().prop_map(Kind::Remove);
    let story = Just(Kind::LogEvents(LogEvents::default()));
    prop_oneof![acts, gives, moves, releases, applies, joins, removes, story]
}

proptest! {
    #[test]
    fn what_is_refused_changes_nothing(
        all in prop::collection::vec((kind(), prop::option::of(0..5_u64)), 1..40),
    ) {
        let mut state = state();
        for (index, (kind, member)) in (20..).zip(all) {
            let becomes = [Change::Learns, Change::Votes, Change::Leaves][index as usize % 3];
            let _ = tried(&mut state, index, member.map(|id| (id, becomes)), kind);
        }
    }
}
