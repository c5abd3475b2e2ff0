//! Events on their way into the event log.
//!
//! Decides: when they are written, and how many go into one entry.

use std::net::IpAddr;

use nines_model::{Codes as _, Millis, Time};
use prost::Message as _;

use super::Node;
use crate::{
    event_log::EventKind,
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

/// Events that are not in the log yet.
#[derive(Default)]
pub(super) struct Unrecorded {
    events: Vec<LogEvent>,
    /// They are not written before.
    after: Time,
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
        if self.unrecorded.events.len() < WAITING_MAX {
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
        if self.unrecorded.events.is_empty() || now < self.unrecorded.after {
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
            if !self.propose_own(now, Kind::LogEvents(LogEvents { told }), String::new()) {
                self.unrecorded.after = now.plus(AGAIN);
                break;
            }
            self.unrecorded.events.drain(..count);
        }
    }
}
