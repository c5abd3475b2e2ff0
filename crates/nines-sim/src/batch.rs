//! Many seeds on several threads.
//!
//! Decides: which seeds are run, and what came of all of them together. That depends on no thread:
//! results are added in the order of seeds, and where hours are asked for the last seed is the
//! first one with which they are reached.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    sync::{
        Once,
        mpsc::{Sender, channel},
    },
    thread,
};

use nines_sim::{Outcome, scenario::Drawn};

/// Which seeds are run, and how.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The first seed.
    pub from: u64,
    /// At least so many.
    pub seeds: u64,
    /// And as many as it takes until so much virtual time has passed, ns.
    pub virtual_ns: u64,
    /// Threads at a time.
    pub jobs: usize,
    /// No seed after the first one that has a violation.
    pub until_violation: bool,
}

/// What came of them.
#[derive(Debug, Default, PartialEq)]
pub struct Total {
    /// Seeds that count.
    pub seeds: u64,
    /// Virtual time of these, ns.
    pub virtual_ns: u64,
    /// Virtual time of all that ran, those included that were begun and do not count.
    pub spent_ns: u64,
    /// Seeds with what was wrong.
    pub violations: Vec<(u64, String)>,
    /// What went wrong in the worlds.
    pub drawn: Drawn,
    /// Hash of all traces, in the order of seeds.
    pub traces: u64,
}

/// An error is what the run panicked with.
type Ran = Result<Outcome, String>;

thread_local! {
    /// The seed that this thread runs, and who waits for its result.
    static RUNS: RefCell<Option<(u64, Sender<(u64, Ran)>)>> = const { RefCell::new(None) };
}

static PANICS_ARE_TOLD: Once = Once::new();

impl Total {
    fn add(&mut self, seed: u64, ran: Ran) {
        self.seeds += 1;
        let (wrong, trace) = match ran {
            Ok(outcome) => {
                self.virtual_ns += outcome.virtual_ns;
                self.drawn.add(&outcome.drawn);
                (outcome.wrong(), outcome.trace)
            }
            Err(why) => (Some(format!("panic: {why}")), 0),
        };
        self.traces = self.traces.rotate_left(7) ^ trace;
        self.violations.extend(wrong.map(|what| (seed, what)));
    }
}

impl Batch {
    fn is_reached(&self, total: &Total) -> bool {
        let all = total.seeds >= self.seeds && total.virtual_ns >= self.virtual_ns;
        all || (self.until_violation && !total.violations.is_empty())
    }

    /// Runs them.
    pub fn run(&self, run: fn(u64) -> Outcome) -> Total {
        let (tell, hear) = channel();
        PANICS_ARE_TOLD.call_once(tell_panics);
        let mut total = Total::default();
        let (mut next, mut under_way) = (self.from, 0);
        let mut early = BTreeMap::new();
        while !self.is_reached(&total) {
            // A thread for each seed: one that panics is lost.
            while under_way < self.jobs && self.may_count(&total, next) {
                start(next, run, tell.clone());
                (next, under_way) = (next + 1, under_way + 1);
            }
            let (seed, ran) = hear.recv().expect("this thread keeps a sender");
            under_way -= 1;
            total.spent_ns += ran.as_ref().map_or(0, |outcome| outcome.virtual_ns);
            early.insert(seed, ran);
            while !self.is_reached(&total)
                && let Some(ran) = early.remove(&(self.from + total.seeds))
            {
                total.add(self.from + total.seeds, ran);
            }
        }
        total
    }

    /// Whether this seed is one that was asked for, as far as is known by now.
    fn may_count(&self, total: &Total, seed: u64) -> bool {
        seed - self.from < self.seeds || total.virtual_ns < self.virtual_ns
    }
}

fn start(seed: u64, run: fn(u64) -> Outcome, tell: Sender<(u64, Ran)>) {
    let work = move || {
        RUNS.set(Some((seed, tell.clone())));
        let outcome = run(seed);
        // Nobody listens any more: the result does not count.
        let _ = tell.send((seed, Ok(outcome)));
    };
    thread::Builder::new().spawn(work).expect("this machine can start a thread");
}

/// A panic is the result of its seed, and its thread ends there. Where a panic aborts the process,
/// as in release builds, it stands still instead: nothing of the other seeds would be told.
fn tell_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let Some((seed, tell)) = RUNS.take() else { return before(panic) };
        let what = panic.payload_as_str().unwrap_or("without a text");
        let place = panic.location().map_or_else(String::new, |at| format!(" at {at}"));
        let _ = tell.send((seed, Err(format!("{what}{place}"))));
        while cfg!(panic = "abort") {
            thread::park();
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(seed: u64) -> Outcome {
        assert!(seed != 3, "three is too many");
        let violation = (seed == 5).then(|| "S0: five".to_owned());
        let (healed, virtual_ns) = (violation.is_none() && seed != 6, 1_000);
        Outcome { trace: seed, violation, healed, moves: 2, virtual_ns, drawn: Drawn::default() }
    }

    #[test]
    fn each_violation_has_its_seed_and_the_others_go_on() {
        for jobs in [1, 3] {
            let batch = Batch { from: 1, seeds: 7, virtual_ns: 0, jobs, until_violation: false };
            let total = batch.run(outcome);
            assert_eq!((total.seeds, total.virtual_ns), (7, 6_000));
            let [panic, broken, sick] = &total.violations[..] else { panic!("{total:?}") };
            assert!(
                panic.0 == 3 && panic.1.starts_with("panic: three is too many at"),
                "{panic:?}"
            );
            assert_eq!(*broken, (5, "S0: five".to_owned()));
            assert!(sick.0 == 6 && sick.1.starts_with("not healed: "), "{sick:?}");
            let first = Batch { until_violation: true, ..batch }.run(outcome);
            assert_eq!((first.seeds, first.violations.len()), (3, 1));
        }
    }

    #[test]
    fn nothing_counts_after_the_hours_are_reached() {
        for jobs in [1, 4] {
            let batch =
                Batch { from: 10, seeds: 2, virtual_ns: 4_500, jobs, until_violation: false };
            assert_eq!(batch.run(outcome).seeds, 5);
            assert_eq!(Batch { virtual_ns: 500, ..batch }.run(outcome).seeds, 2);
        }
    }
}
