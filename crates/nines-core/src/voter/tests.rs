//! Voters without nodes: three of them agree, promise, and keep what they promised.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use nines_model::{Incarnation, LogIndex, Millis, NodeId, Time};
use prost::Message as _;

use super::{Context, Granted, Identity, Voter};
use crate::{
    action::Action,
    snapshot,
    state::State,
    vip_set::VipSet,
    wire::{
        Ack, Command, Give, HardState, Heartbeat, Member, Move, Persist, Persisted, RaftMessage,
        Snapshot, Token, command::Kind, frame, pack,
    },
};

mod voters;

const TEXT: &str = "[cluster]\nname = \"x\"\n[nodes]\nlb1 = \"10.0.0.1\"\nlb2 = \"10.0.0.2\"\n\
    wit = { addresses = \"10.0.0.3\", role = \"witness\" }\n[vip.a]\naddress = \"10.0.0.100\"\n";
const STEP: Millis = Millis(20);

/// An answer that gives this position back.
fn shown(term: u64, acked: u64) -> Ack {
    Ack { term, acked, ..Ack::default() }
}

fn vip() -> IpAddr {
    IpAddr::from([10, 0, 0, 100])
}

/// What the cluster has agreed on when a test starts: three members and a config.
fn agreed() -> Persisted {
    let spec = Arc::new(nines_model::config::parse(TEXT).expect("it is right"));
    let member = |(id, name): (u64, &str)| Member { id, name: name.into(), ..Member::default() };
    let members = (1..).zip(["lb1", "lb2", "wit"]).map(member);
    let state = State::founded(TEXT.into(), spec, members);
    let data = snapshot::encode(&state);
    Persisted {
        hard_state: HardState { term: 1, vote: 0, commit: 1 },
        snapshot: Snapshot { index: 1, term: 1, voters: vec![1, 2, 3], learners: vec![], data },
        ..Persisted::default()
    }
}

/// A voter with its disk and the state that its log makes.
struct Seat {
    voter: Voter,
    state: State,
    disk: Persisted,
    actions: Vec<Action>,
}

impl Seat {
    fn new(id: NodeId, incarnation: u64, now: Time, disk: Persisted) -> Self {
        let state = snapshot::decode(&disk.snapshot.data).expect("it was encoded");
        let identity = Identity {
            id,
            name: format!("n{id}").into(),
            incarnation: Incarnation(incarnation),
            machine_boot: 1,
            place: id.number(),
        };
        let timing = (state.spec.timing.lease, state.spec.timing.restart);
        let voter = Voter::new(identity, now, &disk, &state, timing, None);
        Self { voter, state, disk, actions: Vec::new() }
    }

    fn with<T>(&mut self, now: Time, f: impl FnOnce(&mut Voter, &mut Context<'_>) -> T) -> T {
        let mut cx = Context { now, state: &self.state, out: &mut self.actions };
        f(&mut self.voter, &mut cx)
    }

    fn keep(&mut self, persist: Persist) {
        if let Some(state) = persist.hard_state {
            self.disk.hard_state = state;
        }
        if let Some(first) = persist.entries.first().map(|entry| entry.index) {
            self.disk.entries.retain(|entry| entry.index < first);
        }
        self.disk.entries.extend(persist.entries);
        if let Some(promise) = persist.long_promise {
            self.disk.long_promise = promise;
        }
    }

    /// Lets the voter do all it can; gives what it says to others.
    fn settle(&mut self, now: Time) -> Vec<(NodeId, crate::wire::RaftMessage)> {
        let mut said = Vec::new();
        loop {
            while let Some(ready) = self.with(now, Voter::take) {
                said.extend(
                    ready.messages.into_iter().map(|message| (message.receiver(), message)),
                );
                for entry in ready.committed {
                    let change = entry.changes_member();
                    self.voter.apply_change(&entry, change.is_some());
                    self.state.apply(entry.index, change, &entry.command);
                    self.with(now, |voter, cx| voter.applied(cx, entry.index));
                }
            }
            let actions = std::mem::take(&mut self.actions);
            let writes = actions.into_iter().filter_map(|action| match action {
                Action::Persist(number, persist) => Some((number, persist)),
                _ => None,
            });
            let mut wrote = false;
            for (number, persist) in writes.collect::<Vec<_>>() {
                self.keep(*persist);
                let messages = self.with(now, |voter, cx| voter.persisted(cx, number));
                said.extend(messages.into_iter().map(|message| (message.receiver(), message)));
                wrote = true;
            }
            if !wrote {
                return said;
            }
        }
    }
}

/// Voters with a network that loses nothing.
struct Table {
    now: Time,
    seats: BTreeMap<NodeId, Seat>,
}

impl Table {
    fn new() -> Self {
        let now = Time(1_000_000_000);
        let seats = (1..=3).map(|n| (NodeId(n), Seat::new(NodeId(n), n, now, agreed()))).collect();
        let mut table = Self { now, seats };
        for id in 1..=3 {
            table.hear_all(NodeId(id));
        }
        table
    }

