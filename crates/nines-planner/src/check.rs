//! Judges plans by the rules in the header of the crate.
//!
//! Decides: whether a plan is right, and which rule a wrong one breaks. It was written from the
//! rules and shares no function with the planner, so that the two cannot be wrong together.

use std::{collections::BTreeSet, net::IpAddr};

use nines_model::{NodeName, Role, Spec};

use crate::{Held, Observed, Plan, Step};

/// Judges a plan by the rules in the header of the crate. An error names the broken rule.
pub fn check(spec: &Spec, observed: &Observed, plan: &Plan) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    let judge = Judge { spec, observed, plan };
    for (step, _) in &plan.steps {
        let (Step::Give(vip, _) | Step::Move(vip, ..) | Step::Blocked(vip)) = step;
        if !seen.insert(*vip) {
            return Err(format!("two steps for {vip}"));
        }
        match step {
            Step::Give(_, to) => judge.gift(*vip, to)?,
            Step::Move(_, from, to) => judge.transfer(*vip, from, to)?,
            Step::Blocked(_) => judge.refusal(*vip)?,
        }
    }
    for vip in spec.vips.keys() {
        judge.companion(*vip)?;
        if !observed.vips.contains_key(vip) && !seen.contains(vip) {
            return Err(format!("nobody holds {vip} and the plan is silent"));
        }
    }
    Ok(())
}

/// What plans are judged by.
struct Judge<'a> {
    spec: &'a Spec,
    observed: &'a Observed,
    plan: &'a Plan,
}

impl<'a> Judge<'a> {
    /// A VIP that nobody alive holds is given to `to`.
    fn gift(&self, vip: IpAddr, to: &NodeName) -> Result<(), String> {
        if !self.is_fit(vip, to) {
            return Err(format!("rule 3: {to} is not fit"));
        }
        if self.spec.vips[&vip].with.is_some() && self.led_to(vip) != Some(to) {
            return Err(format!("rule 6: {vip} is given to {to}, what it goes with is not"));
        }
        if self.holder(vip).is_some_and(|node| self.lives(node)) {
            return Err(format!("rule 4: {vip} is taken from a living node"));
        }
        self.quarantine(vip, to)
    }

    /// A VIP moves between two living nodes.
    fn transfer(&self, vip: IpAddr, from: &NodeName, to: &NodeName) -> Result<(), String> {
        let nodes = &self.observed.nodes;
        if !self.is_fit(vip, to) {
            return Err(format!("rule 3: {to} is not fit"));
        }
        if self.holder(vip) != Some(from) || !self.lives(from) {
            return Err(format!("rule 4: {from} cannot release {vip}"));
        }
        if self.may_stay(vip, from) && nodes[to].behind.contains(from) {
            return Err(format!("rule 5: {to} has not got the flows of {from}"));
        }
        let wished = self.observed.move_requests.get(&vip) == Some(to);
        let unfit = nodes[from].standby
            || nodes[from].removal
            || nodes[from].leaving
            || nodes[from].joining
            || nodes[from].no_vote
            || nodes[from].doubt.is_some()
            || nodes[from].unable.contains_key(&vip)
            || self.spec.nodes.get(from).is_none_or(|n| n.role == Role::Witness);
        if !wished && !unfit && self.led_to(vip) != Some(to) {
            return Err(format!("rule 1: {vip} leaves {from} without need"));
        }
        self.quarantine(vip, to)
    }

    /// A quarantined node gets nothing that another director could take; a source of full NAT goes
    /// where its VIP is.
    fn quarantine(&self, vip: IpAddr, to: &NodeName) -> Result<(), String> {
        let quarantined = |node: &NodeName| self.observed.nodes[node].quarantined;
        let better = |node: &&NodeName| {
            self.holder(vip) != Some(*node) && self.is_fit(vip, node) && !quarantined(node)
        };
        let wished = self.observed.move_requests.get(&vip) == Some(to);
        if self.spec.vips[&vip].with.is_some() || !quarantined(to) || wished {
            return Ok(());
        }
        match self.spec.directors().find(better) {
            Some(node) => Err(format!("rule 7: {to} is quarantined, and {node} could take it")),
            None => Ok(()),
        }
    }

    /// A VIP is said to go nowhere.
    fn refusal(&self, vip: IpAddr) -> Result<(), String> {
        let move_request = self.observed.move_requests.get(&vip);
        let holder = self.holder(vip);
        let waits = |node: &NodeName| {
            let behind = &self.observed.nodes[node].behind;
            let lacks = |from: &NodeName| self.may_stay(vip, from) && behind.contains(from);
            holder.is_some_and(lacks) && move_request.is_some_and(|to| to == node)
        };
        let follows = self.spec.vips.get(&vip).is_some_and(|v| v.with.is_some());
        let allowed = |node: &NodeName| !follows || self.led_to(vip).is_some_and(|led| led == node);
        let could = |node: &&NodeName| {
            let elsewhere = holder.is_none_or(|h| h != *node);
            self.is_fit(vip, node) && allowed(node) && elsewhere && !waits(node)
        };
        if let Some(node) = self.spec.directors().find(could)
            && !move_request.is_some_and(waits)
        {
            return Err(format!("{vip} is called blocked, but {node} could take it"));
        }
        Ok(())
    }

    /// A VIP that goes with another one follows it as soon as it can.
    fn companion(&self, vip: IpAddr) -> Result<(), String> {
        if let Some(Held::By(holder)) = self.observed.vips.get(&vip)
            && let Some(led) = self.led_to(vip)
            && led != holder
            && self.place(vip) != Some(led)
            && self.is_fit(vip, led)
            && self.lives(holder)
            && !self.observed.nodes[led].behind.contains(holder)
        {
            return Err(format!("rule 6: {vip} stays on {holder}, what it goes with is on {led}"));
        }
        Ok(())
    }

    fn lives(&self, node: &NodeName) -> bool {
        self.observed.nodes.get(node).is_some_and(|n| n.alive)
    }

    /// Fit, but for being ready.
    fn may_stay(&self, vip: IpAddr, node: &NodeName) -> bool {
        self.spec.nodes.get(node).is_some_and(|s| s.role == Role::Director)
            && self.observed.nodes.get(node).is_some_and(|v| {
                let votes = !v.joining && !v.no_vote && v.doubt.is_none();
                let goes = v.standby || v.removal || v.leaving;
                v.alive && votes && !goes && !v.unable.contains_key(&vip)
            })
    }

    fn is_fit(&self, vip: IpAddr, node: &NodeName) -> bool {
        self.may_stay(vip, node) && self.observed.nodes.get(node).is_some_and(|v| v.ready)
    }

    /// The node that has a VIP before the plan is carried out.
    fn holder(&self, vip: IpAddr) -> Option<&'a NodeName> {
        self.observed.vips.get(&vip).map(|(Held::By(node) | Held::Releasing(node, _))| node)
    }

    /// Where a VIP is once the plan is carried out.
    fn place(&self, vip: IpAddr) -> Option<&'a NodeName> {
        let stepped = self.plan.steps.iter().find_map(|(step, _)| match step {
            Step::Give(v, to) | Step::Move(v, _, to) if *v == vip => Some(to),
            _ => None,
        });
        let held = self.observed.vips.get(&vip);
        stepped.or_else(|| match held? {
            Held::By(node) => Some(node),
            Held::Releasing(_, to) => to.as_ref(),
        })
    }

    /// Where the VIP is then that this one goes with.
    fn led_to(&self, vip: IpAddr) -> Option<&'a NodeName> {
        self.spec.vips.get(&vip).and_then(|v| v.with).and_then(|with| self.place(with))
    }
}
