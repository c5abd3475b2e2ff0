//! Members that are removed for good: which of them go, when, and what becomes of them.

use nines_core::node::removal::Waits;
use nines_model::Millis;
use nines_sim::{Sabotage, Scenario, World, faults};

/// A cluster of so many directors and witnesses, numbered from 1, at work.
fn at_work(directors: u8, witnesses: u8, seed: u64) -> World {
    let scenario = Scenario::sized(directors, witnesses, 2, 1);
    let mut world = World::of(scenario, seed, Sabotage::None);
    world.start_all();
    world.run_for(Millis(3_000)).unwrap();
    assert!(world.serves_everything());
    world
}

fn name(world: &World, id: u64) -> String {
    world.scenario.nodes[id as usize - 1].clone()
}

fn remove(world: &mut World, by: u64, ids: &[u64]) {
    let names: Vec<String> = ids.iter().map(|id| name(world, *id)).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    world.operator_acts(by, "remove", &names);
}

fn until(world: &mut World, what: &str, done: impl Fn(&World) -> bool) {
    for _ in 0..200 {
        world.run_for(Millis(50)).unwrap();
        if done(world) {
            return;
        }
    }
    world.describe();
    panic!("{what}: not within 10 s");
}

/// Whoever leads or holds VIPs, whoever is asked: the others go on, and the one that left knows it.
#[test]
fn each_member_can_be_removed_by_each() {
    for directors in [2, 3, 4] {
        let all: Vec<u64> = (1..=u64::from(directors)).collect();
        for (leaves, by) in all.iter().flat_map(|id| all.iter().map(move |by| (*id, *by))) {
            let mut world = at_work(directors, 0, 10 * leaves + by);
            remove(&mut world, by, &[leaves]);
            let rest: Vec<u64> = all.iter().copied().filter(|id| *id != leaves).collect();
            until(&mut world, "it left", |w| w.agrees_on(&rest) && w.is_removed(leaves));
            until(&mut world, "VIPs", |w| w.serves_everything() && !w.holds(leaves));
            // Its process starts again, and it still knows; nobody wonders where it is.
            world.kill(leaves);
            world.start(leaves);
            world.run_for(Millis(2_000)).unwrap();
            assert!(world.is_removed(leaves) && world.serves_everything(), "{leaves} by {by}");
        }
    }
}

#[test]
fn a_dead_member_is_removed_and_is_told_when_it_comes_back() {
    for dead in 1..=3 {
        for restarted in [false, true] {
            let mut world = at_work(2, 1, dead);
            world.power_off(dead);
            world.run_for(Millis(2_000)).unwrap();
            let rest: Vec<u64> = (1..=3).filter(|id| *id != dead).collect();
            remove(&mut world, rest[0], &[dead]);
            until(&mut world, "it left", |w| w.agrees_on(&rest));
            if restarted {
                // Nobody remembers its address or its incarnation.
                rest.iter().for_each(|id| world.kill(*id));
                rest.iter().for_each(|id| world.start(*id));
                world.run_for(Millis(3_000)).unwrap();
            }
            world.start(dead);
            until(&mut world, "it knows", |w| w.is_removed(dead));
            world.run_for(Millis(2_000)).unwrap();
            assert!(world.serves_everything(), "{dead}");
            assert!(rest.iter().all(|id| world.leader().is_some() && !world.is_removed(*id)));
        }
    }
}

/// Nobody can take over what it held: its removal does not wait for that.
#[test]
fn the_only_director_is_removed_once_it_is_dead() {
    let mut world = at_work(1, 2, 7);
    remove(&mut world, 2, &[1]);
    world.run_for(Millis(2_000)).unwrap();
    assert!(matches!(world.removal_waits(2, 1), Some(Waits::Holds(_))), "it lives");
    world.power_off(1);
    until(&mut world, "it left", |w| w.agrees_on(&[2, 3]));
    world.start(1);
    until(&mut world, "it knows", |w| w.is_removed(1));
    world.run_for(Millis(2_000)).unwrap();
    assert!(!world.holds(1));
}

