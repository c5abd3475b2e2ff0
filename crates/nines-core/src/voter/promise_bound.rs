//! The bound of every promise that this voter may have given: known also after a restart.
//!
//! A promise as long as the lease in force needs no write: a voter that starts waits one lease. A
//! longer one is on the disk before it is given; and when the lease gets shorter, what was promised
//! under the longer one goes there together with the state that says so.
//!
//! Decides: what the disk must know of promises, and how long a voter that starts waits.

use nines_model::{Millis, Time};

use super::{Context, Identity, Voter};
use crate::{
    lease::promise_ns,
    wire::{LongPromise, Persist},
};

/// The disk is told of so much more than is asked for, so that the heartbeats of the next half
/// second need no write.
const KEPT_AHEAD: Millis = Millis(500);

/// What the disk knows of promises.
pub(super) struct PromiseBound {
    /// Until when longer promises may be given: asked of the disk.
    asked: Time,
    /// And on it.
    kept: Time,
    /// The lease that the disk knows: a voter that starts from it waits so long.
    lease: Millis,
    /// The write that brings the state of another node, with its lease; 0: none is awaited.
    installing: u64,
}

impl PromiseBound {
    pub(super) fn new(until: Time, lease: Millis) -> Self {
        Self { asked: until, kept: until, lease, installing: 0 }
    }

    /// Everything that the disk was asked for is there.
    pub(super) fn all_kept(&mut self) {
        self.kept = self.asked;
    }
}

/// Until when a promise that the disk knows of may still hold.
pub(super) fn kept_until(
    identity: &Identity,
    now: Time,
    kept: &LongPromise,
    restart: Millis,
) -> Time {
    match kept.until_ns {
        0 => Time(0),
        until if kept.machine_boot == identity.machine_boot => Time(until),
        // Another boot's clock: wait as long as it can have been at most.
        _ if kept.length_ns > 0 => Time(now.0 + kept.length_ns),
        _ => Time(now.0 + promise_ns(restart)),
    }
}

impl Voter {
    /// Whether a promise of this length binds longer than a voter waits that starts.
    pub(super) fn is_long(&self, cx: &Context<'_>, length: Millis) -> bool {
        length > cx.lease().min(self.bound.lease)
    }

    /// An entry that is on the disk was applied; perhaps it has changed the lease.
    pub(super) fn lease_kept(&mut self, cx: &Context<'_>) {
        if self.bound.installing == 0 {
            self.bound.lease = cx.lease();
        }
    }

    /// A state of another node was taken over, which this write brings to the disk.
    pub(super) fn installs(&mut self, number: u64) {
        self.bound.installing = number;
    }

    /// A write of the log is on disk.
    pub(super) fn state_kept(&mut self, cx: &Context<'_>, number: u64) {
        if self.bound.installing != 0 && number >= self.bound.installing {
            self.bound.installing = 0;
            self.bound.lease = cx.lease();
        }
    }

    /// Whether the disk knows of a promise that lasts this long; if not, this begins to write it,
    /// and the next heartbeat asks again.
    pub(super) fn may_promise_long(&mut self, cx: &mut Context<'_>, length: Millis) -> bool {
        let until = Time(cx.now.0 + promise_ns(length));
        if self.bound.kept >= until {
            return true;
        }
        if self.bound.asked < until {
            let long_promise = Some(self.bind(cx.now, until.plus(KEPT_AHEAD)));
            self.keep_beside(cx.out, Persist { long_promise, ..Persist::default() });
        }
        false
    }

    fn bind(&mut self, now: Time, until: Time) -> LongPromise {
        self.bound.asked = until;
        let machine_boot = self.identity.machine_boot;
        LongPromise { until_ns: until.0, machine_boot, length_ns: until.since(now) }
    }

    /// What the disk must know together with a state that replaces the log: a voter that starts
    /// from it waits only for the lease that it names.
    pub(super) fn bound_of_promises(&mut self, now: Time, named: Millis) -> Option<LongPromise> {
        let until = self.promises.latest();
        let waits = Time(now.0 + promise_ns(named));
        (until > waits.max(self.bound.asked)).then(|| self.bind(now, until))
    }
}

#[cfg(test)]
mod tests {
    use nines_model::{Incarnation, NodeId};

    use super::*;

    #[test]
    fn a_promise_of_another_boot_lasts_as_long_as_it_can_have_been() {
        let identity = Identity {
            id: NodeId(1),
            name: "lb1".into(),
            incarnation: Incarnation(9),
            machine_boot: 4,
            place: 1,
        };
        let (now, restart) = (Time(7_000), Millis(5_000));
        let until = |until_ns, machine_boot, length_ns| {
            let kept = LongPromise { until_ns, machine_boot, length_ns };
            kept_until(&identity, now, &kept, restart)
        };
        assert_eq!(until(0, 4, 0), Time(0), "none was given");
        assert_eq!(until(90_000, 4, 50_000), Time(90_000));
        assert_eq!(until(90_000, 3, 50_000), Time(57_000));
        assert_eq!(until(90_000, 3, 0), Time(7_000 + promise_ns(restart)), "by an older build");
    }
}
