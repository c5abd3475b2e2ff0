//! Each state of the lease with each thing that can happen in it; `faults` plays whole stories.

use super::*;

mod faults;

const T: Timing = Timing::USUAL;
const A: HostNumber = HostNumber(0);
const B: HostNumber = HostNumber(1);

fn at(ms: u64) -> Time {
    Time(ms * 1_000_000)
}

fn ballot(epoch: u64, host: HostNumber) -> Ballot {
    Ballot { epoch, host }
}

/// A disk whose reads and writes are done at once, and a host on it.
struct Host {
    lease: Lease,
    disk: Vec<Seen>,
    now: u64,
}

impl Host {
    /// Host A of two, on a disk that holds this of B.
    fn beside(b: Block) -> Self {
        let disk = vec![Seen::Block(Block::default()), Seen::Block(b)];
        Self { lease: Lease::new(A, 2, 7, T), disk, now: 1_000 }
    }

    /// Carries one step out, and says what it was.
    fn once(&mut self) -> &'static str {
        let now = at(self.now);
        match self.lease.step(now) {
            Step::Wait(until) => {
                assert!(until > now, "no loop without end");
                self.now = until.0 / 1_000_000;
                "wait"
            }
            Step::Write(block) => {
                self.disk[0] = Seen::Block(block);
                self.lease.wrote(now, now, block);
                "write"
            }
            Step::Read => {
                self.lease.read(now, now, &self.disk.clone(), 100);
                "read"
            }
            Step::Start { .. } => "start",
            Step::End(_) => "end",
            Step::Stopped(_) => "stopped",
        }
    }

    /// Steps up to the first that is one of these.
    fn until(&mut self, steps: &[&str]) -> &'static str {
        let mut seen = (0..1_000).map(|_| self.once());
        seen.find(|step| steps.contains(step)).expect("it comes")
    }

    /// Steps for so long, ms.
    fn for_ms(&mut self, ms: u64) -> Vec<&'static str> {
        let end = self.now + ms;
        let mut seen = Vec::new();
        while self.now < end {
            seen.push(self.once());
        }
        seen
    }

    fn own(&self) -> Block {
        match self.disk[0] {
            Seen::Block(block) => block,
            Seen::Damaged => panic!("nobody damages it"),
        }
    }

    /// Host A as the owner of a disk that was nobody's.
    fn owner() -> Self {
        Self::owner_beside(Block::default())
    }

    fn owner_beside(b: Block) -> Self {
        let mut host = Self::beside(b);
        assert_eq!(host.until(&["start"]), "start");
        assert_eq!(host.lease.speaks_until(), Time(0), "its log is not there yet");
        host.lease.copied(at(host.now));
        assert_eq!(host.for_ms(600), ["write", "read", "wait", "write", "read", "wait"]);
        assert!(host.lease.speaks_until() > at(host.now));
        host
    }
}

/// What B says, with a claim or without.
fn of_b(sequence: u64, claim: u64, owned: u64) -> Block {
    let some = |epoch| if epoch == 0 { Ballot::NONE } else { ballot(epoch, B) };
    Block { run: 9, sequence, claim: some(claim), owned: some(owned) }
}

#[test]
fn a_disk_that_nobody_claims_is_taken_at_once() {
    let mut host = Host::beside(of_b(4, 0, 6));
    assert_eq!(["read", "write", "read"].map(|_| host.once()), ["read", "write", "read"]);
    let claim = ballot(7, A);
    let step = host.lease.step(at(host.now));
    assert_eq!(step, Step::Start { from: Some(B), claim }, "B's log is the newest");
    assert_eq!((host.own().claim, host.own().owned), (claim, Ballot::NONE));
    host.lease.copied(at(host.now));
    host.for_ms(100);
    assert_eq!((host.own().claim, host.own().owned), (claim, claim));
}

#[test]
fn a_claim_that_changes_is_never_taken_over() {
    let mut host = Host::beside(of_b(1, 3, 3));
    for sequence in 2..40 {
        assert!(!host.for_ms(2_300).contains(&"write"));
        host.disk[1] = Seen::Block(of_b(sequence, 3, 3));
    }
    let before = host.now;
    host.until(&["start"]);
    assert!((2_500..3_600).contains(&(host.now - before)), "{}", host.now - before);
    assert_eq!(host.own().claim, ballot(4, A));
}

