//! Ring 0: `plan(&Spec, &Observed) -> Plan`.
//!
//! Decides: which director should hold which VIP, and says why for each step and each refusal.
//! Does not decide when a node counts as alive, and carries nothing out. [`check`] judges plans
//! and was written from the rules below, not from the planner:
//!
//! 1. A VIP stays where it is while its holder is alive and fit (no failback).
//! 2. A move request (`nines move`) goes before preference, preference before evenness.
//! 3. Nobody is given a VIP who is not alive, ready, fit and a director.
//! 4. A living holder is asked to release; only a silent one is overruled, and the lease rule
//!    makes that wait (in nines-core).
//! 5. An operator's move waits until the node has the flows of the one that holds the VIP; where
//!    it has to go somewhere, a node that has them goes before one that has not.
//! 6. A source of full NAT is where its VIP is, as soon as it can be there.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use nines_model::{Role, Spec};

/// A node as the planner sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    /// Heard from within its lease.
    pub alive: bool,
    /// It has no vote yet: it waits for the log.
    pub joining: bool,
    /// It votes no more, and holds nothing.
    pub no_vote: bool,
    /// Its data plane holds the current table.
    pub ready: bool,
    /// An operator set it aside.
    pub standby: bool,
    /// It is stopping.
    pub leaving: bool,
    /// VIPs that it cannot serve, and why: "cannot serve it: eth1 has no carrier".
    pub unable: BTreeMap<IpAddr, String>,
    /// Nodes whose flows it does not have yet: connections through them would be lost on it.
    pub behind: BTreeSet<String>,
}

/// The holder of a VIP, by the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// The node that holds it.
    By(String),
    /// This node was asked to release it to the other.
    Releasing(String, String),
}

/// What is, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// By name; a node that is not here is not alive.
    pub nodes: BTreeMap<String, NodeView>,
    /// VIPs that a node holds.
    pub vips: BTreeMap<IpAddr, Held>,
    /// Moves that operators asked for.
    pub move_requests: BTreeMap<IpAddr, String>,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// No node that is alive holds it: give it to this node.
    Give(IpAddr, String),
    /// A living node holds it: ask it to release it to the other.
    Move(IpAddr, String, String),
    /// It should be elsewhere, or somewhere, but nobody can take it.
    Blocked(IpAddr),
}

/// Steps, each with its reason in words for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// At most one a VIP.
    pub steps: Vec<(Step, String)>,
}

/// What should be done next.
pub fn plan(spec: &Spec, observed: &Observed) -> Plan {
    let mut plan = Plan::default();
    let mut load: BTreeMap<&str, usize> = BTreeMap::new();
    for held in observed.vips.values() {
        let (Held::By(node) | Held::Releasing(_, node)) = held;
        *load.entry(node).or_default() += 1;
    }
    // Where VIPs that others go with will be.
    let mut goals: BTreeMap<IpAddr, &str> = BTreeMap::new();
    let leads = |vip: &&IpAddr| spec.vips[*vip].with.is_none();
    let follow = spec.vips.keys().filter(|vip| !leads(vip));
    for vip in spec.vips.keys().filter(leads).chain(follow) {
        let held = observed.vips.get(vip);
        let step = match (spec.vips[vip].with, held) {
            (Some(with), _) => follow_to(spec, observed, *vip, with, goals.get(&with).copied()),
            (_, None) => give(spec, observed, &load, *vip, None),
            (_, Some(Held::Releasing(from, to))) if !alive(observed, from) => {
                give(spec, observed, &load, *vip, Some((from, Some(to))))
            }
            (_, Some(Held::Releasing(..))) => None,
            (_, Some(Held::By(node))) if !alive(observed, node) => {
                give(spec, observed, &load, *vip, Some((node, None)))
            }
            (_, Some(Held::By(node))) => leave(spec, observed, &load, *vip, node),
        };
        let there = match (&step, held) {
            (Some((Step::Give(_, to) | Step::Move(_, _, to), _)), _) => Some(to),
            (_, Some(Held::By(node) | Held::Releasing(_, node))) => Some(node),
            _ => None,
        };
        if let Some((name, _)) = there.and_then(|node| observed.nodes.get_key_value(node)) {
            goals.insert(*vip, name);
            if matches!(step, Some((Step::Give(..) | Step::Move(..), _))) {
                *load.entry(name).or_default() += 1;
            }
        }
        plan.steps.extend(step);
    }
    plan
}

