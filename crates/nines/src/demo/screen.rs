//! placeholder
use super::stage::Stage;
use crate::failure::Outcome;
pub fn run(_: Stage) -> Outcome<u8> { Ok(0) }
pub fn restore() {}
