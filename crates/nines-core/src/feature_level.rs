//! The feature level of the cluster: which forms of commands may be written.
//!
//! Decides: which level each form of a command needs, what its older form is, and which commands
//! this build cannot read. A level is a number that only grows. Each build reads all levels up to
//! its own ([`BUILD`]); builds from before there were levels are at 0. The level in force is part
//! of the replicated state ([`crate::state::Members`]). The leader raises it once every member can
//! read the next one (`node/feature_level.rs`), and nothing lowers it. So no build meets a command
//! that it would take for another one (S27).

use crate::{
    action::Refusal,
    edit::{Edit, Following},
    peek,
    wire::{Apply, command::Kind},
};

/// From this level on an [`Apply`] command may hold just the piece of the config that changed.
pub const PIECES: u32 = 1;

/// Highest level that this build reads and writes.
pub const BUILD: u32 = 1;

/// Fields of [`crate::wire::Command`] that say what it does, by number.
const KINDS: [u64; 12] = [10, 11, 12, 13, 14, 15, 16, 17, 18, 19, RAISES, 50];
/// The one that raises the level.
const RAISES: u64 = 20;

/// Lowest level at which every member takes a command for what it is.
pub fn needed(kind: &Kind) -> u32 {
    match kind {
        Kind::Apply(apply) if !apply.is_whole() => PIECES,
        Kind::FeatureLevel(raise) => raise.level,
        _ => 0,
    }
}

/// The form of a command that builds at level 0 read as well. `Ok(None)`: it has none. An error:
/// the command does not fit `following`, the config that its proposer knows to be in force.
pub fn older_form(kind: &Kind, following: &Following) -> Result<Option<Kind>, Refusal> {
    let Kind::Apply(apply) = kind else { return Ok(None) };
    let Following { revision, text, .. } = following;
    match Edit::of(apply).whole(*revision, text) {
        Some(whole) => Ok(Some(Kind::Apply(Apply::whole(whole.into_owned(), apply.expected)))),
        None => {
            let expected = apply.expected;
            let why = format!("revision {revision} is in force, not {expected}");
            Err(Refusal::Changed(why))
        }
    }
}

/// Why this build must not go on with a log that has this encoded command; `None`: it reads it.
pub fn unreadable(command: &[u8]) -> Option<String> {
    // A new leader's first entry and a promotion say nothing.
    if command.is_empty() {
        return None;
    }
    if !peek::has_any(command, &KINDS) {
        return Some(format!(
            "the log has a command that this build (nines {}, feature level {BUILD}) does not \
             know; install the version of the other nodes",
            env!("CARGO_PKG_VERSION")
        ));
    }
    let raised = peek::field(command, RAISES).and_then(|raise| peek::number(raise, 1));
    raised.and_then(|level| beyond(u32::try_from(level).unwrap_or(u32::MAX)))
}

/// Why this build must not go on at this level; `None`: it may.
pub fn beyond(level: u32) -> Option<String> {
    (level > BUILD).then(|| {
        format!(
            "the cluster is at feature level {level}, and this build (nines {}) reads up to \
             {BUILD}; install the version of the other nodes",
            env!("CARGO_PKG_VERSION")
        )
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use prost::Message as _;

    use super::*;
    use crate::wire::{self, Act, Batch, Command, Facts, FeatureLevel, Give, LogEvents, Member};

    fn following(text: &str) -> Following {
        Following { revision: 3, text: text.into(), spec: Arc::default() }
    }

    /// One command of each kind, with the level that it needs.
    fn all() -> Vec<(Kind, u32)> {
        let piece = Apply::in_place_of("a\nb\nc\n", "a\nd\nc\n", 3);
        vec![
            (Kind::Apply(Apply::whole("a".into(), 3)), 0),
            (Kind::Apply(piece), PIECES),
            (Kind::Give(Give::default()), 0),
            (Kind::Move(wire::Move::default()), 0),
            (Kind::Released(wire::Token::default()), 0),
            (Kind::Act(Act::default()), 0),
            (Kind::LogEvents(LogEvents::default()), 0),
            (Kind::Join(Member::default()), 0),
            (Kind::Facts(Facts::default()), 0),
            (Kind::MoveRequest(Give::default()), 0),
            (Kind::Remove("lb2".into()), 0),
            (Kind::FeatureLevel(FeatureLevel { level: 1, membership: 7 }), 1),
            (Kind::Batch(Batch::default()), 0),
        ]
    }

    #[test]
    fn this_build_reads_each_kind_that_it_writes_and_no_other() {
        for (kind, level) in all() {
            assert_eq!(needed(&kind), level, "{kind:?}");
            assert!(level <= BUILD);
            let command = Command { node: 1, kind: Some(kind), ..Command::default() };
            assert_eq!(unreadable(&command.encode_to_vec()), None, "{command:?}");
        }
        assert_eq!(unreadable(&[]), None);
        // Field 21 of a command, with two bytes; a command of no kind at all; no command.
        for bytes in [&[0x08, 1, 0xaa, 1, 2, 8, 1][..], &[0x08, 1], &[0xff; 3]] {
            assert!(unreadable(bytes).unwrap().contains("does not know"), "{bytes:?}");
        }
    }

    #[test]
    fn a_level_beyond_this_build_stops_it_and_says_both_numbers() {
        let raise = |level| {
            let kind = Some(Kind::FeatureLevel(FeatureLevel { level, membership: 7 }));
            unreadable(&Command { kind, ..Command::default() }.encode_to_vec())
        };
        assert_eq!(raise(BUILD), None);
        let why = raise(BUILD + 1).unwrap();
        assert!(why.contains("at feature level 2") && why.contains("reads up to 1"), "{why}");
    }

    #[test]
    fn a_piece_is_written_as_the_whole_text_where_some_build_reads_no_pieces() {
        let (before, after) = ("a\nb\nc\n", "a\nd\nc\n");
        let piece = Kind::Apply(Apply::in_place_of(before, after, 3));
        let whole = Kind::Apply(Apply::whole(after.into(), 3));
        assert_eq!(older_form(&piece, &following(before)), Ok(Some(whole.clone())));
        assert_eq!(needed(&whole), 0);
        let other = Following { revision: 4, ..following(before) };
        assert!(matches!(older_form(&piece, &other), Err(Refusal::Changed(_))));
        let raise = Kind::FeatureLevel(FeatureLevel { level: 2, membership: 7 });
        assert_eq!(older_form(&raise, &following(before)), Ok(None));
    }
}
