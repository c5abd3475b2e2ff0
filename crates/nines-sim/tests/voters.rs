//! Clusters with more nodes than voters: the others get the log, carry VIPs, and vote when a vote
//! is free.

use nines_core::wire::{Give, command::Kind, pack};
use nines_model::Millis;
use nines_sim::{Sabotage, Scenario, World, run_scenario};

/// A world of so many directors and a witness, without faults, in which everything is served.
fn world(directors: u8) -> World {
    let mut scenario = Scenario::sized(directors, 1, 3, 1);
    scenario.faults.clear();
    started(scenario)
}

fn started(scenario: Scenario) -> World {
    let mut world = World::of(scenario, 1, Sabotage::None);
    world.start_all();
    run(&mut world, 4_000);
    assert!(world.serves_everything());
    world
}

fn run(world: &mut World, ms: u64) {
    world.run_for(Millis(ms)).unwrap();
}

/// Somebody wants the first VIP on this node.
fn wish(world: &mut World, to: &str) {
    let vip = pack("10.0.1.1".parse().unwrap());
    world.operator_asks(1, Kind::MoveRequest(Give { vip, to: to.into(), ..Give::default() }));
}

#[test]
fn of_nine_nodes_seven_vote_and_the_others_carry() {
    let mut world = world(8);
    assert!(world.agrees_on(&[1, 2, 3, 4, 5, 6, 7]));
    wish(&mut world, "lb8");
    run(&mut world, 2_000);
    assert!(world.holds(8) && world.serves_everything(), "it has no vote and holds a VIP");
    // Its agent ends, and another director takes over; it comes back, and is none of the voters.
    world.kill(8);
    run(&mut world, 2_000);
    assert!(!world.holds(8) && world.serves_everything());
    world.start(8);
    run(&mut world, 2_000);
    wish(&mut world, "lb8");
    run(&mut world, 2_000);
    assert!(world.holds(8) && world.agrees_on(&[1, 2, 3, 4, 5, 6, 7]));
    // What it holds goes on when three of the seven voters are gone, and ends with the fourth.
    [1, 2, 3].into_iter().for_each(|id| world.kill(id));
    run(&mut world, 3_000);
    assert!(world.holds(8) && world.serves_everything());
    world.kill(4);
    run(&mut world, 3_000);
    assert!(!world.holds(8) && !world.serves_everything());
    world.start_all();
    run(&mut world, 5_000);
    assert!(world.serves_everything());
}

#[test]
fn a_vote_that_is_free_goes_to_one_that_has_the_log() {
    let mut world = world(8);
    wish(&mut world, "lb8");
    run(&mut world, 2_000);
    assert!(world.holds(8));
    world.operator_acts(1, "remove", &["lb7"]);
    for _ in 0..500 {
        run(&mut world, 10);
        assert!(world.holds(8), "what it holds stays there while it gets its vote");
    }
    assert!(world.is_removed(7));
    assert!(world.agrees_on(&[1, 2, 3, 4, 5, 6, 8]), "lb8 votes now");
    world.operator_acts(1, "remove", &["lb6"]);
    run(&mut world, 5_000);
    assert!(world.agrees_on(&[1, 2, 3, 4, 5, 8, 9]), "and the witness");
    assert!(world.serves_everything());
}

#[test]
fn a_voter_that_is_dead_for_long_gives_its_vote_to_another() {
    let mut scenario = Scenario::sized(8, 0, 2, 1);
    scenario.faults.clear();
    // Fewer heartbeats make the day shorter.
    scenario.text.push_str("[timing]\nbeat = \"200ms\"\nlease = \"1200ms\"\nelection = \"2s\"\n");
    let mut world = World::of(scenario, 1, Sabotage::None);
    world.start_all();
    run(&mut world, 20_000);
    world.kill(3);
    run(&mut world, 590_000);
    assert!(world.votes(1) && !world.votes(8), "not yet");
    run(&mut world, 40_000);
    assert!(world.agrees_on(&[1, 2, 4, 5, 6, 7, 8]));
    world.start(3);
    run(&mut world, 20_000);
    assert!(world.agrees_on(&[1, 2, 4, 5, 6, 7, 8]), "it finds its vote given away");
    assert!(world.serves_everything());
}

/// No seed breaks an invariant, and all heal.
fn survive(directors: u8, length: Millis, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let scenario = Scenario { length, ..Scenario::sized(directors, 1, 4, 1) };
        let outcome = run_scenario(scenario, seed);
        assert_eq!((outcome.violation, outcome.healed), (None, true), "seed {seed}");
    }
}

#[test]
fn nine_nodes_are_safe_and_heal() {
    survive(8, Millis(8_000), 0..3);
}

#[test]
fn sixteen_nodes_are_safe_and_heal() {
    survive(15, Millis(4_000), 0..1);
}

#[test]
fn thirty_two_nodes_are_safe_and_heal() {
    survive(31, Millis(2_000), 0..1);
}
