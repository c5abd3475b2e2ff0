//! Commands on their way into the log.
//!
//! Decides: how long a proposer waits, and what it is told when nothing came of its command.

use std::collections::BTreeMap;

use nines_model::{Incarnation, Millis, Time};
use prost::Message as _;

use super::Node;
use crate::{
    action::{Action, Refusal},
    wire::{Command, command::Kind},
};

/// Least time that a proposer waits for its command.
const PATIENCE: Millis = Millis(5_000);
/// Bytes of a config that others take in, send and write in a millisecond, at the least.
const CONFIG_BYTES_PER_MS: u64 = 1_000;

/// Commands that wait for their place in the log.
pub(super) struct Proposals {
    /// The next command's number, unlike any of an earlier incarnation.
    next_number: u64,
    /// By command number: the caller's number for it, and until when it waits.
    pending: BTreeMap<u64, (u64, Time)>,
    /// Commands that wait for a leader, as long as their proposers wait.
    unwritten: Vec<Command>,
}

impl Proposals {
    pub(super) fn new(incarnation: Incarnation) -> Self {
        Self { next_number: incarnation.number(), pending: BTreeMap::new(), unwritten: Vec::new() }
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number - 1
    }

    /// The caller's number for a command of this node that has been applied.
    pub(super) fn answered(&mut self, number: u64) -> Option<u64> {
        Some(self.pending.remove(&number)?.0)
    }
}

/// How long a proposer waits for its command: the longer the config is that others have to take in
/// for it, and where they read text, be it for one piece.
fn allowance(command: &Command) -> Millis {
    let size = match &command.kind {
        Some(Kind::Apply(apply)) => apply.size(),
        Some(Kind::ApplySpec(apply)) => apply.encoded_len() as u64,
        _ => 0,
    };
    Millis(PATIENCE.0 + size / CONFIG_BYTES_PER_MS)
}

impl Node {
    /// Writes a command of somebody who waits for the answer.
    pub(super) fn propose(&mut self, now: Time, request: u64, command: Command) {
        let Some(command) = self.with_confirmation(now, request, command) else { return };
        let Some(mut command) = self.in_readable_form(now, request, command) else { return };
        command.node = self.config.id.number();
        command.number = self.proposals.number();
        command.at_ms = self.wall_ms(now);
        let limit = allowance(&command);
        self.proposals.pending.insert(command.number, (request, now.plus(limit)));
        if self.write(&command) {
            return;
        }
        if let Some(Kind::Remove(_)) = command.kind {
            // What allowed it may have changed by then.
            self.proposals.answered(command.number);
            let why = Refusal::Changed("another change of members is under way".into());
            self.actions.push(Action::Reply { request, result: Err(why) });
            return;
        }
        // An election takes a moment; it is written when somebody leads.
        self.proposals.unwritten.push(command);
    }

    /// Writes a command of this node itself. False: nobody leads.
    pub(super) fn propose_own(&mut self, now: Time, kind: Kind, cause: String) -> bool {
        self.write_own(now, kind, cause).is_some()
    }

    /// The same; tells the number of the command.
    pub(super) fn write_own(&mut self, now: Time, kind: Kind, cause: String) -> Option<u64> {
        let command = Command {
            node: self.config.id.number(),
            number: self.proposals.number(),
            at_ms: self.wall_ms(now),
            actor: "auto".into(),
            cause,
            kind: Some(kind),
        };
        self.write(&command).then_some(command.number)
    }

    /// Writes what has waited for a leader.
    pub(super) fn write_waiting(&mut self) {
        for command in std::mem::take(&mut self.proposals.unwritten) {
            if !self.write(&command) {
                self.proposals.unwritten.push(command);
            }
        }
    }

    /// Answers proposers that have waited long enough.
    pub(super) fn expire_pending(&mut self, now: Time) {
        let late: Vec<u64> = self
            .proposals
            .pending
            .iter()
            .filter(|(_, (_, at))| *at <= now)
            .map(|(n, _)| *n)
            .collect();
        for number in late {
            let (request, _) = self.proposals.pending.remove(&number).expect("listed a moment ago");
            let unwritten = self.proposals.unwritten.iter().position(|c| c.number == number);
            let why = if let Some(at) = unwritten {
                self.proposals.unwritten.remove(at);
                "no leader: fewer than a majority of nodes can be reached".to_owned()
            } else {
                "no majority answered in time; it may still be done later".to_owned()
            };
            self.actions.push(Action::Reply { request, result: Err(Refusal::NoQuorum(why)) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Apply;

    #[test]
    fn one_piece_of_a_large_config_gets_as_much_time_as_the_whole() {
        let (before, after) = ("x".repeat(8 << 20), "x".repeat(4 << 20) + &"y".repeat(4 << 20));
        let kind = |apply| Command { kind: Some(Kind::Apply(apply)), ..Command::default() };
        let whole = allowance(&kind(Apply::whole(after.clone(), 0)));
        assert!(whole > Millis(13_000), "{whole}");
        assert_eq!(allowance(&kind(Apply::in_place_of(&before, &after, 3))), whole);
        assert_eq!(allowance(&Command::default()), Millis(5_000));
    }
}
