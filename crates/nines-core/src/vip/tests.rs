//! A VIP, step by step.

use nines_model::{Incarnation, NodeId};

use super::*;

const T: Time = Time(1_000_000_000);
const HOLD: Want = Want::Hold(LogIndex(7));
const RELEASE: Want = Want::Release(LogIndex(7));

/// A step after which the kernel has what was asked of it.
fn step(vip: &mut Vip, now: Time, want: Want, voters: &[u64]) -> Vec<Do> {
    let voters: Vec<NodeId> = voters.iter().copied().map(NodeId).collect();
    let deadline = vip.renewals.deadline(&voters);
    vip.step(now, want, deadline)
}

fn renewed(until: Time) -> Vip {
    let mut vip = Vip { token: LogIndex(7), known: true, ..Vip::default() };
    vip.renewals.acked(NodeId(1), Incarnation(1), until);
    vip.renewals.acked(NodeId(2), Incarnation(1), until);
    vip
}

#[test]
fn a_deadline_that_could_not_be_written_is_written_again() {
    let mut vip = Vip { phase: Phase::On, token: LogIndex(7), known: true, ..Vip::default() };
    vip.guards(1);
    assert!(!vip.is_guarded());
    assert!(!vip.guard_done(9, None), "an older write says nothing");
    assert!(vip.guard_done(1, Some(Time(500))));
    assert_eq!(vip.next(Want::Nothing, Time(0)), Some(Time(500)));
    assert_eq!(vip.step(Time(499), Want::Wait, Time(0)), []);
    vip.guard = Time(9_000);
    assert!(vip.step(Time(500), Want::Wait, Time(0)).contains(&Do::Guard(Time(9_000))));
    vip.guards(2);
    assert!(vip.guard_done(2, None) && vip.is_guarded());
}

#[test]
fn a_release_is_not_told_while_the_kernel_may_answer() {
    let mut vip = Vip { known: true, ..Vip::default() };
    vip.guards(1);
    let now = Time(10_000_000_000);
    assert_eq!(vip.step(now, Want::Release(LogIndex(3)), Time(0)), []);
    assert!(vip.guard_done(1, Some(now)));
    assert!(
        !vip.step(now, Want::Release(LogIndex(3)), Time(0)).contains(&Do::Released(LogIndex(3)))
    );
    vip.guards(2);
    assert!(vip.guard_done(2, None));
    assert_eq!(vip.step(now, Want::Release(LogIndex(3)), Time(0)), [Do::Released(LogIndex(3))]);
    // Nor beside the write that silences it; then again and again, until the log has it.
    let mut vip = Vip { known: true, token: LogIndex(7), ..Vip::default() };
    assert_eq!(vip.step(now, RELEASE, Time(0)), [Do::Guard(Time(0))]);
    vip.guards(1);
    assert!(vip.guard_done(1, None));
    assert_eq!(vip.step(now, RELEASE, Time(0)), [Do::Released(LogIndex(7))]);
    assert_eq!(vip.next(RELEASE, Time(0)), Some(Time(now.plus(TOLD_AGAIN).0 + 1)));
}

#[test]
fn nothing_starts_without_a_lease_and_the_guard_comes_first() {
    let mut vip = Vip::default();
    assert_eq!(step(&mut vip, T, HOLD, &[1, 2, 3]), []);
    let mut vip = renewed(T.plus(Millis(100)));
    assert_eq!(step(&mut vip, T, HOLD, &[1, 2, 3]), [Do::Guard(T.plus(Millis(100))), Do::Up]);
    vip.began(true, 1);
    assert_eq!(step(&mut vip, T, HOLD, &[1, 2, 3]), []);
    assert!(vip.performed(T, 1, true));
    assert_eq!(step(&mut vip, T, HOLD, &[1, 2, 3]), [Do::Announce]);
    assert_eq!((vip.phase, vip.guard), (Phase::On, T.plus(Millis(100))));
}

#[test]
fn another_token_starts_without_old_renewals() {
    let mut vip = renewed(T.plus(Millis(100)));
    assert_eq!(step(&mut vip, T, Want::Hold(LogIndex(8)), &[1, 2, 3]), []);
}

