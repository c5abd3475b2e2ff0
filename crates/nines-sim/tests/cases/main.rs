//! Named scenarios as text: what happens to a cluster, and what must come of it.
//!
//! The lines above the first title of a file are comments, which the manual's page of scenarios is
//! made from, and the config. All nodes start at 0 s. A line of a case is a step or an expectation,
//! after its time or at the time of the line before; the forms are in `steps.rs` and
//! `expectations.rs`. After each event all invariants of the simulator are asked. What an
//! expectation with a line "unmet: ..." below it asks for does not come yet; the case fails when
//! it does, so that the mark goes. Expectations are checked, whatever output a file has.
//!
//! `NINES_SIM_SEEDS=20` follows each case in the worlds of 20 seeds; output and marks are those of
//! the first.

use nines_cases::Case;
use nines_sim::Sabotage;

mod expectations;
mod run;
mod steps;
mod words;

use run::play;

/// The seed of the world whose story is told.
const SEED: u64 = 1;

#[test]
fn cases() {
    nines_cases::walk_judged(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cases"), judged);
}

fn judged(case: &Case) -> (String, Vec<String>) {
    let (out, mut wrong) = play(case, SEED, Sabotage::None);
    let seeds = std::env::var("NINES_SIM_SEEDS").ok().and_then(|n| n.parse::<u64>().ok());
    for seed in SEED + 1..=seeds.unwrap_or(SEED) {
        let (_, more) = play(case, seed, Sabotage::None);
        wrong.extend(more.into_iter().map(|line| format!("{line} (seed {seed})")));
    }
    (out, wrong)
}

const FILE: &str = "[cluster]\nname = \"t\"\n[nodes]\nlb1 = \"10.0.0.1\"\nlb2 = \"10.0.0.2\"\n\
    wit = { addresses = \"10.0.0.3\", role = \"witness\" }\n[vip.web]\naddress = \"10.0.0.100\"\n";

/// What is wrong with a case of these lines.
fn wrong(lines: &str, sabotage: Sabotage) -> Vec<String> {
    let case = Case::of("case.txt", &format!("{FILE}== a title\n{lines}"));
    play(&case, SEED, sabotage).1
}

#[test]
fn what_is_not_so_is_wrong_with_its_line() {
    let found = |lines: &str| wrong(lines, Sabotage::None).join("; ");
    assert_eq!(found("at 3 s: expect web on lb1\n"), "");
    let line = |n: usize| format!("case.txt:{n}: ");
    for (lines, told) in [
        ("at 3 s: expect web on lb2\n", "on lb1"),
        ("at 3 s: expect nobody holds web\n", "on lb1"),
        ("at 3 s: expect web silent for at most 10 ms\n", "nobody answered for"),
        ("at 3 s: expect no change of leader\n", "leads, term"),
        ("at 3 s: expect nobody leads\n", "lb2 leads"),
        ("at 3 s: expect lb1 leads\n", "lb2 leads"),
        ("at 3 s: expect lb2 does not lead\n", "lb2 leads"),
        ("at 3 s: expect lb1 never answers for web\n", "0.2"),
        ("at 3 s: expect lb1 has no vote\n", "it takes part"),
        ("at 3 s: expect all nodes know that lb1 runs twice\n", "not all do"),
        ("at 3 s: expect lb1 says: a poem\n", "nothing like it"),
        ("at 3 s: expect nobody says: again\n", "hears"),
        ("at 3 s: expect web on lb1\nunmet: it is elsewhere\n", "is met now"),
    ] {
        let found = found(lines);
        assert!(found.starts_with(&line(10)) && found.contains(told), "{lines}{found}");
    }
    for (lines, told) in [
        ("at 3 s: kill lb1\nat 4 s: expect no change of holder\n", "it changed at 3."),
        ("at 3 s: kill lb1\nat 4 s: expect web moves at most 0 times\n", "it changed at 3."),
        ("at 3 s: kill lb1 and wit\nat 4 s: expect every VIP is served\n", "not all are"),
        ("at 3 s: kill lb1\nat 4 s: expect lb1 has a vote\n", "it does not run"),
        ("at 3 s: kill lb1 and wit\nat 4 s: expect one node leads\n", "nobody leads"),
        ("at 0.2 s: kill wit\nat 3 s: expect no change of leader since 0.2 s\n", "leads, term"),
    ] {
        let found = found(lines);
        assert!(found.starts_with(&line(11)) && found.contains(told), "{lines}{found}");
    }
}

#[test]
fn words_that_are_not_known_are_wrong_with_their_line() {
    for lines in [
        "at 3 s: expect web on lb9\n",
        "at 3 s: expect mail on lb1\n",
        "at 3 s: expect peace\n",
        "at 3 s: embarrass lb1\n",
        "at 3 s: kill lb1 gently\n",
        "at 3 s: freeze lb1 for a while\n",
        "at 3 s: ask lb1: sing\n",
        "at soon: kill lb1\n",
        "unmet: nothing before it\n",
    ] {
        let found = wrong(lines, Sabotage::None);
        let place = "case.txt:10: ";
        assert!(found.len() == 1 && found[0].starts_with(place), "{lines}{found:?}");
    }
    let found = wrong("at 3 s: kill lb1\nat 2 s: expect web on lb1\n", Sabotage::None);
    assert!(found[0].starts_with("case.txt:11: ") && found[0].contains("is later"), "{found:?}");
    let found = wrong("at 3 s: kill lb1\n", Sabotage::None);
    assert!(found[0].starts_with("case.txt:9: it expects nothing"), "{found:?}");
}

/// A world that lies breaks an invariant, though nothing that is expected is wrong.
#[test]
fn a_broken_invariant_is_wrong() {
    let lines =
        "at 3 s: expect web on lb1\ncut lb1 from all others\nat 9 s: expect one node leads\n";
    assert_eq!(wrong(lines, Sabotage::None), Vec::<String>::new());
    let found = wrong(lines, Sabotage::GuardIgnored);
    assert!(found.len() == 1 && found[0].starts_with("case.txt:12: before"), "{found:?}");
    let names = ["S11", "S12", "S13", "S22"];
    assert!(names.iter().any(|name| found[0].contains(name)), "{found:?}");
}
