//! One run of a case: its lines in time, what they expect, and what is told of it.

use std::{collections::BTreeMap, fmt::Write as _, net::IpAddr};

use nines_cases::Case;
use nines_core::wire::Persisted;
use nines_model::{Millis, config};
use nines_sim::{
    Sabotage, Scenario, Story, World,
    story::{Told, What},
};

use super::{
    expectations,
    steps::{self, Step},
    words::{Names, gaps, time},
};

/// Lines that differ in their numbers only are told so often, then counted.
const TOLD_MAX: usize = 2;

/// A line of a case.
struct Line {
    number: usize,
    at: Millis,
    text: String,
    /// What comes instead of what is expected, as long as that is so.
    unmet: Option<String>,
    does: Does,
}

enum Does {
    Expect(Step),
    Steps(Vec<(Millis, Step)>),
}

/// A world, and what a case knows of it.
pub struct Run {
    pub world: World,
    /// Copies of disks.
    pub copies: BTreeMap<u64, Persisted>,
    names: Names,
    /// When the first step was done, ns.
    begun: Option<u64>,
    out: String,
    told: usize,
    times_told: BTreeMap<String, (usize, String)>,
}

/// The output of a case in the world of this seed, and what is wrong with it.
pub fn play(case: &Case, seed: u64, sabotage: Sabotage) -> (String, Vec<String>) {
    let place = |number: usize| format!("{}:{number}", case.file.display());
    let spec = match config::parse(&case.given) {
        Ok(spec) => spec,
        Err(why) => return ("no config".into(), vec![format!("{}: {why:?}", place(1))]),
    };
    let names = Names::of(&spec);
    let lines = match read(case, &names) {
        Ok(lines) => lines,
        Err((number, why)) => return (why.clone(), vec![format!("{}: {why}", place(number))]),
    };
    let scenario = Scenario {
        nodes: names.nodes.clone(),
        cards: spec.nodes.values().map(|node| node.addresses.len()).max().unwrap_or(1),
        text: case.given.clone(),
        removable: Vec::new(),
        faults: Vec::new(),
        changes_config: false,
        copies_machines: false,
        ..Scenario::of_seed(seed)
    };
    let mut world = World::of(scenario, seed, sabotage);
    world.story = Some(Story::default());
    let mut run = Run {
        world,
        copies: BTreeMap::new(),
        names,
        begun: None,
        out: String::new(),
        told: 0,
        times_told: BTreeMap::new(),
    };
    let wrong = run.follow(&lines);
    let wrong = wrong.into_iter().map(|(number, why)| format!("{}: {why}", place(number)));
    (run.end(), wrong.collect())
}

/// The lines of a case; an error has the number of its line.
fn read(case: &Case, names: &Names) -> Result<Vec<Line>, (usize, String)> {
    let mut lines: Vec<Line> = Vec::new();
    for (number, whole) in case.lines() {
        let wrong = |why: String| (number, format!("{whole:?}: {why}"));
        if let Some(instead) = whole.strip_prefix("unmet: ") {
            let before = lines.last_mut().filter(|line| matches!(line.does, Does::Expect(_)));
            let before = before.ok_or_else(|| wrong("no expectation stands before it".into()))?;
            before.unmet = Some(instead.to_owned());
            continue;
        }
        let before = lines.last().map_or(Millis(0), |line| line.at);
        let (at, text) = match gaps(whole, "at {}: {}") {
            Some([at, text]) => (time(at).map_err(wrong)?, text),
            None => (before, whole),
        };
        if at < before {
            return Err(wrong("the line before is later".into()));
        }
        let does = match text.strip_prefix("expect ") {
            Some(text) => expectations::read(text, names).map(Does::Expect),
            None => steps::read(text, names).map(Does::Steps),
        };
        let does = does.map_err(wrong)?;
        lines.push(Line { number, at, text: text.to_owned(), unmet: None, does });
    }
    let expects = lines.iter().any(|line| matches!(line.does, Does::Expect(_)));
    if expects { Ok(lines) } else { Err((case.line, "it expects nothing".into())) }
}

