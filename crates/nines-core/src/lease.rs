//! The lease rule: who may answer for a VIP, and until when.
//!
//! ```text
//! holder                         voter (each, the holder itself included)
//!   heartbeat {sent = s, T, token} --->  log names a newer holder?  refuse
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
//! A holder's VIPs are renewed as one set, so that a thousand cost what one costs:
//!
//! ```text
//! holder                                voter
//!   parts {name, (VIP, token), ...} ---> keeps the set, if the contents bear the name
//! heartbeat {sent = s, T, name} ----------> knows no set of that name?  say so: nothing is renewed
//!
//!                                        log names a newer holder of some?  these are refused
//!                           <----------- the others: promised, all until the same time; ack {s,
//!                                        name, refused}
//! ```
//!
//! The rule stays one about each VIP and its token. An ack counts for a VIP only if the heartbeat
//! at s named a set with that VIP and token in it and the ack does not refuse it. What is the same
//! is kept once: the promise to a set ([`Promises::renew`]), and the deadline of all VIPs whose
//! renewals cannot differ ([`Renewals::may_go_by`]). A VIP that leaves the set keeps what it was
//! promised, and its own deadline in the kernel is written before the common one is renewed.
//!
//! Decides: promises and deadlines. Knows no socket, no disk and no consensus library.

use std::{collections::BTreeMap, net::IpAddr};

use nines_model::{Incarnation, LogIndex, Millis, NodeId, Time};

/// How long a promise lasts at a voter for a lease of `length`: T(1+2e) with e = 2000 ppm.
pub const fn promise_ns(length: Millis) -> u64 {
    length.ns() + length.ns() / 250
}

/// What a voter promised about one VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Promise {
    holder: NodeId,
    /// The entry by which it holds: the promise is about later entries only.
    token: LogIndex,
    /// The incarnation of the holder that asked for it.
    incarnation: Incarnation,
    until: Time,
    /// In the holder's set: lasts at least as long as what the set was promised.
    in_set: bool,
}

/// What a voter promised about all VIPs of one holder's set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct SetPromise {
    until: Time,
    /// Some VIP in it was promised more than that by itself.
    longer: bool,
}

/// The voter's side.
#[derive(Clone, Debug, Default)]
pub struct Promises {
    by_vip: BTreeMap<IpAddr, Promise>,
    by_holder: BTreeMap<NodeId, SetPromise>,
    /// Until then nothing is given away: promises of the incarnation before may still hold.
    startup_hold: Time,
    changes: u64,
}

impl Promises {
    /// A voter that has just started: it may have promised a lease of `lease` a moment ago, and
    /// something longer until `kept`, which is on its disk.
    pub fn after_restart(now: Time, lease: Millis, kept: Time) -> Self {
        let startup_hold = Time(now.0 + promise_ns(lease)).max(kept);
        Self { startup_hold, ..Self::default() }
    }

    /// Until when any promise holds, of this incarnation or of the one before.
    pub fn latest(&self) -> Time {
        let latest = self.by_vip.values().map(|p| self.until(p)).max();
        latest.unwrap_or_default().max(self.startup_hold)
    }

    fn until(&self, promise: &Promise) -> Time {
        let set = self.by_holder.get(&promise.holder).filter(|_| promise.in_set);
        set.map_or(promise.until, |set| promise.until.max(set.until))
    }

