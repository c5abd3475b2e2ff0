//! S19: two nodes never have each other switched off: of two that have both asked, the device of
//! one at most does it, as long as devices answer in time.

use super::Invariant;
use crate::observation::{Observation, OffCall};

/// Remembers how many calls were looked at, and which took effect.
#[derive(Default)]
pub struct OneSurvives {
    effects: usize,
}

/// When a call switched its machine off, if it was in time.
fn effect(call: &OffCall) -> Option<u64> {
    call.took_effect.filter(|(_, in_time)| *in_time).map(|(at, _)| at)
}

/// Whether each of the two has the other switched off, and had asked before either was off.
fn both(a: &OffCall, b: &OffCall) -> bool {
    let (Some(a_ends), Some(b_ends)) = (effect(a), effect(b)) else { return false };
    let each_other = (a.by, a.target) == (b.target, b.by);
    each_other && a.at.max(b.at) <= a_ends.min(b_ends)
}

impl Invariant for OneSurvives {
    fn name(&self) -> &'static str {
        "S19-one-survives"
    }

    fn check(&mut self, seen: &Observation) -> Result<(), String> {
        let effects = seen.off_calls.iter().filter(|call| call.took_effect.is_some()).count();
        if effects == self.effects {
            return Ok(());
        }
        self.effects = effects;
        for (n, a) in seen.off_calls.iter().enumerate() {
            if let Some(b) = seen.off_calls[..n].iter().find(|b| both(a, b)) {
                let (one, other) = (b.by, a.by);
                return Err(format!(
                    "S19: node {one} and node {other} have each other switched off"
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

    #[test]
    fn it_can_fail() {
        let call = |by, target, at, off: u64| {
            let took_effect = (off > 0).then_some((off, true));
            OffCall { at, by, target, took_effect, ..OffCall::default() }
        };
        let check = |calls: &[OffCall]| {
            let off_calls = Arc::new(calls.to_vec());
            OneSurvives::default().check(&Observation { off_calls, ..Observation::default() })
        };
        assert_eq!(check(&[call(1, 2, 10, 20), call(2, 1, 15, 0)]), Ok(()));
        let both = [call(1, 2, 10, 20), call(2, 1, 15, 25)];
        assert!(check(&both).unwrap_err().contains("node 1 and node 2"));
        let mut late = both;
        late[1].took_effect = Some((25, false));
        assert_eq!(check(&late), Ok(()), "a device that is late is the device's fault");
        assert_eq!(check(&[call(1, 2, 10, 20), call(2, 1, 50, 60)]), Ok(()), "it was back");
        assert_eq!(check(&[call(1, 2, 10, 20), call(3, 1, 15, 25)]), Ok(()));
    }
}
