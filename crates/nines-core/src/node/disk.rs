//! A disk that takes no write any more.
//!
//! Decides: what becomes of this node then. It acknowledges nothing more in this incarnation (S26)
//! and leads no more. After a full disk it starts anew by itself once there is room: the new
//! incarnation knows what is on the disk, and nothing else. After any other fault a person looks
//! first.

use nines_model::{NodeId, Time};

use super::Node;
use crate::{action::Action, event::DiskFault};

impl Node {
    /// A write has failed.
    pub(super) fn disk_failed(&mut self, now: Time, fault: DiskFault, why: String) {
        // What kept it from voting before stays: neither room nor a restart mends that.
        let first = self.broken().is_none();
        if !first && !self.disk_full {
            return;
        }
        self.disk_full = fault == DiskFault::Full;
        if first {
            let until = if self.disk_full { " until there is room" } else { "" };
            self.log(format!("the log cannot be written: {why}; this node votes no more{until}"));
            self.hand_lead_over(now);
        }
        self.voter.breaks(why);
        self.voter.step_down();
        self.all_vips_changed();
    }

    /// A leader names another one while it may still speak: nobody waits for its silence then. One
    /// that lacks the entry that could not be written is not asked.
    fn hand_lead_over(&mut self, now: Time) {
        if self.voter.consensus().is_leader()
            && let Some(to) = self.next_leader(now, |_| true)
        {
            self.hand_over(now, to);
            self.pump(now);
        }
    }

    /// The disk has room again.
    pub(super) fn disk_has_room(&mut self) {
        if self.disk_full {
            self.log("the disk has room again: this node starts anew".into());
            self.actions.push(Action::RestartReady);
        }
    }

    /// Whether a node votes no more because its disk is full.
    pub fn has_full_disk(&self, id: NodeId) -> bool {
        let said = self.membership.peer(id).is_some_and(|peer| peer.beat.disk_full);
        if id == self.config.id { self.disk_full } else { said }
    }

    /// Whether this node votes no more, and would vote again after a restart.
    pub fn is_mended_by_restart(&self) -> bool {
        let stays = self.is_retired() || self.applies_no_more() || self.is_split();
        self.broken().is_some() && !stays && !self.disk_full
    }
}