    /// Promises these VIPs (by these tokens) to `holder`, who holds them in this `incarnation`: its
    /// set from now on. What else it was promised stays so for as long as it was, and no longer.
    /// `shortened`: longer promises given before may be forgotten. Gives those that are not
    /// promised: another incarnation of the holder was promised them, and may still answer for
    /// them, unless this incarnation is its heir on the same machine.
    pub fn give(
        &mut self,
        now: Time,
        (holder, incarnation, heir_of): (NodeId, Incarnation, Incarnation),
        set: impl Iterator<Item = (IpAddr, LogIndex)>,
        length: Millis,
        shortened: bool,
    ) -> Vec<IpAddr> {
        let leaves: Vec<(IpAddr, Time)> = self
            .by_vip
            .iter()
            .filter(|(_, p)| p.holder == holder && p.in_set)
            .map(|(vip, p)| (*vip, self.until(p)))
            .collect();
        for (vip, until) in leaves {
            let promise = self.by_vip.get_mut(&vip).expect("found a moment ago");
            (promise.until, promise.in_set) = (until, false);
        }
        let mut whole = SetPromise { until: Time(now.0 + promise_ns(length)), longer: false };
        let mut not_yet = Vec::new();
        for (vip, token) in set {
            let of_another = self.by_vip.get(&vip).filter(|p| p.holder != holder);
            if of_another.is_some_and(|p| p.token == token && now < self.until(p)) {
                // By the same entry, under the same name: it was removed, and its lease still runs.
                not_yet.push(vip);
                continue;
            }
            // By another entry: it was overruled in the log, which waited for its promise.
            let before = self.by_vip.get(&vip).filter(|p| p.holder == holder);
            let known = |p: &Promise| p.incarnation == incarnation || p.incarnation == heir_of;
            if before.is_some_and(|p| !known(p) && now < p.until) {
                not_yet.push(vip);
                continue;
            }
            let until = before.filter(|_| !shortened).map_or(Time(0), |p| p.until);
            whole.longer |= until != Time(0);
            self.changes += u64::from(before.is_none_or(|p| p.token != token));
            self.by_vip.insert(vip, Promise { holder, token, incarnation, until, in_set: true });
        }
        self.by_holder.insert(holder, whole);
        not_yet
    }

    /// Renews what was promised to `holder` about its set, the same for all VIPs in it.
    pub fn renew(&mut self, now: Time, holder: NodeId, length: Millis, shortened: bool) {
        let whole = self.by_holder.entry(holder).or_default();
        let until = Time(now.0 + promise_ns(length));
        whole.until = if shortened { until } else { whole.until.max(until) };
        if shortened && std::mem::take(&mut whole.longer) {
            for promise in self.by_vip.values_mut().filter(|p| p.holder == holder && p.in_set) {
                promise.until = Time(0);
            }
        }
    }

    /// Raised whenever a VIP is promised by another token or to another holder than before.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Until when this voter may not append the entry at `index`, which gives `vip` to `to`, if
    /// that is a member; `None`: it may now.
    pub fn hold(
        &self,
        now: Time,
        vip: IpAddr,
        to: Option<NodeId>,
        index: LogIndex,
    ) -> Option<Time> {
        let promised = self
            .by_vip
            .get(&vip)
            .filter(|p| Some(p.holder) != to && p.token < index)
            .map_or(Time(0), |p| self.until(p));
        Some(promised.max(self.startup_hold)).filter(|until| *until > now)
    }

    /// Until when this voter may not append that the holder by `token` has let go; `None`: it may
    /// now. A holder that let go does not ask again in this incarnation; but one that starts over
    /// may know an older log, and hold again by the same token what it has let go.
    pub fn hold_release(
        &self,
        now: Time,
        vip: IpAddr,
        token: LogIndex,
        incarnation: Incarnation,
    ) -> Option<Time> {
        let promised = self
            .by_vip
            .get(&vip)
            .filter(|p| p.token == token && p.incarnation != incarnation)
            .map_or(Time(0), |p| self.until(p));
        Some(promised.max(self.startup_hold)).filter(|until| *until > now)
    }

    /// The newest entry by which anybody was promised the VIP; zero: none.
    pub fn token(&self, vip: IpAddr) -> LogIndex {
        self.by_vip.get(&vip).map_or(LogIndex::ZERO, |p| p.token)
    }
}

/// The holder's side of one VIP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Renewals {
    /// The voter's incarnation and the newest deadline it renewed to: the heartbeat's sent time and
    /// the length it asked for.
    by_voter: BTreeMap<NodeId, (Incarnation, Time)>,
}

impl Renewals {
    /// A voter renewed in this of its incarnations. What it renewed in another counts no more.
    pub fn acked(&mut self, voter: NodeId, incarnation: Incarnation, deadline: Time) {
        let entry = self.by_voter.entry(voter).or_default();
        let before = if entry.0 == incarnation { entry.1 } else { Time(0) };
        *entry = (incarnation, deadline.max(before));
    }

    /// Until when this voter has renewed.
    pub fn until(&self, voter: NodeId) -> Time {
        self.by_voter.get(&voter).map_or(Time(0), |(_, until)| *until)
    }

