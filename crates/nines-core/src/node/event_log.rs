//! Events on their way into the event log.
//!
//! What is sent to a leader that falls, or is lost on its way, is written again: an election is
//! what events tell of.
//!
//! Decides: when they are written and written again, and how many go into one entry.

use std::net::IpAddr;

use nines_model::{Codes as _, Millis, NodeId, Time};
use prost::Message as _;

use super::Node;
use crate::{
    event_log::EventKind,
    feature_level::EVENTS_ONCE,
    wire::{LogEvent, LogEvents, command::Kind},
};

/// Bytes of events in one entry: it must fit a datagram. Leases do not hang on TCP, nor does the
/// log.
const ENTRY_BYTES: usize = 900;
/// Events that wait. Without a leader for so long, more are only in the machine's own log.
const WAITING_MAX: usize = 200;
/// Events of so long a time share their entries.
const TOGETHER: Millis = Millis(20);
/// When events are written again that found no leader.
const AGAIN: Millis = Millis(200);
/// When events are written again that a leader got, and the log did not.
const LOST: Millis = Millis(2_000);

/// Events that are not in the log yet.
#[derive(Default)]
pub(super) struct Unrecorded {
    events: Vec<LogEvent>,
    /// They are not written before.
    after: Time,
    /// On their way.
    written: Vec<Written>,
}

/// Events that a leader was sent.
struct Written {
    /// Number of their command.
    number: u64,
    at: Time,
    /// Who led, and in which term.
    leader: (NodeId, u64),
    events: Vec<LogEvent>,
}

impl Unrecorded {
    /// A command of this node is in the log.
    pub(super) fn applied(&mut self, number: u64) {
        self.written.retain(|written| written.number != number);
    }

    /// Takes back what may be lost: another node leads, or a long time has passed.
    fn take_back(&mut self, now: Time, leader: (NodeId, u64)) {
        let lost = |of: &mut Written| of.leader != leader || now.since(of.at) >= LOST.ns();
        let lost: Vec<LogEvent> =
            self.written.extract_if(.., lost).flat_map(|of| of.events).collect();
        self.events.splice(0..0, lost);
    }
}

impl Node {
    /// Records an event about a VIP, caused by what last happened to that.
    pub(super) fn record_vip_event(
        &mut self,
        now: Time,
        vip: IpAddr,
        kind: EventKind,
        text: String,
    ) {
        let subject = self.state.spec.vip_name(vip);
        let cause = self.cause_of(vip);
        self.record_event(now, kind, subject, text, "auto", cause);
    }

    /// Records an event: in the machine's own log at once, and in the event log of the cluster.
    pub(super) fn record_event(
        &mut self,
        now: Time,
        kind: EventKind,
        subject: String,
        text: String,
        actor: &str,
        cause: String,
    ) {
        self.log(text.clone());
        let written: usize = self.unrecorded.written.iter().map(|of| of.events.len()).sum();
        if self.unrecorded.events.len() + written < WAITING_MAX {
            self.unrecorded.events.push(LogEvent {
                at_ms: self.wall_ms(now),
                node: self.config.name.to_string(),
                kind: kind.code().into(),
                subject,
                text,
                actor: actor.into(),
                cause,
            });
        }
    }

    /// Writes the events that wait.
    pub(super) fn flush_events(&mut self, now: Time) {
        if now < self.unrecorded.after {
            return;
        }
        let consensus = self.voter.consensus();
        let leader = consensus.leader().map(|leader| (leader, consensus.term()));
        if let Some(leader) = leader {
            self.unrecorded.take_back(now, leader);
        }
        if self.unrecorded.events.is_empty() {
            return;
        }
        self.unrecorded.after = now.plus(TOGETHER);
        while !self.unrecorded.events.is_empty() {
            let mut size = 0;
            let fits = |told: &&LogEvent| {
                size += told.encoded_len() + 3;
                size <= ENTRY_BYTES
            };
            let count = self.unrecorded.events.iter().take_while(fits).count().max(1);
            let told = self.unrecorded.events[..count].to_vec();
            let number = self.write_own(now, Kind::LogEvents(LogEvents { told }), String::new());
            let (Some(number), Some(leader)) = (number, leader) else {
                self.unrecorded.after = now.plus(AGAIN);
                break;
            };
            let events = self.unrecorded.events.drain(..count).collect();
            if self.state.members.feature_level() >= EVENTS_ONCE {
                self.unrecorded.written.push(Written { number, at: now, leader, events });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_leader_may_have_lost_is_taken_back_in_its_order() {
        let event = |text: &str| LogEvent { text: text.into(), ..LogEvent::default() };
        let lb1 = (NodeId(1), 3);
        let at = |ms| Time(Millis(ms).ns());
        let written =
            |number, text| Written { number, at: at(0), leader: lb1, events: vec![event(text)] };
        let texts = |of: &Unrecorded| of.events.iter().map(|e| e.text.clone()).collect::<Vec<_>>();
        for (now, leader) in [(at(20), (NodeId(2), 4)), (at(20), (NodeId(1), 4)), (at(2_000), lb1)]
        {
            let mut events = Unrecorded { events: vec![event("d")], ..Unrecorded::default() };
            events.written = vec![written(7, "a"), written(8, "b"), written(9, "c")];
            events.take_back(at(1_999), lb1);
            assert_eq!(texts(&events), ["d"], "they are on their way");
            events.applied(8);
            events.take_back(now, leader);
            assert_eq!(texts(&events), ["a", "c", "d"]);
            assert!(events.written.is_empty());
        }
    }
}
