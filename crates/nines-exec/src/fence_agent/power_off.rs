//! Switches a node off, and reads back that it is.
//!
//! Decides: what is proof that a node is off: an agent that has said that `off` worked and, asked
//! after that, says that the machine is off. A failed `off` is repeated, because it does nothing to
//! a machine that is off. Everything else leaves the node as alive as it was.

use std::{fmt, sync::Arc, sync::mpsc::channel};

use nines_model::Millis;

use super::{
    call::{Failure, NoCall, Power},
    device::Device,
    sequence::{End, Evidence},
    worker::{self, Calls, Switched},
};
use crate::{Handle, Runner};

/// The proof that a device has switched a node off. Only [`Device::power_off`] makes one, and none
/// is made twice:
///
/// ```compile_fail,E0451
/// use nines_exec::fence_agent::{Evidence, PoweredOff};
/// let (device, node, evidence) = (String::new(), String::new(), Evidence::ReadBack);
/// let off = PoweredOff { device, node, evidence };
/// ```
#[derive(Debug, PartialEq, Eq)]
pub struct PoweredOff {
    device: String,
    node: String,
    evidence: Evidence,
}

impl PoweredOff {
    /// Name of the device that has switched it off.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Name of the node that is off.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// How that is known.
    pub fn evidence(&self) -> Evidence {
        self.evidence
    }
}

/// What came of switching a node off.
#[derive(Debug, PartialEq, Eq)]
pub enum PowerOff {
    /// It is off.
    Confirmed(PoweredOff),
    /// The agent said that it has switched it off, and the device says that it is on.
    NotOff,
    /// The agent said that it has switched it off, and the device could not be asked.
    Unconfirmed(Failure),
    /// The agent could not switch it off.
    Failed {
        /// How it failed the last time.
        why: Failure,
        /// What the device said after that, for people: it is no proof.
        then: Option<Power>,
    },
    /// Its caller did not want it any more. The power is unknown.
    Cancelled,
    /// The device does not switch this node, or cannot.
    NoCall(NoCall),
}

impl PowerOff {
    fn of(calls: &Calls, switched: Switched) -> Self {
        match switched {
            Switched::End(End::Confirmed(evidence)) => Self::Confirmed(PoweredOff {
                device: calls.device().config().name.clone(),
                node: calls.node().to_owned(),
                evidence,
            }),
            Switched::End(End::Contrary) => Self::NotOff,
            Switched::End(End::Unconfirmed(why)) => Self::Unconfirmed(why),
            Switched::End(End::Failed(why, then)) => Self::Failed { why, then },
            Switched::Cancelled => Self::Cancelled,
            Switched::NoCall(why) => Self::NoCall(why),
        }
    }
}

impl fmt::Display for PowerOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Confirmed(off) if off.evidence == Evidence::Word => {
                f.write_str("off, by the word of its agent")
            }
            Self::Confirmed(_) => f.write_str("off, and read back"),
            Self::NotOff => f.write_str("the agent says that \"off\" worked, and it is still on"),
            Self::Unconfirmed(why) => {
                write!(f, "the agent says that \"off\" worked; reading that back failed: {why}")
            }
            Self::Failed { why, then: None } => write!(f, "\"off\" failed: {why}"),
            Self::Failed { why, then: Some(Power::On) } => {
                write!(f, "\"off\" failed, and it is still on: {why}")
            }
            Self::Failed { why, then: Some(Power::Off) } => {
                write!(f, "\"off\" failed, though the device says that it is off: {why}")
            }
            Self::Cancelled => f.write_str("cancelled; whether it is on is unknown"),
            Self::NoCall(why) => why.fmt(f),
        }
    }
}

impl Device {
    /// Switches a node off and reads that back, within `deadline`. Returns at once; `done` is
    /// called exactly once, on any thread. Dropping the handle cancels it, which leaves the power
    /// unknown.
    ///
    /// `deadline` has to hold the device's slowest `off` beside a fourth of itself for a status:
    /// for agents of the distribution more than their `delay`, `login_timeout`, twice
    /// `power_timeout` and `power_wait` together; with their defaults, 60 s.
    pub fn power_off(
        self: &Arc<Self>,
        runner: Arc<dyn Runner>,
        node: &str,
        deadline: Millis,
        done: impl FnOnce(PowerOff) + Send + 'static,
    ) -> Handle {
        let refused = |why| PowerOff::Failed { why, then: None };
        let work = move |calls: &Calls| PowerOff::of(calls, calls.switch(Power::Off, deadline));
        worker::start((self, runner, node), work, refused, done)
    }

    /// The same, and waits for what came of it.
    pub fn power_off_and_wait(
        self: &Arc<Self>,
        runner: Arc<dyn Runner>,
        node: &str,
        deadline: Millis,
    ) -> PowerOff {
        let (tell, told) = channel();
        let _handle = self.power_off(runner, node, deadline, move |outcome| {
            drop(tell.send(outcome));
        });
        told.recv().expect("`done` is called exactly once")
    }
}

#[cfg(test)]
mod tests;
