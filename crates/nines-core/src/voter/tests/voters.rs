//! Changes of who votes.

use super::*;
use crate::wire::{Ack, LogEntry, RaftMessage};

/// A majority two changes of voters later may share no voter with one that has promised.
#[test]
fn the_next_change_of_voters_waits_for_promises_from_before_the_last_one() {
    let mut table = Table::new();
    table.write("", "lb1");
    table.run(500);
    let long = Millis(2_000);
    for voter in 1..=3 {
        table.ask(NodeId(voter), long);
        table.step();
        assert!(renews(&table.ask(NodeId(voter), long)));
    }
    let promised = table.now;
    let voters = |table: &Table| -> Vec<usize> {
        table.seats.values().map(|seat| seat.voter.consensus.voters().len()).collect()
    };
    let leader = table.leader();
    table.seats.get_mut(&leader).unwrap().voter.promote(NodeId(4));
    table.run(200);
    assert_eq!(voters(&table), [4; 3], "the first change waits for nothing");
    let now = table.now;
    let seat = table.seats.get_mut(&leader).unwrap();
    assert!(!seat.voter.may_change_voters(now), "its leader would not ask for the next one");
    assert!(seat.voter.consensus.propose_removal(NodeId(4), Vec::new()));
    while table.now < promised.plus(long) {
        table.step();
        assert_eq!(voters(&table), [4; 3]);
    }
    assert!(table.seats.values().any(|seat| seat.voter.waiting() > 0), "the entry waits");
    table.run(500);
    assert_eq!(voters(&table), [3; 3]);
    let now = table.now;
    assert!(table.seats[&leader].voter.may_change_voters(now));
}

/// A voter that comes late gets several changes in one message. Those that are committed enter at
/// once; the one that is not waits apart, until the voter has applied the one before it.
#[test]
fn a_message_with_several_changes_is_taken_in_parts() {
    let mut table = Table::new();
    table.write("", "lb1");
    table.run(500);
    let seat = table.seats.get_mut(&NodeId(2)).unwrap();
    let last = seat.voter.consensus.last();
    let change = |kind: u8, id: u8| vec![0x10, kind, 0x18, id];
    let entry = |after: u64, data: Vec<u8>| LogEntry {
        kind: i32::from(!data.is_empty()),
        term: last.1,
        index: last.0.number() + after,
        data,
        ..LogEntry::default()
    };
    let message = |commit: u64| RaftMessage {
        index: last.0.number(),
        log_term: last.1,
        commit: last.0.number() + commit,
        entries: vec![
            entry(1, change(0, 4)),
            entry(2, Vec::new()),
            entry(3, change(1, 4)),
            entry(4, Vec::new()),
        ],
        ..append()
    };
    let now = table.now;
    let split = |seat: &mut Seat, commit| {
        let mut rest = message(commit);
        let late = seat.with(now, |voter, cx| voter.take_early_change(cx, &mut rest));
        (rest.entries.len(), late.map(|(_, late)| (late.entries.len(), late.index)))
    };
    assert_eq!(split(seat, 4), (4, None), "all of it is committed");
    let third = Some((2, last.0.number() + 2));
    assert_eq!(split(seat, 2), (2, third));
    assert_eq!(split(seat, 0), (2, third), "nothing is unsettled before the first");
}

/// An append of the leader, with nothing in it.
fn append() -> RaftMessage {
    RaftMessage { kind: 3, from: 1, to: 2, term: 1, ..RaftMessage::default() }
}

/// Who knows of the last change may die, and those who do not know yet need this vote.
#[test]
fn a_voter_that_left_goes_on_until_a_majority_of_the_others_says_so() {
    let mut table = Table::new();
    let now = table.now;
    let seat = table.seats.get_mut(&NodeId(3)).unwrap();
    let left = |membership| Ack { left: true, membership, voters: vec![1, 2], ..Ack::default() };
    let told =
        |seat: &mut Seat, from, ack: &Ack| seat.with(now, |v, cx| v.told_of_voters(cx, from, ack));
    let other = Ack { left: false, ..left(9) };
    assert!(!told(seat, NodeId(1), &other) && !seat.voter.is_told_to_have_left());
    assert_eq!(seat.voter.newest_voters(&seat.state), [1, 2].map(NodeId));
    assert!(!told(seat, NodeId(1), &left(9)), "one of two");
    assert!(!told(seat, NodeId(4), &left(9)), "that one has no vote");
    assert!(seat.voter.is_told_to_have_left() && seat.voter.takes_part());
    assert!(told(seat, NodeId(2), &left(9)));
    seat.with(now, Voter::removed);
    assert!(seat.voter.is_removed() && !seat.voter.takes_part());
    let kept = |action: &Action| matches!(action, Action::Persist(_, p) if p.removed);
    assert!(seat.actions.iter().any(kept), "its disk knows, too");
}
