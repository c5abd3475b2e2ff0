//! Ring 2: a seeded world around the real nines-core.
//!
//! Decides: what the world does to nodes (network, disks, clocks, crashes) and what is true in it.
//! What it is made of is a [`Scenario`].
//! Ground truth is the simulated kernel (address and guard), never the cluster's belief. After
//! every event all [`invariants`] are asked. Same seed, same trace hash.

pub mod faults;
pub mod invariants;
pub mod liveness;
pub mod observation;
pub mod random;
pub mod scenario;
pub mod shrink;
pub mod story;
pub mod timing;
pub mod world;

use nines_model::Millis;

pub use scenario::{Drawn, Planned, Scenario};
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
    let plan = faults::plan(&world.scenario, world.seed(), safety);
    run_planned(&mut world, safety, &plan)
}

/// The same with these faults.
pub fn run_planned(world: &mut World, safety: Millis, plan: &[Planned]) -> Outcome {
    let mut violation = follow(world, safety, plan).err();
    let before = world.moves();
    violation = violation.or_else(|| world.run_for(world.scenario.calm).err());
    let healed = violation.is_none() && world.moves() == before && world.serves_everything();
    if violation.is_none() && healed {
        violation = stuck(world).err();
    }
    world.describe_if_verbose();
    Outcome {
        trace: world.trace(),
        healed,
        moves: world.moves(),
        violation,
        virtual_ns: world.now(),
        drawn: world.drawn.clone(),
    }
}

/// At the end most machines stay away, or cannot work: what is left of the cluster says so.
fn stuck(world: &mut World) -> Result<(), String> {
    if !world.scenario.ends_stuck {
        return Ok(());
    }
    faults::most_fail(world);
    world.run_for(Millis(5_500))
}

/// The safety phase, and the time in which everything must heal.
fn follow(world: &mut World, safety: Millis, plan: &[Planned]) -> Result<(), String> {
    world.start_all();
    world.run_for(Millis(2_000))?;
    let since = world.now();
    let passed = |world: &World| Millis((world.now() - since) / 1_000_000);
    for planned in plan {
        let pause = planned.at.0.saturating_sub(passed(world).0);
        world.run_for(Millis(pause))?;
        world.operators_follow(passed(world));
        if world.copy_is_old() {
            world.remove_copy();
        }
        faults::happen(world, planned);
    }
    let rest = safety.0.saturating_sub(passed(world).0);
    world.run_for(Millis(rest))?;
    world.operators_follow(passed(world));
    faults::end_all(world);
    world.run_for(Millis(6_000))?;
    // Some may have been switched off by a call that was under way.
    if world.somebody_is_down() || !world.is_healing() {
        world.start_all();
        world.heals();
    }
    if world.scenario.changes_config {
        world.operator_applies_all();
    }
    world.run_for(Millis(6_000))
}
