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
//! 7. A quarantined node keeps what it holds and gets nothing, unless an operator asks for it or
//!    no other director can take it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use nines_model::{NodeName, Refusals, Role, Spec, Unfit, Why};

pub use self::check::check;

mod check;

/// A node as the planner sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    /// Not silent for so long that another node may take its VIPs.
    pub alive: bool,
    /// Heard within its lease. A node that lives and is not heard keeps what it holds and gets
    /// nothing.
    pub heard: bool,
    /// Why its incarnation does not count; it is not alive then.
    pub doubt: Option<Doubt>,
    /// It has no vote yet: it waits for the log.
    pub joining: bool,
    /// It votes no more, and holds nothing.
    pub no_vote: bool,
    /// It is heard and hears too few others to renew what it holds; it is not alive then.
    pub deaf: bool,
    /// Its clock runs at another rate than those of most: it holds nothing, and is not alive.
    pub clock_off: bool,
    /// Its data plane holds the current table.
    pub ready: bool,
    /// It was silent again and again: others go before it.
    pub quarantined: bool,
    /// An operator set it aside.
    pub standby: bool,
    /// An operator wants it to leave the cluster.
    pub removal: bool,
    /// It is stopping.
    pub leaving: bool,
    /// VIPs that it cannot serve, and why.
    pub unable: BTreeMap<IpAddr, Unfit>,
    /// Nodes whose flows it does not have yet: connections through them would be lost on it.
    pub behind: BTreeSet<NodeName>,
}

/// Why the incarnation of a node does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// Two agents run under its identity.
    RunsTwice,
    /// Its state directory was copied or moved, and the other nodes have not confirmed it.
    Unconfirmed,
}

impl NodeView {
    /// Why the node cannot take this VIP, or any VIP at all; `None`: it can. Whether the config
    /// makes it a director is not asked: [`unfit`] does.
    pub fn unfit(&self, vip: Option<IpAddr>) -> Option<Unfit> {
        match (vip.and_then(|vip| self.unable.get(&vip)), self.doubt) {
            _ if self.no_vote => Some(Unfit::NoVote),
            (_, Some(Doubt::RunsTwice)) => Some(Unfit::RunsTwice),
            (_, Some(Doubt::Unconfirmed)) => Some(Unfit::Unconfirmed),
            _ if self.joining => Some(Unfit::Joining),
            _ if self.deaf => Some(Unfit::Deaf),
            _ if self.clock_off => Some(Unfit::Clock),
            _ if !self.alive => Some(Unfit::Silent),
            _ if self.removal => Some(Unfit::Removal),
            _ if self.standby => Some(Unfit::Standby),
            _ if self.leaving => Some(Unfit::Leaving),
            (Some(why), _) => Some(why.clone()),
            _ if self.ready && self.quarantined => Some(Unfit::Quarantined),
            _ if self.ready => None,
            _ if self.heard => Some(Unfit::NotReady),
            _ => Some(Unfit::Unheard),
        }
    }
}

/// Who holds a VIP, by the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// The node that holds it.
    By(NodeName),
    /// This node was asked to release it to the other, or to nobody.
    Releasing(NodeName, Option<NodeName>),
}

/// What is, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// By name; a node that is not here is not alive.
    pub nodes: BTreeMap<NodeName, NodeView>,
    /// VIPs that a node holds.
    pub vips: BTreeMap<IpAddr, Held>,
    /// Moves that operators asked for.
    pub move_requests: BTreeMap<IpAddr, NodeName>,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// No node that is alive holds it: give it to this node.
    Give(IpAddr, NodeName),
    /// A living node holds it: ask it to release it to the other.
    Move(IpAddr, NodeName, NodeName),
    /// It should be elsewhere, or somewhere, but nobody can take it.
    Blocked(IpAddr),
}

/// Steps, each with its reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// At most one a VIP.
    pub steps: Vec<(Step, Why)>,
}

