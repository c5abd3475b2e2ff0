//! `cargo xtask torn-writes [--trials N] [--seed N]`: the log on a disk that fails in the middle of
//! a write, many thousand times.
//!
//! Decides: nothing. The trials are tests of the agent, `crates/nines-agent/src/storage/torn.rs`;
//! this says how many there are.

use std::{path::Path, process::Command, time::Instant};

/// Trials if none are asked for: what a release is tested with.
const TRIALS: &str = "100000";

/// Runs them; an error says why they did not all end well.
pub fn run(root: &Path, options: &[&str]) -> Result<(), String> {
    let (mut trials, mut seed) = (TRIALS, "1");
    for pair in options.chunks(2) {
        match pair {
            ["--trials", number] if number.parse::<u64>().is_ok() => trials = number,
            ["--seed", number] if number.parse::<u64>().is_ok() => seed = number,
            other => return Err(format!("{other:?} is no option of torn-writes")),
        }
    }
    let began = Instant::now();
    let mut command = Command::new(crate::cargo());
    command.args(["test", "--quiet", "--package", "nines-agent", "--lib", "storage::torn"]);
    command.args(["--", "--nocapture"]).current_dir(root);
    command.env("NINES_TORN_TRIALS", trials).env("NINES_TORN_SEED", seed);
    match command.status() {
        Ok(status) if status.success() => {
            println!("{trials} trials from seed {seed} took {} s", began.elapsed().as_secs());
            Ok(())
        }
        Ok(status) => Err(format!("{status}: see above")),
        Err(why) => Err(format!("cargo test: {why}")),
    }
}
