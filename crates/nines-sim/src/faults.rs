//! What goes wrong next, by the world's own random numbers.

use nines_model::Millis;

use crate::world::World;

/// One kind of fault, or the end of some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process of a node is killed.
    Kill,
    /// A machine loses its power.
    PowerOff,
    /// A process stands still for up to 3 s.
    Pause,
    /// Two machines hear each other no more.
    CutBoth,
    /// One machine does not hear another.
    CutOne,
    /// A machine hears nobody and is heard by nobody.
    Isolate,
    /// One card of a machine fails.
    CardFails,
    /// The switch between all cards of one network fails.
    NetworkFails,
    /// Up to 30 % of all messages are lost.
    Loss,
    /// Disks take up to 200 ms more for a write.
    SlowDisks,
    /// Somebody wants a VIP elsewhere.
    MoveRequest,
    /// A process asks for a long lease and is replaced.
    PlannedRestart,
    /// Somebody takes a part out of the config.
    TakeOut,
    /// Somebody puts the whole config back.
    PutBack,
    /// All links, cards and disks work again, and up to two nodes start. Ends come as often as
    /// faults, so that the cluster also works in between.
    End,
}

impl Fault {
    /// What happens in every world, and with operators that change the config.
    pub fn mix(changes_config: bool) -> Vec<Self> {
        use Fault::{
            CutBoth, CutOne, End, Isolate, Kill, Loss, MoveRequest, Pause, PlannedRestart,
            PowerOff, PutBack, SlowDisks, TakeOut,
        };
        // The order is part of what a seed means.
        let mut mix = vec![
            Kill,
            PowerOff,
            Pause,
            Pause,
            CutBoth,
            CutOne,
            Isolate,
            Loss,
            SlowDisks,
            MoveRequest,
            PlannedRestart,
            End,
            End,
            End,
        ];
        if changes_config {
            mix.extend([TakeOut, PutBack]);
        }
        mix
    }

    /// What happens besides where machines have several cards.
    pub fn of_cards() -> [Self; 4] {
        [Self::CardFails, Self::CardFails, Self::CardFails, Self::NetworkFails]
    }
}

/// Draws one fault, or ends some.
pub fn next(world: &mut World) {
    if world.scenario.copies_machines {
        match world.random.below(8) {
            0 => world.copy_somebody(),
            1 => world.remove_copy(),
            _ if world.copy_is_old() => world.remove_copy(),
            _ => {}
        }
    }
    if world.scenario.faults.is_empty() {
        return;
    }
    let node = world.draw_founder();
    let other = world.draw_founder();
    let drawn = world.random.below(world.scenario.faults.len() as u64);
    match world.scenario.faults[drawn as usize] {
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
        Fault::MoveRequest => world.operator_moves(),
        Fault::PlannedRestart => world.planned_restart(node),
        Fault::TakeOut => world.operator_changes(false),
        Fault::PutBack => world.operator_changes(true),
        Fault::End => {
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
