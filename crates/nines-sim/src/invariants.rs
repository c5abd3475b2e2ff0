//! What must be true at every instant. One file each; each has a test that shows it can fail.

use crate::observation::Observation;

pub mod s01_one_leader;
pub mod s02_same_state;
pub mod s03_nothing_goes_back;
pub mod s08_no_minority_start;
pub mod s11_exclusive;
pub mod s13_newest_token;
pub mod s20_off_is_off;
pub mod s22_silent_by_itself;
pub mod s29_witness_carries_nothing;
pub mod s30_deaf_is_quiet;
pub mod s31_fed_holds_nothing;

/// One of them.
pub trait Invariant {
    /// Its number and what it is about; no two have the same.
    fn name(&self) -> &'static str;

    /// An error names it and tells what is wrong.
    fn check(&mut self, seen: &Observation) -> Result<(), String>;
}

/// All of them.
pub fn all() -> Vec<Box<dyn Invariant>> {
    vec![
        Box::<s01_one_leader::OneLeader>::default(),
        Box::<s02_same_state::SameState>::default(),
        Box::<s03_nothing_goes_back::NothingGoesBack>::default(),
        Box::<s08_no_minority_start::NoMinorityStart>::default(),
        Box::new(s11_exclusive::Exclusive),
        Box::<s13_newest_token::NewestToken>::default(),
        Box::new(s20_off_is_off::OffIsOff),
        Box::new(s22_silent_by_itself::SilentByItself),
        Box::new(s29_witness_carries_nothing::WitnessCarriesNothing),
        Box::<s30_deaf_is_quiet::DeafIsQuiet>::default(),
        Box::new(s31_fed_holds_nothing::FedHoldsNothing),
    ]
}
