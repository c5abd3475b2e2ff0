//! Which messages of other nodes the consensus library may see.
//!
//! Decides: whether a message can be true, given this node's own log. The library trusts its peers:
//! it stops the process at a message that contradicts its log. No member can send one that passes
//! here and does that. An honest member sends one that is refused only if this node has lost a part
//! of its log.

use super::{
    codec,
    disk::{NUMBER_MAX, members},
};
use crate::wire::{LogEntry, RaftMessage, Snapshot};

/// A term is not believed that is so far beyond our own: a cluster that elects a leader every
/// second needs a century for it.
const TERMS_AHEAD: u64 = 1 << 32;

/// What this node has.
pub struct Own<'a> {
    /// Number of this node in the consensus.
    pub id: u64,
    /// Raft term that this node is in.
    pub term: u64,
    /// The leader of that term as far as known; 0: none.
    pub leader: u64,
    /// Index of the newest entry that this node knows to be committed.
    pub committed: u64,
    /// Index of the last entry of this node's log.
    pub last: u64,
    /// The disk has the whole log.
    pub durable: bool,
    /// Term of an entry; `None`: not in the log (any more).
    pub term_of: &'a dyn Fn(u64) -> Option<u64>,
}

fn refuse(why: impl Into<String>) -> Result<(), String> {
    Err(why.into())
}

/// An error says what is impossible in the message.
pub fn admit(own: &Own<'_>, m: &RaftMessage) -> Result<(), String> {
    shape(own, m)?;
    // The library looks into no message of an older term.
    if m.term < own.term && m.kind != codec::PROPOSE {
        return Ok(());
    }
    let leads = m.term == own.term && own.leader != 0 && own.leader != m.from;
    if leads && [codec::APPEND, codec::HEARTBEAT, codec::SNAPSHOT].contains(&m.kind) {
        return refuse(format!("node {} leads term {}", own.leader, m.term));
    }
    let asks = [codec::VOTE, codec::PRE_VOTE].contains(&m.kind);
    if own.last == 0 && (asks || (m.index == 0 && !m.entries.is_empty())) {
        return refuse("this node has no log yet, it waits for the whole state");
    }
    match m.kind {
        codec::PROPOSE => proposal(&m.entries),
        codec::APPEND => append(own, m),
        codec::APPEND_RESPONSE => {
            if m.term == own.term && own.leader == own.id && m.index > own.last && !m.reject {
                return refuse(format!("it has entry {}, the log ends at {}", m.index, own.last));
            }
            Ok(())
        }
        codec::SNAPSHOT => match &m.snapshot {
            Some(snapshot) => state(m, snapshot),
            None => refuse("a state is missing"),
        },
        codec::HEARTBEAT if m.commit > own.last => refuse(format!(
            "this node should have entry {}, its log ends at {}",
            m.commit, own.last
        )),
        codec::TIMEOUT_NOW if !own.durable => refuse("the disk lags: this node cannot lead now"),
        codec::TIMEOUT_NOW if own.leader != m.from || m.term != own.term => {
            refuse("only the leader can ask for an election")
        }
        _ => Ok(()),
    }
}

