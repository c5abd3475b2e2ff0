//! What happened, for people: a bounded list, the same on all nodes, each entry with its cause.
//!
//! Decides: the kinds of events, and which of them belong to a question.

use std::collections::{BTreeMap, VecDeque, btree_map::Entry};

use nines_model::{Coded, LogIndex, codes};

use crate::{membership::quarantine, wire::LogEvent};

/// Number of events that the log keeps; the oldest go first.
pub const KEPT_MAX: usize = 10_000;
/// An event that is written twice is looked for among so many.
const LATELY: usize = 1_000;

codes! {
    /// What kind of thing happened. Log and snapshot hold its code.
    pub enum EventKind {
        /// A config came into force.
        Config = "config",
        /// A VIP was given to a node; nobody alive held it.
        Failover = "failover",
        /// The holder of a VIP was asked to hand it to another node.
        Move = "move",
        /// The holder has stopped, and the VIP is the next node's.
        Moved = "moved",
        /// An operator asked for a move.
        MoveRequest = "wish",
        /// A node joined the cluster.
        Join = "join",
        /// A node left the cluster for good.
        Leave = "leave",
        /// A member is to leave the cluster.
        Remove = "remove",
        /// A member that was to leave stays.
        Keep = "keep",
        /// The feature level of the cluster was raised.
        FeatureLevel = "feature-level",
        /// A server was set to drain.
        Drain = "drain",
        /// A drain was ended.
        Undrain = "undrain",
        /// A node was set to standby.
        Standby = "standby",
        /// A standby was ended.
        Ready = "ready",
        /// The leader hears a node no more.
        HeartbeatLost = "beat-lost",
        /// The leader hears a node again.
        HeartbeatBack = "beat-back",
        /// A node is heard again whose silence was its own. One that comes back again and again is
        /// quarantined (`node/quarantine.rs`).
        Returned = "returned",
        /// Large frames of a node do not arrive, though its heartbeats do.
        LargeLost = "large-lost",
        /// They arrive again.
        LargeBack = "large-back",
        /// A node votes no more.
        NoVote = "no-vote",
        /// Two agents run under one identity.
        TwoIncarnations = "two-lives",
        /// A card cannot serve VIPs.
        CardDown = "card-down",
        /// A card can serve its VIPs again.
        CardUp = "card-up",
        /// The holder has added and announced the address of a VIP.
        AddressAdded = "address-added",
        /// The address of a VIP was removed.
        AddressRemoved = "address-removed",
        /// The address of a VIP could not be added or removed.
        AddressFailed = "address-failed",
        /// The address of a VIP was gone and was put back.
        AddressRestored = "address-restored",
        /// The deadline of a VIP could not be written to the kernel.
        GuardFailed = "guard-failed",
        /// The first packet of a client after a takeover was forwarded.
        FirstPacket = "first-packet",
        /// A server is up by its check.
        CheckUp = "check-up",
        /// A server is down by its check.
        CheckDown = "check-down",
        /// A node is to be switched off or on, or its fence devices are tried.
        Fence = "fence",
        /// A fence device has switched a node, or a person has seen that it is off.
        Fenced = "fenced",
        /// A fence device could not do what it was asked.
        FenceFailed = "fence-failed",
        /// A token of the API was made or revoked.
        Token = "token",
        /// The cluster was formed anew from a backup.
        NewGeneration = "new-generation",
        /// A remark that explains nothing.
        Note = "note",
    }
}

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub struct LoggedEvent {
    /// "57.0": log index and place in the entry.
    pub id: String,
    /// Wall clock, ms since 1970.
    pub at_ms: u64,
    /// Node that saw it.
    pub node: String,
    /// What kind of thing happened.
    pub kind: Coded<EventKind>,
    /// What it is about.
    pub subject: String,
    /// A sentence.
    pub text: String,
    /// "auto", "check", "alice@lb1".
    pub actor: String,
    /// Id of the event that led to it; empty: none known.
    pub cause: String,
}

impl LoggedEvent {
    /// The event with this id, as the log has it.
    pub fn read(id: String, event: LogEvent) -> Self {
        let LogEvent { at_ms, node, kind, subject, text, actor, cause } = event;
        Self { id, at_ms, node, kind: Coded::read(kind), subject, text, actor, cause }
    }
}

impl From<&LoggedEvent> for LogEvent {
    fn from(event: &LoggedEvent) -> Self {
        Self {
            at_ms: event.at_ms,
            node: event.node.clone(),
            kind: event.kind.code().to_owned(),
            subject: event.subject.clone(),
            text: event.text.clone(),
            actor: event.actor.clone(),
            cause: event.cause.clone(),
        }
    }
}

