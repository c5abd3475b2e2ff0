//! Configs are read on another thread before this one needs them.
//!
//! Decides: which entries wait. An entry with a config is appended and acknowledged at once; it is
//! applied when its text has been read, and what follows it waits behind it. A state that replaces
//! the log is kept from the consensus until its config has been read: to the consensus that is a
//! slow network.

use std::{collections::VecDeque, sync::Arc};

use nines_model::{LogIndex, Millis, Time};

use super::Node;
use crate::{
    action::Action,
    configs::{Config, Configs},
    edit::Edit,
    peek,
    state::State,
    voter::consensus::Committed,
    wire::{Persisted, RaftMessage},
};

/// Nobody reads for so long: then it is read here.
const PATIENCE: Millis = Millis(10_000);

/// What was read and what waits for it.
#[derive(Default)]
pub(super) struct ReadAhead {
    pub configs: Configs,
    /// Asked of another thread, and when.
    asked: Vec<(Arc<str>, Time)>,
    /// Applied since the log was cut for its size: what a start has to go through.
    pub bytes: usize,
    /// Committed, not applied yet.
    pub entries: VecDeque<Committed>,
    /// The first of them waits for its config, this long at most: nobody looks into megabytes with
    /// every event to find that out again.
    first_waits: Option<(LogIndex, Time)>,
    /// States in place of a log.
    states: Vec<RaftMessage>,
}

impl ReadAhead {
    /// Whether nobody has to wait for this text. If somebody has, it is asked for.
    fn is_read(&mut self, now: Time, text: &str, actions: &mut Vec<Action>) -> bool {
        if self.configs.known(text).is_some() {
            return true;
        }
        match self.asked.iter().find(|(asked, _)| **asked == *text) {
            Some((_, since)) => now.since(*since) > PATIENCE.ns(),
            None => {
                let text: Arc<str> = text.into();
                match self.configs.find(&text) {
                    Ok(_) => return true,
                    Err(unread) => actions.push(Action::Read(unread)),
                }
                self.asked.push((text, now));
                false
            }
        }
    }

    /// Longest lease and restart of any config that this node may have gone by: that of the
    /// snapshot, and those in the log after it. What was promised by earlier ones is on the disk
    /// beside the snapshot (`voter/promise_bound.rs`).
    pub fn longest_timing(&mut self, state: &State, kept: &Persisted) -> (Millis, Millis) {
        let mut at = state.following();
        let mut longest = (at.spec.timing.lease, at.spec.timing.restart);
        for entry in kept.entries.iter().filter(|entry| entry.index > kept.snapshot.index) {
            if at.follow(&entry.data, |text| self.configs.get(text)) {
                longest.0 = longest.0.max(at.spec.timing.lease);
                longest.1 = longest.1.max(at.spec.timing.restart);
            }
        }
        longest
    }

    /// Whether nobody has to wait for the config that this command applies after the one in force.
    fn is_next_read(
        &mut self,
        now: Time,
        in_force: &State,
        command: &[u8],
        actions: &mut Vec<Action>,
    ) -> bool {
        let edit = Edit::of_command(command);
        let text = edit.and_then(|edit| edit.whole(in_force.revision, &in_force.text));
        // One that does not fit is refused without being read.
        text.is_none_or(|text| self.is_read(now, &text, actions))
    }

    /// The next committed entry, if it may be applied.
    pub fn next(
        &mut self,
        now: Time,
        in_force: &State,
        actions: &mut Vec<Action>,
    ) -> Option<Committed> {
        let first = self.entries.pop_front()?;
        let known = self.first_waits.filter(|(index, until)| *index == first.index && now < *until);
        let waits = known.is_some() || !self.is_next_read(now, in_force, &first.command, actions);
        if waits {
            self.first_waits = known.or(Some((first.index, now.plus(PATIENCE))));
            self.entries.push_front(first);
            return None;
        }
        Some(first)
    }
}

impl Node {
    /// What a text says, if it was read.
    pub fn configs(&self) -> &Configs {
        &self.read_ahead.configs
    }

    /// Another thread has read a config.
    pub(super) fn was_read(&mut self, now: Time, config: Arc<Config>) {
        self.read_ahead.asked.retain(|(text, _)| *text != config.text);
        self.read_ahead.configs.put(config);
        self.read_ahead.first_waits = None;
        for message in std::mem::take(&mut self.read_ahead.states) {
            self.log_message(now, message);
        }
    }

