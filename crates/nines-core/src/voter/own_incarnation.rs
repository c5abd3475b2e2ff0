//! This node's own incarnation: whether it may take part.
//!
//! An incarnation that starts where the newest one on this disk ran takes part at once. One that
//! starts elsewhere started from a copy, or the disk has moved: it votes for nothing, promises
//! nothing and holds nothing until every other voter has confirmed that no other incarnation of
//! this node speaks.
//!
//! Decides: what counts as moved, and from when such an incarnation takes part.

use nines_model::Incarnation;

use super::{Context, Identity, Voter};
use crate::{
    action::Action,
    wire::{Frame, KeptIncarnation, Persist, Persisted, frame},
};

/// This run of the agent.
#[derive(Debug)]
pub(super) struct OwnIncarnation {
    /// The incarnation before, if it ended on this machine since it booted.
    heir_of: Incarnation,
    /// How often agents have started from this disk, this incarnation included.
    starts: u64,
    /// This incarnation is not confirmed by everybody yet.
    moved: bool,
    /// The disk write after which it takes part; 0: none was asked for.
    confirming: u64,
    /// The disk knows of it, and counts the next start as a later one.
    kept: bool,
}

impl OwnIncarnation {
    pub(super) fn new(identity: &Identity, kept: &Persisted) -> Self {
        let before = &kept.incarnation;
        let moved = before.place != 0 && before.place != identity.place;
        let here = !moved && before.machine_boot == identity.machine_boot;
        let heir_of = if here { before.incarnation() } else { Incarnation::NONE };
        Self { heir_of, moved, starts: before.starts + 1, confirming: 0, kept: false }
    }

    pub(super) fn moved(&self) -> bool {
        self.moved
    }
}

impl Voter {
    /// Whether this incarnation started from a copied or moved state directory, and is not
    /// confirmed yet: it takes no part.
    pub fn is_moved(&self) -> bool {
        self.own.moved
    }

    /// The incarnation before this one, if it ended on this machine since it booted.
    pub fn heir_of(&self) -> Incarnation {
        self.own.heir_of
    }

    /// A frame of this incarnation.
    pub fn frame(&self, kind: frame::Kind) -> Frame {
        let (starts, moved) = (self.own.starts, self.own.moved);
        let incarnation = self.identity.incarnation.number();
        Frame { kind: Some(kind), rest: Vec::new(), incarnation, starts, moved }
    }

    /// Whether frames may leave. If this process died before the disk knows of it, the next one
    /// would count its start by the same number, and others could take a late frame of this one for
    /// a newer one. A moved incarnation says that it is one; one that is broken says so.
    pub fn may_speak(&self) -> bool {
        self.own.kept || self.own.moved || self.broken.is_some()
    }

    /// Puts this incarnation on the disk where it has the right to be there.
    pub fn keep_incarnation(&mut self, out: &mut Vec<Action>) -> u64 {
        let Identity { incarnation, machine_boot, place, .. } = self.identity;
        let (incarnation, starts) = (incarnation.number(), self.own.starts);
        let incarnation = Some(KeptIncarnation { incarnation, machine_boot, place, starts });
        self.keep_beside(out, Persist { incarnation, ..Persist::default() })
    }

    /// Whether a moved incarnation still waits to be confirmed.
    pub fn awaits_confirmation(&self) -> bool {
        self.own.moved && self.own.confirming == 0 && self.broken.is_none()
    }

    /// Every other voter has confirmed that no other incarnation of this node speaks: it takes part
    /// once the disk knows.
    pub fn confirmed(&mut self, out: &mut Vec<Action>) {
        self.own.confirming = self.keep_incarnation(out);
    }

    /// A write beside the log is on disk.
    pub(super) fn incarnation_kept(&mut self, cx: &mut Context<'_>, number: u64) {
        let own = &mut self.own;
        // The first write beside the log is that of an incarnation that was not moved.
        own.kept |= !own.moved;
        if own.confirming != 0 && number >= own.confirming && own.moved {
            (own.moved, own.kept) = (false, true);
            cx.log(
                "every other voter has confirmed that no other agent runs as this node; \
                 it takes part from now on"
                    .into(),
            );
        }
    }
}