/// A member that the others need for a majority stays, says why, and goes when they are enough.
#[test]
fn a_member_that_others_need_stays_until_they_do_not() {
    let mut world = at_work(2, 1, 5);
    world.power_off(2);
    world.run_for(Millis(2_000)).unwrap();
    remove(&mut world, 1, &[1]);
    world.run_for(Millis(5_000)).unwrap();
    assert!(world.knows(3, 1) && world.serves_everything());
    let waits = world.removal_waits(3, 1);
    assert!(matches!(waits, Some(Waits::Holds(_))), "nobody else can take its VIPs: {waits:?}");
    remove(&mut world, 1, &[3]);
    world.run_for(Millis(2_000)).unwrap();
    assert_eq!(world.removal_waits(1, 3), Some(Waits::Majority { heard: 1, of: 2 }));
    let names = [name(&world, 1), name(&world, 3)];
    world.operator_acts(3, "keep", &[&names[0], &names[1]]);
    world.run_for(Millis(500)).unwrap();
    world.start(2);
    world.run_for(Millis(4_000)).unwrap();
    assert!(world.agrees_on(&[1, 2, 3]) && world.serves_everything(), "both were kept");
    remove(&mut world, 3, &[1]);
    until(&mut world, "now it goes", |w| w.agrees_on(&[2, 3]) && w.serves_everything());
}

#[test]
fn several_leave_one_after_the_other_dead_ones_too() {
    let mut world = at_work(4, 1, 9);
    world.power_off(4);
    world.power_off(5);
    world.run_for(Millis(2_000)).unwrap();
    remove(&mut world, 1, &[4, 5, 2]);
    until(&mut world, "two are left", |w| w.agrees_on(&[1, 3]) && w.is_removed(2));
    assert!(world.serves_everything());
    // No member would be left.
    remove(&mut world, 1, &[1, 3]);
    world.run_for(Millis(1_000)).unwrap();
    assert_eq!((world.removal_waits(1, 1), world.removal_waits(1, 3)), (None, None));
    remove(&mut world, 1, &[1]);
    until(&mut world, "one is left", |w| w.agrees_on(&[3]) && w.is_removed(1));
    until(&mut world, "and serves", World::serves_everything);
}

/// A machine joins for each that leaves, as a new member.
#[test]
fn all_machines_of_a_cluster_are_replaced() {
    let mut scenario = Scenario::sized(2, 1, 2, 1);
    let new = "[nodes]\nlb5 = \"10.9.0.5\"\nlb6 = \"10.9.0.6\"\nlb7 = \"10.9.0.7\"\n";
    scenario.text = scenario.text.replace("[nodes]\n", new);
    let mut world = World::of(scenario, 3, Sabotage::None);
    world.start_all();
    world.run_for(Millis(3_000)).unwrap();
    let mut members = vec![1, 2, 3];
    for new in [5, 6, 7] {
        let by = members[0];
        world.join(new, by);
        world.start(new);
        members.push(new);
        until(&mut world, "it joined", |w| w.agrees_on(&members));
        let leaves = members.remove(0);
        remove(&mut world, members[0], &[leaves]);
        until(&mut world, "it left", |w| w.agrees_on(&members) && w.is_removed(leaves));
    }
    assert!(world.serves_everything() && (1..=3).all(|id| !world.holds(id)));
    assert!(world.leader().is_some_and(|id| members.contains(&id)));
}

