//! Ring 2: a seeded world around the real nines-core.
//!
//! Decides: what the world does to nodes (network, disks, clocks, crashes) and what is true in it.
//! What it is made of is a [`Scenario`].
//! Ground truth is the simulated kernel (address and guard), never the cluster's belief. After
//! every event all [`invariants`] are asked. Same seed, same trace hash.

pub mod faults;
pub mod invariants;
pub mod observation;
pub mod random;
pub mod scenario;
pub mod story;
pub mod timing;
pub mod world;

use nines_model::Millis;

pub use scenario::{Drawn, Scenario};
pub use story::Story;
pub use world::{Sabotage, World};

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Hash of everything that happened, in order.
    pub trace: u64,
    /// Broken invariant, with the time.
    pub violation: Option<String>,
    /// After all faults ended: a leader and every VIP answered for, without a change for a while.
    pub healed: bool,
    /// How often a VIP changed its holder.
    pub moves: u64,
    /// Time that passed in the world, ns.
    pub virtual_ns: u64,
    /// What went wrong in the world.
    pub drawn: Drawn,
}

impl Outcome {
    /// What is wrong with the run: a broken invariant, or that the world did not heal.
    pub fn wrong(&self) -> Option<String> {
        let sick = (!self.healed).then(|| {
            let moves = self.moves;
            format!(
                "not healed: after 15 s without faults a VIP still moves, or is not answered for by \
                 just one node ({moves} moves so far)"
            )
        });
        self.violation.clone().or(sick)
    }
}

/// Runs the cluster of [`Scenario::drawn`] through a safety phase with faults of this seed, then
/// ends all faults and expects it to heal.
pub fn run(seed: u64, safety: Millis, sabotage: Sabotage) -> Outcome {
    run_world(World::of(Scenario::drawn(seed), seed, sabotage), safety)
}

/// The same with the machines of a scenario, and with its safety phase.
pub fn run_scenario(scenario: Scenario, seed: u64) -> Outcome {
    let length = scenario.length;
    run_world(World::of(scenario, seed, Sabotage::None), length)
}

/// The same in a world that was made already, in which nothing runs yet.
pub fn run_world(mut world: World, safety: Millis) -> Outcome {
    world.start_all();
    let mut violation = world.run_for(Millis(2_000)).err();
    let since = world.now();
    while violation.is_none() && world.now() < since + safety.ns() {
        world.operators_follow(Millis((world.now() - since) / 1_000_000));
        faults::next(&mut world);
        let pause = 20 + world.random.below(600);
        violation = world.run_for(Millis(pause)).err();
    }
    faults::end_all(&mut world);
    if violation.is_none() {
        violation = world.run_for(Millis(6_000)).err();
    }
    // Some may have been switched off by a call that was under way.
    world.start_all();
    if world.scenario.changes_config {
        world.operator_applies_all();
    }
    if violation.is_none() {
        violation = world.run_for(Millis(6_000)).err();
    }
    let before = world.moves();
    if violation.is_none() {
        violation = world.run_for(Millis(3_000)).err();
    }
    let calm = world.moves() == before;
    world.describe_if_verbose();
    Outcome {
        trace: world.trace(),
        healed: violation.is_none() && calm && world.serves_everything(),
        moves: world.moves(),
        violation,
        virtual_ns: world.now(),
        drawn: world.drawn,
    }
}
