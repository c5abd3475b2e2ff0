//! `nines-sim`: runs seeds, and tells which break an invariant or do not heal.
//!
//! Ends with a hash of all their traces: equal before and after a change that changes nothing, and
//! whatever the number of threads. With `NINES_SIM_LOG=1` it prints what the nodes log.

use nines_model::{Codes as _, Millis};
use nines_sim::{
    Sabotage, invariants, liveness, run,
    shrink::{self, Shrunk},
};
use serde_json::{Value, json};

use crate::batch::{Batch, Total};

mod batch;

const USAGE: &str = "usage: nines-sim SEED [COUNT]\n\
    \x20      nines-sim [--seeds N] [--from SEED] [--hours H] [--jobs J] [--until-violation]\n\
    \x20                [--shrink] [--keep DIRECTORY] [-o json]\n\
    SEED [COUNT]: runs seeds until one has a violation. --seeds: runs N seeds from SEED (0);\n\
    --hours: goes on until H virtual hours have passed; one of the two is needed.\n\
    A failing seed is shrunk to the faults that it needs, and its story is told; with -o json only\n\
    if --shrink says so. --keep: its story is written into a file there, too.";

/// Safety phase of each seed.
const SAFETY: Millis = Millis(20_000);
/// So many failing seeds are made small.
const SHRUNK_MAX: usize = 3;
const HOUR_NS: f64 = 3.6e12;
/// Ticks a second in which the kernel counts CPU time for programs, on every Linux.
const CPU_HZ: f64 = 100.0;

/// What the command line asks for.
struct Asked {
    batch: Batch,
    json: bool,
    /// Failing seeds are made small.
    shrinks: bool,
    /// Where their stories are kept.
    keep: Option<String>,
}

fn number<T: std::str::FromStr>(word: Option<&str>, of: &str) -> Result<T, String> {
    let word = word.ok_or_else(|| format!("{of} needs a number"))?;
    word.parse().map_err(|_| format!("{of}: {word:?} is not a number"))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Reads the command line.
fn asked(words: &[&str]) -> Result<Asked, String> {
    let mut batch =
        Batch { from: 0, seeds: 0, virtual_ns: 0, jobs: cores(), until_violation: false };
    let (mut json, mut shrinks, mut keep) = (false, false, None);
    if let [seed, rest @ ..] = words
        && !seed.starts_with('-')
    {
        batch.from = number(Some(seed), "SEED")?;
        batch.seeds = match rest {
            [] => 1,
            [count] => number(Some(count), "COUNT")?,
            [_, other, ..] => return Err(format!("{other:?} is one word too many")),
        };
        batch.until_violation = true;
        return checked(Asked { batch, json, shrinks: true, keep });
    }
    let mut words = words.iter().copied();
    while let Some(word) = words.next() {
        match word {
            "--seeds" => batch.seeds = number(words.next(), word)?,
            "--from" => batch.from = number(words.next(), word)?,
            "--hours" => {
                let hours: f64 = number(words.next(), word)?;
                if !(hours > 0.0 && hours < 1e6) {
                    return Err(format!("{hours} hours cannot be run"));
                }
                batch.virtual_ns = (hours * HOUR_NS) as u64;
            }
            "--jobs" => batch.jobs = number(words.next(), word)?,
            "--shrink" => shrinks = true,
            "--keep" => keep = Some(number(words.next(), word)?),
            "--until-violation" => batch.until_violation = true,
            "-o" if words.next() == Some("json") => json = true,
            "-o" => return Err("-o json is the only other form of output".into()),
            other => return Err(format!("{other:?} is not an option")),
        }
    }
    let shrinks = shrinks || !json || keep.is_some();
    checked(Asked { batch, json, shrinks, keep })
}

fn checked(asked: Asked) -> Result<Asked, String> {
    let Batch { from, seeds, virtual_ns, jobs, .. } = asked.batch;
    if seeds == 0 && virtual_ns == 0 {
        return Err("no seed is asked for".into());
    }
    if jobs == 0 {
        return Err("no thread, no run: --jobs is 1 or more".into());
    }
    // More follow where hours are asked for.
    if from.checked_add(seeds.max(1 << 32)).is_none() {
        return Err("there are no such seeds".into());
    }
    Ok(asked)
}

/// CPU time of this process so far, s.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name of the program, in brackets, may have spaces. Of what follows it, the 12th and 13th
    // are the time in user space and in the kernel (proc(5)).
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    let times = after.split_whitespace().skip(11).take(2);
    times.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / CPU_HZ
}