#[test]
fn a_release_is_told_only_when_the_address_is_off() {
    let mut vip = Vip { phase: Phase::On, ..renewed(T.plus(Millis(100))) };
    assert_eq!(step(&mut vip, T, RELEASE, &[1]), [Do::Guard(Time(0)), Do::Down]);
    vip.began(false, 2);
    assert_eq!(step(&mut vip, T, RELEASE, &[1]), []);
    vip.performed(T, 2, false);
    assert_eq!(step(&mut vip, T, RELEASE, &[1]), [Do::Down], "a failed stop is tried again");
    vip.began(false, 3);
    vip.performed(T, 3, true);
    assert_eq!(step(&mut vip, T, RELEASE, &[1]), [Do::Released(LogIndex(7))]);
    assert_eq!(step(&mut vip, T, RELEASE, &[1]), [], "told once");
    assert!(vip.tells_again());
    assert_eq!(step(&mut vip, T, RELEASE, &[1]), [Do::Released(LogIndex(7))]);
    assert!(!Vip::default().tells_again());
}

#[test]
fn a_short_lapse_costs_an_announcement_a_long_one_the_address() {
    let mut vip = Vip { phase: Phase::On, ..renewed(T) };
    vip.guard = T;
    assert_eq!(step(&mut vip, T.plus(Millis(200)), HOLD, &[1, 2]), []);
    vip.renewals.acked(NodeId(1), Incarnation(1), T.plus(Millis(400)));
    vip.renewals.acked(NodeId(2), Incarnation(1), T.plus(Millis(400)));
    assert_eq!(
        step(&mut vip, T.plus(Millis(300)), HOLD, &[1, 2]),
        [Do::Guard(T.plus(Millis(400))), Do::Announce]
    );
    assert_eq!(step(&mut vip, T.plus(Millis(1_500)), HOLD, &[1, 2])[0], Do::Down);
}

#[test]
fn what_an_earlier_life_left_is_taken_away_before_a_release_is_told() {
    let mut vip = Vip::default();
    assert_eq!(step(&mut vip, T, Want::Wait, &[1]), [], "the log may be behind");
    assert_eq!(step(&mut vip, T, RELEASE, &[1]), [Do::Guard(Time(0)), Do::Down]);
    vip.began(false, 1);
    assert_eq!(step(&mut vip, T, RELEASE, &[1]), []);
    vip.performed(T, 1, true);
    assert_eq!(step(&mut vip, T, RELEASE, &[1]), [Do::Released(LogIndex(7))]);
}

#[test]
fn a_failed_start_is_not_tried_again_at_once() {
    let mut vip = renewed(T.plus(Millis(60_000)));
    step(&mut vip, T, HOLD, &[1, 2]);
    vip.began(true, 1);
    vip.performed(T, 1, false);
    let step = |vip: &mut Vip, ms| step(vip, T.plus(Millis(ms)), HOLD, &[1, 2]);
    // What is not there speaks for nobody.
    assert_eq!(step(&mut vip, 1), [Do::Guard(Time(0))]);
    assert_eq!(step(&mut vip, 2), []);
    let again = step(&mut vip, 30_000);
    assert!(matches!(again[..], [Do::Guard(until), Do::Up] if until > T), "{again:?}");
}

#[test]
fn a_vip_leaves_the_common_deadline_with_one_of_its_own_first() {
    let joint = renewed(T.plus(Millis(100))).renewals;
    let until = joint.deadline(&[NodeId(1), NodeId(2)]);
    let follows = || {
        let mut vip = Vip { joint: true, ..renewed(until) };
        assert_eq!(vip.step(T, HOLD, until), [Do::Follow(until), Do::Up]);
        vip.began(true, 1);
        vip.performed(T, 1, true);
        assert_eq!(vip.step(T, HOLD, until), [Do::Announce]);
        assert_eq!(vip.step(T, HOLD, until.plus(Millis(20))), []);
        vip
    };
    let mut vip = follows();
    vip.refuse(&joint);
    assert_eq!(vip.step(T, HOLD, until), [Do::Guard(until)]);
    assert!(!vip.follows && !vip.joint && vip.refused);
    let mut vip = follows();
    assert_eq!(vip.step(T, RELEASE, until), [Do::Guard(Time(0)), Do::Down]);
    let mut vip = follows();
    assert_eq!(vip.step(T, Want::Wait, until), [Do::Guard(until)]);
    assert_eq!((vip.token, vip.follows, vip.phase), (LogIndex::ZERO, false, Phase::On));
    let mut vip = follows();
    assert_eq!(vip.step(T, Want::Hold(LogIndex(8)), until), [Do::Guard(until)], "another lease");
    assert!(!vip.joint && vip.named == Time(u64::MAX));
}