    /// The others tell a voter that they remember nothing that it has lost.
    fn hear_all(&mut self, id: NodeId) {
        let (now, seat) = (self.now, self.seats.get_mut(&id).expect("it sits here"));
        for from in (1..=3).map(NodeId).filter(|from| *from != id) {
            seat.with(now, |voter, cx| voter.reminded(cx, from, &shown(1, 1)));
        }
    }

    fn step(&mut self) {
        self.now = self.now.plus(STEP);
        let now = self.now;
        let mut said = Vec::new();
        for seat in self.seats.values_mut() {
            seat.with(now, |voter, cx| voter.tick(cx, now));
            let mut due = seat.voter.due(now);
            due.retain(|message| seat.with(now, |voter, cx| voter.screen(cx, message, false)));
            for message in due {
                let mut cx = Context { now, state: &seat.state, out: &mut seat.actions };
                seat.voter.receive(&mut cx, message);
            }
            said.extend(seat.settle(now));
        }
        while let Some((to, message)) = said.pop() {
            let Some(seat) = self.seats.get_mut(&to) else { continue };
            if seat.with(now, |voter, cx| voter.screen(cx, &message, false)) {
                let mut cx = Context { now, state: &seat.state, out: &mut seat.actions };
                seat.voter.receive(&mut cx, message);
            }
            said.extend(seat.settle(now));
        }
    }

    fn leader(&mut self) -> NodeId {
        for _ in 0..500 {
            let leads =
                |(id, seat): (&NodeId, &Seat)| seat.voter.consensus().leads().then_some(*id);
            if let Some(id) = self.seats.iter().find_map(leads) {
                return id;
            }
            self.step();
        }
        panic!("three voters that hear each other elect nobody");
    }

    fn write(&mut self, from: &str, to: &str) {
        let give = Give { vip: pack(vip()), from: from.into(), to: to.into(), ..Give::default() };
        self.propose(Kind::Give(give));
    }

    fn propose(&mut self, kind: Kind) {
        let command = Command { kind: Some(kind), ..Command::default() };
        let leader = self.leader();
        let seat = self.seats.get_mut(&leader).expect("it leads");
        assert!(seat.voter.write(&seat.state, &command), "the leader writes");
    }

    fn holders(&self) -> Vec<Option<String>> {
        let holder = |seat: &Seat| seat.state.vips.get(&vip()).map(|h| h.node().to_string());
        self.seats.values().map(holder).collect()
    }

    /// lb1 asks a voter to renew what it holds.
    fn ask(&mut self, voter: NodeId, lease: Millis) -> Granted {
        let token = self.seats[&NodeId(1)].state.vips[&vip()].token();
        let (now, seat) = (self.now, self.seats.get_mut(&voter).expect("it sits here"));
        let set = VipSet::new([(vip(), token)]);
        let (set_a, set_b) = set.name();
        for part in set.parts() {
            seat.voter.learn(NodeId(1), &part);
        }
        let beat = Heartbeat {
            sent_ns: now.0,
            lease_ms: lease.0,
            incarnation: 1,
            set_a,
            set_b,
            set_size: 1,
            ..Heartbeat::default()
        };
        seat.with(now, |voter, cx| voter.grant(cx, NodeId(1), &beat))
    }

