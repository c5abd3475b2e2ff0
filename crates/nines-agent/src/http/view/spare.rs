//! Which directors could take a VIP over now, if its holder died.
//!
//! Decides: what "ready to take over" means. The planner says who is fit (alive, table in place,
//! not on standby, not leaving, able); this adds what only matters when the holder is gone: a vote,
//! the log, the connections, and a majority of votes without the holder.

use std::{collections::BTreeSet, net::IpAddr};

use nines_core::Node;
use nines_model::{NodeId, NodeName, Refusals, Time, Unfit};
use nines_planner::{NodeView, Observed, unfit};

use super::votes;

/// Log entries that a node may lag behind and still count as caught up.
const LAG_MAX: u64 = 64;

/// The cluster as the planner sees it, and its votes.
pub struct Spares<'a> {
    node: &'a Node,
    observed: Observed,
    voters: Vec<NodeId>,
    living: BTreeSet<NodeId>,
}

impl<'a> Spares<'a> {
    /// As `node` sees them.
    pub fn new(node: &'a Node, now: Time) -> Self {
        let (voters, living) = (node.consensus().voters(), votes(node, now));
        Self { node, observed: node.observed(now), voters, living }
    }

    /// What this node knows of a member; `None`: it is none.
    pub fn member(&self, name: &str) -> Option<&NodeView> {
        self.observed.nodes.get(name)
    }

    fn id(&self, name: &str) -> Option<NodeId> {
        self.node.state().member(name).map(|member| member.id())
    }

    /// Why the living votes without those of `holder` are no majority; `None`: they are one.
    pub fn no_majority_without(&self, holder: &str) -> Option<String> {
        let gone = self.id(holder);
        let left = self.living.iter().filter(|id| Some(**id) != gone).count();
        let all = self.voters.len();
        (left * 2 <= all)
            .then(|| format!("without {holder}, {left} of {all} votes would be left, no majority"))
    }

    /// Why `name` could not take `vip` over now; `None`: it could, given a majority.
    fn unfit(&self, vip: IpAddr, name: &str) -> Option<Unfit> {
        let state = self.node.state();
        if let Some(why) = unfit(&state.spec, &self.observed, Some(vip), name) {
            return Some(why);
        }
        let id = self.id(name)?;
        let applied = self.node.membership().peer(id).map_or(state.applied, |p| p.beat.applied());
        if state.applied.since(applied) > LAG_MAX {
            return Some(Unfit::OldLog);
        }
        let behind = self.observed.nodes.get(name).map(|view| &view.behind);
        let alive = |other: &&NodeName| self.observed.nodes.get(*other).is_some_and(|n| n.alive);
        behind.and_then(|all| all.iter().find(alive)).map(|other| Unfit::Behind(other.clone()))
    }

    /// Whether a fit director would get a majority if one of the holders died.
    pub fn has_majority(&self, name: &str) -> bool {
        let holders: BTreeSet<&NodeName> =
            self.node.state().vips.values().map(|h| h.node()).filter(|h| **h != *name).collect();
        let any = holders.iter().any(|holder| self.no_majority_without(holder.as_str()).is_none());
        holders.is_empty() || any
    }

    /// Directors that could take `vip` over from `holder` now, or why none could.
    pub fn of(&self, vip: IpAddr, holder: &NodeName) -> (Vec<String>, String) {
        let spec = &self.node.state().spec;
        if let Some(why) = self.no_majority_without(holder.as_str()) {
            return (Vec::new(), why);
        }
        let (mut fit, mut unfit) = (Vec::new(), Vec::new());
        // A quarantined one takes over where no other can.
        let mut at_need = Vec::new();
        for name in spec.directors().filter(|name| *name != holder) {
            match self.unfit(vip, name.as_str()) {
                None => fit.push(name.to_string()),
                Some(Unfit::Quarantined) => at_need.push(name.to_string()),
                Some(why) => unfit.push((name.clone(), why)),
            }
        }
        if fit.is_empty() {
            fit = at_need;
        }
        let why = if fit.is_empty() { Refusals(unfit).to_string() } else { String::new() };
        (fit, why)
    }
}
