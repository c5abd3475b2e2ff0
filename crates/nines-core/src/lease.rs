//! The lease rule: who may answer for a VIP, and until when.
//!
//! ```text
//! holder                         voter (each, the holder itself included)
//!   beat {sent = s, T, token} --->  log names a newer holder?  refuse
//!                                   else promise: until received + T(1+2e) this node appends no
//!                             <---  entry that gives the VIP to another; ack {s}
//!   a majority acked s:
//!   may answer until s + T
//! ```
//!
//! Why it is safe, whoever leads: an entry that gives the VIP away is committed only when a
//! majority has appended it. That majority shares a voter with each majority that renewed the
//! lease. The shared voter either promised before it appended, then it waited until after s + T;
//! or it appended first, then it refused the renewal. Clocks need agree in rate only, within e.
//! A voter that restarts has forgotten its promises, so it first waits one lease.
//!
//! Decides: promises and deadlines. Knows no socket, no disk and no consensus library.

use std::{collections::BTreeMap, net::IpAddr};

use nines_model::{Millis, Time};

/// How long a promise lasts at a voter for a lease of `length`: T(1+2e) with e = 2000 ppm.
pub const fn promise_ns(length: Millis) -> u64 {
    length.ns() + length.ns() / 250
}

/// What a voter promised about one VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Promise {
    holder: u64,
    /// The entry by which it holds: the promise is about later entries only.
    token: u64,
    /// The life of the holder that asked for it.
    life: u64,
    until: Time,
}

/// The voter's side.
#[derive(Clone, Debug, Default)]
pub struct Promises {
    by_vip: BTreeMap<IpAddr, Promise>,
    /// Until then nothing is given away: promises of the life before may still hold.
    amnesty: Time,
}

impl Promises {
    /// A voter that has just started: it may have promised a lease of `lease` a moment ago, and
    /// something longer until `kept`, which is on its disk.
    pub fn after_restart(now: Time, lease: Millis, kept: Time) -> Self {
        let amnesty = Time(now.0 + promise_ns(lease)).max(kept);
        Self { by_vip: BTreeMap::new(), amnesty }
    }

    /// Until when any promise holds, of this life or of the one before.
    pub fn latest(&self) -> Time {
        self.by_vip.values().map(|p| p.until).max().unwrap_or_default().max(self.amnesty)
    }

    /// Promises the VIP to `holder`, who in this `life` holds it by `token`. `shortened`: a longer
    /// promise given before may be forgotten. False: another life of the holder was promised it, and
    /// may still answer for it, unless this life is its heir on the same machine.
    pub fn give(
        &mut self,
        now: Time,
        vip: IpAddr,
        (holder, token, life, heir_of): (u64, u64, u64, u64),
        length: Millis,
        shortened: bool,
    ) -> bool {
        let mut until = Time(now.0 + promise_ns(length));
        if let Some(before) = self.by_vip.get(&vip).filter(|p| p.holder == holder) {
            let known = before.life == life || before.life == heir_of;
            if !known && now < before.until {
                return false;
            }
            if !shortened {
                until = until.max(before.until);
            }
        }
        // Of another holder before: it was overruled in the log, which waited for its promise.
        self.by_vip.insert(vip, Promise { holder, token, life, until });
        true
    }

    /// Until when this voter may not append the entry at `index`, which gives `vip` to `to`;
    /// `None`: it may now.
    pub fn hold(&self, now: Time, vip: IpAddr, to: u64, index: u64) -> Option<Time> {
        let promised = self
            .by_vip
            .get(&vip)
            .filter(|p| p.holder != to && p.token < index)
            .map_or(Time(0), |p| p.until);
        Some(promised.max(self.amnesty)).filter(|until| *until > now)
    }

    /// Until when this voter may not append that the holder by `token` has let go; `None`: it may
    /// now. Who lets go does not ask again in this life; but a holder that starts anew may know an
    /// older log, and hold again by the same token what it has let go.
    pub fn hold_release(&self, now: Time, vip: IpAddr, token: u64, life: u64) -> Option<Time> {
        let promised = self
            .by_vip
            .get(&vip)
            .filter(|p| p.token == token && p.life != life)
            .map_or(Time(0), |p| p.until);
        Some(promised.max(self.amnesty)).filter(|until| *until > now)
    }

    /// The newest entry by which anybody was promised the VIP; 0: none.
    pub fn token(&self, vip: IpAddr) -> u64 {
        self.by_vip.get(&vip).map_or(0, |p| p.token)
    }
}

/// The holder's side of one VIP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Renewals {
    /// The voter's life and the newest deadline it renewed to: the beat's sent time and the length
    /// it asked for.
    by_voter: BTreeMap<u64, (u64, Time)>,
}

impl Renewals {
    /// A voter renewed in this of its lives. What it renewed in another counts no more.
    pub fn acked(&mut self, voter: u64, life: u64, deadline: Time) {
        let entry = self.by_voter.entry(voter).or_default();
        let before = if entry.0 == life { entry.1 } else { Time(0) };
        *entry = (life, deadline.max(before));
    }

