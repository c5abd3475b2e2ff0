//! What goes wrong in a run, and when: a plan that its seed draws before the world begins.
//!
//! Decides: what each kind of fault does to the world. Which kinds there are says the scenario. A
//! plan is a list, so that parts of it can be left out (`shrink.rs`): the rest of it stays as it
//! is, whatever the world does.

use nines_model::Millis;

use crate::{
    Scenario,
    random::Random,
    scenario::{Fault, Planned},
    world::World,
};

/// Random numbers of a plan are others than those of its world.
const PLANS: u64 = 0x005e_ed0f_fa17;

fn draw(random: &mut Random, scenario: &Scenario, at: Millis, fault: Fault) -> Planned {
    let nodes = scenario.nodes.len() as u64;
    let (node, other) = (1 + random.below(nodes), 1 + random.below(nodes));
    Planned { at, fault, node: scenario.victim.unwrap_or(node), other, seed: random.draw() }
}

fn draw_all(random: &mut Random, scenario: &Scenario, at: Millis) -> Vec<Planned> {
    let mut drawn = Vec::new();
    if scenario.copies_machines {
        let copy = [Fault::Copy, Fault::EndCopy].get(random.below(8) as usize).copied();
        drawn.extend(copy.map(|fault| draw(random, scenario, at, fault)));
    }
    if !scenario.faults.is_empty() {
        let fault = scenario.faults[random.below(scenario.faults.len() as u64) as usize];
        drawn.push(draw(random, scenario, at, fault));
    }
    drawn
}

/// What goes wrong in the safety phase of this seed, in order.
pub fn plan(scenario: &Scenario, seed: u64, length: Millis) -> Vec<Planned> {
    let mut random = Random::new(seed ^ PLANS);
    let mut plan = Vec::new();
    let mut at = Millis(0);
    while at < length {
        plan.extend(draw_all(&mut random, scenario, at));
        at = Millis(at.0 + 20 + random.below(600));
    }
    plan
}

/// Something goes wrong at once, by the world's own random numbers.
pub fn next(world: &mut World) {
    let mut random = Random::new(world.random.draw());
    let drawn = draw_all(&mut random, &world.scenario, Millis(0));
    drawn.iter().for_each(|planned| happen(world, planned));
}

/// One fault of a plan happens, or the end of some; who wants to be told is told.
pub fn happen(world: &mut World, planned: &Planned) {
    world.is_disturbed();
    world.tell_fault(planned);
    apply(world, planned);
}

fn apply(world: &mut World, planned: &Planned) {
    let Planned { fault, node, other, seed, .. } = *planned;
    let mut random = Random::new(seed);
    world.drawn.count(fault);
    match fault {
        Fault::Kill => world.kill(node),
        Fault::PowerOff => world.power_off(node),
        Fault::Pause => world.pause(node, Millis(10 + random.below(3_000))),
        Fault::FullDisk => world.fill_disk(node, true),
        Fault::DiskFails => world.fail_disk(node, true),
        Fault::SlowDisks => world.slow_disk_ns = random.below(200_000_000),
        Fault::SlowDisk => world.slow_disk(node, random.below(400_000_000)),
        Fault::Copy => world.copy_somebody(),
        Fault::EndCopy => world.remove_copy(),
        Fault::DeviceFails => world.some_device_fails(),
        Fault::ClockRate => world.set_clock_rate(node, 998_000 + random.below(4_001)),
        Fault::WallClock => world.jump_wall_clock(node, random.draw() as i64 >> 4),
        Fault::MoveRequest => world.operator_moves(),
        Fault::PlannedRestart => world.planned_restart(node),
        Fault::TakeOut => world.operator_changes(false),
        Fault::PutBack => world.operator_changes(true),
        Fault::OtherTiming => world.operator_changes_timing(seed),
        Fault::Join => world.somebody_joins(node),
        Fault::Remove => world.operator_removes(node, seed),
        Fault::Stranger => world.stranger_sends(node, &mut random),
        Fault::End => {
            world.all_devices_work();
            world.all_disks_work();
            world.mend_all_links();
            world.loss_permille = 0;
            world.slow_disk_ns = 0;
            world.start(node);
            // Where only one fails, the others never stop.
            world.start(other);
        }
        _ => on_links(world, planned, &mut random),
    }
}

/// What goes wrong between machines.
fn on_links(world: &mut World, planned: &Planned, random: &mut Random) {
    let Planned { fault, node, other, .. } = *planned;
    let card = random.below(world.scenario.cards as u64) as usize;
    match fault {
        Fault::CutBoth => world.cut(node, other, true),
        Fault::CutOne => world.cut(node, other, false),
        Fault::Isolate => {
            for peer in world.founders() {
                world.cut(node, peer, true);
            }
        }
        Fault::CardFails => world.fail_card(node, card),
        Fault::NetworkFails => {
            world.founders().for_each(|node| world.fail_card(node, card));
        }
        Fault::Loss => world.loss_permille = random.below(300),
        Fault::LinkLoss => world.lose_on_link((node, other, card), random.below(900)),
        Fault::Flap => {
            let (every, length) = (20 + random.below(900), 500 + random.below(5_000));
            world.flap((node, other, card), Millis(every), Millis(length));
        }
        other => unreachable!("{other} is none of links"),
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
    world.heals();
}

/// Most machines fail in one way or another, and nobody mends them.
pub fn most_fail(world: &mut World) {
    let mut random = Random::new(world.random.draw());
    let nodes = world.scenario.nodes.len() as u64;
    let first = 1 + random.below(nodes);
    world.scenario.victim = None;
    // Half of them are enough to take the majority away.
    let count = nodes.div_ceil(2).max(1);
    let way = random.below(6);
    for n in 0..count {
        let id = 1 + (first - 1 + n) % nodes;
        match way {
            0 => world.power_off(id),
            1 => world.kill(id),
            2 => world.fill_disk(id, true),
            3 => world.fail_disk(id, true),
            4 => world.founders().for_each(|peer| world.cut(id, peer, true)),
            _ => world.pause(id, Millis(60_000)),
        }
    }
    world.is_disturbed();
}
