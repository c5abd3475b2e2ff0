//! What the watchdog of this machine has to know, and what nodes say of theirs.
//!
//! Decides: whether anything on this machine is under a lease, and since when that is renewed. The
//! rule itself is in `watchdog.rs`; nobody starts anything elsewhere because of it yet.

use nines_model::{NodeId, Time};

use super::Node;
use crate::wire::WatchdogState;

/// What of this machine is under a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnderLease {
    /// What an earlier process has left may be: this one has not read its log, or not looked at
    /// every address.
    Unknown,
    /// Nothing is: no address is on.
    Nothing,
    /// Something; this node sent the newest heartbeat then that a majority of voters has answered.
    Renewed(Time),
}

impl Node {
    /// What of this machine is under a lease now. A node that has lost the others, and has taken
    /// its addresses off, holds nothing, whatever its log says.
    pub fn under_lease(&self) -> UnderLease {
        if self.own_vips.all_off() {
            let known = self.caught_up && self.own_vips.all_known();
            return if known { UnderLease::Nothing } else { UnderLease::Unknown };
        }
        match self.own_vips.asked() {
            Time(0) => UnderLease::Unknown,
            sent => UnderLease::Renewed(sent),
        }
    }

    /// Until when the kernel of this machine may answer for a VIP, whatever becomes of the agent.
    pub fn kernel_answers_until(&self) -> Time {
        self.own_vips.longest_guard()
    }

    /// What this node's watchdog is now; `None`: it has none.
    pub(super) fn watchdog_is(&mut self, now: Time, state: Option<WatchdogState>) {
        if self.own_watchdog != state {
            self.own_watchdog = state;
            self.mail.beat_next(now);
        }
    }

    /// What a node last said of its watchdog; `None`: it has none.
    pub fn watchdog(&self, id: NodeId) -> Option<&WatchdogState> {
        if id == self.config.id {
            return self.own_watchdog.as_ref();
        }
        self.membership.peer(id).and_then(|peer| peer.beat.watchdog.as_ref())
    }
}
