//! What must be true at every instant. One file each; each has a test that shows it can fail.

use crate::observation::Observation;

pub mod s01_one_leader;
pub mod s02_same_state;
pub mod s03_nothing_goes_back;
pub mod s04_no_stale_leader;
pub mod s05_votes_of_members;
pub mod s06_one_life_counts;
pub mod s08_no_minority_start;
pub mod s09_witness_votes_once;
pub mod s10_witness_alone;
pub mod s11_exclusive;
pub mod s12_evidence_first;
pub mod s13_newest_token;
pub mod s17_order_before_fence;
pub mod s18_no_fence_loop;
pub mod s19_one_survives;
pub mod s20_off_is_off;
pub mod s21_word_ends_when_heard;
pub mod s22_silent_by_itself;
pub mod s25_acked_is_there;
pub mod s26_silent_after_failure;
pub mod s27_nothing_misread;
pub mod s28_strangers_change_nothing;
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
        Box::<s04_no_stale_leader::NoStaleLeader>::default(),
        Box::<s05_votes_of_members::VotesOfMembers>::default(),
        Box::<s06_one_life_counts::OneLifeCounts>::default(),
        Box::<s08_no_minority_start::NoMinorityStart>::default(),
        Box::<s09_witness_votes_once::WitnessVotesOnce>::default(),
        Box::<s10_witness_alone::WitnessAlone>::default(),
        Box::new(s11_exclusive::Exclusive),
        Box::<s12_evidence_first::EvidenceFirst>::default(),
        Box::<s13_newest_token::NewestToken>::default(),
        Box::<s17_order_before_fence::OrderBeforeFence>::default(),
        Box::<s18_no_fence_loop::NoFenceLoop>::default(),
        Box::<s19_one_survives::OneSurvives>::default(),
        Box::new(s20_off_is_off::OffIsOff),
        Box::new(s21_word_ends_when_heard::WordEndsWhenHeard),
        Box::new(s22_silent_by_itself::SilentByItself),
        Box::<s25_acked_is_there::AckedIsThere>::default(),
        Box::new(s26_silent_after_failure::SilentAfterFailure),
        Box::new(s27_nothing_misread::NothingMisread),
        Box::new(s28_strangers_change_nothing::StrangersChangeNothing),
        Box::new(s29_witness_carries_nothing::WitnessCarriesNothing),
        Box::<s30_deaf_is_quiet::DeafIsQuiet>::default(),
        Box::new(s31_fed_holds_nothing::FedHoldsNothing),
    ]
}