/// What needs no look at the log.
fn shape(own: &Own<'_>, m: &RaftMessage) -> Result<(), String> {
    if m.from == 0 || m.from == own.id || m.to != own.id {
        return refuse(format!("it goes from node {} to node {}", m.from, m.to));
    }
    let known = [
        codec::PROPOSE,
        codec::APPEND,
        codec::APPEND_RESPONSE,
        codec::VOTE,
        codec::VOTE_RESPONSE,
        codec::SNAPSHOT,
        codec::HEARTBEAT,
        codec::HEARTBEAT_RESPONSE,
        codec::TIMEOUT_NOW,
        codec::PRE_VOTE,
        codec::PRE_VOTE_RESPONSE,
    ];
    if !known.contains(&m.kind) {
        return refuse(format!("nodes do not send kind {}", m.kind));
    }
    // A term of 0 would be taken for this node's own.
    if (m.term == 0) != (m.kind == codec::PROPOSE) || m.term >= NUMBER_MAX {
        return refuse(format!("term {}", m.term));
    }
    if m.term > own.term && m.term - own.term > TERMS_AHEAD {
        return refuse(format!("term {}, this node's is {}", m.term, own.term));
    }
    let numbers = [m.log_term, m.index, m.commit, m.commit_term, m.reject_hint];
    if numbers.iter().any(|n| *n >= NUMBER_MAX) {
        return refuse("a number that no log gets to");
    }
    let votes = [codec::VOTE, codec::PRE_VOTE].contains(&m.kind);
    if m.request_snapshot != 0 || m.priority != 0 || (!votes && !m.context.is_empty()) {
        return refuse("it asks for what this version never asks for");
    }
    let with_entries = [codec::PROPOSE, codec::APPEND].contains(&m.kind);
    if (!with_entries && !m.entries.is_empty())
        || (m.kind != codec::SNAPSHOT && m.snapshot.is_some())
    {
        return refuse("it carries what its kind does not carry");
    }
    Ok(())
}

fn entry(e: &LogEntry) -> Result<(), String> {
    match e.kind {
        0 => Ok(()),
        1 if codec::decode_change(&e.data).is_some() => Ok(()),
        _ => refuse("a change of membership that cannot be read"),
    }
}

fn proposal(entries: &[LogEntry]) -> Result<(), String> {
    if entries.is_empty() {
        return refuse("it proposes nothing");
    }
    entries.iter().try_for_each(entry)
}

fn append(own: &Own<'_>, m: &RaftMessage) -> Result<(), String> {
    if (m.index == 0) != (m.log_term == 0) || m.log_term > m.term {
        return refuse(format!("entry {} of term {}", m.index, m.log_term));
    }
    let (mut index, mut term) = (m.index, m.log_term);
    for e in &m.entries {
        entry(e)?;
        if e.index != index + 1 || e.index >= NUMBER_MAX || e.term < term.max(1) || e.term > m.term
        {
            return refuse(format!("entry {} of term {} after {index} of {term}", e.index, e.term));
        }
        (index, term) = (e.index, e.term);
        let other = (own.term_of)(index).is_some_and(|mine| mine != term);
        if index <= own.committed && other {
            return refuse(format!("it replaces entry {index}, which a majority has"));
        }
    }
    Ok(())
}