    /// Has the configs in a message read; gives the message back if it need not wait for that.
    pub(super) fn read_ahead(&mut self, now: Time, message: RaftMessage) -> Option<RaftMessage> {
        for entry in &message.entries {
            self.read_ahead.is_next_read(now, &self.state, &entry.data, &mut self.actions);
        }
        let Some(state) = &message.snapshot else { return Some(message) };
        let text = peek::config_of_state(&state.data).unwrap_or_default();
        if self.read_ahead.is_read(now, text, &mut self.actions) {
            return Some(message);
        }
        // One a sender; the newest.
        self.read_ahead.states.retain(|waits| waits.from != message.from);
        self.read_ahead.states.push(message);
        None
    }

    /// Applies what is committed and read.
    pub(super) fn apply_committed(&mut self, now: Time) -> bool {
        let mut grown = false;
        while let Some(entry) = self.next_readable(now) {
            grown |= entry.changes_member().is_some();
            self.apply(now, &entry);
            let config = peek::applies_config(&entry.command);
            self.read_ahead.bytes +=
                if config { self.state.text.len() } else { entry.command.len() };
        }
        grown
    }
}

#[cfg(test)]
mod tests {
    use nines_model::{Incarnation, NodeId};
    use prost::Message as _;

    use super::*;
    use crate::{
        Event,
        node::Config as NodeConfig,
        snapshot,
        wire::{Apply, Command, HardState, Member, Snapshot, command::Kind},
    };

    /// What a node asked of its disk, and its only voter's answers to all it asks.
    fn run(node: &mut Node, now: &mut Time, disk: &mut Persisted) {
        *now = now.plus(Millis(500));
        node.handle(*now, Event::Tick);
        loop {
            let actions = node.take_actions();
            if actions.is_empty() {
                return;
            }
            for action in actions {
                match action {
                    Action::Persist(number, persist) => {
                        let persist = *persist;
                        if let Some(state) = persist.hard_state {
                            disk.hard_state = state;
                        }
                        disk.entries.extend(persist.entries);
                        if let Some(snapshot) = persist.snapshot {
                            disk.entries.retain(|entry| entry.index > snapshot.index);
                            disk.snapshot = snapshot;
                        }
                        node.handle(*now, Event::Persisted(number));
                    }
                    Action::Read(unread) => {
                        node.handle(*now, Event::Read(Arc::new(unread.read())));
                    }
                    _ => {}
                }
            }
        }
    }

    /// Without the bound, the next start would read thousands of small changes of a large
    /// config one by one.
    #[test]
    fn a_start_reads_no_more_configs_than_fit_the_bound() {
        let text = |n: u32| -> String {
            let services = (0..10_000).map(|i| {
                let name = format!("[service.s{i}]\nlisten = \"10.0.0.100:{}\"\n", 1_000 + i);
                name + "servers = { r = \"10.0.0.11\" }\n"
            });
            let head = "[cluster]\nname = \"c\"\n[nodes]\nlb1 = \"10.0.0.2\"\n".to_owned();
            head + &services.collect::<String>() + &format!("# {n}\n")
        };
        let (first, mut configs) = (text(0), Configs::default());
        let spec = configs.get(&first).spec.clone().unwrap();
        let member = Member { id: 1, name: "lb1".into(), ..Member::default() };
        let state = State::founded(first.as_str().into(), spec, [member]);
        let data = snapshot::encode(&state);
        let mut disk = Persisted {
            hard_state: HardState { term: 1, vote: 0, commit: 1 },
            snapshot: Snapshot { index: 1, term: 1, voters: vec![1], learners: vec![], data },
            ..Persisted::default()
        };
        let config = || {
            let name = "lb1".into();
            NodeConfig {
                id: NodeId(1),
                name,
                boot: Incarnation(7),
                machine_boot: 1,
                place: 1,
                seeds: vec![],
            }
        };
        let mut now = Time(1_000_000_000);
        let mut node = Node::new(config(), now, &disk);
        (0..20).for_each(|_| run(&mut node, &mut now, &mut disk));
        let most = super::super::log::COMPACT_BYTES / first.len() + 1;
        for n in 1..=3 * most as u32 {
            let (revision, before) = (node.state.revision, Arc::clone(&node.state.text));
            let kind = Some(Kind::Apply(Apply::in_place_of(&before, &text(n), revision)));
            let command = Command { kind, ..Command::default() };
            assert!(command.encoded_len() < 100);
            node.handle(now, Event::Propose { request: u64::from(n), command });
            run(&mut node, &mut now, &mut disk);
            assert_eq!(node.state.revision, u64::from(n) + 1);
            let kept = disk.entries.iter().filter(|entry| peek::applies_config(&entry.data));
            assert!(kept.count() <= most, "{n}: {most} fit");
        }
        let again = Node::new(config(), now, &disk);
        assert_eq!(again.newest_config(), node.state.spec);
    }
}