fn rate(total: &Total) -> f64 {
    total.spent_ns as f64 / 1e9 / cpu_seconds().max(1.0 / CPU_HZ)
}

/// Makes the first failing seeds small; what panics ends this process, too.
fn shrink_all(asked: &Asked, total: &Total) -> Vec<Shrunk> {
    let may = asked.shrinks && std::env::var_os("NINES_SIM_LOG").is_none();
    let failed = total.violations.iter().filter(|(_, what)| !what.starts_with("panic: "));
    let all: Vec<Shrunk> = failed
        .take(if may { SHRUNK_MAX } else { 0 })
        .filter_map(|(seed, _)| shrink::shrink(*seed, SAFETY, Sabotage::None))
        .collect();
    for shrunk in &all {
        let Some(directory) = &asked.keep else { continue };
        let path = format!("{directory}/seed-{}.txt", shrunk.seed);
        let kept = std::fs::create_dir_all(directory)
            .and_then(|()| std::fs::write(&path, shrunk.lines().join("\n") + "\n"));
        if let Err(why) = kept {
            eprintln!("nines-sim: {path}: {why}");
        }
    }
    all
}

/// Names of all invariants and goals.
fn names() -> impl Iterator<Item = &'static str> {
    let invariants = invariants::all().into_iter().map(|invariant| invariant.name());
    invariants.chain(liveness::all().into_iter().map(|goal| goal.name()))
}

fn as_json(total: &Total, shrunk: &[Shrunk]) -> Value {
    let violation = |(seed, what): &(u64, String)| {
        let small = shrunk.iter().find(|small| small.seed == *seed);
        let faults: Option<Vec<String>> =
            small.map(|small| small.faults.iter().map(ToString::to_string).collect());
        let story = small.map(|small| &small.story);
        match faults {
            Some(faults) => json!({ "seed": seed, "what": what, "faults": faults, "story": story }),
            None => json!({ "seed": seed, "what": what }),
        }
    };
    let faults = total.drawn.iter().map(|(fault, count)| (fault.code().to_owned(), count.into()));
    json!({
        "seeds": total.seeds,
        "virtual_hours": total.virtual_ns as f64 / HOUR_NS,
        "virtual_s_per_cpu_s": rate(total),
        "violations": total.violations.iter().map(violation).collect::<Vec<_>>(),
        "invariants": names().collect::<Vec<_>>(),
        "faults": faults.collect::<serde_json::Map<_, _>>(),
        "hash": format!("{:016x}", total.traces),
    })
}

fn print(asked: &Asked, total: &Total) {
    let shrunk = shrink_all(asked, total);
    for (seed, what) in &total.violations {
        println!("seed {seed}: {what}");
    }
    if asked.json {
        println!("{}", as_json(total, &shrunk));
        return;
    }
    shrunk.iter().flat_map(Shrunk::lines).for_each(|line| println!("{line}"));
    let (count, from, traces) = (total.seeds, asked.batch.from, total.traces);
    let (hours, rate) = (total.virtual_ns as f64 / HOUR_NS, rate(total));
    println!("{hours:.2} virtual hours, {rate:.0} virtual seconds a CPU second");
    match total.violations.len() {
        0 => println!("{count} seeds from {from}: no violation, all healed; traces {traces:016x}"),
        wrong => println!("{count} seeds from {from}: {wrong} with a violation"),
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let asked = asked(&words).unwrap_or_else(|why| {
        eprintln!("nines-sim: {why}\n{USAGE}");
        std::process::exit(2);
    });
    let total = asked.batch.run(|seed| run(seed, SAFETY, Sabotage::None));
    print(&asked, &total);
    std::process::exit(i32::from(!total.violations.is_empty()));
}
