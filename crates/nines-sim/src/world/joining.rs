//! Machines that join while the cluster runs, and what large frames meet on their way.

use nines_core::{
    Event, Node,
    event_log::EventKind,
    feature_level,
    node::removal::Waits,
    wire::{Begun, Command, LogEvent, LogEvents, Member, Persisted, command},
};
use nines_model::{Codes as _, NodeId};

use super::{Happening, Machine, World, seen::Sent};
use crate::timing::DELAY_MAX_NS;

impl World {
    fn command(&mut self, by: u64, kind: command::Kind) {
        let command = Command { actor: "operator".into(), kind: Some(kind), ..Command::default() };
        self.feed(by, Event::Propose { request: self.sequence, command });
    }

    /// Makes the state as large as that: a config of `bytes`, and so many events.
    pub fn grow(&mut self, bytes: usize, events: usize) {
        let line = format!("# {}\n", "x".repeat(97));
        let text = format!("{}{}", self.scenario.text, line.repeat(bytes / line.len()));
        self.command(1, Self::whole_config(text));
        let one = |i| LogEvent {
            kind: EventKind::Note.code().into(),
            text: format!("event {i}"),
            ..LogEvent::default()
        };
        let told = (0..events).map(one).collect();
        self.command(1, command::Kind::LogEvents(LogEvents { told }));
    }

    /// Name of a node by its number.
    pub fn name(&self, id: u64) -> String {
        let founder = self.scenario.nodes.get(id as usize - 1);
        founder.cloned().unwrap_or_else(|| format!("lb{id}"))
    }

    /// A new machine asks the member `by` to let it in. It is not started yet.
    pub fn join(&mut self, id: u64, by: u64) {
        self.join_reading(id, by, feature_level::BUILD);
    }

    /// The same, with a build that reads feature levels up to this one.
    pub fn join_reading(&mut self, id: u64, by: u64, feature_level: u32) {
        let machine = Machine::new(&mut self.random, id, Persisted::default());
        self.machines.insert(id, machine);
        self.seeds = vec![by];
        let name = self.name(id);
        let member = Member { id, name, feature_level, ..Member::default() };
        self.command(by, command::Kind::Join(member));
    }

    /// The voter of a quorum disk asks the member `by` to let it in. It is never started.
    pub fn join_floating(&mut self, id: u64, by: u64) {
        let (name, feature_level) = (self.name(id), feature_level::BUILD);
        let witness = Member { id, name, feature_level, witness: true, ..Member::default() };
        self.command(by, command::Kind::Join(Member { floats: true, ..witness }));
    }

    /// What a node's disk has now.
    pub fn copy_of_disk(&self, id: u64) -> Persisted {
        self.machines[&id].disk.get().clone()
    }

    /// The process is killed, and the disk is as it was once, or empty.
    pub fn put_back(&mut self, id: u64, disk: Persisted) {
        self.kill(id);
        let machine = self.machines.get_mut(&id).expect("it was killed");
        machine.disk.replace(disk);
        machine.sent = Sent::default();
    }

    /// The process ends, and another one starts without its log.
    pub(super) fn begin_anew(&mut self, id: u64, begun: Begun) {
        let before = self.copy_of_disk(id);
        let Persisted { mut incarnation, long_promise, .. } = before;
        // The new log is another file. It is at the place of the one before only if that was.
        let machine = self.machines.get_mut(&id).expect("a machine");
        let was_at_its_place = incarnation.place == machine.place;
        machine.place += 1_000;
        if was_at_its_place {
            incarnation.place = machine.place;
        }
        self.put_back(id, Persisted { incarnation, long_promise, begun, ..Persisted::default() });
        self.start(id);
    }

    /// All other processes end and start with their disks as they are.
    pub(super) fn forget_others(&mut self, id: u64) {
        let others: Vec<u64> = self.machines.keys().copied().filter(|o| *o != id).collect();
        for other in others {
            let machine = self.machines.get_mut(&other).expect("listed");
            if machine.node.take().is_some() {
                machine.incarnation += 1;
                self.start(other);
            }
        }
    }

