//! S18: within an hour a node is switched off three times at most; and a node that has heard no
//! majority since its machine booted has nobody switched off.

use std::collections::{BTreeMap, BTreeSet};

use super::Invariant;
use crate::observation::{Observation, OffCall};

/// Remembers how many calls were looked at, and when each order was first carried out.
#[derive(Default)]
pub struct NoFenceLoop {
    looked_at: usize,
    /// By target: the order's index, or the time of a call without one, and when it was.
    orders: BTreeMap<u64, BTreeMap<u64, u64>>,
}

const HOUR_NS: u64 = 3_600_000_000_000;
const ATTEMPTS: usize = 3;
/// The devices of one level, and of the next one, are asked within this; two attempts are not.
const ONE_ATTEMPT_NS: u64 = 12_000_000_000;

impl NoFenceLoop {
    /// Attempts to switch this node off in the hour before this call, and with it.
    fn attempts(&mut self, call: &OffCall) -> usize {
        let of_target = self.orders.entry(call.target).or_default();
        let last = of_target.last_key_value().map_or(0, |(_, at)| *at);
        match call.order {
            Some(order) => {
                of_target.entry(order.index).or_insert(call.at);
            }
            None if last == 0 || call.at - last > ONE_ATTEMPT_NS => {
                of_target.insert(call.at, call.at);
            }
            None => {}
        }
        // Clocks may run 2000 ppm fast.
        let hour = HOUR_NS - HOUR_NS / 250;
        let recent: BTreeSet<&u64> =
            of_target.values().filter(|at| call.at - **at < hour).collect();
        recent.len()
    }
}

impl Invariant for NoFenceLoop {
    fn name(&self) -> &'static str {
        "S18-no-fence-loop"
    }

    fn check(&mut self, seen: &Observation) -> Result<(), String> {
        let new = seen.off_calls.get(self.looked_at..).unwrap_or_default();
        self.looked_at = seen.off_calls.len();
        for call in new {
            let OffCall { by, target, .. } = call;
            if !call.by_heard_majority {
                return Err(format!(
                    "S18: node {by} has node {target} switched off, and has heard no majority \
                     since its machine booted"
                ));
            }
            let attempts = self.attempts(call);
            if attempts > ATTEMPTS {
                return Err(format!(
                    "S18: node {target} is switched off {attempts} times within an hour"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::observation::Order;

    fn all(calls: &[(u64, Option<u64>)]) -> Result<(), String> {
        let call = |(s, index): &(u64, Option<u64>)| OffCall {
            at: 1_000_000_000 * s,
            by_heard_majority: true,
            order: index.map(|index| Order { index, ..Order::default() }),
            ..OffCall::default()
        };
        let off_calls = Arc::new(calls.iter().map(call).collect());
        NoFenceLoop::default().check(&Observation { off_calls, ..Observation::default() })
    }

    #[test]
    fn it_can_fail() {
        let three = [(10, Some(5)), (11, Some(5)), (100, Some(9)), (3_600, Some(12))];
        assert_eq!(all(&three), Ok(()), "an order may be about two devices");
        let four = [(10, Some(5)), (100, Some(9)), (200, Some(12)), (3_500, Some(20))];
        assert!(all(&four).unwrap_err().contains("4 times within an hour"));
        let later = [(10, Some(5)), (100, Some(9)), (200, Some(12)), (3_700, Some(20))];
        assert_eq!(all(&later), Ok(()));
        assert!(all(&[(10, None), (30, None), (50, None), (70, None)]).is_err());
        assert_eq!(all(&[(10, None), (15, None), (30, None), (50, None)]), Ok(()));
        let off_calls = Arc::new(vec![OffCall::default()]);
        let fresh = Observation { off_calls, ..Observation::default() };
        let wrong = NoFenceLoop::default().check(&fresh).unwrap_err();
        assert!(wrong.contains("no majority since its machine booted"), "{wrong}");
    }
}
