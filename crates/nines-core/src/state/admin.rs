//! What operators want of servers, nodes and VIPs.
//!
//! Decides: that a command with several subjects takes effect for all of them or for none. Every
//! subject is looked up before the first one is changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use nines_model::Role;

use super::{Holding, Outcome, Set, State};
use crate::{
    action::Refusal,
    wire::{self, Act, Command},
};

/// What the verbs of [`Act`] say of their subjects once they have taken effect.
const VERBS: [(&str, &str); 4] = [
    ("drain", "set to drain"),
    ("undrain", "takes new connections again"),
    ("standby", "set to standby"),
    ("ready", "ready for work again"),
];

fn invalid<T>(why: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Invalid(why.into()))
}

impl State {
    pub(super) fn act(&mut self, index: u64, command: &Command, act: &Act) -> Outcome {
        let verb = act.verb.as_str();
        let Some((_, what)) = VERBS.iter().find(|(known, _)| *known == verb) else {
            return invalid(format!("unknown act {verb}"));
        };
        let of_servers = matches!(verb, "drain" | "undrain");
        if act.subjects.is_empty() {
            let kind = if of_servers { "server" } else { "node" };
            return invalid(format!("{verb} needs the name of a {kind}"));
        }
        // Named twice is named once.
        let mut subjects: Vec<&String> = Vec::new();
        let mut servers = BTreeSet::new();
        for subject in &act.subjects {
            if subjects.contains(&subject) {
                continue;
            }
            if of_servers {
                let found = self.spec.find_servers(subject);
                if found.is_empty() {
                    return Err(Refusal::NotFound(format!("unknown server {subject}")));
                }
                servers.extend(found);
            } else if !self.spec.nodes.contains_key(subject) {
                return Err(Refusal::NotFound(format!("unknown node {subject}")));
            }
            subjects.push(subject);
        }
        let set = Set {
            actor: command.actor.clone(),
            reason: act.reason.clone(),
            at_ms: command.at_ms,
            until_ms: act.until_ms,
        };
        match verb {
            "drain" => self.drains.extend(servers.into_iter().map(|s| (s, set.clone()))),
            "undrain" => self.drains.retain(|server, _| !servers.contains(server)),
            "standby" => {
                self.standbys.extend(subjects.iter().map(|s| ((*s).clone(), set.clone())));
            }
            _ => self.standbys.retain(|node, _| !subjects.contains(&node)),
        }
        let reason =
            if act.reason.is_empty() { String::new() } else { format!(": {}", act.reason) };
        for (place, subject) in subjects.iter().enumerate() {
            let text = format!("{subject} {what}{reason}");
            self.record_event(index, place, command, verb, subject, text);
        }
        let names: Vec<&str> = subjects.iter().map(|s| s.as_str()).collect();
        let what =
            if names.len() == 1 { (*what).to_owned() } else { what.replace("takes", "take") };
        Ok(format!("{} {what}", names.join(", ")))
    }

    /// A move request moves its VIP and all of `more`, or none. A VIP that goes with another of
    /// them goes there without a move request of its own.
    pub(super) fn move_request(
        &mut self,
        index: u64,
        command: &Command,
        move_request: &wire::Give,
    ) -> Outcome {
        let mut vips: BTreeMap<IpAddr, String> = BTreeMap::new();
        for packed in std::iter::once(&move_request.vip).chain(&move_request.more) {
            let vip = wire::unpack(packed).ok_or(Refusal::Invalid("no address".into()))?;
            if !self.spec.vips.contains_key(&vip) {
                return Err(Refusal::NotFound(format!("unknown VIP {vip}")));
            }
            vips.insert(vip, self.spec.vip_name(vip));
        }
        let leader = |vip: &IpAddr| self.spec.vips[vip].with;
        for vip in vips.keys() {
            if let Some(with) = leader(vip).filter(|with| !vips.contains_key(with)) {
                return invalid(format!("{vip} follows {with}: move that VIP"));
            }
        }
        vips.retain(|vip, _| leader(vip).is_none());
        match self.spec.nodes.get(&move_request.to) {
            Some(node) if node.role == Role::Director => {}
            Some(_) => return invalid(format!("{} is a witness", move_request.to)),
            None => return Err(Refusal::NotFound(format!("unknown node {}", move_request.to))),
        }
        let to = &move_request.to;
        let names = |of: &BTreeMap<IpAddr, String>| {
            let mut names: Vec<&str> = of.values().map(String::as_str).collect();
            names.dedup();
            names.join(", ")
        };
        let all = names(&vips);
        // Those that are there stay there, whatever was wished before.
        let holds = |held: &Holding| matches!(held, Holding::Held { node, .. } if node == to);
        let is_there = |vip: &IpAddr| self.vips.get(vip).is_some_and(holds);
        self.move_requests.retain(|vip, _| !(vips.contains_key(vip) && is_there(vip)));
        vips.retain(|vip, _| !is_there(vip));
        if vips.is_empty() {
            return Ok(format!("{all} is on {to} already"));
        }
        for (place, (vip, name)) in vips.iter().enumerate() {
            self.move_requests.insert(*vip, to.clone());
            let text = format!("{} asked to move {name} to {to}", command.actor);
            self.record_event(index, place, command, "wish", name, text);
        }
        Ok(format!("{} should move to {to}", names(&vips)))
    }
}
