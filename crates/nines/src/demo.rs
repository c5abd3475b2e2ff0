//! placeholder
use clap::Args;
#[derive(Args)] pub struct DemoArgs {}
#[derive(Args)] pub struct PartArgs {}
pub fn run(_: &crate::cli::Context, _: &DemoArgs) -> crate::failure::Outcome<u8> { Ok(0) }
pub fn part(_: &PartArgs) -> crate::failure::Outcome<u8> { Ok(0) }
