//! What goes wrong next, by the world's own random numbers.
//!
//! Decides: what each kind of fault does to the world. Which kinds there are says the scenario.

use nines_model::Millis;

use crate::{scenario::Fault, world::World};

/// Draws one fault, or ends some.
pub fn next(world: &mut World) {
    if world.scenario.copies_machines {
        match world.random.below(8) {
            0 => {
                world.drawn.count(Fault::Copy);
                world.copy_somebody();
            }
            1 => world.remove_copy(),
            _ if world.copy_is_old() => world.remove_copy(),
            _ => {}
        }
    }
    if world.scenario.faults.is_empty() {
        return;
    }
    let (node, other) = (world.draw_founder(), world.draw_founder());
    let drawn = world.random.below(world.scenario.faults.len() as u64);
    let fault = world.scenario.faults[drawn as usize];
    world.drawn.count(fault);
    match fault {
        Fault::Kill => world.kill(node),
        Fault::PowerOff => world.power_off(node),
        Fault::Pause => {
            let ms = 10 + world.random.below(3_000);
            world.pause(node, Millis(ms));
        }
        Fault::CutBoth => world.cut(node, other, true),
        Fault::CutOne => world.cut(node, other, false),
        Fault::Isolate => {
            for peer in world.founders() {
                world.cut(node, peer, true);
            }
        }
        Fault::CardFails => {
            let card = world.draw_card();
            world.fail_card(node, card);
        }
        Fault::NetworkFails => {
            let card = world.draw_card();
            world.founders().for_each(|node| world.fail_card(node, card));
        }
        Fault::Loss => world.loss_permille = world.random.below(300),
        Fault::SlowDisks => world.slow_disk_ns = world.random.below(200_000_000),
        Fault::FullDisk => world.fill_disk(node, true),
        Fault::DiskFails => world.fail_disk(node, true),
        Fault::MoveRequest => world.operator_moves(),
        Fault::PlannedRestart => world.planned_restart(node),
        Fault::TakeOut => world.operator_changes(false),
        Fault::PutBack => world.operator_changes(true),
        Fault::Copy => world.copy_somebody(),
        Fault::DeviceFails => world.some_device_fails(),
        Fault::End => {
            world.all_devices_work();
            world.all_disks_work();
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
    world.all_devices_work();
    world.all_disks_work();
    world.no_device_is_late();
    world.remove_copy();
    world.loss_permille = 0;
    world.slow_disk_ns = 0;
    world.start_all();
    world.resume_all();
}
