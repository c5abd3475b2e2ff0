//! Machines with an older build, and their upgrade one by one.
//!
//! Decides: what such a build does not know. Its node runs the same code; what reaches it loses the
//! fields that it would skip. A build from before feature levels takes the piece of a config for a
//! whole one; one of level 1 reads pieces, but configs only as text; one of level 2 removes no
//! members. What it sends has all fields again, because a log keeps its entries as bytes, whoever
//! reads them.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
};

use nines_core::{
    Event, feature_level, snapshot,
    wire::{Command, Facts, Frame, LogEntry, LogEvents, Persisted, Snapshot, command::Kind, frame},
};
use prost::Message as _;

use super::{Sabotage, World, checksum::fnv};

/// The machines with an older build.
#[derive(Default)]
pub(super) struct OlderBuilds {
    /// There was one in this world.
    pub mixed: bool,
    /// Highest feature level that they read; 0: they know of none.
    level: u32,
    machines: BTreeSet<u64>,
    /// Machines whose next process is of the new build.
    next: BTreeSet<u64>,
    /// Nothing else happens.
    pub only: bool,
    /// Commands as they were written, by what an older build keeps of them.
    written: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// A replicated state ([`nines_core::snapshot`]) as an older build has it: the other fields are
/// skipped.
#[derive(Clone, PartialEq, prost::Message)]
struct OlderState {
    #[prost(string, tag = "1")]
    text: String,
    #[prost(uint64, tag = "2")]
    revision: u64,
    #[prost(bytes = "vec", repeated, tag = "3")]
    members: Vec<Vec<u8>>,
    #[prost(message, repeated, tag = "4")]
    facts: Vec<Facts>,
    #[prost(bytes = "vec", repeated, tag = "5")]
    vips: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "6")]
    sets: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "7")]
    story: Vec<Vec<u8>>,
    #[prost(uint64, tag = "8")]
    membership: u64,
    #[prost(uint64, tag = "9")]
    applied: u64,
    #[prost(uint64, tag = "30")]
    highest: u64,
    #[prost(uint32, tag = "31")]
    feature_level: u32,
    /// No older build has any, nor has anybody as long as there is one.
    #[prost(bytes = "vec", repeated, tag = "34")]
    powers: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "39")]
    anew: Vec<Vec<u8>>,
}

/// What a build that reads up to this level has of a state.
fn older_state(level: u32, bytes: &[u8]) -> OlderState {
    OlderState { powers: Vec::new(), anew: Vec::new(), ..common_state(level, bytes) }
}

/// What builds that read up to this level and the newest one have in common of a state.
fn common_state(level: u32, bytes: &[u8]) -> OlderState {
    let mut state = OlderState::decode(bytes).expect("it was encoded a moment ago");
    if level == 0 {
        state.facts.iter_mut().for_each(|facts| facts.feature_level = 0);
        state.feature_level = 0;
    }
    state
}

/// The state that builds of this level begin with.
fn older_founders(level: u32, bytes: &[u8]) -> Vec<u8> {
    OlderState { feature_level: level, ..older_state(level, bytes) }.encode_to_vec()
}

/// What a build that reads up to this level finds in a command.
fn older_command(level: u32, bytes: &[u8]) -> Vec<u8> {
    let Ok(mut command) = Command::decode(bytes) else { return bytes.to_vec() };
    match &mut command.kind {
        Some(Kind::Join(member)) if member.floats && level < feature_level::FLOATING => {
            member.floats = false;
        }
        Some(Kind::Apply(_) | Kind::Facts(_) | Kind::Join(_) | Kind::FeatureLevel(_))
            if level > 0 =>
        {
            return bytes.to_vec();
        }
        Some(Kind::ApplySpec(_)) if level >= feature_level::VALUES => return bytes.to_vec(),
        Some(Kind::Apply(apply)) => (apply.head, apply.tail) = (0, 0),
        Some(Kind::Facts(facts)) => facts.feature_level = 0,
        Some(Kind::Join(member)) => member.feature_level = 0,
        // It ignores what it does not know; so no events at all stand there.
        kind @ Some(Kind::FeatureLevel(_) | Kind::ApplySpec(_)) => {
            *kind = Some(Kind::LogEvents(LogEvents::default()));
        }
        Some(kind @ Kind::Fence(_)) if level < feature_level::FENCING => {
            *kind = Kind::LogEvents(LogEvents::default());
        }
        Some(kind @ (Kind::TakeVote(_) | Kind::LearnAgain(_))) if level < feature_level::LINKS => {
            *kind = Kind::LogEvents(LogEvents::default());
        }
        // It refuses a verb that it does not know.
        Some(kind @ (Kind::Act(_) | Kind::Token(_))) if feature_level::needed(kind) > level => {
            *kind = Kind::LogEvents(LogEvents::default());
        }
        _ => return bytes.to_vec(),
    }
    command.encode_to_vec()
}

impl OlderBuilds {
    /// An entry on its way to a machine with an older build.
    fn received(&mut self, entry: &mut LogEntry) {
        let command = if entry.kind == 0 { &mut entry.data } else { &mut entry.context };
        let older = older_command(self.level, command);
        if older != *command {
            let whole = std::mem::replace(command, older.clone());
            self.written.insert(older, whole);
        }
    }

    /// Name of a state by which nodes are compared: where builds differ, of what all of them keep.
    pub fn hash_of_state(&self, bytes: &[u8]) -> u64 {
        if !self.mixed {
            return fnv(7, bytes);
        }
        let mut state = common_state(self.level, bytes);
        // Only builds that know of levels tell of one.
        let of_level = |event: &Vec<u8>| event.windows(13).any(|word| word == b"feature-level");
        state.story.retain(|event| !of_level(event));
        fnv(7, &state.encode_to_vec())
    }

