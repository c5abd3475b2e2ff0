//! What a node says of the cards that its VIPs are on.
//!
//! Decides: for which VIPs a node is unfit, by what it said of itself in the log, and what is told
//! of that to people. Which node then holds them is the planner's; a holder that is unfit keeps
//! what no other can serve.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use nines_model::{Millis, NodeId, Time, reason};

use super::Node;
use crate::{
    event_log::EventKind,
    wire::{Facts, Unfit, command::Kind, unpack},
};

/// More VIPs than these are told together.
const ONE_BY_ONE: usize = 3;

/// "10.0.0.100, 10.0.0.101, 10.0.0.102 and 47 more".
fn names(vips: &[IpAddr]) -> String {
    let first: Vec<String> = vips.iter().take(ONE_BY_ONE).map(ToString::to_string).collect();
    match vips.len().saturating_sub(ONE_BY_ONE) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

/// The reason of each VIP that a node cannot serve.
fn reasons(unfit: &[Unfit]) -> BTreeMap<IpAddr, &str> {
    let of = |one: &'_ Unfit| one.vips.iter().filter_map(|v| unpack(v)).collect::<Vec<_>>();
    unfit.iter().flat_map(|one| of(one).into_iter().map(|vip| (vip, one.why.as_str()))).collect()
}

/// How often facts are written that changed.
const WRITTEN_EVERY: Millis = Millis(1_000);

/// What this node knows about its machine.
#[derive(Default)]
pub(super) struct OwnFacts {
    facts: Option<Facts>,
    /// They are not written to the log before.
    after: Time,
    /// Directors whose flows are not all in this node's tables yet.
    behind: BTreeSet<NodeId>,
}

impl OwnFacts {
    pub(super) fn behind_of(&mut self, nodes: BTreeSet<NodeId>) {
        self.behind = nodes;
    }
}

impl Node {
    /// What this node knows about its machine, in the log or not yet.
    pub fn facts(&self) -> Option<&Facts> {
        self.facts.facts.as_ref()
    }

    /// Nodes whose flows this one does not have yet.
    pub fn behind(&self) -> &BTreeSet<NodeId> {
        &self.facts.behind
    }

    /// Writes what this node knows about its machine to the log, where the log says otherwise.
    pub(super) fn flush_facts(&mut self, now: Time) {
        let known = self.state.members.facts().get(&self.config.name);
        if now >= self.facts.after
            && self.facts().is_some()
            && self.facts() != known
            && self.state.members.contains_key(&self.config.id)
        {
            self.facts.after = now.plus(WRITTEN_EVERY);
            let facts = self.facts().cloned().expect("seen above");
            self.propose_own(now, Kind::Facts(facts), String::new());
        }
    }

    /// VIPs that a node cannot serve, and why.
    pub(super) fn unfit_by_its_cards(&self, node: &str) -> BTreeMap<IpAddr, reason::Unfit> {
        let unfit = self.state.members.facts().get(node).map_or(&[][..], |f| &f.unfit);
        let told = reasons(unfit).into_iter();
        told.map(|(vip, why)| (vip, reason::Unfit::CannotServe(why.to_owned()))).collect()
    }

    /// What this node learned about itself.
    pub(super) fn facts_changed(&mut self, now: Time, facts: Facts) {
        let before = self.facts.facts.replace(facts);
        let before = before.map(|f| f.unfit).unwrap_or_default();
        let after = self.facts().map(|f| f.unfit.clone()).unwrap_or_default();
        if before == after {
            return;
        }
        let (before, after) = (reasons(&before), reasons(&after));
        let mut lost: BTreeMap<&str, Vec<IpAddr>> = BTreeMap::new();
        for (vip, why) in after.iter().filter(|(vip, why)| before.get(vip) != Some(why)) {
            lost.entry(why).or_default().push(*vip);
        }
        let good = before.keys().filter(|vip| !after.contains_key(vip));
        let good: Vec<IpAddr> = good.copied().collect();
        let me = self.config.name.to_string();
        for (why, vips) in lost {
            let text = format!("{me} cannot serve {}: {why}", names(&vips));
            self.record_event(now, EventKind::CardDown, me.clone(), text, "auto", String::new());
        }
        if !good.is_empty() {
            let text = format!("{me} can serve {} again", names(&good));
            self.record_event(now, EventKind::CardUp, me, text, "auto", String::new());
        }
    }

    /// VIPs that went are back: the neighbours are told again, and people.
    pub(super) fn restored(&mut self, now: Time, vips: &[IpAddr], how: &str) {
        let me = self.config.name.to_string();
        for vip in vips {
            self.own_vips.announce(now, *vip);
        }
        if vips.len() > ONE_BY_ONE {
            let text = format!("{} on {me} were {how}; put back", names(vips));
            self.record_event(now, EventKind::AddressRestored, me, text, "auto", String::new());
            return;
        }
        for vip in vips {
            let text = format!("{vip} on {me} was {how}; put back");
            self.record_vip_event(now, *vip, EventKind::AddressRestored, text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_vips_are_told_in_one_line() {
        let vips: Vec<IpAddr> = (1..=50).map(|n| IpAddr::from([10, 0, 0, n])).collect();
        assert_eq!(names(&vips[..2]), "10.0.0.1, 10.0.0.2");
        assert_eq!(names(&vips), "10.0.0.1, 10.0.0.2, 10.0.0.3 and 47 more");
    }

    #[test]
    fn reasons_are_by_vip() {
        let vip: IpAddr = "10.0.0.1".parse().unwrap();
        let why = "eth1 is down".to_owned();
        let unfit = [Unfit { why, vips: vec![crate::wire::pack(vip), vec![1, 2]] }];
        assert_eq!(reasons(&unfit), [(vip, "eth1 is down")].into());
    }
}
