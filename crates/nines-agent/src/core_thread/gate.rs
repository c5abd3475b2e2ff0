//! A node that is one of many in a process, or that runs on one of several hosts.
//!
//! Decides: how many datagrams it opens, and until when anything leaves it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use nines_dataplane::process::boot_time;
use nines_model::Time;

use crate::datagram_budget::Budget;

/// What makes a node one of many in a process: it does not run in real time, and it opens only so
/// many datagrams.
pub struct Guest {
    budget: Budget,
    /// It may speak until then, by the boot clock in ns; `None`: always.
    until: Option<Arc<AtomicU64>>,
}

impl Guest {
    /// `rate`: datagrams in a second until the node has another config.
    pub fn new(rate: u64) -> Self {
        Self { budget: Budget::new(boot_time(), rate), until: None }
    }

    /// One that speaks only before a time, by the boot clock in ns, which another thread moves.
    pub fn until(self, until: Option<Arc<AtomicU64>>) -> Self {
        Self { until, ..self }
    }

    pub(super) fn may_speak(&self) -> bool {
        let until = self.until.as_ref().map(|until| until.load(Ordering::Acquire));
        until.is_none_or(|until| boot_time() < Time(until))
    }

    /// Opens so many datagrams in a second from now on.
    pub(super) fn set_rate(&mut self, rate: u64) {
        self.budget.set(rate);
    }

    pub(super) fn may_open(&mut self, now: Time) -> bool {
        self.budget.take(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_with_a_deadline_is_silent_from_then_on() {
        let until = Arc::new(AtomicU64::new(0));
        let guest = Guest::new(10).until(Some(Arc::clone(&until)));
        assert!(!guest.may_speak());
        until.store(boot_time().0 + 3_600_000_000_000, Ordering::Release);
        assert!(guest.may_speak());
        until.store(boot_time().0, Ordering::Release);
        assert!(!guest.may_speak());
        assert!(Guest::new(10).may_speak());
    }
}
