//! How long what fails again and again is kept out of use: a node, or one of its links.
//!
//! ```text
//! silent, back: 1st time   used at once: a reboot is no fault
//!               2nd        after it was heard without a break for 10 s
//!               3rd, 4th.. 20 s, 40 s, ..., at most 10 min
//! an hour without another return: forgotten
//! ```
//!
//! Decides: the length of each quarantine, and when a link counts as one that flaps.

use nines_model::{Millis, Time};

/// Returns from silence that cost nothing.
const FREE: usize = 1;
/// The first quarantine; each one after it is twice as long.
const FIRST: Millis = Millis(10_000);
/// The longest quarantine.
pub const LONGEST: Millis = Millis(600_000);
/// So long without another return, and all of them are forgotten.
pub const FORGOTTEN: Millis = Millis(3_600_000);
/// Returns of a node that are told for times so near are one, which two nodes saw.
pub const ONE_RETURN: Millis = Millis(100);

/// How long what came back so often must be heard without a break before it is used again.
pub fn back_off(returns: usize) -> Millis {
    let Some(times) = returns.checked_sub(FREE + 1) else { return Millis(0) };
    let doubled = u32::try_from(times).ok().and_then(|times| FIRST.0.checked_shl(times));
    Millis(doubled.filter(|ms| *ms >= FIRST.0).unwrap_or(LONGEST.0)).min(LONGEST)
}

/// How often a link came back while the peer was heard over another one.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinkReturns {
    /// Whether it is heard, and since when; `None`: it was never looked at.
    heard: Option<(bool, Time)>,
    count: usize,
    last: Time,
    /// It fell silent while another link brought heartbeats: the fault is its own.
    alone: bool,
}

impl LinkReturns {
    /// Notes whether the link is heard now; `others`: the peer is heard over another one.
    pub(super) fn look(&mut self, now: Time, heard: bool, others: bool) {
        match self.heard {
            Some((before, _)) if before == heard => return,
            Some(_) if heard && self.alone => {
                if now.since(self.last) >= FORGOTTEN.ns() {
                    self.count = 0;
                }
                (self.count, self.last) = (self.count + 1, now);
            }
            Some(_) if !heard => self.alone = others,
            _ => {}
        }
        self.heard = Some((heard, now));
    }

    /// How often it came back within an hour, and how long it must still be heard without a break;
    /// `None`: it may be used.
    pub fn quarantine(&self, now: Time) -> Option<(usize, Millis)> {
        let (heard, since) = self.heard?;
        if now.since(self.last) >= FORGOTTEN.ns() {
            return None;
        }
        let served = if heard { now.since(since) } else { 0 };
        let left = back_off(self.count).ns().checked_sub(served).filter(|left| *left > 0)?;
        Some((self.count, Millis(left.div_ceil(1_000_000))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quarantines_double_up_to_ten_minutes() {
        let seconds: Vec<u64> = (0..=9).map(|returns| back_off(returns).0 / 1_000).collect();
        assert_eq!(seconds, [0, 0, 10, 20, 40, 80, 160, 320, 600, 600]);
        for returns in [60, 65, 70, 1_000_000, usize::MAX] {
            assert_eq!(back_off(returns), LONGEST);
        }
    }

    const S: u64 = 1_000_000_000;

    fn flapping(times: u64) -> LinkReturns {
        let mut link = LinkReturns::default();
        link.look(Time(S), true, true);
        for n in 1..=times {
            link.look(Time(n * 10 * S), false, true);
            link.look(Time((n * 10 + 1) * S), true, true);
        }
        link
    }

    #[test]
    fn a_link_that_flaps_serves_its_time_and_an_hour_forgets() {
        assert_eq!(flapping(1).quarantine(Time(11 * S)), None);
        let link = flapping(3);
        assert_eq!(link.quarantine(Time(31 * S)), Some((3, Millis(20_000))));
        assert_eq!(link.quarantine(Time(50 * S)), Some((3, Millis(1_000))));
        assert_eq!(link.quarantine(Time(51 * S)), None);
        // Down again: it serves all of it once more.
        let mut link = flapping(3);
        link.look(Time(50 * S), false, true);
        assert_eq!(link.quarantine(Time(55 * S)), Some((3, Millis(20_000))));
        link.look(Time(60 * S), true, true);
        assert_eq!(link.quarantine(Time(61 * S)), Some((4, Millis(39_000))));
        link.look(Time(4_000 * S), false, true);
        link.look(Time(4_001 * S), true, true);
        assert_eq!(link.quarantine(Time(4_002 * S)), None, "an hour was quiet");
    }

    #[test]
    fn a_link_is_not_blamed_for_the_silence_of_its_node() {
        let mut link = LinkReturns::default();
        for n in 1..=9 {
            link.look(Time(n * 10 * S), true, false);
            link.look(Time((n * 10 + 1) * S), false, false);
        }
        link.look(Time(100 * S), true, false);
        assert_eq!(link.quarantine(Time(100 * S)), None);
    }
}
