//! What must come about, and by when. One file each; each has a test that shows it can fail.
//!
//! Most of them are about the time after all faults have ended. They look at the world every
//! [`EACH`].

use nines_model::Millis;

use crate::observation::Observation;

pub mod l01_one_leads;
pub mod l03_calm;
pub mod l04_others_go_on;
pub mod l05_all_take_part;
pub mod l07_fence_ends;
pub mod l09_upgrade_moves_nothing;
pub mod l10_witness_is_back;
pub mod l11_room_is_used;
pub mod l12_says_why;

/// Between two looks.
pub const EACH: Millis = Millis(20);

/// One of them.
pub trait Goal {
    /// Its number and what it is about; no two have the same.
    fn name(&self) -> &'static str;

    /// An error names it and tells what has not come about.
    fn check(&mut self, seen: &Observation) -> Result<(), String>;
}

/// All of them.
pub fn all() -> Vec<Box<dyn Goal>> {
    vec![
        Box::<l01_one_leads::OneLeads>::default(),
        Box::<l03_calm::Calm>::default(),
        Box::<l04_others_go_on::OthersGoOn>::default(),
        Box::new(l05_all_take_part::AllTakePart),
        Box::<l07_fence_ends::FenceEnds>::default(),
        Box::<l09_upgrade_moves_nothing::UpgradeMovesNothing>::default(),
        Box::new(l10_witness_is_back::WitnessIsBack),
        Box::new(l11_room_is_used::RoomIsUsed),
        Box::<l12_says_why::SaysWhy>::default(),
    ]
}
