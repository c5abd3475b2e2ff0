//! What people do to the cluster while it runs.

use nines_core::{
    Event,
    wire::{Act, ApplySpec, Command, Give, command, pack},
};
use nines_model::{Millis, NodeId};

use super::World;
use crate::random::Random;

impl World {
    /// The command that puts this config in force, whatever is.
    pub fn whole_config(text: String) -> command::Kind {
        let spec = nines_model::config::parse(&text).expect("the scenario's config is right");
        let apply = ApplySpec::whole(text, &spec, 0).expect("the log has a form for it");
        command::Kind::ApplySpec(apply)
    }

    /// Somebody stops an agent: it ends when it holds nothing any more.
    pub fn stop(&mut self, id: u64) {
        self.feed(id, Event::Stop);
    }

    /// Somebody wants a VIP elsewhere.
    pub fn operator_moves(&mut self) {
        let to = self.directors[self.random.below(self.directors.len() as u64) as usize].clone();
        let vip = self.movable[self.random.below(self.movable.len() as u64) as usize];
        let move_request = Give { vip: pack(vip), to, ..Give::default() };
        let kind = Some(command::Kind::MoveRequest(move_request));
        let command = Command { actor: "operator".into(), kind, ..Command::default() };
        let id = self.draw_founder();
        self.feed(id, Event::Propose { request: self.sequence, command });
    }

    /// Somebody puts all VIPs into the config, whatever is in force.
    pub fn operator_applies_all(&mut self) {
        let drawn = self.draw_founder();
        // One that runs: some may have been switched off.
        let running = self.founders().find(|id| self.runs(*id));
        let id = if self.runs(drawn) { drawn } else { running.unwrap_or(drawn) };
        let text = self.scenario.text.clone();
        self.operator_asks(id, Self::whole_config(text));
    }

    /// Somebody takes a VIP out of the config, or puts it back: by the config that the asked node
    /// knows, which may be an old one.
    pub fn operator_changes(&mut self, both: bool) {
        let mut text = self.scenario.text.clone();
        if !both {
            self.scenario.removable.iter().for_each(|part| text = text.replace(part, ""));
        }
        let id = self.draw_founder();
        let node = self.machines[&id].node.as_ref();
        let Some(known) = node.map(|node| node.state().following()) else { return };
        let spec = known.read(&text).expect("the scenario's config is right");
        let change = known.change_to(&text, &spec).expect("the log has a form for it");
        self.operator_asks(id, command::Kind::ApplySpec(change));
    }

    /// Somebody changes the times of the cluster to others of the scenario, or back.
    pub fn operator_changes_timing(&mut self, number: u64) {
        let all = &self.scenario.timings;
        let timing = all.get(number as usize % (all.len() + 1)).cloned().unwrap_or_default();
        let text = format!("{}{timing}", self.scenario.text);
        let id = self.draw_founder();
        self.operator_asks(id, Self::whole_config(text));
    }

    /// A new machine joins by this member, if not enough have done so; one that has joined and is
    /// off, starts.
    pub fn somebody_joins(&mut self, by: u64) {
        const NEW_MAX: u64 = 2;
        let first = self.copy_id() + 1;
        let members = self.members();
        for id in first..first + NEW_MAX {
            if !self.machines.contains_key(&id) {
                if self.runs(by) {
                    self.join(id, by);
                }
                return;
            }
            if !self.runs(id) && members.contains(&id) {
                return self.start(id);
            }
        }
    }

    /// Somebody removes one of the machines that have joined.
    pub fn operator_removes(&mut self, by: u64, number: u64) {
        let joined: Vec<u64> =
            self.members().into_iter().filter(|id| *id > self.copy_id()).collect();
        if !joined.is_empty() {
            let name = self.name(joined[number as usize % joined.len()]);
            self.operator_acts(by, "remove", &[&name]);
        }
    }

    /// Somebody who is no member sends something to a node: bytes that are no frame, or what a
    /// member could send.
    pub fn stranger_sends(&mut self, to: u64, random: &mut Random) {
        let Some(node) = &self.machines[&to].node else { return };
        let members = &node.state().members;
        // One that has no log believes everybody, and a number that was never given may be new.
        let left = (0..=members.highest().number()).filter(|id| node.has_left(NodeId(*id)));
        let left: Vec<u64> = left.collect();
        if left.is_empty() {
            return;
        }
        let stranger = left[random.below(left.len() as u64) as usize];
        let bytes = match random.below(3) {
            0 => (0..random.below(200)).map(|_| random.draw() as u8).collect(),
            1 => self.heartbeat_of(stranger, random),
            _ => Self::message_of(stranger, to, random),
        };
        self.forge(to, stranger, bytes);
    }

    /// Somebody asks for what the scenario says by this time since the safety phase began.
    pub fn operators_follow(&mut self, since: Millis) {
        while let Some((at, id, kind)) = self.scenario.commands.get(self.commands_given)
            && *at <= since
        {
            let (id, kind) = (*id, kind.clone());
            self.commands_given += 1;
            self.operator_asks(id, kind);
        }
    }

    /// Somebody asks a node for this.
    pub fn operator_asks(&mut self, id: u64, kind: command::Kind) {
        let command = Command { actor: "operator".into(), kind: Some(kind), ..Command::default() };
        self.feed(id, Event::Propose { request: self.sequence, command });
    }

    /// Somebody asks a node for this about these servers, nodes or members.
    pub fn operator_acts(&mut self, id: u64, verb: &str, subjects: &[&str]) {
        let subjects = subjects.iter().map(|name| (*name).to_owned()).collect();
        let act = Act { verb: verb.into(), subjects, ..Act::default() };
        self.operator_asks(id, command::Kind::Act(act));
    }

    /// The config in force when the world began.
    pub fn text(&self) -> &str {
        &self.scenario.text
    }

    /// The process asks for a long lease and is replaced.
    pub fn planned_restart(&mut self, id: u64) {
        self.feed(id, Event::Restart(2_000));
    }
}
