//! Makes the plan of a failing run smaller, as long as it still fails in the same way.
//!
//! Decides: which faults are left out, and when that ends. Delta debugging (Zeller, Hildebrandt
//! 2002): halves first, then smaller and smaller parts.

use nines_model::Millis;

use crate::{Outcome, Planned, Sabotage, Scenario, Story, World, faults, run_planned, story::What};

/// Runs for one seed, at most.
const RUNS_MAX: usize = 400;
/// Lines of a story that are told: the last ones before it went wrong.
const LINES_MAX: usize = 120;

/// A failing seed, made small.
#[derive(Clone, Debug, PartialEq)]
pub struct Shrunk {
    /// The seed.
    pub seed: u64,
    /// What is wrong with it, with these faults only.
    pub what: String,
    /// How many faults its plan has.
    pub of: usize,
    /// Those that are needed.
    pub faults: Vec<Planned>,
    /// What happened with them, line by line.
    pub story: Vec<String>,
}

/// What kind of failure a text tells of: "S11" of "at 20 ms: S11: nodes ...".
fn kind(what: &str) -> &str {
    let text =
        what.strip_prefix("at ").and_then(|rest| rest.split_once(": ")).map_or(what, |(_, t)| t);
    text.split(':').next().unwrap_or(text)
}

/// The smallest part of `all` that was found to fail.
pub fn smallest<T: Clone>(all: &[T], mut fails: impl FnMut(&[T]) -> bool) -> Vec<T> {
    let mut needed = all.to_vec();
    let mut part = needed.len().div_ceil(2);
    let mut runs = 0;
    while part > 0 && runs < RUNS_MAX {
        let (mut at, mut fewer) = (0, false);
        while at < needed.len() && runs < RUNS_MAX {
            let mut rest = needed.clone();
            rest.drain(at..(at + part).min(needed.len()));
            runs += 1;
            if fails(&rest) {
                (needed, fewer) = (rest, true);
            } else {
                at += part;
            }
        }
        part = match part {
            1 if fewer => 1,
            1 => 0,
            more => more.div_ceil(2),
        };
    }
    needed
}

/// Makes a failing seed of [`Scenario::drawn`] small; `None`: it does not fail.
pub fn shrink(seed: u64, safety: Millis, sabotage: Sabotage) -> Option<Shrunk> {
    let scenario = Scenario::drawn(seed);
    let all = faults::plan(&scenario, seed, safety);
    let world = || World::of(scenario.clone(), seed, sabotage);
    let first = run_planned(&mut world(), safety, &all).wrong()?;
    let same = |outcome: Outcome| outcome.wrong().is_some_and(|wrong| kind(&wrong) == kind(&first));
    let faults = smallest(&all, |some| same(run_planned(&mut world(), safety, some)));
    let mut told = world();
    told.story = Some(Story::default());
    let what = run_planned(&mut told, safety, &faults).wrong().unwrap_or(first);
    let story = told.story.take().unwrap_or_default();
    let lines = story.told().iter().map(line);
    let story = lines.skip(story.told().len().saturating_sub(LINES_MAX)).collect();
    Some(Shrunk { seed, what, of: all.len(), faults, story })
}

fn line(told: &crate::story::Told) -> String {
    let by = told.by;
    let what = match &told.what {
        What::Says(line) => format!("says: {line}"),
        What::Leads(term) => format!("leads, term {term}"),
        What::LeadsNoMore => "leads no more".into(),
        What::Answers(vip) => format!("answers for {vip}"),
        What::IsSilent(vip) => format!("answers for {vip} no more"),
        What::Fails(planned) => return format!("{:>9.3} s > {planned}", told.at as f64 / 1e9),
    };
    format!("{:>9.3} s {by} {what}", told.at as f64 / 1e9)
}

impl Shrunk {
    /// The seed, its faults and its story, for people.
    pub fn lines(&self) -> Vec<String> {
        let (seed, what, count, of) = (self.seed, &self.what, self.faults.len(), self.of);
        let mut lines = vec![format!("seed {seed}: {what}; with {count} of {of} faults:")];
        lines.extend(self.faults.iter().map(|planned| format!("  {planned}")));
        lines.extend(self.story.iter().map(|line| format!("  {line}")));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_needed_stays() {
        let all: Vec<u64> = (0..70).collect();
        let needs = [3, 40, 41];
        let found = smallest(&all, |some| needs.iter().all(|need| some.contains(need)));
        assert_eq!(found, needs);
        assert_eq!(smallest(&all, |_| true), []);
        assert_eq!(smallest(&all, |_| false), all);
    }

    #[test]
    fn the_kind_of_a_failure_is_what_it_begins_with() {
        assert_eq!(kind("at 20 ms: S11: nodes 1 and 2 both answer"), "S11");
        assert_eq!(kind("not healed: a VIP still moves"), "not healed");
    }

    /// A kernel without a guard is found in a drawn world, and few faults are enough to show it.
    #[test]
    fn a_failing_seed_comes_to_few_faults_and_a_story() {
        let found = (0..40).find_map(|seed| shrink(seed, Millis(20_000), Sabotage::GuardIgnored));
        let shrunk = found.expect("one of these seeds shows it");
        assert!(shrunk.faults.len() <= 20, "{:?}", shrunk.lines());
        assert!(shrunk.of > shrunk.faults.len() && !shrunk.story.is_empty());
        let again = shrink(shrunk.seed, Millis(20_000), Sabotage::GuardIgnored);
        assert_eq!(again, Some(shrunk), "it depends on nothing but the seed");
    }
}
