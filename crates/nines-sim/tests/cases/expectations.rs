//! What must come out of a case: the forms of its lines that begin with "expect".

use std::net::IpAddr;

use nines_model::Switch;
use nines_sim::story::{Told, What};

use super::{
    run::Run,
    steps::Step,
    words::{Names, gaps, number, time},
};

/// The check that an expectation asks for; an error of the check says what is so instead.
pub fn read(text: &str, names: &Names) -> Result<Step, String> {
    // What is counted is counted from the first step on, or from the time that is named.
    let (text, since) = match gaps(text, "{} since {}") {
        Some([text, since]) => (text, Some(time(since)?.ns())),
        None => (text, None),
    };
    for read in [of_holders, of_leaders, of_power, of_nodes] {
        if let Some(check) = read(text, names, since)? {
            return Ok(check);
        }
    }
    Err("is not understood".into())
}

type Read = Result<Option<Step>, String>;

fn check(holds: impl Fn(&Run) -> Result<(), String> + 'static) -> Step {
    Box::new(move |run| holds(run))
}

fn so(holds: bool, instead: String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(instead) }
}

fn of_holders(text: &str, names: &Names, since: Option<u64>) -> Read {
    Ok(Some(if let Some([vip]) = gaps(text, "nobody holds {}") {
        let vip = names.vip(vip)?;
        check(move |run| so(run.holders(vip).is_empty(), run.told_holders(vip)))
    } else if text == "no change of holder" {
        check(move |run| {
            let changes = changes_of_holder(run, since, None);
            so(changes.is_empty(), format!("it changed at {}", changes.join(", ")))
        })
    } else if let Some([vip, most]) = gaps(text, "{} moves at most {}") {
        let most = match gaps(most, "{} times") {
            Some([most]) => number(most)? as usize,
            None if most == "once" => 1,
            None => return Err(format!("{most:?} is no number of times")),
        };
        let vip = names.vip(vip)?;
        check(move |run| {
            let changes = changes_of_holder(run, since, Some(vip));
            so(changes.len() <= most, format!("it changed at {}", changes.join(", ")))
        })
    } else if let Some([vip, most]) = gaps(text, "{} silent for at most {}") {
        let (vip, most) = (names.vip(vip)?, time(most)?.ns());
        check(move |run| {
            let longest = silence(run, since, vip);
            so(longest <= most, format!("nobody answered for {} ms", longest / 1_000_000))
        })
    } else if let Some([node, vip]) = gaps(text, "{} never answers for {}") {
        let (id, vip) = (names.node(node)?, names.vip(vip)?);
        check(move |run| {
            let answers = |told: &Told| told.by == id && told.what == What::Answers(vip);
            let began = run.told(since).find(|told| answers(told));
            so(began.is_none(), began.map_or_else(String::new, |told| at(told.at)))
        })
    } else if text == "every VIP is served" {
        check(|run| so(run.world.serves_everything(), "not all are".into()))
    } else if text == "the copy holds nothing" {
        check(|run| so(!run.world.copy_holds(), "it answers".into()))
    } else if let Some([vip, node]) = gaps(text, "{} on {}")
        && let Ok(vip) = names.vip(vip)
    {
        let id = names.node(node)?;
        check(move |run| so(run.holders(vip) == [id], run.told_holders(vip)))
    } else {
        return Ok(None);
    }))
}

fn of_leaders(text: &str, names: &Names, since: Option<u64>) -> Read {
    Ok(Some(if text == "no change of leader" {
        check(move |run| {
            let leads = |told: &&Told| matches!(told.what, What::Leads(_));
            let began = run.told(since).find(leads);
            so(began.is_none(), began.map_or_else(String::new, |told| run.line(told)))
        })
    } else if text == "nobody leads" {
        check(|run| so(run.story().leaders().is_empty(), run.told_leaders()))
    } else if let Some([node]) = gaps(text, "{} does not lead") {
        let id = names.node(node)?;
        check(move |run| so(!run.story().leaders().contains_key(&id), run.told_leaders()))
    } else if text == "one node leads" {
        check(|run| so(run.story().leaders().len() == 1, run.told_leaders()))
    } else if let Some([node]) = gaps(text, "{} leads") {
        let id = names.node(node)?;
        // One that stands still, or is cut off, may believe to lead an older term.
        check(move |run| {
            let newest = run.story().leaders().iter().max_by_key(|(_, term)| **term);
            so(newest.is_some_and(|(leader, _)| *leader == id), run.told_leaders())
        })
    } else {
        return Ok(None);
    }))
}

