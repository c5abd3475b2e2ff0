//! The simulator's command line: what it runs does not depend on threads, and a program can read
//! what came of it.

use std::process::{Command, Output};

use nines_model::Codes as _;
use nines_sim::{invariants, liveness, scenario::Fault};
use serde_json::Value;

fn sim(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nines-sim")).args(words).output().expect("it was built")
}

/// The last line of a run without a violation.
fn json(words: &[&str]) -> Value {
    let output = sim(&[words, &["-o", "json"]].concat());
    let text = String::from_utf8(output.stdout).expect("JSON is text");
    assert_eq!(output.status.code(), Some(0), "{text}");
    serde_json::from_str(text.lines().last().expect("a line")).expect("it is JSON")
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let of = |jobs| json(&["--seeds", "5", "--from", "40", "--jobs", jobs]);
    let (one, two) = (of("1"), of("2"));
    for field in ["seeds", "virtual_hours", "violations", "faults", "hash"] {
        assert_eq!(one[field], two[field], "{field}");
    }
    let other = json(&["--seeds", "5", "--from", "41"]);
    assert_ne!(one["hash"], other["hash"], "other seeds have other traces");
    let old = String::from_utf8(sim(&["40", "5"]).stdout).expect("it is text");
    let hash = one["hash"].as_str().expect("a text");
    let line = format!("5 seeds from 40: no violation, all healed; traces {hash}\n");
    assert!(old.ends_with(&line), "{old}");
}

#[test]
fn the_last_line_says_what_was_run() {
    let said = json(&["--seeds", "3", "--jobs", "2"]);
    assert_eq!(said["seeds"], 3);
    assert_eq!(said["violations"], Value::Array(Vec::new()));
    let hours = said["virtual_hours"].as_f64().expect("a number");
    assert!((0.028..0.037).contains(&hours), "three times 42 s and some: {hours}");
    assert!(said["virtual_s_per_cpu_s"].as_f64().expect("a number") > 0.0);
    let invariants = invariants::all().into_iter().map(|invariant| invariant.name());
    let goals = liveness::all().into_iter().map(|goal| goal.name());
    let names: Vec<&str> = invariants.chain(goals).collect();
    assert_eq!(said["invariants"], Value::from(names));
    let faults = said["faults"].as_object().expect("an object");
    let all: Vec<&str> = Fault::ALL.iter().map(|fault| fault.code()).collect();
    assert_eq!(faults.len(), all.len());
    assert!(all.iter().all(|code| faults[*code].is_u64()), "{faults:?}");
    assert!(faults["kill"].as_u64() > Some(0));
    assert_eq!(faults["device-fails"], 0, "these machines have no fence devices");
}

#[test]
fn hours_are_reached_with_the_first_seed_that_reaches_them() {
    let of = |jobs| json(&["--hours", "0.05", "--jobs", jobs]);
    let (one, two) = (of("1"), of("2"));
    assert_eq!((&one["hash"], &one["seeds"]), (&two["hash"], &two["seeds"]));
    assert!(one["virtual_hours"].as_f64() >= Some(0.05));
    let fewer = (one["seeds"].as_u64().expect("a number") - 1).to_string();
    assert!(json(&["--seeds", &fewer])["virtual_hours"].as_f64() < Some(0.05));
    let more = json(&["--seeds", "6", "--hours", "0.001"]);
    assert_eq!(more["seeds"], 6, "whichever is later");
}

#[test]
fn what_cannot_be_run_is_a_usage_error() {
    for words in [
        &["--sedes", "3"][..],
        &["--seeds"],
        &["--seeds", "three"],
        &["--seeds", "0"],
        &["--hours", "-1"],
        &["--hours", "NaN"],
        &["--seeds", "1", "--jobs", "0"],
        &["--seeds", "1", "-o", "xml"],
        &["--from", "3"],
        &["7", "1", "2"],
        &["7", "--seeds"],
        &[],
    ] {
        let output = sim(words);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{words:?}: {said}");
        assert!(said.contains("usage: nines-sim SEED [COUNT]"), "{words:?}: {said}");
        assert!(output.stdout.is_empty());
    }
}