/// What should be done next.
pub fn plan(spec: &Spec, observed: &Observed) -> Plan {
    let mut plan = Plan::default();
    let mut load: BTreeMap<&NodeName, usize> = BTreeMap::new();
    for held in observed.vips.values() {
        if let Held::By(node) | Held::Releasing(_, Some(node)) = held {
            *load.entry(node).or_default() += 1;
        }
    }
    // Where VIPs that others go with will be.
    let mut goals: BTreeMap<IpAddr, &NodeName> = BTreeMap::new();
    let leads = |vip: &&IpAddr| spec.vips[*vip].with.is_none();
    let follow = spec.vips.keys().filter(|vip| !leads(vip));
    for vip in spec.vips.keys().filter(leads).chain(follow) {
        let held = observed.vips.get(vip);
        let step = match (spec.vips[vip].with, held) {
            (Some(with), _) => follow_to(spec, observed, *vip, with, goals.get(&with).copied()),
            (_, None) => give(spec, observed, &load, *vip, None),
            (_, Some(Held::Releasing(from, to))) if !alive(observed, from) => {
                give(spec, observed, &load, *vip, Some((from, to.as_ref())))
            }
            (_, Some(Held::Releasing(..))) => None,
            (_, Some(Held::By(node))) if !alive(observed, node) => {
                give(spec, observed, &load, *vip, Some((node, None)))
            }
            (_, Some(Held::By(node))) => leave(spec, observed, &load, *vip, node),
        };
        let there = match (&step, held) {
            (Some((Step::Give(_, to) | Step::Move(_, _, to), _)), _) => Some(to),
            (_, Some(Held::By(node) | Held::Releasing(_, Some(node)))) => Some(node),
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
    goal: Option<&NodeName>,
) -> Option<(Step, Why)> {
    let unfit = goal.and_then(|goal| refusal_at_need(spec, observed, vip, goal));
    let living = match observed.vips.get(&vip) {
        Some(Held::Releasing(from, _)) if alive(observed, from) => return None,
        Some(Held::By(node)) if alive(observed, node) => Some(node),
        _ => None,
    };
    let follows = |goal: &NodeName| Why::Follows(with, goal.clone());
    match (living, goal, unfit) {
        (Some(node), Some(goal), None) if goal != node => {
            let stays = must_leave(spec, observed, vip, node).is_none();
            let waits = stays && is_behind(observed, goal, node);
            let step = Step::Move(vip, node.clone(), goal.clone());
            (!waits).then(|| (step, follows(goal)))
        }
        (Some(_), ..) => None,
        (None, Some(goal), None) => Some((Step::Give(vip, goal.clone()), follows(goal))),
        (None, Some(goal), Some(unfit)) => {
            Some((Step::Blocked(vip), Why::CannotFollow(with, goal.clone(), unfit)))
        }
        (None, None, _) => Some((Step::Blocked(vip), Why::NothingToFollow(with))),
    }
}

fn alive(observed: &Observed, node: &NodeName) -> bool {
    observed.nodes.get(node).is_some_and(|n| n.alive)
}

/// Whether `node` has not got the flows of `from` yet.
fn is_behind(observed: &Observed, node: &NodeName, from: &NodeName) -> bool {
    observed.nodes.get(node).is_some_and(|view| view.behind.contains(from))
}

/// Why a node cannot take a VIP; `None`: it can. Without a VIP: why it can take none at all. The
/// only place that decides this: plans, status and refused commands all go by it.
pub fn unfit(spec: &Spec, observed: &Observed, vip: Option<IpAddr>, node: &str) -> Option<Unfit> {
    let Some(known) = spec.nodes.get(node) else { return Some(Unfit::NotInConfig) };
    if known.role == Role::Witness {
        return Some(Unfit::Witness);
    }
    observed.nodes.get(node).map_or(Some(Unfit::NotJoined), |view| view.unfit(vip))
}

/// The same for one VIP.
fn refusal(spec: &Spec, observed: &Observed, vip: IpAddr, node: &NodeName) -> Option<Unfit> {
    unfit(spec, observed, Some(vip), node.as_str())
}

/// The same, where no other director may do: a quarantine keeps no VIP without a holder.
fn refusal_at_need(
    spec: &Spec,
    observed: &Observed,
    vip: IpAddr,
    node: &NodeName,
) -> Option<Unfit> {
    refusal(spec, observed, vip, node).filter(|why| *why != Unfit::Quarantined)
}

/// Why a VIP cannot stay on a node that lives. Not being ready (a table is being applied), not
/// being heard for a moment, and a quarantine are no reasons.
fn must_leave(spec: &Spec, observed: &Observed, vip: IpAddr, node: &NodeName) -> Option<Unfit> {
    refusal_at_need(spec, observed, vip, node)
        .filter(|why| !matches!(why, Unfit::NotReady | Unfit::Unheard))
}

fn best<'a>(
    spec: &'a Spec,
    observed: &Observed,
    load: &BTreeMap<&NodeName, usize>,
    vip: IpAddr,
    but: Option<&NodeName>,
) -> Option<&'a NodeName> {
    let prefer = &spec.vips[&vip].prefer;
    let move_request = observed.move_requests.get(&vip);
    let fit = spec.directors().filter(|n| Some(*n) != but);
    let quarantined = |n: &NodeName| refusal(spec, observed, vip, n) == Some(Unfit::Quarantined);
    fit.filter(|n| refusal_at_need(spec, observed, vip, n).is_none()).min_by_key(|n| {
        let behind = but.is_some_and(|from| is_behind(observed, n, from));
        let wished = move_request.is_none_or(|w| w != *n);
        let place = prefer.iter().position(|p| p == *n).unwrap_or(prefer.len());
        let load = load.get(n).copied().unwrap_or(0);
        (quarantined(n), behind, wished, place, load, *n)
    })
}

