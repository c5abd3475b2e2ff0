//! Ring 2: the only door to child processes, for resource agents, fence agents and external checks.
//!
//! Decides: how a program is started, bounded, stopped and reaped. Does not decide which program
//! runs, when, or what its exit code means.
//!
//! A [`Run`] says what is to run and within which bounds; a [`Runner`] carries it out and tells
//! the [`Outcome`] exactly once. [`Processes`] is the real one, [`fake`] the one for tests and for
//! the simulator.

use std::{fmt, sync::mpsc};

pub use self::{
    cgroup::Leftover,
    child::Processes,
    run::{Containment, Exit, NotStarted, Outcome, Output, Run, Survivors},
};

mod cgroup;
mod child;
pub mod fake;
pub mod fence_agent;
mod process;
mod run;
mod start;
mod stop;
pub mod watchdog;

/// Is called once with what came of a run: on any thread, and perhaps before `start` returns.
pub type Done = Box<dyn FnOnce(Outcome) + Send>;

/// Carries runs out.
pub trait Runner: Send + Sync {
    /// Starts a run and returns at once. `done` is called exactly once, also when the program could
    /// not be started, was cancelled, or outlived its deadline.
    fn start(&self, run: Run, done: Done) -> Handle;

    /// The same, and waits for the outcome.
    fn run(&self, run: Run) -> Outcome {
        let (tell, told) = mpsc::channel();
        let _handle = self.start(run, Box::new(move |outcome| drop(tell.send(outcome))));
        told.recv().expect("a runner calls `done` exactly once")
    }
}

/// A run under way. Dropping it cancels the run; the child is reaped all the same.
#[must_use = "a run whose handle is dropped is cancelled"]
pub struct Handle {
    cancel: Box<dyn Fn() + Send + Sync>,
}

impl Handle {
    fn new(cancel: impl Fn() + Send + Sync + 'static) -> Self {
        Self { cancel: Box::new(cancel) }
    }

    /// Stops the run as its deadline would, now. Does nothing to one that has ended.
    pub fn cancel(&self) {
        (self.cancel)();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handle")
    }
}
