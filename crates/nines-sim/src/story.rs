//! What happens in a world, for people: who leads, whose kernel answers, what nodes say.
//!
//! Decides nothing. Who leads is what nodes believe of themselves; who answers is the truth.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{observation::Observation, scenario::Planned};

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// True time, ns.
    pub at: u64,
    /// Number of the machine.
    pub by: u64,
    /// What it did.
    pub what: What,
}

/// What a machine did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// It wrote this line to its log.
    Says(String),
    /// It leads, in this term.
    Leads(u64),
    /// It leads no more.
    LeadsNoMore,
    /// Its kernel answers for a VIP.
    Answers(IpAddr),
    /// Its kernel answers for the VIP no more.
    IsSilent(IpAddr),
    /// This goes wrong.
    Fails(Planned),
}

/// All that was told so far.
#[derive(Clone, Debug, Default)]
pub struct Story {
    told: Vec<Told>,
    leads: BTreeMap<u64, u64>,
    answers: BTreeSet<(IpAddr, u64)>,
}

impl Story {
    /// A node wrote a line to its log.
    pub(crate) fn says(&mut self, at: u64, by: u64, line: String) {
        self.told.push(Told { at, by, what: What::Says(line) });
    }

    /// A fault of the plan happens.
    pub(crate) fn fails(&mut self, at: u64, planned: &Planned) {
        let what = What::Fails(planned.clone());
        self.told.push(Told { at, by: planned.node, what });
    }

    /// Tells what has changed since the last look.
    pub(crate) fn look(&mut self, seen: &Observation) {
        let leads: BTreeMap<u64, u64> =
            seen.nodes.iter().filter_map(|(id, node)| Some((*id, node.leads?))).collect();
        let answers: BTreeSet<(IpAddr, u64)> = seen
            .nodes
            .iter()
            .flat_map(|(id, node)| node.answers.keys().map(|vip| (*vip, *id)))
            .collect();
        let mut tell = |by: u64, what| self.told.push(Told { at: seen.now, by, what });
        for (vip, id) in self.answers.difference(&answers) {
            tell(*id, What::IsSilent(*vip));
        }
        for id in self.leads.keys().filter(|id| !leads.contains_key(id)) {
            tell(*id, What::LeadsNoMore);
        }
        for (id, term) in leads.iter().filter(|(id, term)| self.leads.get(id) != Some(term)) {
            tell(*id, What::Leads(*term));
        }
        for (vip, id) in answers.difference(&self.answers) {
            tell(*id, What::Answers(*vip));
        }
        (self.leads, self.answers) = (leads, answers);
    }

    /// What happened, in order.
    pub fn told(&self) -> &[Told] {
        &self.told
    }

    /// Nodes that lead now by their own belief, each with its term.
    pub fn leaders(&self) -> &BTreeMap<u64, u64> {
        &self.leads
    }

    /// Nodes whose kernels answer for a VIP now.
    pub fn holders(&self, vip: IpAddr) -> Vec<u64> {
        self.answers.iter().filter(|(of, _)| *of == vip).map(|(_, id)| *id).collect()
    }
}
