//! Lives of nodes: promises outlast the agents that gave them, and copies take no part.

use nines_model::Millis;
use nines_sim::{Sabotage, Scenario, World, run};

use nines_core::wire::{Member, command::Kind};

const LONG: &str = "[timing]\nlease = \"10s\"\n";

/// Lease 10 s, the holder freezes, the lease is shortened, a node joins (which replaces the log by
/// a snapshot), and the other agents restart: what they promised under the long lease still binds.
fn shorten_and_restart(sabotage: Sabotage) -> Result<(), String> {
    let mut scenario = Scenario::of_seed(4);
    scenario.text.push_str(LONG);
    let mut world = World::of(scenario, 4, sabotage);
    world.start_all();
    world.run_for(Millis(13_000))?;
    assert!(world.serves_everything(), "it starts");
    let holder = if world.holds(1) { 1 } else { 2 };
    let others = [3 - holder, 3];
    world.pause(holder, Millis(60_000));
    world.run_for(Millis(1_000))?;
    let text = world.text().replace(LONG, "");
    world.operator_asks(others[0], World::whole_config(text));
    world.run_for(Millis(500))?;
    let joins = Member { id: 9, name: "late".into(), ..Member::default() };
    world.operator_asks(others[0], Kind::Join(joins));
    world.run_for(Millis(500))?;
    for id in others {
        assert!(world.disk(id).iter().all(|e| e.data.is_empty() || e.index > 3));
        world.kill(id);
        world.start(id);
    }
    world.run_for(Millis(7_000))?;
    assert!(world.holds(holder), "the frozen machine still answers");
    world.run_for(Millis(6_000))?;
    assert!(world.holds(others[0]), "its lease has run out");
    Ok(())
}

#[test]
fn a_longer_lease_is_remembered_when_the_log_has_forgotten_it() {
    assert_eq!(shorten_and_restart(Sabotage::None), Ok(()));
    let found = shorten_and_restart(Sabotage::PromisesForgotten).unwrap_err();
    assert!(["S11", "S12", "S13"].iter().any(|name| found.contains(name)), "{found}");
}

fn three() -> World {
    let mut world = World::new(1, Sabotage::None);
    world.start_all();
    world.run_for(Millis(3_000)).unwrap();
    assert!(world.serves_everything());
    world
}

#[test]
fn a_copy_on_the_other_side_of_a_split_holds_nothing() {
    for id in 1..=3 {
        for beside in (1..=3).filter(|b| *b != id) {
            let mut world = three();
            for other in (1..=3).filter(|o| *o != beside) {
                world.cut(beside, other, true);
            }
            let cut_off: Vec<u64> = (1..=3).filter(|o| *o != beside).collect();
            world.copy(id, &cut_off);
            for _ in 0..60 {
                world.run_for(Millis(500)).unwrap();
                assert!(!world.copy_holds(), "copy of {id} beside {beside}");
            }
        }
    }
}

#[test]
fn a_copy_beside_everybody_is_known_to_everybody_and_neither_holds() {
    for id in 1..=2 {
        let mut world = three();
        world.copy(id, &[]);
        world.run_for(Millis(2_000)).unwrap();
        assert!(world.everybody_knows_double(id), "{id}");
        assert!(!world.copy_holds() && !world.holds(id) && world.holds(3 - id));
        world.remove_copy();
        world.run_for(Millis(12_000)).unwrap();
        assert!(world.serves_everything(), "{id} takes part again");
    }
}

/// A disk that has moved to another machine is used after a while, unaided.
#[test]
fn a_moved_disk_takes_part_once_the_others_have_confirmed_it() {
    let mut world = three();
    world.move_disk(1);
    world.run_for(Millis(5_000)).unwrap();
    assert!(!world.holds(1) && world.holds(2));
    world.run_for(Millis(12_000)).unwrap();
    world.power_off(2);
    world.run_for(Millis(3_000)).unwrap();
    assert!(world.holds(1), "its vote counts, and it takes over");
    world.kill(1);
    world.start(1);
    world.run_for(Millis(3_000)).unwrap();
    assert!(world.holds(1), "it is at home there");
}

/// With another node off it waits, and says so; a whole cluster that moves goes on by itself.
#[test]
fn moved_disks_wait_for_everybody_and_confirm_each_other() {
    let mut world = three();
    world.power_off(2);
    world.move_disk(1);
    world.run_for(Millis(30_000)).unwrap();
    assert!(!world.holds(1));
    world.move_disk(2);
    world.move_disk(3);
    world.run_for(Millis(25_000)).unwrap();
    assert!(world.serves_everything());
}

#[test]
fn copies_that_are_not_known_as_such_are_noticed_by_the_invariants() {
    let one = |seed| {
        std::panic::catch_unwind(|| run(seed, Millis(20_000), Sabotage::CopiesUnknown).violation)
            .unwrap_or_else(|_| Some("stopped by an assertion".into()))
    };
    // What a seed shows depends on every message before; some seed shows that both vote, or that
    // two answer at once.
    let mut found = Vec::new();
    let two_answer = (0..150).filter_map(one).any(|violation| {
        let two_answer = ["S6", "S11", "S12"].iter().any(|name| violation.contains(name));
        found.push(violation);
        two_answer
    });
    assert!(two_answer, "{found:?}");
}

/// The directors do not hear each other, and the witness hears both: whoever leads, the holder has
/// a majority, and nothing moves. The leader then is one that hears the holder, so that what people
/// ask for reaches it.
#[test]
fn a_split_does_not_move_a_vip_whose_holder_has_a_majority() {
    for seed in 0..6 {
        let mut world = World::new(seed * 8, Sabotage::None);
        world.start_all();
        world.run_for(Millis(3_000 + seed * 37)).unwrap();
        assert!(world.serves_everything());
        let before = world.moves();
        world.cut(1, 2, true);
        world.run_for(Millis(10_000)).unwrap();
        assert_eq!(world.moves(), before, "seed {seed}");
        assert!(world.serves_everything());
        world.mend_all_links();
        // One director alone: the other, if it holds, goes on as well.
        let alone = if world.holds(1) && !world.holds(2) { 2 } else { 1 };
        if !world.holds(alone) {
            world.cut(alone, 3 - alone, true);
            world.cut(alone, 3, true);
            world.run_for(Millis(5_000)).unwrap();
            world.mend_all_links();
            world.run_for(Millis(5_000)).unwrap();
            assert_eq!(world.moves(), before, "seed {seed}");
        }
    }
}
