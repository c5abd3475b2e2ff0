//! Where taking turns goes on when a table of turns is replaced.
//!
//! Decides: what IPVS decides there. rr goes on behind the server that was last (ip_vs_rr.c). wrr
//! begins its pass anew at the weight where it was, if a server still has that, else at the
//! highest; servers that were added one by one to a new service leave it at the lowest
//! (ip_vs_wrr.c, ip_vs_wrr_dest_changed).

use nines_abi::{Service, ServiceKey};
use nines_model::Scheduler;

use super::installed::{Installed, scheduler_of};

/// A table of turns.
#[derive(Clone, Copy)]
struct RrCursors<'a> {
    /// Slot of each turn's server in map SERVERS, in order of the turns.
    picks: &'a [u32],
    /// Place of a slot's server in its service's list, and its weight.
    server: &'a dyn Fn(u32) -> (u32, u32),
}

impl RrCursors<'_> {
    fn place(&self, index: usize) -> u32 {
        (self.server)(self.picks[index]).0
    }

    /// Where passes begin: wherever the list of servers begins again.
    fn passes(&self) -> Vec<usize> {
        let begins = |i: &usize| *i == 0 || self.place(*i) <= self.place(*i - 1);
        (0..self.picks.len()).filter(begins).collect()
    }

    /// The greatest common divisor of the weights.
    fn step(&self) -> u32 {
        fn gcd(a: u32, b: u32) -> u32 {
            if b == 0 { a } else { gcd(b, a % b) }
        }
        self.picks.iter().fold(0, |g, slot| gcd((self.server)(*slot).1, g)).max(1)
    }

    /// The current weight of the pass that a turn belongs to; `step` as it was when these turns
    /// were written, for weights may have changed since.
    fn weight_at(&self, index: usize, step: u32) -> u32 {
        let passes = self.passes();
        let level = passes.iter().filter(|begin| **begin > index).count() as u32;
        level * step + 1
    }
}

/// The next turn, and the current weight of wrr then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Next {
    /// Index into the new table.
    pub turn: u64,
    /// Of wrr; 0 for others.
    pub weight: u32,
    /// From one current weight to the next; 0 for others.
    pub step: u32,
}

/// The next turn of a service that is to be as `service` says; `None`: where it is, or it takes no
/// turns. `now`: the turn as the kernel has it; `said`: what the last change gave.
pub fn of_change(
    installed: &Installed,
    key: &ServiceKey,
    service: &Service,
    now: u64,
    said: Option<Next>,
) -> Option<Next> {
    let scheduler = scheduler_of(service.scheduler);
    let old = installed.services.get(key).map(|(_, old)| *old);
    let same =
        old.is_some_and(|old| (old.table, old.scheduler) == (service.table, service.scheduler));
    if same || !matches!(scheduler, Scheduler::Rr | Scheduler::Wrr) {
        return None;
    }
    let server = |slot: u32| installed.servers.get(&slot).map_or((0, 0), |s| (s.order, s.weight));
    let picks = |s: &Service| {
        let picks = installed.picks.get(&s.table_base()).filter(|_| s.table_len() > 0);
        picks.map_or(&[][..], Vec::as_slice)
    };
    let turns = |picks| RrCursors { picks, server: &server };
    Some(match old {
        None => begin(scheduler, turns(picks(service))),
        Some(old) if old.scheduler != service.scheduler => restart(turns(picks(service))),
        Some(old) => go_on(scheduler, turns(picks(&old)), now, said, turns(picks(service))),
    })
}

/// The first turn, under another scheduler than before.
fn restart(new: RrCursors<'_>) -> Next {
    Next { step: new.step(), ..Next::default() }
}

/// The next turn of a service that is new.
fn begin(scheduler: Scheduler, new: RrCursors<'_>) -> Next {
    match scheduler {
        Scheduler::Wrr => pass_at(1, new),
        _ => Next::default(),
    }
}