    fn run(&mut self, ms: u64) {
        let until = self.now.plus(Millis(ms));
        while self.now < until {
            self.step();
        }
    }
}

fn renews(granted: &Granted) -> bool {
    matches!(granted, Granted::But { refused, .. } if refused.is_empty())
}

#[test]
fn three_voters_agree_on_who_holds_a_vip() {
    let mut table = Table::new();
    table.write("", "lb1");
    table.run(500);
    assert_eq!(table.holders(), vec![Some("lb1".to_owned()); 3]);
}

#[test]
fn a_promised_vip_goes_to_nobody_else_until_the_promise_has_ended() {
    let mut table = Table::new();
    table.write("", "lb1");
    table.run(500);
    for voter in 1..=3 {
        assert!(renews(&table.ask(NodeId(voter), Millis(100))));
    }
    let asked = table.now;
    table.write("lb1", "lb2");
    while table.now < asked.plus(Millis(80)) {
        table.step();
        assert_eq!(table.holders(), vec![Some("lb1".to_owned()); 3]);
    }
    assert!(table.seats.values().any(|seat| seat.voter.waiting() > 0), "the entry waits");
    table.run(500);
    assert_eq!(table.holders(), vec![Some("lb2".to_owned()); 3]);
    let newer = table.ask(NodeId(2), Millis(100));
    assert!(renews(&newer), "by the token of the new holder: a voter judges tokens, not names");
}

/// A holder that starts over with an older log may hold again what its incarnation before has
/// released.
#[test]
fn a_release_waits_for_what_another_incarnation_of_the_holder_was_promised() {
    for (incarnation, waits) in [(1, false), (9, true)] {
        let mut table = Table::new();
        table.write("", "lb1");
        table.run(500);
        let (from, to) = ("lb1".into(), "lb2".into());
        table.propose(Kind::Move(Move { vip: pack(vip()), from, to, ..Move::default() }));
        table.run(500);
        for voter in 1..=3 {
            assert!(renews(&table.ask(NodeId(voter), Millis(100))));
        }
        let token = table.seats[&NodeId(1)].state.vips[&vip()].token();
        let incarnation = Incarnation(incarnation);
        table.propose(Kind::Released(Token::of(vip(), token, incarnation)));
        table.run(80);
        let holder = if waits { "lb1" } else { "lb2" };
        assert_eq!(table.holders(), vec![Some(holder.to_owned()); 3], "{incarnation}");
        table.run(500);
        assert_eq!(table.holders(), vec![Some("lb2".to_owned()); 3]);
    }
}

#[test]
fn an_older_token_is_not_renewed() {
    let mut table = Table::new();
    table.write("", "lb1");
    table.run(500);
    let old = VipSet::new([(vip(), LogIndex(1))]);
    let (now, seat) = (table.now, table.seats.get_mut(&NodeId(2)).unwrap());
    for part in old.parts() {
        seat.voter.learn(NodeId(1), &part);
    }
    let (set_a, set_b) = old.name();
    let beat = Heartbeat {
        lease_ms: 100,
        incarnation: 1,
        set_a,
        set_b,
        set_size: 1,
        ..Heartbeat::default()
    };
    let granted = seat.with(now, |voter, cx| voter.grant(cx, NodeId(1), &beat));
    assert!(matches!(granted, Granted::But { refused, .. } if refused == [vip()]));
}

#[test]
fn a_voter_that_starts_waits_for_answers_and_for_what_its_disk_promised() {
    let mut table = Table::new();
    table.write("", "lb1");
    table.run(500);
    // Longer than the lease in force: on the disk first, given with the next heartbeat.
    let long = Millis(2_000);
    assert!(matches!(table.ask(NodeId(3), long), Granted::Nothing));
    table.step();
    assert!(renews(&table.ask(NodeId(3), long)));
    let (now, disk) = (table.now, table.seats[&NodeId(3)].disk.clone());
    assert!(disk.long_promise.until_ns > now.plus(long).0);
    table.seats.insert(NodeId(3), Seat::new(NodeId(3), 30, now, disk));
    table.seats.get_mut(&NodeId(3)).unwrap().settle(now);
    assert!(
        matches!(table.ask(NodeId(3), Millis(100)), Granted::Nothing),
        "nobody has vouched for it"
    );
    table.hear_all(NodeId(3));
    // It gives nothing away that the process before it may have promised.
    let forbids =
        |table: &Table| table.seats[&NodeId(3)].voter.forbids(table.now, vip(), Some(NodeId(2)));
    assert!(forbids(&table).is_some_and(|until| until.0 >= now.plus(long).0));
    table.run(2_600);
    assert_eq!(forbids(&table), None);
}

#[test]
fn who_has_no_vote_renews_nothing() {
    for learns in [false, true] {
        let mut table = Table::new();
        table.write("", "lb1");
        table.run(500);
        let (now, mut disk) = (table.now, table.seats[&NodeId(3)].disk.clone());
        if learns {
            (disk.snapshot.voters, disk.snapshot.learners) = (vec![1, 2], vec![3]);
        }
        table.seats.insert(NodeId(3), Seat::new(NodeId(3), 30, now, disk));
        table.seats.get_mut(&NodeId(3)).unwrap().settle(now);
        table.hear_all(NodeId(3));
        let granted = table.ask(NodeId(3), Millis(100));
        assert_eq!(matches!(granted, Granted::Nothing), learns);
    }
}

#[test]
fn a_log_is_replaced_as_far_as_it_is_applied() {
    let mut table = Table::new();
    table.write("", "lb1");
    table.run(500);
    table.write("lb1", "lb2");
    let (now, leader) = (table.now, table.leader());
    let seat = table.seats.get_mut(&leader).expect("it leads");
    let applied = seat.state.applied;
    assert!(seat.voter.consensus().last().0 > applied, "the last entry waits for the others");
    let data = snapshot::encode(&seat.state);
    seat.with(now, |voter, cx| voter.compact(cx, data, 0));
    let replaced = seat.actions.iter().find_map(|action| match action {
        Action::Persist(_, persist) => persist.snapshot.as_ref(),
        _ => None,
    });
    assert_eq!(replaced.map(Snapshot::index), Some(applied));
}

#[test]
fn who_is_no_member_changes_no_log() {
    let mut table = Table::new();
    let now = table.now;
    let seat = table.seats.get_mut(&NodeId(1)).unwrap();
    let mut screened = |from, newer| {
        let message = RaftMessage { kind: 8, to: 1, from, term: 2, ..RaftMessage::default() };
        seat.with(now, |voter, cx| voter.screen(cx, &message, newer))
    };
    assert!(screened(2, false));
    assert!(!screened(9, false), "it has left");
    assert!(screened(9, true), "or has joined after the end of what is known here");
}

#[test]
fn a_voter_that_lost_its_log_votes_no_more() {
    let mut table = Table::new();
    let now = table.now;
    let seat = table.seats.get_mut(&NodeId(2)).unwrap();
    seat.with(now, |voter, cx| voter.reminded(cx, NodeId(1), &shown(7, 90)));
    assert!(seat.voter.is_retired() && !seat.voter.takes_part());
    let told = |action: &Action| matches!(action, Action::Persist(_, p) if p.retired.is_some());
    assert!(seat.actions.iter().any(told), "its disk knows, too");
    // Two of three still decide.
    table.write("", "lb1");
    table.run(500);
    assert_eq!(table.holders()[0].as_deref(), Some("lb1"));
    assert_eq!(table.holders()[1], None);
}

#[test]
fn frames_carry_the_incarnation() {
    let table = Table::new();
    let frame = table.seats[&NodeId(2)].voter.frame(frame::Kind::Heartbeat(Heartbeat::default()));
    assert_eq!((frame.incarnation, frame.starts, frame.moved), (2, 1, false));
    assert!(frame.encoded_len() > 0);
}

/// Else a late frame of a process that died early could be taken for one of the next process.
#[test]
fn a_voter_is_silent_until_its_disk_knows_of_its_start() {
    let mut table = Table::new();
    let (now, disk) = (table.now, agreed());
    let mut seat = Seat::new(NodeId(2), 20, now, disk.clone());
    assert!(!seat.voter.may_speak());
    let number = seat.voter.keep_incarnation(&mut seat.actions);
    assert!(!seat.voter.may_speak(), "asked for, and not there");
    seat.with(now, |voter, cx| voter.persisted(cx, number));
    assert!(seat.voter.may_speak());
    let mut broken = Seat::new(NodeId(2), 21, now, disk);
    broken.voter.breaks("its disk is gone".into());
    assert!(broken.voter.may_speak(), "it has that to say");
    table.step();
}
