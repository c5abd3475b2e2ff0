//! The order of the calls that switch a node off or on, as a machine without a clock.
//!
//! ```text
//! off --done--> status --off--> confirmed
//!  ^ |            ^ |
//!  | failed       | on, or unknown: a pause, while there is time
//!  `-- a pause    `-'
//! ```
//! The same for "on". Decides: that a switching which failed is repeated (it does nothing to a
//! machine that is as it should be), and how the time is shared between it and the status after it.

use nines_model::Millis;

use super::call::{Answer, Failure, Power, grace};

/// The part of the time that one status may take: a fourth, and never more than this.
const STATUS_MAX: Millis = Millis(20_000);
/// Between two calls: real devices say "on" for some seconds after they have switched off.
pub const PAUSE: Millis = Millis(500);
/// Less than this is not worth a call: no agent answers that fast.
const CALL_MIN: Millis = Millis(50);

/// How it is known that a node is off, or on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// The device said so when it was asked after it had switched.
    ReadBack,
    /// The agent cannot tell, and its config says that its word is enough.
    Word,
}

/// The order of the calls, as a machine: time is a length since the beginning.
#[derive(Debug)]
pub struct Sequence {
    wanted: Power,
    deadline: Millis,
    reads_back: bool,
    state: State,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Switching is under way, or about to be. How it failed before, if it did.
    Switching(Option<Failure>),
    /// It has failed like this and will be repeated.
    Resting(Failure),
    /// It has failed like this for the last time; a status is under way.
    Reporting(Failure),
    /// It has worked; a status is under way. The last answer before it.
    Reading(Option<Answer>),
    /// The same between two of them.
    Waiting(Option<Answer>),
}

/// What the sequence is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The first.
    Begin,
    /// A call has ended.
    Answered(Answer),
    /// A wait is over.
    Rested,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Call `off` or `on`, to be over within this.
    Switch(Millis),
    /// Call `status`, to be over within this.
    Status(Millis),
    /// Do nothing for so long.
    Wait(Millis),
    /// It is over.
    End(End),
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The node is as it should be.
    Confirmed(Evidence),
    /// The agent said that it had switched it, and the device says that it has not.
    Contrary,
    /// The agent said that it had switched it, and the device could not be asked.
    Unconfirmed(Failure),
    /// The agent could not switch it. What the device said after that.
    Failed(Failure, Option<Power>),
}

impl Sequence {
    /// To be over within `deadline`. `reads_back`: the agent has a status.
    pub fn new(wanted: Power, deadline: Millis, reads_back: bool) -> Self {
        Self { wanted, deadline, reads_back, state: State::Switching(None) }
    }

    /// Time that is kept for a status after switching, with the time that it may take to stop.
    fn share(&self) -> Millis {
        if self.reads_back { Millis((self.deadline.0 / 4).min(STATUS_MAX.0)) } else { Millis(0) }
    }

    fn left(&self, at: Millis) -> Millis {
        Millis(self.deadline.0.saturating_sub(at.0))
    }

    /// What is to be done next, so long after the beginning.
    pub fn next(&mut self, at: Millis, event: Event) -> Step {
        let state = std::mem::replace(&mut self.state, State::Switching(None));
        match (state, event) {
            (State::Switching(_), Event::Begin) => self.switch(at, None),
            (State::Resting(why), _) if self.can_switch(at) => self.switch(at, Some(why)),
            (State::Resting(why), _) => self.report(at, why),
            (State::Switching(before), Event::Answered(Answer::Failed(why))) => {
                // That the last one had too little time says less than why the others failed.
                let is_late = matches!(why, Failure::Deadline { .. });
                self.failed(at, before.filter(|_| is_late).unwrap_or(why))
            }
            (State::Switching(_), Event::Answered(_)) if self.reads_back => self.status(at, None),
            (State::Switching(_), Event::Answered(_)) => Step::End(End::Confirmed(Evidence::Word)),
            (State::Reporting(why), Event::Answered(Answer::Power(power))) => {
                Step::End(End::Failed(why, Some(power)))
            }
            (State::Reporting(why), _) => Step::End(End::Failed(why, None)),
            (State::Reading(_), Event::Answered(Answer::Power(power))) if power == self.wanted => {
                Step::End(End::Confirmed(Evidence::ReadBack))
            }
            (State::Reading(before), Event::Answered(answer)) => {
                // That it is not as it should be says more than that it could not be asked.
                let told = before.filter(|before| matches!(before, Answer::Power(_)));
                let last = told.unwrap_or(answer);
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

    fn switch(&mut self, at: Millis, before: Option<Failure>) -> Step {
        self.state = State::Switching(before);
        let limit = self.left(at).0.saturating_sub(self.share().0);
        Step::Switch(Millis(limit - grace(Millis(limit)).0))
    }

    fn failed(&mut self, at: Millis, why: Failure) -> Step {
        if why.is_final() {
            return Step::End(End::Failed(why, None));
        }
        if self.can_switch(Millis(at.0 + PAUSE.0)) {
            self.state = State::Resting(why);
            return Step::Wait(PAUSE);
        }
        self.report(at, why)
    }

    /// Whether there is time to switch, and for a status after it.
    fn can_switch(&self, at: Millis) -> bool {
        self.left(at).0 >= self.share().0 + CALL_MIN.0
    }

    /// Switching has failed for good: asks what the power is, to tell people.
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

/// The end when switching has worked and this was the last answer to whether it has.
fn unconfirmed(last: Answer) -> End {
    match last {
        Answer::Power(_) => End::Contrary,
        Answer::Failed(why) => End::Unconfirmed(why),
        other => End::Unconfirmed(Failure::NoAnswer(format!("{other:?}"))),
    }
}

#[cfg(test)]
mod tests;
