//! What people do to the cluster while it runs.

use nines_core::{
    Event,
    wire::{Act, ApplySpec, Command, Give, command, pack},
};
use nines_model::Millis;

use super::World;

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
