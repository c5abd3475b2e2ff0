//! S17: a device is asked to switch a machine off only by an order that is on a majority of disks,
//! by the node and in the incarnation that it names; not for an incarnation that is off already,
//! and not where the target has started again and could be heard. One of two voters that has lost
//! the other needs no order: no majority is left.

use super::Invariant;
use crate::observation::{Observation, OffCall, Order};

/// Remembers how many calls were looked at.
#[derive(Default)]
pub struct OrderBeforeFence {
    looked_at: usize,
}

/// For so long a target that has started again may go unnoticed, ns.
const NOTICED_NS: u64 = 1_000_000_000;

fn wrong(call: &OffCall, seen: &Observation) -> Option<String> {
    let Some(order) = &call.order else {
        return (call.voters != 2).then(|| format!("without an order, of {} voters", call.voters));
    };
    let Order { index, incarnation, by, by_incarnation } = *order;
    if (by, by_incarnation) != (call.by, call.by_incarnation) {
        return Some(format!("by an order for incarnation {by_incarnation} of node {by}"));
    }
    if !seen.on_majority(index) {
        return Some(format!("by entry {index}, which no majority has"));
    }
    if call.off == Some(incarnation) {
        return Some(format!("again: incarnation {incarnation} is off already"));
    }
    let later = call.target_incarnation != incarnation;
    (later && call.heard_ns > NOTICED_NS).then(|| {
        let (now, ms) = (call.target_incarnation, call.heard_ns / 1_000_000);
        format!("for incarnation {incarnation}, and could hear incarnation {now} for {ms} ms")
    })
}

impl Invariant for OrderBeforeFence {
    fn name(&self) -> &'static str {
        "S17-order-before-fence"
    }

    fn check(&mut self, seen: &Observation) -> Result<(), String> {
        let new = seen.off_calls.get(self.looked_at..).unwrap_or_default();
        self.looked_at = seen.off_calls.len();
        match new.iter().find_map(|call| Some((call, wrong(call, seen)?))) {
            Some((OffCall { by, target, .. }, why)) => {
                Err(format!("S17: node {by} has node {target} switched off {why}"))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::observation::NodeFacts;

    #[test]
    fn it_can_fail() {
        let order = Order { index: 4, incarnation: 20, by: 1, by_incarnation: 10 };
        let good = OffCall {
            by: 1,
            by_incarnation: 10,
            target: 2,
            target_incarnation: 20,
            order: Some(order),
            voters: 3,
            ..OffCall::default()
        };
        let check = |call: OffCall| {
            let mut seen = Observation::default();
            for id in 1..=3 {
                let durable = Arc::new([(4, 1)].into());
                seen.nodes.insert(id, NodeFacts { durable, ..NodeFacts::default() });
            }
            seen.off_calls = Arc::new(vec![call]);
            OrderBeforeFence::default().check(&seen)
        };
        assert_eq!(check(good), Ok(()));
        let again = OffCall { target_incarnation: 30, ..good };
        assert_eq!(check(OffCall { heard_ns: 500_000_000, ..again }), Ok(()), "not noticed yet");
        assert_eq!(check(OffCall { order: None, voters: 2, ..good }), Ok(()));
        let early = Order { index: 5, ..order };
        let other = Order { by_incarnation: 9, ..order };
        for (bad, why) in [
            (OffCall { order: None, ..good }, "without an order, of 3 voters"),
            (OffCall { order: Some(early), ..good }, "entry 5, which no majority has"),
            (OffCall { order: Some(other), ..good }, "for incarnation 9 of node 1"),
            (OffCall { off: Some(20), ..good }, "again: incarnation 20 is off already"),
            (OffCall { heard_ns: 2_000_000_000, ..again }, "could hear incarnation 30"),
        ] {
            assert!(check(bad).unwrap_err().contains(why), "{why}");
        }
    }
}
