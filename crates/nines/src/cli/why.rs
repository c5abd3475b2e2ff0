//! `nines why`

use clap::Args;
use nines_api::{client::percent_encoded, failure::Outcome, types::Why};
use nines_model::admin::is_operator;

use crate::{
    context::Context,
    output::{columns, print_json},
};

/// Tell why a service, VIP, node or server is where and as it is.
#[derive(Args)]
pub struct WhyArgs {
    /// A service, VIP, node or real server.
    subject: String,
}

/// Runs `nines why`.
pub fn run(context: &Context, args: &WhyArgs) -> Outcome<u8> {
    let path = format!("/v1/why?subject={}", percent_encoded(&args.subject));
    let why: Why = context.client().get(&path)?;
    if context.json() {
        print_json(&why);
        return Ok(0);
    }
    outln!("{}\n", why.now);
    let rows: Vec<Vec<String>> = why
        .chain
        .iter()
        .map(|e| {
            let by = if is_operator(&e.actor) { format!("by {}", e.actor) } else { String::new() };
            let at = format!("  {}", super::events::clock(e.at_ms));
            vec![at, e.text.clone(), e.node.clone(), by]
        })
        .collect();
    out!("{}", columns(&rows));
    for line in &why.not_elsewhere {
        outln!("\nWhy not elsewhere?  {line}");
    }
    for (place, next) in why.next.iter().enumerate() {
        let title = if place == 0 { "What next?" } else { "" };
        outln!("{title:<20}{next}");
    }
    Ok(0)
}
