//! How many datagrams of one cluster are opened, where many clusters share a machine.
//!
//! Decides: a cluster gets what its members send when they send as the config says, several times
//! over, and no more. What floods one port costs the others nothing but its share of the network.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use nines_model::{Spec, Time};

/// Datagrams in a second that every cluster has, before it has a config.
const LEAST: u64 = 500;
/// What a member may send in the time of one heartbeat: on two links, with the messages of an
/// election and of the log.
const EACH_BEAT: u64 = 8;
/// A pause of this length may be made up for at once, ns.
const SAVED: u64 = 1_000_000_000;

/// What makes a node one of many in a process: it does not run in real time, and it opens only so
/// many datagrams.
pub struct Guest {
    budget: Budget,
    /// It may speak until then, by the boot clock in ns; `None`: always.
    until: Option<Arc<AtomicU64>>,
}

impl Guest {
    /// It serves these members by this config.
    pub fn new(now: Time, spec: &Spec, members: usize) -> Self {
        Self { budget: Budget::new(now, rate(spec, members)), until: None }
    }

    /// One that speaks only before a time, by the boot clock in ns, which another thread moves.
    pub fn until(self, until: Option<Arc<AtomicU64>>) -> Self {
        Self { until, ..self }
    }

    /// Whether anything may leave it now: everything that it says is on the disk already.
    pub fn may_speak(&self, now: Time) -> bool {
        let until = self.until.as_ref().map(|until| until.load(Ordering::Acquire));
        until.is_none_or(|until| now < Time(until))
    }

    /// The members or the config have changed.
    pub fn serve(&mut self, spec: &Spec, members: usize) {
        self.budget.set(rate(spec, members));
    }

    /// Whether there is something left for one more datagram.
    pub fn may_open(&mut self, now: Time) -> bool {
        self.budget.take(now)
    }
}

/// A bucket that fills up with time.
#[derive(Clone, Copy, Debug)]
struct Budget {
    /// Datagrams in a second.
    rate: u64,
    /// Time that is not used up yet, ns; a datagram takes `1 s / rate`.
    saved: u64,
    at: Time,
}

/// Datagrams in a second that a cluster may send to its witness.
fn rate(spec: &Spec, members: usize) -> u64 {
    let beats = 1_000 / spec.timing.beat.0.max(1);
    LEAST + members as u64 * beats * EACH_BEAT
}

impl Budget {
    /// A full bucket. `rate`: datagrams in a second; 0 counts as 1.
    fn new(now: Time, rate: u64) -> Self {
        Self { rate: rate.max(1), saved: SAVED, at: now }
    }

    /// Another rate from now on; 0 counts as 1.
    fn set(&mut self, rate: u64) {
        self.rate = rate.max(1);
    }

    /// Takes what one datagram costs; false: there is nothing left for it.
    fn take(&mut self, now: Time) -> bool {
        self.saved = (self.saved + now.since(self.at)).min(SAVED);
        self.at = now;
        let cost = SAVED / self.rate;
        let enough = self.saved >= cost;
        if enough {
            self.saved -= cost;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_with_a_deadline_is_silent_from_then_on() {
        let until = Arc::new(AtomicU64::new(0));
        let guest = || Guest::new(Time(5), &Spec::default(), 3);
        let bound = guest().until(Some(Arc::clone(&until)));
        assert!(!bound.may_speak(Time(7)) && guest().may_speak(Time(7)));
        until.store(8, Ordering::Release);
        assert!(bound.may_speak(Time(7)) && !bound.may_speak(Time(8)));
    }

    #[test]
    fn a_flood_gets_its_rate_and_a_pause_is_made_up_for_once() {
        let at = |ms: u64| Time(1_000_000_000 + ms * 1_000_000);
        let mut budget = Budget::new(at(0), 1_000);
        let mut taken = |from: u64, to: u64| {
            let asks = (from..to).flat_map(|ms| std::iter::repeat_n(ms, 100));
            asks.filter(|ms| budget.take(at(*ms))).count()
        };
        // The bucket was full. From then on it is one in a millisecond.
        assert_eq!(taken(0, 1_000), 1_999);
        assert_eq!(taken(1_000, 3_000), 2_000);
        // A minute of silence counts as one second.
        assert_eq!(taken(63_000, 64_000), 1_999);
    }

    #[test]
    fn a_cluster_of_thirty_with_fast_heartbeats_fits_in() {
        let head = "[cluster]\nname = \"c\"\n[nodes]\na = \"10.0.0.2\"\n";
        let text = format!("{head}[timing]\nbeat = \"5ms\"\nlease = \"20ms\"\n");
        let spec = nines_model::config::parse(&text).unwrap();
        // Thirty members on two links, and as many other messages as heartbeats.
        assert!(rate(&spec, 30) >= 30 * 200 * 4);
        assert!(rate(&Spec::default(), 0) >= LEAST);
    }
}
