//! The calls of one device for one node, made one after the other in a thread of their own.
//!
//! Decides: that what came of them is told exactly once, and that a cancelled call has ended before
//! that is told: nothing of it may act later. Which calls are made, and when, is the caller's to
//! say: `sequence.rs` does for switching, `probe.rs` for a test.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use nines_model::Millis;

use super::{
    call::{Action, Answer, Failure, NoCall, Power},
    device::Device,
    sequence::{End, Event, Sequence, Step},
};
use crate::{
    Handle, Runner,
    run::{Exit, NotStarted, Outcome},
};

/// Stack of the thread that makes the calls.
const STACK_BYTES: usize = 256 << 10;

/// What the thread hears of.
enum News {
    Ended(Outcome),
    Cancel,
}

/// A device, a node, and who runs the agent.
pub struct Calls {
    device: Arc<Device>,
    runner: Arc<dyn Runner>,
    node: String,
    tell: Sender<News>,
    told: Receiver<News>,
}

/// What came of switching.
pub enum Switched {
    /// It went to its end.
    End(End),
    /// Its caller did not want it any more. The power is unknown.
    Cancelled,
    /// The device does not switch this node, or cannot.
    NoCall(NoCall),
}

/// Has `work` make calls in a thread, and hands what came of it to `done`, exactly once. `refused`:
/// what came of it if there can be no thread. Dropping the handle cancels the call under way.
pub fn start<T: Send + 'static>(
    (device, runner, node): (&Arc<Device>, Arc<dyn Runner>, &str),
    work: impl FnOnce(&Calls) -> T + Send + 'static,
    refused: impl FnOnce(Failure) -> T,
    done: impl FnOnce(T) + Send + 'static,
) -> Handle {
    let (tell, told) = channel();
    let (device, node) = (Arc::clone(device), node.to_owned());
    let calls = Calls { device, runner, node, tell: tell.clone(), told };
    // Here and in the thread: if there can be no thread, it is called here.
    let done = Arc::new(Mutex::new(Some(done)));
    let finish = {
        let done = Arc::clone(&done);
        move |outcome| {
            let done = done.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(done) = done {
                done(outcome);
            }
        }
    };
    let thread = thread::Builder::new().name("fence".into()).stack_size(STACK_BYTES);
    let work = {
        let finish = finish.clone();
        move || finish(work(&calls))
    };
    if let Err(why) = thread.spawn(work) {
        finish(refused(Failure::NotStarted(NotStarted::Refused(why.to_string()))));
    }
    Handle::new(move || drop(tell.send(News::Cancel)))
}

impl Calls {
    /// The device that is called.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Name of the node that is meant.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Switches the node, and reads back that it is as it should be, within `deadline`.
    pub fn switch(&self, wanted: Power, deadline: Millis) -> Switched {
        let (act, status) = (wanted.action(&self.node), Action::Status(&self.node));
        for action in [act, status] {
            match self.device.call(action, deadline) {
                Ok(_) => {}
                Err(NoCall::NoAction(_)) if action == status => {}
                Err(why) => return Switched::NoCall(why),
            }
        }
        let reads_back = self.device.metadata().actions.contains_key(status.word());
        let started = Instant::now();
        let mut sequence = Sequence::new(wanted, deadline, reads_back);
        let mut event = Event::Begin;
        loop {
            let at = Millis(started.elapsed().as_millis() as u64);
            let next = match sequence.next(at, event) {
                Step::Switch(limit) => self.call(act, limit).map(Event::Answered),
                Step::Status(limit) => self.call(status, limit).map(Event::Answered),
                Step::Wait(length) => self.rest(length),
                Step::End(end) => return Switched::End(end),
            };
            match next {
                Some(next) => event = next,
                None => return Switched::Cancelled,
            }
        }
    }

    /// Makes a call. `None`: cancelled, by the handle or with all of the runner.
    pub fn call(&self, action: Action<'_>, deadline: Millis) -> Option<Answer> {
        let call = match self.device.call(action, deadline) {
            Ok(call) => call,
            Err(why) => return Some(Answer::Failed(Failure::NoAnswer(why.to_string()))),
        };
        let prepared = match call.prepare() {
            Ok(prepared) => prepared,
            Err(why) => return Some(Answer::Failed(why)),
        };
        let tell = self.tell.clone();
        let ended = Box::new(move |outcome| drop(tell.send(News::Ended(outcome))));
        let handle = self.runner.start(prepared.run.clone(), ended);
        let mut is_cancelled = false;
        while let Ok(news) = self.told.recv() {
            match news {
                News::Ended(outcome) if is_cancelled || outcome.exit == Exit::Cancelled => {
                    return None;
                }
                News::Ended(outcome) => return Some(prepared.answer(&outcome)),
                News::Cancel => {
                    is_cancelled = true;
                    handle.cancel();
                }
            }
        }
        None
    }

    /// Waits. `None`: cancelled.
    fn rest(&self, length: Millis) -> Option<Event> {
        match self.told.recv_timeout(Duration::from_millis(length.0)) {
            Err(RecvTimeoutError::Timeout) => Some(Event::Rested),
            _ => None,
        }
    }
}

impl Power {
    /// What is asked of a device so that a node is like this.
    const fn action(self, node: &str) -> Action<'_> {
        match self {
            Self::On => Action::On(node),
            Self::Off => Action::Off(node),
        }
    }
}
