//! Nodes whose state is older than what they acknowledged, or gone.

use nines_core::wire::Persisted;
use nines_model::Millis;
use nines_sim::{Sabotage, Scenario, World};

/// A cluster that has done something since the copy of this node's disk was made.
fn moved_on(seed: u64, id: u64) -> (World, Persisted) {
    let mut world = World::new(seed, Sabotage::None);
    world.start_all();
    world.run_for(Millis(2_000)).unwrap();
    let copy = world.copy_of_disk(id);
    for _ in 0..4 {
        world.operator_moves();
        world.grow(100, 5);
        world.run_for(Millis(500)).unwrap();
    }
    (world, copy)
}

/// Nodes that have lost a part of their log begin anew once the others have a majority.
fn begins_anew(world: &mut World, id: u64, seed: u64) {
    world.start_all();
    world.run_for(Millis(6_000)).unwrap();
    assert_eq!(world.retired(id), None, "seed {seed}");
    assert!(world.copy_of_disk(id).begun.index > 0, "seed {seed}: with another log");
    assert!(world.agrees_on(&[1, 2, 3]) && world.serves_everything(), "seed {seed}");
}

#[test]
fn an_older_copy_votes_no_more_and_says_why_also_after_a_restart() {
    for seed in 0..8 {
        let id = 1 + seed % 3;
        let (mut world, copy) = moved_on(seed, id);
        world.put_back(id, copy);
        world.run_for(Millis(1_000)).unwrap();
        // Without a majority of the others it stays as it is.
        world.kill(1 + (seed + 1) % 3);
        world.start(id);
        world.run_for(Millis(2_000)).unwrap();
        let why = world.retired(id).unwrap_or_default().to_owned();
        assert!(why.contains("older than what it acknowledged"), "seed {seed}: {why}");
        // The others have forgotten, the disk has not.
        world.kill(id);
        world.run_for(Millis(200)).unwrap();
        world.start(id);
        assert_eq!(world.retired(id), Some(why.as_str()));
        begins_anew(&mut world, id, seed);
    }
}

#[test]
fn an_empty_disk_of_a_voter_is_noticed() {
    for seed in 0..6 {
        let id = 1 + seed % 3;
        let (mut world, _) = moved_on(seed, id);
        world.put_back(id, Persisted::default());
        world.kill(1 + (seed + 1) % 3);
        world.start(id);
        world.run_for(Millis(3_000)).unwrap();
        let why = world.retired(id).unwrap_or_default();
        assert!(why.contains("its log is gone"), "seed {seed}: {why}");
        assert!(!world.serves_everything(), "seed {seed}: one of three votes");
        begins_anew(&mut world, id, seed);
    }
}

/// Of two voters neither has a majority without the other, until a person says that it is off.
#[test]
fn of_two_that_lost_its_log_begins_anew_when_a_person_says_that_it_is_off() {
    let mut scenario = Scenario::sized(2, 0, 1, 1);
    scenario.faults.clear();
    let mut world = World::of(scenario, 1, Sabotage::None);
    world.start_all();
    world.run_for(Millis(3_000)).unwrap();
    // What one of two disks has lost is on no majority of disks.
    world.ask_no_invariant();
    world.put_back(1, Persisted::default());
    world.start(1);
    world.run_for(Millis(5_000)).unwrap();
    assert!(world.retired(1).is_some() && !world.serves_everything());
    world.kill(1);
    world.run_for(Millis(1_000)).unwrap();
    world.operator_acts(2, "confirm-off", &["lb1"]);
    world.run_for(Millis(3_000)).unwrap();
    assert!(world.holds(2) && world.serves_everything());
    world.start(1);
    world.run_for(Millis(10_000)).unwrap();
    assert!(world.agrees_on(&[1, 2]) && world.serves_everything());
    assert_eq!(world.retired(1), None);
}

#[test]
fn two_older_copies_at_once_stop_no_process() {
    for seed in 0..6 {
        let (mut world, first) = moved_on(seed, 1);
        let second = world.copy_of_disk(2);
        world.operator_moves();
        world.run_for(Millis(500)).unwrap();
        world.put_back(1, first);
        world.put_back(2, second);
        world.start(1);
        world.start(2);
        // What two of three disks have lost is lost: the world says so after each event.
        (0..6_000).for_each(|_| drop(world.run_for(Millis(5))));
        assert!(world.retired(1).is_some() && world.retired(2).is_some(), "seed {seed}");
    }
}

/// What is on disk is what it was: nobody is shut out for a plain restart, of one or of all.
#[test]
fn restarts_are_no_losses() {
    for seed in 0..8 {
        let (mut world, _) = moved_on(seed, 1);
        for round in 0..12u64 {
            let id = 1 + (seed + round) % 3;
            if round % 4 == 3 {
                (1..=3).for_each(|id| world.power_off(id));
            } else {
                world.kill(id);
            }
            world.operator_moves();
            world.run_for(Millis(20 + 70 * round)).unwrap();
            world.start_all();
            world.operator_moves();
            world.run_for(Millis(150 * (round % 5))).unwrap();
        }
        world.run_for(Millis(3_000)).unwrap();
        assert!((1..=3).all(|id| world.retired(id).is_none()), "seed {seed}");
        assert!(world.serves_everything(), "seed {seed}");
    }
}

/// Nobody remembers what it had: that it has a vote says enough.
#[test]
fn an_empty_disk_is_noticed_by_members_that_started_later() {
    for seed in 0..6 {
        let id = 1 + seed % 3;
        let (mut world, _) = moved_on(seed, id);
        world.put_back(id, Persisted::default());
        for other in (1..=3).filter(|other| *other != id) {
            world.kill(other);
        }
        begins_anew(&mut world, id, seed);
    }
}

/// Two directors and a witness, one of them dead for good: the others restart, one after the other
/// or at once.
#[test]
fn what_is_left_of_a_cluster_restarts() {
    for seed in 0..9 {
        let (mut world, _) = moved_on(seed, 1);
        let dead = 1 + seed % 3;
        world.power_off(dead);
        world.run_for(Millis(1_000)).unwrap();
        let left: Vec<u64> = (1..=3).filter(|id| *id != dead).collect();
        for round in 0..4 {
            for id in &left {
                world.power_off(*id);
                if round % 2 == 0 {
                    world.start(*id);
                    world.run_for(Millis(700)).unwrap();
                }
            }
            left.iter().for_each(|id| world.start(*id));
            world.run_for(Millis(3_000)).unwrap();
            assert!(world.serves_everything(), "seed {seed} round {round}");
        }
    }
}
