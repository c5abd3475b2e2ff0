//! A refused command changes nothing: commands at random. The tables are beside each subject.

use std::net::IpAddr;

use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::{
    vip_set,
    wire::{Apply, Batch, Facts, Give, LogEvents, Move, Token, pack},
};

pub(super) const CONFIG: &str = "[cluster]\nname = \"t\"\n[nodes]\nlb1 = \"10.0.0.2\"\nlb2 = \"10.0.0.3\"\n\
    w = { addresses = [\"10.0.0.4\"], role = \"witness\" }\n\
    [service.web]\nlisten = \"10.0.0.100:80\"\ncheck = \"none\"\nforward = \"full-nat\"\n\
    servers = { r1 = \"10.0.0.11\", r2 = \"10.0.0.12\" }\n\
    [service.web6]\nlisten = \"[fd00::100]:80\"\ncheck = \"none\"\nforward = \"full-nat\"\n\
    servers = { r1 = \"fd00::11\", r3 = \"fd00::13\" }\n";

pub(super) fn command(kind: Kind) -> Vec<u8> {
    Command { kind: Some(kind), at_ms: 1, actor: "a".into(), ..Command::default() }.encode_to_vec()
}

pub(super) fn act(verb: &str, subjects: &[&str]) -> Kind {
    let subjects = subjects.iter().map(|s| (*s).to_owned()).collect();
    Kind::Act(wire::Act { verb: verb.into(), subjects, ..wire::Act::default() })
}

pub(super) fn member(id: u64, name: &str) -> Member {
    Member { id, name: name.into(), ..Member::default() }
}

pub(super) fn vip(n: usize) -> IpAddr {
    ["10.0.0.100", "fd00::100", "10.0.0.99"][n % 3].parse().unwrap()
}

/// Three members, both VIPs held by lb1, one being handed over.
pub(super) fn state() -> State {
    let mut state = State::default();
    for (id, name) in [(1, "lb1"), (2, "lb2"), (3, "w")] {
        let join = command(Kind::Join(member(id, name)));
        let done = state.apply(LogIndex(id), Some((NodeId(id), Change::Learns)), &join);
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
        let done = state.apply(LogIndex(index), None, &command(kind.clone())).unwrap().1;
        assert!(done.is_ok(), "{kind:?}: {done:?}");
    }
    state
}

/// What came of it; a refusal must have left the state as it was.
pub(super) fn tried(
    state: &mut State,
    index: u64,
    member: Option<(NodeId, Change)>,
    kind: Kind,
) -> Outcome {
    let index = LogIndex(index);
    let mut before = State { applied: index, ..state.clone() };
    let bytes = command(kind.clone());
    if member.is_some_and(|change| state.may_join(change, &bytes)) {
        // A promotion takes effect whatever its entry says besides.
        before.members.changed(index);
    }
    let done = state.apply(index, member, &bytes);
    let (_, outcome) = done.expect("a command");
    if outcome.is_err() {
        assert!(*state == before, "{kind:?} was refused and took effect");
    }
    outcome
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
    let others = prop::sample::select(vec![
        Kind::LogEvents(LogEvents::default()),
        Kind::Facts(Facts { node: "lb2".into(), ..Facts::default() }),
    ]);
    let pairs = prop::collection::vec((0..3_usize, 4..9_u64), 1..4);
    let batches = (0..4_u32, pairs, name(), name()).prop_map(|(what, pairs, from, to)| {
        let pairs = pairs.into_iter().map(|(n, token)| (vip(n), LogIndex(token)));
        let vips = vip_set::pack_all(pairs, 900).remove(0);
        Kind::Batch(Batch { what, vips, to, from, ..Batch::default() })
    });
    prop_oneof![acts, gives, moves, releases, applies, joins, removes, others, batches]
}

proptest! {
    #[test]
    fn what_is_refused_changes_nothing(
        all in prop::collection::vec((kind(), prop::option::of(0..5_u64)), 1..40),
    ) {
        let mut state = state();
        for (index, (kind, member)) in (20..).zip(all) {
            let becomes = [Change::Learns, Change::Votes, Change::Leaves][index as usize % 3];
            let _ = tried(&mut state, index, member.map(|id| (NodeId(id), becomes)), kind);
        }
    }
}
