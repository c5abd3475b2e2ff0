//! A runner without processes, for tests and for the simulator.
//!
//! Decides: that a run ends as its script says. It knows no clock: an outcome comes at once, and
//! its `duration` says when the simulator is to let it happen.

use std::{
    collections::{BTreeMap, VecDeque},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use nines_model::Millis;

pub use self::fence_device::{FenceDevice, OnOff, OnStatus};
use crate::{
    Done, Handle, Runner,
    run::{Exit, NotStarted, Outcome, Run},
};

pub mod fence_device;

/// How a run ends.
#[derive(Clone, Debug)]
pub enum Script {
    /// With this outcome.
    Ends(Outcome),
    /// At its deadline, stopped by SIGTERM.
    Overruns,
    /// When [`Fake::end`] says so, or when it is cancelled.
    Waits,
}

/// A runner that follows scripts and records what it was asked.
#[derive(Clone, Debug, Default)]
pub struct Fake {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    scripts: BTreeMap<PathBuf, VecDeque<Script>>,
    devices: BTreeMap<PathBuf, FenceDevice>,
    calls: Vec<Run>,
    waiting: BTreeMap<usize, Done>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("scripts", &self.scripts).field("calls", &self.calls).finish()
    }
}

impl Fake {
    /// The next run of this program without a script follows this one. A program whose scripts are
    /// used up is missing, unless it is the agent of a device.
    pub fn script(&self, program: impl Into<PathBuf>, script: Script) {
        self.state().scripts.entry(program.into()).or_default().push_back(script);
    }

    /// Runs of this program without a script are answered by this device.
    pub fn device(&self, program: impl Into<PathBuf>, device: &FenceDevice) {
        self.state().devices.insert(program.into(), device.clone());
    }

    /// All that was asked, in order.
    pub fn calls(&self) -> Vec<Run> {
        self.state().calls.clone()
    }

    /// Ends the runs of a program that wait, the first one first; how many there were.
    pub fn end(&self, program: &Path, outcome: &Outcome) -> usize {
        let mut state = self.state();
        let mine = |number: &usize| state.calls[*number].program == program;
        let numbers: Vec<usize> = state.waiting.keys().copied().filter(mine).collect();
        let ended: Vec<Done> = numbers.iter().filter_map(|n| state.waiting.remove(n)).collect();
        drop(state);
        ended.into_iter().map(|done| done(outcome.clone())).count()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Runner for Fake {
    fn start(&self, run: Run, done: Done) -> Handle {
        let mut state = self.state();
        let number = state.calls.len();
        let script = state.scripts.get_mut(&run.program).and_then(VecDeque::pop_front);
        let deadline = run.deadline;
        let device = state.devices.get(&run.program).filter(|_| script.is_none());
        let answer = device.map(|device| device.answer(&run));
        state.calls.push(run);
        let outcome = match script {
            Some(Script::Ends(outcome)) => outcome,
            Some(Script::Overruns) => Outcome::new(Exit::DeadlineKilled, deadline),
            Some(Script::Waits) => {
                state.waiting.insert(number, done);
                let fake = self.clone();
                return Handle::new(move || {
                    let waiting = fake.state().waiting.remove(&number);
                    waiting.into_iter().for_each(|done| {
                        done(Outcome::new(Exit::Cancelled, Millis(0)));
                    });
                });
            }
            None => {
                let missing = || Outcome::new(Exit::NotStarted(NotStarted::Missing), Millis(0));
                answer.unwrap_or_else(missing)
            }
        };
        // Not while it is locked: who is told may start the next run.
        drop(state);
        done(outcome);
        Handle::new(|| ())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    fn run(program: &str) -> Run {
        Run::new(program, Millis(10_000))
    }

    #[test]
    fn runs_end_as_their_scripts_say_and_are_recorded() {
        let fake = Fake::default();
        fake.script("/a", Script::Ends(Outcome::new(Exit::Code(7), Millis(30))));
        fake.script("/a", Script::Overruns);
        assert_eq!(fake.run(run("/a").args(["start"])).exit, Exit::Code(7));
        let late = fake.run(run("/a"));
        assert_eq!((late.exit, late.duration), (Exit::DeadlineKilled, Millis(10_000)));
        assert_eq!(fake.run(run("/a")).exit, Exit::NotStarted(NotStarted::Missing));
        assert_eq!(fake.calls(), [run("/a").args(["start"]), run("/a"), run("/a")]);
    }

    #[test]
    fn one_that_waits_ends_when_it_is_told_to_or_cancelled() {
        let fake = Fake::default();
        let (tell, told) = channel();
        let start = |program: &str| {
            fake.script(program, Script::Waits);
            let tell = tell.clone();
            fake.start(run(program), Box::new(move |outcome| tell.send(outcome.exit).unwrap()))
        };
        let (_a, b, c) = (start("/a"), start("/b"), start("/c"));
        assert!(told.try_recv().is_err(), "all wait");
        assert_eq!(fake.end(Path::new("/a"), &Outcome::new(Exit::Code(0), Millis(5))), 1);
        assert_eq!(told.try_recv(), Ok(Exit::Code(0)));
        b.cancel();
        assert_eq!(told.try_recv(), Ok(Exit::Cancelled));
        b.cancel();
        drop(c);
        assert_eq!(told.try_recv(), Ok(Exit::Cancelled), "nobody holds it any more");
        assert!(told.try_recv().is_err(), "each is told once");
        assert_eq!(fake.end(Path::new("/b"), &Outcome::new(Exit::Code(0), Millis(5))), 0);
    }
}