/// One that goes with another goes nowhere else: there nobody has use for it, and where it could
/// not start it is tried again.
fn follow_to(
    spec: &Spec,
    observed: &Observed,
    vip: IpAddr,
    with: IpAddr,
    goal: Option<&str>,
) -> Option<(Step, String)> {
    let fit = goal.filter(|goal| refusal(spec, observed, vip, goal).is_none());
    let living = match observed.vips.get(&vip) {
        Some(Held::Releasing(from, _)) if alive(observed, from) => return None,
        Some(Held::By(node)) if alive(observed, node) => Some(node),
        _ => None,
    };
    match (living, fit, goal) {
        (Some(node), Some(goal), _) if goal != node => {
            let stays = must_leave(spec, observed, vip, node).is_none();
            let waits = stays && is_behind(observed, goal, node);
            let step = Step::Move(vip, node.clone(), goal.to_owned());
            (!waits).then(|| (step, format!("{with} is on {goal}")))
        }
        (Some(_), ..) => None,
        (None, Some(goal), _) => {
            Some((Step::Give(vip, goal.to_owned()), format!("{with} is on {goal}")))
        }
        (None, None, Some(goal)) => {
            let why = refusal(spec, observed, vip, goal).map_or("cannot".into(), |u| u.to_string());
            Some((Step::Blocked(vip), format!("{with} is on {goal}, which {why}")))
        }
        (None, None, None) => Some((Step::Blocked(vip), format!("no director holds {with}"))),
    }
}

fn alive(observed: &Observed, node: &str) -> bool {
    observed.nodes.get(node).is_some_and(|n| n.alive)
}

/// Whether `node` has not got the flows of `from` yet.
fn is_behind(observed: &Observed, node: &str, from: &str) -> bool {
    observed.nodes.get(node).is_some_and(|view| view.behind.contains(from))
}

/// Why a node cannot take a VIP; its words follow the node's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit<'a> {
    /// The config does not name it.
    Unknown,
    /// It votes and carries nothing.
    Witness,
    /// It votes no more.
    NoVote,
    /// It has no vote yet.
    Joining,
    /// Not heard from within its lease.
    Silent,
    /// An operator set it aside.
    Standby,
    /// It is stopping.
    Leaving,
    /// It cannot serve this VIP, as it says itself.
    Unable(&'a str),
    /// Its data plane does not hold the current table.
    NotReady,
}

impl std::fmt::Display for Unfit<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unknown => "is not in the cluster's file",
            Self::Witness => "is a witness",
            Self::NoVote => "votes no more",
            Self::Joining => "is joining, it has no vote yet",
            Self::Silent => "is silent",
            Self::Standby => "is on standby",
            Self::Leaving => "is stopping",
            Self::Unable(why) => why,
            Self::NotReady => "is not ready",
        })
    }
}

/// Why a node cannot take a VIP; `None`: it can. Without a VIP: why it can take none at all.
pub fn unfit<'a>(
    spec: &Spec,
    observed: &'a Observed,
    vip: Option<IpAddr>,
    node: &str,
) -> Option<Unfit<'a>> {
    let Some(known) = spec.nodes.get(node) else { return Some(Unfit::Unknown) };
    if known.role == Role::Witness {
        return Some(Unfit::Witness);
    }
    let seen = observed.nodes.get(node);
    if seen.is_some_and(|view| view.no_vote) {
        return Some(Unfit::NoVote);
    }
    if seen.is_some_and(|view| view.joining) {
        return Some(Unfit::Joining);
    }
    let Some(view) = seen.filter(|view| view.alive) else { return Some(Unfit::Silent) };
    match vip.and_then(|vip| view.unable.get(&vip)) {
        _ if view.standby => Some(Unfit::Standby),
        _ if view.leaving => Some(Unfit::Leaving),
        Some(why) => Some(Unfit::Unable(why)),
        None => (!view.ready).then_some(Unfit::NotReady),
    }
}

/// The same for one VIP.
fn refusal<'a>(spec: &Spec, observed: &'a Observed, vip: IpAddr, node: &str) -> Option<Unfit<'a>> {
    unfit(spec, observed, Some(vip), node)
}

