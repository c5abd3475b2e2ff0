//! `nines why`

use clap::Args;
use nines_api::{failure::Outcome, types::Why};
use nines_model::admin::is_operator;

use super::{Context, columns};

/// Tell why a service, VIP, node or server is where and as it is.
#[derive(Args)]
pub struct WhyArgs {
    /// A service, VIP, node or real server.
    subject: String,
}

/// Percent-encodes a query value.
pub fn encode(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => {
                char::from(b).to_string()
            }
            _ => format!("%{b:02X}"),
        })
        .collect()
}

/// Runs `nines why`.
pub fn run(context: &Context, args: &WhyArgs) -> Outcome<u8> {
    let path = format!("/v1/why?subject={}", encode(&args.subject));
    let why: Why = context.client().get(&path)?;
    if context.json() {
        super::print_json(&why);
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