    /// The first of these entries that a machine with the older build takes for another one: that
    /// is not what it skips of a fact about a node, or of a newcomer.
    pub fn misread(&self, id: u64, disk: &Persisted, of: RangeInclusive<u64>) -> Option<u64> {
        if !self.machines.contains(&id) {
            return None;
        }
        let is_another = |entry: &&LogEntry| {
            let kind = self.written.get(entry.command()).map(|whole| Command::decode(&whole[..]));
            let kind = kind.and_then(|command| command.ok()?.kind);
            kind.is_some_and(|kind| feature_level::needed(&kind) > self.level)
        };
        let mut new = disk.entries.iter().filter(|entry| of.contains(&entry.index));
        new.find(is_another).map(|entry| entry.index)
    }

    /// An entry as everybody else has it.
    fn restored(&self, entry: &mut LogEntry) {
        let command = if entry.kind == 0 { &mut entry.data } else { &mut entry.context };
        if let Some(whole) = self.written.get(command) {
            command.clone_from(whole);
        }
    }
}

impl World {
    /// All founders have an older build, which reads up to this level, and the cluster began with
    /// it.
    pub fn with_older_builds(&mut self, level: u32) {
        (self.older.mixed, self.older.level) = (true, level);
        self.older.machines = (1..=self.scenario.nodes.len() as u64).collect();
        for machine in self.machines.values_mut() {
            machine.disk.change(|disk| {
                let data = &mut disk.snapshot.data;
                *data = older_founders(level, data);
            });
        }
    }

    /// Whether a machine has the older build.
    pub fn is_older(&self, id: u64) -> bool {
        self.older.machines.contains(&id)
    }

    /// From now on nothing happens but that nodes are upgraded.
    pub fn only_upgrades(&mut self) {
        self.older.only = true;
    }

    /// The process asks for a long lease, and the new build takes its place.
    pub fn upgrade_in_place(&mut self, id: u64) {
        self.older.next.insert(id);
        self.planned_restart(id);
    }

    /// The process is killed, and the new build is started.
    pub fn upgrade(&mut self, id: u64) {
        self.kill(id);
        self.gets_new_build(id);
        self.start(id);
    }

    /// If a planned restart of this machine was for its upgrade: the new build is there.
    pub(super) fn upgrade_is_due(&mut self, id: u64) {
        if self.older.next.remove(&id) {
            self.gets_new_build(id);
        }
    }

    fn gets_new_build(&mut self, id: u64) {
        self.older.machines.remove(&id);
        let disk = &mut self.machines.get_mut(&id).expect("it was killed").disk;
        let older = &self.older;
        disk.change(|disk| disk.entries.iter_mut().for_each(|entry| older.restored(entry)));
    }

    /// A node that starts tells what its build can read.
    pub(super) fn tell_facts(&mut self, id: u64) {
        let older = self.is_older(id) && self.sabotage != Sabotage::LevelOverstated;
        let facts = Facts {
            node: self.name(self.machines[&id].identity),
            version: if self.is_older(id) { "0.1.0" } else { "0.2.0" }.into(),
            feature_level: if older { self.older.level } else { feature_level::BUILD },
            ..Facts::default()
        };
        self.feed(id, Event::Facts(facts));
    }

    /// A frame as the machine `from` sends it.
    pub(super) fn as_sent(&mut self, from: u64, bytes: &mut Vec<u8>) {
        if !self.is_older(from) {
            return;
        }
        let overstates = self.sabotage == Sabotage::LevelOverstated;
        self.rewrite(bytes, |older, kind| match kind {
            frame::Kind::Heartbeat(beat) if !overstates => beat.feature_level = older.level,
            frame::Kind::Raft(message) => {
                message.entries.iter_mut().for_each(|entry| older.restored(entry));
            }
            _ => {}
        });
    }

    /// A frame as the machine `to` reads it.
    pub(super) fn as_received(&mut self, to: u64, bytes: &mut Vec<u8>) {
        if !self.is_older(to) {
            return;
        }
        self.rewrite(bytes, |older, kind| match kind {
            // Its node runs the code of this build, and an older one knows no higher level.
            frame::Kind::Heartbeat(beat) => {
                beat.feature_level = beat.feature_level.min(older.level);
            }
            frame::Kind::Raft(message) => {
                message.entries.iter_mut().for_each(|entry| older.received(entry));
                if let Some(Snapshot { data, .. }) = &mut message.snapshot {
                    *data = older_state(older.level, data).encode_to_vec();
                }
            }
            _ => {}
        });
    }

    fn rewrite(
        &mut self,
        bytes: &mut Vec<u8>,
        mut change: impl FnMut(&mut OlderBuilds, &mut frame::Kind),
    ) {
        let Ok(mut frame) = Frame::decode(bytes.as_slice()) else { return };
        for kind in frame.kind.iter_mut().chain(frame.rest.iter_mut().flat_map(|f| &mut f.kind)) {
            change(&mut self.older, kind);
        }
        *bytes = frame.encode_to_vec();
    }

    /// The feature levels in force by the states of the running nodes.
    pub fn feature_levels(&self) -> BTreeSet<u32> {
        let nodes = self.machines.values().filter_map(|machine| machine.node.as_ref());
        nodes.map(|node| node.state().members.feature_level()).collect()
    }

    /// The states of the running nodes, whole.
    pub fn states(&self) -> BTreeSet<Vec<u8>> {
        let nodes = self.machines.values().filter_map(|machine| machine.node.as_ref());
        nodes.map(|node| snapshot::encode(node.state())).collect()
    }
}