/// Why a VIP cannot stay on a node that lives. Not being ready for a moment (a table is being
/// applied) is no reason.
fn must_leave<'a>(
    spec: &Spec,
    observed: &'a Observed,
    vip: IpAddr,
    node: &str,
) -> Option<Unfit<'a>> {
    refusal(spec, observed, vip, node).filter(|why| *why != Unfit::NotReady)
}

fn best<'a>(
    spec: &'a Spec,
    observed: &Observed,
    load: &BTreeMap<&str, usize>,
    vip: IpAddr,
    but: Option<&str>,
) -> Option<&'a str> {
    let prefer = &spec.vips[&vip].prefer;
    let move_request = observed.move_requests.get(&vip);
    let fit = spec.directors().filter(|n| Some(*n) != but);
    fit.filter(|n| refusal(spec, observed, vip, n).is_none()).min_by_key(|n| {
        let behind = but.is_some_and(|from| is_behind(observed, n, from));
        let wished = move_request.is_none_or(|w| w != n);
        let place = prefer.iter().position(|p| p == n).unwrap_or(prefer.len());
        (behind, wished, place, load.get(n).copied().unwrap_or(0), *n)
    })
}

fn refusals(spec: &Spec, observed: &Observed, vip: IpAddr, but: Option<&str>) -> String {
    let told: Vec<String> = spec
        .directors()
        .filter(|n| Some(*n) != but)
        .filter_map(|n| refusal(spec, observed, vip, n).map(|why| format!("{n} {why}")))
        .collect();
    if told.is_empty() { "there is no other director".into() } else { told.join(", ") }
}

fn give(
    spec: &Spec,
    observed: &Observed,
    load: &BTreeMap<&str, usize>,
    vip: IpAddr,
    silent: Option<(&str, Option<&String>)>,
) -> Option<(Step, String)> {
    let before = silent.map(|(node, _)| node);
    let meant = silent
        .and_then(|(_, to)| to)
        .filter(|to| refusal(spec, observed, vip, to).is_none())
        .map(String::as_str);
    let why = match before {
        Some(node) => format!("{node} is silent"),
        None => "no director held it".to_owned(),
    };
    match meant.or_else(|| best(spec, observed, load, vip, before)) {
        Some(to) => Some((Step::Give(vip, to.to_owned()), why)),
        None => {
            let others = refusals(spec, observed, vip, before);
            Some((Step::Blocked(vip), format!("{why}, and {others}")))
        }
    }
}

/// Whether a VIP should leave a living holder.
fn leave(
    spec: &Spec,
    observed: &Observed,
    load: &BTreeMap<&str, usize>,
    vip: IpAddr,
    node: &str,
) -> Option<(Step, String)> {
    let move_request = observed.move_requests.get(&vip).filter(|w| w.as_str() != node);
    if let Some(to) = move_request.filter(|w| refusal(spec, observed, vip, w).is_none()) {
        if is_behind(observed, to, node) && must_leave(spec, observed, vip, node).is_none() {
            let why = format!("{to} has not got all connections of {node} yet");
            return Some((Step::Blocked(vip), why));
        }
        let step = Step::Move(vip, node.to_owned(), to.clone());
        return Some((step, "an operator asked for it".to_owned()));
    }
    let why = must_leave(spec, observed, vip, node)?;
    let why = format!("{node} {why}");
    match best(spec, observed, load, vip, Some(node)) {
        Some(to) => Some((Step::Move(vip, node.to_owned(), to.to_owned()), why)),
        None => {
            let others = refusals(spec, observed, vip, Some(node));
            Some((Step::Blocked(vip), format!("{why}, but {others}")))
        }
    }
}

