//! S28: a frame of somebody who has left the cluster, and bytes that are no frame, change nothing
//! of a node's log, and of who leads or votes by it.

use super::Invariant;
use crate::observation::Observation;

/// Needs no memory.
pub struct StrangersChangeNothing;

impl Invariant for StrangersChangeNothing {
    fn name(&self) -> &'static str {
        "S28-strangers-change-nothing"
    }

    fn check(&mut self, seen: &Observation) -> Result<(), String> {
        match &seen.forged {
            Some(why) => Err(format!("S28: by a frame of somebody who has left {why}")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use nines_model::Millis;

    use super::*;
    use crate::{Sabotage, World, random::Random};

    #[test]
    fn it_can_fail() {
        let mut seen = Observation::default();
        assert_eq!(StrangersChangeNothing.check(&seen), Ok(()));
        seen.forged = Some("node 1 had a and has b".into());
        assert!(StrangersChangeNothing.check(&seen).unwrap_err().contains("node 1 had a"));
    }

    /// Whoever has left may say what it likes.
    #[test]
    fn strangers_come_to_nothing() {
        let mut world = World::new(1, Sabotage::None);
        let mut random = Random::new(1);
        world.start_all();
        world.run_for(Millis(3_000)).unwrap();
        let states = world.states();
        for round in 0..200 {
            world.stranger_sends(1 + round % 3, &mut random);
            world.run_for(Millis(20)).unwrap();
        }
        assert_eq!(world.states(), states);
    }
}
