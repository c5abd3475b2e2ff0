//! Tries a device, and switches nothing.
//!
//! Decides: what a device must answer so that it counts as one that works: its agent's `monitor`,
//! and whether the node is on, each where the agent has it. What would be needed to switch (an
//! account that may, an outlet that is the right one) is not seen by this.

use std::{
    fmt,
    sync::{Arc, mpsc::channel},
    time::Instant,
};

use nines_model::Millis;

use super::{
    call::{Action, Answer, Failure, NoCall, Power, grace},
    device::Device,
    worker::{self, Calls},
};
use crate::{Handle, Runner};

/// What came of a test.
#[derive(Debug, PartialEq, Eq)]
pub enum Tested {
    /// The device answers; and says this of the node, if its agent can.
    Works(Option<Power>),
    /// An action of its agent has failed.
    Failed {
        /// Its name.
        action: &'static str,
        /// What it said, or how it ended.
        why: Failure,
    },
    /// Its caller did not want it any more.
    Cancelled,
    /// The device does not switch this node.
    NoCall(NoCall),
    /// The agent has no action that does not switch.
    Nothing,
}

impl fmt::Display for Tested {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Works(None) => f.write_str("it answers"),
            Self::Works(Some(Power::On)) => f.write_str("it answers, and the node is on"),
            Self::Works(Some(Power::Off)) => f.write_str("it answers, and the node is off"),
            Self::Failed { action, why } => write!(f, "\"{action}\" failed: {why}"),
            Self::Cancelled => f.write_str("cancelled"),
            Self::NoCall(why) => why.fmt(f),
            Self::Nothing => {
                f.write_str("its agent has neither \"monitor\" nor \"status\": it cannot be tried")
            }
        }
    }
}

impl Device {
    /// Tries the device for a node, within `deadline`. Returns at once; `done` is called exactly
    /// once, on any thread. Dropping the handle cancels it.
    pub fn test(
        self: &Arc<Self>,
        runner: Arc<dyn Runner>,
        node: &str,
        deadline: Millis,
        done: impl FnOnce(Tested) + Send + 'static,
    ) -> Handle {
        let refused = |why| Tested::Failed { action: Action::Monitor.word(), why };
        let work = move |calls: &Calls| tested(calls, deadline);
        worker::start((self, runner, node), work, refused, done)
    }

    /// The same, and waits for what came of it.
    pub fn test_and_wait(
        self: &Arc<Self>,
        runner: Arc<dyn Runner>,
        node: &str,
        deadline: Millis,
    ) -> Tested {
        let (tell, told) = channel();
        let _handle = self.test(runner, node, deadline, move |outcome| drop(tell.send(outcome)));
        told.recv().expect("`done` is called exactly once")
    }
}

fn tested(calls: &Calls, deadline: Millis) -> Tested {
    if calls.device().outlet(calls.node()).is_none() {
        return Tested::NoCall(NoCall::NotItsNode(calls.node().to_owned()));
    }
    let has = |action: &Action<'_>| calls.device().metadata().actions.contains_key(action.word());
    let all = [Action::Monitor, Action::Status(calls.node())];
    let actions: Vec<Action<'_>> = all.into_iter().filter(has).collect();
    if actions.is_empty() {
        return Tested::Nothing;
    }
    let (started, mut told) = (Instant::now(), None);
    for (done, action) in actions.iter().enumerate() {
        // What is left is shared by those that are left.
        let left = deadline.0.saturating_sub(started.elapsed().as_millis() as u64);
        let share = Millis(left / (actions.len() - done) as u64);
        match calls.call(*action, Millis(share.0 - grace(share).0)) {
            None => return Tested::Cancelled,
            Some(Answer::Power(power)) => told = Some(power),
            Some(Answer::Failed(why)) => return Tested::Failed { action: action.word(), why },
            Some(_) => {}
        }
    }
    Tested::Works(told)
}

#[cfg(test)]
mod tests;