    /// Whether a node's own log gives it a vote.
    pub fn votes(&self, id: u64) -> bool {
        let node = self.machines[&id].node.as_ref();
        node.is_some_and(|n| n.consensus().voters().contains(&NodeId(id)))
    }

    /// Why a node votes no more.
    pub fn retired(&self, id: u64) -> Option<&str> {
        self.machines[&id].node.as_ref().and_then(|n| n.broken())
    }

    /// Whether a node has another in its log.
    pub fn knows(&self, id: u64, other: u64) -> bool {
        let node = self.machines[&id].node.as_ref();
        node.is_some_and(|n| n.state().members.contains_key(&NodeId(other)))
    }

    /// Whether a node knows that it was removed from the cluster.
    pub fn is_removed(&self, id: u64) -> bool {
        self.machines[&id].node.as_ref().is_some_and(Node::is_removed)
    }

    /// What the removal of a member waits for, as a node sees it.
    pub fn removal_waits(&self, id: u64, member: u64) -> Option<Waits> {
        let node = self.machines[&id].node.as_ref();
        node.and_then(|node| node.removal_waits(self.local(id), NodeId(member)))
    }

    /// Members by the newest state that any node has.
    pub fn members(&self) -> Vec<u64> {
        let nodes = self.machines.values().filter_map(|m| m.node.as_ref());
        let newest = nodes.max_by_key(|node| node.state().applied);
        newest.map_or_else(Vec::new, |n| n.state().members.keys().map(|id| id.number()).collect())
    }

    /// Whether every running node sees these voters and has the whole log, but for those that were
    /// removed.
    pub fn agrees_on(&self, voters: &[u64]) -> bool {
        let nodes = || {
            let running = self.machines.values().filter_map(|m| m.node.as_ref());
            running.filter(|node| !node.is_removed())
        };
        let newest = nodes().map(|n| n.consensus().committed()).max().unwrap_or_default();
        nodes().all(|n| {
            let mut seen = n.consensus().voters();
            seen.sort_unstable();
            let same = seen.iter().copied().eq(voters.iter().copied().map(NodeId));
            same && n.state().applied == newest && n.consensus().leader().is_some()
        })
    }

    /// The node that leads, as all members that run see it.
    pub fn leader(&self) -> Option<u64> {
        let nodes = self.machines.values().filter_map(|m| m.node.as_ref());
        let members = nodes.filter(|node| !node.is_removed());
        let mut seen: Vec<Option<NodeId>> = members.map(|n| n.consensus().leader()).collect();
        seen.dedup();
        (seen.len() == 1).then(|| seen[0]).flatten().map(NodeId::number)
    }

    /// TLS over TCP: in order and whole, or lost; the sender of what is lost is told.
    pub(super) fn send_bulk(&mut self, from: u64, to: u64, mut bytes: Vec<u8>) {
        self.as_sent(from, &mut bytes);
        self.note_sent(from, &bytes);
        let there: Vec<u64> =
            self.machines.iter().filter(|(_, m)| m.identity == to).map(|(id, _)| *id).collect();
        let sender = self.machines[&from].identity;
        for machine in there {
            let broken = self.machines[&machine].node.is_none()
                || !self.connects(from, machine)
                || self.random.chance(self.bulk_loss_permille);
            let delay = 200_000 + self.random.below(DELAY_MAX_NS);
            if broken {
                self.schedule(delay, from, Happening::Deliver(Event::Undelivered(NodeId(to))));
            } else {
                let mut bytes = bytes.clone();
                self.as_received(machine, &mut bytes);
                let event = Event::Frame { from: NodeId(sender), link: 0, bytes };
                self.schedule(delay, machine, Happening::Deliver(event));
            }
        }
    }
}
