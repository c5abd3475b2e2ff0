//! Clusters that are upgraded node by node, from a build that reads less.

use std::collections::BTreeSet;

use nines_core::{feature_level, wire::Persisted};
use nines_model::Millis;
use nines_sim::{Sabotage, World, faults};

/// Half of what `NINES_SIM_SEEDS` says: here each frame is read and written once more.
fn seeds() -> u64 {
    std::env::var("NINES_SIM_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(60) / 2
}

/// A cluster of builds that read up to this level, in which faults of this seed happen, operators
/// change the config at any node, and one node after the other gets the new build. Then all faults
/// end.
fn upgraded(seed: u64, level: u32, sabotage: Sabotage) -> Result<World, String> {
    let mut world = World::new(seed, sabotage);
    world.with_older_builds(level);
    world.scenario.changes_config = true;
    world.scenario.copies_machines = false;
    world.start_all();
    world.run_for(Millis(2_000))?;
    if sabotage == Sabotage::LevelOverstated {
        // What the newest level is for: a vote is taken.
        world.run_for(Millis(2_000))?;
        world.put_back(3, Persisted::default());
        world.start(3);
        world.run_for(Millis(3_000))?;
    }
    for id in [2, 3, 1] {
        for _ in 0..12 {
            faults::next(&mut world);
            if world.random.chance(400) {
                let both = world.random.chance(500);
                world.operator_changes(both);
                world.operator_acts(1, "keep", &["lb2"]);
            }
            let pause = 20 + world.random.below(400);
            world.run_for(Millis(pause))?;
            // Some node always has an older build: the level stays.
            if sabotage == Sabotage::None {
                let highest = world.feature_levels().into_iter().max().unwrap_or(level);
                assert_eq!(highest, level, "seed {seed}");
            }
        }
        if sabotage == Sabotage::LevelOverstated && id == 3 {
            world.join_floating(9, 2);
            world.run_for(Millis(1_000))?;
        }
        world.upgrade(id);
    }
    faults::end_all(&mut world);
    world.run_for(Millis(6_000))?;
    world.operator_applies_all();
    world.run_for(Millis(6_000))?;
    Ok(world)
}

#[test]
fn a_rolling_upgrade_keeps_all_nodes_in_the_same_state() {
    for seed in 0..seeds() {
        let level = seed as u32 % feature_level::BUILD;
        let world =
            upgraded(seed, level, Sabotage::None).unwrap_or_else(|why| panic!("{seed}: {why}"));
        assert_eq!(world.feature_levels(), BTreeSet::from([feature_level::BUILD]), "seed {seed}");
        assert_eq!(world.states().len(), 1, "seed {seed}: all of it is the same, levels as well");
        assert!(world.serves_everything(), "seed {seed}");
    }
}

/// An older build takes the piece of a config for a whole one and refuses it, or passes over what
/// its proposer read, or refuses a verb; the others do what it says. The newest level has no new
/// form: builds below it count an event twice that was written twice.
#[test]
fn a_command_in_a_form_that_an_older_build_does_not_read_is_noticed() {
    for level in 0..feature_level::EVENTS_ONCE - 1 {
        let found: Vec<String> = (0..seeds().min(10))
            .filter_map(|seed| upgraded(seed, level, Sabotage::LevelOverstated).err())
            .collect();
        assert!(found.iter().any(|why| why.contains("S2")), "{level}: {found:?}");
    }
}

#[test]
fn an_older_build_joins_only_below_the_first_level() {
    let mut world = World::new(1, Sabotage::None);
    world.start_all();
    world.run_for(Millis(2_000)).unwrap();
    world.join_reading(5, 2, 0);
    world.run_for(Millis(1_000)).unwrap();
    assert!((1..=3).all(|id| !world.knows(id, 5)), "level 1 is in force");
    let mut world = World::new(1, Sabotage::None);
    world.with_older_builds(0);
    world.start_all();
    world.run_for(Millis(2_000)).unwrap();
    world.join_reading(5, 2, 0);
    world.run_for(Millis(1_000)).unwrap();
    assert!((1..=3).all(|id| world.knows(id, 5)));
}

/// A member that is away counts with its last facts: it holds the level back until it is back with
/// the new build.
#[test]
fn a_member_that_is_away_holds_the_level_back() {
    let mut world = World::new(3, Sabotage::None);
    world.with_older_builds(0);
    world.start_all();
    world.run_for(Millis(2_000)).unwrap();
    world.kill(3);
    (1..=2).for_each(|id| world.upgrade(id));
    world.run_for(Millis(10_000)).unwrap();
    assert_eq!(world.feature_levels(), [0].into());
    world.upgrade(3);
    world.run_for(Millis(5_000)).unwrap();
    assert_eq!(world.feature_levels(), [feature_level::BUILD].into());
}

/// One that never comes back is removed, though the command for that needs a higher level.
#[test]
fn a_member_that_never_comes_back_is_removed_and_the_level_rises() {
    for level in 0..feature_level::BUILD {
        let mut world = World::new(3, Sabotage::None);
        world.with_older_builds(level);
        world.start_all();
        world.run_for(Millis(2_000)).unwrap();
        world.power_off(3);
        (1..=2).for_each(|id| world.upgrade(id));
        world.run_for(Millis(5_000)).unwrap();
        assert_eq!(world.feature_levels(), [level].into());
        let dead = world.scenario.nodes[2].clone();
        for id in 1..=2 {
            world.operator_acts(id, "remove", &[&dead]);
        }
        world.run_for(Millis(5_000)).unwrap();
        assert!(world.agrees_on(&[1, 2]), "level {level}");
        assert_eq!(world.feature_levels(), [feature_level::BUILD].into());
    }
}

/// An older build would take the hosts of a quorum disk for the links of one machine.
#[test]
fn a_member_that_floats_is_let_in_once_all_know_what_that_is() {
    let mut world = World::new(3, Sabotage::None);
    world.with_older_builds(feature_level::FLOATING - 1);
    world.start_all();
    world.run_for(Millis(2_000)).unwrap();
    world.upgrade(1);
    world.run_for(Millis(2_000)).unwrap();
    world.join_floating(9, 1);
    world.run_for(Millis(2_000)).unwrap();
    assert!((1..=3).all(|id| !world.knows(id, 9)));
    [2, 3].into_iter().for_each(|id| world.upgrade(id));
    world.run_for(Millis(5_000)).unwrap();
    world.join_floating(9, 1);
    world.run_for(Millis(2_000)).unwrap();
    assert!((1..=3).all(|id| world.knows(id, 9)));
}