/// Judges a plan by the rules in the header of this file. An error names the broken rule.
pub fn check(spec: &Spec, observed: &Observed, plan: &Plan) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for (step, why) in &plan.steps {
        let (Step::Give(vip, _) | Step::Move(vip, ..) | Step::Blocked(vip)) = step;
        if !seen.insert(*vip) {
            return Err(format!("two steps for {vip}"));
        }
        if why.is_empty() {
            return Err(format!("no reason for {step:?}"));
        }
        let lives = |n: &str| observed.nodes.get(n).is_some_and(|v| v.alive);
        let fit = |n: &str| is_fit(spec, observed, *vip, n);
        let holder = observed.vips.get(vip).map(|(Held::By(n) | Held::Releasing(n, _))| n);
        let led = spec.vips.get(vip).and_then(|v| v.with).and_then(|w| place(observed, plan, w));
        match step {
            Step::Give(_, to) if !fit(to) => return Err(format!("rule 3: {to} is not fit")),
            Step::Give(_, to) if spec.vips[vip].with.is_some() && led != Some(to) => {
                return Err(format!("rule 6: {vip} is given to {to}, what it goes with is not"));
            }
            Step::Give(..) if holder.is_some_and(|n| lives(n)) => {
                return Err(format!("rule 4: {vip} is taken from a living node"));
            }
            Step::Move(_, _, to) if !fit(to) => return Err(format!("rule 3: {to} is not fit")),
            Step::Move(_, from, _) if holder != Some(from) || !lives(from) => {
                return Err(format!("rule 4: {from} cannot release {vip}"));
            }
            Step::Move(_, from, to)
                if may_stay(spec, observed, *vip, from)
                    && observed.nodes[to].behind.contains(from) =>
            {
                return Err(format!("rule 5: {to} has not got the flows of {from}"));
            }
            Step::Move(_, from, to) => {
                let wished = observed.move_requests.get(vip) == Some(to);
                let unfit = observed.nodes[from].standby
                    || observed.nodes[from].leaving
                    || observed.nodes[from].joining
                    || observed.nodes[from].no_vote
                    || observed.nodes[from].unable.contains_key(vip)
                    || spec.nodes.get(from).is_none_or(|n| n.role == Role::Witness);
                if !wished && !unfit && led != Some(to) {
                    return Err(format!("rule 1: {vip} leaves {from} without need"));
                }
            }
            Step::Blocked(_) => {
                let waits = |n: &str| {
                    let stays = |h: &str| may_stay(spec, observed, *vip, h);
                    let has = |h: &String| stays(h) && observed.nodes[n].behind.contains(h);
                    holder.is_some_and(has)
                        && observed.move_requests.get(vip).is_some_and(|w| w == n)
                };
                let follows = spec.vips.get(vip).is_some_and(|v| v.with.is_some());
                let allowed = |n: &str| !follows || led.is_some_and(|led| led == n);
                let could =
                    |n: &&str| fit(n) && allowed(n) && holder.is_none_or(|h| h != n) && !waits(n);
                if let Some(n) = spec.directors().find(could)
                    && !observed.move_requests.get(vip).is_some_and(|w| waits(w))
                {
                    return Err(format!("{vip} is called blocked, but {n} could take it"));
                }
            }
            Step::Give(..) => {}
        }
    }
    for (vip, wanted) in &spec.vips {
        if let Some(Held::By(holder)) = observed.vips.get(vip)
            && let Some(led) = wanted.with.and_then(|with| place(observed, plan, with))
            && led != holder
            && place(observed, plan, *vip) != Some(led)
            && is_fit(spec, observed, *vip, led)
            && observed.nodes.get(holder).is_some_and(|n| n.alive)
            && !observed.nodes[led].behind.contains(holder)
        {
            return Err(format!("rule 6: {vip} stays on {holder}, what it goes with is on {led}"));
        }
        if !observed.vips.contains_key(vip) && !seen.contains(vip) {
            return Err(format!("nobody holds {vip} and the plan is silent"));
        }
    }
    Ok(())
}

/// Fit, but for being ready.
fn may_stay(spec: &Spec, observed: &Observed, vip: IpAddr, node: &str) -> bool {
    spec.nodes.get(node).is_some_and(|s| s.role == Role::Director)
        && observed.nodes.get(node).is_some_and(|v| {
            let votes = !v.joining && !v.no_vote;
            v.alive && votes && !v.standby && !v.leaving && !v.unable.contains_key(&vip)
        })
}

fn is_fit(spec: &Spec, observed: &Observed, vip: IpAddr, node: &str) -> bool {
    may_stay(spec, observed, vip, node) && observed.nodes.get(node).is_some_and(|v| v.ready)
}

/// Where a VIP is once the plan is carried out.
fn place<'a>(observed: &'a Observed, plan: &'a Plan, vip: IpAddr) -> Option<&'a String> {
    let stepped = plan.steps.iter().find_map(|(step, _)| match step {
        Step::Give(v, to) | Step::Move(v, _, to) if *v == vip => Some(to),
        _ => None,
    });
    let held = observed.vips.get(&vip).map(|(Held::By(n) | Held::Releasing(_, n))| n);
    stepped.or(held)
}

#[cfg(test)]
mod tests;
