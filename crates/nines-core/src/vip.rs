//! One VIP on this node: its lease, its address, its announcements.
//!
//! ```text
//!                 lease valid              performed
//!        Off ---------------------> Starting -------> On
//!         ^                            | failed        | not ours any more, or the lease
//!         |         performed          v               | ran out a second ago
//!         +------------------------ Stopping <---------+
//! ```
//! The guard in the kernel ends by itself at its deadline, before any of this runs: the machine
//! only tidies up behind it.
//!
//! Decides: phases. The lease's arithmetic is in `lease.rs`.

use nines_model::{LogIndex, Millis, Time};

use crate::lease::Renewals;

/// Where a VIP stands on this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// The address is not here.
    #[default]
    Off,
    /// It is being added; the action's id.
    Starting(u64),
    /// It is here.
    On,
    /// It is being removed; the action's id.
    Stopping(u64),
}

/// What the log wants of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Hold it, by this token.
    Hold(LogIndex),
    /// Let go and say so, by this token.
    Release(LogIndex),
    /// The VIP is not this node's.
    Nothing,
    /// The log of this node may be behind: leave everything as it is.
    Wait,
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Do {
    /// Set the kernel's deadline, this VIP's own.
    Guard(Time),
    /// Set it, and let it go by the deadline of all from now on.
    Follow(Time),
    /// Add the address; the id is to be given by [`Vip::began`].
    Up,
    /// Remove the address.
    Down,
    /// Tell the neighbours.
    Announce,
    /// Tell the log that it has stopped.
    Released(LogIndex),
}

/// How long an address stays on after its lease ran out, so that a short silence of everybody (a
/// paused hypervisor) costs no address change.
const GRACE: Millis = Millis(1_000);
/// A start that failed is tried again after so long.
const UNABLE: Millis = Millis(30_000);
/// When the log is told again that a VIP was released, if it does not say so.
const TOLD_AGAIN: Millis = Millis(300);
/// When neighbours are told again after an announcement that failed.
const ANNOUNCE_AGAIN: Millis = Millis(5_000);
/// When neighbours are told again: caches may miss the first.
const ANNOUNCE_AFTER_MS: [u64; 6] = [0, 50, 150, 500, 1_500, 5_000];

/// A VIP on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vip {
    /// Where it stands.
    pub phase: Phase,
    /// Token of the lease; zero: none.
    pub token: LogIndex,
    /// When the first heartbeat that named it was sent.
    pub named: Time,
    /// Who renewed it, as long as it does not go by the renewals of all.
    pub renewals: Renewals,
    /// Its renewals are those of all VIPs of this node (`Renewals::may_go_by`).
    pub joint: bool,
    /// A voter refused it: it never goes by those of all again.
    pub refused: bool,
    /// The kernel's deadline as set by this process.
    pub guard: Time,
    /// In the kernel it goes by the deadline of all; `guard` is from before that.
    pub follows: bool,
    /// The lease ran out since it was last valid.
    pub lapsed: bool,
    /// Not tried again before, after a failed start.
    pub unable_until: Time,
    /// What the kernel holds is known: this process has put it there or taken it away. An earlier
    /// incarnation may have left the address, and a deadline that still lasts.
    pub known: bool,
    /// Times at which the next announcements are due.
    pub announce: Vec<Time>,
    /// The newest write of its own deadline; 0: none.
    guard_write: u64,
    /// What that write says is not in the kernel, or not known to be there.
    unwritten: bool,
    /// It failed, and is tried again then.
    guard_again: Option<Time>,
    /// The last write that ended has failed.
    guard_failed: bool,
    /// The last announcement has failed.
    unannounced: bool,
    told_release: Time,
}

impl Vip {
    /// What to do, given what the log wants and until when the lease lasts.
    pub fn step(&mut self, now: Time, want: Want, deadline: Time) -> Vec<Do> {
        let mut todo = Vec::new();
        if now >= self.unable_until {
            self.unable_until = Time(0);
        }
        if self.guard_again.take_if(|at| now >= *at).is_some() {
            let deadline = self.guard;
            todo.push(if self.follows { Do::Follow(deadline) } else { Do::Guard(deadline) });
        }
        match want {
            Want::Hold(token) => self.hold(now, token, deadline, &mut todo),
            Want::Release(token) => {
                self.let_go(&mut todo);
                // Not before the kernel is known to be silent.
                if todo.is_empty()
                    && self.phase == Phase::Off
                    && self.known
                    && !self.unwritten
                    && now.since(self.told_release) > TOLD_AGAIN.ns()
                {
                    self.told_release = now;
                    todo.push(Do::Released(token));
                }
            }
            Want::Nothing => self.let_go(&mut todo),
            Want::Wait => {
                // No heartbeat names it any more: it keeps the deadline it has, and gets no other.
                if self.follows {
                    self.own_guard(deadline.max(self.guard), &mut todo);
                }
                if self.token != LogIndex::ZERO {
                    self.anew(LogIndex::ZERO);
                }
                self.announce.clear();
                return todo;
            }
        }
        if self.phase == Phase::On && self.announce.first().is_some_and(|at| *at <= now) {
            self.announce.retain(|at| *at > now);
            todo.push(Do::Announce);
        }
        todo
    }

    /// Another node leads: it is told of a release next, at once. False: none was told.
    pub fn tells_again(&mut self) -> bool {
        std::mem::take(&mut self.told_release) != Time(0)
    }

