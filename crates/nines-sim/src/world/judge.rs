//! What is true in the world now: who answers, and whether an invariant is broken.
//!
//! Asked of the simulated kernels and disks, never of what a node believes.

use std::{collections::BTreeMap, net::IpAddr};

use nines_core::{snapshot, state::State};

use super::{FOUNDERS, NAMES, Sabotage, World};
use crate::observation::{NodeFacts, Observation};

impl World {
    pub(super) fn answers(&self, id: u64) -> BTreeMap<IpAddr, u64> {
        let kernel = &self.machines[&id].kernel;
        let now = self.local(id);
        let guarded = |vip: &IpAddr| {
            self.sabotage == Sabotage::GuardIgnored
                || kernel.guards.get(vip).is_some_and(|deadline| now < *deadline)
        };
        let here = kernel.addresses.iter().filter(|vip| guarded(vip));
        here.map(|vip| (*vip, kernel.tokens.get(vip).copied().unwrap_or(0))).collect()
    }

    pub(super) fn judge(&mut self) -> Result<(), String> {
        let mut seen =
            Observation { now: self.now, lease_ns: self.lease.ns(), ..Observation::default() };
        let all: Vec<u64> =
            self.machines.keys().copied().filter(|id| *id != super::copies::COPY).collect();
        for id in all.clone() {
            let others: Vec<u64> = all.iter().copied().filter(|o| *o != id).collect();
            let deaf = others.iter().all(|o| {
                self.cut.contains(&(*o, id))
                    || self.machines[o].node.is_none()
                    || self.machines[o].paused_until > self.now
            });
            let answers = self.answers(id);
            let now = self.now;
            let machine = self.machines.get_mut(&id).expect("three machines");
            let stopped = machine.node.is_none() || machine.paused_until > now;
            if machine.replaced_in_place || !(stopped || deaf) {
                machine.alone_since = None;
            } else {
                machine.alone_since.get_or_insert(now);
            }
            if let Some(node) = &machine.node
                && node.state().applied != machine.state_seen.0
            {
                let hash = self.older.hash_of_state(&snapshot::encode(node.state()));
                machine.state_seen = (node.state().applied, hash);
            }
            let node = machine.node.as_ref();
            let facts = NodeFacts {
                leads: node.filter(|n| n.consensus().is_leader()).map(|n| n.consensus().term()),
                committed: node.map_or(0, |n| n.consensus().committed()),
                applied: node.map(|_| machine.state_seen),
                durable: machine.disk.entries.iter().map(|e| (e.index, e.term)).collect(),
                durable_snapshot: machine.disk.snapshot.index,
                founder: id <= FOUNDERS,
                answers,
                holdings: node.map(|n| holdings(&self.vips, n.state())).unwrap_or_default(),
                // A long lease for a planned restart is meant to outlast the process.
                alone_ns: machine
                    .alone_since
                    .map_or(0, |since| now - since)
                    .saturating_sub(self.long_lease_ns()),
            };
            seen.nodes.insert(id, facts);
        }
        if self.machines.contains_key(&super::copies::COPY) {
            seen.copy_answers = self.answers(super::copies::COPY);
        }
        for (id, node) in &seen.nodes {
            for vip in node.answers.keys() {
                if self.answering.insert(*vip, *id).is_some_and(|before| before != *id) {
                    self.moves += 1;
                }
            }
        }
        for invariant in &mut self.invariants {
            invariant
                .check(&seen)
                .map_err(|why| format!("at {} ms: {why}", self.now / 1_000_000))?;
        }
        Ok(())
    }

    /// Planned restarts in this world ask for 2 s; while any may be out, silence comes later.
    fn long_lease_ns(&self) -> u64 {
        if self.restarts_drawn() { 2_100_000_000 } else { 0 }
    }

    fn restarts_drawn(&self) -> bool {
        self.sabotage == Sabotage::None
    }

    /// Where every node stands, when `NINES_SIM_LOG` is set.
    pub fn describe_if_verbose(&self) {
        if self.verbose {
            self.describe();
        }
    }

    /// Where every node stands.
    pub fn describe(&self) {
        for (id, machine) in &self.machines {
            let Some(node) = &machine.node else {
                eprintln!("{id}: down");
                continue;
            };
            let c = node.consensus();
            eprintln!(
                "{id}: term {} leader {} committed {} applied {} last {:?} waiting {} [{}] holds {:?} answers {:?}",
                c.term(),
                c.leader(),
                c.committed(),
                c.applied_index(),
                c.last(),
                node.waiting(),
                c.progress(),
                node.state().vips,
                self.answers(*id),
            );
        }
    }

    /// Every VIP is answered for by exactly one node, and by the one it goes with another on.
    pub fn serves_everything(&self) -> bool {
        let spec = nines_model::config::parse(&self.text).expect("it was read before");
        let all: Vec<(IpAddr, u64)> = self
            .machines
            .keys()
            .copied()
            .filter(|id| *id != super::copies::COPY)
            .flat_map(|id| self.answers(id).into_keys().map(move |vip| (vip, id)))
            .collect();
        let by: BTreeMap<IpAddr, u64> = all.iter().copied().collect();
        let together = spec.vips.iter().all(|(vip, wanted)| {
            by.contains_key(vip) && wanted.with.is_none_or(|with| by.get(&with) == by.get(vip))
        });
        all.len() == spec.vips.len() && by.len() == spec.vips.len() && together
    }
}

/// Where each of the world's VIPs stands in a node's state.
fn holdings(vips: &[IpAddr], state: &State) -> BTreeMap<IpAddr, (u64, Option<u64>)> {
    let stands = |vip: &IpAddr| match state.vips.get(vip) {
        Some(held) => {
            (held.token(), (1..).zip(NAMES).find(|(_, n)| *n == held.node()).map(|(id, _)| id))
        }
        None => (state.applied, None),
    };
    vips.iter().map(|vip| (*vip, stands(vip))).collect()
}
