//! What goes wrong next, by the world's own random numbers.

use nines_model::Millis;

use crate::world::World;

/// Draws one fault, or ends some.
pub fn next(world: &mut World) {
    if world.copies_machines {
        match world.random.below(8) {
            0 => world.copy_somebody(),
            1 => world.remove_copy(),
            _ if world.copy_is_old() => world.remove_copy(),
            _ => {}
        }
    }
    let node = 1 + world.random.below(3);
    let other = 1 + world.random.below(3);
    let faults = if world.changes_config { 16 } else { 14 };
    match world.random.below(faults) {
        0 => world.kill(node),
        1 => world.power_off(node),
        2 | 3 => {
            let ms = 10 + world.random.below(3_000);
            world.pause(node, Millis(ms));
        }
        4 => world.cut(node, other, true),
        5 => world.cut(node, other, false),
        6 => {
            for peer in 1..=3 {
                world.cut(node, peer, true);
            }
        }
        7 => world.loss_permille = world.random.below(300),
        8 => world.slow_disk_ns = world.random.below(200_000_000),
        9 => world.operator_moves(),
        10 => world.planned_restart(node),
        14 => world.operator_changes(false),
        15 => world.operator_changes(true),
        _ => {
            // Ends come as often as faults, so that the cluster also works in between.
            world.mend_all_links();
            world.loss_permille = 0;
            world.slow_disk_ns = 0;
            world.start(node);
            world.start(other);
        }
    }
}

/// Ends all faults.
pub fn end_all(world: &mut World) {
    world.mend_all_links();
    world.remove_copy();
    world.loss_permille = 0;
    world.slow_disk_ns = 0;
    world.start_all();
    world.resume_all();
}