fn state(m: &RaftMessage, snapshot: &Snapshot) -> Result<(), String> {
    members(&snapshot.voters, &snapshot.learners)?;
    // What follows a state has numbers, too.
    if snapshot.index == 0 || snapshot.index >= NUMBER_MAX / 2 {
        return refuse(format!("a state at entry {}", snapshot.index));
    }
    if snapshot.term == 0 || snapshot.term > m.term {
        return refuse(format!("a state of term {} in term {}", snapshot.term, m.term));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use nines_model::NodeId;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        voter::consensus::Consensus,
        wire::{HardState, Persisted},
    };

    /// Three voters and a learner; a state at 3, entries 4 to 6, 4 and 5 committed.
    fn kept() -> Persisted {
        let entry = |(index, term)| LogEntry { term, index, ..LogEntry::default() };
        Persisted {
            hard_state: HardState { term: 3, vote: 0, commit: 5 },
            snapshot: Snapshot {
                index: 3,
                term: 1,
                voters: vec![1, 2, 3],
                learners: vec![4],
                data: Vec::new(),
            },
            entries: [(4, 1), (5, 2), (6, 2)].map(entry).to_vec(),
            ..Persisted::default()
        }
    }

    /// Numbers near what a log has, and some that are nowhere near.
    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![
            20 => 0..9u64,
            2 => 9..40u64,
            1 => Just(u64::MAX),
            1 => Just(u64::MAX - 1),
            1 => Just(NUMBER_MAX - 1),
            1 => Just(1_000_000_000_000u64),
        ]
    }

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            2 => Just(Vec::new()),
            2 => prop::collection::vec(any::<u8>(), 0..6),
            // A change of membership, as the library writes it.
            3 => (0..4u8, 0..6u8).prop_map(|(kind, node)| vec![0x10, kind, 0x18, node]),
        ]
    }

    fn entries() -> impl Strategy<Value = Vec<LogEntry>> {
        let any = (0..3i32, number(), number(), bytes());
        let any = any.prop_map(|(kind, term, index, data)| LogEntry {
            kind,
            term,
            index,
            data,
            ..LogEntry::default()
        });
        // In order, too: few random ones would be.
        let row = (0..9u64, 1..5u64, prop::collection::vec((0..2i32, bytes()), 0..5));
        let row = row.prop_map(|(from, term, all)| {
            let one =
                |(index, (kind, data))| LogEntry { kind, term, index, data, ..Default::default() };
            (from..).zip(all).map(one).collect::<Vec<_>>()
        });
        prop_oneof![prop::collection::vec(any, 0..4), row]
    }

    fn snapshot() -> impl Strategy<Value = Option<Snapshot>> {
        let ids = || prop::collection::vec(0..5u64, 0..5);
        let some = (number(), number(), ids(), ids());
        let some = some.prop_map(|(index, term, voters, learners)| {
            Some(Snapshot { index, term, voters, learners, data: Vec::new() })
        });
        prop_oneof![Just(None), some]
    }

    prop_compose! {
        fn message()(
            kind in -1..21i32, to in prop_oneof![9 => Just(1u64), 1 => number()], from in 0..6u64,
            numbers in [number(), number(), number(), number(), number(), number()],
            entries in entries(), snapshot in snapshot(),
            odd in prop_oneof![5 => Just(0u64), 1 => number()],
            reject in any::<bool>(),
            context in prop_oneof![5 => Just(Vec::new()), 1 => bytes(), 1 => Just(b"CampaignTransfer".to_vec())],
            bare in any::<bool>(),
        ) -> RaftMessage {
            let [term, log_term, index, commit, commit_term, reject_hint] = numbers;
            let mut message = RaftMessage {
                kind, to, from, term, log_term, index, entries, commit, commit_term, snapshot,
                request_snapshot: odd, reject, reject_hint, context, priority: odd as i64,
            };
            if bare {
                // As its kind is, so that more than a few get past the first look.
                if ![codec::PROPOSE, codec::APPEND].contains(&kind) {
                    message.entries.clear();
                }
                if kind != codec::SNAPSHOT {
                    message.snapshot = None;
                }
                if kind == codec::PROPOSE {
                    message.term = 0;
                }
                (message.request_snapshot, message.priority) = (0, 0);
            }
            message
        }
    }

    /// What happens to a node between messages.
    #[derive(Clone, Debug)]
    enum Step {
        Message(Box<RaftMessage>),
        Ticks(u8),
        Disk,
        Restart,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            12 => message().prop_map(|m| Step::Message(Box::new(m))),
            3 => (1..20u8).prop_map(Step::Ticks),
            3 => Just(Step::Disk),
            1 => Just(Step::Restart),
        ]
    }

    struct Machine {
        node: Consensus,
        disk: Persisted,
        unwritten: Vec<(u64, crate::wire::Persist)>,
    }

    impl Machine {
        fn pump(&mut self) {
            while let Some(batch) = self.node.take() {
                self.unwritten.extend(batch.persist);
                for entry in batch.committed {
                    self.node.apply_change(&entry, entry.index.number() % 3 != 0);
                    self.node.applied(entry.index);
                }
            }
        }

        fn write(&mut self) {
            for (number, persist) in std::mem::take(&mut self.unwritten) {
                let stay = persist.keeps();
                self.disk.entries.retain(|e| stay.contains(&e.index));
                self.disk.entries.extend(persist.entries);
                self.disk.snapshot = persist.snapshot.unwrap_or(self.disk.snapshot.clone());
                self.disk.hard_state = persist.hard_state.unwrap_or(self.disk.hard_state.clone());
                self.node.persisted(number);
            }
        }
    }

    fn run(steps: Vec<Step>, disk: Persisted) -> usize {
        let node = Consensus::new(NodeId(1), 0, 100, &disk);
        let mut machine = Machine { node, disk, unwritten: Vec::new() };
        let mut passed = 0;
        for step in steps {
            match step {
                Step::Message(message) => {
                    passed += usize::from(machine.node.step(&message).is_ok());
                }
                Step::Ticks(count) => (0..count).for_each(|_| machine.node.tick()),
                Step::Disk => machine.write(),
                Step::Restart => {
                    machine.unwritten.clear();
                    assert_eq!(crate::voter::consensus::disk::sound(&machine.disk), Ok(()));
                    machine.node = Consensus::new(NodeId(1), 0, 100, &machine.disk);
                }
            }
            machine.pump();
        }
        passed
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

        #[test]
        fn no_message_stops_a_member(steps in prop::collection::vec(step(), 1..40)) {
            run(steps, kept());
        }

        #[test]
        fn nor_one_that_waits_for_the_log(steps in prop::collection::vec(step(), 1..30)) {
            run(steps, Persisted::default());
        }

        /// A leader of one: everything it hears is of nodes that its log does not name.
        #[test]
        fn nor_a_leader(steps in prop::collection::vec(step(), 1..30)) {
            let mut disk = kept();
            disk.snapshot.voters = vec![1];
            let first = [Step::Ticks(20), Step::Disk, Step::Ticks(20), Step::Disk];
            run(first.into_iter().chain(steps).collect(), disk);
        }
    }

    #[test]
    fn what_honest_members_send_passes() {
        let node = Consensus::new(NodeId(1), 0, 100, &kept());
        let m = |kind, term| RaftMessage { kind, to: 1, from: 2, term, ..RaftMessage::default() };
        let passes = |m: &RaftMessage| node.admits(m).is_ok();
        assert!(passes(&RaftMessage { commit: 6, ..m(codec::HEARTBEAT, 3) }));
        assert!(!passes(&RaftMessage { commit: 7, ..m(codec::HEARTBEAT, 3) }), "it has no 7");
        assert!(passes(&RaftMessage { commit: 7, ..m(codec::HEARTBEAT, 2) }), "nobody looks");
        let after = |index, log_term, all: &[(u64, u64)]| RaftMessage {
            index,
            log_term,
            entries: all
                .iter()
                .map(|(index, term)| LogEntry { index: *index, term: *term, ..Default::default() })
                .collect(),
            ..m(codec::APPEND, 3)
        };
        assert!(passes(&after(6, 2, &[(7, 3), (8, 3)])));
        assert!(passes(&after(5, 2, &[(6, 3)])), "6 is not committed");
        assert!(passes(&after(90, 3, &[])), "a probe");
        assert!(!passes(&after(4, 1, &[(5, 3)])), "5 is");
        assert!(!passes(&after(6, 2, &[(8, 3)])), "a gap");
        assert!(!passes(&after(9, 0, &[(10, 3)])), "a term of 0 fits what is not there");
        let state = |voters: Vec<u64>| RaftMessage {
            snapshot: Some(Snapshot { index: 9, term: 3, voters, ..Snapshot::default() }),
            ..m(codec::SNAPSHOT, 3)
        };
        assert!(
            passes(&state(vec![1, 2])) && !passes(&state(vec![])) && !passes(&state(vec![1, 1]))
        );
        assert!(!passes(&m(codec::VOTE, u64::MAX)) && passes(&m(codec::VOTE, 4)));
    }
}