impl Run {
    /// Follows the lines; gives what is wrong, each with the number of its line.
    fn follow(&mut self, lines: &[Line]) -> Vec<(usize, String)> {
        let mut wrong = Vec::new();
        let mut all: Vec<(Millis, &Line, &Step)> = Vec::new();
        for line in lines {
            match &line.does {
                Does::Expect(check) => all.push((line.at, line, check)),
                Does::Steps(steps) => {
                    let at = |after: &Millis| Millis(line.at.0 + after.0);
                    all.extend(steps.iter().map(|(after, step)| (at(after), line, step)));
                }
            }
        }
        all.sort_by_key(|(at, ..)| *at);
        let mut started = false;
        for (at, line, step) in all {
            if !started && at > Millis(0) {
                self.world.start_all();
                started = true;
            }
            let length = Millis(at.0 - self.world.now() / 1_000_000);
            if let Err(why) = self.world.run_for(length) {
                wrong.push((line.number, format!("before {:?}, {why}", line.text)));
                return wrong;
            }
            let is_expectation = matches!(line.does, Does::Expect(_));
            if !is_expectation && at == line.at {
                self.begun.get_or_insert(self.world.now());
                self.tell();
                let _ = writeln!(self.out, "> at {} s: {}", at.0 as f64 / 1e3, line.text);
            }
            match (step(self), &line.unmet) {
                (Ok(()), None) | (Err(_), Some(_)) => {}
                (Ok(()), Some(_)) => {
                    let why = format!("{:?} is met now: take the mark \"unmet\" away", line.text);
                    wrong.push((line.number, why));
                }
                (Err(why), None) => {
                    let now = self.world.now() as f64 / 1e9;
                    wrong.push((line.number, format!("at {now} s not {:?}: {why}", line.text)));
                }
            }
        }
        wrong
    }

    /// Tells what happened since this was last called; nothing of what was before the first step.
    fn tell(&mut self) {
        let told = self.world.story.take().unwrap_or_default();
        for one in &told.told()[self.told..] {
            if self.begun.is_none_or(|begun| one.at < begun) {
                continue;
            }
            let line = self.line(one);
            let words = line.split(' ').filter(|word| word.parse::<f64>().is_err());
            let alike: String = words.collect();
            let known = self.times_told.entry(alike).or_insert((0, line.clone()));
            known.0 += 1;
            if known.0 <= TOLD_MAX {
                let _ = writeln!(self.out, "{:>9.3} s {line}", one.at as f64 / 1e9);
            }
        }
        self.told = told.told().len();
        self.world.story = Some(told);
    }

    fn end(mut self) -> String {
        self.tell();
        for (count, line) in self.times_told.values().filter(|(count, _)| *count > TOLD_MAX) {
            let _ = writeln!(self.out, "{:>9} more like: {line}", count - TOLD_MAX);
        }
        if self.out.is_empty() { "nothing happens".into() } else { self.out }
    }

    /// One thing that happened, in words.
    pub fn line(&self, told: &Told) -> String {
        let name = self.names.of_node(told.by);
        match &told.what {
            What::Says(line) => format!("{name} says: {line}"),
            What::Leads(term) => format!("{name} leads, term {term}"),
            What::LeadsNoMore => format!("{name} leads no more"),
            What::Answers(vip) => format!("{name} answers for {}", self.names.of_vip(*vip)),
            What::IsSilent(vip) => {
                format!("{name} answers for {} no more", self.names.of_vip(*vip))
            }
            What::Fails(planned) => format!("fails: {planned}"),
        }
    }

    pub fn story(&self) -> &Story {
        self.world.story.as_ref().expect("it is told")
    }

    /// From when on something is counted.
    pub fn since(&self, since: Option<u64>) -> u64 {
        since.or(self.begun).unwrap_or(0)
    }

    /// What happened since then.
    pub fn told(&self, since: Option<u64>) -> impl Iterator<Item = &Told> {
        let since = self.since(since);
        self.story().told().iter().filter(move |told| told.at >= since)
    }

    pub fn holders(&self, vip: IpAddr) -> Vec<u64> {
        self.story().holders(vip)
    }

    pub fn told_holders(&self, vip: IpAddr) -> String {
        let names: Vec<String> =
            self.holders(vip).into_iter().map(|id| self.names.of_node(id)).collect();
        if names.is_empty() { "nobody answers".into() } else { format!("on {}", names.join(", ")) }
    }

    pub fn told_leaders(&self) -> String {
        let leaders = self.story().leaders().keys();
        let names: Vec<String> = leaders.map(|id| self.names.of_node(*id)).collect();
        if names.is_empty() { "nobody leads".into() } else { format!("{} leads", names.join(", ")) }
    }
}