#[test]
fn slow_reads_only_delay_a_takeover() {
    let mut lease = Lease::new(A, 2, 7, T);
    let disk = [Seen::Block(Block::default()), Seen::Block(of_b(1, 3, 3))];
    // The first read showed the block at its end perhaps, the second at its start.
    assert_eq!(lease.step(at(0)), Step::Read);
    lease.read(at(0), at(5_000), &disk, 0);
    assert_eq!(lease.step(at(5_000)), Step::Read);
    lease.read(at(5_000), at(9_000), &disk, 0);
    assert_eq!(lease.step(at(9_000)), Step::Read, "4 s, of which it saw nothing");
    lease.read(at(9_000), at(9_001), &disk, 0);
    assert!(matches!(lease.step(at(9_001)), Step::Write(_)));
}

#[test]
fn two_that_claim_at_once_see_each_other_and_one_at_least_gives_way() {
    let mut host = Host::beside(Block::default());
    assert_eq!([host.once(), host.once()], ["read", "write"]);
    host.disk[1] = Seen::Block(of_b(1, 1, 0));
    assert_eq!(host.once(), "read");
    assert_eq!(host.once(), "write");
    assert_eq!(host.own().claim, Ballot::NONE, "and says so");
    assert_eq!(host.once(), "wait");
    assert_eq!(host.once(), "read");
    // B gave way, too: the next who claims gets it.
    host.disk[1] = Seen::Block(of_b(2, 0, 0));
    host.until(&["start"]);
    assert_eq!(host.own().claim, ballot(2, A), "higher than any that it saw");
}

#[test]
fn an_owner_ends_at_a_higher_claim_and_not_at_a_lower_one() {
    let mut host = Host::owner_beside(of_b(1, 0, 1));
    host.disk[1] = Seen::Block(of_b(2, 1, 1));
    assert!(!host.for_ms(2_000).contains(&"end"));
    host.disk[1] = Seen::Block(of_b(3, 3, 1));
    host.until(&["read"]);
    assert_eq!(host.lease.speaks_until(), Time(0), "at once");
    assert_eq!(host.lease.step(at(host.now)), Step::End(Why::Outbid(B)));
    assert!(host.for_ms(3_000).iter().all(|step| *step == "wait"), "its voter has not ended");
    host.lease.voter_ended(at(host.now));
    assert_eq!(host.once(), "write");
    let own = host.own();
    assert_eq!((own.claim, own.owned.epoch), (Ballot::NONE, 2), "whose log it was stays");
}

#[test]
fn an_owner_that_cannot_renew_ends_by_itself() {
    for fails_at in ["write", "read"] {
        let mut host = Host::owner();
        let deadline = host.lease.speaks_until();
        let end = loop {
            let now = at(host.now);
            match host.lease.step(now) {
                Step::Wait(until) => host.now = until.0 / 1_000_000,
                Step::Write(block) if fails_at == "read" => host.lease.wrote(now, now, block),
                Step::Write(_) | Step::Read => host.lease.failed(now),
                other => break other,
            }
            assert!(host.lease.speaks_until() <= deadline, "{fails_at}");
        };
        assert_eq!(end, Step::End(Why::Late), "{fails_at}");
        assert!(at(host.now) >= deadline && host.lease.speaks_until() == Time(0));
    }
}

#[test]
fn one_that_stood_still_ends_before_it_renews() {
    let mut host = Host::owner();
    host.now += 60_000;
    assert!(host.lease.speaks_until() < at(host.now));
    assert_eq!(host.lease.step(at(host.now)), Step::End(Why::Late));
}

#[test]
fn a_slow_renewal_counts_from_its_start() {
    let mut host = Host::owner();
    host.until(&["wait"]);
    let started = at(host.now);
    let Step::Write(block) = host.lease.step(started) else { panic!("it renews") };
    host.disk[0] = Seen::Block(block);
    host.now += 1_800;
    host.lease.wrote(started, at(host.now), block);
    assert_eq!(host.once(), "read");
    assert_eq!(host.lease.speaks_until(), started.plus(T.own));
}