    /// Until when the holder may act: the latest deadline that a majority of `voters` granted.
    pub fn deadline(&self, voters: &[u64]) -> Time {
        let mut granted: Vec<Time> =
            voters.iter().map(|v| self.by_voter.get(v).map_or(Time(0), |(_, at)| *at)).collect();
        granted.sort_unstable_by(|a, b| b.cmp(a));
        granted.get(voters.len() / 2).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn vip() -> IpAddr {
        "10.0.0.100".parse().unwrap()
    }

    #[test]
    fn a_majority_makes_the_deadline() {
        let mut renewals = Renewals::default();
        assert_eq!(renewals.deadline(&[1, 2, 3]), Time(0));
        renewals.acked(1, 1, Time(100));
        assert_eq!(renewals.deadline(&[1, 2, 3]), Time(0), "one of three");
        renewals.acked(2, 1, Time(90));
        assert_eq!(renewals.deadline(&[1, 2, 3]), Time(90), "two of three");
        renewals.acked(2, 1, Time(80));
        assert_eq!(renewals.deadline(&[1, 2, 3]), Time(90), "late answers take nothing back");
        assert_eq!(renewals.deadline(&[1, 2]), Time(90), "of two, both");
        assert_eq!(renewals.deadline(&[1]), Time(100));
        assert_eq!(renewals.deadline(&[1, 2, 3, 4]), Time(0), "two of four are no majority");
        assert_eq!(renewals.deadline(&[]), Time(0));
        renewals.acked(2, 2, Time(70));
        assert_eq!(renewals.deadline(&[1, 2]), Time(70), "its life before counts no more");
    }

    #[test]
    fn another_life_of_the_holder_waits_unless_it_is_the_heir() {
        let mut promises = Promises::default();
        assert!(promises.give(Time(0), vip(), (1, 5, 3, 0), Millis(100), false));
        let give = |promises: &mut Promises, ms, life, heir| {
            promises.give(Time(ms * MS), vip(), (1, 5, life, heir), Millis(100), false)
        };
        assert!(!give(&mut promises, 50, 4, 0), "the other may still answer");
        assert!(!give(&mut promises, 50, 4, 2), "heir of a life that is not meant");
        assert!(give(&mut promises, 60, 3, 0), "who has it goes on");
        assert!(give(&mut promises, 70, 5, 3), "its machine says that it has ended");
        assert!(!give(&mut promises, 80, 3, 0), "which is final");
        assert!(give(&mut promises, 171, 6, 0), "later anybody may");
        assert_eq!(promises.latest(), Time(271 * MS + 400_000));
    }

    #[test]
    fn a_promise_outlasts_the_lease_by_both_clocks_errors() {
        let mut promises = Promises::default();
        promises.give(Time(1_000 * MS), vip(), (1, 5, 3, 0), Millis(100), false);
        assert_eq!(promises.hold(Time(1_100 * MS), vip(), 2, 9), Some(Time(1_100 * MS + 400_000)));
        assert_eq!(promises.hold(Time(1_100 * MS + 400_000), vip(), 2, 9), None);
        let older = promises.hold(Time(1_100 * MS), vip(), 2, 4);
        assert_eq!(older, None, "an entry before the one it holds by is history");
        assert_eq!(promises.hold(Time(1_001 * MS), vip(), 1, 9), None, "not against itself");
    }

    #[test]
    fn a_long_promise_is_kept_until_the_holder_says_it_is_shorter() {
        let mut promises = Promises::default();
        promises.give(Time(0), vip(), (1, 5, 3, 0), Millis(5_000), false);
        promises.give(Time(10 * MS), vip(), (1, 5, 3, 0), Millis(100), false);
        assert!(promises.hold(Time(4_000 * MS), vip(), 2, 9).is_some());
        promises.give(Time(20 * MS), vip(), (1, 5, 3, 0), Millis(100), true);
        assert!(promises.hold(Time(200 * MS), vip(), 2, 9).is_none());
    }

    #[test]
    fn a_release_waits_for_what_a_later_life_was_promised() {
        let mut promises = Promises::default();
        promises.give(Time(0), vip(), (1, 5, 3, 0), Millis(100), false);
        assert_eq!(promises.hold_release(Time(MS), vip(), 5, 3), None, "it has let go");
        promises.give(Time(10 * MS), vip(), (1, 5, 4, 3), Millis(100), false);
        assert!(promises.hold_release(Time(11 * MS), vip(), 5, 3).is_some(), "and began anew");
        assert_eq!(promises.hold_release(Time(111 * MS), vip(), 5, 3), None);
        assert_eq!(promises.hold_release(Time(11 * MS), vip(), 5, 4), None);
        assert_eq!(promises.hold_release(Time(11 * MS), vip(), 4, 3), None, "of an older token");
        let restarted = Promises::after_restart(Time(0), Millis(100), Time(0));
        assert!(restarted.hold_release(Time(50 * MS), vip(), 5, 3).is_some(), "it has forgotten");
    }

    #[test]
    fn a_restarted_voter_waits_one_lease() {
        let promises = Promises::after_restart(Time(0), Millis(100), Time(0));
        assert!(promises.hold(Time(100 * MS), vip(), 2, 9).is_some());
        assert!(promises.hold(Time(101 * MS), vip(), 2, 9).is_none());
        let long = Promises::after_restart(Time(0), Millis(100), Time(700 * MS));
        assert!(
            long.hold(Time(699 * MS), vip(), 2, 9).is_some(),
            "a longer promise is on its disk"
        );
    }
}