fn of_power(text: &str, names: &Names, _: Option<u64>) -> Read {
    let off = |id: u64, wanted: bool| {
        check(move |run| {
            let is = run.world.is_switched_off(id);
            so(is == wanted, format!("it is{}", if is { "" } else { " not" }))
        })
    };
    Ok(Some(if let Some([node]) = gaps(text, "{} is switched off") {
        off(names.node(node)?, true)
    } else if let Some([node]) = gaps(text, "{} is not switched off") {
        off(names.node(node)?, false)
    } else if let Some([count, node]) = gaps(text, "{} calls to switch {} off") {
        let (count, id) = (number(count)? as usize, names.node(node)?);
        check(move |run| {
            let calls = run.world.fence_calls(id, Switch::Off);
            so(calls == count, format!("there were {calls}"))
        })
    } else {
        return Ok(None);
    }))
}

fn of_nodes(text: &str, names: &Names, since: Option<u64>) -> Read {
    Ok(Some(if let Some([node, words]) = gaps(text, "{} says: {}") {
        let (words, nobody) = (words.to_owned(), node == "nobody");
        let id =
            if ["nobody", "somebody"].contains(&node) { None } else { Some(names.node(node)?) };
        check(move |run| {
            let says = |told: &&Told| {
                let line = if let What::Says(line) = &told.what { line.as_str() } else { "" };
                line.contains(&words) && id.is_none_or(|id| id == told.by)
            };
            let said = run.told(since).find(says);
            so(said.is_some() != nobody, said.map_or("nothing like it".into(), |s| run.line(s)))
        })
    } else if let Some([node]) = gaps(text, "{} left") {
        let id = names.node(node)?;
        check(move |run| so(run.world.is_removed(id), "it does not know of it".into()))
    } else if let Some([node]) = gaps(text, "{} has no vote") {
        let id = names.node(node)?;
        check(move |run| so(run.world.retired(id).is_some(), "it takes part".into()))
    } else if let Some([node]) = gaps(text, "{} has a vote") {
        let id = names.node(node)?;
        check(move |run| {
            let why = run.world.retired(id).unwrap_or("it does not run, or has no log");
            so(run.world.retired(id).is_none() && run.world.votes(id), why.to_owned())
        })
    } else if let Some([node]) = gaps(text, "all nodes know that {} runs twice") {
        let id = names.node(node)?;
        check(move |run| so(run.world.everybody_knows_double(id), "not all do".into()))
    } else if text == "the same state on all nodes" {
        check(|run| {
            let states = run.world.states().len();
            so(states == 1, format!("there are {states} states"))
        })
    } else {
        return Ok(None);
    }))
}

fn at(ns: u64) -> String {
    format!("{:.3} s", ns as f64 / 1e9)
}

/// When another node than before began to answer for a VIP.
fn changes_of_holder(run: &Run, since: Option<u64>, of: Option<IpAddr>) -> Vec<String> {
    let mut last = std::collections::BTreeMap::new();
    let mut changes = Vec::new();
    for told in run.story().told() {
        let What::Answers(vip) = told.what else { continue };
        let changed = last.insert(vip, told.by).is_some_and(|before| before != told.by);
        if changed && told.at >= run.since(since) && of.is_none_or(|of| of == vip) {
            changes.push(at(told.at));
        }
    }
    changes
}

/// The longest time in which no kernel answered for a VIP, ns.
fn silence(run: &Run, since: Option<u64>, vip: IpAddr) -> u64 {
    let since = run.since(since);
    let (mut answering, mut silent_since, mut longest) = (0, Some(since), 0);
    for told in run.story().told() {
        match &told.what {
            What::Answers(of) if *of == vip => answering += 1,
            What::IsSilent(of) if *of == vip => answering -= 1,
            _ => continue,
        }
        let from = silent_since.map(|from| told.at.saturating_sub(from));
        if answering > 0 {
            longest = longest.max(from.unwrap_or(0));
            silent_since = None;
        } else {
            silent_since = Some(told.at.max(since));
        }
    }
    longest.max(silent_since.map_or(0, |from| run.world.now() - from))
}