/// All of them, oldest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EventLog {
    events: VecDeque<LoggedEvent>,
    /// By node: id and time of each return since it was last quiet. It follows from the events that
    /// are kept, whichever went before.
    returns: BTreeMap<String, VecDeque<(String, u64)>>,
}

impl EventLog {
    /// Adds one.
    pub fn push(&mut self, index: LogIndex, place: usize, event: LogEvent) {
        if self.events.len() == KEPT_MAX {
            let gone = self.events.pop_front();
            self.forget_return(gone.expect("the list is full"));
        }
        self.restore(LoggedEvent::read(format!("{index}.{place}"), event));
    }

    /// Adds one that comes with its id.
    pub fn restore(&mut self, event: LoggedEvent) {
        if event.kind.is(EventKind::Ready) {
            self.returns.remove(&event.subject);
        } else if event.kind.is(EventKind::Returned) {
            let returns = self.returns.entry(event.subject.clone()).or_default();
            let quiet = |(_, last): &(String, u64)| {
                event.at_ms.saturating_sub(*last) >= quarantine::FORGOTTEN.0
            };
            if returns.back().is_some_and(quiet) {
                returns.clear();
            }
            returns.push_back((event.id.clone(), event.at_ms));
        }
        self.events.push_back(event);
    }

    fn forget_return(&mut self, gone: LoggedEvent) {
        if let Entry::Occupied(mut returns) = self.returns.entry(gone.subject)
            && returns.get().front().is_some_and(|(id, _)| *id == gone.id)
        {
            returns.get_mut().pop_front();
            if returns.get().is_empty() {
                returns.remove();
            }
        }
    }

    /// How often a node came back from a silence of its own, since a person last set it ready or it
    /// was quiet for an hour; and when it last did, by the wall clock of who told it, ms.
    pub fn returns(&self, node: &str) -> Option<(usize, u64)> {
        let returns = self.returns.get(node)?;
        let mut last: Option<u64> = None;
        let another = |(_, at_ms): &&(String, u64)| {
            let before = last.replace(*at_ms);
            before.is_none_or(|before| at_ms.abs_diff(before) >= quarantine::ONE_RETURN.0)
        };
        let count = returns.iter().filter(another).count();
        returns.back().map(|(_, at_ms)| (count, *at_ms))
    }

    /// Whether this event is among the newest.
    pub fn has_lately(&self, told: &LogEvent) -> bool {
        let mut newest = self.events.iter().rev().take(LATELY);
        newest.any(|event| event.at_ms == told.at_ms && LogEvent::from(event) == *told)
    }

    /// All events, the oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &LoggedEvent> {
        self.events.iter()
    }

    /// The event with this id.
    pub fn find(&self, id: &str) -> Option<&LoggedEvent> {
        self.events.iter().rev().find(|e| e.id == id)
    }

    /// The newest event of one of these kinds about a subject.
    pub fn newest(&self, kinds: &[EventKind], subject: &str) -> Option<&LoggedEvent> {
        let wanted =
            |e: &&LoggedEvent| e.subject == subject && kinds.iter().any(|kind| e.kind.is(*kind));
        self.events.iter().rev().find(wanted)
    }

    /// The event with this id and what led to it, the first cause first. Bounded, because a cause
    /// always came before.
    pub fn path(&self, id: &str) -> Vec<&LoggedEvent> {
        let mut path: Vec<&LoggedEvent> = Vec::new();
        let mut next = self.find(id);
        while let Some(event) = next {
            if path.iter().any(|known| known.id == event.id) {
                break;
            }
            path.push(event);
            next = self.find(&event.cause);
        }
        path.reverse();
        path
    }

    /// An event with what led to it, and what it led to for these subjects; oldest first. The chain
    /// begins with a command or with what was seen: that has no cause.
    pub fn around(&self, id: &str, subjects: &[String]) -> Vec<&LoggedEvent> {
        let mut chain = self.path(id);
        for event in &self.events {
            let follows = chain.iter().any(|c| c.id == event.cause);
            let known = chain.iter().any(|c| c.id == event.id);
            if follows && !known && subjects.contains(&event.subject) {
                chain.push(event);
            }
        }
        chain
    }

    /// The newest event about one of these subjects, with what led to it and what came of it.
    pub fn why(&self, subjects: &[String]) -> Vec<&LoggedEvent> {
        let about = |e: &&LoggedEvent| subjects.contains(&e.subject) && !e.kind.is(EventKind::Note);
        let newest = self.events.iter().rev().find(about);
        newest.map_or_else(Vec::new, |event| self.around(&event.id, subjects))
    }
}

