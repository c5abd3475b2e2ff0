//! `nines-sim SEED [COUNT]`: runs seeds until one breaks an invariant or does not heal.
//! Ends with a hash of all their traces: equal before and after a change that changes nothing.
//! With `NINES_SIM_LOG=1` it prints what the nodes log.

use nines_model::Millis;
use nines_sim::{Sabotage, run};

fn main() {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let Some(first) = numbers.first().copied() else {
        eprintln!("usage: nines-sim SEED [COUNT]");
        std::process::exit(2);
    };
    let count = numbers.get(1).copied().unwrap_or(1);
    let mut traces = 0_u64;
    for seed in first..first + count {
        let outcome = run(seed, Millis(20_000), Sabotage::None);
        if outcome.violation.is_some() || !outcome.healed {
            println!("seed {seed}: {outcome:?}");
            std::process::exit(1);
        }
        traces = traces.rotate_left(7) ^ outcome.trace;
    }
    println!("{count} seeds from {first}: no violation, all healed; traces {traces:016x}");
}
