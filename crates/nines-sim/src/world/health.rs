//! How nodes are by their own word, for the goals: whom they follow, why they take no part, and
//! what they say of what does not work.
//!
//! Decides: when the goals look, and what counts as said by the product.

use std::net::IpAddr;

use nines_core::{
    Node,
    wire::{Awaits, Power},
};
use nines_model::{NodeId, Time};

use super::World;
use crate::{
    liveness::{self, Goal},
    observation::{Health, Observation},
};

/// What goals rest on.
pub(super) struct Goals {
    all: Vec<Box<dyn Goal>>,
    /// When they last looked, ns.
    looked: u64,
    /// Since when nothing fails, ns.
    healing: Option<u64>,
    /// When something failed last, or was mended, ns.
    disturbed: u64,
}

impl Default for Goals {
    fn default() -> Self {
        Self { all: liveness::all(), looked: 0, healing: None, disturbed: 0 }
    }
}

impl Goals {
    /// A person has broken what goals rest on.
    pub(super) fn give_up(&mut self) {
        self.all.clear();
    }
}

/// A node that is to be off and is not: no order is under way.
fn is_idle(power: &Power) -> bool {
    power.taken != 0 && power.off.is_none() && power.order.is_none()
}

impl World {
    /// Something fails, or is mended.
    pub fn is_disturbed(&mut self) {
        (self.goals.healing, self.goals.disturbed) = (None, self.now);
        self.changed = true;
    }

    /// Nothing fails from now on.
    pub fn heals(&mut self) {
        self.is_disturbed();
        self.goals.healing = Some(self.now);
    }

    /// Whether nothing fails.
    pub fn is_healing(&self) -> bool {
        self.goals.healing.is_some()
    }

    /// A device switches a machine off, asked at this time, ns. A call from before everything
    /// worked again is a fault that was under way; what was asked later is the cluster's own doing.
    pub(super) fn is_disturbed_by_call(&mut self, at: u64) {
        if self.goals.healing.is_some_and(|since| at < since) {
            self.is_disturbed();
        }
    }

    /// Whether some machine does not run.
    pub fn somebody_is_down(&self) -> bool {
        self.machines.values().any(|machine| machine.node.is_none())
    }

    /// Asks the goals, if it is time.
    pub(super) fn judge_goals(&mut self, seen: &mut Observation) -> Result<(), String> {
        if self.now - self.goals.looked < liveness::EACH.ns() || self.goals.all.is_empty() {
            return Ok(());
        }
        self.goals.looked = self.now;
        seen.healing_ns = self.goals.healing.map(|at| self.now - at);
        seen.quiet_ns = self.now - self.goals.disturbed;
        let members = self.members();
        for (id, node) in &mut seen.nodes {
            node.health = self.health(*id, &members);
        }
        let at = self.now / 1_000_000;
        let mut all = self.goals.all.iter_mut();
        all.try_for_each(|goal| goal.check(seen).map_err(|why| format!("at {at} ms: {why}")))
    }

    /// How a node is; `None`: it does not run.
    fn health(&self, id: u64, members: &[u64]) -> Option<Health> {
        let machine = &self.machines[&id];
        let node = machine.node.as_ref().filter(|_| machine.paused_until <= self.now)?;
        let (now, full) = (self.local(id), node.has_full_disk(NodeId(id)));
        let idle = node.state().fencing.iter().filter(|(_, power)| is_idle(power));
        let can = idle.filter(|(of, _)| node.state().spec.can_fence(&self.name(of.number())));
        let speaks = |of: &NodeId| node.membership().speaks(now, *of, self.lease);
        let unsaid = can.filter(|(of, _)| !speaks(of) && node.power_text(now, **of).is_empty());
        let unfenced = unsaid.map(|(of, _)| of.number()).collect();
        let spec = &node.state().spec;
        let missing = self.vips.iter().filter(|vip| !spec.vips.contains_key(vip));
        Some(Health {
            follows: node.consensus().leader().map(NodeId::number),
            member: members.contains(&id) && !node.is_removed(),
            out: out(node, now),
            doubts: !node.double(now).is_empty(),
            says_full: full,
            unfenced,
            without: missing.copied().collect(),
            why: why(node, now),
        })
    }
}

/// Why a node takes no part, in its own words.
fn out(node: &Node, now: Time) -> Option<String> {
    let broken = node.broken().map(str::to_owned);
    let waits = match node.awaits(now) {
        Awaits::Nothing => None,
        // Enough others vote.
        Awaits::Vote if node.has_enough_voters() => None,
        awaits => Some(awaits.words().to_owned()),
    };
    broken.or(waits)
}

/// What a node says of what does not work: of one VIP, or of all.
fn why(node: &Node, now: Time) -> Vec<(Option<IpAddr>, String)> {
    let me = node.config().id;
    let mut why: Vec<(Option<IpAddr>, String)> = Vec::new();
    let votes = node.consensus().voters();
    let lease = node.state().spec.timing.lease;
    let heard = |id: &&NodeId| **id == me || node.membership().alive(now, **id, lease);
    let count = votes.iter().filter(heard).count();
    if count * 2 <= votes.len() {
        why.push((None, format!("{count} of {} votes heard", votes.len())));
    }
    let doubt = node.doubt(now, me).map(|_| "two agents run as this node".to_owned());
    let said = [out(node, now), node.alone_text(now), doubt, node.clock_trouble(me)];
    why.extend(said.into_iter().flatten().map(|text| (None, text)));
    let blocked = node.blocked().iter();
    why.extend(blocked.map(|(vip, why)| (Some(*vip), why.to_string())));
    why
}