#[test]
fn another_process_with_this_hosts_block_ends_it_for_good() {
    let mut host = Host::owner();
    host.until(&["write"]);
    host.disk[0] = Seen::Block(Block { run: 8, ..host.own() });
    host.once();
    assert_eq!(host.lease.step(at(host.now)), Step::End(Why::Twice));
    host.lease.voter_ended(at(host.now));
    assert_eq!(host.lease.step(at(host.now)), Step::Stopped(Why::Twice));
    let mut host = Host::beside(Block::default());
    host.until(&["write"]);
    host.disk[0] = Seen::Block(Block { run: 8, ..host.own() });
    host.once();
    assert_eq!(host.lease.step(at(host.now)), Step::Stopped(Why::Twice));
}

#[test]
fn what_cannot_be_read_is_taken_for_nothing() {
    let mut host = Host::beside(Block::default());
    host.disk[1] = Seen::Damaged;
    assert!(!host.for_ms(60_000).contains(&"write"), "it may hide the newest log");
    host.disk[1] = Seen::Block(Block::default());
    assert_eq!(host.until(&["start"]), "start");
    let mut host = Host::owner();
    let deadline = host.lease.speaks_until();
    host.disk[1] = Seen::Damaged;
    host.until(&["end"]);
    assert!(at(host.now) >= deadline, "it may hide a claim: it renews no more");
}

#[test]
fn a_stop_ends_the_voter_first_and_then_the_claim() {
    let mut host = Host::owner();
    host.lease.stop();
    assert_eq!(host.lease.step(at(host.now)), Step::End(Why::Asked));
    assert!(host.for_ms(3_000).contains(&"write"), "its voter says farewell meanwhile");
    assert!(host.lease.speaks_until() > at(host.now));
    host.lease.voter_ended(at(host.now));
    assert_eq!(host.lease.speaks_until(), Time(0));
    assert_eq!(host.once(), "write");
    assert_eq!(host.own().claim, Ballot::NONE);
    assert_eq!(host.lease.step(at(host.now)), Step::Stopped(Why::Asked));
    for steps in 0..3 {
        let mut host = Host::beside(of_b(1, if steps == 0 { 3 } else { 0 }, 3));
        for _ in 0..steps {
            host.once();
        }
        host.lease.stop();
        host.until(&["stopped"]);
        assert_eq!(host.own().claim, Ballot::NONE);
    }
}

#[test]
fn a_voter_that_ends_by_itself_lets_another_host_try() {
    let mut host = Host::owner();
    host.lease.voter_ended(at(host.now));
    assert_eq!(host.once(), "write");
    assert_eq!((host.own().claim, host.own().owned), (Ballot::NONE, ballot(1, A)));
    let before = host.now;
    host.until(&["read"]);
    assert!(host.now >= before + T.pause.0);
}

#[test]
fn a_failed_write_is_tried_again_under_the_same_number() {
    let mut host = Host::beside(Block::default());
    host.once();
    let first = host.lease.step(at(host.now));
    host.lease.failed(at(host.now));
    assert!(matches!(host.lease.step(at(host.now)), Step::Wait(_)));
    host.now += T.beat.0;
    assert_eq!(host.lease.step(at(host.now)), first);
}

#[test]
fn an_earlier_process_of_the_same_host_is_waited_for_like_another_host() {
    let mut host = Host::beside(Block::default());
    let earlier = Block { run: 3, sequence: 8, claim: ballot(5, A), owned: ballot(5, A) };
    host.disk[0] = Seen::Block(earlier);
    let before = host.now;
    host.until(&["start"]);
    assert!(host.now >= before + T.take.0);
    let own = host.own();
    assert_eq!((own.run, own.sequence, own.claim), (7, 9, ballot(6, A)));
}

#[test]
fn the_newest_log_is_told_by_claims_alone() {
    let disk = [of_b(900, 0, 4), of_b(3, 9, 6), of_b(70, 0, 0)].map(Seen::Block);
    assert_eq!(newest(&disk), Some(B));
    assert_eq!(newest(&[Seen::Block(Block::default())]), None);
    let unsound = Timing { take: T.own, ..T };
    assert!(T.is_sound() && !unsound.is_sound());
}
