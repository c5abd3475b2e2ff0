//! What people do to the cluster while it runs.

use std::net::IpAddr;

use nines_core::{
    Event,
    wire::{Apply, Command, Give, command, pack},
};

use super::{NAMES, World};

/// The part of the config that operators take away and put back.
pub(super) const SECOND_VIP: &str = "[vip.b]\naddress = \"10.0.0.101\"\n";

impl World {
    /// Somebody wants a VIP elsewhere.
    pub fn operator_moves(&mut self) {
        let to = NAMES[self.random.below(2) as usize].to_owned();
        let vip = match self.vips.len() as u64 {
            2 | 3 => IpAddr::from([10, 0, 0, 100 + self.random.below(2) as u8]),
            many => self.vips[self.random.below(many) as usize],
        };
        let move_request = Give { vip: pack(vip), to, ..Give::default() };
        let kind = Some(command::Kind::MoveRequest(move_request));
        let command = Command { actor: "operator".into(), kind, ..Command::default() };
        let id = 1 + self.random.below(3);
        self.feed(id, Event::Propose { request: self.sequence, command });
    }

    /// Somebody puts all VIPs into the config, whatever is in force.
    pub fn operator_applies_all(&mut self) {
        let id = 1 + self.random.below(3);
        self.operator_asks(id, command::Kind::Apply(Apply::whole(self.text.clone(), 0)));
    }

    /// Somebody takes a VIP out of the config, or puts it back: by the config that the asked node
    /// knows, which may be an old one.
    pub fn operator_changes(&mut self, both: bool) {
        let mut text = self.text.clone();
        if !both {
            self.removable.iter().for_each(|part| text = text.replace(part, ""));
        }
        let id = 1 + self.random.below(3);
        let node = self.machines[&id].node.as_ref();
        let known = node.map(|node| (node.state().revision, node.state().text.clone()));
        let Some((revision, before)) = known else { return };
        let apply = Apply::in_place_of(&before, &text, revision);
        self.operator_asks(id, command::Kind::Apply(apply));
    }

    /// Somebody asks a node for this.
    pub fn operator_asks(&mut self, id: u64, kind: command::Kind) {
        let command = Command { actor: "operator".into(), kind: Some(kind), ..Command::default() };
        self.feed(id, Event::Propose { request: self.sequence, command });
    }

    /// The config in force when the world began.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The process asks for a long lease and is replaced.
    pub fn planned_restart(&mut self, id: u64) {
        self.feed(id, Event::Restart(2_000));
    }
}
