//! The last result of each check, for people who ask why.
//!
//! Decides: nothing. Whether a server is up follows from rise and fall in `health.rs`.

use std::collections::BTreeMap;

use nines_model::ServerRef;

/// What a check got last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckResult {
    /// Whether the check succeeded.
    pub ok: bool,
    /// What it got, in words.
    pub text: String,
    /// Since when it has got the same (success or failure), ms since 1970.
    pub since_ms: u64,
}

/// What the check of each server got last.
pub type Results = BTreeMap<ServerRef, CheckResult>;

impl super::Node {
    /// Results of checks of each server, for views.
    pub fn results(&self) -> &Results {
        self.checks.results()
    }
}

/// Takes a result in.
pub fn note(
    results: &mut Results,
    subject: &ServerRef,
    outcome: &Result<String, String>,
    wall_ms: u64,
) {
    let (Ok(text) | Err(text)) = outcome;
    let fresh = || CheckResult { ok: outcome.is_ok(), text: text.clone(), since_ms: wall_ms };
    match results.get_mut(subject) {
        Some(known) if known.ok == outcome.is_ok() => {
            if known.text != *text {
                known.text.clone_from(text);
            }
        }
        Some(known) => *known = fresh(),
        None => drop(results.insert(subject.clone(), fresh())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_text_is_kept_with_the_time_of_the_first_of_its_kind() {
        let (mut results, r1) = (Results::new(), ServerRef::new("web", "r1"));
        note(&mut results, &r1, &Err("refused".into()), 10);
        note(&mut results, &r1, &Err("timeout".into()), 20);
        let failed = CheckResult { ok: false, text: "timeout".into(), since_ms: 10 };
        assert_eq!(results[&r1], failed);
        note(&mut results, &r1, &Ok("200".into()), 30);
        assert_eq!((results[&r1].ok, results[&r1].since_ms), (true, 30));
    }
}
