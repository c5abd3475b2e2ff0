//! What happened, for people: a bounded list, the same on all nodes, each entry with its cause.

use std::collections::VecDeque;

use crate::wire::LogEvent;

/// Number of events that the log keeps; the oldest go first.
pub const KEPT_MAX: usize = 10_000;

/// One event of the log, with its id.
#[derive(Clone, Debug, PartialEq)]
pub struct LoggedEvent {
    /// "57.0": log index and place in the entry.
    pub id: String,
    /// What happened, when, to what and why.
    pub told: LogEvent,
}

/// All of them, oldest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EventLog {
    events: VecDeque<LoggedEvent>,
}

impl EventLog {
    /// Adds an event of the log entry `index`, `place` being its place in that entry.
    pub fn push(&mut self, index: u64, place: usize, told: LogEvent) {
        if self.events.len() == KEPT_MAX {
            self.events.pop_front();
        }
        self.events.push_back(LoggedEvent { id: format!("{index}.{place}"), told });
    }

    /// Adds one that comes with its id.
    pub fn restore(&mut self, event: LoggedEvent) {
        self.events.push_back(event);
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
    pub fn newest(&self, kinds: &[&str], subject: &str) -> Option<&LoggedEvent> {
        let wanted =
            |e: &&LoggedEvent| e.told.subject == subject && kinds.contains(&e.told.kind.as_str());
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
            next = self.find(&event.told.cause);
        }
        path.reverse();
        path
    }

    /// An event with what led to it, and what it led to for these subjects; oldest first. The chain
    /// begins with a command or with what was seen: that has no cause.
    pub fn around(&self, id: &str, subjects: &[String]) -> Vec<&LoggedEvent> {
        let mut chain = self.path(id);
        for event in &self.events {
            let follows = chain.iter().any(|c| c.id == event.told.cause);
            let known = chain.iter().any(|c| c.id == event.id);
            if follows && !known && subjects.contains(&event.told.subject) {
                chain.push(event);
            }
        }
        chain
    }

    /// The newest event about one of these subjects, with what led to it and what came of it.
    pub fn why(&self, subjects: &[String]) -> Vec<&LoggedEvent> {
        let about = |e: &&LoggedEvent| {
            subjects.contains(&e.told.subject) && !e.told.kind.starts_with("note")
        };
        let newest = self.events.iter().rev().find(about);
        newest.map_or_else(Vec::new, |event| self.around(&event.id, subjects))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_walks_to_the_first_cause_and_back() {
        let mut c = EventLog::default();
        let told = |subject: &str, cause: &str| LogEvent {
            subject: subject.into(),
            cause: cause.into(),
            kind: "k".into(),
            ..LogEvent::default()
        };
        c.push(1, 0, told("r3", ""));
        c.push(2, 0, told("lb1", ""));
        c.push(3, 0, told("web", "2.0"));
        c.push(4, 0, told("web", "3.0"));
        c.push(5, 0, told("r1", ""));
        let ids = |chain: Vec<&LoggedEvent>| -> Vec<String> {
            chain.iter().map(|e| e.id.clone()).collect()
        };
        assert_eq!(ids(c.why(&["web".into()])), ["2.0", "3.0", "4.0"]);
        assert_eq!(ids(c.why(&["r3".into()])), ["1.0"]);
        // What lb1's end led to elsewhere is not web's story.
        c.push(6, 0, told("dns", "2.0"));
        assert_eq!(ids(c.why(&["web".into()])), ["2.0", "3.0", "4.0"]);
        assert_eq!(ids(c.path("4.0")), ["2.0", "3.0", "4.0"]);
        assert_eq!(c.newest(&["k"], "web").unwrap().id, "4.0");
        assert!(c.why(&["nobody".into()]).is_empty());
    }
}
