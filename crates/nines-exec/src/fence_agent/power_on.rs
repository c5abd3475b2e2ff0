//! Switches a node on, and reads back that it is.
//!
//! Decides: what the agent's answers mean for people. That a node is on proves nothing of what runs
//! on it, so nothing is made of it but words.

use std::{
    fmt,
    sync::{Arc, mpsc::channel},
};

use nines_model::Millis;

use super::{
    call::{Failure, NoCall, Power},
    device::Device,
    sequence::{End, Evidence},
    worker::{self, Calls, Switched},
};
use crate::{Handle, Runner};

/// What came of switching a node on.
#[derive(Debug, PartialEq, Eq)]
pub enum PowerOn {
    /// It is on.
    Confirmed(Evidence),
    /// The agent said that it has switched it on, and the device says that it is off.
    NotOn,
    /// The agent said that it has switched it on, and the device could not be asked.
    Unconfirmed(Failure),
    /// The agent could not switch it on.
    Failed {
        /// How it failed the last time.
        why: Failure,
        /// What the device said after that.
        then: Option<Power>,
    },
    /// Its caller did not want it any more. The power is unknown.
    Cancelled,
    /// The device does not switch this node, or cannot switch one on.
    NoCall(NoCall),
}

impl From<Switched> for PowerOn {
    fn from(switched: Switched) -> Self {
        match switched {
            Switched::End(End::Confirmed(evidence)) => Self::Confirmed(evidence),
            Switched::End(End::Contrary) => Self::NotOn,
            Switched::End(End::Unconfirmed(why)) => Self::Unconfirmed(why),
            Switched::End(End::Failed(why, then)) => Self::Failed { why, then },
            Switched::Cancelled => Self::Cancelled,
            Switched::NoCall(why) => Self::NoCall(why),
        }
    }
}

impl fmt::Display for PowerOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Confirmed(Evidence::Word) => f.write_str("on, by the word of its agent"),
            Self::Confirmed(Evidence::ReadBack) => f.write_str("on, and read back"),
            Self::NotOn => f.write_str("the agent says that \"on\" worked, and it is still off"),
            Self::Unconfirmed(why) => {
                write!(f, "the agent says that \"on\" worked; reading that back failed: {why}")
            }
            Self::Failed { why, then: None } => write!(f, "\"on\" failed: {why}"),
            Self::Failed { why, then: Some(Power::Off) } => {
                write!(f, "\"on\" failed, and it is still off: {why}")
            }
            Self::Failed { why, then: Some(Power::On) } => {
                write!(f, "\"on\" failed, though the device says that it is on: {why}")
            }
            Self::Cancelled => f.write_str("cancelled; whether it is on is unknown"),
            Self::NoCall(why) => why.fmt(f),
        }
    }
}

impl Device {
    /// Switches a node on and reads that back, within `deadline`. Returns at once; `done` is called
    /// exactly once, on any thread. Dropping the handle cancels it, which leaves the power unknown.
    /// `deadline` has to hold what it holds for [`Device::power_off`].
    pub fn power_on(
        self: &Arc<Self>,
        runner: Arc<dyn Runner>,
        node: &str,
        deadline: Millis,
        done: impl FnOnce(PowerOn) + Send + 'static,
    ) -> Handle {
        let refused = |why| PowerOn::Failed { why, then: None };
        let work = move |calls: &Calls| PowerOn::from(calls.switch(Power::On, deadline));
        worker::start((self, runner, node), work, refused, done)
    }

    /// The same, and waits for what came of it.
    pub fn power_on_and_wait(
        self: &Arc<Self>,
        runner: Arc<dyn Runner>,
        node: &str,
        deadline: Millis,
    ) -> PowerOn {
        let (tell, told) = channel();
        let _handle = self.power_on(runner, node, deadline, move |outcome| {
            drop(tell.send(outcome));
        });
        told.recv().expect("`done` is called exactly once")
    }
}

#[cfg(test)]
mod tests;
