//! `nines version`

use super::Context;
use crate::{api::types::Status, failure::Outcome};

/// Runs `nines version`.
pub fn run(context: &Context) -> Outcome<u8> {
    let mine = env!("CARGO_PKG_VERSION");
    let status = context.client().get::<Status>("/v1/status").ok();
    let here = status.as_ref().and_then(|s| s.nodes.iter().find(|n| n.name == s.node));
    if context.json() {
        super::print_json(&serde_json::json!({
            "schema": 1,
            "version": mine,
            "api": 1,
            "abi": nines_abi_version(),
            "agent": here.map(|n| n.version.clone()),
            "path": here.map(|n| n.path.clone()),
        }));
        return Ok(0);
    }
    outln!("nines {mine} (API 1, kernel tables {})", nines_abi_version());
    match here {
        Some(n) => outln!("agent {} as {}, {}", n.version, n.name, n.path),
        None => outln!("no agent answers here"),
    }
    Ok(0)
}

fn nines_abi_version() -> u32 {
    nines_dataplane::ebpf::ABI_VERSION
}
