//! What commands add to the event log.
//!
//! Decides: what an event says of the command that led to it. No event is refused: a node tells
//! what it saw.

use nines_model::Codes as _;

use super::{Entry, State};
use crate::{
    event_log::EventKind,
    feature_level,
    wire::{LogEvent, LogEvents},
};

/// An event that a command leads to.
pub(super) struct Event {
    /// Kind of the event.
    pub kind: EventKind,
    /// Name of the node, VIP, server or config that it is about.
    pub subject: String,
    /// What happened, as a sentence.
    pub text: String,
}

impl State {
    /// Adds an event with the time, the node, the actor and the cause of its command.
    pub(super) fn commit_event(&mut self, entry: Entry<'_>, event: Event) {
        let Entry { index, place, command } = entry;
        let node = self.members.get(&command.node()).map_or_else(String::new, |m| m.name.clone());
        let told = LogEvent {
            at_ms: command.at_ms,
            node,
            kind: event.kind.code().into(),
            subject: event.subject,
            text: event.text,
            actor: command.actor.clone(),
            cause: command.cause.clone(),
        };
        self.story.push(index, place, told);
    }

    /// Adds events as a node wrote them, but for those that it wrote twice: it cannot know whether
    /// what it sent to a leader was lost.
    pub(super) fn commit_events(&mut self, entry: Entry<'_>, events: &LogEvents) {
        let once = self.members.feature_level() >= feature_level::EVENTS_ONCE;
        for (place, told) in events.told.iter().enumerate() {
            if !(once && self.story.has_lately(told)) {
                self.story.push(entry.index, place, told.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use nines_model::LogIndex;

    use super::*;
    use crate::{
        state::Members,
        wire::{Command, Member},
    };

    #[test]
    fn an_event_names_its_command_and_its_place_in_the_log() {
        let member = Member { id: 2, name: "lb2".into(), ..Member::default() };
        let mut state = State::founded("".into(), Arc::default(), [member]);
        for (node, name) in [(2, "lb2"), (7, "")] {
            let (actor, cause) = ("alice@lb1".to_owned(), "3.0".to_owned());
            let command = Command { node, at_ms: 9, actor, cause, ..Command::default() };
            let entry = Entry { index: LogIndex(5), place: 1, command: &command };
            let (subject, text) = ("web".to_owned(), "web moved".to_owned());
            state.commit_event(entry, Event { kind: EventKind::Move, subject, text });
            let event = state.story.iter().next_back().unwrap();
            assert_eq!((event.id.as_str(), event.node.as_str()), ("5.1", name));
            assert_eq!((event.kind.is(EventKind::Move), event.at_ms), (true, 9));
            assert_eq!((event.actor.as_str(), event.cause.as_str()), ("alice@lb1", "3.0"));
        }
    }

    #[test]
    fn events_of_a_node_are_numbered_in_their_order() {
        let mut state = State::default();
        let told = ["a", "b"].map(|text| LogEvent { text: text.into(), ..LogEvent::default() });
        let command = Command::default();
        let entry = Entry { index: LogIndex(8), place: 0, command: &command };
        state.commit_events(entry, &LogEvents { told: told.to_vec() });
        let ids: Vec<(&str, &str)> =
            state.story.iter().map(|e| (e.id.as_str(), e.text.as_str())).collect();
        assert_eq!(ids, [("8.0", "a"), ("8.1", "b")]);
    }

    #[test]
    fn an_event_that_was_written_twice_counts_once_from_its_feature_level_on() {
        for level in [feature_level::EVENTS_ONCE - 1, feature_level::EVENTS_ONCE] {
            let members = Members::restored(vec![], vec![], Default::default(), level);
            let mut state = State { members, ..State::default() };
            let told = ["a", "b"].map(|text| LogEvent { text: text.into(), ..LogEvent::default() });
            for (index, from) in [(8, 0), (9, 1)] {
                let command = Command::default();
                let entry = Entry { index: LogIndex(index), place: 0, command: &command };
                state.commit_events(entry, &LogEvents { told: told[from..].to_vec() });
            }
            let twice = usize::from(level < feature_level::EVENTS_ONCE);
            assert_eq!(state.story.iter().count(), 2 + twice);
        }
    }
}
