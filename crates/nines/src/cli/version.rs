//! `nines version`

use nines_api::{failure::Outcome, types::Status};

use crate::{context::Context, local::TABLES_VERSION, output::print_json};

/// Runs `nines version`.
pub fn run(context: &Context) -> Outcome<u8> {
    let mine = env!("CARGO_PKG_VERSION");
    let status = context.client().get::<Status>("/v1/status").ok();
    let here = status.as_ref().and_then(|s| s.nodes.iter().find(|n| n.name == s.node));
    if context.json() {
        print_json(&serde_json::json!({
            "schema": 1,
            "version": mine,
            "api": 1,
            "abi": TABLES_VERSION,
            "agent": here.map(|n| n.version.clone()),
            "path": here.map(|n| n.path.clone()),
            "feature_level": status.as_ref().map(|s| s.feature_level),
        }));
        return Ok(0);
    }
    outln!("nines {mine} (API 1, kernel tables {})", TABLES_VERSION);
    match here {
        Some(n) => outln!("agent {} as {}, {}", n.version, n.name, n.path),
        None => outln!("no agent answers here"),
    }
    if let Some(held) = status.map(|s| s.feature_level_held_back).filter(|t| !t.is_empty()) {
        outln!("{}", super::status::sentence(&held));
    }
    Ok(0)
}
