//! Two nodes of which each went on alone, because a person was wrong about the other one.

use nines_model::Millis;
use nines_sim::{Sabotage, Scenario, Story, World, story::What};

/// By what a person says both are the only voter; when they hear each other neither goes on. What
/// either has decided is lost for the other, which no invariant allows: a person has broken them.
#[test]
fn two_that_both_went_on_alone_stop_when_they_hear_each_other() {
    let mut world = World::of(Scenario::fenced(false), 1, Sabotage::None);
    world.story = Some(Story::default());
    world.start_all();
    world.run_for(Millis(3_000)).unwrap();
    world.cut(1, 2, true);
    world.run_for(Millis(10_000)).unwrap();
    let gone = if world.is_switched_off(1) { 1 } else { 2 };
    let alone = 3 - gone;
    assert!(world.is_switched_off(gone) && world.serves_everything());
    world.kill(alone);
    world.run_for(Millis(1_000)).unwrap();
    world.start(gone);
    world.operator_acts(gone, "confirm-off", &[&world.scenario.nodes[alone as usize - 1].clone()]);
    // The other one may know more, and the person is told so; this goes on by what it has.
    world.ask_no_invariant();
    world.run_for(Millis(5_000)).unwrap();
    assert!(world.serves_everything());
    world.mend_all_links();
    world.start(alone);
    world.run_for(Millis(4_000)).unwrap();
    let story = world.story.as_ref().unwrap();
    for id in [1, 2] {
        let says = |line: &String| line.contains("went on alone as well");
        let told = story
            .told()
            .iter()
            .any(|told| told.by == id && matches!(&told.what, What::Says(line) if says(line)));
        assert!(told, "{id} goes on");
    }
    assert!(!world.serves_everything());
}
