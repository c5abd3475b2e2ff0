//! When a watchdog is fed, and when not any more: the lease of a whole machine.
//!
//! ```text
//!  sent                            until - W x 1.01   until - STOP_BUDGET    until = sent + T
//!   |--- fed -----------------------------|                    |                  |
//!                                         |--- not fed: the watchdog fires within W --|
//!                                                              | what runs is killed |
//! ```
//! `sent`: when this node sent the newest heartbeat that a majority has answered. T >= 2W, W: the
//! timeout that the device really has. Decides: this rule, and nothing of how the device is spoken
//! to. What the machine may not outlive is over before `until` whatever becomes of the agent: the
//! last time the device was fed, `until` was more than W away.

use nines_model::{Millis, Time};

/// Timeout that is asked of a watchdog; devices count in seconds.
pub const WANTED: Millis = Millis(2_000);
/// A device with a longer timeout is no use: nobody would wait so long for its node.
pub const TIMEOUT_MAX: Millis = Millis(60_000);
/// Shortest lease of a machine.
const LEASE_MIN: Millis = Millis(4_000);
/// An address goes within this after its lease: the second that it stays on for, and some.
const ADDRESSES_OFF: Millis = Millis(1_500);
/// What is under the lease is killed so long before that ends.
pub const STOP_BUDGET: Millis = Millis(1_000);

/// Length of the lease of a machine whose watchdog has this timeout.
pub fn lease(timeout: Millis) -> Millis {
    Millis(LEASE_MIN.0.max(2 * timeout.0))
}

/// Until when the lease of a machine lasts whose newest answered heartbeat was sent then, and whose
/// kernel may answer for a VIP until then. A node that has lost the others and takes its addresses
/// off has the time for that, also with long leases of VIPs.
pub fn lease_until(sent: Time, timeout: Millis, kernel_answers: Time) -> Time {
    let addresses_off = Time(kernel_answers.0.saturating_add(margin(timeout))).plus(ADDRESSES_OFF);
    sent.plus(lease(timeout)).max(addresses_off)
}

/// Time between two feedings: many within each timeout.
pub fn interval(timeout: Millis) -> Millis {
    Millis((timeout.0 / 20).clamp(20, 500))
}

/// What must be left of the lease when the device is fed, in ns: its timeout, and by how much it
/// may be late.
fn margin(timeout: Millis) -> u64 {
    timeout.ns() + timeout.ns() / 100
}

/// What the agent has said of the lease of its machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MachineLease {
    /// The lease ends then; `None`: nothing on this machine is under a lease.
    pub until: Option<Time>,
    /// The agent has ended and left nothing behind but what the kernel ends by itself, by then.
    pub ends: Option<Time>,
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// Feed the watchdog.
    pub feeds: bool,
    /// Kill what runs under the lease.
    pub kills: bool,
    /// Switch the watchdog off: nothing is held, and nobody will hold anything.
    pub closes: bool,
}

impl MachineLease {
    /// What is to be done now with a watchdog of this timeout.
    pub fn turn(&self, now: Time, timeout: Millis) -> Turn {
        match (self.ends, self.until) {
            (Some(at), _) if now >= at => Turn { closes: true, ..Turn::default() },
            (Some(_), _) | (None, None) => Turn { feeds: true, ..Turn::default() },
            (None, Some(until)) => Turn {
                feeds: until.since(now) >= margin(timeout),
                kills: until.since(now) <= STOP_BUDGET.ns(),
                closes: false,
            },
        }
    }

    /// Whether a device that has just been fed might fire only after the lease has ended: the
    /// process stood still between the question and the feeding.
    pub fn is_fed_too_late(&self, now: Time, timeout: Millis) -> bool {
        let turn = self.turn(now, timeout);
        // One that may be switched off by now protects nothing.
        !turn.feeds && !turn.closes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const W: Millis = Millis(2_000);
    const FEEDS: Turn = Turn { feeds: true, kills: false, closes: false };
    const NOTHING: Turn = Turn { feeds: false, kills: false, closes: false };
    const KILLS: Turn = Turn { feeds: false, kills: true, closes: false };
    const CLOSES: Turn = Turn { feeds: false, kills: false, closes: true };

    fn at(ms: u64) -> Time {
        Time(Millis(ms).ns())
    }

    #[test]
    fn each_lease_and_each_time() {
        let until = |ms| MachineLease { until: Some(at(ms)), ends: None };
        let ends = |ms, until| MachineLease { until, ends: Some(at(ms)) };
        for (lease, now, turn) in [
            // Nothing is held: whoever is alive may feed it for ever.
            (MachineLease::default(), 0, FEEDS),
            (MachineLease::default(), u32::MAX.into(), FEEDS),
            // Held until 4,000: 2,020 ms before that it is fed for the last time.
            (until(4_000), 0, FEEDS),
            (until(4_000), 1_979, FEEDS),
            (until(4_000), 1_980, FEEDS),
            (until(4_000), 1_981, NOTHING),
            (until(4_000), 2_999, NOTHING),
            (until(4_000), 3_000, KILLS),
            (until(4_000), 4_000, KILLS),
            (until(4_000), 9_000, KILLS),
            // The agent has ended: fed until the kernel's own deadlines are over, and then off.
            (ends(5_000, None), 4_999, FEEDS),
            (ends(5_000, Some(at(4_000))), 4_999, FEEDS),
            (ends(5_000, Some(at(4_000))), 5_000, CLOSES),
            (ends(5_000, Some(at(9_000))), 5_001, CLOSES),
            (ends(0, None), 0, CLOSES),
        ] {
            assert_eq!(lease.turn(at(now), W), turn, "{lease:?} at {now} ms");
            let late = !turn.feeds && !turn.closes;
            assert_eq!(lease.is_fed_too_late(at(now), W), late, "{lease:?} at {now} ms");
        }
    }

    #[test]
    fn a_lease_leaves_time_to_take_addresses_off() {
        let until = |kernel: u64| lease_until(at(10_000), W, at(kernel));
        assert_eq!(until(10_140), at(14_000), "the usual one");
        assert_eq!(until(10_480), at(14_000));
        assert_eq!(until(15_000), at(18_520), "and that of a restart");
        let slow = lease_until(at(10_000), Millis(10_000), at(10_140));
        assert_eq!(slow, at(30_000));
    }

    /// By trial of every time in steps of 10 ms, for every timeout that a device may have: fed
    /// last, the device fires before the lease ends; and what runs was killed before that.
    #[test]
    fn the_watchdog_fires_within_the_lease_whenever_it_was_fed_last() {
        for timeout in (1..=60).map(|seconds| Millis(seconds * 1_000)) {
            let length = lease(timeout);
            assert!(length.0 >= 2 * timeout.0 && length >= LEASE_MIN);
            assert!(interval(timeout).0 * 2 <= timeout.0, "fed several times within {timeout}");
            let told = MachineLease { until: Some(at(length.0)), ends: None };
            let mut last = None;
            for ms in (0..=length.0).step_by(10) {
                let turn = told.turn(at(ms), timeout);
                last = if turn.feeds { Some(ms) } else { last };
                assert!(!(turn.feeds && turn.kills) || timeout.0 < STOP_BUDGET.0);
            }
            let last = last.expect("it is fed at the beginning");
            assert!(last + timeout.0 + timeout.0 / 100 <= length.0, "{timeout}: {last}");
            assert!(last + timeout.0 + timeout.0 / 100 + 10 > length.0, "and no earlier than that");
            assert!(told.turn(at(length.0 - STOP_BUDGET.0), timeout).kills);
        }
    }
}
