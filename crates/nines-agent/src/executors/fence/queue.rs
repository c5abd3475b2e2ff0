//! Calls that wait for devices which are called now.
//!
//! Decides: whose turn it is at a device. Calls are in the order in which they were asked for, but
//! a test waits for what switches, and gives way to it: a device that hangs takes a minute to test,
//! and a machine that is to be off must not wait for that.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use nines_exec::Handle;
use nines_model::{DeviceName, Switch};

use crate::{core_thread::FenceCall, threads};

/// Devices that are called at a time.
pub const DEVICES_MAX: usize = 64;

/// A call with the number of its operation.
pub type Numbered = (u64, Box<FenceCall>);

/// Ends a call under way, from another thread.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<Mutex<State>>);

#[derive(Debug, Default)]
enum State {
    #[default]
    NotBegun,
    Runs(Handle),
    Stopped,
}

impl Stop {
    /// What ends the call, which has just begun. If it is not wanted any more, it ends now.
    pub fn ends(&self, handle: Handle) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Where it was stopped before, the handle is dropped, and that cancels it.
        if let State::NotBegun = *state {
            *state = State::Runs(handle);
        }
    }

    fn stop(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Runs(call) = std::mem::replace(&mut *state, State::Stopped) {
            call.cancel();
        }
    }
}

/// A device that is called now.
struct Busy {
    switch: Switch,
    stop: Stop,
    waiting: VecDeque<Numbered>,
}

/// Devices that are called now.
#[derive(Default)]
pub struct Queues(BTreeMap<DeviceName, Busy>);

impl Queues {
    /// What is to be begun now, if anything, and what ends it; a call for which there is no room is
    /// given back.
    pub fn put(&mut self, call: Numbered) -> Result<Option<(Numbered, Stop)>, Numbered> {
        let (called, switch) = (self.0.len(), call.1.switch);
        let Some(busy) = self.0.get_mut(&call.1.device) else {
            if called >= DEVICES_MAX {
                return Err(call);
            }
            let (stop, waiting) = (Stop::default(), VecDeque::new());
            let busy = Busy { switch, stop: stop.clone(), waiting };
            self.0.insert(call.1.device.clone(), busy);
            return Ok(Some((call, stop)));
        };
        if busy.waiting.len() >= threads::FENCE {
            return Err(call);
        }
        if switch == Switch::Test {
            busy.waiting.push_back(call);
            return Ok(None);
        }
        let tests = busy.waiting.iter().position(|(_, other)| other.switch == Switch::Test);
        busy.waiting.insert(tests.unwrap_or(busy.waiting.len()), call);
        if busy.switch == Switch::Test {
            busy.stop.stop();
        }
        Ok(None)
    }

    /// The call of this device is over: its next one.
    pub fn over(&mut self, device: &DeviceName) -> Option<(Numbered, Stop)> {
        let busy = self.0.get_mut(device)?;
        let Some(next) = busy.waiting.pop_front() else {
            self.0.remove(device);
            return None;
        };
        (busy.switch, busy.stop) = (next.1.switch, Stop::default());
        Some((next, busy.stop.clone()))
    }
}
