//! Transcripts of nodes: what happens to a few nodes, and what they ask of the world.
//!
//! The lines above the first case of a file are the config. Each line of a case is an event or an
//! order to the small world in `network.rs`, which carries messages and keeps disks and kernels;
//! the transcript repeats it after "> ", with all that follows from it. A heartbeat more or less
//! is not told; "tell every action of lb1" changes that. What follows from "before that lb1 lb2 ran
//! for 1 s" is not told either: another case tells it.

use nines_cases::Case;

mod network;
mod script;

#[test]
fn cases() {
    nines_cases::walk(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cases"), transcript);
}

fn transcript(case: &Case) -> String {
    let mut network = network::Network::new(&case.given);
    for line in case.input.lines().filter(|line| !line.is_empty()) {
        network.told.push(format!("> {line}"));
        let told = network.told.len();
        script::follow(&mut network, line);
        if line.starts_with("before that ") {
            network.told.truncate(told);
        }
    }
    network.told.join("\n")
}
