//! The end of this process: replaced in place, or stopped.
//!
//! Decides: when leases last long enough for a restart, and when nothing is held any more.

use nines_model::{Millis, Time};

use super::Node;
use crate::action::Action;

/// A restart waits no longer than this for leases that span it.
const PATIENCE: Millis = Millis(1_000);

/// Of two voters one that stops waits so long until the other goes on without its vote.
const VOTE_PATIENCE: Millis = Millis(3_000);

/// What was asked of this process.
#[derive(Default)]
pub(super) struct Leaving {
    /// Leases of this length are wanted for a restart, and since when.
    restart: Option<(Millis, Time)>,
    stopping: bool,
    /// When it was first asked to stop.
    asked: Option<Time>,
}

impl Leaving {
    /// A restart was asked for, for which leases must last so long.
    pub(super) fn restart(&mut self, now: Time, length: Millis) {
        self.restart = Some((length, now));
    }

    pub(super) fn stop(&mut self, now: Time) {
        self.asked.get_or_insert(now);
        self.stopping = true;
    }

    /// Length of the leases that a restart wants.
    pub(super) fn restarts(&self) -> Option<Millis> {
        self.restart.map(|(length, _)| length)
    }

    pub(super) fn stops(&self) -> bool {
        self.stopping
    }
}

impl Node {
    /// Says that the process may end, once it may.
    pub(super) fn finish_restart_or_stop(&mut self, now: Time) {
        if let Some((length, asked)) = self.leaving.restart {
            let enough = now.0 + length.ns() / 5 * 4;
            if self.renewed_until().0 >= enough || now.since(asked) > PATIENCE.ns() {
                self.leaving.restart = None;
                self.actions.push(Action::RestartReady);
            }
        }
        let idle = || self.own_vips.all_off();
        // One that votes no more hands nothing over: its promises run out.
        let owes = || {
            self.broken().is_none()
                && self.state.vips.values().any(|h| *h.node() == self.config.name)
        };
        let over = || (idle() && !owes()) || self.nobody_can_take_over(now);
        let votes = |asked: Time| self.gives_vote_up(now) && now.since(asked) < VOTE_PATIENCE.ns();
        if self.leaving.stopping && over() && !self.leaving.asked.is_some_and(votes) {
            self.leaving.stopping = false;
            self.actions.push(Action::StopReady);
        }
    }
}
