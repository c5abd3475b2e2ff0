//! Switches a node off, and reads back that it is.
//!
//! ```text
//! off --done--> status --off--> PoweredOff
//!  ^ |            ^ |
//!  | failed       | on, or unknown: a pause, while there is time
//!  `-- a pause    `-'
//! ```
//! Decides: what is proof that a node is off: an agent that has said that `off` worked and, asked
//! after that, says that the machine is off. A failed `off` is repeated, because it does nothing to
//! a machine that is off. Everything else leaves the node as alive as it was.

use std::{
    fmt,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use nines_model::Millis;

use super::{
    call::{Action, Answer, Failure, NoCall, Power, grace},
    device::Device,
};
use crate::{
    Handle, Runner,
    run::{NotStarted, Outcome},
};

/// The part of the time that one status may take: a fourth, and never more than this.
const STATUS_MAX: Millis = Millis(20_000);
/// Between two calls: real devices say "on" for some seconds after they have switched.
const PAUSE: Millis = Millis(500);
/// Less than this is not worth a call: no agent answers that fast.
const CALL_MIN: Millis = Millis(50);
/// Stack of the thread that makes the calls one after the other.
const STACK_BYTES: usize = 256 << 10;

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

/// How it is known that a node is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// The device said so when it was asked after it had switched.
    ReadBack,
    /// The agent cannot tell, and its config says that its word is enough.
    Word,
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
        let (tell, told) = channel();
        let calls = Calls {
            device: Arc::clone(self),
            runner,
            node: node.to_owned(),
            tell: tell.clone(),
            told,
        };
        // Here and in the thread: if there can be no thread, it is called here.
        let done = Arc::new(std::sync::Mutex::new(Some(done)));
        let finish = {
            let done = Arc::clone(&done);
            move |outcome| {
                let done = done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
                if let Some(done) = done {
                    done(outcome);
                }
            }
        };
        let thread = thread::Builder::new().name("fence".into()).stack_size(STACK_BYTES);
        let work = {
            let finish = finish.clone();
            move || finish(calls.power_off(deadline))
        };
        if let Err(why) = thread.spawn(work) {
            let why = Failure::NotStarted(NotStarted::Refused(why.to_string()));
            finish(PowerOff::Failed { why, then: None });
        }
        Handle::new(move || drop(tell.send(News::Cancel)))
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

/// What the thread hears of.
enum News {
    Ended(Outcome),
    Cancel,
}

/// The calls for one node, one after the other.
struct Calls {
    device: Arc<Device>,
    runner: Arc<dyn Runner>,
    node: String,
    tell: Sender<News>,
    told: Receiver<News>,
}

impl Calls {
    fn power_off(&self, deadline: Millis) -> PowerOff {
        for action in [Action::Off(&self.node), Action::Status(&self.node)] {
            match self.device.call(action, deadline) {
                Ok(_) => {}
                Err(NoCall::NoAction(_)) if action == Action::Status(&self.node) => {}
                Err(why) => return PowerOff::NoCall(why),
            }
        }
        let reads_back = self.device.metadata().actions.contains_key("status");
        let started = Instant::now();
        let mut sequence = Sequence::new(deadline, reads_back);
        let mut event = Event::Begin;
        loop {
            let at = Millis(started.elapsed().as_millis() as u64);
            let next = match sequence.next(at, event) {
                Step::Off(limit) => self.call(Action::Off(&self.node), limit).map(Event::Answered),
                Step::Status(limit) => {
                    self.call(Action::Status(&self.node), limit).map(Event::Answered)
                }
                Step::Wait(length) => self.rest(length),
                Step::End(end) => return self.outcome(end),
            };
            match next {
                Some(next) => event = next,
                None => return PowerOff::Cancelled,
            }
        }
    }

    /// Makes a call. `None`: cancelled.
    fn call(&self, action: Action<'_>, deadline: Millis) -> Option<Answer> {
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
        // Of a cancelled call the end is waited for: nothing of it may act after that is told.
        while let Ok(news) = self.told.recv() {
            match news {
                News::Ended(_) if is_cancelled => return None,
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

    fn outcome(&self, end: End) -> PowerOff {
        match end {
            End::Off(evidence) => PowerOff::Confirmed(PoweredOff {
                device: self.device.config().name.clone(),
                node: self.node.clone(),
                evidence,
            }),
            End::NotOff => PowerOff::NotOff,
            End::Unconfirmed(why) => PowerOff::Unconfirmed(why),
            End::Failed(why, then) => PowerOff::Failed { why, then },
        }
    }
}

/// The order of the calls, as a machine: time is a length since the beginning.
#[derive(Debug)]
struct Sequence {
    deadline: Millis,
    reads_back: bool,
    state: State,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// `off` is under way, or about to be. How it failed before, if it did.
    Switching(Option<Failure>),
    /// `off` has failed like this and will be repeated.
    Resting(Failure),
    /// `off` has failed like this for the last time; a status is under way.
    Reporting(Failure),
    /// `off` has worked; a status is under way. The last answer before it.
    Reading(Option<Answer>),
    /// The same between two of them.
    Waiting(Option<Answer>),
}

/// What the sequence is told.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Event {
    Begin,
    Answered(Answer),
    Rested,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// Call `off`, to be over within this.
    Off(Millis),
    /// Call `status`, to be over within this.
    Status(Millis),
    Wait(Millis),
    End(End),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    Off(Evidence),
    NotOff,
    Unconfirmed(Failure),
    Failed(Failure, Option<Power>),
}

impl Sequence {
    fn new(deadline: Millis, reads_back: bool) -> Self {
        Self { deadline, reads_back, state: State::Switching(None) }
    }

    /// Time that is kept for a status after `off`, with the time that it may take to stop.
    fn share(&self) -> Millis {
        if self.reads_back { Millis((self.deadline.0 / 4).min(STATUS_MAX.0)) } else { Millis(0) }
    }

    fn left(&self, at: Millis) -> Millis {
        Millis(self.deadline.0.saturating_sub(at.0))
    }

    fn next(&mut self, at: Millis, event: Event) -> Step {
        let state = std::mem::replace(&mut self.state, State::Switching(None));
        match (state, event) {
            (State::Switching(_), Event::Begin) => self.off(at, None),
            (State::Resting(why), _) if self.can_switch(at) => self.off(at, Some(why)),
            (State::Resting(why), _) => self.report(at, why),
            (State::Switching(before), Event::Answered(Answer::Failed(why))) => {
                // That the last one had too little time says less than why the others failed.
                let is_late = matches!(why, Failure::Deadline { .. });
                self.off_failed(at, before.filter(|_| is_late).unwrap_or(why))
            }
            (State::Switching(_), Event::Answered(_)) if self.reads_back => self.status(at, None),
            (State::Switching(_), Event::Answered(_)) => Step::End(End::Off(Evidence::Word)),
            (State::Reporting(why), Event::Answered(Answer::Power(power))) => {
                Step::End(End::Failed(why, Some(power)))
            }
            (State::Reporting(why), _) => Step::End(End::Failed(why, None)),
            (State::Reading(_), Event::Answered(Answer::Power(Power::Off))) => {
                Step::End(End::Off(Evidence::ReadBack))
            }
            (State::Reading(before), Event::Answered(answer)) => {
                // That it is on says more than that it could not be asked.
                let on = Answer::Power(Power::On);
                let last = if before.as_ref() == Some(&on) { on } else { answer };
                if self.left(at).0 < PAUSE.0 + CALL_MIN.0 {
                    return Step::End(unconfirmed(last));
                }
                self.state = State::Waiting(Some(last));
                Step::Wait(PAUSE)
            }
            (State::Waiting(last), _) => self.status(at, last),
            (state, _) => unreachable!("{state:?} waits for an answer"),
        }
    }

    fn off(&mut self, at: Millis, before: Option<Failure>) -> Step {
        self.state = State::Switching(before);
        let limit = self.left(at).0.saturating_sub(self.share().0);
        Step::Off(Millis(limit - grace(Millis(limit)).0))
    }

    fn off_failed(&mut self, at: Millis, why: Failure) -> Step {
        if why.is_final() {
            return Step::End(End::Failed(why, None));
        }
        if self.can_switch(Millis(at.0 + PAUSE.0)) {
            self.state = State::Resting(why);
            return Step::Wait(PAUSE);
        }
        self.report(at, why)
    }

    /// Whether there is time for an `off`, and a status after it.
    fn can_switch(&self, at: Millis) -> bool {
        self.left(at).0 >= self.share().0 + CALL_MIN.0
    }

    /// `off` has failed for good: asks what the power is, to tell people.
    fn report(&mut self, at: Millis, why: Failure) -> Step {
        if !self.reads_back || self.left(at).0 < CALL_MIN.0 {
            return Step::End(End::Failed(why, None));
        }
        self.state = State::Reporting(why);
        self.limited_status(at)
    }

    fn status(&mut self, at: Millis, last: Option<Answer>) -> Step {
        if self.left(at).0 < CALL_MIN.0 {
            let late = Answer::Failed(Failure::Deadline { has_begun: false, lingers: false });
            return Step::End(unconfirmed(last.unwrap_or(late)));
        }
        self.state = State::Reading(last);
        self.limited_status(at)
    }

    fn limited_status(&self, at: Millis) -> Step {
        let limit = self.left(at).0.min(self.share().0.max(CALL_MIN.0));
        Step::Status(Millis(limit - grace(Millis(limit)).0))
    }
}

/// The end when `off` has worked and this was the last answer to whether it has.
fn unconfirmed(last: Answer) -> End {
    match last {
        Answer::Power(Power::On) => End::NotOff,
        Answer::Failed(why) => End::Unconfirmed(why),
        other => End::Unconfirmed(Failure::NoAnswer(format!("{other:?}"))),
    }
}

#[cfg(test)]
mod tests;
