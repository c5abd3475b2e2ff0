//! `cargo xtask zoo`: known bugs, each of which the simulator or a test must find.
//!
//! A bug is a patch in `xtask/zoo`; its first line says what it is and what it breaks. It is
//! applied to a copy of the crates, so that the code itself knows nothing of bugs.
//!
//! Decides: what counts as found. Seeds of the simulator are run first, then the tests of the core,
//! then those of the simulator.

use std::{fs, path::Path, time::Instant};

use serde_json::{Value, json};

use self::copies::{Copies, Ended};

mod copies;

/// Seeds that each bug has to show itself in.
const SEEDS: &str = "200";
/// Of a hundred bugs so many must be found.
const FOUND_MIN: usize = 95;

/// Crates whose tests are asked when no seed shows a bug. Those of the simulator have scenarios
/// that no seed draws: machines that join, disks that lose what they had, older builds.
const TESTED: &[&str] = &["nines-core", "nines-sim"];

/// One patch.
struct Bug {
    /// Name of the file without its end.
    name: String,
    /// What it is and what it breaks, in one sentence.
    says: String,
    patch: String,
}

/// What found a bug.
enum Found {
    /// A seed of the simulator, with what was wrong.
    Seed(u64, String),
    /// Tests, by name.
    Tests(Vec<String>),
    /// Nothing has found it.
    Missed,
}

impl Found {
    fn words(&self) -> String {
        match self {
            Self::Seed(seed, what) => format!("seed {seed}, {what}"),
            Self::Tests(names) => {
                let (first, more) = (names.first().map_or("a test", String::as_str), names.len());
                if more > 1 {
                    format!("test {first} and {} more", more - 1)
                } else {
                    format!("test {first}")
                }
            }
            Self::Missed => "MISSED".into(),
        }
    }

    fn is(&self) -> bool {
        !matches!(self, Self::Missed)
    }
}

/// All bugs in `room` whose names have one of these words in them; without words, all.
fn bugs(room: &Path, words: &[&str]) -> Result<Vec<Bug>, String> {
    let mut bugs = Vec::new();
    let listed = fs::read_dir(room).map_err(|why| format!("{}: {why}", room.display()))?;
    for path in listed.flatten().map(|entry| entry.path()) {
        let Some(name) = path.file_name().and_then(|n| n.to_str()?.strip_suffix(".patch")) else {
            continue;
        };
        let patch = fs::read_to_string(&path).map_err(|why| format!("{name}: {why}"))?;
        let says = patch.lines().next().unwrap_or_default().to_owned();
        if says.is_empty() || says.starts_with("---") {
            return Err(format!("{name}: its first line must say what the bug is"));
        }
        bugs.push(Bug { name: name.to_owned(), says, patch });
    }
    bugs.sort_by(|a, b| a.name.cmp(&b.name));
    bugs.retain(|bug| words.is_empty() || words.iter().any(|word| bug.name.contains(word)));
    if bugs.is_empty() { Err(format!("no bug is called {words:?}")) } else { Ok(bugs) }
}

/// Looks for whatever is wrong with the code as it stands in the copy.
fn look(copies: &Copies) -> Result<Found, String> {
    copies.build()?;
    if let Some((seed, what)) = seeds(&copies.simulate(SEEDS)?)? {
        return Ok(Found::Seed(seed, what));
    }
    for name in TESTED {
        match copies.test(name)? {
            Ended::Good(_) => {}
            Ended::Bad(output) => return failed(&output).map(Found::Tests).ok_or(output),
            Ended::Late => return Ok(Found::Tests(vec!["that does not end".into()])),
        }
    }
    Ok(Found::Missed)
}

/// The first violation that the simulator tells.
fn seeds(ended: &Ended) -> Result<Option<(u64, String)>, String> {
    let output = match ended {
        Ended::Late => return Ok(Some((0, "or a later one: a run that does not end".into()))),
        Ended::Good(output) | Ended::Bad(output) => output,
    };
    let last = output.lines().last().unwrap_or_default();
    let said: Value = serde_json::from_str(last).map_err(|why| format!("{why}: {output}"))?;
    let first = said["violations"].get(0);
    Ok(first.map(|v| {
        (v["seed"].as_u64().unwrap_or(0), v["what"].as_str().unwrap_or_default().to_owned())
    }))
}

/// Tests that have failed; `None`: it is something else that has.
fn failed(output: &str) -> Option<Vec<String>> {
    let line =
        |line: &str| Some(line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?.to_owned());
    let names: Vec<String> = output.lines().filter_map(line).collect();
    (!names.is_empty()).then_some(names)
}