/// Blocked for this reason, and for what each director lacks.
fn blocked(
    spec: &Spec,
    observed: &Observed,
    vip: IpAddr,
    but: Option<&NodeName>,
    why: Why,
) -> (Step, Why) {
    let others = spec.directors().filter(|n| Some(*n) != but);
    let told = |n: &NodeName| Some((n.clone(), refusal(spec, observed, vip, n)?));
    let others = Refusals(others.filter_map(told).collect());
    (Step::Blocked(vip), Why::NoTaker(Box::new(why), others))
}

fn give(
    spec: &Spec,
    observed: &Observed,
    load: &BTreeMap<&NodeName, usize>,
    vip: IpAddr,
    silent: Option<(&NodeName, Option<&NodeName>)>,
) -> Option<(Step, Why)> {
    let before = silent.map(|(node, _)| node);
    let meant =
        silent.and_then(|(_, to)| to).filter(|to| refusal(spec, observed, vip, to).is_none());
    // One that speaks, and cannot renew what it holds.
    let unfit = |node: &NodeName| match observed.nodes.get(node) {
        Some(view) if view.deaf => Some(Unfit::Deaf),
        Some(view) if view.clock_off => Some(Unfit::Clock),
        _ => None,
    };
    let why = match before.map(|node| (node, unfit(node))) {
        Some((node, Some(unfit))) => Why::HolderUnfit(node.clone(), unfit),
        Some((node, None)) => Why::HolderSilent(node.clone()),
        None => Why::Unheld,
    };
    Some(match meant.or_else(|| best(spec, observed, load, vip, before)) {
        Some(to) => (Step::Give(vip, to.clone()), why),
        None => blocked(spec, observed, vip, before, why),
    })
}

/// Whether a VIP should leave a living holder.
fn leave(
    spec: &Spec,
    observed: &Observed,
    load: &BTreeMap<&NodeName, usize>,
    vip: IpAddr,
    node: &NodeName,
) -> Option<(Step, Why)> {
    let move_request = observed.move_requests.get(&vip).filter(|w| *w != node);
    if let Some(to) = move_request.filter(|w| refusal_at_need(spec, observed, vip, w).is_none()) {
        if is_behind(observed, to, node) && must_leave(spec, observed, vip, node).is_none() {
            return Some((Step::Blocked(vip), Why::Waits(to.clone(), node.clone())));
        }
        let step = Step::Move(vip, node.clone(), to.clone());
        return Some((step, Why::Asked));
    }
    let why = Why::HolderUnfit(node.clone(), must_leave(spec, observed, vip, node)?);
    Some(match best(spec, observed, load, vip, Some(node)) {
        Some(to) => (Step::Move(vip, node.clone(), to.clone()), why),
        None => blocked(spec, observed, vip, Some(node), why),
    })
}

#[cfg(test)]
mod tests;