#[cfg(test)]
mod tests {
    use nines_model::Codes as _;

    use super::*;

    #[test]
    fn why_walks_to_the_first_cause_and_back() {
        let mut c = EventLog::default();
        let told = |subject: &str, cause: &str| LogEvent {
            subject: subject.into(),
            cause: cause.into(),
            kind: EventKind::Failover.code().into(),
            ..LogEvent::default()
        };
        c.push(LogIndex(1), 0, told("r3", ""));
        c.push(LogIndex(2), 0, told("lb1", ""));
        c.push(LogIndex(3), 0, told("web", "2.0"));
        c.push(LogIndex(4), 0, told("web", "3.0"));
        c.push(LogIndex(5), 0, told("r1", ""));
        let ids = |chain: Vec<&LoggedEvent>| -> Vec<String> {
            chain.iter().map(|e| e.id.clone()).collect()
        };
        assert_eq!(ids(c.why(&["web".into()])), ["2.0", "3.0", "4.0"]);
        assert_eq!(ids(c.why(&["r3".into()])), ["1.0"]);
        // What lb1's end led to elsewhere is not web's story.
        c.push(LogIndex(6), 0, told("dns", "2.0"));
        assert_eq!(ids(c.why(&["web".into()])), ["2.0", "3.0", "4.0"]);
        assert_eq!(ids(c.path("4.0")), ["2.0", "3.0", "4.0"]);
        assert_eq!(c.newest(&[EventKind::Failover], "web").unwrap().id, "4.0");
        assert!(c.why(&["nobody".into()]).is_empty());
        // A remark is no answer; what a newer version tells is one.
        let of = |kind: &str| LogEvent { kind: kind.into(), ..told("web", "") };
        c.push(LogIndex(7), 0, of("note"));
        assert_eq!(ids(c.why(&["web".into()])), ["2.0", "3.0", "4.0"]);
        c.push(LogIndex(8), 0, of("note-of-a-newer-version"));
        assert_eq!(ids(c.why(&["web".into()])), ["8.0"]);
        assert_eq!(LogEvent::from(c.find("8.0").unwrap()).kind, "note-of-a-newer-version");
    }

    #[test]
    fn returns_follow_from_the_events_that_are_kept() {
        let told = |kind: EventKind, minute: u64| LogEvent {
            subject: "lb1".into(),
            kind: kind.code().into(),
            at_ms: minute * 60_000,
            ..LogEvent::default()
        };
        let mut log = EventLog::default();
        let mut tell = |index, kind, minute| {
            log.push(LogIndex(index), 0, told(kind, minute));
            log.returns("lb1").map_or(0, |(count, _)| count)
        };
        use EventKind::{HeartbeatBack, HeartbeatLost, Ready, Returned};
        assert_eq!(tell(1, HeartbeatBack, 0), 0, "heard for the first time");
        assert_eq!(tell(2, Returned, 1), 1);
        assert_eq!(tell(3, HeartbeatLost, 2), 1);
        assert_eq!(tell(4, Returned, 60), 2);
        assert_eq!(tell(5, Returned, 120), 1, "an hour was quiet");
        assert_eq!(tell(6, Returned, 121), 2);
        assert_eq!(tell(7, Ready, 122), 0, "a person ended it");
        assert_eq!(tell(8, Returned, 123), 1);
        assert_eq!(tell(9, Returned, 3), 2, "a wall clock that is behind makes nothing quiet");
        assert_eq!(tell(10, Returned, 3), 2, "two tell of the same return");
        // Whichever events went, the rest says the same to a node that gets it as a snapshot.
        for index in 11..=(KEPT_MAX as u64 + 10) {
            log.push(LogIndex(index), 0, LogEvent::default());
            let mut restored = EventLog::default();
            if index > KEPT_MAX as u64 {
                log.iter().cloned().for_each(|event| restored.restore(event));
                assert_eq!(restored, log, "{index}");
            }
        }
        assert_eq!(log.returns("lb1"), None);
    }

    #[test]
    fn codes_of_kinds_stay_as_logs_have_them() {
        let codes: Vec<&str> = EventKind::ALL.iter().map(|kind| kind.code()).collect();
        let words = "config failover move moved wish join leave remove keep feature-level drain \
                     undrain standby ready beat-lost beat-back returned large-lost large-back no-vote \
                     two-lives card-down card-up \
                     address-added address-removed address-failed address-restored guard-failed \
                     first-packet check-up check-down fence fenced fence-failed token new-generation \
                     note";
        assert_eq!(codes.join(" "), words);
    }
}