    /// Whether the VIP that these renewals are of may go by `joint` from now on, which voters renew
    /// together with it. What `joint` says of a voter must not be more than that voter granted
    /// this VIP, unless it is no more than the deadline that the VIP has anyway: then it can never
    /// raise a deadline of `joint` above what a majority granted this VIP.
    pub fn may_go_by(&self, joint: &Self, voters: &[NodeId]) -> bool {
        let own = self.deadline(voters);
        let granted = |voter, incarnation| match self.by_voter.get(voter) {
            Some((in_life, until)) if *in_life == incarnation => *until,
            _ => Time(0),
        };
        let covers = |voter, (incarnation, until)| until <= granted(voter, incarnation).max(own);
        own != Time(0)
            && joint.deadline(voters) >= own
            && joint.by_voter.iter().all(|(voter, renewed)| covers(voter, *renewed))
    }

    /// Until when the holder may act: the latest deadline that a majority of `voters` granted.
    pub fn deadline(&self, voters: &[NodeId]) -> Time {
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
    const OTHER: Option<NodeId> = Some(NodeId(2));

    fn ids<const N: usize>(numbers: [u64; N]) -> [NodeId; N] {
        numbers.map(NodeId)
    }

    fn vip() -> IpAddr {
        "10.0.0.100".parse().unwrap()
    }

    fn give(
        promises: &mut Promises,
        now: Time,
        (holder, token, incarnation, heir_of): (u64, u64, u64, u64),
        length: Millis,
        shortened: bool,
    ) -> bool {
        let set = [(vip(), LogIndex(token))].into_iter();
        let holder = (NodeId(holder), Incarnation(incarnation), Incarnation(heir_of));
        promises.give(now, holder, set, length, shortened).is_empty()
    }

    #[test]
    fn a_majority_makes_the_deadline() {
        let mut renewals = Renewals::default();
        assert_eq!(renewals.deadline(&ids([1, 2, 3])), Time(0));
        renewals.acked(NodeId(1), Incarnation(1), Time(100));
        assert_eq!(renewals.deadline(&ids([1, 2, 3])), Time(0), "one of three");
        renewals.acked(NodeId(2), Incarnation(1), Time(90));
        assert_eq!(renewals.deadline(&ids([1, 2, 3])), Time(90), "two of three");
        renewals.acked(NodeId(2), Incarnation(1), Time(80));
        assert_eq!(renewals.deadline(&ids([1, 2, 3])), Time(90), "late answers take nothing back");
        assert_eq!(renewals.deadline(&ids([1, 2])), Time(90), "of two, both");
        assert_eq!(renewals.deadline(&ids([1])), Time(100));
        assert_eq!(renewals.deadline(&ids([1, 2, 3, 4])), Time(0), "two of four are no majority");
        assert_eq!(renewals.deadline(&ids([])), Time(0));
        renewals.acked(NodeId(2), Incarnation(2), Time(70));
        assert_eq!(renewals.deadline(&ids([1, 2])), Time(70), "its life before counts no more");
    }

    #[test]
    fn another_life_of_the_holder_waits_unless_it_is_the_heir() {
        let mut promises = Promises::default();
        assert!(give(&mut promises, Time(0), (1, 5, 3, 0), Millis(100), false));
        let give = |promises: &mut Promises, ms, incarnation, heir| {
            give(promises, Time(ms * MS), (1, 5, incarnation, heir), Millis(100), false)
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
    fn a_namesake_of_a_holder_that_was_removed_waits_for_its_promise() {
        let mut promises = Promises::default();
        assert!(give(&mut promises, Time(0), (1, 5, 3, 0), Millis(100), false));
        let namesake = |promises: &mut Promises, ms, token| {
            give(promises, Time(ms * MS), (4, token, 1, 0), Millis(100), false)
        };
        assert!(!namesake(&mut promises, 50, 5), "by the same entry");
        assert!(namesake(&mut promises.clone(), 50, 6), "a later one has waited already");
        assert!(namesake(&mut promises, 101, 5), "now nobody holds it any more");
    }

    #[test]
    fn a_promise_outlasts_the_lease_by_both_clocks_errors() {
        let mut promises = Promises::default();
        give(&mut promises, Time(1_000 * MS), (1, 5, 3, 0), Millis(100), false);
        assert_eq!(
            promises.hold(Time(1_100 * MS), vip(), OTHER, LogIndex(9)),
            Some(Time(1_100 * MS + 400_000))
        );
        assert_eq!(promises.hold(Time(1_100 * MS + 400_000), vip(), OTHER, LogIndex(9)), None);
        let older = promises.hold(Time(1_100 * MS), vip(), OTHER, LogIndex(4));
        assert_eq!(older, None, "an entry before the one it holds by is history");
        assert_eq!(
            promises.hold(Time(1_001 * MS), vip(), Some(NodeId(1)), LogIndex(9)),
            None,
            "not against itself"
        );
    }

    #[test]
    fn a_long_promise_is_kept_until_the_holder_says_it_is_shorter() {
        let mut promises = Promises::default();
        give(&mut promises, Time(0), (1, 5, 3, 0), Millis(5_000), false);
        give(&mut promises, Time(10 * MS), (1, 5, 3, 0), Millis(100), false);
        assert!(promises.hold(Time(4_000 * MS), vip(), OTHER, LogIndex(9)).is_some());
        give(&mut promises, Time(20 * MS), (1, 5, 3, 0), Millis(100), true);
        assert!(promises.hold(Time(200 * MS), vip(), OTHER, LogIndex(9)).is_none());
    }

    #[test]
    fn a_release_waits_for_what_a_later_life_was_promised() {
        let mut promises = Promises::default();
        give(&mut promises, Time(0), (1, 5, 3, 0), Millis(100), false);
        assert_eq!(
            promises.hold_release(Time(MS), vip(), LogIndex(5), Incarnation(3)),
            None,
            "it has let go"
        );
        give(&mut promises, Time(10 * MS), (1, 5, 4, 3), Millis(100), false);
        assert!(
            promises.hold_release(Time(11 * MS), vip(), LogIndex(5), Incarnation(3)).is_some(),
            "and began anew"
        );
        assert_eq!(promises.hold_release(Time(111 * MS), vip(), LogIndex(5), Incarnation(3)), None);
        assert_eq!(promises.hold_release(Time(11 * MS), vip(), LogIndex(5), Incarnation(4)), None);
        assert_eq!(
            promises.hold_release(Time(11 * MS), vip(), LogIndex(4), Incarnation(3)),
            None,
            "of an older token"
        );
        let restarted = Promises::after_restart(Time(0), Millis(100), Time(0));
        assert!(
            restarted.hold_release(Time(50 * MS), vip(), LogIndex(5), Incarnation(3)).is_some(),
            "it has forgotten"
        );
    }

    #[test]
    fn a_restarted_voter_waits_one_lease() {
        let promises = Promises::after_restart(Time(0), Millis(100), Time(0));
        assert!(promises.hold(Time(100 * MS), vip(), OTHER, LogIndex(9)).is_some());
        assert!(promises.hold(Time(101 * MS), vip(), OTHER, LogIndex(9)).is_none());
        let long = Promises::after_restart(Time(0), Millis(100), Time(700 * MS));
        assert!(
            long.hold(Time(699 * MS), vip(), OTHER, LogIndex(9)).is_some(),
            "a longer promise is on its disk"
        );
    }

    #[test]
    fn what_leaves_a_set_is_promised_as_long_as_it_was_and_no_longer() {
        let (a, b): (IpAddr, IpAddr) = (vip(), "2001:db8::1".parse().unwrap());
        let mut promises = Promises::default();
        let lease = Millis(100);
        promises.give(
            Time(0),
            (NodeId(1), Incarnation(3), Incarnation(0)),
            [(a, LogIndex(5)), (b, LogIndex(6))].into_iter(),
            lease,
            false,
        );
        promises.renew(Time(50 * MS), NodeId(1), lease, true);
        for vip in [a, b] {
            assert!(
                promises.hold(Time(150 * MS), vip, OTHER, LogIndex(9)).is_some(),
                "renewed as one"
            );
            assert!(promises.hold(Time(151 * MS), vip, OTHER, LogIndex(9)).is_none());
        }
        let changes = promises.changes();
        promises.give(
            Time(60 * MS),
            (NodeId(1), Incarnation(3), Incarnation(0)),
            [(b, LogIndex(6))].into_iter(),
            lease,
            true,
        );
        promises.renew(Time(90 * MS), NodeId(1), lease, true);
        assert_eq!(promises.changes(), changes, "nobody got anything");
        assert!(promises.hold(Time(150 * MS), a, OTHER, LogIndex(9)).is_some());
        assert!(promises.hold(Time(151 * MS), a, OTHER, LogIndex(9)).is_none(), "it left at 60");
        assert!(promises.hold(Time(190 * MS), b, OTHER, LogIndex(9)).is_some());
        promises.give(
            Time(200 * MS),
            (NodeId(2), Incarnation(1), Incarnation(0)),
            [(b, LogIndex(9))].into_iter(),
            lease,
            true,
        );
        promises.renew(Time(250 * MS), NodeId(1), lease, true);
        assert!(
            promises.hold(Time(301 * MS), b, Some(NodeId(3)), LogIndex(10)).is_none(),
            "of another holder now"
        );
        assert_eq!((promises.changes(), promises.token(b)), (changes + 1, LogIndex(9)));
    }

    #[test]
    fn a_longer_promise_of_one_vip_outlasts_its_set_until_it_is_shortened() {
        let (a, b): (IpAddr, IpAddr) = (vip(), "2001:db8::1".parse().unwrap());
        let mut promises = Promises::default();
        promises.give(
            Time(0),
            (NodeId(1), Incarnation(3), Incarnation(0)),
            [(a, LogIndex(5))].into_iter(),
            Millis(5_000),
            false,
        );
        promises.give(
            Time(MS),
            (NodeId(1), Incarnation(3), Incarnation(0)),
            [(a, LogIndex(5)), (b, LogIndex(6))].into_iter(),
            Millis(100),
            false,
        );
        promises.renew(Time(2 * MS), NodeId(1), Millis(100), false);
        assert!(promises.hold(Time(4_000 * MS), a, OTHER, LogIndex(9)).is_some());
        assert!(promises.hold(Time(4_000 * MS), b, OTHER, LogIndex(9)).is_none());
        promises.renew(Time(3 * MS), NodeId(1), Millis(100), true);
        assert!(promises.hold(Time(200 * MS), a, OTHER, LogIndex(9)).is_none());
    }

    /// A VIP goes by the deadline of all only where no voter is counted for more than it granted.
    #[test]
    fn a_vip_goes_by_the_joint_deadline_when_that_cannot_exceed_its_own() {
        let of = |acks: &[(u64, u64)]| {
            let mut renewals = Renewals::default();
            acks.iter().for_each(|(voter, until)| {
                renewals.acked(NodeId(*voter), Incarnation(1), Time(*until));
            });
            renewals
        };
        let voters = ids([1, 2, 3]);
        let joint = of(&[(1, 200), (2, 200), (3, 190)]);
        assert!(of(&[(1, 200), (2, 200)]).may_go_by(&joint, &voters), "190 raises nothing");
        assert!(!of(&[(1, 200)]).may_go_by(&joint, &voters), "no majority has granted it");
        assert!(!Renewals::default().may_go_by(&Renewals::default(), &voters));
        let long = of(&[(1, 200), (2, 200), (3, 5_000)]);
        assert!(!of(&[(1, 200), (2, 200)]).may_go_by(&long, &voters), "3 granted it nothing");
        assert!(!of(&[(1, 210), (2, 210)]).may_go_by(&joint, &voters), "it has more by itself");
        // By trial: whatever voters renew from then on, the joint deadline is not above the own
        // one.
        for seed in 0..4_000u64 {
            let roll = |n: u64| seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(n as u32) % 8;
            let mut own = of(&[(1, roll(1)), (2, roll(9)), (3, roll(17))]);
            let mut joint = of(&[(1, roll(25)), (2, roll(33)), (3, roll(41))]);
            if !own.may_go_by(&joint, &voters) {
                continue;
            }
            for step in 0..4 {
                let (voter, until) = (NodeId(1 + roll(50 + step) % 3), Time(4 + roll(5 * step)));
                own.acked(voter, Incarnation(1), until);
                joint.acked(voter, Incarnation(1), until);
                assert!(joint.deadline(&voters) <= own.deadline(&voters), "{joint:?} {own:?}");
            }
        }
    }
}