/// One sleeps while the machines around it are replaced: nobody is left whom its log names.
#[test]
fn a_member_that_slept_finds_a_cluster_of_others() {
    for moved in [false, true] {
        let mut world = at_work(2, 1, 4);
        world.power_off(3);
        world.run_for(Millis(1_000)).unwrap();
        for (new, by) in [(5, 1), (6, 5)] {
            world.join(new, by);
            world.start(new);
            until(&mut world, "it joined", |w| w.members().contains(&new) && w.votes(new));
        }
        let names = [name(&world, 1), name(&world, 2)];
        let others = world.scenario.text.replace(&names[0], "lb5").replace(&names[1], "lb6");
        world.operator_asks(5, World::whole_config(others));
        world.operator_acts(5, "remove", &[&names[0], &names[1]]);
        until(&mut world, "two left", |w| w.is_removed(1) && w.is_removed(2));
        world.kill(1);
        world.kill(2);
        if moved {
            world.move_disk(3);
        } else {
            world.start(3);
        }
        // A moved one is confirmed when no other has been heard for 10 s.
        world.run_for(Millis(15_000)).unwrap();
        until(&mut world, "it is back", |w| w.agrees_on(&[3, 5, 6]));
    }
}

/// Whoever leads dies a moment after the removal is committed, with what its disk has not got yet:
/// the vote of the member that left may be needed once more.
#[test]
fn a_leader_that_dies_right_after_a_removal_loses_nobody() {
    for (nodes, ms) in [2, 3].into_iter().flat_map(|n| (0..40).map(move |ms| (n, ms))) {
        let mut world = at_work(nodes, 0, ms);
        world.slow_disk_ns = 20_000_000;
        let all: Vec<u64> = (1..=u64::from(nodes)).collect();
        let leaves = 1 + ms % u64::from(nodes);
        let rest: Vec<u64> = all.iter().copied().filter(|id| *id != leaves).collect();
        remove(&mut world, rest[0], &[leaves]);
        for _ in 0..10_000 {
            if rest.iter().any(|id| !world.knows(*id, leaves)) {
                break;
            }
            world.run_for(Millis(1)).unwrap();
        }
        world.run_for(Millis(ms / 2)).unwrap();
        let leader = world.leader().unwrap_or(rest[0]);
        world.power_off(leader);
        world.run_for(Millis(ms * 10)).unwrap();
        world.slow_disk_ns = 0;
        world.start_all();
        until(&mut world, "it left", |w| w.agrees_on(&rest) && w.is_removed(leaves));
        until(&mut world, "VIPs", |w| w.serves_everything() && !w.holds(leaves));
    }
}

/// Members leave and are kept, machines join, and everything else goes wrong meanwhile.
#[test]
fn no_invariant_breaks_while_members_leave_and_join_under_faults() {
    let seeds = std::env::var("NINES_SIM_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(60);
    let mut left = 0;
    for seed in 0..seeds / 2 {
        let scenario = Scenario::sized(3, 2, 2, 1);
        let mut world = World::of(scenario, 1_000 + seed, Sabotage::None);
        world.start_all();
        world.run_for(Millis(2_000)).unwrap();
        let mut new = 7;
        for _ in 0..40 {
            faults::next(&mut world);
            let (by, member) = (world.draw_founder(), world.draw_founder());
            match world.random.below(8) {
                0 => remove(&mut world, by, &[member]),
                1 => {
                    let name = name(&world, member);
                    world.operator_acts(by, "keep", &[&name]);
                }
                2 if new < 9 && world.leader() == Some(by) => {
                    world.join(new, by);
                    world.start(new);
                    new += 1;
                }
                _ => {}
            }
            let pause = 20 + world.random.below(400);
            world.run_for(Millis(pause)).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        }
        faults::end_all(&mut world);
        // A machine that a copy of was heard is confirmed when no other has been heard for 10 s.
        world.run_for(Millis(30_000)).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        let members = world.members();
        // Nobody had heard of these when they asked to be let in.
        (7..new).filter(|id| !members.contains(id)).for_each(|id| world.kill(id));
        if !world.agrees_on(&members) {
            world.describe();
            panic!("seed {seed}: {members:?}");
        }
        let gone = (1..=5).filter(|id| !members.contains(id));
        for id in gone {
            left += 1;
            assert!(world.is_removed(id) && !world.holds(id), "seed {seed}: {id}");
        }
    }
    assert!(left > seeds / 4, "hardly any left: {left}");
}
