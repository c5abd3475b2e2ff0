//! Clusters of other sizes, with several cards, other disks, and operators with a script.

use nines_core::wire::{Act, command::Kind};
use nines_model::Millis;
use nines_sim::{Outcome, Sabotage, Scenario, World, run_scenario, run_world, scenario::Disk};

/// So many seeds, or as many as the environment says for all tests.
fn seeds(few: u64) -> u64 {
    let all = std::env::var("NINES_SIM_SEEDS").ok().and_then(|n| n.parse::<u64>().ok());
    all.map_or(few, |all| (few * all / 60).max(1))
}

/// No seed breaks an invariant, and all heal. Returns how often a VIP changed its holder.
fn survive(count: u64, scenario: impl Fn(u64) -> Scenario) -> u64 {
    let one = |seed| {
        let Outcome { violation, healed, moves, .. } = run_scenario(scenario(seed), seed);
        assert_eq!((violation, healed), (None, true), "seed {seed}");
        moves
    };
    (0..seeds(count)).map(one).sum()
}

#[test]
fn a_node_alone_goes_on_alone() {
    survive(5, |_| Scenario::sized(1, 0, 2, 1));
}

#[test]
fn two_directors_without_a_witness_are_safe_and_heal() {
    let moves = survive(12, |_| Scenario::sized(2, 0, 2, 1));
    assert!(moves > 6, "hardly any VIP moved: {moves}");
}

#[test]
fn three_directors_and_two_witnesses_are_safe_and_heal() {
    let moves = survive(10, |_| Scenario::sized(3, 2, 4, 1));
    assert!(moves > 10, "hardly any VIP moved: {moves}");
}

#[test]
fn five_directors_with_many_vips_are_safe_and_heal() {
    let moves = survive(5, |_| Scenario::sized(5, 0, 12, 1));
    assert!(moves > 20, "hardly any VIP moved: {moves}");
}

#[test]
fn two_cards_are_safe_and_heal() {
    let moves = survive(12, |_| Scenario::sized(2, 1, 2, 2));
    assert!(moves > 6, "hardly any VIP moved: {moves}");
}

#[test]
fn three_cards_of_five_nodes_are_safe_and_heal() {
    survive(4, |_| Scenario::sized(3, 2, 3, 3));
}

#[test]
fn thirty_nodes_are_safe_and_heal() {
    let short = |_| Scenario { length: Millis(4_000), ..Scenario::sized(28, 2, 6, 1) };
    survive(1, short);
}

#[test]
fn a_slow_disk_of_one_node_and_copies_of_machines_are_safe_and_heal() {
    survive(10, |seed| {
        let mut scenario = Scenario::sized(3, 0, 2, 1);
        scenario.copies_machines = seed % 2 == 1;
        let slow = Disk { write_ns_min: 30_000_000, write_ns_spread: 90_000_000 };
        scenario.disks.insert("lb2".into(), slow);
        scenario
    });
}

/// The invariants see as much in a larger cluster as in one of three.
#[test]
fn a_kernel_without_guard_is_noticed_among_five() {
    let one = |seed| {
        let world = World::of(Scenario::sized(3, 2, 2, 1), seed, Sabotage::GuardIgnored);
        run_world(world, Millis(20_000)).violation
    };
    let found: Vec<String> = (0..10).filter_map(one).collect();
    let answers = |v: &String| ["S11", "S12", "S22"].iter().any(|name| v.contains(name));
    assert!(found.iter().any(answers), "{found:?}");
}

/// A card that fails moves no VIP while the machine has another; without one its VIPs go.
#[test]
fn one_of_two_cards_is_enough() {
    for seed in 0..4 {
        let mut world = World::of(Scenario::sized(2, 1, 2, 2), seed, Sabotage::None);
        world.start_all();
        world.run_for(Millis(3_000)).unwrap();
        assert!(world.serves_everything(), "seed {seed}");
        let before = world.moves();
        world.fail_card(1, seed as usize % 2);
        world.fail_card(2, (seed as usize + 1) % 2);
        world.run_for(Millis(1_000)).unwrap();
        assert!(!world.holds(3), "seed {seed}: a witness holds nothing");
        world.mend_all_links();
        world.run_for(Millis(1_000)).unwrap();
        world.fail_card(1, 0);
        world.run_for(Millis(10_000)).unwrap();
        assert_eq!(world.moves(), before, "seed {seed}");
        assert!(world.serves_everything() && world.holds(1), "seed {seed}");
        world.fail_card(1, 1);
        world.run_for(Millis(3_000)).unwrap();
        assert!(world.serves_everything() && !world.holds(1), "seed {seed}");
    }
}

/// Operators set one director aside, and later take it back: it holds nothing in between.
#[test]
fn operators_follow_their_script() {
    let act = |verb: &str| {
        Kind::Act(Act { verb: verb.into(), subjects: vec!["lb1".into()], ..Act::default() })
    };
    let mut scenario = Scenario::sized(2, 1, 2, 1);
    scenario.faults.clear();
    scenario.commands = vec![(Millis(1_000), 3, act("standby"))];
    let mut world = World::of(scenario, 1, Sabotage::None);
    world.start_all();
    world.run_for(Millis(3_000)).unwrap();
    assert!(world.holds(1) && world.serves_everything());
    world.operators_follow(Millis(999));
    world.run_for(Millis(1_000)).unwrap();
    assert!(world.holds(1));
    world.operators_follow(Millis(1_000));
    world.run_for(Millis(1_000)).unwrap();
    assert!(!world.holds(1) && world.serves_everything());
}
