//! Machines that join a cluster whose state fits no datagram.

use nines_model::Millis;
use nines_sim::{Sabotage, World};

fn until(world: &mut World, what: &str, seconds: u64, done: impl Fn(&World) -> bool) {
    for _ in 0..seconds * 10 {
        world.run_for(Millis(100)).unwrap();
        if done(world) {
            return;
        }
    }
    world.describe();
    panic!("{what}: not within {seconds} s");
}

fn large(seed: u64, bytes: usize, events: usize) -> World {
    let mut world = World::new(seed, Sabotage::None);
    world.start_all();
    world.run_for(Millis(2_000)).unwrap();
    world.grow(bytes, events);
    world.run_for(Millis(1_000)).unwrap();
    world
}

#[test]
fn a_machine_joins_a_cluster_with_a_megabyte_of_config_and_ten_thousand_events() {
    let mut world = large(1, 1_000_000, 10_000);
    world.join(5, 2);
    world.start(5);
    until(&mut world, "four voters", 10, |w| w.agrees_on(&[1, 2, 3, 5]));
}

#[test]
fn it_joins_by_any_member_and_is_started_whenever() {
    for by in 1..=3 {
        for later in [0, 50, 3_000] {
            let mut world = large(by, 20_000, 100);
            world.join(5, by);
            world.run_for(Millis(later)).unwrap();
            world.start(5);
            until(&mut world, "four voters", 10, |w| w.agrees_on(&[1, 2, 3, 5]));
        }
    }
}

#[test]
fn two_join_at_once_by_different_members() {
    for (first, second) in [(1, 1), (1, 2), (2, 3), (3, 1)] {
        let mut world = large(7, 20_000, 100);
        world.join(5, first);
        world.start(5);
        for _ in 0..10_000 {
            if world.knows(second, 5) {
                break;
            }
            world.run_for(Millis(1)).unwrap();
        }
        world.join(6, second);
        world.start(6);
        until(&mut world, "five voters", 10, |w| w.agrees_on(&[1, 2, 3, 5, 6]));
    }
}

#[test]
fn kills_and_lost_frames_on_the_way_only_delay_it() {
    for seed in 0..6 {
        let mut world = large(seed, 20_000, 100);
        world.bulk_loss_permille = 300;
        world.join(5, 1 + seed % 3);
        world.start(5);
        for _ in 0..4 {
            let pause = 20 + world.random.below(400);
            world.run_for(Millis(pause)).unwrap();
            world.kill(5);
            world.run_for(Millis(pause / 2)).unwrap();
            world.start(5);
            let member = 1 + world.random.below(3);
            world.kill(member);
            world.run_for(Millis(pause)).unwrap();
            world.start(member);
        }
        world.bulk_loss_permille = 0;
        until(&mut world, "four voters", 10, |w| w.agrees_on(&[1, 2, 3, 5]));
    }
}

/// The third of the founders sleeps while two machines join, and one of these leads when it wakes:
/// its log names neither.
#[test]
fn a_member_that_slept_is_led_by_one_it_never_heard_of() {
    let mut world = large(3, 20_000, 100);
    world.kill(3);
    world.run_for(Millis(1_000)).unwrap();
    world.join(5, 1);
    world.start(5);
    until(&mut world, "four voters", 10, |w| w.agrees_on(&[1, 2, 3, 5]));
    world.join(6, 1);
    world.start(6);
    until(&mut world, "five voters", 10, |w| w.agrees_on(&[1, 2, 3, 5, 6]));
    world.kill(1);
    until(&mut world, "a newcomer leads", 60, |w| matches!(w.leader(), Some(5 | 6)));
    world.start(3);
    until(&mut world, "the sleeper has the log", 10, |w| w.agrees_on(&[1, 2, 3, 5, 6]));
}

/// A machine asked to be let in and never began: its member is no voter, so the cluster counts
/// without it, and it is taken back though nobody ever heard it.
#[test]
fn a_join_that_was_broken_off_counts_for_nothing_and_can_be_taken_back() {
    for by in 1..=3 {
        let mut world = large(by, 20_000, 100);
        world.join(5, by);
        until(&mut world, "the member is in the log", 5, |w| w.members().contains(&5));
        let silent = 1 + by % 3;
        world.kill(silent);
        world.run_for(Millis(3_000)).unwrap();
        let rest: Vec<u64> = (1..=3).filter(|id| *id != silent).collect();
        until(&mut world, "two of three decide", 10, |w| w.agrees_on(&[1, 2, 3]));
        let name = world.name(5);
        world.operator_acts(rest[0], "remove", &[&name]);
        until(&mut world, "it was taken back", 2, |w| !w.members().contains(&5));
        // Its number is not given again.
        world.join(6, rest[1]);
        world.start(6);
        world.start(silent);
        until(&mut world, "four voters", 20, |w| w.agrees_on(&[1, 2, 3, 6]));
    }
}

/// The answer to a whole state is lost once, for its link breaks as it comes. The leader would wait
/// for it for a minute, and the node for its vote.
#[test]
fn a_state_whose_answer_is_lost_is_not_waited_for() {
    for seed in 1..=5 {
        let mut world = large(seed, 20_000, 100);
        world.join(5, 2);
        world.start(5);
        for _ in 0..5_000 {
            world.run_for(Millis(1)).unwrap();
            if world.knows(5, 5) {
                break;
            }
        }
        assert!(world.knows(5, 5), "seed {seed}: it has the state");
        (1..=3).for_each(|id| world.cut(5, id, false));
        world.run_for(Millis(300)).unwrap();
        (1..=3).for_each(|id| world.mend(5, id));
        until(&mut world, "four voters", 10, |w| w.agrees_on(&[1, 2, 3, 5]));
    }
}