/// The next turn where the last was `turn - 1` in the old table. `said`: what was said when that
/// was written.
fn go_on(
    scheduler: Scheduler,
    old: RrCursors<'_>,
    turn: u64,
    said: Option<Next>,
    new: RrCursors<'_>,
) -> Next {
    let still = said.filter(|next| next.turn == turn);
    if old.picks.is_empty() || new.picks.is_empty() {
        let weight = still.map_or(0, |s| s.weight);
        return if scheduler == Scheduler::Wrr { pass_at(weight, new) } else { Next::default() };
    }
    let last = (turn.wrapping_sub(1) % old.picks.len() as u64) as usize;
    match scheduler {
        Scheduler::Wrr => {
            let step = said.map_or_else(|| old.step(), |said| said.step);
            let weight = still.map_or_else(|| old.weight_at(last, step), |s| s.weight);
            pass_at(weight, new)
        }
        _ if turn == 0 => Next::default(),
        _ => {
            let (slot, place) = (old.picks[last], old.place(last));
            let behind = |i: &usize| {
                let other = new.place(*i);
                // One that leaves may share its place with the one that moves up.
                other > place || (other == place && new.picks[*i] != slot)
            };
            let turn = (0..new.picks.len()).find(behind).unwrap_or(0) as u64;
            Next { turn, ..Next::default() }
        }
    }
}

/// The beginning of the pass with this current weight, or of the first.
fn pass_at(weight: u32, new: RrCursors<'_>) -> Next {
    let (passes, step) = (new.passes(), new.step());
    if passes.is_empty() {
        return Next { turn: 0, weight, step };
    }
    let levels = passes.len() as u32;
    let highest = (levels - 1) * step + 1;
    let weight = match weight {
        0 => highest,
        w if w > highest => highest,
        w if step > 1 => w / step * step + 1,
        w => w,
    };
    let level = ((weight - 1) / step).min(levels - 1);
    Next { turn: passes[(levels - 1 - level) as usize] as u64, weight, step }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Slots are places; weights as given.
    fn next(scheduler: Scheduler, old: &[u32], turn: u64, new: &[u32], weights: &[u32]) -> u64 {
        let server = |slot: u32| (slot, weights[slot as usize]);
        let turns = |picks| RrCursors { picks, server: &server };
        go_on(scheduler, turns(old), turn, None, turns(new)).turn
    }

    #[test]
    fn rr_goes_on_behind_the_last_one() {
        let all = [1; 4];
        assert_eq!(next(Scheduler::Rr, &[0, 1, 2], 0, &[0, 2], &all), 0, "none was last");
        assert_eq!(next(Scheduler::Rr, &[0, 1, 2], 5, &[0, 2], &all), 1, "1 was, 2 is next");
        assert_eq!(next(Scheduler::Rr, &[0, 1, 2], 6, &[0, 1], &all), 0, "2 was");
        assert_eq!(next(Scheduler::Rr, &[0, 2], 1, &[0, 1, 2, 3], &all), 1, "1 came between");
    }

    #[test]
    fn wrr_stays_at_its_weight() {
        // Weights 3 and 1: passes at 3, 2 and 1.
        let (old, weights) = ([0, 0, 0, 1], [3, 1, 2]);
        let server = |slot: u32| (slot, weights[slot as usize]);
        let turns = |picks| RrCursors { picks, server: &server };
        assert_eq!(begin(Scheduler::Wrr, turns(&old)), Next { turn: 2, weight: 1, step: 1 });
        // The last turn was the second pass, at 2; weights 3, 1, 2 then.
        assert_eq!(next(Scheduler::Wrr, &old, 2, &[0, 0, 2, 0, 1, 2], &weights), 1);
        // No server has that weight any more: from the highest.
        assert_eq!(next(Scheduler::Wrr, &old, 1, &[1], &weights), 0);
        // Weights 4 and 2 have a step of 2; the current weight goes to one of its own.
        let weights = [4, 2];
        let server = |slot: u32| (slot, weights[slot as usize]);
        let turns = |picks| RrCursors { picks, server: &server };
        assert_eq!(begin(Scheduler::Wrr, turns(&[0, 0, 1])), Next { turn: 1, weight: 1, step: 2 });
        assert_eq!(turns(&[0, 0, 1]).weight_at(0, 2), 3);
        // 4 and 2 become 4 and 3 after the first pass: still at 3 (ip_vs_wrr.c), of passes at 4 to
        // 1.
        let weights = [4, 3];
        let server = |slot: u32| (slot, weights[slot as usize]);
        let turns = |picks| RrCursors { picks, server: &server };
        let said = Some(Next { turn: 0, weight: 3, step: 2 });
        let next = go_on(Scheduler::Wrr, turns(&[0, 0, 1]), 1, said, turns(&[0, 0, 1, 0, 1, 0, 1]));
        assert_eq!((next.turn, next.weight), (1, 3));
    }
}