    /// When to step again at the latest although nothing happens; `None`: never.
    pub fn next(&self, want: Want, deadline: Time) -> Option<Time> {
        let mut next = None;
        let mut at = |time: Time| next = Some(next.map_or(time, |n: Time| n.min(time)));
        if self.phase == Phase::On {
            self.announce.first().into_iter().for_each(|first| at(*first));
        }
        if self.unable_until != Time(0) {
            at(self.unable_until);
        }
        self.guard_again.into_iter().for_each(&mut at);
        match want {
            // The node looks at the deadline that all have.
            Want::Hold(_) if !self.lapsed && self.follows => {}
            Want::Hold(_) if !self.lapsed => at(deadline),
            Want::Hold(_) if self.phase == Phase::On => {
                at(Time(deadline.max(self.guard).plus(GRACE).0 + 1));
            }
            Want::Release(_) if self.phase == Phase::Off && self.known && !self.unwritten => {
                at(Time(self.told_release.plus(TOLD_AGAIN).0 + 1));
            }
            _ => {}
        }
        next
    }

    /// It has another token, or none: what was renewed before is not of this lease.
    fn anew(&mut self, token: LogIndex) {
        self.token = token;
        self.renewals = Renewals::default();
        self.named = Time(u64::MAX);
        (self.joint, self.refused) = (false, false);
    }

    fn hold(&mut self, now: Time, token: LogIndex, deadline: Time, todo: &mut Vec<Do>) {
        let mut deadline = deadline;
        if self.token != token {
            self.anew(token);
            self.told_release = Time(0);
            deadline = Time(0);
        }
        let unable = self.phase == Phase::Off && self.unable_until != Time(0);
        if unable {
            // Without its address nothing may be sent from it either.
            if self.guard != Time(0) {
                self.own_guard(Time(0), todo);
            }
        } else if self.joint {
            if !self.follows && deadline > now {
                self.follows = true;
                self.guard = self.guard.max(deadline);
                todo.push(Do::Follow(self.guard));
            }
        } else if self.follows || (deadline > self.guard && deadline > now) {
            self.own_guard(deadline.max(self.guard), todo);
        }
        if now < deadline {
            if self.phase == Phase::Off && !unable {
                todo.push(Do::Up);
            }
            if self.phase == Phase::On && self.lapsed {
                self.announce_from(now);
            }
            self.lapsed = false;
        } else {
            self.lapsed = true;
            if self.phase == Phase::On && now.since(deadline.max(self.guard)) > GRACE.ns() {
                self.announce.clear();
                todo.push(Do::Down);
            }
        }
    }

    fn own_guard(&mut self, deadline: Time, todo: &mut Vec<Do>) {
        self.guard = deadline;
        self.follows = false;
        todo.push(Do::Guard(deadline));
    }

    fn let_go(&mut self, todo: &mut Vec<Do>) {
        self.announce.clear();
        let unknown = !self.known && self.phase == Phase::Off;
        if self.guard != Time(0) || self.token != LogIndex::ZERO || unknown {
            self.anew(LogIndex::ZERO);
            self.own_guard(Time(0), todo);
        }
        if self.phase == Phase::On || unknown {
            todo.push(Do::Down);
        }
    }

    /// A voter refused to renew it: from now on it has renewals of its own, from those of all
    /// before, which all included it.
    pub fn refuse(&mut self, joint: &Renewals) {
        self.refused = true;
        if std::mem::take(&mut self.joint) {
            self.renewals = joint.clone();
        }
    }

    /// The write of its deadline was given this id.
    pub fn guards(&mut self, id: u64) {
        (self.guard_write, self.unwritten, self.guard_again) = (id, true, None);
    }

    /// The write of its deadline ended, or is tried again then; true if it is the newest.
    pub fn guard_done(&mut self, id: u64, again: Option<Time>) -> bool {
        let newest = self.guard_write == id;
        if newest {
            (self.unwritten, self.guard_failed) = (again.is_some(), again.is_some());
            self.guard_again = again;
        }
        newest
    }

    /// Whether the last write of its deadline has failed.
    pub fn guard_trouble(&self) -> bool {
        self.guard_failed
    }

    /// An announcement ended. After one that failed another follows; true if that is news.
    pub fn announced(&mut self, now: Time, ok: bool) -> bool {
        if !ok && self.announce.is_empty() {
            self.announce.push(now.plus(ANNOUNCE_AGAIN));
        }
        !std::mem::replace(&mut self.unannounced, !ok) && !ok
    }

    /// Whether the kernel has the deadline that this process has asked for last.
    pub fn is_guarded(&self) -> bool {
        !self.unwritten
    }

    /// The address action was given this id.
    pub fn began(&mut self, up: bool, id: u64) {
        self.phase = if up { Phase::Starting(id) } else { Phase::Stopping(id) };
    }

    /// An address action ended; true if it was ours.
    pub fn performed(&mut self, now: Time, id: u64, ok: bool) -> bool {
        match self.phase {
            Phase::Starting(ours) if ours == id => {
                if ok {
                    self.phase = Phase::On;
                    self.known = true;
                    self.announce_from(now);
                } else {
                    self.phase = Phase::Off;
                    self.cannot_start(now);
                }
                true
            }
            Phase::Stopping(ours) if ours == id => {
                // A failed removal is tried again: it is still on (S14).
                self.phase = if ok { Phase::Off } else { Phase::On };
                self.known = true;
                true
            }
            _ => false,
        }
    }

    /// It cannot be started here: another node may try.
    pub fn cannot_start(&mut self, now: Time) {
        self.unable_until = now.plus(UNABLE);
    }

    /// Tell the neighbours from now on.
    pub fn announce_from(&mut self, now: Time) {
        self.announce = ANNOUNCE_AFTER_MS.iter().map(|ms| now.plus(Millis(*ms))).collect();
    }
}

#[cfg(test)]
mod tests;
