//! How a child is stopped.
//!
//! ```text
//! Running --deadline, or cancelled--> Terminating --grace--> Killing --patience--> GivenUp
//!            SIGTERM                      SIGKILL              told as lingering
//! ```
//! Decides: which signal goes when. Time is a length since the start of the child.

use std::time::Duration;

/// How long SIGKILL may take. What is still there then waits in the kernel for a device, perhaps
/// for hours, and nobody should wait with it.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Who asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    Deadline,
    Cancelled,
}

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Nobody has asked for it.
    Running,
    /// SIGTERM was sent; SIGKILL follows then.
    Terminating(Reason, Duration),
    /// SIGKILL was sent; it has until then to work.
    Killing(Reason, Duration),
    /// It does not work.
    GivenUp(Reason),
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send SIGTERM.
    Terminate,
    /// Send SIGKILL.
    Kill,
    /// Tell the outcome, and reap the child whenever it ends.
    GiveUp,
}

/// The lengths of time that a run was given.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub deadline: Duration,
    pub grace: Duration,
}

impl Stop {
    /// Goes on to what is due at `at`, one step a call.
    pub fn next(self, at: Duration, is_cancelled: bool, limits: Limits) -> (Self, Option<Step>) {
        let reason = if is_cancelled { Reason::Cancelled } else { Reason::Deadline };
        match self {
            Self::Running if is_cancelled || at >= limits.deadline => {
                (Self::Terminating(reason, at + limits.grace), Some(Step::Terminate))
            }
            Self::Terminating(reason, until) if at >= until => {
                (Self::Killing(reason, at + PATIENCE), Some(Step::Kill))
            }
            Self::Killing(reason, until) if at >= until => {
                (Self::GivenUp(reason), Some(Step::GiveUp))
            }
            same => (same, None),
        }
    }

    /// When something is due that no event announces.
    pub fn due(self, limits: Limits) -> Option<Duration> {
        match self {
            Self::Running => Some(limits.deadline),
            Self::Terminating(_, until) | Self::Killing(_, until) => Some(until),
            Self::GivenUp(_) => None,
        }
    }

    /// Who asked for it, if anybody did.
    pub fn reason(self) -> Option<Reason> {
        match self {
            Self::Running => None,
            Self::Terminating(reason, _) | Self::Killing(reason, _) | Self::GivenUp(reason) => {
                Some(reason)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Reason::{Cancelled, Deadline},
        Stop::{GivenUp, Killing, Running, Terminating},
        *,
    };

    #[test]
    fn every_transition() {
        let s = Duration::from_secs;
        let limits = Limits { deadline: s(10), grace: s(2) };
        for (from, at, cancelled, to, step) in [
            (Running, 9, false, Running, None),
            (Running, 10, false, Terminating(Deadline, s(12)), Some(Step::Terminate)),
            (Running, 3, true, Terminating(Cancelled, s(5)), Some(Step::Terminate)),
            (Running, 11, true, Terminating(Cancelled, s(13)), Some(Step::Terminate)),
            (Terminating(Deadline, s(12)), 11, false, Terminating(Deadline, s(12)), None),
            (Terminating(Deadline, s(12)), 11, true, Terminating(Deadline, s(12)), None),
            (Terminating(Deadline, s(12)), 12, true, Killing(Deadline, s(17)), Some(Step::Kill)),
            (Terminating(Cancelled, s(5)), 5, true, Killing(Cancelled, s(10)), Some(Step::Kill)),
            (Killing(Deadline, s(17)), 16, true, Killing(Deadline, s(17)), None),
            (Killing(Deadline, s(17)), 17, false, GivenUp(Deadline), Some(Step::GiveUp)),
            (GivenUp(Deadline), 99, true, GivenUp(Deadline), None),
        ] {
            assert_eq!(from.next(s(at), cancelled, limits), (to, step), "{from:?} at {at}");
        }
    }

    #[test]
    fn a_step_is_due_when_it_is_taken_and_not_before() {
        let limits = Limits { deadline: Duration::from_secs(1), grace: Duration::ZERO };
        let (mut stop, mut steps) = (Running, Vec::new());
        while let Some(due) = stop.due(limits) {
            if let Some(before) =
                due.checked_sub(Duration::from_nanos(1)).filter(|_| stop == Running)
            {
                assert_eq!(stop.next(before, false, limits), (stop, None));
            }
            let (next, step) = stop.next(due, false, limits);
            stop = next;
            steps.extend(step);
        }
        assert_eq!(steps, [Step::Terminate, Step::Kill, Step::GiveUp]);
    }
}