/// What becomes of one bug: an error if it is none any more.
fn one(copies: &Copies, bug: &Bug) -> Result<Found, String> {
    copies.apply(&bug.patch).map_err(|why| format!("{} does not apply: {why}", bug.name))?;
    let found = look(copies).map_err(|why| format!("{}: {why}", bug.name));
    copies.take_back(&bug.patch)?;
    found
}

/// Runs `cargo xtask zoo [-o json] [NAME...]`. Fails if too few bugs are found.
pub fn zoo(root: &Path, words: &[&str]) -> Result<(), String> {
    let (json, names) = match words {
        ["-o", "json", names @ ..] => (true, names),
        names => (false, names),
    };
    if let Some(other) = names.iter().find(|name| name.starts_with('-')) {
        return Err(format!("{other:?} is not an option of zoo"));
    }
    let bugs = bugs(&root.join("xtask/zoo"), names)?;
    let copies = Copies::new(root, &root.join("target/zoo"))?;
    // Who finds something in the code as it is has found no bug of the zoo.
    let without = look(&copies)?;
    if without.is() {
        return Err(format!("without any bug: {}", without.words()));
    }
    let (mut told, mut broken, mut found) = (Vec::new(), Vec::new(), 0);
    for bug in &bugs {
        let began = Instant::now();
        let by = one(&copies, bug).unwrap_or_else(|why| {
            broken.push(why);
            Found::Missed
        });
        let (name, seconds, words) = (&bug.name, began.elapsed().as_secs(), by.words());
        found += usize::from(by.is());
        if !json {
            println!("{name:<40} {seconds:>3} s  {words}");
        }
        told.push(json!({
            "bug": name, "says": &bug.says, "found": by.is(), "by": words, "seconds": seconds,
        }));
    }
    let all = bugs.len();
    if json {
        println!("{}", json!({ "bugs": told, "found": found, "all": all }));
    }
    if !broken.is_empty() {
        return Err(broken.join("\n"));
    }
    if found * 100 < all * FOUND_MIN {
        return Err(format!("{found} of {all} bugs are found, {FOUND_MIN} of 100 must be"));
    }
    if !json {
        println!("{found} of {all} bugs are found");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bug_says_what_it_breaks() {
        let all = bugs(&crate::root().join("xtask/zoo"), &[]).unwrap();
        assert!(all.len() >= 40, "{}", all.len());
        for Bug { name, says, patch } in &all {
            let invariant = says.rsplit_once(" (").map_or("", |(_, end)| end);
            let number = invariant.strip_suffix(").").map(|end| &end[1..]);
            assert!(number.is_some_and(|n| n.parse::<u8>().is_ok()), "{name}: {says}");
            assert!(patch.contains("\n--- a/crates/"), "{name} changes no crate");
        }
        assert!(bugs(&crate::root().join("xtask/zoo"), &["no-such-bug"]).is_err());
    }

    #[test]
    fn every_bug_still_fits_the_code() {
        for Bug { name, patch, .. } in bugs(&crate::root().join("xtask/zoo"), &[]).unwrap() {
            let (mut file, mut old) = (String::new(), String::new());
            let fits = |file: &str, old: &mut String| {
                assert!(file.contains(old.as_str()), "{name}: the code has no more\n{old}");
                old.clear();
            };
            for line in patch.lines().skip(1) {
                if let Some(path) = line.strip_prefix("--- a/") {
                    fits(&file, &mut old);
                    file = fs::read_to_string(crate::root().join(path)).unwrap();
                } else if line.starts_with("@@") {
                    fits(&file, &mut old);
                } else if !line.starts_with('+') {
                    old.push_str(line.get(1..).unwrap_or_default());
                    old.push('\n');
                }
            }
            fits(&file, &mut old);
        }
    }

    #[test]
    fn what_found_a_bug_is_read_from_the_output() {
        let line = "seed 7: x\n{\"violations\":[{\"seed\":7,\"what\":\"at 3 ms: S11: two\"}]}\n";
        let found = seeds(&Ended::Bad(line.into())).unwrap();
        assert_eq!(found, Some((7, "at 3 ms: S11: two".to_owned())));
        assert_eq!(seeds(&Ended::Good("{\"violations\":[]}\n".into())), Ok(None));
        assert!(seeds(&Ended::Bad("Segmentation fault\n".into())).is_err());
        let output = "running 2 tests\ntest a::b ... ok\ntest a::c ... FAILED\n";
        assert_eq!(failed(output), Some(vec!["a::c".to_owned()]));
        assert_eq!(failed("error: could not compile `nines-core`\n"), None);
    }
}
